//! Which rule matches a client, and whether its certificate satisfies it.

use super::FrontendError;
use super::access::Policy;
use super::channel::Channel;
use super::opening::Startup;
use crate::auth::hba::{Caller, ClientCert, ClientName, Method, Rule, Transport};
use crate::model::{Login, Peer};
use crate::tls::ClientIdentity;

/// `login` is what is known of the role that it claims.
pub(super) fn caller<'a>(
    channel: &Channel,
    startup: &'a Startup,
    address: Peer,
    login: Option<&'a Login>,
) -> Caller<'a> {
    let transport = match address.ip() {
        None => Transport::Local,
        Some(ip) if channel.is_tls() => Transport::Tls(ip),
        Some(ip) => Transport::Plain(ip),
    };
    // As in PostgreSQL, the last parameter of a name counts: checking another than PostgreSQL uses would be a
    // hole.
    let replication = startup.message.settings().filter(|(name, _)| *name == "replication").last();
    Caller {
        transport,
        database: startup.message.database(),
        role: startup.message.role(),
        groups: login.map_or(&[], |login| &login.groups),
        replication: replication.is_some_and(|(_, value)| is_true(value)),
    }
}

/// As PostgreSQL reads a boolean, with abbreviations. `replication=database` is false: it belongs to its
/// database.
fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str| !value.is_empty() && word.starts_with(&value);
    begins("true") || begins("yes") || value == "on" || value == "1"
}

/// The rule by which this client must authenticate, or why it is refused.
pub(super) fn decide<'a>(
    policy: &'a Policy,
    caller: &Caller<'_>,
    identity: Option<&ClientIdentity>,
) -> Result<&'a Rule, FrontendError> {
    let rule = policy.rules.decide(caller).ok_or_else(|| FrontendError::NoRule { who: who(caller) })?;
    match (rule.method, caller.transport) {
        (Method::Reject, _) => return Err(FrontendError::RejectedByRule { who: who(caller) }),
        (Method::Password, Transport::Plain(_)) if !policy.cleartext_passwords => {
            return Err(FrontendError::PasswordInTheClear);
        }
        _ => {}
    }
    check_certificate(policy, rule, caller.role, identity)?;
    Ok(rule)
}

fn check_certificate(
    policy: &Policy,
    rule: &Rule,
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
fn who(caller: &Caller<'_>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_postgresql_takes_for_true_asks_for_replication() {
        for value in ["true", "TRUE", "t", "tru", "yes", "y", "Ye", "on", "1"] {
            assert!(is_true(value), "{value}");
        }
        for value in ["", "false", "f", "off", "o", "no", "0", "database", "trues", "yess"] {
            assert!(!is_true(value), "{value}");
        }
    }
}
