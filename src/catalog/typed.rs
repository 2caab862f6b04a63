//! [`Catalog`]: the store with types. The generic part; each noun has a view of its own records.
//!
//! # Why no envelope
//! A value is the plain JSON of its record, without a version around it. During a rolling upgrade old and new
//! programs read the same keys: a reader ignores unknown fields (serde's default), and a new field is
//! optional or has a default. A version number would only let a program refuse what it could have read.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chain;
use super::guard::CommitGuard;
use super::store::{
    Compare, Durability, Entry, LeaseId, Range, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome, Write,
};
use super::trail::Trail;
use crate::model::DatabaseRecord;

/// How often an update is attempted if other writes come first.
pub const ATTEMPTS_MAX: u32 = 64;

/// A record and the commit that wrote it: what a compare-and-swap compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: Revision,
}

/// The records of a prefix in the order of their keys, as they were at `revision`.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    pub revision: Revision,
    pub records: Vec<Versioned<T>>,
}

impl<T> Listing<T> {
    pub fn into_values(self) -> Vec<T> {
        self.records.into_iter().map(|record| record.value).collect()
    }
}

/// The outcome of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    Committed(Revision),
    /// Another write came first; nothing was written.
    Conflict,
}

impl From<TxnOutcome> for Swap {
    fn from(outcome: TxnOutcome) -> Swap {
        match outcome {
            TxnOutcome::Committed(revision) => Swap::Committed(revision),
            TxnOutcome::Conflict => Swap::Conflict,
        }
    }
}

/// The typed view of a store. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    /// The audit entry to write with the next commit.
    trail: Option<Trail>,
    /// Of the user whose command writes.
    guard: Option<Arc<dyn CommitGuard>>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Catalog").field(&self.store).finish()
    }
}

impl Catalog {
    pub fn new(store: Arc<dyn Store>) -> Catalog {
        Catalog { store, trail: None, guard: None }
    }

    /// The same store; the first commit through it also writes the entry.
    pub fn with_trail(&self, trail: &Trail) -> Catalog {
        let mut catalog = self.clone();
        catalog.trail = Some(trail.clone());
        catalog
    }

    /// The same store; what is written through it is written only while the guard permits it.
    pub fn with_guard(&self, guard: Arc<dyn CommitGuard>) -> Catalog {
        let mut catalog = self.clone();
        catalog.guard = Some(guard);
        catalog
    }

    /// Refuses a change of this record that the guard does not permit.
    pub(super) fn check_guard(&self, key: &str, database: &DatabaseRecord) -> Result<(), StoreError> {
        match self.guard.as_ref().is_none_or(|guard| guard.may_change(database)) {
            true => Ok(()),
            false => Err(StoreError::NotPermitted { key: key.to_owned() }),
        }
    }

    /// For the methods of this module: other modules know records, not entries.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Reads one record.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, StoreError> {
        match self.store.get(key).await?.entry {
            Some(entry) => decode(&entry).map(Some),
            None => Ok(None),
        }
    }

    /// Reads all records of a prefix. Fails if one of them cannot be read.
    pub async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Listing<T>, StoreError> {
        self.list_range(Range::of(prefix)).await
    }

    pub(super) async fn list_range<T: DeserializeOwned>(
        &self,
        range: Range,
    ) -> Result<Listing<T>, StoreError> {
        let Snapshot { revision, entries, .. } = self.store.range(range).await?;
        let records = entries.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Listing { revision, records })
    }

    /// Begins a transaction over several keys.
    pub fn batch(&self) -> Batch {
        Batch {
            store: Arc::clone(&self.store),
            txn: Txn::default(),
            trail: self.trail.clone(),
            unchanged: self.guard.as_ref().and_then(|guard| guard.unchanged()),
            broken: None,
        }
    }

    /// Writes unconditionally.
    pub async fn put<T: Serialize>(
        &self,
        key: String,
        value: &T,
        durability: Durability,
    ) -> Result<Revision, StoreError> {
        match self.batch().put(key.clone(), value).durability(durability).commit().await? {
            Swap::Committed(revision) => Ok(revision),
            // A write without conditions cannot conflict.
            Swap::Conflict => Err(StoreError::Contended { key, attempts: 1 }),
        }
    }

    /// Writes a record that must not exist yet.
    pub async fn create<T: Serialize>(&self, key: String, value: &T) -> Result<Swap, StoreError> {
        self.batch().absent(key.clone()).put(key, value).commit().await
    }

    /// Writes if the record was not written since `expected` was read: one attempt.
    pub async fn replace<T: Serialize>(
        &self,
        key: String,
        expected: Revision,
        value: &T,
    ) -> Result<Swap, StoreError> {
        self.batch().unchanged(key.clone(), expected).put(key, value).commit().await
    }

    /// Deletes if the record was not written since `expected` was read.
    pub async fn delete(&self, key: String, expected: Revision) -> Result<Swap, StoreError> {
        self.batch().unchanged(key.clone(), expected).delete(key).commit().await
    }

    /// Reads, changes and writes by compare-and-swap. Retries if another write came in between, at most
    /// [`ATTEMPTS_MAX`] times. `change` may run several times; its error ends the update. A change without
    /// effect writes nothing.
    ///
    /// Errors: [`StoreError::Missing`], [`StoreError::Contended`], [`StoreError::Unknown`] (it may have
    /// happened: read again).
    pub async fn update<T, E>(
        &self,
        key: String,
        mut change: impl FnMut(&mut T) -> Result<(), E> + Send,
    ) -> Result<Versioned<T>, E>
    where
        T: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync,
        E: From<StoreError> + Send,
    {
        for _ in 0..ATTEMPTS_MAX {
            let Some(current) = self.read::<T>(&key).await? else {
                return Err(StoreError::Missing { key }.into());
            };
            let mut value = current.value.clone();
            change(&mut value)?;
            if value == current.value {
                return Ok(current);
            }
            match self.replace(key.clone(), current.revision, &value).await? {
                Swap::Committed(revision) => return Ok(Versioned { value, revision }),
                Swap::Conflict => {}
            }
        }
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
    }

    /// The next number of a counter; the first is 1.
    pub async fn next_number(&self, key: String) -> Result<u64, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let current = self.read::<u64>(&key).await?;
            let next = current.as_ref().map_or(1, |current| current.value + 1);
            let swap = match current {
                Some(current) => self.replace(key.clone(), current.revision, &next).await?,
                None => self.create(key.clone(), &next).await?,
            };
            if let Swap::Committed(_) = swap {
                return Ok(next);
            }
        }
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX })
    }
}

