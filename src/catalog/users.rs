//! The records of the admin port's users.

use super::keys;
use super::store::StoreError;
use super::typed::{Catalog, Listing, Versioned};
use crate::model::{UserName, UserRecord};

/// Users of the admin port, with what is granted to them.
#[derive(Debug, Clone, Copy)]
pub struct UserRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn users(&self) -> UserRecords<'_> {
        UserRecords { catalog: self }
    }
}

impl UserRecords<'_> {
    pub async fn get(self, name: &UserName) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.catalog.read(&keys::user(name)).await
    }

    pub async fn list(self) -> Result<Listing<UserRecord>, StoreError> {
        self.catalog.list(keys::USERS).await
    }
}
