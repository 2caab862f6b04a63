//! Materialized views: digests of their contents, and of what their queries return now.
//!
//! # Why
//! * **The server runs a user's query as REFRESH does**: with the privileges of the view's owner, and as a
//!   security-restricted operation, in which code can neither become another role nor leave state for later
//!   statements of the session. SET ROLE would be no barrier, and a SECURITY DEFINER function may leave
//!   state. So to compute a digest, Freehold creates a materialized view with one row, which reads the view
//!   in question or contains its query. It is created without data, given to the owner, refreshed and read in
//!   one transaction that is rolled back: no other session sees it, a crash leaves nothing, and writes of the
//!   query's functions are rolled back. Code that runs meanwhile owns it but cannot access it: the owner has
//!   no USAGE on its schema.
//! * **The view itself is not refreshed**: that would block its readers, and change what they see.
//! * **Creating it parses the query's text as the platform.** The server has qualified all names in it. Input
//!   functions of constants run when a text is parsed; those of composite types and of arrays of domains
//!   check the domains, and so run users' code. A query with such a constant is not computed
//!   ([`Query::unsure`]).
//! * **The hash is of the binary form of the row**, which no setting changes: the query's result depends on
//!   the owner's settings, but its representation must not.
//! * **Contents are read in ranges of pages**: a client's REFRESH waits at most as long as one range takes to
//!   read.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::digests::Digest;
use super::names::{HELPER_SCHEMA, quote_ident, quote_literal};
use super::session::{INPUT, OUTPUT};
use super::{Session, SystemError, TableName};

/// Pages of one range.
const RANGE_PAGES: i64 = 4096;

/// A materialized view and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub name: TableName,
    pub owner: String,
}

/// The query of a materialized view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// As the server prints it, with every name qualified.
    pub text: String,
    /// Materialized views that it reads, directly or through views.
    pub reads: Vec<TableName>,
    /// Why two servers with the same rows may compute different contents, or why the query must not be run.
    pub unsure: Option<String>,
}

/// The owner and settings with which a query runs, and its time limit.
#[derive(Debug, Clone, Copy)]
pub struct QueryOptions<'a> {
    pub owner: &'a str,
    /// Statements that apply the owner's settings.
    pub settings: &'a str,
    pub longest: Duration,
}

/// The populated views, sorted by owner.
pub async fn filled(session: &Session) -> Result<Vec<View>, SystemError> {
    let sql = "SELECT schemaname::text, matviewname::text, matviewowner::text FROM pg_matviews WHERE ispopulated ORDER BY 3, 1, 2";
    views(session, sql).await
}

/// All of them, sorted by owner.
pub async fn all(session: &Session) -> Result<Vec<View>, SystemError> {
    let sql =
        "SELECT schemaname::text, matviewname::text, matviewowner::text FROM pg_matviews ORDER BY 3, 1, 2";
    views(session, sql).await
}

async fn views(session: &Session, sql: &str) -> Result<Vec<View>, SystemError> {
    const LISTING: &str = "listing materialized views";
    let rows = session.rows(LISTING, sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let schema: String = session.column(LISTING, row, 0)?;
            let name = TableName::new(schema, session.column::<String>(LISTING, row, 1)?);
            Ok(View { name, owner: session.column(LISTING, row, 2)? })
        })
        .collect()
}

/// Every view with its query. The functions and relations of a query are read from its tree: dependencies on
/// built-in objects are not recorded. Views that it reads are expanded.
const QUERIES: &str = include_str!("materialized.sql");

/// The queries of the views. The session's search path is `pg_catalog`.
pub async fn queries(session: &Session) -> Result<HashMap<TableName, Query>, SystemError> {
    const READING: &str = "reading the queries of materialized views";
    let mut queries = HashMap::new();
    for row in &session.rows(READING, QUERIES, &[]).await? {
        let schema: String = session.column(READING, row, 0)?;
        let name = TableName::new(schema, session.column::<String>(READING, row, 1)?);
        let (schemas, names): (Vec<String>, Vec<String>) =
            (session.column(READING, row, 3)?, session.column(READING, row, 4)?);
        let query = Query {
            text: session.column(READING, row, 2)?,
            reads: schemas
                .into_iter()
                .zip(names)
                .map(|(schema, name)| TableName::new(schema, name))
                .collect(),
            unsure: session.column(READING, row, 5)?,
        };
        queries.insert(name, query);
    }
    Ok(queries)
}

