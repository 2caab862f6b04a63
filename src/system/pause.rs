//! The statements of a pause, prepared before it: while clients wait, no connection is opened and no
//! statement is parsed or planned.
//!
//! A pause has two sides. [`OldSide`] is the database that the clients leave: no client may write there any
//! more, and a marker is written behind the last write. [`NewSide`] is the database that they go to: the
//! marker arrives, the sequences are set, and one synced commit makes all of it durable. An undo uses the
//! same two with the systems exchanged.
//!
//! # Why
//! Clients wait for the sum of the round trips, so statements that do not depend on each other's answers are
//! sent together: one connection executes them in order, and the order is part of the proof. A marker that
//! was written before the last writer was gone proves nothing; [`OldSide::fence`] reports that and is
//! called again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Statement;

use crate::model::MoveId;

use super::fence::{self, Writer};
use super::sequences::{self, Position, Reader, Sequence};
use super::session::or_rolled_back;
use super::tables::TableName;
use super::{Session, SystemError, marker};

const PREPARING: &str = "preparing the pause";
const FENCING: &str = "fencing";

/// Backends that have passed the check for the right to connect and are not yet in `pg_stat_activity`: they
/// hold a lock on the database from before the check until after they are. So this query comes before the
/// list of backends.
const CONNECTING: &str = "\
SELECT count(*) FROM pg_locks
WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND mode = 'RowExclusiveLock'
  AND objid = (SELECT oid FROM pg_database WHERE datname = $1) AND pid <> ALL ($2)";

/// The side that the clients leave.
#[derive(Debug)]
pub struct OldSide<'a> {
    session: &'a Session,
    /// Sessions of the platform, which are never terminated.
    ours: Vec<i32>,
    terminate: Statement,
    connecting: Statement,
    writers: Statement,
    mark: Statement,
    sequences: Reader<'a>,
}

/// Result of one call of [`OldSide::fence`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// Backends that were terminated.
    pub ended: Vec<Writer>,
    /// Remaining writers. The marker proves something only if this is empty.
    pub left: Vec<Writer>,
    /// Positions of the sequences, in the order of [`OldSide::sequences`].
    pub positions: Vec<Position>,
}

impl<'a> OldSide<'a> {
    /// Prepares all statements, and runs those that change nothing once to warm plans and caches.
    pub async fn prepare(session: &'a Session, ours: Vec<i32>) -> Result<OldSide<'a>, SystemError> {
        let settings = "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET jit = off";
        session.batch(PREPARING, settings).await?;
        let departure = OldSide {
            session,
            ours,
            terminate: prepare(session, &fence::terminate_sql()).await?,
            connecting: prepare(session, CONNECTING).await?,
            writers: prepare(session, &fence::writers_sql()).await?,
            mark: prepare(session, marker::WRITE).await?,
            sequences: Reader::prepare(session).await?,
        };
        departure.writers(&[]).await?;
        departure.connecting().await?;
        departure.sequences.read().await?;
        Ok(departure)
    }

    /// The sequences, in the order of [`Fenced::positions`].
    pub fn sequences(&self) -> &[Sequence] {
        self.sequences.sequences()
    }

    /// The current positions of the sequences.
    pub async fn positions(&self) -> Result<Vec<Position>, SystemError> {
        self.sequences.read().await
    }

    /// Terminates all backends except `keep`, lists the remaining writers, writes the marker and reads the
    /// sequences: one round trip. The connection executes in order, so if no writer is left the marker comes
    /// after the last write.
    pub async fn fence(
        &self,
        keep: &[i32],
        id: MoveId,
        kind: &str,
        token: &str,
        deadline: Instant,
    ) -> Result<Fenced, SystemError> {
        let started = Instant::now();
        let id = marker::number(id);
        let mark = async {
            let written = self.session.client().execute(&self.mark, &[&id, &kind, &token]).await;
            written.map_err(|error| self.session.failed(FENCING, error))
        };
        // Each future sends its statement at its first poll: `biased` fixes this order.
        let all = async {
            tokio::try_join!(
                biased;
                self.terminate(keep),
                self.connecting(),
                self.writers(keep),
                mark,
                self.sequences.read(),
            )
        };
        let late = |_| self.session.late(FENCING, started.elapsed());
        let (ended, connecting, mut left, _, positions) = timeout_at(deadline, all).await.map_err(late)??;
        left.extend(connecting);
        Ok(Fenced { ended, left, positions })
    }

    /// Terminates all backends except `keep`, and lists the remaining writers: one round trip.
    pub async fn clear(&self, keep: &[i32], deadline: Instant) -> Result<Vec<Writer>, SystemError> {
        let started = Instant::now();
        let all =
            async { tokio::try_join!(biased; self.terminate(keep), self.connecting(), self.writers(keep)) };
        let late = |_| self.session.late(FENCING, started.elapsed());
        let (_, connecting, mut left) = timeout_at(deadline, all).await.map_err(late)??;
        left.extend(connecting);
        Ok(left)
    }

    async fn terminate(&self, keep: &[i32]) -> Result<Vec<Writer>, SystemError> {
        let dbname = self.session.dbname();
        let rows = self.session.client().query(&self.terminate, &[&dbname, &keep, &self.ours]).await;
        let rows = rows.map_err(|error| self.session.failed(FENCING, error))?;
        rows.iter().map(|row| fence::writer(self.session, FENCING, row)).collect()
    }

    async fn writers(&self, keep: &[i32]) -> Result<Vec<Writer>, SystemError> {
        let dbname = self.session.dbname();
        let rows = self.session.client().query(&self.writers, &[&dbname, &keep, &self.ours]).await;
        let rows = rows.map_err(|error| self.session.failed(FENCING, error))?;
        rows.iter().map(|row| fence::writer(self.session, FENCING, row)).collect()
    }

    /// A writer for backends that are just connecting, if there are any.
    async fn connecting(&self) -> Result<Option<Writer>, SystemError> {
        let dbname = self.session.dbname();
        let row = self.session.client().query_one(&self.connecting, &[&dbname, &self.ours]).await;
        let row = row.map_err(|error| self.session.failed(FENCING, error))?;
        let count: i64 = self.session.column(FENCING, &row, 0)?;
        Ok((count > 0).then(|| Writer {
            pid: None,
            role: String::new(),
            application_name: String::new(),
            kind: "a backend that is connecting".to_owned(),
            state: "starting".to_owned(),
        }))
    }
}

/// The side that the clients go to.
#[derive(Debug)]
pub struct NewSide<'a> {
    session: &'a Session,
    id: MoveId,
    watch: marker::MarkerWatch<'a>,
}

