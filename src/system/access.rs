//! The platform's access to a system: TLS and passwords.
//!
//! Control plane and data plane log in through the same function, [`backend::connect`], which decides which
//! authentication requests of a server are answered. The driver and the programs of PostgreSQL get
//! connections that are logged in, and no password.

use std::path::PathBuf;

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::SystemError;
use super::secret_file::{PasswordError, PasswordPlaces};
use crate::backend::{self, ConnectRequest, Credential, ServerConnection};
use crate::model::{RoleName, SslMode, SystemRecord};
use crate::tls::{ClientTls, Connector, Roots};

pub(super) const CONNECTING: &str = "connecting";

/// Settings that are the same for all systems.
#[derive(Debug, Clone, Default)]
pub struct SystemAccess {
    /// TLS settings; `None` uses the operating system's root certificates.
    pub connector: Option<Connector>,
    /// Directories in which the passwords of the platform's roles may be.
    pub passwords: PasswordPlaces,
}

impl SystemAccess {
    /// Connects as the system's admin role with these startup parameters. The password file is read now and
    /// not kept.
    pub async fn connect(
        &self,
        system: &SystemRecord,
        dbname: &str,
        startup: Vec<(String, String)>,
        deadline: Instant,
    ) -> Result<ServerConnection, SystemError> {
        let credential = match self.password(system).await? {
            Some(password) => Credential::Password(password),
            None => Credential::Trust,
        };
        self.connect_as(system, dbname, (&system.admin_role, credential), startup, deadline).await
    }

    /// The same as another role.
    pub async fn connect_as(
        &self,
        system: &SystemRecord,
        dbname: &str,
        (role, credential): (&RoleName, Credential),
        mut startup: Vec<(String, String)>,
        deadline: Instant,
    ) -> Result<ServerConnection, SystemError> {
        // An idle timeout set for the database would end a session before its first statement could change it
        // (PostgreSQL 14 and later).
        startup.push(("idle_session_timeout".to_owned(), "0".to_owned()));
        let request = ConnectRequest { place: system.place(dbname), role: role.clone(), startup, credential };
        let connector = self.connector(system).await?;
        let connected = Box::pin(backend::connect(&request, &connector, deadline)).await;
        connected.map_err(|error| SystemError::from_connect(&system.name, CONNECTING, error))
    }

    /// The connector, or one with the operating system's root certificates, which are read from files.
    pub async fn connector(&self, system: &SystemRecord) -> Result<Connector, SystemError> {
        if let Some(connector) = &self.connector {
            return Ok(connector.clone());
        }
        let refused =
            |reason: String| SystemError::Tls { system: system.name.clone(), operation: CONNECTING, reason };
        if matches!(system.sslmode, SslMode::Disable | SslMode::Prefer | SslMode::Require) {
            // The certificate is not verified, as in libpq without a root file.
            let connector = Connector::open(ClientTls { roots: Roots::Empty, identity: None });
            return connector.map_err(|error| refused(error.to_string()));
        }
        let read = tokio::task::spawn_blocking(Connector::native).await;
        read.map_err(|error| refused(error.to_string()))?.map_err(|error| refused(error.to_string()))
    }

    /// The platform role's password; `None`: the system has no password file.
    async fn password(&self, system: &SystemRecord) -> Result<Option<Zeroizing<String>>, SystemError> {
        let Some(path) = &system.password_file else { return Ok(None) };
        let (places, file) = (self.passwords.clone(), PathBuf::from(path));
        let read = tokio::task::spawn_blocking(move || places.read(&file)).await;
        let read = read.unwrap_or_else(|error| Err(PasswordError::Io(std::io::Error::other(error))));
        read.map(Some).map_err(|source| match source {
            PasswordError::Place => SystemError::PasswordPlace {
                system: system.name.clone(),
                path: path.clone(),
                directories: self.passwords.directories.clone(),
            },
            source => SystemError::PasswordFile { system: system.name.clone(), path: path.clone(), source },
        })
    }
}
