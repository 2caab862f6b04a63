//! Applies the catalogue's changes to the routes of this process, and acknowledges.
//!
//! ```text
//!          +--> list routes and logins --> apply what is newer --> watch --+--> apply each commit, in order
//!          |                                                              +--> sessions rang: acknowledge
//!          +---- wait (grows to a bound) <---- the store failed <----------+--> a hold is overdue: abort it
//! ```
//!
//! One task, because orders must reach a gate in sequence. It never decides where a database is; it may end
//! an overdue hold, by compare-and-swap.
//!
//! # Static stability
//! * While the store is unreachable, everything goes on with the known routes, gates keep their state, and
//!   the task retries.
//! * A route is removed only when the watch shows the deletion of its key. A key that is absent from a list
//!   (after a gap in the watch, or from a store that lost its data) deletes nothing. The logins of a database
//!   are replaced by a list that contains any of them: a role that was dropped during the gap must not be
//!   able to log in.
//! * A record that cannot be read, or is older than the one known, is not applied.
//!
//! A snapshot on disk, for a start without the store, would belong here, before the first list.

mod enlistment;
mod order_tracker;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::enlistment::Enlistment;
use self::order_tracker::{Answer, OrderTracker};
use super::change_notifier::Urgency;
use super::table::{Logins, RouteTable};
use crate::catalog::store::{LeaseId, Revision, StoreError};
use crate::catalog::{Catalog, Changes, RecordEvent, RouteCommit, keys};
use crate::model::{Ack, DatabaseId, GateOrder, HoldReason, Login, ProxyRecord, RouteRecord, UnixMillis};

/// Intervals of a follower.
#[derive(Debug, Clone)]
pub struct FollowerOptions {
    /// How long orders wait for a proxy that died: the time of its lease.
    pub listed_for: Duration,
    /// A hold this long past its end is aborted.
    pub hold_grace: Duration,
    /// Wait before the store is read again after a failure: doubles from the first to the second.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// Changed counts are written with this delay while an order is being carried out ...
    pub refresh_watched: Duration,
    /// ... and with this delay otherwise.
    pub refresh_idle: Duration,
}

impl Default for FollowerOptions {
    fn default() -> FollowerOptions {
        FollowerOptions {
            listed_for: Duration::from_secs(10),
            hold_grace: Duration::from_secs(1),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(5),
            refresh_watched: Duration::from_millis(20),
            refresh_idle: Duration::from_secs(1),
        }
    }
}

/// The running task. Dropping it stops following; the routes stay as they are.
#[derive(Debug)]
pub struct Follower {
    task: Option<JoinHandle<Option<LeaseId>>>,
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
    catalog: Catalog,
}

impl Follower {
    /// Starts on the current runtime. Lists the proxy in the catalogue; accept clients after
    /// [`Follower::synced`].
    pub fn start(
        catalog: Catalog,
        table: Arc<RouteTable>,
        proxy: ProxyRecord,
        options: FollowerOptions,
    ) -> Follower {
        let (announce, synced) = watch::channel(false);
        let stop = CancellationToken::new();
        let task = Task {
            catalog: catalog.clone(),
            table,
            proxy,
            enlistment: None,
            options,
            orders: HashMap::new(),
            logins: HashMap::new(),
            alarms: BinaryHeap::new(),
            synced: announce,
        };
        let running = tokio::spawn(task.run(stop.clone()));
        Follower { task: Some(running), stop, synced, catalog }
    }

