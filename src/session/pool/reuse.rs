//! Server connections that outlive their client, where databases are pooled by session:
//! `pool.reuse_connections`.
//!
//! ```text
//!   client leaves ---> made as new ---> kept ---> lives? ---> the next client of its kind
//!                           |             |         |
//!                           +-------------+---------+---> closed
//! ```
//!
//! Owns the connections that are kept on a worker ([`Kept`]) and what becomes of one after its client has
//! left. It deliberately opens none: a client that finds none opens its own.
//!
//! # Why
//! Starting a backend costs PostgreSQL milliseconds, and a client that connects for each request pays them
//! each time. The server is asked whether the connection is as new: it is closed if DISCARD ALL does not make
//! it so, or if it has functions that were read before definitions changed. It goes only to a client that
//! would have opened the same one: same role, same password, same startup parameters.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::Catalogue;
use crate::backend::{ConnectRequest, ServerConnection};
use crate::error::chain;
use crate::event_loop;
use crate::model::{DatabaseId, Login, Pooling, RouteRecord, UnixMillis};
use crate::route::{LentFacts, LentPid, Route};
use crate::session::serve::Origin;
use crate::session::state::{Hints, HintsCell, ResetOutcome, Residue, StateTracker, reset};
use crate::session::worker::{HINTS_MAX, Worker};
use crate::wire::message::frontend;

/// A server that does not finish the reset in this time is busy, and better off without the connection.
const RESET_MAX: Duration = Duration::from_secs(1);

/// Time limit for the catalogue's digest; after it, the client gets a new connection.
pub(in crate::session) const LOOK_MAX: Duration = Duration::from_secs(5);

/// A reading that was asked for longer ago is forgotten.
const READING_KEPT_MAX: Duration = Duration::from_secs(600);

/// Polling interval while another session reads the hints.
const HINTS_POLL: Duration = Duration::from_millis(20);

/// A connection that waits for its next client.
#[derive(Debug)]
struct Idle {
    connection: Box<ServerConnection>,
    origin: Arc<Origin>,
    record: Arc<RouteRecord>,
    route: Arc<Route>,
    past: Past,
    catalogue: Catalogue,
    since: Instant,
    /// The login with which its role was last seen.
    login: Arc<Login>,
    _pid: LentPid,
}

/// The kept connections of one worker.
#[derive(Debug, Default)]
pub(in crate::session) struct Kept {
    idle: RefCell<HashMap<DatabaseId, Vec<Idle>>>,
    hints: RefCell<HashMap<DatabaseId, Reading>>,
}

/// What functions of a database do to sessions, or a question for it that is on its way.
#[derive(Debug, Clone)]
struct Reading {
    asked: Instant,
    /// Filled by the session that asked.
    answer: Arc<HintsCell>,
}

impl Reading {
    fn is_known(&self) -> bool {
        self.answer.get().is_some()
    }

    /// The session that asked may still get the answer.
    fn is_awaited(&self) -> bool {
        !self.is_known() && self.asked.elapsed() < RESET_MAX
    }
}

/// Outcome of asking a server whether its connection lives.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    Lives,
    Ended,
    Silent,
}

/// A connection that its client has left.
pub(in crate::session) struct Left {
    pub(in crate::session) route: Arc<Route>,
    pub(in crate::session) origin: Arc<Origin>,
    pub(in crate::session) connection: Box<ServerConnection>,
    pub(in crate::session) tracker: StateTracker,
    /// The place of the connection.
    pub(in crate::session) record: Arc<RouteRecord>,
    pub(in crate::session) past: Past,
}

/// What earlier clients did on a connection that may outlive them.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Past {
    pub(in crate::session) opened_at: UnixMillis,
    /// The [`Catalogue::number`] when a client that may have called functions, or the present one, got it.
    read_at: u64,
    /// A client before the present one may have called functions.
    has_run: bool,
}

impl Past {
    /// The past of a connection that was opened just now.
    pub(in crate::session) fn new(read_at: u64) -> Past {
        Past { opened_at: UnixMillis::now(), read_at, has_run: false }
    }

    /// Whether definitions that the connection keeps may have changed since.
    fn keeps_outdated(&self, catalogue: &Catalogue) -> bool {
        self.has_run && self.read_at != catalogue.number()
    }
}

/// A connection that is opened now would be the same.
fn is_current(opened: &RouteRecord, now: &RouteRecord) -> bool {
    opened.is_in_force(now) && now.terms.pooling == Pooling::Session
}

