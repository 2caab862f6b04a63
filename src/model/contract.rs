//! The machine-readable promises and limits of a database.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Quotas, QuotasChange, Timeouts, TimeoutsChange};

/// A set of defaults that a database starts from. Opinionated on purpose: three, not a matrix of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Dev,
    #[default]
    Standard,
    Critical,
}

impl Tier {
    pub const ALL: [Tier; 3] = [Tier::Dev, Tier::Standard, Tier::Critical];

    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Dev => "dev",
            Tier::Standard => "standard",
            Tier::Critical => "critical",
        }
    }

    pub fn parse(text: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.as_str() == text)
    }

    /// The share of requests for which the platform does what it has to, over 30 days. `None`: no promise.
    pub fn availability_objective(self) -> Option<f64> {
        match self {
            Tier::Dev => None,
            Tier::Standard => Some(0.999),
            Tier::Critical => Some(0.9995),
        }
    }

    /// The notice period: the least number of days from a deprecation to its sunset.
    pub fn notice_days(self) -> u16 {
        match self {
            Tier::Dev => 1,
            Tier::Standard => 14,
            Tier::Critical => 30,
        }
    }
}

/// How sessions share server connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// One server connection for each session, for its whole life.
    #[default]
    Session,
    /// A server connection serves a session for one transaction.
    Transaction,
}

impl Pooling {
    pub fn as_str(self) -> &'static str {
        match self {
            Pooling::Session => "session",
            Pooling::Transaction => "transaction",
        }
    }
}

/// Changes to a contract; `None` leaves a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContractChange {
    pub tier: Option<Tier>,
    pub pooling: Option<Pooling>,
    /// Server connections in transaction pooling, at least one.
    pub pool_size: Option<u32>,
    /// Client connections, at least one.
    pub clients_max: Option<u32>,
    pub quotas: QuotasChange,
    pub timeouts: TimeoutsChange,
}

/// The promises of a database to its users, and the limits on them. Durations are stored as whole
/// milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub tier: Tier,
    pub pooling: Pooling,
    /// Client connections to the whole database; more are refused with 53300.
    pub client_connections_max: u32,
    /// Server connections that Freehold opens for it.
    pub server_connections_max: u32,
    /// How long a move waits for a transaction that runs; if it is not over then, the cutover is tried again
    /// later. It limits no transaction; `timeouts` may. Stores have it under its first name.
    #[serde(rename = "transaction_time_max")]
    pub move_transaction_wait: Duration,
    /// The longest time a move may hold a client. Beyond it the cutover is aborted and all clients go on at
    /// the source.
    pub move_pause_max: Duration,
    /// Quotas of clients, unless left to the process.
    #[serde(default)]
    pub quotas: Quotas,
    /// Timeouts of clients, unless left to the process.
    #[serde(default)]
    pub timeouts: Timeouts,
}

impl Contract {
    /// Server connections of a database when it changes to transaction pooling.
    pub const POOL_SIZE: u32 = 20;

    /// The contract after a change. A tier brings its own limits; the mode of pooling, the quotas and the
    /// timeouts are kept.
    pub fn altered(&self, change: &ContractChange) -> Contract {
        let mut next = match change.tier {
            Some(tier) => Contract { pooling: self.pooling, ..Contract::of_tier(tier) },
            None => self.clone(),
        };
        next.pooling = change.pooling.unwrap_or(self.pooling);
        next.client_connections_max = change.clients_max.unwrap_or(next.client_connections_max);
        let unasked = match (next.pooling, self.pooling) {
            (Pooling::Session, Pooling::Session) => next.server_connections_max,
            (Pooling::Session, Pooling::Transaction) => Contract::of_tier(next.tier).server_connections_max,
            (Pooling::Transaction, Pooling::Session) => Contract::POOL_SIZE,
            (Pooling::Transaction, Pooling::Transaction) => self.server_connections_max,
        };
        next.server_connections_max = change.pool_size.unwrap_or(unasked);
        next.quotas = self.quotas.altered(&change.quotas);
        next.timeouts = self.timeouts.altered(&change.timeouts);
        next
    }

    pub fn of_tier(tier: Tier) -> Contract {
        let (clients, servers, transaction_s, pause_ms) = match tier {
            Tier::Dev => (100, 100, 60, 5_000),
            Tier::Standard => (500, 500, 300, 1_000),
            Tier::Critical => (2_000, 2_000, 300, 500),
        };
        Contract {
            tier,
            pooling: Pooling::Session,
            client_connections_max: clients,
            server_connections_max: servers,
            move_transaction_wait: Duration::from_secs(transaction_s),
            move_pause_max: Duration::from_millis(pause_ms),
            quotas: Quotas::default(),
            timeouts: Timeouts::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_begins_small_and_keeps_its_size_until_it_is_told_otherwise() {
        let first = Contract::of_tier(Tier::Standard);
        let change = ContractChange::default();
        let pooled = first.altered(&ContractChange { pooling: Some(Pooling::Transaction), ..change });
        assert_eq!(
            (pooled.pooling, pooled.server_connections_max),
            (Pooling::Transaction, Contract::POOL_SIZE)
        );
        let sized = pooled.altered(&ContractChange { pool_size: Some(7), clients_max: Some(9), ..change });
        assert_eq!((sized.server_connections_max, sized.client_connections_max), (7, 9));
        let critical = sized.altered(&ContractChange { tier: Some(Tier::Critical), ..change });
        assert_eq!((critical.tier, critical.server_connections_max), (Tier::Critical, 7));
        let back = ContractChange { tier: Some(Tier::Standard), pooling: Some(Pooling::Session), ..change };
        assert_eq!(critical.altered(&back), first);
    }

    #[test]
    fn quotas_and_timeouts_stay_when_the_tier_changes() {
        let timeouts = TimeoutsChange { query: Some(Some(Duration::ZERO)), ..TimeoutsChange::default() };
        let quotas = QuotasChange { logins_per_second_max: Some(Some(7)), ..QuotasChange::default() };
        let change = ContractChange { quotas, timeouts, ..ContractChange::default() };
        let set = Contract::of_tier(Tier::Standard).altered(&change);
        let critical = set.altered(&ContractChange { tier: Some(Tier::Critical), ..Default::default() });
        assert_eq!(critical.timeouts.query, Some(Duration::ZERO));
        assert_eq!(critical.quotas.logins_per_second_max, Some(7));
    }

    #[test]
    fn a_contract_that_an_older_version_wrote_has_no_quotas_and_no_timeouts() {
        let old = r#"{"tier":"standard","pooling":"session","client_connections_max":500,
            "server_connections_max":500,"transaction_time_max":{"secs":300,"nanos":0},
            "move_pause_max":{"secs":1,"nanos":0}}"#;
        assert_eq!(serde_json::from_str::<Contract>(old).unwrap(), Contract::of_tier(Tier::Standard));
    }
}
