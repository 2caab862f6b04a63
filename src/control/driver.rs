//! The task of one move: does what the machine says and records it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, keys};
use crate::error::Explain;
use crate::model::{MoveFailure, MoveId, MovePhase, MoveStep, MoveWish};

use super::claim::{self, Held};
use super::drive::AGAIN_AFTER;
use super::error::StepError;
use super::journal::Journal;
use super::machine::{self, Action, Event, Side};
use super::progress::Progress;
use super::settings::{CrashPoint, MoverSettings};
use super::step::{Clock, StepContext};
use super::{catchup, compare, copy, cutover, finish, kept, preflight, provision, settle, undo_cutover};

/// The task of one move.
pub(super) struct Driver {
    pub(super) catalog: Catalog,
    pub(super) settings: Arc<ArcSwap<MoverSettings>>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    pub(super) id: MoveId,
    pub(super) wishes: watch::Receiver<Option<MoveWish>>,
}

type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<(), StepError>> + Send + 'a>>;

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Rested,
    Wish,
    Stop,
}

impl Driver {
    pub(super) async fn run(mut self) -> MoveId {
        loop {
            match self.drive().await {
                Ok(()) => return self.id,
                Err(error) => tracing::warn!(%error, id = self.id.0, "a move waits for the catalogue"),
            }
            if self.sleep(AGAIN_AFTER).await == Woken::Stop {
                return self.id;
            }
        }
    }

    /// Drives the move from its record until it ends or the mover stops.
    async fn drive(&mut self) -> Result<(), StoreError> {
        let Some(mut ctx) = self.context().await? else { return Ok(()) };
        if !ctx.record().phase.has_ended() && !self.take_up(&mut ctx).await? {
            return Ok(());
        }
        while !self.stop.is_cancelled() {
            self.wishes.mark_unchanged();
            ctx.journal.refresh().await?;
            ctx.refresh_systems().await?;
            ctx.settings = self.settings.load_full();
            match machine::next(ctx.record(), &ctx.settings) {
                Action::End => return Ok(()),
                Action::Obey(wish) => hear(&mut ctx, Event::Wished(wish)).await?,
                Action::Rest => self.rest(&mut ctx).await,
                Action::Run { step, after } => {
                    if self.sleep(after).await == Woken::Rested {
                        self.act(&mut ctx, step, Direction::Run).await?;
                    }
                }
                Action::Undo { step, after } => {
                    if self.sleep(after).await == Woken::Rested {
                        self.act(&mut ctx, step, Direction::Undo).await?;
                    }
                }
            }
        }
        // A failed attempt may have left new connections waiting.
        if let Action::Undo { step, .. } = machine::next(ctx.record(), &ctx.settings) {
            self.leave(&mut ctx, step, Direction::Run).await?;
        }
        Ok(())
    }

    async fn context(&self) -> Result<Option<StepContext>, StoreError> {
        let Some(journal) = Journal::open(self.catalog.clone(), self.clock, self.id).await? else {
            return Ok(None);
        };
        let record = journal.record();
        let missing = |key: String| StoreError::Missing { key };
        let (source, target) = (&record.source.system, &record.target.system);
        let source = self.catalog.system(source).await?.ok_or_else(|| missing(keys::system(source)))?;
        let target = self.catalog.system(target).await?.ok_or_else(|| missing(keys::system(target)))?;
        let database = self.catalog.database(&record.database).await?;
        let database = database.ok_or_else(|| missing(keys::database(&record.database)))?;
        let settings = self.settings.load_full();
        let latencies_before = settings.latencies.read(&record.database).unwrap_or_default();
        Ok(Some(StepContext {
            settings,
            catalog: self.catalog.clone(),
            source: source.value,
            target: target.value,
            contract: database.value.contract,
            progress: Progress::start(self.catalog.clone(), self.id, journal.record().phase),
            clock: self.clock,
            latencies_before,
            frozen: None,
            cancel: CancellationToken::new(),
            journal,
        }))
    }

