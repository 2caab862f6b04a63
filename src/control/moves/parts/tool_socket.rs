//! A Unix socket through which a program of PostgreSQL reaches a database of a system, already logged in.
//!
//! Owns the task that listens there; dropping the value ends the task and the socket. The directory's
//! permissions control access: only the user of this process can enter it.
//!
//! # Why
//! libpq answers any authentication request of a server, and only version 16 and later can restrict that
//! (`require_auth`); the libpq version of a program is not even known. So a program gets no password:
//! Freehold logs in by its own rules, with its own TLS and the certificate authorities of the configuration,
//! which libpq does not know.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::backend::{self, Credential, DriverConnection, ServerConnection};
use crate::error::{Explain, Severity};
use crate::model::RoleName;
use crate::system::SystemError;
use crate::system::names::quote_conninfo;
use crate::wire::message::backend as answer;
use crate::wire::startup::{self, CancelRequest, Opening};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::parts::own_login::OwnLogin;

/// Only part of the file's name: a Unix socket has no port.
const PORT: u16 = 5432;
/// Limit for connecting and logging in to the system.
const LOGIN_WITHIN: Duration = Duration::from_secs(30);
/// The answer to SSLRequest and GSSENCRequest: no other process can read the socket's traffic.
const NO_ENCRYPTION: &[u8] = b"N";

/// The role of a program on the server.
#[derive(Debug, Clone)]
pub(in crate::control) enum ToolRole {
    Platform,
    /// The role without privileges on the server.
    Applier(OwnLogin),
}

/// A socket for programs. Dropping it ends the listener and all connections.
#[derive(Debug)]
pub(in crate::control) struct ToolSocket {
    directory: PathBuf,
    file: PathBuf,
    conninfo: String,
    task: JoinHandle<()>,
}

impl Drop for ToolSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.file);
    }
}

#[derive(Debug)]
struct Destination {
    end: Endpoint,
    who: ToolRole,
    /// Parameters of the startup packet; those that the program sends are ignored.
    startup: Vec<(String, String)>,
}

impl ToolSocket {
    /// Listens in a private directory; `options` are settings of the connections.
    pub(in crate::control) fn open(
        directory: &Path,
        end: &Endpoint,
        who: ToolRole,
        options: String,
    ) -> io::Result<ToolSocket> {
        let file = directory.join(format!(".s.PGSQL.{PORT}"));
        let _ = std::fs::remove_file(&file);
        let listener = UnixListener::bind(&file)?;
        let startup =
            vec![("options".to_owned(), options), ("application_name".to_owned(), "freehold".to_owned())];
        let conninfo =
            format!("user={} dbname={}", quote_conninfo(who.role(end).as_str()), quote_conninfo(&end.dbname));
        let destination = Arc::new(Destination { end: end.clone(), who, startup });
        let task = tokio::spawn(listen(listener, destination));
        Ok(ToolSocket { directory: directory.to_owned(), file, conninfo, task })
    }

    /// A libpq connection string without the system's address and without a secret.
    pub(in crate::control) fn conninfo(&self) -> String {
        let directory = quote_conninfo(&self.directory.to_string_lossy());
        format!("host={directory} port={PORT} {}", self.conninfo)
    }
}

/// The connections end with this task.
async fn listen(listener: UnixListener, destination: Arc<Destination>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((program, _)) => {
                let destination = Arc::clone(&destination);
                connections.spawn(async move {
                    if let Err(error) = serve(program, &destination).await {
                        tracing::debug!(%error, "a connection of a program ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a program cannot connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut program: UnixStream, destination: &Destination) -> io::Result<()> {
    let mut received = BytesMut::new();
    loop {
        match startup::take(&mut received).map_err(io::Error::other)? {
            Some(Opening::Cancel(request)) => return destination.cancel(&request).await,
            Some(Opening::Startup(_)) => break,
            Some(_) => program.write_all(NO_ENCRYPTION).await?,
            None if program.read_buf(&mut received).await? == 0 => return Ok(()),
            None => {}
        }
    }
    let mut server = match destination.connect().await {
        Ok(connection) => DriverConnection::after_startup(connection),
        Err(error) => {
            tracing::warn!(system = %destination.end.system.name, %error, "a program cannot be connected");
            let mut told = BytesMut::new();
            answer::error_response(&mut told, &error.refusal(Severity::Fatal));
            program.write_all(&told).await?;
            return program.shutdown().await;
        }
    };
    server.write_all(&received).await?;
    copy_bidirectional(&mut program, &mut server).await.map(drop)
}

impl ToolRole {
    fn role<'a>(&'a self, end: &'a Endpoint) -> &'a RoleName {
        match self {
            ToolRole::Platform => &end.system.admin_role,
            ToolRole::Applier(applier) => &applier.role,
        }
    }
}

impl Destination {
    async fn connect(&self) -> Result<ServerConnection, SystemError> {
        let Endpoint { access, system, dbname, .. } = &self.end;
        let (startup, deadline) = (self.startup.clone(), Instant::now() + LOGIN_WITHIN);
        match &self.who {
            ToolRole::Platform => access.connect(system, dbname, startup, deadline).await,
            ToolRole::Applier(own) => {
                let login = (&own.role, Credential::Password(own.password.clone()));
                own.connected(&self.end, access.connect_as(system, dbname, login, startup, deadline)).await
            }
        }
    }

    /// The program has received the server's own cancel key.
    async fn cancel(&self, request: &CancelRequest) -> io::Result<()> {
        let Endpoint { access, system, dbname, .. } = &self.end;
        let connector = access.connector(system).await.map_err(io::Error::other)?;
        let deadline = Instant::now() + LOGIN_WITHIN;
        backend::cancel(&system.place(dbname.as_str()), &connector, request.pid, &request.key, deadline)
            .await
            .map_err(io::Error::other)
    }
}
