//! Preflight of the settings: differences between the servers that change the meaning of values or the
//! service of clients.
//!
//! A difference that can become a setting of the database on the target is carried (module `meaning`) and
//! reported as a note; one that the target refuses is a blocker, and one that applies to a whole server a
//! warning.

use crate::model::Cure;
use crate::model::movement::FindingSeverity::{Blocker, Note, Warning};
use crate::system::databases::{self, DatabaseSetting};
use crate::system::roles::{self, Role, split_names};
use crate::system::settings::{self, Decision, DifferenceRule, ServerSetting, decision, stored};
use crate::system::{SystemError, applier, quote_ident, quote_literal};

use crate::control::moves::parts::meaning::{self, Side};
use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::steps::preflight::systems::{THEN_RESTART, latest_release};
use crate::control::moves::steps::preflight::{Findings, PreflightContext, on_system};

const TRYING: &str = "trying a setting on the target";

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let ends = &scene.plan.ends;
    let except = platform_roles(ends);
    let names =
        roles::needed_by(scene.source, &ends.source.dbname, &scene.plan.logins, &except.each()).await?;
    let encoding = &scene.database.encoding;
    let from = Side::read(&ends.source, scene.source, &names, encoding).await?;
    let to = Side::read(&ends.target, scene.target, &names, encoding).await?;
    for carried in meaning::carried(&from, &[], &to) {
        carry(scene, &from, &to, &carried, findings).await?;
    }
    own(scene, &from, &to, findings).await?;
    unknown(scene, &from, &to, findings);
    custom(scene, &from, &to, findings);
    for (name, rule) in settings::decisions::decided().filter_map(named) {
        differs(scene, (name, rule), &from, &to, findings);
        if rule == DifferenceRule::Libraries {
            missing_libraries(scene, name, &from, &to, findings).await?;
        }
    }
    libraries(scene, &from, findings).await?;
    old_workers(scene, &from, findings);
    money(scene, &from, findings).await
}

