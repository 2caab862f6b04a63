//! The direction of the clients: a cutover and an undo are the same in two directions.

use crate::model::{Epoch, MoveFacts, MoveRecord, MoveStep, Place};
use crate::system::MoveNames;

use super::ends::{End, Ends};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the source to the target.
    Forth,
    /// From the target to the source.
    Back,
}

impl Way {
    pub fn step(self) -> MoveStep {
        match self {
            Way::Forth => MoveStep::Cutover,
            Way::Back => MoveStep::UndoCutover,
        }
    }

    /// The side that the clients leave, and the one they go to.
    pub fn ends(self, ends: Ends) -> (End, End) {
        match self {
            Way::Forth => (ends.source, ends.target),
            Way::Back => (ends.target, ends.source),
        }
    }

    /// The database that the clients go to. The record keeps the system's address from the beginning of the
    /// move, which may have changed.
    pub fn destination(self, record: &MoveRecord) -> &Place {
        match self {
            Way::Forth => &record.target,
            Way::Back => &record.source,
        }
    }

    /// Name of the slot on the side that is left and of the subscription on the other, which carry the last
    /// rows.
    pub fn stream(self, names: MoveNames) -> String {
        match self {
            Way::Forth => names.forward(),
            Way::Back => names.back(),
        }
    }

    /// Kind of the marker row that measures the lag of the other side. Each direction writes its own.
    pub fn heartbeat(self) -> &'static str {
        match self {
            Way::Forth => "heartbeat",
            Way::Back => "heartbeat back",
        }
    }

    pub fn epoch(self, facts: &MoveFacts) -> Option<Epoch> {
        match self {
            Way::Forth => facts.cutover_epoch,
            Way::Back => facts.undo_epoch,
        }
    }

    pub fn set_epoch(self, facts: &mut MoveFacts, epoch: Epoch) {
        match self {
            Way::Forth => facts.cutover_epoch = Some(epoch),
            Way::Back => facts.undo_epoch = Some(epoch),
        }
    }
}
