//! Removes what a move made on a system: everything of its names, nothing of anybody else's.
//!
//! Used by the undo of every step, and at the end of a move. Needs no memory of what was made: the names say it. Each
//! function is safe to repeat and finds nothing to do where nothing is.

use crate::system::{
    MoveNames, Session, SystemError, applier, databases, guard, marker, publications, roles, slots,
    subscriptions,
};

use super::ends::{End, Ends};

/// Removes subscriptions, publications, slots, guard, helper schema and the roles of a move's own from one system. The
/// database itself stays, if it is there. One that takes no connections was swept before it was closed.
pub async fn objects(end: &End, names: MoveNames) -> Result<(), SystemError> {
    let admin = end.admin_session().await?;
    if can_be_entered(&admin, &end.dbname).await? {
        let session = end.session().await?;
        // Our own DDL must not be stopped by an event trigger of the user's.
        session.act_as_replica().await?;
        in_database(&session, names).await?;
    }
    on_system(&admin, end, names).await
}

/// What lives in the database. Subscriptions go first: a slot that they use is then let go.
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
    guard::remove(session).await?;
    marker::drop_helper(session).await
}

/// What belongs to the system.
async fn on_system(admin: &Session, end: &End, names: MoveNames) -> Result<(), SystemError> {
    for name in [names.forward(), names.back()] {
        slots::drop(admin, &name, end.deadline()).await?;
    }
    for role in [names.replication_role(), names.applier_role(), names.reader_role()] {
        roles::drop_replication(admin, &role).await?;
    }
    Ok(())
}

/// Drops the database that the move made on the target, and the roles. Returns the roles that must stay because
/// something else uses them by now.
pub async fn made_database(ends: &Ends) -> Result<Vec<String>, SystemError> {
    let names = ends.names();
    let admin = ends.target.admin_session().await?;
    use databases::Claim;
    if databases::claim(&admin, names, &ends.target.dbname).await? == Claim::Ours {
        objects(&ends.target, names).await?;
    }
    on_system(&admin, &ends.target, names).await?;
    databases::drop_ours(&admin, names, &ends.target.dbname).await?;
    let mut left = roles::marked(&admin, &names.role_mark()).await?;
    // A role can wait for another one to go first; each round drops at least one, or none can be dropped.
    loop {
        let mut stayed = Vec::new();
        for role in &left {
            if !roles::drop_unless_used(&admin, role).await? {
                stayed.push(role.clone());
            }
        }
        if stayed.is_empty() || stayed.len() == left.len() {
            return Ok(stayed);
        }
        left = stayed;
    }
}

/// Ends the move's claim on what it made: marks go, database and roles stay. For the end of a move that was not undone.
pub async fn marks(ends: &Ends) -> Result<(), SystemError> {
    let admin = ends.target.admin_session().await?;
    let names = ends.names();
    if databases::claim(&admin, names, &ends.target.dbname).await? == databases::Claim::Ours {
        databases::unmark(&admin, &ends.target.dbname).await?;
    }
    let made = roles::marked(&admin, &names.role_mark()).await?;
    let comments = comments_on_source(ends, &made).await;
    for role in &made {
        let comment = comments.iter().find(|(name, _)| name == role).and_then(|(_, text)| text.as_deref());
        roles::comment(&admin, role, comment).await?;
    }
    Ok(())
}

/// The comments that the roles have where they came from; a source that is gone has none to give.
async fn comments_on_source(ends: &Ends, made: &[String]) -> Vec<(String, Option<String>)> {
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

pub(super) async fn database_exists(admin: &Session, dbname: &str) -> Result<bool, SystemError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    admin.value("looking for a database", sql, &[&dbname]).await
}
