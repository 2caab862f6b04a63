//! The store of one process: a single file, without a server.
//!
//! Owns the file and one thread that writes it. All content is held in memory as well (it is small: a few
//! hundred bytes for each database), so reads need no IO and a watch iterates over the history. It
//! deliberately has no second writer: a second process gets [`StoreError::InUse`].
//!
//! Leases do not survive the process: only a process that has the store open can keep one alive. Keys that
//! are under a lease in the file are deleted when it is opened.
//!
//! Start with `memory` for the order of commits, then `writer` for group commit, `disk` for the file,
//! `leases` for what expires.

mod content;
mod disk;
mod leases;
mod memory;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::disk::Disk;
use self::memory::{Found, HistoryBounds, Memory, Relaxed};
use self::writer::{Message, Request, Revocation, lock};
use super::keys;
use super::store::{
    Durability, Lease, LeaseId, Lookup, Range, Revision, Snapshot, Store, StoreError, StoreEvent, Txn,
    TxnOutcome, Watch,
};
use super::typed::decode;
use crate::model::SystemRecord;

/// How many commits a watch may be behind before it must read everything again.
pub const HISTORY_MAX: usize = 1_024;

/// How many bytes the commits that are kept for watches may have. A watch that is further behind must read
/// everything again, too.
const HISTORY_BYTES_MAX: usize = 16 << 20;

/// A [`Store`] in one file.
pub struct EmbeddedStore {
    path: PathBuf,
    memory: Arc<Mutex<Memory>>,
    /// `None` only while dropping: the writer ends when its sender is dropped.
    writer: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    disk: Arc<Disk>,
    is_copied: bool,
}

impl EmbeddedStore {
    /// Opens the file, or creates it. Blocks for some milliseconds (an fsync): for the start of a process.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<EmbeddedStore>, StoreError> {
        EmbeddedStore::open_with_history(path, HISTORY_MAX)
    }

    /// Like [`EmbeddedStore::open`], keeping `history_max` commits in memory.
    pub fn open_with_history(
        path: impl AsRef<Path>,
        history_max: usize,
    ) -> Result<Arc<EmbeddedStore>, StoreError> {
        let path = path.as_ref().to_owned();
        let (disk, image) = open_disk(&path)?;
        let failed = |source| StoreError::Open { path: path.display().to_string(), source };
        let is_copied = disk.is_copied().map_err(failed)?;
        if !is_copied {
            disk.accept_place().map_err(failed)?;
        }
        let disk = Arc::new(disk);
        let memory = Arc::new(Mutex::new(Memory::new(
            image,
            HistoryBounds { commits: history_max, bytes: HISTORY_BYTES_MAX },
        )));
        let (sender, inbox) = mpsc::channel();
        let (shared, written) = (Arc::clone(&memory), Arc::clone(&disk));
        let thread = std::thread::Builder::new()
            .name("freehold-store".to_owned())
            .spawn(move || writer::run(&written, &shared, &inbox))
            .map_err(|e| StoreError::Open { path: path.display().to_string(), source: e.into() })?;
        Ok(Arc::new(EmbeddedStore {
            path,
            memory,
            writer: Some(sender),
            thread: Some(thread),
            disk,
            is_copied,
        }))
    }

    /// Whether the file was copied or restored since it was written, and [`EmbeddedStore::accept_place`] was
    /// not called.
    pub fn is_copied(&self) -> bool {
        self.is_copied
    }

    /// Makes the next start treat this file as the original. Blocks for some milliseconds (an fsync).
    pub fn accept_place(&self) -> Result<(), StoreError> {
        self.disk.accept_place().map_err(|source| StoreError::Write { source })
    }

    /// Removes the file if opening it has created it, and no administrator has made anything since: for a
    /// process that cannot start. The file is locked until the store is dropped.
    pub fn remove_if_unused(&self) -> std::io::Result<()> {
        let is_empty = |prefix| {
            let first = lock(&self.memory).range(&Range::of(prefix).limit(1));
            first.is_ok_and(|found| found.entries.is_empty())
        };
        // Nothing else can be made without one of these.
        match self.disk.is_new() && is_empty(keys::TEAMS) && is_empty(keys::SYSTEMS) {
            true => std::fs::remove_file(&self.path),
            false => Ok(()),
        }
    }

    /// The systems recorded in a file, for inspection. Changes nothing, and fails while a process serves.
    pub fn peek_systems(path: &Path) -> Result<Vec<SystemRecord>, StoreError> {
        let entries = Disk::peek(path, keys::SYSTEMS)?;
        entries.iter().map(|entry| decode(entry).map(|system| system.value)).collect()
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        let sent = self.writer.as_ref().is_some_and(|writer| writer.send(message).is_ok());
        match sent {
            true => Ok(()),
            false => Err(StoreError::Stopped { reason: "its writer has ended".to_owned() }),
        }
    }

    /// Commits through the writer; on disk before the answer.
    async fn commit_synced(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Commit(Request { txn, answer }))?;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unknown { source: "its writer has ended".into() }),
        }
    }
}

