//! The one thread that writes the file: group commit, and deferred writing of relaxed commits.
//!
//! # Why
//! redb blocks and an fsync takes milliseconds: neither may happen on a runtime thread. Commits that arrive
//! during one fsync share the next one.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::disk::Disk;
use super::memory::{Memory, Plan};
use crate::catalog::store::{Outcome, StoreError, Txn};

/// The most transactions that share one fsync.
const BATCH_MAX: usize = 256;
/// A relaxed commit is on disk after this time at the latest, or earlier with a synced one.
const LAZY: Duration = Duration::from_secs(1);

/// A message to the writer.
#[derive(Debug)]
pub(super) enum Message {
    Commit(Request),
    /// There are relaxed commits to write later.
    Nudge,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Locks the memory. A panic elsewhere cannot leave it half-changed: nothing in it panics between two writes.
pub(super) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until all senders are dropped, then writes what is left.
pub(super) fn run(disk: &Disk, memory: &Arc<Mutex<Memory>>, inbox: &Receiver<Message>) {
    let mut flush_at: Option<Instant> = None;
    loop {
        match receive(inbox, flush_at) {
            Received::Batch(requests) => {
                if commit(disk, memory, requests) {
                    flush_at = None;
                }
            }
            Received::Nudge => {
                flush_at.get_or_insert_with(|| Instant::now() + LAZY);
            }
            Received::Time => {
                flush(disk, memory);
                flush_at = None;
            }
            Received::Closed => break,
        }
    }
    flush(disk, memory);
}

enum Received {
    Batch(Vec<Request>),
    Nudge,
    Time,
    Closed,
}

fn receive(inbox: &Receiver<Message>, flush_at: Option<Instant>) -> Received {
    let first = match flush_at {
        None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
    };
    let mut batch = match first {
        Ok(Message::Commit(request)) => vec![request],
        Ok(Message::Nudge) => return Received::Nudge,
        Err(RecvTimeoutError::Timeout) => return Received::Time,
        Err(RecvTimeoutError::Disconnected) => return Received::Closed,
    };
    while batch.len() < BATCH_MAX {
        match inbox.try_recv() {
            Ok(Message::Commit(request)) => batch.push(request),
            // This batch takes the relaxed commits along.
            Ok(Message::Nudge) => {}
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    Received::Batch(batch)
}

/// Returns `true` if the relaxed commits were written, too.
fn commit(disk: &Disk, memory: &Mutex<Memory>, requests: Vec<Request>) -> bool {
    let (txns, answers): (Vec<_>, Vec<_>) = requests.into_iter().map(|r| (r.txn, r.answer)).unzip();
    let begun = lock(memory).begin(txns);
    let mut plan = match begun {
        Ok(plan) => plan,
        Err(error) => {
            refuse(answers, &error);
            return false;
        }
    };
    let written = !plan.commits.is_empty();
    if let Err(error) = write(disk, memory, &mut plan) {
        refuse(answers, &error);
        return false;
    }
    for (answer, outcome) in answers.into_iter().zip(plan.outcomes) {
        // The caller may have stopped waiting: the commit has happened all the same.
        let _ = answer.send(Ok(outcome));
    }
    written
}

fn refuse(answers: Vec<oneshot::Sender<Result<Outcome, StoreError>>>, error: &StoreError) {
    for answer in answers {
        let _ = answer.send(Err(StoreError::Unknown { source: error.to_string().into() }));
    }
}

fn flush(disk: &Disk, memory: &Mutex<Memory>) {
    let mut plan = lock(memory).begin_flush();
    // Later calls report the failure.
    let _ = write(disk, memory, &mut plan);
}

fn write(disk: &Disk, memory: &Mutex<Memory>, plan: &mut Plan) -> Result<(), StoreError> {
    if plan.lazy.is_empty() && plan.commits.is_empty() {
        return Ok(());
    }
    let result = disk.write(plan.lazy.iter().chain(&plan.commits));
    let wake = match &result {
        Ok(()) => lock(memory).land(plan),
        Err(error) => {
            tracing::error!(%error, "cannot write the store: it answers nothing until the process restarts");
            lock(memory).fail(error.to_string())
        }
    };
    wake.into_iter().for_each(std::task::Waker::wake);
    result.map_err(|source| StoreError::Write { source })
}
