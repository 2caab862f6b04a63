//! PAUSE and RESUME.
//!
//! # Why through the store
//! PgBouncer pauses one process. Here the gate is a fact of the route, so that every proxy of a fleet holds, and a process
//! that starts meanwhile holds too. PAUSE returns when no transaction runs any more on this process.

use super::answer::Answer;
use super::commands;
use super::execute::{Caller, Executor};
use super::refuse::{AdminError, identifier};
use crate::model::{DatabaseId, DatabaseName, GateOrder, HoldReason, RouteRecord};
use crate::route::GateState;

impl Executor {
    pub(super) async fn pause(
        &self,
        database: Option<&DatabaseName>,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        for route in &self.hold_all(&self.meant(database).await?).await? {
            let command = database
                .map_or("RESUME;".to_owned(), |name| format!("RESUME {};", identifier(name.as_str())));
            self.drained(route, caller, command).await?;
        }
        Ok(Answer::done(commands::PAUSE))
    }

    /// All of them or none: where one cannot be held, those that were held for it are let go.
    async fn hold_all(&self, ids: &[DatabaseId]) -> Result<Vec<RouteRecord>, AdminError> {
        let (mut held, mut ours) = (Vec::new(), Vec::new());
        for id in ids {
            match self.hold(id).await {
                Ok((route, was_open)) => {
                    held.push(route);
                    ours.extend(was_open.then_some(id));
                }
                Err(error) => {
                    for id in ours {
                        self.release(id).await?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(held)
    }

    /// The route, and whether it was open before.
    async fn hold(&self, id: &DatabaseId) -> Result<(RouteRecord, bool), AdminError> {
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
        let route = self.catalog().update_route(id, hold).await?.value;
        Ok((route, was_open))
    }

    /// Waits until this process follows the order and lets nobody through. The pause stays if the wait is cancelled.
    async fn drained(
        &self,
        record: &RouteRecord,
        caller: &Caller,
        command: String,
    ) -> Result<(), AdminError> {
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
            () = caller.cancel.cancelled() => Err(AdminError::PauseCanceled { command }),
            () = follow => Ok(()),
        }
    }

    pub(super) async fn resume(&self, database: Option<&DatabaseName>) -> Result<Answer, AdminError> {
        for id in self.meant(database).await? {
            self.release(&id).await?;
        }
        Ok(Answer::done(commands::RESUME))
    }

    async fn release(&self, id: &DatabaseId) -> Result<(), AdminError> {
        let open = |route: &mut RouteRecord| {
            if matches!(route.gate, GateOrder::Held { by: HoldReason::Pause, .. }) {
                route.gate = GateOrder::Open;
            }
            Ok::<(), AdminError>(())
        };
        self.catalog().update_route(id, open).await.map(drop)
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
