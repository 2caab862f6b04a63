//! Removes what a move created on a system: all objects with its names, and no others.
//!
//! Used by the undo of every step and at the end of a move. Needs no record of what was created: the names
//! identify it. Each function is safe to repeat, and does nothing if there is nothing to remove.
//!
//! # Why
//! Roles belong to the server: between the move and its undo another database may have come to need one.
//! `DROP ROLE` does not check logins, so these are looked up (`system/role_uses.rs`), and other moves record
//! the roles that their databases need.

use crate::model::MoveRecord;
use crate::system::names::ROLE_MARK;
use crate::system::role_uses::{self, RoleUseQuery};
use crate::system::{
    MoveNames, Session, SystemError, applier, databases, marker, own_roles, publications, roles, slots,
    subscriptions,
};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;
use crate::control::moves::parts::scope::platform_roles;

/// Removes subscriptions, publications, slots, guard, helper schema and the roles of a move's own from one
/// system. The database itself stays. One that accepts no connections was cleaned before it was closed.
pub async fn objects(end: &Endpoint, names: MoveNames) -> Result<(), SystemError> {
    let admin = end.admin_session().await?;
    if can_be_entered(&admin, &end.dbname).await? {
        let session = end.session().await?;
        // A user's event trigger must not stop the move's DDL.
        session.act_as_replica().await?;
        in_database(&session, names).await?;
    }
    on_system(&admin, end, names).await
}

/// Removes objects in the database. Subscriptions first: their slots are then free.
async fn in_database(session: &Session, names: MoveNames) -> Result<(), SystemError> {
    for name in [names.forward(), names.back()] {
        subscriptions::drop(session, &name).await?;
    }
    for name in [names.forward(), names.back()] {
        publications::drop(session, &name).await?;
    }
    for role in [names.applier_role(), names.reader_role()] {
        applier::take_back(session, &role).await?;
    }
    marker::drop_helper(session, names).await
}

/// Removes objects of the system.
async fn on_system(admin: &Session, end: &Endpoint, names: MoveNames) -> Result<(), SystemError> {
    for name in [names.forward(), names.back()] {
        slots::drop(admin, &name, end.deadline()).await?;
    }
    for role in [names.replication_role(), names.applier_role(), names.reader_role(), names.claim_role()] {
        own_roles::drop_replication(admin, &role).await?;
    }
    Ok(())
}

/// Drops the database that the move made on the target, and the roles that nothing else uses. Returns the
/// roles that stay; they still carry the mark, see [`release_roles`].
pub async fn made_database(ctx: &StepContext) -> Result<Vec<String>, StepError> {
    let doing = || StepError::doing("cleaning the target");
    let ends = ctx.ends();
    let names = ends.names();
    let admin = ends.target.admin_session().await.map_err(doing())?;
    use databases::DatabaseClaim;
    if databases::claim(&admin, names, &ends.target.dbname).await.map_err(doing())? == DatabaseClaim::Ours {
        // A missing library would make the target refuse connections.
        databases::load_nothing(&admin, &ends.target.dbname).await.map_err(doing())?;
        objects(&ends.target, names).await.map_err(doing())?;
    }
    on_system(&admin, &ends.target, names).await.map_err(doing())?;
    databases::drop_ours(&admin, names, &ends.target.dbname).await.map_err(doing())?;
    let made = roles::marked(&admin, &names.role_mark()).await.map_err(doing())?;
    drop_roles(ctx, &admin, &made).await
}

/// Drops the roles that the move created and that only its database uses. Returns the others.
pub(in crate::control) async fn drop_roles(
    ctx: &StepContext,
    admin: &Session,
    made: &[String],
) -> Result<Vec<String>, StepError> {
    let doing = || StepError::doing("dropping roles on the target");
    let mut stay = used_elsewhere(ctx, admin, made).await?;
    let mut left: Vec<&String> = made.iter().filter(|role| !stay.contains(role)).collect();
    // A role may depend on another one being dropped first; each round drops at least one, or ends the loop.
    loop {
        let mut stayed = Vec::new();
        for role in &left {
            if !roles::drop_unless_used(admin, role).await.map_err(doing())? {
                stayed.push(*role);
            }
        }
        if stayed.is_empty() || stayed.len() == left.len() {
            stay.extend(stayed.into_iter().cloned());
            return Ok(stay);
        }
        left = stayed;
    }
}

