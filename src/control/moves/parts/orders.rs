//! Orders to the proxies: the route of one database as the mover writes it, and the answers.
//!
//! An order is a change of the [`RouteRecord`] by compare-and-swap; its answers are the proxies'
//! [`Ack`](crate::model::Ack)s.
//! The mover and the proxies communicate in no other way. An order waits for the proxies that are listed: one
//! whose lease has ended is not waited for. The fence shuts it out, and its clients wait until it follows the
//! catalogue again.
//!
//! # Why
//! Every order of a cutover is a compare-and-swap on the one before. Any other write of the route in between
//! (an administrator's PAUSE, a proxy that ends an overdue hold) makes the next order fail, and so aborts the
//! cutover.

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::catalog::store::{Durability, StoreError};
use crate::catalog::{Catalog, FleetAcks, RouteCommit, Swap, Versioned, keys};
use crate::model::{AckStage, GateOrder, HoldReason, MoveId, Pinned, ProxyId, RouteRecord, StallReport};

use crate::control::moves::error::StepError;

/// Interval between attempts to learn the outcome of a commit after its answer was lost.
const ASK_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(50);

/// The mover's access to the route and the acknowledgements of one database.
#[derive(Debug)]
pub(in crate::control) struct Orders {
    catalog: Catalog,
    holder: HoldReason,
    route: Versioned<RouteRecord>,
    fleet: FleetAcks,
}

/// The proxies' answers to the current order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::control) struct OrderProgress {
    /// Proxies that have not carried out the order.
    pub(in crate::control) silent: Vec<ProxyId>,
    pub(in crate::control) sessions: u32,
    /// Sessions that the order waits for.
    pub(in crate::control) waiting: u32,
    pub(in crate::control) pinned: Vec<Pinned>,
    /// Server connections of the proxies that have carried out the order.
    pub(in crate::control) server_pids: Vec<i32>,
    pub(in crate::control) stalls: Vec<StallReport>,
}

impl OrderProgress {
    pub(in crate::control) fn is_done(&self) -> bool {
        self.silent.is_empty()
    }

    /// What the order waits for, as text for the operator.
    pub(in crate::control) fn in_the_way(&self) -> Vec<String> {
        let pinned = self.pinned.iter().map(describe);
        let silent = self.silent.iter().map(|proxy| format!("proxy {proxy} has not answered"));
        let waiting = (self.waiting > 0 && self.pinned.is_empty())
            .then(|| format!("{} sessions in a transaction or without a connection", self.waiting));
        pinned.chain(waiting).chain(silent).collect()
    }
}

fn describe(pinned: &Pinned) -> String {
    let Pinned { session, role, application_name, client, reason } = pinned;
    format!("session {session} of role {role} ({application_name}, {client}): {reason}")
}

impl Orders {
    pub(in crate::control) async fn open(
        catalog: Catalog,
        database: &crate::model::DatabaseId,
        id: MoveId,
    ) -> Result<Orders, StepError> {
        let route = catalog.routes().get(database).await?;
        let route = route.ok_or_else(|| StoreError::Missing { key: keys::route(database) })?;
        let fleet = catalog.fleet().acks(database).await?;
        Ok(Orders { catalog, holder: HoldReason::Move { id }, route, fleet })
    }

    pub(in crate::control) fn route(&self) -> &RouteRecord {
        &self.route.value
    }

    pub(in crate::control) fn holder(&self) -> HoldReason {
        self.holder.clone()
    }