/// Pages of a view.
pub async fn pages(session: &Session, view: &TableName) -> Result<i64, SystemError> {
    let sql = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint";
    session.value("looking at the size of a materialized view", sql, &[&view.sql()]).await
}

/// Digest of the contents of a view of so many pages, and the number of ranges in which it was read. 55000:
/// it is not populated. `rest` gets the time that each range took.
pub async fn stored<F: Future<Output = ()>>(
    session: &Session,
    (view, pages): (&TableName, i64),
    terms: QueryOptions<'_>,
    rest: impl Fn(Duration) -> F,
) -> Result<(Digest, u64), SystemError> {
    let (mut first, mut ranges, mut rows, mut sum) = (0, 0, 0, 0);
    loop {
        let upto = first + RANGE_PAGES;
        // The last range is open-ended: it includes pages that were added since.
        let end = if upto < pages { format!(" AND v.ctid < '({upto},0)'::tid") } else { String::new() };
        let of = format!("(SELECT v.* FROM {} AS v WHERE v.ctid >= '({first},0)'::tid{end})", view.sql());
        let began = Instant::now();
        let part = digest(session, &of, terms).await?;
        rest(began.elapsed()).await;
        rows += part.rows;
        sum += part.sum.parse::<i128>().map_err(|error| session.unexpected(READING, error.to_string()))?;
        ranges += 1;
        first = upto;
        if first >= pages {
            return Ok((Digest { rows, sum: sum.to_string() }, ranges));
        }
    }
}

/// Digest of what a query returns now.
pub async fn computed(
    session: &Session,
    query: &Query,
    terms: QueryOptions<'_>,
) -> Result<Digest, SystemError> {
    digest(session, &format!("({})", query.text.trim_end().trim_end_matches(';')), terms).await
}

const READING: &str = "computing the digest of a materialized view";

/// `of`: the text between FROM and AS, with all names qualified.
async fn digest(session: &Session, of: &str, terms: QueryOptions<'_>) -> Result<Digest, SystemError> {
    let read = async {
        session.batch(READING, &make(session.pid(), of, terms)).await?;
        let sql = format!("SELECT d.n, d.sum FROM {} AS d", name(session.pid()));
        let rows = session.rows(READING, &sql, &[]).await?;
        let row = rows.first().ok_or_else(|| session.unexpected(READING, "no row"))?;
        let count: i64 = session.column(READING, row, 0)?;
        Ok(Digest { rows: u64::try_from(count).unwrap_or(0), sum: session.column(READING, row, 1)? })
    };
    let read = read.await;
    session.batch("taking back the digest of a materialized view", "ROLLBACK").await?;
    read
}

fn name(pid: i32) -> String {
    format!("{HELPER_SCHEMA}.digest_{pid}")
}

/// Settings for parsing a text that the server printed for a session with
/// [`Setup::Fixed`](super::session::Setup::Fixed).
fn parsing() -> impl Iterator<Item = (&'static str, &'static str)> {
    [("search_path", "pg_catalog"), ("transform_null_equals", "off")].into_iter().chain(OUTPUT).chain(INPUT)
}

fn make(pid: i32, of: &str, QueryOptions { owner, settings, longest }: QueryOptions<'_>) -> String {
    let set: String =
        parsing().map(|(name, value)| format!("SET LOCAL {name} TO {};", quote_literal(value))).collect();
    let reset: String = parsing().map(|(name, _)| format!("RESET {name};")).collect();
    let (digest, owner) = (name(pid), quote_ident(owner));
    format!(
        "BEGIN; {set}
         CREATE MATERIALIZED VIEW {digest} AS SELECT count(*) AS n, coalesce(sum(hash), 0)::text AS sum FROM (
             SELECT hashtextextended(encode(record_send(x.*), 'hex') COLLATE \"C\", 0) AS hash FROM {of} AS x) AS hashes WITH NO DATA;
         ALTER MATERIALIZED VIEW {digest} OWNER TO {owner};
         {reset} {settings};
         SET LOCAL statement_timeout TO {};
         REFRESH MATERIALIZED VIEW {digest}",
        longest.as_millis()
    )
}
