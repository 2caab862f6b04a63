//! SHOW: systems, teams, the history of a database and the audit trail.

use crate::admin::answer::{Row, row};
use crate::admin::context::Cluster;
use crate::admin::error::AdminError;
use crate::admin::find;
use crate::admin::systems::version;
use crate::model::{DatabaseName, DatabaseRecord, SystemName, TeamName};

/// Entries of the audit trail that are shown.
const AUDIT_ROWS_MAX: usize = 1_000;

pub(in crate::admin) async fn show_systems(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let routes = cluster.catalog().routes().list().await?.into_values();
    let on = |name: &SystemName| routes.iter().filter(|route| route.place.system == *name).count();
    let systems = cluster.catalog().systems().list().await?.into_values();
    let rows = systems.iter().map(|system| {
        let replication = system.replication_address.as_ref();
        row![
            &system.name,
            system.address.host.as_str(),
            system.address.port,
            &system.admin_role,
            version(system.version_num),
            on(&system.name),
            system.accepts_databases,
            system.sslmode.as_str(),
            replication.map(|address| address.host.clone()),
            replication.map(|address| address.port),
            system.created_at,
            system.auth.as_str()
        ]
    });
    Ok(rows.collect())
}

pub(in crate::admin) async fn show_teams(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let databases = find::living(cluster).await?;
    let owned_by = |team: &TeamName| databases.iter().filter(|database| database.owner == *team).count();
    let teams = cluster.catalog().teams().list().await?.into_values();
    let rows = teams.iter().map(|team| {
        row![
            &team.name,
            team.contact.as_str(),
            owned_by(&team.name),
            team.created_at,
            team.parent.as_ref().map(TeamName::to_string),
            team.escalation.as_deref()
        ]
    });
    Ok(rows.collect())
}

pub(in crate::admin) async fn show_history(
    cluster: &Cluster,
    name: &DatabaseName,
) -> Result<Vec<Row>, AdminError> {
    let database = match cluster.catalog().databases().named(name).await? {
        Some(database) => database.value,
        None => last_deleted(cluster, name).await?,
    };
    let rows = database.history.iter();
    let rows = rows.map(|entry| row![entry.at, entry.who.as_str(), entry.what.as_str(), entry.epoch]);
    Ok(rows.collect())
}

/// The history of a database outlives it.
async fn last_deleted(cluster: &Cluster, name: &DatabaseName) -> Result<DatabaseRecord, AdminError> {
    let all = cluster.catalog().databases().list().await?.into_values();
    let newest = all.into_iter().filter(|database| database.name == *name).max_by_key(|d| d.created_at);
    match newest {
        Some(database) => Ok(database),
        None => find::database(cluster, name).await.map(|database| database.value),
    }
}

pub(in crate::admin) async fn show_audit(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let entries = cluster.catalog().audit().newest(AUDIT_ROWS_MAX).await?;
    let rows = entries
        .into_iter()
        .map(|entry| row![entry.at, entry.who, entry.command, entry.reason, entry.outcome]);
    Ok(rows.collect())
}
