//! Server connections that belong to no session: a pool lends them, transaction by transaction.
//!
//! Owns what the roster knows of them. It deliberately does not own them: a pool does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::UnixMillis;

/// What is known of a connection when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentFacts {
    pub pid: i32,
    pub role: String,
    /// See [`RouteRecord`](crate::model::RouteRecord).
    pub generation: u64,
    pub opened_at: UnixMillis,
}

/// One of them as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentRow {
    pub number: u64,
    pub facts: LentFacts,
    /// The session that has it; `None`: it is idle.
    pub session: Option<u64>,
}

/// An entry of the roster.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) facts: LentFacts,
    pub(super) borrower: Borrower,
}

impl Lent {
    pub(super) fn row(&self, number: u64) -> LentRow {
        LentRow { number, facts: self.facts.clone(), session: self.borrower.get() }
    }
}

/// Who has it. A store to the connection's own memory for each loan: no lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Borrower(Arc<AtomicU64>);

impl Borrower {
    /// Numbers of sessions begin at 1.
    pub(super) fn set(&self, session: Option<u64>) {
        self.0.store(session.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|session| *session != 0)
    }
}
