//! The keys of the store. Every value is JSON, so that people can read `etcdctl get --prefix`.
//!
//! ```text
//! team/<team>                      TeamRecord
//! system/<system>                  SystemRecord
//! user/<user>                      UserRecord          users of the admin port, with their grants
//! database/<database id>           DatabaseRecord
//! name/<database name>             database id (uniqueness: written with "must be absent")
//! route/<database id>              RouteRecord         the fleet reads these two prefixes
//! login/<database id>/<role>       Login
//! move/<move id, 12 digits>        MoveRecord
//! operation/<kind>/<id, 12 digits>  DatabaseOperation  CREATE, DROP and ADOPT DATABASE
//! progress/<move id>               MoveProgress        not durable
//! tables/<move id>                 ComparedTables      the comparison of a move, table by table
//! proxy/<proxy>/self               ProxyRecord         under the lease of the proxy
//! ack/<database id>/<proxy>        Ack                 under the lease of the proxy, not durable
//! audit/<time, 15 digits>-<ulid>   AuditEntry
//! audit_link/<number, 15 digits>    the digests of the audit entries of one commit: see `chain`
//! measured/<database id>/<span>/<number, 10 digits>  Measured
//! counter/<name>                   u64
//! store/id                         StoreId: part of the names of what this store's moves make on systems
//! store/login_nonce                32 bytes, secret: what made-up salts are computed from
//! ```
//!
//! # Why
//! Prefixes follow permissions: etcd's access control works on ranges of keys. A sidecar of a database may
//! read `route/<database id>` and `login/<database id>/`, write `proxy/<itself>/` and the one key
//! `ack/<database id>/<itself>`, nothing else.
//!
//! # Why an acknowledgement is below its database
//! An order to one database waits for the answers about that database: it reads and watches
//! `ack/<database id>/`, which holds nothing else. Below the proxy (`proxy/<proxy>/ack/<database id>`, as
//! older versions had it) it would have to read and watch the answers about all databases, or one key for
//! each proxy.
//!
//! The price is the permission to write. Below the proxy, one range covers all acknowledgements of a proxy;
//! below the database it is one exact key for each database of the proxy. That costs no more administration:
//! a proxy needs `route/` and `login/` of each of its databases, and the key is granted together with these.
//! A proxy of all databases gets the range `ack/` as it gets the ranges `route/` and `login/`: it is trusted
//! with every login already. What counts is the proxy in the key, which etcd has checked, not the one in the
//! value.

use crate::model::{
    DatabaseId, DatabaseName, MoveId, OperationId, OperationKind, ProxyId, RoleName, Span, SystemName,
    TeamName, UnixMillis, UserName,
};

pub const TEAMS: &str = "team/";
pub const SYSTEMS: &str = "system/";
pub const USERS: &str = "user/";
pub const DATABASES: &str = "database/";
pub const NAMES: &str = "name/";
pub const ROUTES: &str = "route/";
pub const LOGINS: &str = "login/";
pub const MOVES: &str = "move/";
pub const OPERATIONS: &str = "operation/";
pub const PROGRESS: &str = "progress/";
pub const TABLES: &str = "tables/";
pub const PROXIES: &str = "proxy/";
pub const ACKS: &str = "ack/";
pub const AUDIT: &str = "audit/";
pub const AUDIT_LINKS: &str = "audit_link/";
pub const MEASURED: &str = "measured/";
pub const STORE_ID: &str = "store/id";
pub const LOGIN_NONCE: &str = "store/login_nonce";

pub fn team(name: &TeamName) -> String {
    format!("{TEAMS}{name}")
}

pub fn system(name: &SystemName) -> String {
    format!("{SYSTEMS}{name}")
}

pub fn user(name: &UserName) -> String {
    format!("{USERS}{name}")
}

pub fn database(id: &DatabaseId) -> String {
    format!("{DATABASES}{id}")
}

