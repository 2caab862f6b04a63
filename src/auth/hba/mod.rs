//! Which clients may connect, and how each authenticates: `pg_hba.conf` and `pg_ident.conf`, as PostgreSQL
//! reads them.
//!
//! Owns the two file formats ([`HbaRules::parse`], [`IdentMaps::parse`]) and what they decide. It
//! deliberately reads no file and verifies no password or certificate.
//!
//! # Why PostgreSQL's format
//! Operators of PostgreSQL have these files, and PgBouncer reads them, too. A line that cannot be honoured
//! here is refused when the file is read, with the reason, and never ignored: a rule without effect protects
//! nothing. Host names are refused as well, because a name server would decide which clients connect. Role
//! membership (`+admins`, `samerole`) is read from the database's system, together with its passwords.

mod ident;
mod parse;
pub(super) mod words;

use std::fmt;
use std::net::IpAddr;

use regex::Regex;

use crate::model::{Network, RoleName};
pub use ident::IdentMaps;

/// A mistake in a file, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaError {
    pub line: usize,
    pub message: String,
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A Unix socket.
    Local,
    Plain(IpAddr),
    Tls(IpAddr),
}

impl Transport {
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Transport::Local => None,
            Transport::Plain(address) | Transport::Tls(address) => Some(address.to_canonical()),
        }
    }
}

/// The client, the database it asks for, and its transport.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionAttempt<'a> {
    pub transport: Transport,
    pub database: &'a str,
    pub role: &'a str,
    /// The roles that the role is a member of, directly or indirectly.
    pub groups: &'a [RoleName],
    /// The client asked for physical replication, which belongs to no database.
    pub replication: bool,
}

impl ConnectionAttempt<'_> {
    /// As in PostgreSQL, a role is a member of itself, and a superuser is not a member of every role.
    fn is_member_of(&self, role: &str) -> bool {
        self.role == role || self.groups.iter().any(|group| group.as_str() == role)
    }
}

/// The first field of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionType {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

impl ConnectionType {
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionType::Local => "local",
            ConnectionType::Host => "host",
            ConnectionType::HostSsl => "hostssl",
            ConnectionType::HostNoSsl => "hostnossl",
        }
    }
}

/// How a client authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    ScramSha256,
    /// As in PostgreSQL, uses SCRAM if the stored secret is a SCRAM verifier.
    Md5,
    /// The password in clear text.
    Password,
    /// A client certificate, without a password.
    Cert,
    Trust,
    Reject,
}

impl Method {
    /// Whether the client must prove that it knows the role's password.
    pub fn needs_password(self) -> bool {
        match self {
            Method::ScramSha256 | Method::Md5 | Method::Password => true,
            Method::Cert | Method::Trust | Method::Reject => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Method::ScramSha256 => "scram-sha-256",
            Method::Md5 => "md5",
            Method::Password => "password",
            Method::Cert => "cert",
            Method::Trust => "trust",
            Method::Reject => "reject",
        }
    }
}

/// What a rule requires of a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientCert {
    Nothing,
    /// Signed by a certificate authority of `proxy.tls_client_ca`.
    VerifyCa,
    /// In addition, its name must map to the role.
    VerifyFull,
}

/// Which name of a certificate is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientName {
    /// The common name of its subject.
    Cn,
    /// Any of its subject alternative names (DNS, email, URI). PostgreSQL has no such option.
    San,
}

#[derive(Debug, Clone)]
pub(super) enum DatabaseWord {
    All,
    SameUser,
    /// The role is a member of a role with the database's name.
    SameRole,
    Replication,
    Name(String),
    Pattern(Regex),
}

#[derive(Debug, Clone)]
pub(super) enum RoleWord {
    All,
    Name(String),
    /// `+name`
    MemberOf(String),
    Pattern(Regex),
}

/// One line of the file.
#[derive(Debug, Clone)]
pub struct HbaRule {
    pub line: usize,
    pub kind: ConnectionType,
    databases: Vec<DatabaseWord>,
    roles: Vec<RoleWord>,
    /// `None`: any address.
    network: Option<Network>,
    pub method: Method,
    pub client_cert: ClientCert,
    pub client_name: ClientName,
    /// The name of an [`IdentMaps`] map.
    pub map: Option<String>,
}

impl HbaRule {
    fn is_for(&self, caller: &ConnectionAttempt<'_>) -> bool {
        let kind = match caller.transport {
            Transport::Local => self.kind == ConnectionType::Local,
            Transport::Plain(_) => matches!(self.kind, ConnectionType::Host | ConnectionType::HostNoSsl),
            Transport::Tls(_) => matches!(self.kind, ConnectionType::Host | ConnectionType::HostSsl),
        };
        let from_there =
            |network: Network| caller.transport.address().is_some_and(|from| network.holds(from));
        kind && self.network.is_none_or(from_there)
            && self.databases.iter().any(|word| word.holds(caller))
            && self.roles.iter().any(|word| word.holds(caller))
    }

