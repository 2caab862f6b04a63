//! The state machine of a move: pure, no IO, no clock.
//!
//! ```text
//!             run fails for now (5 times at most): abort, wait, catch up again
//!                                     +---------------------+
//!                                     v                     |
//! Preflight -> Provision -> Copy -> Catchup -> Compare -> Cutover =commit=> Settle -> Kept -> Finishing -> Finished
//!     |            |          |        |          |          |                 |      ^  |       ^  |
//!     +------------+----------+--------+----------+----------+                 |      |  v       |  |
//!           failure, CANCEL, crash while copying, rows that differ             |     Undoing ----+  +------> Undone
//!                             |                                                |  (a cutover back; aborted it returns to Kept)
//!                             v                                                v
//!                        RollingBack ------> RolledBack           Parked: the gate is open, a person is needed
//!                             +------------> Parked                 (CANCEL, UNDO or FINISH tries again)
//! ```
//!
//! [`next`] says what to do, from the record alone. [`apply`] says what an event makes of the record. The driver
//! records [`Event::Started`] before it acts and the outcome after, so at any instant the record and the route together
//! tell a process that has just started where it is: [`Event::Restarted`].
//!
//! # Why
//! * **The compare-and-swap of the route is the truth about the commit**, not this log: a crash between the two is found
//!   by reading the route ([`Side`]), and from the commit on the move goes forward only.
//! * **A copy that was interrupted is not resumed**: its snapshot died with the connection that exported it, and rows
//!   copied under another snapshot would not fit the slot. Rolling back is right, and costs what the copy had cost.
//! * **Attempts are counted in the log**, so a crash loop is as bounded as a row of failures.
//! * **An interrupted cutover is undone like a step** (gate open, fence lifted): an abort is not an exception here. But it
//!   is never given up while trying helps: until the fence is lifted nobody new can reach the database, and a server that
//!   recovers from a crash takes longer than any number of tries.

use std::time::Duration;

use crate::error::{Retry, SqlState};
use crate::model::{
    MoveFailure, MovePhase, MoveRecord, MoveStep, MoveWish, OldCopy, StepEntry, StepEvent, UnixMillis,
};

use super::doubt;
use super::settings::MoverSettings;

/// The most that tries are apart, however many there were.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The same of the abort of a cutover: somebody waits for it.
const ABORT_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Steps that leave something behind, in the order in which they run.
const UNDOABLE: [MoveStep; 4] = [MoveStep::Provision, MoveStep::Copy, MoveStep::Catchup, MoveStep::Cutover];

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Wait, then run the step.
    Run { step: MoveStep, after: Duration },
    /// Wait, then undo the step.
    Undo { step: MoveStep, after: Duration },
    /// Take notice of a wish: apply [`Event::Wished`].
    Obey(MoveWish),
    /// Nothing until somebody wishes something.
    Rest,
    /// Nothing, ever.
    End,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Started(MoveStep),
    Done(MoveStep),
    Failed {
        failure: MoveFailure,
        retry: Retry,
    },
    UndoStarted(MoveStep),
    Undone(MoveStep),
    UndoFailed {
        failure: MoveFailure,
        retry: Retry,
    },
    /// A safe point was reached with this wish in the record.
    Wished(MoveWish),
    /// A process took the move up again; whatever was running is not running any more.
    Restarted {
        clients: Side,
    },
}

/// Where the route sends the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// What the log says last of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Untouched,
    Running,
    Done,
    Failed,
    Undoing,
    Undone,
    UndoFailed,
}

/// How a step stands.
pub fn standing(record: &MoveRecord, step: MoveStep) -> Standing {
    let last = record.log.iter().rev().find(|entry| entry.step == step && entry.event != StepEvent::Asked);
    match last.map(|entry| entry.event) {
        None | Some(StepEvent::Asked) => Standing::Untouched,
        Some(StepEvent::Started) => Standing::Running,
        Some(StepEvent::Done) => Standing::Done,
        Some(StepEvent::Failed) => Standing::Failed,
        Some(StepEvent::UndoStarted) => Standing::Undoing,
        Some(StepEvent::Undone) => Standing::Undone,
        Some(StepEvent::UndoFailed) => Standing::UndoFailed,
    }
}