fn named((name, decision): (&'static str, Decision)) -> Option<(&'static str, DifferenceRule)> {
    match decision {
        Decision::Named(rule) => Some((name, rule)),
        Decision::Carried(_) | Decision::Ignored(_) => None,
    }
}

/// A setting that the move carries, if the target accepts it.
async fn carry(
    scene: &PreflightContext<'_>,
    from: &Side,
    to: &Side,
    carried: &DatabaseSetting,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let (role, text) = carried;
    let Some((name, value)) = text.split_once('=') else { return Ok(()) };
    let (source, target) = (scene.source_end(), scene.target_end());
    let there = match role {
        Some(role) => to.for_role(role, name),
        None => to.for_everybody(name),
    };
    let known = if from.server.get(name).is_some() { "" } else { " (which does not know it)" };
    let whose = role.as_ref().map_or_else(String::new, |role| format!(" for role {role}"));
    let differs = format!(
        "{name} is {}{whose} on system {}{known} and {} on system {}",
        quote_literal(value),
        source.system.name,
        there.map_or_else(|| "not set".to_owned(), quote_literal),
        target.system.name,
    );
    match tried(scene, text).await {
        Ok(()) => findings.platform(Note, "setting_carried").about(name).say(format!(
            "{differs}: the move sets it for the database on the target, where clients find what they had"
        )),
        Err(error) if error.server_sqlstate().is_none() => return Err(error),
        Err(error) => {
            let accept = (role.clone(), stored(name, there.unwrap_or_default()));
            let accept = databases::set_sql(&source.dbname, &accept);
            let cure = Cure::sql(accept).remark("as on the target, which clients notice");
            let cure = or_locale_gen(cure, scene, name, value);
            findings
                .platform(Blocker, "setting_refused")
                .about(name)
                .cure(scene.on_source(cure))
                .say(format!("{differs}, which refuses what the source has: {error}"));
        }
    }
    Ok(())
}

/// Adds the alternative cure of a missing locale.
fn or_locale_gen(cure: Cure, scene: &PreflightContext<'_>, name: &str, value: &str) -> Cure {
    match name.starts_with("lc_") {
        true => cure.and_comment(format!(
            "or, on the machine of system {}: run locale-gen {value}, then restart the server",
            scene.target_end().system.name
        )),
        false => cure,
    }
}

/// Tries whether the target accepts a setting of a database; rolls back.
async fn tried(scene: &PreflightContext<'_>, text: &str) -> Result<(), SystemError> {
    let sql = databases::set_sql(&scene.target_end().system.admin_database, &(None, text.to_owned()));
    scene.target.batch(TRYING, "BEGIN").await?;
    let outcome = scene.target.batch(TRYING, &sql).await;
    scene.target.batch(TRYING, "ROLLBACK").await?;
    outcome
}

/// Settings of the database itself, or of a role to be created: the target must accept them. Unknown settings
/// are reported elsewhere.
async fn own(
    scene: &PreflightContext<'_>,
    from: &Side,
    to: &Side,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let is_new = |(role, _): &(DatabaseSetting, String)| {
        role.0.as_ref().is_none_or(|name| !to.roles.iter().any(|there| there.name == *name))
    };
    let dbname = &scene.source_end().dbname;
    let of_database = from.database.iter().map(|own| (own.clone(), databases::reset_sql(dbname, own)));
    let of_roles = settings_of_roles(&from.roles).filter(is_new);
    for ((_, text), reset) in of_database.chain(of_roles) {
        let (name, value) = text.split_once('=').unwrap_or((&text, ""));
        if to.server.get(name).is_none() && !name.contains('.') {
            continue;
        }
        match tried(scene, &text).await {
            Ok(()) => {}
            Err(error) if error.server_sqlstate().is_none() => return Err(error),
            Err(error) => findings
                .product(Blocker, "setting_refused")
                .about(name)
                .cure(scene.on_source(or_locale_gen(Cure::sql(reset), scene, name, value)))
                .say(format!(
                    "the database or its role has the setting {text}, which the target refuses: {error}"
                )),
        }
    }
    Ok(())
}

/// Settings of roles in every database, each with the statement that resets it.
fn settings_of_roles(roles: &[Role]) -> impl Iterator<Item = (DatabaseSetting, String)> {
    roles.iter().flat_map(|role| {
        role.settings.iter().map(|text| {
            let reset = format!("ALTER ROLE {} {};", quote_ident(&role.name), roles::reset_clause(text));
            ((Some(role.name.clone()), text.clone()), reset)
        })
    })
}

/// Settings that decide the meaning of values on the source and do not exist on the target.
fn unknown(scene: &PreflightContext<'_>, from: &Side, to: &Side, findings: &mut Findings) {
    let is_gone = |setting: &&ServerSetting| {
        matches!(decision(&setting.name), Some(Decision::Carried(_)))
            && !setting.name.contains('.')
            && to.server.get(&setting.name).is_none()
            && setting.value != setting.boot
    };
    for setting in from.server.iter().filter(is_gone) {
        findings.platform(Warning, "setting_unknown").about(&setting.name).say(format!(
            "{} is set on system {} and unknown to PostgreSQL {}: clients lose it",
            setting.name,
            scene.source_end().system.name,
            scene.target_facts.major()
        ));
    }
}

/// Custom settings of applications that only the target has: a setting cannot be unset for one database.
fn custom(scene: &PreflightContext<'_>, from: &Side, to: &Side, findings: &mut Findings) {
    let is_new = |setting: &&ServerSetting| {
        matches!(decision(&setting.name), Some(Decision::Carried(_)))
            && setting.name.contains('.')
            && setting.is_of_a_session()
            && setting.value != setting.boot
            && from.server.get(&setting.name).is_none()
            && from.for_everybody(&setting.name).is_none()
    };
    for setting in to.server.iter().filter(is_new) {
        let empty = databases::set_sql(&scene.source_end().dbname, &(None, stored(&setting.name, "")));
        findings
            .platform(Warning, "setting_of_target")
            .about(&setting.name)
            .cure(scene.on_source(Cure::sql(empty).remark("or the value that it shall have")))
            .say(format!(
                "{} is set on system {} for every database, and unknown on the source: clients would read it",
                setting.name,
                scene.target_end().system.name
            ));
    }
}

/// A setting with which the target provides less than the source.
fn differs(
    scene: &PreflightContext<'_>,
    (name, rule): (&str, DifferenceRule),
    from: &Side,
    to: &Side,
    findings: &mut Findings,
) {
    let Some(there) = to.server.get(name) else { return };
    let (source, target) = (from.for_everybody(name).unwrap_or(""), there.value.as_deref().unwrap_or(""));
    let is_less = match rule {
        DifferenceRule::Libraries => false,
        DifferenceRule::AtLeast => is_lower(target, source),
        DifferenceRule::StaysOn => target == "off" && source != "off",
    };
    if !is_less || is_of_database(from, name) {
        return;
    }
    let wanted = stored(name, source);
    let cure = match there.is_of_a_session() {
        true => scene.on_source(databases::set_sql(&scene.source_end().dbname, &(None, wanted))),
        false => on_system(
            scene.target_end(),
            Cure::sql(format!("ALTER SYSTEM {};", roles::set_clause(&wanted))).remark(THEN_RESTART),
        ),
    };
    findings.platform(Warning, "server_setting").about(name).cure(cure).say(format!(
        "{name} is {source} for the database on the source and {target} on system {}: what needs it behaves differently or fails there",
        scene.target_end().system.name
    ));
}

/// Whether the database itself has the setting, which is then carried.
fn is_of_database(from: &Side, name: &str) -> bool {
    let of_database = from.database.iter().filter(|(role, _)| role.is_none()).map(|(_, text)| text);
    settings::value_in(of_database, name).is_some()
}

/// Libraries that the source loads for every session, and the target does not. The cure is complete only if
/// the target has them: a server that is configured to load a missing library does not start, or rejects
/// every connection.
async fn missing_libraries(
    scene: &PreflightContext<'_>,
    name: &str,
    from: &Side,
    to: &Side,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let (Some(here), Some(there)) = (from.server.get(name), to.server.get(name)) else { return Ok(()) };
    let list = |setting: &ServerSetting| split_names(setting.value.as_deref().unwrap_or(""));
    let (wanted, loaded) = (list(here), list(there));
    let missing: Vec<String> = wanted.iter().filter(|library| !loaded.contains(library)).cloned().collect();
    if missing.is_empty() || is_of_database(from, name) {
        return Ok(());
    }
    let target = scene.target_end();
    let mut absent = Vec::new();
    for library in &missing {
        if load(scene, &format!("{}{library}", directory(name))).await?.is_some() {
            absent.push(library.clone());
        }
    }
    let cure = match (absent.is_empty(), there.is_of_a_session()) {
        (false, _) => Cure::comment(format!(
            "install {} on the machine of system {}, for PostgreSQL {}",
            absent.join(", "),
            target.system.name,
            scene.target_facts.major()
        )),
        (true, true) => {
            let own = (None, stored(name, &wanted.join(", ")));
            scene.on_source(databases::set_sql(&scene.source_end().dbname, &own))
        }
        (true, false) => {
            let all: Vec<String> = loaded.into_iter().chain(missing.iter().cloned()).collect();
            let set = roles::set_clause(&stored(name, &all.join(", ")));
            on_system(target, Cure::sql(format!("ALTER SYSTEM {set};")).remark(THEN_RESTART))
        }
    };
    findings.platform(Warning, "server_library").about(name).cure(cure).say(format!(
        "{name} of the source loads {} for every session, and that of system {} does not: statements that need it behave differently or \
         fail there",
        missing.join(", "),
        target.system.name
    ));
    Ok(())
}

/// Directory in which the server looks for the libraries of such a list.
fn directory(name: &str) -> &'static str {
    if name == "local_preload_libraries" { "$libdir/plugins/" } else { "" }
}

