//! Preflight of logins: whether `pg_hba.conf` of the target lets every role log in that can log in on the
//! source.
//!
//! # Why
//! Clients connect to both systems through Freehold, from the address and with the encryption that the
//! platform's own session has there. A role that the source rejects is no client's. A rule that cannot be
//! evaluated from here (host names) causes no finding.

use std::collections::BTreeMap;

use crate::model::Cure;
use crate::model::movement::FindingSeverity::Blocker;
use crate::system::hba::{self, HbaMatch, Path};
use crate::system::roles::{self, Role};
use crate::system::{SystemError, quote_ident};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::steps::preflight::{Findings, PreflightContext};

/// Roles that one finding names.
const NAMED_MAX: usize = 5;
/// Methods by which Freehold logs in as a client's role.
const KNOWN: [&str; 3] = ["scram-sha-256", "md5", "trust"];

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let (source, target) = (scene.source_end(), scene.target_end());
    let except = platform_roles(&scene.plan.ends);
    let names = roles::needed_by(scene.source, &source.dbname, &scene.plan.logins, &except.each()).await?;
    let logins = hba::logins(scene.source, &names).await?;
    let here_are = roles::read(scene.source, &names).await?;
    let here = hba::path_of(scene.source).await?;
    let here = hba::verdicts(scene.source, &source.dbname, &here, &logins).await?;
    let path = hba::path_of(scene.target).await?;
    let there = hba::verdicts(scene.target, &target.dbname, &path, &logins).await?;
    let mut barred: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (here, there) in here.iter().zip(&there) {
        let role = here_are.iter().find(|role| role.name == here.role);
        if let Some(why) = role.and_then(|role| why_barred(role, here, there)) {
            barred.entry(why).or_default().push(&there.role);
        }
    }
    let has_md5 = |name: &str| here_are.iter().any(|role| role.name == name && role.has_md5());
    let is_md5 = |names: &[&str]| names.iter().any(|name| has_md5(name));
    for (why, roles) in barred {
        let more = roles.len().saturating_sub(NAMED_MAX);
        let named = roles.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
        findings
            .platform(Blocker, "pg_hba")
            .about(&target.system.name)
            .cure(cure(scene, &path, &roles, if is_md5(&roles) { "md5" } else { "scram-sha-256" }))
            .say(format!(
                "pg_hba.conf of system {} {why} {named}{and_more}, by which Freehold comes from {}",
                target.system.name,
                shown(&path)
            ));
    }
    Ok(())
}

/// Why a role cannot log in on the target; `None` if it can, or cannot on the source either.
fn why_barred(role: &Role, here: &HbaMatch, there: &HbaMatch) -> Option<String> {
    let lets_in = |verdict: &HbaMatch| verdict.rule.as_ref().is_some_and(|(_, method)| method != "reject");
    if here.unknown || there.unknown || !lets_in(here) {
        return None;
    }
    let Some((line, method)) = &there.rule else { return Some("has no rule for".to_owned()) };
    let before = here.rule.as_ref().map(|(_, method)| method);
    let is_known = KNOWN.contains(&method.as_str()) || before == Some(method);
    let asks_too_much = role.has_md5() && method == "scram-sha-256" && before != Some(method);
    match is_known && !asks_too_much {
        true => None,
        false => Some(format!("says {method} in line {line} to")),
    }
}

/// A line for the top of the file: the first matching line decides.
fn cure(scene: &PreflightContext<'_>, path: &Path, roles: &[&str], method: &str) -> Cure {
    let end = scene.target_end();
    let users = roles.iter().map(|role| quote_ident(role)).collect::<Vec<_>>().join(",");
    let database = quote_ident(&end.dbname);
    let line = match &path.address {
        None => format!("local {database} {users} {method}"),
        Some(address) => {
            let kind = if path.encrypted { "hostssl" } else { "host" };
            let bits = if address.contains(':') { 128 } else { 32 };
            format!("{kind} {database} {users} {address}/{bits} {method}")
        }
    };
    at_the_beginning(end).and_comment(line)
}

fn at_the_beginning(end: &Endpoint) -> Cure {
    Cure::comment(format!(
        "at the beginning of pg_hba.conf of system {}, then SELECT pg_reload_conf():",
        end.system.name
    ))
}

/// Lines that let the roles of moves log in with their passwords.
pub(in crate::control) fn own_lines(scene: &PreflightContext<'_>) -> Cure {
    let users = match scene.target_facts.major() >= 16 {
        true => "/^freehold_",
        // Older servers have no regular expressions here.
        false => "all",
    };
    at_the_beginning(scene.target_end())
        .and_comment(format!("local all {users} scram-sha-256"))
        .and_comment(format!("host all {users} all scram-sha-256"))
}

fn shown(path: &Path) -> String {
    let encryption = if path.encrypted { "with" } else { "without" };
    match &path.address {
        None => "a socket of its machine".to_owned(),
        Some(address) => format!("{address}, {encryption} TLS"),
    }
}