    /// Gives an order. Concurrent changes that do not touch the gate or the place are kept: the order is
    /// repeated on top of them.
    pub(in crate::control) async fn give(
        &mut self,
        change: impl Fn(&mut RouteRecord),
    ) -> Result<(), StepError> {
        loop {
            self.check_gate()?;
            let mut wanted = self.route.value.clone();
            change(&mut wanted);
            if wanted == self.route.value {
                return Ok(());
            }
            match self.catalog.routes().commit(&self.route, wanted).await {
                RouteCommit::Committed(route) => {
                    self.route = route;
                    return Ok(());
                }
                RouteCommit::Conflict(Some(newer)) => self.adopt(newer)?,
                RouteCommit::Conflict(None) => return Err(self.gone()),
                RouteCommit::Unknown(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the order to hold. It need not be durable before the proxies see it: losing it with the process
    /// has the same effect as ending it.
    pub(in crate::control) async fn hold(&mut self, gate: GateOrder) -> Result<(), StepError> {
        let mut wanted = self.route.value.clone();
        wanted.gate = gate;
        wanted.order += 1;
        let key = keys::route(&wanted.database);
        let batch = self.catalog.batch().unchanged(key.clone(), self.route.revision).put(key, &wanted);
        match batch.durability(Durability::Relaxed).commit().await? {
            Swap::Committed(revision) => {
                self.route = Versioned { value: wanted, revision };
                Ok(())
            }
            Swap::Conflict => {
                Err(StepError::not_now("the route was changed while clients were about to wait"))
            }
        }
    }

    /// The point of no return. `Ok` means that the clients go to the new place, whatever happens to this
    /// process; an error means that they do not. If the answer is lost it asks until the outcome is known. A
    /// store that has stopped gives this process no more answers and accepts no more writes: the next start
    /// reads what is on disk.
    pub(in crate::control) async fn commit(&mut self, wanted: RouteRecord) -> Result<(), StepError> {
        match self.catalog.routes().commit(&self.route, wanted.clone()).await {
            RouteCommit::Committed(route) => {
                self.route = route;
                Ok(())
            }
            RouteCommit::Conflict(_) => Err(StepError::not_now("somebody ended the hold before the commit")),
            RouteCommit::Unknown(error) => {
                tracing::warn!(%error, "the answer to the commit of a cutover is lost, asking until it is known");
                self.learn_outcome(&wanted).await
            }
        }
    }

    async fn learn_outcome(&mut self, wanted: &RouteRecord) -> Result<(), StepError> {
        loop {
            match self.catalog.routes().get(&wanted.database).await {
                Ok(Some(now)) if is_committed(&now.value, wanted) => {
                    self.route = now;
                    return Ok(());
                }
                // A later write settles it: the lost one can no longer succeed.
                Ok(Some(now)) if now.revision != self.route.revision => {
                    return Err(StepError::not_now("the commit of the cutover lost against another change"));
                }
                Ok(Some(_)) => match self.catalog.routes().commit(&self.route, wanted.clone()).await {
                    RouteCommit::Committed(route) => {
                        self.route = route;
                        return Ok(());
                    }
                    RouteCommit::Conflict(_) | RouteCommit::Unknown(_) => {}
                },
                Ok(None) => return Err(self.gone()),
                Err(stopped @ StoreError::Stopped { .. }) => return Err(stopped.into()),
                Err(error) => tracing::warn!(%error, "the store does not tell how the commit ended"),
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    fn adopt(&mut self, newer: Versioned<RouteRecord>) -> Result<(), StepError> {
        let (old, new) = (&self.route.value, &newer.value);
        if old.epoch != new.epoch || old.place != new.place || old.gate != new.gate || old.next != new.next {
            return Err(StepError::not_now("somebody else gave an order to the database's gate"));
        }
        self.route = newer;
        Ok(())
    }

    fn check_gate(&self) -> Result<(), StepError> {
        match &self.route().gate {
            GateOrder::Open => Ok(()),
            GateOrder::Latched { by } | GateOrder::Held { by, .. } if *by == self.holder => Ok(()),
            GateOrder::Latched { .. } | GateOrder::Held { .. } => {
                Err(StepError::not_now("the database is paused"))
            }
        }
    }

    fn gone(&self) -> StepError {
        StoreError::Missing { key: keys::route(&self.route().database) }.into()
    }

    /// State of the current order.
    pub(in crate::control) fn standing(&self) -> OrderProgress {
        let mut standing = OrderProgress::default();
        for (proxy, ack) in self.fleet.answers() {
            let Some(ack) = ack.filter(|ack| ack.order >= self.route().order) else {
                standing.silent.push(proxy.clone());
                continue;
            };
            standing.sessions += ack.sessions;
            standing.waiting += ack.waiting;
            standing.pinned.extend(ack.pinned.iter().cloned());
            standing.stalls.extend(ack.stall.clone());
            match ack.stage {
                AckStage::Done => standing.server_pids.extend(&ack.server_pids),
                AckStage::Seen => standing.silent.push(proxy.clone()),
            }
        }
        standing
    }

    /// Waits until the answers are as wanted, or until the deadline. Returns the state of the order in both
    /// cases. Cancel-safe.
    pub(in crate::control) async fn wait(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&OrderProgress) -> bool,
    ) -> Result<(OrderProgress, Waited), StepError> {
        loop {
            // What has happened before the order counts for it.
            while let Some(changed) = self.fleet.changed().now_or_never() {
                self.take(changed).await?;
            }
            let standing = self.standing();
            if wanted(&standing) {
                return Ok((standing, Waited::Enough));
            }
            match timeout_at(deadline, self.fleet.changed()).await {
                Err(_) => return Ok((standing, Waited::TooLong)),
                Ok(changed) => self.take(changed).await?,
            }
        }
    }

    /// Reads proxies and acknowledgements again where the watch of their changes has ended.
    async fn take(&mut self, changed: Result<bool, StoreError>) -> Result<(), StepError> {
        match changed {
            Ok(true) => {}
            Ok(false) | Err(StoreError::Compacted { .. }) => {
                self.fleet = self.catalog.fleet().acks(&self.route.value.database).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Whether a route is the wanted one. A later change of the system's address has not undone it.
fn is_committed(now: &RouteRecord, wanted: &RouteRecord) -> bool {
    now.epoch == wanted.epoch && now.place.is_same_database(&wanted.place)
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Waited {
    Enough,
    TooLong,
}

#[cfg(test)]
#[path = "orders_tests.rs"]
mod tests;
