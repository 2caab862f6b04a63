//! Publications: the tables that a system publishes to another.
//!
//! # Why
//! The tables are listed by name. `FOR ALL TABLES` would need a superuser, would publish the code tables of
//! extensions, and would make the UPDATEs of unlogged and forgotten tables fail. The list cannot grow stale:
//! the guard refuses new tables while a move runs. Leaf partitions are published as themselves, so rows
//! arrive in the same leaf partition.

use super::names::{HELPER_SCHEMA, MARKER_TABLE, quote_ident};
use super::tables::TableName;
use super::{Session, SystemError};

/// The marker table, which every publication of Freehold contains.
pub fn marker_table() -> TableName {
    TableName::new(HELPER_SCHEMA, MARKER_TABLE)
}

/// Creates a publication of every kind of change to these tables; the list may be empty. Takes SHARE UPDATE
/// EXCLUSIVE locks, which wait for a VACUUM but not for readers or writers, and do not block these.
pub async fn create(session: &Session, name: &str, tables: &[TableName]) -> Result<(), SystemError> {
    let mut sql = format!("CREATE PUBLICATION {}", quote_ident(name));
    if !tables.is_empty() {
        sql.push_str(&format!(" FOR TABLE {}", table_list(tables)));
    }
    sql.push_str(&format!(" WITH (publish = '{EVERYTHING}', publish_via_partition_root = false)"));
    session.batch("creating a publication", &sql).await
}

/// A superuser owns it.
const OURS: &str = "pubowner IN (SELECT oid FROM pg_roles WHERE rolsuper)";

/// The kinds of changes of an open publication.
const EVERYTHING: &str = "insert, update, delete, truncate";

/// Creates a publication that lists its tables and publishes nothing until [`open_sql`] opens it.
///
/// Changes before the opening commits are never published, not even through an older slot: the decoder uses
/// the catalog as of the time when the row was written.
pub async fn create_closed(session: &Session, name: &str, tables: &[TableName]) -> Result<(), SystemError> {
    let list = table_list(tables);
    let sql = format!(
        "CREATE PUBLICATION {} FOR TABLE {list} WITH (publish = '', publish_via_partition_root = false)",
        quote_ident(name)
    );
    session.batch("creating a publication", &sql).await
}

/// The statement that opens a closed publication, for a caller that sends it with others as one commit. It
/// changes one row, however many tables there are.
pub fn open_sql(name: &str) -> String {
    format!("ALTER PUBLICATION {} SET (publish = '{EVERYTHING}')", quote_ident(name))
}

/// The current state of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationState {
    /// Publishes every kind of change, of each table as itself.
    pub tells_everything: bool,
    /// Differs once the publication or the membership of a table was dropped and created again: a digest of
    /// OIDs.
    pub identity: String,
}

/// See [`PublicationState`]; `None` if there is no such publication.
pub async fn state(session: &Session, name: &str) -> Result<Option<PublicationState>, SystemError> {
    const READING: &str = "reading a publication";
    let sql = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot, p.oid::text || ':' || md5(
            coalesce((SELECT string_agg(r.oid::text, ',' ORDER BY r.oid) FROM pg_publication_rel r WHERE r.prpubid = p.oid), ''))
        FROM pg_publication p WHERE pubname = $1";
    let Some(row) = session.optional(READING, sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(PublicationState {
        tells_everything: session.column(READING, &row, 0)?,
        identity: session.column(READING, &row, 1)?,
    }))
}

/// Whether a publication is open; `None` if there is no such publication.
pub async fn is_open(session: &Session, name: &str) -> Result<Option<bool>, SystemError> {
    const READING: &str = "reading a publication";
    let sql = format!("SELECT pubinsert FROM pg_publication WHERE pubname = $1 AND {OURS}");
    let row = session.optional(READING, &sql, &[&name]).await?;
    row.map(|row| session.column(READING, &row, 0)).transpose()
}

/// The statement that adds tables, for a caller that sends it with others as one commit.
pub fn add_tables_sql(name: &str, tables: &[TableName]) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), table_list(tables))
}

pub async fn add_tables(session: &Session, name: &str, tables: &[TableName]) -> Result<(), SystemError> {
    session.batch("adding tables to a publication", &add_tables_sql(name, tables)).await
}

/// The tables of a publication, sorted; `None` if no superuser owns one of this name. A publication of
/// another role is not Freehold's: its owner could remove tables from it.
pub async fn tables(session: &Session, name: &str) -> Result<Option<Vec<TableName>>, SystemError> {
    const READING: &str = "reading a publication";
    let exists: bool = session
        .value(
            READING,
            &format!("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1 AND {OURS})"),
            &[&name],
        )
        .await?;
    if !exists {
        return Ok(None);
    }
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_publication p
        JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1";
    let rows = session.rows(READING, sql, &[&name]).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in &rows {
        let schema: String = session.column(READING, row, 0)?;
        tables.push(TableName::new(schema, session.column::<String>(READING, row, 1)?));
    }
    tables.sort();
    Ok(Some(tables))
}

/// Drops a publication if it exists.
pub async fn drop(session: &Session, name: &str) -> Result<(), SystemError> {
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name));
    session.batch("dropping a publication", &sql).await
}

/// `ONLY`: child tables are listed separately.
fn table_list(tables: &[TableName]) -> String {
    let each: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.sql())).collect();
    each.join(", ")
}
