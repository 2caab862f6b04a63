//! Moves, as commands see them: recorded, requested, waited for. The mover does the rest.
//!
//! # Why a wait watches and does not poll
//! WAIT watches the record of the move, so the answer comes with the commit that ends it. Only the figures of
//! progress, which are not durable, are polled every second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::context::{Caller, Cluster};
use super::databases::refuse_moving;
use super::find;
use crate::admin::answer::{Answer, Row, row};
use crate::admin::commands::{self, Command};
use crate::admin::error::AdminError;
use crate::admin::statement::{Differences, Move, SourceDisposition, Wait};
use crate::catalog::store::StoreError;
use crate::catalog::{Swap, keys};
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::steps::keep_reverse::NOTE_NO_WAY_BACK;
use crate::control::moves::steps::preflight::{self, Plan};
use crate::control::{ControlSettings, moves::claim, moves::log, moves::machine, moves::objections};
use crate::error::{Blame, Severity, SqlState};
use crate::model::{
    AcceptedDifferences, DatabaseName, DatabaseRecord, Finding, FindingSeverity, MoveId, MovePhase,
    MoveProgress, MoveRecord, MoveRequest, MoveStep, PauseReport, Place, StepEvent, SystemName, SystemRecord,
    blockers_by_side,
};
use crate::system::MoveNames;

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub(in crate::admin) async fn plan_move(
    cluster: &Cluster,
    caller: &Caller,
    database: &DatabaseName,
    system: &SystemName,
) -> Result<Answer, AdminError> {
    let (database, (source, place), target) = endpoints(cluster, database, system).await?;
    let settings = ControlSettings::clone(&cluster.settings());
    let target_name = target.name.clone();
    let names = MoveNames::of_move(Some(cluster.catalog().store_id().await?), MoveId(0));
    let end = |system| Endpoint::of(system, &place.dbname, &settings, (names, "freehold plan"));
    let ends = Endpoints { source: end(source), target: end(target) };
    let logins = cluster.catalog().logins().of(&database.id).await?.into_values();
    let logins = logins.into_iter().map(|login| login.role.to_string()).collect();
    let logins_there = preflight::logins_on(cluster.catalog(), &target_name, &database.id).await?;
    let tell = |what: String| caller.notice(Severity::Notice, SqlState::parse("00000"), what);
    let plan = Plan { ends, settings, logins, logins_there };
    let mut report = preflight::check_telling(&plan, |activity| tell(activity.to_owned())).await?;
    report.findings.push(PauseBound::of(None, &database, cluster.pause_max()).finding());
    tell(
        blockers_by_side(&report.findings)
            .unwrap_or_else(|| "nothing keeps the move from starting".to_owned()),
    );
    Ok(Answer::rows(commands::PLAN_MOVE, report.findings.iter().map(finding_row).collect()))
}

/// The database, the source with its place, and the target of a move.
async fn endpoints(
    cluster: &Cluster,
    database: &DatabaseName,
    system: &SystemName,
) -> Result<(DatabaseRecord, (SystemRecord, Place), SystemRecord), AdminError> {
    let database = find::database(cluster, database).await?.value;
    let target = find::system(cluster, system).await?;
    let place = place_of(cluster, &database).await?;
    if place.system == target.name {
        return Err(AdminError::AlreadyThere {
            database: database.name.to_string(),
            system: target.name.to_string(),
        });
    }
    let source = find::system(cluster, &place.system).await?;
    Ok((database, (source, place), target))
}

async fn place_of(cluster: &Cluster, database: &DatabaseRecord) -> Result<Place, AdminError> {
    match cluster.catalog().routes().get(&database.id).await? {
        Some(route) => Ok(route.value.place),
        None => Err(AdminError::NotServed {
            database: database.name.to_string(),
            state: database.state().to_owned(),
        }),
    }
}