/// redb panics on some kinds of damage; the error then names the file.
fn open_disk(path: &Path) -> Result<(Disk, memory::Image), StoreError> {
    let opened = std::panic::catch_unwind(|| Disk::open(path));
    opened.unwrap_or_else(|_| {
        Err(StoreError::Open { path: path.display().to_string(), source: "the file is damaged".into() })
    })
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        lock(&self.memory).get(key)
    }

    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        lock(&self.memory).range(&range)
    }

    /// Dropping the future does not undo the commit: once polled, it may happen.
    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if txn.durability == Durability::Synced {
            return self.commit_synced(txn).await;
        }
        let relaxed = lock(&self.memory).relaxed(txn)?;
        match relaxed {
            Relaxed::Done { outcome, wake, nudge } => {
                wake.into_iter().for_each(Waker::wake);
                if nudge {
                    self.send(Message::Nudge)?;
                }
                Ok(outcome)
            }
            Relaxed::MustQueue(txn) => self.commit_synced(txn).await,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        lock(&self.memory).find(prefix, after)?;
        Ok(Box::new(EmbeddedWatch {
            memory: Arc::clone(&self.memory),
            prefix: prefix.to_owned(),
            after,
            place: None,
        }))
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let lease = lock(&self.memory).grant(ttl, Instant::now())?;
        self.send(Message::Granted)?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        lock(&self.memory).keep_alive(lease, Instant::now())
    }

    /// Dropping the future does not undo it: once polled, the lease ends.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Revoke(Revocation { lease, answer }))?;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unknown { source: "its writer has ended".into() }),
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// When the drop returns, every commit is on disk and the file is free.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            // The thread's panic was reported by its panic hook.
            let _ = thread.join();
        }
        let wake = lock(&self.memory).close();
        wake.into_iter().for_each(Waker::wake);
    }
}

/// A position in the history. Has no queue: a slow watcher costs nothing, and gets an error if it is too
/// late.
struct EmbeddedWatch {
    memory: Arc<Mutex<Memory>>,
    prefix: String,
    after: Revision,
    /// Where its waker is stored.
    place: Option<u64>,
}

impl EmbeddedWatch {
    fn poll_batch(&mut self, waker: &Waker) -> Poll<Result<Option<Vec<StoreEvent>>, StoreError>> {
        let mut memory = lock(&self.memory);
        match memory.find(&self.prefix, self.after) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(Found::Ended) => Poll::Ready(Ok(None)),
            Ok(Found::Batch(revision, events)) => {
                self.after = revision;
                Poll::Ready(Ok(Some(events)))
            }
            Ok(Found::Nothing(seen)) => {
                self.after = seen;
                self.place = Some(memory.wait(self.place, &self.prefix, waker));
                Poll::Pending
            }
        }
    }
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Option<Vec<StoreEvent>>, StoreError> {
        std::future::poll_fn(|context| self.poll_batch(context.waker())).await
    }
}

impl Drop for EmbeddedWatch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            lock(&self.memory).stop_waiting(place);
        }
    }
}
