//! How connecting clients are served: the words and SQLSTATE of a warning or a refusal.

use serde::{Deserialize, Serialize};

use crate::error::{Blame, Refusal, Severity, SqlState};

/// How connecting clients are served: the lifecycle as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "lowercase")]
pub enum Service {
    Serving,
    /// Served, with a warning at connect.
    Warning {
        sqlstate: String,
        message: String,
        /// Absent in a record that an older version wrote.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        hint: String,
    },
    /// Refused; existing sessions end with [`Service::ending`].
    Refused {
        sqlstate: String,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        hint: String,
    },
}

impl Service {
    pub fn as_str(&self) -> &'static str {
        match self {
            Service::Serving => "serving",
            Service::Warning { .. } => "warning",
            Service::Refused { .. } => "refused",
        }
    }

    /// The refusal of a client, if any.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Service::Serving | Service::Warning { .. } => None,
            Service::Refused { sqlstate, message, detail, hint } => {
                let refusal = Refusal::fatal(SqlState::parse(sqlstate), message.clone());
                let refusal = Refusal { detail: detail.clone(), ..refusal };
                Some(refusal.with_hint(hint.clone()).with_blame(Blame::Product))
            }
        }
    }

    /// The warning for a client that connects, if any.
    pub fn warning(&self) -> Option<Refusal> {
        match self {
            Service::Serving | Service::Refused { .. } => None,
            Service::Warning { sqlstate, message, detail, hint } => {
                let warning = Refusal::new(Severity::Warning, SqlState::parse(sqlstate), message.clone());
                Some(Refusal { detail: detail.clone(), ..warning }.with_hint(hint.clone()))
            }
        }
    }

    /// The error with which an existing session ends, if any.
    ///
    /// # Why it is another one than the refusal of a new client
    /// Inside a session, drivers take 55000 for the error of one statement. 57P01 is PostgreSQL's code for a
    /// connection that an administrator ends.
    pub fn ending(&self) -> Option<Refusal> {
        let refusal = self.refusal()?;
        Some(match refusal.sqlstate {
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Refusal {
                sqlstate: SqlState::ADMIN_SHUTDOWN,
                message: format!("terminating connection because {}", refusal.message),
                ..refusal
            },
            _ => refusal,
        })
    }
}
