//! A move as a recorded operation: which function runs or undoes each step, and what the mover adds to the
//! engine ([`operations`](crate::control::operations)).
//!
//! It adds four things: a move may be another store's ([`claim`]); a process that resumes a move reads from
//! the route on which side the clients are; a kept move is maintained while it rests; and a cutover is not
//! left half-way when the process stops.

pub mod claim;
pub mod context;
pub mod direction;
pub mod endpoint;
pub mod error;
pub mod faults;
pub(in crate::control) mod history;
pub mod log;
pub mod machine;
pub mod objections;
pub mod parts;
pub mod progress;
pub mod steps;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Batch, Catalog, keys};
use crate::model::{MoveId, MovePhase, MoveRecord, MoveRequest, MoveStep, OperationKind, UnixMillis};

use self::claim::ClaimOwner;
use self::context::StepContext;
use self::error::StepError;
use self::faults::CrashPoint;
use self::machine::{MoveAction, MoveEvent, Side};
use self::steps::{
    catchup, compare, copy, cutover, finish, keep_reverse, preflight, provision, settle, undo_cutover,
};
use crate::control::operations::journal::Journal;
use crate::control::operations::supervisor::Running;
use crate::control::operations::{
    Act, Boundary, Context, Operation, OperationRecord, PriorWork, RecordChange, StepFuture, StepName,
    WallClock,
};
use crate::control::settings::{ControlSettings, MovePolicy};

/// The running mover. Dropping it leaves every move where it is; the next mover resumes them.
#[derive(Debug)]
pub struct Mover(Running);

impl Mover {
    /// Starts on the current runtime, and resumes every move that has not ended. Settings may change while it
    /// runs: a step uses those from its beginning.
    pub fn start(catalog: Catalog, settings: Arc<ArcSwap<ControlSettings>>, clock: WallClock) -> Mover {
        Mover(Running::start::<MoveOperation>(catalog, settings, clock))
    }

    /// Stops at the next safe point of each move. A cutover is not left half-way: it ends or is aborted
    /// first.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

/// The operation that carries a database to another system.
#[derive(Debug)]
pub enum MoveOperation {}

impl StepName for MoveStep {
    fn as_str(self) -> &'static str {
        MoveStep::as_str(self)
    }
}

impl OperationRecord for MoveRecord {
    type Id = MoveId;
    type Request = MoveRequest;

    fn id(&self) -> MoveId {
        self.id
    }

    fn request(&self) -> Option<MoveRequest> {
        self.request
    }

    fn has_ended(&self) -> bool {
        self.phase.has_ended()
    }

    fn is_anothers(&self) -> bool {
        self.facts.claim_lost.is_some()
    }
}

impl Context<MoveOperation> for StepContext {
    fn journal(&self) -> &Journal<MoveOperation> {
        &self.journal
    }

    fn journal_mut(&mut self) -> &mut Journal<MoveOperation> {
        &mut self.journal
    }

    fn policy(&self) -> &MovePolicy {
        &self.settings.policy
    }

    async fn refresh(&mut self, settings: Arc<ControlSettings>) -> Result<(), StoreError> {
        self.refresh_systems().await?;
        self.settings = settings;
        Ok(())
    }

    fn begin(&mut self, cancel: CancellationToken) {
        self.cancel = cancel;
    }

    fn recorded(&mut self) {
        self.progress.enter(self.record().phase);
    }
}

impl Operation for MoveOperation {
    const KIND: OperationKind = OperationKind::Move;
    type Record = MoveRecord;
    type Step = MoveStep;
    type Found = Side;
    type Error = StepError;
    type Settings = ControlSettings;
    type Policy = MovePolicy;
    type Context = StepContext;

    fn key(id: MoveId) -> String {
        keys::movement(id)
    }

    fn prefix() -> String {
        keys::MOVES.to_owned()
    }

    fn next(record: &MoveRecord, policy: &MovePolicy) -> MoveAction {
        machine::next(record, policy)
    }

    fn apply(record: &mut MoveRecord, event: MoveEvent, at: UnixMillis, policy: &MovePolicy) {
        machine::apply(record, event, at, policy);
    }

