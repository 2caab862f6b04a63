//! What a move must not leave on the systems: slots, publications, subscriptions, helper schemas, replication roles.

use tokio_postgres::Client;

use super::stage::Stage;
use crate::lab::{LabError, Postgres};

/// Objects of a whole server.
const PER_SERVER: &str = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_subscription) \
     + (SELECT count(*) FROM pg_roles WHERE rolname ~ '^freehold_(move|back)_')";
/// Objects of one database.
const PER_DATABASE: &str = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_event_trigger) \
     + (SELECT count(*) FROM pg_namespace WHERE nspname = 'freehold')";

/// How many such objects there are on both systems.
pub(super) async fn count(stage: &Stage) -> Result<i64, LabError> {
    let mut count = 0;
    for (_, server) in stage.systems() {
        count += count_on(server).await?;
    }
    Ok(count)
}

async fn count_on(server: &Postgres) -> Result<i64, LabError> {
    let client = server.connect("postgres").await?;
    let mut count = number(&client, PER_SERVER).await?;
    let databases = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate";
    let rows = client.query(databases, &[]).await.map_err(|source| failed("postgres", source))?;
    for row in rows {
        count += number(&server.connect(row.get(0)).await?, PER_DATABASE).await?;
    }
    Ok(count)
}

async fn number(client: &Client, sql: &str) -> Result<i64, LabError> {
    let row = client.query_one(sql, &[]).await.map_err(|source| failed("a system", source))?;
    Ok(row.get(0))
}

fn failed(dbname: &str, source: tokio_postgres::Error) -> LabError {
    LabError::Connect { dbname: dbname.to_owned(), source }
}
