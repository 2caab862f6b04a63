//! Errors of starting a server for the lab.

use std::path::PathBuf;

use crate::error::{Blame, Explain, Retry, SqlState};

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("no PostgreSQL {wanted} among the installed ones ({found}); looked in {looked_in}")]
    NoSuchMajor { wanted: String, found: String, looked_in: String },

    #[error("cannot prepare {}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },

    #[error("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody")]
    NoAccount,

    #[error("cannot run {program}")]
    Run { program: String, source: std::io::Error },

    #[error("{program} failed: {output}")]
    Failed { program: String, output: String },

    #[error("PostgreSQL {major} ended while it started:\n{log}")]
    Ended { major: u32, log: String },

    #[error("PostgreSQL {major} was not ready after {seconds} s:\n{log}")]
    Slow { major: u32, seconds: u64, log: String },

    #[error("found no free port on 127.0.0.1")]
    NoPort,

    #[error("cannot connect to database {dbname}")]
    Connect { dbname: String, source: tokio_postgres::Error },
}

impl Explain for LabError {
    fn sqlstate(&self) -> SqlState {
        match self {
            LabError::Connect { source, .. } => {
                source.code().map_or(SqlState::CONNECTION_FAILURE, |code| SqlState::parse(code.code()))
            }
            LabError::Directory { .. } | LabError::Run { .. } => SqlState::IO_ERROR,
            LabError::NoSuchMajor { .. } | LabError::NoAccount => SqlState::UNDEFINED_OBJECT,
            LabError::Failed { .. } | LabError::Ended { .. } | LabError::Slow { .. } | LabError::NoPort => {
                SqlState::INTERNAL_ERROR
            }
        }
    }

    fn blame(&self) -> Blame {
        Blame::Platform
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn hint(&self) -> Option<String> {
        match self {
            LabError::NoSuchMajor { .. } => Some(
                "Install PostgreSQL (Debian and Ubuntu: apt install postgresql), run deploy/get-postgresql.sh for more \
                 majors, or name directories that hold bin/postgres in FREEHOLD_PG_DIRS."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
