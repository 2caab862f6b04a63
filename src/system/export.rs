//! A slot with an exported snapshot: the copy ends and replication begins at one position of the WAL.
//!
//! The snapshot lives as long as the connection that made it stays open and idle; so [`ExportedSlot`] holds
//! that connection.
//!
//! # Why
//! Only the replication protocol exports a slot's snapshot, and the driver does not support it; so the
//! connection uses Freehold's own wire code. The SQL function also creates a slot, but rows could not be read
//! at its position.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::model::{Lsn, SystemRecord};

use super::names::quote_ident;
use super::pipe::RawSession;
use super::{SystemAccess, SystemError};

const CREATING: &str = "creating a slot with a snapshot";

/// A slot, and the snapshot at its position. Dropping the value ends the snapshot; the slot stays.
#[derive(Debug)]
pub struct ExportedSlot {
    /// Must not be used: the next command would end the snapshot.
    _holder: RawSession,
    /// Everything committed before it is in the snapshot; the slot delivers everything after it.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` and `pg_dump --snapshot`.
    pub snapshot: String,
}

/// What is created, and where.
#[derive(Debug)]
pub struct NewSlot<'a> {
    pub system: &'a SystemRecord,
    pub dbname: &'a str,
    pub name: &'a str,
    pub access: &'a SystemAccess,
    /// The wait for each transaction of the system that holds a transaction id. `statement_timeout` would not
    /// end it.
    pub lock_timeout: Duration,
}

/// Creates a logical slot and exports its snapshot. 55P03 if the wait for a transaction took too long; the
/// slot may then exist incompletely for a moment, so drop it before the next attempt.
pub async fn create(new: &NewSlot<'_>, deadline: Instant) -> Result<ExportedSlot, SystemError> {
    let name = &new.system.name;
    let started = Instant::now();
    let startup = [("replication", "database"), ("application_name", "freehold snapshot")];
    let mut holder = RawSession::connect(new.access, new.system, new.dbname, &startup, deadline).await?;
    let lock_timeout = format!("SET lock_timeout = {}", new.lock_timeout.as_millis().max(1));
    holder.query(CREATING, &lock_timeout).await?;
    // "15.18 (Debian 15.18-0+deb12u1)"
    let version = holder.parameter("server_version").unwrap_or_default();
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    let export = match major.parse::<u32>() {
        Ok(major) if major < 15 => "EXPORT_SNAPSHOT",
        _ => "(SNAPSHOT 'export')",
    };
    let sql = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {export}", quote_ident(new.name));
    let late =
        |_| SystemError::Timeout { system: name.clone(), operation: CREATING, waited: started.elapsed() };
    let created = timeout_at(deadline, holder.query(CREATING, &sql)).await.map_err(late)??;
    let value = |column| created.first().and_then(|answer| answer.value(0, column)).map(str::to_owned);
    let odd = || SystemError::Unexpected {
        system: name.clone(),
        operation: CREATING,
        reason: "no position or no snapshot in the answer".into(),
    };
    // slot_name, consistent_point, snapshot_name, output_plugin
    let consistent_point = value(1).and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    let snapshot = value(2).ok_or_else(odd)?;
    Ok(ExportedSlot { _holder: holder, consistent_point, snapshot })
}
