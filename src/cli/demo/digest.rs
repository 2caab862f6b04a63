//! One digest per table over all its rows, computed by PostgreSQL: equal digests mean equal rows.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Error};

/// By table: number of rows, and the sum of the rows' MD5 (their first 60 bits), which does not depend on
/// their order.
pub(super) type Digests = BTreeMap<String, (i64, String)>;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Digests of every table of the application, through a connection to the database itself.
pub(super) async fn digests(client: &Client) -> Result<Digests, Error> {
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let mut digests = Digests::new();
    // Both sides must write times and numbers the same way.
    client.batch_execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET extra_float_digits = 1").await?;
    for row in client.query(tables, &[]).await? {
        let table: String = row.get(0);
        let sql = format!(
            "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0)::text FROM {table} t"
        );
        let row = client.query_one(&sql, &[]).await?;
        digests.insert(table, (row.get(0), row.get(1)));
    }
    Ok(digests)
}

/// Compares until both are equal, because one replicates the other, or until the deadline; returns the last
/// digests of both.
pub(super) async fn compare(
    left: &Client,
    right: &Client,
    within: Duration,
) -> Result<(Digests, Digests), Error> {
    let deadline = Instant::now() + within;
    loop {
        let (left, right) = tokio::try_join!(digests(left), digests(right))?;
        if left == right || Instant::now() >= deadline {
            return Ok((left, right));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
