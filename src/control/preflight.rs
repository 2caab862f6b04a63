//! Preflight: what stands in the way of a move, before anything is changed.
//!
//! Every finding has a word for machines, a sentence for people, who has to act, and the complete SQL or command that
//! cures it. Blockers would make the move fail or lose something; warnings are surprises that somebody may not want.
//!
//! The checks are in six files: `preflight_systems` (room, versions, place), `preflight_settings` (what the servers say to
//! every session), `preflight_shape` (what is in the database), `preflight_values` (what only means something on one server),
//! `preflight_roles` (who uses it), `preflight_access` (how they come in).
//!
//! # Why
//! Every mover that was looked at lets its user find at least one of these after days of copying. Here each blocker has
//! a test that makes it, and shows that its cure clears it.

use std::collections::BTreeSet;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, keys};
use crate::error::Blame;
use crate::model::movement::{Finding, FindingSeverity};
use crate::model::{DatabaseId, SystemName};
use crate::system::facts::{self, DatabaseFacts, SystemFacts};
use crate::system::{Session, SystemError};

use super::ends::{End, Ends};
use super::error::StepError;
use super::settings::MoverSettings;
use super::step::StepContext;
use super::{
    preflight_access, preflight_roles, preflight_settings, preflight_shape, preflight_systems,
    preflight_values,
};

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where there is no move yet, its id is 0.
    pub ends: Ends,
    pub settings: MoverSettings,
    /// Roles that applications log in as through Freehold; they travel even if nothing else names them.
    pub logins: Vec<String>,
    /// Roles that applications of other databases log in as on the target: whose passwords nobody changes for a move.
    pub logins_there: Vec<String>,
}

/// The logins of every other database that lives on a system.
pub async fn logins_on(
    catalog: &Catalog,
    system: &SystemName,
    except: &DatabaseId,
) -> Result<Vec<String>, StoreError> {
    let mut names = BTreeSet::new();
    for route in catalog.routes().await?.into_values() {
        if route.place.system == *system && route.database != *except {
            let logins = catalog.logins(&route.database).await?.into_values();
            names.extend(logins.into_iter().map(|login| login.role.to_string()));
        }
    }
    Ok(names.into_iter().collect())
}

/// What was found, blockers first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightReport {
    pub findings: Vec<Finding>,
}

impl PreflightReport {
    pub fn of_severity(&self, severity: FindingSeverity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }

    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.of_severity(FindingSeverity::Blocker)
    }

    pub fn is_clear(&self) -> bool {
        self.blockers().next().is_none()
    }
}

/// The step: fails with [`StepError::Blocked`] where there is a blocker. Changes nothing, so there is no undo.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    ctx.progress.say("looking for what is in the way");
    let logins = ctx.catalog.store().range(&keys::logins_of(&ctx.record().database)).await?;
    let role_of = |key: &str| key.rsplit_once('/').map(|(_, role)| role.to_owned());
    let target = &ctx.record().target.system;
    let plan = Plan {
        logins_there: logins_on(&ctx.catalog, target, &ctx.record().database).await?,
        ends: ctx.ends(),
        settings: (*ctx.settings).clone(),
        logins: logins.entries.iter().filter_map(|entry| role_of(&entry.key)).collect(),
    };
    let report = check(&plan).await?;
    match report.is_clear() {
        true => ctx.remember(|facts| facts.findings.clone_from(&report.findings)).await,
        false => Err(StepError::Blocked(report.blockers().cloned().collect())),
    }
}

/// Looks at both systems and changes nothing. A system that does not answer is a finding, not an error.
pub async fn check(plan: &Plan) -> Result<PreflightReport, StepError> {
    let mut findings = Findings::default();
    let source = reach(&mut findings, &plan.ends.source, "source", plan.ends.source.session().await);
    let target = reach(&mut findings, &plan.ends.target, "target", plan.ends.target.admin_session().await);
    if let (Some(source), Some(target)) = (&source, &target) {
        look(plan, source, target, &mut findings)
            .await
            .map_err(StepError::doing("looking for what is in the way"))?;
    }
    Ok(PreflightReport { findings: findings.worst_first() })
}

