//! TRANSFER DATABASE, and what answers it: ACCEPT, REJECT and CANCEL TRANSFER. Each is one commit, with its
//! entries in the history and in the audit trail.
//!
//! Owns the two sides of a change of owner. It deliberately knows no person of either team: any administrator
//! may run both sides today.
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
use crate::catalog::store::StoreError;
use crate::catalog::typed::ATTEMPTS_MAX;
use crate::catalog::{Swap, keys};
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
        Ok((Some(offer.to.clone()), format!("offered to team {team}, open until {until}{because}")))
    };
    run(cluster, caller, &transfer.name, change, commands::TRANSFER_DATABASE).await
}

pub(in crate::admin) async fn accept(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    let now = cluster.now();
    let change = |record: &mut DatabaseRecord| {
        refuse_unsettled(record)?;
        let team = taken(record, now)?.to;
        let before = std::mem::replace(&mut record.owner, team.clone());
        let what = format!("transfer to team {team} accepted, owner was {before}");
        Ok((Some(team), what))
    };
    run(cluster, caller, name, change, commands::ACCEPT_TRANSFER).await
}

pub(in crate::admin) async fn reject(
    cluster: &Cluster,
    caller: &Caller,
    reject: &RejectTransfer,
) -> Result<Answer, AdminError> {
    let because = because(stated(reject.reason.as_deref()));
    let change = |record: &mut DatabaseRecord| {
        let team = ended(record)?.to;
        Ok((None, format!("transfer to team {team} rejected{because}")))
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
        Ok((None, format!("transfer to team {team} cancelled")))
    };
    run(cluster, caller, name, change, commands::CANCEL_TRANSFER).await
}

/// Commits a change and its entry in the history. `change` answers that entry, and the team to which the
/// record now refers: that team exists when this is committed.
async fn run(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
    change: impl Fn(&mut DatabaseRecord) -> Result<(Option<TeamName>, String), AdminError>,
    command: Command,
) -> Result<Answer, AdminError> {
    let id = find::database(cluster, name).await?.value.id;
    let key = keys::database(&id);
    for _ in 0..ATTEMPTS_MAX {
        let Some(known) = cluster.catalog().databases().get(&id).await? else {
            return Err(StoreError::Missing { key }.into());
        };
        let mut value = known.value.clone();
        let (team, what) = change(&mut value)?;
        value.history.push(history(cluster, caller, what));
        let catalog = cluster.recording(caller);
        let mut batch = catalog.databases().changing(catalog.batch(), known.revision, &value).await?;
        if let Some(team) = team {
            match catalog.teams().get(&team).await? {
                Some(record) => batch = batch.refer_to(keys::team(&team), &record),
                None => return Err(find::unknown_team(cluster, team.as_str()).await?),
            }
        }
        if let Swap::Committed(revision) = batch.commit().await? {
            let answer = Answer::done(command);
            // Only a route that was written is followed.
            let is_served_otherwise = ServiceTerms::of(&known.value) != ServiceTerms::of(&value);
            return Ok(if is_served_otherwise { answer.written_at(revision) } else { answer });
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
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
