//! Starts a task for each operation of a kind that has not ended, and watches for new ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, RecordEvent};

use super::driver::{AGAIN_AFTER, Driver};
use super::{IdOf, Operation, OperationRecord, RequestOf, WallClock};

/// The running operations of one kind. Dropping it leaves each where it is; the next start resumes them.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    listed: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts on the current runtime, and resumes every operation that has not ended. Settings may change
    /// while it runs: a step uses those from its beginning.
    pub fn start<O: Operation>(
        catalog: Catalog,
        settings: Arc<ArcSwap<O::Settings>>,
        clock: WallClock,
    ) -> Running {
        let (stop, listed) = (CancellationToken::new(), CancellationToken::new());
        let supervisor: Supervisor<O> = Supervisor {
            catalog,
            settings,
            clock,
            stop: stop.clone(),
            listed: listed.clone(),
            running: HashMap::new(),
            interrupted: HashSet::new(),
        };
        Running { task: tokio::spawn(supervisor.run()), stop, listed }
    }

    /// Returns when the operations of earlier processes are known: one that is recorded from now on was not
    /// interrupted.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn listed(&self) {
        self.listed.cancelled().await;
    }

    /// Stops each operation at its next safe point. A step that holds clients is not left half-way: it ends
    /// or is undone first.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // The panic hook has reported a panic of the task.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

struct Supervisor<O: Operation> {
    catalog: Catalog,
    settings: Arc<ArcSwap<O::Settings>>,
    clock: WallClock,
    stop: CancellationToken,
    /// Cancelled after the first listing.
    listed: CancellationToken,
    /// Channels that tell each task about requests.
    running: HashMap<IdOf<O>, watch::Sender<Option<RequestOf<O>>>>,
    /// Operations whose task ended with a panic.
    interrupted: HashSet<IdOf<O>>,
}

impl<O: Operation> Supervisor<O> {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        while !self.stop.is_cancelled() {
            match self.watch(&mut tasks).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, kind = O::KIND.as_str(), "operations cannot follow the catalogue");
                }
            }
            let stopped = self.stop.cancelled();
            let _ = tokio::time::timeout(AGAIN_AFTER, stopped).await;
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Runs until the watch of the catalogue ends or the supervisor stops.
    async fn watch(&mut self, tasks: &mut JoinSet<IdOf<O>>) -> Result<(), StoreError> {
        let prefix = O::prefix();
        let known = self.catalog.list::<O::Record>(&prefix).await?;
        let mut changes = self.catalog.watch::<O::Record>(&prefix, known.revision).await?;
        for record in known.into_values() {
            let is_interrupted = !self.listed.is_cancelled() || self.interrupted.remove(&record.id());
            self.notice(&record, is_interrupted, tasks);
        }
        self.listed.cancel();
        loop {
            // Both are cancel-safe.
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                changes = changes.next() => match changes? {
                    None => return Ok(()),
                    Some(changes) => {
                        for record in changes.into_iter().filter_map(RecordEvent::into_record) {
                            self.notice(&record.value, false, tasks);
                        }
                    }
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok(id) => {
                        self.running.remove(&id);
                        // Adopted while its task was ending.
                        if let Some(record) = self.catalog.read::<O::Record>(&O::key(id)).await? {
                            self.notice(&record.value, true, tasks);
                        }
                    }
                    Err(error) => {
                        let kind = O::KIND.as_str();
                        tracing::error!(%error, kind, "the task of an operation ended; beginning again from its record");
                        self.interrupted.extend(self.running.drain().map(|(id, _)| id));
                        tasks.shutdown().await;
                        return Ok(());
                    }
                },
            }
        }
    }

    fn notice(&mut self, record: &O::Record, is_interrupted: bool, tasks: &mut JoinSet<IdOf<O>>) {
        let (id, wanted) = (record.id(), record.request());
        if let Some(requests) = self.running.get(&id) {
            requests.send_if_modified(|request| std::mem::replace(request, wanted) != wanted);
            return;
        }
        if record.has_ended() || record.is_anothers() || self.stop.is_cancelled() {
            return;
        }
        let (tell, requests) = watch::channel(wanted);
        self.running.insert(id, tell);
        let driver: Driver<O> = Driver {
            catalog: self.catalog.clone(),
            settings: Arc::clone(&self.settings),
            clock: self.clock,
            stop: self.stop.clone(),
            id,
            is_interrupted,
            requests,
        };
        tasks.spawn(driver.run());
    }
}
