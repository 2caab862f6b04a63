//! Objects that an undone move must not leave on the systems.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::environment::Environment;
use crate::lab::{LabError, Postgres};
use crate::system::move_objects::OBJECTS;

/// The copy that the database came back from, its role, and renamed ones of either.
const COPY: &str = "SELECT 'database ' || datname FROM pg_database WHERE datname LIKE 'shop%'
    UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'shop%'";

/// All leftovers: `pg18: slot freehold_move_ab12cd34_1`.
pub(super) async fn all(environment: &Environment) -> Result<Vec<String>, LabError> {
    let mut left = BTreeSet::new();
    for (name, server) in environment.systems() {
        left.extend(on(server).await?.into_iter().map(|what| format!("{name}: {what}")));
    }
    let (name, target) = environment.target();
    let copy = texts(&target.connect("postgres").await?, COPY).await?;
    left.extend(copy.into_iter().map(|what| format!("{name}: {what}")));
    Ok(left.into_iter().collect())
}

/// The systems belong to the demo: everything on the list is a leftover of its move.
async fn on(server: &Postgres) -> Result<Vec<String>, LabError> {
    let databases = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate";
    let mut left = Vec::new();
    for dbname in texts(&server.connect("postgres").await?, databases).await? {
        left.extend(texts(&server.connect(&dbname).await?, OBJECTS).await?);
    }
    Ok(left)
}

/// The first column.
async fn texts(client: &Client, sql: &str) -> Result<Vec<String>, LabError> {
    let failed = |source| LabError::Connect { dbname: "a system".to_owned(), source };
    let rows = client.query(sql, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
