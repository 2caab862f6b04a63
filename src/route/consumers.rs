//! The consumers of a database: the clients that use it, by role, application and address.
//!
//! Owns what an owner needs before a database goes away: which programs connect, from where, since when and
//! when last. It deliberately keeps nothing on disk and knows only this process; a restart begins anew.
//!
//! # Why only at the end of a session
//! A client may change its application name with every statement, and a server may say that it did. So the
//! table is written when a session ends, with the name that it had then; what the sessions of now are called
//! is read from them for each answer.
//!
//! # Why bounded
//! An address and an application name are what a client says. A client that makes up names, or an address for
//! each connection, replaces the consumers that left the longest ago, and takes no memory beyond the bound.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::model::{Peer, UnixMillis};

/// Consumers of one database that are remembered.
const CONSUMERS_MAX: usize = 500;

/// Characters of an application name that count: PostgreSQL truncates it to 63 bytes.
const APPLICATION_CHARS_MAX: usize = 63;

/// What makes two connections connections of one consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    role: String,
    application_name: String,
    /// Without the port; `None`: a Unix socket.
    address: Option<IpAddr>,
}

impl Key {
    fn of(role: &str, application_name: &str, client: Peer) -> Key {
        let application_name = application_name.chars().take(APPLICATION_CHARS_MAX).collect();
        Key { role: role.to_owned(), application_name, address: client.ip() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: UnixMillis,
    last: UnixMillis,
}

/// A session, as one of a consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use<'a> {
    pub(super) role: &'a str,
    pub(super) application_name: &'a str,
    pub(super) client: Peer,
    pub(super) since: UnixMillis,
}

impl Use<'_> {
    fn key(&self) -> Key {
        Key::of(self.role, self.application_name, self.client)
    }
}

/// A row of SHOW CONSUMERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    pub role: String,
    pub application_name: String,
    /// The client's address without its port, or `unix`.
    pub address: String,
    pub first_seen: UnixMillis,
    /// Of one that is connected: now.
    pub last_seen: UnixMillis,
    /// Connections to this process now.
    pub connections: u32,
}

/// The consumers of one database in this process that have left.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    left: HashMap<Key, Seen>,
}

impl Consumers {
    /// A session has ended.
    pub(super) fn left(&mut self, session: Use<'_>, at: UnixMillis) {
        let key = session.key();
        if self.left.len() >= CONSUMERS_MAX && !self.left.contains_key(&key) {
            self.forget_one();
        }
        let seen = self.left.entry(key).or_insert(Seen { first: session.since, last: at });
        seen.last = seen.last.max(at);
    }

    /// Forgets the consumer that left the longest ago.
    fn forget_one(&mut self) {
        let oldest = self.left.iter().min_by_key(|(_, seen)| seen.last);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.left.remove(&key);
        }
    }

    /// The connected ones first, then the others, the one seen last first. `sessions` are those of now.
    pub(super) fn rows<'a>(&self, sessions: impl Iterator<Item = Use<'a>>, now: UnixMillis) -> Vec<Consumer> {
        let mut known: BTreeMap<Key, (Seen, u32)> =
            self.left.iter().map(|(key, seen)| (key.clone(), (*seen, 0))).collect();
        for session in sessions {
            let first = Seen { first: session.since, last: now };
            let (seen, connections) = known.entry(session.key()).or_insert((first, 0));
            seen.first = seen.first.min(session.since);
            seen.last = seen.last.max(now);
            *connections += 1;
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_by_key(|(_, (seen, connections))| (*connections == 0, std::cmp::Reverse(seen.last)));
        let row = |(key, (seen, connections)): (Key, (Seen, u32))| Consumer {
            role: key.role,
            application_name: key.application_name,
            address: key.address.map_or_else(|| Peer::Unix.to_string(), |address| address.to_string()),
            first_seen: seen.first,
            last_seen: seen.last,
            connections,
        };
        known.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(application_name: &str, client: Peer, since: u64) -> Use<'_> {
        Use { role: "app", application_name, client, since: UnixMillis(since) }
    }

    fn peer(port: u16) -> Peer {
        Peer::tcp(([10, 0, 0, 1], port).into())
    }

    #[test]
    fn connections_of_one_role_application_and_address_are_one_consumer() {
        let mut consumers = Consumers::default();
        consumers.left(session("till", peer(1), 10), UnixMillis(40));
        consumers.left(session("report", Peer::Unix, 30), UnixMillis(50));
        let rows = consumers.rows([session("till", peer(2), 20)].into_iter(), UnixMillis(99));
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                let name = row.application_name.as_str();
                (name, row.address.as_str(), row.first_seen.0, row.last_seen.0, row.connections)
            })
            .collect();
        assert_eq!(told, [("till", "10.0.0.1", 10, 99, 1), ("report", "unix", 30, 50, 0)]);
    }

    #[test]
    fn the_consumer_that_left_the_longest_ago_makes_room() {
        let mut consumers = Consumers::default();
        for number in 0..2 * CONSUMERS_MAX as u64 {
            consumers.left(session(&format!("made up {number}"), peer(2), number), UnixMillis(number));
        }
        let rows = consumers.rows([session("stays", peer(1), 0)].into_iter(), UnixMillis(5_000));
        assert_eq!(rows.len(), CONSUMERS_MAX + 1);
        assert_eq!((rows[0].application_name.as_str(), rows[0].connections), ("stays", 1));
        assert_eq!(rows[1].application_name, format!("made up {}", 2 * CONSUMERS_MAX - 1));
    }

    #[test]
    fn a_name_without_end_takes_as_much_memory_as_postgresql_gives_it() {
        let mut consumers = Consumers::default();
        consumers.left(session(&"n".repeat(10_000), peer(1), 0), UnixMillis(0));
        let rows = consumers.rows(std::iter::empty(), UnixMillis(0));
        assert_eq!(rows[0].application_name.len(), APPLICATION_CHARS_MAX);
    }
}
