//! Parses lines into rules.

use regex::Regex;

use super::words::{self, Field, Line, Word};
use super::{ClientCert, ClientName, ConnectionType, DatabaseWord, HbaError, HbaRule, Method, RoleWord};
use crate::model::Network;

/// The largest compiled size of a pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(super) fn rules(text: &str) -> Result<Vec<HbaRule>, Vec<HbaError>> {
    let mut rules = Vec::new();
    let mut problems = Vec::new();
    for line in words::lines(text) {
        let number = match &line {
            Ok(line) => line.number,
            Err(number) => *number,
        };
        let read = line.map_err(|_| "a quote is not closed".to_owned()).and_then(|line| rule(&line));
        match read {
            Ok(rule) => rules.push(rule),
            Err(message) => problems.push(HbaError { line: number, message }),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// `TYPE DATABASE USER [ADDRESS [MASK]] METHOD [OPTIONS]`
fn rule(line: &Line) -> Result<HbaRule, String> {
    let mut fields = line.fields.iter();
    let mut next = |what: &str| fields.next().ok_or_else(|| format!("{what} is missing"));
    let kind = kind(single(next("the type")?, "the type")?)?;
    let databases = next("the database")?.iter().map(database).collect::<Result<Vec<_>, _>>()?;
    let roles = next("the user")?.iter().map(role).collect::<Result<Vec<_>, _>>()?;
    let network = match kind {
        ConnectionType::Local => None,
        _ => {
            let address = single(next("the address")?, "the address")?;
            match address.is("all") {
                true => None,
                false if address.text.contains('/') => Some(network(address, None)?),
                false => Some(network_with_mask(address, || next("the mask").ok())?),
            }
        }
    };
    let method = method(single(next("the method")?, "the method")?)?;
    let mut rule = HbaRule {
        line: line.number,
        kind,
        databases,
        roles,
        network,
        method,
        client_cert: if method == Method::Cert { ClientCert::VerifyFull } else { ClientCert::Nothing },
        client_name: ClientName::Cn,
        map: None,
    };
    fields.flatten().try_for_each(|option| read_option(&mut rule, option))?;
    agree(&rule)?;
    Ok(rule)
}

fn single<'a>(field: &'a Field, what: &str) -> Result<&'a Word, String> {
    match field.as_slice() {
        [word] => Ok(word),
        _ => Err(format!("{what} is one word, not several")),
    }
}

fn kind(word: &Word) -> Result<ConnectionType, String> {
    match word.text.as_str() {
        "local" => Ok(ConnectionType::Local),
        "host" | "hostnogssenc" => Ok(ConnectionType::Host),
        "hostssl" => Ok(ConnectionType::HostSsl),
        "hostnossl" => Ok(ConnectionType::HostNoSsl),
        "hostgssenc" => Err("encryption by GSSAPI is not spoken; use hostssl".to_owned()),
        "include" | "include_if_exists" | "include_dir" => {
            Err("other files are not included; write the lines here".to_owned())
        }
        other => Err(format!("\"{other}\" is no type; types are local, host, hostssl, hostnossl")),
    }
}

fn database(word: &Word) -> Result<DatabaseWord, String> {
    let special = !word.quoted;
    Ok(match word.text.as_str() {
        "all" if special => DatabaseWord::All,
        "sameuser" if special => DatabaseWord::SameUser,
        "replication" if special => DatabaseWord::Replication,
        "samerole" | "samegroup" if special => DatabaseWord::SameRole,
        text => match text.strip_prefix('/') {
            Some(source) => DatabaseWord::Pattern(pattern(source)?),
            None => DatabaseWord::Name(name(word)?),
        },
    })
}

fn role(word: &Word) -> Result<RoleWord, String> {
    if word.is("all") {
        return Ok(RoleWord::All);
    }
    if let Some(group) = word.text.strip_prefix('+').filter(|_| !word.quoted) {
        return match group {
            "" => Err("+ needs the name of a role".to_owned()),
            group => Ok(RoleWord::MemberOf(group.to_owned())),
        };
    }
    match word.text.strip_prefix('/') {
        Some(source) => Ok(RoleWord::Pattern(pattern(source)?)),
        None => name(word).map(RoleWord::Name),
    }
}

