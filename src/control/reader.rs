//! How the role that reads rows comes into a database while its rows are read, and out of it again.
//!
//! A database that is shut stays so for everybody else: it takes connections then, but nobody has the right to connect except this
//! role, which gets a password that is kept nowhere.

use zeroize::Zeroizing;

use crate::error::{Blame, Explain};
use crate::model::RoleName;
use crate::system::applier::{self, Rows};
use crate::system::{MoveNames, Session, SystemError, databases, fence, roles};

use super::ends::End;
use super::error::StepError;
use super::stream::random_password;

/// Who reads the rows of one side, and by which password.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) role: RoleName,
    pub(super) password: Zeroizing<String>,
    /// The database was shut, and is shut again afterwards.
    was_shut: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Reader {
    /// Lets the role into a side, with the right to read every table that is there. Safe to repeat.
    pub(super) async fn admit(end: &End) -> Result<Reader, SystemError> {
        let session = as_replica(end).await?;
        let name = MoveNames(end.move_id).reader_role();
        let role = RoleName::parse(&name)
            .map_err(|error| session.unexpected("naming the role that reads rows", error.to_string()))?;
        let password = Zeroizing::new(random_password());
        applier::create(&session, &name).await?;
        applier::set_password(&session, &name, &password).await?;
        applier::lend(&session, &name, Rows::Read).await?;
        let was_shut = fence::read(&session, &end.dbname).await?.is_shut();
        if was_shut {
            databases::limit_connections(&session, &end.dbname, None).await?;
        }
        Ok(Reader { role, password, was_shut })
    }

    /// Shuts the role out again, and removes it.
    pub(super) async fn dismiss(self, end: &End) -> Result<(), SystemError> {
        if self.was_shut {
            let session = end.admin_session().await?;
            databases::limit_connections(&session, &end.dbname, Some(0)).await?;
        }
        remove(end).await
    }
}

/// Removes the role with its rights, if it is there. Safe to repeat.
pub(super) async fn remove(end: &End) -> Result<(), SystemError> {
    let session = as_replica(end).await?;
    let name = MoveNames(end.move_id).reader_role();
    applier::take_back(&session, &name).await?;
    roles::drop_replication(&session, &name).await
}

/// An event trigger of the users' is not for us.
async fn as_replica(end: &End) -> Result<Session, SystemError> {
    let session = end.session().await?;
    session.act_as_replica().await?;
    Ok(session)
}

/// Lets the role log in once: whether `pg_hba.conf` is in the way is found out before a row is read.
pub(super) async fn probe(end: &End) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the role that reads rows");
    let reader = Reader::admit(end).await.map_err(doing())?;
    let tried = end.reading_session(&reader).await;
    reader.dismiss(end).await.map_err(doing())?;
    tried.map(drop).map_err(|error| unreachable(end, &error))
}

fn unreachable(end: &End, error: &SystemError) -> StepError {
    let name = &end.system.name;
    StepError::Forbidden {
        sqlstate: error.sqlstate(),
        blame: Blame::Platform,
        message: format!("the role that reads the rows cannot log in to system {name}"),
        detail: Some(error.message()),
        hint: Some(format!(
            "Let roles named freehold_* log in with a password from Freehold's own address in pg_hba.conf of system {name}: \
             rows are not read as a superuser."
        )),
    }
}