    /// As SHOW HBA writes them: databases, roles, address, options.
    pub fn shown(&self) -> [String; 4] {
        let list = |words: Vec<String>| words.join(",");
        let address = match (self.kind, self.network) {
            (ConnectionType::Local, _) => String::new(),
            (_, None) => "all".to_owned(),
            (_, Some(network)) => network.to_string(),
        };
        let cert = match (self.method, self.client_cert) {
            (Method::Cert, _) | (_, ClientCert::Nothing) => None,
            (_, ClientCert::VerifyCa) => Some("clientcert=verify-ca".to_owned()),
            (_, ClientCert::VerifyFull) => Some("clientcert=verify-full".to_owned()),
        };
        let name = (self.client_name == ClientName::San).then(|| "clientname=SAN".to_owned());
        let map = self.map.as_ref().map(|map| format!("map={map}"));
        [
            list(self.databases.iter().map(ToString::to_string).collect()),
            list(self.roles.iter().map(ToString::to_string).collect()),
            address,
            list([cert, name, map].into_iter().flatten().collect()),
        ]
    }
}

impl DatabaseWord {
    fn holds(&self, caller: &ConnectionAttempt<'_>) -> bool {
        match self {
            DatabaseWord::Replication => caller.replication,
            // Replication belongs to no database: PostgreSQL's "all" does not match it, either.
            _ if caller.replication => false,
            DatabaseWord::All => true,
            DatabaseWord::SameUser => caller.database == caller.role,
            DatabaseWord::SameRole => caller.is_member_of(caller.database),
            DatabaseWord::Name(name) => caller.database == name,
            DatabaseWord::Pattern(pattern) => pattern.is_match(caller.database),
        }
    }
}

impl RoleWord {
    fn holds(&self, caller: &ConnectionAttempt<'_>) -> bool {
        match self {
            RoleWord::All => true,
            RoleWord::Name(name) => caller.role == name,
            RoleWord::MemberOf(role) => caller.is_member_of(role),
            RoleWord::Pattern(pattern) => pattern.is_match(caller.role),
        }
    }
}

const DATABASE_KEYWORDS: [&str; 5] = ["all", "sameuser", "samerole", "samegroup", "replication"];
const ROLE_KEYWORDS: [&str; 1] = ["all"];

/// Quotes the name if a file needs it.
fn write_name(f: &mut fmt::Formatter<'_>, name: &str, keywords: &[&str]) -> fmt::Result {
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    match name.chars().all(is_plain) && !keywords.contains(&name) {
        true => f.write_str(name),
        false => write!(f, "\"{}\"", name.replace('"', "\"\"")),
    }
}

impl fmt::Display for DatabaseWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseWord::All => f.write_str("all"),
            DatabaseWord::SameUser => f.write_str("sameuser"),
            DatabaseWord::SameRole => f.write_str("samerole"),
            DatabaseWord::Replication => f.write_str("replication"),
            DatabaseWord::Name(name) => write_name(f, name, &DATABASE_KEYWORDS),
            DatabaseWord::Pattern(pattern) => write!(f, "/{pattern}"),
        }
    }
}

impl fmt::Display for RoleWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleWord::All => f.write_str("all"),
            RoleWord::Name(name) => write_name(f, name, &ROLE_KEYWORDS),
            RoleWord::MemberOf(role) => write!(f, "+{role}"),
            RoleWord::Pattern(pattern) => write!(f, "/{pattern}"),
        }
    }
}

/// All rules, in order.
#[derive(Debug, Clone)]
pub struct HbaRules(Vec<HbaRule>);

impl Default for HbaRules {
    /// Without a file: SCRAM for every database and role, from any address.
    fn default() -> HbaRules {
        let rule = |kind, database| HbaRule {
            line: 0,
            kind,
            databases: vec![database],
            roles: vec![RoleWord::All],
            network: None,
            method: Method::ScramSha256,
            client_cert: ClientCert::Nothing,
            client_name: ClientName::Cn,
            map: None,
        };
        let kinds = [ConnectionType::Local, ConnectionType::Host];
        let of = |kind| [rule(kind, DatabaseWord::All), rule(kind, DatabaseWord::Replication)];
        HbaRules(kinds.into_iter().flat_map(of).collect())
    }
}

impl HbaRules {
    /// Parses the text of a file. Reports every mistake.
    pub fn parse(text: &str) -> Result<HbaRules, Vec<HbaError>> {
        parse::rules(text).map(HbaRules)
    }

    /// The first rule that matches the caller.
    pub fn decide(&self, caller: &ConnectionAttempt<'_>) -> Option<&HbaRule> {
        self.0.iter().find(|rule| rule.is_for(caller))
    }

    /// Whether any rule depends on role membership.
    pub fn look_at_groups(&self) -> bool {
        let of_groups = |rule: &HbaRule| {
            rule.databases.iter().any(|word| matches!(word, DatabaseWord::SameRole))
                || rule.roles.iter().any(|word| matches!(word, RoleWord::MemberOf(_)))
        };
        self.0.iter().any(of_groups)
    }

    pub fn iter(&self) -> impl Iterator<Item = &HbaRule> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests;
