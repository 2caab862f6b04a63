//! A trial: the schema is restored into an empty database of the target, before anything is changed for the
//! move.
//!
//! It is dumped and restored as in the copy: by the same programs, in the same order, each entry by the same
//! role. But a refused statement does not end it: everything that is refused becomes a finding, unless it is
//! a consequence of something else that was refused. Then functions that rows will call are called
//! ([`trial_calls`]). The database is always dropped: at the end, when the caller drops the future, or by the
//! next trial if the process is killed.
//!
//! # Why
//! The differences between what two servers accept cannot be listed: a removed setting, a missing library, a
//! name that was found when the object was created and is missing when it is restored. Only trying it on the
//! target finds them.
//!
//! The move creates the roles that the target lacks; a trial does not, so errors about these roles are no
//! findings.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Blame, Explain};
use crate::model::Cure;
use crate::model::movement::FindingSeverity::{Blocker, Warning};
use crate::system::applier::{self, RowAccess};
use crate::system::trials::{self, Trial};
use crate::system::type_oids::{self, TypeOidComparison};
use crate::system::{Session, SystemError, databases, marker, ownership, quote_ident, quote_literal, roles};

use crate::control::StepError;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::parts::copy_schema::{Known, SchemaDump};
use crate::control::moves::parts::extensions;
use crate::control::moves::parts::own_login::{OwnLogin, unreachable};
use crate::control::moves::parts::pg_tools::{ToolError, Tools};
use crate::control::moves::parts::refused::Refused;
use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::steps::preflight::trial_calls;
use crate::control::moves::steps::preflight::{Findings, PreflightContext, access, on_system};

/// A schema of thousands of tables takes less than a minute.
const TRIAL_WITHIN: Duration = Duration::from_secs(600);
/// Sessions of the trial's own role at a time.
const CONNECTIONS: u32 = 8;
/// Checks with blockers that make a trial impossible.
const NEEDED: [&str; 7] = [
    "same_system",
    "target_older",
    "source_version",
    "pg_dump",
    "in_recovery",
    "target_closed",
    "connections",
];
/// Lines of a refused statement that are shown.
const LINES_MAX: usize = 20;
/// Error of an extension, named there, that can be installed in one database of a server only.
const OF_ONE_DATABASE: &str = "can only create extension in database";

const READING: &str = "reading what the target refuses";

/// Why a trial has no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("{0}")]
    Barred(StepError),
}

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    if findings.has_blocker(&NEEDED) {
        return Ok(());
    }
    if let Err(error) = trials::sweep(scene.target).await {
        tracing::warn!(%error, "leftovers of trials stay on the target");
    }
    let trial = Trial::of(scene.target).await?;
    let end = Endpoint { dbname: trial.name().to_owned(), ..scene.target_end().clone() };
    let guard = Guard { end: end.clone(), trial: Some(trial.clone()) };
    let ends = Endpoints { source: scene.source_end().clone(), target: end };
    let outcome = match made(scene, &trial, findings).await? {
        true => timeout(TRIAL_WITHIN, Box::pin(attempt(scene, &ends, findings))).await,
        false => Ok(Ok(())),
    };
    guard.end(scene.target).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(Failure::Barred(error))) => barred(scene, &error, findings),
        Ok(Err(failure)) => untried(scene, &failure.to_string(), findings),
        Err(_) => untried(scene, &format!("it takes longer than {} s", TRIAL_WITHIN.as_secs()), findings),
    }
    Ok(())
}

/// Drops the database also if the trial's future was dropped.
struct Guard {
    end: Endpoint,
    trial: Option<Trial>,
}

