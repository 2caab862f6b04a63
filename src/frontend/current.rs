//! Brings what is known of a database's roles up to date before a client proves one of them.
//!
//! # Why before the first message and not after a proof that failed
//! The first SCRAM message holds the salt of the role's verifier, and a new password has a new salt. A proof
//! with an old salt cannot be checked against the new verifier, and a client accepts no second first message.
//! So for a login to succeed at the first attempt after ALTER ROLE PASSWORD, the salt must be the one that
//! the system has now.
//!
//! # Why every login, for every role
//! If only logins of unknown roles asked, they would take longer, and reveal which roles are unknown. So
//! nothing here depends on the role: a login to a database asks about that database, one to an unknown
//! database asks about the first one; and each answer covers all roles of the database.
//!
//! # When a login does not ask
//! After a few failed logins of one role from its address, or more of many roles, a login uses what is known
//! ([`BUDGET`](super::access::BUDGET)). The code that answers the requests limits how often a database is
//! read.

use std::time::Duration;

use tokio::time::timeout;

use super::Frontend;
use super::access::{Attempt, RefreshOutcome};
use crate::catalog::LoginRefreshOutcome;

/// The longest wait for an answer; also at most this fraction of the login's time limit.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_SHARE: u32 = 4;

/// Returns when the logins of the database are up to date, or when the time for that has passed.
///
/// # Cancel safety
/// Dropping the future only stops the wait.
pub(super) async fn make_current(frontend: &Frontend, attempt: &Attempt<'_>, database: &str) {
    let Some(login_refresh) = attempt.access.login_refresh() else { return };
    let routes = &frontend.routes;
    let Some(route) = routes.lookup(database).or_else(|| routes.routes().into_iter().next()) else { return };
    if !attempt.may_ask() {
        return attempt.asked(RefreshOutcome::Failures);
    }
    let asking = async {
        match login_refresh.refresh(route.id()).await {
            LoginRefreshOutcome::Current(revision) => {
                routes.followed().logins(revision).await;
                RefreshOutcome::Current
            }
            LoginRefreshOutcome::Often => RefreshOutcome::Often,
            LoginRefreshOutcome::Unread => RefreshOutcome::Unread,
        }
    };
    let bound = WAIT_MAX.min(frontend.login_time_max / WAIT_SHARE);
    attempt.asked(timeout(bound, asking).await.unwrap_or(RefreshOutcome::Unread));
}
