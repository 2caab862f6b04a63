//! What CREATE, DROP and ADOPT DATABASE have in common as recorded operations.
//!
//! ```text
//!   command: record + database + route in one commit, then waits for the end of the record
//!   engine:  intent, work on the system, outcome; the last commit also changes database, route and logins,
//!            and writes the audit entry
//! ```
//!
//! A kind says in [`DatabaseChange`] what its step does on the system and what its end means for the
//! database. Everything else is here.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::typed::ATTEMPTS_MAX;
use crate::catalog::{Batch, Catalog, NewDatabase, NewDatabaseOutcome, Versioned, keys};
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{
    AuditEntry, DatabaseId, DatabaseName, DatabaseOperation, DatabasePhase, DatabaseRecord, DatabaseStep,
    Login, OperationId, OperationKind, OperationRef, StepEvent, SystemRecord, UnixMillis,
};
use crate::system::SystemError;

use super::machine::{self, OnRestart};
use super::{LifecycleError, SystemConnection};
use crate::control::operations::journal::Journal;
use crate::control::operations::{
    self, Context, Never, Operation, OperationRecord, PriorWork, RecordChange, RetryPolicy, StepFuture,
    StepName, WallClock,
};
use crate::control::settings::ControlSettings;

/// Operations of one kind that are remembered after they ended.
const ENDED_MAX: usize = 100;

/// A kind of change that a database's lifecycle goes through.
pub trait DatabaseChange: Sized + Send + Sync + 'static {
    const KIND: OperationKind;
    const STEP: DatabaseStep;
    const ON_RESTART: OnRestart;
    type Facts: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The work on the system. Safe to repeat, unless an interrupted one is undone.
    fn run(ctx: &mut DatabaseContext<Self>) -> StepFuture<'_, DatabaseError>;

    /// Safe to repeat, and correct after a `run` that never began.
    fn undo(ctx: &mut DatabaseContext<Self>) -> StepFuture<'_, DatabaseError>;

    /// What the end of the operation means for its database.
    fn end(
        record: &DatabaseOperation<Self::Facts>,
        database: &mut DatabaseRecord,
        at: UnixMillis,
    ) -> DatabaseOutcome;
}

/// What becomes of a database when its operation ends.
#[derive(Debug)]
pub enum DatabaseOutcome {
    /// It is written as it was changed, with these logins.
    Written(Vec<Login>),
    /// Nothing of it stays: its name is free.
    Forgotten,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SystemError> for DatabaseError {
    fn from(error: SystemError) -> DatabaseError {
        DatabaseError::Lifecycle(error.into())
    }
}

impl DatabaseError {
    fn explained(&self) -> &dyn Explain {
        match self {
            DatabaseError::Lifecycle(error) => error,
            DatabaseError::Store(error) => error,
        }
    }
}

impl Explain for DatabaseError {
    fn sqlstate(&self) -> SqlState {
        self.explained().sqlstate()
    }

    fn blame(&self) -> Blame {
        self.explained().blame()
    }

    fn retry(&self) -> Retry {
        self.explained().retry()
    }

    fn message(&self) -> String {
        self.explained().message()
    }

    fn detail(&self) -> Option<String> {
        self.explained().detail()
    }

    fn hint(&self) -> Option<String> {
        self.explained().hint()
    }
}

/// One operation while its step runs.
#[derive(Debug)]
pub struct DatabaseContext<C: DatabaseChange> {
    settings: Arc<ControlSettings>,
    journal: Journal<C>,
    system: SystemRecord,
}

impl<C: DatabaseChange> DatabaseContext<C> {
    pub fn record(&self) -> &DatabaseOperation<C::Facts> {
        self.journal.record()
    }

    /// Records facts durably, before the step acts on them. `change` may run more than once.
    pub async fn remember(&mut self, mut change: impl FnMut(&mut C::Facts)) -> Result<(), StoreError> {
        self.journal.write(|record| change(&mut record.facts)).await
    }

    pub fn reach(&self) -> SystemConnection<'_> {
        let deadline = Instant::now() + super::SYSTEM_TIMEOUT;
        SystemConnection { system: &self.system, access: &self.settings.access, deadline }
    }
}

async fn system_of<C: DatabaseChange>(journal: &Journal<C>) -> Result<SystemRecord, StoreError> {
    let name = &journal.record().system;
    let system = journal.catalog.systems().get(name).await?;
    system.map(|system| system.value).ok_or_else(|| StoreError::Missing { key: keys::system(name) })
}

impl<C: DatabaseChange> Context<C> for DatabaseContext<C> {
    fn journal(&self) -> &Journal<C> {
        &self.journal
    }

    fn journal_mut(&mut self) -> &mut Journal<C> {
        &mut self.journal
    }