fn reach(
    findings: &mut Findings,
    end: &End,
    side: &str,
    session: Result<Session, SystemError>,
) -> Option<Session> {
    match session {
        Ok(session) => Some(session),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            findings.add(Finding {
                severity: FindingSeverity::Blocker,
                check: format!("{side}_unreachable"),
                object: Some(end.system.name.to_string()),
                message: format!("the {side} does not let the platform in: {error}{cause}"),
                cure: Some(format!(
                    "-- start system {name}, or correct how it is reached:\nALTER SYSTEM {name} HOST '{host}' PORT {port};",
                    name = end.system.name,
                    host = end.system.address.host,
                    port = end.system.address.port,
                )),
                responsible: Blame::Platform,
            });
            None
        }
    }
}

/// Everything that the checks read, read once.
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) source: &'a Session,
    pub(super) target: &'a Session,
    pub(super) source_facts: SystemFacts,
    pub(super) target_facts: SystemFacts,
    pub(super) database: DatabaseFacts,
}

async fn look(
    plan: &Plan,
    source: &Session,
    target: &Session,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let source_facts = facts::of_system(source).await?;
    let target_facts = facts::of_system(target).await?;
    let database = facts::of_database(source, &plan.ends.source.dbname).await?;
    let Some(database) = database else { return Ok(()) };
    let scene = Scene { plan, source, target, source_facts, target_facts, database };
    preflight_systems::check(&scene, findings).await?;
    // The rest reads what only a superuser can read.
    if !scene.source_facts.role_is_superuser || !scene.target_facts.role_is_superuser {
        return Ok(());
    }
    preflight_settings::check(&scene, findings).await?;
    preflight_shape::check(&scene, findings).await?;
    preflight_values::check(&scene, findings).await?;
    preflight_roles::check(&scene, findings).await?;
    preflight_access::check(&scene, findings).await
}

impl Scene<'_> {
    pub(super) fn source_end(&self) -> &End {
        &self.plan.ends.source
    }

    pub(super) fn target_end(&self) -> &End {
        &self.plan.ends.target
    }

    /// SQL to be run in the product's database on the source.
    pub(super) fn on_source(&self, sql: impl AsRef<str>) -> Option<String> {
        let end = self.source_end();
        Some(format!("-- on system {}, database {}:\n{}", end.system.name, end.dbname, sql.as_ref()))
    }
}

/// SQL to be run by the platform on a system, in whatever database.
pub(super) fn on_system(end: &End, sql: impl AsRef<str>) -> Option<String> {
    Some(format!("-- on system {}:\n{}", end.system.name, sql.as_ref()))
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.list.push(finding);
    }

    pub(super) fn worst_first(mut self) -> Vec<Finding> {
        self.list.sort_by_key(|finding| finding.severity);
        self.list
    }

    pub(super) fn product(&mut self, severity: FindingSeverity, check: &str) -> Draft<'_> {
        self.draft(severity, check, Blame::Product)
    }

    pub(super) fn platform(&mut self, severity: FindingSeverity, check: &str) -> Draft<'_> {
        self.draft(severity, check, Blame::Platform)
    }

    fn draft(&mut self, severity: FindingSeverity, check: &str, responsible: Blame) -> Draft<'_> {
        let finding = Finding {
            severity,
            check: check.to_owned(),
            object: None,
            message: String::new(),
            cure: None,
            responsible,
        };
        Draft { findings: self, finding }
    }
}

/// A finding that lacks its text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    findings: &'a mut Findings,
    finding: Finding,
}

impl Draft<'_> {
    pub(super) fn about(mut self, object: &(impl ToString + ?Sized)) -> Self {
        self.finding.object = Some(object.to_string());
        self
    }

    pub(super) fn cure(mut self, cure: Option<String>) -> Self {
        self.finding.cure = cure;
        self
    }

    pub(super) fn say(mut self, message: impl Into<String>) {
        self.finding.message = message.into();
        self.findings.add(self.finding);
    }
}
