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
mod idle;
mod maintenance;
mod permits;
pub(super) mod pooled_client;
pub(super) mod reuse;
mod shape;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::catalogue::Catalogue;
pub(super) use self::idle::Pool;
pub(super) use self::permits::Defining;
use self::permits::{Permit, Permits};
pub(super) use self::shared::{PoolRegistry, SessionTemplate};
use super::migrate::twin::{Twin, TwinError};
use super::serve::Origin;
use super::state::{Hints, NamesUse, Residue, SessionState, reads_functions_otherwise};
use super::statements::OnServer;
use crate::error::{Explain, Refusal, Retry, Severity, chain};
use crate::event_loop;
use crate::model::RouteRecord;
use crate::route::{GateState, LentPid, Moment, Route};
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

/// A new connection serves this many clients of its kind, or for this long, before it makes room for another
/// kind: if all clients were served strictly in turn, each of them could cost the server a new process.
const ALIKE_MAX: u32 = 16;
const ALIKE_TIME_MAX: Duration = Duration::from_millis(250);

/// A connection and its state.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) number: u64,
    pub(super) twin: Twin,
    /// The twin's state; shared with sessions that have the same.
    pub(super) state: Arc<SessionState>,
    /// The state that it began with.
    template: Arc<SessionState>,
    pub(super) on_server: OnServer,
    pub(super) record: Arc<RouteRecord>,
    /// [`DatabasePool::schema`] when its statements were made.
    pub(super) schema: u64,
    /// It was not opened by this pool.
    is_foreign: bool,
    /// A client has had it.
    pub(super) was_lent: bool,
    /// The value of [`DatabasePool::catalogue`] when it was lent.
    pub(super) lent_at: u64,
    /// The same for the first loan that may have called functions: those were read under the settings that
    /// the connection began with, and with the definitions of that time.
    ran_at: Option<u64>,
    /// A command on it has kept what a name meant under the search path of that moment.
    keeps_found: bool,
    /// A command on it has kept values as a client with this state reads them.
    keeps_values: Option<Arc<SessionState>>,
    /// [`DatabasePool::results_kept`].
    results_kept: Rc<Cell<bool>>,
    /// The number of the gate's change at which it was last seen to be where the database is.
    turn: u64,
    /// How many waiters have been given it.
    served: u32,
    opened: Instant,
    /// When it was opened and when it was given back, by the pool's clock (`DatabasePool::now`).
    born: Moment,
    rested: Moment,
    permit: Permit,
    pid: LentPid,
}

impl Pooled {
    /// Its client has gone on with another connection, for which this now stands: it is closed when it comes
    /// back.
    pub(super) fn moved(&mut self, record: &Arc<RouteRecord>, pid: LentPid) {
        pid.set_borrower(self.pid.borrower());
        self.record = Arc::clone(record);
        self.pid = pid;
        self.is_foreign = true;
    }

    /// Functions may have been read under its client's settings, for the connection's life.
    fn reads_functions_otherwise(&self) -> bool {
        reads_functions_otherwise(&self.state, &self.template)
    }

    /// Functions or values were read on it under other settings than a client with this state has.
    pub(super) fn has_read_otherwise(&self, client: &SessionState) -> bool {
        self.ran_at.is_some() && reads_functions_otherwise(client, &self.template)
            || self.keeps_other_values(client)
    }

    /// Records what the loan that ends now has run.
    pub(super) fn has_run(&mut self, residue: Residue) {
        if residue != Residue::Clean {
            self.ran_at.get_or_insert(self.lent_at);
        }
    }

    /// Whether functions or domains may have changed since the connection read them. `catalogue` is
    /// [`DatabasePool::catalogue`].
    pub(super) fn keeps_outdated(&self, catalogue: u64) -> bool {
        self.ran_at.is_some_and(|ran_at| ran_at != catalogue)
    }

    /// It keeps values that a client with this state would read otherwise.
    pub(super) fn keeps_other_values(&self, client: &SessionState) -> bool {
        self.keeps_values.as_ref().is_some_and(|kept| {
            kept.reads_values_otherwise(client) || self.results_kept.get() && kept.computes_otherwise(client)
        })
    }

    /// It was opened for clients of its kind a moment ago.
    fn is_new(&self) -> bool {
        self.served < ALIKE_MAX && self.opened.elapsed() < ALIKE_TIME_MAX
    }

    /// Removes what its client may have left.
    async fn clean(&mut self, residue: Residue, deadline: Instant) -> Result<(), TwinError> {
        // Statements that its client made by SQL are part of the state that has to go.
        let residue = if self.state.statements.is_empty() { residue } else { Residue::Statements };
        self.twin.clean(residue, &self.template, deadline).await?;
        self.state = Arc::clone(&self.template);
        self.on_server.lose_unnamed();
        if residue == Residue::Statements {
            self.on_server = OnServer::default();
        }
        Ok(())
    }

