//! Averages of the relayed traffic, over PgBouncer's window.
//!
//! # Why two samples
//! A sample is taken every `admin.stats_period`, and an average covers the time since the last sample but
//! one. So it never covers less than a period, except during the first one, when it covers the life of the
//! process. PgBouncer does the same, and its dashboards expect that.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::DatabaseId;
use crate::route::{Counter, RouteTable, Totals};

/// The samples of this process.
#[derive(Debug)]
pub(in crate::admin) struct Samples {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    older: Sample,
    newer: Sample,
}

#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    /// A database without an entry had no traffic yet.
    totals: HashMap<DatabaseId, Totals>,
}

impl Samples {
    pub(in crate::admin) fn begin(now: Instant) -> Samples {
        let nothing = Sample { at: now, totals: HashMap::new() };
        Samples { kept: Mutex::new(Kept { older: nothing.clone(), newer: nothing }) }
    }

    /// Takes a sample at the end of a period.
    pub(in crate::admin) fn take(&self, routes: &RouteTable, now: Instant) {
        let routes = routes.routes();
        let totals =
            routes.iter().map(|route| (route.id().clone(), route.session_table().totals())).collect();
        let mut kept = self.kept();
        kept.older = std::mem::replace(&mut kept.newer, Sample { at: now, totals });
    }

    /// The traffic since the last sample but one, and the time that it covers.
    pub(in crate::admin) fn since(&self, database: &DatabaseId, totals: &Totals, now: Instant) -> Recent {
        let older = &self.kept().older;
        let earlier = older.totals.get(database).copied().unwrap_or_default();
        Recent { added: totals.since(&earlier), window: now.saturating_duration_since(older.at) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The traffic within a window.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Recent {
    pub(in crate::admin) added: Totals,
    pub(in crate::admin) window: Duration,
}

impl Recent {
    /// Times per query, transaction or assignment; everything else per second.
    pub(in crate::admin) fn average(&self, figure: Counter) -> u64 {
        let each = |count: Counter| self.added.of(figure).checked_div(self.added.of(count)).unwrap_or(0);
        match figure {
            Counter::TransactionTime => each(Counter::Transactions),
            Counter::QueryTime => each(Counter::Queries),
            Counter::WaitTime => each(Counter::ServerAssignments),
            _ => {
                let micros = self.window.as_micros();
                let scaled = u128::from(self.added.of(figure)) * 1_000_000;
                scaled.checked_div(micros).and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::counters::Counters;

    fn totals(amounts: &[(Counter, u64)]) -> Totals {
        let counters = Counters::default();
        amounts.iter().for_each(|(figure, amount)| counters.add(*figure, *amount));
        Totals::from(&counters)
    }

    #[test]
    fn an_average_is_for_a_second_or_for_one() {
        let added = totals(&[
            (Counter::Queries, 40),
            (Counter::QueryTime, 2_000),
            (Counter::Transactions, 20),
            (Counter::TransactionTime, 3_000),
            (Counter::WaitTime, 9),
        ]);
        let recent = Recent { added, window: Duration::from_secs(4) };
        assert_eq!(recent.average(Counter::Queries), 10);
        assert_eq!(recent.average(Counter::QueryTime), 50);
        assert_eq!(recent.average(Counter::TransactionTime), 150);
        assert_eq!(recent.average(Counter::WaitTime), 0, "no session got a server");
        let instant = Recent { window: Duration::ZERO, ..recent };
        assert_eq!(instant.average(Counter::Queries), 0);
    }

    #[test]
    fn an_average_reaches_back_to_the_last_sample_but_one() {
        let start = Instant::now();
        let (routes, database) = (RouteTable::new(1), DatabaseId::parse("db_1").unwrap());
        let samples = Samples::begin(start);
        let now = |seconds| start + Duration::from_secs(seconds);
        let recent = |at| samples.since(&database, &totals(&[(Counter::Queries, 600)]), at);
        assert_eq!(recent(now(30)).average(Counter::Queries), 20, "in the first period: since the beginning");
        samples.take(&routes, now(60));
        assert_eq!(recent(now(90)).window, Duration::from_secs(90));
        samples.take(&routes, now(120));
        assert_eq!(recent(now(150)).window, Duration::from_secs(90));
    }
}