impl<'a> NewSide<'a> {
    pub async fn prepare(session: &'a Session, id: MoveId) -> Result<NewSide<'a>, SystemError> {
        session.act_as_replica().await?;
        session.batch(PREPARING, "SET synchronous_commit = on; SET jit = off").await?;
        // Warms up what the commit of the pause needs. Nothing reads this row.
        marker::write(session, id, "rehearsal", "").await?;
        Ok(NewSide { session, id, watch: marker::MarkerWatch::prepare(session).await? })
    }

    /// Waits for a marker.
    pub async fn sees(&self, kind: &str, token: &str, deadline: Instant) -> Result<(), SystemError> {
        self.watch.until_seen(self.id, kind, token, deadline).await
    }

    /// Waits for the marker, and meanwhile sets sequences.
    pub async fn receive(
        &self,
        kind: &str,
        token: &str,
        positions: &[(TableName, Position)],
        deadline: Instant,
    ) -> Result<(), SystemError> {
        let set = sequences::set(self.session, positions);
        let seen = self.watch.until_seen(self.id, kind, token, deadline);
        tokio::try_join!(biased; set, seen).map(drop)
    }

    /// One synced commit of `statements` and a marker of the epoch. It makes everything applied before
    /// durable, too.
    pub async fn seal(
        &self,
        statements: &[String],
        kind: &str,
        token: &str,
        deadline: Instant,
    ) -> Result<(), SystemError> {
        const SEALING: &str = "making the new side durable";
        let started = Instant::now();
        let mut sql = String::from("BEGIN;");
        for statement in statements {
            sql.push_str(statement);
            sql.push(';');
        }
        sql.push_str(&marker::write_sql(self.id, kind, token));
        sql.push_str(";COMMIT");
        match timeout_at(deadline, self.session.batch(SEALING, &sql)).await {
            Ok(outcome) => or_rolled_back(self.session, outcome).await,
            Err(_) => Err(self.session.late(SEALING, started.elapsed())),
        }
    }
}

async fn prepare(session: &Session, sql: &str) -> Result<Statement, SystemError> {
    session.client().prepare(sql).await.map_err(|error| session.failed(PREPARING, error))
}

/// A transaction of a client that has been open for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongTransaction {
    pub pid: i32,
    pub role: String,
    pub application_name: String,
    pub age: Duration,
}

impl std::fmt::Display for LongTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let age = Duration::from_millis(u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX));
        let LongTransaction { role, application_name, .. } = self;
        write!(
            f,
            "a transaction of role {role} ({application_name}), open for {}",
            humantime::format_duration(age)
        )
    }
}

/// Transactions of clients on the session's database that are older than `age`, oldest first, ten at most.
pub async fn long_transactions(
    session: &Session,
    age: Duration,
) -> Result<Vec<LongTransaction>, SystemError> {
    const LOOKING: &str = "looking for long transactions";
    let sql = "SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''),
            (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
          AND extract(epoch FROM clock_timestamp() - xact_start) * 1000 > $1::bigint
        ORDER BY xact_start LIMIT 10";
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let rows = session.rows(LOOKING, sql, &[&age_ms]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let age_ms: i64 = session.column(LOOKING, row, 3)?;
        found.push(LongTransaction {
            pid: session.column(LOOKING, row, 0)?,
            role: session.column(LOOKING, row, 1)?,
            application_name: session.column(LOOKING, row, 2)?,
            age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
        });
    }
    Ok(found)
}