pub fn name(name: &DatabaseName) -> String {
    format!("{NAMES}{name}")
}

pub fn route(id: &DatabaseId) -> String {
    format!("{ROUTES}{id}")
}

pub fn logins_of(id: &DatabaseId) -> String {
    format!("{LOGINS}{id}/")
}

pub fn login(id: &DatabaseId, role: &RoleName) -> String {
    format!("{LOGINS}{id}/{role}")
}

pub fn movement(id: MoveId) -> String {
    format!("{MOVES}{:012}", id.0)
}

/// The prefix of all operations of a kind that have their records here: of all but moves.
pub fn operations(kind: OperationKind) -> String {
    format!("{OPERATIONS}{}/", kind.as_str())
}

pub fn operation(kind: OperationKind, id: OperationId) -> String {
    format!("{OPERATIONS}{}/{:012}", kind.as_str(), id.0)
}

pub fn progress(id: MoveId) -> String {
    format!("{PROGRESS}{:012}", id.0)
}

pub fn tables(id: MoveId) -> String {
    format!("{TABLES}{:012}", id.0)
}

pub fn proxy(id: &ProxyId) -> String {
    format!("{PROXIES}{id}/self")
}

pub fn ack(database: &DatabaseId, proxy: &ProxyId) -> String {
    format!("{ACKS}{database}/{proxy}")
}

/// The prefix of the acknowledgements of a database, by all proxies.
pub fn acks_of(database: &DatabaseId) -> String {
    format!("{ACKS}{database}/")
}

/// The proxy of `proxy/<proxy>/self`.
pub fn proxy_of(key: &str) -> Option<ProxyId> {
    let (proxy, rest) = key.strip_prefix(PROXIES)?.split_once('/')?;
    (rest == "self").then(|| ProxyId::parse(proxy).ok()).flatten()
}

/// The proxy of `ack/<database id>/<proxy>`.
pub fn acknowledging_proxy(key: &str) -> Option<ProxyId> {
    let (_database, proxy) = key.strip_prefix(ACKS)?.split_once('/')?;
    ProxyId::parse(proxy).ok()
}

/// The database and role of `login/<database id>/<role>`. The name of a role may contain slashes, an id does
/// not.
pub fn login_of(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(LOGINS)?.split_once('/')
}

pub fn audit(at: UnixMillis, id: ulid::Ulid) -> String {
    format!("{AUDIT}{:015}-{id}", at.0)
}

/// Sorts after every entry of earlier times, and before every entry of this time.
pub fn audit_since(at: UnixMillis) -> String {
    format!("{AUDIT}{:015}", at.0)
}

pub fn audit_link(sequence: u64) -> String {
    format!("{AUDIT_LINKS}{sequence:015}")
}

/// The number of `audit_link/<number>`.
pub fn sequence_of_link(key: &str) -> Option<u64> {
    key.strip_prefix(AUDIT_LINKS)?.parse().ok()
}

/// The prefix of all measurements of a database.
pub fn measured_of(database: &DatabaseId) -> String {
    format!("{MEASURED}{database}/")
}

/// The prefix of the measurements of a database in spans of one width.
pub fn measured_in(database: &DatabaseId, span: Span) -> String {
    format!("{MEASURED}{database}/{}/", span.as_str())
}

/// `number` since 1970.
pub fn measured(database: &DatabaseId, span: Span, number: u64) -> String {
    format!("{}{number:010}", measured_in(database, span))
}

/// The database of `measured/<database id>/...`.
pub fn measured_database(key: &str) -> Option<DatabaseId> {
    let (database, _) = key.strip_prefix(MEASURED)?.split_once('/')?;
    DatabaseId::parse(database).ok()
}

/// The move of `progress/<move id>`.
pub fn move_of_progress(key: &str) -> Option<MoveId> {
    key.strip_prefix(PROGRESS)?.parse().ok().map(MoveId)
}

pub fn counter(name: &str) -> String {
    format!("counter/{name}")
}
