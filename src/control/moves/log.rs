//! What the log of a move says: how its steps ended, and on which side the clients are. Pure.

use crate::control::operations::log;
pub use crate::control::operations::log::StepState;
use crate::model::{MoveRecord, MoveStep};

/// The last event of a step.
pub fn step_state(record: &MoveRecord, step: MoveStep) -> StepState {
    log::step_state(&record.log, step)
}

/// Whether the move is past the point of no return: the clients are on the target, or were.
pub fn is_committed(record: &MoveRecord) -> bool {
    step_state(record, MoveStep::Cutover) == StepState::Done
}

/// Whether an undo brought the clients back to the source.
pub fn went_back(record: &MoveRecord) -> bool {
    step_state(record, MoveStep::UndoCutover) == StepState::Done
}
