//! CREATE DATABASE as a recorded operation.
//!
//! ```text
//!   commit 1: operation, name, database (provisioning), route (refused)
//!   commit 2: intent; then role and database are made on the system
//!   commit 3: outcome, database (active), route (served), login, audit entry
//! ```
//!
//! # Why a creation of an earlier process is undone
//! The password of its role was in the memory of the process that died, and the administrator never saw it.

use super::Creation;
use super::context::{DatabaseChange, DatabaseContext, DatabaseError, DatabaseOutcome};
use super::machine::OnRestart;
use crate::control::operations::StepFuture;
use crate::model::{
    CreateFacts, CreateRecord, DatabasePhase, DatabaseRecord, DatabaseStep, Lifecycle, Login, OperationKind,
    UnixMillis,
};

/// The operation that creates a database.
#[derive(Debug)]
pub enum CreateOperation {}

impl DatabaseChange for CreateOperation {
    const KIND: OperationKind = OperationKind::Create;
    const STEP: DatabaseStep = DatabaseStep::Make;
    const ON_RESTART: OnRestart = OnRestart::Undo;
    type Facts = CreateFacts;

    fn run(ctx: &mut DatabaseContext<CreateOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(make(ctx))
    }

    fn undo(ctx: &mut DatabaseContext<CreateOperation>) -> StepFuture<'_, DatabaseError> {
        Box::pin(remove(ctx))
    }

    fn end(record: &CreateRecord, database: &mut DatabaseRecord, _at: UnixMillis) -> DatabaseOutcome {
        if record.phase == DatabasePhase::Failed {
            return DatabaseOutcome::Forgotten;
        }
        database.lifecycle = Lifecycle::Active;
        DatabaseOutcome::Written(vec![Login {
            role: record.facts.role.clone(),
            verifier: Some(record.facts.verifier.clone()),
            can_login: true,
            can_connect: true,
            superuser: false,
            valid_until: None,
            groups: Vec::new(),
        }])
    }
}

async fn make(ctx: &mut DatabaseContext<CreateOperation>) -> Result<(), DatabaseError> {
    Ok(creation(ctx.record()).run(ctx.reach()).await?)
}

async fn remove(ctx: &mut DatabaseContext<CreateOperation>) -> Result<(), DatabaseError> {
    Ok(creation(ctx.record()).undo(ctx.reach()).await?)
}

fn creation(record: &CreateRecord) -> Creation {
    Creation {
        id: record.database.clone(),
        dbname: record.dbname.clone(),
        role: record.facts.role.clone(),
        verifier: record.facts.verifier.clone(),
    }
}
