//! A worker: one thread, one event loop, the sessions that were handed to it.
//!
//! Owns the thread's event loop, the scratch buffer that its sessions borrow, and the wakers of all sessions,
//! for when the process stops. A session never leaves its worker.
//!
//! # Why
//! Measured on one machine: a bare relay on a work-stealing runtime costs half as much CPU again as on a
//! thread of its own for each core. What sessions share they share within a thread, so neither it nor the
//! loop that runs them needs a lock.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::accept::listeners::{AcceptLoop, NewClient};
use super::limits::{self, LimitsCache, Terms, Watch};
use super::migrate::closing::ClosingConnections;
use super::pool::reuse::Kept;
use super::pool::{Catalogue, DatabasePool, PoolParts};
use super::state::HintsCell;
use super::statements::Texts;
use super::turn_clock::TurnClock;
use super::{Begun, DataPlaneShared, serve};
use crate::backend::{Parameters, SharedParameters};
use crate::event_loop::{self, TaskGroup};
use crate::model::DatabaseId;
use crate::route::Route;

/// Size of one read of a session. Larger than any query, and large enough that bulk data needs few system
/// calls.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Sessions of a worker that take their state and build their twin at the same time, while the gate is open.
/// Few, because a client that sends a request meanwhile should wait for one question to its server, not for
/// many.
const WARMERS_MAX: usize = 4;

/// Sessions of a worker that ask for their state at the same time, while the gate holds all clients: few
/// enough that each server answers soon, and enough that no worker waits for a single answer.
const ASKERS_MAX: usize = 8;

/// A command to a worker.
pub(super) enum WorkerCommand {
    Receive(Box<NewClient>),
    /// Accept clients as well.
    Accept(AcceptLoop, Begun),
    /// End every session at its next boundary, and all that are left after `drain`. Answered when none is
    /// left.
    Stop {
        drain: Duration,
        stopped: oneshot::Sender<()>,
    },
}

/// One session's share of a worker's load.
pub(super) struct LoadToken {
    counter: Arc<AtomicUsize>,
    _present: TaskTrackerToken,
}

impl LoadToken {
    pub(super) fn take(counter: &Arc<AtomicUsize>, present: TaskTrackerToken) -> LoadToken {
        counter.fetch_add(1, Ordering::Relaxed);
        LoadToken { counter: Arc::clone(counter), _present: present }
    }
}

impl Drop for LoadToken {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    pub(super) warmers: Arc<Semaphore>,
    /// Limits the questions for a state inside a hold.
    pub(super) askers: Arc<Semaphore>,
    /// Connections that sessions have replaced, to be closed.
    pub(super) closing: ClosingConnections,
    /// What is known of the functions of each database that is about to move: read once for all its sessions.
    hints: RefCell<HashMap<DatabaseId, Arc<HintsCell>>>,
    parameters: RefCell<SharedParameters>,
    /// The pools of databases that lend their connections.
    pools: RefCell<HashMap<DatabaseId, Rc<DatabasePool>>>,
    /// Connections of clients that have left, for new clients.
    pub(super) kept: Kept,
    /// Statements of clients with lent connections.
    pub(super) texts: RefCell<Texts>,
}

/// What functions of a database do to its sessions is read again after this time: another client may have
/// redefined them.
pub(super) const HINTS_MAX: Duration = Duration::from_secs(10);

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
            warmers: Arc::new(Semaphore::new(WARMERS_MAX)),
            askers: Arc::new(Semaphore::new(ASKERS_MAX)),
            closing: ClosingConnections::default(),
            hints: RefCell::default(),
            parameters: RefCell::default(),
            pools: RefCell::default(),
            kept: Kept::default(),
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
        !self.is_stopping() && !door.closing.is_cancelled() && !door.making_way.is_cancelled()
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
        Arc::clone(self.hints.borrow_mut().entry(database.clone()).or_default())
    }

    /// The database stays where it is; its functions may change before the next move.
    pub(super) fn forget_hints(&self, database: &DatabaseId) {
        self.hints.borrow_mut().remove(database);
    }

    /// Functions may have been changed by a client that does not connect through Freehold.
    pub(super) fn doubt_hints(&self, database: &DatabaseId) {
        if let Some(known) = self.hints.borrow_mut().get_mut(database) {
            *known = Arc::new(known.doubted());
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

/// The worker's thread: returns when told to stop, or when every sender has been dropped.
pub(super) fn run(
    index: usize,
    plane: Arc<DataPlaneShared>,
    commands: UnboundedReceiver<WorkerCommand>,
    begun: Begun,
) -> std::io::Result<()> {
    let worker = Rc::new(Worker::new(index, plane));
    let clock = Rc::clone(&worker);
    let working = async move {
        let _ = begun.send(());
        work(worker, commands).await;
    };
    event_loop::run(working, || clock.clock.forget())
}

async fn work(worker: Rc<Worker>, mut commands: UnboundedReceiver<WorkerCommand>) {
    let sessions = TaskGroup::default();
    let mut look = tokio::time::interval(limits::LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Both branches are cancel-safe: a message stays in the channel.
        tokio::select! {
            command = commands.recv() => match command {
                Some(WorkerCommand::Receive(arrival)) => {
                    sessions.spawn(serve::incoming(Rc::clone(&worker), arrival));
                }
                Some(WorkerCommand::Accept(accept_loop, begun)) => {
                    event_loop::spawn(async move {
                        if let Err(error) = accept_loop.serve(begun).await {
                            tracing::error!(%error, "clients cannot be accepted");
                        }
                    });
                }
                Some(WorkerCommand::Stop { drain, stopped }) => {
                    drain_sessions(&worker, &sessions, drain).await;
                    worker.pools.take().values().for_each(|database_pool| database_pool.close_all());
                    worker.kept.close_all();
                    worker.closing.close_all();
                    let _ = stopped.send(());
                    return;
                }
                None => return,
            },
            _ = look.tick() => {
                worker.look_at_clocks();
                match worker.takes_clients() {
                    true => worker.kept.tidy(worker.plane.pool.idle_time_max),
                    false => worker.kept.close_all(),
                }
            }
        }
    }
}

async fn drain_sessions(worker: &Worker, sessions: &TaskGroup, drain: Duration) {
    worker.stop();
    worker.kept.close_all();
    if tokio::time::timeout(drain, sessions.emptied()).await.is_err() {
        tracing::warn!(worker = worker.index, left = sessions.len(), "sessions did not end in time");
        sessions.abort_all();
        sessions.emptied().await;
    }
}