impl Idle {
    /// A client that can use it may still connect.
    fn is_wanted(&mut self) -> bool {
        if !is_current(&self.record, &self.route.current()) || self.past.keeps_outdated(&self.catalogue) {
            return false;
        }
        match self.route.login(self.origin.role().as_str()) {
            Some(login) if Arc::ptr_eq(&login, &self.login) => true,
            Some(login) if self.origin.comes_in_by(&login) => {
                self.login = login;
                true
            }
            _ => false,
        }
    }

    /// Whether the connection has the definitions that a new one would have.
    async fn reads_as_new(&mut self) -> Sign {
        if !self.past.has_run {
            self.past.read_at = self.catalogue.number();
            return Sign::Lives;
        }
        // A connection that is known to be outdated needs no check.
        if self.past.keeps_outdated(&self.catalogue) {
            return Sign::Ended;
        }
        match timeout(LOOK_MAX, self.catalogue.look(&mut self.connection)).await {
            Ok(Ok(())) if !self.past.keeps_outdated(&self.catalogue) => Sign::Lives,
            Ok(_) => Sign::Ended,
            Err(_) => Sign::Silent,
        }
    }

    fn close(self) {
        event_loop::spawn(async move {
            let Idle { connection, _pid, .. } = self;
            connection.terminate().await;
        });
    }
}

impl Kept {
    /// The newest connection that a client with this origin can use, and its past. If a server does not
    /// answer once, its other connections are closed without asking.
    pub(in crate::session) async fn take(
        &self,
        record: &RouteRecord,
        origin: &Origin,
        check_after: Duration,
    ) -> Option<(Box<ServerConnection>, Past)> {
        while let Some(mut idle) = self.pop(record, origin) {
            let mut sign = match is_current(&idle.record, record) && idle.connection.is_alive() {
                false => Sign::Ended,
                true if idle.since.elapsed() < check_after => Sign::Lives,
                true => ask(&mut idle.connection).await,
            };
            if sign == Sign::Lives {
                sign = idle.reads_as_new().await;
            }
            match sign {
                Sign::Lives => return Some((idle.connection, idle.past)),
                Sign::Ended => idle.close(),
                Sign::Silent => {
                    idle.close();
                    let others = self.idle.borrow_mut().remove(&record.database);
                    others.into_iter().flatten().for_each(Idle::close);
                }
            }
        }
        None
    }

    fn pop(&self, record: &RouteRecord, origin: &Origin) -> Option<Idle> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(&record.database)?;
        let at = idle.iter().rposition(|idle| *idle.origin == *origin)?;
        Some(idle.remove(at))
    }

    /// Closes a connection on the system of this request, which has none to spare: preferably one that counts
    /// against the same limits, of the role and the database. Returns when it is gone; `false`: none is kept
    /// there.
    pub(in crate::session) async fn make_room(&self, request: &ConnectRequest) -> bool {
        let Some(Idle { connection, .. }) = self.take_closest(request) else { return false };
        connection.terminate_fully().await;
        true
    }

    /// The oldest of the connections on that system that are most like the requested one.
    fn take_closest(&self, request: &ConnectRequest) -> Option<Idle> {
        let mut all = self.idle.borrow_mut();
        let there = all.iter().flat_map(|(database, kept)| {
            let numbered = kept.iter().enumerate();
            numbered.map(move |(at, idle)| (database, at, idle))
        });
        let likeness = |idle: &Idle| {
            (*idle.origin.role() == request.role, idle.record.place.dbname == request.place.dbname)
        };
        let (database, at, _) = there
            .filter(|(.., idle)| idle.record.place.system == request.place.system)
            .max_by_key(|&(_, at, idle)| (likeness(idle), Reverse(at)))?;
        let database = database.clone();
        Some(all.get_mut(&database)?.remove(at))
    }

    /// Closes connections that have been idle for too long, that are not where their database is, and those
    /// of roles that may not log in any more, or not with this password.
    pub(in crate::session) fn tidy(&self, idle_max: Duration) {
        self.idle.borrow_mut().retain(|_, all| {
            for mut idle in std::mem::take(all) {
                match idle.since.elapsed() < idle_max && idle.is_wanted() {
                    true => all.push(idle),
                    false => idle.close(),
                }
            }
            !all.is_empty()
        });
        self.hints.borrow_mut().retain(|_, reading| reading.asked.elapsed() < READING_KEPT_MAX);
    }

    pub(in crate::session) fn close_all(&self) {
        self.idle.take().into_values().flatten().for_each(Idle::close);
    }

    /// All workers together keep as many connections as the contract allows.
    fn has_room(&self, record: &RouteRecord, worker: &Worker) -> bool {
        let (max, workers) = (record.terms.server_connections_max as usize, worker.plane.workers.max(1));
        let share = max / workers + usize::from(worker.index() < max % workers);
        let kept = self.idle.borrow().get(&record.database).map_or(0, Vec::len);
        kept < share
    }

    /// What is known of the functions of a database without asking.
    pub(in crate::session) fn known_hints(&self, database: &DatabaseId) -> Option<Arc<Hints>> {
        self.hints.borrow().get(database)?.answer.get().cloned()
    }

    /// What is known of the functions of a database. `true`: no session has asked for a while, and the caller
    /// has to ask.
    ///
    /// The answer may take long, so one session asks, and others wait for the answer. If it fails, nothing is
    /// kept, and another session asks after a while.
    fn hints(&self, database: &DatabaseId) -> (Reading, bool) {
        let mut all = self.hints.borrow_mut();
        match all.get(database) {
            Some(reading) if reading.asked.elapsed() < HINTS_MAX => (reading.clone(), false),
            _ => {
                let before = all.get(database).map(|reading| reading.answer.doubted());
                let reading = Reading { asked: Instant::now(), answer: Arc::new(before.unwrap_or_default()) };
                all.insert(database.clone(), reading.clone());
                (reading, true)
            }
        }
    }
}

