//! Errors between the platform and a system.

use std::path::PathBuf;
use std::time::Duration;

use super::secret_file::PasswordError;
use crate::backend::{ConnectError, QueryError};
use crate::error::{Blame, Explain, Retry, SqlState, chain};
use crate::model::SystemName;
use crate::wire::message::backend::ErrorFields;

/// A failure of one operation on one system. `operation` says what was tried, as in "while ...".
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error("system {system} did not answer within {waited:?} while {operation}")]
    Timeout { system: SystemName, operation: &'static str, waited: Duration },
    #[error("the password file of system {system} cannot be read: {path}")]
    PasswordFile {
        system: SystemName,
        path: String,
        #[source]
        source: PasswordError,
    },
    /// Does not reveal whether the file exists.
    #[error("the password of system {system} is not read from {path}")]
    PasswordPlace { system: SystemName, path: String, directories: Vec<PathBuf> },
    #[error("system {system} asks for a password, and no password file is known")]
    NoPassword { system: SystemName },
    #[error("system {system} refused TLS while {operation}: {reason}")]
    Tls { system: SystemName, operation: &'static str, reason: String },
    /// The server refused; its SQLSTATE is kept.
    #[error("{message} ({sqlstate}) from system {system} while {operation}")]
    Refused {
        system: SystemName,
        operation: &'static str,
        sqlstate: SqlState,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    /// A connection of Freehold's own wire code (not the driver's) could not be opened.
    #[error("system {system} cannot be reached while {operation}")]
    Connect {
        system: SystemName,
        operation: &'static str,
        #[source]
        source: Box<ConnectError>,
    },
    /// A connection of Freehold's own wire code broke.
    #[error("the connection to system {system} failed while {operation}")]
    Exchange {
        system: SystemName,
        operation: &'static str,
        #[source]
        source: Box<QueryError>,
    },
    /// The connection broke, or the driver could not parse an answer.
    #[error("the connection to system {system} failed while {operation}")]
    Broken {
        system: SystemName,
        operation: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    /// A column that should always be set was NULL or of another type. The server has answered, and the
    /// connection stays usable; the query was Freehold's, so its operator is responsible.
    #[error("system {system} did not answer what was asked while {operation}")]
    Unreadable {
        system: SystemName,
        operation: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    /// An object of the name that a move needs exists already, and is not known to be Freehold's.
    #[error("{what} exists on system {system} and is not Freehold's: {why}")]
    NotOurs { system: SystemName, what: String, why: String, cure: String },
    /// The answer does not have the shape that the operation requires, or a postcondition does not hold.
    #[error("unexpected answer of system {system} while {operation}: {reason}")]
    Unexpected { system: SystemName, operation: &'static str, reason: String },
}

impl SystemError {
    /// Converts an error of the driver: an answer of the server, or a failure of the connection.
    pub(crate) fn from_driver(
        system: &SystemName,
        operation: &'static str,
        error: tokio_postgres::Error,
    ) -> SystemError {
        let system = system.clone();
        let Some(refused) = error.as_db_error() else {
            return SystemError::Broken { system, operation, source: error };
        };
        SystemError::Refused {
            system,
            operation,
            sqlstate: SqlState::parse(refused.code().code()),
            message: refused.message().to_owned(),
            detail: refused.detail().map(str::to_owned),
            hint: refused.hint().map(str::to_owned),
        }
    }

    /// Converts an error of a connection of Freehold's own wire code.
    pub(crate) fn from_connect(
        system: &SystemName,
        operation: &'static str,
        error: ConnectError,
    ) -> SystemError {
        let system = system.clone();
        match error.refusal_fields() {
            Some(fields) => SystemError::refused(system, operation, fields),
            None if error.lacks_a_secret() => SystemError::NoPassword { system },
            None => SystemError::Connect { system, operation, source: Box::new(error) },
        }
    }

    pub(crate) fn from_query(system: &SystemName, operation: &'static str, error: QueryError) -> SystemError {
        let system = system.clone();
        match error.fields() {
            Some(fields) => SystemError::refused(system, operation, fields),
            None => SystemError::Exchange { system, operation, source: Box::new(error) },
        }
    }

    pub(super) fn refused(system: SystemName, operation: &'static str, fields: &ErrorFields) -> SystemError {
        SystemError::Refused {
            system,
            operation,
            sqlstate: fields.sqlstate(),
            message: fields.message().to_owned(),
            detail: fields.detail().map(str::to_owned),
            hint: fields.hint().map(str::to_owned),
        }
    }

    /// The SQLSTATE if the server gave it.
    pub fn server_sqlstate(&self) -> Option<SqlState> {
        match self {
            SystemError::Refused { sqlstate, .. } => Some(*sqlstate),
            _ => None,
        }
    }

    pub fn is_refused_with(&self, code: &str) -> bool {
        self.server_sqlstate().is_some_and(|state| state.as_str() == code)
    }

    fn system(&self) -> &SystemName {
        match self {
            SystemError::Timeout { system, .. }
            | SystemError::PasswordFile { system, .. }
            | SystemError::PasswordPlace { system, .. }
            | SystemError::NoPassword { system }
            | SystemError::Tls { system, .. }
            | SystemError::Refused { system, .. }
            | SystemError::Broken { system, .. }
            | SystemError::Connect { system, .. }
            | SystemError::Exchange { system, .. }
            | SystemError::NotOurs { system, .. }
            | SystemError::Unreadable { system, .. }
            | SystemError::Unexpected { system, .. } => system,
        }
    }
}

impl Explain for SystemError {
    fn sqlstate(&self) -> SqlState {
        match self {
            SystemError::Refused { sqlstate, .. } => *sqlstate,
            SystemError::PasswordFile { .. } => SqlState::IO_ERROR,
            SystemError::PasswordPlace { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            SystemError::NoPassword { .. } => SqlState::INVALID_PASSWORD,
            SystemError::NotOurs { .. } => SqlState::DUPLICATE_OBJECT,
            SystemError::Unreadable { .. } | SystemError::Unexpected { .. } => SqlState::INTERNAL_ERROR,
            SystemError::Timeout { .. }
            | SystemError::Tls { .. }
            | SystemError::Connect { .. }
            | SystemError::Exchange { .. }
            | SystemError::Broken { .. } => SqlState::CONNECTION_FAILURE,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            SystemError::PasswordFile { .. }
            | SystemError::PasswordPlace { .. }
            | SystemError::NotOurs { .. }
            | SystemError::Unreadable { .. }
            | SystemError::NoPassword { .. } => Blame::Platform,
            SystemError::Connect { source, .. } => source.blame(),
            _ => Blame::Server,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            SystemError::Timeout { .. }
            | SystemError::Connect { .. }
            | SystemError::Exchange { .. }
            | SystemError::Broken { .. } => Retry::Later,
            // The object may have been dropped between two reads of one statement.
            SystemError::Unreadable { .. } => Retry::Later,
            SystemError::PasswordFile { .. }
            | SystemError::PasswordPlace { .. }
            | SystemError::NoPassword { .. }
            | SystemError::Tls { .. }
            | SystemError::NotOurs { .. }
            | SystemError::Unexpected { .. } => Retry::Never,
            SystemError::Refused { sqlstate, .. } => match sqlstate.as_str() {
                "55P03" | "40001" | "40P01" => Retry::Now,
                "53300" | "53400" | "55006" | "57014" => Retry::Later,
                // A server that stops or starts: this one, or the one that it replicates from.
                "57P01" | "57P02" | "57P03" => Retry::Later,
                code if code.starts_with("08") => Retry::Later,
                _ => Retry::Never,
            },
        }
    }

    /// For administrators, which may see system names; the address stays in the log.
    fn message(&self) -> String {
        match self {
            SystemError::Refused { message, operation, .. } => format!("{message} (while {operation})"),
            other => other.to_string(),
        }
    }

    fn detail(&self) -> Option<String> {
        let told = match self {
            SystemError::Refused { detail, .. } => detail.clone(),
            SystemError::Broken { source, .. } | SystemError::Unreadable { source, .. } => {
                Some(format!("{}.", chain(source)))
            }
            SystemError::Connect { source, .. } => Some(format!("{}.", chain(source))),
            SystemError::Exchange { source, .. } => Some(format!("{}.", chain(source))),
            SystemError::PasswordFile { source, .. } => Some(format!("{}.", chain(source))),
            SystemError::PasswordPlace { directories, .. } => Some(format!(
                "Passwords are read from files in these directories and below, after symbolic links are followed: {}. Files that \
                 Freehold has for itself are not among them.",
                listed(directories)
            )),
            _ => None,
        };
        told.or_else(|| Some(format!("Reported by system {}.", self.system())))
    }

    fn hint(&self) -> Option<String> {
        match self {
            SystemError::Refused { hint, .. } => hint.clone(),
            SystemError::NotOurs { cure, .. } => Some(cure.clone()),
            SystemError::NoPassword { .. } => Some(
                "Add PASSWORD FILE '/path' to CREATE SYSTEM or ALTER SYSTEM: a file with the password of the platform's role."
                    .to_owned(),
            ),
            SystemError::PasswordPlace { .. } => Some(
                "Put the file into one of them, or name its directory in the setting admin.password_dirs and RELOAD.".to_owned(),
            ),
            SystemError::Connect { source, .. } => source.hint(),
            SystemError::PasswordFile { .. } => {
                Some("The file must be there on the machine of Freehold, and its user must be able to read it.".to_owned())
            }
            _ => None,
        }
    }
}

fn listed(directories: &[PathBuf]) -> String {
    let each: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    each.join(", ")
}
