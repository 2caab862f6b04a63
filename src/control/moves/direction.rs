//! The direction of the clients: a cutover and an undo are the same in two directions.

use crate::model::{Epoch, MoveFacts, MoveRecord, MoveStep, Place};
use crate::system::MoveNames;

use crate::control::moves::endpoint::{Endpoint, Endpoints};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the source to the target.
    Forward,
    /// From the target to the source.
    Reverse,
}

impl Direction {
    pub fn step(self) -> MoveStep {
        match self {
            Direction::Forward => MoveStep::Cutover,
            Direction::Reverse => MoveStep::UndoCutover,
        }
    }

    /// The side that the clients leave, and the one they go to.
    pub fn ends(self, ends: Endpoints) -> (Endpoint, Endpoint) {
        match self {
            Direction::Forward => (ends.source, ends.target),
            Direction::Reverse => (ends.target, ends.source),
        }
    }

    /// The database that the clients go to. The record keeps the system's address from the beginning of the
    /// move, which may have changed.
    pub fn destination(self, record: &MoveRecord) -> &Place {
        match self {
            Direction::Forward => &record.target,
            Direction::Reverse => &record.source,
        }
    }

    /// Name of the slot on the side that is left and of the subscription on the other, which carry the last
    /// rows.
    pub fn stream(self, names: MoveNames) -> String {
        match self {
            Direction::Forward => names.forward(),
            Direction::Reverse => names.back(),
        }
    }

    /// Kind of the marker row that measures the lag of the other side. Each direction writes its own.
    pub fn heartbeat(self) -> &'static str {
        match self {
            Direction::Forward => "heartbeat",
            Direction::Reverse => "heartbeat back",
        }
    }

    pub fn epoch(self, facts: &MoveFacts) -> Option<Epoch> {
        match self {
            Direction::Forward => facts.cutover_epoch,
            Direction::Reverse => facts.undo_epoch,
        }
    }

    pub fn set_epoch(self, facts: &mut MoveFacts, epoch: Epoch) {
        match self {
            Direction::Forward => facts.cutover_epoch = Some(epoch),
            Direction::Reverse => facts.undo_epoch = Some(epoch),
        }
    }
}
