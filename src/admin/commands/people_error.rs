//! Why a user or a grant is not changed, and why a user may not run a command.

use super::rights::UserRole;
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::identifier;

/// Refusals of CREATE, ALTER and DROP USER, of GRANT and REVOKE; and of every command by missing rights.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum PeopleError {
    #[error("user \"{user}\" is an administrator of admin.users_file")]
    InFile { user: String },
    /// `grant` and `granted` as they are written in GRANT.
    #[error("{grant} is not granted to user \"{user}\"")]
    NotGranted { user: String, grant: String, granted: Vec<String> },
    #[error("permission denied: \"{user}\" may only look")]
    MayOnlyLook { user: String },
    /// `team`: the one of which a role would be enough, if one is known.
    #[error("permission denied: \"{user}\" may not run {command}")]
    Denied { user: String, command: String, roles: &'static [UserRole], team: Option<String> },
    /// The right was there when the command began.
    #[error("permission denied: what allowed \"{user}\" to run {command} has changed meanwhile")]
    HasChanged { user: String, command: String },
    #[error("user \"{user}\" has made too many changes in a row")]
    TooFast { user: String, in_a_row_max: u32 },
    /// A clause that only another side may use.
    #[error("permission denied: \"{user}\" may not change {what}")]
    Clause { user: String, what: &'static str, detail: String, side: Blame },
}

/// `OWNER ON TEAM payments or ADMIN ON PLATFORM`
fn wanted(roles: &[UserRole], team: Option<&String>) -> String {
    let right = |role: &UserRole| {
        let name = role.as_str().to_uppercase();
        match (role, team) {
            (UserRole::Viewer | UserRole::Owner, Some(team)) => {
                Some(format!("{name} ON TEAM {}", identifier(team)))
            }
            (UserRole::Viewer | UserRole::Owner, None) => Some(format!("{name} ON the TEAM that owns it")),
            (UserRole::Operator | UserRole::Admin | UserRole::Auditor, _) => {
                Some(format!("{name} ON PLATFORM"))
            }
            (UserRole::User | UserRole::Stats, _) => None,
        }
    };
    roles.iter().filter_map(right).collect::<Vec<_>>().join(" or ")
}

impl Explain for PeopleError {
    fn sqlstate(&self) -> SqlState {
        match self {
            PeopleError::InFile { .. } => SqlState::DUPLICATE_OBJECT,
            PeopleError::NotGranted { .. } => SqlState::UNDEFINED_OBJECT,
            PeopleError::TooFast { .. } => SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            PeopleError::MayOnlyLook { .. }
            | PeopleError::Denied { .. }
            | PeopleError::HasChanged { .. }
            | PeopleError::Clause { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
        }
    }

    /// The side that can do, or grant, what is wanted.
    fn blame(&self) -> Blame {
        match self {
            PeopleError::InFile { .. }
            | PeopleError::NotGranted { .. }
            | PeopleError::HasChanged { .. }
            | PeopleError::TooFast { .. } => Blame::Client,
            PeopleError::Denied { roles, .. } if roles.contains(&UserRole::Owner) => Blame::Product,
            PeopleError::Denied { .. } | PeopleError::MayOnlyLook { .. } => Blame::Platform,
            PeopleError::Clause { side, .. } => *side,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            PeopleError::TooFast { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn detail(&self) -> Option<String> {
        match self {
            PeopleError::InFile { .. } => {
                Some("The file says its password and its rights, and goes before the catalogue.".to_owned())
            }
            PeopleError::NotGranted { granted, .. } if granted.is_empty() => {
                Some("Nothing is granted to it.".to_owned())
            }
            PeopleError::NotGranted { granted, .. } => Some(format!("Granted are: {}.", granted.join(", "))),
            PeopleError::MayOnlyLook { .. } => {
                Some("It is listed as \"stats\" in admin.users_file: SHOW is what it may.".to_owned())
            }
            PeopleError::Denied { command, roles, team, .. } => {
                Some(format!("{command} needs {}.", wanted(roles, team.as_ref())))
            }
            PeopleError::HasChanged { .. } => Some(
                "The user or its grants were changed, or the database has another owner or another offer. \
                 Nothing was changed by this command."
                    .to_owned(),
            ),
            PeopleError::TooFast { in_a_row_max, .. } => {
                Some(format!("It may make {in_a_row_max}, and one more each second."))
            }
            PeopleError::Clause { detail, .. } => Some(detail.clone()),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PeopleError::InFile { .. } => {
                Some("freehold hash-password prints the line for the file; then RELOAD;".to_owned())
            }
            PeopleError::NotGranted { .. } => Some("SHOW GRANTS; lists what is granted.".to_owned()),
            PeopleError::MayOnlyLook { .. } => {
                Some("Ask the platform team, or log in as another user.".to_owned())
            }
            PeopleError::Denied { user, roles, team: Some(team), .. } if roles.contains(&UserRole::Owner) => {
                let (team, user) = (identifier(team), identifier(user));
                Some(format!(
                    "Ask an owner of team {team}, or ask the platform team for GRANT OWNER ON TEAM {team} TO {user};"
                ))
            }
            PeopleError::Denied { roles, .. } if roles.contains(&UserRole::Owner) => {
                Some("Ask the product team that owns it.".to_owned())
            }
            PeopleError::Denied { .. } => Some("Ask the platform team to do it.".to_owned()),
            PeopleError::HasChanged { .. } => Some(
                "SHOW GRANTS; lists what is granted. Run the command again if it still applies.".to_owned(),
            ),
            PeopleError::TooFast { .. } => Some("Wait, and run the command again.".to_owned()),
            PeopleError::Clause { side, .. } => Some(format!("Ask the {side}.")),
        }
    }
}
