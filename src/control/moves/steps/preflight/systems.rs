//! Preflight of the two systems: versions, settings, room for what replication needs, and the place of the
//! database.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::movement::FindingSeverity::{Blocker, Note, Warning};
use crate::model::{Cure, SystemName};
use crate::system::applier;
use crate::system::facts::{Capacity, LocaleProvider, SystemFacts};
use crate::system::slots::{self, BlockingTransaction};
use crate::system::{Session, SystemError, quote_ident, quote_literal};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::parts::pg_tools::Tools;
use crate::control::moves::parts::stream::tells_a_password;
use crate::control::moves::parts::sweep::database_exists;
use crate::control::moves::steps::preflight::{Findings, PreflightContext, on_system};

/// First major with TID range scans, by which large tables are copied in parts.
const MAJOR_MIN: u32 = 14;
/// Sessions that a move opens in addition to its copy workers.
const OTHER_SESSIONS: i64 = 6;
/// Amount by which a cure raises a setting above its current use.
const ROOM: i64 = 8;
/// A younger transaction will probably have ended when the slot is created.
const YOUNG: Duration = Duration::from_secs(5);

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    versions(scene, findings).await;
    let (source, target) = (&scene.source_facts, &scene.target_facts);
    if source.system_identifier == target.system_identifier {
        let cure = other_target(scene, "another system");
        findings
            .platform(Blocker, "same_system")
            .about(&scene.target_end().system.name)
            .cure(cure)
            .say("source and target are the same PostgreSQL server");
        return Ok(());
    }
    for (end, facts) in [(scene.source_end(), source), (scene.target_end(), target)] {
        privileges(end, facts, findings);
        replication(end, facts, findings);
        connections(scene, end, facts, findings);
        slot_limits(end, facts, findings);
        release(end, facts, findings);
    }
    passwords(scene, findings);
    if source.in_recovery || target.in_recovery {
        // The other checks execute statements that a standby refuses.
        return Ok(());
    }
    transactions(scene, scene.source_end(), scene.source, findings).await?;
    place(scene, findings).await?;
    locale(scene, findings).await
}

fn other_target(scene: &PreflightContext<'_>, which: &str) -> Cure {
    let database = quote_ident(&scene.source_end().dbname);
    Cure::comment(format!("to {which}: MOVE DATABASE {database} TO SYSTEM ..."))
}

pub(in crate::control) fn latest_release(facts: &SystemFacts) -> Cure {
    Cure::comment(format!("install the latest minor release of PostgreSQL {}", facts.major()))
}

/// Remark for a setting that is read only when the server starts.
pub(in crate::control) const THEN_RESTART: &str = "then restart the server";

fn set_and_restart(end: &Endpoint, setting: &str, value: &str) -> Cure {
    on_system(end, Cure::sql(format!("ALTER SYSTEM SET {setting} = {value};")).remark(THEN_RESTART))
}

fn set_and_reload(end: &Endpoint, setting: &str, value: &str) -> Cure {
    let set = Cure::sql(format!("ALTER SYSTEM SET {setting} = {value};"));
    on_system(end, set.remark("then SELECT pg_reload_conf();"))
}

/// Both systems apply rows of the other: the target now, the source on the way back.
fn release(end: &Endpoint, facts: &SystemFacts, findings: &mut Findings) {
    if applier::can_apply(facts.version_num) || facts.major() < MAJOR_MIN {
        return;
    }
    findings
        .platform(Warning, "minor_release")
        .about(&end.system.name)
        .cure(latest_release(facts))
        .say(format!(
            "system {} is an old release of PostgreSQL {}: code of the database that runs when a row is applied there (checks, \
             generated columns, indexes) runs as the platform's superuser",
            end.system.name,
            facts.major()
        ));
}

async fn versions(scene: &PreflightContext<'_>, findings: &mut Findings) {
    let (source, target) = (scene.source_facts.major(), scene.target_facts.major());
    age(&scene.source_end().system.name, source, findings);
    if target < source {
        findings
            .platform(Blocker, "target_older")
            .about(&scene.target_end().system.name)
            .cure(other_target(scene, &format!("a system of PostgreSQL {source} or newer")))
            .say(format!(
                "the target is PostgreSQL {target}, older than the source ({source}): its schema may not fit"
            ));
    }
    programs(&scene.plan.settings.postgres_bin_dirs, target.max(source), findings).await;
}

