//! Server connections that are lent: one client after the other, one transaction at a time.
//!
//! ```text
//!   worker                     process
//!   +-----------------------+  +---------+
//!   | Pool of "shop"        |  | Permits |  so many connections to "shop", whichever worker has them
//!   |   Shelf (app, {...})  |  +---------+
//!   |     idle, idle, idle  |      lend:       the newest idle one of the shelf, or wait
//!   |   Shelf (batch, {})   |      give back:  to who waits longest, or onto the shelf
//!   |   waiting: 1, 2, 3    |
//!   +-----------------------+
//! ```
//!
//! Owns connections between two clients, who waits for one, and opening and closing them. It deliberately knows nothing
//! of a client's state: that a connection has the state of the client who gets it is [`super::tenancy`]'s.
//!
//! # Why
//! A shelf is for one role and one list of startup parameters: what a client set in its startup packet is the ground that
//! RESET goes back to, and no SET can put it there. Clients wait in the order in which they came, whatever shelf
//! they need: a connection of another shelf is closed for the one who waits longest. A connection that was opened before
//! the database moved is never lent.

mod keeper;
mod permits;
mod shelf;
mod treasury;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::permits::Defining;
use self::permits::{Permit, Permits};
pub(super) use self::shelf::Shelf;
pub(super) use self::treasury::{Ground, Treasury};
use super::serve::Origin;
use super::state::{SessionState, Soil, reads_functions_otherwise};
use super::statements::OnServer;
use super::twin::{Twin, TwinError};
use crate::error::{Explain, Refusal, Retry, Severity, chain};
use crate::event_loop;
use crate::model::RouteRecord;
use crate::route::{GateState, LentPid, Moment, Route};
use crate::tls::Connector;

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// A client that has waited so long is told that it waits.
    pub notice_after: Duration,
    /// An idle connection is closed after this.
    pub idle_time_max: Duration,
    /// A connection is closed when it is given back and older than this.
    pub age_max: Duration,
    /// An idle connection is asked whether it lives before it is lent, after so long.
    pub check_after: Duration,
    /// So many connections of a database are left open, however long they are idle.
    pub idle_min: u32,
    /// So many more may be opened while somebody has waited for `reserve_after`.
    pub reserve: u32,
    pub reserve_after: Duration,
    /// The unnamed statement of the extended protocol is served from one that is kept on the server.
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

/// What a pool is told at its start.
#[derive(Debug)]
pub(super) struct PoolParts {
    pub(super) worker: usize,
    pub(super) workers: usize,
    pub(super) connector: Connector,
    pub(super) connect_time_max: Duration,
    pub(super) settings: PoolSettings,
}

/// A connection, and what it has.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) number: u64,
    pub(super) twin: Twin,
    /// What the twin has; shared with sessions that have the same.
    pub(super) state: Arc<SessionState>,
    /// What it began with.
    ground: Arc<SessionState>,
    pub(super) on_server: OnServer,
    pub(super) record: Arc<RouteRecord>,
    /// [`Pool::schema`] when its statements were made.
    pub(super) schema: u64,
    /// It was not opened by this pool.
    is_foreign: bool,
    /// The turn of the gate at which it was last seen to be where the database is.
    turn: u64,
    /// Both as the keeper's clock shows it.
    born: Moment,
    rested: Moment,
    permit: Permit,
    pid: LentPid,
}

impl Pooled {
    /// Its client has gone on with another connection: this one is closed when it comes back.
    pub(super) fn moved(&mut self, record: &Arc<RouteRecord>, pid: LentPid) {
        pid.set_borrower(self.pid.borrower());
        self.record = Arc::clone(record);
        self.pid = pid;
        self.is_foreign = true;
    }

    /// Its client's settings may have decided how functions were read, for good.
    fn reads_functions_otherwise(&self) -> bool {
        reads_functions_otherwise(&self.state, &self.ground)
    }

    /// Takes away what its client may have left.
    async fn clean(&mut self, soil: Soil, deadline: Instant) -> Result<(), TwinError> {
        // Those that its client made by SQL are part of the state that is to be gone.
        let soil = if self.state.statements.is_empty() { soil } else { Soil::Statements };
        self.twin.clean(soil, &self.ground, deadline).await?;
        self.state = Arc::clone(&self.ground);
        self.on_server.lose_unnamed();
        if soil == Soil::Statements {
            self.on_server = OnServer::default();
        }
        Ok(())
    }

