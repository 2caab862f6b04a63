//! Time limits for clients, from a contract or a role's section.
//!
//! # Why one table
//! The same five limits are set in three places, shown in two and checked by the workers. One table has their
//! names, so that no place omits one.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Without a transaction.
    Idle,
    /// In a transaction, between two queries.
    IdleInTransaction,
    Transaction,
    Query,
    /// In the queue for a server connection.
    Wait,
}

impl Timeout {
    pub const ALL: [Timeout; 5] =
        [Timeout::Idle, Timeout::IdleInTransaction, Timeout::Transaction, Timeout::Query, Timeout::Wait];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Timeout::Idle => "idle",
            Timeout::IdleInTransaction => "idle_in_transaction",
            Timeout::Transaction => "transaction",
            Timeout::Query => "query",
            Timeout::Wait => "wait",
        }
    }

    /// The clause of ALTER DATABASE.
    pub fn clause(self) -> &'static str {
        match self {
            Timeout::Idle => "IDLE_TIMEOUT",
            Timeout::IdleInTransaction => "IDLE_IN_TRANSACTION_TIMEOUT",
            Timeout::Transaction => "TRANSACTION_TIMEOUT",
            Timeout::Query => "QUERY_TIMEOUT",
            Timeout::Wait => "WAIT_TIMEOUT",
        }
    }

    pub fn of_clause(clause: &str) -> Option<Timeout> {
        Timeout::ALL.into_iter().find(|timeout| timeout.clause() == clause)
    }

    /// Checks a value; an error is the rest of a sentence that says which values are allowed. Zero is no
    /// limit; the wait for a connection must have one.
    pub fn check(self, time: Duration) -> Result<(), &'static str> {
        const DAY: Duration = Duration::from_secs(86_400);
        let waits = Duration::from_millis(10)..=DAY;
        match self {
            Timeout::Wait if !waits.contains(&time) => Err("needs a duration between 10ms and 1day"),
            _ if time > 365 * DAY => Err("needs a duration of at most 365days"),
            _ => Ok(()),
        }
    }
}

/// One value for each of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EachTimeout<T: Default> {
    pub idle: T,
    pub idle_in_transaction: T,
    pub transaction: T,
    pub query: T,
    pub wait: T,
}

/// The limits that are set. Zero: no limit.
pub type Timeouts = EachTimeout<Option<Duration>>;

/// Changes. `None` leaves a value; `Some(None)` unsets it.
pub type TimeoutsChange = EachTimeout<Option<Option<Duration>>>;

impl<T: Default> Index<Timeout> for EachTimeout<T> {
    type Output = T;

    fn index(&self, timeout: Timeout) -> &T {
        match timeout {
            Timeout::Idle => &self.idle,
            Timeout::IdleInTransaction => &self.idle_in_transaction,
            Timeout::Transaction => &self.transaction,
            Timeout::Query => &self.query,
            Timeout::Wait => &self.wait,
        }
    }
}

impl<T: Default> IndexMut<Timeout> for EachTimeout<T> {
    fn index_mut(&mut self, timeout: Timeout) -> &mut T {
        match timeout {
            Timeout::Idle => &mut self.idle,
            Timeout::IdleInTransaction => &mut self.idle_in_transaction,
            Timeout::Transaction => &mut self.transaction,
            Timeout::Query => &mut self.query,
            Timeout::Wait => &mut self.wait,
        }
    }
}

impl Timeouts {
    /// Whether any limit is set.
    pub fn any(&self) -> bool {
        *self != Timeouts::default()
    }

    /// The limits after a change.
    pub fn altered(&self, change: &TimeoutsChange) -> Timeouts {
        let mut next = *self;
        for timeout in Timeout::ALL {
            next[timeout] = change[timeout].unwrap_or(self[timeout]);
        }
        next
    }
}

/// A limit as text for people: `30s`, `none`.
pub fn timeout_text(time: Duration) -> String {
    match time.is_zero() {
        true => "none".to_owned(),
        false => humantime::format_duration(time).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_unsets_and_leaves_alone() {
        let second = Duration::from_secs(1);
        let before = Timeouts { idle: Some(second), query: Some(second), ..Timeouts::default() };
        let change = TimeoutsChange { idle: Some(None), wait: Some(Some(second)), ..Default::default() };
        let after = before.altered(&change);
        assert_eq!(after, Timeouts { query: Some(second), wait: Some(second), ..Timeouts::default() });
        assert!(after.any() && !Timeouts::default().any());
    }

    #[test]
    fn only_a_wait_must_end() {
        assert!(Timeout::ALL.into_iter().all(|timeout| timeout.check(Duration::from_secs(60)).is_ok()));
        assert!(Timeout::Query.check(Duration::ZERO).is_ok());
        assert!(Timeout::Wait.check(Duration::ZERO).is_err());
        assert!(Timeout::Idle.check(Duration::from_secs(86_400 * 366)).is_err());
    }

    #[test]
    fn what_an_older_version_wrote_sets_nothing() {
        assert_eq!(serde_json::from_str::<Timeouts>("{}").unwrap(), Timeouts::default());
    }
}
