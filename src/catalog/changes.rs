//! Typed watches.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::store::{Entry, Lookup, Range, Revision, Snapshot, StoreError, StoreEvent, Watch};
use super::typed::{Catalog, Versioned, decode};

/// A change of one record.
#[derive(Debug)]
pub enum RecordEvent<T> {
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

impl<T> RecordEvent<T> {
    pub fn key(&self) -> &str {
        match self {
            RecordEvent::Put { key, .. }
            | RecordEvent::Deleted { key, .. }
            | RecordEvent::Unreadable { key, .. } => key,
        }
    }

    /// The commit that made the change.
    pub fn revision(&self) -> Revision {
        match self {
            RecordEvent::Put { record, .. } => record.revision,
            RecordEvent::Deleted { revision, .. } | RecordEvent::Unreadable { revision, .. } => *revision,
        }
    }

    /// The record, unless it was deleted or unreadable.
    pub fn into_record(self) -> Option<Versioned<T>> {
        match self {
            RecordEvent::Put { record, .. } => Some(record),
            RecordEvent::Deleted { .. } | RecordEvent::Unreadable { .. } => None,
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
    pub async fn next(&mut self) -> Result<Option<Vec<RecordEvent<T>>>, StoreError> {
        let events = self.watch.next().await?;
        Ok(events.map(|events| events.into_iter().map(change).collect()))
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

fn change<T: DeserializeOwned>(event: StoreEvent) -> RecordEvent<T> {
    match event {
        StoreEvent::Deleted { key, revision } => RecordEvent::Deleted { key, revision },
        StoreEvent::Put(entry) => written(entry),
    }
}

fn written<T: DeserializeOwned>(entry: Entry) -> RecordEvent<T> {
    match decode(&entry) {
        Ok(record) => RecordEvent::Put { key: entry.key, record },
        Err(error) => RecordEvent::Unreadable { revision: entry.revision, key: entry.key, error },
    }
}

/// The records of a prefix as they were at `revision`, and all later changes. A record that cannot be read is
/// one of the records, and prevents nothing: see [`RecordEvent::Unreadable`].
#[derive(Debug)]
pub struct ListWatch<T> {
    pub revision: Revision,
    pub records: Vec<RecordEvent<T>>,
    pub changes: Changes<T>,
}

/// One record, which is read again when it changes.
pub struct FollowedRecord<T> {
    catalog: Catalog,
    key: String,
    record: Option<Versioned<T>>,
    /// `None`: it must be read again.
    watch: Option<Box<dyn Watch>>,
}

impl<T: DeserializeOwned> FollowedRecord<T> {
    /// As of the last change. `None`: it does not exist.
    pub fn record(&self) -> Option<&Versioned<T>> {
        self.record.as_ref()
    }

    /// Waits for a change. It may return without one, after the watch ended and the record was read again.
    /// Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        let Some(watch) = &mut self.watch else { return self.read().await };
        match watch.next().await {
            Ok(Some(events)) => self.take(events),
            Ok(None) | Err(StoreError::Compacted { .. }) => {
                self.watch = None;
                self.read().await
            }
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, events: Vec<StoreEvent>) -> Result<(), StoreError> {
        // The watch is of a prefix.
        for event in events.into_iter().filter(|event| event.key() == self.key) {
            self.record = match event {
                StoreEvent::Put(entry) => Some(decode(&entry)?),
                StoreEvent::Deleted { .. } => None,
            };
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let Lookup { revision, entry } = self.catalog.store().get(&self.key).await?;
        self.record = entry.as_ref().map(decode).transpose()?;
        self.watch = Some(self.catalog.store().watch(&self.key, revision).await?);
        Ok(())
    }
}

impl<T: fmt::Debug> fmt::Debug for FollowedRecord<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowedRecord").field("key", &self.key).finish_non_exhaustive()
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

    /// Reads everything below a prefix, and watches all later changes.
    pub async fn list_and_watch<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<ListWatch<T>, StoreError> {
        let (Snapshot { revision, entries, .. }, watch) = self.read_and_watch(prefix).await?;
        let records = entries.into_iter().map(written).collect();
        Ok(ListWatch { revision, records, changes: Changes { watch, record: PhantomData } })
    }

    /// The entries below a prefix, and a watch of all later changes.
    pub(super) async fn read_and_watch(
        &self,
        prefix: &str,
    ) -> Result<(Snapshot, Box<dyn Watch>), StoreError> {
        let now = self.store().range(Range::of(prefix)).await?;
        let watch = self.store().watch(prefix, now.revision).await?;
        Ok((now, watch))
    }

    /// Reads one record, and reads it again whenever it changes.
    pub async fn follow<T: DeserializeOwned>(&self, key: &str) -> Result<FollowedRecord<T>, StoreError> {
        let catalog = self.clone();
        let mut followed = FollowedRecord { catalog, key: key.to_owned(), record: None, watch: None };
        followed.read().await?;
        Ok(followed)
    }
}
