//! The state machine of a move: pure, no IO, no clock.
//!
//! ```text
//!            run fails for now (5 times at most): abort, wait, catch up again
//!                                    +---------------------+
//!                                    v                     |
//! Preflight -> Provision -> Copy -> Catchup -> Compare -> Cutover =commit=> Settle -> Kept -> Finishing
//!     |            |          |        |          |          |                 |      ^  |        |
//!     +------------+----------+--------+----------+----------+                 |      |  v        v
//!           failure, CANCEL, crash while copying, rows that differ             |     Undoing   Finished
//!                             |                                                |        |     or Undone
//!                             |                                                |        +---> Finishing
//!                             |                                                |  (a cutover back; returns
//!                             v                                                v   to Kept if aborted)
//!                        RollingBack ------> RolledBack           Parked: the gate is open; it waits for the
//!                             +------------> Parked               operator (CANCEL, UNDO or FINISH retries)
//! ```
//!
//! [`next`] says what to do, from the record alone. [`apply`] changes the record for an event. The driver
//! records [`MoveEvent::Started`] before it acts and the outcome after, so at any instant the record and the
//! route together tell a process that has just started where it is: [`MoveEvent::Restarted`].
//!
//! # Why
//! * **The compare-and-swap of the route decides the commit**, not this log: a crash between the two is found
//!   by reading the route ([`Side`]), and from the commit on the move goes forward only.
//! * **A copy that was interrupted is not resumed**: its snapshot died with the connection that exported it,
//!   and rows copied under another snapshot would not fit the slot. Rolling back is correct, and loses the
//!   work of the copy.
//! * **Attempts are counted in the log**, so a crash loop is bounded like repeated failures.
//! * **An interrupted cutover is undone like a step** (gate open, fence lifted). But the undo has no limit of
//!   attempts: until the fence is lifted no new connection can reach the database, and a server that recovers
//!   from a crash takes longer than any number of tries.

use std::time::Duration;

use crate::error::{Blame, Retry, SqlState};
use crate::model::{
    MoveFailure, MovePhase, MoveRecord, MoveRequest, MoveStep, OldCopy, StepEntry, StepEvent, UnixMillis,
};

use crate::control::moves::log::{StepState, is_committed, step_state, went_back};
use crate::control::moves::objections;
use crate::control::operations::{self, log, log::backoff};
use crate::control::settings::MovePolicy;

/// Longest wait between attempts to abort a cutover: clients wait for it.
const ABORT_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Steps that leave something behind, in the order in which they run.
const UNDOABLE: [MoveStep; 4] = [MoveStep::Provision, MoveStep::Copy, MoveStep::Catchup, MoveStep::Cutover];

/// What the driver does next.
pub type MoveAction = operations::Action<MoveStep, MoveRequest>;

/// What happened. A restart finds the side that the route sends the clients to.
pub type MoveEvent = operations::Event<MoveStep, MoveRequest, Side>;

/// The side that the route sends the clients to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// Whether a command fits the phase; otherwise it fails with `MF103`.
pub fn allows(record: &MoveRecord, request: MoveRequest) -> bool {
    match (request, record.phase) {
        (MoveRequest::Cancel, MovePhase::Parked) => !is_committed(record),
        (MoveRequest::Undo, MovePhase::Parked) => is_committed(record) && !went_back(record),
        (MoveRequest::Finish | MoveRequest::FinishAndDrop, MovePhase::Parked) => is_committed(record),
        (MoveRequest::Cancel, phase) => phase <= MovePhase::Cutover || phase == MovePhase::Undoing,
        (MoveRequest::Undo | MoveRequest::Finish | MoveRequest::FinishAndDrop, phase) => {
            matches!(phase, MovePhase::Settle | MovePhase::Kept)
        }
    }
}

