//! The machine-readable promises and limits of a database.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
}

/// How sessions share server connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// One server connection for each session, for its whole life.
    #[default]
    Session,
    /// A server connection is lent for one transaction.
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

/// What is promised of a database and asked of its users. Durations are stored as whole milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub tier: Tier,
    pub pooling: Pooling,
    /// Client connections in the whole database; more are refused with 53300.
    pub client_connections_max: u32,
    /// Server connections that Freehold opens for it.
    pub server_connections_max: u32,
    /// The longest transaction a move waits for; a longer one makes the cutover try again later.
    pub transaction_time_max: Duration,
    /// The longest a client may be held by a move. Past it the cutover is aborted and everyone goes on at the source.
    pub move_pause_max: Duration,
}

impl Contract {
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
            transaction_time_max: Duration::from_secs(transaction_s),
            move_pause_max: Duration::from_millis(pause_ms),
        }
    }
}
