//! Which session a cancel request is meant for.
//!
//! Owns the secrets of all sessions of this process and the server connection that each stands for now. It
//! deliberately sends nothing: it answers [`CancelRegistry::find`], and the worker that received the request
//! carries it out.
//!
//! # Why
//! A client gets the process id of its first backend, because drivers compare it with the one in a
//! notification, and a secret of ours: the server connection changes when the database moves, the client's
//! key does not. Process ids of two systems can be equal, so a process id may stand for several sessions and
//! the secret tells them apart. The registry is written when a session begins, moves and ends, never for a
//! query.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::cancelable_wait::CancelableWait;
use crate::model::RouteRecord;
use crate::wire::startup::CancelRequest;

/// The secret that a session's client gets, and must send to cancel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Secret {
    /// All that protocol 3.0 has room for.
    Short([u8; 4]),
    /// As long as PostgreSQL's own since protocol 3.2.
    Long([u8; 32]),
}

impl Secret {
    /// For a client that speaks protocol `3.minor`.
    pub(in crate::session) fn random(minor: u16) -> Secret {
        match minor {
            0 => Secret::Short(rand::random()),
            _ => Secret::Long(rand::random()),
        }
    }

    pub(in crate::session) fn bytes(&self) -> &[u8] {
        match self {
            Secret::Short(bytes) => bytes,
            Secret::Long(bytes) => bytes,
        }
    }

    /// Compares in constant time.
    fn is(&self, given: &[u8]) -> bool {
        self.bytes().ct_eq(given).into()
    }
}

/// A server connection, as far as cancelling needs it.
#[derive(Clone)]
pub(in crate::session) struct CancelTarget {
    /// The route record of its place.
    pub(in crate::session) record: Arc<RouteRecord>,
    pub(in crate::session) pid: i32,
    pub(in crate::session) key: Bytes,
}

/// The server connection that a session's cancel requests go to now.
///
/// # Why
/// If a server connection were lent to another client while a cancel request is on its way to it, that
/// client's query would be cancelled. So a request that has been taken keeps the target until the server has
/// dealt with it.
#[derive(Default)]
pub(in crate::session) struct CurrentTarget {
    state: Mutex<TargetState>,
    carried_out: Notify,
}

#[derive(Default)]
struct TargetState {
    /// The connection that the session has, or had last.
    target: Option<CancelTarget>,
    /// The session has it now.
    is_current: bool,
    under_way: u32,
}

impl std::fmt::Debug for CurrentTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentTarget").finish_non_exhaustive()
    }
}

impl CurrentTarget {
    fn lock(&self) -> MutexGuard<'_, TargetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session has this server connection now.
    pub(in crate::session) fn point_to(&self, record: &Arc<RouteRecord>, pid: i32, key: &Bytes) {
        let mut state = self.lock();
        state.is_current = true;
        // A client is often lent the same connection again.
        let is_same = state.target.as_ref().is_some_and(|target| {
            target.pid == pid && target.key == key && Arc::ptr_eq(&target.record, record)
        });
        if !is_same {
            state.target = Some(CancelTarget { record: Arc::clone(record), pid, key: key.clone() });
        }
    }

    /// The session has no server connection any more. `false`: a request is on its way to it; see
    /// [`CurrentTarget::carried_out`].
    pub(in crate::session) fn clear(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.under_way == 0;
        state.is_current &= !is_free;
        is_free
    }

