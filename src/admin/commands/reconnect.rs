//! RECONNECT and WAIT_CLOSE: replace server connections.
//!
//! # Why a generation in the record
//! Sessions and pools follow the record anyway, and compare the generation of their server connections with
//! it. So the whole fleet reconnects, including a process that could not be reached at that moment.

use std::time::Duration;

use crate::admin::answer::Answer;
use crate::admin::blockers::Blockers;
use crate::admin::commands;
use crate::admin::execute::{Caller, Cluster, Executor};
use crate::admin::refuse::AdminError;
use crate::admin::statement::Drain;
use crate::catalog::Catalog;
use crate::model::{DatabaseId, DatabaseName, RouteRecord};

const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Cluster {
    /// Also works during a move: the move replaces all connections when it switches, and also when it ends
    /// without a switch.
    pub(in crate::admin) async fn next_generation(
        &self,
        catalog: &Catalog,
        id: &DatabaseId,
    ) -> Result<RouteRecord, AdminError> {
        let next = |route: &mut RouteRecord| {
            route.generation += 1;
            Ok::<(), AdminError>(())
        };
        Ok(catalog.update_route(id, next).await?.value)
    }
}

impl Executor {
    pub(in crate::admin) async fn reconnect(
        &self,
        database: Option<&DatabaseName>,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let catalog = self.recording(caller);
        let ids = self.meant(database).await?;
        let mut records = Vec::with_capacity(ids.len());
        for id in &ids {
            records.push(self.next_generation(&catalog, id).await?);
        }
        for record in &records {
            self.obeyed(record).await;
        }
        Ok(Answer::done(commands::RECONNECT))
    }

    pub(in crate::admin) async fn wait_close(
        &self,
        drain: &Drain,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let ids = self.meant(drain.database.as_ref()).await?;
        let within = self.wait_bound(drain);
        let deadline = tokio::time::Instant::now() + within;
        for id in &ids {
            while let Some((database, blockers)) = self.outdated(id) {
                if tokio::time::Instant::now() >= deadline {
                    return Err(AdminError::NotClosed { database, within, blockers });
                }
                tokio::select! {
                    () = caller.cancel.cancelled() => return Err(AdminError::CloseCanceled),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        }
        Ok(Answer::done(commands::WAIT_CLOSE))
    }

    /// The sessions with an older connection; None: there are none.
    fn outdated(&self, id: &DatabaseId) -> Option<(String, Blockers)> {
        let route = self.local.routes.by_id(id)?;
        let record = route.current();
        let (sessions, idle) = route.session_table().outdated(record.generation);
        let blockers = || Blockers::of_connections(&sessions, idle);
        (!sessions.is_empty() || idle > 0).then(|| (record.name.to_string(), blockers()))
    }
}
