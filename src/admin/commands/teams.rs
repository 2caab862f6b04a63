//! Teams, and the checks of an owner and a purpose.

use super::context::{Caller, Cluster};
use super::find;
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::{AdminError, PURPOSE_CHARS_MIN, PurposeFault};
use crate::admin::statement::TeamClause;
use crate::catalog::{Swap, keys};
use crate::model::{DatabaseName, TeamName, TeamRecord};

pub(in crate::admin) async fn create_team(
    cluster: &Cluster,
    caller: &Caller,
    clause: &TeamClause,
) -> Result<Answer, AdminError> {
    let team =
        TeamRecord { name: clause.name.clone(), contact: clause.contact.clone(), created_at: cluster.now() };
    match cluster.recording(caller).teams().create(&team).await? {
        Swap::Committed(_) => Ok(Answer::done(commands::CREATE_TEAM)),
        Swap::Conflict => Err(AdminError::Exists { kind: "team", name: team.name.to_string() }),
    }
}

pub(in crate::admin) async fn alter_team(
    cluster: &Cluster,
    caller: &Caller,
    clause: &TeamClause,
) -> Result<Answer, AdminError> {
    let change = |team: &mut TeamRecord| {
        team.contact.clone_from(&clause.contact);
        Ok(())
    };
    match cluster.recording(caller).update::<TeamRecord, AdminError>(keys::team(&clause.name), change).await {
        Ok(_) => Ok(Answer::done(commands::ALTER_TEAM)),
        Err(error) if find::is_missing(&error) => {
            Err(find::unknown_team(cluster, clause.name.as_str()).await?)
        }
        Err(error) => Err(error),
    }
}

pub(in crate::admin) async fn drop_team(
    cluster: &Cluster,
    caller: &Caller,
    name: &TeamName,
) -> Result<Answer, AdminError> {
    let Some(team) = cluster.catalog().teams().get(name).await? else {
        return Err(find::unknown_team(cluster, name.as_str()).await?);
    };
    let owned = find::living(cluster, |database| database.owner == *name).await?;
    if !owned.is_empty() {
        return Err(AdminError::InUse { kind: "team", name: name.to_string(), databases: owned });
    }
    match cluster.recording(caller).delete(keys::team(name), team.revision).await? {
        Swap::Committed(_) => Ok(Answer::done(commands::DROP_TEAM)),
        Swap::Conflict => Err(find::unknown_team(cluster, name.as_str()).await?),
    }
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
