//! The leases of the store, and the keys that are under them. No IO, no waiting; time is an argument.
//!
//! Owns when a lease is overdue. It deliberately deletes no key: `memory` does that by a commit, and tells
//! this module which keys a commit wrote.
//!
//! # Why they are not on disk
//! Only the process that has the file open can keep a lease alive, so no lease outlives it. The file records
//! which keys were under a lease; they are deleted when it is opened.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::catalog::store::{Lease, LeaseId};

/// A longer time has no effect, so that no instant is out of bounds.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug, Default)]
pub(super) struct Leases {
    living: HashMap<LeaseId, Living>,
    granted: i64,
}

#[derive(Debug)]
struct Living {
    ttl: Duration,
    ends_at: Instant,
    keys: BTreeSet<String>,
}

impl Leases {
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> Lease {
        self.granted += 1;
        let lease = Lease { id: LeaseId(self.granted), ttl: ttl.min(TTL_MAX) };
        let living = Living { ttl: lease.ttl, ends_at: now + lease.ttl, keys: BTreeSet::new() };
        self.living.insert(lease.id, living);
        lease
    }

    /// `false`: it has ended. One that is overdue has not ended while its keys exist.
    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> bool {
        let living = self.living.get_mut(&id);
        living.map(|lease| lease.ends_at = now + lease.ttl).is_some()
    }

    pub(super) fn keep_all_alive(&mut self, now: Instant) {
        for lease in self.living.values_mut() {
            lease.ends_at = now + lease.ttl;
        }
    }

    pub(super) fn is_living(&self, id: LeaseId) -> bool {
        self.living.contains_key(&id)
    }

    /// When the first lease is overdue.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.living.values().map(|lease| lease.ends_at).min()
    }

    /// A lease that is overdue.
    pub(super) fn overdue(&self, now: Instant) -> Option<LeaseId> {
        self.living.iter().find(|(_, lease)| lease.ends_at <= now).map(|(id, _)| *id)
    }

    /// Forgets a lease, and returns the keys that are under it.
    pub(super) fn end(&mut self, id: LeaseId) -> BTreeSet<String> {
        self.living.remove(&id).map(|lease| lease.keys).unwrap_or_default()
    }

    /// A commit has written or deleted a key: it leaves the lease that it was under, and comes under another.
    pub(super) fn pass_on(&mut self, key: &str, from: Option<LeaseId>, to: Option<LeaseId>) {
        if let Some(lease) = from.and_then(|id| self.living.get_mut(&id)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = to.and_then(|id| self.living.get_mut(&id)) {
            lease.keys.insert(key.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_is_overdue_when_its_time_has_passed_since_it_was_kept_alive() {
        let mut leases = Leases::default();
        let begin = Instant::now();
        let first = leases.grant(TTL, begin).id;
        let second = leases.grant(TTL * 3, begin).id;
        assert_ne!(first, second);
        assert_eq!((leases.next_end(), leases.overdue(begin + TTL / 2)), (Some(begin + TTL), None));
        assert!(leases.keep_alive(first, begin + TTL / 2));
        assert_eq!(leases.overdue(begin + TTL), None);
        assert_eq!(leases.overdue(begin + TTL + TTL / 2), Some(first));
        leases.end(first);
        assert!(!leases.is_living(first) && !leases.keep_alive(first, begin));
        assert_eq!(leases.next_end(), Some(begin + TTL * 3));
        leases.keep_all_alive(begin + TTL);
        assert_eq!(leases.next_end(), Some(begin + TTL * 4));
        assert_eq!(leases.grant(Duration::MAX, begin).ttl, TTL_MAX);
    }

    #[test]
    fn a_key_is_under_the_lease_of_its_last_write() {
        let mut leases = Leases::default();
        let [first, second] = [(); 2].map(|()| leases.grant(TTL, Instant::now()).id);
        leases.pass_on("a", None, Some(first));
        leases.pass_on("b", None, Some(first));
        leases.pass_on("c", None, Some(first));
        leases.pass_on("b", Some(first), Some(second));
        leases.pass_on("c", Some(first), None);
        assert!(leases.end(first).into_iter().eq(["a".to_owned()]));
        assert!(leases.end(second).into_iter().eq(["b".to_owned()]));
        assert!(leases.end(second).is_empty());
    }
}
