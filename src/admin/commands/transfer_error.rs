//! Why a database does not change its owner.

use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{UnixMillis, identifier};

/// Refusals of TRANSFER DATABASE, of the answers to an offer, and of ALTER DATABASE OWNER.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum TransferError {
    #[error("team \"{team}\" owns database \"{database}\" already")]
    AlreadyOwner { database: String, team: String },
    /// `wanted`: the team that the new offer names.
    #[error("database \"{database}\" is offered to team \"{to}\" already")]
    OfferedAlready { database: String, to: String, until: UnixMillis, has_expired: bool, wanted: String },
    #[error("database \"{database}\" is not offered to any team")]
    NotOffered { database: String },
    #[error("the offer of database \"{database}\" has changed meanwhile")]
    OfferedOtherwise { database: String },
    #[error("the offer of database \"{database}\" to team \"{to}\" has expired")]
    Expired { database: String, to: String, until: UnixMillis },
    #[error("database \"{database}\" is {state}: its owner cannot change")]
    WrongState { database: String, state: &'static str },
    #[error("the owner of database \"{database}\" changes only when the other team accepts")]
    OneSided { database: String, team: String },
}

impl Explain for TransferError {
    fn sqlstate(&self) -> SqlState {
        match self {
            TransferError::AlreadyOwner { .. } => SqlState::INVALID_PARAMETER_VALUE,
            TransferError::OfferedAlready { .. }
            | TransferError::NotOffered { .. }
            | TransferError::OfferedOtherwise { .. }
            | TransferError::Expired { .. }
            | TransferError::WrongState { .. }
            | TransferError::OneSided { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Client
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn detail(&self) -> Option<String> {
        match self {
            TransferError::OfferedAlready { until, has_expired: false, .. } => {
                Some(format!("The offer is open until {until}."))
            }
            TransferError::OfferedAlready { until, has_expired: true, .. }
            | TransferError::Expired { until, .. } => Some(format!("It was open until {until}.")),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TransferError::AlreadyOwner { .. } => Some("SHOW TEAMS; lists the others.".to_owned()),
            TransferError::OfferedAlready { database, wanted: team, .. }
            | TransferError::Expired { database, to: team, .. } => {
                let (database, team) = (identifier(database), identifier(team));
                Some(format!(
                    "CANCEL TRANSFER OF {database}; then TRANSFER DATABASE {database} TO TEAM {team};"
                ))
            }
            TransferError::NotOffered { database } => {
                Some(format!("TRANSFER DATABASE {} TO TEAM team; offers it.", identifier(database)))
            }
            TransferError::OfferedOtherwise { database } => {
                Some(format!("SHOW DATABASE {}; says to which team it is offered now.", identifier(database)))
            }
            TransferError::WrongState { database, .. } => {
                Some(format!("SHOW HISTORY {};", identifier(database)))
            }
            TransferError::OneSided { database, team } => {
                let (database, team) = (identifier(database), identifier(team));
                Some(format!(
                    "TRANSFER DATABASE {database} TO TEAM {team}; then ACCEPT TRANSFER OF {database};"
                ))
            }
        }
    }
}
