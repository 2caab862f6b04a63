//! Subscriptions: a system subscribes to a publication of another.
//!
//! They are created disabled and without copying rows: Freehold's own copy brings the rows, from the slot's
//! snapshot.
//!
//! # Why
//! `disable_on_error` is not used: the server counts a lost connection as an error, too, and a subscription
//! that was disabled because its publisher restarted would stay so until the operator enables it. The server
//! retries by itself; the watcher distinguishes temporary errors from permanent ones by the progress between
//! them.

use crate::model::Lsn;

use super::names::{quote_ident, quote_literal};
use super::session::or_rolled_back;
use super::{Session, SystemError};

/// First `server_version_num` in which a subscription applies large transactions while they arrive.
const STREAMING: u32 = 140_000;
/// `pg_stat_subscription_stats`.
const STATISTICS: u32 = 150_000;
/// Parallel apply, and `run_as_owner`.
const PARALLEL: u32 = 160_000;

#[derive(Clone)]
pub struct NewSubscription<'a> {
    pub name: &'a str,
    /// A libpq connection string of the publisher. Contains the password of the move's own role, never the
    /// platform's.
    pub conninfo: &'a str,
    pub publication: &'a str,
    /// Exists already on the publisher.
    pub slot: &'a str,
}

impl std::fmt::Debug for NewSubscription<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSubscription").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Creates a subscription, disabled. The publisher must answer: the list of tables is read from it.
///
/// `run_as_owner` makes the apply worker of 16 and later act as the subscription's owner, as older versions
/// do: a table that forces row security on its owner would stop it otherwise.
pub async fn create_disabled(session: &Session, new: &NewSubscription<'_>) -> Result<(), SystemError> {
    let sql = create_sql(session, new).await?;
    session.batch("creating a subscription", &sql).await
}

/// Creates a subscription and rolls back: the server then has connected to the publisher, or reports why it
/// cannot.
pub async fn try_to_connect(session: &Session, new: &NewSubscription<'_>) -> Result<(), SystemError> {
    let sql = create_sql(session, new).await?;
    let tried = session.batch("trying to connect to the publisher", &format!("BEGIN; {sql}; ROLLBACK")).await;
    or_rolled_back(session, tried).await
}

async fn create_sql(session: &Session, new: &NewSubscription<'_>) -> Result<String, SystemError> {
    let version = super::facts::version_num(session).await?;
    let mut options = vec![
        "connect = true".to_owned(),
        "enabled = false".to_owned(),
        "create_slot = false".to_owned(),
        "copy_data = false".to_owned(),
        "synchronous_commit = 'off'".to_owned(),
        format!("slot_name = {}", quote_literal(new.slot)),
    ];
    if version >= PARALLEL {
        options.push("streaming = parallel".into());
        options.push("run_as_owner = true".into());
    } else if version >= STREAMING {
        options.push("streaming = on".into());
    }
    Ok(format!(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH ({})",
        quote_ident(new.name),
        quote_literal(new.conninfo),
        quote_ident(new.publication),
        options.join(", "),
    ))
}

pub async fn enable(session: &Session, name: &str) -> Result<(), SystemError> {
    session
        .batch("enabling a subscription", &format!("ALTER SUBSCRIPTION {} ENABLE", quote_ident(name)))
        .await
}

/// Asks the apply worker to stop; it stops a little later.
pub async fn disable(session: &Session, name: &str) -> Result<(), SystemError> {
    session.batch("disabling a subscription", &disable_sql(name)).await
}

/// The statement, for a caller that sends it with others as one commit.
pub fn disable_sql(name: &str) -> String {
    format!("ALTER SUBSCRIPTION {} DISABLE", quote_ident(name))
}

/// The connection string of a subscription of the session's database; contains a password.
pub async fn conninfo(
    session: &Session,
    name: &str,
) -> Result<Option<zeroize::Zeroizing<String>>, SystemError> {
    const READING: &str = "reading a subscription";
    let sql = "SELECT subconninfo FROM pg_subscription WHERE subname = $1
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = session.optional(READING, sql, &[&name]).await?;
    row.map(|row| session.column(READING, &row, 0).map(zeroize::Zeroizing::new)).transpose()
}

/// Points a subscription at another address of the same publisher.
pub async fn set_conninfo(session: &Session, name: &str, conninfo: &str) -> Result<(), SystemError> {
    let sql = format!("ALTER SUBSCRIPTION {} CONNECTION {}", quote_ident(name), quote_literal(conninfo));
    session.batch("changing a subscription", &sql).await
}

/// Adds tables that were added to the publication, without copying their rows.
pub async fn refresh(session: &Session, name: &str) -> Result<(), SystemError> {
    let sql =
        format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION WITH (copy_data = false)", quote_ident(name));
    session.batch("refreshing a subscription", &sql).await
}

