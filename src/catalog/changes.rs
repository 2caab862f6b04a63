//! Typed watches.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::keys;
use super::store::{Event, Revision, StoreError, Watch};
use super::typed::{Catalog, Versioned, decode};
use crate::model::{Ack, DatabaseId, MoveRecord, RouteRecord};

/// A change of one record.
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
    /// The record has a format that this program does not know, perhaps a newer one. Followers keep what they
    /// have.
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

    /// The commit that made the change.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { record, .. } => record.revision,
            Change::Deleted { revision, .. } | Change::Unreadable { revision, .. } => *revision,
        }
    }

    /// The record, unless it was deleted or unreadable.
    pub fn into_record(self) -> Option<Versioned<T>> {
        match self {
            Change::Put { record, .. } => Some(record),
            Change::Deleted { .. } | Change::Unreadable { .. } => None,
        }
    }
}

/// The commits below a prefix as changes of records, one batch per commit. See
/// [`super::store::Store::watch`].
pub struct Changes<T> {
    watch: Box<dyn Watch>,
    record: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Changes<T> {
    /// The next commit. `None`: the watch ended; read again. Cancel-safe: dropping the future loses no
    /// commit.
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

/// The acknowledgements of one database, by all proxies.
#[derive(Debug)]
pub struct AckChanges {
    changes: Changes<Ack>,
    database: DatabaseId,
}

impl AckChanges {
    /// The next commit with acknowledgements of this database. `None`: the watch ended; read again.
    /// Cancel-safe.
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
    /// Watches every change below a prefix after a revision.
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

    /// Reads the acknowledgements of a database, and watches all later changes of them.
    pub async fn watch_acks(
        &self,
        database: &DatabaseId,
    ) -> Result<(Vec<Versioned<Ack>>, AckChanges), StoreError> {
        let (revision, acks) = self.acks_at(database).await?;
        let changes = self.watch(keys::PROXIES, revision).await?;
        Ok((acks, AckChanges { changes, database: database.clone() }))
    }
}
