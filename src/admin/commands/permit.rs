//! What a command may change: the right that was checked when it began, as it is checked again in its commit.
//!
//! Owns which team decides over a change of a database. It deliberately reads no record:
//! [`crate::catalog::guard`] gives it each record that is replaced.

use super::rights::{Own, Permission, Rights, UserRole};
use crate::catalog::CommitGuard;
use crate::catalog::store::Revision;
use crate::model::{DatabaseRecord, TeamName, TeamRole};

/// A right that was checked, as the guard of everything that the command writes. The default is that nothing
/// was checked, and permits no change of a database.
#[derive(Debug, Clone, Default)]
pub struct CommandPermit {
    grounds: Grounds,
    /// The record of the user, and the commit that wrote it when the rights were read.
    record: Option<(String, Revision)>,
}

#[derive(Debug, Clone, Default)]
enum Grounds {
    #[default]
    Nothing,
    Platform,
    /// A role in the team that has to do with the database in this way.
    Team {
        own: Own,
        roles: &'static [UserRole],
        rights: Rights,
    },
}

impl CommandPermit {
    /// By a role on the platform.
    pub(super) fn of_platform(record: Option<(String, Revision)>) -> CommandPermit {
        CommandPermit { grounds: Grounds::Platform, record }
    }

    /// By what is the user's own.
    pub(super) fn of_team(
        Permission { roles, own }: Permission,
        rights: &Rights,
        record: Option<(String, Revision)>,
    ) -> CommandPermit {
        let team = |own| Grounds::Team { own, roles, rights: rights.clone() };
        CommandPermit { grounds: own.map_or(Grounds::Nothing, team), record }
    }
}

impl CommitGuard for CommandPermit {
    fn unchanged(&self) -> Option<(String, Revision)> {
        self.record.clone()
    }

    fn may_change(&self, database: &DatabaseRecord) -> bool {
        match &self.grounds {
            Grounds::Nothing => false,
            Grounds::Platform => true,
            Grounds::Team { own, roles, rights } => {
                let decides = deciding_team(*own, database);
                decides.is_some_and(|team| suffices(rights.on_team(team), roles))
            }
        }
    }
}

/// The team whose role decides over a change of a database; `None`: nothing of it can be changed so.
pub(super) fn deciding_team(own: Own, database: &DatabaseRecord) -> Option<&TeamName> {
    match (own, &database.offer) {
        (Own::Offer, Some(offer)) => Some(&offer.to),
        // Without an offer, the command itself says so.
        (Own::Offer, None) | (Own::Database, _) => Some(&database.owner),
        (Own::Seen | Own::Rows | Own::Team | Own::User, _) => None,
    }
}

pub(super) fn suffices(held: Option<TeamRole>, roles: &[UserRole]) -> bool {
    match held {
        Some(TeamRole::Owner) => roles.contains(&UserRole::Owner) || roles.contains(&UserRole::Viewer),
        Some(TeamRole::Viewer) => roles.contains(&UserRole::Viewer),
        None => false,
    }
}
