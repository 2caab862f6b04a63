//! How long a client may be idle, and how long its transaction and its query may take.
//!
//! # Why
//! A timer for each query would cost every query something. So a worker looks at the clocks of its sessions now and then,
//! which are kept for people anyway, and wakes only those whose time is over. Waiting at the gate or in line is no
//! activity of the client's: no limit counts it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::{Refusal, SqlState};
use crate::route::{Activity, Clock, Doing};

/// How exact the limits are.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeLimits {
    /// Without a transaction.
    pub idle: Option<Duration>,
    /// In a transaction, between two queries.
    pub idle_in_transaction: Option<Duration>,
    pub transaction: Option<Duration>,
    pub query: Option<Duration>,
}

/// Whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Idle,
    IdleInTransaction,
    Transaction,
    Query,
}

impl TimeLimits {
    pub(super) fn any(&self) -> bool {
        *self != TimeLimits::default()
    }

    fn overdue(&self, doing: Doing) -> Option<Overdue> {
        let past = |limit: Option<Duration>, time: Duration| limit.is_some_and(|limit| time > limit);
        let is_open = matches!(doing.activity, Activity::Active | Activity::InTransaction);
        match doing.activity {
            Activity::Idle if past(self.idle, doing.since) => Some(Overdue::Idle),
            Activity::InTransaction if past(self.idle_in_transaction, doing.since) => {
                Some(Overdue::IdleInTransaction)
            }
            Activity::Active if past(self.query, doing.since) => Some(Overdue::Query),
            _ if is_open && past(self.transaction, doing.in_transaction_since) => Some(Overdue::Transaction),
            _ => None,
        }
    }
}

impl Overdue {
    pub(super) fn refusal(self) -> Refusal {
        let (sqlstate, what) = match self {
            Overdue::Idle => (SqlState::IDLE_SESSION_TIMEOUT, "idle-session timeout"),
            Overdue::IdleInTransaction => {
                (SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "idle-in-transaction timeout")
            }
            Overdue::Transaction => (SqlState::TRANSACTION_TIMEOUT, "transaction timeout"),
            Overdue::Query => (SqlState::QUERY_CANCELED, "query timeout"),
        };
        Refusal::fatal(sqlstate, format!("terminating connection due to {what}"))
            .with_hint("The limit is one of the platform's, in the section [timeouts] of its configuration.")
    }

    /// The server still works for the client.
    pub(super) fn is_working(self) -> bool {
        matches!(self, Overdue::Transaction | Overdue::Query)
    }
}

/// A session's side of it.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    clock: Arc<Clock>,
    found: Rc<Cell<Option<(Overdue, Doing)>>>,
}

impl Watch {
    pub(super) fn new(clock: &Arc<Clock>) -> Watch {
        Watch { clock: Arc::clone(clock), found: Rc::default() }
    }

    /// The worker looks. `true`: the session is to be woken.
    fn look(&self, limits: &TimeLimits) -> bool {
        let doing = self.clock.read();
        let overdue = limits.overdue(doing);
        self.found.set(overdue.map(|overdue| (overdue, doing)));
        overdue.is_some()
    }

    /// The session asks: it may have done something in the meantime.
    #[inline]
    pub(super) fn take(&self) -> Option<Overdue> {
        let (overdue, doing) = self.found.take()?;
        self.clock.is_still(doing).then_some(overdue)
    }
}

/// Looks at one session after the other.
pub(super) fn look_at<'a>(sessions: impl Iterator<Item = (&'a Waker, &'a Watch)>, limits: &TimeLimits) {
    sessions.filter(|(_, watch)| watch.look(limits)).for_each(|(waker, _)| waker.wake_by_ref());
}
