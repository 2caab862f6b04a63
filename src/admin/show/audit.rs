//! SHOW AUDIT.

use std::collections::BTreeMap;

use crate::admin::answer::{Row, row};
use crate::admin::context::{Caller, Cluster};
use crate::admin::error::AdminError;
use crate::admin::permission;
use crate::error::{Severity, SqlState};
use crate::model::{AuditFilter, DatabaseId, DatabaseName, UnixMillis, printable};

/// Entries that are shown.
const ROWS_MAX: usize = 1_000;

/// Product people are shown the entries about databases of their teams, also of those that were dropped.
pub(in crate::admin) async fn show_audit(
    cluster: &Cluster,
    caller: &Caller,
    filter: &AuditFilter,
) -> Result<Vec<Row>, AdminError> {
    let names = names(cluster, caller, filter.database.as_ref()).await?;
    let since = filter.since.map_or(UnixMillis(0), |since| since.before(cluster.now()));
    let (is_of_product, is_of_one) = (caller.rights.is_of_product(), filter.database.is_some());
    let found = cluster.catalog().audit().newest(since, ROWS_MAX, |entry| {
        let is_named = entry.database.as_ref().is_some_and(|database| names.contains_key(database));
        match is_of_product {
            true => entry.of_product().filter(|_| is_named),
            false => Some(entry).filter(|_| is_named || !is_of_one),
        }
    });
    let found = found.await?;
    if let Some(at) = found.searched_all_since {
        let message = format!("the search ended at {at}; older entries were not looked at");
        caller.notice(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message);
    }
    let rows = found.entries.into_iter().map(|entry| {
        let address = entry.address.map(|address| address.to_string());
        let database = entry.database.and_then(|database| names.get(&database).cloned());
        let plain = |text: &str| printable::one_line(text).into_owned();
        let (command, reason) = (plain(&entry.command), entry.reason.as_deref().map(plain));
        row![entry.at, entry.who, command, reason, plain(&entry.outcome), address, database]
    });
    Ok(rows.collect())
}

/// The databases whose entries are asked for and may be seen, with their names. Of a name that several
/// databases had, all of them.
async fn names(
    cluster: &Cluster,
    caller: &Caller,
    wanted: Option<&DatabaseName>,
) -> Result<BTreeMap<DatabaseId, String>, AdminError> {
    let known = cluster.catalog().databases().list().await?.into_values().into_iter();
    let known = known.filter(|database| permission::owns(&caller.rights, database));
    let known = known.filter(|database| wanted.is_none_or(|name| database.name == *name));
    let names: BTreeMap<_, _> = known.map(|database| (database.id, database.name.to_string())).collect();
    match wanted {
        Some(name) if names.is_empty() => Err(permission::unseen(cluster, caller, name).await?),
        _ => Ok(names),
    }
}
