//! Latencies of requests: every one is kept, so that the distribution over any interval is exact.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests of all clients, in the order in which they ended.
#[derive(Debug)]
pub(crate) struct Latencies {
    origin: Instant,
    samples: Mutex<Vec<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    ended_us: u64,
    took_us: u32,
}

/// Latencies of the requests in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Distribution {
    pub(crate) requests: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

impl Latencies {
    pub(super) fn new() -> Latencies {
        Latencies { origin: Instant::now(), samples: Mutex::new(Vec::new()) }
    }

    /// Records a request that began at `began` and ends now.
    pub(super) fn note(&self, began: Instant) {
        let sample = Sample {
            ended_us: u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX),
            took_us: u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX),
        };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }

    /// The distribution of all requests so far.
    pub(crate) fn all(&self) -> Distribution {
        self.between(self.origin, Instant::now())
    }

    /// The distribution of the requests that ended in the interval.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Distribution {
        let offset = |at: Instant| at.saturating_duration_since(self.origin).as_micros();
        let stretch = offset(from)..=offset(to);
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = samples.iter().filter(|sample| stretch.contains(&u128::from(sample.ended_us)));
        distribution(inside.map(|sample| sample.took_us).collect())
    }
}

fn distribution(mut took_us: Vec<u32>) -> Distribution {
    took_us.sort_unstable();
    let at = |permille: usize| {
        let index = (took_us.len() * permille / 1000).min(took_us.len().saturating_sub(1));
        Duration::from_micros(took_us.get(index).copied().unwrap_or(0).into())
    };
    Distribution { requests: took_us.len(), median: at(500), p99: at(990), longest: at(1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_a_thousand_is_not_lost_in_a_percentile() {
        let mut took: Vec<u32> = vec![100; 999];
        took.push(9_000);
        let seen = distribution(took);
        assert_eq!((seen.median, seen.p99), (Duration::from_micros(100), Duration::from_micros(100)));
        assert_eq!(seen.longest, Duration::from_micros(9_000));
        assert_eq!(distribution(Vec::new()), Distribution::default());
    }
}
