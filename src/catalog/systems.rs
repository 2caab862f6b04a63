//! The records of systems.

use super::changes::Changes;
use super::keys;
use super::store::{Revision, StoreError};
use super::typed::{Catalog, Listing, Swap, Versioned};
use crate::model::{SystemName, SystemRecord};

/// Systems: the PostgreSQL servers that hold databases.
#[derive(Debug, Clone, Copy)]
pub struct SystemRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn systems(&self) -> SystemRecords<'_> {
        SystemRecords { catalog: self }
    }
}

impl SystemRecords<'_> {
    pub async fn get(self, name: &SystemName) -> Result<Option<Versioned<SystemRecord>>, StoreError> {
        self.catalog.read(&keys::system(name)).await
    }

    pub async fn list(self) -> Result<Listing<SystemRecord>, StoreError> {
        self.catalog.list(keys::SYSTEMS).await
    }

    pub async fn create(self, system: &SystemRecord) -> Result<Swap, StoreError> {
        self.catalog.create(keys::system(&system.name), system).await
    }

    /// Watches all changes after a revision.
    pub async fn after(self, after: Revision) -> Result<Changes<SystemRecord>, StoreError> {
        self.catalog.watch(keys::SYSTEMS, after).await
    }
}
