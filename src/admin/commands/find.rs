//! The records that a command names. One that does not exist is an error that says which may have been meant.

use super::context::Cluster;
use crate::admin::error::AdminError;
use crate::catalog::store::StoreError;
use crate::catalog::{Versioned, keys};
use crate::config::closest;
use crate::model::{
    DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, MoveId, MoveRecord, SystemName, SystemRecord,
    TeamName,
};

pub(in crate::admin) async fn database(
    cluster: &Cluster,
    name: &DatabaseName,
) -> Result<Versioned<DatabaseRecord>, AdminError> {
    match cluster.catalog().databases().named(name).await? {
        Some(database) => Ok(database),
        None => {
            let known = living(cluster).await?;
            Err(unknown_database(name, known.iter().map(|database| database.name.as_str())))
        }
    }
}

pub(in crate::admin) fn unknown_database<'a>(
    name: &DatabaseName,
    known: impl Iterator<Item = &'a str>,
) -> AdminError {
    let meant = closest(name.as_str(), known).map(str::to_owned);
    AdminError::Unknown { kind: "database", name: name.to_string(), meant }
}

/// The named database; without a name all that have a route.
pub(in crate::admin) async fn databases(
    cluster: &Cluster,
    name: Option<&DatabaseName>,
) -> Result<Vec<DatabaseId>, AdminError> {
    match name {
        Some(name) => Ok(vec![database(cluster, name).await?.value.id]),
        None => {
            let routes = cluster.catalog().routes().list().await?.into_values();
            Ok(routes.into_iter().map(|route| route.database).collect())
        }
    }
}

/// The databases that are not deleted.
pub(in crate::admin) async fn living(cluster: &Cluster) -> Result<Vec<DatabaseRecord>, StoreError> {
    let mut databases = cluster.catalog().databases().list().await?.into_values();
    databases.retain(|database| !matches!(database.lifecycle, Lifecycle::Deleted { .. }));
    Ok(databases)
}

pub(in crate::admin) async fn system(
    cluster: &Cluster,
    name: &SystemName,
) -> Result<SystemRecord, AdminError> {
    match cluster.catalog().systems().get(name).await? {
        Some(system) => Ok(system.value),
        None => Err(unknown_system(cluster, name).await?),
    }
}

pub(in crate::admin) async fn unknown_system(
    cluster: &Cluster,
    name: &SystemName,
) -> Result<AdminError, AdminError> {
    let known = cluster.catalog().systems().list().await?.into_values();
    let meant = closest(name.as_str(), known.iter().map(|system| system.name.as_str()));
    Ok(AdminError::Unknown { kind: "system", name: name.to_string(), meant: meant.map(str::to_owned) })
}

/// The name of a team that must exist.
pub(in crate::admin) async fn team(cluster: &Cluster, name: &str) -> Result<TeamName, AdminError> {
    let Ok(team) = TeamName::parse(name) else { return Err(unknown_team(cluster, name).await?) };
    match cluster.catalog().teams().get(&team).await? {
        Some(_) => Ok(team),
        None => Err(unknown_team(cluster, name).await?),
    }
}

pub(in crate::admin) async fn unknown_team(cluster: &Cluster, name: &str) -> Result<AdminError, AdminError> {
    let teams = cluster.catalog().teams().list().await?.into_values();
    let known: Vec<String> = teams.into_iter().map(|team| team.name.to_string()).collect();
    let meant = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
    Ok(AdminError::UnknownTeam { team: name.to_owned(), known, meant })
}

/// The outcome of a command that makes a database refer to a team, unless that was dropped meanwhile.
pub(in crate::admin) async fn unless_team_was_dropped<T>(
    cluster: &Cluster,
    outcome: Result<T, AdminError>,
) -> Result<T, AdminError> {
    match outcome {
        Err(AdminError::Store(StoreError::Missing { key })) => match key.strip_prefix(keys::TEAMS) {
            Some(team) => Err(unknown_team(cluster, team).await?),
            None => Err(StoreError::Missing { key }.into()),
        },
        other => other,
    }
}

pub(in crate::admin) async fn movement(cluster: &Cluster, id: MoveId) -> Result<MoveRecord, AdminError> {
    match cluster.catalog().moves().get(id).await? {
        Some(record) => Ok(record.value),
        None => Err(unknown_move(id)),
    }
}

pub(in crate::admin) fn unknown_move(id: MoveId) -> AdminError {
    AdminError::Unknown { kind: "move", name: id.to_string(), meant: None }
}

/// The record does not exist: another command dropped it meanwhile.
pub(in crate::admin) fn is_missing(error: &AdminError) -> bool {
    matches!(error, AdminError::Store(StoreError::Missing { .. }))
}
