//! CREATE, DROP and ADOPT DATABASE as operations: their durable record.
//!
//! ```text
//!  Running -- done, in one commit with database, route, logins and audit entry --> Done
//!     |
//!     +-- failure --> Undoing -- undone, in one commit with the same --> Failed
//! ```

use serde::{Deserialize, Serialize};

use super::operation::{Failure, LogEntry};
use super::{AuditEntry, DatabaseId, DatabaseName, Login, OperationId, RoleName, SystemName, UnixMillis};

/// Key `operation/<kind>/<id>`. `F` is what only one kind has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseOperation<F> {
    pub id: OperationId,
    pub database: DatabaseId,
    pub name: DatabaseName,
    pub system: SystemName,
    /// The name of the database on its system.
    pub dbname: String,
    pub phase: DatabasePhase,
    /// An earlier process began it, so no command waits for its answer any more.
    pub is_interrupted: bool,
    /// Why nothing may be done on the system: the store is a copy of one that may do the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_copy: Option<String>,
    /// Intent and outcome of each attempt, oldest first.
    pub log: Vec<LogEntry<DatabaseStep>>,
    pub facts: F,
    /// Why it was undone.
    pub failure: Option<Failure<DatabaseStep>>,
    /// The audit entry of the command, and its key: written in the commit that ends the operation.
    pub audit_key: String,
    pub audit: AuditEntry,
    pub started_at: UnixMillis,
    pub ended_at: Option<UnixMillis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabasePhase {
    Running,
    Undoing,
    Done,
    Failed,
}

impl DatabasePhase {
    pub fn as_str(self) -> &'static str {
        match self {
            DatabasePhase::Running => "running",
            DatabasePhase::Undoing => "undoing",
            DatabasePhase::Done => "done",
            DatabasePhase::Failed => "failed",
        }
    }

    /// The operation no longer changes.
    pub fn has_ended(self) -> bool {
        matches!(self, DatabasePhase::Done | DatabasePhase::Failed)
    }
}

/// Each kind has one step on its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseStep {
    /// Role and database are made.
    Make,
    /// The database is closed and renamed, and its role.
    Close,
    /// The database that exists is examined.
    Examine,
}

impl DatabaseStep {
    pub fn as_str(self) -> &'static str {
        match self {
            DatabaseStep::Make => "make",
            DatabaseStep::Close => "close",
            DatabaseStep::Examine => "examine",
        }
    }
}

/// CREATE DATABASE.
pub type CreateRecord = DatabaseOperation<CreateFacts>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateFacts {
    /// The product's role, which is created with the database.
    pub role: RoleName,
    /// Its SCRAM verifier. The password is known to the waiting command alone.
    pub verifier: String,
}

/// DROP DATABASE.
pub type DropRecord = DatabaseOperation<DropFacts>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropFacts {
    /// The database is left to its earlier users, unchanged.
    pub is_adopted: bool,
    /// Its name on the system after the drop.
    pub left_as: Option<String>,
}

/// ADOPT DATABASE.
pub type AdoptRecord = DatabaseOperation<AdoptFacts>;

/// What the examination found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptFacts {
    /// Every role that can log in and connect, but for the platform's own.
    pub logins: Vec<Login>,
    /// Those of them that own something in the database, or were granted something there. `None`: an older
    /// version has examined it, and did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_roles: Option<Vec<RoleName>>,
    /// What the owner should know.
    pub warnings: Vec<String>,
}
