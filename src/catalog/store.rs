//! The store: a small ordered key-value space with revisions, in the shape of etcd.
//!
//! Two implementations pass one conformance suite: an embedded file for one process, etcd for a fleet.
//!
//! # Rules
//! * A [`Revision`] orders the commits of the whole store: each is greater than the one before, not always by
//!   one. Each key carries the revision that wrote it last. A commit that changes nothing has no revision of
//!   its own.
//! * [`Store::commit`] is all or nothing: every [`Compare`] holds, or nothing is written and the answer is
//!   [`TxnOutcome::Conflict`].
//! * [`Store::watch`] yields every commit after a revision, in order, each commit as one batch. It may end at
//!   any time (`Ok(None)`, or [`StoreError::Compacted`]): then read the prefix again and watch from that
//!   revision.
//! * A lost answer is not a failure: after [`StoreError::Unknown`] read again until the outcome is known;
//!   never guess.
//! * A commit may have [`TXN_OPERATIONS_MAX`] conditions and as many writes, each of another key. A store may
//!   refuse more.
//! * A [`Lease`] ends when it was not kept alive for its time, or is revoked. The keys that were last written
//!   under it are then deleted in one commit, which watches see like any other. It may live longer than its
//!   time, never shorter. A commit that names a lease which has ended fails with [`StoreError::LeaseGone`]
//!   and writes nothing.
//!
//! # Why these calls
//! Each is one call of etcd, so that etcd's guarantees are those of the store:
//!
//! | here | etcd |
//! |---|---|
//! | `get`, `range` | `Range`: the revision is that of its header, `newest_first` sorts by key, descending |
//! | `commit` | `Txn`: `Absent` compares the creation revision with 0, `Unchanged` the modification revision |
//! | `watch` | `Watch` from the revision behind `after` on; its responses in whole commits |
//! | `lease`, `keep_alive`, `revoke` | `LeaseGrant`, `LeaseKeepAlive`, `LeaseRevoke` |
//!
//! How often a lease is kept alive, and what to do when it is gone, is decided by its holder.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Blame, Explain, Retry, SqlState};

/// The number of a commit of the store. Later commits have greater numbers; there may be gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

/// How many conditions, and how many writes, every store accepts in one commit: etcd's `--max-txn-ops`.
pub const TXN_OPERATIONS_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// The commit that wrote it last.
    pub revision: Revision,
    /// The lease that the last write named: the entry is deleted when the lease ends.
    pub lease: Option<LeaseId>,
}

/// One key as it was at `revision`: a watch of the key from there misses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub revision: Revision,
    pub entry: Option<Entry>,
}

/// Which entries to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub prefix: String,
    /// Reading begins behind this key, in the order of the reading: the last key of the page before. The key
    /// need not exist.
    pub after: Option<String>,
    /// At most so many entries.
    pub limit: Option<usize>,
    /// In descending order of keys, instead of ascending order. The newest entry comes first where keys begin
    /// with a time or a number.
    pub newest_first: bool,
}

impl Range {
    /// Everything below a prefix, in ascending order of keys.
    pub fn of(prefix: impl Into<String>) -> Range {
        Range { prefix: prefix.into(), after: None, limit: None, newest_first: false }
    }

    pub fn after(mut self, key: impl Into<String>) -> Range {
        self.after = Some(key.into());
        self
    }

    pub fn limit(mut self, limit: usize) -> Range {
        self.limit = Some(limit);
        self
    }

    pub fn newest_first(mut self) -> Range {
        self.newest_first = true;
        self
    }
}

/// The entries of a range as they were at `revision`. Pages are read one by one: each has its own revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub revision: Revision,
    pub entries: Vec<Entry>,
    /// The limit left out further entries of the range.
    pub more: bool,
}

/// The identity of a lease. The store chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A lease as it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// How long it lives after the grant and after each keep-alive: at least the time that was asked for.
    pub ttl: Duration,
}

