//! The keys of the store. Every value is JSON, so that people can read `etcdctl get --prefix`.
//!
//! ```text
//! team/<team>                      TeamRecord
//! system/<system>                  SystemRecord
//! database/<database id>           DatabaseRecord
//! name/<database name>             database id (uniqueness: written with "must be absent")
//! route/<database id>              RouteRecord         the fleet reads these two prefixes
//! login/<database id>/<role>       Login
//! move/<move id, 12 digits>        MoveRecord
//! operation/<kind>/<id, 12 digits>  DatabaseOperation  CREATE, DROP and ADOPT DATABASE
//! progress/<move id>               MoveProgress        not durable
//! tables/<move id>                 ComparedTables      the comparison of a move, table by table
//! proxy/<proxy>/self               ProxyRecord         a proxy writes only below its own prefix
//! proxy/<proxy>/ack/<database id>  Ack                 not durable
//! audit/<time, 15 digits>-<ulid>   AuditEntry
//! counter/<name>                   u64
//! store/id                         StoreId: part of the names of what this store's moves make on systems
//! store/login_nonce                32 bytes, secret: what made-up salts are computed from
//! ```
//!
//! # Why
//! Prefixes follow write permissions: etcd's access control works on key ranges, and a sidecar may read
//! `route/` and `login/` and write `proxy/<itself>/`, nothing else.

use crate::model::{
    DatabaseId, DatabaseName, MoveId, OperationId, OperationKind, ProxyId, RoleName, SystemName, TeamName,
    UnixMillis,
};

pub const TEAMS: &str = "team/";
pub const SYSTEMS: &str = "system/";
pub const DATABASES: &str = "database/";
pub const NAMES: &str = "name/";
pub const ROUTES: &str = "route/";
pub const LOGINS: &str = "login/";
pub const MOVES: &str = "move/";
pub const OPERATIONS: &str = "operation/";
pub const PROGRESS: &str = "progress/";
pub const TABLES: &str = "tables/";
pub const PROXIES: &str = "proxy/";
pub const AUDIT: &str = "audit/";
pub const STORE_ID: &str = "store/id";
pub const LOGIN_NONCE: &str = "store/login_nonce";

pub fn team(name: &TeamName) -> String {
    format!("{TEAMS}{name}")
}

pub fn system(name: &SystemName) -> String {
    format!("{SYSTEMS}{name}")
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

pub fn ack(proxy: &ProxyId, database: &DatabaseId) -> String {
    format!("{PROXIES}{proxy}/ack/{database}")
}

/// The database that an acknowledgement is about, from its key: `proxy/<proxy>/ack/<database id>`.
pub fn acknowledged_database(key: &str) -> Option<&str> {
    let (_proxy, rest) = key.strip_prefix(PROXIES)?.split_once('/')?;
    rest.strip_prefix("ack/")
}

/// `true` for `proxy/<proxy>/self`.
pub fn is_proxy(key: &str) -> bool {
    key.strip_prefix(PROXIES).and_then(|rest| rest.split_once('/')).is_some_and(|(_, rest)| rest == "self")
}

/// The database and role of `login/<database id>/<role>`. The name of a role may contain slashes, an id does
/// not.
pub fn login_of(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(LOGINS)?.split_once('/')
}

pub fn acks_of_proxy(proxy: &ProxyId) -> String {
    format!("{PROXIES}{proxy}/ack/")
}

pub fn audit(at: UnixMillis, id: ulid::Ulid) -> String {
    format!("{AUDIT}{:015}-{id}", at.0)
}

pub fn counter(name: &str) -> String {
    format!("counter/{name}")
}
