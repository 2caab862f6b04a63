//! The helper schema, and the row that proves which changes have arrived.
//!
//! A row written on the publisher after everything else, and seen on the subscriber, proves that everything
//! else was applied: the apply worker commits in the publisher's order. Comparing LSNs does not prove that,
//! because they also advance for WAL that is not replicated.

use tokio::time::Instant;

use crate::model::MoveId;

use super::names::{HELPER_SCHEMA, MoveNames, helper_label, quote_literal};
use super::session::or_rolled_back;
use super::{Session, SystemError};

/// The owner of the helper schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelperSchema {
    Absent,
    /// This move.
    Ours,
    /// Another move, by [`MoveNames::label`]: another Freehold is moving the database, or left the schema
    /// behind.
    OfMove(String),
    /// A foreign schema with that name, or one to which another role could add objects; the reason.
    Foreign(String),
}

/// The owner, and the first object in the schema that a role other than a superuser owns, or privilege that
/// lets it add one.
///
/// The platform executes code from the schema (defaults and triggers of its table, functions of the guard),
/// so all of it must belong to superusers, and no other role may add to it.
const OWNERS: &str = "\
WITH helper AS (SELECT oid, nspowner, nspacl FROM pg_namespace WHERE nspname = $1),
inside (what, owner) AS (
    SELECT 'table ' || c.relname, c.relowner FROM pg_class c, helper h WHERE c.relnamespace = h.oid
    UNION ALL SELECT 'function ' || p.proname, p.proowner FROM pg_proc p, helper h WHERE p.pronamespace = h.oid
    UNION ALL SELECT 'type ' || t.typname, t.typowner FROM pg_type t, helper h WHERE t.typnamespace = h.oid
    UNION ALL SELECT 'operator ' || o.oprname, o.oprowner FROM pg_operator o, helper h WHERE o.oprnamespace = h.oid
    UNION ALL SELECT 'trigger ' || t.tgname, p.proowner FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_proc p ON p.oid = t.tgfoid, helper h WHERE c.relnamespace = h.oid),
foreign_ones (place, why) AS (
    SELECT 1, format('it belongs to role %s', o.rolname) FROM helper h JOIN pg_roles o ON o.oid = h.nspowner WHERE NOT o.rolsuper
    UNION ALL SELECT 2, format('%s in it belongs to role %s', i.what, o.rolname)
        FROM inside i JOIN pg_roles o ON o.oid = i.owner WHERE NOT o.rolsuper
    UNION ALL SELECT 3, format('role %s may create objects in it', coalesce(o.rolname::text, 'PUBLIC'))
        FROM helper h, aclexplode(h.nspacl) a LEFT JOIN pg_roles o ON o.oid = a.grantee
        WHERE a.privilege_type = 'CREATE' AND NOT coalesce(o.rolsuper, false)
    UNION ALL SELECT 4, format('role %s may make triggers of table %s in it', coalesce(o.rolname::text, 'PUBLIC'), c.relname)
        FROM helper h JOIN pg_class c ON c.relnamespace = h.oid, aclexplode(c.relacl) a LEFT JOIN pg_roles o ON o.oid = a.grantee
        WHERE a.privilege_type = 'TRIGGER' AND NOT coalesce(o.rolsuper, false))
SELECT coalesce(obj_description(h.oid, 'pg_namespace'), ''),
    (SELECT why FROM foreign_ones ORDER BY place, why LIMIT 1) FROM helper h";

/// Decides by the owners of the schema and its objects: the owner of a schema can write any comment. The
/// comment only distinguishes moves.
pub async fn helper(session: &Session, names: MoveNames) -> Result<HelperSchema, SystemError> {
    const LOOKING: &str = "looking for the helper schema";
    let row = session.optional(LOOKING, OWNERS, &[&HELPER_SCHEMA]).await?;
    let Some(row) = row else { return Ok(HelperSchema::Absent) };
    let comment: String = session.column(LOOKING, &row, 0)?;
    Ok(match (session.column::<Option<String>>(LOOKING, &row, 1)?, helper_label(&comment)) {
        (Some(why), _) => HelperSchema::Foreign(why),
        _ if comment == names.helper_mark() => HelperSchema::Ours,
        (None, Some(label)) => HelperSchema::OfMove(label.to_owned()),
        (None, None) => HelperSchema::Foreign("a superuser made it for something else".to_owned()),
    })
}

/// Frees the name for the helper schema; code that uses the other schema by its OID still works.
pub const RENAME: &str = "ALTER SCHEMA freehold RENAME TO freehold_of_mine;";

