//! Watches with types.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::keys;
use super::store::{Event, Revision, StoreError, Watch};
use super::typed::{Catalog, Versioned, decode};
use crate::model::{Ack, DatabaseId, MoveRecord, RouteRecord};

/// What happened to one record.
#[derive(Debug)]
pub enum Change<T> {
    Put {
        key: String,
        record: Versioned<T>,
    },
    Deleted {
        key: String,
        revision: Revision,
    },
    /// It was written in a shape that this program does not know, perhaps by a newer one. Whoever follows keeps what it has.
    Unreadable {
        key: String,
        revision: Revision,
        error: StoreError,
    },
}

impl<T> Change<T> {
    pub fn key(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Deleted { key, .. } | Change::Unreadable { key, .. } => key,
        }
    }

    /// The commit that it is part of.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { record, .. } => record.revision,
            Change::Deleted { revision, .. } | Change::Unreadable { revision, .. } => *revision,
        }
    }

    /// The record, if it was written.
    pub fn into_record(self) -> Option<Versioned<T>> {
        match self {
            Change::Put { record, .. } => Some(record),
            Change::Deleted { .. } | Change::Unreadable { .. } => None,
        }
    }
}

/// The commits of a prefix as changes of records, one batch for each commit. See [`super::store::Store::watch`].
pub struct Changes<T> {
    watch: Box<dyn Watch>,
    record: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Changes<T> {
    /// The next commit. `None`: the watch ended, read again. Cancel-safe: no commit is lost by dropping the future.
    pub async fn next(&mut self) -> Result<Option<Vec<Change<T>>>, StoreError> {
        let events = self.watch.next().await?;
        Ok(events.map(|events| events.into_iter().map(change).collect()))
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

fn change<T: DeserializeOwned>(event: Event) -> Change<T> {
    match event {
        Event::Deleted { key, revision } => Change::Deleted { key, revision },
        Event::Put(entry) => match decode(&entry) {
            Ok(record) => Change::Put { key: entry.key, record },
            Err(error) => Change::Unreadable { revision: entry.revision, key: entry.key, error },
        },
    }
}

/// The acknowledgements of one database, of all proxies.
#[derive(Debug)]
pub struct AckChanges {
    changes: Changes<Ack>,
    database: DatabaseId,
}

impl AckChanges {
    /// The next commit that wrote acknowledgements of this database. `None`: the watch ended, read again. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Versioned<Ack>>>, StoreError> {
        loop {
            let Some(changes) = self.changes.next().await? else { return Ok(None) };
            let acks: Vec<_> = changes
                .into_iter()
                .filter(|change| keys::acknowledged_database(change.key()) == Some(self.database.as_str()))
                .filter_map(Change::into_record)
                .collect();
            if !acks.is_empty() {
                return Ok(Some(acks));
            }
        }
    }
}

impl Catalog {
    /// Every change below a prefix after a revision.
    pub async fn watch<T: DeserializeOwned>(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<Changes<T>, StoreError> {
        let watch = self.store().watch(prefix, after).await?;
        Ok(Changes { watch, record: PhantomData })
    }

    pub async fn watch_routes(&self, after: Revision) -> Result<Changes<RouteRecord>, StoreError> {
        self.watch(keys::ROUTES, after).await
    }

    pub async fn watch_moves(&self, after: Revision) -> Result<Changes<MoveRecord>, StoreError> {
        self.watch(keys::MOVES, after).await
    }

    /// The acknowledgements of a database as they are, and every change of them from then on.
    pub async fn watch_acks(
        &self,
        database: &DatabaseId,
    ) -> Result<(Vec<Versioned<Ack>>, AckChanges), StoreError> {
        let (revision, acks) = self.acks_at(database).await?;
        let changes = self.watch(keys::PROXIES, revision).await?;
        Ok((acks, AckChanges { changes, database: database.clone() }))
    }
}