/// -1 means no limit.
fn is_lower(target: &str, source: &str) -> bool {
    let number = |text: &str| text.parse::<i64>().map(|limit| if limit < 0 { i64::MAX } else { limit });
    matches!((number(target), number(source)), (Ok(target), Ok(source)) if target < source)
}

/// Libraries that the database or one of its roles loads: without one of them no session could start.
async fn libraries(
    scene: &PreflightContext<'_>,
    from: &Side,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let dbname = &scene.source_end().dbname;
    let of_database = from.database.iter().map(|own| (own.clone(), databases::reset_sql(dbname, own)));
    for ((_, text), reset) in of_database.chain(settings_of_roles(&from.roles)) {
        let Some((name, list)) = text.split_once('=') else { continue };
        if decision(name) != Some(Decision::Named(DifferenceRule::Libraries)) {
            continue;
        }
        for library in split_names(list) {
            let path = format!("{}{library}", directory(name));
            let Some(refusal) = load(scene, &path).await? else { continue };
            findings
                .product(Blocker, "library")
                .about(&library)
                .cure(
                    scene.on_source(Cure::sql(&reset).remark(format!("or install {library} on the target"))),
                )
                .say(format!(
                    "the database or its role has the setting {text}, and system {} cannot load {library}, so nobody could \
                     connect: {refusal}",
                    scene.target_end().system.name
                ));
        }
    }
    Ok(())
}

