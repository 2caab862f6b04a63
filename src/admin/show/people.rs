//! SHOW GRANTS, and the users of the admin port for SHOW USERS.

use std::collections::BTreeMap;

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster};
use crate::admin::error::AdminError;
use crate::admin::rights::UserRole;
use crate::model::{Granted, TeamRole, UserGrant};

/// The columns that SHOW USERS has for users of the admin port.
pub(in crate::admin) const KEPT_COLUMNS: usize = 5;

const FILE: &str = "file";
const CATALOGUE: &str = "catalogue";

/// Where each user of the admin port is kept, its grants, and when and by which user it was made. By name.
pub(in crate::admin) async fn kept(cluster: &Cluster) -> Result<BTreeMap<String, Row>, AdminError> {
    let mut kept = BTreeMap::new();
    for user in cluster.catalog().users().list().await?.into_values() {
        let grants =
            user.grants.iter().map(|Granted { grant, .. }| format!("{} ON {}", grant.role(), grant.on()));
        let grants = grants.collect::<Vec<_>>().join(", ");
        let row = row![CATALOGUE, grants, user.created_at, user.created_by, user.password_changed_at];
        kept.insert(user.name.to_string(), row);
    }
    // A name that is in both is the file's.
    for (name, role) in of_file(cluster) {
        let none = None::<String>;
        kept.insert(name, row![FILE, format!("{role} ON PLATFORM"), none.clone(), none.clone(), none]);
    }
    Ok(kept)
}

/// The users of the file with their roles.
fn of_file(cluster: &Cluster) -> Vec<(String, &'static str)> {
    let users = cluster.file_users.load();
    let names = users.verifiers.keys();
    let role = |name: &str| match users.rights(name).is_some_and(|rights| rights.holds(UserRole::Stats)) {
        true => UserRole::Stats.as_str(),
        false => UserRole::Admin.as_str(),
    };
    names.map(|name| (name.clone(), role(name))).collect()
}

pub(in crate::admin) async fn show_grants(
    cluster: &Cluster,
    caller: &Caller,
) -> Result<Vec<Row>, AdminError> {
    let rights = &caller.rights;
    let owns =
        |grant: &UserGrant| grant.team().is_some_and(|team| rights.on_team(team) == Some(TeamRole::Owner));
    let is_shown =
        |user: &str, grant: &UserGrant| !rights.is_of_product() || user == caller.who || owns(grant);
    let of_file = of_file(cluster);
    let mut rows = Vec::new();
    for user in cluster.catalog().users().list().await?.into_values() {
        let name = user.name.as_str();
        if of_file.iter().any(|(of_file, _)| of_file == name) {
            continue;
        }
        let shown = user.grants.iter().filter(|granted| is_shown(name, &granted.grant));
        rows.extend(shown.map(|Granted { grant, at, by }| {
            row![name, grant.role(), grant.on(), by.as_str(), *at, CATALOGUE]
        }));
    }
    if !rights.is_of_product() {
        let none = || None::<String>;
        rows.extend(of_file.iter().map(|(name, role)| row![name, *role, "PLATFORM", none(), none(), FILE]));
    }
    rows.sort();
    Ok(rows)
}
