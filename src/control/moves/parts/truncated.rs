//! Tables that are truncated while rows are copied.
//!
//! TRUNCATE is not MVCC-safe: a transaction with an older snapshot finds the table empty ("Caveats" of the
//! manual's chapter on concurrency control). So the copy of such a table has all rows of the slot's snapshot,
//! or none, and the changes between the snapshot and the TRUNCATE may concern missing rows. This has two
//! consequences, both handled here: tables of one TRUNCATE ... CASCADE could have been copied before and
//! after it, so that a foreign key between them cannot be created; and a subscriber counts a conflict for
//! each change of a missing row (PostgreSQL 18).
//!
//! # Why
//! The replicated TRUNCATE will remove all rows of the table anyway. So the table is emptied once the copy is
//! done, whatever was copied: then all tables of one TRUNCATE are alike, and every change before it concerns
//! a missing row. The comparison before the cutover checks that the two sides agree in the end.

use std::collections::BTreeSet;

use crate::system::{Session, SystemError, Table, TableName, tables};

use crate::control::moves::parts::restore::Restore;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): tables that were truncated on the source while rows were
/// copied.
pub const NOTE_TRUNCATED: &str = "truncated_during_copy";

const LOOKING: &str = "looking for tables that were truncated during the copy";
const EMPTYING: &str = "emptying tables that were truncated during the copy";

/// Empties on the target the copied tables that were truncated on the source since the snapshot of `session`,
/// a transaction that has imported it. The slot's connection must still be open.
pub(in crate::control) async fn settle(
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
        // A table of an extension has its foreign keys already: a referenced table cannot be truncated alone.
        let sql = match table.of_extension {
            true => format!("DELETE FROM ONLY {name}"),
            false => format!("TRUNCATE ONLY {name}"),
        };
        applier.query(EMPTYING, &sql).await?;
    }
    Ok(named.into_iter().map(|table| table.name.clone()).collect())
}

/// Repeats until two looks find the same: one look could see a concurrent TRUNCATE of several tables on some
/// of them only. No table is ever removed from the list, so this ends.
async fn find(session: &Session) -> Result<BTreeSet<TableName>, SystemError> {
    // VACUUM FULL may hold a table for long, and a copy that is nearly finished should not fail because of
    // that.
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

/// Tables with a new relfilenode since the snapshot, in which the snapshot sees no row. VACUUM FULL and
/// CLUSTER also write a new file, with every row that any snapshot may see.
async fn look(session: &Session) -> Result<BTreeSet<TableName>, SystemError> {
    let mut found = BTreeSet::new();
    for table in tables::with_a_new_file(session).await? {
        let sql = format!("SELECT NOT EXISTS (SELECT FROM ONLY {})", table.sql());
        // The lock ends with the savepoint: a TRUNCATE of several tables never waits for two locks of this
        // session.
        session.batch(LOOKING, "SAVEPOINT looking").await?;
        let is_empty: bool = session.value(LOOKING, &sql, &[]).await?;
        session.batch(LOOKING, "ROLLBACK TO looking").await?;
        if is_empty {
            found.insert(table);
        }
    }
    Ok(found)
}