/// Loads it in a session that ends afterwards; returns the server's error, which a login would get too.
async fn load(scene: &PreflightContext<'_>, library: &str) -> Result<Option<SystemError>, SystemError> {
    let session = scene.target_end().admin_session().await?;
    match session.batch("loading a library", &format!("LOAD {}", quote_literal(library))).await {
        Ok(()) => Ok(None),
        Err(error) if error.server_sqlstate().is_none() => Err(error),
        Err(error) => Ok(Some(error)),
    }
}

/// Workers of old releases act as the platform's role, not as a role with the move's settings: there the
/// database's settings decide how text is read.
fn old_workers(scene: &PreflightContext<'_>, from: &Side, findings: &mut Findings) {
    let pairs = [(scene.source_end(), &scene.source_facts), (scene.target_end(), &scene.target_facts)];
    for (end, facts) in pairs.into_iter().filter(|(_, facts)| !applier::can_apply(facts.version_num)) {
        for (name, value) in meaning::misread(from) {
            findings
                .platform(Blocker, "apply_setting")
                .about(name)
                .cure(latest_release(facts))
                .say(format!(
                    "{name} is {value} in the database: workers of the old release of PostgreSQL {} on system {} would read other \
                     values than were written",
                    facts.major(),
                    end.system.name
                ));
        }
    }
}

/// Expressions on amounts of money that are computed when a row is written: their text would have another
/// form.
async fn money(
    scene: &PreflightContext<'_>,
    from: &Side,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let Some((_, locale)) = meaning::misread(from).into_iter().find(|(name, _)| *name == "lc_monetary")
    else {
        return Ok(());
    };
    let sql = "SELECT DISTINCT CASE WHEN d.classid = 'pg_attrdef'::regclass THEN 'column ' || (SELECT g.adrelid::regclass || '.' || a.attname
                FROM pg_attrdef g JOIN pg_attribute a ON a.attrelid = g.adrelid AND a.attnum = g.adnum WHERE g.oid = d.objid)
                ELSE 'index ' || d.objid::regclass END
        FROM pg_depend d JOIN pg_attribute m ON m.attrelid = d.refobjid AND m.attnum = d.refobjsubid
        WHERE d.refclassid = 'pg_class'::regclass AND m.atttypid = 'money'::regtype
          AND (EXISTS (SELECT FROM pg_attrdef g JOIN pg_attribute a ON a.attrelid = g.adrelid AND a.attnum = g.adnum
                       WHERE d.classid = 'pg_attrdef'::regclass AND g.oid = d.objid AND a.attgenerated <> '')
            OR EXISTS (SELECT FROM pg_index i WHERE d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
                       AND i.indexprs IS NOT NULL)) ORDER BY 1";
    for row in &scene.source.rows("looking for what is computed from money", sql, &[]).await? {
        let object: String = scene.source.column("looking for what is computed from money", row, 0)?;
        findings.product(Warning, "money_computed").about(&object).say(format!(
            "{object} is computed from money, and lc_monetary is {locale}: while rows travel they are written with lc_monetary C, so if \
             it holds text of the amount, that has another form, and the comparison of the two sides finds a difference"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_the_highest() {
        assert!(is_lower("100", "-1") && is_lower("0", "10"));
        assert!(!is_lower("-1", "100") && !is_lower("10", "10"));
    }
}
