//! Brings the roles and settings of a database to the side that its clients go to: again, because they may
//! have changed since.
//!
//! Roles, verifiers, memberships, settings and rights on the database are not in the WAL, and the guard
//! cannot refuse their changes: they belong to the server, not to the database. So they are compared when the
//! copy is done, and right before the clients are held; in either direction.
//!
//! # Why
//! Only roles that the move created are changed: each is one role on two systems. And only in what changed on
//! the side that is left since both were last read (`role_merge`): either system has databases that never
//! moved, and a change to a role for one of them must not be overwritten. What both sides have changed is
//! left as it is, and named in the record. A role that both systems had before is not changed; if its
//! password differs, the move stops and says so, as the preflight would.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Blame, SqlState};
use crate::model::SystemName;
use crate::model::movement::{Finding, SavedFence, SeenRoles};
use crate::system::fence::{self, DatabaseAccess};
use crate::system::roles::{self, Membership, Role};
use crate::system::{Session, SystemError, own_roles};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::meaning;
use crate::control::moves::parts::role_merge::{self, Known, Merged, SeenSides, Unseen, finding};
use crate::control::moves::parts::scope;
use crate::control::moves::parts::sweep;

/// Applies the changes of the other side to the side that the clients go to. Fast if nothing has changed.
/// Safe to repeat.
pub(in crate::control) async fn run(ctx: &mut StepContext, way: MoveDirection) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing roles and settings");
    let (from, to) = way.ends(ctx.ends());
    let from_session = from.session().await.map_err(doing())?;
    let to_session = to.admin_session().await.map_err(doing())?;
    let names = scope::needed_role_names(ctx, &from_session, &from).await?;
    let seen = seen(ctx, way);
    let mut findings = Vec::new();
    let here = roles::read(&from_session, &names).await.map_err(doing())?;
    let ours = create_missing(ctx, way, (&to_session, &to), &here, &seen, &mut findings).await?;
    let there = roles::read(&to_session, &names).await.map_err(doing())?;
    for role in &here {
        let Some(other) = there.iter().find(|other| other.name == role.name) else { continue };
        let merged = seen.merge(role, other);
        let is_ours = ours.contains(&role.name);
        if is_ours && merged.wanted != *other {
            roles::alter(&to_session, &merged.wanted, other).await.map_err(doing())?;
        }
        let is_lost = match way {
            MoveDirection::Forward => {
                (if is_ours { &merged.wanted } else { other }).verifier != role.verifier
            }
            MoveDirection::Reverse => !is_ours && merged.wanted.verifier != other.verifier,
        };
        if is_lost && role.can_login && !role.superuser {
            return Err(other_password(&to, role));
        }
        findings.extend(tell(&to, is_ours, &merged));
    }
    if way == MoveDirection::Forward {
        drop_gone(ctx, &from_session, &to_session, &ours).await?;
    }
    memberships(ctx, way, (&from_session, &to_session), (&names, &ours), &seen, &mut findings).await?;
    if way == MoveDirection::Forward {
        refuse_strangers((&from_session, &to_session), &to, &names).await?;
    }
    note(ctx, findings).await?;
    note_seen(ctx, way, (&from_session, &to_session), &names).await?;
    meaning::bring(ctx, way, (&from_session, &to_session), &names).await?;
    rights(ctx, way, &from_session, &to_session).await
}

fn seen(ctx: &StepContext, way: MoveDirection) -> SeenSides {
    let (from, to) = way.ends(ctx.ends());
    let all = match way {
        MoveDirection::Forward => &ctx.facts().roles_seen,
        MoveDirection::Reverse => &ctx.facts().roles_seen_back,
    };
    let of = |end: &Endpoint| all.get(&end.system.name).cloned().unwrap_or_default();
    SeenSides { from: of(&from), to: of(&to) }
}