/// Whether the point of no return is behind: the clients are on the target, or were.
pub fn is_committed(record: &MoveRecord) -> bool {
    standing(record, MoveStep::Cutover) == Standing::Done
}

/// Whether an undo brought the clients back to the source.
pub fn went_back(record: &MoveRecord) -> bool {
    standing(record, MoveStep::UndoCutover) == Standing::Done
}

/// Whether a command fits the phase; what `MF103` is about.
pub fn allows(record: &MoveRecord, wish: MoveWish) -> bool {
    match (wish, record.phase) {
        (MoveWish::Cancel, MovePhase::Parked) => !is_committed(record),
        (MoveWish::Undo, MovePhase::Parked) => is_committed(record) && !went_back(record),
        (MoveWish::Finish | MoveWish::FinishAndDrop, MovePhase::Parked) => is_committed(record),
        (MoveWish::Cancel, phase) => phase <= MovePhase::Cutover || phase == MovePhase::Undoing,
        (MoveWish::Undo | MoveWish::Finish | MoveWish::FinishAndDrop, phase) => {
            matches!(phase, MovePhase::Settle | MovePhase::Kept)
        }
    }
}

/// What is to be done, as the record stands.
pub fn next(record: &MoveRecord, settings: &MoverSettings) -> Action {
    if record.facts.claim_lost.is_some() {
        // Another store's: whatever is wished waits, too.
        return Action::End;
    }
    if let Some(wish) = due_wish(record) {
        return Action::Obey(wish);
    }
    match record.phase {
        MovePhase::Preflight => run(MoveStep::Preflight, Duration::ZERO),
        MovePhase::Provision => run(MoveStep::Provision, Duration::ZERO),
        MovePhase::Copy => run(MoveStep::Copy, Duration::ZERO),
        MovePhase::Catchup => run(MoveStep::Catchup, catchup_wait(record, settings)),
        MovePhase::Compare => run(MoveStep::Compare, Duration::ZERO),
        MovePhase::Cutover => attempt(record, MoveStep::Cutover, settings),
        MovePhase::Settle => run(MoveStep::Settle, step_wait(record, MoveStep::Settle, settings)),
        MovePhase::Undoing => attempt(record, MoveStep::UndoCutover, settings),
        MovePhase::Finishing => run(MoveStep::Finish, step_wait(record, MoveStep::Finish, settings)),
        MovePhase::RollingBack => match last_to_undo(record) {
            Some(step) => Action::Undo { step, after: undo_wait(record, step, settings) },
            None => Action::End,
        },
        MovePhase::Kept | MovePhase::Parked => Action::Rest,
        MovePhase::Finished | MovePhase::Undone | MovePhase::RolledBack => Action::End,
    }
}

/// The wish that can be obeyed at this point. The others wait: whatever is asked for after the commit, the reverse
/// direction has to stand first; and the wish to undo stays in the record for as long as it is being tried.
fn due_wish(record: &MoveRecord) -> Option<MoveWish> {
    let waits = |wish| match record.phase {
        MovePhase::Settle => true,
        MovePhase::Undoing => wish != MoveWish::Cancel,
        _ => false,
    };
    record.wish.filter(|&wish| !waits(wish))
}

fn run(step: MoveStep, after: Duration) -> Action {
    Action::Run { step, after }
}

