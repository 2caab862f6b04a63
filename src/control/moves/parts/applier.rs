//! How the role that restores the schema and writes rows gets access to the target during the copy.
//!
//! Before and after, the target accepts no connections. During the copy it accepts them, but only this role
//! has the CONNECT privilege; its password is stored nowhere.

use crate::system::applier::RowAccess;
use crate::system::{MoveNames, Session, SystemError, applier, databases, fence, guard};

use crate::control::moves::endpoint::Endpoints;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::own_login::{OwnLogin, unreachable};

/// Gives the role access to the target, with privileges on every existing table. Safe to repeat.
pub(in crate::control) async fn admit(ends: &Endpoints, target: &Session) -> Result<OwnLogin, SystemError> {
    fence::shut(target, &ends.target.dbname).await?;
    guard::restrain(target, &ends.names().applier_role()).await?;
    let login = OwnLogin::create(target, &ends.names().applier_role(), RowAccess::Write).await?;
    databases::limit_connections(target, &ends.target.dbname, None).await?;
    Ok(login)
}

/// Takes the role's access away again and removes it. Safe to repeat.
pub(in crate::control) async fn dismiss(ends: &Endpoints, target: &Session) -> Result<(), SystemError> {
    databases::limit_connections(target, &ends.target.dbname, Some(0)).await?;
    remove(target, ends.names()).await?;
    guard::release(target).await
}

/// Lets the role log in once: a rule in `pg_hba.conf` that rejects it is found before a row is read.
pub(in crate::control) async fn probe(ends: &Endpoints, target: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the role that writes rows");
    let applier = admit(ends, target).await.map_err(doing())?;
    let tried = ends.target.writing_session(&applier).await;
    dismiss(ends, target).await.map_err(doing())?;
    tried.map(drop).map_err(|error| unreachable(&ends.target, RowAccess::Write, &error))
}

/// Makes the role the owner of a subscription in the session's database. If the server's workers could not
/// connect as the role, the platform keeps the subscription; the preflight has reported it. Safe to repeat.
pub(in crate::control) async fn take_over(
    subscriber: &Session,
    names: MoveNames,
    subscription: &str,
) -> Result<(), SystemError> {
    if !applier::can_apply(crate::system::facts::version_num(subscriber).await?) {
        return Ok(());
    }
    let role = names.applier_role();
    applier::create(subscriber, &role, RowAccess::Write).await?;
    applier::lend(subscriber, &role, RowAccess::Write).await?;
    applier::take_over(subscriber, subscription, &role).await
}

/// Removes the role from a side where nothing is applied any more. Safe to repeat.
pub(in crate::control) async fn remove(subscriber: &Session, names: MoveNames) -> Result<(), SystemError> {
    applier::remove(subscriber, &names.applier_role()).await
}
