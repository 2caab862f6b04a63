//! What a proxy enforces for a database: derived from the database's record, and from nothing else.
//!
//! ```text
//!   DatabaseRecord { lifecycle, contract, dropping } -- ServiceTerms::of --> stored inside the RouteRecord
//! ```
//!
//! # Why derived
//! A limit that is written to two records by two commits can differ for ever after a crash between them. So
//! no command writes terms: it changes the database's record, and [`ServiceTerms::of`] derives in the same
//! commit what proxies enforce. It is the only place that translates a lifecycle or a contract into effects
//! on clients. `control::reconcile` finds terms that differ all the same, because an older version wrote
//! them, and writes them again.

use serde::{Deserialize, Serialize};

use super::{
    Contract, DatabaseName, DatabaseRecord, Date, Lifecycle, Pooling, Quotas, Service, Tier, Timeouts,
    identifier,
};
use crate::error::SqlState;

/// The terms on which clients are served. Stored flat, among the fields of [`super::RouteRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTerms {
    /// How connecting clients are served.
    pub service: Service,
    pub pooling: Pooling,
    /// Client connections per proxy process; more are refused with 53300.
    pub client_connections_max: u32,
    /// Server connections per proxy process that transaction pooling opens.
    #[serde(default = "server_connections_default")]
    pub server_connections_max: u32,
    /// How much clients may request, from the contract.
    #[serde(default)]
    pub quotas: Quotas,
    /// The timeouts of clients, from the contract.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// The default in a record that an older version wrote.
fn server_connections_default() -> u32 {
    Contract::of_tier(Tier::default()).server_connections_max
}

impl ServiceTerms {
    /// What proxies enforce for a database.
    pub fn of(database: &DatabaseRecord) -> ServiceTerms {
        let contract = &database.contract;
        ServiceTerms {
            service: service_of(database),
            pooling: contract.pooling,
            client_connections_max: contract.client_connections_max,
            server_connections_max: contract.server_connections_max,
            quotas: contract.quotas,
            timeouts: contract.timeouts,
        }
    }

