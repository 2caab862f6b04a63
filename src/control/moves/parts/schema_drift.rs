//! Checks of the side that is left, right before its clients are held.
//!
//! The preflight has checked all of it once, perhaps days ago. Replication carries the rows of the tables
//! that were published then; objects created since that are not replicated would be missing after the commit.
//!
//! # Why
//! The guard refuses changes of the schema, but not large objects and rows of unlogged tables; and it does
//! not apply to the platform's own role.

use crate::error::{Blame, SqlState};
use crate::system::{Session, SystemError, TableName, publications, tables};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::reader::Reader;
use crate::control::moves::parts::scope::published_tables;

/// Fails if something would be missing on the other side: temporarily if the product can remove it,
/// permanently if the tables differ from the published ones.
pub(in crate::control) async fn check(
    end: &Endpoint,
    session: &Session,
    publication: &str,
) -> Result<(), StepError> {
    let doing = || StepError::doing("looking for what replication does not carry");
    let lost = uncarried(end, session).await.map_err(doing())?;
    if !lost.is_empty() {
        return Err(StepError::NotNow {
            message: "the database holds what replication does not carry".to_owned(),
            detail: Some(format!("{}.", lost.join("; "))),
        });
    }
    let wanted = published_tables(session).await.map_err(doing())?;
    let published = publications::tables(session, publication).await.map_err(doing())?.unwrap_or_default();
    match differing(&wanted, &published).as_slice() {
        [] => Ok(()),
        names => Err(changed(names)),
    }
}

/// Large objects, and unlogged tables with rows.
async fn uncarried(end: &Endpoint, session: &Session) -> Result<Vec<String>, SystemError> {
    const LOOKING: &str = "looking for what replication does not carry";
    let mut found = Vec::new();
    let objects: i64 = session.value(LOOKING, "SELECT count(*) FROM pg_largeobject_metadata", &[]).await?;
    if objects > 0 {
        found.push(format!("{objects} large objects"));
    }
    // A table without a page has no row. For the others a query is needed; planning it runs users' code,
    // which must not run in the platform's session.
    let tables = tables::list(session).await?;
    let unlogged: Vec<&TableName> = tables
        .iter()
        .filter(|table| table.unlogged && table.heap_bytes > 0)
        .map(|table| &table.name)
        .collect();
    if unlogged.is_empty() {
        return Ok(found);
    }
    let reader = Reader::admit(end).await?;
    let filled = filled(end, &reader, &unlogged).await;
    reader.dismiss(end).await?;
    found.extend(filled?.into_iter().map(|table| format!("rows of the unlogged table {table}")));
    Ok(found)
}

/// Those of the tables that have rows.
async fn filled<'a>(
    end: &Endpoint,
    reader: &Reader,
    tables: &[&'a TableName],
) -> Result<Vec<&'a TableName>, SystemError> {
    const LOOKING: &str = "looking for rows of unlogged tables";
    let session = end.reading_session(&reader.login).await?;
    session.batch(LOOKING, "BEGIN READ ONLY").await?;
    let mut filled = Vec::new();
    for table in tables {
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {})", table.sql());
        if session.value::<bool>(LOOKING, &sql, &[]).await? {
            filled.push(*table);
        }
    }
    Ok(filled)
}

/// Names that are in only one of the two lists.
fn differing(wanted: &[TableName], published: &[TableName]) -> Vec<String> {
    let only = |these: &[TableName], those: &[TableName]| -> Vec<String> {
        these.iter().filter(|name| !those.contains(name)).map(ToString::to_string).collect()
    };
    [only(wanted, published), only(published, wanted)].concat()
}

fn changed(names: &[String]) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::SHAPE_CHANGED,
        blame: Blame::Platform,
        message: "the tables of the database are not those that were published".to_owned(),
        detail: Some(format!("Differing: {}.", names.join(", "))),
        hint: Some("Somebody passed the guard. Move again, or drop what was made.".to_owned()),
    }
}
