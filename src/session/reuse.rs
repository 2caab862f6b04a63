//! Server connections that outlive their client, where databases are pooled by session: `pool.reuse_connections`.
//!
//! ```text
//!   client leaves ---> made as new ---> kept ---> lives? ---> the next client of its kind
//!                           |             |         |
//!                           +-------------+---------+---> closed
//! ```
//!
//! Owns the connections that are kept on a worker ([`Kept`]) and what becomes of one whose client has left. It deliberately
//! opens none: a client that finds none opens its own.
//!
//! # Why
//! To start a backend costs PostgreSQL milliseconds, and whoever connects for each request pays them each time. What the next
//! client gets is asked of the server and not assumed: a connection that DISCARD ALL does not make as new is closed. It
//! goes to clients alone that would have opened the same: same role, same password, same startup parameters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::serve::Origin;
use super::state::{StateTracker, reset};
use super::worker::Worker;
use crate::backend::ServerConnection;
use crate::error::chain;
use crate::model::{DatabaseId, Pooling, RouteRecord, SystemName, UnixMillis};
use crate::route::{LentFacts, LentPid, Route};
use crate::wire::message::frontend;

/// A server that does not do it in so long is busy, and better off without the connection.
const RESET_MAX: Duration = Duration::from_secs(1);

/// What functions of a database do is read again after this.
const HINTS_MAX: Duration = Duration::from_secs(60);

/// A connection that waits for its next client.
#[derive(Debug)]
struct Idle {
    connection: Box<ServerConnection>,
    origin: Arc<Origin>,
    record: Arc<RouteRecord>,
    route: Arc<Route>,
    opened_at: UnixMillis,
    since: Instant,
    _pid: LentPid,
}

/// Those of one worker.
#[derive(Debug, Default)]
pub(super) struct Kept {
    idle: RefCell<HashMap<DatabaseId, Vec<Idle>>>,
    /// When what functions do was read for the first of its connections.
    hints_at: RefCell<HashMap<DatabaseId, Instant>>,
}

/// A connection whose client has left.
pub(super) struct Left {
    pub(super) route: Arc<Route>,
    pub(super) origin: Arc<Origin>,
    pub(super) connection: Box<ServerConnection>,
    pub(super) tracker: StateTracker,
    /// Where it is.
    pub(super) record: Arc<RouteRecord>,
    pub(super) opened_at: UnixMillis,
}

/// One that is opened now would be the same.
fn is_current(opened: &RouteRecord, now: &RouteRecord) -> bool {
    opened.is_in_force(now) && now.pooling == Pooling::Session
}

impl Idle {
    fn close(self) {
        tokio::task::spawn_local(async move {
            let Idle { connection, _pid, .. } = self;
            connection.terminate().await;
        });
    }
}

impl Kept {
    /// The newest connection that a client with this origin can go on with, and when it was opened.
    pub(super) async fn take(
        &self,
        record: &RouteRecord,
        origin: &Origin,
        check_after: Duration,
    ) -> Option<(Box<ServerConnection>, UnixMillis)> {
        while let Some(mut idle) = self.pop(record, origin) {
            if is_current(&idle.record, record)
                && idle.connection.is_alive()
                && (idle.since.elapsed() < check_after || answers(&mut idle.connection).await)
            {
                return Some((idle.connection, idle.opened_at));
            }
            idle.close();
        }
        None
    }

