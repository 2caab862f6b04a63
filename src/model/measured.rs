//! What proxies measured for a database in a span of time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LATENCY_CLASSES, Latencies, UnixMillis};
use crate::error::Blame;

/// Errors by class of SQLSTATE and responsible side.
pub type ErrorCounts = BTreeMap<String, BTreeMap<Blame, u64>>;

/// Counts; those of spans that follow each other can be added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Queries (a pipeline counts once) and logins.
    #[serde(default)]
    pub requests: u64,
    /// Errors that clients were told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: ErrorCounts,
    /// Waits of requests in a proxy, by class of time; see [`Latencies::class`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waits: BTreeMap<u8, u64>,
    /// Minutes in which a client was told an error for which the platform is responsible.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_minutes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Measured {
    pub fn is_empty(&self) -> bool {
        *self == Measured::default()
    }

    /// Errors for which the platform is responsible: these use the error budget up.
    pub fn failed(&self) -> u64 {
        let sides = self.errors.values().flatten();
        sides.filter(|(side, _)| side.is_of_platform()).map(|(_, count)| count).sum()
    }

    /// What the share of failed requests is of: an error may be told without a request, as to a client whose
    /// session ends.
    fn asked(&self) -> u64 {
        self.requests.max(self.failed())
    }

    /// The share of the requests for which the platform did what it has to; `None`: there was none.
    pub fn availability(&self) -> Option<f64> {
        let asked = self.asked();
        (asked > 0).then(|| 1.0 - self.failed() as f64 / asked as f64)
    }

    /// The time within which this share of the requests had passed the proxy, at most a quarter too long.
    /// Most of them do not wait. `None`: there was no request.
    pub fn added_latency(&self, share: f64) -> Option<Duration> {
        let waited: u64 = self.waits.values().sum();
        let requests = self.requests.max(waited);
        if requests == 0 {
            return None;
        }
        let behind = requests as f64 * (1.0 - share);
        if (waited as f64) <= behind {
            return Some(Duration::ZERO);
        }
        let mut classes = [0; LATENCY_CLASSES];
        for (class, count) in &self.waits {
            classes[usize::from(*class).min(LATENCY_CLASSES - 1)] += count;
        }
        Latencies::of(classes).quantile(1.0 - behind / waited as f64)
    }

    pub fn add(&mut self, other: &Measured) {
        self.requests += other.requests;
        self.failed_minutes += other.failed_minutes;
        for (class, sides) in &other.errors {
            for (side, count) in sides {
                *self.errors.entry(class.clone()).or_default().entry(*side).or_default() += count;
            }
        }
        for (class, count) in &other.waits {
            *self.waits.entry(*class).or_default() += count;
        }
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Measured) -> Measured {
        let mut rest = Measured {
            requests: self.requests.saturating_sub(earlier.requests),
            failed_minutes: self.failed_minutes.saturating_sub(earlier.failed_minutes),
            ..Measured::default()
        };
        for (class, sides) in &self.errors {
            let before = earlier.errors.get(class);
            for (side, count) in sides {
                let before = before.and_then(|before| before.get(side)).copied().unwrap_or_default();
                if *count > before {
                    rest.errors.entry(class.clone()).or_default().insert(*side, count - before);
                }
            }
        }
        for (class, count) in &self.waits {
            let before = earlier.waits.get(class).copied().unwrap_or_default();
            if *count > before {
                rest.waits.insert(*class, count - before);
            }
        }
        rest
    }
}

/// The width of the spans in which measurements are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Minute,
    Hour,
    Day,
}

impl Span {
    pub const ALL: [Span; 3] = [Span::Minute, Span::Hour, Span::Day];

    pub fn as_str(self) -> &'static str {
        match self {
            Span::Minute => "minute",
            Span::Hour => "hour",
            Span::Day => "day",
        }
    }

    pub fn millis(self) -> u64 {
        match self {
            Span::Minute => 60_000,
            Span::Hour => 3_600_000,
            Span::Day => 86_400_000,
        }
    }

    /// The number of the span that contains an instant, since 1970.
    pub fn number(self, at: UnixMillis) -> u64 {
        at.0 / self.millis()
    }

    /// How many spans are kept: a longer time is asked for in wider ones.
    pub fn kept(self) -> u64 {
        match self {
            Span::Minute => 90,
            Span::Hour => 48,
            Span::Day => 35,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(requests: u64, class: &str, side: Blame, errors: u64) -> Measured {
        let errors = BTreeMap::from([(class.to_owned(), BTreeMap::from([(side, errors)]))]);
        Measured { requests, errors, ..Measured::default() }
    }

    #[test]
    fn the_platforms_errors_make_a_database_unavailable_and_the_clients_do_not() {
        assert_eq!(measured(1_000, "42", Blame::Client, 500).availability(), Some(1.0));
        assert_eq!(measured(1_000, "53", Blame::Product, 500).availability(), Some(1.0));
        assert_eq!(measured(1_000, "57", Blame::Server, 5).availability(), Some(0.995));
        assert_eq!(measured(0, "57", Blame::Server, 5).availability(), Some(0.0));
        assert_eq!(Measured::default().availability(), None);
    }

    #[test]
    fn what_is_added_can_be_taken_away() {
        let mut sum = measured(10, "57", Blame::Server, 1);
        sum.waits.insert(40, 2);
        let earlier = sum.clone();
        let mut more = measured(5, "57", Blame::Client, 3);
        more.waits.insert(41, 1);
        more.failed_minutes = 1;
        sum.add(&more);
        assert_eq!(sum.since(&earlier), more);
        assert!(sum.since(&sum).is_empty());
    }

    #[test]
    fn most_requests_do_not_wait() {
        let mut measured = Measured { requests: 1_000, ..Measured::default() };
        let class = |micros| u8::try_from(Latencies::class(micros)).unwrap();
        measured.waits.insert(class(5_000), 9);
        assert_eq!(measured.added_latency(0.99), Some(Duration::ZERO));
        measured.waits.insert(class(500_000), 2);
        assert_eq!(measured.added_latency(0.5), Some(Duration::ZERO));
        let p99 = measured.added_latency(0.99).unwrap();
        assert!((Duration::from_micros(5_000)..Duration::from_micros(6_500)).contains(&p99), "{p99:?}");
        let p999 = measured.added_latency(0.999).unwrap();
        assert!(p999 >= Duration::from_micros(500_000), "{p999:?}");
        assert_eq!(Measured::default().added_latency(0.99), None);
    }

    #[test]
    fn an_empty_record_of_a_later_version_is_read() {
        assert_eq!(serde_json::from_str::<Measured>(r#"{"other":1}"#).unwrap(), Measured::default());
        assert_eq!(serde_json::to_string(&Measured::default()).unwrap(), r#"{"requests":0}"#);
    }
}
