//! Preflight: finds what would stop a move, before anything is changed.
//!
//! Every finding has a name for programs, a sentence for people, the party that has to act, and the complete
//! SQL or command that cures it. Blockers would make the move fail or lose something; warnings are changes
//! that may be unwelcome.
//!
//! The checks are in eight files: `preflight_systems` (room, versions, place), `preflight_settings` (the
//! servers' settings for every session), `preflight_shape` (what is in the database), `preflight_schema`
//! (what of its schema another server refuses), `preflight_values` (values that have a meaning on one server
//! only), `preflight_roles` (its roles), `preflight_access` (how they log in), `preflight_others` (objects of
//! other Freeholds). A trial finds what these lists do not contain: the schema is restored into an empty
//! database of the target (`trial`).
//!
//! # Why
//! With every other migration tool that was examined, the user finds at least one of these after days of
//! copying. Here each blocker has a test that causes it, and proves that its cure removes it.

pub(in crate::control) mod access;
pub(in crate::control) mod others;
pub(in crate::control) mod roles;
pub(in crate::control) mod schema;
pub(in crate::control) mod settings;
pub(in crate::control) mod shape;
pub(in crate::control) mod systems;
mod trial;
mod trial_calls;
pub(in crate::control) mod values;

use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::error::Blame;
use crate::model::movement::{Finding, FindingSeverity};
use crate::model::{Cure, DatabaseId, SystemName, printable};
use crate::system::facts::{self, DatabaseFacts, SystemFacts};
use crate::system::{Session, SystemError};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;
use crate::control::moves::parts::throttle;
use crate::control::settings::ControlSettings;

/// The ends and settings of the move to check.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The move's id is 0 if there is no move yet.
    pub ends: Endpoints,
    pub settings: ControlSettings,
    /// Roles that applications log in as through Freehold; they are created on the target even if nothing
    /// else refers to them.
    pub logins: Vec<String>,
    /// Roles that applications of other databases log in as on the target: a move must not change their
    /// passwords.
    pub logins_there: Vec<String>,
}

/// The logins of every other database that lives on a system.
pub async fn logins_on(
    catalog: &Catalog,
    system: &SystemName,
    except: &DatabaseId,
) -> Result<Vec<String>, StoreError> {
    let mut names = BTreeSet::new();
    for route in catalog.routes().list().await?.into_values() {
        if route.place.system == *system && route.database != *except {
            let logins = catalog.logins().of(&route.database).await?.into_values();
            names.extend(logins.into_iter().map(|login| login.role.to_string()));
        }
    }
    Ok(names.into_iter().collect())
}

/// The findings, blockers first.
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

/// The step: fails with [`StepError::Blocked`] if there is a blocker. Changes nothing, so there is no undo.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    ctx.progress.set_activity("measuring how long clients wait");
    throttle::measure_before(ctx).await?;
    ctx.progress.set_activity("looking for what is in the way");
    let target = &ctx.record().target.system;
    let plan = Plan {
        logins_there: logins_on(&ctx.catalog, target, &ctx.record().database).await?,
        ends: ctx.ends(),
        settings: (*ctx.settings).clone(),
        logins: ctx.catalog.logins().roles_of(&ctx.record().database).await?,
    };
    let looked = Box::pin(check_telling(&plan, |activity| ctx.progress.set_activity(activity)));
    let report = ctx.unless_cancelled(looked).await?;
    match report.is_clear() {
        true => ctx.remember(|facts| facts.findings.clone_from(&report.findings)).await,
        false => Err(StepError::Blocked(report.blockers().cloned().collect())),
    }
}

/// Reads both systems, and restores the schema into a database of the target that is dropped afterwards:
/// nothing else is changed. A system that does not answer is a finding, not an error.
pub async fn check(plan: &Plan) -> Result<PreflightReport, StepError> {
    check_telling(plan, |_| {}).await
}

/// The same; reports the activity while it takes long.
pub async fn check_telling(
    plan: &Plan,
    tell: impl Fn(&'static str) + Sync,
) -> Result<PreflightReport, StepError> {
    let mut findings = Findings::default();
    let source = reach(&mut findings, &plan.ends.source, "source", plan.ends.source.session().await);
    let target = reach(&mut findings, &plan.ends.target, "target", plan.ends.target.admin_session().await);
    if let (Some(source), Some(target)) = (&source, &target) {
        let doing = || StepError::doing("looking for what is in the way");
        let looked = look(plan, source, target, &mut findings).await.map_err(doing())?;
        if let Some(scene) = looked {
            tell("trying the schema on the target");
            Box::pin(trial::check(&scene, &mut findings)).await.map_err(doing())?;
        }
    }
    Ok(PreflightReport { findings: findings.in_order() })
}

fn reach(
    findings: &mut Findings,
    end: &Endpoint,
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
                cure: Some(reached(end)),
                responsible: Blame::Platform,
            });
            None
        }
    }
}

fn reached(end: &Endpoint) -> Cure {
    let (name, address) = (&end.system.name, &end.system.address);
    Cure::comment(format!("start system {name}, or correct how it is reached:"))
        .and_sql(format!("ALTER SYSTEM {name} HOST '{}' PORT {};", address.host, address.port))
}

/// The data that all checks use, read once.
pub(in crate::control) struct PreflightContext<'a> {
    pub(in crate::control) plan: &'a Plan,
    pub(in crate::control) source: &'a Session,
    pub(in crate::control) target: &'a Session,
    pub(in crate::control) source_facts: SystemFacts,
    pub(in crate::control) target_facts: SystemFacts,
    pub(in crate::control) database: DatabaseFacts,
}