    fn pop(&self, record: &RouteRecord, origin: &Origin) -> Option<Idle> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(&record.database)?;
        let at = idle.iter().rposition(|idle| *idle.origin == *origin)?;
        Some(idle.remove(at))
    }

    /// Closes one on this system, where it has none to spare for a client. `false`: none is kept there.
    pub(super) async fn make_room(&self, system: &SystemName) -> bool {
        let oldest = {
            let mut all = self.idle.borrow_mut();
            let mut there = all.values_mut().filter_map(|idle| {
                let at = idle.iter().position(|idle| idle.record.place.system == *system)?;
                Some((idle, at))
            });
            there.next().map(|(idle, at)| idle.remove(at))
        };
        let Some(Idle { connection, .. }) = oldest else { return false };
        connection.terminate().await;
        true
    }

    /// Closes what has been idle for too long, and what is not where its database is.
    pub(super) fn tidy(&self, idle_max: Duration) {
        self.idle.borrow_mut().retain(|_, all| {
            let (kept, rest) = std::mem::take(all).into_iter().partition(|idle| {
                idle.since.elapsed() < idle_max && is_current(&idle.record, &idle.route.current())
            });
            *all = kept;
            let rest: Vec<Idle> = rest;
            rest.into_iter().for_each(Idle::close);
            !all.is_empty()
        });
    }

    pub(super) fn close_all(&self) {
        self.idle.take().into_values().flatten().for_each(Idle::close);
    }

    fn has_room(&self, record: &RouteRecord, workers: usize) -> bool {
        let max = record.server_connections_max as usize;
        let kept = self.idle.borrow().get(&record.database).map_or(0, Vec::len);
        kept < max.div_ceil(workers.max(1))
    }

    fn are_hints_old(&self, database: &DatabaseId) -> bool {
        let mut read = self.hints_at.borrow_mut();
        match read.get(database) {
            Some(at) if at.elapsed() < HINTS_MAX => false,
            _ => {
                read.insert(database.clone(), Instant::now());
                true
            }
        }
    }
}

/// It has not been heard of for a while.
async fn answers(connection: &mut ServerConnection) -> bool {
    let mut question = BytesMut::new();
    frontend::query(&mut question, "");
    matches!(timeout(RESET_MAX, connection.run(&question)).await, Ok(Ok(_)))
}

/// Keeps the connection for the next client, or closes it. Returns at once.
pub(super) fn keep(worker: &Rc<Worker>, left: Left) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let mut left = left;
        let facts = LentFacts {
            pid: left.connection.pid,
            role: left.origin.role().to_string(),
            generation: left.record.generation,
            opened_at: left.opened_at,
        };
        let pid = left.route.roster().enter_lent(facts);
        let is_kept = is_as_new(&worker, &mut left).await
            // Others may have come back meanwhile.
            && worker.kept.has_room(&left.record, worker.plane.workers);
        if !is_kept {
            return left.connection.terminate().await;
        }
        let Left { route, origin, connection, record, opened_at, .. } = left;
        let idle = Idle { connection, origin, record, route, opened_at, since: Instant::now(), _pid: pid };
        worker.kept.idle.borrow_mut().entry(idle.record.database.clone()).or_default().push(idle);
    });
}

/// The next client would find nothing of the one that has left.
async fn is_as_new(worker: &Rc<Worker>, left: &mut Left) -> bool {
    // Nothing is sent to a server that a move is about to leave.
    let Ok(_pass) = left.route.gate().try_connect(worker.index()) else { return false };
    let record = left.route.current();
    let is_wanted = is_current(&left.record, &record)
        && left.opened_at.until(UnixMillis::now()) < worker.plane.pool.age_max
        && worker.kept.has_room(&record, worker.plane.workers)
        && !worker.is_stopping();
    if !is_wanted {
        return false;
    }
    if worker.kept.are_hints_old(&record.database) {
        worker.forget_hints(&record.database);
    }
    let hints = worker.hints(&record.database);
    let resetting = Box::pin(reset(&mut left.connection, &mut left.tracker, &hints));
    match timeout(RESET_MAX, resetting).await {
        Ok(Ok(is_as_new)) => {
            // What it still had to say was for the client that has left.
            left.connection.take_async_messages();
            is_as_new
        }
        Ok(Err(error)) => {
            tracing::debug!(database = %record.name, error = %chain(&error), "a connection is not reused");
            false
        }
        Err(_) => false,
    }
}
