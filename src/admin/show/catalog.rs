//! SHOW: the content of the catalogue.

use std::time::Duration;

use crate::admin::answer::{Row, row};
use crate::admin::databases::verifier_kind;
use crate::admin::execute::{Cluster, Executor};
use crate::admin::moves::{NOTE_PAUSE, longest_stall_ms, milliseconds, no_way_back, percent, progress_line};
use crate::admin::refuse::AdminError;
use crate::admin::systems::version;
use crate::control::moves::parts::truncated::NOTE_TRUNCATED;
use crate::control::moves::steps::finish;
use crate::control::moves::steps::keep_reverse::NOTE_NO_WAY_BACK;
use crate::control::moves::steps::provision::NOTE_ROLES_THAT_STAY;
use crate::control::moves::steps::settle::NOTE_UNVERIFIED;
use crate::control::moves::{doubt, machine};
use crate::model::{
    ComparedTable, DatabaseName, DatabaseRecord, Door, FindingSeverity, GateOrder, Lifecycle, MoveId,
    MovePhase, MoveProgress, MoveRecord, OldCopy, PauseReport, Place, Quotas, RouteRecord, Service,
    StepEntry, SystemName, TeamName, Timeout, Timeouts, timeout_text,
};
use crate::system::{MoveNames, quote_ident};

/// Entries of the audit trail that are shown.
const AUDIT_ROWS_MAX: usize = 1_000;

impl Executor {
    pub(in crate::admin) async fn show_databases(&self) -> Result<Vec<Row>, AdminError> {
        let routes = self.catalog().routes().await?.into_values();
        let mut databases = self.catalog().databases().await?.into_values();
        databases.retain(|database| !matches!(database.lifecycle, Lifecycle::Deleted { .. }));
        databases.sort_by(|a, b| a.name.cmp(&b.name));
        let rows = databases.iter().map(|database| {
            let route = routes.iter().find(|route| route.database == database.id);
            self.database_row(database, route)
        });
        Ok(rows.collect())
    }

    fn database_row(&self, database: &DatabaseRecord, route: Option<&RouteRecord>) -> Row {
        let place = route.map(|route| &route.place);
        let contract = &database.contract;
        let here = self.local.routes.by_id(&database.id);
        let clients = here.as_ref().map_or(0, |route| route.session_table().len());
        let servers = here.as_ref().map_or(0, |route| route.session_table().server_connections());
        let paused = route.is_some_and(|route| matches!(route.gate, GateOrder::Held { .. }));
        let disabled = route.is_some_and(|route| {
            matches!(route.terms.service, Service::Refused { .. }) || route.door == Door::Disabled
        });
        row![
            &database.name,
            place.map(|place| place.address.host.clone()),
            place.map(|place| place.address.port),
            place.map(|place| place.dbname.clone()),
            None::<String>,
            contract.server_connections_max,
            "0",
            "0",
            "0",
            contract.pooling.as_str(),
            None::<String>,
            contract.server_connections_max,
            servers,
            contract.client_connections_max,
            clients,
            if paused { "1" } else { "0" },
            if disabled { "1" } else { "0" },
            &database.owner,
            database.state(),
            contract.tier.as_str(),
            place.map(|place| place.system.to_string()),
            route.map(|route| route.epoch),
            database.operation.map(|operation| operation.to_string()),
            database.purpose.as_str(),
            &database.id,
            database.adopted,
            timeouts(&contract.timeouts)
        ]
    }
}

impl Cluster {
    pub(in crate::admin) async fn show_database(&self, name: &DatabaseName) -> Result<Vec<Row>, AdminError> {
        let database = self.database(name).await?.value;
        let route = self.catalog().route(&database.id).await?.map(|route| route.value);
        let contract = &database.contract;
        let mut rows = vec![
            row!["name", &database.name],
            row!["id", &database.id],
            row!["owner", &database.owner],
            row!["purpose", database.purpose.as_str()],
            row!["state", database.state()],
            row!["tier", contract.tier.as_str()],
            row!["pooling", contract.pooling.as_str()],
            row!["client_connections_max", contract.client_connections_max],
            row!["server_connections_max", contract.server_connections_max],
            row![
                "transaction_time_max",
                humantime::format_duration(contract.transaction_time_max).to_string()
            ],
            row!["move_pause_max", humantime::format_duration(contract.move_pause_max).to_string()],
        ];
        let Quotas { message_size_max, logins_per_second_max } = contract.quotas;
        let default = || "default".to_owned();
        rows.extend([
            row!["max_message_size", message_size_max.map_or_else(default, |size| size.to_string())],
            row!["max_login_rate", logins_per_second_max.map_or_else(default, |rate| rate.to_string())],
        ]);
        rows.extend(Timeout::ALL.into_iter().map(|timeout| {
            let set = contract.timeouts[timeout].map_or_else(|| "default".to_owned(), timeout_text);
            row![timeout.clause().to_lowercase(), set]
        }));
        rows.extend([
            row!["operation", database.operation.map(|operation| operation.to_string())],
            row!["adopted", database.adopted],
            row!["created_at", database.created_at],
            row!["created_by", database.created_by.as_str()],
        ]);
        if let Some(route) = &route {
            rows.push(row!["system", &route.place.system]);
            rows.push(row!["address", route.place.address.to_string()]);
            rows.push(row!["dbname", route.place.dbname.as_str()]);
            rows.push(row!["epoch", route.epoch]);
            rows.push(row!["gate", gate(&route.gate)]);
            rows.push(row!["new_clients", if route.door == Door::Disabled { "refused" } else { "served" }]);
        }
        for login in self.catalog().logins(&database.id).await?.into_values() {
            let superuser = if login.superuser { ", superuser" } else { "" };
            rows.push(row![format!("login {}", login.role), format!("{}{superuser}", verifier_kind(&login))]);
        }
        Ok(rows)
    }

