//! Commands on databases that the engine of recorded operations carries out: recorded here, waited for here.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::admin::answer::{Row, row};
use crate::admin::execute::{Caller, Cluster, OK};
use crate::admin::refuse::AdminError;
use crate::catalog::store::StoreError;
use crate::catalog::{Trail, Versioned};
use crate::control::lifecycle::adopt::AdoptDatabase;
use crate::control::lifecycle::context::{Begin, DatabaseChange, activity, is_answered};
use crate::control::lifecycle::create::CreateDatabase;
use crate::control::lifecycle::drop::DropDatabase;
use crate::control::operations::Operation;
use crate::model::{
    AuditEntry, DatabaseId, DatabaseName, DatabaseOperation, DatabasePhase, OperationId, OperationKind,
    OperationRef, SystemRecord, UnixMillis,
};

/// Limit of the wait for an operation on a database: each of its attempts has shorter ones.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(600);

/// Moves that SHOW OPERATIONS lists after they ended; SHOW MOVES lists all.
const MOVES_ENDED_MAX: usize = 100;

impl Cluster {
    /// What a new operation on a database has to know of its command.
    pub(in crate::admin) fn begin<'a>(
        &self,
        (id, name): (&'a DatabaseId, &'a DatabaseName),
        (system, dbname): (&'a SystemRecord, &'a str),
        trail: &Trail,
    ) -> Begin<'a> {
        let audit: (String, AuditEntry) = (trail.key().to_owned(), trail.entry().clone());
        Begin { id, name, system, dbname, audit }
    }

    /// The audit entry of the running command. The operation writes it in its last commit.
    pub(in crate::admin) fn trail_of(&self, caller: &Caller) -> Trail {
        let untold = || self.new_trail(caller.who.clone(), String::new(), None, OK);
        caller.trail.clone().unwrap_or_else(untold)
    }

    /// Waits until an operation has ended: its record and the commit that ended it, or why it failed.
    ///
    /// A cancel request does not end it: what the command has begun is finished or undone in any case, and
    /// only the answer says which.
    pub(in crate::admin) async fn ended<C: DatabaseChange>(
        &self,
        id: OperationId,
        trail: &Trail,
    ) -> Result<Versioned<DatabaseOperation<C::Facts>>, AdminError> {
        let deadline = Instant::now() + OPERATION_TIME_MAX;
        let ended = match timeout_at(deadline, self.answered::<C>(id)).await {
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
        &self,
        id: OperationId,
    ) -> Result<Versioned<DatabaseOperation<C::Facts>>, AdminError> {
        let key = <C as Operation>::key(id);
        let mut operation = self.catalog().follow::<DatabaseOperation<C::Facts>>(&key).await?;
        loop {
            match operation.record() {
                None => return Err(StoreError::Missing { key }.into()),
                Some(record) if is_answered(&record.value) => return Ok(record.clone()),
                Some(_) => operation.changed().await?,
            }
        }
    }

    pub(in crate::admin) async fn show_operations(&self) -> Result<Vec<Row>, AdminError> {
        let mut shown = self.moves_shown().await?;
        shown.extend(self.shown::<CreateDatabase>().await?);
        shown.extend(self.shown::<DropDatabase>().await?);
        shown.extend(self.shown::<AdoptDatabase>().await?);
        shown.sort_by_key(|(started, _)| std::cmp::Reverse(*started));
        Ok(shown.into_iter().map(|(_, row)| row).collect())
    }

    /// Moves that have not ended, and the newest of the others, with the times of their start.
    async fn moves_shown(&self) -> Result<Vec<(UnixMillis, Row)>, AdminError> {
        let (mut shown, mut ended) = (Vec::new(), 0);
        let mut progress = self.catalog().progress_of_moves().await?;
        for record in self.catalog().moves().await?.into_values().into_iter().rev() {
            ended += usize::from(record.phase.has_ended());
            if record.phase.has_ended() && ended > MOVES_ENDED_MAX {
                continue;
            }
            let progress = progress.remove(&record.id).unwrap_or_default();
            let row = row![
                OperationKind::Move.as_str(),
                record.id,
                &record.name,
                record.phase.as_str(),
                record.log.last().map(|entry| entry.step.as_str()),
                progress.activity_in(record.phase).map(str::to_owned),
                record.started_at,
                record.ended_at,
                record.failure.as_ref().map(|failure| failure.message.clone())
            ];
            shown.push((record.started_at, row));
        }
        Ok(shown)
    }

    async fn shown<C: DatabaseChange>(&self) -> Result<Vec<(UnixMillis, Row)>, AdminError> {
        let known = self.catalog().list::<DatabaseOperation<C::Facts>>(&C::prefix()).await?.into_values();
        let of = |record: DatabaseOperation<C::Facts>| {
            let row = row![
                <C as DatabaseChange>::KIND.as_str(),
                record.id.to_string(),
                &record.name,
                record.phase.as_str(),
                C::STEP.as_str(),
                activity(&record, C::STEP),
                record.started_at,
                record.ended_at,
                record.failure.as_ref().map(|failure| failure.message.clone())
            ];
            (record.started_at, row)
        };
        Ok(known.into_iter().map(of).collect())
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
