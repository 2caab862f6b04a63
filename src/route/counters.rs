//! Counts of a database's traffic, for SHOW STATS.
//!
//! Owns [`Counters`], one worker's sums for one database, and [`Totals`], all workers' at an instant. It
//! deliberately reads no clock and knows no protocol: the times come from
//! [`SessionHandle::set_activity`](super::SessionHandle::set_activity), the events from the session.
//!
//! # Why
//! A query must not write memory that another thread writes, so each worker has counters of its own, on
//! separate cache lines, and a reader adds them up. Only the worker's thread writes them: a load and a store
//! replace an atomic addition, at a twentieth of its cost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use super::clock::Activity;
use crate::model::{LATENCY_CLASSES, Latencies};

/// The counts, in PgBouncer's order. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// A session got a server connection.
    ServerAssignments,
    Transactions,
    /// Requests that began while none was pending: a pipeline counts once, as in PgBouncer.
    Queries,
    /// Bytes from clients.
    Received,
    /// Bytes to clients.
    Sent,
    /// In transactions, active or idle.
    TransactionTime,
    /// From a request to the end of its answer.
    QueryTime,
    /// Waits of clients: at a shut gate, or for a server connection.
    WaitTime,
    ClientParses,
    ServerParses,
    Binds,
    Logins,
}

impl Counter {
    pub const COUNT: usize = 12;

    pub const ALL: [Counter; Counter::COUNT] = [
        Counter::ServerAssignments,
        Counter::Transactions,
        Counter::Queries,
        Counter::Received,
        Counter::Sent,
        Counter::TransactionTime,
        Counter::QueryTime,
        Counter::WaitTime,
        Counter::ClientParses,
        Counter::ServerParses,
        Counter::Binds,
        Counter::Logins,
    ];
}

/// One worker's sums for one database, since the process began.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Counter::COUNT],
    /// Number of answers in each class of time, by [`Latencies::class`].
    answers: [AtomicU64; LATENCY_CLASSES],
    /// The same of waits. Made at the first one: most requests do not wait.
    waits: OnceLock<Box<[AtomicU64; LATENCY_CLASSES]>>,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { values: Default::default(), answers: none_in_any_class(), waits: OnceLock::new() }
    }
}

fn none_in_any_class() -> [AtomicU64; LATENCY_CLASSES] {
    [const { AtomicU64::new(0) }; LATENCY_CLASSES]
}

/// Only for the worker's own thread: additions by another thread could be lost.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Counters {
    /// Only for the worker's own thread: additions by another thread could be lost.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        add(&self.values[counter as usize], amount);
    }

    /// Counts the time of the previous activity when the activity changes.
    pub(super) fn on_activity(&self, before: Activity, now: Activity, micros: u64) {
        let was_inside = before.is_inside();
        if was_inside {
            self.add(Counter::TransactionTime, micros);
        }
        match before {
            Activity::Active => {
                self.add(Counter::QueryTime, micros);
                add(&self.answers[Latencies::class(micros)], 1);
            }
            Activity::Held | Activity::Waiting => {
                self.add(Counter::WaitTime, micros);
                let waits = self.waits.get_or_init(|| Box::new(none_in_any_class()));
                add(&waits[Latencies::class(micros)], 1);
            }
            Activity::Idle | Activity::InTransaction | Activity::Switching => {}
        }
        if now == Activity::Active && before != Activity::Active {
            self.add(Counter::Queries, 1);
            self.add(Counter::Transactions, u64::from(!was_inside));
        }
    }
}

/// The counters of one database, one for each worker.
#[derive(Debug)]
pub(super) struct CounterSet {
    workers: Vec<Arc<CachePadded<Counters>>>,
}

impl CounterSet {
    pub(super) fn new(workers: usize) -> CounterSet {
        CounterSet { workers: (0..workers.max(1)).map(|_| Arc::default()).collect() }
    }

    pub(super) fn of(&self, worker: usize) -> Arc<CachePadded<Counters>> {
        Arc::clone(&self.workers[worker % self.workers.len()])
    }

    pub(super) fn latencies(&self) -> Latencies {
        let of_worker = |worker: &Counters| {
            Latencies::of(std::array::from_fn(|class| worker.answers[class].load(Ordering::Relaxed)))
        };
        self.workers.iter().fold(Latencies::default(), |sum, worker| sum.plus(&of_worker(worker)))
    }

    /// Waits by class of time, where there were any.
    pub(super) fn waits(&self) -> BTreeMap<u8, u64> {
        let mut sums = BTreeMap::new();
        for waits in self.workers.iter().filter_map(|worker| worker.waits.get()) {
            for (class, count) in (0..).zip(waits.iter()) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    *sums.entry(class).or_default() += count;
                }
            }
        }
        sums
    }

    pub(super) fn totals(&self) -> Totals {
        self.workers.iter().fold(Totals::default(), |sum, worker| sum.plus(&Totals::from(&***worker)))
    }
}

/// The sums of all workers at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals([u64; Counter::COUNT]);

impl From<&Counters> for Totals {
    fn from(counters: &Counters) -> Totals {
        Totals(counters.values.each_ref().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

impl Totals {
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// In the order of [`Counter::ALL`].
    pub fn values(&self) -> [u64; Counter::COUNT] {
        self.0
    }

    pub fn plus(mut self, other: &Totals) -> Totals {
        self.0.iter_mut().zip(other.0).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
        self
    }

    /// The counts since `earlier`.
    pub fn since(mut self, earlier: &Totals) -> Totals {
        self.0.iter_mut().zip(earlier.0).for_each(|(sum, value)| *sum = sum.saturating_sub(value));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_and_counts_follow_what_a_session_does() {
        let ledger = CounterSet::new(2);
        let counters = ledger.of(1);
        for (before, now, micros) in [
            (Activity::Idle, Activity::Held, 1_000),
            (Activity::Held, Activity::Active, 20),
            (Activity::Active, Activity::InTransaction, 3),
            (Activity::InTransaction, Activity::Active, 500),
            (Activity::Active, Activity::Idle, 4),
            (Activity::Idle, Activity::Active, 9_000),
            (Activity::Active, Activity::Idle, 5),
        ] {
            counters.on_activity(before, now, micros);
        }
        let totals = ledger.totals();
        assert_eq!((totals.of(Counter::Transactions), totals.of(Counter::Queries)), (2, 3));
        assert_eq!(totals.of(Counter::WaitTime), 20);
        let class = u8::try_from(Latencies::class(20)).unwrap();
        assert_eq!(ledger.waits(), BTreeMap::from([(class, 1)]));
        assert_eq!(totals.of(Counter::QueryTime), 3 + 4 + 5);
        assert_eq!(totals.of(Counter::TransactionTime), 3 + 500 + 4 + 5);
        let latencies = ledger.latencies();
        assert_eq!((latencies.count(), latencies.quantile(1.0)), (3, Some(Duration::from_micros(6))));
    }

    #[test]
    fn totals_are_the_sum_of_all_workers() {
        let ledger = CounterSet::new(2);
        ledger.of(0).add(Counter::Received, 7);
        ledger.of(1).add(Counter::Received, 8);
        let earlier = ledger.totals();
        assert_eq!(earlier.of(Counter::Received), 15);
        ledger.of(2).add(Counter::Received, 5);
        assert_eq!(
            ledger.totals().since(&earlier).of(Counter::Received),
            5,
            "an unknown worker is one of them"
        );
        assert_eq!(earlier.plus(&earlier).of(Counter::Received), 30);
    }

    #[test]
    fn every_figure_has_its_place() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }
}
