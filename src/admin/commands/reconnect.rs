//! RECONNECT and WAIT_CLOSE: replace server connections.
//!
//! # Why a generation in the record
//! Sessions and pools follow the record anyway, and compare the generation of their server connections with
//! it. So the whole fleet reconnects, including a process that could not be reached at that moment.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::context::{Caller, Cluster, Local};
use super::find;
use crate::admin::answer::Answer;
use crate::admin::blockers::Blockers;
use crate::admin::commands;
use crate::admin::error::AdminError;
use crate::admin::statement::Drain;
use crate::catalog::ROUTES_IN_COMMIT_MAX;
use crate::model::{DatabaseId, DatabaseName, RouteRecord};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Also works during a move: the move replaces all connections when it switches, and also when it ends
/// without a switch.
pub(in crate::admin) fn next_generation(route: &mut RouteRecord) {
    route.generation += 1;
}

pub(in crate::admin) async fn reconnect(
    cluster: &Cluster,
    caller: &Caller,
    database: Option<&DatabaseName>,
) -> Result<Answer, AdminError> {
    let catalog = cluster.recording(caller);
    let mut answer = Answer::done(commands::RECONNECT);
    for ids in find::databases(cluster, database).await?.chunks(ROUTES_IN_COMMIT_MAX) {
        let next = |route: &mut RouteRecord| {
            next_generation(route);
            Ok::<(), AdminError>(())
        };
        let routes = catalog.routes().update_all(ids, next).await?;
        answer.written_at = routes.first().map(|route| route.revision);
    }
    Ok(answer)
}

pub(in crate::admin) async fn wait_close(
    local: &Local,
    caller: &Caller,
    drain: &Drain,
) -> Result<Answer, AdminError> {
    let ids = served(local, drain.database.as_ref())?;
    let within = local.wait_bound(drain);
    let deadline = Instant::now() + within;
    for id in &ids {
        while let Some((database, blockers)) = outdated(local, id) {
            if Instant::now() >= deadline {
                return Err(AdminError::NotClosed { database, within, blockers });
            }
            tokio::select! {
                () = caller.cancel.cancelled() => return Err(AdminError::CloseCanceled),
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }
    Ok(Answer::done(commands::WAIT_CLOSE))
}

/// The named database of this process; all of them without a name.
fn served(local: &Local, name: Option<&DatabaseName>) -> Result<Vec<DatabaseId>, AdminError> {
    let routes = local.routes.routes();
    let Some(name) = name else { return Ok(routes.iter().map(|route| route.id().clone()).collect()) };
    match local.routes.lookup(name.as_str()) {
        Some(route) => Ok(vec![route.id().clone()]),
        None => {
            let known: Vec<String> = routes.iter().map(|route| route.current().name.to_string()).collect();
            Err(find::unknown_database(name, known.iter().map(String::as_str)))
        }
    }
}

/// The sessions with an older connection; None: there are none.
fn outdated(local: &Local, id: &DatabaseId) -> Option<(String, Blockers)> {
    let route = local.routes.by_id(id)?;
    let record = route.current();
    let (sessions, idle) = route.session_table().outdated(record.generation);
    let blockers = || Blockers::of_connections(&sessions, idle);
    (!sessions.is_empty() || idle > 0).then(|| (record.name.to_string(), blockers()))
}
