//! Server connections that are lent to one client after the other, for one transaction at a time.
//!
//! ```text
//!   worker                      process
//!   +------------------------+  +---------+
//!   | DatabasePool of "shop" |  | Permits |  so many connections to "shop", whichever worker has them
//!   |   Pool (app, {...})    |  +---------+
//!   |     idle, idle, idle   |      lend:       the newest idle one of the pool, or wait
//!   |   Pool (batch, {})     |      give back:  to the first waiter, or to the pool
//!   |   waiting: 1, 2, 3     |
//!   +------------------------+
//! ```
//!
//! Owns connections between two clients, the queue of waiters, and opening and closing connections. It
//! deliberately knows nothing of a client's state: [`super::pool::pooled_client`] gives a connection the
//! state of the client that gets it.
//!
//! # Why
//! A pool is for one role and one list of startup parameters: RESET goes back to what a client set in its
//! startup packet, and no SET can put it there. Clients wait in the order in which they came, whatever pool
//! they need: a connection of another pool is closed for the first waiter, once it has served a few of its
//! own kind. A connection that is being opened is for the first waiter of its kind, and is never closed for
//! another kind before it was used: where clients of many kinds wait, connections would otherwise be opened
//! and closed without end, and no client served. A connection that was opened before the database moved is
//! never lent.

mod catalogue;
mod catalogue_check;
mod definitions;
mod idle;
pub(super) mod kept;
mod lease;
#[cfg(test)]
mod lease_tests;
mod maintenance;
mod permits;
mod pooled;
pub(super) mod pooled_client;
pub(super) mod reuse;
mod setting_differences;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::catalogue::Catalogue;
use self::definitions::Definitions;
pub(super) use self::definitions::HintsStatus;
pub(super) use self::idle::Pool;
pub(super) use self::lease::Lease;

pub(super) use self::permits::Defining;
use self::permits::{Permit, Permits};
use self::pooled::{ConnectionSlot, Keeps, Pooled};
use self::setting_differences::SettingDifferences;
pub(super) use self::shared::{PoolRegistry, SessionTemplate};
use super::migrate::twin::{RestoreError, StatefulConnection};
use super::origin::Origin;
use crate::error::{Explain, Refusal, Retry, Severity, chain};
use crate::event_loop;
use crate::route::{GateState, Moment, Route};
use crate::tls::Connector;

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// A client that has waited this long gets a notice.
    pub notice_after: Duration,
    /// An idle connection is closed after this.
    pub idle_time_max: Duration,
    /// A connection that is older than this is closed when it is given back.
    pub age_max: Duration,
    /// A connection that has been idle for this long is checked before it is lent.
    pub check_after: Duration,
    /// This many connections of a database stay open, however long they are idle.
    pub idle_min: u32,
    /// This many more may be opened while a client has waited for `reserve_after`.
    pub reserve: u32,
    pub reserve_after: Duration,
    /// The unnamed statement of the extended protocol is served by a named one on the server.
    pub caches_unnamed: bool,
    /// Where databases are pooled by session, a connection outlives its client.
    pub reuses: bool,
}

impl Default for PoolSettings {
    fn default() -> PoolSettings {
        PoolSettings {
            notice_after: Duration::from_secs(5),
            idle_time_max: Duration::from_secs(600),
            age_max: Duration::from_secs(3600),
            check_after: Duration::from_secs(30),
            idle_min: 0,
            reserve: 0,
            reserve_after: Duration::from_secs(5),
            caches_unnamed: false,
            reuses: false,
        }
    }
}

/// What a pool is given at its start.
#[derive(Debug)]
pub(super) struct PoolParts {
    pub(super) worker: usize,
    pub(super) workers: usize,
    pub(super) connector: Connector,
    pub(super) connect_time_max: Duration,
    pub(super) settings: PoolSettings,
}

/// What a waiter is sent.
pub(super) type LeaseResult = Result<Lease, Refusal>;

#[derive(Debug)]
struct Waiter {
    pool: Rc<Pool>,
    since: Instant,
    gives: oneshot::Sender<LeaseResult>,
}

/// The connections of one database on one worker.
#[derive(Debug)]
pub(super) struct DatabasePool {
    pub(super) route: Arc<Route>,
    parts: PoolParts,
    permits: Arc<Permits>,
    pool_registry: Arc<PoolRegistry>,
    pools: RefCell<Vec<Rc<Pool>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    /// Connections that are being closed to free permits of this worker.
    closing: Cell<u32>,
    numbers: Cell<u64>,
    /// Set by the maintenance task, so that a loan does not read the time.
    now: Cell<Moment>,
    /// When maintenance last checked how many connections are not needed.
    rebalanced: Cell<Moment>,
    pub(super) definitions: Definitions,
    differences: SettingDifferences,
}

