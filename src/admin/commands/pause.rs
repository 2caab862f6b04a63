//! PAUSE and RESUME.
//!
//! # Why through the store
//! PgBouncer pauses one process. Here the gate is a fact of the route, so that every proxy of a fleet holds,
//! and so does a process that starts meanwhile. PAUSE returns when no transaction runs any more on this
//! process.
//!
//! # Why a pause that does not drain is taken back
//! Behind one forgotten transaction, every client of the database would wait as long as that transaction is
//! open, without any report: an outage that was meant as a pause of milliseconds. So the wait has a bound;
//! past it all clients continue, and the error names the sessions. A database that was paused before stays
//! paused.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::context::{Caller, Cluster, Local, order_reached};
use super::{find, gates};
use crate::admin::answer::Answer;
use crate::admin::blockers::Blockers;
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier};
use crate::admin::statement::Drain;
use crate::error::{Severity, SqlState};
use crate::model::{DatabaseName, RouteRecord};
use crate::route::GateState;

/// A drain that takes longer sends a notice while it continues.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// The order to hold is every process's; the wait for transactions is this one's.
pub(in crate::admin) async fn pause(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    drain: &Drain,
) -> Result<Answer, AdminError> {
    let ids = find::databases(cluster, drain.database.as_ref()).await?;
    let held = gates::hold_all(cluster, caller, &ids, |_| ()).await?;
    let within = local.wait_bound(drain);
    let deadline = Instant::now() + within;
    for record in &held.routes {
        let drained = async { timeout_at(deadline, drained(local, caller, record)).await };
        let drained = tokio::select! {
            () = caller.cancel.cancelled() => return Err(canceled(drain.database.as_ref())),
            drained = drained => drained,
        };
        if drained.is_err() {
            let taken_back = !held.ours.is_empty();
            gates::release_all(cluster.catalog(), &held.ours).await?;
            let (database, blockers) = (record.name.to_string(), blockers(local, record));
            return Err(AdminError::NotDrained { database, within, blockers, taken_back });
        }
    }
    Ok(Answer::done(commands::PAUSE))
}

/// Waits until this process follows the order and no transaction passes the gate.
///
/// # Cancel safety
/// Only observes; the pause stays.
async fn drained(local: &Local, caller: &Caller, record: &RouteRecord) {
    let Some(route) = local.routes.by_id(&record.database) else { return };
    order_reached(&route, record.order).await;
    // Another order may be newer, and leaves the gate held.
    if route.gate().state() != GateState::Held {
        return;
    }
    // An error: the database was resumed meanwhile. Then there is nothing to wait for.
    let drained = route.gate().drained();
    tokio::pin!(drained);
    if tokio::time::timeout(NOTICE_AFTER, &mut drained).await.is_err() {
        let text =
            format!("database \"{}\" is being drained: {}", record.name, blockers(local, record).detail());
        caller.notice(Severity::Notice, SqlState::WARNING, text);
        let _ = drained.await;
    }
}

/// The sessions that keep this process from draining a database.
fn blockers(local: &Local, record: &RouteRecord) -> Blockers {
    let route = local.routes.by_id(&record.database);
    Blockers::in_transactions(route.map(|route| route.session_table().sessions()).unwrap_or_default())
}

pub(in crate::admin) async fn resume(
    cluster: &Cluster,
    caller: &Caller,
    database: Option<&DatabaseName>,
) -> Result<Answer, AdminError> {
    let ids = find::databases(cluster, database).await?;
    gates::release_all(&cluster.recording(caller), &ids).await?;
    Ok(Answer::done(commands::RESUME))
}

/// The error of a cancelled wait; the pause stays.
fn canceled(database: Option<&DatabaseName>) -> AdminError {
    let command =
        database.map_or("RESUME;".to_owned(), |name| format!("RESUME {};", identifier(name.as_str())));
    AdminError::PauseCanceled { command }
}