    /// Waits until no request is on its way.
    pub(in crate::session) async fn carried_out(&self) {
        loop {
            // Created before the check: a request that ends between the check and the wait is not missed.
            let notified = self.carried_out.notified();
            if self.lock().under_way == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A cancel request that is being carried out.
pub(in crate::session) struct CancelInFlight {
    current_target: Arc<CurrentTarget>,
    pub(in crate::session) target: CancelTarget,
}

impl CancelInFlight {
    fn take(current_target: &Arc<CurrentTarget>) -> Option<CancelInFlight> {
        let mut state = current_target.lock();
        let target = state.target.as_ref().filter(|_| state.is_current)?.clone();
        state.under_way += 1;
        Some(CancelInFlight { current_target: Arc::clone(current_target), target })
    }
}

impl Drop for CancelInFlight {
    fn drop(&mut self) {
        self.current_target.lock().under_way -= 1;
        self.current_target.carried_out.notify_waiters();
    }
}

#[derive(Default)]
pub(in crate::session) struct CancelRegistry {
    by_pid: DashMap<i32, Vec<Entry>>,
}

struct Entry {
    secret: Secret,
    current_target: Arc<CurrentTarget>,
    cancelable_wait: Arc<CancelableWait>,
}

/// The session that a cancel request is meant for.
pub(in crate::session) struct Found {
    current_target: Arc<CurrentTarget>,
    pub(in crate::session) cancelable_wait: Arc<CancelableWait>,
}

impl Found {
    /// The server connection, which stays the session's until this is dropped. `None`: it has none.
    pub(in crate::session) fn begin(&self) -> Option<CancelInFlight> {
        CancelInFlight::take(&self.current_target)
    }
}

/// A session's entry in the registry, removed when dropped.
pub(in crate::session) struct CancelRegistration {
    registry: Arc<CancelRegistry>,
    pub(in crate::session) pid: i32,
    pub(in crate::session) secret: Secret,
    pub(in crate::session) cancelable_wait: Arc<CancelableWait>,
    pub(in crate::session) current_target: Arc<CurrentTarget>,
}

impl CancelRegistry {
    /// Enters a session under the process id that its client gets. Calls `secret` until it returns one that
    /// is free.
    pub(in crate::session) fn register(
        self: &Arc<CancelRegistry>,
        pid: i32,
        target: Option<CancelTarget>,
        mut secret: impl FnMut() -> Secret,
    ) -> CancelRegistration {
        let current_target = Arc::<CurrentTarget>::default();
        if let Some(CancelTarget { record, pid, key }) = target {
            current_target.point_to(&record, pid, &key);
        }
        let cancelable_wait = Arc::<CancelableWait>::default();
        // One is enough: two systems seldom use the same process id.
        let mut entries = self.by_pid.entry(pid).or_insert_with(|| Vec::with_capacity(1));
        let secret = loop {
            let secret = secret();
            if entries.iter().all(|entry| entry.secret != secret) {
                break secret;
            }
        };
        entries.push(Entry {
            secret,
            current_target: Arc::clone(&current_target),
            cancelable_wait: Arc::clone(&cancelable_wait),
        });
        CancelRegistration { registry: Arc::clone(self), pid, secret, cancelable_wait, current_target }
    }

    /// The session that the request is meant for. Takes the same time for each wrong secret.
    pub(in crate::session) fn find(&self, request: &CancelRequest) -> Option<Found> {
        let entries = self.by_pid.get(&request.pid)?;
        let entry = entries.iter().find(|entry| entry.secret.is(&request.key))?;
        Some(Found {
            current_target: Arc::clone(&entry.current_target),
            cancelable_wait: Arc::clone(&entry.cancelable_wait),
        })
    }
}

impl CancelRegistration {
    /// The server connection that a cancel request would reach.
    pub(in crate::session) fn target(&self) -> Option<CancelTarget> {
        let state = self.current_target.lock();
        state.target.as_ref().filter(|_| state.is_current).cloned()
    }

    /// The session has another server connection now.
    pub(in crate::session) fn point_to(&self, target: CancelTarget) {
        self.current_target.point_to(&target.record, target.pid, &target.key);
    }
}

impl Drop for CancelRegistration {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, DatabaseId, DatabaseName, Place, SslMode, SystemName};

    fn target(pid: i32, key: &'static [u8]) -> CancelTarget {
        let record = RouteRecord::first(
            DatabaseId::parse("db_1").unwrap(),
            DatabaseName::parse("shop").unwrap(),
            Place {
                system: SystemName::parse("one").unwrap(),
                address: Address { host: "127.0.0.1".to_owned(), port: 1 },
                dbname: "shop".to_owned(),
                sslmode: SslMode::Disable,
                auth: Default::default(),
            },
            10,
        );
        CancelTarget { record: Arc::new(record), pid, key: Bytes::from_static(key) }
    }

    fn found(registry: &CancelRegistry, pid: i32, key: &[u8]) -> CancelTarget {
        registry.find(&request(pid, key)).unwrap().begin().unwrap().target.clone()
    }

    fn request(pid: i32, key: &[u8]) -> CancelRequest {
        CancelRequest { pid, key: Bytes::copy_from_slice(key) }
    }

    const SHORT: Secret = Secret::Short([1; 4]);

    #[test]
    fn a_secret_opens_its_own_session_and_nothing_else() {
        let registry = Arc::new(CancelRegistry::default());
        let one = registry.register(7, Some(target(7, b"aaaa")), || SHORT);
        let mut offered = [SHORT, Secret::Short([2; 4])].into_iter();
        let two = registry.register(7, Some(target(7, b"bbbb")), || offered.next().unwrap());
        assert_eq!((one.secret.bytes(), two.secret.bytes()), (&[1; 4][..], &[2; 4][..]), "one is given once");
        assert_eq!(&found(&registry, 7, &[1; 4]).key[..], b"aaaa");
        assert_eq!(&found(&registry, 7, &[2; 4]).key[..], b"bbbb");
        for wrong in [request(7, &[3; 4]), request(8, &[1; 4]), request(7, b"aaaa"), request(7, &[1; 5])] {
            assert!(registry.find(&wrong).is_none());
        }
    }

    #[test]
    fn a_long_secret_is_not_opened_by_its_beginning_or_by_more() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(7, Some(target(7, b"aaaa")), || Secret::random(2));
        let secret = session.secret.bytes();
        assert_eq!(secret.len(), 32);
        assert!(registry.find(&request(7, secret)).is_some());
        let longer = [secret, &[0]].concat();
        let last_differs = [&secret[..31], &[!secret[31]]].concat();
        for wrong in [&secret[..4], &secret[..31], &longer, &last_differs] {
            assert!(registry.find(&request(7, wrong)).is_none());
        }
    }

    #[test]
    fn what_the_client_knows_stays_when_the_server_connection_changes() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(7, Some(target(7, b"aaaa")), || SHORT);
        session.point_to(target(99, b"zzzz"));
        assert_eq!(found(&registry, 7, &[1; 4]).pid, 99);
        assert!(registry.find(&request(99, &[1; 4])).is_none());
    }

    #[tokio::test]
    async fn a_connection_stays_with_its_session_while_a_request_is_on_its_way_to_it() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(7, Some(target(9, b"aaaa")), || SHORT);
        let found = registry.find(&request(7, &[1; 4])).unwrap();
        let in_flight = found.begin().unwrap();
        assert!(!session.current_target.clear());
        assert_eq!(session.target().unwrap().pid, 9);
        drop(in_flight);
        session.current_target.carried_out().await;
        assert!(session.current_target.clear() && found.begin().is_none());
    }

    #[test]
    fn a_session_that_ended_leaves_nothing() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(7, Some(target(7, b"aaaa")), || SHORT);
        drop(session);
        assert!(registry.find(&request(7, &[1; 4])).is_none());
        assert!(registry.by_pid.is_empty());
    }
}