pub(in crate::admin) async fn start_move(
    cluster: &Cluster,
    caller: &Caller,
    wanted: &Move,
) -> Result<Answer, AdminError> {
    let expected = find::database(cluster, &wanted.database).await?;
    let (database, (_, source), target) = endpoints(cluster, &wanted.database, &wanted.system).await?;
    if !database.is_served() {
        let state = database.state().to_owned();
        return Err(AdminError::NotServed { database: database.name.to_string(), state });
    }
    refuse_moving(cluster, &database).await?;
    if !target.accepts_databases {
        return Err(AdminError::Cordoned { system: target.name.to_string() });
    }
    let record = new_move(cluster, caller, wanted, &database, (source, &target)).await?;
    match cluster.recording(caller).moves().create(&expected, &record).await? {
        Swap::Committed(_) => {
            answer(cluster, caller, commands::MOVE_DATABASE, (record.id, wanted.wait), 0).await
        }
        Swap::Conflict => {
            Err(match refuse_moving(cluster, &find::database(cluster, &wanted.database).await?.value).await {
                Err(error) => error,
                Ok(()) => StoreError::Contended { key: keys::database(&database.id), attempts: 1 }.into(),
            })
        }
    }
}

async fn new_move(
    cluster: &Cluster,
    caller: &Caller,
    wanted: &Move,
    database: &DatabaseRecord,
    (source, target): (Place, &SystemRecord),
) -> Result<MoveRecord, AdminError> {
    let pause = PauseBound::of(wanted.pause_max, database, cluster.pause_max());
    let mut facts = crate::model::MoveFacts::default();
    if let Some(warning) = &pause.warning {
        caller.notice(Severity::Warning, SqlState::WARNING, warning.clone());
        facts.notes.insert(NOTE_PAUSE.to_owned(), warning.clone());
    }
    let target = target.place(source.dbname.as_str());
    Ok(MoveRecord {
        id: cluster.catalog().moves().next_id().await?,
        database: database.id.clone(),
        name: database.name.clone(),
        source,
        target,
        phase: MovePhase::Preflight,
        request: None,
        pause_max: Some(pause.longest),
        log: Vec::new(),
        facts,
        cutover: None,
        undo: None,
        failure: None,
        requested_by: caller.who.clone(),
        reason: wanted.reason.clone(),
        started_at: cluster.now(),
        ended_at: None,
    })
}

pub(in crate::admin) async fn undo_move(
    cluster: &Cluster,
    caller: &Caller,
    (id, differences): (MoveId, Differences),
    wait: Wait,
) -> Result<Answer, AdminError> {
    let accepted = accepted(cluster, caller, differences);
    let seen = record_request(cluster, caller, (id, MoveRequest::Undo), accepted).await?;
    answer(cluster, caller, commands::UNDO_MOVE, (id, wait), seen).await
}

/// Makes the claim that stands on the systems this store's own.
pub(in crate::admin) async fn adopt_move(
    cluster: &Cluster,
    caller: &Caller,
    id: MoveId,
) -> Result<Answer, AdminError> {
    let record = find::movement(cluster, id).await?;
    if record.facts.claim_lost.is_none() {
        return Err(AdminError::Ours { id });
    }
    let settings = cluster.settings();
    let names = MoveNames::of_move(record.facts.store, id);
    let application_name = names.application_name();
    let end = |system, dbname: &str| Endpoint::of(system, dbname, &settings, (names, &application_name));
    let source = end(find::system(cluster, &record.source.system).await?, &record.source.dbname);
    let target = end(find::system(cluster, &record.target.system).await?, &record.target.dbname);
    let record = claim::adopt(&cluster.recording(caller), &Endpoints { source, target }, &record).await?;
    Ok(Answer::rows(commands::ADOPT_MOVE, vec![move_row(&record)]))
}

pub(in crate::admin) async fn cancel_move(
    cluster: &Cluster,
    caller: &Caller,
    id: MoveId,
    wait: Wait,
) -> Result<Answer, AdminError> {
    let seen = record_request(cluster, caller, (id, MoveRequest::Cancel), None).await?;
    answer(cluster, caller, commands::CANCEL_MOVE, (id, wait), seen).await
}

