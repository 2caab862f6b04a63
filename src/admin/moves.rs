//! Moves, from the outside: recorded, wished, waited for. The mover does the rest.
//!
//! # Why a wait watches and does not ask
//! WAIT follows the record of the move by a watch, so the answer comes with the commit that ends it. Only the figures of
//! progress, which are not durable, are looked at every second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Row, row};
use super::commands::{self, Command};
use super::execute::{Caller, Executor};
use super::refuse::AdminError;
use super::statement::{Move, SourceFate, Wait};
use crate::catalog::store::StoreError;
use crate::catalog::{Swap, keys};
use crate::control::ends::{End, Ends};
use crate::control::preflight::{self, Plan};
use crate::control::{MoverSettings, machine};
use crate::error::{Severity, SqlState};
use crate::model::{
    DatabaseName, DatabaseRecord, Finding, Lifecycle, MoveId, MovePhase, MoveProgress, MoveRecord, MoveStep,
    MoveWish, PauseReport, Place, StepEvent, SystemName, SystemRecord,
};

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

impl Executor {
    pub(super) async fn plan_move(
        &self,
        database: &DatabaseName,
        system: &SystemName,
    ) -> Result<Answer, AdminError> {
        let (database, (source, place), target) = self.journey(database, system).await?;
        let settings = MoverSettings::clone(&self.parts.mover.load());
        let target_name = target.name.clone();
        let end = |system: SystemRecord| End {
            system,
            dbname: place.dbname.clone(),
            connect_timeout: settings.connect_timeout,
            access: settings.access.clone(),
            move_id: MoveId(0),
            application_name: "freehold plan".to_owned(),
        };
        let ends = Ends { source: end(source), target: end(target) };
        let logins = self.catalog().logins(&database.id).await?.into_values();
        let logins = logins.into_iter().map(|login| login.role.to_string()).collect();
        let logins_there = preflight::logins_on(self.catalog(), &target_name, &database.id).await?;
        let report = preflight::check(&Plan { ends, settings, logins, logins_there }).await?;
        Ok(Answer::rows(commands::PLAN_MOVE, report.findings.iter().map(finding_row).collect()))
    }

    /// Where a move would begin and end.
    async fn journey(
        &self,
        database: &DatabaseName,
        system: &SystemName,
    ) -> Result<(DatabaseRecord, (SystemRecord, Place), SystemRecord), AdminError> {
        let database = self.database(database).await?.value;
        let target = self.system(system).await?;
        let place = self.place_of(&database).await?;
        if place.system == target.name {
            return Err(AdminError::AlreadyThere {
                database: database.name.to_string(),
                system: target.name.to_string(),
            });
        }
        let source = self.system(&place.system).await?;
        Ok((database, (source, place), target))
    }

    async fn place_of(&self, database: &DatabaseRecord) -> Result<Place, AdminError> {
        match self.catalog().route(&database.id).await? {
            Some(route) => Ok(route.value.place),
            None => Err(AdminError::NotServed {
                database: database.name.to_string(),
                state: database.lifecycle.as_str().to_owned(),
            }),
        }
    }

    pub(super) async fn start_move(&self, wanted: &Move, caller: &Caller) -> Result<Answer, AdminError> {
        let expected = self.database(&wanted.database).await?;
        let (database, (_, source), target) = self.journey(&wanted.database, &wanted.system).await?;
        if !matches!(database.lifecycle, Lifecycle::Active | Lifecycle::Deprecated { .. }) {
            let state = database.lifecycle.as_str().to_owned();
            return Err(AdminError::NotServed { database: database.name.to_string(), state });
        }
        self.refuse_moving(&database).await?;
        if !target.accepts_databases {
            return Err(AdminError::Cordoned { system: target.name.to_string() });
        }
        let record = self.new_move(wanted, &database, source, &target, caller).await?;
        match self.catalog().create_move(&expected, &record).await? {
            Swap::Committed(_) => {
                self.answer(commands::MOVE_DATABASE, record.id, wanted.wait, caller, 0).await
            }
            Swap::Conflict => {
                Err(match self.refuse_moving(&self.database(&wanted.database).await?.value).await {
                    Err(error) => error,
                    Ok(()) => StoreError::Contended { key: keys::database(&database.id), attempts: 1 }.into(),
                })
            }
        }
    }

