//! DEPRECATE, REVIVE and QUARANTINE DATABASE: each is one commit, with its entries in the history and in the
//! audit trail.
//!
//! Owns what must be true before a database changes its lifecycle state. It deliberately says nothing of what
//! clients meet then: that follows from the record
//! ([`ServiceTerms::of`](crate::model::ServiceTerms::of)). What a sunset brings about by itself is in
//! `control::lifecycle::sunset`.
//!
//! # Why a quarantine is refused while clients are known
//! A database that is believed to be unused is quarantined to find out whether that is so. Where its clients
//! are known already, the way to end their use is a deprecation, which warns them. ACCEPT CLIENTS says that
//! they have been told.

use std::time::Duration;

use super::context::{Caller, Cluster, Local};
use super::databases::refuse_moving;
use super::operations::refuse_changing;
use super::reason::{because, history, stated};
use super::transition_error::TransitionError;
use super::{find, permission};
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier, literal};
use crate::admin::statement::{Clients, Deprecate, Quarantine, Revive};
use crate::catalog::store::StoreError;
use crate::error::{Severity, SqlState};
use crate::model::{DatabaseId, DatabaseName, DatabaseRecord, Date, Lifecycle};
use crate::route::Consumer;

/// How long a client that has left keeps its database from being quarantined.
const LATELY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Consumers that a refusal names; further ones are only counted.
const NAMED_MAX: usize = 10;

const EXAMPLE_REASON: &str = "why it goes away";

pub(in crate::admin) async fn deprecate(
    cluster: &Cluster,
    caller: &Caller,
    deprecate: &Deprecate,
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, &deprecate.name).await?.value;
    let (sunset, reason) = checked_notice(cluster, &database, deprecate)?;
    refuse_changing(&database.name, database.operation)?;
    if let Some(successor) = &deprecate.successor {
        check_successor(cluster, caller, &database, successor).await?;
    }
    let successor = deprecate.successor.clone();
    let replaced = successor.as_ref().map_or_else(String::new, |name| format!(", successor {name}"));
    let what = format!("deprecated: {reason}; sunset {sunset}{replaced}");
    let lifecycle = Lifecycle::Deprecated { sunset, reason, successor };
    let entry = history(cluster, caller, what);
    let change = |record: &mut DatabaseRecord| {
        refuse_unless(record, "deprecated", |state| matches!(state, Lifecycle::Active))?;
        // Another tier has another notice period, and an operation may have begun.
        checked_notice(cluster, record, deprecate)?;
        refuse_changing(&record.name, record.operation)?;
        record.lifecycle = lifecycle.clone();
        record.history.push(entry.clone());
        Ok::<(), AdminError>(())
    };
    let written = cluster.recording(caller).databases().change(&database.id, change).await?;
    Ok(Answer::done(commands::DEPRECATE_DATABASE).written_at(written.revision))
}

/// Sunset and reason, if both are given and the notice period is kept.
fn checked_notice(
    cluster: &Cluster,
    database: &DatabaseRecord,
    deprecate: &Deprecate,
) -> Result<(Date, String), TransitionError> {
    let tier = database.contract.tier;
    let earliest = Date::of(cluster.now()).plus_days(tier.notice_days());
    let given = stated(deprecate.reason.as_deref());
    let command = |sunset: Date| {
        let successor = deprecate
            .successor
            .as_ref()
            .map_or_else(String::new, |successor| format!(" SUCCESSOR {}", identifier(successor.as_str())));
        format!(
            "DEPRECATE DATABASE {} SUNSET '{sunset}' REASON {}{successor};",
            identifier(database.name.as_str()),
            literal(given.unwrap_or(EXAMPLE_REASON))
        )
    };
    match (deprecate.sunset, given) {
        (Some(sunset), _) if sunset < earliest => {
            let (database, command) = (database.name.to_string(), command(earliest));
            Err(TransitionError::SunsetTooNear { database, sunset, tier, earliest, command })
        }
        (Some(sunset), Some(reason)) => Ok((sunset, reason.to_owned())),
        (sunset, _) => Err(TransitionError::NoNotice { command: command(sunset.unwrap_or(earliest)) }),
    }
}

/// Another database that clients can use.
async fn check_successor(
    cluster: &Cluster,
    caller: &Caller,
    database: &DatabaseRecord,
    successor: &DatabaseName,
) -> Result<(), AdminError> {
    if *successor == database.name {
        return Err(TransitionError::OwnSuccessor { database: database.name.to_string() }.into());
    }
    let successor = permission::seen_database(cluster, caller, successor).await?;
    match successor.is_served() {
        true => Ok(()),
        false => Err(AdminError::NotServed {
            database: successor.name.to_string(),
            state: successor.state().to_owned(),
        }),
    }
}

pub(in crate::admin) async fn revive(
    cluster: &Cluster,
    caller: &Caller,
    revive: &Revive,
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, &revive.name).await?.value;
    let reason = stated(revive.reason.as_deref());
    let because = because(reason);
    let change = |record: &mut DatabaseRecord| {
        let can_be_revived =
            |state: &Lifecycle| matches!(state, Lifecycle::Deprecated { .. } | Lifecycle::Quarantined { .. });
        refuse_unless(record, "revived", can_be_revived)?;
        let what = format!("revived, was {}{because}", record.lifecycle.as_str());
        record.lifecycle = Lifecycle::Active;
        record.history.push(history(cluster, caller, what));
        Ok::<(), AdminError>(())
    };
    let written = cluster.recording(caller).databases().change(&database.id, change).await?;
    Ok(Answer::done(commands::REVIVE_DATABASE).written_at(written.revision))
}

