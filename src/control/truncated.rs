//! Tables that are truncated while rows are copied.
//!
//! TRUNCATE does not go by snapshots: whoever looks at the table by an older one finds it empty ("Caveats" of the manual's chapter on
//! concurrency control). So the copy of such a table has all rows of the slot's snapshot, or none, and the changes between the snapshot
//! and the TRUNCATE are about rows that may be missing. Two things follow, and both are settled here: tables of one TRUNCATE ... CASCADE
//! could have been copied before and after it, so that a foreign key between them cannot be created; and a subscriber counts a conflict
//! for each change of a row that is missing (PostgreSQL 18).
//!
//! # Why
//! All that is in the table is going to be removed by the TRUNCATE that is on its way. So it is emptied once the copy is done, whatever the
//! copy found: then all tables of one TRUNCATE are alike, and every change before it is about a missing row. Whether the two sides agree in
//! the end is what the comparison before the cutover finds out.

use std::collections::BTreeSet;

use crate::system::{Session, SystemError, Table, TableName, tables};

use super::restore::Restore;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): tables that were truncated on the source while rows were copied.
pub const NOTE_TRUNCATED: &str = "truncated_during_copy";

const LOOKING: &str = "looking for tables that were truncated during the copy";
const EMPTYING: &str = "emptying tables that were truncated during the copy";

/// Empties on the target those of the copied tables that were truncated on the source since the snapshot of `session`, a transaction
/// that has imported it. The slot's connection must still be there.
pub(super) async fn settle(
    restore: &Restore<'_>,
    session: &Session,
    copied: &[Table],
) -> Result<Vec<TableName>, SystemError> {
    let truncated = find(session).await?;
    let named: Vec<&Table> = copied.iter().filter(|table| truncated.contains(&table.name)).collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let mut applier = restore.ends.target.writing_session(&restore.applier).await?;
    for table in &named {
        let name = table.name.sql();
        // A table of an extension has its foreign keys already: one that is referred to cannot be truncated by itself.
        let sql = match table.of_extension {
            true => format!("DELETE FROM ONLY {name}"),
            false => format!("TRUNCATE ONLY {name}"),
        };
        applier.query(EMPTYING, &sql).await?;
    }
    Ok(named.into_iter().map(|table| table.name.clone()).collect())
}

/// Until two looks find the same: a TRUNCATE of several tables that falls into one look would be seen of some of them only. No table is
/// ever taken out of the list again, so this ends.
async fn find(session: &Session) -> Result<BTreeSet<TableName>, SystemError> {
    // VACUUM FULL may hold a table for long, and a copy that has got this far is not given up for it.
    session.batch(LOOKING, "SET LOCAL lock_timeout = 0").await?;
    let mut found = look(session).await?;
    loop {
        let again = look(session).await?;
        if again == found {
            return Ok(found);
        }
        found = again;
    }
}

/// Tables with a new file since the snapshot, in which it sees no row. VACUUM FULL and CLUSTER make a new file as well, with every row
/// that any snapshot may see.
async fn look(session: &Session) -> Result<BTreeSet<TableName>, SystemError> {
    let mut found = BTreeSet::new();
    for table in tables::with_a_new_file(session).await? {
        let sql = format!("SELECT NOT EXISTS (SELECT FROM ONLY {})", table.sql());
        // The lock ends with the savepoint: one who truncates several tables at once never waits for two of ours.
        session.batch(LOOKING, "SAVEPOINT looking").await?;
        let is_empty: bool = session.value(LOOKING, &sql, &[]).await?;
        session.batch(LOOKING, "ROLLBACK TO looking").await?;
        if is_empty {
            found.insert(table);
        }
    }
    Ok(found)
}
