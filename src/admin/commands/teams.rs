//! Teams, and the checks of an owner and a purpose.
//!
//! Owns what must be true of a team when it is made, changed or dropped: its parent exists, no line of
//! parents is a circle, and nothing depends on a team that goes. It deliberately does not decide for which
//! database a team is responsible: that is in the record of the database.
//!
//! # Why a team is written again
//! The store compares records, not lists of them. The record of a team is written again, as it is, by what
//! refers to it: a team below it, a database that it owns or is offered. So a DROP TEAM that has not seen the
//! reference conflicts, and looks again.

use super::context::{Caller, Cluster};
use super::people_error::PeopleError;
use super::team_error::TeamError;
use super::{find, people};
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::{AdminError, PURPOSE_CHARS_MIN, PurposeFault};
use crate::admin::statement::{AlterTeam, CreateTeam, DropTeam};
use crate::catalog::store::StoreError;
use crate::catalog::typed::ATTEMPTS_MAX;
use crate::catalog::{Batch, Swap, Versioned, keys};
use crate::error::Blame;
use crate::model::{DatabaseName, DatabaseRecord, TeamName, TeamRecord};

pub(in crate::admin) async fn create_team(
    cluster: &Cluster,
    caller: &Caller,
    create: &CreateTeam,
) -> Result<Answer, AdminError> {
    let CreateTeam { name, contact, escalation, parent } = create.clone();
    let team = TeamRecord { name, contact, created_at: cluster.now(), escalation, parent };
    let key = keys::team(&team.name);
    for _ in 0..ATTEMPTS_MAX {
        if cluster.catalog().teams().get(&team.name).await?.is_some() {
            return Err(AdminError::Exists { kind: "team", name: team.name.to_string() });
        }
        let batch = cluster.recording(caller).batch().absent(key.clone()).put(key.clone(), &team);
        let batch = below(cluster, batch, &team.name, team.parent.as_ref()).await?;
        if let Swap::Committed(_) = batch.commit().await? {
            return Ok(Answer::done(commands::CREATE_TEAM));
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
}

pub(in crate::admin) async fn alter_team(
    cluster: &Cluster,
    caller: &Caller,
    alter: &AlterTeam,
) -> Result<Answer, AdminError> {
    if alter.parent.is_some() && caller.rights.is_of_product() {
        let detail = "Which team is above another one is the platform's to say.".to_owned();
        let (user, what) = (caller.who.clone(), "the PARENT of a team");
        return Err(PeopleError::Clause { user, what, detail, side: Blame::Platform }.into());
    }
    let key = keys::team(&alter.name);
    for _ in 0..ATTEMPTS_MAX {
        let Some(Versioned { value, revision }) = cluster.catalog().teams().get(&alter.name).await? else {
            return Err(find::unknown_team(cluster, alter.name.as_str()).await?);
        };
        let team = altered(&value, alter);
        if team == value {
            return Ok(Answer::done(commands::ALTER_TEAM));
        }
        let batch =
            cluster.recording(caller).batch().unchanged(key.clone(), revision).put(key.clone(), &team);
        let parent = team.parent.as_ref().filter(|_| team.parent != value.parent);
        let batch = below(cluster, batch, &team.name, parent).await?;
        if let Swap::Committed(_) = batch.commit().await? {
            return Ok(Answer::done(commands::ALTER_TEAM));
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
}

fn altered(team: &TeamRecord, alter: &AlterTeam) -> TeamRecord {
    TeamRecord {
        contact: alter.contact.clone().unwrap_or_else(|| team.contact.clone()),
        escalation: alter.escalation.clone().or_else(|| team.escalation.clone()),
        parent: alter.parent.clone().unwrap_or_else(|| team.parent.clone()),
        ..team.clone()
    }
}

/// Adds the conditions under which a team may be below another one: that one is there, and the line from it
/// upwards does not lead through the team. Whatever changes the line meanwhile conflicts.
async fn below(
    cluster: &Cluster,
    batch: Batch,
    team: &TeamName,
    parent: Option<&TeamName>,
) -> Result<Batch, AdminError> {
    let Some(parent) = parent else { return Ok(batch) };
    let teams = cluster.catalog().teams().list().await?.records;
    let line = line_from(&teams, parent);
    if *parent == *team || line.iter().any(|above| above.value.name == *team) {
        let names = line.iter().map(|above| above.value.name.to_string());
        let line = names.take_while(|name| *name != team.as_str()).chain([team.to_string()]).collect();
        return Err(TeamError::Circle { team: team.to_string(), line }.into());
    }
    let Some((parent_record, further)) = line.split_first() else {
        return Err(find::unknown_team(cluster, parent.as_str()).await?);
    };
    let batch = batch.refer_to(keys::team(parent), parent_record);
    let unchanged = |batch: Batch, above: &&Versioned<TeamRecord>| {
        batch.unchanged(keys::team(&above.value.name), above.revision)
    };
    Ok(further.iter().fold(batch, unchanged))
}

/// A team and those above it, each once.
fn line_from<'a>(teams: &'a [Versioned<TeamRecord>], team: &TeamName) -> Vec<&'a Versioned<TeamRecord>> {
    let mut line: Vec<&Versioned<TeamRecord>> = Vec::new();
    let mut next = Some(team);
    while let Some(name) = next {
        let above = teams.iter().find(|above| above.value.name == *name);
        let Some(above) = above.filter(|_| line.iter().all(|known| known.value.name != *name)) else { break };
        line.push(above);
        next = above.value.parent.as_ref();
    }
    line
}

/// What depends on the team is read after its record: a change that refers to the team since then has written
/// the record again, and the deletion conflicts. Grants on the team end with it: a later team of that name
/// begins without any.
pub(in crate::admin) async fn drop_team(
    cluster: &Cluster,
    caller: &Caller,
    drop: &DropTeam,
) -> Result<Answer, AdminError> {
    let (name, key) = (&drop.name, keys::team(&drop.name));
    for _ in 0..ATTEMPTS_MAX {
        let Some(team) = cluster.catalog().teams().get(name).await? else {
            return Err(find::unknown_team(cluster, name.as_str()).await?);
        };
        let living = find::living(cluster).await?;
        let names = |wanted: &dyn Fn(&DatabaseRecord) -> bool| -> Vec<String> {
            let wanted = living.iter().filter(|database| wanted(database));
            wanted.map(|database| database.name.to_string()).collect()
        };
        let databases = names(&|database| database.owner == *name);
        let offers = names(&|database| database.offer.as_ref().is_some_and(|offer| offer.to == *name));
        let teams = cluster.catalog().teams().list().await?.into_values().into_iter();
        let children = teams.filter(|team| team.parent.as_ref() == Some(name));
        let children: Vec<String> = children.map(|team| team.name.to_string()).collect();
        if !databases.is_empty() || !offers.is_empty() || !children.is_empty() {
            return Err(TeamError::InUse { team: name.to_string(), databases, offers, children }.into());
        }
        let batch = cluster.recording(caller).batch().unchanged(key.clone(), team.revision);
        let batch = people::without_grants_on(cluster, batch.delete(key.clone()), name).await?;
        if let Swap::Committed(_) = batch.commit().await? {
            return Ok(Answer::done(commands::DROP_TEAM));
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
}

/// A team for an example: an existing one, or a made-up one.
pub(in crate::admin) async fn example_team(cluster: &Cluster) -> Result<String, AdminError> {
    let teams = cluster.catalog().teams().list().await?.into_values();
    Ok(teams.first().map_or_else(|| "payments".to_owned(), |team| team.name.to_string()))
}

/// What is wrong with a purpose, if anything.
pub(in crate::admin) fn purpose_fault(name: &DatabaseName, purpose: Option<&str>) -> Option<PurposeFault> {
    let Some(purpose) = purpose else { return Some(PurposeFault::Missing) };
    let purpose = purpose.trim();
    if purpose.eq_ignore_ascii_case(name.as_str()) {
        return Some(PurposeFault::SameAsName);
    }
    (purpose.chars().count() < PURPOSE_CHARS_MIN).then_some(PurposeFault::TooShort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_says_more_than_the_name() {
        let name = DatabaseName::parse("shop_orders_and_carts").unwrap();
        assert_eq!(purpose_fault(&name, None), Some(PurposeFault::Missing));
        assert_eq!(purpose_fault(&name, Some("orders")), Some(PurposeFault::TooShort));
        assert_eq!(purpose_fault(&name, Some(" Shop_orders_and_carts ")), Some(PurposeFault::SameAsName));
        assert_eq!(purpose_fault(&name, Some("Orders and carts of the web shop")), None);
    }
}
