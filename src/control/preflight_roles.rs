//! Preflight of the roles: whether those that exist on the target are the same, and who would pass the fence.

use crate::model::movement::FindingSeverity::{Blocker, Warning};
use crate::system::role_uses::{self, Asked};
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
    if here.superuser && there.superuser {
        if here.can_login && here.verifier != there.verifier {
            findings.platform(Warning, "role_password").about(&here.name).say(format!(
                "superuser {} has another password on the target: a client that logs in as it cannot follow the move",
                here.name
            ));
        }
        return Ok(());
    }
    let used = is_used(scene, &here.name).await?;
    attributes(scene, here, there, used, findings);
    if here.can_login && here.verifier != there.verifier {
        findings
            .platform(Blocker, "role_password")
            .about(&here.name)
            .cure(password_cure(scene, here, used))
            .say(format!(
                "role {} exists on the target with another password: its clients could not log in after the move",
                here.name
            ));
    }
    Ok(())
}

/// What a role may do is another thing there. Where something on the target uses the role a person decides: either way
/// somebody gets or loses a right.
fn attributes(scene: &Scene<'_>, here: &Role, there: &Role, used: bool, findings: &mut Findings) {
    let differing = here.differing_attributes(there);
    if differing.is_empty() {
        return;
    }
    let (end, name) = (scene.target_end(), quote_ident(&here.name));
    let alter = format!("ALTER ROLE {name} {};", here.attributes_sql(&differing));
    // No cure makes an application a superuser.
    let makes_superuser = here.superuser && !there.superuser;
    let cure = match used || makes_superuser {
        false => on_system(end, alter),
        true => Some(format!(
            "-- system {to} has clients of role {name}, or the source has made it a superuser. Decide which is right, and make it \
             so on both:\n-- on system {to}: {alter}\n-- on system {from}: ALTER ROLE {name} {back};",
            to = end.system.name,
            from = scene.source_end().system.name,
            back = there.attributes_sql(&differing),
        )),
    };
    findings.platform(Blocker, "role_attributes").about(&here.name).cure(cure).say(format!(
        "role {} exists on the target with another {}",
        here.name,
        differing.join(", ")
    ));
}

/// A report holds no verifier, so the statement that carries it is printed by the source. Where something on the target
/// uses the role its clients log in by the password that it has there: whether they are the same client a person knows.
fn password_cure(scene: &Scene<'_>, role: &Role, used: bool) -> Option<String> {
    let (from, to) = (&scene.source_end().system.name, &scene.target_end().system.name);
    let name = quote_ident(&role.name);
    let print = format!(
        "SELECT format('ALTER ROLE %I PASSWORD %s', rolname, coalesce(quote_literal(rolpassword), 'NULL')) FROM pg_authid \
         WHERE rolname = {};",
        quote_literal(&role.name)
    );
    Some(match used {
        false => format!(
            "-- on system {from}; run what it prints on system {to}, where nobody uses the role:\n{print}"
        ),
        true => format!(
            "-- system {to} has clients of role {name}, which log in by another password than those of the source.\n\
             -- Where both are one application: let it use one password, then run on system {from} the next line, and on system {to} \
             what it prints.\n-- {print}\n\
             -- Where they are two: give one of them another name, by which its clients must then log in.\n\
             -- ALTER ROLE {name} RENAME TO {other};",
            other = quote_ident(&format!("{}_{to}", role.name)),
        ),
    })
}

/// Whether anything on the target uses a role: what is there, or an application that comes through Freehold.
async fn is_used(scene: &Scene<'_>, role: &str) -> Result<bool, SystemError> {
    let platform = platform_roles(&scene.plan.ends);
    let role = [role.to_owned()];
    let asked = Asked {
        dbname: "",
        roles: &role,
        in_use: &scene.plan.logins_there,
        platform: &platform.each(),
        memberships: &[],
    };
    Ok(!role_uses::elsewhere(scene.target, &asked).await?.is_empty())
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