/// The next action for the record.
pub fn next(record: &MoveRecord, policy: &MovePolicy) -> MoveAction {
    if record.facts.claim_lost.is_some() {
        // Another store drives the move: requests wait, too.
        return MoveAction::End;
    }
    if let Some(request) = due_request(record) {
        return MoveAction::Apply(request);
    }
    match record.phase {
        MovePhase::Preflight => run(MoveStep::Preflight, Duration::ZERO),
        MovePhase::Provision => run(MoveStep::Provision, Duration::ZERO),
        MovePhase::Copy => run(MoveStep::Copy, Duration::ZERO),
        MovePhase::Catchup => run(MoveStep::Catchup, catchup_wait(record, policy)),
        MovePhase::Compare => run(MoveStep::Compare, Duration::ZERO),
        MovePhase::Cutover => attempt(record, MoveStep::Cutover, policy),
        MovePhase::Settle => run(MoveStep::Settle, step_wait(record, MoveStep::Settle, policy)),
        MovePhase::Undoing => attempt(record, MoveStep::UndoCutover, policy),
        MovePhase::Finishing => run(MoveStep::Finish, step_wait(record, MoveStep::Finish, policy)),
        MovePhase::RollingBack => match last_to_undo(record) {
            Some(step) => MoveAction::Undo { step, after: undo_wait(record, step, policy) },
            None => MoveAction::End,
        },
        MovePhase::Kept | MovePhase::Parked => MoveAction::Wait,
        MovePhase::Finished | MovePhase::Undone | MovePhase::RolledBack => MoveAction::End,
    }
}

/// The request that can be obeyed at this point; others wait. After the commit every request waits until the
/// reverse direction is established, and the request to undo stays in the record for as long as the undo is
/// being tried.
fn due_request(record: &MoveRecord) -> Option<MoveRequest> {
    let waits = |request| match record.phase {
        MovePhase::Settle => true,
        MovePhase::Undoing => request != MoveRequest::Cancel,
        _ => false,
    };
    record.request.filter(|&request| !waits(request))
}

fn run(step: MoveStep, after: Duration) -> MoveAction {
    MoveAction::Run { step, after }
}

/// A cutover in either direction: a failed attempt is aborted before anything else.
fn attempt(record: &MoveRecord, step: MoveStep, policy: &MovePolicy) -> MoveAction {
    match step_state(record, step) {
        StepState::Failed | StepState::Undoing | StepState::UndoFailed => {
            MoveAction::Undo { step, after: undo_wait(record, step, policy) }
        }
        StepState::Untouched | StepState::Running | StepState::Done | StepState::Undone => {
            let failures = tries(record, step, StepEvent::Failed);
            // Forward, the wait is spent in catch-up; back, there is nothing else to do meanwhile.
            let wait = match step {
                MoveStep::UndoCutover => backoff(policy.retry.hold_backoff, failures),
                _ => Duration::ZERO,
            };
            run(step, wait)
        }
    }
}

fn catchup_wait(record: &MoveRecord, policy: &MovePolicy) -> Duration {
    let aborted = backoff(policy.retry.hold_backoff, tries(record, MoveStep::Cutover, StepEvent::Failed));
    let not_compared = step_wait(record, MoveStep::Compare, policy);
    aborted.max(step_wait(record, MoveStep::Catchup, policy)).max(not_compared)
}

fn step_wait(record: &MoveRecord, step: MoveStep, policy: &MovePolicy) -> Duration {
    backoff(policy.retry.step_backoff, tries(record, step, StepEvent::Failed))
}

fn undo_wait(record: &MoveRecord, step: MoveStep, policy: &MovePolicy) -> Duration {
    let wait = backoff(policy.retry.step_backoff, tries(record, step, StepEvent::UndoFailed));
    if is_abort(step) { wait.min(ABORT_BACKOFF_MAX) } else { wait }
}

/// Whether the undo of a step releases the clients.
fn is_abort(step: MoveStep) -> bool {
    matches!(step, MoveStep::Cutover | MoveStep::UndoCutover)
}

/// Number of times that a step ended in this way since it was last requested or last succeeded.
fn tries(record: &MoveRecord, step: MoveStep, event: StepEvent) -> u32 {
    log::tries(&record.log, step, event)
}

