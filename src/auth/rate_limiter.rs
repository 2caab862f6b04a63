//! Limits how many logins begin in a second: each is told how long to wait.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Starts at even intervals. A login that would wait for too long takes none.
#[derive(Debug)]
pub struct RateLimiter {
    /// When the next login may start.
    next: Mutex<Instant>,
}

impl RateLimiter {
    pub fn new(now: Instant) -> RateLimiter {
        RateLimiter { next: Mutex::new(now) }
    }

    /// How long to wait at `per_second` logins (0: no limit). `None`: longer than `wait_max`.
    pub fn turn(&self, per_second: u32, wait_max: Duration, now: Instant) -> Option<Duration> {
        let Some(distance) = Duration::from_secs(1).checked_div(per_second) else {
            return Some(Duration::ZERO);
        };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        let wait = turn.saturating_duration_since(now);
        if wait > wait_max {
            return None;
        }
        *next = turn + distance;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_at_even_distances_and_none_is_too_far_away() {
        let now = Instant::now();
        let pace = RateLimiter::new(now);
        let ms = Duration::from_millis;
        let waits: Vec<_> = (0..6).map(|_| pace.turn(10, ms(350), now)).collect();
        let expected = [Some(ms(0)), Some(ms(100)), Some(ms(200)), Some(ms(300)), None, None];
        assert_eq!(waits, expected);
        assert_eq!(pace.turn(10, ms(350), now + ms(400)), Some(ms(0)), "time that was not used is not saved");
        assert_eq!(pace.turn(10, ms(350), now + ms(400)), Some(ms(100)));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let now = Instant::now();
        let pace = RateLimiter::new(now);
        assert!((0..1000).all(|_| pace.turn(0, Duration::ZERO, now) == Some(Duration::ZERO)));
    }
}