    /// The session that has it from now on; `None`: it is idle.
    pub(super) fn lent_to(&self, session: Option<u64>) {
        self.pid.set_borrower(session);
    }
}

/// What somebody who waits is given.
pub(super) type Lending = Result<Box<Pooled>, Refusal>;

#[derive(Debug)]
struct Waiter {
    shelf: Rc<Shelf>,
    since: Instant,
    gives: oneshot::Sender<Lending>,
}

/// The connections of one database on one worker.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) route: Arc<Route>,
    parts: PoolParts,
    permits: Arc<Permits>,
    treasury: Arc<Treasury>,
    shelves: RefCell<Vec<Rc<Shelf>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    opening: Cell<u32>,
    numbers: Cell<u64>,
    /// Set by the keeper, so that no loan reads the time.
    now: Cell<Moment>,
    /// When the keeper last looked how many connections are not needed.
    surveyed: Cell<Moment>,
    /// [`Pool::functions`] when somebody of this worker was last told to read what they do.
    functions_read: Cell<u64>,
    /// [`Pool::definitions`] at that moment.
    definitions_read: Cell<u64>,
}

/// What a worker knows of the functions of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Somebody of this worker was told already.
    Told,
    /// It may not be right any more.
    Doubted,
    /// It is not right any more.
    Outdated,
}

impl Pool {
    pub(super) fn start(route: &Arc<Route>, treasury: &Arc<Treasury>, parts: PoolParts) -> Rc<Pool> {
        let pool = Rc::new(Pool {
            route: Arc::clone(route),
            permits: treasury.permits(route.id(), parts.workers),
            treasury: Arc::clone(treasury),
            parts,
            shelves: RefCell::default(),
            waiting: RefCell::default(),
            opening: Cell::new(0),
            numbers: Cell::new(0),
            now: Cell::new(Moment::now()),
            surveyed: Cell::new(Moment::now()),
            functions_read: Cell::new(0),
            definitions_read: Cell::new(0),
        });
        event_loop::spawn(keeper::keep(Rc::downgrade(&pool)));
        pool
    }

    /// The shelf for clients like this one.
    pub(super) fn shelf(self: &Rc<Pool>, origin: Origin) -> Rc<Shelf> {
        let mut shelves = self.shelves.borrow_mut();
        if let Some(known) = shelves.iter().find(|shelf| *shelf.origin == origin) {
            return Rc::clone(known);
        }
        let shelf = Rc::new(Shelf {
            ground: RefCell::new(self.treasury.ground(self.route.id(), &origin)),
            origin: Arc::new(origin),
            pool: Rc::clone(self),
            idle: RefCell::default(),
            surplus: Cell::default(),
            failure: RefCell::default(),
            failures: Cell::default(),
        });
        shelves.push(Rc::clone(&shelf));
        shelf
    }

    pub(super) fn settings(&self) -> &PoolSettings {
        &self.parts.settings
    }

    pub(super) fn connect_time_max(&self) -> Duration {
        self.parts.connect_time_max
    }