/// The change is every process's; the clients that keep it from happening are those that this one knows.
pub(in crate::admin) async fn quarantine(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    quarantine: &Quarantine,
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, &quarantine.name).await?.value;
    let reason = checked_reason(cluster, quarantine)?;
    refuse_unless(&database, "quarantined", can_be_quarantined)?;
    refuse_moving(cluster, &database).await?;
    let clients = clients(local, cluster, caller, &database.id).await?;
    match (&clients, quarantine.clients) {
        (Some(clients), Clients::Refused) => {
            let command = command(quarantine, quarantine.until, Clients::Accepted);
            let database = database.name.to_string();
            return Err(TransitionError::ClientsSeen { database, clients: clients.clone(), command }.into());
        }
        (Some(clients), Clients::Accepted) => {
            let told = format!("the database is taken from {clients}");
            caller.notice(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, told);
        }
        (None, _) => {}
    }
    let until = quarantine.until;
    let ends = until.map_or_else(String::new, |until| format!(" until {until}"));
    let entry = history(cluster, caller, format!("quarantined{ends}: {reason}"));
    let change = |record: &mut DatabaseRecord| {
        refuse_unless(record, "quarantined", can_be_quarantined)?;
        // A MOVE was recorded since.
        if let Some(operation) = record.operation.filter(|new| Some(*new) != database.operation) {
            let database = record.name.to_string();
            return Err(AdminError::OperationInProgress { database, operation });
        }
        record.lifecycle = Lifecycle::Quarantined { reason: reason.clone(), until };
        record.history.push(entry.clone());
        Ok::<(), AdminError>(())
    };
    let written = cluster.recording(caller).databases().change(&database.id, change).await?;
    Ok(Answer::done(commands::QUARANTINE_DATABASE).written_at(written.revision))
}

fn can_be_quarantined(state: &Lifecycle) -> bool {
    matches!(state, Lifecycle::Active | Lifecycle::Deprecated { .. })
}

/// The reason, if it is given and the end is not past.
fn checked_reason(cluster: &Cluster, quarantine: &Quarantine) -> Result<String, TransitionError> {
    let today = Date::of(cluster.now());
    match (quarantine.until, stated(quarantine.reason.as_deref())) {
        (Some(until), _) if until <= today => {
            let command = command(quarantine, Some(today.plus_days(1)), quarantine.clients);
            Err(TransitionError::AlreadyOver { until, command })
        }
        (_, Some(reason)) => Ok(reason.to_owned()),
        (until, None) => {
            Err(TransitionError::NoReason { command: command(quarantine, until, quarantine.clients) })
        }
    }
}

fn command(quarantine: &Quarantine, until: Option<Date>, clients: Clients) -> String {
    let until = until.map_or_else(String::new, |until| format!(" UNTIL '{until}'"));
    let clients = if clients == Clients::Accepted { " ACCEPT CLIENTS" } else { "" };
    format!(
        "QUARANTINE DATABASE {}{until} REASON {}{clients};",
        identifier(quarantine.name.as_str()),
        literal(stated(quarantine.reason.as_deref()).unwrap_or(EXAMPLE_REASON))
    )
}

/// The clients that are connected to a proxy, and those that this process has seen lately, as phrases.
/// `None`: there are none.
async fn clients(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    database: &DatabaseId,
) -> Result<Option<String>, StoreError> {
    let now = cluster.now();
    let mut consumers =
        local.routes.by_id(database).map_or_else(Vec::new, |route| route.session_table().consumers(now));
    consumers.retain(|consumer| consumer.connections > 0 || consumer.last_seen.until(now) <= LATELY);
    let mut clients: Vec<String> = consumers.iter().take(NAMED_MAX).map(phrase).collect();
    let others = consumers.len().saturating_sub(NAMED_MAX);
    clients.extend((others > 0).then(|| format!("{others} more that this process knows")));
    let own = local.config.load().proxy.id.clone();
    let fleet = cluster.catalog().fleet().acks(database).await?;
    let elsewhere = fleet.answers().filter(|(proxy, _)| **proxy != own).filter_map(|(proxy, ack)| {
        let sessions = ack?.sessions;
        let of = match caller.rights.is_of_product() {
            true => "elsewhere".to_owned(),
            false => format!("of proxy \"{proxy}\""),
        };
        (sessions > 0).then(|| format!("{} {of}", connections(sessions)))
    });
    clients.extend(elsewhere);
    Ok((!clients.is_empty()).then(|| clients.join("; ")))
}

fn phrase(consumer: &Consumer) -> String {
    let application = match consumer.application_name.as_str() {
        "" => String::new(),
        name => format!(", application \"{name}\""),
    };
    let seen = match consumer.connections {
        0 => format!("last seen {}", consumer.last_seen),
        number => connections(number),
    };
    format!("role \"{}\"{application}, address {}: {seen}", consumer.role, consumer.address)
}

fn connections(number: u32) -> String {
    match number {
        1 => "1 connection".to_owned(),
        more => format!("{more} connections"),
    }
}

/// Refuses a database in another state than the transition leads out of.
fn refuse_unless(
    database: &DatabaseRecord,
    action: &'static str,
    is_right: impl Fn(&Lifecycle) -> bool,
) -> Result<(), AdminError> {
    match database.dropping.is_none() && is_right(&database.lifecycle) {
        true => Ok(()),
        false => {
            let (state, database) = (database.state(), database.name.to_string());
            Err(TransitionError::WrongState { database, state, action }.into())
        }
    }
}
