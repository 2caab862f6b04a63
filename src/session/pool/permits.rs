//! How many server connections of a database this process may have, and which of its workers has them.
//!
//! # Why
//! A connection stays on the worker that opened it, because its socket is known to that worker's event loop; what
//! moves between workers is the right to have one. So workers share three words for each database and write them only when a
//! connection opens or closes, or when a worker runs out: no query touches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

/// One for each database that is pooled by transaction.
#[derive(Debug)]
pub(super) struct Permits {
    open: AtomicU32,
    /// Workers that wait and have less than their share.
    starving: AtomicU32,
    workers: Vec<Holding>,
    /// Grows when statements that were prepared before may have results of another shape.
    schema: AtomicU64,
    /// Grows when functions of the database may do to sessions what they did not before.
    functions: AtomicU64,
}

#[derive(Debug, Default)]
struct Holding {
    held: AtomicU32,
    starves: AtomicU32,
    bell: Notify,
}

/// The right to have one connection; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    worker: usize,
    is_leaving: bool,
}

impl Permits {
    pub(super) fn new(workers: usize) -> Arc<Permits> {
        let workers = (0..workers.max(1)).map(|_| Holding::default()).collect();
        let (open, starving) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Permits { open, starving, workers, schema: AtomicU64::new(0), functions: AtomicU64::new(0) })
    }

    pub(super) fn schema(&self) -> u64 {
        self.schema.load(Ordering::Relaxed)
    }

    pub(super) fn functions(&self) -> u64 {
        self.functions.load(Ordering::Relaxed)
    }

    pub(super) fn schema_changed(&self) {
        self.schema.fetch_add(1, Ordering::Relaxed);
        self.functions_changed();
    }

    pub(super) fn functions_changed(&self) {
        self.functions.fetch_add(1, Ordering::Relaxed);
    }

    /// One more, if that is not more than `max` in the process.
    pub(super) fn take(self: &Arc<Permits>, worker: usize, max: u32) -> Option<Permit> {
        let one_more = |open: u32| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        self.workers[worker].held.fetch_add(1, Ordering::Relaxed);
        Some(Permit { permits: Arc::clone(self), worker, is_leaving: false })
    }

    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// This worker has clients that wait, and no connection is to be had: others that have more than their share give one up.
    pub(super) fn starve(&self, worker: usize, max: u32) {
        let holding = &self.workers[worker];
        let share = (max / self.workers.len() as u32).max(1);
        if holding.held.load(Ordering::Relaxed) < share && holding.starves.swap(1, Ordering::AcqRel) == 0 {
            self.starving.fetch_add(1, Ordering::AcqRel);
            let others = self.workers.iter().enumerate().filter(|(other, _)| *other != worker);
            others.for_each(|(_, other)| other.bell.notify_one());
        }
    }

    /// It has one, or nobody waits there any more.
    pub(super) fn sate(&self, worker: usize) {
        if self.workers[worker].starves.load(Ordering::Relaxed) != 0
            && self.workers[worker].starves.swap(0, Ordering::AcqRel) == 1
        {
            self.starving.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether a connection that comes back to this worker is needed more elsewhere.
    pub(super) fn is_needed_elsewhere(&self, worker: usize) -> bool {
        if self.starving.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let own = self.workers[worker].held.load(Ordering::Relaxed);
        let needs = |(other, holding): (usize, &Holding)| {
            let held = holding.held.load(Ordering::Relaxed);
            other != worker && holding.starves.load(Ordering::Relaxed) == 1 && (held == 0 || held + 1 < own)
        };
        self.workers.iter().enumerate().any(needs)
    }

    /// Rings when a permit has become free while this worker starved, and when another begins to.
    pub(super) async fn rung(&self, worker: usize) {
        self.workers[worker].bell.notified().await;
    }
}

impl Permit {
    /// Its connection is being closed: it does not count as the worker's any more, or more would be given up than needed.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.permits.workers[self.worker].held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
        self.permits.open.fetch_sub(1, Ordering::AcqRel);
        for holding in &self.permits.workers {
            if holding.starves.load(Ordering::Acquire) == 1 {
                holding.bell.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_given_than_there_may_be_and_one_that_is_dropped_is_given_again() {
        let permits = Permits::new(2);
        let first = permits.take(0, 2).unwrap();
        let second = permits.take(1, 2).unwrap();
        assert!(permits.take(0, 2).is_none());
        assert_eq!(permits.open(), 2);
        drop(first);
        assert!(permits.take(1, 2).is_some());
        drop(second);
        assert_eq!(permits.open(), 0);
    }

    #[test]
    fn a_worker_gives_up_only_what_is_more_than_another_that_starves_has() {
        let permits = Permits::new(2);
        let mut many: Vec<Permit> = (0..3).map(|_| permits.take(0, 4).unwrap()).collect();
        let one = permits.take(1, 4).unwrap();
        assert!(!permits.is_needed_elsewhere(0), "nobody starves");
        permits.starve(1, 4);
        assert!(permits.is_needed_elsewhere(0) && !permits.is_needed_elsewhere(1));
        let mut leaving = permits.take(0, 5).unwrap();
        let mut other = permits.take(0, 6).unwrap();
        leaving.leave();
        other.leave();
        assert!(permits.is_needed_elsewhere(0), "three are more than one and one");
        many[0].leave();
        assert!(!permits.is_needed_elsewhere(0), "what is being closed does not count");
        permits.sate(1);
        drop(one);
        permits.starve(0, 4);
        assert!(!permits.is_needed_elsewhere(1), "who has its share does not starve");
    }

    #[tokio::test]
    async fn a_worker_that_starves_hears_of_a_permit_that_is_free() {
        let permits = Permits::new(2);
        let only = permits.take(0, 1).unwrap();
        permits.starve(1, 1);
        permits.rung(0).await;
        drop(only);
        permits.rung(1).await;
    }
}
