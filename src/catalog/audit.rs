//! The records of the audit trail.

use super::chain::{self, Head, Verification};
use super::keys;
use super::store::{Durability, Range, StoreError};
use super::trail::Trail;
use super::typed::{Catalog, Listing, decode};
use crate::model::{AuditEntry, Told, UnixMillis};

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// A search ends after so many entries, found or not.
const SEARCHED_MAX: usize = 200_000;

/// What administrators did.
#[derive(Debug, Clone, Copy)]
pub struct AuditRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn audit(&self) -> AuditRecords<'_> {
        AuditRecords { catalog: self }
    }
}

impl AuditRecords<'_> {
    /// Oldest first.
    pub async fn since(self, since: UnixMillis) -> Result<Vec<AuditEntry>, StoreError> {
        let range = Range::of(keys::AUDIT).after(keys::audit_since(since));
        self.catalog.list_range(range).await.map(Listing::into_values)
    }

    /// The newest entries since then that are wanted, newest first. `wanted` also says as what an entry is
    /// to be seen.
    pub async fn newest(
        self,
        since: UnixMillis,
        limit: usize,
        mut wanted: impl FnMut(AuditEntry) -> Option<AuditEntry> + Send,
    ) -> Result<FoundEntries, StoreError> {
        let mut range = Range::of(keys::AUDIT).newest_first().limit(PAGE.min(limit));
        let mut found = FoundEntries::default();
        let mut searched = 0;
        loop {
            let page = self.catalog.store().range(range.clone()).await?;
            for stored in &page.entries {
                let entry: AuditEntry = decode(stored)?.value;
                if entry.at < since {
                    return Ok(found);
                }
                found.entries.extend(wanted(entry));
                if found.entries.len() == limit {
                    return Ok(found);
                }
            }
            searched += page.entries.len();
            let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(found) };
            if searched >= SEARCHED_MAX {
                found.searched_all_since = decode::<AuditEntry>(last).ok().map(|entry| entry.value.at);
                return Ok(found);
            }
            range = Range::of(keys::AUDIT).newest_first().limit(PAGE).after(last.key.clone());
        }
    }

    /// Records the command's outcome in the entry, and what the people of the product are told of it. Writes
    /// nothing if that is written already: an entry keeps the outcome that it has.
    pub async fn end(self, trail: &Trail, outcome: String, told: Told) -> Result<AuditEntry, StoreError> {
        let entry = AuditEntry { outcome, told, ..trail.entry().clone() };
        if !trail.is_written() || entry != *trail.entry() {
            self.catalog.put(trail.key().to_owned(), &entry, Durability::Synced).await?;
        }
        Ok(entry)
    }

    /// Compares the whole trail with its chain, and the chain with a head that was kept.
    pub async fn verify(self, kept: Option<Head>) -> Result<Verification, StoreError> {
        chain::verify(self.catalog.store(), kept).await
    }
}

/// What a search of the audit trail has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundEntries {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// The search ended here, before the beginning of the trail.
    pub searched_all_since: Option<UnixMillis>,
}