impl DatabasePool {
    pub(super) fn start(
        route: &Arc<Route>,
        pool_registry: &Arc<PoolRegistry>,
        parts: PoolParts,
    ) -> Rc<DatabasePool> {
        let permits = pool_registry.permits(route.id(), parts.workers);
        let database_pool = Rc::new(DatabasePool {
            route: Arc::clone(route),
            definitions: Definitions::new(&permits),
            differences: SettingDifferences::default(),
            permits,
            pool_registry: Arc::clone(pool_registry),
            parts,
            pools: RefCell::default(),
            waiting: RefCell::default(),
            closing: Cell::new(0),
            numbers: Cell::new(0),
            now: Cell::new(Moment::now()),
            rebalanced: Cell::new(Moment::now()),
        });
        event_loop::spawn(maintenance::maintain(Rc::downgrade(&database_pool)));
        database_pool
    }

    /// The pool for clients like this one.
    pub(super) fn pool(self: &Rc<DatabasePool>, origin: Origin) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(known) = pools.iter().find(|pool| *pool.origin == origin) {
            return Rc::clone(known);
        }
        let pool = Rc::new(Pool {
            template: RefCell::new(self.pool_registry.template(self.route.id(), &origin)),
            origin: Arc::new(origin),
            database_pool: Rc::clone(self),
            idle: RefCell::default(),
            surplus: Cell::default(),
            opening: Cell::default(),
            failure: RefCell::default(),
            failures: Cell::default(),
        });
        pools.push(Rc::clone(&pool));
        pool
    }

    pub(super) fn settings(&self) -> &PoolSettings {
        &self.parts.settings
    }

    pub(super) fn connect_time_max(&self) -> Duration {
        self.parts.connect_time_max
    }

    /// A client waits: a session at a boundary gives its connection back.
    pub(super) fn has_waiting_clients(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// The connection has been idle for `time`, give or take a second.
    pub(super) fn has_been_idle(&self, pooled: &Pooled, time: Duration) -> bool {
        pooled.rested.is_over(time, self.now.get())
    }

    /// Whether the connection is where the database is, no RECONNECT came after it, the database is served,
    /// and what the connection keeps is still valid. Reads the record only after a change of the gate.
    fn is_current(&self, pooled: &mut Pooled) -> bool {
        if self.differences.keeps_what_varies(pooled) || pooled.keeps_outdated(self.definitions.catalogue()) {
            return false;
        }
        let turn = self.route.turn();
        if pooled.turn == turn && !pooled.is_foreign {
            return true;
        }
        let record = self.route.current();
        let is_surplus = self.permits.open() > self.limit() + self.parts.settings.reserve;
        let is_current = !pooled.is_foreign && !is_surplus && pooled.record.is_in_force(&record);
        if is_current {
            pooled.turn = turn;
        }
        is_current
    }

    fn limit(&self) -> u32 {
        self.route.current().terms.server_connections_max.max(1)
    }

    /// The process stops: lends nothing any more and closes idle connections.
    pub(super) fn close_all(self: &Rc<DatabasePool>) {
        self.waiting.borrow_mut().clear();
        for pool in self.pools.take() {
            drop(pool.idle.take());
        }
    }

    /// Takes a connection back: for the first waiter, or for the next client.
    pub(super) fn give_back(self: &Rc<DatabasePool>, pool: &Rc<Pool>, mut pooled: Box<Pooled>) {
        pooled.rested = self.now.get();
        let is_worn = pooled.born.is_over(self.parts.settings.age_max, pooled.rested);
        if is_worn || !self.is_current(&mut pooled) {
            drop(pooled);
            return self.grow();
        }
        if let Some(other) = self.permits.worker_short_of_connections(self.parts.worker, false) {
            return pooled.give_permit_to(other);
        }
        self.place(pool, pooled);
    }

    /// Gives a used connection to a waiter or to its pool, or closes it to open one of another pool.
    fn place(self: &Rc<DatabasePool>, pool: &Rc<Pool>, pooled: Box<Pooled>) {
        match self.first_in_line() {
            Some(first) if !Rc::ptr_eq(&first, pool) && self.is_for_others(pool, pooled.is_new()) => {
                drop(pooled);
                self.grow();
            }
            _ => self.place_alike(pool, pooled),
        }
    }

    /// Whether a waiter of another pool should get the permit of a connection of this pool.
    fn is_for_others(self: &Rc<DatabasePool>, pool: &Rc<Pool>, is_new: bool) -> bool {
        if !self.may_open() {
            return false;
        }
        // A permit that is free, or will be when another connection is closed, does as well. Waiters that
        // cannot be served now need none.
        self.open_for_waiters();
        let Some((first, other)) = self.next_to_open(self.closing.get()) else { return false };
        match self.first_alike(pool) {
            Some(at) => at > first && !is_new,
            None => !Rc::ptr_eq(&other, pool),
        }
    }

    /// Position in the queue of the first waiter of this pool.
    fn first_alike(&self, pool: &Rc<Pool>) -> Option<usize> {
        let alike = |waiter: &Waiter| Rc::ptr_eq(&waiter.pool, pool) && !waiter.gives.is_closed();
        self.waiting.borrow().iter().position(alike)
    }

    /// Gives it to the first waiter of its pool; without one, puts it into the pool.
    fn place_alike(&self, pool: &Rc<Pool>, mut pooled: Box<Pooled>) {
        pooled.served = pooled.served.saturating_add(1);
        let mut lease = Lease::new(pool, pooled);
        while let Some(at) = self.first_alike(pool) {
            let Some(waiter) = self.waiting.borrow_mut().remove(at) else { break };
            match waiter.gives.send(Ok(lease)) {
                Err(Ok(back)) => lease = back,
                _ => return self.check_waiters(),
            }
        }
        lease.put_back();
        self.check_waiters();
    }

    /// If no client waits here, other workers need not give up anything for this one.
    fn check_waiters(&self) {
        if self.first_in_line().is_none() {
            self.no_client_waits();
        }
    }

    /// The gate allows connections to be opened.
    fn may_open(&self) -> bool {
        self.route.gate().state() == GateState::Open
    }

    fn no_client_waits(&self) {
        self.permits.clear_waiting(self.parts.worker);
        self.permits.return_unused(self.parts.worker);
    }

    /// The pool of the first waiter.
    fn first_in_line(&self) -> Option<Rc<Pool>> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|waiter| waiter.gives.is_closed()) {
            waiting.pop_front();
        }
        waiting.front().map(|waiter| Rc::clone(&waiter.pool))
    }

    /// Opens connections for waiters, as far as there are permits.
    fn grow(self: &Rc<DatabasePool>) {
        if !self.may_open() {
            return;
        }
        if !self.open_for_waiters() {
            self.make_room();
            return self.permits.mark_waiting(self.parts.worker);
        }
        match self.first_in_line() {
            None => self.no_client_waits(),
            Some(_) => self.permits.clear_waiting(self.parts.worker),
        }
    }

    /// Opens connections while there are permits. `false`: a client waits and there is no permit.
    fn open_for_waiters(self: &Rc<DatabasePool>) -> bool {
        while let Some((_, pool)) = self.next_to_open(0) {
            let Some(permit) = self.permit() else { return false };
            event_loop::spawn(Rc::clone(self).open(Opening::begin(pool), permit));
        }
        true
    }

    /// The first waiter, after skipping `covered`, for which no connection is being opened: its position in
    /// the queue and its pool. A connection that is being opened is for the first waiter of its pool.
    /// Called whenever a client begins to wait: it must not visit all waiters.
    fn next_to_open(&self, covered: u32) -> Option<(usize, Rc<Pool>)> {
        let waiting = self.waiting.borrow();
        let mut being_opened: HashMap<*const Pool, u32> = HashMap::new();
        let mut is_uncovered = |waiter: &Waiter| match waiter.pool.opening.get() {
            0 => true,
            opening => !take_one(being_opened.entry(Rc::as_ptr(&waiter.pool)).or_insert(opening)),
        };
        let openable = |waiter: &Waiter| !waiter.gives.is_closed() && !waiter.pool.is_backing_off();
        let mut uncovered =
            waiting.iter().enumerate().filter(|(_, waiter)| openable(waiter) && is_uncovered(waiter));
        uncovered.nth(covered as usize).map(|(at, waiter)| (at, Rc::clone(&waiter.pool)))
    }

    fn permit(&self) -> Option<Permit> {
        let late = |waiter: &Waiter| waiter.since.elapsed() >= self.parts.settings.reserve_after;
        let reserve = match self.waiting.borrow().front().is_some_and(late) {
            true => self.parts.settings.reserve,
            false => 0,
        };
        self.permits.take(self.parts.worker, self.limit() + reserve)
    }

    /// Closes an idle connection that no waiter can use, unless enough are being closed already. Its permit
    /// comes back when it is closed, and goes to a waiter then.
    fn make_room(self: &Rc<DatabasePool>) {
        if self.next_to_open(self.closing.get()).is_some() {
            drop(self.take_longest_idle());
        }
    }

    fn take_longest_idle(&self) -> Option<Box<Pooled>> {
        let pools = self.pools.borrow();
        let rested = |pool: &&Rc<Pool>| pool.idle.borrow().first().map(|pooled| pooled.rested);
        let longest = pools.iter().filter(|pool| rested(pool).is_some()).min_by_key(rested)?;
        let idle = longest.idle.borrow_mut().remove(0);
        Some(idle)
    }

    async fn open(self: Rc<DatabasePool>, opening: Opening, permit: Permit) {
        let opened = Box::pin(self.connect(&opening.pool, permit)).await;
        let pool = opening.end();
        match opened {
            Ok(Some(pooled)) => {
                pool.succeeded();
                match self.first_alike(&pool) {
                    Some(_) => self.place_alike(&pool, Box::new(pooled)),
                    None => self.place(&pool, Box::new(pooled)),
                }
            }
            // The gate allows none now; maintenance tries again at the next change of the gate.
            Ok(None) => {}
            Err(error) => self.fail(&pool, &error),
        }
    }

    /// `None`: the gate allows no connection to be opened now.
    async fn connect(
        self: &Rc<DatabasePool>,
        pool: &Rc<Pool>,
        permit: Permit,
    ) -> Result<Option<Pooled>, RestoreError> {
        let Ok(_pass) = self.route.gate().try_connect(self.parts.worker) else { return Ok(None) };
        // Read inside the gate: it cannot change before the pass is dropped.
        let record = self.route.current();
        let request = pool.origin.request(record.place.clone(), &self.route);
        let deadline = Instant::now() + self.parts.connect_time_max;
        let server = StatefulConnection::open(&request, &self.parts.connector, deadline).await?;
        let pid = self.route.session_table().enter_lent(pool.facts(server.pid(), &record));
        let template = pool.learn(&server);
        self.numbers.set(self.numbers.get() + 1);
        let now = Moment::now();
        self.now.set(now);
        Ok(Some(Pooled {
            number: self.numbers.get(),
            template: Arc::clone(&template.state),
            state: template.state,
            server,
            on_server: Box::default(),
            record,
            schema: self.definitions.schema(),
            is_foreign: false,
            was_lent: false,
            lent_at: 0,
            keeps: Keeps::nothing(&self.differences.results_kept),
            turn: 0,
            served: 0,
            opened: Instant::now(),
            born: now,
            rested: now,
            slot: Some(ConnectionSlot { permit, pid }),
            database_pool: Rc::downgrade(self),
        }))
    }

    /// The first waiter of the pool gets an error that waiting cannot cure; the others go on waiting, and
    /// opening is tried again after a while.
    fn fail(self: &Rc<DatabasePool>, pool: &Rc<Pool>, error: &RestoreError) {
        let name = &self.route.current().name;
        tracing::warn!(database = %name, error = %chain(error), "no server connection for the pool");
        if error.retry() == Retry::Never {
            let mut waiting = self.waiting.borrow_mut();
            if let Some(at) = waiting.iter().position(|waiter| Rc::ptr_eq(&waiter.pool, pool))
                && let Some(waiter) = waiting.remove(at)
            {
                let _ = waiter.gives.send(Err(error.refusal(Severity::Error)));
            }
        }
        pool.failed(error.message());
        self.permits.notify(self.parts.worker);
    }
}

/// A connection that is being opened for a pool, which counts it until this is dropped.
#[derive(Debug)]
struct Opening {
    pool: Rc<Pool>,
}

impl Opening {
    fn begin(pool: Rc<Pool>) -> Opening {
        pool.opening.set(pool.opening.get() + 1);
        Opening { pool }
    }

    fn end(self) -> Rc<Pool> {
        Rc::clone(&self.pool)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.pool.opening.set(self.pool.opening.get().saturating_sub(1));
    }
}

/// A client's place in the queue; dropping it leaves the queue. A connection that was sent to it meanwhile
/// goes to the next client.
#[derive(Debug)]
pub(super) struct QueuePlace {
    given: oneshot::Receiver<LeaseResult>,
}

impl Future for QueuePlace {
    type Output = Option<LeaseResult>;

    /// `None`: the pool has ended.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LeaseResult>> {
        Pin::new(&mut self.given).poll(cx).map(Result::ok)
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.given.close();
        if let Ok(Ok(lease)) = self.given.try_recv() {
            lease.give_back();
        }
    }
}

fn take_one(count: &mut u32) -> bool {
    let is_left = *count > 0;
    *count = count.saturating_sub(1);
    is_left
}
