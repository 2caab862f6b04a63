//! Teams, and the checks of an owner and a purpose.

use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::execute::{Caller, Cluster, is_missing};
use crate::admin::refuse::{AdminError, PURPOSE_CHARS_MIN, PurposeFault};
use crate::admin::statement::TeamClause;
use crate::catalog::{Swap, keys};
use crate::config::closest;
use crate::model::{DatabaseName, DatabaseRecord, Lifecycle, TeamName, TeamRecord};

impl Cluster {
    pub(in crate::admin) async fn create_team(
        &self,
        clause: &TeamClause,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let team =
            TeamRecord { name: clause.name.clone(), contact: clause.contact.clone(), created_at: self.now() };
        match self.recording(caller).create_team(&team).await? {
            Swap::Committed(_) => Ok(Answer::done(commands::CREATE_TEAM)),
            Swap::Conflict => Err(AdminError::Exists { kind: "team", name: team.name.to_string() }),
        }
    }

    pub(in crate::admin) async fn alter_team(
        &self,
        clause: &TeamClause,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let change = |team: &mut TeamRecord| {
            team.contact.clone_from(&clause.contact);
            Ok(())
        };
        match self.recording(caller).update::<TeamRecord, AdminError>(keys::team(&clause.name), change).await
        {
            Ok(_) => Ok(Answer::done(commands::ALTER_TEAM)),
            Err(error) if is_missing(&error) => Err(self.unknown_team(clause.name.as_str()).await?),
            Err(error) => Err(error),
        }
    }

    pub(in crate::admin) async fn drop_team(
        &self,
        name: &TeamName,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let Some(team) = self.catalog().team(name).await? else {
            return Err(self.unknown_team(name.as_str()).await?);
        };
        let owned = self.living(|database| database.owner == *name).await?;
        if !owned.is_empty() {
            return Err(AdminError::InUse { kind: "team", name: name.to_string(), databases: owned });
        }
        match self.recording(caller).delete(keys::team(name), team.revision).await? {
            Swap::Committed(_) => Ok(Answer::done(commands::DROP_TEAM)),
            Swap::Conflict => Err(self.unknown_team(name.as_str()).await?),
        }
    }

    /// Names of databases that are not deleted.
    pub(in crate::admin) async fn living(
        &self,
        wanted: impl Fn(&DatabaseRecord) -> bool,
    ) -> Result<Vec<String>, AdminError> {
        let all = self.catalog().databases().await?.into_values();
        let living =
            all.into_iter().filter(|database| !matches!(database.lifecycle, Lifecycle::Deleted { .. }));
        Ok(living.filter(|database| wanted(database)).map(|database| database.name.to_string()).collect())
    }

    /// The name of a team that must exist.
    pub(in crate::admin) async fn owner(&self, name: &str) -> Result<TeamName, AdminError> {
        let Ok(team) = TeamName::parse(name) else { return Err(self.unknown_team(name).await?) };
        match self.catalog().team(&team).await? {
            Some(_) => Ok(team),
            None => Err(self.unknown_team(name).await?),
        }
    }

    async fn unknown_team(&self, name: &str) -> Result<AdminError, AdminError> {
        let known: Vec<String> = self
            .catalog()
            .teams()
            .await?
            .into_values()
            .into_iter()
            .map(|team| team.name.to_string())
            .collect();
        let meant = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
        Ok(AdminError::UnknownTeam { team: name.to_owned(), known, meant })
    }

    /// A team for an example: an existing one, or a made-up one.
    pub(in crate::admin) async fn example_team(&self) -> Result<String, AdminError> {
        let teams = self.catalog().teams().await?.into_values();
        Ok(teams.first().map_or_else(|| "payments".to_owned(), |team| team.name.to_string()))
    }
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
