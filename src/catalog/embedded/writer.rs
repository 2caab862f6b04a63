//! The one thread that writes the file: group commit, deferred writing of relaxed commits, the end of leases.
//!
//! # Why
//! redb blocks and an fsync takes milliseconds: neither may happen on a runtime thread. Commits that arrive
//! during one fsync share the next one.
//!
//! Leases end here because no commit is in flight between two batches: a commit in flight may name a lease.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::disk::Disk;
use super::memory::{Memory, Plan};
use crate::catalog::store::{LeaseId, StoreError, Txn, TxnOutcome};

/// The most transactions that share one fsync.
const BATCH_MAX: usize = 256;
/// A relaxed commit is on disk after this time at the latest, or earlier with a synced one.
const LAZY: Duration = Duration::from_secs(1);
/// If so much time passes between two looks at the leases, this process did not run, or the disk was slow:
/// their holders, which are in this process, could not keep them alive either, and get the whole time again.
const LATE: Duration = Duration::from_secs(1);

/// The longest time between two looks at the leases, if nothing delays them.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A message to the writer.
#[derive(Debug)]
pub(super) enum Message {
    Commit(Request),
    /// There are relaxed commits to write later.
    Nudge,
    /// There is a new lease, which may be overdue first.
    Granted,
    Revoke(Revocation),
}

#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) lease: LeaseId,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Result<TxnOutcome, StoreError>>,
}

/// Locks the memory. A panic elsewhere cannot leave it half-changed: nothing in it panics between two writes.
pub(super) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until all senders are dropped, then writes what is left.
pub(super) fn run(disk: &Disk, memory: &Arc<Mutex<Memory>>, inbox: &Receiver<Message>) {
    let mut flush_at: Option<Instant> = None;
    let mut looked_at = Instant::now();
    loop {
        let lease_end = lock(memory).next_lease_end();
        let look_at = lease_end.map(|at| at.min(looked_at + LOOK_EVERY));
        let received = receive(inbox, [flush_at, look_at].into_iter().flatten().min());
        if received.is_closed {
            break;
        }
        let mut is_lazy = received.is_nudged;
        if !received.commits.is_empty() && commit(disk, memory, received.commits) {
            (flush_at, is_lazy) = (None, false);
        }
        for Revocation { lease, answer } in received.revocations {
            let ended = end(disk, memory, lease);
            is_lazy |= ended.is_ok();
            // The caller may have stopped waiting: the lease has ended all the same.
            let _ = answer.send(ended);
        }
        let now = Instant::now();
        if now - looked_at > LATE {
            lock(memory).keep_all_alive(now);
        }
        is_lazy |= end_overdue(disk, memory, now);
        looked_at = now;
        if is_lazy {
            flush_at.get_or_insert(now + LAZY);
        }
        if flush_at.is_some_and(|at| at <= now) {
            flush(disk, memory);
            flush_at = None;
        }
    }
    flush(disk, memory);
}

#[derive(Default)]
struct Received {
    commits: Vec<Request>,
    revocations: Vec<Revocation>,
    is_nudged: bool,
    is_closed: bool,
}

impl Received {
    fn take(&mut self, message: Message) {
        match message {
            Message::Commit(request) => self.commits.push(request),
            Message::Revoke(revocation) => self.revocations.push(revocation),
            Message::Nudge => self.is_nudged = true,
            Message::Granted => {}
        }
    }
}

/// Waits for a message, or until this instant; takes the messages behind it along.
fn receive(inbox: &Receiver<Message>, until: Option<Instant>) -> Received {
    let mut received = Received::default();
    let first = match until {
        None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
    };
    match first {
        Ok(message) => received.take(message),
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => received.is_closed = true,
    }
    while received.commits.len() < BATCH_MAX
        && let Ok(message) = inbox.try_recv()
    {
        received.take(message);
    }
    received
}

/// Ends the leases that are overdue. Returns `true` if there may be commits to write.
fn end_overdue(disk: &Disk, memory: &Mutex<Memory>, now: Instant) -> bool {
    let mut has_ended = false;
    loop {
        let Some(lease) = lock(memory).overdue_lease(now) else { return has_ended };
        if end(disk, memory, lease).is_err() {
            return has_ended;
        }
        tracing::warn!(lease = lease.0, "a lease was not kept alive: its keys are deleted");
        has_ended = true;
    }
}

fn end(disk: &Disk, memory: &Mutex<Memory>, lease: LeaseId) -> Result<(), StoreError> {
    loop {
        let ended = lock(memory).end_lease(lease)?;
        if let Some(wake) = ended {
            wake.into_iter().for_each(std::task::Waker::wake);
            return Ok(());
        }
        flush(disk, memory);
    }
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
        let _ = answer.send(outcome.map_err(|lease| StoreError::LeaseGone { lease }));
    }
    written
}

fn refuse(answers: Vec<oneshot::Sender<Result<TxnOutcome, StoreError>>>, error: &StoreError) {
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