/// Drops a subscription of the session's database if it exists. The publisher's slot stays: the subscription
/// is disassociated from it first, so that the drop does not wait for a publisher that is gone.
pub async fn drop(session: &Session, name: &str) -> Result<(), SystemError> {
    const DROPPING: &str = "dropping a subscription";
    if state(session, name).await?.is_none() {
        return Ok(());
    }
    let name = quote_ident(name);
    session.batch(DROPPING, &format!("ALTER SUBSCRIPTION {name} DISABLE")).await?;
    session.batch(DROPPING, &format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")).await?;
    session.batch(DROPPING, &format!("DROP SUBSCRIPTION {name}")).await
}

/// Publications and slot of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionSource {
    pub publications: Vec<String>,
    pub slot: Option<String>,
}

impl SubscriptionSource {
    /// Whether these are the publication and the slot of this name.
    pub fn is_at(&self, name: &str) -> bool {
        matches!(self.publications.as_slice(), [one] if one == name) && self.slot.as_deref() == Some(name)
    }
}

/// Publications and slot of a subscription of the session's database; `None` if there is no such
/// subscription.
pub async fn aim(session: &Session, name: &str) -> Result<Option<SubscriptionSource>, SystemError> {
    const READING: &str = "reading a subscription";
    let sql = "SELECT subpublications, subslotname::text FROM pg_subscription WHERE subname = $1
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let Some(row) = session.optional(READING, sql, &[&name]).await? else { return Ok(None) };
    Ok(Some(SubscriptionSource {
        publications: session.column(READING, &row, 0)?,
        slot: session.column(READING, &row, 1)?,
    }))
}

/// State of a subscription of the session's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionState {
    /// `false`, though it was created enabled: it was disabled since.
    pub enabled: bool,
    /// The leader of the apply workers, if it runs.
    pub worker_pid: Option<i32>,
    /// Errors of the apply worker so far (PostgreSQL 15; 0 before).
    pub apply_errors: i64,
    /// Changes with a conflict so far (PostgreSQL 18; 0 before), except for
    /// [`missing`](SubscriptionState::missing) rows. Other than zero: the two sides differ.
    pub conflicts: i64,
    /// UPDATEs and DELETEs of missing rows (PostgreSQL 18; 0 before). Other than zero: the two sides differ,
    /// or the table has been truncated while its rows were copied.
    pub missing: i64,
    /// The last position that the publisher sent and the subscriber confirmed.
    pub latest_end: Option<Lsn>,
}

pub async fn state(session: &Session, name: &str) -> Result<Option<SubscriptionState>, SystemError> {
    const READING: &str = "reading a subscription";
    // pg_stat_subscription_stats exists since 15 and its conflict columns since 18; in JSON, a missing column
    // is null.
    let stats = match super::facts::version_num(session).await? >= STATISTICS {
        true => "(SELECT to_jsonb(t) FROM pg_stat_subscription_stats t WHERE t.subid = s.oid)",
        false => "'{}'::jsonb",
    };
    let sql = format!(
        "SELECT s.subenabled, w.pid, w.latest_end_lsn::text, {stats}::text
         FROM pg_subscription s
         LEFT JOIN LATERAL (SELECT v.pid, v.latest_end_lsn FROM pg_stat_get_subscription(s.oid) v
                            WHERE v.relid IS NULL AND (to_jsonb(v) ->> 'leader_pid') IS NULL LIMIT 1) w ON true
         WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    let Some(row) = session.optional(READING, &sql, &[&name]).await? else { return Ok(None) };
    let stats: Option<String> = session.column(READING, &row, 3)?;
    let stats: serde_json::Value =
        stats.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(serde_json::Value::Null);
    let latest_end: Option<String> = session.column(READING, &row, 2)?;
    Ok(Some(SubscriptionState {
        enabled: session.column(READING, &row, 0)?,
        worker_pid: session.column(READING, &row, 1)?,
        apply_errors: stats.get("apply_error_count").and_then(serde_json::Value::as_i64).unwrap_or(0),
        conflicts: conflicts(&stats) - missing(&stats),
        missing: missing(&stats),
        latest_end: latest_end.and_then(|text| text.parse().ok()),
    }))
}

fn missing(stats: &serde_json::Value) -> i64 {
    let count = |name| stats.get(name).and_then(serde_json::Value::as_i64).unwrap_or(0);
    count("confl_update_missing") + count("confl_delete_missing")
}

/// Counts the conflicts that show a difference of the two sides. A conflict about a row's origin, which the
/// server detects with `track_commit_timestamp`, shows none: all copied rows have another origin.
fn conflicts(stats: &serde_json::Value) -> i64 {
    let Some(columns) = stats.as_object() else { return 0 };
    let confl =
        columns.iter().filter(|(name, _)| name.starts_with("confl_") && !name.ends_with("_origin_differs"));
    confl.filter_map(|(_, count)| count.as_i64()).sum()
}
