//! How the role that reads rows gets access to a database, and loses it afterwards.
//!
//! A shut database stays shut for all other roles: it accepts connections during that time, but only this
//! role has the CONNECT privilege; its password is stored nowhere.

use crate::system::applier::{self, RowAccess};
use crate::system::{Session, SystemError, databases, fence};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::own_login::{OwnLogin, unreachable};

/// The role that reads the rows of one side.
#[derive(Debug, Clone)]
pub(in crate::control) struct Reader {
    pub(in crate::control) login: OwnLogin,
    /// The database was shut, and is shut again afterwards.
    was_shut: bool,
}

impl Reader {
    /// Gives the role access to a side, with the privilege to read every existing table. Safe to repeat.
    pub(in crate::control) async fn admit(end: &Endpoint) -> Result<Reader, SystemError> {
        let session = as_replica(end).await?;
        let login = OwnLogin::create(&session, &name(end), RowAccess::Read).await?;
        let was_shut = fence::read(&session, &end.dbname).await?.is_shut();
        if was_shut {
            databases::limit_connections(&session, &end.dbname, None).await?;
        }
        Ok(Reader { login, was_shut })
    }

    /// Takes the access away again, and removes the role.
    pub(in crate::control) async fn dismiss(self, end: &Endpoint) -> Result<(), SystemError> {
        if self.was_shut {
            let session = end.admin_session().await?;
            databases::limit_connections(&session, &end.dbname, Some(0)).await?;
        }
        remove(end).await
    }
}

/// Removes the role with its privileges, if it exists. Safe to repeat.
pub(in crate::control) async fn remove(end: &Endpoint) -> Result<(), SystemError> {
    applier::remove(&as_replica(end).await?, &name(end)).await
}

fn name(end: &Endpoint) -> String {
    end.names.reader_role()
}

/// The users' event triggers must not fire for these sessions.
async fn as_replica(end: &Endpoint) -> Result<Session, SystemError> {
    let session = end.session().await?;
    session.act_as_replica().await?;
    Ok(session)
}

/// Lets the role log in once: a rule in `pg_hba.conf` that rejects it is found before a row is read.
pub(in crate::control) async fn probe(end: &Endpoint) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the role that reads rows");
    let reader = Reader::admit(end).await.map_err(doing())?;
    let tried = end.reading_session(&reader.login).await;
    reader.dismiss(end).await.map_err(doing())?;
    tried.map(drop).map_err(|error| unreachable(end, RowAccess::Read, &error))
}
