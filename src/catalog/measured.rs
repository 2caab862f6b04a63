//! What proxies measured, in the store: by minute, hour and day.
//!
//! Owns the adding up and the bound: a minute is added to its hour and its day in the same commit, and what
//! is older than is kept goes away when a new hour or day begins. So a database takes at most
//! [`RECORDS_MAX`] small records, however long it lives.

use super::keys;
use super::store::{Range, StoreError};
use super::typed::{ATTEMPTS_MAX, Batch, Catalog, Listing, Swap, Versioned};
use crate::model::{DatabaseId, DatabaseRecord, Lifecycle, Measured, Span, UnixMillis};

/// Databases whose measurements are added in one commit.
pub const DATABASES_IN_COMMIT_MAX: usize = 30;

/// Records that are deleted in one commit.
const DELETED_MAX: usize = 100;

/// Records of a database: those that are kept, and the minutes of an hour and hours of a day before which
/// they do not go away.
pub const RECORDS_MAX: u64 = 90 + 60 + 48 + 24 + 35 + 1;

#[derive(Debug, Clone, Copy)]
pub struct MeasuredRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    /// What proxies measured.
    pub fn measured(&self) -> MeasuredRecords<'_> {
        MeasuredRecords { catalog: self }
    }
}

impl MeasuredRecords<'_> {
    /// Adds what was measured in the minute of `at` to what other processes have measured. At most
    /// [`DATABASES_IN_COMMIT_MAX`] databases.
    pub async fn add(self, new: &[(DatabaseId, Measured)], at: UnixMillis) -> Result<(), StoreError> {
        let mut attempts = 0;
        loop {
            let mut begun = Vec::new();
            let mut batch = self.catalog.batch();
            for (database, measured) in new {
                let spans;
                (batch, spans) = self.adding(batch, database, measured, at).await?;
                begun.extend(spans.into_iter().map(|span| (database, span)));
            }
            attempts += 1;
            match batch.commit().await? {
                Swap::Committed(_) => {
                    for (database, span) in begun {
                        self.forget_old(database, span, at).await?;
                    }
                    return Ok(());
                }
                Swap::Conflict if attempts < ATTEMPTS_MAX => {}
                Swap::Conflict => {
                    return Err(StoreError::Contended { key: keys::MEASURED.to_owned(), attempts });
                }
            }
        }
    }

    /// With the spans whose records before the newest may be old now.
    async fn adding(
        self,
        mut batch: Batch,
        database: &DatabaseId,
        new: &Measured,
        at: UnixMillis,
    ) -> Result<(Batch, Vec<Span>), StoreError> {
        let mut begun = Vec::new();
        let mut new = new.clone();
        for span in Span::ALL {
            let key = keys::measured(database, span, span.number(at));
            let known: Option<Versioned<Measured>> = self.catalog.read(&key).await?;
            let mut sum = known.as_ref().map(|known| known.value.clone()).unwrap_or_default();
            if span == Span::Minute {
                // Several processes may have failed in one minute.
                new.failed_minutes = u64::from(new.failed() > 0 && sum.failed_minutes == 0);
            }
            sum.add(&new);
            batch = match &known {
                Some(known) => batch.unchanged(key.clone(), known.revision),
                None => batch.absent(key.clone()),
            };
            batch = batch.put(key, &sum);
            if known.is_none() {
                match span {
                    Span::Minute => {}
                    Span::Hour => begun.push(Span::Minute),
                    Span::Day => begun.extend([Span::Hour, Span::Day]),
                }
            }
        }
        Ok((batch, begun))
    }

    /// Everything that was measured from the span that contains `since` on.
    pub async fn since(
        self,
        database: &DatabaseId,
        span: Span,
        since: UnixMillis,
    ) -> Result<Measured, StoreError> {
        let first = span.number(since);
        let prefix = keys::measured_in(database, span);
        let range = match first.checked_sub(1) {
            Some(before) => Range::of(prefix).after(keys::measured(database, span, before)),
            None => Range::of(prefix),
        };
        let listing: Listing<Measured> = self.catalog.list_range(range).await?;
        let mut sum = Measured::default();
        listing.into_values().iter().for_each(|measured| sum.add(measured));
        Ok(sum)
    }

    async fn forget_old(self, database: &DatabaseId, span: Span, at: UnixMillis) -> Result<(), StoreError> {
        let oldest = span.number(at).saturating_sub(span.kept());
        self.forget(keys::measured_in(database, span), &keys::measured(database, span, oldest)).await
    }

    /// Deletes the keys of a prefix before one of them. What another process deletes meanwhile is no
    /// conflict.
    async fn forget(self, prefix: String, before: &str) -> Result<(), StoreError> {
        loop {
            let page = self.catalog.store().range(Range::of(prefix.clone()).limit(DELETED_MAX)).await?;
            let old: Vec<_> = page.entries.iter().filter(|entry| entry.key.as_str() < before).collect();
            if old.is_empty() {
                return Ok(());
            }
            let batch = old.iter().fold(self.catalog.batch(), |batch, entry| batch.delete(entry.key.clone()));
            batch.commit().await?;
        }
    }

    /// Deletes the measurements of databases that are not there any more.
    pub async fn forget_deleted(self) -> Result<(), StoreError> {
        let mut next = Range::of(keys::MEASURED).limit(1);
        loop {
            let page = self.catalog.store().range(next.clone()).await?;
            let Some(first) = page.entries.first() else { return Ok(()) };
            // '0' follows '/': behind everything of this database.
            let (prefix, end) = match keys::measured_database(&first.key) {
                Some(database) => (keys::measured_of(&database), format!("{}{database}0", keys::MEASURED)),
                None => (first.key.clone(), first.key.clone()),
            };
            let database = keys::measured_database(&first.key);
            let record: Option<Versioned<DatabaseRecord>> = match &database {
                Some(database) => self.catalog.databases().get(database).await?,
                None => None,
            };
            let is_living = |record: Versioned<DatabaseRecord>| {
                !matches!(record.value.lifecycle, Lifecycle::Deleted { .. })
            };
            if !record.is_some_and(is_living) {
                self.forget(prefix, &end).await?;
            }
            next = Range::of(keys::MEASURED).limit(1).after(end);
        }
    }
}
