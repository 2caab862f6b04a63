//! What the functions of a database do, read before its sessions ask for their state.
//!
//! Owns one reading for all sessions of a worker. It deliberately keeps no answer: that is [`HintsCell`]'s. A
//! reading that fails is logged and nothing else: then the first session that takes its state asks on its own
//! connection, and its client waits for the answer.
//!
//! # Why a connection of its own
//! The question takes a server tens of milliseconds of CPU time, in a large database more. On a session's
//! connection, the session's client would wait for that. So would all clients, where the server has few CPUs
//! and each session asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::{ConnectRequest, connect};
use crate::error::chain;
use crate::event_loop::Task;
use crate::session::state::{HintsCell, fill_hints};
use crate::tls::Connector;

/// How long the server may take for the answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Then the server ends the question itself, and any code counts as not read.
const QUESTION_MAX: Duration = Duration::from_secs(9);

/// A reading that runs or is over; dropped, it stops.
#[derive(Debug)]
pub(in crate::session) struct HintsReader {
    over: CancellationToken,
    _task: Task<()>,
}

/// How the database is reached: as one of the sessions that wait.
#[derive(Debug)]
pub(in crate::session) struct ReaderPlan {
    pub(in crate::session) request: ConnectRequest,
    pub(in crate::session) connector: Connector,
    pub(in crate::session) connect_time_max: Duration,
}

impl HintsReader {
    /// Fills the cell.
    pub(in crate::session) fn start(hints: Arc<HintsCell>, plan: ReaderPlan) -> HintsReader {
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let task = Task::spawn(async move {
            let _over = guard;
            Box::pin(read(&hints, &plan)).await;
        });
        HintsReader { over, _task: task }
    }

    /// Cancelled when the answer is there, or none will come.
    pub(in crate::session) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

async fn read(hints: &HintsCell, plan: &ReaderPlan) {
    let deadline = Instant::now() + plan.connect_time_max;
    let connecting = Box::pin(connect(&plan.request, &plan.connector, deadline));
    let mut connection = match timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            return tracing::info!(error = %chain(&error), "no connection to read what functions do");
        }
        Err(_) => return tracing::info!("no connection in time to read what functions do"),
    };
    match timeout(ANSWER_MAX, fill_hints(&mut connection, hints, QUESTION_MAX)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(error = %chain(&error), "what functions do could not be read"),
        Err(_) => tracing::info!("what functions do was not read in time"),
    }
    connection.terminate().await;
}
