//! SHOW MOVES and SHOW MOVE.

use std::time::Duration;

use crate::admin::answer::{Row, row};
use crate::admin::context::Cluster;
use crate::admin::error::AdminError;
use crate::admin::find;
use crate::admin::moves::{NOTE_PAUSE, longest_stall_ms, milliseconds, percent, progress_line, why_no_undo};
use crate::control::moves::parts::truncated::NOTE_TRUNCATED;
use crate::control::moves::steps::finish;
use crate::control::moves::steps::keep_reverse::NOTE_NO_WAY_BACK;
use crate::control::moves::steps::provision::NOTE_ROLES_THAT_STAY;
use crate::control::moves::steps::settle::NOTE_UNVERIFIED;
use crate::control::moves::{log, objections};
use crate::model::{
    ComparedTable, FindingSeverity, MoveId, MovePhase, MoveProgress, MoveRecord, OldCopy, PauseReport, Place,
    StepEntry,
};
use crate::system::{MoveNames, quote_ident};

pub(in crate::admin) async fn show_moves(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let mut progress = cluster.catalog().moves().all_progress().await?;
    let moves = cluster.catalog().moves().list().await?.into_values();
    let rows = moves.iter().rev().map(|record| {
        let progress = progress.remove(&record.id).unwrap_or_default();
        move_row(record, &progress)
    });
    Ok(rows.collect())
}

pub(in crate::admin) async fn show_move(cluster: &Cluster, id: &MoveId) -> Result<Vec<Row>, AdminError> {
    let record = find::movement(cluster, *id).await?;
    let progress = cluster.catalog().moves().progress(*id).await?.unwrap_or_default();
    let mut rows = vec![
        row!["id", record.id],
        row!["database", &record.name],
        row!["source", place_text(&record.source)],
        row!["target", place_text(&record.target)],
        row!["phase", record.phase.as_str()],
        row!["progress", progress_line(&record, &progress)],
        row!["bytes", format!("{} of {}", progress.bytes_copied, progress.bytes_total)],
        row!["tables", format!("{} of {}", progress.tables_copied, progress.tables_total)],
        row!["rows_copied", progress.rows_copied],
        row!["bytes_per_second", progress.bytes_per_second],
        row!["lag_bytes", progress.lag_bytes],
        row!["lag_ms", progress.lag_ms],
        row!["client_p99_before_ms", progress.client_p99_before.map(milliseconds)],
        row!["client_p99_ms", progress.client_p99.map(milliseconds)],
        row!["copy_share_percent", progress.copy_share_percent],
        row!["pause_max", record.pause_max.map(|pause| humantime::format_duration(pause).to_string())],
        row!["requested_by", record.requested_by.as_str()],
        row!["reason", record.reason.clone()],
        row!["started_at", record.started_at],
        row!["ended_at", record.ended_at],
    ];
    let names = MoveNames::of_move(record.facts.store, *id);
    rows.push(row!["names", format!("{} and others with the same ending", names.forward())]);
    rows.extend(comparison_rows(&record));
    let warnings = record.facts.findings.iter().filter(|found| found.severity == FindingSeverity::Warning);
    rows.extend(warnings.map(|found| row![format!("warning {}", found.check), found.message.as_str()]));
    if let Some(roles) = record.facts.notes.get(NOTE_ROLES_THAT_STAY) {
        rows.push(row![NOTE_ROLES_THAT_STAY, roles.as_str()]);
    }
    for pinned in &progress.pinned {
        let who = format!("pinned session {}", pinned.session);
        rows.push(row![
            who,
            format!(
                "{} from {} ({}): {}",
                pinned.role, pinned.client, pinned.application_name, pinned.reason
            )
        ]);
    }
    rows.extend(record.facts.claim_lost.as_ref().map(|because| row!["not_driven_here", because.as_str()]));
    rows.extend(why_no_undo(&record).map(|because| row!["no_undo", because]));
    rows.extend(record.facts.notes.get(NOTE_PAUSE).map(|why| row!["pause_max_because", why.as_str()]));
    if let Some(copy) = closed_copy(&record) {
        rows.push(row!["old_copy", copy]);
    }
    pause_rows("cutover", record.cutover.as_ref(), &mut rows);
    pause_rows("undo", record.undo.as_ref(), &mut rows);
    if let Some(failure) = &record.failure {
        rows.push(row![
            "error",
            format!("{} ({}) in {}", failure.message, failure.sqlstate, failure.step.as_str())
        ]);
        rows.push(row!["error_detail", failure.detail.clone()]);
        rows.push(row!["error_hint", failure.hint.clone()]);
    }
    rows.extend(record.log.iter().map(step_row));
    Ok(rows)
}

