//! What a proxy enforces for a database: derived from the database's record, and from nothing else.
//!
//! ```text
//!   DatabaseRecord { lifecycle, contract, dropping } -- Terms::of --> Terms, stored inside the RouteRecord
//! ```
//!
//! # Why derived
//! A limit that is written to two records by two commits can differ for ever after a crash between them. So
//! no command writes terms: it changes the database's record, and [`Terms::of`] derives in the same commit
//! what proxies enforce. It is the only place that translates a lifecycle or a contract into effects on
//! clients. `control::reconcile` finds terms that differ all the same, because an older version wrote them,
//! and writes them again.

use serde::{Deserialize, Serialize};

use super::{Contract, DatabaseRecord, Lifecycle, Pooling, Quotas, Service, Tier, Timeouts};
use crate::error::SqlState;

/// The terms on which clients are served. Stored flat, among the fields of [`super::RouteRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
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

impl Terms {
    /// What proxies enforce for a database.
    pub fn of(database: &DatabaseRecord) -> Terms {
        let contract = &database.contract;
        Terms {
            service: service_of(database),
            pooling: contract.pooling,
            client_connections_max: contract.client_connections_max,
            server_connections_max: contract.server_connections_max,
            quotas: contract.quotas,
            timeouts: contract.timeouts,
        }
    }

    /// Served, with session pooling, without quotas and timeouts.
    pub fn served(client_connections_max: u32) -> Terms {
        Terms {
            service: Service::Serving,
            pooling: Pooling::Session,
            client_connections_max,
            server_connections_max: client_connections_max,
            quotas: Quotas::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// What differs here, as `field: old -> new`, for the log and the audit trail.
    pub fn differences(&self, other: &Terms) -> Vec<String> {
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
        Lifecycle::Deprecated { sunset, reason } => Service::Warning {
            sqlstate: SqlState::DEPRECATED_FEATURE.to_string(),
            message: format!("database \"{name}\" is deprecated, its sunset is {sunset}"),
            hint: reason.clone(),
        },
        Lifecycle::Quarantined { reason } => refused(UNAVAILABLE, "is quarantined", reason),
        Lifecycle::Archived => refused(UNAVAILABLE, "is archived", "Ask the platform team to restore it."),
        Lifecycle::Deleted { .. } => dropped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DatabaseId, DatabaseName, Dropping, TeamName, UnixMillis};

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
            adopted: false,
            created_at: UnixMillis(0),
            created_by: String::new(),
            history: Vec::new(),
        }
    }

    fn refusal(database: &DatabaseRecord) -> Option<String> {
        Terms::of(database).service.refusal().map(|refusal| refusal.sqlstate.to_string())
    }

    #[test]
    fn each_state_of_a_lifecycle_is_served_warned_of_or_refused() {
        let because = || "nobody connected for a year".to_owned();
        let expected = [
            (Lifecycle::Provisioning, Some("57P03")),
            (Lifecycle::Active, None),
            (Lifecycle::Deprecated { sunset: "2027-03-01".to_owned(), reason: because() }, None),
            (Lifecycle::Quarantined { reason: because() }, Some("55000")),
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
        let deprecated = Lifecycle::Deprecated { sunset: "2027-03-01".to_owned(), reason: because() };
        assert!(matches!(Terms::of(&database(deprecated)).service, Service::Warning { .. }));
    }

    #[test]
    fn every_limit_of_a_contract_is_enforced() {
        let mut shop = database(Lifecycle::Active);
        shop.contract.client_connections_max = 7;
        shop.contract.server_connections_max = 3;
        shop.contract.pooling = Pooling::Transaction;
        shop.contract.quotas.logins_per_second_max = Some(5);
        shop.contract.timeouts.query = Some(std::time::Duration::from_secs(9));
        let terms = Terms::of(&shop);
        assert_eq!((terms.client_connections_max, terms.server_connections_max), (7, 3));
        assert_eq!(terms.pooling, Pooling::Transaction);
        assert_eq!((terms.quotas, terms.timeouts), (shop.contract.quotas, shop.contract.timeouts));
        assert_eq!(
            Terms::served(100).differences(&terms),
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
