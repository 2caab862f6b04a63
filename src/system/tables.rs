//! The tables of a database with rows to carry over: their names, sizes, and replica identities.
//!
//! # Why
//! Ordinary tables and the leaves of partitioned ones are listed, never their roots: leaves hold the rows,
//! the same leaves exist on both sides, and a leaf can be copied, frozen and compared by itself. Of an
//! extension's tables only those are included that the extension declared as configuration
//! (`pg_extension.extconfig`): the others belong to its code.

use serde::{Deserialize, Serialize};

use super::names::{HELPER_SCHEMA, quote_qualified};
use super::{Session, SystemError};

/// A table's name; `Display` is for people, [`TableName::sql`] for statements.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), name: name.into() }
    }

    pub fn sql(&self) -> String {
        quote_qualified(&self.schema, &self.name)
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// How replication identifies the row of an UPDATE or DELETE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// Primary key, a chosen unique index, or the full row.
    Usable,
    /// Nothing: once the table is published, its UPDATEs and DELETEs fail.
    Missing,
}

/// Writes to a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writes {
    /// UPDATEs and DELETEs since the statistics were reset.
    pub changes: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: TableName,
    pub oid: u32,
    /// The main fork, which a sequential scan reads.
    pub heap_bytes: u64,
    /// With TOAST, without indexes: roughly what a copy transfers.
    pub data_bytes: u64,
    /// Pages of the main fork.
    pub pages: u64,
    /// `pg_class.reltuples`; an estimate, 0 if unknown.
    pub rows_estimate: u64,
    pub identity: ReplicaIdentity,
    pub writes: Writes,
    pub unlogged: bool,
    /// An extension's configuration table: `CREATE EXTENSION` creates it with its rows and foreign keys.
    pub of_extension: bool,
    /// Columns that are copied, in order: all but generated ones.
    pub columns: Vec<String>,
}

/// Whether replication can identify the rows of table `c`.
const IDENTIFIED: &str = "\
c.relreplident = 'f'
         OR (c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
             AND i.indimmediate AND i.indisvalid))
         OR (c.relreplident = 'i' AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident
             AND i.indisvalid))";

/// Tables with rows of the database's users; `$1` is the schema of Freehold's own.
const OF_USERS: &str = "\
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> $1
  AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                   AND d.deptype = 'e')
       OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig)))";

/// One row for each of them.
fn list_sql() -> String {
    format!(
        "\
SELECT n.nspname::text, c.relname::text, c.oid,
       pg_relation_size(c.oid), pg_table_size(c.oid),
       greatest(c.reltuples, 0)::bigint, c.relpersistence = 'u',
       {IDENTIFIED},
       coalesce(pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid), 0),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
       current_setting('block_size')::bigint,
       EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig))
{OF_USERS}
ORDER BY 4 DESC, 1, 2"
    )
}

/// The first of the logged tables whose UPDATEs and DELETEs cannot be replicated, by name.
pub async fn without_identity(session: &Session, max: usize) -> Result<Vec<TableName>, SystemError> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text {OF_USERS} AND c.relpersistence = 'p' AND NOT ({IDENTIFIED}) \
         ORDER BY 1, 2 LIMIT {max}"
    );
    let names =
        session.pairs::<String, String>("looking for tables without a key", &sql, &[&HELPER_SCHEMA]).await?;
    Ok(names.into_iter().map(|(schema, name)| TableName { schema, name }).collect())
}

/// The tables to carry over, largest first. In a transaction with an imported snapshot: as of that snapshot.
pub async fn list(session: &Session) -> Result<Vec<Table>, SystemError> {
    const LISTING: &str = "listing tables";
    let rows = session.rows(LISTING, &list_sql(), &[&HELPER_SCHEMA]).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in &rows {
        let heap_bytes = bytes(session.column(LISTING, row, 3)?);
        let usable: bool = session.column(LISTING, row, 7)?;
        tables.push(Table {
            name: TableName::new(
                session.column::<String>(LISTING, row, 0)?,
                session.column::<String>(LISTING, row, 1)?,
            ),
            oid: session.column(LISTING, row, 2)?,
            heap_bytes,
            data_bytes: bytes(session.column(LISTING, row, 4)?),
            pages: heap_bytes / bytes(session.column(LISTING, row, 10)?).max(1),
            rows_estimate: bytes(session.column(LISTING, row, 5)?),
            identity: if usable { ReplicaIdentity::Usable } else { ReplicaIdentity::Missing },
            writes: Writes { changes: session.column(LISTING, row, 8)? },
            unlogged: session.column(LISTING, row, 6)?,
            of_extension: session.column(LISTING, row, 11)?,
            columns: session.column(LISTING, row, 9)?,
        });
    }
    Ok(tables)
}

/// The names of the logged tables.
pub async fn list_logged_names(session: &Session) -> Result<Vec<TableName>, SystemError> {
    let tables = list(session).await?;
    Ok(tables.into_iter().filter(|table| !table.unlogged).map(|table| table.name).collect())
}

/// Tables with another file now than in the session's snapshot: truncated, or rewritten by VACUUM FULL or
/// CLUSTER.
pub async fn with_a_new_file(session: &Session) -> Result<Vec<TableName>, SystemError> {
    const LOOKING: &str = "looking for tables with a new file";
    // The query reads pg_class by the snapshot; the function returns the current value.
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> ALL ($1)
          AND pg_relation_filenode(c.oid) <> c.relfilenode ORDER BY 1, 2";
    let not_users: [&str; 2] = ["information_schema", HELPER_SCHEMA];
    let names = session.pairs::<String, String>(LOOKING, sql, &[&not_users.as_slice()]).await?;
    Ok(names.into_iter().map(|(schema, name)| TableName { schema, name }).collect())
}

fn bytes(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
