//! CREATE and DROP DATABASE that a crash interrupted: a creation is removed, a drop is continued.
//!
//! # Why a creation is not continued
//! The password of its role was in the memory of the process that died, and the administrator never saw it.

use std::time::Duration;

use super::execute::Executor;
use super::refuse::{AdminError, identifier};
use crate::catalog::store::StoreError;
use crate::control::lifecycle::Creation;
use crate::error::Explain as _;
use crate::model::{DatabaseId, DatabaseRecord, RoleName};

/// Time between two attempts: the system may be down.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

impl Executor {
    /// Databases that a CREATE or a DROP left unfinished. Read before the first command.
    pub(super) async fn unfinished(&self) -> Result<Vec<DatabaseId>, StoreError> {
        let databases = self.catalog().databases().await?.into_values();
        Ok(databases.into_iter().filter(DatabaseRecord::is_unfinished).map(|database| database.id).collect())
    }

    /// Retries until no database is unfinished.
    ///
    /// # Cancel safety
    /// Every step is safe to repeat; the next start continues.
    pub(super) async fn finish(&self, mut unfinished: Vec<DatabaseId>) {
        loop {
            let mut left = Vec::new();
            for id in unfinished {
                if let Err(error) = self.finish_one(&id).await {
                    tracing::error!(error = %error.message(), database = %id,
                        "what a crash cut short cannot be finished now, it is tried again");
                    left.push(id);
                }
            }
            if left.is_empty() {
                return;
            }
            unfinished = left;
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn finish_one(&self, id: &DatabaseId) -> Result<(), AdminError> {
        let Some(database) = self.catalog().database(id).await?.map(|database| database.value) else {
            return Ok(());
        };
        if let Some(dropping) = &database.dropping {
            self.go_on_dropping(&database, dropping).await?;
            tracing::info!(database = %database.name, "a drop that was cut short is finished");
        } else if database.is_unfinished() {
            self.remove_creation(&database).await?;
            tracing::info!(database = %database.name, "a creation that was cut short is removed");
        }
        Ok(())
    }

    /// Removes what the creation made, and frees the name.
    async fn remove_creation(&self, database: &DatabaseRecord) -> Result<(), AdminError> {
        if let Some(route) = self.catalog().route(&database.id).await? {
            let place = route.value.place;
            let system = self.system(&place.system).await?;
            if let Ok(role) = RoleName::parse(&place.dbname) {
                let id = database.id.clone();
                let creation = Creation { id, dbname: place.dbname, role, verifier: String::new() };
                creation.undo(self.reach(&system, &self.mover())).await?;
            }
        }
        let command = format!("CREATE DATABASE {}", identifier(database.name.as_str()));
        let trail = self.new_trail(database.created_by.clone(), command, None, CUT_SHORT);
        self.catalog().with_trail(&trail).forget_database(&database.id).await?;
        Ok(())
    }
}

const CUT_SHORT: &str = "57P02: the process ended meanwhile; what the command made is removed";
