//! TRANSFER DATABASE, and what answers it: ACCEPT, REJECT and CANCEL TRANSFER. Each is one commit, with its
//! entries in the history and in the audit trail.
//!
//! Owns the two sides of a change of owner. It deliberately checks no right: the table of commands says that
//! an owner of the one team offers, and an owner of the other one answers, and the permit of the command
//! checks it again on the record that is committed.
//!
//! ```text
//!   TRANSFER --> offered --+-- ACCEPT, within 7 days --> the other team owns it
//!                          +-- REJECT, CANCEL, DROP ---> the offer ends, the owner stays
//! ```
//!
//! # Why two sides
//! A team that is given a database without being asked is an owner on paper. It answers for the database from
//! the commit of its own ACCEPT on.
//!
//! # Why an expired offer stays recorded
//! It says that a handover did not come about. SHOW DEBT lists it until one of the teams ends it.

use super::context::{Caller, Cluster};
use super::find;
use super::reason::{because, history, stated};
use super::transfer_error::TransferError;
use crate::admin::answer::Answer;
use crate::admin::commands::{self, Command};
use crate::admin::error::AdminError;
use crate::admin::statement::{RejectTransfer, Transfer};
use crate::model::{
    DatabaseName, DatabaseRecord, Lifecycle, ServiceTerms, TeamName, TransferOffer, UnixMillis,
};

pub(in crate::admin) async fn transfer(
    cluster: &Cluster,
    caller: &Caller,
    transfer: &Transfer,
) -> Result<Answer, AdminError> {
    let team = find::team(cluster, &transfer.team).await?;
    let reason = stated(transfer.reason.as_deref());
    let offer = TransferOffer::new(team, caller.who.clone(), reason.map(str::to_owned), cluster.now());
    let because = because(reason);
    let change = |record: &mut DatabaseRecord| {
        refuse_unsettled(record)?;
        refuse_second(record, &offer)?;
        let (team, until) = (&offer.to, offer.expires_at);
        record.offer = Some(offer.clone());
        Ok(format!("offered to team {team}, open until {until}{because}"))
    };
    run(cluster, caller, &transfer.name, change, commands::TRANSFER_DATABASE).await
}

pub(in crate::admin) async fn accept(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    let (now, meant) = (cluster.now(), receiver(cluster, name).await?);
    let change = |record: &mut DatabaseRecord| {
        refuse_unsettled(record)?;
        refuse_other(record, meant.as_ref())?;
        let team = taken(record, now)?.to;
        let before = std::mem::replace(&mut record.owner, team.clone());
        Ok(format!("transfer to team {team} accepted, owner was {before}"))
    };
    run(cluster, caller, name, change, commands::ACCEPT_TRANSFER).await
}

pub(in crate::admin) async fn reject(
    cluster: &Cluster,
    caller: &Caller,
    reject: &RejectTransfer,
) -> Result<Answer, AdminError> {
    let because = because(stated(reject.reason.as_deref()));
    let meant = receiver(cluster, &reject.name).await?;
    let change = |record: &mut DatabaseRecord| {
        refuse_other(record, meant.as_ref())?;
        let team = ended(record)?.to;
        Ok(format!("transfer to team {team} rejected{because}"))
    };
    run(cluster, caller, &reject.name, change, commands::REJECT_TRANSFER).await
}

pub(in crate::admin) async fn cancel(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    let change = |record: &mut DatabaseRecord| {
        let team = ended(record)?.to;
        Ok(format!("transfer to team {team} cancelled"))
    };
    run(cluster, caller, name, change, commands::CANCEL_TRANSFER).await
}

/// Commits a change and its entry in the history, which `change` answers.
async fn run(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
    mut change: impl FnMut(&mut DatabaseRecord) -> Result<String, AdminError> + Send,
    command: Command,
) -> Result<Answer, AdminError> {
    let id = find::database(cluster, name).await?.value.id;
    let mut is_served_otherwise = false;
    let with_history = |record: &mut DatabaseRecord| {
        let before = ServiceTerms::of(record);
        let what = change(record)?;
        record.history.push(history(cluster, caller, what));
        is_served_otherwise = before != ServiceTerms::of(record);
        Ok::<(), AdminError>(())
    };
    let written = cluster.recording(caller).databases().change(&id, with_history).await;
    let written = find::unless_team_was_dropped(cluster, written).await?;
    let answer = Answer::done(command);
    // Only a route that was written is followed.
    Ok(if is_served_otherwise { answer.written_at(written.revision) } else { answer })
}

/// A database that is not made yet, or goes away, keeps its owner.
fn refuse_unsettled(record: &DatabaseRecord) -> Result<(), TransferError> {
    let is_deleted = matches!(record.lifecycle, Lifecycle::Deleted { .. });
    match record.is_unfinished() || is_deleted {
        true => Err(TransferError::WrongState { database: record.name.to_string(), state: record.state() }),
        false => Ok(()),
    }
}

fn refuse_second(record: &DatabaseRecord, offer: &TransferOffer) -> Result<(), TransferError> {
    let database = record.name.to_string();
    match &record.offer {
        _ if record.owner == offer.to => {
            Err(TransferError::AlreadyOwner { database, team: offer.to.to_string() })
        }
        Some(first) => Err(TransferError::OfferedAlready {
            database,
            to: first.to.to_string(),
            until: first.expires_at,
            has_expired: first.has_expired(offer.offered_at),
            wanted: offer.to.to_string(),
        }),
        None => Ok(()),
    }
}

/// The team that answers: the one to which the database is offered when the command begins.
async fn receiver(cluster: &Cluster, name: &DatabaseName) -> Result<Option<TeamName>, AdminError> {
    Ok(find::database(cluster, name).await?.value.offer.map(|offer| offer.to))
}

/// An answer of one team is none to an offer to another one.
fn refuse_other(record: &DatabaseRecord, meant: Option<&TeamName>) -> Result<(), TransferError> {
    match &record.offer {
        Some(offer) if Some(&offer.to) != meant => {
            Err(TransferError::OfferedOtherwise { database: record.name.to_string() })
        }
        _ => Ok(()),
    }
}

/// Takes the offer from the record, if it can still be accepted.
fn taken(record: &mut DatabaseRecord, now: UnixMillis) -> Result<TransferOffer, TransferError> {
    let offer = ended(record)?;
    match offer.has_expired(now) {
        true => Err(TransferError::Expired {
            database: record.name.to_string(),
            to: offer.to.to_string(),
            until: offer.expires_at,
        }),
        false => Ok(offer),
    }
}

/// Takes the offer from the record.
fn ended(record: &mut DatabaseRecord) -> Result<TransferOffer, TransferError> {
    let taken = record.offer.take();
    taken.ok_or_else(|| TransferError::NotOffered { database: record.name.to_string() })
}