    fn policy(&self) -> &RetryPolicy {
        &self.settings.policy.retry
    }

    async fn refresh(&mut self, settings: Arc<ControlSettings>) -> Result<(), StoreError> {
        self.settings = settings;
        self.system = system_of(&self.journal).await?;
        Ok(())
    }

    /// The step is short, and stops at no point in between.
    fn begin(&mut self, _cancel: CancellationToken) {}
}

impl StepName for DatabaseStep {
    fn as_str(self) -> &'static str {
        DatabaseStep::as_str(self)
    }
}

impl<F> OperationRecord for DatabaseOperation<F>
where
    F: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Id = OperationId;
    type Request = Never;

    fn id(&self) -> OperationId {
        self.id
    }

    fn request(&self) -> Option<Never> {
        None
    }

    fn has_ended(&self) -> bool {
        self.phase.has_ended()
    }
}

impl<C: DatabaseChange> Operation for C {
    const KIND: OperationKind = <C as DatabaseChange>::KIND;
    type Record = DatabaseOperation<C::Facts>;
    type Step = DatabaseStep;
    type Found = ();
    type Error = DatabaseError;
    type Settings = ControlSettings;
    type Policy = RetryPolicy;
    type Context = DatabaseContext<C>;

    fn key(id: OperationId) -> String {
        keys::operation(<C as DatabaseChange>::KIND, id)
    }

    fn prefix() -> String {
        keys::operations(<C as DatabaseChange>::KIND)
    }

    fn next(record: &Self::Record, policy: &RetryPolicy) -> machine::DatabaseAction {
        machine::next(record, C::STEP, policy)
    }

    fn apply(record: &mut Self::Record, event: machine::DatabaseEvent, at: UnixMillis, _: &RetryPolicy) {
        machine::apply(record, event, at, (C::STEP, C::ON_RESTART));
    }

    fn run(_step: DatabaseStep, ctx: &mut DatabaseContext<C>) -> StepFuture<'_, DatabaseError> {
        <C as DatabaseChange>::run(ctx)
    }

    fn undo(_step: DatabaseStep, ctx: &mut DatabaseContext<C>) -> StepFuture<'_, DatabaseError> {
        <C as DatabaseChange>::undo(ctx)
    }

    async fn open(
        journal: Journal<C>,
        settings: Arc<ControlSettings>,
    ) -> Result<DatabaseContext<C>, StoreError> {
        let system = system_of(&journal).await?;
        Ok(DatabaseContext { settings, journal, system })
    }

    async fn consequences(
        catalog: &Catalog,
        change: RecordChange<'_, Self::Record>,
        batch: Batch,
    ) -> Result<Batch, StoreError> {
        let RecordChange { before, after, at } = change;
        if before.phase.has_ended() || !after.phase.has_ended() {
            return Ok(batch);
        }
        let batch = batch.put(after.audit_key.clone(), &audit(after));
        let Some(current) = catalog.databases().get(&after.database).await? else { return Ok(batch) };
        let mut database = current.value.clone();
        database.operation = None;
        match C::end(after, &mut database, at) {
            DatabaseOutcome::Forgotten => catalog.databases().forgetting(batch, &current).await,
            DatabaseOutcome::Written(logins) => {
                let batch = catalog.databases().changing(batch, &current, &database).await?;
                Ok(logins
                    .iter()
                    .fold(batch, |batch, login| batch.put(keys::login(&after.database, &login.role), login)))
            }
        }
    }

    /// A task that failed on the store begins again, too: the command still waits, but the step may have
    /// been dropped in the middle.
    async fn take_up(
        ctx: &mut DatabaseContext<C>,
        is_interrupted: bool,
    ) -> Result<PriorWork<()>, StoreError> {
        match is_interrupted || !ctx.record().log.is_empty() {
            true => Ok(PriorWork::Interrupted(())),
            false => Ok(PriorWork::New),
        }
    }
}

/// The audit entry with the outcome.
fn audit<F>(record: &DatabaseOperation<F>) -> AuditEntry {
    let outcome = match (&record.failure, record.is_interrupted) {
        (Some(failure), _) => format!("{}: {}", failure.sqlstate, failure.message),
        (None, true) => "ok, after a restart".to_owned(),
        (None, false) => "ok".to_owned(),
    };
    AuditEntry { outcome, ..record.audit.clone() }
}

/// The database and the command of a new operation.
#[derive(Debug, Clone)]
pub struct Begin<'a> {
    pub id: &'a DatabaseId,
    pub name: &'a DatabaseName,
    pub system: &'a SystemRecord,
    pub dbname: &'a str,
    /// The audit entry of the command, and its key.
    pub audit: (String, AuditEntry),
}

