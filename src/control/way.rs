//! Which way the clients go: a cutover and an undo are one thing in two directions.

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

    /// Where the clients come from, where they go.
    pub fn ends(self, ends: Ends) -> (End, End) {
        match self {
            Way::Forth => (ends.source, ends.target),
            Way::Back => (ends.target, ends.source),
        }
    }

    /// Which database the clients go to. The record is as old as the move, so how its system is reached now is not in it.
    pub fn destination(self, record: &MoveRecord) -> &Place {
        match self {
            Way::Forth => &record.target,
            Way::Back => &record.source,
        }
    }

    /// Slot on the side that is left, subscription on the other: what carries the last rows.
    pub fn stream(self, names: MoveNames) -> String {
        match self {
            Way::Forth => names.forward(),
            Way::Back => names.back(),
        }
    }

    /// The kind of the marker row that tells how current the other side is. Each direction writes its own.
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
