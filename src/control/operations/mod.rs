//! The engine of recorded operations: runs and undoes the steps of any operation by its record.
//!
//! ```text
//!   supervisor: lists and watches records --> a task for each: restarted? --> loop { next, record intent,
//!                     |                                                         ^    act, record }
//!                     +---- requests of commands, as they are recorded --------+
//! ```
//!
//! Owns the [`supervisor`], the [`driver`] of one operation, and the [`journal`], its only writer. It
//! deliberately knows no operation: a kind implements [`Operation`] with two pure functions (`next`, `apply`)
//! and two that act (`run`, `undo`). It offers no command either: a request in the record is the only way to
//! ask for something.
//!
//! # Why
//! The task of an operation has no state that could be lost: at any instant the record, the route and the
//! systems together say where it is. So an unreachable store, a panic and a kill -9 have one remedy: begin
//! again from the record.

pub mod driver;
pub mod journal;
pub mod log;
pub mod supervisor;

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::catalog::store::StoreError;
use crate::catalog::{Batch, Catalog};
use crate::error::{Explain, Retry};
use crate::model::{Failure, OperationKind, UnixMillis};

use self::journal::Journal;

/// The requests of an operation that commands can ask nothing of.
pub type Never = std::convert::Infallible;

/// The wall clock, as an argument.
pub type WallClock = fn() -> UnixMillis;

/// What a step does, boxed: the steps of a kind are many functions.
pub type StepFuture<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// A step of an operation: the unit of recording.
pub trait StepName: Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// Its name in records, logs and answers.
    fn as_str(self) -> &'static str;
}

/// The durable record of an operation.
pub trait OperationRecord:
    Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    type Id: Copy + Eq + Hash + fmt::Display + fmt::Debug + Send + Sync;
    /// What commands can ask of it while it runs.
    type Request: Copy + PartialEq + fmt::Debug + Send + Sync;

    fn id(&self) -> Self::Id;
    fn request(&self) -> Option<Self::Request>;
    /// The operation no longer changes, by itself or by command.
    fn has_ended(&self) -> bool;
    /// Another store drives it, so this one does nothing.
    fn is_anothers(&self) -> bool {
        false
    }
}

/// One operation while its steps run.
pub trait Context<O: Operation>: Send + Sync {
    fn journal(&self) -> &Journal<O>;
    fn journal_mut(&mut self) -> &mut Journal<O>;
    fn policy(&self) -> &O::Policy;
    /// Before each decision: reads again what may have changed since the last step.
    fn refresh(&mut self, settings: Arc<O::Settings>) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// A step begins; the token tells it to stop at its next safe point.
    fn begin(&mut self, cancel: CancellationToken);
    /// The record has changed.
    fn recorded(&mut self) {}
}

/// A kind of recorded operation.
pub trait Operation: Sized + Send + Sync + 'static {
    const KIND: OperationKind;
    type Record: OperationRecord;
    type Step: StepName;
    /// What a process that resumes the operation has to know, and the record does not say.
    type Found: Copy + fmt::Debug + Send + Sync;
    type Error: Explain + Send + 'static;
    /// The operator's settings for the kind.
    type Settings: Send + Sync + 'static;
    /// The part of them that decides the next action.
    type Policy: Copy + Send + Sync;
    type Context: Context<Self>;

    fn key(id: IdOf<Self>) -> String;

    /// The keys of all records of the kind begin with it.
    fn prefix() -> String;

    /// The next action for the record. Pure.
    fn next(record: &Self::Record, policy: &Self::Policy) -> ActionOf<Self>;

    /// Changes the record for the event. Pure.
    fn apply(record: &mut Self::Record, event: EventOf<Self>, at: UnixMillis, policy: &Self::Policy);

    /// Safe to repeat, unless `apply` says that an interrupted step is undone.
    fn run(step: Self::Step, ctx: &mut Self::Context) -> StepFuture<'_, Self::Error>;

    /// Safe to repeat, and correct after a `run` that never began.
    fn undo(step: Self::Step, ctx: &mut Self::Context) -> StepFuture<'_, Self::Error>;

    /// Everything that the steps use.
    fn open(
        journal: Journal<Self>,
        settings: Arc<Self::Settings>,
    ) -> impl Future<Output = Result<Self::Context, StoreError>> + Send;

    /// What else changes in the commit that changes the record.
    fn consequences(
        catalog: &Catalog,
        change: RecordChange<'_, Self::Record>,
        batch: Batch,
    ) -> impl Future<Output = Result<Batch, StoreError>> + Send;

    /// Looks, before anything else, what an earlier task left. `is_interrupted`: there was one, as far as
    /// the supervisor knows.
    fn take_up(
        ctx: &mut Self::Context,
        is_interrupted: bool,
    ) -> impl Future<Output = Result<PriorWork<Self::Found>, StoreError>> + Send;

    /// Whether a step may act now. Asked after its intent is recorded.
    fn may_act(
        _ctx: &mut Self::Context,
        _step: Self::Step,
        _act: Act,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(true))
    }

    /// Maintains an operation that waits for a request. May be dropped anywhere.
    fn rest(_ctx: &mut Self::Context) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Passes a boundary at which a test may have injected a fault.
    fn reach(
        _ctx: &Self::Context,
        _step: Self::Step,
        _boundary: Boundary,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether a request is a reason for a step to stop early.
    fn stops_early(_step: Self::Step, _request: RequestOf<Self>) -> bool {
        false
    }

    /// Whether a process that stops waits for the step. The others are dropped where they are, and are
    /// resumed or undone at the next start.
    fn is_waited_for(_step: Self::Step, act: Act) -> bool {
        act == Act::Undo
    }

    /// Whether clients wait while the step is neither done nor undone: a process that stops undoes it first.
    fn holds_clients(_step: Self::Step) -> bool {
        false
    }
}