pub(in crate::admin) async fn show_move_tables(
    cluster: &Cluster,
    id: &MoveId,
) -> Result<Vec<Row>, AdminError> {
    find::movement(cluster, *id).await?;
    let compared = cluster.catalog().moves().compared_tables(*id).await?.unwrap_or_default();
    let line = |table: &ComparedTable| {
        let verdict = table.verdict.as_str();
        let (name, kind) = (table.name.as_str(), table.relation.as_str());
        row![name, verdict, table.rows, table.ranges, table.at, table.note.clone(), kind]
    };
    let mut rows: Vec<Row> = compared.tables.iter().map(line).collect();
    if compared.further_equal > 0 {
        let others = format!("{} further tables", compared.further_equal);
        let none = None::<String>;
        rows.push(row![others, "equal", none.clone(), none.clone(), none.clone(), none.clone(), none]);
    }
    Ok(rows)
}

/// What became of the copy that the clients left, and how to open it again.
fn closed_copy(record: &MoveRecord) -> Option<String> {
    let is_closed = record.phase == MovePhase::Finished
        && !log::went_back(record)
        && record.facts.old_copy != Some(OldCopy::Dropped);
    let name = finish::closed_as(record);
    is_closed.then(|| {
        format!(
            "closed on system {}; ALTER DATABASE {} ALLOW_CONNECTIONS true; opens it there, to those who could connect before",
            record.source.system,
            quote_ident(&name)
        )
    })
}

fn place_text(place: &Place) -> String {
    format!("{} ({}, database \"{}\")", place.system, place.address, place.dbname)
}

fn move_row(record: &MoveRecord, progress: &MoveProgress) -> Row {
    let running = !record.phase.has_ended();
    let eta = progress.eta_ms.filter(|_| running).map(|ms| format!("{} s", ms.div_ceil(1000)));
    row![
        record.id,
        &record.name,
        &record.source.system,
        &record.target.system,
        record.phase.as_str(),
        progress.activity_in(record.phase),
        percent(progress),
        progress.lag_bytes.filter(|_| running),
        eta,
        longest_stall_ms(record),
        record.requested_by.as_str(),
        record.started_at,
        record.ended_at,
        record
            .facts
            .claim_lost
            .as_deref()
            .or(objections::alarm(record).as_ref().map(|alarm| alarm.message.as_str()))
            .or(why_no_undo(record))
            .or(record.failure.as_ref().map(|failure| failure.message.as_str())),
        comparison(record)
    ]
}

/// Whether both copies hold the same data, in a word.
fn comparison(record: &MoveRecord) -> Option<&'static str> {
    let facts = &record.facts;
    let committed = log::is_committed(record);
    match (facts.differences.is_empty(), committed, facts.tables_verified, &facts.compared_before) {
        (false, ..) => Some("differs"),
        (true, true, Some(_), _) | (true, false, _, Some(_)) => Some("equal"),
        (true, true, None, _) if record.phase != MovePhase::Settle => Some("unknown"),
        _ => None,
    }
}

