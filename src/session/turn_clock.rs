//! The time as a worker's sessions see it: read at most once in each turn of its event loop.
//!
//! # Why
//! What a session does is timed twice for each query, and reading the clock each time would be a fiftieth of
//! a query's cost. Between two waits a worker serves all sessions that are ready, in some hundred
//! microseconds: for all of them it is the same time.

use std::cell::Cell;

use crate::route::Moment;

/// A worker that never waits reads the clock once in so many calls of `now`.
const LOOKS_MAX: u32 = 32;

/// One for each worker.
#[derive(Debug, Default)]
pub(super) struct TurnClock {
    micros: Cell<u64>,
    looks_left: Cell<u32>,
}

impl TurnClock {
    /// The current time, or a moment ago.
    #[inline]
    pub(super) fn now(&self) -> Moment {
        match self.looks_left.get() {
            0 => self.read(),
            looks => {
                self.looks_left.set(looks - 1);
                Moment::from_micros(self.micros.get())
            }
        }
    }

    #[cold]
    fn read(&self) -> Moment {
        let now = Moment::now();
        self.micros.set(now.as_micros());
        self.looks_left.set(LOOKS_MAX - 1);
        now
    }

    /// The worker has waited, so the cached time is out of date.
    pub(super) fn forget(&self) {
        self.looks_left.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_stands_still_until_the_worker_waits_or_many_have_looked() {
        let clock = TurnClock::default();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!((1..LOOKS_MAX).all(|_| clock.now() == first));
        let second = clock.now();
        assert!(second > first);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), second);
        clock.forget();
        assert!(clock.now() > second);
    }
}
