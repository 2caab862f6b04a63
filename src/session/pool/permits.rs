//! How many server connections of a database this process may have, and which of its workers has them.
//!
//! # Why
//! A connection stays on the worker that opened it, because its socket is registered with that worker's event
//! loop; what moves between workers is the permit to have one. So workers share a few words for each database
//! and write them only when a connection opens or closes, or when a worker runs out: no query touches them.
//!
//! A permit that moves counts as the other worker's from the moment at which it is given away, although the
//! connection must close before it can be used there: otherwise each connection that comes back meanwhile
//! would be given away, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::catalogue_check::CatalogueCheck;

/// One per database with connections that outlive their clients.
#[derive(Debug)]
pub(super) struct Permits {
    open: AtomicU32,
    /// Workers that have waiting clients and no permit.
    workers_waiting: AtomicU32,
    workers: Vec<WorkerShare>,
    /// Grows when statements that were prepared before may mean something else now.
    schema: AtomicU64,
    /// Grows when the digest of the catalogue changes.
    catalogue: AtomicU64,
    /// Decides when the catalogue is checked for such a change.
    pub(super) catalogue_check: CatalogueCheck,
    /// Grows when functions of the database may do to sessions what they did not before.
    functions: AtomicU64,
    /// Grows when definitions have changed, or may have.
    definitions: AtomicU64,
    /// Sessions that have changed definitions and have not reached a boundary since.
    defining: AtomicU32,
}

/// A session is changing definitions; dropping this announces that they have changed.
#[derive(Debug)]
pub(in crate::session) struct Defining(Arc<Permits>);

