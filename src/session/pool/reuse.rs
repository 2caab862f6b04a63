//! Server connections that outlive their client, where databases are pooled by session:
//! `pool.reuse_connections`.
//!
//! ```text
//!   client leaves ---> made as new ---> kept ---> lives? ---> the next client of its kind
//!                           |             |         |
//!                           +-------------+---------+---> closed
//! ```
//!
//! Owns what becomes of a connection after its client has left; [`kept`](super::kept) has those that wait for
//! their next client. It deliberately opens none: a client that finds none opens its own.
//!
//! # Why
//! Starting a backend costs PostgreSQL milliseconds, and a client that connects for each request pays them
//! each time. The server is asked whether the connection is as new: it is closed if DISCARD ALL does not make
//! it so, or if it has functions that were read before definitions changed. It goes only to a client that
//! would have opened the same one: same role, same password, same startup parameters.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::kept::{ConnectionHistory, Idle, RESET_MAX, is_current};
use crate::backend::ServerConnection;
use crate::error::chain;
use crate::event_loop;
use crate::model::{RouteRecord, UnixMillis};
use crate::route::{LentFacts, Route};
use crate::session::origin::Origin;
use crate::session::state::{HintsCell, ResetOutcome, Residue, StateTracker, reset};
use crate::session::worker::Worker;

/// Polling interval while another session reads the hints.
const HINTS_POLL: Duration = Duration::from_millis(20);

/// A connection that its client has left.
pub(in crate::session) struct ReturnedConnection {
    pub(in crate::session) route: Arc<Route>,
    pub(in crate::session) origin: Arc<Origin>,
    pub(in crate::session) connection: Box<ServerConnection>,
    pub(in crate::session) tracker: StateTracker,
    /// The place of the connection.
    pub(in crate::session) record: Arc<RouteRecord>,
    pub(in crate::session) history: ConnectionHistory,
}

/// Keeps the connection for the next client, or closes it. Returns at once.
pub(in crate::session) fn keep(worker: &Rc<Worker>, left: ReturnedConnection) {
    let worker = Rc::clone(worker);
    let facts = LentFacts {
        pid: left.connection.pid,
        role: left.origin.role().to_string(),
        generation: left.record.generation,
        opened_at: left.history.opened_at,
    };
    // While the client is still in the session table, so that the connection is always listed.
    let pid = left.route.session_table().enter_lent(facts);
    event_loop::spawn(async move {
        let mut left = left;
        let login =
            left.route.login(left.origin.role().as_str()).filter(|login| left.origin.may_still_log_in(login));
        let is_as_new = login.is_some() && is_as_new(&worker, &mut left).await;
        // Other connections may have been kept meanwhile.
        let login = login.filter(|_| is_as_new && has_room(&worker, &left.record));
        let Some(login) = login else { return left.connection.terminate().await };
        let ReturnedConnection { route, origin, connection, mut tracker, record, mut history } = left;
        history.has_run |= tracker.take_residue() != Residue::Clean;
        let (since, catalogue) = (Instant::now(), worker.catalogue(route.id()));
        let idle = Idle { connection, origin, record, route, history, catalogue, since, login, pid };
        worker.kept.put(idle);
    });
}

fn has_room(worker: &Worker, record: &RouteRecord) -> bool {
    worker.kept.has_room(record, worker.index(), worker.plane.workers)
}

/// The next client would find nothing that the last one left.
async fn is_as_new(worker: &Rc<Worker>, left: &mut ReturnedConnection) -> bool {
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
        worker.kept.forget_hints(left.route.id());
    }
    outcome.unwrap_or(false)
}

/// `None`: the server did not finish what it was asked to do.
async fn make_as_new(worker: &Rc<Worker>, left: &mut ReturnedConnection, hints: &HintsCell) -> Option<bool> {
    // A server that a move is about to leave gets no more work.
    let Ok(_pass) = left.route.gate().try_connect(worker.index()) else { return Some(false) };
    let record = left.route.current();
    let is_wanted = is_current(&left.record, &record)
        && left.history.opened_at.until(UnixMillis::now()) < worker.plane.pool.age_max
        && has_room(worker, &record)
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
                worker.kept.forget_hints(left.route.id());
            }
            Some(outcome == ResetOutcome::AsNew)
        }
        Err(error) => {
            tracing::debug!(database = %record.name, error = %chain(&error), "a connection is not reused");
            None
        }
    }
}
