//! What a user of the admin port may do, and what a row of the table of commands asks for.
//!
//! Owns the roles and the comparison of the two. It deliberately reads no record:
//! [`permission`](super::permission) finds out what is a user's own.
//!
//! # Why roles and no list of rights for each user
//! The division of responsibility between the product teams and the platform is part of the product. It is
//! the same in every installation, and stands in one table.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Versioned;
use crate::catalog::store::Revision;
use crate::model::{Granted, PlatformRole, TeamName, TeamRole, UserGrant, UserRecord};

/// A role of a user of the admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserRole {
    /// Every user that has logged in, also without any grant.
    User,
    /// Of a team.
    Viewer,
    /// Of a team; what a viewer may, an owner may, too.
    Owner,
    /// Of the platform, as those below.
    Operator,
    Admin,
    Auditor,
    /// Listed as `stats` in the file of administrators.
    Stats,
}

impl UserRole {
    pub const ALL: [UserRole; 7] = [
        UserRole::User,
        UserRole::Viewer,
        UserRole::Owner,
        UserRole::Operator,
        UserRole::Admin,
        UserRole::Auditor,
        UserRole::Stats,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            UserRole::User => "user",
            UserRole::Viewer => "viewer",
            UserRole::Owner => "owner",
            UserRole::Operator => "operator",
            UserRole::Admin => "admin",
            UserRole::Auditor => "auditor",
            UserRole::Stats => "stats",
        }
    }

    /// A role of the platform concerns all databases and teams; any other one only what is the user's own.
    pub fn is_of_platform(self) -> bool {
        matches!(self, UserRole::Operator | UserRole::Admin | UserRole::Auditor | UserRole::Stats)
    }
}

/// What has to be the user's own for a role that is not of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// The named database is the team's.
    Database,
    /// The named database is the team's, or is offered to it.
    Seen,
    /// The named database is offered to the team.
    Offer,
    /// The named team.
    Team,
    /// The named user is the one that asks.
    User,
    /// The command answers with what is the user's own, and leaves out the rest.
    Rows,
}

/// The column of the table of commands that says which roles may run one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    pub roles: &'static [UserRole],
    /// `None`: it concerns nothing that could be another team's.
    pub own: Option<Own>,
}

/// The roles of a user, as they are when a command begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    platform: BTreeSet<UserRole>,
    teams: BTreeMap<TeamName, TeamRole>,
    /// The commit that wrote them, if they are the catalogue's.
    record: Option<Revision>,
}

impl Rights {
    /// Those of an administrator of the file.
    pub fn admin() -> Rights {
        Rights { platform: BTreeSet::from([UserRole::Admin]), ..Rights::default() }
    }

    /// Those of a `stats` user of the file.
    pub fn stats() -> Rights {
        Rights { platform: BTreeSet::from([UserRole::Stats]), ..Rights::default() }
    }

    pub fn of(grants: &[Granted]) -> Rights {
        let mut rights = Rights::default();
        for granted in grants {
            match &granted.grant {
                UserGrant::Platform { role } => {
                    rights.platform.insert(match role {
                        PlatformRole::Auditor => UserRole::Auditor,
                        PlatformRole::Operator => UserRole::Operator,
                        PlatformRole::Admin => UserRole::Admin,
                    });
                }
                UserGrant::Team { team, role } => {
                    let held = rights.teams.entry(team.clone()).or_insert(*role);
                    *held = (*held).max(*role);
                }
            }
        }
        rights
    }

    /// Those of a user, as its record was written by this commit.
    pub(in crate::admin) fn of_user(user: &Versioned<UserRecord>) -> Rights {
        Rights { record: Some(user.revision), ..Rights::of(&user.value.grants) }
    }

    /// The commit that wrote the record of the user.
    pub(in crate::admin) fn record(&self) -> Option<Revision> {
        self.record
    }

    /// The role in a team.
    pub fn on_team(&self, team: &TeamName) -> Option<TeamRole> {
        self.teams.get(team).copied()
    }

    /// Whether a role is held, be it in one team only.
    pub fn holds(&self, role: UserRole) -> bool {
        match role {
            UserRole::User => true,
            UserRole::Viewer => !self.teams.is_empty(),
            UserRole::Owner => self.teams.values().any(|held| *held == TeamRole::Owner),
            _ => self.platform.contains(&role),
        }
    }

    /// Whether one of these roles is of the platform and held.
    pub(in crate::admin) fn holds_on_platform(&self, roles: &[UserRole]) -> bool {
        roles.iter().any(|role| role.is_of_platform() && self.holds(*role))
    }

    /// Without a role on the platform: systems, and how databases are kept on them, are not to be seen.
    pub fn is_of_product(&self) -> bool {
        self.platform.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnixMillis;

    fn granted(grant: UserGrant) -> Granted {
        Granted { grant, at: UnixMillis(1), by: "ops".to_owned() }
    }

    #[test]
    fn an_owner_is_a_viewer_too_and_only_of_its_team() {
        let team = |name: &str| TeamName::parse(name).unwrap();
        let on = |name: &str, role| granted(UserGrant::Team { team: team(name), role });
        let rights = Rights::of(&[
            on("payments", TeamRole::Owner),
            on("payments", TeamRole::Viewer),
            on("stock", TeamRole::Viewer),
        ]);
        assert_eq!(rights.on_team(&team("payments")), Some(TeamRole::Owner));
        assert_eq!(rights.on_team(&team("stock")), Some(TeamRole::Viewer));
        assert_eq!(rights.on_team(&team("finance")), None);
        let held: Vec<UserRole> = UserRole::ALL.into_iter().filter(|role| rights.holds(*role)).collect();
        assert_eq!(held, [UserRole::User, UserRole::Viewer, UserRole::Owner]);
        assert!(rights.is_of_product());
    }

    #[test]
    fn roles_of_the_platform_bring_none_of_a_team_and_not_each_other() {
        let rights = Rights::of(&[granted(UserGrant::Platform { role: PlatformRole::Operator })]);
        let held: Vec<UserRole> = UserRole::ALL.into_iter().filter(|role| rights.holds(*role)).collect();
        assert_eq!(held, [UserRole::User, UserRole::Operator]);
        assert!(!rights.is_of_product() && Rights::of(&[]).is_of_product());
    }
}