fn name(word: &Word) -> Result<String, String> {
    match word.text.as_str() {
        text if !word.quoted && text.starts_with('@') => {
            Err(format!("\"{text}\": lists in other files are not read; name them here"))
        }
        "" => Err("an empty name".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Compiles a regular expression: what follows the slash.
pub(super) fn pattern(source: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(source).size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| {
        let reason = error.to_string();
        // The last line is the reason; the lines before it show the position.
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("/{source} is no regular expression: {reason}")
    })
}

fn network(address: &Word, mask: Option<&str>) -> Result<Network, String> {
    let shown = mask.map_or(address.text.clone(), |mask| format!("{} {mask}", address.text));
    let network = match mask {
        Some(mask) => Network::with_mask(&address.text, mask),
        // An address needs its prefix length, as in PostgreSQL.
        None => Network::parse(&address.text).filter(|_| address.text.contains('/')),
    };
    network.ok_or_else(|| format!("\"{shown}\" is no network such as 10.0.0.0/8"))
}

fn network_with_mask<'a>(
    address: &Word,
    mask: impl FnOnce() -> Option<&'a Field>,
) -> Result<Network, String> {
    let text = &address.text;
    if text == "samehost" || text == "samenet" {
        return Err(format!("\"{text}\" depends on where Freehold runs; write the network"));
    }
    if text.parse::<std::net::IpAddr>().is_err() {
        return Err(format!(
            "\"{text}\" is a name, and a name server would decide who comes in; write the network"
        ));
    }
    let mask = mask().map(|field| single(field, "the mask")).transpose()?;
    match mask {
        Some(mask) if mask.text.parse::<std::net::IpAddr>().is_ok() => network(address, Some(&mask.text)),
        _ => Err(format!(
            "\"{text}\" needs its length or a mask: {text}/{}",
            if text.contains(':') { 128 } else { 32 }
        )),
    }
}

fn method(word: &Word) -> Result<Method, String> {
    match word.text.as_str() {
        "scram-sha-256" => Ok(Method::ScramSha256),
        "md5" => Ok(Method::Md5),
        "password" => Ok(Method::Password),
        "cert" => Ok(Method::Cert),
        "trust" => Ok(Method::Trust),
        "reject" => Ok(Method::Reject),
        known @ ("gss" | "sspi" | "ident" | "peer" | "ldap" | "radius" | "pam" | "bsd" | "oauth") => {
            Err(format!(
                "method \"{known}\" proves nothing that opens a server behind Freehold; use scram-sha-256, or cert"
            ))
        }
        other => Err(format!(
            "\"{other}\" is no method; methods are scram-sha-256, md5, password, cert, trust, reject"
        )),
    }
}

fn read_option(rule: &mut HbaRule, option: &Word) -> Result<(), String> {
    let Some((name, value)) = option.text.split_once('=') else {
        return Err(format!("\"{}\" is no option; options are written name=value", option.text));
    };
    match (name, value) {
        ("map", "") => return Err("map= needs a name".to_owned()),
        ("map", map) => rule.map = Some(map.to_owned()),
        ("clientcert", "verify-full") => rule.client_cert = ClientCert::VerifyFull,
        ("clientcert", "verify-ca") if rule.method == Method::Cert => {
            return Err("method cert is always verify-full".to_owned());
        }
        ("clientcert", "verify-ca") => rule.client_cert = ClientCert::VerifyCa,
        ("clientcert", other) => {
            return Err(format!("clientcert is verify-ca or verify-full, not \"{other}\""));
        }
        ("clientname", "CN") => rule.client_name = ClientName::Cn,
        ("clientname", "SAN") => rule.client_name = ClientName::San,
        ("clientname", "DN") => {
            return Err("clientname=DN is not supported; CN and SAN (a DNS name, email address or URI) are"
                .to_owned());
        }
        ("clientname", other) => return Err(format!("clientname is CN or SAN, not \"{other}\"")),
        (other, _) => {
            return Err(format!("\"{other}\" is no option; options are map, clientcert, clientname"));
        }
    }
    Ok(())
}

/// Checks that the words of a rule fit together.
fn agree(rule: &HbaRule) -> Result<(), String> {
    if rule.client_cert != ClientCert::Nothing && rule.kind != ConnectionType::HostSsl {
        return Err("client certificates come with TLS: the type must be hostssl".to_owned());
    }
    let named = rule.map.is_some() || rule.client_name == ClientName::San;
    if named && rule.client_cert != ClientCert::VerifyFull {
        return Err(
            "map and clientname are for names of certificates: method cert, or clientcert=verify-full"
                .to_owned(),
        );
    }
    Ok(())
}
