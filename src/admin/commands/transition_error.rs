//! Why a database does not change its lifecycle state.

use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{Date, Tier, identifier};

/// Refusals of DEPRECATE, REVIVE and QUARANTINE DATABASE. `command` is the complete right command.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum TransitionError {
    #[error("deprecating a database needs a SUNSET and a REASON")]
    NoNotice { command: String },
    #[error("quarantining a database needs a REASON")]
    NoReason { command: String },
    #[error("the sunset of database \"{database}\" is too near: {sunset}")]
    SunsetTooNear { database: String, sunset: Date, tier: Tier, earliest: Date, command: String },
    #[error("a quarantine that ends on {until} would be over")]
    AlreadyOver { until: Date, command: String },
    #[error("database \"{database}\" cannot be its own successor")]
    OwnSuccessor { database: String },
    #[error("database \"{database}\" is {state}: it cannot be {action}")]
    WrongState { database: String, state: &'static str, action: &'static str },
    /// `clients` describes them, each by a phrase.
    #[error("clients of database \"{database}\" are connected or were seen lately")]
    ClientsSeen { database: String, clients: String, command: String },
}

impl Explain for TransitionError {
    fn sqlstate(&self) -> SqlState {
        match self {
            TransitionError::NoNotice { .. } | TransitionError::NoReason { .. } => SqlState::REASON_REQUIRED,
            TransitionError::SunsetTooNear { .. } => SqlState::SUNSET_TOO_NEAR,
            TransitionError::AlreadyOver { .. } | TransitionError::OwnSuccessor { .. } => {
                SqlState::INVALID_PARAMETER_VALUE
            }
            TransitionError::WrongState { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            TransitionError::ClientsSeen { .. } => SqlState::OBJECT_IN_USE,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            TransitionError::ClientsSeen { .. } => Blame::Product,
            _ => Blame::Client,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            TransitionError::ClientsSeen { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn detail(&self) -> Option<String> {
        match self {
            TransitionError::SunsetTooNear { tier, earliest, .. } => Some(format!(
                "The notice period of tier {} is {}: the earliest sunset is {earliest}.",
                tier.as_str(),
                days(tier.notice_days())
            )),
            TransitionError::AlreadyOver { .. } => Some("UNTIL is a day that has not begun yet.".to_owned()),
            TransitionError::ClientsSeen { clients, .. } => Some(format!("They are: {clients}.")),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TransitionError::NoNotice { command }
            | TransitionError::NoReason { command }
            | TransitionError::SunsetTooNear { command, .. }
            | TransitionError::AlreadyOver { command, .. } => Some(command.clone()),
            TransitionError::OwnSuccessor { .. } => {
                Some("Leave SUCCESSOR out, or name another database.".to_owned())
            }
            TransitionError::WrongState { database, state, action } => {
                Some(way_on(&identifier(database), state, action))
            }
            TransitionError::ClientsSeen { database, command, .. } => Some(format!(
                "SHOW CONSUMERS {}; lists them. {command} ends their sessions.",
                identifier(database)
            )),
        }
    }
}

/// What leads on from the wrong state.
fn way_on(database: &str, state: &str, action: &str) -> String {
    match (state, action) {
        ("deprecated", "deprecated") => {
            format!("REVIVE DATABASE {database}; ends that deprecation, then another one can begin.")
        }
        ("quarantined", _) => format!("REVIVE DATABASE {database}; serves it again."),
        ("active", "revived") => format!("It is served already: SHOW DATABASE {database};"),
        _ => format!("SHOW HISTORY {database};"),
    }
}

/// `1 day`, `14 days`
pub(in crate::admin) fn days(number: u16) -> String {
    match number {
        1 => "1 day".to_owned(),
        more => format!("{more} days"),
    }
}