/// A cutover, either way: an attempt that did not end well is aborted before anything else.
fn attempt(record: &MoveRecord, step: MoveStep, settings: &MoverSettings) -> Action {
    match standing(record, step) {
        Standing::Failed | Standing::Undoing | Standing::UndoFailed => {
            Action::Undo { step, after: undo_wait(record, step, settings) }
        }
        Standing::Untouched | Standing::Running | Standing::Done | Standing::Undone => {
            let failures = tries(record, step, StepEvent::Failed);
            // Forward, the wait is spent in catch-up; back, there is nothing else to do meanwhile.
            let wait = match step {
                MoveStep::UndoCutover => backoff(settings.cutover_backoff, failures),
                _ => Duration::ZERO,
            };
            run(step, wait)
        }
    }
}

fn catchup_wait(record: &MoveRecord, settings: &MoverSettings) -> Duration {
    let aborted = backoff(settings.cutover_backoff, tries(record, MoveStep::Cutover, StepEvent::Failed));
    let not_compared = step_wait(record, MoveStep::Compare, settings);
    aborted.max(step_wait(record, MoveStep::Catchup, settings)).max(not_compared)
}

fn step_wait(record: &MoveRecord, step: MoveStep, settings: &MoverSettings) -> Duration {
    backoff(settings.step_backoff, tries(record, step, StepEvent::Failed))
}

fn undo_wait(record: &MoveRecord, step: MoveStep, settings: &MoverSettings) -> Duration {
    let wait = backoff(settings.step_backoff, tries(record, step, StepEvent::UndoFailed));
    if is_abort(step) { wait.min(ABORT_BACKOFF_MAX) } else { wait }
}

/// Whether the undo of a step is what lets the clients go on.
fn is_abort(step: MoveStep) -> bool {
    matches!(step, MoveStep::Cutover | MoveStep::UndoCutover)
}

/// `base` after the first failure, doubled with each further one; zero before.
fn backoff(base: Duration, failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => base.saturating_mul(1 << (n - 1).min(16)).min(BACKOFF_MAX),
    }
}

/// How often a step ended in this way since it was last asked for, or last succeeded in the whole.
fn tries(record: &MoveRecord, step: MoveStep, event: StepEvent) -> u32 {
    let of_step = record.log.iter().rev().filter(|entry| entry.step == step);
    let since = of_step.take_while(|entry| !matches!(entry.event, StepEvent::Asked | StepEvent::Done));
    u32::try_from(since.filter(|entry| entry.event == event).count()).unwrap_or(u32::MAX)
}

fn last_to_undo(record: &MoveRecord) -> Option<MoveStep> {
    let stands = |step: &MoveStep| !matches!(standing(record, *step), Standing::Untouched | Standing::Undone);
    UNDOABLE.into_iter().rev().find(stands)
}

/// What the event makes of the record.
pub fn apply(record: &mut MoveRecord, event: Event, at: UnixMillis, settings: &MoverSettings) {
    match event {
        Event::Started(step) => note(record, step, StepEvent::Started, at, None),
        Event::Done(step) => {
            note(record, step, StepEvent::Done, at, None);
            after_done(record, step, at);
        }
        Event::Failed { failure, retry } => {
            note(record, failure.step, StepEvent::Failed, at, Some(failure.message.clone()));
            after_failure(record, failure, retry, at, settings);
        }
        Event::UndoStarted(step) => note(record, step, StepEvent::UndoStarted, at, None),
        Event::Undone(step) => {
            note(record, step, StepEvent::Undone, at, None);
            after_undo(record, step, at, settings);
        }
        Event::UndoFailed { failure, retry } => {
            let spent = tries(record, failure.step, StepEvent::UndoFailed) + 1 >= settings.step_attempts_max;
            let goes_on = is_abort(failure.step) && retry != Retry::Never;
            if spent && goes_on {
                forget_last_try(record, failure.step);
            }
            note(record, failure.step, StepEvent::UndoFailed, at, Some(failure.message.clone()));
            if !goes_on && (retry == Retry::Never || spent) {
                park(record, failure);
            }
        }
        Event::Wished(wish) => after_wish(record, wish, at, settings),
        Event::Restarted { clients } => after_restart(record, clients, at, settings),
    }
}

