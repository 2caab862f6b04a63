//! SHOW DEBT: what is overdue, and what ends it.

use crate::admin::answer::{Row, row};
use crate::admin::context::Cluster;
use crate::admin::error::{AdminError, identifier, literal};
use crate::catalog::store::StoreError;
use crate::model::{DatabaseRecord, Date, Due};

pub(in crate::admin) async fn show_debt(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let now = cluster.now();
    let databases = cluster.catalog().databases().list().await?.into_values();
    let due = |database: &DatabaseRecord| database.lifecycle.due(now).filter(|_| database.dropping.is_none());
    let mut overdue: Vec<(Date, Row)> = Vec::new();
    for database in &databases {
        let Some(due) = due(database) else { continue };
        let (since, debt, cure) = debt(database, due);
        let contact = contact(cluster, database).await?;
        let row = row![&database.name, &database.owner, contact, debt, since.to_string(), cure];
        overdue.push((since, row));
    }
    overdue.sort_by(|(a, a_row), (b, b_row)| a.cmp(b).then_with(|| a_row.cmp(b_row)));
    Ok(overdue.into_iter().map(|(_, row)| row).collect())
}

/// Since when, what, and what ends it.
fn debt(database: &DatabaseRecord, due: Due) -> (Date, String, String) {
    let name = identifier(database.name.as_str());
    match due {
        Due::Quarantine { since } => {
            let waits = database
                .operation
                .map_or_else(String::new, |operation| format!(": {operation} has not ended"));
            (since, format!("not quarantined at its sunset{waits}"), "SHOW OPERATIONS;".to_owned())
        }
        Due::Decision { since } => {
            let confirm = literal(database.name.as_str());
            let cure =
                format!("REVIVE DATABASE {name}; or DROP DATABASE {name} CONFIRM {confirm} REASON 'text';");
            (since, "its quarantine is over, and nothing is decided".to_owned(), cure)
        }
    }
}

async fn contact(cluster: &Cluster, database: &DatabaseRecord) -> Result<Option<String>, StoreError> {
    Ok(cluster.catalog().teams().get(&database.owner).await?.map(|team| team.value.contact))
}
