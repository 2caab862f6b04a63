//! Who may come in, and how each proves it: `pg_hba.conf` and `pg_ident.conf`, as PostgreSQL reads them.
//!
//! Owns the two languages ([`Rules::parse`], [`IdentMaps::parse`]) and what they decide. It deliberately reads no file and
//! checks no proof.
//!
//! # Why PostgreSQL's format
//! Who runs PostgreSQL has these files, and PgBouncer reads them, too. What cannot be kept here is refused when the file
//! is read, with the reason, and never ignored: a rule that does not hold protects nobody. So are host names: a name server
//! would decide who comes in. Who is a member of a role (`+admins`, `samerole`) was read from the database's system, with
//! its passwords.

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
pub struct Problem {
    pub line: usize,
    pub message: String,
}

/// How somebody comes.
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

/// Who comes, whereto, and how.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub transport: Transport,
    pub database: &'a str,
    pub role: &'a str,
    /// Whose member the role is, directly or through others.
    pub groups: &'a [RoleName],
    /// Asked for physical replication, which belongs to no database.
    pub replication: bool,
}

impl Caller<'_> {
    /// As PostgreSQL sees it, a role is a member of itself; a superuser is no member of everything.
    fn is_member_of(&self, role: &str) -> bool {
        self.role == role || self.groups.iter().any(|group| group.as_str() == role)
    }
}

/// The first word of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::Host => "host",
            Kind::HostSsl => "hostssl",
            Kind::HostNoSsl => "hostnossl",
        }
    }
}

/// What proves a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    ScramSha256,
    /// PostgreSQL's, too, uses SCRAM where the stored secret is a SCRAM verifier.
    Md5,
    /// The password in the clear.
    Password,
    /// A client certificate, and nothing else.
    Cert,
    Trust,
    Reject,
}

impl Method {
    /// Whether the client is to prove that it knows the role's password.
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

/// What is asked of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientCert {
    Nothing,
    /// Signed by an authority of `proxy.tls_client_ca`.
    VerifyCa,
    /// And its name stands for the role.
    VerifyFull,
}

/// Which name of a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientName {
    /// The common name of its subject.
    Cn,
    /// Any of its alternative names (DNS, email, URI). Freehold's own.
    San,
}

#[derive(Debug, Clone)]
pub(super) enum DatabaseWord {
    All,
    SameUser,
    /// The database has the name of a role that the client's is a member of.
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

/// One line.
#[derive(Debug, Clone)]
pub struct Rule {
    pub line: usize,
    pub kind: Kind,
    databases: Vec<DatabaseWord>,
    roles: Vec<RoleWord>,
    /// `None`: whatever the address.
    network: Option<Network>,
    pub method: Method,
    pub client_cert: ClientCert,
    pub client_name: ClientName,
    /// The name of an [`IdentMaps`] map.
    pub map: Option<String>,
}

impl Rule {
    fn is_for(&self, caller: &Caller<'_>) -> bool {
        let kind = match caller.transport {
            Transport::Local => self.kind == Kind::Local,
            Transport::Plain(_) => matches!(self.kind, Kind::Host | Kind::HostNoSsl),
            Transport::Tls(_) => matches!(self.kind, Kind::Host | Kind::HostSsl),
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
            (Kind::Local, _) => String::new(),
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
    fn holds(&self, caller: &Caller<'_>) -> bool {
        match self {
            DatabaseWord::Replication => caller.replication,
            // Replication belongs to no database: PostgreSQL's "all" does not mean it, either.
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
    fn holds(&self, caller: &Caller<'_>) -> bool {
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

/// With the quotes that it needs to be a name in a file.
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
pub struct Rules(Vec<Rule>);

impl Default for Rules {
    /// Where there is no file: SCRAM from everywhere to everything.
    fn default() -> Rules {
        let rule = |kind, database| Rule {
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
        let kinds = [Kind::Local, Kind::Host];
        let of = |kind| [rule(kind, DatabaseWord::All), rule(kind, DatabaseWord::Replication)];
        Rules(kinds.into_iter().flat_map(of).collect())
    }
}

impl Rules {
    /// The text of a file. Every mistake is reported.
    pub fn parse(text: &str) -> Result<Rules, Vec<Problem>> {
        parse::rules(text).map(Rules)
    }

    /// The first that is for this caller decides.
    pub fn decide(&self, caller: &Caller<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.is_for(caller))
    }

    /// Whether it matters for any rule whose member a role is.
    pub fn look_at_groups(&self) -> bool {
        let of_groups = |rule: &Rule| {
            rule.databases.iter().any(|word| matches!(word, DatabaseWord::SameRole))
                || rule.roles.iter().any(|word| matches!(word, RoleWord::MemberOf(_)))
        };
        self.0.iter().any(of_groups)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests;
