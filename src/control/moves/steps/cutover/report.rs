//! Measures a pause: its parts by the mover's clock, its stalls by the proxies'.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{PauseReport, StallReport};

use crate::control::moves::parts::orders::OrderProgress;

/// Stalls that a report lists individually.
const WAITS_MAX: usize = 1_000;

#[derive(Debug)]
pub(in crate::control) struct Stopwatch {
    began: Instant,
    last: Instant,
    hold: Duration,
    parts_us: Vec<(String, u64)>,
}

impl Stopwatch {
    pub(in crate::control) fn start() -> Stopwatch {
        let now = Instant::now();
        Stopwatch { began: now, last: now, hold: Duration::ZERO, parts_us: Vec::new() }
    }

    pub(in crate::control) fn hold_begins(&mut self) {
        self.began = Instant::now();
        self.last = self.began;
    }

    /// Ends a part: the time since the part before.
    pub(in crate::control) fn part(&mut self, name: &str) {
        let now = Instant::now();
        self.parts_us.push((name.to_owned(), micros(now - self.last)));
        self.last = now;
    }

    pub(in crate::control) fn hold_ends(&mut self) {
        self.hold = self.began.elapsed();
    }

    pub(in crate::control) fn report(self, standing: &OrderProgress, aborted_attempts: u32) -> PauseReport {
        let stalls = merge(&standing.stalls);
        PauseReport {
            hold: self.hold,
            longest_stall: stalls.longest,
            median_stall: stalls.median,
            held_requests: stalls.held,
            waits_us: stalls.waits_us,
            parts_us: self.parts_us,
            aborted_attempts,
            sessions: standing.sessions,
            asked: stalls.asked,
            transactions: stalls.drained_in,
        }
    }
}

/// Merges the reports of several proxies. The median is that of the listed waits; if there are more waits
/// than listed, it is the greatest of the proxies' own medians, which is rather too long than too short.
fn merge(stalls: &[StallReport]) -> StallReport {
    let mut waits_us: Vec<u64> = stalls.iter().flat_map(|stall| stall.waits_us.iter().copied()).collect();
    waits_us.sort_unstable_by(|a, b| b.cmp(a));
    let held = stalls.iter().map(|stall| stall.held).sum();
    let longest = stalls.iter().map(|stall| stall.longest).max().unwrap_or_default();
    let all_told = usize::try_from(held).is_ok_and(|held| held == waits_us.len());
    let median = match waits_us.get(waits_us.len() / 2) {
        Some(&median) if all_told => Duration::from_micros(median),
        _ => stalls.iter().map(|stall| stall.median).max().unwrap_or_default(),
    };
    waits_us.truncate(WAITS_MAX);
    let asked = stalls.iter().map(|stall| stall.asked).sum();
    let drained_in = stalls.iter().map(|stall| stall.drained_in).max().unwrap_or_default();
    StallReport { held, longest, median, waits_us, asked, drained_in }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stall(waits_us: &[u64]) -> StallReport {
        let longest = waits_us.iter().copied().max().unwrap_or(0);
        StallReport {
            held: u32::try_from(waits_us.len()).unwrap(),
            longest: Duration::from_micros(longest),
            median: Duration::from_micros(longest),
            waits_us: waits_us.to_vec(),
            asked: 2,
            drained_in: Duration::from_micros(longest / 2),
        }
    }

    #[test]
    fn the_stalls_of_several_proxies_become_one_distribution() {
        let merged = merge(&[stall(&[900, 100]), stall(&[500])]);
        assert_eq!(merged.waits_us, [900, 500, 100]);
        assert_eq!((merged.held, merged.longest), (3, Duration::from_micros(900)));
        assert_eq!(merged.median, Duration::from_micros(500));
        assert_eq!((merged.asked, merged.drained_in), (4, Duration::from_micros(450)));
        assert_eq!(merge(&[]), StallReport::default());
    }
}