/// Records the current state of the roles on both sides.
pub(in crate::control) async fn note_seen(
    ctx: &mut StepContext,
    way: MoveDirection,
    (from, to): (&Session, &Session),
    names: &[String],
) -> Result<(), StepError> {
    let doing = || StepError::doing("reading the roles of both sides");
    let here = known(from, names).await.map_err(doing())?;
    let there = known(to, names).await.map_err(doing())?;
    let (from, to) = way.ends(ctx.ends());
    let of_systems = |seen: SeenSides| -> BTreeMap<SystemName, SeenRoles> {
        [(from.system.name.clone(), seen.from), (to.system.name.clone(), seen.to)].into()
    };
    let mut facts = ctx.facts().clone();
    match way {
        MoveDirection::Forward => {
            facts.roles_seen = of_systems(seen(ctx, way).renew(&here, &there, Unseen::Counts));
            facts.roles_seen_back = of_systems(SeenSides::default().renew(&here, &there, Unseen::Counts));
        }
        MoveDirection::Reverse => {
            facts.roles_seen_back = of_systems(seen(ctx, way).renew(&here, &there, Unseen::IsForeign));
        }
    }
    facts.roles_needed.extend(names.iter().filter(|name| !ctx.facts().roles_needed.contains(name)).cloned());
    if facts == *ctx.facts() {
        return Ok(());
    }
    ctx.remember(|now| {
        now.roles_seen.clone_from(&facts.roles_seen);
        now.roles_seen_back.clone_from(&facts.roles_seen_back);
        now.roles_needed.clone_from(&facts.roles_needed);
    })
    .await
}

async fn known(session: &Session, names: &[String]) -> Result<Known, SystemError> {
    Ok(Known {
        roles: roles::read(session, names).await?,
        memberships: roles::memberships(session, names).await?,
    })
}

/// Replaces the earlier findings of what was not carried over.
async fn note(ctx: &mut StepContext, findings: Vec<Finding>) -> Result<(), StepError> {
    let old = ctx.facts().findings.iter().filter(|finding| finding.check == role_merge::CHECK);
    if old.eq(findings.iter()) {
        return Ok(());
    }
    for finding in &findings {
        tracing::warn!(id = ctx.id().0, finding = finding.message, "a role is not the same on both sides");
    }
    ctx.remember(|facts| {
        facts.findings.retain(|finding| finding.check != role_merge::CHECK);
        facts.findings.extend(findings.iter().cloned());
    })
    .await
}

/// Creates the roles that appeared since. Returns the names of those that are one role on both systems.
async fn create_missing(
    ctx: &mut StepContext,
    way: MoveDirection,
    (session, to): (&Session, &Endpoint),
    here: &[Role],
    seen: &SeenSides,
    findings: &mut Vec<Finding>,
) -> Result<Vec<String>, StepError> {
    let doing = || StepError::doing("creating roles");
    let names: Vec<String> = here.iter().map(|role| role.name.clone()).collect();
    let there = roles::read(session, &names).await.map_err(doing())?;
    let missing = here.iter().filter(|role| !there.iter().any(|other| other.name == role.name));
    // On the way forth the move creates its own roles, also repeatedly.
    let is_dropped = |role: &&Role| way == MoveDirection::Reverse && seen.was_there(&role.name);
    let (dropped, missing): (Vec<&Role>, Vec<&Role>) = missing.partition(is_dropped);
    findings.extend(dropped.iter().map(|role| {
        let message = format!(
            "role {} was dropped on system {} since the move, and is not created again",
            role.name, to.system.name
        );
        finding(&role.name, message)
    }));
    let made: Vec<String> = missing.iter().map(|role| role.name.clone()).collect();
    if !made.is_empty() {
        ctx.remember(|facts| {
            let new = made.iter().filter(|name| !facts.roles_created.contains(name)).cloned();
            let new: Vec<String> = new.collect();
            facts.roles_created.extend(new);
        })
        .await?;
    }
    let mark = ctx.ends().names().role_mark();
    for role in missing {
        // On the way back the role gets no mark: it stays when the move has ended.
        let comment = match way {
            MoveDirection::Forward => mark.as_str(),
            MoveDirection::Reverse => {
                role.comment.as_deref().filter(|text| *text != mark).unwrap_or_default()
            }
        };
        roles::create(session, role, comment).await.map_err(doing())?;
    }
    Ok(ctx.facts().roles_created.clone())
}

