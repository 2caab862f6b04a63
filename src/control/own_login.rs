//! The logins of a move's own roles: a name, and a password that is made for them and kept nowhere.

use zeroize::Zeroizing;

use crate::error::{Blame, Explain};
use crate::model::RoleName;
use crate::system::applier::{self, Rows};
use crate::system::{Session, SystemError};

use super::ends::End;
use super::error::StepError;
use super::stream::random_password;

/// Who reads or writes rows on one side, and by which password.
#[derive(Clone)]
pub(super) struct OwnLogin {
    pub(super) role: RoleName,
    pub(super) password: Zeroizing<String>,
}

impl std::fmt::Debug for OwnLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnLogin").field("role", &self.role).finish_non_exhaustive()
    }
}

impl OwnLogin {
    /// Creates the role, with rights on every table of the session's database. Safe to repeat: the password is another one then.
    pub(super) async fn create(session: &Session, name: &str, rows: Rows) -> Result<OwnLogin, SystemError> {
        let role = RoleName::parse(name)
            .map_err(|error| session.unexpected("naming a role of the move's own", error.to_string()))?;
        let password = Zeroizing::new(random_password());
        applier::create(session, name).await?;
        applier::set_password(session, name, &password).await?;
        applier::lend(session, name, rows).await?;
        Ok(OwnLogin { role, password })
    }
}

/// The role could not log in: `pg_hba.conf` is in the way, most of the time.
pub(super) fn unreachable(end: &End, rows: Rows, error: &SystemError) -> StepError {
    let name = &end.system.name;
    let (does, done) = match rows {
        Rows::Read => ("reads", "read"),
        Rows::Write => ("writes", "written"),
    };
    StepError::Forbidden {
        sqlstate: error.sqlstate(),
        blame: Blame::Platform,
        message: format!("the role that {does} the rows cannot log in to system {name}"),
        detail: Some(error.message()),
        hint: Some(format!(
            "Let roles named freehold_* log in with a password from Freehold's own address in pg_hba.conf of system {name}: \
             rows are not {done} as a superuser."
        )),
    }
}