    async fn new_move(
        &self,
        wanted: &Move,
        database: &DatabaseRecord,
        source: Place,
        target: &SystemRecord,
        caller: &Caller,
    ) -> Result<MoveRecord, AdminError> {
        let asked = wanted.pause_max.unwrap_or(database.contract.move_pause_max);
        let target = target.place(source.dbname.as_str());
        Ok(MoveRecord {
            id: self.catalog().next_move_id().await?,
            database: database.id.clone(),
            name: database.name.clone(),
            source,
            target,
            phase: MovePhase::Preflight,
            wish: None,
            pause_max: Some(asked.min(self.parts.config.load().moves.pause_max)),
            log: Vec::new(),
            facts: crate::model::MoveFacts::default(),
            cutover: None,
            undo: None,
            failure: None,
            requested_by: caller.who.clone(),
            reason: wanted.reason.clone(),
            started_at: self.now(),
            ended_at: None,
        })
    }

    pub(super) async fn undo_move(
        &self,
        id: MoveId,
        wait: Wait,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let seen = self.wish(id, MoveWish::Undo).await?;
        self.answer(commands::UNDO_MOVE, id, wait, caller, seen).await
    }

    pub(super) async fn cancel_move(
        &self,
        id: MoveId,
        wait: Wait,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let seen = self.wish(id, MoveWish::Cancel).await?;
        self.answer(commands::CANCEL_MOVE, id, wait, caller, seen).await
    }

    pub(super) async fn finish_move(
        &self,
        id: MoveId,
        source: SourceFate,
        wait: Wait,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let wish = match source {
            SourceFate::Keep => MoveWish::Finish,
            SourceFate::Drop => MoveWish::FinishAndDrop,
        };
        let seen = self.wish(id, wish).await?;
        self.answer(commands::FINISH_MOVE, id, wait, caller, seen).await
    }

