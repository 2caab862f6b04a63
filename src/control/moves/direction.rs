//! The direction of the clients: a cutover and an undo are the same in two directions.

use crate::model::{Epoch, MoveFacts, MoveRecord, MoveStep, Place};
use crate::system::MoveNames;

use crate::control::moves::endpoint::{Endpoint, Endpoints};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveDirection {
    /// From the source to the target.
    Forward,
    /// From the target to the source.
    Reverse,
}

impl MoveDirection {
    pub fn step(self) -> MoveStep {
        match self {
            MoveDirection::Forward => MoveStep::Cutover,
            MoveDirection::Reverse => MoveStep::UndoCutover,
        }
    }

    /// The side that the clients leave, and the one they go to.
    pub fn ends(self, ends: Endpoints) -> (Endpoint, Endpoint) {
        match self {
            MoveDirection::Forward => (ends.source, ends.target),
            MoveDirection::Reverse => (ends.target, ends.source),
        }
    }

    /// The database that the clients go to. The record keeps the system's address from the beginning of the
    /// move, which may have changed.
    pub fn destination(self, record: &MoveRecord) -> &Place {
        match self {
            MoveDirection::Forward => &record.target,
            MoveDirection::Reverse => &record.source,
        }
    }

    /// Name of the slot on the side that is left and of the subscription on the other, which carry the last
    /// rows.
    pub fn stream(self, names: MoveNames) -> String {
        match self {
            MoveDirection::Forward => names.forward(),
            MoveDirection::Reverse => names.back(),
        }
    }

    /// Kind of the marker row that measures the lag of the other side. Each direction writes its own.
    pub fn heartbeat(self) -> &'static str {
        match self {
            MoveDirection::Forward => "heartbeat",
            MoveDirection::Reverse => "heartbeat back",
        }
    }

    pub fn epoch(self, facts: &MoveFacts) -> Option<Epoch> {
        match self {
            MoveDirection::Forward => facts.cutover_epoch,
            MoveDirection::Reverse => facts.undo_epoch,
        }
    }

    pub fn set_epoch(self, facts: &mut MoveFacts, epoch: Epoch) {
        match self {
            MoveDirection::Forward => facts.cutover_epoch = Some(epoch),
            MoveDirection::Reverse => facts.undo_epoch = Some(epoch),
        }
    }
}