    /// Served, with session pooling, without quotas and timeouts.
    pub fn served(client_connections_max: u32) -> ServiceTerms {
        ServiceTerms {
            service: Service::Serving,
            pooling: Pooling::Session,
            client_connections_max,
            server_connections_max: client_connections_max,
            quotas: Quotas::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// What differs here, as `field: old -> new`, for the log and the audit trail.
    pub fn differences(&self, other: &ServiceTerms) -> Vec<String> {
        let pairs = [
            ("service", self.service.as_str().to_owned(), other.service.as_str().to_owned()),
            ("pooling", self.pooling.as_str().to_owned(), other.pooling.as_str().to_owned()),
            (
                "client connections",
                self.client_connections_max.to_string(),
                other.client_connections_max.to_string(),
            ),
            (
                "server connections",
                self.server_connections_max.to_string(),
                other.server_connections_max.to_string(),
            ),
        ];
        let mut differences: Vec<String> = pairs
            .into_iter()
            .filter(|(_, old, new)| old != new)
            .map(|(field, old, new)| format!("{field}: {old} -> {new}"))
            .collect();
        differences.extend((self.quotas != other.quotas).then(|| "quotas".to_owned()));
        differences.extend((self.timeouts != other.timeouts).then(|| "timeouts".to_owned()));
        if differences.is_empty() && self != other {
            differences.push("the text of a refusal".to_owned());
        }
        differences
    }
}

/// The lifecycle as connecting clients see it.
fn service_of(database: &DatabaseRecord) -> Service {
    let name = &database.name;
    let refused = |sqlstate: SqlState, what: &str, hint: &str| Service::Refused {
        sqlstate: sqlstate.to_string(),
        message: format!("database \"{name}\" {what}"),
        detail: None,
        hint: hint.to_owned(),
    };
    let dropped = || refused(SqlState::INVALID_CATALOG_NAME, "does not exist", "It was dropped.");
    if database.dropping.is_some() {
        return dropped();
    }
    const UNAVAILABLE: SqlState = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    match &database.lifecycle {
        Lifecycle::Provisioning => {
            refused(SqlState::CANNOT_CONNECT_NOW, "is being created", "Try again in a moment.")
        }
        Lifecycle::Active => Service::Serving,
        Lifecycle::Deprecated { sunset, reason, successor } => {
            deprecated(database, *sunset, reason, successor.as_ref())
        }
        Lifecycle::Quarantined { reason, until } => quarantined(database, reason, *until),
        Lifecycle::Archived => refused(UNAVAILABLE, "is archived", "Ask the platform team to restore it."),
        Lifecycle::Deleted { .. } => dropped(),
    }
}

fn deprecated(
    DatabaseRecord { name, owner, .. }: &DatabaseRecord,
    sunset: Date,
    reason: &str,
    successor: Option<&DatabaseName>,
) -> Service {
    let (replaced, instead) = match successor {
        Some(other) => {
            (format!("; successor \"{other}\""), format!("Use database \"{other}\" instead, or ask"))
        }
        None => (String::new(), "Ask".to_owned()),
    };
    Service::Warning {
        sqlstate: SqlState::DEPRECATED_FEATURE.to_string(),
        message: format!("database \"{name}\" is deprecated, sunset {sunset}{replaced}"),
        detail: Some(format!("Reason: {reason}")),
        hint: format!("{instead} its owner, team {owner}."),
    }
}

fn quarantined(
    DatabaseRecord { name, owner, .. }: &DatabaseRecord,
    reason: &str,
    until: Option<Date>,
) -> Service {
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    Service::Refused {
        sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE.to_string(),
        message: format!("database \"{name}\" is quarantined{until}"),
        detail: Some(format!("Reason: {reason}")),
        hint: format!("Its owner, team {owner}, can run REVIVE DATABASE {}.", identifier(name.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DatabaseId, Dropping, TeamName, UnixMillis};

    fn database(lifecycle: Lifecycle) -> DatabaseRecord {
        DatabaseRecord {
            id: DatabaseId::parse("db_1").unwrap(),
            name: DatabaseName::parse("shop").unwrap(),
            owner: TeamName::parse("payments").unwrap(),
            purpose: String::new(),
            lifecycle,
            contract: Contract::of_tier(Tier::Dev),
            operation: None,
            dropping: None,
            offer: None,
            adopted: false,
            created_at: UnixMillis(0),
            created_by: String::new(),
            history: Default::default(),
        }
    }

    fn day() -> Date {
        Date::parse("2027-03-01").unwrap()
    }

    fn refusal(database: &DatabaseRecord) -> Option<String> {
        ServiceTerms::of(database).service.refusal().map(|refusal| refusal.sqlstate.to_string())
    }

    #[test]
    fn each_state_of_a_lifecycle_is_served_warned_of_or_refused() {
        let because = || "nobody connected for a year".to_owned();
        let expected = [
            (Lifecycle::Provisioning, Some("57P03")),
            (Lifecycle::Active, None),
            (Lifecycle::Deprecated { sunset: day(), reason: because(), successor: None }, None),
            (Lifecycle::Quarantined { reason: because(), until: None }, Some("55000")),
            (Lifecycle::Archived, Some("55000")),
            (Lifecycle::Deleted { at: UnixMillis(1) }, Some("3D000")),
        ];
        for (lifecycle, sqlstate) in expected {
            let mut database = database(lifecycle);
            assert_eq!(refusal(&database).as_deref(), sqlstate, "{database:?}");
            // In every lifecycle state, clients find no database while it is being dropped.
            database.dropping =
                Some(Dropping { at: UnixMillis(1), who: "alice".to_owned(), reason: because() });
            assert_eq!(refusal(&database).as_deref(), Some("3D000"), "{database:?}");
        }
    }

    #[test]
    fn clients_of_a_deprecated_database_are_told_the_day_the_reason_and_the_successor() {
        let reason = || "shop2 has replaced it".to_owned();
        let warning = |successor| {
            let lifecycle = Lifecycle::Deprecated { sunset: day(), reason: reason(), successor };
            ServiceTerms::of(&database(lifecycle)).service.warning().unwrap()
        };
        let alone = warning(None);
        assert_eq!(alone.to_string(), "WARNING: database \"shop\" is deprecated, sunset 2027-03-01 (01P01)");
        assert_eq!(alone.detail.as_deref(), Some("Reason: shop2 has replaced it"));
        assert_eq!(alone.hint.as_deref(), Some("Ask its owner, team payments."));
        let replaced = warning(DatabaseName::parse("shop2").ok());
        let message = "database \"shop\" is deprecated, sunset 2027-03-01; successor \"shop2\"";
        assert_eq!(replaced.message, message);
        let hint = "Use database \"shop2\" instead, or ask its owner, team payments.";
        assert_eq!(replaced.hint.as_deref(), Some(hint));
    }

    #[test]
    fn a_quarantine_refuses_new_clients_and_ends_sessions_by_different_codes() {
        let lifecycle = Lifecycle::Quarantined { reason: "not used".to_owned(), until: Some(day()) };
        let service = ServiceTerms::of(&database(lifecycle)).service;
        let (refusal, ending) = (service.refusal().unwrap(), service.ending().unwrap());
        let message = "database \"shop\" is quarantined until 2027-03-01";
        assert_eq!(refusal.to_string(), format!("FATAL: {message} (55000)"));
        let terminating = format!("FATAL: terminating connection because {message} (57P01)");
        assert_eq!(ending.to_string(), terminating);
        for told in [refusal, ending] {
            assert_eq!(told.detail.as_deref(), Some("Reason: not used"));
            let hint = "Its owner, team payments, can run REVIVE DATABASE shop.";
            assert_eq!(told.hint.as_deref(), Some(hint));
            assert_eq!(told.responsible().as_deref(), Some("Responsible: the product team."));
        }
    }

    #[test]
    fn every_limit_of_a_contract_is_enforced() {
        let mut shop = database(Lifecycle::Active);
        shop.contract.client_connections_max = 7;
        shop.contract.server_connections_max = 3;
        shop.contract.pooling = Pooling::Transaction;
        shop.contract.quotas.logins_per_second_max = Some(5);
        shop.contract.timeouts.query = Some(std::time::Duration::from_secs(9));
        let terms = ServiceTerms::of(&shop);
        assert_eq!((terms.client_connections_max, terms.server_connections_max), (7, 3));
        assert_eq!(terms.pooling, Pooling::Transaction);
        assert_eq!((terms.quotas, terms.timeouts), (shop.contract.quotas, shop.contract.timeouts));
        assert_eq!(
            ServiceTerms::served(100).differences(&terms),
            [
                "pooling: session -> transaction",
                "client connections: 100 -> 7",
                "server connections: 100 -> 3",
                "quotas",
                "timeouts"
            ]
        );
    }
}