    /// Somebody waits: who has a connection at a boundary gives it back.
    pub(super) fn is_pressed(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Grows when statements that were prepared before may have results of another shape.
    pub(super) fn schema(&self) -> u64 {
        self.permits.schema()
    }

    /// Grows when functions of the database may do to sessions what they did not before.
    pub(super) fn functions(&self) -> u64 {
        self.permits.functions()
    }

    /// The shape of a result has changed, or may have.
    pub(super) fn schema_changed(&self) {
        self.permits.schema_changed();
    }

    /// Grows when what functions, views or triggers do has changed, or may have.
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

    /// Somebody changes definitions at this moment, on whatever worker.
    pub(super) fn is_being_defined(&self) -> bool {
        self.permits.is_being_defined()
    }

    /// What has become of what is known of functions, once after each change.
    pub(super) fn take_knowledge(&self) -> Knowledge {
        let is_outdated = self.definitions_read.replace(self.definitions()) != self.definitions();
        let is_doubted = self.functions_read.replace(self.functions()) != self.functions();
        match (is_outdated, is_doubted) {
            (true, _) => Knowledge::Outdated,
            (false, true) => Knowledge::Doubted,
            (false, false) => Knowledge::Told,
        }
    }

    /// Nobody has used it for so long, give or take a second.
    pub(super) fn has_rested(&self, pooled: &Pooled, time: Duration) -> bool {
        pooled.rested.is_over(time, self.now.get())
    }

    /// It is where the database is, no RECONNECT came after it, and the database is served. Looks closer only after a turn of the gate.
    fn is_current(&self, pooled: &mut Pooled) -> bool {
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
        self.route.current().server_connections_max.max(1)
    }

    /// The process stops: nothing is lent any more.
    pub(super) fn close_all(&self) {
        self.waiting.borrow_mut().clear();
        for shelf in self.shelves.take() {
            shelf.idle.take().into_iter().for_each(|pooled| self.close(pooled));
        }
    }

    /// Takes a connection back: for who waits longest, or for the next who comes.
    pub(super) fn give_back(self: &Rc<Pool>, shelf: &Rc<Shelf>, mut pooled: Box<Pooled>) {
        pooled.rested = self.now.get();
        let is_worn = pooled.born.is_over(self.parts.settings.age_max, pooled.rested);
        if is_worn || !self.is_current(&mut pooled) {
            self.close(pooled);
            return self.grow();
        }
        if let Some(other) = self.permits.needier(self.parts.worker, false) {
            pooled.permit.give_to(other);
            return self.close(pooled);
        }
        self.place(shelf, pooled);
    }

    fn place(self: &Rc<Pool>, shelf: &Rc<Shelf>, pooled: Box<Pooled>) {
        let Some(first) = self.first_in_line() else {
            self.nobody_waits();
            return shelf.idle.borrow_mut().push(pooled);
        };
        if !Rc::ptr_eq(&first, shelf) && self.may_open() && !first.rests() {
            self.close(pooled);
            return self.grow();
        }
        // Who is first is of its kind, or cannot be served now, with this permit or another.
        self.place_alike(shelf, pooled);
    }

    /// For who waits longest of those that it suits.
    fn place_alike(&self, shelf: &Rc<Shelf>, mut pooled: Box<Pooled>) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let alike = |waiter: &Waiter| Rc::ptr_eq(&waiter.shelf, shelf) && !waiter.gives.is_closed();
            let next = waiting.iter().position(alike).and_then(|at| waiting.remove(at));
            drop(waiting);
            let Some(waiter) = next else {
                return shelf.idle.borrow_mut().push(pooled);
            };
            match waiter.gives.send(Ok(pooled)) {
                Err(Ok(back)) => pooled = back,
                _ => return,
            }
        }
    }

    /// The gate lets connections be opened.
    fn may_open(&self) -> bool {
        self.route.gate().state() == GateState::Open
    }

    fn nobody_waits(&self) {
        self.permits.sate(self.parts.worker);
        self.permits.return_unused(self.parts.worker);
    }

    /// What kind of connection the one needs who waits longest.
    fn first_in_line(&self) -> Option<Rc<Shelf>> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|waiter| waiter.gives.is_closed()) {
            waiting.pop_front();
        }
        waiting.front().map(|waiter| Rc::clone(&waiter.shelf))
    }

    fn close(&self, pooled: Box<Pooled>) {
        event_loop::spawn(async move {
            let Pooled { mut twin, permit: _permit, pid: _pid, .. } = *pooled;
            // The permit is free when the server has no such process any more, or nearly so.
            twin.take_connection().terminate().await;
        });
    }

    /// Opens connections for those who wait, as far as there may be more.
    fn grow(self: &Rc<Pool>) {
        if !self.may_open() {
            return;
        }
        while let Some(shelf) = self.next_to_open() {
            let Some(permit) = self.permit() else {
                return self.permits.starve(self.parts.worker);
            };
            self.opening.set(self.opening.get() + 1);
            event_loop::spawn(Rc::clone(self).open(shelf, permit));
        }
        match self.first_in_line() {
            None => self.nobody_waits(),
            Some(_) => self.permits.sate(self.parts.worker),
        }
    }

    /// What the first one needs for whom no connection is being opened. Called whenever somebody begins to wait: it must not
    /// look at everybody who does.
    fn next_to_open(&self) -> Option<Rc<Shelf>> {
        let waiting = self.waiting.borrow();
        let mut openable = waiting.iter().filter(|waiter| !waiter.gives.is_closed() && !waiter.shelf.rests());
        openable.nth(self.opening.get() as usize).map(|waiter| Rc::clone(&waiter.shelf))
    }

    /// A free one, or that of an idle connection which nobody waits for.
    fn permit(&self) -> Option<Permit> {
        let late = |waiter: &Waiter| waiter.since.elapsed() >= self.parts.settings.reserve_after;
        let reserve = match self.waiting.borrow().front().is_some_and(late) {
            true => self.parts.settings.reserve,
            false => 0,
        };
        if let Some(permit) = self.permits.take(self.parts.worker, self.limit() + reserve) {
            return Some(permit);
        }
        // Its permit comes back when it is closed, and that is heard.
        if let Some(idle) = self.take_longest_idle() {
            self.close(idle);
        }
        None
    }

    fn take_longest_idle(&self) -> Option<Box<Pooled>> {
        let shelves = self.shelves.borrow();
        let rested = |shelf: &&Rc<Shelf>| shelf.idle.borrow().first().map(|pooled| pooled.rested);
        let longest = shelves.iter().filter(|shelf| rested(shelf).is_some()).min_by_key(rested)?;
        let idle = longest.idle.borrow_mut().remove(0);
        Some(idle)
    }

    async fn open(self: Rc<Pool>, shelf: Rc<Shelf>, permit: Permit) {
        let opened = Box::pin(self.connect(&shelf, permit)).await;
        self.opening.set(self.opening.get().saturating_sub(1));
        match opened {
            Ok(Some(pooled)) => {
                shelf.succeeded();
                self.place(&shelf, Box::new(pooled));
            }
            // Not now; the keeper looks again at the next turn.
            Ok(None) => {}
            Err(error) => self.fail(&shelf, &error),
        }
    }

    /// `None`: the gate lets no connection be opened now.
    async fn connect(&self, shelf: &Rc<Shelf>, permit: Permit) -> Result<Option<Pooled>, TwinError> {
        let Ok(_pass) = self.route.gate().try_connect(self.parts.worker) else { return Ok(None) };
        // Read inside the gate: it cannot change before the pass is dropped.
        let record = self.route.current();
        let request = shelf.origin.request(record.place.clone(), &self.route);
        let deadline = Instant::now() + self.parts.connect_time_max;
        let twin = Twin::open(&request, &self.parts.connector, deadline).await?;
        let pid = self.route.roster().enter_lent(shelf.facts(twin.pid(), &record));
        let ground = shelf.learn(&twin);
        self.numbers.set(self.numbers.get() + 1);
        let now = Moment::now();
        self.now.set(now);
        Ok(Some(Pooled {
            number: self.numbers.get(),
            ground: Arc::clone(&ground.state),
            state: ground.state,
            twin,
            on_server: OnServer::default(),
            record,
            schema: self.schema(),
            is_foreign: false,
            turn: 0,
            born: now,
            rested: now,
            permit,
            pid,
        }))
    }

    /// Who waits longest is told what cannot get better; the rest waits on, and it is tried again after a while.
    fn fail(self: &Rc<Pool>, shelf: &Rc<Shelf>, error: &TwinError) {
        let name = &self.route.current().name;
        tracing::warn!(database = %name, error = %chain(error), "no server connection for the pool");
        if error.retry() == Retry::Never {
            let mut waiting = self.waiting.borrow_mut();
            if let Some(at) = waiting.iter().position(|waiter| Rc::ptr_eq(&waiter.shelf, shelf))
                && let Some(waiter) = waiting.remove(at)
            {
                let _ = waiter.gives.send(Err(error.refusal(Severity::Error)));
            }
        }
        shelf.failed(error.message());
        self.permits.ring(self.parts.worker);
    }
}