/// Creates the schema and the table in one transaction, so that the schema never exists without its comment.
pub async fn create_helper(session: &Session, names: MoveNames) -> Result<(), SystemError> {
    const CREATING: &str = "creating the helper schema";
    match helper(session, names).await? {
        HelperSchema::OfMove(label) => {
            return Err(
                session.unexpected(CREATING, format!("a schema of this name is that of move {label}"))
            );
        }
        HelperSchema::Foreign(why) => {
            return Err(SystemError::NotOurs {
                system: session.system().clone(),
                what: format!("schema {HELPER_SCHEMA} of database {}", session.dbname()),
                why,
                cure: format!("Rename the schema in that database: {RENAME}"),
            });
        }
        HelperSchema::Ours => return Ok(()),
        HelperSchema::Absent => {}
    }
    let sql = format!(
        "BEGIN;
         CREATE SCHEMA {HELPER_SCHEMA};
         COMMENT ON SCHEMA {HELPER_SCHEMA} IS {};
         CREATE TABLE {HELPER_SCHEMA}.marker (
             move bigint, kind text, token text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
             PRIMARY KEY (move, kind));
         COMMIT",
        quote_literal(&names.helper_mark())
    );
    or_rolled_back(session, session.batch(CREATING, &sql).await).await
}

/// Drops the guard and the schema with its contents, if it is this move's.
pub async fn drop_helper(session: &Session, names: MoveNames) -> Result<(), SystemError> {
    // The guard is created after the schema and in it, so it belongs to the same move.
    if helper(session, names).await? != HelperSchema::Ours {
        return Ok(());
    }
    super::guard::remove(session).await?;
    session.batch("dropping the helper schema", &format!("DROP SCHEMA {HELPER_SCHEMA} CASCADE")).await
}

/// The statement of [`write()`]: move, kind, token.
pub(super) const WRITE: &str =
    "INSERT INTO freehold.marker AS m (move, kind, token, at) VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (move, kind) DO UPDATE SET token = excluded.token, at = excluded.at";

/// Writes the marker of one kind, replacing an older one. Committed; flushed according to the session's
/// `synchronous_commit`.
pub async fn write(session: &Session, id: MoveId, kind: &str, token: &str) -> Result<(), SystemError> {
    session.execute("writing a marker", WRITE, &[&number(id), &kind, &token]).await?;
    Ok(())
}

/// The statement of [`write()`] with its values as literals, for a caller that sends it with others as one
/// commit.
pub(super) fn write_sql(id: MoveId, kind: &str, token: &str) -> String {
    format!(
        "INSERT INTO freehold.marker AS m (move, kind, token, at) VALUES ({}, {}, {}, clock_timestamp())
         ON CONFLICT (move, kind) DO UPDATE SET token = excluded.token, at = excluded.at",
        number(id),
        quote_literal(kind),
        quote_literal(token),
    )
}

/// The token and the age in milliseconds of a marker, if there is one. The age is the system's own time minus
/// the time in the marker: correct on one machine, off by the clocks' difference between two.
pub async fn read(session: &Session, id: MoveId, kind: &str) -> Result<Option<(String, i64)>, SystemError> {
    const READING: &str = "reading a marker";
    let sql = "SELECT token, (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint
        FROM freehold.marker WHERE move = $1 AND kind = $2";
    let Some(row) = session.optional(READING, sql, &[&number(id), &kind]).await? else { return Ok(None) };
    Ok(Some((session.column(READING, &row, 0)?, session.column(READING, &row, 1)?)))
}

/// Removes a marker if it exists.
pub async fn forget(session: &Session, id: MoveId, kind: &str) -> Result<(), SystemError> {
    let sql = "DELETE FROM freehold.marker WHERE move = $1 AND kind = $2";
    session.execute("removing a marker", sql, &[&number(id), &kind]).await?;
    Ok(())
}

/// A prepared query for one marker: in the pause, a look is one round trip.
#[derive(Debug)]
pub struct MarkerWatch<'a> {
    session: &'a Session,
    statement: tokio_postgres::Statement,
}

impl<'a> MarkerWatch<'a> {
    pub async fn prepare(session: &'a Session) -> Result<MarkerWatch<'a>, SystemError> {
        let sql = "SELECT EXISTS (SELECT FROM freehold.marker WHERE move = $1 AND kind = $2 AND token = $3)";
        let prepared = session.client().prepare(sql).await;
        let statement = prepared.map_err(|error| session.failed("preparing the look for a marker", error))?;
        Ok(MarkerWatch { session, statement })
    }

    /// Polls without a pause until the marker has arrived. [`SystemError::Timeout`] at the deadline.
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

/// Prepares and waits; for callers outside a pause, where the additional round trip does not matter.
pub async fn wait_until_seen(
    session: &Session,
    id: MoveId,
    kind: &str,
    token: &str,
    deadline: Instant,
) -> Result<(), SystemError> {
    MarkerWatch::prepare(session).await?.until_seen(id, kind, token, deadline).await
}

pub(super) fn number(id: MoveId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