pub(in crate::admin) async fn finish_move(
    cluster: &Cluster,
    caller: &Caller,
    id: MoveId,
    (source, differences): (SourceDisposition, Differences),
    wait: Wait,
) -> Result<Answer, AdminError> {
    let request = match source {
        SourceDisposition::Keep => MoveRequest::Finish,
        SourceDisposition::Drop => MoveRequest::FinishAndDrop,
    };
    let accepted = accepted(cluster, caller, differences);
    let seen = record_request(cluster, caller, (id, request), accepted).await?;
    answer(cluster, caller, commands::FINISH_MOVE, (id, wait), seen).await
}

fn accepted(cluster: &Cluster, caller: &Caller, differences: Differences) -> Option<AcceptedDifferences> {
    let accepts = differences == Differences::Accepted;
    accepts.then(|| AcceptedDifferences { by: caller.who.clone(), at: cluster.now() })
}

/// Records a requested transition. Returns the length of the log at that time.
async fn record_request(
    cluster: &Cluster,
    caller: &Caller,
    (id, request): (MoveId, MoveRequest),
    accepted: Option<AcceptedDifferences>,
) -> Result<usize, AdminError> {
    let settings = cluster.settings();
    let change = |record: &mut MoveRecord| {
        if let Some(because) = record.facts.claim_lost.clone() {
            return Err(AdminError::NotOurs { id, because });
        }
        if let (MoveRequest::Undo, Some(because)) = (request, why_no_undo(record)) {
            return Err(AdminError::NoUndo { id, because: because.to_owned() });
        }
        if !machine::allows(record, request) {
            return Err(AdminError::NotInPhase { id, phase: record.phase, action: participle(request) });
        }
        record.facts.accepted.clone_from(&accepted);
        if let Some(failure) = objections::objection(record, request, settings.policy.verify) {
            return Err(AdminError::Doubtful { id, action: participle(request), failure: Box::new(failure) });
        }
        record.request = Some(request);
        Ok(())
    };
    match cluster.recording(caller).moves().update(id, change).await {
        Ok(record) => Ok(record.value.log.len()),
        Err(error) if find::is_missing(&error) => Err(find::unknown_move(id)),
        Err(error) => Err(error),
    }
}

/// `seen`: number of log entries that are older than the command.
async fn answer(
    cluster: &Cluster,
    caller: &Caller,
    command: Command,
    (id, wait): (MoveId, Wait),
    seen: usize,
) -> Result<Answer, AdminError> {
    let record = match wait {
        Wait::No => find::movement(cluster, id).await?,
        Wait::Yes => {
            let record = wait_for(cluster, command, id, caller, seen).await?;
            cluster.logins.notify_one();
            verdict(command, record, seen)?
        }
    };
    Ok(Answer::rows(command, vec![move_row(&record)]))
}

async fn wait_for(
    cluster: &Cluster,
    command: Command,
    id: MoveId,
    caller: &Caller,
    seen: usize,
) -> Result<MoveRecord, AdminError> {
    let mut last = LastNotice::default();
    let mut movement = cluster.catalog().follow::<MoveRecord>(&keys::movement(id)).await?;
    let mut tick = Instant::now();
    loop {
        let Some(record) = movement.record().map(|record| &record.value) else {
            return find::movement(cluster, id).await;
        };
        let progress = cluster.catalog().moves().progress(id).await?.unwrap_or_default();
        last.update(caller, record, &progress);
        if is_over(command, record, seen) {
            return Ok(record.clone());
        }
        tick += PROGRESS_INTERVAL;
        // Dropping the future of a followed record loses no change; the other futures hold no state.
        tokio::select! {
            () = caller.cancel.cancelled() => return Err(AdminError::WaitCanceled),
            () = sleep_until(tick) => {}
            changed = movement.changed() => changed?,
        }
    }
}

/// Note in [`MoveFacts::notes`](crate::model::MoveFacts): why clients are held for less time than MAX PAUSE
/// allowed.
pub(in crate::admin) const NOTE_PAUSE: &str = "pause_max_because";

/// How long clients of a database may be held.
struct PauseBound {
    longest: Duration,
    /// Where the bound comes from.
    bound: String,
    /// Set if MAX PAUSE asked for more.
    warning: Option<String>,
}

