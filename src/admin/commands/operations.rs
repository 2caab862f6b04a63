//! Commands on databases that the engine of recorded operations carries out: recorded here, waited for here.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::context::{AuditedCommand, Caller, Cluster};
use crate::admin::error::AdminError;
use crate::catalog::store::StoreError;
use crate::catalog::{Trail, Versioned};
use crate::control::lifecycle::context::{Begin, DatabaseChange, is_answered};
use crate::control::operations::Operation;
use crate::model::{
    AuditEntry, DatabaseId, DatabaseName, DatabaseOperation, DatabasePhase, OperationId, OperationKind,
    OperationRef, SystemRecord,
};

/// Limit of the wait for an operation on a database: each of its attempts has shorter ones.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(600);

/// What a new operation on a database has to know of its command.
pub(in crate::admin) fn begin<'a>(
    (id, name): (&'a DatabaseId, &'a DatabaseName),
    (system, dbname): (&'a SystemRecord, &'a str),
    trail: &Trail,
) -> Begin<'a> {
    // CREATE and ADOPT DATABASE make the database that they are about.
    let entry = AuditEntry { database: Some(id.clone()), ..trail.entry().clone() };
    Begin { id, name, system, dbname, audit: (trail.key().to_owned(), entry) }
}

/// The audit entry of the running command. The operation writes it in its last commit.
pub(in crate::admin) fn trail_of(cluster: &Cluster, caller: &Caller) -> Trail {
    let unnamed = || cluster.new_trail(caller, AuditedCommand::default());
    caller.trail.clone().unwrap_or_else(unnamed)
}

/// Waits until an operation has ended: its record and the commit that ended it, or why it failed.
///
/// A cancel request does not end it: what the command has begun is finished or undone in any case, and only
/// the answer says which.
pub(in crate::admin) async fn ended<C: DatabaseChange>(
    cluster: &Cluster,
    id: OperationId,
    trail: &Trail,
) -> Result<Versioned<DatabaseOperation<C::Facts>>, AdminError> {
    let deadline = Instant::now() + OPERATION_TIME_MAX;
    let ended = match timeout_at(deadline, answered::<C>(cluster, id)).await {
        Ok(ended) => ended?,
        Err(_) => {
            let operation = OperationRef { kind: <C as DatabaseChange>::KIND, id: id.0 };
            return Err(AdminError::OperationGoesOn { operation });
        }
    };
    let record = &ended.value;
    if record.phase == DatabasePhase::Done {
        trail.note_written();
        return Ok(ended);
    }
    let name = record.name.to_string();
    Err(match record.failure.clone() {
        Some(failure) => AdminError::OperationFailed { failure: Box::new(failure) },
        None => AdminError::NotServed { database: name, state: record.phase.as_str().to_owned() },
    })
}

async fn answered<C: DatabaseChange>(
    cluster: &Cluster,
    id: OperationId,
) -> Result<Versioned<DatabaseOperation<C::Facts>>, AdminError> {
    let key = <C as Operation>::key(id);
    let mut operation = cluster.catalog().follow::<DatabaseOperation<C::Facts>>(&key).await?;
    loop {
        match operation.record() {
            None => return Err(StoreError::Missing { key }.into()),
            Some(record) if is_answered(&record.value) => return Ok(record.clone()),
            Some(_) => operation.changed().await?,
        }
    }
}

/// Refuses a command on a database that another operation than a move is changing.
pub(in crate::admin) fn refuse_changing(
    name: &DatabaseName,
    operation: Option<OperationRef>,
) -> Result<(), AdminError> {
    match operation {
        Some(operation) if operation.kind != OperationKind::Move => {
            Err(AdminError::OperationInProgress { database: name.to_string(), operation })
        }
        _ => Ok(()),
    }
}
