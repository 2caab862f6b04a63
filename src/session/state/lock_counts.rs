//! How often a session holds its advisory locks.
//!
//! PostgreSQL counts (a lock taken twice must be released twice), but shows one row in `pg_locks`. So the
//! calls that the client made are counted here, and compared with the rows at a snapshot. If the two do not
//! determine each count, the ledger says so, and the session is pinned: a wrong count would let two sessions
//! into one critical section.

use std::collections::BTreeMap;

use super::{AdvisoryLock, LockKey};

/// More distinct keys than this are counted without their names.
const NAMED_MAX: usize = 64;

/// Calls that succeeded, less those undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LockCounts {
    named: BTreeMap<AdvisoryLock, u32>,
    /// Locks that calls with an unknown key hold.
    unnamed: u32,
    /// A call ran that could not be followed: the counts are unknown until no lock is held.
    unclear: bool,
}

/// What a call locked or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Known(AdvisoryLock),
    Computed,
}

impl LockCounts {
    /// No lock was ever taken, according to the calls.
    pub(super) fn is_empty(&self) -> bool {
        *self == LockCounts::default()
    }

    pub(super) fn taken(&mut self, which: Which) {
        match which {
            Which::Known(lock) if self.named.contains_key(&lock) || self.named.len() < NAMED_MAX => {
                *self.named.entry(lock).or_default() += 1;
            }
            _ => self.unnamed += 1,
        }
    }

    pub(super) fn released(&mut self, which: Which) {
        if let Which::Known(lock) = which
            && let Some(count) = self.named.get_mut(&lock)
        {
            *count -= 1;
            if *count == 0 {
                self.named.remove(&lock);
            }
            return;
        }
        // A computed key may have released a lock that a literal one took: only the total stays right.
        if which == Which::Computed {
            self.forget_names();
        }
        match self.unnamed.checked_sub(1) {
            Some(less) => self.unnamed = less,
            None => self.unclear = true,
        }
    }

    /// The names no longer tell which lock a count belongs to; only the total is right.
    fn forget_names(&mut self) {
        self.unnamed += std::mem::take(&mut self.named).into_values().sum::<u32>();
    }

    pub(super) fn all_released(&mut self) {
        *self = LockCounts::default();
    }

    pub(super) fn lose_count(&mut self) {
        self.unclear = true;
    }

    /// The count of each lock that PostgreSQL reports as held. `None`: the calls do not determine it.
    pub(super) fn settle(&mut self, held: &[AdvisoryLock]) -> Option<BTreeMap<AdvisoryLock, u32>> {
        if held.is_empty() {
            self.all_released();
            return Some(BTreeMap::new());
        }
        if self.unclear {
            return None;
        }
        let named: u32 = self.named.values().sum();
        let total = (named + self.unnamed) as usize;
        let once = |lock: &AdvisoryLock| (*lock, 1);
        // Each is held at least once, so with as many calls as locks each is held once, whatever the keys
        // were.
        if total == held.len() {
            return Some(held.iter().map(once).collect());
        }
        if total < held.len() {
            return None;
        }
        if let [lock] = held {
            return Some(BTreeMap::from([(*lock, total as u32)]));
        }
        let nameless: Vec<&AdvisoryLock> =
            held.iter().filter(|lock| !self.named.contains_key(lock)).collect();
        let all_held = self.named.keys().all(|lock| held.contains(lock));
        if !all_held || nameless.len() != self.unnamed as usize {
            return None;
        }
        Some(self.named.clone().into_iter().chain(nameless.into_iter().map(once)).collect())
    }
}

/// The key of a `pg_locks` row of type advisory.
pub(super) fn key_of_row(classid: u32, objid: u32, objsubid: u16) -> LockKey {
    match objsubid {
        1 => LockKey::Bigint(((u64::from(classid) << 32) | u64::from(objid)) as i64),
        _ => LockKey::Pair(classid as i32, objid as i32),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lock(key: i64) -> AdvisoryLock {
        AdvisoryLock { key: LockKey::Bigint(key), shared: false }
    }

    fn known(key: i64) -> Which {
        Which::Known(lock(key))
    }

    #[test]
    fn a_lock_taken_twice_and_seen_once_counts_two() {
        let mut lock_counts = LockCounts::default();
        lock_counts.taken(known(1));
        lock_counts.taken(known(1));
        assert_eq!(lock_counts.settle(&[lock(1)]), Some(BTreeMap::from([(lock(1), 2)])));
        lock_counts.taken(known(2));
        let both = BTreeMap::from([(lock(1), 2), (lock(2), 1)]);
        assert_eq!(lock_counts.settle(&[lock(1), lock(2)]), Some(both));
    }

    #[test]
    fn computed_keys_settle_where_each_lock_is_held_once_and_not_otherwise() {
        let mut lock_counts = LockCounts::default();
        lock_counts.taken(Which::Computed);
        lock_counts.taken(Which::Computed);
        assert_eq!(lock_counts.settle(&[lock(1), lock(2)]), Some([(lock(1), 1), (lock(2), 1)].into()));
        lock_counts.taken(Which::Computed);
        assert_eq!(lock_counts.settle(&[lock(1), lock(2)]), None, "which of them is held twice?");
    }

    #[test]
    fn an_unclear_ledger_is_clear_again_once_nothing_is_held() {
        let mut lock_counts = LockCounts::default();
        lock_counts.lose_count();
        assert_eq!(lock_counts.settle(&[lock(1)]), None);
        assert_eq!(lock_counts.settle(&[]), Some(BTreeMap::new()));
        lock_counts.taken(known(1));
        assert!(lock_counts.settle(&[lock(1)]).is_some());
    }

    #[test]
    fn locks_that_nobody_was_seen_to_take_are_not_guessed() {
        assert_eq!(LockCounts::default().settle(&[lock(1)]), None);
    }

    #[test]
    fn rows_of_pg_locks_give_the_keys_that_were_asked_for() {
        assert_eq!(key_of_row(0xffff_ffff, 0xffff_ffff, 1), LockKey::Bigint(-1));
        assert_eq!(key_of_row(1, 2, 1), LockKey::Bigint((1 << 32) | 2));
        assert_eq!(key_of_row(0xffff_ffff, 7, 2), LockKey::Pair(-1, 7));
    }

    proptest! {
        /// Against a model that knows every key: the ledger is right, or it says that it does not know.
        #[test]
        fn a_settled_count_is_the_true_count(calls in proptest::collection::vec((0i64..3, any::<bool>(), any::<bool>()), 0..20)) {
            let (mut lock_counts, mut truth) = (LockCounts::default(), BTreeMap::<AdvisoryLock, u32>::new());
            for (key, takes, literal) in calls {
                let which = if literal { known(key) } else { Which::Computed };
                let count = truth.entry(lock(key)).or_default();
                match takes {
                    true => {
                        *count += 1;
                        lock_counts.taken(which);
                    }
                    false if *count > 0 => {
                        *count -= 1;
                        lock_counts.released(which);
                    }
                    false => {}
                }
            }
            truth.retain(|_, count| *count > 0);
            let held: Vec<AdvisoryLock> = truth.keys().copied().collect();
            if let Some(settled) = lock_counts.settle(&held) {
                prop_assert_eq!(settled, truth);
            }
        }
    }
}
