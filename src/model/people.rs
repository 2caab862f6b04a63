//! The users of the admin port, persons and services, and what was granted to them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{TeamName, UnixMillis, UserName};

/// What a user may do with the databases of a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TeamRole {
    Viewer,
    /// Includes [`TeamRole::Viewer`].
    Owner,
}

/// What a user may do with the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformRole {
    /// Sees everything, changes nothing.
    Auditor,
    /// Moves databases and manages systems; changes no product.
    Operator,
    Admin,
}

/// One thing that is granted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "lowercase")]
pub enum UserGrant {
    Platform { role: PlatformRole },
    Team { team: TeamName, role: TeamRole },
}

impl UserGrant {
    pub fn role(&self) -> &'static str {
        match self {
            UserGrant::Team { role: TeamRole::Viewer, .. } => "viewer",
            UserGrant::Team { role: TeamRole::Owner, .. } => "owner",
            UserGrant::Platform { role: PlatformRole::Auditor } => "auditor",
            UserGrant::Platform { role: PlatformRole::Operator } => "operator",
            UserGrant::Platform { role: PlatformRole::Admin } => "admin",
        }
    }

    /// `TEAM payments`, `PLATFORM`
    pub fn on(&self) -> String {
        match self {
            UserGrant::Team { team, .. } => format!("TEAM {team}"),
            UserGrant::Platform { .. } => "PLATFORM".to_owned(),
        }
    }

    pub fn team(&self) -> Option<&TeamName> {
        match self {
            UserGrant::Team { team, .. } => Some(team),
            UserGrant::Platform { .. } => None,
        }
    }
}

/// A grant, and the command that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    #[serde(flatten)]
    pub grant: UserGrant,
    pub at: UnixMillis,
    pub by: String,
}

/// A user, with all that is granted to it: one change of either is one commit of one record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub name: UserName,
    /// SCRAM-SHA-256, in PostgreSQL's form. The password is stored nowhere.
    pub verifier: String,
    /// Each grant once.
    #[serde(default)]
    pub grants: Vec<Granted>,
    pub created_at: UnixMillis,
    pub created_by: String,
    pub password_changed_at: UnixMillis,
}

/// Omits the verifier: with it one can guess passwords offline.
impl fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRecord")
            .field("name", &self.name)
            .field("grants", &self.grants)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_stored_as_people_can_read_it_and_shows_no_verifier() {
        let stored = r#"{"name":"alice","verifier":"SCRAM-SHA-256$1:a$b:c","grants":[{"on":"platform","role":"auditor","at":1,"by":"ops"},{"on":"team","team":"payments","role":"owner","at":3,"by":"ops"}],"created_at":1,"created_by":"ops","password_changed_at":2}"#;
        let record: UserRecord = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), stored);
        assert!(!format!("{record:?}").contains("SCRAM"));
        let shown: Vec<String> = record
            .grants
            .iter()
            .map(|granted| format!("{} ON {}", granted.grant.role(), granted.grant.on()))
            .collect();
        assert_eq!(shown, ["auditor ON PLATFORM", "owner ON TEAM payments"]);
    }

    #[test]
    fn freehold_is_no_user() {
        assert!(UserName::parse("freehold").is_err() && UserName::parse("").is_err());
        assert_eq!(UserName::parse("Alice B").unwrap().as_str(), "Alice B");
    }
}
