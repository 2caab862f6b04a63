//! Server connections that belong to no session: a pool lends them to sessions, for one transaction each.
//!
//! Owns the session table's entries of them. It deliberately does not own the connections: a pool does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::UnixMillis;

/// Properties of a connection when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentFacts {
    pub pid: i32,
    pub role: String,
    /// See [`RouteRecord`](crate::model::RouteRecord).
    pub generation: u64,
    pub opened_at: UnixMillis,
}

/// The current state of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentRow {
    pub number: u64,
    pub facts: LentFacts,
    /// The session that uses it; `None`: it is idle.
    pub session: Option<u64>,
}

/// An entry of the session table.
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

/// The session that uses it. A store to the connection's own memory for each use: no lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Borrower(Arc<AtomicU64>);

impl Borrower {
    /// Session numbers begin at 1, so 0 is none.
    pub(super) fn set(&self, session: Option<u64>) {
        self.0.store(session.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|session| *session != 0)
    }
}
