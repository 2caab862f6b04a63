//! The records of teams.

use super::keys;
use super::store::StoreError;
use super::typed::{Catalog, Listing, Swap, Versioned};
use crate::model::{TeamName, TeamRecord};

/// Teams: the owners of databases.
#[derive(Debug, Clone, Copy)]
pub struct TeamRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn teams(&self) -> TeamRecords<'_> {
        TeamRecords { catalog: self }
    }
}

impl TeamRecords<'_> {
    pub async fn get(self, name: &TeamName) -> Result<Option<Versioned<TeamRecord>>, StoreError> {
        self.catalog.read(&keys::team(name)).await
    }

    pub async fn list(self) -> Result<Listing<TeamRecord>, StoreError> {
        self.catalog.list(keys::TEAMS).await
    }

    pub async fn create(self, team: &TeamRecord) -> Result<Swap, StoreError> {
        self.catalog.create(keys::team(&team.name), team).await
    }
}
