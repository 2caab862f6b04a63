//! Clients' waits for answers: counts in classes of time, from which percentiles are computed.

use std::time::Duration;

/// Classes of time: four for each doubling, so a class is at most a quarter wider than the one before.
pub const LATENCY_CLASSES: usize = 104;
/// Microseconds below which the classes are one microsecond wide.
const EXACT: u64 = 4;

/// Number of answers in each class of time. It only grows; subtract two readings ([`Latencies::since`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies([u64; LATENCY_CLASSES]);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies([0; LATENCY_CLASSES])
    }
}

impl Latencies {
    pub fn of(counts: [u64; LATENCY_CLASSES]) -> Latencies {
        Latencies(counts)
    }

    /// The class of a time in microseconds. The last one contains everything from about two minutes on.
    #[inline]
    pub fn class(micros: u64) -> usize {
        if micros < EXACT {
            return micros as usize;
        }
        let exponent = micros.ilog2();
        let quarter = (micros >> (exponent - 2)) & 3;
        let class = (u64::from(exponent) - 1) * 4 + quarter;
        (class as usize).min(LATENCY_CLASSES - 1)
    }

    /// The first microsecond beyond a class.
    fn end(class: usize) -> u64 {
        let next = class as u64 + 1;
        match next {
            0..=EXACT => next,
            _ => (4 + next % 4) << (next / 4 - 1),
        }
    }

    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    pub fn plus(&self, other: &Latencies) -> Latencies {
        Latencies(std::array::from_fn(|class| self.0[class].wrapping_add(other.0[class])))
    }

    /// The counts since `earlier` was read.
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        Latencies(std::array::from_fn(|class| self.0[class].saturating_sub(earlier.0[class])))
    }

    /// The time within which this share of the answers came (0.99: the 99th percentile), at most a quarter
    /// too long. `None`: no answers were counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let class = self.0.iter().position(|&counted| {
            seen += counted;
            seen >= rank
        })?;
        Some(Duration::from_micros(Latencies::end(class)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_one_class_and_classes_follow_each_other() {
        let mut begin = 0;
        for class in 0..LATENCY_CLASSES {
            let end = Latencies::end(class);
            assert_eq!((Latencies::class(begin), Latencies::class(end - 1)), (class, class));
            assert!(end - begin <= begin / 4 + 1, "class {class} is too wide: {begin} to {end}");
            begin = end;
        }
        assert!(begin > 120_000_000, "the last class begins after {begin} us");
        assert_eq!(Latencies::class(u64::MAX), LATENCY_CLASSES - 1);
    }

    #[test]
    fn a_percentile_is_the_end_of_the_class_that_has_it() {
        let mut counts = [0; LATENCY_CLASSES];
        counts[Latencies::class(100)] = 980;
        counts[Latencies::class(10_000)] = 20;
        let latencies = Latencies::of(counts);
        assert_eq!(latencies.quantile(0.5), Some(Duration::from_micros(112)));
        assert_eq!(latencies.quantile(0.98), Some(Duration::from_micros(112)));
        assert_eq!(latencies.quantile(0.99), Some(Duration::from_micros(10_240)));
        assert_eq!(latencies.since(&latencies).quantile(0.5), None);
        assert_eq!(latencies.plus(&latencies).since(&latencies), latencies);
    }
}
