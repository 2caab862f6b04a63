//! Which query a cancel request is meant for.
//!
//! Owns the secrets of all sessions of this process and what each stands for now. It deliberately sends nothing: it
//! answers [`Registry::find`], and the worker that received the request carries it out.
//!
//! # Why
//! A client is given the process id of its first backend, because drivers compare it with the one in a notification,
//! and a secret of ours: the server connection changes when the database moves, what the client knows does not. Process ids
//! of two systems can be equal, so a process id may stand for several sessions and the secret tells them apart. The
//! registry is written when a session begins, moves and ends, never for a query.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;

use super::parking::Parking;
use crate::model::RouteRecord;
use crate::wire::startup::CancelRequest;

/// The secret of protocol 3.0.
pub(super) type Secret = [u8; 4];

/// A server connection, as far as cancelling needs it.
#[derive(Clone)]
pub(super) struct Target {
    /// Of the place where it is.
    pub(super) record: Arc<RouteRecord>,
    pub(super) pid: i32,
    pub(super) key: Bytes,
}

#[derive(Default)]
pub(super) struct Registry {
    by_pid: DashMap<i32, Vec<Entry>>,
}

struct Entry {
    secret: Secret,
    target: Arc<Mutex<Target>>,
    parking: Arc<Parking>,
}

/// What a cancel request is meant for.
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) parking: Arc<Parking>,
}

/// A session's entry; it ends with the session.
pub(super) struct Enlisted {
    registry: Arc<Registry>,
    pub(super) pid: i32,
    pub(super) secret: Secret,
    pub(super) parking: Arc<Parking>,
    target: Arc<Mutex<Target>>,
}

impl Registry {
    /// Enters a session under its first backend's process id. `secret` gives random ones until one is free.
    pub(super) fn enlist(
        self: &Arc<Registry>,
        target: Target,
        mut secret: impl FnMut() -> Secret,
    ) -> Enlisted {
        let pid = target.pid;
        let target = Arc::new(Mutex::new(target));
        let parking = Arc::<Parking>::default();
        let mut entries = self.by_pid.entry(pid).or_default();
        let secret = loop {
            let secret = secret();
            if entries.iter().all(|entry| entry.secret != secret) {
                break secret;
            }
        };
        entries.push(Entry { secret, target: Arc::clone(&target), parking: Arc::clone(&parking) });
        Enlisted { registry: Arc::clone(self), pid, secret, parking, target }
    }

    /// The session that the request is meant for. Takes the same time for each wrong secret.
    pub(super) fn find(&self, request: &CancelRequest) -> Option<Found> {
        let entries = self.by_pid.get(&request.pid)?;
        let entry = entries.iter().find(|entry| is_same(&entry.secret, &request.key))?;
        let target = entry.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Found { target, parking: Arc::clone(&entry.parking) })
    }
}

impl Enlisted {
    /// What a cancel request would reach.
    pub(super) fn target(&self) -> Target {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session has another server connection now.
    pub(super) fn point_to(&self, target: Target) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        let emptied = self.registry.by_pid.get_mut(&self.pid).is_some_and(|mut entries| {
            entries.retain(|entry| entry.secret != self.secret);
            entries.is_empty()
        });
        if emptied {
            self.registry.by_pid.remove_if(&self.pid, |_, entries| entries.is_empty());
        }
    }
}

/// Without telling by its duration where the two differ.
fn is_same(secret: &Secret, given: &[u8]) -> bool {
    secret.len() == given.len() && secret.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, DatabaseId, DatabaseName, Place, SslMode, SystemName};

    fn target(pid: i32, key: &'static [u8]) -> Target {
        let record = RouteRecord::first(
            DatabaseId::parse("db_1").unwrap(),
            DatabaseName::parse("shop").unwrap(),
            Place {
                system: SystemName::parse("one").unwrap(),
                address: Address { host: "127.0.0.1".to_owned(), port: 1 },
                dbname: "shop".to_owned(),
                sslmode: SslMode::Disable,
            },
            10,
        );
        Target { record: Arc::new(record), pid, key: Bytes::from_static(key) }
    }

    fn request(pid: i32, key: &[u8]) -> CancelRequest {
        CancelRequest { pid, key: Bytes::copy_from_slice(key) }
    }

    #[test]
    fn a_secret_opens_its_own_session_and_nothing_else() {
        let registry = Arc::new(Registry::default());
        let one = registry.enlist(target(7, b"aaaa"), || [1; 4]);
        let mut offered = [[1; 4], [2; 4]].into_iter();
        let two = registry.enlist(target(7, b"bbbb"), || offered.next().unwrap());
        assert_eq!((one.secret, two.secret), ([1; 4], [2; 4]), "a secret is given once");
        assert_eq!(&registry.find(&request(7, &[1; 4])).unwrap().target.key[..], b"aaaa");
        assert_eq!(&registry.find(&request(7, &[2; 4])).unwrap().target.key[..], b"bbbb");
        for wrong in [request(7, &[3; 4]), request(8, &[1; 4]), request(7, b"aaaa"), request(7, &[1; 5])] {
            assert!(registry.find(&wrong).is_none());
        }
    }

    #[test]
    fn what_the_client_knows_stays_when_the_server_connection_changes() {
        let registry = Arc::new(Registry::default());
        let session = registry.enlist(target(7, b"aaaa"), || [1; 4]);
        session.point_to(target(99, b"zzzz"));
        assert_eq!(registry.find(&request(7, &[1; 4])).unwrap().target.pid, 99);
        assert!(registry.find(&request(99, &[1; 4])).is_none());
    }

    #[test]
    fn a_session_that_ended_leaves_nothing() {
        let registry = Arc::new(Registry::default());
        let session = registry.enlist(target(7, b"aaaa"), || [1; 4]);
        drop(session);
        assert!(registry.find(&request(7, &[1; 4])).is_none());
        assert!(registry.by_pid.is_empty());
    }
}
