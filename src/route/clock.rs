//! What a session does and since when.
//!
//! # Why
//! The session alone writes it, and says what time it is: a store to memory of its own, cheap enough for every query.
//! Whoever wants to know, a person or a limit of time, reads it without a lock and without waking anybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What a session does, for people. Whether transactions run is decided by passes, not by this.
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
    /// Waits for a server connection that is lent to others.
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

/// What a session does and since when; written by the session alone, except for one word to it.
#[derive(Debug)]
pub struct Clock {
    /// Microseconds on the machine's monotonic clock, and the [`Activity`] in the lowest byte.
    stamp: AtomicU64,
    /// When its transaction began, in the same microseconds.
    transaction: AtomicU64,
    /// An administrator wants it to end.
    pub(super) dismissed: AtomicBool,
}

/// One look at a [`Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doing {
    pub activity: Activity,
    pub since: Duration,
    /// Only while it is [`Activity::Active`] or [`Activity::InTransaction`].
    pub in_transaction_since: Duration,
    stamp: u64,
}

/// A time on the machine's monotonic clock, in microseconds, small enough to be stored at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// There is no kernel without this clock; on one, every time would be 0.
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

    /// What it did before, and for how many microseconds.
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

    /// It has done nothing else since then.
    pub fn is_still(&self, doing: Doing) -> bool {
        self.stamp.load(Ordering::Relaxed) == doing.stamp
    }
}