/// A condition of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Absent {
        key: String,
    },
    /// The key was last written by this revision.
    Unchanged {
        key: String,
        revision: Revision,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        key: String,
        value: Bytes,
        /// The entry is deleted when this lease ends. `None` also takes the entry from the lease of an
        /// earlier write.
        lease: Option<LeaseId>,
    },
    Delete {
        key: String,
    },
}

/// What a commit must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk (or on a quorum) before the answer.
    #[default]
    Synced,
    /// Visible at once, may be lost with the process: for acknowledgements, progress. etcd treats it like
    /// `Synced`.
    Relaxed,
}

#[derive(Debug, Clone, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
    pub durability: Durability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    Committed(Revision),
    /// A condition did not hold; nothing was written.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    Put(Entry),
    Deleted { key: String, revision: Revision },
}

impl StoreEvent {
    pub fn key(&self) -> &str {
        match self {
            StoreEvent::Put(entry) => &entry.key,
            StoreEvent::Deleted { key, .. } => key,
        }
    }
}

/// A watch of a prefix, one batch per commit.
#[async_trait]
pub trait Watch: Send {
    /// The next batch. `None`: the watch ended; read again. Cancel-safe: dropping the future loses no batch.
    async fn next(&mut self) -> Result<Option<Vec<StoreEvent>>, StoreError>;
}

#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Reads one key.
    async fn get(&self, key: &str) -> Result<Lookup, StoreError>;

    /// Reads the entries below a prefix, or a page of them.
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError>;

    /// Writes if every condition holds. Fails with [`StoreError::LeaseGone`], and writes nothing, if the
    /// conditions hold and a write names a lease that has ended.
    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Watches the commits below a prefix after a revision. Fails with [`StoreError::Compacted`] if they are
    /// no longer kept.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// Grants a lease that lives for this time, or longer. If the answer is lost, a lease without keys ends
    /// by itself.
    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Lets a lease live for its whole time again. Fails with [`StoreError::LeaseGone`] if it has ended: a
    /// lease does not come back.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now. When it returns, its keys are deleted. A lease that has ended already is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store {path}")]
    Open {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("another process uses the store {path}")]
    InUse { path: String },
    #[error("the store {path} has format {found}, this program knows format {known}")]
    Format { path: String, found: u64, known: u64 },
    #[error("cannot read {key} from the store")]
    Read {
        key: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot write to the store")]
    Write {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The commit may or may not have happened.
    #[error("the store did not answer a commit")]
    Unknown {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store has forgotten what happened after revision {after:?}")]
    Compacted { after: Revision },
    /// It was revoked, or not kept alive. What was written under it is deleted: write it under another one.
    #[error("lease {} of the store has ended", .lease.0)]
    LeaseGone { lease: LeaseId },
    #[error("the value of {key} in the store cannot be read")]
    Decode {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{key} was changed by somebody else each of {attempts} times")]
    Contended { key: String, attempts: u32 },
    #[error("{key} is not in the store")]
    Missing { key: String },
    /// The [`CommitGuard`](super::guard::CommitGuard) of the catalogue refuses the change.
    #[error("what the permission rests on has changed: {key}")]
    NotPermitted { key: String },
    /// A write to disk failed earlier. What is on disk is unknown, so every call fails until the process
    /// restarts.
    #[error("the store stopped after a failed write: {reason}")]
    Stopped { reason: String },
}

impl Explain for StoreError {
    fn sqlstate(&self) -> SqlState {
        match self {
            StoreError::Decode { .. } => SqlState::DATA_CORRUPTED,
            StoreError::Contended { .. } => SqlState::SERIALIZATION_FAILURE,
            StoreError::Missing { .. } => SqlState::UNDEFINED_OBJECT,
            StoreError::NotPermitted { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            _ => SqlState::IO_ERROR,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Store
    }

    fn retry(&self) -> Retry {
        match self {
            StoreError::Decode { .. }
            | StoreError::Format { .. }
            | StoreError::Missing { .. }
            | StoreError::NotPermitted { .. } => Retry::Never,
            StoreError::Contended { .. } | StoreError::Compacted { .. } => Retry::Now,
            _ => Retry::Later,
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }
}