impl PauseBound {
    /// MAX PAUSE shortens the bound of the contract and the configuration, and never extends it: the contract
    /// is the promise to the application.
    fn of(asked: Option<Duration>, database: &DatabaseRecord, configured: Duration) -> PauseBound {
        let contract = database.contract.move_pause_max;
        let (longest, bound) = match contract <= configured {
            true => (contract, format!("move_pause_max of the contract of database {}", database.name)),
            false => (configured, "move.pause_max of the configuration".to_owned()),
        };
        let text = |time| humantime::format_duration(time).to_string();
        let warning = asked.filter(|asked| *asked > longest).map(|asked| {
            format!("MAX PAUSE '{}' is more than {bound} allows: {} are in force", text(asked), text(longest))
        });
        PauseBound { longest: asked.map_or(longest, |asked| asked.min(longest)), bound, warning }
    }

    fn finding(&self) -> Finding {
        let longest = humantime::format_duration(self.longest);
        Finding {
            severity: FindingSeverity::Note,
            check: "pause_max".to_owned(),
            object: None,
            message: format!(
                "clients are held for {longest} at most ({}); MAX PAUSE can make that shorter, not longer",
                self.bound
            ),
            cure: None,
            responsible: Blame::Platform,
        }
    }
}

/// The last notice, so that the same one is not sent twice.
#[derive(Default)]
struct LastNotice {
    phase: Option<MovePhase>,
    line: String,
}

impl LastNotice {
    fn update(&mut self, caller: &Caller, record: &MoveRecord, progress: &MoveProgress) {
        let line = progress_line(record, progress);
        if self.phase == Some(record.phase) && self.line == line {
            return;
        }
        self.phase = Some(record.phase);
        self.line.clone_from(&line);
        caller.notice(Severity::Notice, SqlState::parse("00000"), line);
    }
}

/// `copy: copying 3 of 8 tables, 41 % of 1.2 GB, 12 s left`
pub(in crate::admin) fn progress_line(record: &MoveRecord, progress: &MoveProgress) -> String {
    let mut parts = Vec::new();
    parts.extend(progress.activity_in(record.phase).map(str::to_owned));
    if record.phase == MovePhase::Copy
        && let Some(percent) = percent(progress)
    {
        parts.push(format!("{percent} % of {}", size(progress.bytes_total)));
    }
    if let (MovePhase::Catchup, Some(lag)) = (record.phase, progress.lag_bytes) {
        parts.push(format!("{} behind", size(lag)));
    }
    if let (MovePhase::Copy | MovePhase::Catchup, Some(eta)) = (record.phase, progress.eta_ms) {
        parts.push(format!("{} s left", eta.div_ceil(1000)));
    }
    if let Some(pinned) = progress.pinned.first() {
        parts.push(format!("session {} of {} cannot travel: {}", pinned.session, pinned.role, pinned.reason));
    }
    match parts.is_empty() {
        true => record.phase.as_str().to_owned(),
        false => format!("{}: {}", record.phase.as_str(), parts.join(", ")),
    }
}

pub(in crate::admin) fn percent(progress: &MoveProgress) -> Option<u64> {
    (progress.bytes_total > 0)
        .then(|| (progress.bytes_copied.saturating_mul(100) / progress.bytes_total).min(100))
}

/// `1.2 GB`, units of 1024.
pub(in crate::admin) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Whether the wait of a command is over.
fn is_over(command: Command, record: &MoveRecord, seen: usize) -> bool {
    let rests = record.facts.claim_lost.is_some();
    if rests || record.phase.has_ended() || record.phase == MovePhase::Parked && record.request.is_none() {
        return true;
    }
    let kept = record.phase == MovePhase::Kept && record.request.is_none();
    match command {
        commands::MOVE_DATABASE => record.phase == MovePhase::Kept,
        // An undo, or its cancellation, left the database on the target; or the undo was refused.
        commands::UNDO_MOVE => kept && (tried_to_undo(record, seen) || record.failure.is_some()),
        commands::CANCEL_MOVE | commands::FINISH_MOVE => kept,
        _ => false,
    }
}

fn tried_to_undo(record: &MoveRecord, seen: usize) -> bool {
    record
        .log
        .iter()
        .skip(seen)
        .any(|entry| entry.step == MoveStep::UndoCutover && entry.event != StepEvent::Asked)
}