    /// The session that has it from now on; `None`: it is idle.
    pub(super) fn lent_to(&mut self, session: Option<u64>) {
        self.was_lent |= session.is_some();
        self.pid.set_borrower(session);
    }
}

/// What a waiter is sent.
pub(super) type Lending = Result<Box<Pooled>, Refusal>;

#[derive(Debug)]
struct Waiter {
    pool: Rc<Pool>,
    since: Instant,
    gives: oneshot::Sender<Lending>,
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
    surveyed: Cell<Moment>,
    /// [`DatabasePool::functions`] when a session of this worker was last told to read what functions do.
    functions_read: Cell<u64>,
    /// [`DatabasePool::definitions`] at that moment.
    definitions_read: Cell<u64>,
    /// A client has changed the path by which names are looked up.
    paths_vary: Cell<bool>,
    /// A client has changed settings by which values are read, and had values read that a connection keeps.
    values_vary: Cell<bool>,
    /// Connections keep results of user-defined immutable functions: any setting may have affected them.
    results_kept: Rc<Cell<bool>>,
    /// An event trigger runs at each login: cleaning a connection does not run it again.
    has_login_trigger: Cell<bool>,
}

/// What a worker knows of the functions of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// A session of this worker has been told already.
    Told,
    /// It may be out of date.
    Doubted,
    /// It is out of date.
    Outdated,
}

