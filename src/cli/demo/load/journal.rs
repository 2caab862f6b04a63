//! The application's own record: the evidence for the verdict.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::latency::Latencies;

/// Written by every client, read live and at the end.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) latencies: Latencies,
    transactions: AtomicU64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Entries {
    /// Tokens of transactions with an acknowledged COMMIT.
    pub(crate) acknowledged: Vec<i64>,
    /// Tokens of transactions with an acknowledged ROLLBACK: must not be found.
    pub(crate) rolled_back: Vec<i64>,
    /// Every value that a client got from `nextval`.
    pub(crate) sequence_values: Vec<i64>,
    /// Errors of clients, with their current action.
    pub(crate) errors: Vec<String>,
    /// Transactions that found another setting than the session had set.
    pub(crate) settings_lost: Vec<String>,
    /// Notifications that were acknowledged when sent, and those received, in order.
    pub(crate) notifications_sent: Vec<u64>,
    pub(crate) notifications_received: Vec<u64>,
    /// Attempts that got the advisory lock although its holder was alive.
    pub(crate) lock_violations: u64,
    pub(crate) lock_tries: u64,
    /// The holder's result when it released the lock at the end.
    pub(crate) lock_held_to_the_end: Option<bool>,
}

impl Journal {
    pub(super) fn new() -> Journal {
        Journal {
            latencies: Latencies::new(),
            transactions: AtomicU64::new(0),
            entries: Mutex::new(Entries::default()),
        }
    }

    /// Transactions that have ended so far.
    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> usize {
        self.entries().errors.len()
    }

    pub(super) fn committed(&self, token: i64) {
        self.entries().acknowledged.push(token);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rolled_back(&self, token: i64) {
        self.entries().rolled_back.push(token);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, who: &str, error: &tokio_postgres::Error) {
        let text = match error.as_db_error() {
            Some(db) => format!("{who}: {} {}: {}", db.severity(), db.code().code(), db.message()),
            None => format!("{who}: {error}"),
        };
        self.entries().errors.push(text);
    }

    /// The entries, locked; the lock is never held across a wait.
    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Entries {
        self.entries().clone()
    }
}
