//! SHOW: the process itself: its commands, lists, users, settings, memory.

use std::collections::BTreeMap;

use crate::admin::answer::{Row, row};
use crate::admin::commands::{COMMANDS, Command};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::error::AdminError;
use crate::admin::find;
use crate::admin::show::people;
use crate::admin::show::sessions::{is_lent, pools};
use crate::config::{Apply, Config};

/// One role, summed over all databases.
#[derive(Debug, Default)]
struct User {
    databases: usize,
    clients: usize,
    servers: usize,
    /// The sum of the clients that the databases' contracts allow here.
    clients_max: u64,
}

/// The rows of the table that a user may run.
pub(in crate::admin) async fn show_help(_local: &Local, caller: &Caller) -> Result<Vec<Row>, AdminError> {
    let may = |command: &&Command| command.permission.roles.iter().any(|role| caller.rights.holds(*role));
    Ok(COMMANDS.iter().filter(may).map(|command| row![command.syntax, command.doc]).collect())
}

/// Beside what this process has, it counts what the catalogue has.
pub(in crate::admin) async fn show_lists(local: &Local, cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let routes = local.routes.routes();
    let clients: usize = routes.iter().map(|route| route.session_table().len()).sum();
    let servers: usize = routes.iter().map(|route| route.session_table().server_connections()).sum();
    let rows = vec![
        row!["databases", find::living(cluster).await?.len()],
        row!["users", users(local).len()],
        row!["peers", "0"],
        row!["pools", pools(&routes).len()],
        row!["peer_pools", "0"],
        row!["free_clients", "0"],
        row!["used_clients", clients],
        row!["login_clients", "0"],
        row!["free_servers", "0"],
        row!["used_servers", servers],
        row!["dns_names", "0"],
        row!["dns_zones", "0"],
        row!["dns_queries", "0"],
        row!["dns_pending", "0"],
        row!["systems", cluster.catalog().systems().list().await?.records.len()],
        row!["teams", cluster.catalog().teams().list().await?.records.len()],
        row!["moves", cluster.catalog().moves().list().await?.records.len()],
    ];
    Ok(rows)
}

/// Roles of applications, and users of the admin port; a name that is both has one row.
pub(in crate::admin) async fn show_users(local: &Local, cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let mut roles = users(local);
    let mut kept = people::kept(cluster).await?;
    for name in kept.keys() {
        roles.entry(name.clone()).or_default();
    }
    let rows = roles.into_iter().map(|(name, user)| {
        let mut row = row![
            name.as_str(),
            None::<String>,
            None::<String>,
            None::<String>,
            "0",
            user.servers,
            user.clients_max.min(i32::MAX as u64),
            user.clients,
            user.databases
        ];
        row.extend(kept.remove(&name).unwrap_or_else(|| vec![None; people::KEPT_COLUMNS]));
        row
    });
    Ok(rows.collect())
}

fn users(local: &Local) -> BTreeMap<String, User> {
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for route in local.routes.routes() {
        for login in route.logins().values().filter(|login| login.may_log_in()) {
            let user = users.entry(login.role.to_string()).or_default();
            user.databases += 1;
            user.clients_max += u64::from(route.current().terms.client_connections_max);
        }
        let lent = route.session_table().lent();
        for session in route.session_table().sessions() {
            let own = session.server_pid.is_some() && !is_lent(&session, &lent);
            let user = users.entry(session.role).or_default();
            user.clients += 1;
            user.servers += usize::from(own);
        }
        for connection in lent {
            users.entry(connection.facts.role).or_default().servers += 1;
        }
    }
    users
}

pub(in crate::admin) async fn show_config(local: &Local) -> Result<Vec<Row>, AdminError> {
    let (config, defaults) = (local.config.load(), Config::default());
    let rows = Config::SETTINGS.iter().map(|setting| {
        let changeable = if setting.apply == Apply::Reload { "yes" } else { "no" };
        row![setting.path(), setting.show(&config), setting.show(&defaults), changeable]
    });
    Ok(rows.collect())
}

/// The one "cache" here is the process: its resident memory, in KiB.
pub(in crate::admin) async fn show_mem(_local: &Local) -> Result<Vec<Row>, AdminError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let rows = kib.map(|kib| row!["resident_kib", "1024", kib, "0", kib * 1024]);
    Ok(rows.into_iter().collect())
}

pub(in crate::admin) async fn show_version(_local: &Local) -> Result<Vec<Row>, AdminError> {
    Ok(vec![row![concat!("Freehold ", env!("CARGO_PKG_VERSION"))]])
}

/// What PgBouncer has and Freehold has not: its columns without rows, because exporters ask for them.
pub(in crate::admin) async fn no_rows(_local: &Local) -> Result<Vec<Row>, AdminError> {
    Ok(Vec::new())
}
