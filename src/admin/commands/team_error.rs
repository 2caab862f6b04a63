//! Why a team is not changed or dropped.

use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::identifier;

/// Refusals of CREATE, ALTER and DROP TEAM.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum TeamError {
    /// `children`: the teams whose parent it is. One of the lists may be empty.
    #[error("team \"{team}\" cannot be dropped: {} depend on it", dependents(databases, children))]
    InUse { team: String, databases: Vec<String>, children: Vec<String> },
    /// `line`: from the wanted parent up to the team itself.
    #[error("team \"{team}\" cannot be below team \"{}\"", line.first().unwrap_or(team))]
    Circle { team: String, line: Vec<String> },
}

fn dependents(databases: &[String], children: &[String]) -> &'static str {
    match (databases.is_empty(), children.is_empty()) {
        (_, true) => "databases",
        (true, false) => "teams",
        (false, false) => "databases and teams",
    }
}

impl Explain for TeamError {
    fn sqlstate(&self) -> SqlState {
        match self {
            TeamError::InUse { .. } => SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            TeamError::Circle { .. } => SqlState::INVALID_PARAMETER_VALUE,
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
            TeamError::InUse { databases, children, .. } => {
                let lists = [("Databases", databases), ("Teams", children)];
                let lists = lists.into_iter().filter(|(_, names)| !names.is_empty());
                let lists = lists.map(|(kind, names)| format!("{kind}: {}.", names.join(", ")));
                Some(lists.collect::<Vec<_>>().join(" "))
            }
            TeamError::Circle { line, .. } => Some(match &line[..] {
                [] | [_] => "A team is not its own parent.".to_owned(),
                line => format!("From team to parent: {}.", line.join(", ")),
            }),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TeamError::InUse { databases, children, .. } => {
                let database = databases.first().map(|database| {
                    format!("ALTER DATABASE {} OWNER team; gives it to another team.", identifier(database))
                });
                let child = children
                    .first()
                    .map(|team| format!("ALTER TEAM {} PARENT NONE; takes it away.", identifier(team)));
                Some(database.into_iter().chain(child).collect::<Vec<_>>().join(" "))
            }
            TeamError::Circle { line, .. } => {
                let below = line.len().checked_sub(2).and_then(|index| line.get(index))?;
                Some(format!("ALTER TEAM {} PARENT NONE; ends the line before it.", identifier(below)))
            }
        }
    }
}