    /// Waits until all records of the catalogue were applied once. Cancel-safe.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        // An error means that the task has ended: then there is nothing to wait for.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Stops following and takes the proxy off the list of those that must acknowledge.
    pub async fn stop(mut self) -> Result<(), StoreError> {
        self.stop.cancel();
        // The panic hook has reported a panic of the task. The lease of the proxy then ends by itself.
        let lease = match self.task.take() {
            Some(task) => task.await.unwrap_or_default(),
            None => None,
        };
        match lease {
            Some(lease) => self.catalog.fleet().discharge(lease).await,
            None => Ok(()),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A deferred action for a database; valid only if its order still has the same instant.
type Alarm = Reverse<(Instant, DatabaseId)>;

struct Task {
    catalog: Catalog,
    table: Arc<RouteTable>,
    proxy: ProxyRecord,
    enlistment: Option<Enlistment>,
    options: FollowerOptions,
    orders: HashMap<DatabaseId, OrderTracker>,
    logins: HashMap<DatabaseId, Logins>,
    alarms: BinaryHeap<Alarm>,
    synced: watch::Sender<bool>,
}

/// Both watches, each from the revision of its list.
struct Watches {
    routes: Changes<RouteRecord>,
    logins: Changes<Login>,
}

impl Task {
    /// Returns the lease under which the proxy is still listed.
    async fn run(mut self, stop: CancellationToken) -> Option<LeaseId> {
        // Cancel-safe: at most an acknowledgement is lost, and the process is stopping.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
        let enlistment = self.enlistment.take()?;
        Some(enlistment.end().await)
    }

    async fn follow(&mut self) {
        let mut wait = self.options.reconnect_min;
        loop {
            let began = Instant::now();
            match self.follow_once().await {
                Ok(()) => tracing::info!("the watch of the catalogue ended, reading again"),
                Err(StoreError::Compacted { .. }) => {
                    tracing::info!("fell behind the catalogue, reading again")
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow the catalogue")
                }
            }
            if began.elapsed() > self.options.reconnect_max {
                wait = self.options.reconnect_min;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(self.options.reconnect_max);
        }
    }

    /// Lists everything, then follows until the store fails or the watch ends.
    async fn follow_once(&mut self) -> Result<(), StoreError> {
        let mut watches = self.connect().await?;
        let queue = Arc::clone(self.table.queue());
        loop {
            let lost = self.lost();
            let alarm = self.alarms.peek().map(|Reverse((at, _))| *at);
            // Each branch is cancel-safe: the watches and the queue keep items until they are taken. Logins
            // first, here and before routes are applied: one commit writes a new database to both, and its
            // roles must be known when its name is.
            tokio::select! {
                biased;
                changes = watches.logins.next() => match changes? {
                    Some(changes) => self.take_logins(changes),
                    None => return Ok(()),
                },
                changes = watches.routes.next() => match changes? {
                    Some(changes) => {
                        self.catch_up_with_logins(&mut watches.logins)?;
                        self.take_routes(changes).await;
                    }
                    None => return Ok(()),
                },
                () = lost.cancelled() => {
                    self.enlist().await?;
                    self.answer_all().await;
                }
                changed = queue.changed() => self.take_changes(changed).await,
                () = sleep_until(alarm) => self.take_alarms().await,
            }
        }
    }

    async fn connect(&mut self) -> Result<Watches, StoreError> {
        self.enlist().await?;
        let logins = self.catalog.logins().follow().await?;
        let mut known: HashMap<DatabaseId, Logins> = HashMap::new();
        for change in logins.records {
            match change {
                RecordEvent::Put { key, record } => note_login(&mut known, &key, record.value),
                RecordEvent::Unreadable { key, error, .. } => {
                    tracing::error!(key, %error, "cannot read a login")
                }
                RecordEvent::Deleted { .. } => {}
            }
        }
        self.logins.extend(known);
        let routes = self.catalog.routes().follow().await?;
        for change in routes.records {
            match change {
                RecordEvent::Put { record, .. } => self.take_route(record.value).await,
                RecordEvent::Unreadable { key, error, .. } => {
                    tracing::error!(key, %error, "cannot read a route, keeping the old one");
                }
                RecordEvent::Deleted { .. } => {}
            }
        }
        for (id, logins) in &self.logins {
            self.table.set_logins(id, logins.clone());
        }
        self.answer_all().await;
        let mut watches = Watches { routes: routes.changes, logins: logins.changes };
        self.table.followed().logins_are_at(logins.revision);
        // The routes were listed after the logins, so logins may have changed in between.
        self.catch_up_with_logins(&mut watches.logins)?;
        self.table.followed().routes_are_at(routes.revision);
        self.synced.send_replace(true);
        Ok(watches)
    }

    /// Lists the proxy unless it is listed. What it acknowledged under an earlier lease is deleted, or does
    /// not count.
    async fn enlist(&mut self) -> Result<(), StoreError> {
        if self.enlistment.as_ref().is_some_and(|known| !known.lost().is_cancelled()) {
            return Ok(());
        }
        let listed_for = self.options.listed_for;
        self.enlistment = Some(Enlistment::begin(&self.catalog, &self.proxy, listed_for).await?);
        self.orders.values_mut().for_each(|order| order.acked(None));
        Ok(())
    }

    /// Cancelled when the proxy is not listed any more.
    fn lost(&self) -> CancellationToken {
        self.enlistment.as_ref().map(|known| known.lost().clone()).unwrap_or_default()
    }

    /// Applies logins committed meanwhile, before the routes of the same commits are applied.
    fn catch_up_with_logins(&mut self, logins: &mut Changes<Login>) -> Result<(), StoreError> {
        // Cancel-safe: a commit that is not there yet is not lost. The main loop notices the end of the
        // watch.
        while let Some(Some(changes)) = logins.next().now_or_never().transpose()? {
            self.take_logins(changes);
        }
        Ok(())
    }

    fn take_logins(&mut self, changes: Vec<RecordEvent<Login>>) {
        let revision = newest(&changes);
        let mut touched = Vec::new();
        for change in changes {
            let Some((id, role)) = keys::login_of(change.key()) else { continue };
            let Ok(id) = DatabaseId::parse(id) else { continue };
            match &change {
                RecordEvent::Put { key, record } => note_login(&mut self.logins, key, record.value.clone()),
                RecordEvent::Deleted { .. } => {
                    self.logins.entry(id.clone()).or_default().remove(role);
                }
                RecordEvent::Unreadable { key, error, .. } => {
                    tracing::error!(key, %error, "cannot read a login")
                }
            }
            if !touched.contains(&id) {
                touched.push(id);
            }
        }
        for id in touched {
            let logins = self.logins.get(&id).cloned().unwrap_or_default();
            self.table.set_logins(&id, logins);
        }
        self.table.followed().logins_are_at(revision);
    }

    async fn take_routes(&mut self, changes: Vec<RecordEvent<RouteRecord>>) {
        let revision = newest(&changes);
        for change in changes {
            match change {
                RecordEvent::Put { record, .. } => self.take_route(record.value).await,
                RecordEvent::Deleted { key, .. } => self.forget_route(&key).await,
                RecordEvent::Unreadable { key, error, .. } => {
                    tracing::error!(key, %error, "cannot read a route, keeping the old one");
                }
            }
        }
        self.table.followed().routes_are_at(revision);
    }

    async fn take_route(&mut self, record: RouteRecord) {
        let id = record.database.clone();
        match self.orders.get_mut(&id) {
            None => {
                let logins = self.logins.get(&id).cloned().unwrap_or_default();
                let route = self.table.welcome(record, logins);
                route.notifier().rearm(Urgency::Now);
                route.notifier().rearm(Urgency::Soon);
                self.orders.insert(id.clone(), OrderTracker::new(route));
            }
            Some(order) => {
                let known = order.route.current();
                if record.order <= known.order {
                    if *known != record {
                        tracing::warn!(database = %id, known = known.order, order = record.order, "an older order");
                    }
                    return;
                }
                let table = Arc::clone(&self.table);
                order.turn(&record.clone(), || drop(table.install(record)));
            }
        }
        self.arm_abort(&id, Duration::ZERO);
        self.answer(&id).await;
        if self.orders.get(&id).is_some_and(|order| order.refresh_at.is_some()) {
            // The alarm was set when no order was watched; one may be now.
            self.refresh_later(&id);
        }
    }

    async fn forget_route(&mut self, key: &str) {
        let id = key.strip_prefix(keys::ROUTES).and_then(|id| DatabaseId::parse(id).ok());
        let Some(id) = id else { return };
        self.table.remove(&id);
        self.orders.remove(&id);
        self.logins.remove(&id);
        if let Err(error) = self.catalog.fleet().delete_ack(&self.proxy.id, &id).await {
            tracing::warn!(database = %id, %error, "cannot withdraw an acknowledgement");
        }
    }

    async fn take_changes(&mut self, changed: Vec<(DatabaseId, Urgency)>) {
        for (id, urgency) in changed {
            let Some(order) = self.orders.get(&id) else { continue };
            match urgency {
                Urgency::Now => {
                    order.route.notifier().rearm(urgency);
                    self.answer(&id).await;
                }
                // Not re-armed until the refresh, which includes later changes.
                Urgency::Soon => self.refresh_later(&id),
            }
        }
    }

    async fn take_alarms(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.alarms.peek().cloned() {
            if at > now {
                return;
            }
            self.alarms.pop();
            let Some(order) = self.orders.get_mut(&id) else { continue };
            if order.abort_at == Some(at) {
                order.abort_at = None;
                self.abort_hold(&id).await;
            } else if order.refresh_at == Some(at) {
                order.refresh_at = None;
                self.refresh(&id).await;
            }
        }
    }

    async fn answer_all(&mut self) {
        let all: Vec<_> = self.orders.keys().cloned().collect();
        for id in all {
            self.answer(&id).await;
        }
    }

    /// Writes a new acknowledgement at once; new counts of a known one later.
    async fn answer(&mut self, id: &DatabaseId) {
        let Some(order) = self.orders.get_mut(id) else { return };
        match order.answer(&self.proxy.id, UnixMillis::now()) {
            Answer::Known => {}
            Answer::Later => self.refresh_later(id),
            Answer::Write(ack) => self.write(*ack).await,
        }
    }

    /// Updates the counts.
    async fn refresh(&mut self, id: &DatabaseId) {
        let Some(order) = self.orders.get_mut(id) else { return };
        order.route.notifier().rearm(Urgency::Soon);
        let now = UnixMillis::now();
        match order.answer(&self.proxy.id, now) {
            Answer::Known => {}
            Answer::Write(ack) => self.write(*ack).await,
            Answer::Later => {
                let ack = order.ack(&order.route.current(), &self.proxy.id, now);
                self.write(ack).await;
            }
        }
    }

    async fn write(&mut self, ack: Ack) {
        let Some(enlistment) = &self.enlistment else { return };
        let result = self.catalog.fleet().acknowledge(&ack, enlistment.lease()).await;
        if let Err(StoreError::LeaseGone { .. }) = &result {
            enlistment.lost().cancel();
        }
        let id = ack.database.clone();
        let Some(order) = self.orders.get_mut(&id) else { return };
        match result {
            Ok(()) => order.acked(Some(ack)),
            Err(error) => {
                tracing::warn!(database = %id, order = ack.order, %error, "cannot acknowledge");
                order.acked(None);
                self.refresh_after(&id, self.options.reconnect_max);
            }
        }
    }

    fn refresh_later(&mut self, id: &DatabaseId) {
        let Some(order) = self.orders.get_mut(id) else { return };
        let wait = match order.is_watched() {
            true => self.options.refresh_watched,
            false => self.options.refresh_idle,
        };
        self.refresh_after(id, wait);
    }

    fn refresh_after(&mut self, id: &DatabaseId, wait: Duration) {
        let Some(order) = self.orders.get_mut(id) else { return };
        let at = Instant::now() + wait;
        if order.refresh_at.is_none_or(|armed| armed > at) {
            order.refresh_at = Some(at);
            self.alarms.push(Reverse((at, id.clone())));
        }
    }

    fn arm_abort(&mut self, id: &DatabaseId, delay: Duration) {
        let Some(order) = self.orders.get_mut(id) else { return };
        order.abort_at = order.expiry(UnixMillis::now(), self.options.hold_grace + delay);
        if let Some(at) = order.abort_at {
            self.alarms.push(Reverse((at, id.clone())));
        }
    }

    /// The hold is overdue: all clients go on where the database is. The compare-and-swap decides against a
    /// mover that commits at the same time; the result arrives by the watch.
    async fn abort_hold(&mut self, id: &DatabaseId) {
        let Some(order) = self.orders.get(id).map(|order| order.route.current().order) else { return };
        let expected = match self.catalog.routes().get(id).await {
            Ok(Some(route)) if route.value.order == order => route,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(database = %id, %error, "cannot abort an overdue hold");
                return self.arm_abort(id, self.options.reconnect_max);
            }
        };
        let mut released = expected.value.clone();
        released.gate = after_overdue(released.gate);
        released.next = None;
        match self.catalog.routes().commit(&expected, released).await {
            RouteCommit::Committed(_) => tracing::warn!(database = %id, order, "aborted a hold past its end"),
            RouteCommit::Conflict(_) => {}
            RouteCommit::Unknown(error) => {
                tracing::warn!(database = %id, %error, "cannot abort an overdue hold");
                self.arm_abort(id, self.options.reconnect_max);
            }
        }
    }
}

/// The revision of the commit that made these changes.
fn newest<T>(changes: &[RecordEvent<T>]) -> Revision {
    changes.iter().map(RecordEvent::revision).max().unwrap_or_default()
}

/// The source of a move may still be fenced: connected clients go on, and new connections wait until the
/// control plane has lifted the fence, instead of being refused by the server.
fn after_overdue(gate: GateOrder) -> GateOrder {
    match gate {
        GateOrder::Held { by: by @ HoldReason::Move { .. }, .. } => GateOrder::Latched { by },
        _ => GateOrder::Open,
    }
}

fn note_login(known: &mut HashMap<DatabaseId, Logins>, key: &str, login: Login) {
    let Some(id) = keys::login_of(key).and_then(|(id, _)| DatabaseId::parse(id).ok()) else { return };
    known.entry(id).or_default().insert(login.role.to_string(), Arc::new(login));
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
