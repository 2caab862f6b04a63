//! Which rule matches a client, and whether its certificate satisfies it.

use super::FrontendError;
use super::access::Policy;
use super::channel::Channel;
use super::opening::Startup;
use crate::auth::hba::{ClientCert, ClientName, ConnectionAttempt, HbaRule, Method, Transport};
use crate::model::{Login, Peer};
use crate::tls::ClientIdentity;
use crate::wire::boolean::parse_bool;

/// `login` is what is known of the role that it claims.
pub(super) fn caller<'a>(
    channel: &Channel,
    startup: &'a Startup,
    address: Peer,
    login: Option<&'a Login>,
) -> ConnectionAttempt<'a> {
    let transport = match address.ip() {
        None => Transport::Local,
        Some(ip) if channel.is_tls() => Transport::Tls(ip),
        Some(ip) => Transport::Plain(ip),
    };
    // As in PostgreSQL, the last parameter of a name counts: checking another than PostgreSQL uses would be a
    // hole.
    let replication = startup.message.settings().filter(|(name, _)| *name == "replication").last();
    ConnectionAttempt {
        transport,
        database: startup.message.database(),
        role: startup.message.role(),
        groups: login.map_or(&[], |login| &login.groups),
        // `replication=database` is no boolean: it belongs to its database.
        replication: replication.is_some_and(|(_, value)| parse_bool(value) == Some(true)),
    }
}

/// The rule by which this client must authenticate, or why it is refused.
pub(super) fn decide<'a>(
    policy: &'a Policy,
    channel: &Channel,
    caller: &ConnectionAttempt<'_>,
    identity: Option<&ClientIdentity>,
) -> Result<&'a HbaRule, FrontendError> {
    let rule = policy.rules.decide(caller).ok_or_else(|| FrontendError::NoRule { who: who(caller) })?;
    match rule.method {
        Method::Reject => return Err(FrontendError::RejectedByRule { who: who(caller) }),
        // Whatever a balancer says of the way to it: from there on, the bytes are on the network.
        Method::Password if channel.is_exposed() && !policy.cleartext_passwords => {
            return Err(FrontendError::PasswordInTheClear);
        }
        _ => {}
    }
    check_certificate(policy, rule, caller.role, identity)?;
    Ok(rule)
}

fn check_certificate(
    policy: &Policy,
    rule: &HbaRule,
    role: &str,
    identity: Option<&ClientIdentity>,
) -> Result<(), FrontendError> {
    let identity = match (rule.client_cert, identity) {
        (ClientCert::Nothing, _) | (ClientCert::VerifyCa, Some(_)) => return Ok(()),
        (_, None) => return Err(FrontendError::NoCertificate),
        (ClientCert::VerifyFull, Some(identity)) => identity,
    };
    let names = match rule.client_name {
        ClientName::Cn => identity.common_name.as_slice(),
        ClientName::San => identity.alternative_names.as_slice(),
    };
    let map = rule.map.as_deref();
    match names.iter().any(|name| policy.ident.allows(map, name, role)) {
        true => Ok(()),
        false => Err(FrontendError::CertificateName { role: role.to_owned(), names: names.join(", ") }),
    }
}

/// Describes the refused client as PostgreSQL does.
fn who(caller: &ConnectionAttempt<'_>) -> String {
    let host = caller.transport.address().map_or("[local]".to_owned(), |address| address.to_string());
    let encryption = match caller.transport {
        Transport::Tls(_) => "SSL encryption",
        Transport::Plain(_) | Transport::Local => "no encryption",
    };
    match caller.replication {
        true => {
            format!("replication connection from host \"{host}\", user \"{}\", {encryption}", caller.role)
        }
        false => format!(
            "host \"{host}\", user \"{}\", database \"{}\", {encryption}",
            caller.role, caller.database
        ),
    }
}
