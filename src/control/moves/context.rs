//! What every step of a move can use, and the interface of a step.
//!
//! A step is a module with two functions:
//!
//! ```ignore
//! pub async fn run(ctx: &mut StepContext) -> Result<(), StepError>;
//! pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError>;
//! ```
//!
//! Both are safe to repeat, after success and after a failure or a crash at any point inside; `undo` is
//! correct after a `run` that never began. The driver records the intent before it calls, and the outcome
//! after. A step records what its undo must know with [`StepContext::remember`] *before* it acts on it. A
//! step that can take more than a second calls [`StepContext::check`] between its parts, and waits with
//! [`StepContext::unless_cancelled`].

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, keys};
use crate::model::{
    Contract, MoveFacts, MoveId, MoveRecord, MoveStep, Place, StepEntry, StepEvent, SystemRecord, UnixMillis,
};
use crate::system::{MoveNames, Session};

use crate::control::moves::MoveOperation;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;
use crate::control::moves::faults::{CrashPoint, FaultKind};
use crate::control::moves::parts::snapshot::ExportedSnapshot;
use crate::control::moves::progress::Progress;
use crate::control::operations::journal::Journal;
use crate::control::settings::ControlSettings;

pub use crate::control::operations::WallClock;

/// One move while a step runs.
#[derive(Debug)]
pub struct StepContext {
    pub settings: Arc<ControlSettings>,
    pub catalog: Catalog,
    /// The system of the database when the move began.
    pub source: SystemRecord,
    /// The system that the move brings it to.
    pub target: SystemRecord,
    pub contract: Contract,
    pub progress: Progress,
    pub clock: WallClock,
    /// A snapshot of the side that the clients went to, at the commit. Lives from the cutover to the next
    /// step.
    pub(in crate::control) exported: Option<ExportedSnapshot>,
    pub(in crate::control) journal: Journal<MoveOperation>,
    pub(in crate::control) cancel: CancellationToken,
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

    /// Records facts durably, before the step acts on them. `change` may run more than once.
    pub async fn remember(&mut self, mut change: impl FnMut(&mut MoveFacts)) -> Result<(), StepError> {
        Ok(self.journal.write(|record| change(&mut record.facts)).await?)
    }

    pub fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    /// Reads the current addresses of the systems: they may change during a move of several days.
    pub(in crate::control) async fn refresh_systems(&mut self) -> Result<(), StoreError> {
        let (source, target) = tokio::try_join!(
            self.catalog.systems().get(&self.source.name),
            self.catalog.systems().get(&self.target.name),
        )?;
        if let Some(source) = source {
            self.source = source.value;
        }
        if let Some(target) = target {
            self.target = target.value;
        }
        Ok(())
    }

    /// Fails with [`StepError::Cancelled`] once the move is cancelled.
    pub fn check(&self) -> Result<(), StepError> {
        match self.cancel.is_cancelled() {
            true => Err(StepError::Cancelled),
            false => Ok(()),
        }
    }

    /// Waits for `work` or for a cancellation, which drops `work`: it must be safe to drop.
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

    /// Passes a point at which a test may have injected a fault.
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
    pub fn ends(&self) -> Endpoints {
        let record = self.record();
        let names = MoveNames::of_move(record.facts.store, record.id);
        let application_name = names.application_name();
        let end = |system: &SystemRecord, dbname: &str| {
            Endpoint::of(system.clone(), dbname, &self.settings, (names, &application_name))
        };
        Endpoints {
            source: end(&self.source, &record.source.dbname),
            target: end(&self.target, &record.target.dbname),
        }
    }

    /// The place that the clients move to, at its system's current address.
    pub(in crate::control) fn destination(&self, way: MoveDirection) -> Place {
        let (_, Endpoint { system, dbname, .. }) = way.ends(self.ends());
        system.place(dbname)
    }

    /// A session in the database on the source.
    pub async fn source_session(&self) -> Result<Session, StepError> {
        self.ends().source.session().await.map_err(StepError::doing("connecting to the source"))
    }

    /// A session in the database on the target.
    pub async fn target_session(&self) -> Result<Session, StepError> {
        self.ends().target.session().await.map_err(StepError::doing("connecting to the target"))
    }
}

impl StepContext {
    /// Opens a move that has a record. `None` if there is none.
    pub async fn open(
        catalog: Catalog,
        id: MoveId,
        settings: Arc<ControlSettings>,
        clock: WallClock,
        cancel: CancellationToken,
    ) -> Result<Option<StepContext>, StepError> {
        let Some(journal) = Journal::open(catalog, clock, id).await? else { return Ok(None) };
        Ok(Some(StepContext::of(journal, settings, cancel).await?))
    }

    /// Errors: [`StoreError::Missing`] if its database or one of its systems is not in the catalogue.
    pub(in crate::control) async fn of(
        journal: Journal<MoveOperation>,
        settings: Arc<ControlSettings>,
        cancel: CancellationToken,
    ) -> Result<StepContext, StoreError> {
        let (catalog, record) = (journal.catalog.clone(), journal.record());
        let (source, target) = (&record.source.system, &record.target.system);
        let (database, from, to) = tokio::try_join!(
            catalog.databases().get(&record.database),
            catalog.systems().get(source),
            catalog.systems().get(target),
        )?;
        let missing = |key: String| StoreError::Missing { key };
        let database = database.ok_or_else(|| missing(keys::database(&record.database)))?;
        let from = from.ok_or_else(|| missing(keys::system(source)))?;
        let to = to.ok_or_else(|| missing(keys::system(target)))?;
        Ok(StepContext {
            settings,
            progress: Progress::start(catalog.clone(), record.id, record.phase),
            catalog,
            source: from.value,
            target: to.value,
            contract: database.value.contract,
            clock: journal.clock,
            exported: None,
            journal,
            cancel,
        })
    }

    /// Writes the intent or the outcome of a step into the record.
    pub async fn note(&mut self, step: MoveStep, event: StepEvent) -> Result<(), StepError> {
        let at = self.now();
        let entry = StepEntry { step, event, at, note: None };
        Ok(self.journal.write(|record| record.log.push(entry.clone())).await?)
    }
}