/// The roles that another database owns objects with, that another move needs, or that are in use on the
/// target.
async fn used_elsewhere(
    ctx: &StepContext,
    admin: &Session,
    made: &[String],
) -> Result<Vec<String>, StepError> {
    let ends = ctx.ends();
    let in_use = needed_by_other_moves(ctx).await?;
    let platform = platform_roles(&ends);
    let asked = RoleUseQuery {
        dbname: &ends.target.dbname,
        roles: made,
        in_use: &in_use,
        platform: &platform.each(),
        memberships: &ctx.facts().memberships_granted,
    };
    role_uses::elsewhere(admin, &asked).await.map_err(StepError::doing("looking for who else uses a role"))
}

/// Roles of databases that other moves have brought to the target or can bring back there.
async fn needed_by_other_moves(ctx: &StepContext) -> Result<Vec<String>, StepError> {
    let system = &ctx.record().target.system;
    let routes = ctx.catalog.routes().list().await?.into_values().into_iter();
    let here: Vec<_> =
        routes.filter(|route| route.place.system == *system).map(|route| route.database).collect();
    let concerned = |other: &MoveRecord| {
        other.database != ctx.record().database
            && [&other.source.system, &other.target.system].contains(&system)
            && (!other.phase.has_ended() || here.contains(&other.database))
    };
    let moves = ctx.catalog.moves().list().await?.into_values().into_iter().filter(concerned);
    Ok(moves.flat_map(|other| other.facts.roles_needed).collect())
}

/// Ends the move's claim on roles that stay although it was undone: they belong to the target from now on.
pub async fn release_roles(ends: &Endpoints, stayed: &[String]) -> Result<(), SystemError> {
    if stayed.is_empty() {
        return Ok(());
    }
    let admin = ends.target.admin_session().await?;
    unmark_roles(ends, &admin, stayed).await
}

/// Removes the move's marks; database and roles stay. For the end of a move that was not undone.
pub async fn marks(ends: &Endpoints) -> Result<(), SystemError> {
    let admin = ends.target.admin_session().await?;
    let names = ends.names();
    if databases::claim(&admin, names, &ends.target.dbname).await? == databases::DatabaseClaim::Ours {
        databases::unmark(&admin, &ends.target.dbname).await?;
    }
    let made = roles::marked(&admin, &names.role_mark()).await?;
    unmark_roles(ends, &admin, &made).await
}

/// Replaces the mark by the comment that the role has on the source.
async fn unmark_roles(ends: &Endpoints, admin: &Session, made: &[String]) -> Result<(), SystemError> {
    let comments = comments_on_source(ends, made).await;
    for role in made {
        let comment = comments.iter().find(|(name, _)| name == role).and_then(|(_, text)| text.as_deref());
        // A role that a move also created on the source has no comment yet.
        let comment = comment.filter(|text| !text.starts_with(ROLE_MARK));
        roles::comment(admin, role, comment).await?;
    }
    Ok(())
}

/// The comments of the roles on the source; none if the source is unreachable.
async fn comments_on_source(ends: &Endpoints, made: &[String]) -> Vec<(String, Option<String>)> {
    let read = async {
        let admin = ends.source.admin_session().await?;
        roles::read(&admin, made).await
    };
    match read.await {
        Ok(roles) => roles.into_iter().map(|role| (role.name, role.comment)).collect(),
        Err(error) => {
            tracing::warn!(%error, "the comments of roles are lost: the source does not answer");
            Vec::new()
        }
    }
}

async fn can_be_entered(admin: &Session, dbname: &str) -> Result<bool, SystemError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datallowconn)";
    admin.value("looking for a database", sql, &[&dbname]).await
}

pub(in crate::control) async fn database_exists(admin: &Session, dbname: &str) -> Result<bool, SystemError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    admin.value("looking for a database", sql, &[&dbname]).await
}