fn age(source: &SystemName, major: u32, findings: &mut Findings) {
    if major < MAJOR_MIN {
        findings
            .platform(Blocker, "source_version")
            .about(source)
            .cure(Cure::comment(format!("upgrade system {source} by pg_upgrade")))
            .say(format!("the source is PostgreSQL {major}; moves begin at PostgreSQL {MAJOR_MIN}"));
    }
}

/// The programs of the newer server dump and restore the schema; they run on this machine.
async fn programs(directories: &[PathBuf], major: u32, findings: &mut Findings) {
    if let Err(error) = Tools::find(directories, major).await {
        findings
            .platform(Blocker, "pg_dump")
            .cure(Cure::command(&format!("apt-get install postgresql-client-{major}")))
            .say(error.to_string());
    }
}

fn privileges(end: &Endpoint, facts: &SystemFacts, findings: &mut Findings) {
    if facts.in_recovery {
        findings
            .platform(Blocker, "in_recovery")
            .about(&end.system.name)
            .cure(on_system(end, "SELECT pg_promote();"))
            .say(format!("system {} is a standby: nothing can be created there", end.system.name));
    }
    if !facts.role_is_superuser {
        findings
            .platform(Blocker, "platform_role")
            .about(&facts.role)
            .cure(on_system(end, format!("ALTER ROLE {} SUPERUSER;", quote_ident(&facts.role))))
            .say(format!(
                "the platform's role {} is not a superuser on system {}: it cannot read verifiers, guard schema changes, or \
                 subscribe",
                facts.role, end.system.name
            ));
    }
}

/// The subscription contains the password of a move's role that reads the database. An old server shows it to
/// every role.
fn passwords(scene: &PreflightContext<'_>, findings: &mut Findings) {
    let source = (scene.source_end(), &scene.source_facts);
    let target = (scene.target_end(), &scene.target_facts);
    for ((publisher, _), (subscriber, facts)) in [(source, target), (target, source)] {
        if tells_a_password(&publisher.system, facts.version_num) {
            let name = &publisher.system.name;
            findings
                .platform(Warning, "replication_password")
                .about(name)
                .cure(
                    Cure::comment("on the admin port of Freehold:")
                        .and_sql(format!("ALTER SYSTEM {} SSLMODE 'require';", quote_ident(name.as_str()))),
                )
                .say(format!(
                    "system {} is PostgreSQL {} and cannot be told to answer SCRAM alone: somebody between it and system {name} could \
                     ask for the password of the replication role",
                    subscriber.system.name,
                    facts.major()
                ));
        }
    }
}

/// Requirements of publisher and subscriber; each system is both, one now and one for the way back.
fn replication(end: &Endpoint, facts: &SystemFacts, findings: &mut Findings) {
    let name = &end.system.name;
    if facts.wal_level != "logical" {
        findings
            .platform(Blocker, "wal_level")
            .about(name)
            .cure(set_and_restart(end, "wal_level", "'logical'"))
            .say(format!("wal_level of system {name} is {}, replication needs logical", facts.wal_level));
    }
    let rooms = [
        ("replication_slots", "max_replication_slots", facts.slots, 1),
        ("wal_senders", "max_wal_senders", facts.senders, 2),
        ("apply_workers", "max_logical_replication_workers", facts.apply_workers, 1),
        ("worker_processes", "max_worker_processes", facts.worker_processes, 2),
    ];
    for (check, setting, capacity, needed) in rooms {
        if capacity.free() >= needed {
            continue;
        }
        let Capacity { max: limit, used } = capacity;
        let wanted = used + ROOM;
        findings
            .platform(Blocker, check)
            .about(name)
            .cure(set_and_restart(end, setting, &wanted.to_string()))
            .say(format!(
                "{setting} of system {name} is {limit}, {used} are in use, a move needs {needed} more"
            ));
    }
    if facts.origins.free() < 1 {
        let setting =
            if facts.major() >= 18 { "max_active_replication_origins" } else { "max_replication_slots" };
        let wanted = facts.origins.used + ROOM;
        findings
            .platform(Blocker, "replication_origins")
            .about(name)
            .cure(set_and_restart(end, setting, &wanted.to_string()))
            .say(format!("system {name} has no room to remember where another subscription is ({setting})"));
    }
}

fn connections(scene: &PreflightContext<'_>, end: &Endpoint, facts: &SystemFacts, findings: &mut Findings) {
    let needed =
        i64::try_from(scene.plan.settings.copy_workers).unwrap_or(i64::MAX).saturating_add(OTHER_SESSIONS);
    let free = facts.connections.free();
    if free < needed {
        let wanted = facts.connections.used.saturating_add(needed) + ROOM;
        findings
            .platform(Blocker, "connections")
            .about(&end.system.name)
            .cure(set_and_restart(end, "max_connections", &wanted.to_string()))
            .say(format!("system {} has {free} free connections, the copy needs {needed}", end.system.name));
    }
}