    fn run(step: MoveStep, ctx: &mut StepContext) -> StepFuture<'_, StepError> {
        match step {
            MoveStep::Preflight => Box::pin(preflight::run(ctx)),
            MoveStep::Provision => Box::pin(provision::run(ctx)),
            MoveStep::Copy => Box::pin(copy::run(ctx)),
            MoveStep::Catchup => Box::pin(catchup::run(ctx)),
            MoveStep::Compare => Box::pin(compare::run(ctx)),
            MoveStep::Cutover => Box::pin(cutover::run(ctx)),
            MoveStep::Settle => Box::pin(settle::run(ctx)),
            MoveStep::UndoCutover => Box::pin(undo_cutover::run(ctx)),
            MoveStep::Finish => Box::pin(finish::run(ctx)),
        }
    }

    fn undo(step: MoveStep, ctx: &mut StepContext) -> StepFuture<'_, StepError> {
        match step {
            MoveStep::Provision => Box::pin(provision::undo(ctx)),
            MoveStep::Copy => Box::pin(copy::undo(ctx)),
            MoveStep::Catchup => Box::pin(catchup::undo(ctx)),
            MoveStep::Cutover => Box::pin(cutover::undo(ctx)),
            MoveStep::UndoCutover => Box::pin(undo_cutover::undo(ctx)),
            // These steps change nothing, or only go forward.
            MoveStep::Preflight | MoveStep::Compare | MoveStep::Settle | MoveStep::Finish => {
                Box::pin(std::future::ready(Ok(())))
            }
        }
    }

    async fn open(
        journal: Journal<MoveOperation>,
        settings: Arc<ControlSettings>,
    ) -> Result<StepContext, StoreError> {
        StepContext::of(journal, settings, CancellationToken::new()).await
    }

    async fn consequences(
        catalog: &Catalog,
        change: RecordChange<'_, MoveRecord>,
        mut batch: Batch,
    ) -> Result<Batch, StoreError> {
        let RecordChange { before, after, at } = change;
        if history::touches_database(before, after)
            && let Some(mut database) = catalog.databases().get(&after.database).await?
        {
            history::record(&mut database.value, after, at);
            let key = keys::database(&after.database);
            batch = batch.unchanged(key.clone(), database.revision).put(key, &database.value);
        }
        if let Some(entry) = history::audited(before, after, at) {
            batch = batch.put(keys::audit(at, ulid::Ulid::generate()), &entry);
        }
        Ok(batch)
    }

    async fn take_up(ctx: &mut StepContext, _is_interrupted: bool) -> Result<PriorWork<Side>, StoreError> {
        if ctx.facts().claim_lost.is_some() {
            return Ok(PriorWork::OtherStore);
        }
        if ctx.record().log.is_empty() {
            return Ok(PriorWork::New);
        }
        match held(ctx).await? {
            ClaimOwner::Ours => {}
            ClaimOwner::OtherStore => return Ok(PriorWork::OtherStore),
            ClaimOwner::Unknown => {
                ctx.progress.set_activity("waiting for a system to say which store drives the move");
                return Ok(PriorWork::Unknown);
            }
        }
        let route = ctx.catalog.routes().get(&ctx.record().database).await?;
        let on_target = route.is_some_and(|route| route.value.place.is_same_database(&ctx.record().target));
        Ok(PriorWork::Interrupted(if on_target { Side::Target } else { Side::Source }))
    }

    async fn may_act(ctx: &mut StepContext, step: MoveStep, act: Act) -> Result<bool, StoreError> {
        // Clients wait for the abort of a cutover, and the claim was checked a moment ago.
        let is_abort = act == Act::Undo && MoveOperation::holds_clients(step);
        Ok(is_abort || held(ctx).await? != ClaimOwner::OtherStore)
    }

    async fn rest(ctx: &mut StepContext) {
        match ctx.record().phase {
            MovePhase::Kept => keep_reverse::watch(ctx).await,
            _ => keep_reverse::watch_parked(ctx).await,
        }
    }

    async fn reach(ctx: &StepContext, step: MoveStep, boundary: Boundary) -> Result<(), StepError> {
        ctx.reach(step, CrashPoint::Recorded(boundary)).await
    }

    fn stops_early(step: MoveStep, request: MoveRequest) -> bool {
        match request {
            MoveRequest::Cancel => step != MoveStep::Settle && step != MoveStep::Finish,
            // The last part of settle, the comparison of rows, may take long. An undo does not wait for it;
            // the end of the move needs its outcome.
            MoveRequest::Undo => step == MoveStep::Settle,
            MoveRequest::Finish | MoveRequest::FinishAndDrop => false,
        }
    }

    fn is_waited_for(step: MoveStep, act: Act) -> bool {
        act == Act::Undo || MoveOperation::holds_clients(step)
    }

    fn holds_clients(step: MoveStep) -> bool {
        matches!(step, MoveStep::Cutover | MoveStep::UndoCutover)
    }
}

/// See [`claim::hold`]. An error of a system is no reason to stop: the step will get the same error.
async fn held(ctx: &mut StepContext) -> Result<ClaimOwner, StoreError> {
    match claim::hold(ctx).await {
        Ok(held) => Ok(held),
        Err(StepError::Store(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "cannot see which store drives a move");
            Ok(ClaimOwner::Unknown)
        }
    }
}
