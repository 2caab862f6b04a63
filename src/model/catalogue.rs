//! The catalogue's records of teams, systems and databases.

use serde::{Deserialize, Serialize};

use super::{
    Address, Contract, DatabaseId, DatabaseName, Date, History, OperationRef, Place, RoleName, ServerAuth,
    SslMode, SystemName, TeamName, TransferOffer, UnixMillis,
};

/// An owner: a team with a contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamRecord {
    pub name: TeamName,
    /// How to reach its people: a channel, an address. Shown in refusals and reports.
    pub contact: String,
    pub created_at: UnixMillis,
    /// How to reach the people to turn to when the contact does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<String>,
    /// The team above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TeamName>,
}

/// A PostgreSQL server and how the platform's role reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemRecord {
    pub name: SystemName,
    pub address: Address,
    /// Address for replication from the *other* systems, if it differs from `address`.
    pub replication_address: Option<Address>,
    /// The platform's role: superuser, or replication with the privileges that the preflight names.
    pub admin_role: RoleName,
    /// The database that the platform's role connects to when no product's database is meant.
    pub admin_database: String,
    /// A file with the platform role's password, read at each connect; never stored. `None`: trust, peer or
    /// certificate.
    pub password_file: Option<String>,
    pub sslmode: SslMode,
    /// The weakest authentication method allowed there; SCRAM in a record of an older version.
    #[serde(default)]
    pub auth: ServerAuth,
    /// `false`: no new database is placed here and no move comes here.
    pub accepts_databases: bool,
    /// `server_version_num` when last seen.
    pub version_num: u32,
    /// `pg_control_system().system_identifier` when first seen: two names for one server are refused.
    pub system_identifier: String,
    pub created_at: UnixMillis,
}

impl SystemRecord {
    /// A database of this system, with the system's current address.
    pub fn place(&self, dbname: impl Into<String>) -> Place {
        Place {
            system: self.name.clone(),
            address: self.address.clone(),
            dbname: dbname.into(),
            sslmode: self.sslmode,
            auth: self.auth,
        }
    }
}

/// The lifecycle state of a database. [`super::ServiceTerms::of`] says how clients are served in each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Lifecycle {
    Provisioning,
    Active,
    /// Served with a warning; quarantined when the day of its sunset begins.
    Deprecated {
        sunset: Date,
        reason: String,
        /// The database that replaces it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        successor: Option<DatabaseName>,
    },
    /// Refused, with its data as it was.
    Quarantined {
        reason: String,
        /// The day on which its owner decides; nothing happens by itself then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Date>,
    },
    Archived,
    /// A tombstone: the name is free again, the record stays.
    Deleted {
        at: UnixMillis,
    },
}

impl Lifecycle {
    pub fn as_str(&self) -> &'static str {
        match self {
            Lifecycle::Provisioning => "provisioning",
            Lifecycle::Active => "active",
            Lifecycle::Deprecated { .. } => "deprecated",
            Lifecycle::Quarantined { .. } => "quarantined",
            Lifecycle::Archived => "archived",
            Lifecycle::Deleted { .. } => "deleted",
        }
    }

    /// What should have happened by now, if anything.
    pub fn due(&self, now: UnixMillis) -> Option<Due> {
        let (due, day) = match self {
            Lifecycle::Deprecated { sunset, .. } => (Due::Quarantine { since: *sunset }, *sunset),
            Lifecycle::Quarantined { until: Some(until), .. } => (Due::Decision { since: *until }, *until),
            Lifecycle::Quarantined { until: None, .. }
            | Lifecycle::Provisioning
            | Lifecycle::Active
            | Lifecycle::Archived
            | Lifecycle::Deleted { .. } => return None,
        };
        (day.begins_at() <= now).then_some(due)
    }
}

/// What is due for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Its sunset has come: it is quarantined by itself.
    Quarantine { since: Date },
    /// Its quarantine is over: its owner drops or revives it.
    Decision { since: Date },
}

/// A database as a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRecord {
    pub id: DatabaseId,
    pub name: DatabaseName,
    pub owner: TeamName,
    pub purpose: String,
    pub lifecycle: Lifecycle,
    pub contract: Contract,
    /// The operation that runs on it, or the move that is kept for an undo: at most one.
    pub operation: Option<OperationRef>,
    /// DROP DATABASE has begun: no client is served any more, and a crash does not end the drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropping: Option<Dropping>,
    /// Its owner is to be another team, which has not accepted it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<TransferOffer>,
    /// `true`: ADOPT DATABASE took in an existing database.
    pub adopted: bool,
    pub created_at: UnixMillis,
    pub created_by: String,
    #[serde(flatten)]
    pub history: History,
}

impl DatabaseRecord {
    /// The teams that this record names and `before`, the record until now, did not name so.
    pub fn teams_named_anew<'a>(&'a self, before: Option<&'a DatabaseRecord>) -> Vec<&'a TeamName> {
        let owner = Some(&self.owner).filter(|owner| before.is_none_or(|before| before.owner != **owner));
        let offered_to = |record: &'a DatabaseRecord| record.offer.as_ref().map(|offer| &offer.to);
        let offered = offered_to(self).filter(|_| offered_to(self) != before.and_then(offered_to));
        owner.into_iter().chain(offered).collect()
    }

    /// Clients may connect, and the database may move.
    pub fn is_served(&self) -> bool {
        self.dropping.is_none() && matches!(self.lifecycle, Lifecycle::Active | Lifecycle::Deprecated { .. })
    }

    /// Its lifecycle in one word, or that it is being dropped.
    pub fn state(&self) -> &'static str {
        match self.dropping {
            Some(_) => "dropping",
            None => self.lifecycle.as_str(),
        }
    }

    /// CREATE or DROP DATABASE has begun and has not ended.
    pub fn is_unfinished(&self) -> bool {
        self.dropping.is_some() || self.lifecycle == Lifecycle::Provisioning
    }
}

/// A DROP DATABASE that was recorded and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropping {
    pub at: UnixMillis,
    pub who: String,
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        Date::parse(text).unwrap()
    }

    #[test]
    fn a_sunset_and_the_end_of_a_quarantine_are_due_when_their_day_begins() {
        let (sunset, reason) = (day("2027-03-01"), String::new());
        let deprecated = Lifecycle::Deprecated { sunset, reason: reason.clone(), successor: None };
        let begins = sunset.begins_at();
        assert_eq!(deprecated.due(UnixMillis(begins.0 - 1)), None);
        assert_eq!(deprecated.due(begins), Some(Due::Quarantine { since: sunset }));
        let quarantined = |until| Lifecycle::Quarantined { reason: reason.clone(), until };
        assert_eq!(quarantined(Some(sunset)).due(begins), Some(Due::Decision { since: sunset }));
        assert_eq!(quarantined(None).due(begins), None);
        assert_eq!(Lifecycle::Active.due(begins), None);
    }

    #[test]
    fn states_that_an_older_version_has_stored_are_read_and_written_as_they_were() {
        for old in [
            r#"{"state":"deprecated","sunset":"2027-03-01","reason":"replaced"}"#,
            r#"{"state":"quarantined","reason":"not used"}"#,
        ] {
            let read: Lifecycle = serde_json::from_str(old).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), old);
        }
    }
}