fn last_to_undo(record: &MoveRecord) -> Option<MoveStep> {
    let stands =
        |step: &MoveStep| !matches!(step_state(record, *step), StepState::Untouched | StepState::Undone);
    UNDOABLE.into_iter().rev().find(stands)
}

/// Changes the record for the event.
pub fn apply(record: &mut MoveRecord, event: MoveEvent, at: UnixMillis, policy: &MovePolicy) {
    match event {
        MoveEvent::Started(step) => note(record, step, StepEvent::Started, at, None),
        MoveEvent::Done(step) => {
            note(record, step, StepEvent::Done, at, None);
            after_done(record, step, at);
        }
        MoveEvent::Failed { failure, retry } => {
            note(record, failure.step, StepEvent::Failed, at, Some(failure.message.clone()));
            after_failure(record, failure, retry, at, policy);
        }
        MoveEvent::UndoStarted(step) => note(record, step, StepEvent::UndoStarted, at, None),
        MoveEvent::Undone(step) => {
            note(record, step, StepEvent::Undone, at, None);
            after_undo(record, step, at, policy);
        }
        MoveEvent::UndoFailed { failure, retry } => {
            let spent =
                tries(record, failure.step, StepEvent::UndoFailed) + 1 >= policy.retry.step_attempts_max;
            let goes_on = is_abort(failure.step) && retry != Retry::Never;
            if spent && goes_on {
                forget_last_try(record, failure.step);
            }
            note(record, failure.step, StepEvent::UndoFailed, at, Some(failure.message.clone()));
            if !goes_on && (retry == Retry::Never || spent) {
                park(record, failure);
            }
        }
        MoveEvent::Requested(request) => after_request(record, request, at, policy),
        MoveEvent::Restarted(clients) => after_restart(record, clients, at, policy),
    }
}

fn note(record: &mut MoveRecord, step: MoveStep, event: StepEvent, at: UnixMillis, note: Option<String>) {
    record.log.push(StepEntry { step, event, at, note });
}

/// An abort that is tried without limit: its latest failure replaces the one before.
fn forget_last_try(record: &mut MoveRecord, step: MoveStep) {
    let again = [StepEvent::UndoStarted, StepEvent::UndoFailed, StepEvent::UndoStarted];
    log::forget_last_try(&mut record.log, step, &again);
}

fn after_done(record: &mut MoveRecord, step: MoveStep, at: UnixMillis) {
    record.failure = None;
    record.phase = match step {
        MoveStep::Preflight => MovePhase::Provision,
        MoveStep::Provision => MovePhase::Copy,
        MoveStep::Copy => MovePhase::Catchup,
        MoveStep::Catchup => MovePhase::Compare,
        MoveStep::Compare => MovePhase::Cutover,
        MoveStep::Cutover => MovePhase::Settle,
        MoveStep::Settle => MovePhase::Kept,
        MoveStep::UndoCutover => MovePhase::Finishing,
        MoveStep::Finish => return end(record, at),
    };
    let undo_is_over = step == MoveStep::UndoCutover;
    let cancel_came_late = step == MoveStep::Cutover && record.request == Some(MoveRequest::Cancel);
    if undo_is_over || cancel_came_late {
        record.request = None;
    }
}

fn end(record: &mut MoveRecord, at: UnixMillis) {
    record.request = None;
    record.ended_at = Some(at);
    record.phase = match (is_committed(record), went_back(record)) {
        (true, true) => MovePhase::Undone,
        (true, false) => MovePhase::Finished,
        (false, _) => MovePhase::RolledBack,
    };
}