/// The requests of a kind.
pub type RequestOf<O> = <<O as Operation>::Record as OperationRecord>::Request;
/// The id of an operation of a kind.
pub type IdOf<O> = <<O as Operation>::Record as OperationRecord>::Id;
/// [`Action`] of a kind.
pub type ActionOf<O> = Action<<O as Operation>::Step, RequestOf<O>>;
/// [`Event`] of a kind.
pub type EventOf<O> = Event<<O as Operation>::Step, RequestOf<O>, <O as Operation>::Found>;

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<S, R> {
    /// Wait, then run the step.
    Run { step: S, after: Duration },
    /// Wait, then undo the step.
    Undo { step: S, after: Duration },
    /// Act on a request: apply [`Event::Requested`].
    Apply(R),
    /// Wait for a request.
    Wait,
    /// Nothing: the operation has ended.
    End,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<S, R, F> {
    Started(S),
    Done(S),
    Failed {
        failure: Failure<S>,
        retry: Retry,
    },
    UndoStarted(S),
    Undone(S),
    UndoFailed {
        failure: Failure<S>,
        retry: Retry,
    },
    /// A safe point was reached with this request in the record.
    Requested(R),
    /// A new task resumed the operation; the step of the old one is no longer running.
    Restarted(F),
}

/// How often a step that failed is tried again, and after what wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failed attempts of a step that holds clients, before the operation is undone.
    pub hold_attempts_max: u32,
    /// The wait after the first of them; doubles with each.
    pub hold_backoff: Duration,
    /// Attempts of a step that must go on (settle, finish, an undo) before the operation waits for the
    /// operator. What releases clients is tried until it works.
    pub step_attempts_max: u32,
    /// The wait after the first failed attempt; doubles with each.
    pub step_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        let (attempts, backoff) = (5, Duration::from_secs(1));
        RetryPolicy {
            hold_attempts_max: attempts,
            hold_backoff: backoff,
            step_attempts_max: attempts,
            step_backoff: backoff,
        }
    }
}

/// Running or undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Run,
    Undo,
}

impl Act {
    /// The boundaries that the driver passes, in order.
    fn boundaries(self) -> [Boundary; 4] {
        use Boundary::{
            AfterIntent, AfterOutcome, AfterUndoIntent, AfterUndoOutcome, BeforeIntent, BeforeOutcome,
            BeforeUndoIntent, BeforeUndoOutcome,
        };
        match self {
            Act::Run => [BeforeIntent, AfterIntent, BeforeOutcome, AfterOutcome],
            Act::Undo => [BeforeUndoIntent, AfterUndoIntent, BeforeUndoOutcome, AfterUndoOutcome],
        }
    }
}

/// What a task found when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorWork<F> {
    /// No earlier task has done anything.
    New,
    /// An earlier task was interrupted: apply [`Event::Restarted`].
    Interrupted(F),
    /// Another store drives it.
    OtherStore,
    /// Not known now; look again.
    Unknown,
}

/// A change of a record.
#[derive(Debug, Clone, Copy)]
pub struct RecordChange<'a, R> {
    pub before: &'a R,
    pub after: &'a R,
    pub at: UnixMillis,
}

/// A point before or after a record of the driver: where a crash leaves the record and the systems apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// Nothing of the step is recorded yet.
    BeforeIntent,
    /// The intent is recorded, nothing is done.
    AfterIntent,
    /// The step is done, its outcome is not recorded.
    BeforeOutcome,
    AfterOutcome,
    /// The same four of the step's undo.
    BeforeUndoIntent,
    AfterUndoIntent,
    BeforeUndoOutcome,
    AfterUndoOutcome,
}

impl Boundary {
    /// All of them, in the order of a step and its undo.
    pub fn all() -> impl Iterator<Item = Boundary> {
        [Act::Run, Act::Undo].into_iter().flat_map(Act::boundaries)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Boundary::BeforeIntent => "before_intent",
            Boundary::AfterIntent => "after_intent",
            Boundary::BeforeOutcome => "before_outcome",
            Boundary::AfterOutcome => "after_outcome",
            Boundary::BeforeUndoIntent => "before_undo_intent",
            Boundary::AfterUndoIntent => "after_undo_intent",
            Boundary::BeforeUndoOutcome => "before_undo_outcome",
            Boundary::AfterUndoOutcome => "after_undo_outcome",
        }
    }
}
