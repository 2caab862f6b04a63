//! An audit entry that is written in the same commit as the change that it records.
//!
//! # Why
//! With a commit of its own, an entry is missing if the process dies between the two: a contract has changed,
//! and nothing records which administrator did it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::keys;
use crate::model::AuditEntry;

/// One entry, and whether it has been written. Clones share it.
#[derive(Debug, Clone)]
pub struct Trail(Arc<Pending>);

#[derive(Debug)]
struct Pending {
    key: String,
    entry: AuditEntry,
    written: AtomicBool,
}

impl Trail {
    /// `id` makes entries of one millisecond distinct; it is an argument because randomness is.
    pub fn new(id: ulid::Ulid, entry: AuditEntry) -> Trail {
        let key = keys::audit(entry.at, id);
        Trail(Arc::new(Pending { key, entry, written: AtomicBool::new(false) }))
    }

    pub fn entry(&self) -> &AuditEntry {
        &self.0.entry
    }

    pub fn key(&self) -> &str {
        &self.0.key
    }

    pub(super) fn is_written(&self) -> bool {
        self.0.written.load(Ordering::Acquire)
    }

    /// The entry was written, perhaps by the task of an operation.
    pub fn note_written(&self) {
        self.0.written.store(true, Ordering::Release);
    }
}
