//! Questions about the log of an operation. Pure.

use std::time::Duration;

use crate::model::{LogEntry, StepEvent};

/// Longest wait between attempts, however many there were.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The last event of a step in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    Untouched,
    Running,
    Done,
    Failed,
    Undoing,
    Undone,
    UndoFailed,
}

/// The last event of a step.
pub fn step_state<S: Copy + PartialEq>(log: &[LogEntry<S>], step: S) -> StepState {
    let last = log.iter().rev().find(|entry| entry.step == step && entry.event != StepEvent::Asked);
    match last.map(|entry| entry.event) {
        None | Some(StepEvent::Asked) => StepState::Untouched,
        Some(StepEvent::Started) => StepState::Running,
        Some(StepEvent::Done) => StepState::Done,
        Some(StepEvent::Failed) => StepState::Failed,
        Some(StepEvent::UndoStarted) => StepState::Undoing,
        Some(StepEvent::Undone) => StepState::Undone,
        Some(StepEvent::UndoFailed) => StepState::UndoFailed,
    }
}

/// Number of times that a step ended in this way since it was last requested or last succeeded.
pub fn tries<S: Copy + PartialEq>(log: &[LogEntry<S>], step: S, event: StepEvent) -> u32 {
    let of_step = log.iter().rev().filter(|entry| entry.step == step);
    let since = of_step.take_while(|entry| !matches!(entry.event, StepEvent::Asked | StepEvent::Done));
    u32::try_from(since.filter(|entry| entry.event == event).count()).unwrap_or(u32::MAX)
}

/// `base` after the first failure, doubled with each further one; zero before.
pub fn backoff(base: Duration, failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => base.saturating_mul(1 << (n - 1).min(16)).min(BACKOFF_MAX),
    }
}

/// What is tried without limit must not grow the log without limit: if it ends with these events of the
/// step, all but the first are removed.
pub fn forget_last_try<S: PartialEq + Copy>(log: &mut Vec<LogEntry<S>>, step: S, events: &[StepEvent]) {
    let tail = log.iter().rev().zip(events.iter().rev());
    if log.len() >= events.len() && tail.clone().all(|(e, event)| e.step == step && e.event == *event) {
        log.truncate(log.len() - (events.len() - 1));
    }
}