impl Guard {
    async fn end(mut self, session: &Session) {
        if let Some(trial) = &self.trial {
            match trial.drop(session).await {
                Ok(()) => self.trial = None,
                Err(error) => {
                    tracing::warn!(%error, "the database of a trial stays for the next one to drop")
                }
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (Some(trial), end) = (self.trial.take(), self.end.clone()) else { return };
        tokio::spawn(async move {
            let dropped = async { trial.drop(&end.admin_session().await?).await };
            if let Err(error) = dropped.await {
                tracing::warn!(%error, "the database of a trial stays for the next one to drop");
            }
        });
    }
}

/// Creates the database; a refusal is a finding.
async fn made(
    scene: &PreflightContext<'_>,
    trial: &Trial,
    findings: &mut Findings,
) -> Result<bool, SystemError> {
    let error = match trial.create(scene.target, &scene.database).await {
        Ok(()) => return Ok(true),
        Err(error) if error.server_sqlstate().is_none() => return Err(error),
        Err(error) => error,
    };
    if findings.has_blocker(&["locale"]) {
        return Ok(false);
    }
    let (name, database) = (&scene.target_end().system.name, &scene.database);
    findings
        .platform(Blocker, "locale")
        .about(&database.collate)
        .cure(Cure::comment(format!(
            "on the machine of system {name}: make what the database needs (locale-gen {}), then restart the server",
            database.collate
        )))
        .say(format!(
            "system {name} cannot create a database with encoding {} and locale {}: {}",
            database.encoding,
            database.locale.as_deref().unwrap_or(&database.collate),
            error.message()
        ));
    Ok(false)
}

fn barred(scene: &PreflightContext<'_>, error: &StepError, findings: &mut Findings) {
    let name = &scene.target_end().system.name;
    findings
        .platform(Blocker, "pg_hba_own")
        .about(name)
        .cure(access::own_lines(scene))
        .say(format!("{error}: {}", error.detail().unwrap_or_default()));
}

fn untried(scene: &PreflightContext<'_>, why: &str, findings: &mut Findings) {
    let name = &scene.target_end().system.name;
    findings.platform(Warning, "trial").about(name).say(format!(
        "the schema could not be tried on system {name}, so what that refuses shows in the copy: {why}"
    ));
}

/// Restores the schema, and reports what was refused.
async fn attempt(
    scene: &PreflightContext<'_>,
    ends: &Endpoints,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let (dump, prepared) = tokio::join!(write_down(scene), prepare(scene, &ends.target));
    let ((session, applier), dump) = (prepared?, dump?);
    let refused = restore(scene, ends, &session, &applier, &dump).await?;
    let types = type_oids::outcome(&session).await?;
    report(scene, &dump, refused, findings).await?;
    other_oids(&types, findings);
    trial_calls::check(scene, &ends.target, (&session, &applier), findings).await?;
    Ok(())
}

async fn write_down(scene: &PreflightContext<'_>) -> Result<SchemaDump, Failure> {
    let known = Known {
        of_superusers: ownership::of_superusers(scene.source).await?,
        of_moves: ownership::of_moves(scene.source).await?,
    };
    let major = scene.source_facts.major().max(scene.target_facts.major());
    let tools = Tools::find(&scene.plan.settings.postgres_bin_dirs, major).await?;
    Ok(SchemaDump::take_now(scene.source_end(), tools, known).await?)
}

/// Returns the platform's session in the trial's database, and the role that restores.
async fn prepare(scene: &PreflightContext<'_>, end: &Endpoint) -> Result<(Session, OwnLogin), Failure> {
    let name = quote_ident(&end.dbname);
    databases::limit_connections(scene.target, &end.dbname, Some(CONNECTIONS)).await?;
    let english = format!("ALTER DATABASE {name} SET lc_messages = 'C'");
    scene.target.batch("preparing the database of a trial", &english).await?;
    let session = end.session().await?;
    session.act_as_replica().await?;
    marker::create_helper(&session, end.names).await?;
    let applier = OwnLogin::create(&session, &end.dbname, RowAccess::Write).await?;
    match end.reading_session(&applier).await {
        Ok(_) => Ok((session, applier)),
        Err(error) => Err(Failure::Barred(unreachable(scene.target_end(), RowAccess::Write, &error))),
    }
}

/// Restores like [`Restore`](crate::control::moves::parts::restore::Restore), but goes on after refusals.
async fn restore(
    scene: &PreflightContext<'_>,
    ends: &Endpoints,
    session: &Session,
    applier: &OwnLogin,
    dump: &SchemaDump,
) -> Result<Vec<Refused>, Failure> {
    let role = applier.role.as_str();
    type_oids::keep(session, &type_oids::read(scene.source).await?).await?;
    match applier::let_set(scene.source, session, role).await {
        // A function that names a removed setting is refused below.
        Err(error) if error.server_sqlstate().is_none() => return Err(error.into()),
        _ => {}
    }
    extensions::create(scene.source, session, &platform_roles(ends).each()).await?;
    let mut refused = Vec::new();
    for run in dump.runs_without_rows().await? {
        applier::let_create(session, role).await?;
        refused.extend(dump.try_restore(&ends.target, applier, &run).await?);
    }
    applier::lend(session, role, RowAccess::Write).await?;
    refused.extend(dump.try_restore(&ends.target, applier, &dump.afterwards().await?).await?);
    Ok(refused)
}

fn other_oids(types: &TypeOidComparison, findings: &mut Findings) {
    if let Some(first) = types.others.first() {
        findings.product(Warning, "type_oid").about(first).say(format!(
            "{} type(s) get another OID on the target: drivers that know them by their OID must ask again: {}",
            types.others.len(),
            types.others.join(", ")
        ));
    }
}

/// One finding for each entry that was refused for its own reason.
async fn report(
    scene: &PreflightContext<'_>,
    dump: &SchemaDump,
    refused: Vec<Refused>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    if refused.is_empty() {
        return Ok(());
    }
    let lacking = roles_to_come(scene).await?;
    let needs = dump.dependencies().await?;
    let failed: HashSet<u32> = refused.iter().map(|refused| refused.entry.number).collect();
    let mut told = BTreeMap::new();
    for refused in &refused {
        let waits_for_a_role = lacking.contains(&refused.message);
        let is_installed_already = refused.message.starts_with(OF_ONE_DATABASE);
        let is_known = findings.is_explained(&refused.entry.object);
        if !waits_for_a_role && !is_installed_already && !is_known && !follows(refused, &failed, &needs) {
            told.entry(refused.entry.number).or_insert(refused);
        }
    }
    let names = identities(scene.source, told.values().map(|refused| refused.entry.object)).await?;
    for refused in told.into_values() {
        say(scene, refused, names.get(&refused.entry.object), findings);
    }
    Ok(())
}

/// Whether the entry depends on another one that was refused.
fn follows(refused: &Refused, failed: &HashSet<u32>, needs: &HashMap<u32, Vec<u32>>) -> bool {
    let mut seen = HashSet::from([refused.entry.number]);
    let mut waiting = vec![refused.entry.number];
    while let Some(number) = waiting.pop() {
        for needed in needs.get(&number).into_iter().flatten() {
            if failed.contains(needed) && *needed != refused.entry.number {
                return true;
            }
            if seen.insert(*needed) {
                waiting.push(*needed);
            }
        }
    }
    false
}

/// Errors of the target about roles that the move will create.
async fn roles_to_come(scene: &PreflightContext<'_>) -> Result<Vec<String>, SystemError> {
    let ends = &scene.plan.ends;
    let except = platform_roles(ends);
    let needed =
        roles::needed_by(scene.source, &ends.source.dbname, &scene.plan.logins, &except.each()).await?;
    // That role has a finding of its own.
    let platform = ends.source.system.admin_role.to_string();
    let all = needed.into_iter().chain([platform]);
    Ok(all.map(|role| format!("role \"{role}\" does not exist")).collect())
}

/// Kind and name of an object: `table public.t`.
#[derive(Debug, Clone)]
struct Identity {
    kind: String,
    name: String,
}

async fn identities(
    source: &Session,
    objects: impl Iterator<Item = (u32, u32)>,
) -> Result<HashMap<(u32, u32), Identity>, SystemError> {
    let (classes, oids): (Vec<u32>, Vec<u32>) = objects.filter(|object| object.1 != 0).unzip();
    let sql = "SELECT o.class, o.oid, i.type, i.identity FROM unnest($1::oid[], $2::oid[]) o (class, oid),
        pg_identify_object(o.class, o.oid, 0) i WHERE i.identity IS NOT NULL";
    let mut names = HashMap::new();
    for row in &source.rows(READING, sql, &[&classes, &oids]).await? {
        let object = (source.column(READING, row, 0)?, source.column(READING, row, 1)?);
        names.insert(
            object,
            Identity { kind: source.column(READING, row, 2)?, name: source.column(READING, row, 3)? },
        );
    }
    Ok(names)
}

fn say(
    scene: &PreflightContext<'_>,
    refused: &Refused,
    identity: Option<&Identity>,
    findings: &mut Findings,
) {
    let what = match identity {
        Some(Identity { kind, name }) => format!("{kind} {name}"),
        None => refused.entry.what.clone(),
    };
    let extension = refused.entry.what.strip_prefix("EXTENSION ").and_then(|rest| rest.split(' ').next());
    if extension.is_some_and(|extension| findings.has("extension", extension)) {
        return;
    }
    let (responsible, cure) = cure(scene, refused, identity, &what);
    let system = &scene.target_end().system.name;
    let draft = match responsible {
        Blame::Platform => findings.platform(Blocker, "trial_restore"),
        _ => findings.product(Blocker, "trial_restore"),
    };
    draft.about(&what).cure(cure).say(format!("system {system} refuses {what}: {}", refused.message));
}

/// A change that makes the target accept it, and the party that makes it.
fn cure(
    scene: &PreflightContext<'_>,
    refused: &Refused,
    identity: Option<&Identity>,
    what: &str,
) -> (Blame, Cure) {
    let target = scene.target_end();
    let between = |before: &str, after: &str| {
        let rest = refused.message.strip_prefix(before)?;
        rest.strip_suffix(after).map(str::to_owned)
    };
    let routine = identity.filter(|it| matches!(it.kind.as_str(), "function" | "procedure"));
    if let (Some(setting), Some(routine)) =
        (between("unrecognized configuration parameter \"", "\""), routine)
    {
        let sql = format!("ALTER ROUTINE {} RESET {};", routine.name, quote_ident(&setting));
        return (Blame::Product, scene.on_source(sql));
    }
    if let Some(role) = between("role \"", "\" does not exist") {
        return (Blame::Platform, on_system(target, format!("CREATE ROLE {} NOLOGIN;", quote_ident(&role))));
    }
    if refused.message.starts_with("could not access file ")
        || refused.message.contains("could not load library")
    {
        let cure = Cure::comment(format!(
            "install on the machine of system {}, for PostgreSQL {}, the library that {what} names",
            target.system.name,
            scene.target_facts.major()
        ));
        return (Blame::Platform, cure);
    }
    (Blame::Product, by_hand(scene, refused, what))
}

/// A comment, not a statement: only the owner knows what the object is for.
fn by_hand(scene: &PreflightContext<'_>, refused: &Refused, what: &str) -> Cure {
    let cure = Cure::comment(format!(
        "on system {}, database {}: change {what}, or drop it, so that PostgreSQL {} takes:",
        scene.source_end().system.name,
        quote_literal(&scene.source_end().dbname),
        scene.target_facts.major(),
    ));
    let statement: Vec<&str> = refused.statement.trim().lines().collect();
    let shown = statement.iter().take(LINES_MAX);
    let cure = shown.fold(cure, |cure, line| cure.and_comment(format!("    {}", line.replace('\t', "    "))));
    match statement.len() > LINES_MAX {
        true => cure.and_comment("    ..."),
        false => cure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::moves::parts::refused::Entry;

    #[test]
    fn what_needs_something_that_was_refused_follows_from_that() {
        let refused = |number| Refused {
            entry: Entry { number, ..Entry::default() },
            message: String::new(),
            statement: String::new(),
        };
        let failed = HashSet::from([1, 3, 5]);
        let needs = HashMap::from([(3, vec![2]), (2, vec![1, 3]), (5, vec![4])]);
        assert!(follows(&refused(3), &failed, &needs));
        assert!(!follows(&refused(1), &failed, &needs) && !follows(&refused(5), &failed, &needs));
    }
}
