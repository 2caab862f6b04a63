//! Limits on connected clients: in total, per role, and per role in a database.
//!
//! # Why the refused are counted, too
//! A client over a limit gets the error after its startup packet, under TLS if it asked for TLS: libpq
//! ignores an error before that (CVE-2024-10977). That costs a handshake, so only a few clients at a time get
//! it; the others are closed without an answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::FrontendError;
use crate::model::DatabaseId;

/// Clients over the limit that get the error at the same time; further ones are closed.
const REFUSED_MAX: u32 = 128;

/// How many clients this process accepts. 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Counted from the accepted socket on, so logins in progress count.
    pub clients_max: u32,
    pub per_role_max: u32,
    pub per_database_role_max: u32,
}

/// The clients that are connected.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimits {
    admitted: AtomicU32,
    refused: AtomicU32,
    groups: Mutex<Groups>,
}

/// Updated when a client connects and leaves. Holds only roles with connected clients.
#[derive(Debug, Default)]
struct Groups {
    by_role: HashMap<String, u32>,
    by_database_role: HashMap<(DatabaseId, String), u32>,
}

impl ConnectionLimits {
    /// Admits a new connection; where there are as many as may be, in the place of one that `displace`
    /// closes. `None`: too many are over the limit to answer this one.
    pub(super) fn admit(
        self: &Arc<ConnectionLimits>,
        limits: ClientLimits,
        displace: impl FnOnce() -> bool,
    ) -> Option<ConnectionPermit> {
        let permit =
            |standing| ConnectionPermit { connection_limits: Arc::clone(self), standing, member: None };
        if add_below(&self.admitted, limits.clients_max) {
            return Some(permit(Standing::Admitted));
        }
        if displace() {
            // One too many, until the other one is closed.
            self.admitted.fetch_add(1, Ordering::Relaxed);
            return Some(permit(Standing::Admitted));
        }
        add_below(&self.refused, REFUSED_MAX).then(|| permit(Standing::Refused))
    }
}

/// Adds one, unless that exceeds the limit (0: none).
fn add_below(counter: &AtomicU32, max: u32) -> bool {
    let more = |count: u32| (max == 0 || count < max).then(|| count.saturating_add(1));
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Admitted,
    Refused,
}

/// One client's share of the limits, released when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    connection_limits: Arc<ConnectionLimits>,
    standing: Standing,
    member: Option<(DatabaseId, String)>,
}

impl ConnectionPermit {
    /// An error if this client is over the limit; it only gets the error.
    pub(super) fn check(&self, limits: ClientLimits) -> Result<(), FrontendError> {
        match self.standing {
            Standing::Admitted => Ok(()),
            Standing::Refused => Err(FrontendError::Full { clients_max: limits.clients_max }),
        }
    }

    /// The client's role is known now: counts it for the role, too.
    pub(super) fn assign_role(
        &mut self,
        database: &DatabaseId,
        role: &str,
        limits: ClientLimits,
    ) -> Result<(), FrontendError> {
        let key = (database.clone(), role.to_owned());
        let mut groups = self.connection_limits.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let of_role = groups.by_role.get(role).copied().unwrap_or(0);
        let of_both = groups.by_database_role.get(&key).copied().unwrap_or(0);
        let full = |count: u32, max: u32| max != 0 && count >= max;
        if full(of_role, limits.per_role_max) {
            return Err(FrontendError::RoleFull { role: role.to_owned(), max: limits.per_role_max });
        }
        if full(of_both, limits.per_database_role_max) {
            let max = limits.per_database_role_max;
            return Err(FrontendError::DatabaseRoleFull { role: role.to_owned(), max });
        }
        groups.by_role.insert(role.to_owned(), of_role.saturating_add(1));
        groups.by_database_role.insert(key.clone(), of_both.saturating_add(1));
        self.member = Some(key);
        Ok(())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let counter = match self.standing {
            Standing::Admitted => &self.connection_limits.admitted,
            Standing::Refused => &self.connection_limits.refused,
        };
        counter.fetch_sub(1, Ordering::Relaxed);
        if let Some(key) = self.member.take() {
            let mut groups = self.connection_limits.groups.lock().unwrap_or_else(PoisonError::into_inner);
            leave(&mut groups.by_role, key.1.clone());
            leave(&mut groups.by_database_role, key);
        }
    }
}

fn leave<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        match count.get().checked_sub(1) {
            None | Some(0) => drop(count.remove()),
            Some(left) => *count.get_mut() = left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ClientLimits = ClientLimits { clients_max: 3, per_role_max: 2, per_database_role_max: 1 };

    fn database(id: &str) -> DatabaseId {
        DatabaseId::parse(id).unwrap()
    }

    #[test]
    fn a_place_is_taken_until_it_is_dropped() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let mut places: Vec<ConnectionPermit> =
            (0..3).map(|_| connection_limits.admit(LIMITS, || false).unwrap()).collect();
        assert!(places.iter().all(|admission| admission.check(LIMITS).is_ok()));
        let one_too_many = connection_limits.admit(LIMITS, || false).unwrap();
        assert!(one_too_many.check(LIMITS).is_err());
        places.pop();
        assert!(connection_limits.admit(LIMITS, || false).unwrap().check(LIMITS).is_ok());
        assert!(one_too_many.check(LIMITS).is_err(), "it stays refused");
    }

    #[test]
    fn those_who_are_told_that_they_are_too_many_are_not_too_many_either() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let admitted: Vec<_> = (0..3).map(|_| connection_limits.admit(LIMITS, || false)).collect();
        let told: Vec<_> =
            std::iter::from_fn(|| connection_limits.admit(LIMITS, || false)).take(1_000).collect();
        assert_eq!(told.len(), REFUSED_MAX as usize);
        drop(told);
        assert!(connection_limits.admit(LIMITS, || false).is_some());
        drop(admitted);
    }

    #[test]
    fn a_role_has_a_limit_of_its_own_in_each_database_and_in_all() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let open = ClientLimits { clients_max: 0, ..LIMITS };
        let assign_role = |id: &str, role: &str| {
            let mut admission = connection_limits.admit(open, || false).unwrap();
            admission.assign_role(&database(id), role, open).map(|()| admission)
        };
        let first = assign_role("db_1", "app").unwrap();
        assert!(matches!(assign_role("db_1", "app"), Err(FrontendError::DatabaseRoleFull { max: 1, .. })));
        let second = assign_role("db_2", "app").unwrap();
        assert!(matches!(assign_role("db_3", "app"), Err(FrontendError::RoleFull { max: 2, .. })));
        let other = assign_role("db_1", "other").unwrap();
        drop(first);
        let third = assign_role("db_3", "app").unwrap();
        drop((second, third, other));
        let groups = connection_limits.groups.lock().unwrap();
        assert!(groups.by_role.is_empty() && groups.by_database_role.is_empty(), "{groups:?}");
        assert_eq!(connection_limits.admitted.load(Ordering::Relaxed), 0);
    }
}
