//! Drives moves: one task for each that has not ended, and one that watches for new ones.
//!
//! ```text
//!   supervise: list and watch moves --> a task per move: restarted? --> loop { next, record intent,
//!                     |                                                          ^    act, record }
//!                     +---- wishes of commands, as they are recorded ------------+
//! ```
//!
//! It deliberately offers no command: a wish in the record of a move is the only way to ask for something.
//!
//! # Why
//! The task of a move has no state that could be lost: at any instant the record, the route and the systems
//! together say where the move is. So an unreachable store, a panic and a kill -9 have one remedy: begin
//! again from the record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Change};
use crate::model::{MoveId, MoveRecord, MoveWish};

use super::driver::Driver;
use super::settings::MoverSettings;
use super::step::Clock;

/// Interval between attempts after the store or a task has failed.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The running mover. Dropping it leaves every move where it is; the next mover resumes them.
#[derive(Debug)]
pub struct Mover {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Mover {
    /// Starts on the current runtime, and resumes every move that has not ended. Settings may change while it
    /// runs: a step uses those from its beginning.
    pub fn start(catalog: Catalog, settings: Arc<ArcSwap<MoverSettings>>, clock: Clock) -> Mover {
        let stop = CancellationToken::new();
        let supervisor = Supervisor { catalog, settings, clock, stop: stop.clone(), running: HashMap::new() };
        Mover { task: tokio::spawn(supervisor.run()), stop }
    }

    /// Stops at the next safe point of each move. A cutover is not left half-way: it ends or is aborted
    /// first.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // The panic hook has reported a panic of the task.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

struct Supervisor {
    catalog: Catalog,
    settings: Arc<ArcSwap<MoverSettings>>,
    clock: Clock,
    stop: CancellationToken,
    /// Channels that tell each task about wishes.
    running: HashMap<MoveId, watch::Sender<Option<MoveWish>>>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        while !self.stop.is_cancelled() {
            match self.watch(&mut tasks).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the mover cannot follow the catalogue"),
            }
            let stopped = self.stop.cancelled();
            let _ = tokio::time::timeout(AGAIN_AFTER, stopped).await;
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Runs until the watch of the catalogue ends or the mover stops.
    async fn watch(&mut self, tasks: &mut JoinSet<MoveId>) -> Result<(), StoreError> {
        let moves = self.catalog.moves().await?;
        let mut changes = self.catalog.watch_moves(moves.revision).await?;
        for record in moves.into_values() {
            self.notice(&record, tasks);
        }
        loop {
            // Both are cancel-safe.
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                changes = changes.next() => match changes? {
                    None => return Ok(()),
                    Some(changes) => {
                        for record in changes.into_iter().filter_map(Change::into_record) {
                            self.notice(&record.value, tasks);
                        }
                    }
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok(id) => {
                        self.running.remove(&id);
                        // Adopted while its task was ending.
                        if let Some(record) = self.catalog.movement(id).await? {
                            self.notice(&record.value, tasks);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the task of a move ended; beginning again from its record");
                        self.running.clear();
                        tasks.shutdown().await;
                        return Ok(());
                    }
                },
            }
        }
    }

    fn notice(&mut self, record: &MoveRecord, tasks: &mut JoinSet<MoveId>) {
        let id = record.id;
        if let Some(wishes) = self.running.get(&id) {
            wishes.send_if_modified(|wish| std::mem::replace(wish, record.wish) != record.wish);
            return;
        }
        if record.phase.has_ended() || record.facts.claim_lost.is_some() || self.stop.is_cancelled() {
            return;
        }
        let (tell, wishes) = watch::channel(record.wish);
        self.running.insert(id, tell);
        let driver = Driver {
            catalog: self.catalog.clone(),
            settings: Arc::clone(&self.settings),
            clock: self.clock,
            stop: self.stop.clone(),
            id,
            wishes,
        };
        tasks.spawn(driver.run());
    }
}
