//! The offer of a database to another team.
//!
//! Owns how long an offer is open and from when on its answer is overdue. It deliberately changes no owner:
//! `admin` does, when the offer is accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{TeamName, UnixMillis};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offer can be accepted.
const OPEN_FOR: Duration = DAY.saturating_mul(7);

/// How long the other team may take to answer before that is a debt.
const ANSWER_WITHIN: Duration = DAY.saturating_mul(3);

/// A transfer that one side wants: the other one has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferOffer {
    pub to: TeamName,
    pub offered_at: UnixMillis,
    /// From then on it cannot be accepted; it stays until it is cancelled or rejected.
    pub expires_at: UnixMillis,
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl TransferOffer {
    pub fn new(to: TeamName, who: String, reason: Option<String>, now: UnixMillis) -> TransferOffer {
        TransferOffer { to, offered_at: now, expires_at: now.after(OPEN_FOR), who, reason }
    }

    pub fn has_expired(&self, now: UnixMillis) -> bool {
        self.expires_at <= now
    }

    /// It is still open, and its answer should have come by now.
    pub fn waits_for_long(&self, now: UnixMillis) -> bool {
        !self.has_expired(now) && self.offered_at.after(ANSWER_WITHIN) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_open_for_seven_days_and_overdue_after_three() {
        let team = TeamName::parse("stock").unwrap();
        let offer = TransferOffer::new(team, "alice".to_owned(), None, UnixMillis(5));
        let after = |days: u32, millis: u64| UnixMillis(5 + millis).after(DAY.saturating_mul(days));
        let at = |now: UnixMillis| (offer.waits_for_long(now), offer.has_expired(now));
        assert_eq!(at(UnixMillis(after(3, 0).0 - 1)), (false, false));
        assert_eq!(at(after(3, 0)), (true, false));
        assert_eq!(at(UnixMillis(after(7, 0).0 - 1)), (true, false));
        assert_eq!(at(after(7, 0)), (false, true));
    }
}