fn slot_limits(end: &Endpoint, facts: &SystemFacts, findings: &mut Findings) {
    let keep = facts.slot_wal_keep_mb_max;
    if keep >= 0 {
        findings
            .platform(Warning, "slot_wal_limit")
            .about(&end.system.name)
            .cure(set_and_reload(end, "max_slot_wal_keep_size", "-1"))
            .say(format!(
                "max_slot_wal_keep_size of system {} is {keep} MB: more WAL than that during the copy, and the move \
                 begins again",
                end.system.name
            ));
    }
    if facts.idle_slot_timeout_s > 0 {
        findings
            .platform(Warning, "idle_slot_timeout")
            .about(&end.system.name)
            .cure(set_and_reload(end, "idle_replication_slot_timeout", "0"))
            .say(format!(
                "idle_replication_slot_timeout of system {} is {} s: a longer copy loses its slot",
                end.system.name, facts.idle_slot_timeout_s
            ));
    }
}

/// Transactions that the creation of the slot would have to wait for.
async fn transactions(
    scene: &PreflightContext<'_>,
    end: &Endpoint,
    session: &Session,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    for found in slots::in_the_way(session).await? {
        let too_old = found.age.is_some_and(|age| age >= scene.plan.settings.slot_timeout);
        // Of unknown age: reported, but no reason to refuse.
        let may_stay = found.age.is_none_or(|age| age >= YOUNG);
        match found.pid {
            None => prepared(end, &found, findings),
            Some(pid) if too_old || may_stay => {
                let severity = if too_old { Blocker } else { Warning };
                findings
                    .product(severity, "long_transaction")
                    .about(&pid)
                    .cure(Cure::to_decide(
                        format!("on system {}; or wait until it has ended:", end.system.name),
                        [format!("SELECT pg_terminate_backend({pid});")],
                    ))
                    .say(format!(
                        "a transaction that has written keeps the slot from being created: {found}"
                    ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn prepared(end: &Endpoint, found: &BlockingTransaction, findings: &mut Findings) {
    let place =
        format!("on system {}, database {}; this, or COMMIT PREPARED:", end.system.name, found.database);
    let cure = Cure::to_decide(place, [format!("ROLLBACK PREPARED {};", quote_literal(&found.state))]);
    findings
        .product(Blocker, "prepared_transaction")
        .about(&found.state)
        .cure(cure)
        .say(format!("{found} keeps the slot from being created, and could be committed behind the fence"));
}

/// Whether the database can be created on the target, and how large it is.
async fn place(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let end = scene.target_end();
    if !end.system.accepts_databases {
        findings
            .platform(Blocker, "target_closed")
            .about(&end.system.name)
            .cure(Cure::sql(format!("ALTER SYSTEM {} UNCORDON;", end.system.name)))
            .say(format!("system {} takes no databases", end.system.name));
    }
    if database_exists(scene.target, &end.dbname).await? {
        let (name, other) = (quote_ident(&end.dbname), quote_ident(&format!("{}_old", end.dbname)));
        findings
            .platform(Blocker, "name_taken")
            .about(&end.dbname)
            .cure(on_system(end, format!("ALTER DATABASE {name} RENAME TO {other};")))
            .say(format!("system {} has a database \"{}\" already", end.system.name, end.dbname));
    }
    let megabytes = scene.database.bytes >> 20;
    findings.platform(Note, "size").about(&scene.source_end().dbname).say(format!(
        "the database is {megabytes} MB; the target needs as much, and the source keeps the WAL that is written during \
         the copy (at most {} MB, then the move is rolled back)",
        scene.plan.settings.wal_retained_bytes_max >> 20
    ));
    Ok(())
}

/// Whether the target can sort and compare strings as the source does.
async fn locale(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let (database, end) = (&scene.database, scene.target_end());
    let target = scene.target_facts.version_num;
    let probes: Vec<String> = match (database.provider, &database.locale) {
        (LocaleProvider::Builtin, _) if target < 170_000 => {
            let cure = other_target(scene, "a system of PostgreSQL 17 or newer");
            findings
                .platform(Blocker, "locale")
                .cure(cure)
                .say("the database uses the builtin locale provider, which the target lacks");
            return Ok(());
        }
        (LocaleProvider::Builtin, Some(locale)) => vec![probe("builtin", locale)],
        (LocaleProvider::Icu, Some(locale)) => {
            [vec![probe("icu", locale)], libc_probes(scene).await?].concat()
        }
        _ => libc_probes(scene).await?,
    };
    for sql in probes {
        if let Err(error) = tried(scene.target, &sql).await {
            let (object, remedy) = match (database.provider, &database.locale) {
                (LocaleProvider::Icu, Some(locale)) => {
                    (locale, "install a server that is built with ICU".to_owned())
                }
                _ => (
                    &database.collate,
                    format!("run locale-gen {}, then restart the server", database.collate),
                ),
            };
            findings
                .platform(Blocker, "locale")
                .about(object)
                .cure(Cure::comment(format!("on the machine of system {}: {remedy}", end.system.name)))
                .say(format!("system {} lacks the locale of the database: {error}", end.system.name));
            return Ok(());
        }
    }
    collation_version(scene, findings).await
}

/// A locale of the C library belongs to one encoding: if the database's differs from that of the platform's
/// own database on the target, the trial shows whether it can be created there.
async fn libc_probes(scene: &PreflightContext<'_>) -> Result<Vec<String>, SystemError> {
    let database = &scene.database;
    Ok(match can_probe_libc(scene).await? {
        true => vec![probe("libc", &database.collate), probe("libc", &database.ctype)],
        false => Vec::new(),
    })
}

pub(in crate::control) async fn can_probe_libc(scene: &PreflightContext<'_>) -> Result<bool, SystemError> {
    let sql = "SELECT current_setting('server_encoding') = $1";
    scene.target.value("reading the encoding", sql, &[&scene.database.encoding]).await
}

async fn collation_version(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading the version of a collation";
    let Some(here) = &scene.database.collation_version else { return Ok(()) };
    if scene.target_facts.version_num < 150_000 {
        return Ok(());
    }
    // The target's own template has the same provider and locale in most installations; otherwise the version
    // is unknown.
    let sql =
        "SELECT d.datcollversion FROM pg_database d WHERE d.datcollversion IS NOT NULL AND d.datcollate = $1
            AND d.datlocprovider::text = $2 LIMIT 1";
    let provider = scene.database.provider.as_str().get(..1).unwrap_or("c");
    let letter = if scene.database.provider == LocaleProvider::Libc { "c" } else { provider };
    let row = scene.target.optional(READING, sql, &[&scene.database.collate, &letter]).await?;
    let Some(row) = row else { return Ok(()) };
    let there: String = scene.target.column(READING, &row, 0)?;
    if &there != here {
        findings.product(Warning, "collation_version").about(&scene.database.collate).say(format!(
            "strings sort by version {here} of the locale on the source and {there} on the target: indexes are built anew, \
             but ORDER BY and range partitions of text may differ"
        ));
    }
    Ok(())
}

pub(in crate::control) fn probe(provider: &str, locale: &str) -> String {
    format!(
        "CREATE COLLATION pg_temp.freehold_probe (PROVIDER = {provider}, LOCALE = {})",
        quote_literal(locale)
    )
}

/// Executes a statement and rolls it back.
pub(in crate::control) async fn tried(session: &Session, sql: &str) -> Result<(), SystemError> {
    const TRYING: &str = "trying the locale on the target";
    session.batch(TRYING, "BEGIN").await?;
    let outcome = session.batch(TRYING, sql).await;
    session.batch(TRYING, "ROLLBACK").await?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For cases that no server of this machine can show: check and cure of the only finding.
    fn only(findings: Findings) -> (String, String) {
        let [finding] = findings.in_order().try_into().unwrap();
        assert_eq!(finding.severity, Blocker);
        (finding.check, finding.cure.unwrap().to_string())
    }

    #[test]
    fn a_source_that_is_too_old_is_a_blocker_with_its_cure() {
        let system = SystemName::parse("old").unwrap();
        let mut findings = Findings::default();
        age(&system, MAJOR_MIN, &mut findings);
        age(&system, MAJOR_MIN - 1, &mut findings);
        let expected = ("source_version".to_owned(), "-- upgrade system old by pg_upgrade".to_owned());
        assert_eq!(only(findings), expected);
    }

    #[tokio::test]
    async fn programs_that_are_not_installed_are_a_blocker_with_their_package() {
        let mut findings = Findings::default();
        programs(&[], 99, &mut findings).await;
        let expected = ("pg_dump".to_owned(), "apt-get install postgresql-client-99".to_owned());
        assert_eq!(only(findings), expected);
    }
}
