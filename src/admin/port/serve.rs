//! The admin port: accepts administrators.
//!
//! Owns the listener and the connections' tasks; a connection is in `connection`, their table in
//! `connections`. It deliberately executes no
//! command itself.
//!
//! # Why not all of pgwire
//! The crate has a whole server, `process_socket`. It carries bytes that were read before a TLS handshake
//! over into the encrypted connection (the hole that PostgreSQL closed as CVE-2021-23214), and it knows
//! neither our limits of logins nor certificates of clients. So our own `frontend`, which applications come
//! through as well, does the login; pgwire has the connection from there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::admin::execute::Executor;
use crate::admin::port::connection;
use crate::admin::port::connections::Connections;
use crate::admin::port::directory::Directory;
use crate::admin::port::places::AdminPlaces;
use crate::admin::users::Users;
use crate::auth::scram::MockSecret;
use crate::frontend::{Access, Encryption, Frontend, FrontendError, IncomingAdmin};
use crate::route::RouteTable;
use crate::tls::Acceptor;

/// What a process has for [`AdminOptions::idle_time_max`].
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(10 * 60);

/// What the admin port needs to open.
#[derive(Debug)]
pub struct AdminOptions {
    pub listen: SocketAddr,
    pub acceptor: Option<Acceptor>,
    pub users: Users,
    pub connections_max: u32,
    pub login_time_max: Duration,
    /// How long the connection of a user without a role on the platform may be without a command.
    pub idle_time_max: Duration,
    /// For this port alone: failed logins of applications lock out no administrator.
    pub access: Arc<Access>,
    /// For the logins of names that are no administrators.
    pub mock: MockSecret,
}

/// The open port. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    sampling: JoinHandle<()>,
}

struct Shared {
    frontend: Frontend,
    directory: Directory,
    places: Arc<AdminPlaces>,
    connections: Arc<Connections>,
    tasks: TaskTracker,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl AdminServer {
    pub async fn start(options: AdminOptions, executor: Executor) -> io::Result<AdminServer> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let sampling = tokio::spawn(executor.clone().sample());
        let directory = executor.directory();
        directory.set_file(options.users);
        let shared = Arc::new(Shared {
            frontend: Frontend {
                routes: RouteTable::new(1),
                acceptor: options.acceptor,
                encryption: Encryption::Optional,
                login_time_max: options.login_time_max,
                mock: options.mock,
                access: options.access,
            },
            directory,
            places: AdminPlaces::new(options.connections_max as usize),
            connections: Arc::new(Connections::new(executor, options.idle_time_max)),
            tasks: TaskTracker::new(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(AdminServer { address, shared, accepting, sampling })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the administrators of the file. It holds for their next command, too.
    pub fn set_users(&self, users: Users) {
        self.shared.directory.set_file(users);
    }

    /// Closes the port, gives running commands up to `grace` to end, and closes the connections.
    pub async fn shutdown(self, grace: Duration) {
        self.accepting.abort();
        self.shared.connections.closing.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(grace, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("commands on the admin port did not end in time");
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.sampling.abort();
        self.shared.connections.closing.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((tcp, address)) => {
                let shared = Arc::clone(&shared);
                shared.tasks.clone().spawn(receive(tcp, address, shared));
            }
            Err(error) => {
                // Mostly out of file descriptors: without a pause this would spin.
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn receive(tcp: TcpStream, address: SocketAddr, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let incoming = tokio::select! {
        () = shared.connections.closing.cancelled() => return,
        incoming = shared.frontend.receive_administrator(tcp, address, &shared.directory) => incoming,
    };
    match incoming {
        Ok(IncomingAdmin::Cancel(request, _stream)) => shared.connections.cancel(&request),
        Ok(IncomingAdmin::Administrator(administrator, origin)) => {
            let rights = shared.directory.rights(&administrator.name, origin).await.ok();
            let place = shared.places.take(&administrator.name, origin, rights.as_ref());
            if let Err(error) = connection::serve(administrator, origin, place, &shared.connections).await {
                tracing::debug!(%address, %error, "an administrator's connection broke");
            }
        }
        // A port scan or pg_isready: it comes every few seconds, and means nothing.
        Err(FrontendError::Gone) => tracing::debug!(%address, "a connection ended without a word"),
        Err(error) => tracing::info!(%address, error = &error as &dyn std::error::Error, "no administrator"),
    }
}
