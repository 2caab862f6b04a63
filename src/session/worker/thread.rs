//! The thread of a worker: it takes commands and spawns sessions, until it is told to stop.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::Worker;
use crate::event_loop::{self, TaskGroup};
use crate::session::accept::listeners::WorkerCommand;
use crate::session::{Begun, DataPlaneShared, limits, serve};

/// The worker's thread: returns when told to stop, or when every sender has been dropped.
pub(in crate::session) fn run(
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
                    close_connections(&worker);
                    let _ = stopped.send(());
                    return;
                }
                None => return close_connections(&worker),
            },
            _ = look.tick() => {
                worker.look_at_clocks();
                match worker.takes_clients() {
                    true => worker.kept.close_unneeded(worker.plane.pool.idle_time_max),
                    false => worker.kept.close_all(),
                }
            }
        }
    }
}

/// Closes the connections that are not a session's.
fn close_connections(worker: &Worker) {
    worker.pools.take().values().for_each(|database_pool| database_pool.close_all());
    worker.kept.close_all();
    worker.closing.close_all();
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
