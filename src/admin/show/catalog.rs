//! SHOW: systems, teams and the history of a database.

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster};
use crate::admin::error::AdminError;
use crate::admin::systems::version;
use crate::admin::{find, permission};
use crate::model::{DatabaseName, DatabaseRecord, Epoch, Lifecycle, SystemName, TeamName, printable};

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

/// Every user may know the teams, and where they are reached: a transfer names one. How many databases
/// another team has is left out.
pub(in crate::admin) async fn show_teams(cluster: &Cluster, caller: &Caller) -> Result<Vec<Row>, AdminError> {
    let databases = find::living(cluster).await?;
    let owned_by = |team: &TeamName| databases.iter().filter(|database| database.owner == *team).count();
    let teams = cluster.catalog().teams().list().await?.into_values();
    let rows = teams.iter().map(|team| {
        row![
            &team.name,
            team.contact.as_str(),
            (!caller.rights.is_of_product() || caller.rights.on_team(&team.name).is_some())
                .then(|| owned_by(&team.name)),
            team.created_at,
            team.parent.as_ref().map(TeamName::to_string),
            team.escalation.as_deref()
        ]
    });
    Ok(rows.collect())
}

/// The history of a database outlives it. Of a name that several databases had, it is that of the one that
/// has it now, or else of the newest; of those that are the user's own.
pub(in crate::admin) async fn show_history(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Vec<Row>, AdminError> {
    let mut known = cluster.catalog().databases().list().await?.into_values();
    known.retain(|database| database.name == *name && permission::owns(&caller.rights, database));
    let is_deleted = |database: &DatabaseRecord| matches!(database.lifecycle, Lifecycle::Deleted { .. });
    let Some(database) = known.iter().max_by_key(|database| (!is_deleted(database), database.created_at))
    else {
        return Err(permission::unseen(cluster, caller, name).await?);
    };
    let sees_place = !caller.rights.is_of_product();
    let older = database.history.first().filter(|_| database.history.older() > 0).map(|first| {
        let what = format!("{} older entries are not kept here: SHOW AUDIT", database.history.older());
        row![first.at, "freehold", what, None::<Epoch>]
    });
    let rows = database.history.iter().filter_map(|entry| {
        let what = if sees_place { Some(entry.what.as_str()) } else { entry.of_product() };
        let what = printable::one_line(what?);
        Some(row![entry.at, entry.who.as_str(), &*what, entry.epoch.filter(|_| sees_place)])
    });
    Ok(older.into_iter().chain(rows).collect())
}
