//! Waits of clients at a shut gate, and their causes.

use std::time::{Duration, Instant};

use crate::model::StallReport;

/// Waits that a report lists individually.
const REPORTED_MAX: usize = 1_000;
/// Waits that are kept; of further ones only the number and the longest are recorded.
const KEPT_MAX: usize = 65_536;

/// The waits of one hold; 4 bytes for each.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    held: u32,
    longest_us: u32,
    kept_us: Vec<u32>,
    /// Sessions that were asked for their state during the hold.
    asked: u32,
    shut_at: Option<Instant>,
    /// Time until the last running transaction had left.
    drained_in: Option<Duration>,
}

impl Stalls {
    pub(super) fn record(&mut self, waited: Duration) {
        let us = u32::try_from(waited.as_micros()).unwrap_or(u32::MAX);
        self.held = self.held.saturating_add(1);
        self.longest_us = self.longest_us.max(us);
        if self.kept_us.len() < KEPT_MAX {
            self.kept_us.push(us);
        }
    }

    pub(super) fn record_question(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }

    /// The gate is shut from now on.
    pub(super) fn shut(&mut self) {
        self.shut_at.get_or_insert_with(Instant::now);
    }

    /// The gate is drained. Only the first call counts: a refused attempt is counted inside for an instant.
    pub(super) fn drained(&mut self) {
        if let Some(shut_at) = self.shut_at {
            self.drained_in.get_or_insert_with(|| shut_at.elapsed());
        }
    }

    pub(super) fn report(&self) -> StallReport {
        let mut sorted = self.kept_us.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        sorted.truncate(REPORTED_MAX);
        StallReport {
            held: self.held,
            longest: Duration::from_micros(u64::from(self.longest_us)),
            median: Duration::from_micros(u64::from(median)),
            waits_us: sorted.into_iter().map(u64::from).collect(),
            asked: self.asked,
            drained_in: self.drained_in.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_the_longest_waits_first_and_counts_all() {
        let mut stalls = Stalls::default();
        for us in 1..=1_500 {
            stalls.record(Duration::from_micros(us));
        }
        let report = stalls.report();
        assert_eq!(report.held, 1_500);
        assert_eq!(report.longest, Duration::from_micros(1_500));
        assert_eq!(report.median, Duration::from_micros(750));
        assert_eq!(report.waits_us.len(), REPORTED_MAX);
        assert_eq!(report.waits_us.first(), Some(&1_500));
    }
}
