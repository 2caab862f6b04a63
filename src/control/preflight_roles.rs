//! Preflight of the roles: whether those that exist on the target are the same, and who would pass the fence.

use crate::model::movement::FindingSeverity::{Blocker, Warning};
use crate::system::roles::{self, Role};
use crate::system::{SystemError, quote_ident, quote_literal};

use super::preflight::{Findings, Scene, on_system};
use super::provision::platform_roles;

pub(super) async fn check(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let ends = &scene.plan.ends;
    let except = platform_roles(ends);
    let names =
        roles::needed_by(scene.source, &ends.source.dbname, &scene.plan.logins, &except.each()).await?;
    let here = roles::read(scene.source, &names).await?;
    let there = roles::read(scene.target, &names).await?;
    for role in &here {
        if role.superuser && role.can_login {
            superuser(scene, role, findings);
        }
        match there.iter().find(|other| other.name == role.name) {
            Some(other) => compare(scene, role, other, findings).await?,
            None => unknown_settings(scene, role, findings).await?,
        }
    }
    memberships(scene, &names, &there, findings).await
}

fn superuser(scene: &Scene<'_>, role: &Role, findings: &mut Findings) {
    let cure = on_system(scene.source_end(), format!("ALTER ROLE {} NOSUPERUSER;", quote_ident(&role.name)));
    findings.product(Warning, "superuser").about(&role.name).cure(cure).say(format!(
        "role {} is a superuser: it passes every fence, so a client that uses it must come through Freehold, or its writes \
         on the source are lost after the move",
        role.name
    ));
}

/// A role that exists on both sides must be the same role.
async fn compare(
    scene: &Scene<'_>,
    here: &Role,
    there: &Role,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let end = scene.target_end();
    let name = quote_ident(&here.name);
    if here.superuser && there.superuser {
        if here.can_login && here.verifier != there.verifier {
            findings.platform(Warning, "role_password").about(&here.name).say(format!(
                "superuser {} has another password on the target: a client that logs in as it cannot follow the move",
                here.name
            ));
        }
        return Ok(());
    }
    let differing = here.differing_attributes(there);
    if !differing.is_empty() {
        let attributes = Role { verifier: None, ..here.clone() };
        // VALID UNTIL that was never set is the same as infinity, and can only be written so.
        let until = if here.valid_until.is_none() { " VALID UNTIL 'infinity'" } else { "" };
        findings
            .platform(Blocker, "role_attributes")
            .about(&here.name)
            .cure(on_system(end, format!("ALTER ROLE {name} {}{until};", attributes.options_sql())))
            .say(format!("role {} exists on the target with another {}", here.name, differing.join(", ")));
    }
    if here.can_login && here.verifier != there.verifier {
        let used = is_used(scene, &here.name).await?;
        let cure = match used {
            false => {
                format!(
                    "DROP ROLE {name}; -- nothing uses it, and the move creates it as it is on the source"
                )
            }
            true => format!(
                "ALTER ROLE {name} RENAME TO {}; -- its clients there must follow",
                quote_ident(&format!("{}_{}", here.name, end.system.name))
            ),
        };
        findings.platform(Blocker, "role_password").about(&here.name).cure(on_system(end, cure)).say(format!(
            "role {} exists on the target with another password: its clients could not log in after the move",
            here.name
        ));
    }
    Ok(())
}

/// Whether anything on the target depends on a role.
async fn is_used(scene: &Scene<'_>, role: &str) -> Result<bool, SystemError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
        AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1))";
    scene.target.value("looking whether a role is used", sql, &[&role]).await
}

/// Settings of a role that will be created, and that the target does not know.
async fn unknown_settings(
    scene: &Scene<'_>,
    role: &Role,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1))";
    for stored in &role.settings {
        let name = stored.split_once('=').map_or(stored.as_str(), |(name, _)| name);
        if name.contains('.') || scene.target.value::<bool>("reading settings", sql, &[&name]).await? {
            continue;
        }
        let reset = format!("ALTER ROLE {} RESET {};", quote_ident(&role.name), quote_ident(name));
        findings
            .product(Blocker, "setting")
            .about(name)
            .cure(on_system(scene.source_end(), reset))
            .say(format!("role {} sets {name}, which the target does not know", role.name));
    }
    Ok(())
}

/// Memberships between roles that both exist on the target are not changed by the move.
async fn memberships(
    scene: &Scene<'_>,
    names: &[String],
    there: &[Role],
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let here = roles::memberships(scene.source, names).await?;
    let on_target = roles::memberships(scene.target, names).await?;
    let exists = |name: &str| name.starts_with("pg_") || there.iter().any(|role| role.name == name);
    for wanted in here.iter().filter(|pair| exists(&pair.member) && exists(&pair.role)) {
        let is_there = |pair: &&roles::Membership| pair.member == wanted.member && pair.role == wanted.role;
        if on_target.iter().any(|pair| is_there(&pair)) {
            continue;
        }
        let cure = format!("GRANT {} TO {};", quote_ident(&wanted.role), quote_ident(&wanted.member));
        findings
            .platform(Blocker, "membership")
            .about(&wanted.member)
            .cure(on_system(scene.target_end(), cure))
            .say(format!(
                "role {} belongs to {} on the source and not on the target, where both exist",
                quote_literal(&wanted.member),
                quote_literal(&wanted.role)
            ));
    }
    Ok(())
}
