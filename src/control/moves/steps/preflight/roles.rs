//! Preflight of the roles: whether those that exist on the target are the same, and which could pass the
//! fence.

use crate::model::Cure;
use crate::model::movement::FindingSeverity::{Blocker, Warning};
use crate::system::role_uses::{self, RoleUseQuery};
use crate::system::roles::{self, Membership, Role};
use crate::system::{SystemError, own_roles, ownership, quote_ident, quote_literal};

use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::steps::preflight::{Findings, PreflightContext, on_system};

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
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
    platform_owner(scene, findings).await?;
    platform_namesake(scene, findings).await?;
    own_names(scene, findings).await?;
    gained(scene, &there, findings).await?;
    memberships(scene, &names, (&here, &there), findings).await
}

/// The platform's role of the source is not carried over. Objects that it owns in the database need a role of
/// that name on the target.
async fn platform_owner(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let role = scene.source_end().system.admin_role.to_string();
    if !roles::read(scene.target, std::slice::from_ref(&role)).await?.is_empty() {
        return Ok(());
    }
    let objects = ownership::of_role(scene.source, &role).await?;
    let Some(first) = objects.first() else { return Ok(()) };
    let end = scene.target_end();
    findings
        .platform(Blocker, "platform_owner")
        .about(&role)
        .cure(on_system(end, format!("CREATE ROLE {} NOLOGIN;", quote_ident(&role))))
        .say(format!(
            "{} object(s) of the database, first {first}, name role {role}, the platform's on the source, which system {} does not have; \
             there the role would be no superuser, which matters to functions that run as their owner",
            objects.len(),
            end.system.name
        ));
    Ok(())
}

/// An application's role with the name of the target's platform role would be a superuser there.
async fn platform_namesake(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let (source, target) = (scene.source_end(), scene.target_end());
    let role = target.system.admin_role.to_string();
    if role == source.system.admin_role.as_str() {
        return Ok(());
    }
    let here = roles::read(scene.source, std::slice::from_ref(&role)).await?;
    let Some(here) = here.first().filter(|here| !here.superuser) else { return Ok(()) };
    let needed = roles::needed_by(
        scene.source,
        &source.dbname,
        &scene.plan.logins,
        &[source.system.admin_role.as_str()],
    )
    .await?;
    if !needed.contains(&here.name) {
        return Ok(());
    }
    findings
        .platform(Blocker, "platform_name")
        .about(&role)
        .cure(
            Cure::comment(format!(
                "on system {}; its clients there must log in by the new name:",
                source.system.name
            ))
            .and_perhaps(renamed(&role, &format!("{role}_of_mine"))),
        )
        .say(format!(
            "role {role} is an application's on the source, and the platform's on system {}: what belongs to it would be a superuser's",
            target.system.name
        ));
    Ok(())
}

fn renamed(role: &str, other: &str) -> String {
    format!("ALTER ROLE {} RENAME TO {};", quote_ident(role), quote_ident(other))
}

fn superuser(scene: &PreflightContext<'_>, role: &Role, findings: &mut Findings) {
    let system = &scene.source_end().system.name;
    let cure = Cure::to_decide(
        format!("on system {system}, where nothing else needs it to be one:"),
        [format!("ALTER ROLE {} NOSUPERUSER;", quote_ident(&role.name))],
    );
    findings.product(Warning, "superuser").about(&role.name).cure(cure).say(format!(
        "role {} is a superuser: it passes every fence, so a client that uses it must come through Freehold, or its writes \
         on the source are lost after the move",
        role.name
    ));
}