impl DatabasePool {
    pub(super) fn start(
        route: &Arc<Route>,
        pool_registry: &Arc<PoolRegistry>,
        parts: PoolParts,
    ) -> Rc<DatabasePool> {
        let database_pool = Rc::new(DatabasePool {
            route: Arc::clone(route),
            permits: pool_registry.permits(route.id(), parts.workers),
            pool_registry: Arc::clone(pool_registry),
            parts,
            pools: RefCell::default(),
            waiting: RefCell::default(),
            closing: Cell::new(0),
            numbers: Cell::new(0),
            now: Cell::new(Moment::now()),
            surveyed: Cell::new(Moment::now()),
            functions_read: Cell::new(0),
            definitions_read: Cell::new(0),
            paths_vary: Cell::new(false),
            values_vary: Cell::new(false),
            results_kept: Rc::default(),
            has_login_trigger: Cell::new(false),
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
    pub(super) fn is_pressed(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Grows when statements that were prepared before may mean something else now.
    pub(super) fn schema(&self) -> u64 {
        self.permits.schema()
    }

    /// Grows when functions of the database may do to sessions what they did not before.
    pub(super) fn functions(&self) -> u64 {
        self.permits.functions()
    }

    /// Grows when definitions that functions and domains use have changed: types, columns, other functions.
    /// Connections that keep the old ones are closed.
    pub(super) fn catalogue(&self) -> u64 {
        self.permits.catalogue()
    }

    /// The meaning of names or types has changed.
    pub(super) fn schema_changed(&self) {
        self.permits.schema_changed();
    }

    /// A command may have changed it: the catalogue is checked before a connection is lent.
    pub(super) fn doubt_schema(&self) {
        self.permits.shape.doubt();
    }

    /// Another event may have changed it: see [`Self::doubt_schema`].
    pub(super) fn guess_schema(&self) {
        self.permits.shape.guess();
    }

    /// An error may come from a change that was not noticed, and most often has another cause.
    pub(super) fn suspect_schema(&self) {
        self.permits.shape.suspect();
    }

    /// A session has seen this count of changes.
    pub(super) fn saw_changes(&self, changes: Option<&str>) {
        self.permits.shape.saw_changes(changes);
    }

    /// The catalogue has to be checked before a connection is lent.
    pub(super) fn is_look_due(&self) -> bool {
        self.permits.shape.due().is_some()
    }

    /// Checks the catalogue, if a check is due. A change outdates existing statements, and connections on
    /// which functions were called.
    pub(super) async fn look(&self, pooled: &mut Pooled, deadline: Instant) -> Result<(), TwinError> {
        if !self.is_look_due() {
            return Ok(());
        }
        pooled.on_server.lose_unnamed();
        let twin = &mut pooled.twin;
        self.permits.look(async |questions| twin.ask(questions, deadline).await).await
    }

    /// Grows when the definitions of functions, views or triggers have changed, or may have.
    pub(super) fn definitions(&self) -> u64 {
        self.permits.definitions()
    }

    pub(super) fn definitions_changed(&self) {
        self.permits.definitions_changed();
    }

    /// Definitions are being changed from now on, until the value is dropped.
    pub(super) fn define(&self) -> Defining {
        self.permits.define()
    }

    /// A session of any worker is changing definitions at this moment.
    pub(super) fn is_being_defined(&self) -> bool {
        self.permits.is_being_defined()
    }

    /// What has become of the worker's knowledge of functions; reports each change once.
    pub(super) fn take_knowledge(&self) -> Knowledge {
        let is_outdated = self.definitions_read.replace(self.definitions()) != self.definitions();
        let is_doubted = self.functions_read.replace(self.functions()) != self.functions();
        match (is_outdated, is_doubted) {
            (true, _) => Knowledge::Outdated,
            (false, true) => Knowledge::Doubted,
            (false, false) => Knowledge::Told,
        }
    }

    /// The connection has been idle for `time`, give or take a second.
    pub(super) fn has_rested(&self, pooled: &Pooled, time: Duration) -> bool {
        pooled.rested.is_over(time, self.now.get())
    }

    /// Records what a loan that has ended did with names and values. `true`: the connection keeps meanings
    /// that hold for this client only, and cannot be lent any more.
    pub(super) fn keeps_other_meanings(&self, pooled: &mut Pooled, done: NamesUse) -> bool {
        pooled.keeps_found |= done.keeps_found();
        // The connection may have been lent before it was known how many settings affect these values.
        let keeps_others = done.keeps_values() && pooled.keeps_other_values(&pooled.state);
        if done.keeps_values() && pooled.keeps_values.is_none() {
            pooled.keeps_values = Some(Arc::clone(&pooled.state));
        }
        if done.changes_path() {
            self.paths_vary.set(true);
        }
        let by_own_values = done.keeps_values() && done.may_change_values();
        if by_own_values && !done.is_guess() {
            self.values_vary.set(true);
        }
        // A user-defined function may read the role.
        let by_own_role = self.results_kept.get() && done.keeps_values() && done.may_change_path();
        let by_own_path = done.keeps_found() && done.may_change_path();
        done.ran_opaque()
            || by_own_values
            || by_own_role
            || keeps_others
            || by_own_path
            || done.keeps_temporary()
            || self.keeps_what_varies(pooled)
    }

    /// What it keeps has another meaning for some clients, which may ask for it in the middle of a
    /// transaction.
    fn keeps_what_varies(&self, pooled: &Pooled) -> bool {
        pooled.keeps_found && self.paths_vary.get() || pooled.keeps_values.is_some() && self.values_vary.get()
    }

    /// A client has this state; its connections begin with the state `template`.
    pub(super) fn saw_path(&self, state: &SessionState, template: &SessionState) {
        if state.has_other_path(template) {
            self.paths_vary.set(true);
        }
    }

    /// A client has read what the database's code does.
    pub(super) fn saw_hints(&self, hints: Option<&Arc<Hints>>) {
        if let Some(hints) = hints {
            self.has_login_trigger.set(hints.has_login_trigger());
            if hints.keeps_results() {
                self.results_kept.set(true);
            }
        }
    }

    pub(super) fn has_login_trigger(&self) -> bool {
        self.has_login_trigger.get()
    }

    /// Whether the connection is where the database is, no RECONNECT came after it, the database is served,
    /// and what the connection keeps is still valid. Reads the record only after a change of the gate.
    fn is_current(&self, pooled: &mut Pooled) -> bool {
        if self.keeps_what_varies(pooled) || pooled.keeps_outdated(self.catalogue()) {
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
            pool.idle.take().into_iter().for_each(|pooled| self.close(pooled));
        }
    }

    /// Takes a connection back: for the first waiter, or for the next client.
    pub(super) fn give_back(self: &Rc<DatabasePool>, pool: &Rc<Pool>, mut pooled: Box<Pooled>) {
        pooled.rested = self.now.get();
        let is_worn = pooled.born.is_over(self.parts.settings.age_max, pooled.rested);
        if is_worn || !self.is_current(&mut pooled) {
            self.close(pooled);
            return self.grow();
        }
        if let Some(other) = self.permits.worker_in_need(self.parts.worker, false) {
            pooled.permit.give_to(other);
            return self.close(pooled);
        }
        self.place(pool, pooled);
    }

    /// Gives a used connection to a waiter or to its pool, or closes it to open one of another pool.
    fn place(self: &Rc<DatabasePool>, pool: &Rc<Pool>, pooled: Box<Pooled>) {
        match self.first_in_line() {
            Some(first) if !Rc::ptr_eq(&first, pool) && self.is_for_others(pool, pooled.is_new()) => {
                self.close(pooled);
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
        while let Some(at) = self.first_alike(pool) {
            let Some(waiter) = self.waiting.borrow_mut().remove(at) else { break };
            match waiter.gives.send(Ok(pooled)) {
                Err(Ok(back)) => pooled = back,
                _ => return self.look_who_waits(),
            }
        }
        pool.idle.borrow_mut().push(pooled);
        self.look_who_waits();
    }

    /// If no client waits here, other workers need not give up anything for this one.
    fn look_who_waits(&self) {
        if self.first_in_line().is_none() {
            self.nobody_waits();
        }
    }

    /// The gate allows connections to be opened.
    fn may_open(&self) -> bool {
        self.route.gate().state() == GateState::Open
    }

    fn nobody_waits(&self) {
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

    /// The permit becomes free when the server process is gone, or nearly so.
    fn close(self: &Rc<DatabasePool>, pooled: Box<Pooled>) {
        let database_pool = (!pooled.permit.is_given()).then(|| Rc::clone(self));
        if let Some(database_pool) = &database_pool {
            database_pool.closing.set(database_pool.closing.get() + 1);
        }
        event_loop::spawn(async move {
            let Pooled { mut twin, permit, pid: _pid, .. } = *pooled;
            twin.take_connection().terminate().await;
            drop(permit);
            if let Some(database_pool) = database_pool {
                database_pool.closing.set(database_pool.closing.get().saturating_sub(1));
            }
        });
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
            None => self.nobody_waits(),
            Some(_) => self.permits.clear_waiting(self.parts.worker),
        }
    }

    /// Opens connections while there are permits. `false`: a client waits and there is no permit.
    fn open_for_waiters(self: &Rc<DatabasePool>) -> bool {
        while let Some((_, pool)) = self.next_to_open(0) {
            let Some(permit) = self.permit() else { return false };
            pool.opening.set(pool.opening.get() + 1);
            event_loop::spawn(Rc::clone(self).open(pool, permit));
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
        let openable = |waiter: &Waiter| !waiter.gives.is_closed() && !waiter.pool.rests();
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
        if self.next_to_open(self.closing.get()).is_some()
            && let Some(idle) = self.take_longest_idle()
        {
            self.close(idle);
        }
    }

    fn take_longest_idle(&self) -> Option<Box<Pooled>> {
        let pools = self.pools.borrow();
        let rested = |pool: &&Rc<Pool>| pool.idle.borrow().first().map(|pooled| pooled.rested);
        let longest = pools.iter().filter(|pool| rested(pool).is_some()).min_by_key(rested)?;
        let idle = longest.idle.borrow_mut().remove(0);
        Some(idle)
    }

    async fn open(self: Rc<DatabasePool>, pool: Rc<Pool>, permit: Permit) {
        let opened = Box::pin(self.connect(&pool, permit)).await;
        pool.opening.set(pool.opening.get().saturating_sub(1));
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
    async fn connect(&self, pool: &Rc<Pool>, permit: Permit) -> Result<Option<Pooled>, TwinError> {
        let Ok(_pass) = self.route.gate().try_connect(self.parts.worker) else { return Ok(None) };
        // Read inside the gate: it cannot change before the pass is dropped.
        let record = self.route.current();
        let request = pool.origin.request(record.place.clone(), &self.route);
        let deadline = Instant::now() + self.parts.connect_time_max;
        let twin = Twin::open(&request, &self.parts.connector, deadline).await?;
        let pid = self.route.session_table().enter_lent(pool.facts(twin.pid(), &record));
        let template = pool.learn(&twin);
        self.numbers.set(self.numbers.get() + 1);
        let now = Moment::now();
        self.now.set(now);
        Ok(Some(Pooled {
            number: self.numbers.get(),
            template: Arc::clone(&template.state),
            state: template.state,
            twin,
            on_server: OnServer::default(),
            record,
            schema: self.schema(),
            is_foreign: false,
            was_lent: false,
            lent_at: 0,
            ran_at: None,
            keeps_found: false,
            keeps_values: None,
            results_kept: Rc::clone(&self.results_kept),
            turn: 0,
            served: 0,
            opened: Instant::now(),
            born: now,
            rested: now,
            permit,
            pid,
        }))
    }

    /// The first waiter of the pool gets an error that waiting cannot cure; the others go on waiting, and
    /// opening is tried again after a while.
    fn fail(self: &Rc<DatabasePool>, pool: &Rc<Pool>, error: &TwinError) {
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

fn take_one(count: &mut u32) -> bool {
    let is_left = *count > 0;
    *count = count.saturating_sub(1);
    is_left
}