    /// Records a wish; the length of the log at that time.
    async fn wish(&self, id: MoveId, wish: MoveWish) -> Result<usize, AdminError> {
        let change = |record: &mut MoveRecord| {
            if !machine::allows(record, wish) {
                return Err(AdminError::NotInPhase { id, phase: record.phase, wish: participle(wish) });
            }
            record.wish = Some(wish);
            Ok(())
        };
        match self.catalog().update_move(id, change).await {
            Ok(record) => Ok(record.value.log.len()),
            Err(AdminError::Store(StoreError::Missing { .. })) => Err(unknown_move(id)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn movement(&self, id: MoveId) -> Result<MoveRecord, AdminError> {
        match self.catalog().movement(id).await? {
            Some(record) => Ok(record.value),
            None => Err(unknown_move(id)),
        }
    }

    /// `seen`: entries of the log that are older than the command.
    async fn answer(
        &self,
        command: Command,
        id: MoveId,
        wait: Wait,
        caller: &Caller,
        seen: usize,
    ) -> Result<Answer, AdminError> {
        let record = match wait {
            Wait::No => self.movement(id).await?,
            Wait::Yes => {
                let record = self.wait_for(command, id, caller, seen).await?;
                self.parts.logins.notify_one();
                verdict(command, record, seen)?
            }
        };
        Ok(Answer::rows(command, vec![move_row(&record)]))
    }

    async fn wait_for(
        &self,
        command: Command,
        id: MoveId,
        caller: &Caller,
        seen: usize,
    ) -> Result<MoveRecord, AdminError> {
        let mut told = Told::default();
        loop {
            let listing = self.catalog().list::<MoveRecord>(&keys::movement(id)).await?;
            let mut watch = self.catalog().store().watch(&keys::movement(id), listing.revision).await?;
            let mut record = self.movement(id).await?;
            let mut tick = Instant::now();
            loop {
                let progress = self.catalog().progress(id).await?.unwrap_or_default();
                told.tell(caller, &record, &progress);
                if is_over(command, &record, seen) {
                    return Ok(record);
                }
                tick += PROGRESS_INTERVAL;
                // A batch of a watch is never lost by dropping the future; the others hold no state.
                tokio::select! {
                    () = caller.cancel.cancelled() => return Err(AdminError::WaitCanceled),
                    () = sleep_until(tick) => {}
                    batch = watch.next() => match batch {
                        Ok(Some(_)) => record = self.movement(id).await?,
                        Ok(None) | Err(StoreError::Compacted { .. }) => break,
                        Err(error) => return Err(error.into()),
                    },
                }
            }
        }
    }
}

/// What was said last, so that nothing is said twice.
#[derive(Default)]
struct Told {
    phase: Option<MovePhase>,
    line: String,
}

impl Told {
    fn tell(&mut self, caller: &Caller, record: &MoveRecord, progress: &MoveProgress) {
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
pub(super) fn progress_line(record: &MoveRecord, progress: &MoveProgress) -> String {
    let mut parts = Vec::new();
    if !progress.activity.is_empty() && !record.phase.has_ended() {
        parts.push(progress.activity.clone());
    }
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

pub(super) fn percent(progress: &MoveProgress) -> Option<u64> {
    (progress.bytes_total > 0)
        .then(|| (progress.bytes_copied.saturating_mul(100) / progress.bytes_total).min(100))
}

/// `1.2 GB`, units of 1024.
pub(super) fn size(bytes: u64) -> String {
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

/// Whether there is nothing more to wait for.
fn is_over(command: Command, record: &MoveRecord, seen: usize) -> bool {
    if record.phase.has_ended() || record.phase == MovePhase::Parked && record.wish.is_none() {
        return true;
    }
    let kept = record.phase == MovePhase::Kept && record.wish.is_none();
    match command {
        commands::MOVE_DATABASE => record.phase == MovePhase::Kept,
        // An undo, or its cancellation, that left the database on the target.
        commands::UNDO_MOVE => kept && tried_to_undo(record, seen),
        commands::CANCEL_MOVE => kept,
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

/// Whether what was asked for has come true.
fn verdict(command: Command, record: MoveRecord, seen: usize) -> Result<MoveRecord, AdminError> {
    let good = match command {
        commands::MOVE_DATABASE => matches!(record.phase, MovePhase::Kept | MovePhase::Finished),
        commands::UNDO_MOVE => record.phase == MovePhase::Undone,
        commands::CANCEL_MOVE => {
            record.phase == MovePhase::RolledBack
                || record.phase == MovePhase::Kept && tried_to_undo(&record, 0) && seen > 0
        }
        _ => record.phase == MovePhase::Finished,
    };
    match (good, &record.failure) {
        (false, Some(failure)) => Err(AdminError::MoveFailed {
            id: record.id,
            database: record.name.to_string(),
            failure: Box::new(failure.clone()),
        }),
        (false, None) => {
            Err(AdminError::NotInPhase { id: record.id, phase: record.phase, wish: wished(command) })
        }
        (true, _) => Ok(record),
    }
}

fn wished(command: Command) -> &'static str {
    match command {
        commands::UNDO_MOVE => "undone",
        commands::CANCEL_MOVE => "cancelled",
        commands::FINISH_MOVE => "finished",
        _ => "completed",
    }
}

fn participle(wish: MoveWish) -> &'static str {
    match wish {
        MoveWish::Cancel => "cancelled",
        MoveWish::Undo => "undone",
        MoveWish::Finish | MoveWish::FinishAndDrop => "finished",
    }
}

fn unknown_move(id: MoveId) -> AdminError {
    AdminError::Unknown { kind: "move", name: id.to_string(), meant: None }
}

fn move_row(record: &MoveRecord) -> Row {
    row![record.id, &record.name, record.phase.as_str(), longest_stall_ms(record), message(record)]
}

/// Of the last pause: the undo's, or the cutover's.
pub(super) fn longest_stall_ms(record: &MoveRecord) -> Option<String> {
    last_pause(record).map(|pause| milliseconds(pause.longest_stall))
}

pub(super) fn last_pause(record: &MoveRecord) -> Option<&PauseReport> {
    record.undo.as_ref().or(record.cutover.as_ref())
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1000.0)
}

fn message(record: &MoveRecord) -> String {
    let id = record.id;
    match record.phase {
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
        finding.cure.clone(),
        finding.responsible.to_string()
    ]
}