/// What was compared, and the findings.
fn comparison_rows(record: &MoveRecord) -> Vec<Row> {
    let facts = &record.facts;
    let mut rows = Vec::new();
    if let Some(before) = &facts.compared_before {
        let text = format!(
            "{} of {} tables, {} rows, {} objects of the schema, at {}",
            before.equal, before.tables, before.rows, before.objects, before.at
        );
        rows.push(row!["equal_before_cutover", text]);
    }
    if let Some((equal, all)) = facts.tables_verified {
        rows.push(row!["tables_verified", format!("{equal} of {all}")]);
    }
    rows.extend(facts.differences.iter().map(|found| row!["difference", found.as_str()]));
    if let Some(alarm) = objections::alarm(record).filter(|_| !record.phase.has_ended()) {
        rows.push(row!["alarm", format!("{} ({})", alarm.message, alarm.sqlstate)]);
        rows.push(row!["alarm_detail", alarm.detail]);
        rows.push(row!["alarm_hint", alarm.hint]);
    }
    for note in [NOTE_TRUNCATED, NOTE_UNVERIFIED, NOTE_NO_WAY_BACK] {
        rows.extend(facts.notes.get(note).map(|because| row![note, because.as_str()]));
    }
    if let Some(accepted) = &facts.accepted {
        rows.push(row!["differences_accepted", format!("by {} at {}", accepted.by, accepted.at)]);
    }
    rows
}

fn pause_rows(name: &str, report: Option<&PauseReport>, rows: &mut Vec<Row>) {
    let Some(report) = report else { return };
    rows.push(row![format!("{name}_longest_stall_ms"), milliseconds(report.longest_stall)]);
    for (quantile, permille) in [("p99", 990), ("p90", 900)] {
        let stall = stall_quantile(report, permille).map(milliseconds);
        rows.push(row![format!("{name}_{quantile}_stall_ms"), stall]);
    }
    rows.push(row![format!("{name}_median_stall_ms"), milliseconds(report.median_stall)]);
    rows.push(row![format!("{name}_held_requests"), report.held_requests]);
    rows.push(row![format!("{name}_hold_ms"), milliseconds(report.hold)]);
    rows.push(row![format!("{name}_sessions"), report.sessions]);
    rows.push(row![format!("{name}_aborted_attempts"), report.aborted_attempts]);
    rows.push(row![format!("{name}_asked_in_hold"), report.asked]);
    rows.push(row![format!("{name}_transactions_ms"), milliseconds(report.transactions)]);
    for (part, micros) in &report.parts_us {
        rows.push(row![format!("{name}_{part}_ms"), milliseconds(Duration::from_micros(*micros))]);
    }
}

/// None if it is not among the longest waits, which the report lists one by one.
fn stall_quantile(report: &PauseReport, permille: u64) -> Option<Duration> {
    let longer = u64::from(report.held_requests) * (1_000 - permille) / 1_000;
    let wait = report.waits_us.get(usize::try_from(longer).ok()?)?;
    Some(Duration::from_micros(*wait))
}

fn step_row(entry: &StepEntry) -> Row {
    let note = entry.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    row![format!("step {}", entry.step.as_str()), format!("{} {:?}{note}", entry.at, entry.event)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_the_stalls_is_exact_where_it_is_told() {
        let waits_us: Vec<u64> = (1..=100).rev().collect();
        let report = PauseReport { held_requests: 100, waits_us, ..PauseReport::default() };
        assert_eq!(stall_quantile(&report, 990), Some(Duration::from_micros(99)));
        assert_eq!(stall_quantile(&report, 900), Some(Duration::from_micros(90)));
        let more = PauseReport { held_requests: 5_000, ..report };
        assert_eq!(stall_quantile(&more, 990), Some(Duration::from_micros(50)));
        assert_eq!(stall_quantile(&more, 900), None);
        assert_eq!(stall_quantile(&PauseReport::default(), 990), None);
    }
}
