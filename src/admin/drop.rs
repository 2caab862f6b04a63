//! DROP DATABASE.
//!
//! # Why nothing is destroyed
//! A name typed into the wrong window must not cost data. A created database is closed and renamed on its system, where a
//! person of the platform can drop or revive it; an adopted one goes back to who had it, as it is. Deletion for good, with
//! an archive and a second person, is a command of its own.

use super::answer::{Answer, row};
use super::commands;
use super::execute::{Caller, Executor};
use super::refuse::{AdminError, identifier, literal};
use super::statement::DropDatabase;
use crate::catalog::keys;
use crate::control::lifecycle;
use crate::error::{SqlState, chain};
use crate::model::{DatabaseRecord, HistoryEntry, Lifecycle, Place, RouteRecord, Service};

impl Executor {
    pub(super) async fn drop_database(
        &self,
        drop: &DropDatabase,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let database = self.database(&drop.name).await?.value;
        let confirmed = drop.confirm.as_deref() == Some(drop.name.as_str());
        let reason = drop.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        let (true, Some(reason)) = (confirmed, reason) else {
            let (name, confirm) = (identifier(drop.name.as_str()), literal(drop.name.as_str()));
            let command =
                format!("DROP DATABASE {name} CONFIRM {confirm} REASON 'why it is not needed any more';");
            return Err(AdminError::Unconfirmed { command });
        };
        self.refuse_moving(&database).await?;
        let gone = |route: &mut RouteRecord| {
            route.service = Service::Refused {
                sqlstate: SqlState::INVALID_CATALOG_NAME.to_string(),
                message: format!("database \"{}\" does not exist", route.name),
                hint: "It was dropped.".to_owned(),
            };
            Ok::<(), AdminError>(())
        };
        let place = self.catalog().update_route(&database.id, gone).await?.value.place;
        let left_as = match self.leave(&database, &place).await {
            Ok(left_as) => left_as,
            Err(error) => {
                self.serve_again(&database).await;
                return Err(error);
            }
        };
        self.bury(
            &database,
            caller,
            &format!("dropped: {reason}; left as \"{left_as}\" on system {}", place.system),
        )
        .await?;
        Ok(Answer::rows(commands::DROP_DATABASE, vec![row![&database.name, &place.system, left_as]]))
    }

    /// Nothing was dropped, so nobody is refused. Where even that fails, the log says so; the command may be repeated.
    async fn serve_again(&self, database: &DatabaseRecord) {
        let serving = |route: &mut RouteRecord| {
            route.service = Service::Serving;
            Ok::<(), AdminError>(())
        };
        if let Err(error) = self.catalog().update_route(&database.id, serving).await {
            tracing::error!(
                database = %database.name,
                error = chain(&error),
                "a database that was not dropped stays refused"
            );
        }
    }

    /// A created database is closed and renamed; an adopted one goes back to who had it, as it is.
    async fn leave(&self, database: &DatabaseRecord, place: &Place) -> Result<String, AdminError> {
        if database.adopted {
            return Ok(place.dbname.clone());
        }
        let system = self.system(&place.system).await?;
        let id = database.id.as_str();
        let suffix = id.get(id.len().saturating_sub(8)..).unwrap_or(id);
        Ok(lifecycle::close(self.reach(&system, &self.mover()), &place.dbname, suffix).await?)
    }

    /// The name is free again; the record stays as a tombstone.
    async fn bury(&self, database: &DatabaseRecord, caller: &Caller, what: &str) -> Result<(), AdminError> {
        let now = self.now();
        let entry = HistoryEntry { at: now, who: caller.who.clone(), what: what.to_owned(), epoch: None };
        let tombstone = |record: &mut DatabaseRecord| {
            record.lifecycle = Lifecycle::Deleted { at: now };
            record.history.push(entry.clone());
            Ok::<(), AdminError>(())
        };
        self.catalog().update_database(&database.id, tombstone).await?;
        self.unlist(database).await
    }

    /// Frees the name and removes route and logins.
    pub(super) async fn unlist(&self, database: &DatabaseRecord) -> Result<(), AdminError> {
        let mut batch =
            self.catalog().batch().delete(keys::name(&database.name)).delete(keys::route(&database.id));
        for login in self.catalog().logins(&database.id).await?.into_values() {
            batch = batch.delete(keys::login(&database.id, &login.role));
        }
        batch.commit().await?;
        Ok(())
    }
}