    pub(in crate::admin) async fn show_systems(&self) -> Result<Vec<Row>, AdminError> {
        let routes = self.catalog().routes().await?.into_values();
        let on = |name: &SystemName| routes.iter().filter(|route| route.place.system == *name).count();
        let systems = self.catalog().systems().await?.into_values();
        let rows = systems.iter().map(|system| {
            let replication = system.replication_address.as_ref();
            row![
                &system.name,
                system.address.host.as_str(),
                system.address.port,
                &system.admin_role,
                version(system.version_num),
                on(&system.name),
                system.accepts_databases,
                system.sslmode.as_str(),
                replication.map(|address| address.host.clone()),
                replication.map(|address| address.port),
                system.created_at,
                system.auth.as_str()
            ]
        });
        Ok(rows.collect())
    }

    pub(in crate::admin) async fn show_teams(&self) -> Result<Vec<Row>, AdminError> {
        let mut databases = self.catalog().databases().await?.into_values();
        databases.retain(|database| !matches!(database.lifecycle, Lifecycle::Deleted { .. }));
        let owned_by = |team: &TeamName| databases.iter().filter(|database| database.owner == *team).count();
        let teams = self.catalog().teams().await?.into_values();
        let rows = teams
            .iter()
            .map(|team| row![&team.name, team.contact.as_str(), owned_by(&team.name), team.created_at]);
        Ok(rows.collect())
    }

    pub(in crate::admin) async fn show_moves(&self) -> Result<Vec<Row>, AdminError> {
        let mut progress = self.catalog().progress_of_moves().await?;
        let moves = self.catalog().moves().await?.into_values();
        let rows = moves.iter().rev().map(|record| {
            let progress = progress.remove(&record.id).unwrap_or_default();
            move_row(record, &progress)
        });
        Ok(rows.collect())
    }

    pub(in crate::admin) async fn show_move(&self, id: &MoveId) -> Result<Vec<Row>, AdminError> {
        let record = self.movement(*id).await?;
        let progress = self.catalog().progress(*id).await?.unwrap_or_default();
        let mut rows = vec![
            row!["id", record.id],
            row!["database", &record.name],
            row!["source", whereabouts(&record.source)],
            row!["target", whereabouts(&record.target)],
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
        let warnings =
            record.facts.findings.iter().filter(|found| found.severity == FindingSeverity::Warning);
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
        rows.extend(
            record.facts.claim_lost.as_ref().map(|because| row!["not_driven_here", because.as_str()]),
        );
        rows.extend(no_way_back(&record).map(|because| row!["no_undo", because]));
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

    pub(in crate::admin) async fn show_move_tables(&self, id: &MoveId) -> Result<Vec<Row>, AdminError> {
        self.movement(*id).await?;
        let compared = self.catalog().compared_tables(*id).await?.unwrap_or_default();
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

    pub(in crate::admin) async fn show_history(&self, name: &DatabaseName) -> Result<Vec<Row>, AdminError> {
        let database = match self.catalog().database_by_name(name).await? {
            Some(database) => database.value,
            None => self.last_deleted(name).await?,
        };
        let rows = database.history.iter();
        let rows = rows.map(|entry| row![entry.at, entry.who.as_str(), entry.what.as_str(), entry.epoch]);
        Ok(rows.collect())
    }

    /// The history of a database outlives it.
    async fn last_deleted(&self, name: &DatabaseName) -> Result<DatabaseRecord, AdminError> {
        let all = self.catalog().databases().await?.into_values();
        let newest = all.into_iter().filter(|database| database.name == *name).max_by_key(|d| d.created_at);
        match newest {
            Some(database) => Ok(database),
            None => self.database(name).await.map(|database| database.value),
        }
    }

    pub(in crate::admin) async fn show_audit(&self) -> Result<Vec<Row>, AdminError> {
        let entries = self.catalog().newest_audit(AUDIT_ROWS_MAX).await?;
        let rows = entries
            .into_iter()
            .map(|entry| row![entry.at, entry.who, entry.command, entry.reason, entry.outcome]);
        Ok(rows.collect())
    }
}

/// What became of the copy that the clients left, and how to open it again.
fn closed_copy(record: &MoveRecord) -> Option<String> {
    let is_closed = record.phase == MovePhase::Finished
        && !machine::went_back(record)
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

fn whereabouts(place: &Place) -> String {
    format!("{} ({}, database \"{}\")", place.system, place.address, place.dbname)
}

/// The timeouts that a contract sets: `idle 5m, query none`.
fn timeouts(timeouts: &Timeouts) -> Option<String> {
    let one =
        |timeout: Timeout| timeouts[timeout].map(|time| format!("{} {}", timeout.name(), timeout_text(time)));
    let set: Vec<String> = Timeout::ALL.into_iter().filter_map(one).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

pub(in crate::admin) fn gate(order: &GateOrder) -> &'static str {
    match order {
        GateOrder::Open => "open",
        GateOrder::Latched { .. } => "latched",
        GateOrder::Held { .. } => "held",
    }
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
            .or(doubt::alarm(record).as_ref().map(|alarm| alarm.message.as_str()))
            .or(no_way_back(record))
            .or(record.failure.as_ref().map(|failure| failure.message.as_str())),
        comparison(record)
    ]
}

/// Whether both copies hold the same data, in a word.
fn comparison(record: &MoveRecord) -> Option<&'static str> {
    let facts = &record.facts;
    let committed = machine::is_committed(record);
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
    if let Some(alarm) = doubt::alarm(record).filter(|_| !record.phase.has_ended()) {
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
