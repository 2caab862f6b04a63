//! Where a database is: its system, how that is reached, and its name there.

use serde::{Deserialize, Serialize};

use super::{Address, ServerAuth, SslMode, SystemName};

/// A database on a system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub system: SystemName,
    pub address: Address,
    /// The name of the database on that system; need not be the product's name.
    pub dbname: String,
    pub sslmode: SslMode,
    /// The weakest authentication that may be used there; SCRAM in a record that an older version wrote.
    #[serde(default)]
    pub auth: ServerAuth,
}

impl Place {
    /// Whether both are the same database. Ignores how its system is reached, which may change during a move.
    pub fn is_same_database(&self, other: &Place) -> bool {
        self.system == other.system && self.dbname == other.dbname
    }
}
