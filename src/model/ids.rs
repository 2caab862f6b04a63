//! Names and numbers that identify things. A value of one of these types is proof of the check.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// PostgreSQL's NAMEDATALEN - 1: the server truncates longer identifiers, so they are refused here.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {kind} name is empty")]
    Empty { kind: &'static str },
    #[error("{kind} name \"{name}\" is longer than {NAME_BYTES_MAX} bytes")]
    TooLong { kind: &'static str, name: String },
    #[error("{kind} name \"{name}\" contains {found:?}")]
    Character { kind: &'static str, name: String, found: char },
    #[error("{kind} name \"{name}\" is reserved")]
    Reserved { kind: &'static str, name: String },
}

fn check_identifier(kind: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { kind, name: name.to_owned() });
    }
    match name.chars().find(|c| c.is_control()) {
        Some(found) => Err(NameError::Character { kind, name: name.to_owned(), found }),
        None => Ok(()),
    }
}

/// Names of Freehold's own things (systems, teams) are plain words: they appear in keys of the store, in
/// metrics and on command lines.
fn check_word(kind: &'static str, name: &str) -> Result<(), NameError> {
    check_identifier(kind, name)?;
    let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    match name.chars().find(|&c| odd(c)) {
        Some(found) => Err(NameError::Character { kind, name: name.to_owned(), found }),
        None => Ok(()),
    }
}

fn check_database(name: &str) -> Result<(), NameError> {
    check_identifier("database", name)?;
    if let Some(found) = name.chars().find(|&c| c == '/') {
        return Err(NameError::Character { kind: "database", name: name.to_owned(), found });
    }
    match name {
        "freehold" | "pgbouncer" => Err(NameError::Reserved { kind: "database", name: name.to_owned() }),
        _ => Ok(()),
    }
}

/// Names of the admin port's users: in the audit trail, `freehold` is Freehold itself.
fn check_user(name: &str) -> Result<(), NameError> {
    check_identifier("user", name)?;
    match name {
        "freehold" => Err(NameError::Reserved { kind: "user", name: name.to_owned() }),
        _ => Ok(()),
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn parse(name: &str) -> Result<$name, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(name)?;
                Ok($name(name.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<$name, NameError> {
                $name::parse(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<$name, NameError> {
                $name::parse(name)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// The name an application connects to. Unique, may change; the [`DatabaseId`] does not.
    DatabaseName, "database", check_database;
    /// A PostgreSQL role, as the client names it in its startup packet.
    RoleName, "role", |name| check_identifier("role", name);
    /// A PostgreSQL server that can hold databases.
    SystemName, "system", |name| check_word("system", name);
    /// An owner.
    TeamName, "team", |name| check_word("team", name);
    /// A person or a service that logs in to the admin port.
    UserName, "user", check_user;
    /// The product's id, `db_` and a ULID: survives moves, renames, archival.
    DatabaseId, "database id", |name| check_identifier("database id", name);
    /// One proxy process of the fleet.
    ProxyId, "proxy id", |name| check_word("proxy id", name);
}

impl DatabaseId {
    /// A new id. `ulid` is an argument because randomness is one.
    pub fn from_ulid(ulid: ulid::Ulid) -> DatabaseId {
        DatabaseId(format!("db_{}", ulid.to_string().to_lowercase()))
    }
}

/// The number of a move; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub u64);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Distinguishes one Freehold's objects on a system from another's: chosen at random when a store is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId([u8; StoreId::BYTES]);

impl StoreId {
    pub const BYTES: usize = 8;
    /// The digits of a ULID in lower case: no two look alike.
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// A new id. The bytes are an argument because randomness is one.
    pub fn from_random(bytes: [u8; StoreId::BYTES]) -> StoreId {
        StoreId(bytes.map(|byte| StoreId::DIGITS[usize::from(byte) % StoreId::DIGITS.len()]))
    }

    pub fn parse(text: &str) -> Result<StoreId, StoreIdError> {
        let refused = || StoreIdError(text.to_owned());
        let bytes: [u8; StoreId::BYTES] = text.as_bytes().try_into().map_err(|_| refused())?;
        match bytes.iter().all(|byte| StoreId::DIGITS.contains(byte)) {
            true => Ok(StoreId(bytes)),
            false => Err(refused()),
        }
    }
}

/// The text is not the id of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the id of a store")]
pub struct StoreIdError(String);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for StoreId {
    type Error = StoreIdError;
    fn try_from(text: String) -> Result<StoreId, StoreIdError> {
        StoreId::parse(&text)
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> String {
        id.to_string()
    }
}

/// The fencing token of a placement: grows by one each time the database changes its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const FIRST: Epoch = Epoch(1);

    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in the write-ahead log, in bytes. Written and read as PostgreSQL does: `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to `self`; 0 if `self` is not ahead.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a position in the write-ahead log")]
pub struct LsnError(String);

impl FromStr for Lsn {
    type Err = LsnError;
    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?))
        });
        match halves {
            Some((high, low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            None => Err(LsnError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;
    fn try_from(text: String) -> Result<Lsn, LsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

/// Wall-clock time in milliseconds since 1970, for records that outlive a process. Never used to measure a
/// duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    pub fn now() -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn after(self, wait: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    pub fn until(self, later: UnixMillis) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

/// `2026-11-23T20:45:53.120Z`
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.to_system_time()))
    }
}

/// The address of a PostgreSQL server. Never shown to a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// A host name, an IP address, or the directory of a unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
}

impl Address {
    /// The directory of a Unix socket: no other machine can answer there.
    pub fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// libpq's `sslmode` without `allow`, which protects nothing. See "SSL Support", table 34.1 of the PostgreSQL
/// manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }

    pub fn parse(text: &str) -> Option<SslMode> {
        [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

/// The weakest authentication method that a system may ask for. Each one allows those above it.
///
/// A method below `Scram` gives the server, or an attacker in its place, something with which to log in as
/// the role: it is allowed only for a system that has proved its identity first. See `backend::login`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerAuth {
    /// SCRAM-SHA-256, with channel binding where it is available.
    #[default]
    Scram,
    Md5,
    /// The password itself.
    Password,
}

impl ServerAuth {
    pub fn as_str(self) -> &'static str {
        match self {
            ServerAuth::Scram => "scram",
            ServerAuth::Md5 => "md5",
            ServerAuth::Password => "password",
        }
    }

    pub fn parse(text: &str) -> Option<ServerAuth> {
        [ServerAuth::Scram, ServerAuth::Md5, ServerAuth::Password]
            .into_iter()
            .find(|auth| auth.as_str() == text)
    }

    /// Whether the method is safe for a system with this address and mode: its certificate is verified at
    /// each connection, or it is on this machine and only a user with write permission on its directory can
    /// answer in its place.
    pub fn suits(self, address: &Address, sslmode: SslMode) -> bool {
        let proven = matches!(sslmode, SslMode::VerifyCa | SslMode::VerifyFull) || address.is_local();
        self == ServerAuth::Scram || proven
    }
}

/// A name as it can be typed in a command.
pub fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    match starts && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_and_writes_as_postgresql_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.0, 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16".parse::<Lsn>().is_err());
        assert!("x/1".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_stores_id_is_a_word_of_eight_characters() {
        let id = StoreId::from_random([0, 31, 32, 255, 7, 8, 9, 10]);
        assert_eq!(id.to_string(), "0z0z789a");
        assert_eq!(StoreId::parse("0z0z789a"), Ok(id));
        for wrong in ["0z0z789", "0z0z789A", "0z0z789il", "0z0z78_1"] {
            assert!(StoreId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_postgresql_would_cut_is_refused() {
        assert!(DatabaseName::parse(&"a".repeat(63)).is_ok());
        assert!(matches!(DatabaseName::parse(&"a".repeat(64)), Err(NameError::TooLong { .. })));
        assert!(matches!(DatabaseName::parse(""), Err(NameError::Empty { .. })));
        assert!(matches!(DatabaseName::parse("a\0b"), Err(NameError::Character { .. })));
        assert!(matches!(DatabaseName::parse("freehold"), Err(NameError::Reserved { .. })));
        assert!(DatabaseName::parse("Über den Wolken").is_ok());
        assert!(SystemName::parse("PG17").is_err());
    }
}