impl Drop for Defining {
    fn drop(&mut self) {
        self.0.definitions_changed();
        self.0.defining.fetch_sub(1, Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct WorkerShare {
    /// Permits of this worker, including those that it cannot use yet.
    held: AtomicU32,
    /// Those of them that other workers gave it and that it can use now.
    ready: AtomicU32,
    is_waiting: AtomicU32,
    changed: Notify,
}

/// The permit to have one connection; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    worker: usize,
    /// It was given to another worker, which can use it once this is dropped.
    is_given: bool,
}

impl Permits {
    pub(super) fn new(workers: usize) -> Arc<Permits> {
        let workers = (0..workers.max(1)).map(|_| WorkerShare::default()).collect();
        let (open, workers_waiting) = (AtomicU32::new(0), AtomicU32::new(0));
        let (schema, catalogue, functions, definitions) = Default::default();
        let defining = AtomicU32::new(0);
        let catalogue_check = CatalogueCheck::new();
        Arc::new(Permits {
            open,
            workers_waiting,
            workers,
            schema,
            catalogue,
            catalogue_check,
            functions,
            definitions,
            defining,
        })
    }

    pub(super) fn define(self: &Arc<Permits>) -> Defining {
        self.defining.fetch_add(1, Ordering::Release);
        Defining(Arc::clone(self))
    }

    pub(super) fn is_being_defined(&self) -> bool {
        self.defining.load(Ordering::Acquire) > 0
    }

    pub(super) fn schema(&self) -> u64 {
        self.schema.load(Ordering::Relaxed)
    }

    pub(super) fn functions(&self) -> u64 {
        self.functions.load(Ordering::Relaxed)
    }

    pub(super) fn schema_changed(&self) {
        self.schema.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn catalogue(&self) -> u64 {
        self.catalogue.load(Ordering::Relaxed)
    }

    pub(super) fn catalogue_changed(&self) {
        self.catalogue.fetch_add(1, Ordering::Relaxed);
        self.schema_changed();
    }

    pub(super) fn definitions(&self) -> u64 {
        self.definitions.load(Ordering::Relaxed)
    }

    pub(super) fn definitions_changed(&self) {
        self.definitions.fetch_add(1, Ordering::Relaxed);
        self.functions_changed();
    }

    pub(super) fn functions_changed(&self) {
        self.functions.fetch_add(1, Ordering::Relaxed);
    }

    /// One more permit: one that another worker gave away, or a new one if the process then has at most
    /// `max`.
    pub(super) fn take(self: &Arc<Permits>, worker: usize, max: u32) -> Option<Permit> {
        let permit = || Permit { permits: Arc::clone(self), worker, is_given: false };
        if take_one(&self.workers[worker].ready) {
            return Some(permit());
        }
        let one_more = |open: u32| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        self.workers[worker].held.fetch_add(1, Ordering::Relaxed);
        Some(permit())
    }

    /// No client waits on this worker any more: frees the permits that other workers gave it.
    pub(super) fn return_unused(&self, worker: usize) {
        while take_one(&self.workers[worker].ready) {
            self.free(worker);
        }
    }

    fn free(&self, worker: usize) {
        self.workers[worker].held.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::AcqRel);
        for share in &self.workers {
            if share.is_waiting.load(Ordering::Acquire) == 1 {
                share.changed.notify_one();
            }
        }
    }

    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// This worker has waiting clients and no permit: other workers that have more, or connections that they
    /// do not need, give one up.
    pub(super) fn mark_waiting(&self, worker: usize) {
        let share = &self.workers[worker];
        if share.is_waiting.load(Ordering::Relaxed) == 0 && share.is_waiting.swap(1, Ordering::AcqRel) == 0 {
            self.workers_waiting.fetch_add(1, Ordering::AcqRel);
            let others = self.workers.iter().enumerate().filter(|(other, _)| *other != worker);
            others.for_each(|(_, other)| other.changed.notify_one());
        }
    }

    /// The worker has enough, or no client waits there any more.
    pub(super) fn clear_waiting(&self, worker: usize) {
        if self.workers[worker].is_waiting.load(Ordering::Relaxed) != 0
            && self.workers[worker].is_waiting.swap(0, Ordering::AcqRel) == 1
        {
            self.workers_waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether a worker has waiting clients and no permit.
    pub(super) fn is_any_waiting(&self) -> bool {
        self.workers_waiting.load(Ordering::Relaxed) > 0
    }

    /// The worker that needs a connection of this worker more than this worker does. `is_surplus`: this
    /// worker has not needed it for a while. That no client waits for it at this instant proves nothing: one
    /// may be about to, and a connection that changes its worker is opened anew.
    pub(super) fn worker_short_of_connections(&self, worker: usize, is_surplus: bool) -> Option<usize> {
        if self.workers_waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let own = self.workers[worker].held.load(Ordering::Relaxed);
        let needs = |(other, share): (usize, &WorkerShare)| {
            let held = share.held.load(Ordering::Relaxed);
            let is_waiting = share.is_waiting.load(Ordering::Relaxed) == 1;
            let needs_more = held == 0 || held + 1 < own || is_surplus;
            (other != worker && is_waiting && needs_more).then_some((held, other))
        };
        self.workers.iter().enumerate().filter_map(needs).min().map(|(_, other)| other)
    }

    pub(super) fn notify(&self, worker: usize) {
        self.workers[worker].changed.notify_one();
    }

    /// Wakes when a permit may be free while this worker waits, and when another worker
    /// begins to wait.
    pub(super) async fn notified(&self, worker: usize) {
        self.workers[worker].changed.notified().await;
    }
}

fn take_one(counter: &AtomicU32) -> bool {
    let one_less = |count: u32| count.checked_sub(1);
    counter.load(Ordering::Relaxed) > 0
        && counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok()
}

impl Permit {
    /// It was given to another worker, which can use it once this is dropped.
    pub(super) fn is_given(&self) -> bool {
        self.is_given
    }

    /// Its connection is being closed so that `other` can have one.
    pub(super) fn give_to(&mut self, other: usize) {
        self.permits.workers[self.worker].held.fetch_sub(1, Ordering::Relaxed);
        self.permits.workers[other].held.fetch_add(1, Ordering::Relaxed);
        (self.worker, self.is_given) = (other, true);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_given {
            return self.permits.free(self.worker);
        }
        let share = &self.permits.workers[self.worker];
        share.ready.fetch_add(1, Ordering::AcqRel);
        share.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(permits: &Arc<Permits>, worker: usize, count: usize) -> Vec<Permit> {
        (0..count).map(|_| permits.take(worker, 100).unwrap()).collect()
    }

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
    fn a_worker_gives_up_as_many_as_make_both_equal_and_no_more() {
        let permits = Permits::new(2);
        let mut rich = many(&permits, 0, 9);
        let _poor = many(&permits, 1, 1);
        assert_eq!(permits.worker_short_of_connections(0, false), None, "no worker waits");
        permits.mark_waiting(1);
        let mut given = Vec::new();
        while let Some(other) = permits.worker_short_of_connections(0, false) {
            let mut permit = rich.pop().unwrap();
            permit.give_to(other);
            given.push(permit);
        }
        assert_eq!((rich.len(), given.len()), (5, 4), "although none of them is closed yet");
        assert!(permits.take(1, 10).is_none());
        drop(given);
        assert_eq!(permits.open(), 10);
        assert!(permits.take(0, 10).is_none(), "they are the other's");
        let taken: Vec<Permit> = (0..4).map(|_| permits.take(1, 10).unwrap()).collect();
        assert!(permits.take(1, 10).is_none());
        drop(taken);
        assert_eq!(permits.open(), 6);
    }

    #[test]
    fn what_a_worker_does_not_need_is_anybodys() {
        let permits = Permits::new(2);
        let (mut rich, _half) = (many(&permits, 0, 3), many(&permits, 1, 2));
        permits.mark_waiting(1);
        assert_eq!(permits.worker_short_of_connections(0, false), None, "neither has more");
        assert_eq!(permits.worker_short_of_connections(0, true), Some(1));
        let mut permit = rich.pop().unwrap();
        permit.give_to(1);
        drop(permit);
        assert!(permits.take(0, 5).is_none());
        permits.return_unused(1);
        assert!(permits.take(0, 5).is_some());
    }

    #[tokio::test]
    async fn a_worker_that_starves_hears_of_a_permit_that_is_free() {
        let permits = Permits::new(2);
        let only = permits.take(0, 1).unwrap();
        permits.mark_waiting(1);
        permits.notified(0).await;
        drop(only);
        permits.notified(1).await;
    }
}
