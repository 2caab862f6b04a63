//! What is promised of a database's availability, and what was measured of it.

use std::time::Duration;

use super::{Measured, Tier};

/// The objective and the measurements that it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceLevel {
    /// `None`: nothing is promised.
    pub objective: Option<f64>,
    /// The longest time of a client's wait in a move of these days.
    pub move_pause: Option<Duration>,
    /// The last [`ServiceLevel::DAYS`] days, and today.
    pub days: Measured,
    /// The last six hours, and the part of the hour before that was not over then.
    pub six_hours: Measured,
    pub hour: Measured,
}

impl ServiceLevel {
    pub const DAYS: u64 = 30;

    pub fn of(tier: Tier, [days, six_hours, hour]: [Measured; 3], move_pause: Option<Duration>) -> Self {
        ServiceLevel { objective: tier.availability_objective(), move_pause, days, six_hours, hour }
    }

    /// How fast the error budget was used up: 1.0 leaves nothing of it after [`ServiceLevel::DAYS`] days.
    /// `None`: nothing is promised.
    pub fn burn_rate(&self, measured: &Measured) -> Option<f64> {
        let budget = 1.0 - self.objective?;
        let failed = 1.0 - measured.availability().unwrap_or(1.0);
        Some(failed / budget)
    }

    /// The share of the error budget that is left, negative once it is used up. `None`: nothing is promised.
    pub fn budget_left(&self) -> Option<f64> {
        self.burn_rate(&self.days).map(|used| 1.0 - used)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Blame;

    fn measured(requests: u64, failed: u64) -> Measured {
        let errors = BTreeMap::from([("57".to_owned(), BTreeMap::from([(Blame::Server, failed)]))]);
        Measured { requests, errors, ..Measured::default() }
    }

    #[test]
    fn a_budget_is_used_up_by_failed_requests() {
        let spans = || [measured(100_000, 50), measured(1_000, 6), measured(100, 0)];
        let level = ServiceLevel::of(Tier::Standard, spans(), None);
        let rounded = |value: Option<f64>| value.map(|value| (value * 1_000.0).round() / 1_000.0);
        assert_eq!(rounded(level.budget_left()), Some(0.5));
        assert_eq!(rounded(level.burn_rate(&level.six_hours)), Some(6.0));
        assert_eq!(rounded(level.burn_rate(&level.hour)), Some(0.0));
        let critical = ServiceLevel::of(Tier::Critical, spans(), None);
        assert_eq!(rounded(critical.budget_left()), Some(0.0));
        let dev = ServiceLevel::of(Tier::Dev, spans(), None);
        assert_eq!((dev.budget_left(), dev.burn_rate(&dev.hour)), (None, None));
    }

    #[test]
    fn a_database_that_was_not_asked_has_its_whole_budget() {
        let level = ServiceLevel::of(Tier::Critical, Default::default(), None);
        assert_eq!(level.budget_left(), Some(1.0));
    }
}