fn note(record: &mut MoveRecord, step: MoveStep, event: StepEvent, at: UnixMillis, note: Option<String>) {
    record.log.push(StepEntry { step, event, at, note });
}

/// An abort that is tried for ever must not write a log for ever: its latest failure takes the place of the one before.
fn forget_last_try(record: &mut MoveRecord, step: MoveStep) {
    let is_end_of_log = |events: &[StepEvent]| {
        let tail = record.log.iter().rev().zip(events.iter().rev());
        record.log.len() >= events.len() && tail.clone().all(|(e, event)| e.step == step && e.event == *event)
    };
    if is_end_of_log(&[StepEvent::UndoStarted, StepEvent::UndoFailed, StepEvent::UndoStarted]) {
        record.log.truncate(record.log.len() - 2);
    }
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
    let cancel_came_late = step == MoveStep::Cutover && record.wish == Some(MoveWish::Cancel);
    if undo_is_over || cancel_came_late {
        record.wish = None;
    }
}

fn end(record: &mut MoveRecord, at: UnixMillis) {
    record.wish = None;
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
    settings: &MoverSettings,
) {
    let step = failure.step;
    let for_good = retry == Retry::Never;
    let spent = tries(record, step, StepEvent::Failed) >= settings.step_attempts_max;
    match step {
        MoveStep::Preflight | MoveStep::Provision | MoveStep::Copy => roll_back(record, Some(failure), at),
        MoveStep::Catchup | MoveStep::Compare if for_good || spent => roll_back(record, Some(failure), at),
        // What the comparison waits for in vain is looked after there.
        MoveStep::Compare => {
            record.failure = Some(failure);
            record.phase = MovePhase::Catchup;
        }
        MoveStep::Cutover if for_good => roll_back(record, Some(failure), at),
        MoveStep::Settle | MoveStep::Finish if for_good || spent => park(record, failure),
        MoveStep::UndoCutover if for_good => {
            record.wish = None;
            record.failure = Some(failure);
        }
        MoveStep::Catchup
        | MoveStep::Cutover
        | MoveStep::Settle
        | MoveStep::UndoCutover
        | MoveStep::Finish => record.failure = Some(failure),
    }
}

/// Ends at once where nothing is to be undone.
fn roll_back(record: &mut MoveRecord, failure: Option<MoveFailure>, at: UnixMillis) {
    record.wish = None;
    if failure.is_some() {
        record.failure = failure;
    }
    record.phase = MovePhase::RollingBack;
    if last_to_undo(record).is_none() {
        end(record, at);
    }
}

fn park(record: &mut MoveRecord, failure: MoveFailure) {
    record.wish = None;
    record.failure = Some(failure);
    record.phase = MovePhase::Parked;
}

fn after_undo(record: &mut MoveRecord, step: MoveStep, at: UnixMillis, settings: &MoverSettings) {
    let spent = tries(record, step, StepEvent::Failed) >= settings.cutover_attempts_max;
    match (record.phase, step) {
        (MovePhase::Cutover, MoveStep::Cutover) if spent => roll_back(record, None, at),
        (MovePhase::Cutover, MoveStep::Cutover) => record.phase = MovePhase::Catchup,
        (MovePhase::Undoing, MoveStep::UndoCutover) if spent || record.wish != Some(MoveWish::Undo) => {
            record.wish = record.wish.filter(|wish| !matches!(wish, MoveWish::Undo | MoveWish::Cancel));
            // It was said of this undo.
            record.facts.accepted = record.facts.accepted.take().filter(|_| record.wish.is_some());
            record.phase = MovePhase::Kept;
        }
        (MovePhase::Undoing, _) => {}
        _ if last_to_undo(record).is_none() => end(record, at),
        _ => {}
    }
}

