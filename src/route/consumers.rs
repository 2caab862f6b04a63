//! The consumers of a database: the clients that use it, by role, application and address.
//!
//! Owns what an owner needs before a database goes away: which programs connect, from where, since when and
//! when last. It deliberately keeps nothing on disk and knows only this process; a restart begins anew.
//!
//! # Why bounded
//! An address and an application name are what a client says. A client that makes up names, or an address for
//! each connection, replaces the consumers that left the longest ago, and takes no memory beyond the bound.

use std::collections::HashMap;
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
    connections: u32,
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

/// The consumers of one database in this process.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    known: HashMap<Key, Seen>,
}

impl Consumers {
    /// A session begins, or has this application name from now on.
    pub(super) fn came(&mut self, role: &str, application_name: &str, client: Peer, at: UnixMillis) {
        let seen = self.seen(Key::of(role, application_name, client), at);
        seen.connections += 1;
    }

    /// A session ends, or has another application name from now on.
    pub(super) fn left(&mut self, role: &str, application_name: &str, client: Peer, at: UnixMillis) {
        let seen = self.seen(Key::of(role, application_name, client), at);
        // It is 0 if others have replaced it meanwhile.
        seen.connections = seen.connections.saturating_sub(1);
    }

    fn seen(&mut self, key: Key, at: UnixMillis) -> &mut Seen {
        if self.known.len() >= CONSUMERS_MAX && !self.known.contains_key(&key) {
            self.forget_one();
        }
        let seen = self.known.entry(key).or_insert(Seen { first: at, last: at, connections: 0 });
        seen.last = seen.last.max(at);
        seen
    }

    /// Forgets the consumer that left the longest ago; if every one is connected, the one that came the
    /// longest ago.
    fn forget_one(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, seen)| (seen.connections > 0, seen.last));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.known.remove(&key);
        }
    }

    /// The connected ones first, then the others, the one seen last first.
    pub(super) fn rows(&self, now: UnixMillis) -> Vec<Consumer> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by(|(a_key, a), (b_key, b)| {
            let rank = |seen: &Seen| (seen.connections == 0, std::cmp::Reverse(seen.last));
            rank(a).cmp(&rank(b)).then_with(|| a_key.cmp(b_key))
        });
        let row = |(key, seen): (&Key, &Seen)| Consumer {
            role: key.role.clone(),
            application_name: key.application_name.clone(),
            address: key.address.map_or_else(|| Peer::Unix.to_string(), |address| address.to_string()),
            first_seen: seen.first,
            last_seen: if seen.connections > 0 { now.max(seen.last) } else { seen.last },
            connections: seen.connections,
        };
        known.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Peer {
        Peer::tcp(([10, 0, 0, 1], port).into())
    }

    #[test]
    fn connections_of_one_role_application_and_address_are_one_consumer() {
        let mut consumers = Consumers::default();
        consumers.came("app", "till", peer(1), UnixMillis(10));
        consumers.came("app", "till", peer(2), UnixMillis(20));
        consumers.came("app", "report", Peer::Unix, UnixMillis(30));
        consumers.left("app", "till", peer(1), UnixMillis(40));
        consumers.left("app", "report", Peer::Unix, UnixMillis(50));
        let rows = consumers.rows(UnixMillis(99));
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
        consumers.came("app", "stays", peer(1), UnixMillis(0));
        for number in 0..2 * CONSUMERS_MAX as u64 {
            let name = format!("made up {number}");
            consumers.came("app", &name, peer(2), UnixMillis(number));
            consumers.left("app", &name, peer(2), UnixMillis(number));
        }
        let rows = consumers.rows(UnixMillis(5_000));
        assert_eq!(rows.len(), CONSUMERS_MAX);
        assert_eq!((rows[0].application_name.as_str(), rows[0].connections), ("stays", 1));
        assert_eq!(rows[1].application_name, format!("made up {}", 2 * CONSUMERS_MAX - 1));
    }

    #[test]
    fn a_name_without_end_takes_as_much_memory_as_postgresql_gives_it() {
        let mut consumers = Consumers::default();
        consumers.came("app", &"n".repeat(10_000), peer(1), UnixMillis(0));
        assert_eq!(consumers.rows(UnixMillis(0))[0].application_name.len(), APPLICATION_CHARS_MAX);
    }
}
