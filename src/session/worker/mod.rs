//! A worker: one thread, one event loop, the sessions that were handed to it.
//!
//! Owns what its sessions share: the scratch buffer that they borrow, the wakers of all of them, for when the
//! process stops, and the connections that outlive a session. [`run`] is its thread. A session never leaves
//! its worker.
//!
//! # Why
//! Measured on one machine: a bare relay on a work-stealing runtime costs half as much CPU again as on a
//! thread of its own for each core. What sessions share they share within a thread, so neither it nor the
//! loop that runs them needs a lock.

mod thread;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(super) use self::thread::run;
use super::DataPlaneShared;
use super::limits::{self, LimitsCache, Terms, Watch};
use super::migrate::closing::ClosingConnections;
use super::migrate::hints_reader::{HintsReader, ReaderPlan};
use super::pool::kept::KeptConnections;
use super::pool::{Catalogue, DatabasePool, PoolParts};
use super::state::HintsCell;
use super::statements::Texts;
use super::turn_clock::TurnClock;
use crate::backend::{Parameters, SharedParameters};
use crate::model::DatabaseId;
use crate::route::Route;

/// Size of one read of a session. Larger than any query, and large enough that bulk data needs few system
/// calls.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Sessions of a worker that take their state and build their twin at the same time, while the gate is open.
/// Few, because a client that sends a request meanwhile should wait for one question to its server, not for
/// many.
const TWIN_BUILDS_MAX: usize = 4;

/// Sessions of a worker that ask for their state at the same time, while the gate holds all clients: few
/// enough that each server answers soon, and enough that no worker waits for a single answer.
const STATE_QUESTIONS_MAX: usize = 8;

/// What the sessions of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    pub(super) plane: Arc<DataPlaneShared>,
    pub(super) clock: TurnClock,
    scratch: RefCell<Box<[u8]>>,
    stopping: Cell<bool>,
    /// By session; the watch is there once the session has begun.
    wakers: RefCell<HashMap<u64, (Waker, Option<Watch>)>>,
    /// The time limits of each role.
    terms: RefCell<LimitsCache>,
    next_session: Cell<u64>,
    /// Limits the twins that are built while clients run.
    pub(super) twin_builds: Arc<Semaphore>,
    /// Limits the questions for a state inside a hold.
    pub(super) state_questions: Arc<Semaphore>,
    /// Connections that sessions have replaced, to be closed.
    pub(super) closing: Rc<ClosingConnections>,
    /// What is known of the functions of each database that is about to move: read once for all its sessions.
    hints: RefCell<HashMap<DatabaseId, Known>>,
    parameters: RefCell<SharedParameters>,
    /// The pools of databases that lend their connections.
    pools: RefCell<HashMap<DatabaseId, Rc<DatabasePool>>>,
    /// Connections of clients that have left, for new clients.
    pub(super) kept: KeptConnections,
    /// Statements of clients with lent connections.
    pub(super) texts: RefCell<Texts>,
}

/// What is known of the functions of one database.
#[derive(Debug, Default)]
struct Known {
    hints: Arc<HintsCell>,
    /// Fills the cell, where a session wants to know it ahead of its question.
    reader: Option<HintsReader>,
}

/// While this lives, the session is woken when the worker stops.
#[derive(Debug)]
pub(super) struct Registered {
    worker: Rc<Worker>,
    pub(super) session: u64,
}

