//! The records of the audit trail.

use super::chain::{self, Head, Verification};
use super::keys;
use super::store::{Durability, Range, StoreError};
use super::trail::Trail;
use super::typed::{Catalog, Listing};
use crate::model::{AuditEntry, UnixMillis};

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

    /// The newest entries, newest first.
    pub async fn newest(self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let range = Range::of(keys::AUDIT).newest_first().limit(limit);
        self.catalog.list_range(range).await.map(Listing::into_values)
    }

    /// Records the command's outcome in the entry. Writes nothing if that is written already: an entry keeps
    /// the outcome that it has.
    pub async fn end(self, trail: &Trail, outcome: String) -> Result<AuditEntry, StoreError> {
        let entry = AuditEntry { outcome, ..trail.entry().clone() };
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