/// A role that exists on both sides must be the same role.
async fn compare(
    scene: &PreflightContext<'_>,
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

/// The role's attributes differ on the target. If something on the target uses the role, the operator
/// decides: either way some user gains or loses a privilege.
fn attributes(scene: &PreflightContext<'_>, here: &Role, there: &Role, used: bool, findings: &mut Findings) {
    let differing = here.differing_attributes(there);
    if differing.is_empty() {
        return;
    }
    let (end, name) = (scene.target_end(), quote_ident(&here.name));
    let alter = format!("ALTER ROLE {name} {};", here.attributes_sql(&differing));
    // No cure makes an application's role a superuser.
    let makes_superuser = here.superuser && !there.superuser;
    let cure = match used || makes_superuser {
        false => on_system(end, alter),
        true => {
            let (to, from) = (&end.system.name, &scene.source_end().system.name);
            let back = there.attributes_sql(&differing);
            Cure::comment(format!(
                "system {to} has clients of role {name}, or the source has made it a superuser. Decide which is right, and make it \
                 so on both:"
            ))
            .and_comment(format!("on system {to}: {alter}"))
            .and_comment(format!("on system {from}: ALTER ROLE {name} {back};"))
        }
    };
    findings.platform(Blocker, "role_attributes").about(&here.name).cure(cure).say(format!(
        "role {} exists on the target with another {}",
        here.name,
        differing.join(", ")
    ));
}

/// A report contains no verifier, so the source prints the statement that carries it. If something on the
/// target uses the role, its clients log in with the password that it has there: the operator knows whether
/// they are the same clients.
fn password_cure(scene: &PreflightContext<'_>, role: &Role, used: bool) -> Cure {
    let (from, to) = (&scene.source_end().system.name, &scene.target_end().system.name);
    let name = quote_ident(&role.name);
    let print = format!(
        "SELECT format('ALTER ROLE %I PASSWORD %s', rolname, coalesce(quote_literal(rolpassword), 'NULL')) FROM pg_authid \
         WHERE rolname = {};",
        quote_literal(&role.name)
    );
    match used {
        false => Cure::comment(format!(
            "on system {from}; run what it prints on system {to}, where nobody uses the role:"
        ))
        .and_sql(print),
        true => Cure::comment(format!(
            "system {to} has clients of role {name}, which log in by another password than those of the source."
        ))
        .and_comment(format!(
            "Where both are one application: let it use one password, then run on system {from} the next line, and on system {to} \
             what it prints."
        ))
        .and_perhaps(print)
        .and_comment("Where they are two: give one of them another name, by which its clients must then log in.")
        .and_perhaps(renamed(&role.name, &format!("{}_{to}", role.name))),
    }
}

/// Whether anything on the target uses a role: an object, a setting, or an application that connects through
/// Freehold.
async fn is_used(scene: &PreflightContext<'_>, role: &str) -> Result<bool, SystemError> {
    is_used_besides(scene, role, &[]).await
}

/// The same, ignoring some of its memberships, (role, member).
async fn is_used_besides(
    scene: &PreflightContext<'_>,
    role: &str,
    memberships: &[(String, String)],
) -> Result<bool, SystemError> {
    let platform = platform_roles(&scene.plan.ends);
    let role = [role.to_owned()];
    let asked = RoleUseQuery {
        dbname: "",
        roles: &role,
        in_use: &scene.plan.logins_there,
        platform: &platform.each(),
        memberships,
    };
    Ok(!role_uses::elsewhere(scene.target, &asked).await?.is_empty())
}

/// Settings of a role to be created that the target does not know.
async fn unknown_settings(
    scene: &PreflightContext<'_>,
    role: &Role,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let sql = "SELECT current_setting($1, true) IS NOT NULL";
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

/// The move does not change memberships between roles that both exist on the target: they must be equivalent
/// there.
async fn memberships(
    scene: &PreflightContext<'_>,
    names: &[String],
    (here, there): (&[Role], &[Role]),
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let wanted = spelled_out(roles::memberships(scene.source, names).await?, here);
    let on_target = spelled_out(roles::memberships(scene.target, names).await?, there);
    let pairs: Vec<(String, String)> =
        on_target.iter().map(|pair| (pair.role.clone(), pair.member.clone())).collect();
    let exists = |name: &str| name.starts_with("pg_") || there.iter().any(|role| role.name == name);
    for pair in wanted.iter().filter(|pair| exists(&pair.member) && exists(&pair.role)) {
        match on_target.iter().find(|other| other.is_same_pair(pair)) {
            None => {
                membership(scene, pair, &pairs, "and not on the target, where both exist", findings).await?
            }
            Some(other) if gives_less(other, pair) => {
                let what = format!(
                    "by {}, and on the target, where both exist, by {}",
                    pair.options(),
                    other.options()
                );
                membership(scene, pair, &pairs, &what, findings).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Before 16 the member's INHERIT decides, and every member may SET ROLE.
fn spelled_out(mut memberships: Vec<Membership>, of: &[Role]) -> Vec<Membership> {
    for pair in &mut memberships {
        let member = of.iter().find(|role| role.name == pair.member);
        pair.inherit.get_or_insert(member.is_none_or(|member| member.inherit));
        pair.set.get_or_insert(true);
    }
    memberships
}

fn gives_less(there: &Membership, here: &Membership) -> bool {
    let lacks = |here: Option<bool>, there: Option<bool>| here == Some(true) && there != Some(true);
    here.admin && !there.admin || lacks(here.inherit, there.inherit) || lacks(here.set, there.set)
}

/// A member of a role gets its privileges in every database of the target. If it has any, the operator
/// decides.
async fn membership(
    scene: &PreflightContext<'_>,
    pair: &Membership,
    on_target: &[(String, String)],
    what: &str,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let end = scene.target_end();
    let with = match scene.target_facts.major() >= 16 {
        true => format!(" WITH {}", pair.options()),
        false if pair.admin => " WITH ADMIN OPTION".to_owned(),
        false => String::new(),
    };
    let grant = format!("GRANT {} TO {}{with};", quote_ident(&pair.role), quote_ident(&pair.member));
    let cure = match pair.role.starts_with("pg_") || is_used_besides(scene, &pair.role, on_target).await? {
        false => on_system(end, grant),
        true => Cure::comment(format!(
            "on system {}, where the role has rights for others as well; whoever is {} gets those, too:",
            end.system.name,
            quote_ident(&pair.member)
        ))
        .and_perhaps(grant),
    };
    findings.platform(Blocker, "membership").about(&pair.member).cure(cure).say(format!(
        "role {} belongs to {} on the source {what}",
        quote_literal(&pair.member),
        quote_literal(&pair.role)
    ));
    Ok(())
}

/// Members that roles of the database have on the target and not on the source, or with more options: the
/// move would give them privileges on the database. They may belong to other databases, so memberships that
/// the source does not know are checked too.
async fn gained(
    scene: &PreflightContext<'_>,
    there: &[Role],
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let names: Vec<String> = there.iter().map(|role| role.name.clone()).collect();
    let wanted = roles::members(scene.source, &names).await?;
    let on_target = roles::members(scene.target, &names).await?;
    let pairs: Vec<(String, String)> =
        on_target.iter().map(|pair| (pair.role.clone(), pair.member.clone())).collect();
    for pair in own_roles::gained(&wanted, &on_target) {
        let here = wanted.iter().find(|other| other.is_same_pair(pair));
        let what = match here {
            None => "on the target and not on the source".to_owned(),
            Some(here) => {
                format!("by {} on the target, and on the source by {}", pair.options(), here.options())
            }
        };
        let used = is_used_besides(scene, &pair.role, &pairs).await?;
        let can_login = there.iter().any(|role| role.name == pair.role && role.can_login);
        let cure = gained_cure(scene, pair, here, (used, can_login));
        findings.platform(Blocker, "membership_gained").about(&pair.member).cure(cure).say(format!(
            "role {} belongs to {} {what}: it could do more in the database after the move",
            quote_literal(&pair.member),
            quote_literal(&pair.role)
        ));
    }
    Ok(())
}

/// If nothing on the target uses the role, a membership in it has no use there. A group that is used gets
/// another name, with all its members and privileges; the move then creates one of this name. Clients log in
/// by the name of a login role, so there the operator decides.
fn gained_cure(
    scene: &PreflightContext<'_>,
    pair: &Membership,
    here: Option<&Membership>,
    (used, can_login): (bool, bool),
) -> Cure {
    let end = scene.target_end();
    let (role, member) = (quote_ident(&pair.role), quote_ident(&pair.member));
    let is_new = scene.target_facts.major() >= 16;
    let again = here.map(|here| match (is_new, here.admin) {
        (true, _) => format!("GRANT {role} TO {member} WITH {};", here.options()),
        (false, true) => format!("GRANT {role} TO {member} WITH ADMIN OPTION;"),
        (false, false) => format!("GRANT {role} TO {member};"),
    });
    let revoke = match is_new {
        // One for each grantor; CASCADE: also what the member has granted in turn.
        true => revoke_of_each_grantor(pair),
        false => format!("REVOKE {role} FROM {member} CASCADE;"),
    };
    let rename = renamed(&pair.role, &format!("{}_of_{}", pair.role, end.system.name));
    match (used, can_login) {
        (false, _) => {
            let revoke = Cure::sql(revoke);
            on_system(end, again.into_iter().fold(revoke, Cure::and_sql))
        }
        (true, false) => on_system(
            end,
            Cure::comment(
                "The group keeps its members and its rights; SET ROLE and scripts must call it by its new name.",
            )
            .and_sql(rename),
        ),
        (true, true) => Cure::comment(format!(
            "on system {}, whose databases use the login role {role}. Decide whether {member} may belong to it:",
            end.system.name
        ))
        .and_comment(format!(
            "if not, which takes its rights in those databases: {revoke} {}",
            again.unwrap_or_default()
        ))
        .and_comment(format!(
            "if those databases mean another {role}, whose clients must then log in by the new name: {rename}"
        )),
    }
}

/// Also revokes what the member has granted in turn. The block is a string literal, because a name may
/// contain any dollar quote.
fn revoke_of_each_grantor(pair: &Membership) -> String {
    let block = format!(
        "DECLARE g text; BEGIN FOR g IN SELECT format('REVOKE %s FROM %s GRANTED BY %I CASCADE', {}, {}, \
         pg_get_userbyid(grantor)) FROM pg_auth_members WHERE pg_get_userbyid(roleid) = {} AND pg_get_userbyid(member) = {} \
         LOOP EXECUTE g; END LOOP; END",
        quote_literal(&quote_ident(&pair.role)),
        quote_literal(&quote_ident(&pair.member)),
        quote_literal(&pair.role),
        quote_literal(&pair.member),
    );
    format!("DO {};", quote_literal(&block))
}

/// Roles with the names of the move's own that the move did not create.
async fn own_names(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    for (session, end) in [(scene.source, scene.source_end()), (scene.target, scene.target_end())] {
        let names = end.names;
        for role in [names.replication_role(), names.applier_role(), names.reader_role()] {
            let Some(why) = own_roles::why_foreign(session, &role).await? else { continue };
            findings
                .platform(Blocker, "own_role")
                .about(&role)
                .cure(on_system(
                    end,
                    format!(
                        "ALTER ROLE {} RENAME TO {};",
                        quote_ident(&role),
                        quote_ident(&format!("not_{role}"))
                    ),
                ))
                .say(format!(
                    "role {role} has the name of a role that the move makes on system {}, and {why}",
                    end.system.name
                ));
        }
    }
    Ok(())
}