    /// Records that steps of an earlier process are no longer running. `false`: another store drives the
    /// move, or the mover stops.
    async fn take_up(&mut self, ctx: &mut StepContext) -> Result<bool, StoreError> {
        if ctx.facts().claim_lost.is_some() {
            return Ok(false);
        }
        if ctx.record().log.is_empty() {
            return Ok(true);
        }
        loop {
            match held(ctx).await? {
                Held::Ours => break,
                Held::Anothers => return Ok(false),
                Held::Unknown => ctx.progress.say("waiting for a system to say which store drives the move"),
            }
            if self.sleep(AGAIN_AFTER).await == Woken::Stop {
                return Ok(false);
            }
            ctx.refresh_systems().await?;
        }
        let route = self.catalog.route(&ctx.record().database).await?;
        let on_target = route.is_some_and(|route| route.value.place.is_same_database(&ctx.record().target));
        let clients = if on_target { Side::Target } else { Side::Source };
        tracing::info!(id = self.id.0, phase = ctx.record().phase.as_str(), ?clients, "taking up a move");
        hear(ctx, Event::Restarted { clients }).await?;
        Ok(true)
    }

    /// Waits for a wish; meanwhile maintains a move that is kept.
    async fn rest(&mut self, ctx: &mut StepContext) {
        let kept = ctx.record().phase == MovePhase::Kept;
        let upkeep = async {
            match kept {
                true => kept::watch(ctx).await,
                false => kept::watch_parked(ctx).await,
            }
        };
        // The upkeep may be dropped anywhere: it repeats its writes.
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = self.wishes.changed() => {}
            () = upkeep => {}
        }
    }

    async fn sleep(&mut self, time: Duration) -> Woken {
        if time.is_zero() {
            return Woken::Rested;
        }
        // All are cancel-safe.
        tokio::select! {
            () = self.stop.cancelled() => Woken::Stop,
            _ = self.wishes.changed() => Woken::Wish,
            () = tokio::time::sleep(time) => Woken::Rested,
        }
    }

    /// Records the intent, acts, records the outcome.
    async fn act(
        &mut self,
        ctx: &mut StepContext,
        step: MoveStep,
        direction: Direction,
    ) -> Result<(), StoreError> {
        let _ = ctx.reach(step, direction.instant(Instant::BeforeIntent)).await;
        hear(ctx, direction.intent(step)).await?;
        let began = ctx.reach(step, direction.instant(Instant::AfterIntent)).await;
        // Clients wait for the abort of a cutover, and the claim was checked a moment ago.
        let is_abort =
            direction == Direction::Undo && matches!(step, MoveStep::Cutover | MoveStep::UndoCutover);
        if !is_abort && held(ctx).await? == Held::Anothers {
            return Ok(());
        }
        ctx.cancel = CancellationToken::new();
        let cancel = ctx.cancel.clone();
        let future: StepFuture<'_> = match direction {
            Direction::Run => run(step, ctx),
            Direction::Undo => undo(step, ctx),
        };
        let Some(outcome) = self.watched(future, &cancel, step, direction).await else {
            return self.leave(ctx, step, direction).await;
        };
        let outcome =
            began.and(outcome).and(ctx.reach(step, direction.instant(Instant::BeforeOutcome)).await);
        if let Err(error) = &outcome {
            tracing::warn!(
                id = self.id.0,
                step = step.as_str(),
                error = error as &dyn std::error::Error,
                "a step failed"
            );
        }
        hear(ctx, direction.outcome(step, outcome)).await?;
        let _ = ctx.reach(step, direction.instant(Instant::AfterOutcome)).await;
        Ok(())
    }

    /// Runs a step, and cancels it when it has to stop. `None`: the mover stops, and the step was dropped
    /// wherever it was.
    async fn watched(
        &mut self,
        mut future: StepFuture<'_>,
        cancel: &CancellationToken,
        step: MoveStep,
        direction: Direction,
    ) -> Option<Result<(), StepError>> {
        let pausing =
            matches!(step, MoveStep::Cutover | MoveStep::UndoCutover) || direction == Direction::Undo;
        let mut deaf = false;
        loop {
            tokio::select! {
                outcome = &mut future => {
                    let left = self.stop.is_cancelled() && outcome.is_err() && direction == Direction::Run;
                    return (!left).then_some(outcome);
                }
                () = self.stop.cancelled(), if !cancel.is_cancelled() => {
                    cancel.cancel();
                    // Only a cutover is waited for; other steps are resumed or undone at the next start.
                    if !pausing {
                        return None;
                    }
                }
                changed = self.wishes.changed(), if !deaf => {
                    deaf = changed.is_err();
                    if direction == Direction::Run && stops(step, *self.wishes.borrow_and_update()) {
                        cancel.cancel();
                    }
                }
            }
        }
    }

    /// The mover stops in the middle of a step. Waiting clients are released; the next start does the rest.
    async fn leave(
        &self,
        ctx: &mut StepContext,
        step: MoveStep,
        direction: Direction,
    ) -> Result<(), StoreError> {
        if direction == Direction::Run && matches!(step, MoveStep::Cutover | MoveStep::UndoCutover) {
            ctx.cancel = CancellationToken::new();
            if let Err(error) = undo(step, ctx).await {
                tracing::warn!(%error, "the cutover is aborted at the next start");
            }
        }
        Ok(())
    }
}

