//! The connections of one worker that wait for their next client, where databases are pooled by session.
//!
//! Owns which client gets one, and when one is closed that no client has taken. [`reuse`](super::reuse) says
//! what happens before.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::Catalogue;
use crate::backend::{ConnectRequest, ServerConnection};
use crate::event_loop;
use crate::model::{DatabaseId, Login, Pooling, RouteRecord, UnixMillis};
use crate::route::{LentPid, Route};
use crate::session::origin::Origin;
use crate::session::state::{HINTS_MAX, Hints, HintsCell};
use crate::wire::message::frontend;

/// A server that does not finish the reset in this time is busy, and better off without the connection.
pub(super) const RESET_MAX: Duration = Duration::from_secs(1);

/// Time limit for the catalogue's digest; after it, the client gets a new connection.
pub(in crate::session) const LOOK_MAX: Duration = Duration::from_secs(5);

/// A reading that was asked for longer ago is forgotten.
const READING_KEPT_MAX: Duration = Duration::from_secs(600);

/// A connection that waits for its next client.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Box<ServerConnection>,
    pub(super) origin: Arc<Origin>,
    pub(super) record: Arc<RouteRecord>,
    pub(super) route: Arc<Route>,
    pub(super) history: ConnectionHistory,
    pub(super) catalogue: Catalogue,
    pub(super) since: Instant,
    /// The login with which its role was last seen.
    pub(super) login: Arc<Login>,
    pub(super) pid: LentPid,
}

/// The kept connections of one worker.
#[derive(Debug, Default)]
pub(in crate::session) struct KeptConnections {
    idle: RefCell<HashMap<DatabaseId, Vec<Idle>>>,
    hints: RefCell<HashMap<DatabaseId, Reading>>,
}

/// What functions of a database do to sessions, or a question for it that is on its way.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    asked: Instant,
    /// Filled by the session that asked.
    pub(super) answer: Arc<HintsCell>,
}

impl Reading {
    pub(super) fn is_known(&self) -> bool {
        self.answer.get().is_some()
    }

    /// The session that asked may still get the answer.
    pub(super) fn is_awaited(&self) -> bool {
        !self.is_known() && self.asked.elapsed() < RESET_MAX
    }
}

/// Outcome of asking a server whether its connection lives.
#[derive(Debug, PartialEq, Eq)]
enum Liveness {
    Lives,
    Ended,
    Silent,
}

/// What earlier clients did on a connection that may outlive them.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct ConnectionHistory {
    pub(in crate::session) opened_at: UnixMillis,
    /// The [`Catalogue::number`] when a client that may have called functions, or the present one, got it.
    read_at: u64,
    /// A client before the present one may have called functions.
    pub(super) has_run: bool,
}

impl ConnectionHistory {
    /// The history of a connection that was opened just now.
    pub(in crate::session) fn new(read_at: u64) -> ConnectionHistory {
        ConnectionHistory { opened_at: UnixMillis::now(), read_at, has_run: false }
    }

    /// Whether definitions that the connection keeps may have changed since.
    fn keeps_outdated(&self, catalogue: &Catalogue) -> bool {
        self.has_run && self.read_at != catalogue.number()
    }
}

/// A connection that is opened now would be the same.
pub(super) fn is_current(opened: &RouteRecord, now: &RouteRecord) -> bool {
    opened.is_in_force(now) && now.terms.pooling == Pooling::Session
}

impl Idle {
    /// A client that can use it may still connect.
    fn is_wanted(&mut self) -> bool {
        if !is_current(&self.record, &self.route.current()) || self.history.keeps_outdated(&self.catalogue) {
            return false;
        }
        match self.route.login(self.origin.role().as_str()) {
            Some(login) if Arc::ptr_eq(&login, &self.login) => true,
            Some(login) if self.origin.may_still_log_in(&login) => {
                self.login = login;
                true
            }
            _ => false,
        }
    }

    /// Whether the connection has the definitions that a new one would have.
    async fn reads_as_new(&mut self) -> Liveness {
        if !self.history.has_run {
            self.history.read_at = self.catalogue.number();
            return Liveness::Lives;
        }
        // A connection that is known to be outdated needs no check.
        if self.history.keeps_outdated(&self.catalogue) {
            return Liveness::Ended;
        }
        match timeout(LOOK_MAX, self.catalogue.check(&mut self.connection)).await {
            Ok(Ok(())) if !self.history.keeps_outdated(&self.catalogue) => Liveness::Lives,
            Ok(_) => Liveness::Ended,
            Err(_) => Liveness::Silent,
        }
    }

    fn close(self) {
        event_loop::spawn(async move {
            let Idle { connection, pid: _pid, .. } = self;
            connection.terminate().await;
        });
    }
}

impl KeptConnections {
    /// The newest connection that a client with this origin can use, and its history. If a server does not
    /// answer once, its other connections are closed without asking.
    pub(in crate::session) async fn take(
        &self,
        record: &RouteRecord,
        origin: &Origin,
        check_after: Duration,
    ) -> Option<(Box<ServerConnection>, ConnectionHistory)> {
        while let Some(mut idle) = self.pop(record, origin) {
            let mut sign = match is_current(&idle.record, record) && idle.connection.is_alive() {
                false => Liveness::Ended,
                true if idle.since.elapsed() < check_after => Liveness::Lives,
                true => ask(&mut idle.connection).await,
            };
            if sign == Liveness::Lives {
                sign = idle.reads_as_new().await;
            }
            match sign {
                Liveness::Lives => return Some((idle.connection, idle.history)),
                Liveness::Ended => idle.close(),
                Liveness::Silent => {
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
    pub(in crate::session) fn close_unneeded(&self, idle_max: Duration) {
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

    /// Keeps it until a client takes it.
    pub(super) fn put(&self, idle: Idle) {
        self.idle.borrow_mut().entry(idle.record.database.clone()).or_default().push(idle);
    }

    /// The next session that wants to know what the functions of the database do asks for it.
    pub(super) fn forget_hints(&self, database: &DatabaseId) {
        self.hints.borrow_mut().remove(database);
    }

    pub(in crate::session) fn close_all(&self) {
        self.idle.take().into_values().flatten().for_each(Idle::close);
    }

    /// Whether the worker with this index, of so many, may keep one more: all together keep as many
    /// connections as the contract allows.
    pub(super) fn has_room(&self, record: &RouteRecord, index: usize, workers: usize) -> bool {
        let (max, workers) = (record.terms.server_connections_max as usize, workers.max(1));
        let share = max / workers + usize::from(index < max % workers);
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
    pub(super) fn hints(&self, database: &DatabaseId) -> (Reading, bool) {
        let mut all = self.hints.borrow_mut();
        match all.get(database) {
            Some(reading) if reading.asked.elapsed() < HINTS_MAX => (reading.clone(), false),
            _ => {
                let before = all.get(database).map(|reading| reading.answer.to_be_checked());
                let reading = Reading { asked: Instant::now(), answer: Arc::new(before.unwrap_or_default()) };
                all.insert(database.clone(), reading.clone());
                (reading, true)
            }
        }
    }
}

/// Asks a server that has not answered for a while whether the connection lives.
async fn ask(connection: &mut ServerConnection) -> Liveness {
    let mut question = BytesMut::new();
    frontend::query(&mut question, "");
    match timeout(RESET_MAX, connection.run(&question)).await {
        Ok(Ok(_)) => Liveness::Lives,
        Ok(Err(_)) => Liveness::Ended,
        Err(_) => Liveness::Silent,
    }
}