/// Findings for the operator about a role that differs between the sides.
fn tell(to: &Endpoint, is_ours: bool, merged: &Merged) -> Vec<Finding> {
    let (name, system) = (&merged.wanted.name, &to.system.name);
    let mut findings = Vec::new();
    let barred = ["LOGIN", Role::PASSWORD, "VALID UNTIL"];
    let matters = |property: &&str| is_ours || barred.contains(property);
    let conflicts: Vec<&str> = merged.conflicts.iter().map(String::as_str).filter(matters).collect();
    if !conflicts.is_empty() {
        let what = conflicts.join(", ");
        let message = format!(
            "{what} of role {name} changed on both systems since the move: system {system} keeps its own"
        );
        findings.push(finding(name, message));
    }
    let barred: Vec<&str> =
        merged.theirs.iter().map(String::as_str).filter(|name| barred.contains(name)).collect();
    if !barred.is_empty() {
        let what = barred.join(", ");
        let message = format!(
            "{what} of role {name} changed on system {system} since the move: its clients must log in by what holds there"
        );
        findings.push(finding(name, message));
    }
    findings
}

/// Drops roles that the move created and that were since dropped on the side that is left. A role that is
/// still needed stays.
async fn drop_gone(
    ctx: &StepContext,
    from: &Session,
    to: &Session,
    ours: &[String],
) -> Result<(), StepError> {
    let doing = || StepError::doing("looking for roles that are gone");
    let here = roles::read(from, ours).await.map_err(doing())?;
    let mut gone = roles::marked(to, &ctx.ends().names().role_mark()).await.map_err(doing())?;
    gone.retain(|name| !here.iter().any(|role| role.name == *name));
    sweep::drop_roles(ctx, to, &gone).await?;
    Ok(())
}

/// The role's clients could not log in on the other side. On the way back this is an error only if the
/// password was not changed there: a change made there, for databases there, is a finding.
fn other_password(to: &Endpoint, role: &Role) -> StepError {
    StepError::NotNow {
        message: format!("role {} has another password on system {}", role.name, to.system.name),
        detail: Some(
            "Its password was changed on one of the systems, and is not the move's to change. Give it the same verifier on both."
                .to_owned(),
        ),
    }
}

/// Memberships of the roles that are one role on both systems.
async fn memberships(
    ctx: &mut StepContext,
    way: MoveDirection,
    (from, to): (&Session, &Session),
    (names, ours): (&[String], &[String]),
    seen: &SeenSides,
    findings: &mut Vec<Finding>,
) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing memberships");
    let is_ours = |pair: &Membership| ours.contains(&pair.member) || ours.contains(&pair.role);
    let mut here = roles::memberships(from, names).await.map_err(doing())?;
    let mut there = roles::memberships(to, names).await.map_err(doing())?;
    here.retain(is_ours);
    there.retain(is_ours);
    let merged = seen.memberships(&here, &there);
    let of_roles: Vec<String> =
        merged.grant.iter().flat_map(|pair| [pair.role.clone(), pair.member.clone()]).collect();
    let known: BTreeSet<String> =
        roles::read(to, &of_roles).await.map_err(doing())?.into_iter().map(|role| role.name).collect();
    let exist = |pair: &&&Membership| known.contains(&pair.role) && known.contains(&pair.member);
    let grant: Vec<&Membership> = merged.grant.iter().filter(exist).copied().collect();
    if way == MoveDirection::Forward && !grant.is_empty() {
        let pairs: Vec<_> = grant.iter().map(|pair| (pair.role.clone(), pair.member.clone())).collect();
        ctx.remember(|facts| {
            let new = pairs.iter().filter(|pair| !facts.memberships_granted.contains(pair)).cloned();
            let new: Vec<_> = new.collect();
            facts.memberships_granted.extend(new);
        })
        .await?;
    }
    for pair in grant {
        roles::grant_membership(to, pair).await.map_err(doing())?;
    }
    for gone in merged.revoke {
        roles::revoke_membership(to, gone).await.map_err(doing())?;
    }
    findings.extend(merged.conflicts.into_iter().map(|pair| {
        let (role, member) = (&pair.role, &pair.member);
        finding(member, format!("that role {member} belongs to {role} changed on both systems since the move, and is left as it is"))
    }));
    Ok(())
}

