//! DROP DATABASE.
//!
//! # Why nothing is destroyed
//! A name typed into the wrong window must not cost data. A created database is closed and renamed on its
//! system, where the platform's team can drop or revive it; an adopted one is left to its earlier users,
//! unchanged. Deletion for good, with an archive and a second person, is a separate command.
//!
//! ```text
//!   commit 1: record (dropping), route (refused)
//!             database and role closed and renamed on the system
//!   commit 2: record (a tombstone), no name, no route, no login, audit entry
//! ```
//!
//! After a crash between them, the next start continues ([`super::unfinished`]). A failure restores what was
//! before.

use super::answer::{Answer, row};
use super::commands;
use super::execute::{Caller, Executor};
use super::refuse::{AdminError, identifier, literal};
use super::statement::DropDatabase;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, keys};
use crate::control::lifecycle;
use crate::error::chain;
use crate::model::{DatabaseId, DatabaseRecord, Dropping, HistoryEntry, Lifecycle, Place};

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
        self.begin_drop(&database, reason, caller).await?;
        let (place, left_as) = match self.leave(&database).await {
            Ok(left) => left,
            Err(error) => {
                self.take_back_drop(&database).await;
                return Err(error);
            }
        };
        self.end_drop(&database.id, &self.recording(caller), &place, &left_as).await?;
        Ok(Answer::rows(commands::DROP_DATABASE, vec![row![&database.name, &place.system, left_as]]))
    }

    /// From here on no client is served, and a crash does not end the drop.
    async fn begin_drop(
        &self,
        database: &DatabaseRecord,
        reason: &str,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let dropping = Dropping { at: self.now(), who: caller.who.clone(), reason: reason.to_owned() };
        let begin = |record: &mut DatabaseRecord| {
            if record.operation != database.operation || matches!(record.lifecycle, Lifecycle::Deleted { .. })
            {
                let key = keys::database(&record.id);
                return Err(AdminError::Store(StoreError::Contended { key, attempts: 1 }));
            }
            record.dropping = Some(dropping.clone());
            Ok(())
        };
        self.catalog().change_database(&database.id, begin).await?;
        Ok(())
    }

    /// Nothing was dropped, so clients are served as before. If even that fails, the log says so; the command
    /// may be repeated.
    async fn take_back_drop(&self, database: &DatabaseRecord) {
        let stay = |record: &mut DatabaseRecord| {
            record.dropping = None;
            Ok::<(), AdminError>(())
        };
        if let Err(error) = self.catalog().change_database(&database.id, stay).await {
            tracing::error!(
                database = %database.name,
                error = chain(&error),
                "a database that was not dropped stays refused"
            );
        }
    }

    /// Continues a drop that a crash interrupted.
    pub(super) async fn go_on_dropping(
        &self,
        database: &DatabaseRecord,
        dropping: &Dropping,
    ) -> Result<(), AdminError> {
        let (place, left_as) = self.leave(database).await?;
        let command = format!("DROP DATABASE {}", identifier(database.name.as_str()));
        let trail = self.new_trail(
            dropping.who.clone(),
            command,
            Some(dropping.reason.clone()),
            "ok, after a restart",
        );
        self.end_drop(&database.id, &self.catalog().with_trail(&trail), &place, &left_as).await
    }

    /// Closes and renames a created database; leaves an adopted one to its users, unchanged. Safe to repeat.
    async fn leave(&self, database: &DatabaseRecord) -> Result<(Place, String), AdminError> {
        let Some(route) = self.catalog().route(&database.id).await? else {
            return Err(StoreError::Missing { key: keys::route(&database.id) }.into());
        };
        let place = route.value.place;
        if database.adopted {
            let left_as = place.dbname.clone();
            return Ok((place, left_as));
        }
        let system = self.system(&place.system).await?;
        let id = database.id.as_str();
        let suffix = id.get(id.len().saturating_sub(8)..).unwrap_or(id);
        let left_as = lifecycle::close(self.reach(&system, &self.mover()), &place.dbname, suffix).await?;
        Ok((place, left_as))
    }

    /// In one commit: frees the name, removes route and logins, and keeps the record as a tombstone.
    async fn end_drop(
        &self,
        id: &DatabaseId,
        catalog: &Catalog,
        place: &Place,
        left_as: &str,
    ) -> Result<(), AdminError> {
        let now = self.now();
        let tombstone = |record: &mut DatabaseRecord| {
            let Some(Dropping { who, reason, .. }) = record.dropping.take() else {
                return Ok::<(), AdminError>(());
            };
            let what = format!("dropped: {reason}; left as \"{left_as}\" on system {}", place.system);
            record.lifecycle = Lifecycle::Deleted { at: now };
            record.history.push(HistoryEntry { at: now, who, what, epoch: None });
            Ok(())
        };
        catalog.change_database(id, tombstone).await?;
        Ok(())
    }
}
