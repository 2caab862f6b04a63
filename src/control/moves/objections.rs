//! Objections to the end of a move: its two copies differ, or it is not known whether they do. Pure.
//!
//! # Why
//! After a difference the move does not go back by itself: the way back depends on a stream that may be at
//! fault, and would carry the difference to the other side. Both copies are kept, and the operator decides.

use crate::error::{Blame, SqlState};
use crate::model::{MoveFailure, MovePhase, MoveRecord, MoveRequest, MoveStep};

use crate::control::moves::log::{is_committed, went_back};
use crate::control::moves::steps::compare::counted;
use crate::control::moves::steps::keep_reverse::NOTE_NO_WAY_BACK;
use crate::control::moves::steps::settle::NOTE_UNVERIFIED;
use crate::control::settings::Verify;

/// The alarm: the two copies of a database are known to differ after its clients moved.
pub fn alarm(record: &MoveRecord) -> Option<MoveFailure> {
    let found = &record.facts.differences;
    if found.is_empty() || !is_committed(record) {
        return None;
    }
    let id = record.id;
    let here = if went_back(record) { &record.source.system } else { &record.target.system };
    let stream = match (went_back(record), record.facts.notes.get(NOTE_NO_WAY_BACK)) {
        (true, _) => "Nothing replicates between them any more.".to_owned(),
        (false, None) => {
            "Replication to the copy that they left goes on, and carries no row that is not written again."
                .to_owned()
        }
        (false, Some(because)) => format!("Replication to the copy that they left has ended: {because}."),
    };
    Some(MoveFailure {
        step: if went_back(record) { MoveStep::Finish } else { MoveStep::Settle },
        sqlstate: SqlState::SHAPE_CHANGED.as_str().to_owned(),
        message: format!("the two copies of database {} differ: {}", record.name, counted(found.len())),
        detail: Some(format!(
            "{}\nThe clients are on {here}. Both copies are kept, and nothing goes back by itself. {stream}",
            found.join("\n")
        )),
        hint: Some(choices(record, id.0)),
        blame: Some(Blame::Platform),
    })
}

fn choices(record: &MoveRecord, id: u64) -> String {
    match went_back(record) {
        true => format!(
            "Compare the copies (SHOW MOVE {id} TABLES) and bring over what is missing; FINISH MOVE {id} ACCEPT DIFFERENCES then \
             removes the copy on {}.",
            record.target.system
        ),
        false => format!(
            "Compare the copies (SHOW MOVE {id} TABLES) and correct the rows where the clients are. Then FINISH MOVE {id} ACCEPT \
             DIFFERENCES stays there, and UNDO MOVE {id} ACCEPT DIFFERENCES goes back to the copy that the clients left, with what was \
             written since."
        ),
    }
}

/// Why a request is refused, unless the operator accepts the objection.
pub fn objection(record: &MoveRecord, request: MoveRequest, verify: Verify) -> Option<MoveFailure> {
    let ends = matches!(request, MoveRequest::Finish | MoveRequest::FinishAndDrop);
    if record.facts.accepted.is_some() || request == MoveRequest::Cancel {
        return None;
    }
    alarm(record).or_else(|| unknown(record, verify).filter(|_| ends))
}

/// It is not known whether the copies differ.
fn unknown(record: &MoveRecord, verify: Verify) -> Option<MoveFailure> {
    let rests = matches!(record.phase, MovePhase::Kept | MovePhase::Parked);
    let is_known = record.facts.tables_verified.is_some() || went_back(record);
    if verify == Verify::Off || !rests || is_known {
        return None;
    }
    let because =
        record.facts.notes.get(NOTE_UNVERIFIED).map_or("the comparison did not end", String::as_str);
    let id = record.id;
    Some(MoveFailure {
        step: MoveStep::Settle,
        sqlstate: SqlState::SHAPE_CHANGED.as_str().to_owned(),
        message: format!("it is not known whether the two copies of database {} are equal", record.name),
        detail: Some(format!("They were not compared after the commit: {because}.")),
        hint: Some(format!(
            "SHOW MOVE {id} TABLES; lists what is known. FINISH MOVE {id} ACCEPT DIFFERENCES ends the move all the same."
        )),
        blame: Some(Blame::Platform),
    })
}
