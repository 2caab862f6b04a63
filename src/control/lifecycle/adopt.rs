//! ADOPT DATABASE as a recorded operation.
//!
//! ```text
//!   commit 1: operation, name, database (provisioning), route (refused)
//!   commit 2: intent; then the database is examined, and nothing is changed
//!   commit 3: what was found
//!   commit 4: outcome, database (active), route (served), logins, audit entry
//! ```
//!
//! After a crash the next start goes on: nothing of it was secret.

use super::context::{DatabaseChange, DatabaseContext, DatabaseError, DatabaseOutcome};
use super::machine::OnRestart;
use crate::control::operations::StepFuture;
use crate::model::{
    AdoptFacts, AdoptRecord, DatabasePhase, DatabaseRecord, DatabaseStep, Lifecycle, OperationKind,
    UnixMillis,
};

/// The operation that takes in an existing database.
#[derive(Debug)]
pub enum AdoptOperation {}

impl DatabaseChange for AdoptOperation {
    const KIND: OperationKind = OperationKind::Adopt;
    const STEP: DatabaseStep = DatabaseStep::Examine;
    const ON_RESTART: OnRestart = OnRestart::GoOn;
    type Facts = AdoptFacts;

    fn run(ctx: &mut DatabaseContext<AdoptOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(examine(ctx))
    }

    /// The system was not changed.
    fn undo(_ctx: &mut DatabaseContext<AdoptOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn end(record: &AdoptRecord, database: &mut DatabaseRecord, _at: UnixMillis) -> DatabaseOutcome {
        if record.phase == DatabasePhase::Failed {
            return DatabaseOutcome::Forgotten;
        }
        database.lifecycle = Lifecycle::Active;
        DatabaseOutcome::Written(record.facts.logins.clone())
    }
}

async fn examine(ctx: &mut DatabaseContext<AdoptOperation>) -> Result<(), DatabaseError> {
    let found = super::existing::examine(ctx.reach(), &ctx.record().dbname).await?;
    let remember = |facts: &mut AdoptFacts| {
        facts.logins.clone_from(&found.logins);
        facts.own_roles = Some(found.own_roles.clone());
        facts.warnings.clone_from(&found.warnings);
    };
    Ok(ctx.remember(remember).await?)
}