/// Whether the command has reached what it asked for.
fn verdict(command: Command, record: MoveRecord, seen: usize) -> Result<MoveRecord, AdminError> {
    let good = match command {
        commands::MOVE_DATABASE => {
            matches!(record.phase, MovePhase::Kept | MovePhase::Finished)
                && objections::alarm(&record).is_none()
        }
        commands::UNDO_MOVE => record.phase == MovePhase::Undone,
        commands::CANCEL_MOVE => {
            record.phase == MovePhase::RolledBack
                || record.phase == MovePhase::Kept && tried_to_undo(&record, 0) && seen > 0
        }
        _ => record.phase == MovePhase::Finished,
    };
    if let Some(because) = record.facts.claim_lost.clone() {
        return Err(AdminError::NotOurs { id: record.id, because });
    }
    // A present problem takes precedence over an earlier failure.
    let failure = objections::alarm(&record).or_else(|| record.failure.clone());
    match (good, failure) {
        (false, Some(failure)) => Err(AdminError::MoveFailed {
            id: record.id,
            database: record.name.to_string(),
            failure: Box::new(failure),
        }),
        (false, None) => {
            Err(AdminError::NotInPhase { id: record.id, phase: record.phase, action: goal(command) })
        }
        (true, _) => Ok(record),
    }
}

fn goal(command: Command) -> &'static str {
    match command {
        commands::UNDO_MOVE => "undone",
        commands::CANCEL_MOVE => "cancelled",
        commands::FINISH_MOVE => "finished",
        _ => "completed",
    }
}

fn participle(request: MoveRequest) -> &'static str {
    match request {
        MoveRequest::Cancel => "cancelled",
        MoveRequest::Undo => "undone",
        MoveRequest::Finish | MoveRequest::FinishAndDrop => "finished",
    }
}

/// Why a kept move can no longer be undone.
pub(in crate::admin) fn why_no_undo(record: &MoveRecord) -> Option<&str> {
    let kept = !record.phase.has_ended() && log::is_committed(record) && !log::went_back(record);
    record.facts.notes.get(NOTE_NO_WAY_BACK).filter(|_| kept).map(String::as_str)
}

fn move_row(record: &MoveRecord) -> Row {
    row![record.id, &record.name, record.phase.as_str(), longest_stall_ms(record), message(record)]
}

/// Longest stall of the last pause: of the undo, or of the cutover.
pub(in crate::admin) fn longest_stall_ms(record: &MoveRecord) -> Option<String> {
    last_pause(record).map(|pause| milliseconds(pause.longest_stall))
}

pub(in crate::admin) fn last_pause(record: &MoveRecord) -> Option<&PauseReport> {
    record.undo.as_ref().or(record.cutover.as_ref())
}

pub(in crate::admin) fn milliseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1000.0)
}

fn message(record: &MoveRecord) -> String {
    let id = record.id;
    if record.facts.claim_lost.is_some() {
        return format!("it rests: another store may drive it; ADOPT MOVE {id} makes this store drive it");
    }
    match record.phase {
        MovePhase::Kept if objections::alarm(record).is_some() => {
            format!(
                "clients are on {}; the two copies differ: SHOW MOVE {id} says what can be done",
                record.target.system
            )
        }
        MovePhase::Kept if why_no_undo(record).is_some() => {
            format!("clients are on {}; no undo any more, FINISH MOVE {id} ends it", record.target.system)
        }
        MovePhase::Kept => {
            format!(
                "clients are on {}; FINISH MOVE {id} ends it, UNDO MOVE {id} brings it back",
                record.target.system
            )
        }
        MovePhase::Finished => format!("clients are on {}", record.target.system),
        MovePhase::Undone | MovePhase::RolledBack => format!("clients are on {}", record.source.system),
        MovePhase::Parked => format!("a person is needed: SHOW MOVE {id}"),
        _ => format!("SHOW MOVE {id} follows it"),
    }
}

fn finding_row(finding: &Finding) -> Row {
    row![
        finding.severity.as_str(),
        finding.check.as_str(),
        finding.object.clone(),
        finding.message.as_str(),
        finding.cure.as_deref().map(str::to_owned),
        finding.responsible.to_string()
    ]
}