/// The input of the trial; `None` if it is not possible.
async fn look<'a>(
    plan: &'a Plan,
    source: &'a Session,
    target: &'a Session,
    findings: &mut Findings,
) -> Result<Option<PreflightContext<'a>>, SystemError> {
    let source_facts = facts::of_system(source).await?;
    let target_facts = facts::of_system(target).await?;
    let database = facts::of_database(source, &plan.ends.source.dbname).await?;
    let Some(database) = database else { return Ok(None) };
    let scene = PreflightContext { plan, source, target, source_facts, target_facts, database };
    systems::check(&scene, findings).await?;
    // The rest reads what only a superuser can read.
    if !scene.source_facts.role_is_superuser || !scene.target_facts.role_is_superuser {
        return Ok(None);
    }
    settings::check(&scene, findings).await?;
    others::check(&scene, findings).await?;
    shape::check(&scene, findings).await?;
    schema::check(&scene, findings).await?;
    values::check(&scene, findings).await?;
    roles::check(&scene, findings).await?;
    access::check(&scene, findings).await?;
    Ok(Some(scene))
}

impl PreflightContext<'_> {
    pub(in crate::control) fn source_end(&self) -> &Endpoint {
        &self.plan.ends.source
    }

    pub(in crate::control) fn target_end(&self) -> &Endpoint {
        &self.plan.ends.target
    }

    /// SQL to run in the product's database on the source.
    pub(in crate::control) fn on_source(&self, cure: impl Into<Cure>) -> Cure {
        let end = self.source_end();
        Cure::comment(format!("on system {}, database {}:", end.system.name, end.dbname)).and(cure)
    }
}

/// SQL for the platform to run on a system, in any database.
pub(in crate::control) fn on_system(end: &Endpoint, cure: impl Into<Cure>) -> Cure {
    Cure::comment(format!("on system {}:", end.system.name)).and(cure)
}

/// The findings so far.
#[derive(Debug, Default)]
pub(in crate::control) struct Findings {
    list: Vec<Finding>,
    /// Objects that the target refuses for a reason that a finding already gives: (catalog, oid) on the
    /// source.
    explained: BTreeSet<(u32, u32)>,
}

/// Position of the party that has to act in the list of findings: the product's team needs the longest time.
fn order(who: Blame) -> usize {
    const ORDER: [Blame; 4] = [Blame::Product, Blame::Client, Blame::Platform, Blame::Server];
    ORDER.iter().position(|known| *known == who).unwrap_or(ORDER.len())
}

impl Findings {
    /// Adds a finding once, however often it was found. Names in it are shown in one line.
    pub(in crate::control) fn add(&mut self, mut finding: Finding) {
        finding.message = printable::one_line(&finding.message).into_owned();
        finding.object = finding.object.map(|object| printable::one_line(&object).into_owned());
        if !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }

    /// Records that a finding already explains the target's refusal of the object.
    pub(in crate::control) fn explains(&mut self, object: (u32, u32)) {
        self.explained.insert(object);
    }

    pub(in crate::control) fn is_explained(&self, object: &(u32, u32)) -> bool {
        self.explained.contains(object)
    }

    /// Whether one of these blockers was found.
    pub(in crate::control) fn has_blocker(&self, checks: &[&str]) -> bool {
        let is_one = |finding: &Finding| checks.contains(&finding.check.as_str());
        self.list.iter().any(|finding| finding.severity == FindingSeverity::Blocker && is_one(finding))
    }

    pub(in crate::control) fn has(&self, check: &str, object: &str) -> bool {
        let object = printable::one_line(object);
        self.list.iter().any(|finding| finding.check == check && finding.object.as_deref() == Some(&object))
    }

    /// Blockers first; within a severity, by the party that has to act.
    pub(in crate::control) fn in_order(mut self) -> Vec<Finding> {
        self.list.sort_by_key(|finding| (finding.severity, order(finding.responsible)));
        self.list
    }

    pub(in crate::control) fn product(&mut self, severity: FindingSeverity, check: &str) -> FindingDraft<'_> {
        self.draft(severity, check, Blame::Product)
    }

    pub(in crate::control) fn platform(
        &mut self,
        severity: FindingSeverity,
        check: &str,
    ) -> FindingDraft<'_> {
        self.draft(severity, check, Blame::Platform)
    }

    fn draft(&mut self, severity: FindingSeverity, check: &str, responsible: Blame) -> FindingDraft<'_> {
        let finding = Finding {
            severity,
            check: check.to_owned(),
            object: None,
            message: String::new(),
            cure: None,
            responsible,
        };
        FindingDraft { findings: self, finding }
    }
}

/// A finding without its text.
#[derive(Debug)]
pub(in crate::control) struct FindingDraft<'a> {
    findings: &'a mut Findings,
    finding: Finding,
}

impl FindingDraft<'_> {
    pub(in crate::control) fn about(mut self, object: &(impl ToString + ?Sized)) -> Self {
        self.finding.object = Some(object.to_string());
        self
    }

    pub(in crate::control) fn cure(mut self, cure: impl Into<Option<Cure>>) -> Self {
        self.finding.cure = cure.into();
        self
    }

    pub(in crate::control) fn say(mut self, message: impl Into<String>) {
        self.finding.message = message.into();
        self.findings.add(self.finding);
    }
}