/// See [`claim::hold`]. An error of a system is no reason to stop: the step will get the same error.
async fn held(ctx: &mut StepContext) -> Result<Held, StoreError> {
    match claim::hold(ctx).await {
        Ok(held) => Ok(held),
        Err(StepError::Store(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "cannot see which store drives a move");
            Ok(Held::Unknown)
        }
    }
}

/// Whether a wish is a reason for a step to stop early.
fn stops(step: MoveStep, wish: Option<MoveWish>) -> bool {
    match wish {
        None => false,
        Some(MoveWish::Cancel) => step != MoveStep::Settle && step != MoveStep::Finish,
        // The last part of settle, the comparison of rows, may take long. An undo does not wait for it; the
        // end of the move needs its outcome.
        Some(MoveWish::Undo) => step == MoveStep::Settle,
        Some(MoveWish::Finish | MoveWish::FinishAndDrop) => false,
    }
}

/// Applies the event to the record, durably.
async fn hear(ctx: &mut StepContext, event: Event) -> Result<(), StoreError> {
    let at = ctx.now();
    let settings = Arc::clone(&ctx.settings);
    ctx.journal.write(|record| machine::apply(record, event.clone(), at, &settings)).await?;
    ctx.progress.enter(ctx.record().phase);
    Ok(())
}

fn run(step: MoveStep, ctx: &mut StepContext) -> StepFuture<'_> {
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

fn undo(step: MoveStep, ctx: &mut StepContext) -> StepFuture<'_> {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Run,
    Undo,
}

/// A point before or after an action.
#[derive(Debug, Clone, Copy)]
enum Instant {
    BeforeIntent,
    AfterIntent,
    BeforeOutcome,
    AfterOutcome,
}

impl Direction {
    fn intent(self, step: MoveStep) -> Event {
        match self {
            Direction::Run => Event::Started(step),
            Direction::Undo => Event::UndoStarted(step),
        }
    }

    fn outcome(self, step: MoveStep, outcome: Result<(), StepError>) -> Event {
        match (self, outcome) {
            (Direction::Run, Ok(())) => Event::Done(step),
            (Direction::Undo, Ok(())) => Event::Undone(step),
            (Direction::Run, Err(error)) => {
                Event::Failed { failure: failure(step, &error), retry: error.retry() }
            }
            (Direction::Undo, Err(error)) => {
                Event::UndoFailed { failure: failure(step, &error), retry: error.retry() }
            }
        }
    }

    fn instant(self, instant: Instant) -> CrashPoint {
        match (self, instant) {
            (Direction::Run, Instant::BeforeIntent) => CrashPoint::BeforeIntent,
            (Direction::Run, Instant::AfterIntent) => CrashPoint::AfterIntent,
            (Direction::Run, Instant::BeforeOutcome) => CrashPoint::BeforeOutcome,
            (Direction::Run, Instant::AfterOutcome) => CrashPoint::AfterOutcome,
            (Direction::Undo, Instant::BeforeIntent) => CrashPoint::BeforeUndoIntent,
            (Direction::Undo, Instant::AfterIntent) => CrashPoint::AfterUndoIntent,
            (Direction::Undo, Instant::BeforeOutcome) => CrashPoint::BeforeUndoOutcome,
            (Direction::Undo, Instant::AfterOutcome) => CrashPoint::AfterUndoOutcome,
        }
    }
}

fn failure(step: MoveStep, error: &StepError) -> MoveFailure {
    MoveFailure {
        step,
        sqlstate: error.sqlstate().as_str().to_owned(),
        message: error.message(),
        detail: error.detail(),
        hint: error.hint(),
        blame: Some(error.blame()),
    }
}