/// A transaction under construction: all or nothing. If it writes audit entries, their link of the
/// [`chain`] is written with them.
#[derive(Debug)]
#[must_use = "nothing is written before commit"]
pub struct Batch {
    store: Arc<dyn Store>,
    txn: Txn,
    trail: Option<Trail>,
    /// What the guard of the catalogue compares.
    unchanged: Option<(String, Revision)>,
    broken: Option<StoreError>,
}

impl Batch {
    /// The key must not exist.
    pub fn absent(mut self, key: String) -> Batch {
        self.txn.compares.push(Compare::Absent { key });
        self
    }

    /// The key must not have been written since `revision`.
    pub fn unchanged(mut self, key: String, revision: Revision) -> Batch {
        self.txn.compares.push(Compare::Unchanged { key, revision });
        self
    }

    pub fn put<T: Serialize>(self, key: String, value: &T) -> Batch {
        self.put_as(key, value, None)
    }

    /// Writes a record that was read again, as it is: what this transaction writes refers to it, and a
    /// transaction that deletes it and has not seen the reference conflicts.
    pub fn refer_to<T: Serialize>(self, key: String, record: &Versioned<T>) -> Batch {
        self.unchanged(key.clone(), record.revision).put(key, &record.value)
    }

    /// The record is deleted when the lease ends.
    pub(super) fn put_under<T: Serialize>(self, lease: LeaseId, key: String, value: &T) -> Batch {
        self.put_as(key, value, Some(lease))
    }

    fn put_as<T: Serialize>(mut self, key: String, value: &T, lease: Option<LeaseId>) -> Batch {
        match serde_json::to_vec(value) {
            Ok(json) => self.txn.writes.push(Write::Put { key, value: Bytes::from(json), lease }),
            Err(source) => self.broken = Some(StoreError::Decode { key, source }),
        }
        self
    }

    pub fn delete(mut self, key: String) -> Batch {
        self.txn.writes.push(Write::Delete { key });
        self
    }

    pub fn durability(mut self, durability: Durability) -> Batch {
        self.txn.durability = durability;
        self
    }

    pub async fn commit(mut self) -> Result<Swap, StoreError> {
        let trail = self.trail.take().filter(|trail| !trail.is_written());
        if let Some(trail) = &trail {
            self = self.put(trail.key().to_owned(), trail.entry());
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        let unchanged = self.unchanged.take();
        self.txn
            .compares
            .extend(unchanged.clone().map(|(key, revision)| Compare::Unchanged { key, revision }));
        let outcome = match chain::is_audited(&self.txn) {
            true => chain::commit(&self.store, self.txn).await?,
            false => self.store.commit(self.txn).await?,
        };
        let swap = Swap::from(outcome);
        if let (Swap::Conflict, Some((key, revision))) = (swap, unchanged)
            && self.store.get(&key).await?.entry.is_none_or(|entry| entry.revision != revision)
        {
            return Err(StoreError::NotPermitted { key });
        }
        if let (Swap::Committed(_), Some(trail)) = (swap, trail) {
            trail.note_written();
        }
        Ok(swap)
    }
}

pub(super) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<Versioned<T>, StoreError> {
    serde_json::from_slice(&entry.value)
        .map(|value| Versioned { value, revision: entry.revision })
        .map_err(|source| StoreError::Decode { key: entry.key.clone(), source })
}