fn after_failure(
    record: &mut MoveRecord,
    failure: MoveFailure,
    retry: Retry,
    at: UnixMillis,
    policy: &MovePolicy,
) {
    let step = failure.step;
    let for_good = retry == Retry::Never;
    let spent = tries(record, step, StepEvent::Failed) >= policy.retry.step_attempts_max;
    match step {
        MoveStep::Preflight | MoveStep::Provision | MoveStep::Copy => roll_back(record, Some(failure), at),
        MoveStep::Catchup | MoveStep::Compare if for_good || spent => roll_back(record, Some(failure), at),
        // Catch-up handles what the comparison waits for.
        MoveStep::Compare => {
            record.failure = Some(failure);
            record.phase = MovePhase::Catchup;
        }
        MoveStep::Cutover if for_good => roll_back(record, Some(failure), at),
        MoveStep::Settle | MoveStep::Finish if for_good || spent => park(record, failure),
        MoveStep::UndoCutover if for_good => {
            record.request = None;
            record.failure = Some(failure);
        }
        MoveStep::Catchup
        | MoveStep::Cutover
        | MoveStep::Settle
        | MoveStep::UndoCutover
        | MoveStep::Finish => record.failure = Some(failure),
    }
}

/// Ends the move at once if there is nothing to undo.
fn roll_back(record: &mut MoveRecord, failure: Option<MoveFailure>, at: UnixMillis) {
    record.request = None;
    if failure.is_some() {
        record.failure = failure;
    }
    record.phase = MovePhase::RollingBack;
    if last_to_undo(record).is_none() {
        end(record, at);
    }
}

fn park(record: &mut MoveRecord, failure: MoveFailure) {
    record.request = None;
    record.failure = Some(failure);
    record.phase = MovePhase::Parked;
}

fn after_undo(record: &mut MoveRecord, step: MoveStep, at: UnixMillis, policy: &MovePolicy) {
    let spent = tries(record, step, StepEvent::Failed) >= policy.retry.hold_attempts_max;
    match (record.phase, step) {
        (MovePhase::Cutover, MoveStep::Cutover) if spent => roll_back(record, None, at),
        (MovePhase::Cutover, MoveStep::Cutover) => record.phase = MovePhase::Catchup,
        (MovePhase::Undoing, MoveStep::UndoCutover) if spent || record.request != Some(MoveRequest::Undo) => {
            record.request =
                record.request.filter(|request| !matches!(request, MoveRequest::Undo | MoveRequest::Cancel));
            // The acceptance was given for this undo only.
            record.facts.accepted = record.facts.accepted.take().filter(|_| record.request.is_some());
            record.phase = MovePhase::Kept;
        }
        (MovePhase::Undoing, _) => {}
        _ if last_to_undo(record).is_none() => end(record, at),
        _ => {}
    }
}

fn after_request(record: &mut MoveRecord, request: MoveRequest, at: UnixMillis, policy: &MovePolicy) {
    if !allows(record, request) {
        record.request = None;
        return;
    }
    // Known only now: the request was accepted while the copies were being compared.
    if let Some(failure) = objections::objection(record, request, policy.verify) {
        record.request = None;
        record.failure = Some(failure);
        return;
    }
    match (request, record.phase) {
        // The attempt is aborted first; its undo finds no request, and returns to Kept.
        (MoveRequest::Cancel, MovePhase::Undoing) => cancel_undo(record, at),
        (MoveRequest::Cancel, phase) => {
            let asked = UNDOABLE.into_iter().filter(|_| phase == MovePhase::Parked);
            record.log.extend(asked.map(|step| asked_for(step, at)));
            let failure = (phase != MovePhase::Parked).then(|| cancelled(record));
            roll_back(record, failure, at);
        }
        // Parked in the abort of an undo: on any request, the side that the clients use is opened first.
        (_, MovePhase::Parked) if is_half_undone(record) => {
            record.log.push(asked_for(MoveStep::UndoCutover, at));
            record.phase = MovePhase::Undoing;
        }
        (MoveRequest::Undo, MovePhase::Parked) if step_state(record, MoveStep::Settle) != StepState::Done => {
            record.log.push(asked_for(MoveStep::Settle, at));
            record.phase = MovePhase::Settle;
        }
        (MoveRequest::Undo, _) => {
            record.log.push(asked_for(MoveStep::UndoCutover, at));
            record.failure = None;
            record.phase = MovePhase::Undoing;
        }
        (MoveRequest::Finish, _) => finish(record, OldCopy::Closed, at),
        (MoveRequest::FinishAndDrop, _) => finish(record, OldCopy::Dropped, at),
    }
}

