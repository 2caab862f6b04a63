//! What the fleet knows of a database, and how a proxy acknowledges it.
//!
//! ```text
//!              control                              every proxy
//!   order 7: open, next = target     ->   opens twins        -> ack 7 ready
//!   order 8: latched                 ->   no new server connection
//!   order 9: held until T            ->   gate shut, drained -> ack 9 ready, with server pids
//!   order 10: open, epoch + 1        ->   sessions switch    -> ack 10 ready, with stalls
//!   (or order 10: open, same epoch: the hold was aborted, all sessions go on at the source)
//! ```
//!
//! # Why
//! One record holds all that a proxy needs for one database. So a flip is one compare-and-swap of one key, a
//! proxy never joins records that changed at different revisions, and a sidecar's store account needs to read
//! only one prefix.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    DatabaseId, DatabaseName, DatabaseRecord, Epoch, MoveId, Place, ProxyId, RoleName, ServiceTerms,
    UnixMillis,
};
use crate::error::{Refusal, SqlState};

/// Key `route/<database id>`. Written by the control plane only, always by compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    pub database: DatabaseId,
    pub name: DatabaseName,
    pub epoch: Epoch,
    /// Where the database is.
    pub place: Place,
    /// Where it may be soon. While set, every session keeps a twin connection there.
    pub next: Option<Place>,
    /// Grows by one with each write of this record; an [`Ack`] names the order it answers.
    pub order: u64,
    pub gate: GateOrder,
    /// What is enforced. Derived from the database's record, never set on its own.
    #[serde(flatten)]
    pub terms: ServiceTerms,
    /// Whether new clients may connect.
    #[serde(default)]
    #[serde(rename = "door")]
    pub new_clients: NewClients,
    /// Grows by one with each RECONNECT: server connections of an older generation are replaced as soon as
    /// possible.
    #[serde(default)]
    pub generation: u64,
}

impl RouteRecord {
    /// The route of a new database.
    pub fn of(database: &DatabaseRecord, place: Place) -> RouteRecord {
        let first = RouteRecord::first(database.id.clone(), database.name.clone(), place, 0);
        RouteRecord { terms: ServiceTerms::of(database), ..first }
    }

    /// Served at `place`, not held, with session pooling.
    pub fn first(
        database: DatabaseId,
        name: DatabaseName,
        place: Place,
        client_connections_max: u32,
    ) -> RouteRecord {
        RouteRecord {
            database,
            name,
            epoch: Epoch::FIRST,
            place,
            next: None,
            order: 1,
            gate: GateOrder::Open,
            terms: ServiceTerms::served(client_connections_max),
            new_clients: NewClients::Open,
            generation: 0,
        }
    }

    /// Whether a server connection opened under this record goes to where the database is served now.
    pub fn is_in_force(&self, now: &RouteRecord) -> bool {
        self.epoch == now.epoch && self.generation == now.generation && now.terms.service.refusal().is_none()
    }

    /// The refusal of a client that connects now, if any.
    pub fn login_refusal(&self) -> Option<Refusal> {
        let disabled = (self.new_clients == NewClients::Disabled).then(|| {
            let text = format!("database \"{}\" takes no new connections", self.name);
            Refusal::fatal(SqlState::CANNOT_CONNECT_NOW, text)
                .with_detail("It was disabled by an administrator. Connections that exist go on.")
                .with_hint("Connect again later, or ask the platform team.")
        });
        self.terms.service.refusal().or(disabled)
    }
}

/// Whether new clients may connect; connected ones stay either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewClients {
    #[default]
    Open,
    /// Set by DISABLE, until ENABLE.
    Disabled,
}

/// The state that the gate of a database must take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "lowercase")]
pub enum GateOrder {
    Open,
    /// Sessions go on; no new server connection is opened, new clients wait. Set while the source is being
    /// fenced.
    Latched {
        by: HoldReason,
    },
    /// No transaction starts; running ones finish. After `until` any process may abort the hold by
    /// compare-and-swap.
    Held {
        by: HoldReason,
        until: Option<UnixMillis>,
    },
}

/// The cause of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "holder", rename_all = "lowercase")]
pub enum HoldReason {
    Move {
        id: MoveId,
    },
    /// PAUSE by an administrator.
    Pause,
}

/// Key `login/<database id>/<role>`: how a proxy authenticates a role. The verifier is the system's own
/// (`pg_authid.rolpassword`), so the key learned from the client's proof authenticates to the server, too.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub role: RoleName,
    /// `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`, `md5...`, or None if the role has no password.
    pub verifier: Option<String>,
    pub can_login: bool,
    /// It has CONNECT on the database.
    #[serde(default = "granted", skip_serializing_if = "bool::clone")]
    pub can_connect: bool,
    pub superuser: bool,
    /// `rolvaliduntil`; None means infinity.
    pub valid_until: Option<UnixMillis>,
    /// The roles that it is a member of, directly or indirectly, sorted.
    #[serde(default)]
    pub groups: Vec<RoleName>,
}

/// Older stores hold only roles that may connect; such a role is stored as they stored it.
fn granted() -> bool {
    true
}

impl Login {
    /// Whether PostgreSQL lets the role in, once it is authenticated.
    pub fn may_log_in(&self) -> bool {
        self.can_login && self.can_connect
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("role", &self.role)
            .field("verifier", &self.verifier.as_ref().map(|_| "..."))
            .field("can_login", &self.can_login)
            .field("can_connect", &self.can_connect)
            .finish_non_exhaustive()
    }
}

/// Key `proxy/<proxy>/self`: a proxy of the fleet, which must acknowledge every order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    pub id: ProxyId,
    /// The version of Freehold that it runs.
    pub version: String,
    pub started_at: UnixMillis,
    /// The address for clients, as configured.
    pub data_address: String,
}

/// Key `ack/<database id>/<proxy>`: how far one proxy has carried out an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub proxy: ProxyId,
    pub database: DatabaseId,
    /// The [`RouteRecord::order`] that this answers.
    pub order: u64,
    pub stage: AckStage,
    /// Client sessions on this database.
    pub sessions: u32,
    /// Sessions for which the order is not done yet: a twin is missing, or a transaction runs.
    pub waiting: u32,
    /// Sessions that cannot change their server connection, and why.
    pub pinned: Vec<Pinned>,
    /// Backends of this proxy on the system where the database is now; all are idle once a hold is `Done`.
    pub server_pids: Vec<i32>,
    /// The waits of the hold that ended with this order.
    pub stall: Option<StallReport>,
    pub at: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckStage {
    /// The order is known and in progress.
    Seen,
    /// Carried out: twins ready and states saved; or drained and held; or every session is on the new epoch.
    Done,
}

/// A session that cannot change its server connection now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    pub session: u64,
    pub role: String,
    pub application_name: String,
    pub client: String,
    /// `temporary table "cart"`, `cursor "c" WITH HOLD`, `transaction open for 12 s`
    pub reason: String,
}

/// How long clients waited at a closed gate: from the first byte of a request to its release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallReport {
    /// Requests that waited.
    pub held: u32,
    pub longest: Duration,
    pub median: Duration,
    /// Each wait in microseconds, longest first, at most 1000.
    pub waits_us: Vec<u64>,
    /// Sessions that were asked for their state during the hold, because it was not known.
    #[serde(default)]
    pub asked: u32,
    /// From the closing of the gate until the last running transaction ended.
    #[serde(default)]
    pub drained_in: Duration,
}
