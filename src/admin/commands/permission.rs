//! The check of rights, before a command runs.
//!
//! Owns which user may run which command about what: the roles of the user are compared with the row of the
//! table, and what the command names with what is the user's own. It deliberately filters no answer: the
//! commands do that, by the functions below.
//!
//! # Why a database of another team does not exist
//! A name says what another team works on. So the answer is the one for a name that nothing has, down to the
//! suggestions, which are taken from what the user may see.

use super::context::{Caller, Cluster};
use super::find;
use super::people_error::PeopleError;
use super::permit::{CommandPermit, deciding_team, suffices};
use super::rights::{Own, Rights, UserRole};
use crate::admin::commands::{Command, title};
use crate::admin::error::AdminError;
use crate::admin::statement::{Statement, Subject};
use crate::catalog::keys;
use crate::catalog::store::StoreError;
use crate::model::{DatabaseName, DatabaseRecord, TeamName, UserName};

/// Refuses a command that the user may not run. The answer is the guard of what the command writes.
pub(in crate::admin) async fn check(
    cluster: &Cluster,
    caller: &Caller,
    row: &Command,
    statement: &Statement,
) -> Result<CommandPermit, AdminError> {
    let record = caller.rights.record().and_then(|revision| {
        let user = UserName::parse(&caller.who).ok()?;
        Some((keys::user(&user), revision))
    });
    if caller.rights.holds_on_platform(row.permission.roles) {
        return Ok(CommandPermit::of_platform(record));
    }
    check_own(cluster, caller, row, statement).await?;
    Ok(CommandPermit::of_team(row.permission, &caller.rights, record))
}

/// Refuses a user without a role on the platform that would be enough.
async fn check_own(
    cluster: &Cluster,
    caller: &Caller,
    row: &Command,
    statement: &Statement,
) -> Result<(), AdminError> {
    let (roles, rights) = (row.permission.roles, &caller.rights);
    let may = roles.iter().any(|role| !role.is_of_platform() && rights.holds(*role));
    match (row.permission.own.filter(|_| may), statement.subject()) {
        (Some(Own::Rows), _) => Ok(()),
        (Some(own @ (Own::Database | Own::Seen | Own::Offer)), Subject::Database(name)) => {
            check_database(cluster, caller, row, own, name).await
        }
        (Some(Own::Team), Subject::Team(team)) => match suffices(rights.on_team(team), roles) {
            true => Ok(()),
            false => Err(denied(caller, row, Some(team))),
        },
        (Some(Own::User), Subject::User(user)) if user.as_str() == caller.who => Ok(()),
        _ => Err(denied(caller, row, None)),
    }
}

async fn check_database(
    cluster: &Cluster,
    caller: &Caller,
    row: &Command,
    own: Own,
    name: &DatabaseName,
) -> Result<(), AdminError> {
    let (roles, rights) = (row.permission.roles, &caller.rights);
    let database = seen_database(cluster, caller, name).await?;
    // Who sees the database may look at it.
    let Some(team) = deciding_team(own, &database) else { return Ok(()) };
    match suffices(rights.on_team(team), roles) {
        true => Ok(()),
        false => Err(denied(caller, row, Some(team))),
    }
}

/// The error of a command, in the words for a right that was there when the command began.
pub(in crate::admin) fn explained(error: AdminError, caller: &Caller, row: &Command) -> AdminError {
    match error {
        AdminError::Store(StoreError::NotPermitted { .. }) => {
            PeopleError::HasChanged { user: caller.who.clone(), command: name(row) }.into()
        }
        other => other,
    }
}

/// `CANCEL TRANSFER`
fn name(row: &Command) -> String {
    title(row).trim_end_matches(" OF").to_owned()
}

fn denied(caller: &Caller, row: &Command, team: Option<&TeamName>) -> AdminError {
    let user = caller.who.clone();
    if caller.rights.holds(UserRole::Stats) {
        return PeopleError::MayOnlyLook { user }.into();
    }
    let (command, roles) = (name(row), row.permission.roles);
    PeopleError::Denied { user, command, roles, team: team.map(TeamName::to_string) }.into()
}

/// Whether a user may know that the database exists.
pub(in crate::admin) fn sees(rights: &Rights, database: &DatabaseRecord) -> bool {
    let is_offered = || database.offer.as_ref().is_some_and(|offer| rights.on_team(&offer.to).is_some());
    owns(rights, database) || is_offered()
}

/// Whether the database is a team's of the user, or the user has a role on the platform.
pub(in crate::admin) fn owns(rights: &Rights, database: &DatabaseRecord) -> bool {
    !rights.is_of_product() || rights.on_team(&database.owner).is_some()
}

/// The living databases that a user may know of.
pub(in crate::admin) async fn seen(
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<DatabaseRecord>, StoreError> {
    let mut living = find::living(cluster).await?;
    living.retain(|database| sees(&caller.rights, database));
    Ok(living)
}

/// The living databases whose clients are the user's concern, by name: all of them, or the named one.
pub(in crate::admin) async fn owned(
    cluster: &Cluster,
    caller: &Caller,
    name: Option<&DatabaseName>,
) -> Result<Vec<DatabaseRecord>, AdminError> {
    let mut living = find::living(cluster).await?;
    living
        .retain(|database| owns(&caller.rights, database) && name.is_none_or(|name| database.name == *name));
    living.sort_by(|a, b| a.name.cmp(&b.name));
    match name {
        Some(name) if living.is_empty() => Err(unseen(cluster, caller, name).await?),
        _ => Ok(living),
    }
}

/// The named database, if the user may know of it.
pub(in crate::admin) async fn seen_database(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<DatabaseRecord, AdminError> {
    let found = cluster.catalog().databases().named(name).await?.map(|found| found.value);
    match found.filter(|found| sees(&caller.rights, found)) {
        Some(database) => Ok(database),
        None => Err(unseen(cluster, caller, name).await?),
    }
}

/// The error for a database that does not exist, or is not to be seen.
pub(in crate::admin) async fn unseen(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<AdminError, AdminError> {
    let known = seen(cluster, caller).await?;
    Ok(find::unknown_database(name, known.iter().map(|database| database.name.as_str())))
}
