//! The store: a small ordered key-value space with revisions, in the shape of etcd.
//!
//! Two implementations pass one conformance suite: an embedded file for one process, etcd for a fleet.
//!
//! # Rules
//! * A [`Revision`] orders the commits of the whole store: each is greater than the one before, not always by
//!   one. Each key carries the revision that wrote it last. A commit that changes nothing has no revision of
//!   its own.
//! * [`Store::commit`] is all or nothing: every [`Compare`] holds, or nothing is written and the answer is
//!   [`Outcome::Conflict`].
//! * [`Store::watch`] yields every commit after a revision, in order, each commit as one batch. It may end at
//!   any time (`Ok(None)`, or [`StoreError::Compacted`]): then read the prefix again and watch from that
//!   revision.
//! * A lost answer is not a failure: after [`StoreError::Unknown`] read again until the outcome is known;
//!   never guess.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Blame, Explain, Retry, SqlState};

/// The number of a commit of the store. Later commits have greater numbers; there may be gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// The commit that wrote it last.
    pub revision: Revision,
}

/// All entries of a prefix, ordered by key, as they were at `revision`.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub revision: Revision,
    pub entries: Vec<Entry>,
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
    Put { key: String, value: Bytes },
    Delete { key: String },
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
pub enum Outcome {
    Committed(Revision),
    /// A condition did not hold; nothing was written.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Deleted { key: String, revision: Revision },
}

impl Event {
    pub fn key(&self) -> &str {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Deleted { key, .. } => key,
        }
    }
}

/// A watch of a prefix, one batch per commit.
#[async_trait]
pub trait Watch: Send {
    /// The next batch. `None`: the watch ended; read again. Cancel-safe: dropping the future loses no batch.
    async fn next(&mut self) -> Result<Option<Vec<Event>>, StoreError>;
}

#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Reads everything below a prefix.
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// Reads one key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Writes if every condition holds.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Watches the commits below a prefix after a revision. Fails with [`StoreError::Compacted`] if they are
    /// no longer kept.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;
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
            _ => SqlState::IO_ERROR,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Store
    }

    fn retry(&self) -> Retry {
        match self {
            StoreError::Decode { .. } | StoreError::Format { .. } | StoreError::Missing { .. } => {
                Retry::Never
            }
            StoreError::Contended { .. } | StoreError::Compacted { .. } => Retry::Now,
            _ => Retry::Later,
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }
}
