//! The two ends of a move, and how the steps reach them.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{MoveId, SystemRecord};
use crate::system::session::{SessionTarget, Setup};
use crate::system::settings::{self, ServerSettings};
use crate::system::{MoveNames, Session, SystemAccess, SystemError};

use crate::control::settings::ControlSettings;

/// A database on a system, and the time to reach it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub system: SystemRecord,
    pub dbname: String,
    pub connect_timeout: Duration,
    pub access: SystemAccess,
    /// Names of the move's objects; the number is zero if only a plan is made.
    pub names: MoveNames,
    /// The `application_name` of the platform's sessions.
    pub application_name: String,
}

/// The source and the target of a move.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub source: Endpoint,
    pub target: Endpoint,
}

impl Endpoint {
    /// Of a system as it is registered, reached as the settings say.
    pub fn of(
        system: SystemRecord,
        dbname: &str,
        settings: &ControlSettings,
        (names, application_name): (MoveNames, &str),
    ) -> Endpoint {
        Endpoint {
            system,
            dbname: dbname.to_owned(),
            connect_timeout: settings.connect_timeout,
            access: settings.access.clone(),
            names,
            application_name: application_name.to_owned(),
        }
    }

    /// A session in the product's database.
    pub async fn session(&self) -> Result<Session, SystemError> {
        self.session_in(&self.dbname).await
    }

    /// A session in the system's administrative database.
    pub async fn admin_session(&self) -> Result<Session, SystemError> {
        self.session_in(&self.system.admin_database).await
    }

    async fn session_in(&self, dbname: &str) -> Result<Session, SystemError> {
        self.session_with(Setup::Fixed, dbname).await
    }

    /// A session in the product's database that computes as an application's session would: only its limits
    /// are Freehold's. It has the users' search path, so its statements qualify all names.
    pub(in crate::control) async fn application_session(&self) -> Result<Session, SystemError> {
        self.session_with(Setup::Application, &self.dbname).await
    }

    /// Settings that the server gives every session, in any database.
    pub(in crate::control) async fn server_settings(
        &self,
        platform: &Session,
    ) -> Result<ServerSettings, SystemError> {
        let bare = self.session_with(Setup::Bare, &self.system.admin_database).await?;
        settings::of_server(&bare, platform).await
    }

    async fn session_with(&self, setup: Setup, dbname: &str) -> Result<Session, SystemError> {
        let place = SessionTarget { access: &self.access, record: &self.system, dbname };
        Session::connect_with(setup, place, &self.application_name, self.deadline()).await
    }

    pub fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }
}

impl Endpoints {
    pub fn move_id(&self) -> MoveId {
        self.names().id()
    }

    pub fn names(&self) -> MoveNames {
        self.source.names
    }
}