/// An undo was tried, and the attempt is neither committed nor completely aborted.
fn is_half_undone(record: &MoveRecord) -> bool {
    let step_state = step_state(record, MoveStep::UndoCutover);
    matches!(step_state, StepState::Failed | StepState::Undoing | StepState::UndoFailed)
}

fn asked_for(step: MoveStep, at: UnixMillis) -> StepEntry {
    StepEntry { step, event: StepEvent::Asked, at, note: None }
}

fn cancel_undo(record: &mut MoveRecord, at: UnixMillis) {
    record.request = None;
    if matches!(step_state(record, MoveStep::UndoCutover), StepState::Untouched | StepState::Undone) {
        record.log.push(asked_for(MoveStep::UndoCutover, at));
        record.phase = MovePhase::Kept;
    }
}

fn finish(record: &mut MoveRecord, old_copy: OldCopy, at: UnixMillis) {
    record.request = None;
    record.facts.old_copy = Some(old_copy);
    record.log.push(asked_for(MoveStep::Finish, at));
    record.phase = MovePhase::Finishing;
}

fn cancelled(record: &MoveRecord) -> MoveFailure {
    MoveFailure {
        step: step_of(record.phase),
        sqlstate: SqlState::QUERY_CANCELED.as_str().to_owned(),
        message: "the move was cancelled".to_owned(),
        detail: None,
        hint: None,
        blame: Some(Blame::Client),
    }
}

fn step_of(phase: MovePhase) -> MoveStep {
    match phase {
        MovePhase::Provision => MoveStep::Provision,
        MovePhase::Copy => MoveStep::Copy,
        MovePhase::Catchup => MoveStep::Catchup,
        MovePhase::Compare => MoveStep::Compare,
        MovePhase::Cutover => MoveStep::Cutover,
        MovePhase::Settle | MovePhase::Kept => MoveStep::Settle,
        MovePhase::Undoing => MoveStep::UndoCutover,
        MovePhase::Finishing | MovePhase::Finished | MovePhase::Undone => MoveStep::Finish,
        MovePhase::Preflight | MovePhase::RollingBack | MovePhase::RolledBack | MovePhase::Parked => {
            MoveStep::Preflight
        }
    }
}

/// Decides how to go on after an interrupted step. Steps not named here are run again.
fn after_restart(record: &mut MoveRecord, clients: Side, at: UnixMillis, policy: &MovePolicy) {
    let step = step_of(record.phase);
    let running = step_state(record, step) == StepState::Running;
    match (record.phase, clients) {
        (MovePhase::Cutover, Side::Target) if running => apply(record, MoveEvent::Done(step), at, policy),
        (MovePhase::Undoing, Side::Source) if running => apply(record, MoveEvent::Done(step), at, policy),
        (MovePhase::Cutover | MovePhase::Undoing, _) if running => {
            let failure = interrupted(step, "Freehold ended during the cutover");
            apply(record, MoveEvent::Failed { failure, retry: Retry::Now }, at, policy);
        }
        (MovePhase::Provision | MovePhase::Copy, _) if running => {
            fail_interrupted_copy(record, step, at, policy);
        }
        _ => {}
    }
}

fn fail_interrupted_copy(record: &mut MoveRecord, step: MoveStep, at: UnixMillis, policy: &MovePolicy) {
    let failure = interrupted(step, "Freehold ended while rows were being copied");
    apply(record, MoveEvent::Failed { failure, retry: Retry::Never }, at, policy);
}

fn interrupted(step: MoveStep, message: &str) -> MoveFailure {
    let copying = matches!(step, MoveStep::Provision | MoveStep::Copy);
    let detail = copying.then(|| "The snapshot that the copy reads ended with the process.".to_owned());
    let hint = copying.then(|| "Start the move again; nothing was left behind.".to_owned());
    MoveFailure {
        step,
        sqlstate: SqlState::ADMIN_SHUTDOWN.as_str().to_owned(),
        message: message.to_owned(),
        detail,
        hint,
        blame: Some(Blame::Platform),
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
