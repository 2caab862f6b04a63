//! PAUSE and RESUME.
//!
//! # Why through the store
//! PgBouncer pauses one process. Here the gate is a fact of the route, so that every proxy of a fleet holds, and a process
//! that starts meanwhile holds too. PAUSE returns when no transaction runs any more on this process.

use super::answer::Answer;
use super::commands;
use super::execute::{Caller, Executor};
use super::refuse::AdminError;
use crate::model::{DatabaseId, DatabaseName, GateOrder, HoldReason, RouteRecord};
use crate::route::GateState;

impl Executor {
    pub(super) async fn pause(
        &self,
        database: Option<&DatabaseName>,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let mut held = Vec::new();
        for id in self.meant(database).await? {
            let hold = |route: &mut RouteRecord| match &route.gate {
                GateOrder::Held { by: HoldReason::Pause, .. } => Ok(()),
                GateOrder::Open if route.next.is_none() => {
                    route.gate = GateOrder::Held { by: HoldReason::Pause, until: None };
                    Ok(())
                }
                _ => Err(AdminError::Held { database: route.name.to_string(), holder: "a move".to_owned() }),
            };
            held.push(self.catalog().update_route(&id, hold).await?.value);
        }
        for route in &held {
            self.drained(route, caller).await?;
        }
        Ok(Answer::done(commands::PAUSE))
    }

    /// Waits until this process follows the order and lets nobody through. The pause stays if the wait is cancelled.
    async fn drained(&self, record: &RouteRecord, caller: &Caller) -> Result<(), AdminError> {
        let Some(route) = self.parts.routes.by_id(&record.database) else { return Ok(()) };
        let mut turns = route.gate().watch(0);
        let follow = async {
            loop {
                let current = route.current();
                if current.order > record.order {
                    return;
                }
                if current.order == record.order && route.gate().state() == GateState::Held {
                    // An error: somebody resumed meanwhile. Then there is nothing to wait for.
                    let _ = route.gate().drained().await;
                    return;
                }
                turns.turned().await;
            }
        };
        tokio::select! {
            () = caller.cancel.cancelled() => Err(AdminError::WaitCanceled),
            () = follow => Ok(()),
        }
    }

    pub(super) async fn resume(&self, database: Option<&DatabaseName>) -> Result<Answer, AdminError> {
        for id in self.meant(database).await? {
            let open = |route: &mut RouteRecord| {
                if matches!(route.gate, GateOrder::Held { by: HoldReason::Pause, .. }) {
                    route.gate = GateOrder::Open;
                }
                Ok::<(), AdminError>(())
            };
            self.catalog().update_route(&id, open).await?;
        }
        Ok(Answer::done(commands::RESUME))
    }

    async fn meant(&self, database: Option<&DatabaseName>) -> Result<Vec<DatabaseId>, AdminError> {
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
