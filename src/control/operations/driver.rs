//! The task of one operation: does what the machine says and records it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::error::Explain;
use crate::model::Failure;

use super::journal::Journal;
use super::{
    Act, Action, Context, Event, EventOf, IdOf, Operation, OperationRecord, PriorWork, RequestOf, StepFuture,
    StepName, WallClock,
};

/// Interval between attempts after the store or a task has failed.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The task of one operation.
pub(super) struct Driver<O: Operation> {
    pub(super) catalog: Catalog,
    pub(super) settings: Arc<ArcSwap<O::Settings>>,
    pub(super) clock: WallClock,
    pub(super) stop: CancellationToken,
    pub(super) id: IdOf<O>,
    /// An earlier task, perhaps of another process, may have begun it.
    pub(super) is_interrupted: bool,
    pub(super) requests: watch::Receiver<Option<RequestOf<O>>>,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Rested,
    Request,
    Stop,
}

impl<O: Operation> Driver<O> {
    pub(super) async fn run(mut self) -> IdOf<O> {
        loop {
            match self.drive().await {
                Ok(()) => return self.id,
                Err(error) => {
                    let (kind, id) = (O::KIND.as_str(), self.id);
                    tracing::warn!(%error, kind, %id, "an operation waits for the catalogue");
                }
            }
            if self.sleep(AGAIN_AFTER).await == Woken::Stop {
                return self.id;
            }
        }
    }

    /// Drives the operation from its record until it ends or the supervisor stops.
    async fn drive(&mut self) -> Result<(), StoreError> {
        let Some(journal) = Journal::<O>::open(self.catalog.clone(), self.clock, self.id).await? else {
            return Ok(());
        };
        let mut ctx = O::open(journal, self.settings.load_full()).await?;
        if !ctx.journal().record().has_ended() && !self.take_up(&mut ctx).await? {
            return Ok(());
        }
        while !self.stop.is_cancelled() {
            self.requests.mark_unchanged();
            ctx.journal_mut().refresh().await?;
            ctx.refresh(self.settings.load_full()).await?;
            match O::next(ctx.journal().record(), ctx.policy()) {
                Action::End => return Ok(()),
                Action::Apply(request) => record::<O>(&mut ctx, Event::Requested(request)).await?,
                Action::Wait => self.rest(&mut ctx).await,
                Action::Run { step, after } => {
                    if self.sleep(after).await == Woken::Rested {
                        self.act(&mut ctx, step, Act::Run).await?;
                    }
                }
                Action::Undo { step, after } => {
                    if self.sleep(after).await == Woken::Rested {
                        self.act(&mut ctx, step, Act::Undo).await?;
                    }
                }
            }
        }
        // A failed attempt may have left new connections waiting.
        if let Action::Undo { step, .. } = O::next(ctx.journal().record(), ctx.policy()) {
            self.leave(&mut ctx, step, Act::Run).await;
        }
        Ok(())
    }

    /// Records that steps of an earlier task are no longer running. `false`: another store drives the
    /// operation, or the supervisor stops.
    async fn take_up(&mut self, ctx: &mut O::Context) -> Result<bool, StoreError> {
        let found = loop {
            match O::take_up(ctx, self.is_interrupted).await? {
                PriorWork::New => return Ok(true),
                PriorWork::OtherStore => return Ok(false),
                PriorWork::Interrupted(found) => break found,
                PriorWork::Unknown => {}
            }
            if self.sleep(AGAIN_AFTER).await == Woken::Stop {
                return Ok(false);
            }
            ctx.refresh(self.settings.load_full()).await?;
        };
        tracing::info!(kind = O::KIND.as_str(), id = %self.id, ?found, "taking up an operation");
        record::<O>(ctx, Event::Restarted(found)).await?;
        Ok(true)
    }

