//! Limits of roles. Roles belong to PostgreSQL, so these limits are in the configuration and not in the
//! catalogue.

use super::{DatabaseName, Quotas, RoleName, Timeouts};

/// The limits of a role, in one database or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleLimits {
    pub role: RoleName,
    /// `None`: in all databases.
    pub database: Option<DatabaseName>,
    /// Clients of the role, in the database or in all databases together. Zero: no limit.
    pub clients_max: Option<u32>,
    /// The rate of logins is that of the role, in the database or in all databases together.
    pub quotas: Quotas,
    pub timeouts: Timeouts,
}

impl RoleLimits {
    fn key(&self) -> (&str, Option<&str>) {
        (self.role.as_str(), self.database.as_ref().map(DatabaseName::as_str))
    }
}

/// All limits of roles, sorted by role and database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolesLimits(Vec<RoleLimits>);

impl RolesLimits {
    /// Adds one; `false` if the role and database have one already.
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

    /// The limits of the role in this database only.
    pub fn in_database(&self, role: &str, database: &str) -> Option<&RoleLimits> {
        self.find((role, Some(database)))
    }

    /// The limits of the role in all databases.
    pub fn everywhere(&self, role: &str) -> Option<&RoleLimits> {
        self.find((role, None))
    }

    fn find(&self, key: (&str, Option<&str>)) -> Option<&RoleLimits> {
        let at = self.0.binary_search_by(|known| known.key().cmp(&key)).ok()?;
        self.0.get(at)
    }
}
