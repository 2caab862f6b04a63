//! KILL and KILL_CLIENT: end sessions at once.

use std::collections::HashSet;
use std::time::Duration;

use super::context::{Caller, Cluster, Local};
use super::{find, gates, reconnect};
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::AdminError;
use crate::model::DatabaseName;
use crate::route::SessionTable;

/// How long to wait for a session to end; it ends later all the same.
const END_TIME_MAX: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The order to hold is every process's; the sessions that end are this one's.
pub(in crate::admin) async fn kill(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    database: Option<&DatabaseName>,
) -> Result<Answer, AdminError> {
    let ids = find::databases(cluster, database).await?;
    // With the next generation, connections without a session are closed, too.
    let held = gates::hold_all(cluster, caller, &ids, reconnect::next_generation).await?;
    for record in &held.routes {
        let Some(route) = local.follow_order(record).await else { continue };
        let present: HashSet<u64> =
            route.session_table().sessions().iter().map(|session| session.session).collect();
        route.dismiss(None);
        ended(route.session_table(), |session| present.contains(&session)).await;
    }
    Ok(Answer::done(commands::KILL))
}

pub(in crate::admin) async fn kill_client(local: &Local, session: u64) -> Result<Answer, AdminError> {
    let routes = local.routes.routes();
    let Some(route) = routes.iter().find(|route| route.dismiss(Some(session)) > 0) else {
        return Err(AdminError::Unknown { kind: "client", name: session.to_string(), meant: None });
    };
    ended(route.session_table(), |other| other == session).await;
    Ok(Answer::done(commands::KILL_CLIENT))
}

/// Waits, within a bound, until none of these sessions is left.
async fn ended(session_table: &SessionTable, is_meant: impl Fn(u64) -> bool) {
    let all_ended = async {
        while session_table.sessions().iter().any(|session| is_meant(session.session)) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(END_TIME_MAX, all_ended).await;
}