    /// Waits for a request; meanwhile maintains an operation that rests.
    async fn rest(&mut self, ctx: &mut O::Context) {
        // The upkeep may be dropped anywhere: it repeats its writes.
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = self.requests.changed() => {}
            () = O::rest(ctx) => {}
        }
    }

    async fn sleep(&mut self, time: Duration) -> Woken {
        if time.is_zero() {
            return Woken::Rested;
        }
        // All are cancel-safe.
        tokio::select! {
            () = self.stop.cancelled() => Woken::Stop,
            _ = self.requests.changed() => Woken::Request,
            () = tokio::time::sleep(time) => Woken::Rested,
        }
    }

    /// Records the intent, acts, records the outcome.
    async fn act(&mut self, ctx: &mut O::Context, step: O::Step, act: Act) -> Result<(), StoreError> {
        let [before_intent, after_intent, before_outcome, after_outcome] = act.boundaries();
        let _ = O::reach(ctx, step, before_intent).await;
        record::<O>(ctx, intent::<O>(act, step)).await?;
        let began = O::reach(ctx, step, after_intent).await;
        if !O::may_act(ctx, step, act).await? {
            return Ok(());
        }
        let cancel = CancellationToken::new();
        ctx.begin(cancel.clone());
        let future = match act {
            Act::Run => O::run(step, ctx),
            Act::Undo => O::undo(step, ctx),
        };
        let Some(outcome) = self.watched(future, &cancel, step, act).await else {
            self.leave(ctx, step, act).await;
            return Ok(());
        };
        let outcome = began.and(outcome).and(O::reach(ctx, step, before_outcome).await);
        if let Err(error) = &outcome {
            tracing::warn!(
                kind = O::KIND.as_str(),
                id = %self.id,
                step = step.as_str(),
                error = error as &dyn std::error::Error,
                "a step failed"
            );
        }
        record::<O>(ctx, outcome_of::<O>(act, step, outcome)).await?;
        let _ = O::reach(ctx, step, after_outcome).await;
        Ok(())
    }

    /// Runs a step, and cancels it when it has to stop. `None`: the supervisor stops, and the step was
    /// dropped wherever it was.
    async fn watched(
        &mut self,
        mut future: StepFuture<'_, O::Error>,
        cancel: &CancellationToken,
        step: O::Step,
        act: Act,
    ) -> Option<Result<(), O::Error>> {
        let is_waited_for = O::is_waited_for(step, act);
        let mut deaf = false;
        loop {
            tokio::select! {
                outcome = &mut future => {
                    let left = self.stop.is_cancelled() && outcome.is_err() && act == Act::Run;
                    return (!left).then_some(outcome);
                }
                () = self.stop.cancelled(), if !cancel.is_cancelled() => {
                    cancel.cancel();
                    if !is_waited_for {
                        return None;
                    }
                }
                changed = self.requests.changed(), if !deaf => {
                    deaf = changed.is_err();
                    let request = *self.requests.borrow_and_update();
                    if act == Act::Run && request.is_some_and(|request| O::stops_early(step, request)) {
                        cancel.cancel();
                    }
                }
            }
        }
    }

    /// The supervisor stops in the middle of a step. Waiting clients are released; the next start does the
    /// rest.
    async fn leave(&self, ctx: &mut O::Context, step: O::Step, act: Act) {
        if act == Act::Run && O::holds_clients(step) {
            ctx.begin(CancellationToken::new());
            if let Err(error) = O::undo(step, ctx).await {
                let step = step.as_str();
                tracing::warn!(%error, step, "the step is undone at the next start");
            }
        }
    }
}

/// Applies the event to the record, durably.
async fn record<O: Operation>(ctx: &mut O::Context, event: EventOf<O>) -> Result<(), StoreError> {
    let at = (ctx.journal().clock)();
    let policy = *ctx.policy();
    ctx.journal_mut().write(|record| O::apply(record, event.clone(), at, &policy)).await?;
    ctx.recorded();
    Ok(())
}

fn intent<O: Operation>(act: Act, step: O::Step) -> EventOf<O> {
    match act {
        Act::Run => Event::Started(step),
        Act::Undo => Event::UndoStarted(step),
    }
}

fn outcome_of<O: Operation>(act: Act, step: O::Step, outcome: Result<(), O::Error>) -> EventOf<O> {
    match (act, outcome) {
        (Act::Run, Ok(())) => Event::Done(step),
        (Act::Undo, Ok(())) => Event::Undone(step),
        (Act::Run, Err(error)) => Event::Failed { failure: failure(step, &error), retry: error.retry() },
        (Act::Undo, Err(error)) => Event::UndoFailed { failure: failure(step, &error), retry: error.retry() },
    }
}

fn failure<S>(step: S, error: &impl Explain) -> Failure<S> {
    Failure {
        step,
        sqlstate: error.sqlstate().as_str().to_owned(),
        message: error.message(),
        detail: error.detail(),
        hint: error.hint(),
        blame: Some(error.blame()),
    }
}
