//! Who a database knows and what is set for it, brought to the side that its clients go to: again, because it may have
//! changed since.
//!
//! Roles, verifiers, memberships, settings and rights on the database are not in the log, and the guard cannot refuse
//! their changes: they are the server's, not the database's. So they are compared when the copy is done, and right before
//! the clients are held; in either direction.
//!
//! # Why
//! Only roles that the move made are changed: those are one role on two systems. A role that both systems had before may
//! have another database's clients on the other side; where its password differs now, the move stops and says so, as the
//! preflight would.

use std::collections::BTreeSet;

use crate::model::movement::SavedFence;
use crate::system::fence::{self, Access};
use crate::system::roles::{self, Membership, Role};
use crate::system::{Session, SystemError};

use super::ends::End;
use super::error::StepError;
use super::meaning;
use super::provision;
use super::step::StepContext;
use super::sweep;
use super::way::Way;

/// Makes the side that the clients go to know what the other one knows now. Cheap where nothing has changed. Safe to repeat.
pub(super) async fn run(ctx: &mut StepContext, way: Way) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing roles and settings");
    let (from, to) = way.ends(ctx.ends());
    let from_session = from.session().await.map_err(doing())?;
    let to_session = to.admin_session().await.map_err(doing())?;
    let names = provision::needed_role_names(ctx, &from_session, &from).await?;
    let here = roles::read(&from_session, &names).await.map_err(doing())?;
    let ours = create_missing(ctx, way, &to_session, &here).await?;
    let there = roles::read(&to_session, &names).await.map_err(doing())?;
    for role in &here {
        let Some(other) = there.iter().find(|other| other.name == role.name) else { continue };
        match ours.contains(&role.name) {
            true => follow(&to_session, role, other).await.map_err(doing())?,
            false => refuse_other_password(&to, role, other)?,
        }
    }
    if way == Way::Forth {
        drop_gone(ctx, &from_session, &to_session, &ours).await?;
    }
    memberships(&from_session, &to_session, &names, &ours).await.map_err(doing())?;
    meaning::bring(ctx, way, (&from_session, &to_session), &names).await?;
    rights(ctx, way, &from_session, &to_session).await
}

/// Creates the roles that appeared since. Returns the names of those that are one role on both systems.
async fn create_missing(
    ctx: &mut StepContext,
    way: Way,
    to: &Session,
    here: &[Role],
) -> Result<Vec<String>, StepError> {
    let doing = || StepError::doing("creating roles");
    let names: Vec<String> = here.iter().map(|role| role.name.clone()).collect();
    let there = roles::read(to, &names).await.map_err(doing())?;
    let missing: Vec<&Role> =
        here.iter().filter(|role| !there.iter().any(|other| other.name == role.name)).collect();
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
        // On the way back it is no guest: it stays when the move has ended.
        let comment = match way {
            Way::Forth => mark.as_str(),
            Way::Back => role.comment.as_deref().filter(|text| *text != mark).unwrap_or_default(),
        };
        roles::create(to, role, comment).await.map_err(doing())?;
    }
    Ok(ctx.facts().roles_created.clone())
}

/// Roles that the move has made, and that somebody has dropped where they came from. What still needs one keeps it.
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

/// Makes a role what it is on the other side; its comment is the platform's.
async fn follow(session: &Session, role: &Role, now: &Role) -> Result<(), SystemError> {
    let comparable =
        |role: &Role| Role { comment: None, valid_until: role.ends_at().map(str::to_owned), ..role.clone() };
    if comparable(role) == comparable(now) {
        return Ok(());
    }
    roles::alter(session, role, now).await
}

fn refuse_other_password(to: &End, role: &Role, other: &Role) -> Result<(), StepError> {
    if !role.can_login || role.superuser || role.verifier == other.verifier {
        return Ok(());
    }
    Err(StepError::NotNow {
        message: format!("role {} has another password on system {}", role.name, to.system.name),
        detail: Some(
            "Both systems had the role before the move, and its password was changed on one of them. Give it the same \
             verifier on both."
                .to_owned(),
        ),
    })
}

/// Memberships of the roles that are one role on both systems.
async fn memberships(
    from: &Session,
    to: &Session,
    names: &[String],
    ours: &[String],
) -> Result<(), SystemError> {
    let here = roles::memberships(from, names).await?;
    let there = roles::memberships(to, names).await?;
    let is_ours = |pair: &&Membership| ours.contains(&pair.member) || ours.contains(&pair.role);
    for wanted in here.iter().filter(is_ours) {
        if !there.iter().any(|now| wanted.is_met_by(now)) {
            roles::grant_membership(to, wanted).await?;
        }
    }
    let is_wanted =
        |now: &Membership| here.iter().any(|pair| (&pair.role, &pair.member) == (&now.role, &now.member));
    for gone in there.iter().filter(is_ours).filter(|now| !is_wanted(now)) {
        roles::revoke_membership(to, gone).await?;
    }
    Ok(())
}

/// Who may connect on the other side once it opens; where it is open, from now on.
async fn rights(ctx: &mut StepContext, way: Way, from: &Session, to: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("comparing the rights on the database");
    let (here, there) = way.ends(ctx.ends());
    let access = fence::read(from, &here.dbname).await.map_err(doing())?;
    let saved = ctx.facts().saved_fence.get(&there.system.name).cloned();
    // Shut: what is there now is the fence's doing.
    let Some(saved) = saved.filter(|_| !access.is_shut()) else { return Ok(()) };
    let wanted = provision::opened_access(to, &here, &there, &access).await.map_err(doing())?;
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

/// Whether two accesses let the same people do the same, whoever gave it to them; the move's own role is none of them.
fn are_equal(one: &Access, other: &Access, but: &str) -> bool {
    let told = |access: &Access| -> BTreeSet<(Option<String>, String, bool)> {
        let people = access.grants.iter().filter(|grant| grant.grantee.as_deref() != Some(but));
        people.map(|grant| (grant.grantee.clone(), grant.privilege.clone(), grant.grantable)).collect()
    };
    one.connection_limit == other.connection_limit && told(one) == told(other)
}

async fn remember(ctx: &mut StepContext, end: &End, access: &SavedFence) -> Result<(), StepError> {
    let system = end.system.name.clone();
    ctx.remember(|facts| {
        facts.saved_fence.insert(system.clone(), access.clone());
    })
    .await
}
