//! Logical replication slots: creates, watches and drops them.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Lsn;

use super::{Session, SystemError};

const PLUGIN: &str = "pgoutput";
/// Interval between checks whether a walsender has released a slot.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Creates a slot without a snapshot. Waits for every transaction of the *whole system* that holds a
/// transaction id; bounded by the session's `lock_timeout` for each of them.
pub async fn create(session: &Session, name: &str) -> Result<Lsn, SystemError> {
    const CREATING: &str = "creating a slot";
    let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, $2)";
    let text: String = session.value(CREATING, sql, &[&name, &PLUGIN]).await?;
    text.parse().map_err(|_| session.unexpected(CREATING, format!("no position: {text}")))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// The walsender that uses it.
    pub active_pid: Option<i32>,
    /// What the subscriber has made durable.
    pub confirmed_flush: Option<Lsn>,
    /// Older WAL than this may be removed.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`
    pub wal_status: Option<String>,
    /// WAL that the system retains because of this slot.
    pub retained_bytes: u64,
    /// WAL that can still be written before the slot is lost; `None` without a limit.
    pub safe_wal_bytes: Option<u64>,
}

impl SlotState {
    /// The server has removed WAL that the slot needed, or has invalidated the slot for another reason.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }
}

pub async fn state(session: &Session, name: &str) -> Result<Option<SlotState>, SystemError> {
    const READING: &str = "reading a slot";
    let sql = "SELECT active_pid, confirmed_flush_lsn::text, restart_lsn::text, wal_status,
            coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size
        FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = session.optional(READING, sql, &[&name]).await? else { return Ok(None) };
    let lsn = |index| -> Result<Option<Lsn>, SystemError> {
        let text: Option<String> = session.column(READING, &row, index)?;
        Ok(text.and_then(|text| text.parse().ok()))
    };
    let retained: i64 = session.column(READING, &row, 4)?;
    let safe: Option<i64> = session.column(READING, &row, 5)?;
    Ok(Some(SlotState {
        active_pid: session.column(READING, &row, 0)?,
        confirmed_flush: lsn(1)?,
        restart: lsn(2)?,
        wal_status: session.column(READING, &row, 3)?,
        retained_bytes: u64::try_from(retained).unwrap_or(0),
        safe_wal_bytes: safe.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
    }))
}

/// The lag of a slot's subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// From the end of the WAL to the position that the subscriber applied. Also counts WAL of other
    /// databases until the next keepalive.
    pub replay_bytes: u64,
    /// The end of the WAL at the time of the measurement.
    pub current: Lsn,
    /// The position that the subscriber applied.
    pub replayed: Lsn,
}

/// The lag of the walsender that uses a slot; `None` if the slot is not in use.
pub async fn lag(session: &Session, name: &str) -> Result<Option<Lag>, SystemError> {
    const READING: &str = "reading the lag of a slot";
    let sql = "SELECT w.now::text, r.replay_lsn::text
        FROM (SELECT pg_current_wal_lsn() AS now) w, pg_replication_slots s
        JOIN pg_stat_replication r ON r.pid = s.active_pid
        WHERE s.slot_name = $1 AND r.replay_lsn IS NOT NULL";
    let Some(row) = session.optional(READING, sql, &[&name]).await? else { return Ok(None) };
    let lsn = |index| -> Result<Lsn, SystemError> {
        let text: String = session.column(READING, &row, index)?;
        text.parse().map_err(|_| session.unexpected(READING, format!("no position: {text}")))
    };
    let (current, replayed) = (lsn(0)?, lsn(1)?);
    Ok(Some(Lag { replay_bytes: current.bytes_since(replayed), current, replayed }))
}

/// A transaction that the creation of a slot has to wait for: it holds a transaction id, in any database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockingTransaction {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    pub database: String,
    pub role: String,
    /// `idle in transaction`; for a prepared transaction its identifier. Empty if the role may not see it.
    pub state: String,
    /// Time since it began. `None` if the role may not see it: `pg_stat_activity` shows every role which
    /// backends hold a transaction id, but the start only to members of `pg_read_all_stats` and to the
    /// backend's own role.
    pub age: Option<Duration>,
}

impl std::fmt::Display for BlockingTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BlockingTransaction { database, role, .. } = self;
        let state = if self.state.is_empty() { "in an unknown state" } else { &self.state };
        let age =
            self.age.map(|age| humantime::format_duration(Duration::from_secs(age.as_secs())).to_string());
        let age = age.as_deref().unwrap_or("for an unknown time");
        match self.pid {
            Some(pid) => write!(f, "backend {pid} of role {role} in database {database} ({state}, {age})"),
            None => write!(f, "prepared transaction {state} of role {role} in database {database} ({age})"),
        }
    }
}

/// Transactions of the whole system that hold a transaction id: oldest first, those of unknown age last.
///
/// Every column but the pid of a backend can be NULL: a role with fewer privileges does not see when a
/// transaction began or what its backend does; a backend at its start or end has no times; the role of a
/// prepared transaction can have been dropped.
pub async fn in_the_way(session: &Session) -> Result<Vec<BlockingTransaction>, SystemError> {
    const LOOKING: &str = "looking for transactions in the way of a slot";
    let sql = "SELECT pid, coalesce(datname::text, ''), coalesce(usename::text, backend_type, ''),
            coalesce(state, ''), (extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start)) * 1000)::bigint AS age
        FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL
        SELECT NULL, coalesce(database::text, ''), coalesce(owner::text, 'unknown'), gid,
            (extract(epoch FROM clock_timestamp() - prepared) * 1000)::bigint
        FROM pg_prepared_xacts
        ORDER BY age DESC NULLS LAST";
    let rows = session.rows(LOOKING, sql, &[]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let age: Option<i64> = session.column(LOOKING, row, 4)?;
        found.push(BlockingTransaction {
            pid: session.column(LOOKING, row, 0)?,
            database: session.column(LOOKING, row, 1)?,
            role: session.column(LOOKING, row, 2)?,
            state: session.column(LOOKING, row, 3)?,
            age: age.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
        });
    }
    Ok(found)
}

/// Drops a slot if it exists. A walsender that uses it is terminated first, repeatedly until the slot is
/// free.
pub async fn drop(session: &Session, name: &str, deadline: Instant) -> Result<(), SystemError> {
    const DROPPING: &str = "dropping a slot";
    let started = Instant::now();
    loop {
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
            WHERE slot_name = $1 AND active_pid IS NOT NULL AND active_pid <> pg_backend_pid()";
        session.rows(DROPPING, sql, &[&name]).await?;
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        match session.rows(DROPPING, sql, &[&name]).await {
            Ok(_) => return Ok(()),
            // Dropped during the statement.
            Err(error) if error.is_refused_with("42704") => return Ok(()),
            // The slot is in use.
            Err(error) if error.is_refused_with("55006") => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Err(session.late(DROPPING, started.elapsed()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Advances an unused slot to the end of the WAL.
pub async fn advance_to_now(session: &Session, name: &str) -> Result<(), SystemError> {
    let sql = "SELECT end_lsn::text FROM pg_replication_slot_advance($1, pg_current_wal_flush_lsn())";
    session.rows("advancing a slot", sql, &[&name]).await?;
    Ok(())
}