/// Members that the roles have on the target and not on the source would gain privileges on the database. The
/// preflight has named those that existed then; this finds later ones.
async fn refuse_strangers(
    (from, to): (&Session, &Session),
    there: &Endpoint,
    names: &[String],
) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing the members of roles");
    let wanted = roles::members(from, names).await.map_err(doing())?;
    let members = roles::members(to, names).await.map_err(doing())?;
    let gained = own_roles::gained(&wanted, &members);
    let Some(first) = gained.first() else { return Ok(()) };
    let (role, member, system) = (&first.role, &first.member, &there.system.name);
    Err(StepError::Forbidden {
        sqlstate: SqlState::MOVE_BLOCKED,
        blame: Blame::Platform,
        message: format!(
            "role {member} was made a member of {role} on system {system}, and would gain rights on the database"
        ),
        detail: Some(format!("Memberships that only system {system} has: {}.", gained.len())),
        hint: Some(format!(
            "Grant the same on the source, or revoke it on system {system}, and move again; PLAN MOVE names each."
        )),
    })
}

/// Sets which roles may connect on the other side once it opens, or from now on if it is open.
async fn rights(
    ctx: &mut StepContext,
    way: MoveDirection,
    from: &Session,
    to: &Session,
) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing the rights on the database");
    let (here, there) = way.ends(ctx.ends());
    let access = fence::read(from, &here.dbname).await.map_err(doing())?;
    let saved = ctx.facts().saved_fence.get(&there.system.name).cloned();
    // The side is shut: its current privileges are the fence's.
    let Some(saved) = saved.filter(|_| !access.is_shut()) else { return Ok(()) };
    let wanted = scope::opened_access(to, &here, &there, &access).await.map_err(doing())?;
    let before = fence::as_saved(to, &there.dbname, &saved).await.map_err(doing())?;
    let after = fence::as_saved(to, &there.dbname, &wanted).await.map_err(doing())?;
    let replication = ctx.ends().names().replication_role();
    if are_equal(&before, &after, &replication) {
        return Ok(());
    }
    remember(ctx, &there, &wanted).await?;
    match fence::read(to, &there.dbname).await.map_err(doing())?.is_shut() {
        true => Ok(()),
        false => fence::restore(to, &there.dbname, &wanted).await.map_err(doing()),
    }
}

/// Whether two accesses give the same roles the same privileges, whichever role granted them; ignores the
/// move's own role.
fn are_equal(one: &DatabaseAccess, other: &DatabaseAccess, but: &str) -> bool {
    let told = |access: &DatabaseAccess| -> BTreeSet<(Option<String>, String, bool)> {
        let people = access.grants.iter().filter(|grant| grant.grantee.as_deref() != Some(but));
        people.map(|grant| (grant.grantee.clone(), grant.privilege.clone(), grant.grantable)).collect()
    };
    one.connection_limit == other.connection_limit && told(one) == told(other)
}

async fn remember(ctx: &mut StepContext, end: &Endpoint, access: &SavedFence) -> Result<(), StepError> {
    let system = end.system.name.clone();
    ctx.remember(|facts| {
        facts.saved_fence.insert(system.clone(), access.clone());
    })
    .await
}
