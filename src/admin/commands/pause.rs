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

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::admin::answer::Answer;
use crate::admin::blockers::Blockers;
use crate::admin::commands;
use crate::admin::execute::{Caller, Cluster, Executor};
use crate::admin::refuse::{AdminError, identifier};
use crate::admin::statement::Drain;
use crate::catalog::Catalog;
use crate::error::{Severity, SqlState};
use crate::model::{DatabaseId, DatabaseName, GateOrder, HoldReason, RouteRecord};
use crate::route::{GateState, Route};

/// A drain that takes longer sends a notice while it continues.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// How long to wait for this process to follow a change that it wrote itself.
pub(in crate::admin) const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Databases with held gates.
pub(in crate::admin) struct Paused {
    pub(in crate::admin) routes: Vec<RouteRecord>,
    /// Those with gates that were open before.
    ours: Vec<DatabaseId>,
}

impl Executor {
    pub(in crate::admin) async fn pause(&self, drain: &Drain, caller: &Caller) -> Result<Answer, AdminError> {
        let paused = self.hold_all(&self.meant(drain.database.as_ref()).await?, caller).await?;
        let within = self.wait_bound(drain);
        let deadline = Instant::now() + within;
        for record in &paused.routes {
            let drained = async { timeout_at(deadline, self.drained(record, caller)).await };
            let drained = tokio::select! {
                () = caller.cancel.cancelled() => return Err(canceled(drain.database.as_ref())),
                drained = drained => drained,
            };
            if drained.is_err() {
                let taken_back = !paused.ours.is_empty();
                self.release_all(&paused.ours, self.catalog()).await?;
                let (database, blockers) = (record.name.to_string(), self.blockers(record));
                return Err(AdminError::NotDrained { database, within, blockers, taken_back });
            }
        }
        Ok(Answer::done(commands::PAUSE))
    }

    /// The bound of a wait.
    pub(in crate::admin) fn wait_bound(&self, drain: &Drain) -> Duration {
        drain.within.unwrap_or(self.local.config.load().admin.wait_timeout)
    }

    /// Waits until this process follows the order and no transaction passes the gate.
    ///
    /// # Cancel safety
    /// Only observes; the pause stays.
    async fn drained(&self, record: &RouteRecord, caller: &Caller) {
        let Some(route) = self.local.routes.by_id(&record.database) else { return };
        heard(&route, record.order).await;
        if route.current().order > record.order || route.gate().state() != GateState::Held {
            return;
        }
        // An error: the database was resumed meanwhile. Then there is nothing to wait for.
        let drained = route.gate().drained();
        tokio::pin!(drained);
        if tokio::time::timeout(TOLD_AFTER, &mut drained).await.is_err() {
            let text =
                format!("database \"{}\" is being drained: {}", record.name, self.blockers(record).detail());
            caller.notice(Severity::Notice, SqlState::WARNING, text);
            let _ = drained.await;
        }
    }

    /// The sessions that keep this process from draining a database.
    fn blockers(&self, record: &RouteRecord) -> Blockers {
        let route = self.local.routes.by_id(&record.database);
        Blockers::in_transactions(route.map(|route| route.session_table().sessions()).unwrap_or_default())
    }

    /// Waits, within a bound, until this process follows what was written: a slow store does not fail the
    /// command.
    pub(in crate::admin) async fn obeyed(&self, record: &RouteRecord) -> Option<Arc<Route>> {
        let route = self.local.routes.by_id(&record.database)?;
        let _ = tokio::time::timeout(HEARD_WITHIN, heard(&route, record.order)).await;
        Some(route)
    }
}

impl Cluster {
    /// Holds all of them or none: if one cannot be held, releases those that were held by this call.
    pub(in crate::admin) async fn hold_all(
        &self,
        ids: &[DatabaseId],
        caller: &Caller,
    ) -> Result<Paused, AdminError> {
        let catalog = self.recording(caller);
        let mut paused = Paused { routes: Vec::new(), ours: Vec::new() };
        for id in ids {
            match hold(&catalog, id).await {
                Ok((route, was_open)) => {
                    paused.routes.push(route);
                    paused.ours.extend(was_open.then(|| id.clone()));
                }
                Err(error) => {
                    self.release_all(&paused.ours, self.catalog()).await?;
                    return Err(error);
                }
            }
        }
        Ok(paused)
    }

    pub(in crate::admin) async fn resume(
        &self,
        database: Option<&DatabaseName>,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        self.release_all(&self.meant(database).await?, &self.recording(caller)).await?;
        Ok(Answer::done(commands::RESUME))
    }

    async fn release_all(&self, ids: &[DatabaseId], catalog: &Catalog) -> Result<(), AdminError> {
        for id in ids {
            let open = |route: &mut RouteRecord| {
                if matches!(route.gate, GateOrder::Held { by: HoldReason::Pause, .. }) {
                    route.gate = GateOrder::Open;
                }
                Ok::<(), AdminError>(())
            };
            catalog.update_route(id, open).await?;
        }
        Ok(())
    }

    pub(in crate::admin) async fn meant(
        &self,
        database: Option<&DatabaseName>,
    ) -> Result<Vec<DatabaseId>, AdminError> {
        match database {
            Some(name) => Ok(vec![self.database(name).await?.value.id]),
            None => Ok(self
                .catalog()
                .routes()
                .await?
                .into_values()
                .into_iter()
                .map(|route| route.database)
                .collect()),
        }
    }
}

/// Holds the gate. Returns the route, and whether the gate was open before.
async fn hold(catalog: &Catalog, id: &DatabaseId) -> Result<(RouteRecord, bool), AdminError> {
    let mut was_open = false;
    let hold = |route: &mut RouteRecord| {
        was_open = route.gate == GateOrder::Open && route.next.is_none();
        match &route.gate {
            GateOrder::Held { by: HoldReason::Pause, .. } => Ok(()),
            _ if was_open => {
                route.gate = GateOrder::Held { by: HoldReason::Pause, until: None };
                Ok(())
            }
            _ => Err(AdminError::Held { database: route.name.to_string(), holder: "a move".to_owned() }),
        }
    };
    let route = catalog.update_route(id, hold).await?.value;
    Ok((route, was_open))
}

/// Waits until the route has reached this order.
async fn heard(route: &Route, order: u64) {
    let mut turns = route.gate().watch(0);
    while route.current().order < order {
        turns.turned().await;
    }
}

/// The error of a cancelled wait; the pause stays.
fn canceled(database: Option<&DatabaseName>) -> AdminError {
    let command =
        database.map_or("RESUME;".to_owned(), |name| format!("RESUME {};", identifier(name.as_str())));
    AdminError::PauseCanceled { command }
}
