//! Whether two databases hold the same rows.
//!
//! For sides where nothing changes: both are quiet, or both are read at one position.
//! [`comparing`](super::comparing) compares sides that change; [`digests`](crate::system::digests) defines a
//! digest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

pub use crate::system::digests::{Digest, digest};
use crate::system::tables::{self, Table};
use crate::system::{Session, SystemError, TableName};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::reader::Reader;

/// A table that differs between the sides; `None` if it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub table: TableName,
    pub source: Option<Digest>,
    pub target: Option<Digest>,
}

impl Difference {
    /// The contents of both sides, as text.
    pub fn sides(&self) -> String {
        let side = |digest: &Option<Digest>| match digest {
            Some(digest) => format!("{} rows, digest {}", digest.rows, digest.sum),
            None => "no such table".to_owned(),
        };
        format!("source {}; target {}", side(&self.source), side(&self.target))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.table, self.sides())
    }
}

/// Digests of all tables of a database that are replicated, in its current state: one snapshot for all.
pub async fn digest_all(end: &Endpoint, workers: usize) -> Result<BTreeMap<TableName, Digest>, SystemError> {
    let session = end.session().await?;
    session.batch("opening a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot: String = session.value("exporting a snapshot", "SELECT pg_export_snapshot()", &[]).await?;
    digest_in_snapshot(end, &session, Some(&snapshot), workers).await
}

/// Reads every table with several workers that share a snapshot of `session`.
pub async fn digest_in_snapshot(
    end: &Endpoint,
    session: &Session,
    snapshot: Option<&str>,
    workers: usize,
) -> Result<BTreeMap<TableName, Digest>, SystemError> {
    // Smallest first: workers take the largest from the end.
    let mut waiting: Vec<Table> = tables::list(session).await?;
    waiting.retain(|table| !table.unlogged);
    waiting.reverse();
    let reader = Reader::admit(end).await?;
    let read = digest_as(end, &reader, snapshot, waiting, workers).await;
    reader.dismiss(end).await?;
    read
}

async fn digest_as(
    end: &Endpoint,
    reader: &Reader,
    snapshot: Option<&str>,
    waiting: Vec<Table>,
    workers: usize,
) -> Result<BTreeMap<TableName, Digest>, SystemError> {
    let workers = workers.clamp(1, waiting.len().max(1));
    let waiting = Arc::new(Mutex::new(waiting));
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let snapshot = snapshot.map(str::to_owned);
        running.spawn(digest_some(end.clone(), reader.clone(), snapshot, Arc::clone(&waiting)));
    }
    let mut digests = BTreeMap::new();
    while let Some(finished) = running.join_next().await {
        match finished {
            Ok(some) => digests.extend(some?),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(digests)
}

async fn digest_some(
    end: Endpoint,
    reader: Reader,
    snapshot: Option<String>,
    waiting: Arc<Mutex<Vec<Table>>>,
) -> Result<Vec<(TableName, Digest)>, SystemError> {
    let session = end.reading_session(&reader.login).await?;
    if let Some(snapshot) = snapshot {
        import_snapshot(&session, &snapshot).await?;
    }
    let mut digests = Vec::new();
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(table) = next else { return Ok(digests) };
        let found = digest(&session, &table.name).await?;
        digests.push((table.name, found));
    }
}

/// Begins a transaction that uses the exported snapshot.
pub(in crate::control) async fn import_snapshot(
    session: &Session,
    snapshot: &str,
) -> Result<(), SystemError> {
    session.batch("importing a snapshot", &import_sql(snapshot)).await
}

pub(in crate::control) fn import_sql(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        crate::system::quote_literal(snapshot)
    )
}

/// Tables with different digests, and tables that one side lacks.
pub fn differences(
    source: &BTreeMap<TableName, Digest>,
    target: &BTreeMap<TableName, Digest>,
) -> Vec<Difference> {
    let mut names: Vec<&TableName> = source.keys().chain(target.keys()).collect();
    names.sort();
    names.dedup();
    let differs = |name: &&TableName| source.get(*name) != target.get(*name);
    names
        .into_iter()
        .filter(differs)
        .map(|name| Difference {
            table: name.clone(),
            source: source.get(name).cloned(),
            target: target.get(name).cloned(),
        })
        .collect()
}

/// Compares every table of two quiet databases: nothing is written, and replication has caught up. Returns
/// the number of tables compared, and those that differ.
pub async fn compare_all(
    source: &Endpoint,
    target: &Endpoint,
    workers: usize,
) -> Result<(u32, Vec<Difference>), StepError> {
    let on_source = async {
        digest_all(source, workers).await.map_err(StepError::doing("reading the rows of the source"))
    };
    let on_target = async {
        digest_all(target, workers).await.map_err(StepError::doing("reading the rows of the target"))
    };
    let (source, target) = tokio::try_join!(on_source, on_target)?;
    let compared = u32::try_from(source.len()).unwrap_or(u32::MAX);
    Ok((compared, differences(&source, &target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(rows: u64) -> Digest {
        Digest { rows, sum: rows.to_string() }
    }

    #[test]
    fn a_table_that_one_side_lacks_is_a_difference() {
        let (a, b) = (TableName::new("public", "a"), TableName::new("public", "b"));
        let source = BTreeMap::from([(a.clone(), holding(1)), (b.clone(), holding(2))]);
        let target = BTreeMap::from([(a, holding(1))]);
        let found = differences(&source, &target);
        assert_eq!(found, [Difference { table: b, source: Some(holding(2)), target: None }]);
    }
}
