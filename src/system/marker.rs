//! The helper schema, and the row that proves what has arrived.
//!
//! A row written on the publisher after everything else, and seen on the subscriber, proves that everything else was
//! applied: the apply worker commits in the publisher's order. No comparison of log positions proves as much, because
//! positions also move for what is not replicated.

use tokio::time::Instant;

use crate::model::MoveId;

use super::names::{HELPER_SCHEMA, quote_literal};
use super::{Session, SystemError};

/// On the schema: what tells it from a schema of the user's that has the same name.
const COMMENT: &str = "Helper objects of a running Freehold move; removed when it ends.";

/// Whose the helper schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    Absent,
    Ours,
    /// A schema of the user's that happens to have the name.
    Foreign,
}

pub async fn helper(session: &Session) -> Result<Helper, SystemError> {
    let sql =
        "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace WHERE nspname = $1";
    let row = session.optional("looking for the helper schema", sql, &[&HELPER_SCHEMA]).await?;
    let Some(row) = row else { return Ok(Helper::Absent) };
    let comment: String = session.column("looking for the helper schema", &row, 0)?;
    Ok(if comment == COMMENT { Helper::Ours } else { Helper::Foreign })
}

/// Creates the schema and the table; in one transaction, so that the schema is never there without its comment.
pub async fn create_helper(session: &Session) -> Result<(), SystemError> {
    const CREATING: &str = "creating the helper schema";
    match helper(session).await? {
        Helper::Foreign => {
            return Err(session.unexpected(CREATING, "a schema of this name exists and is not ours"));
        }
        Helper::Ours => return Ok(()),
        Helper::Absent => {}
    }
    let sql = format!(
        "BEGIN;
         CREATE SCHEMA {HELPER_SCHEMA};
         COMMENT ON SCHEMA {HELPER_SCHEMA} IS {};
         CREATE TABLE {HELPER_SCHEMA}.marker (
             move bigint, kind text, token text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
             PRIMARY KEY (move, kind));
         COMMIT",
        quote_literal(COMMENT)
    );
    or_rolled_back(session, session.batch(CREATING, &sql).await).await
}

/// Drops the schema with all in it (the guard too), if it is ours.
pub async fn drop_helper(session: &Session) -> Result<(), SystemError> {
    if helper(session).await? != Helper::Ours {
        return Ok(());
    }
    session.batch("dropping the helper schema", &format!("DROP SCHEMA {HELPER_SCHEMA} CASCADE")).await
}

/// The statement of [`write()`]: move, kind, token.
pub(super) const WRITE: &str =
    "INSERT INTO freehold.marker AS m (move, kind, token, at) VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (move, kind) DO UPDATE SET token = excluded.token, at = excluded.at";

/// Writes the marker of one kind, over an older one. Committed, flushed as the session's `synchronous_commit` says.
pub async fn write(session: &Session, id: MoveId, kind: &str, token: &str) -> Result<(), SystemError> {
    session.execute("writing a marker", WRITE, &[&number(id), &kind, &token]).await?;
    Ok(())
}

/// The statement of [`write()`] with its values in it, for a caller that sends it with others as one commit.
pub(super) fn write_sql(id: MoveId, kind: &str, token: &str) -> String {
    format!(
        "INSERT INTO freehold.marker AS m (move, kind, token, at) VALUES ({}, {}, {}, clock_timestamp())
         ON CONFLICT (move, kind) DO UPDATE SET token = excluded.token, at = excluded.at",
        number(id),
        quote_literal(kind),
        quote_literal(token),
    )
}

/// The token and the age in milliseconds of a marker, if there is one. The age uses the system's own clock against the
/// time that the writer wrote: right on one machine, off by the clocks' difference on two.
pub async fn read(session: &Session, id: MoveId, kind: &str) -> Result<Option<(String, i64)>, SystemError> {
    const READING: &str = "reading a marker";
    let sql = "SELECT token, (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint
        FROM freehold.marker WHERE move = $1 AND kind = $2";
    let Some(row) = session.optional(READING, sql, &[&number(id), &kind]).await? else { return Ok(None) };
    Ok(Some((session.column(READING, &row, 0)?, session.column(READING, &row, 1)?)))
}

/// A prepared look for one marker: in the pause, a look is one round trip.
#[derive(Debug)]
pub struct Watch<'a> {
    session: &'a Session,
    statement: tokio_postgres::Statement,
}

impl<'a> Watch<'a> {
    pub async fn prepare(session: &'a Session) -> Result<Watch<'a>, SystemError> {
        let sql = "SELECT EXISTS (SELECT FROM freehold.marker WHERE move = $1 AND kind = $2 AND token = $3)";
        let prepared = session.client().prepare(sql).await;
        let statement = prepared.map_err(|error| session.failed("preparing the look for a marker", error))?;
        Ok(Watch { session, statement })
    }

    /// Looks again and again, without a pause, until the marker is there. [`SystemError::Timeout`] at the deadline.
    pub async fn until_seen(
        &self,
        id: MoveId,
        kind: &str,
        token: &str,
        deadline: Instant,
    ) -> Result<(), SystemError> {
        const WAITING: &str = "waiting for a marker";
        let started = Instant::now();
        let id = number(id);
        loop {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&id, &kind, &token];
            let look = self.session.client().query_one(&self.statement, &params);
            let row = match tokio::time::timeout_at(deadline, look).await {
                Err(_) => return Err(self.session.late(WAITING, started.elapsed())),
                Ok(row) => row.map_err(|error| self.session.failed(WAITING, error))?,
            };
            if self.session.column::<bool>(WAITING, &row, 0)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.session.late(WAITING, started.elapsed()));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Prepares and waits; for where the round trip of preparing does not matter.
pub async fn wait_until_seen(
    session: &Session,
    id: MoveId,
    kind: &str,
    token: &str,
    deadline: Instant,
) -> Result<(), SystemError> {
    Watch::prepare(session).await?.until_seen(id, kind, token, deadline).await
}

pub(super) fn number(id: MoveId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

/// A text with BEGIN that failed in the middle leaves its transaction open.
pub(super) async fn or_rolled_back(
    session: &Session,
    outcome: Result<(), SystemError>,
) -> Result<(), SystemError> {
    if outcome.is_err() {
        let _ = session.batch("rolling back", "ROLLBACK").await;
    }
    outcome
}
