//! Limits of roles, which are PostgreSQL's and therefore in no catalogue of ours.

use super::{DatabaseName, Quotas, RoleName, Timeouts};

/// What is set for a role, in one database or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleLimits {
    pub role: RoleName,
    /// `None`: in all.
    pub database: Option<DatabaseName>,
    /// Clients of the role, in the database or in all together. Zero: no limit.
    pub clients_max: Option<u32>,
    /// Logins are those of the role, in the database or in all together.
    pub quotas: Quotas,
    pub timeouts: Timeouts,
}

impl RoleLimits {
    fn key(&self) -> (&str, Option<&str>) {
        (self.role.as_str(), self.database.as_ref().map(DatabaseName::as_str))
    }
}

/// All of them, in the order of roles and databases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolesLimits(Vec<RoleLimits>);

impl RolesLimits {
    /// Adds one; `false` where there is one for the same role and database.
    pub fn add(&mut self, limits: RoleLimits) -> bool {
        match self.0.binary_search_by(|known| known.key().cmp(&limits.key())) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, limits);
                true
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &RoleLimits> {
        self.0.iter()
    }

    /// What is set for the role in this database alone.
    pub fn in_database(&self, role: &str, database: &str) -> Option<&RoleLimits> {
        self.find((role, Some(database)))
    }

    /// What is set for the role in all databases.
    pub fn everywhere(&self, role: &str) -> Option<&RoleLimits> {
        self.find((role, None))
    }

    fn find(&self, key: (&str, Option<&str>)) -> Option<&RoleLimits> {
        let at = self.0.binary_search_by(|known| known.key().cmp(&key)).ok()?;
        self.0.get(at)
    }
}
