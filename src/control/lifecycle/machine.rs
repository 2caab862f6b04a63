//! The state machine of CREATE, DROP and ADOPT DATABASE: pure, no IO, no clock.
//!
//! ```text
//!               +--+ an earlier process began it, and nothing forbids it: again later
//!               |  v
//!   start ---> Running -------- done -------> Done
//!                 |
//!                 | failure; or a restart, where the kind cannot go on
//!                 v
//!              Undoing ------- undone ------> Failed
//!               ^  |
//!               +--+ the undo fails: again later, without limit
//! ```
//!
//! # Why
//! * **A failure undoes at once while a command waits**: the administrator sees the cause and repeats the
//!   command. With no command waiting, a system that cannot be reached just now is tried again.
//! * **The undo has no limit of attempts**: until it is done, a name is taken that nothing has.

use crate::error::{Blame, Retry, SqlState};
use crate::model::{
    DatabaseOperation, DatabasePhase, DatabaseStep, Failure, LogEntry, StepEvent, UnixMillis,
};

use crate::control::operations::log::{backoff, forget_last_try, tries};
use crate::control::operations::{self, Never, RetryPolicy};

/// Failures of a step that the log keeps; the wait between attempts grows with them.
const FAILURES_LOGGED_MAX: u32 = 5;

/// What the driver does next.
pub type DatabaseAction = operations::Action<DatabaseStep, Never>;

/// What happened.
pub type DatabaseEvent = operations::Event<DatabaseStep, Never, ()>;

/// What a process does with an operation of an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRestart {
    GoOn,
    /// A secret has died with the process.
    Undo,
}

/// The next action for the record.
pub fn next<F>(record: &DatabaseOperation<F>, step: DatabaseStep, policy: &RetryPolicy) -> DatabaseAction {
    let wait = |event| backoff(policy.step_backoff, tries(&record.log, step, event));
    match record.phase {
        DatabasePhase::Running => DatabaseAction::Run { step, after: wait(StepEvent::Failed) },
        DatabasePhase::Undoing => DatabaseAction::Undo { step, after: wait(StepEvent::UndoFailed) },
        DatabasePhase::Done | DatabasePhase::Failed => DatabaseAction::End,
    }
}

/// Changes the record for the event.
pub fn apply<F>(
    record: &mut DatabaseOperation<F>,
    event: DatabaseEvent,
    at: UnixMillis,
    (step, on_restart): (DatabaseStep, OnRestart),
) {
    match event {
        DatabaseEvent::Started(step) => note(record, step, StepEvent::Started, at, None),
        DatabaseEvent::Done(step) => {
            note(record, step, StepEvent::Done, at, None);
            end(record, DatabasePhase::Done, at);
        }
        DatabaseEvent::Failed { failure, retry } => {
            let is_retried = record.is_interrupted && retry != Retry::Never;
            bound(record, failure.step, [StepEvent::Started, StepEvent::Failed]);
            note(record, failure.step, StepEvent::Failed, at, Some(failure.message.clone()));
            record.failure = Some(failure);
            if !is_retried {
                record.phase = DatabasePhase::Undoing;
            }
        }
        DatabaseEvent::UndoStarted(step) => note(record, step, StepEvent::UndoStarted, at, None),
        DatabaseEvent::Undone(step) => {
            note(record, step, StepEvent::Undone, at, None);
            end(record, DatabasePhase::Failed, at);
        }
        DatabaseEvent::UndoFailed { failure, .. } => {
            bound(record, failure.step, [StepEvent::UndoStarted, StepEvent::UndoFailed]);
            note(record, failure.step, StepEvent::UndoFailed, at, Some(failure.message));
        }
        DatabaseEvent::Requested(never) => match never {},
        DatabaseEvent::Restarted(()) => restart(record, step, on_restart, at),
    }
}

fn restart<F>(record: &mut DatabaseOperation<F>, step: DatabaseStep, on_restart: OnRestart, at: UnixMillis) {
    record.is_interrupted = true;
    if let Some(because) = record.is_copy.clone() {
        let message = "nothing was done on the system".to_owned();
        record.failure = Some(Failure { detail: Some(because), ..interrupted(step, message) });
        return end(record, DatabasePhase::Failed, at);
    }
    if record.phase == DatabasePhase::Running && on_restart == OnRestart::Undo {
        let message = "the process ended meanwhile; what the command made is removed".to_owned();
        record.failure = Some(interrupted(step, message));
        record.phase = DatabasePhase::Undoing;
    }
}

fn interrupted(step: DatabaseStep, message: String) -> Failure<DatabaseStep> {
    let sqlstate = SqlState::parse("57P02").as_str().to_owned();
    Failure { step, sqlstate, message, detail: None, hint: None, blame: Some(Blame::Platform) }
}

fn note<F>(
    record: &mut DatabaseOperation<F>,
    step: DatabaseStep,
    event: StepEvent,
    at: UnixMillis,
    note: Option<String>,
) {
    record.log.push(LogEntry { step, event, at, note });
}

/// Many failures do not make a long log: the latest replaces the one before.
fn bound<F>(record: &mut DatabaseOperation<F>, step: DatabaseStep, [started, failed]: [StepEvent; 2]) {
    if tries(&record.log, step, failed) >= FAILURES_LOGGED_MAX {
        forget_last_try(&mut record.log, step, &[started, failed, started]);
    }
}

fn end<F>(record: &mut DatabaseOperation<F>, phase: DatabasePhase, at: UnixMillis) {
    if phase == DatabasePhase::Done {
        record.failure = None;
    }
    record.phase = phase;
    record.ended_at = Some(at);
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
