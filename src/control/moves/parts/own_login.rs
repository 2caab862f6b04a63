//! The logins of a move's own roles, with generated passwords that are stored nowhere.
//!
//! The role can log in only while one of our sessions does. Any other session that used that moment is ended
//! right afterwards, and the step fails: code that runs as the role can set another password.

use std::sync::Arc;

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::backend::ServerConnection;
use crate::error::{Blame, Explain};
use crate::model::RoleName;
use crate::system::applier::{self, RowAccess};
use crate::system::pipe::RawSession;
use crate::system::session::Setup;
use crate::system::{Session, SystemError, own_roles};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;

/// The role that reads or writes rows on one side, and its password.
#[derive(Clone)]
pub(in crate::control) struct OwnLogin {
    pub(in crate::control) role: RoleName,
    pub(in crate::control) password: Zeroizing<String>,
    /// The backends of our sessions, including ended ones. One session logs in at a time.
    pids: Arc<Mutex<Vec<i32>>>,
}

/// A session with a backend.
pub(in crate::control) trait Connected {
    fn pid(&self) -> i32;
}

impl Connected for Session {
    fn pid(&self) -> i32 {
        Session::pid(self)
    }
}

impl Connected for RawSession {
    fn pid(&self) -> i32 {
        RawSession::pid(self)
    }
}

impl Connected for ServerConnection {
    fn pid(&self) -> i32 {
        self.pid
    }
}

impl std::fmt::Debug for OwnLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnLogin").field("role", &self.role).finish_non_exhaustive()
    }
}

impl OwnLogin {
    /// Creates the role, with rights on every table of the session's database. Safe to repeat: each time with
    /// a new password.
    pub(in crate::control) async fn create(
        session: &Session,
        name: &str,
        rows: RowAccess,
    ) -> Result<OwnLogin, SystemError> {
        let role = RoleName::parse(name)
            .map_err(|error| session.unexpected("naming a role of the move's own", error.to_string()))?;
        let password = Zeroizing::new(random_password());
        applier::create(session, name, rows).await?;
        applier::lend(session, name, rows).await?;
        Ok(OwnLogin { role, password, pids: Arc::default() })
    }

    /// Lets the role log in to a system only while `connect` runs. Ends other sessions of the role, and fails
    /// if there were any.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the role can log in until its password expires, within a minute.
    pub(in crate::control) async fn connected<T: Connected>(
        &self,
        end: &Endpoint,
        connect: impl Future<Output = Result<T, SystemError>>,
    ) -> Result<T, SystemError> {
        let mut pids = self.pids.lock().await;
        let (platform, role) = (end.admin_session().await?, self.role.as_str());
        own_roles::open(&platform, role, &self.password).await?;
        let connected = connect.await;
        pids.extend(connected.as_ref().ok().map(Connected::pid));
        let strangers = own_roles::close(&platform, role, &pids).await?;
        if strangers > 0 {
            return Err(SystemError::NotOurs {
                system: end.system.name.clone(),
                what: format!("a session of role {role}"),
                why: "somebody else has logged in as the role, and was ended".to_owned(),
                cure: "Look for code in the database that changes the password of the role that it runs as: checks, domains, \
                       expressions of indexes."
                    .to_owned(),
            });
        }
        connected
    }
}

impl Endpoint {
    /// A connection in the product's database for COPY, as the role that writes rows.
    pub(in crate::control) async fn writing_session(
        &self,
        login: &OwnLogin,
    ) -> Result<RawSession, SystemError> {
        self.raw_session(login, Setup::Writing).await
    }

    /// The same, as the role that reads rows.
    pub(in crate::control) async fn raw_reading_session(
        &self,
        login: &OwnLogin,
    ) -> Result<RawSession, SystemError> {
        self.raw_session(login, Setup::Fixed).await
    }

    async fn raw_session(&self, login: &OwnLogin, setup: Setup) -> Result<RawSession, SystemError> {
        let further = [("application_name", self.application_name.as_str())];
        let (startup, deadline) = ((setup, further.as_slice()), self.deadline());
        let named = (&login.role, &login.password);
        let opened =
            RawSession::connect_as(&self.access, &self.system, &self.dbname, named, startup, deadline);
        login.connected(self, opened).await
    }

    /// A session in the product's database as the role that reads rows.
    pub(in crate::control) async fn reading_session(&self, login: &OwnLogin) -> Result<Session, SystemError> {
        let (name, deadline) = (&self.application_name, self.deadline());
        let named = (&login.role, &login.password);
        let opened = Session::connect_as(&self.access, &self.system, &self.dbname, named, name, deadline);
        login.connected(self, opened).await
    }
}

/// The role could not log in, in most cases because `pg_hba.conf` refuses it.
pub(in crate::control) fn unreachable(end: &Endpoint, rows: RowAccess, error: &SystemError) -> StepError {
    let name = &end.system.name;
    let (does, done) = match rows {
        RowAccess::Read => ("reads", "read"),
        RowAccess::Write => ("writes", "written"),
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

pub(in crate::control) fn random_password() -> String {
    use rand::RngExt;
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect()
}
