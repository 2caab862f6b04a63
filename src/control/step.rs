//! What every step of a move has in its hands, and the shape of a step.
//!
//! A step is a module with two functions:
//!
//! ```ignore
//! pub async fn run(ctx: &mut StepContext) -> Result<(), StepError>;
//! pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError>;
//! ```
//!
//! Both are safe to repeat, after success and after a failure or a crash at any point inside; `undo` is right after a
//! `run` that never began. The driver records the intent before it calls, and the outcome after. A step remembers what
//! its undo must know with [`StepContext::remember`] *before* it acts on it. A step that can take more than a second
//! looks at [`StepContext::check`] between its parts, and waits with [`StepContext::unless_cancelled`].

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::model::movement::{StepEntry, StepEvent};
use crate::model::{Contract, Latencies, MoveFacts, MoveId, MoveRecord, MoveStep, SystemRecord, UnixMillis};

use super::error::StepError;
use super::frozen::Frozen;
use super::journal::Journal;
use super::progress::Progress;
use super::settings::{CrashPoint, FaultKind, MoverSettings};

/// The wall clock, as an argument.
pub type Clock = fn() -> UnixMillis;

/// One move, while a step of it runs.
#[derive(Debug)]
pub struct StepContext {
    pub settings: Arc<MoverSettings>,
    pub catalog: Catalog,
    /// Where the database was when the move began.
    pub source: SystemRecord,
    /// Where the move brings it.
    pub target: SystemRecord,
    pub contract: Contract,
    pub progress: Progress,
    pub clock: Clock,
    /// How long clients had waited for answers when this process took the move up.
    pub(super) latencies_before: Latencies,
    /// The side that the clients came to, as it was when they came. Lives from the cutover to the step after it.
    pub(super) frozen: Option<Frozen>,
    pub(super) journal: Journal,
    pub(super) cancel: CancellationToken,
}

impl StepContext {
    pub fn record(&self) -> &MoveRecord {
        self.journal.record()
    }

    pub fn id(&self) -> MoveId {
        self.record().id
    }

    pub fn facts(&self) -> &MoveFacts {
        &self.record().facts
    }

    /// Remembers facts durably, before acting on them. `change` may run more than once.
    pub async fn remember(&mut self, mut change: impl FnMut(&mut MoveFacts)) -> Result<(), StepError> {
        Ok(self.journal.write(|record| change(&mut record.facts)).await?)
    }

    pub fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    /// Learns how the systems are reached now: a server may get another address under a move that lasts for days.
    pub(super) async fn refresh_systems(&mut self) -> Result<(), StoreError> {
        let (source, target) = tokio::try_join!(
            self.catalog.system(&self.source.name),
            self.catalog.system(&self.target.name),
        )?;
        if let Some(source) = source {
            self.source = source.value;
        }
        if let Some(target) = target {
            self.target = target.value;
        }
        Ok(())
    }

    /// Fails with [`StepError::Cancelled`] once somebody asked the move to stop.
    pub fn check(&self) -> Result<(), StepError> {
        match self.cancel.is_cancelled() {
            true => Err(StepError::Cancelled),
            false => Ok(()),
        }
    }

    /// Waits for `work`, or for a wish to stop. Cancellation drops `work`, which must be safe to drop.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(StepError::Cancelled),
            outcome = work => outcome,
        }
    }

    /// For workers that outlive a borrow of the context.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Passes an instant at which a test may have asked for a fault.
    pub async fn reach(&self, step: MoveStep, point: CrashPoint) -> Result<(), StepError> {
        let fault = self.settings.fault.as_ref().filter(|fault| (fault.step, fault.point) == (step, point));
        let Some(fault) = fault else { return Ok(()) };
        tracing::error!(step = step.as_str(), point = point.as_str(), kind = ?fault.kind, "a fault, as the test asked");
        match &fault.kind {
            FaultKind::Abort => std::process::abort(),
            FaultKind::Freeze(frozen) => {
                frozen.notify_one();
                std::future::pending().await
            }
            FaultKind::Fail => Err(StepError::not_now("a fault, as the test asked")),
        }
    }
}

impl StepContext {
    /// Takes up a move whose record exists. None where the move, its database or one of its systems is not in the catalogue.
    pub async fn open(
        catalog: Catalog,
        id: MoveId,
        settings: Arc<MoverSettings>,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Result<Option<StepContext>, StepError> {
        let Some(journal) = Journal::open(catalog.clone(), clock, id).await? else { return Ok(None) };
        let record = journal.record();
        let (database, source, target) = tokio::try_join!(
            catalog.database(&record.database),
            catalog.system(&record.source.system),
            catalog.system(&record.target.system),
        )?;
        let (Some(database), Some(source), Some(target)) = (database, source, target) else {
            return Ok(None);
        };
        let latencies_before = settings.latencies.read(&record.database).unwrap_or_default();
        Ok(Some(StepContext {
            settings,
            progress: Progress::start(catalog.clone(), id, journal.record().phase),
            catalog,
            source: source.value,
            target: target.value,
            contract: database.value.contract,
            clock,
            latencies_before,
            frozen: None,
            journal,
            cancel,
        }))
    }

    /// Writes the intent or the outcome of a step into the record.
    pub async fn note(&mut self, step: MoveStep, event: StepEvent) -> Result<(), StepError> {
        let at = self.now();
        let entry = StepEntry { step, event, at, note: None };
        Ok(self.journal.write(|record| record.log.push(entry.clone())).await?)
    }
}
