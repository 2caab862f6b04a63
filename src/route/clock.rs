//! The activity of a session, and since when.
//!
//! # Why
//! Only the session writes it, with the time: one store to its own memory, cheap enough for every query.
//! Readers (SHOW SESSIONS, time limits) need no lock and wake no task.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The activity of a session, for display. Passes decide whether transactions run, not this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    Idle = 0,
    Active = 1,
    InTransaction = 2,
    /// Waits at the gate.
    Held = 3,
    /// Changes its server connection.
    Switching = 4,
    /// Waits for a pooled server connection.
    Waiting = 5,
}

impl Activity {
    pub fn as_str(self) -> &'static str {
        match self {
            Activity::Idle => "idle",
            Activity::Active => "active",
            Activity::InTransaction => "idle in transaction",
            Activity::Held => "held",
            Activity::Switching => "switching",
            Activity::Waiting => "waiting",
        }
    }

    /// Within a transaction.
    pub fn is_inside(self) -> bool {
        matches!(self, Activity::Active | Activity::InTransaction)
    }

    fn of(number: u64) -> Activity {
        match number {
            0 => Activity::Idle,
            1 => Activity::Active,
            2 => Activity::InTransaction,
            3 => Activity::Held,
            4 => Activity::Switching,
            _ => Activity::Waiting,
        }
    }
}

/// The activity of a session and since when; written only by the session, except for `dismissed`.
#[derive(Debug)]
pub struct Clock {
    /// Microseconds of the monotonic clock, and the [`Activity`] in the lowest byte.
    stamp: AtomicU64,
    /// Start of its transaction, in the same microseconds.
    transaction: AtomicU64,
    /// An administrator has ended the session.
    pub(super) dismissed: AtomicBool,
}

/// A reading of a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doing {
    pub activity: Activity,
    pub since: Duration,
    /// Only while it is [`Activity::Active`] or [`Activity::InTransaction`].
    pub in_transaction_since: Duration,
    stamp: u64,
}

/// A time on the monotonic clock, in microseconds, small enough for an atomic store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Every kernel has this clock; without it, every time would be 0.
    pub fn now() -> Moment {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        Moment(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn from_micros(micros: u64) -> Moment {
        Moment(micros)
    }

    pub fn as_micros(self) -> u64 {
        self.0
    }

    /// Whether `time` or more has passed since then.
    #[inline]
    pub fn is_over(self, time: Duration, now: Moment) -> bool {
        let micros = time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()));
        now.0.saturating_sub(self.0) >= micros
    }
}

impl Clock {
    pub(super) fn new() -> Clock {
        let (stamp, transaction) = (AtomicU64::new(0), AtomicU64::new(0));
        let clock = Clock { stamp, transaction, dismissed: AtomicBool::new(false) };
        clock.set(Activity::Idle, Moment::now());
        clock
    }

    /// Sets the activity; returns the previous one, and for how many microseconds it lasted.
    pub(super) fn set(&self, activity: Activity, Moment(now): Moment) -> (Activity, u64) {
        let stamp = self.stamp.load(Ordering::Relaxed);
        let before = Activity::of(stamp & 0xFF);
        if activity.is_inside() && !before.is_inside() {
            self.transaction.store(now, Ordering::Relaxed);
        }
        self.stamp.store(now << 8 | activity as u64, Ordering::Relaxed);
        (before, now.saturating_sub(stamp >> 8))
    }

    pub fn read(&self) -> Doing {
        let stamp = self.stamp.load(Ordering::Relaxed);
        let Moment(now) = Moment::now();
        let ago = |then: u64| Duration::from_micros(now.saturating_sub(then));
        Doing {
            activity: Activity::of(stamp & 0xFF),
            since: ago(stamp >> 8),
            in_transaction_since: ago(self.transaction.load(Ordering::Relaxed)),
            stamp,
        }
    }

    /// Whether the session has done nothing else since the reading.
    pub fn is_still(&self, doing: Doing) -> bool {
        self.stamp.load(Ordering::Relaxed) == doing.stamp
    }
}