impl Worker {
    fn new(index: usize, plane: Arc<DataPlaneShared>) -> Worker {
        Worker {
            index,
            plane,
            clock: TurnClock::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            stopping: Cell::new(false),
            wakers: RefCell::default(),
            terms: RefCell::default(),
            next_session: Cell::new(0),
            twin_builds: Arc::new(Semaphore::new(TWIN_BUILDS_MAX)),
            state_questions: Arc::new(Semaphore::new(STATE_QUESTIONS_MAX)),
            closing: Rc::default(),
            hints: RefCell::default(),
            parameters: RefCell::default(),
            pools: RefCell::default(),
            kept: KeptConnections::default(),
            texts: RefCell::default(),
        }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// For one poll of one session; the next session overwrites it.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether this process still accepts clients.
    pub(super) fn takes_clients(&self) -> bool {
        let door = &self.plane.door;
        !self.is_stopping() && !door.closing.is_cancelled() && !door.handing_over.is_cancelled()
    }

    /// A number for a new session: unique in the process; modulo the number of workers it is the worker's
    /// index.
    pub(super) fn register(self: &Rc<Worker>, waker: &Waker) -> Registered {
        let number = self.next_session.get() + 1;
        self.next_session.set(number);
        let session = number * self.plane.workers as u64 + self.index as u64;
        self.wakers.borrow_mut().insert(session, (waker.clone(), None));
        Registered { worker: Rc::clone(self), session }
    }

    pub(super) fn terms(&self, route: &Arc<Route>, role: &str) -> Rc<Terms> {
        self.terms.borrow_mut().terms(route, role, &self.plane.limits.load())
    }

    /// From now on the session's time is limited.
    pub(super) fn watch(&self, session: u64, watch: &Watch) {
        if let Some((_, place)) = self.wakers.borrow_mut().get_mut(&session) {
            *place = Some(watch.clone());
        }
    }

    fn look_at_clocks(&self) {
        let policy = self.plane.limits.load();
        let mut terms = self.terms.borrow_mut();
        terms.forget_unused();
        terms.renew(&policy);
        if !policy.is_timed() && !self.plane.frontend.routes.sets_timeouts() {
            return;
        }
        let sessions = self.wakers.borrow();
        limits::look_at(sessions.values().filter_map(|(waker, watch)| Some((waker, watch.as_ref()?))));
    }

    pub(super) fn hints(&self, database: &DatabaseId) -> Arc<HintsCell> {
        Arc::clone(&self.hints.borrow_mut().entry(database.clone()).or_default().hints)
    }

    /// Starts to read what the functions of a database do, unless a session has started it already. The token
    /// is cancelled when that is over.
    pub(super) fn learn_ahead(
        &self,
        database: &DatabaseId,
        plan: impl FnOnce() -> ReaderPlan,
    ) -> CancellationToken {
        let mut all = self.hints.borrow_mut();
        let Known { hints, reader } = all.entry(database.clone()).or_default();
        if hints.get().is_some() {
            let known = CancellationToken::new();
            known.cancel();
            return known;
        }
        reader.get_or_insert_with(|| HintsReader::start(Arc::clone(hints), plan())).over()
    }

    /// The database stays where it is; its functions may change before the next move.
    pub(super) fn forget_hints(&self, database: &DatabaseId) {
        if let Some(known) = self.hints.borrow_mut().get_mut(database) {
            *known = Known { hints: Arc::new(known.hints.outdated()), reader: None };
        }
    }

    /// Functions may have been changed by a client that does not connect through Freehold.
    pub(super) fn recheck_hints(&self, database: &DatabaseId) {
        if let Some(known) = self.hints.borrow_mut().get_mut(database) {
            *known = Known { hints: Arc::new(known.hints.to_be_checked()), reader: None };
        }
    }

    /// The pool from which sessions of this database get their connections.
    pub(super) fn database_pool(&self, route: &Arc<Route>) -> Rc<DatabasePool> {
        let start = || {
            let plane = &self.plane;
            let parts = PoolParts {
                worker: self.index,
                workers: plane.workers,
                connector: plane.connector.clone(),
                connect_time_max: plane.connect_time_max,
                settings: plane.pool,
            };
            DatabasePool::start(route, &plane.pool_registry, parts)
        };
        Rc::clone(self.pools.borrow_mut().entry(route.id().clone()).or_insert_with(start))
    }

    /// The catalogue state for this database's connections that belong to no pool.
    pub(super) fn catalogue(&self, database: &DatabaseId) -> Catalogue {
        self.plane.pool_registry.catalogue(database, self.plane.workers)
    }

    /// Connections of which a server reports the same parameters share one copy.
    pub(super) fn share(&self, parameters: &mut Parameters) {
        self.parameters.borrow_mut().share(parameters);
    }

    fn stop(&self) {
        self.stopping.set(true);
        self.wakers.borrow().values().for_each(|(waker, _)| waker.wake_by_ref());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.wakers.borrow_mut().remove(&self.session);
    }
}
