//! Entries of a move in its database's history: pure. Written in one commit with the change of the move's
//! record.

use std::time::Duration;

use crate::model::{
    AuditEntry, DatabaseRecord, Epoch, HistoryEntry, MoveFailure, MovePhase, MoveRecord, OldCopy,
    PauseReport, Told, UnixMillis,
};

use crate::control::moves::log::went_back;
use crate::control::moves::objections;

/// Whether a change of a move's record also changes its database's record.
pub(in crate::control) fn touches_database(before: &MoveRecord, after: &MoveRecord) -> bool {
    before.phase != after.phase && told(after).is_some()
}

/// Adds the change to the history, and clears the database's operation if the move has ended.
pub(in crate::control) fn record(database: &mut DatabaseRecord, after: &MoveRecord, at: UnixMillis) {
    let Some((what, epoch)) = told(after) else { return };
    let told = of_product(after);
    database.history.push(HistoryEntry { at, who: after.requested_by.clone(), what, epoch, told });
    if after.phase.has_ended() && database.operation == Some(after.id.into()) {
        database.operation = None;
    }
}

fn told(record: &MoveRecord) -> Option<(String, Option<Epoch>)> {
    let MoveRecord { id, source, target, .. } = record;
    let (source, target) = (&source.system, &target.system);
    let because = record.failure.as_ref().map_or("cancelled", |failure| failure.message.as_str());
    match record.phase {
        MovePhase::Settle => {
            let what =
                format!("moved from {source} to {target} (move {id}){}", stall(record.cutover.as_ref()));
            Some((what, record.facts.cutover_epoch))
        }
        MovePhase::Finishing if went_back(record) => {
            let stall = stall(record.undo.as_ref());
            Some((
                format!("brought back from {target} to {source} (undo of move {id}){stall}"),
                record.facts.undo_epoch,
            ))
        }
        MovePhase::Finished => {
            let copy = match record.facts.old_copy {
                Some(OldCopy::Dropped) => "dropped",
                Some(OldCopy::Closed) | None => "closed",
            };
            Some((format!("move {id} is finished, the old copy on {source} is {copy}"), None))
        }
        MovePhase::Undone => Some((format!("move {id} is undone, nothing of it is left on {target}"), None)),
        MovePhase::RolledBack => Some((format!("move {id} to {target} was rolled back: {because}"), None)),
        MovePhase::Parked => Some((format!("move {id} needs a person: {because}"), None)),
        MovePhase::Preflight
        | MovePhase::Provision
        | MovePhase::Copy
        | MovePhase::Catchup
        | MovePhase::Compare
        | MovePhase::Cutover
        | MovePhase::Kept
        | MovePhase::Undoing
        | MovePhase::Finishing
        | MovePhase::RollingBack => None,
    }
}

/// A switch to another place is what clients could have noticed; how it came about is the platform's.
fn of_product(record: &MoveRecord) -> Told {
    let pause = match record.phase {
        MovePhase::Settle => record.cutover.as_ref(),
        MovePhase::Finishing if went_back(record) => record.undo.as_ref(),
        _ => return Told::Nothing,
    };
    Told::InOtherWords(format!("moved by the platform{}", stall(pause)))
}

/// Audit entries that no command causes: a move goes back, waits for the operator, or finds that the copies
/// differ. They stay visible even if no client waited for the move.
pub(in crate::control) fn audited(
    before: &MoveRecord,
    after: &MoveRecord,
    at: UnixMillis,
) -> Option<AuditEntry> {
    let found = before.facts.differences.is_empty().then(|| objections::alarm(after)).flatten();
    let outcome = match found {
        Some(alarm) => told_in_full("copies differ", &alarm),
        None if before.phase == after.phase => return None,
        None => {
            let what = match (before.phase, after.phase) {
                (_, MovePhase::RolledBack) => "rolled back",
                (_, MovePhase::Parked) => "needs a person",
                (MovePhase::Undoing, MovePhase::Kept) => "not undone",
                _ => return None,
            };
            told_in_full(what, after.failure.as_ref()?)
        }
    };
    let MoveRecord { id, name, target, .. } = after;
    let command = format!("MOVE DATABASE {name} TO SYSTEM {}", target.system);
    Some(AuditEntry {
        reason: after.reason.clone(),
        outcome,
        database: Some(after.database.clone()),
        ..AuditEntry::new(at, format!("the mover, move {id}"), command)
    })
}

/// `MF201: copies differ: ... (detail)`
fn told_in_full(what: &str, failure: &MoveFailure) -> String {
    let detail = failure.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
    format!("{}: {what}: {}{detail}", failure.sqlstate, failure.message)
}

fn stall(pause: Option<&PauseReport>) -> String {
    let Some(pause) = pause else { return String::new() };
    let longest = Duration::from_micros(u64::try_from(pause.longest_stall.as_micros()).unwrap_or(u64::MAX));
    match longest.is_zero() {
        true => ", no client waited".to_owned(),
        false => format!(", longest client stall {} ms", longest.as_millis().max(1)),
    }
}
