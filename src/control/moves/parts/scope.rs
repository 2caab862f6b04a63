//! What belongs to a move: the roles that its database needs, the roles that may connect, the tables that are
//! published; and the roles of the platform, which are never carried over.

use crate::model::movement::SavedFence;
use crate::system::fence::DatabaseAccess;
use crate::system::tables::TableName;
use crate::system::{Session, SystemError, fence, publications, roles, tables};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;

/// The roles that a database needs where it is now.
pub(in crate::control) async fn needed_role_names(
    ctx: &StepContext,
    session: &Session,
    end: &Endpoint,
) -> Result<Vec<String>, StepError> {
    let logins = ctx.catalog.logins().roles_of(&ctx.record().database).await?;
    roles::needed_by(session, &end.dbname, &logins, &platform_roles(&ctx.ends()).each())
        .await
        .map_err(StepError::doing("listing the roles of the database"))
}

/// Roles that are never carried over.
pub(in crate::control) struct PlatformRoles {
    source: String,
    target: String,
    replication: String,
    applier: String,
}

pub(in crate::control) fn platform_roles(ends: &Endpoints) -> PlatformRoles {
    PlatformRoles {
        source: ends.source.system.admin_role.to_string(),
        target: ends.target.system.admin_role.to_string(),
        replication: ends.names().replication_role(),
        applier: ends.names().applier_role(),
    }
}

impl PlatformRoles {
    pub(in crate::control) fn each(&self) -> [&str; 4] {
        [&self.source, &self.target, &self.replication, &self.applier]
    }
}

/// The roles that may connect to the database on the new side, as they can on the other.
pub(in crate::control) async fn opened_access(
    target: &Session,
    from: &Endpoint,
    to: &Endpoint,
    access: &DatabaseAccess,
) -> Result<SavedFence, SystemError> {
    let now = fence::read(target, &to.dbname).await?;
    let grantees = access.grants.iter().filter_map(|grant| grant.grantee.clone());
    let names: Vec<String> = grantees.chain([access.owner.clone()]).collect();
    let known: Vec<String> = roles::read(target, &names).await?.into_iter().map(|role| role.name).collect();
    let platform = from.system.admin_role.as_str();
    // The platform's role of one side needs no access to the other, unless it is the same.
    let knows =
        |role: &str| (role != platform || role == now.owner) && known.iter().any(|known| known == role);
    Ok(fence::translated(access, &now.owner, knows))
}

/// The users' logged tables, and the marker; sorted.
pub(in crate::control) async fn published_tables(session: &Session) -> Result<Vec<TableName>, SystemError> {
    let mut names = tables::list_logged_names(session).await?;
    names.push(publications::marker_table());
    names.sort();
    Ok(names)
}