/// Asks a server that has not answered for a while whether the connection lives.
async fn ask(connection: &mut ServerConnection) -> Sign {
    let mut question = BytesMut::new();
    frontend::query(&mut question, "");
    match timeout(RESET_MAX, connection.run(&question)).await {
        Ok(Ok(_)) => Sign::Lives,
        Ok(Err(_)) => Sign::Ended,
        Err(_) => Sign::Silent,
    }
}

/// Keeps the connection for the next client, or closes it. Returns at once.
pub(in crate::session) fn keep(worker: &Rc<Worker>, left: Left) {
    let worker = Rc::clone(worker);
    let facts = LentFacts {
        pid: left.connection.pid,
        role: left.origin.role().to_string(),
        generation: left.record.generation,
        opened_at: left.past.opened_at,
    };
    // While the client is still in the session table, so that the connection is always listed.
    let pid = left.route.session_table().enter_lent(facts);
    event_loop::spawn(async move {
        let mut left = left;
        let login =
            left.route.login(left.origin.role().as_str()).filter(|login| left.origin.comes_in_by(login));
        let is_as_new = login.is_some() && is_as_new(&worker, &mut left).await;
        // Other connections may have been kept meanwhile.
        let login = login.filter(|_| is_as_new && worker.kept.has_room(&left.record, &worker));
        let Some(login) = login else { return left.connection.terminate().await };
        let Left { route, origin, connection, mut tracker, record, mut past } = left;
        past.has_run |= tracker.take_soil() != Residue::Clean;
        let (since, catalogue) = (Instant::now(), worker.catalogue(route.id()));
        let idle = Idle { connection, origin, record, route, past, catalogue, since, login, _pid: pid };
        worker.kept.idle.borrow_mut().entry(idle.record.database.clone()).or_default().push(idle);
    });
}

/// The next client would find nothing that the last one left.
async fn is_as_new(worker: &Rc<Worker>, left: &mut Left) -> bool {
    let (hints, asks) = worker.kept.hints(left.route.id());
    while !asks && hints.is_awaited() {
        tokio::time::sleep(HINTS_POLL).await;
    }
    if !asks && !hints.is_known() {
        return false;
    }
    let outcome = make_as_new(worker, left, &hints.answer).await;
    if asks && !hints.is_known() && outcome.is_some() {
        // The question was not needed; the next session may ask.
        worker.kept.hints.borrow_mut().remove(left.route.id());
    }
    outcome.unwrap_or(false)
}

/// `None`: the server did not finish what it was asked to do.
async fn make_as_new(worker: &Rc<Worker>, left: &mut Left, hints: &HintsCell) -> Option<bool> {
    // A server that a move is about to leave gets no more work.
    let Ok(_pass) = left.route.gate().try_connect(worker.index()) else { return Some(false) };
    let record = left.route.current();
    let is_wanted = is_current(&left.record, &record)
        && left.past.opened_at.until(UnixMillis::now()) < worker.plane.pool.age_max
        && worker.kept.has_room(&record, worker)
        && worker.takes_clients();
    if !is_wanted {
        return Some(false);
    }
    let resetting = Box::pin(reset(&mut left.connection, &mut left.tracker, hints));
    match timeout(RESET_MAX, resetting).await.ok()? {
        Ok(outcome) => {
            // Remaining messages were for the client that has left.
            left.connection.take_async_messages();
            if outcome == ResetOutcome::Outdated {
                worker.kept.hints.borrow_mut().remove(left.route.id());
            }
            Some(outcome == ResetOutcome::AsNew)
        }
        Err(error) => {
            tracing::debug!(database = %record.name, error = %chain(&error), "a connection is not reused");
            None
        }
    }
}
