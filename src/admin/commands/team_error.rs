//! Why a team is not changed or dropped.

use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::identifier;

/// Refusals of CREATE, ALTER and DROP TEAM.
#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum TeamError {
    /// `offers`: the databases that are offered to it; `children`: the teams whose parent it is. Some of the
    /// lists may be empty.
    #[error(
        "team \"{team}\" cannot be dropped: {} depend on it",
        dependents(databases.is_empty() && offers.is_empty(), children.is_empty())
    )]
    InUse { team: String, databases: Vec<String>, offers: Vec<String>, children: Vec<String> },
    /// `line`: from the wanted parent up to the team itself.
    #[error("team \"{team}\" cannot be below team \"{}\"", line.first().unwrap_or(team))]
    Circle { team: String, line: Vec<String> },
}

fn dependents(no_databases: bool, no_children: bool) -> &'static str {
    match (no_databases, no_children) {
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
            TeamError::InUse { databases, offers, children, .. } => {
                let lists = [("Databases", databases), ("Offered", offers), ("Teams", children)];
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
            TeamError::InUse { databases, offers, children, .. } => {
                let ways = [
                    (databases, "TRANSFER DATABASE", "TO TEAM team; offers it to another team."),
                    (offers, "REJECT TRANSFER OF", "ends the offer."),
                    (children, "ALTER TEAM", "PARENT NONE; takes it away."),
                ];
                let way = |(names, verb, rest): (&Vec<String>, &str, &str)| {
                    let name = identifier(names.first()?);
                    let end = if verb.ends_with("OF") { ";" } else { "" };
                    Some(format!("{verb} {name}{end} {rest}"))
                };
                Some(ways.into_iter().filter_map(way).collect::<Vec<_>>().join(" "))
            }
            TeamError::Circle { line, .. } => {
                let below = line.len().checked_sub(2).and_then(|index| line.get(index))?;
                Some(format!("ALTER TEAM {} PARENT NONE; ends the line before it.", identifier(below)))
            }
        }
    }
}