impl Begin<'_> {
    /// The record of an operation that has just begun, with the next number.
    pub async fn record<F>(
        &self,
        catalog: &Catalog,
        facts: F,
        clock: WallClock,
    ) -> Result<DatabaseOperation<F>, StoreError> {
        let (audit_key, audit) = self.audit.clone();
        Ok(DatabaseOperation {
            id: catalog.databases().next_operation_id().await?,
            database: self.id.clone(),
            name: self.name.clone(),
            system: self.system.name.clone(),
            dbname: self.dbname.to_owned(),
            phase: DatabasePhase::Running,
            is_interrupted: false,
            is_copy: None,
            log: Vec::new(),
            facts,
            failure: None,
            audit_key,
            audit,
            started_at: clock(),
            ended_at: None,
        })
    }
}

/// The reference of a database to its operation.
pub fn reference<C: DatabaseChange>(record: &DatabaseOperation<C::Facts>) -> OperationRef {
    OperationRef { kind: <C as DatabaseChange>::KIND, id: record.id.0 }
}

/// Adds a new record to a commit, and removes the oldest that have ended.
pub async fn recording<C: DatabaseChange>(
    catalog: &Catalog,
    record: &DatabaseOperation<C::Facts>,
) -> Result<Batch, StoreError> {
    let known = catalog.list::<DatabaseOperation<C::Facts>>(&C::prefix()).await?.into_values();
    let ended: Vec<OperationId> =
        known.iter().filter(|known| known.phase.has_ended()).map(|known| known.id).collect();
    let superfluous = (ended.len() + 1).saturating_sub(ENDED_MAX);
    let key = C::key(record.id);
    let batch = catalog.batch().absent(key.clone()).put(key, record);
    Ok(ended.into_iter().take(superfluous).fold(batch, |batch, id| batch.delete(C::key(id))))
}

/// Records an operation that makes its database known, with the database, if the name is free. The engine
/// does the rest. [`StoreError::Missing`] of a team: the owner was dropped.
pub async fn begin_new<C: DatabaseChange>(
    catalog: &Catalog,
    mut new: NewDatabase,
    record: &DatabaseOperation<C::Facts>,
) -> Result<NewDatabaseOutcome, StoreError> {
    new.database.operation = Some(reference::<C>(record));
    for _ in 0..ATTEMPTS_MAX {
        let batch = recording::<C>(catalog, record).await?;
        if let Some(outcome) = catalog.databases().create_with(&new, batch).await? {
            return Ok(outcome);
        }
    }
    Err(StoreError::Contended { key: keys::database(&new.database.id), attempts: ATTEMPTS_MAX })
}

/// Whether a command that waits has its answer: the operation has ended, or what it made cannot be undone
/// now and is tried again later.
pub fn is_answered<F>(record: &DatabaseOperation<F>) -> bool {
    record.phase.has_ended() || record.log.iter().any(|entry| entry.event == StepEvent::UndoFailed)
}

/// The current activity, as text for people. `None`: it has ended.
pub fn activity<F>(record: &DatabaseOperation<F>, step: DatabaseStep) -> Option<String> {
    let what = match (record.phase, step) {
        (DatabasePhase::Done | DatabasePhase::Failed, _) => return None,
        (DatabasePhase::Running, DatabaseStep::Make) => "creating role and database",
        (DatabasePhase::Running, DatabaseStep::Close) => "closing the database",
        (DatabasePhase::Running, DatabaseStep::Examine) => "examining the database",
        (DatabasePhase::Undoing, DatabaseStep::Make) => "removing what was created",
        (DatabasePhase::Undoing, DatabaseStep::Close) => "opening the database again",
        (DatabasePhase::Undoing, DatabaseStep::Examine) => "forgetting the database",
    };
    Some(format!("{what} on system {}", record.system))
}

/// Records operations for databases that an older version left unfinished.
pub(super) async fn record_unfinished<C: DatabaseChange>(
    catalog: &Catalog,
    database: &Versioned<DatabaseRecord>,
    record: DatabaseOperation<C::Facts>,
) -> Result<(), StoreError> {
    let mut value = database.value.clone();
    value.operation = Some(reference::<C>(&record));
    let key = keys::database(&value.id);
    let batch = recording::<C>(catalog, &record).await?;
    batch.unchanged(key.clone(), database.revision).put(key, &value).commit().await?;
    Ok(())
}

/// Starts the engine for one kind.
pub(super) fn start<C: DatabaseChange>(
    catalog: &Catalog,
    settings: &Arc<ArcSwap<ControlSettings>>,
    clock: WallClock,
) -> operations::supervisor::Running {
    operations::supervisor::Running::start::<C>(catalog.clone(), Arc::clone(settings), clock)
}