fn after_wish(record: &mut MoveRecord, wish: MoveWish, at: UnixMillis, settings: &MoverSettings) {
    if !allows(record, wish) {
        record.wish = None;
        return;
    }
    // Known only now: while the copies were being compared the wish was taken.
    if let Some(failure) = doubt::objection(record, wish, settings) {
        record.wish = None;
        record.failure = Some(failure);
        return;
    }
    match (wish, record.phase) {
        // The attempt is aborted first; what its undo finds without a wish returns to Kept.
        (MoveWish::Cancel, MovePhase::Undoing) => cancel_undo(record, at),
        (MoveWish::Cancel, phase) => {
            let asked = UNDOABLE.into_iter().filter(|_| phase == MovePhase::Parked);
            record.log.extend(asked.map(|step| asked_for(step, at)));
            let failure = (phase != MovePhase::Parked).then(|| cancelled(record));
            roll_back(record, failure, at);
        }
        // Parked in the abort of an undo: whatever is wished, the side where the clients are is opened first.
        (_, MovePhase::Parked) if is_half_undone(record) => {
            record.log.push(asked_for(MoveStep::UndoCutover, at));
            record.phase = MovePhase::Undoing;
        }
        (MoveWish::Undo, MovePhase::Parked) if standing(record, MoveStep::Settle) != Standing::Done => {
            record.log.push(asked_for(MoveStep::Settle, at));
            record.phase = MovePhase::Settle;
        }
        (MoveWish::Undo, _) => {
            record.log.push(asked_for(MoveStep::UndoCutover, at));
            record.failure = None;
            record.phase = MovePhase::Undoing;
        }
        (MoveWish::Finish, _) => finish(record, OldCopy::Closed, at),
        (MoveWish::FinishAndDrop, _) => finish(record, OldCopy::Dropped, at),
    }
}

/// An undo was tried, and the attempt is neither committed nor wholly aborted.
fn is_half_undone(record: &MoveRecord) -> bool {
    let standing = standing(record, MoveStep::UndoCutover);
    matches!(standing, Standing::Failed | Standing::Undoing | Standing::UndoFailed)
}

fn asked_for(step: MoveStep, at: UnixMillis) -> StepEntry {
    StepEntry { step, event: StepEvent::Asked, at, note: None }
}

fn cancel_undo(record: &mut MoveRecord, at: UnixMillis) {
    record.wish = None;
    if matches!(standing(record, MoveStep::UndoCutover), Standing::Untouched | Standing::Undone) {
        record.log.push(asked_for(MoveStep::UndoCutover, at));
        record.phase = MovePhase::Kept;
    }
}

fn finish(record: &mut MoveRecord, old_copy: OldCopy, at: UnixMillis) {
    record.wish = None;
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

/// Decides what an interrupted step means. What is not named here is simply done again.
fn after_restart(record: &mut MoveRecord, clients: Side, at: UnixMillis, settings: &MoverSettings) {
    let step = step_of(record.phase);
    let running = standing(record, step) == Standing::Running;
    match (record.phase, clients) {
        (MovePhase::Cutover, Side::Target) if running => apply(record, Event::Done(step), at, settings),
        (MovePhase::Undoing, Side::Source) if running => apply(record, Event::Done(step), at, settings),
        (MovePhase::Cutover | MovePhase::Undoing, _) if running => {
            let failure = interrupted(step, "Freehold ended during the cutover");
            apply(record, Event::Failed { failure, retry: Retry::Now }, at, settings);
        }
        (MovePhase::Provision | MovePhase::Copy, _) if running => {
            fail_interrupted_copy(record, step, at, settings);
        }
        _ => {}
    }
}

fn fail_interrupted_copy(record: &mut MoveRecord, step: MoveStep, at: UnixMillis, settings: &MoverSettings) {
    let failure = interrupted(step, "Freehold ended while rows were being copied");
    apply(record, Event::Failed { failure, retry: Retry::Never }, at, settings);
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
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
