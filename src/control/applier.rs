//! How the role that restores the schema and writes rows comes into the target while both are done.
//!
//! The database is shut then. For the time of the copy it takes connections, but nobody has the right to connect except
//! this role, which gets a password that is kept nowhere.

use zeroize::Zeroizing;

use crate::error::{Blame, Explain};
use crate::model::RoleName;
use crate::system::applier::Rows;
use crate::system::{MoveNames, Session, SystemError, applier, databases, fence};

use super::ends::{End, Ends};
use super::error::StepError;
use super::stream::random_password;

/// Who restores the schema and writes the rows, and by which password.
#[derive(Clone)]
pub(super) struct Applier {
    pub(super) role: RoleName,
    pub(super) password: Zeroizing<String>,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Applier {
    /// Lets the role into the target, with rights on every table that is there. Safe to repeat.
    pub(super) async fn admit(ends: &Ends, target: &Session) -> Result<Applier, SystemError> {
        let name = ends.names().applier_role();
        let role = RoleName::parse(&name)
            .map_err(|error| target.unexpected("naming the role that writes rows", error.to_string()))?;
        let password = Zeroizing::new(random_password());
        fence::shut(target, &ends.target.dbname).await?;
        applier::create(target, &name).await?;
        applier::set_password(target, &name, &password).await?;
        applier::lend(target, &name, Rows::Write).await?;
        databases::limit_connections(target, &ends.target.dbname, None).await?;
        Ok(Applier { role, password })
    }
}

/// Shuts the role out again, and removes it. Safe to repeat.
pub(super) async fn dismiss(ends: &Ends, target: &Session) -> Result<(), SystemError> {
    databases::limit_connections(target, &ends.target.dbname, Some(0)).await?;
    remove(target, ends.names()).await
}

/// Lets the role log in once: whether `pg_hba.conf` is in the way is found out before a row is read.
pub(super) async fn probe(ends: &Ends, target: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the role that writes rows");
    let applier = Applier::admit(ends, target).await.map_err(doing())?;
    let tried = ends.target.writing_session(&applier).await;
    dismiss(ends, target).await.map_err(doing())?;
    tried.map(drop).map_err(|error| unreachable(&ends.target, &error))
}

fn unreachable(target: &End, error: &SystemError) -> StepError {
    let name = &target.system.name;
    StepError::Forbidden {
        sqlstate: error.sqlstate(),
        blame: Blame::Platform,
        message: format!("the role that writes the rows cannot log in to system {name}"),
        detail: Some(error.message()),
        hint: Some(format!(
            "Let roles named freehold_* log in with a password from Freehold's own address in pg_hba.conf of system {name}: \
             rows are not written as a superuser."
        )),
    }
}

/// Makes a subscription of the session's database act as the role. A server whose workers could not enter the database
/// keeps it as the platform's; the preflight has said so. Safe to repeat.
pub(super) async fn take_over(
    subscriber: &Session,
    names: MoveNames,
    subscription: &str,
) -> Result<(), SystemError> {
    if !applier::can_apply(crate::system::facts::version_num(subscriber).await?) {
        return Ok(());
    }
    let role = names.applier_role();
    applier::create(subscriber, &role).await?;
    applier::lend(subscriber, &role, Rows::Write).await?;
    applier::take_over(subscriber, subscription, &role).await
}

/// Removes the role from a side where nothing is applied any more. Safe to repeat.
pub(super) async fn remove(subscriber: &Session, names: MoveNames) -> Result<(), SystemError> {
    let role = names.applier_role();
    applier::take_back(subscriber, &role).await?;
    crate::system::roles::drop_replication(subscriber, &role).await
}
