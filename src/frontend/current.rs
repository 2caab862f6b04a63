//! What is known of a database's roles is made current before one of them is proved.
//!
//! # Why before the first message and not after a proof that failed
//! The salt of the role's verifier is part of the first message of SCRAM, and a new password has a new salt. A proof by an
//! old salt cannot be compared with the new verifier, and a client takes no second first message. So whoever is to come in at the
//! first try after ALTER ROLE PASSWORD must be asked with what the system has now.
//!
//! # Why every login, whoever it is
//! Who asks only about roles that it does not know takes longer for them, and tells strangers which those are. So nothing here
//! depends on the role: a login to any database asks about that database, one to a database that does not exist about the first
//! one; and what is read is all roles of it.
//!
//! # Who asks no more
//! An address whose logins of a role failed a few times, or of many roles ([`ALLOWANCE`]): it goes on with what is known. How often a
//! database is read on account of all questions is bounded where they are answered.

use std::time::Duration;

use tokio::time::timeout;

use super::Frontend;
use super::access::Attempt;
use crate::auth::throttle::Allowance;
use crate::catalog::Answer;

/// Logins that asked and did not succeed, of one role from an address; ten times as many of all roles.
pub(super) const ALLOWANCE: Allowance =
    Allowance { free: 5, interval: Duration::from_secs(1), delay_max: Duration::ZERO };

/// The longest that a login waits for an answer; at most this part of the time that it has.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_SHARE: u32 = 4;

/// How asking has ended: the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// What is known is what the system had after the login began.
    Current,
    /// The database is read often enough already.
    Often,
    /// Too many logins from there have failed.
    Failures,
    /// A move is at its cutover, or the system or the store does not answer.
    Unread,
}

impl Asking {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Asking::Current => "current",
            Asking::Often => "often",
            Asking::Failures => "failures",
            Asking::Unread => "unread",
        }
    }
}

/// Returns when the logins that are known of the database are current, or will not become so in time.
///
/// # Cancel safety
/// Only waits.
pub(super) async fn make_current(frontend: &Frontend, attempt: &Attempt<'_>, database: &str) {
    let Some(asker) = attempt.access.asker() else { return };
    let routes = &frontend.routes;
    let Some(route) = routes.lookup(database).or_else(|| routes.routes().into_iter().next()) else { return };
    if !attempt.may_ask() {
        return attempt.asked(Asking::Failures);
    }
    let asking = async {
        match asker.ask(route.id()).await {
            Answer::Current(revision) => {
                routes.followed().logins(revision).await;
                Asking::Current
            }
            Answer::Often => Asking::Often,
            Answer::Unread => Asking::Unread,
        }
    };
    let bound = WAIT_MAX.min(frontend.login_time_max / WAIT_SHARE);
    attempt.asked(timeout(bound, asking).await.unwrap_or(Asking::Unread));
}
