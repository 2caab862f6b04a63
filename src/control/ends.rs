//! The two ends of a move, and how the steps reach them.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{MoveId, Place, SystemRecord};
use crate::system::pipe::RawSession;
use crate::system::{MoveNames, Session, SystemAccess, SystemError};

use super::applier::Applier;
use super::error::StepError;
use super::step::StepContext;
use super::way::Way;

/// A database on a system, and the time to reach it.
#[derive(Debug, Clone)]
pub struct End {
    pub system: SystemRecord,
    pub dbname: String,
    pub connect_timeout: Duration,
    pub access: SystemAccess,
    /// What the platform's sessions are called in `pg_stat_activity`.
    pub application_name: String,
}

/// Where a database is, and where it goes.
#[derive(Debug, Clone)]
pub struct Ends {
    pub id: MoveId,
    pub source: End,
    pub target: End,
}

impl End {
    /// A session in the product's database.
    pub async fn session(&self) -> Result<Session, SystemError> {
        self.session_in(&self.dbname).await
    }

    /// A session where no product's database is meant.
    pub async fn admin_session(&self) -> Result<Session, SystemError> {
        self.session_in(&self.system.admin_database).await
    }

    async fn session_in(&self, dbname: &str) -> Result<Session, SystemError> {
        let deadline = Instant::now() + self.connect_timeout;
        Session::connect(&self.access, &self.system, dbname, &self.application_name, deadline).await
    }

    /// A connection of our own in the product's database, for COPY.
    pub async fn raw_session(&self) -> Result<RawSession, SystemError> {
        let startup = [("application_name", self.application_name.as_str())];
        RawSession::connect(&self.access, &self.system, &self.dbname, &startup, self.deadline()).await
    }

    /// The same as the role that writes rows.
    pub(super) async fn writing_session(&self, applier: &Applier) -> Result<RawSession, SystemError> {
        let startup = [("application_name", self.application_name.as_str())];
        let login = (&applier.role, &applier.password);
        RawSession::connect_as(&self.access, &self.system, &self.dbname, login, &startup, self.deadline())
            .await
    }

    pub fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }
}

impl Ends {
    pub fn names(&self) -> MoveNames {
        MoveNames(self.id)
    }
}

impl StepContext {
    pub fn ends(&self) -> Ends {
        let record = self.record();
        let end = |system: &SystemRecord, dbname: &str| End {
            system: system.clone(),
            dbname: dbname.to_owned(),
            connect_timeout: self.settings.connect_timeout,
            access: self.settings.access.clone(),
            application_name: MoveNames(record.id).application_name(),
        };
        Ends {
            id: record.id,
            source: end(&self.source, &record.source.dbname),
            target: end(&self.target, &record.target.dbname),
        }
    }

    /// Where the clients go, as its system is reached now.
    pub(super) fn destination(&self, way: Way) -> Place {
        let (_, End { system, dbname, .. }) = way.ends(self.ends());
        system.place(dbname)
    }

    /// A session in the database on the source.
    pub async fn source_session(&self) -> Result<Session, StepError> {
        self.ends().source.session().await.map_err(StepError::doing("connecting to the source"))
    }

    /// A session in the database on the target.
    pub async fn target_session(&self) -> Result<Session, StepError> {
        self.ends().target.session().await.map_err(StepError::doing("connecting to the target"))
    }
}
