//! DROP DATABASE as a recorded operation.
//!
//! # Why nothing is destroyed
//! A name typed into the wrong window must not cost data. A created database is closed and renamed on its
//! system, where the platform's team can drop or revive it; an adopted one is left to its earlier users,
//! unchanged. Deletion for good, with an archive and a second person, is a separate command.
//!
//! ```text
//!   commit 1: operation, database (dropping), route (refused)
//!   commit 2: intent; then database and role are closed and renamed on the system
//!   commit 3: the new name
//!   commit 4: outcome, database (a tombstone), no name, no route, no login, audit entry
//! ```
//!
//! After a crash the next start goes on. A failure while the command waits restores what was before.

use super::context::{DatabaseChange, DatabaseContext, DatabaseError, DatabaseOutcome, recording, reference};
use super::machine::OnRestart;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Swap, Versioned, keys};
use crate::control::operations::StepFuture;
use crate::model::{
    DatabaseId, DatabasePhase, DatabaseRecord, DatabaseStep, DropFacts, DropRecord, Dropping, HistoryEntry,
    Lifecycle, OperationKind, Told, UnixMillis,
};

/// The operation that drops a database.
#[derive(Debug)]
pub enum DropOperation {}

impl DatabaseChange for DropOperation {
    const KIND: OperationKind = OperationKind::Drop;
    const STEP: DatabaseStep = DatabaseStep::Close;
    const ON_RESTART: OnRestart = OnRestart::GoOn;
    type Facts = DropFacts;

    fn run(ctx: &mut DatabaseContext<DropOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(close(ctx))
    }

    fn undo(ctx: &mut DatabaseContext<DropOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(reopen(ctx))
    }

    fn end(record: &DropRecord, database: &mut DatabaseRecord, at: UnixMillis) -> DatabaseOutcome {
        let Some(Dropping { who, reason, .. }) = database.dropping.take() else {
            return DatabaseOutcome::Written(Vec::new());
        };
        if record.phase == DatabasePhase::Done {
            let left_as = record.facts.left_as.as_deref().unwrap_or(&record.dbname);
            let what = format!("dropped: {reason}; left as \"{left_as}\" on system {}", record.system);
            let told = Told::InOtherWords(format!("dropped: {reason}"));
            database.lifecycle = Lifecycle::Deleted { at };
            if let Some(offer) = database.offer.take() {
                let what = format!("transfer to team {} ended: the database is dropped", offer.to);
                database.history.push(HistoryEntry {
                    at,
                    who: who.clone(),
                    what,
                    epoch: None,
                    told: Told::AsItIs,
                });
            }
            database.history.push(HistoryEntry { at, who, what, epoch: None, told });
        }
        DatabaseOutcome::Written(Vec::new())
    }
}

async fn close(ctx: &mut DatabaseContext<DropOperation>) -> Result<(), DatabaseError> {
    let record = ctx.record();
    let left_as = match record.facts.is_adopted {
        true => record.dbname.clone(),
        false => super::close(ctx.reach(), &record.dbname, suffix(&record.database)).await?,
    };
    Ok(ctx.remember(|facts| facts.left_as = Some(left_as.clone())).await?)
}

async fn reopen(ctx: &mut DatabaseContext<DropOperation>) -> Result<(), DatabaseError> {
    let record = ctx.record();
    if !record.facts.is_adopted {
        super::reopen(ctx.reach(), &record.dbname, suffix(&record.database)).await?;
    }
    Ok(())
}

/// Makes the names of closed databases distinct.
fn suffix(id: &DatabaseId) -> &str {
    let id = id.as_str();
    id.get(id.len().saturating_sub(8)..).unwrap_or(id)
}

/// Records a drop: from here on no client is served. Nothing is written if the database was changed since it
/// was read.
pub async fn begin(
    catalog: &Catalog,
    expected: &Versioned<DatabaseRecord>,
    dropping: Dropping,
    record: &DropRecord,
) -> Result<(), StoreError> {
    let batch = recording::<DropOperation>(catalog, record).await?;
    let mut database = expected.value.clone();
    database.dropping = Some(dropping);
    database.operation = Some(reference::<DropOperation>(record));
    match catalog.databases().changing(batch, expected, &database).await?.commit().await? {
        Swap::Committed(_) => Ok(()),
        Swap::Conflict => Err(StoreError::Contended { key: keys::database(&database.id), attempts: 1 }),
    }
}
