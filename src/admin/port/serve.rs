//! The admin port: accepts administrators, and lets them cancel each other's waits.
//!
//! Owns the listener and the connections' tasks; a connection is in `connection`. It deliberately executes no
//! command itself.
//!
//! # Why not all of pgwire
//! The crate has a whole server, `process_socket`. It carries bytes that were read before a TLS handshake
//! over into the encrypted connection (the hole that PostgreSQL closed as CVE-2021-23214), and it knows
//! neither our limits of logins nor certificates of clients. So our own `frontend`, which applications come
//! through as well, does the login; pgwire has the connection from there.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::execute::Executor;
use crate::admin::port::connection;
use crate::admin::users::Users;
use crate::auth::scram::MockSecret;
use crate::frontend::{Access, Encryption, Frontend, FrontendError, IncomingAdmin};
use crate::route::RouteTable;
use crate::tls::Acceptor;
use crate::wire::startup::CancelRequest;

/// What the admin port needs to open.
#[derive(Debug)]
pub struct AdminOptions {
    pub listen: SocketAddr,
    pub acceptor: Option<Acceptor>,
    pub users: Users,
    pub connections_max: u32,
    pub login_time_max: Duration,
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

pub(in crate::admin) struct Shared {
    pub(in crate::admin) executor: Executor,
    frontend: Frontend,
    users: ArcSwap<Users>,
    connections: Arc<Semaphore>,
    /// By process id and key of BackendKeyData: the wait that a cancel request ends.
    waits: Mutex<HashMap<(i32, Bytes), CancellationToken>>,
    last_pid: AtomicI32,
    /// When cancelled, every connection ends with 57P01.
    pub(in crate::admin) closing: CancellationToken,
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
        let shared = Arc::new(Shared {
            executor,
            frontend: Frontend {
                routes: RouteTable::new(1),
                acceptor: options.acceptor,
                encryption: Encryption::Optional,
                login_time_max: options.login_time_max,
                mock: options.mock,
                access: options.access,
            },
            users: ArcSwap::from_pointee(options.users),
            connections: Arc::new(Semaphore::new(options.connections_max as usize)),
            waits: Mutex::default(),
            last_pid: AtomicI32::new(0),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(AdminServer { address, shared, accepting, sampling })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the administrators. Connected ones stay.
    pub fn set_users(&self, users: Users) {
        self.shared.users.store(Arc::new(users));
    }

    /// Closes the port, gives running commands up to `grace` to end, and closes the connections.
    pub async fn shutdown(self, grace: Duration) {
        self.accepting.abort();
        self.shared.closing.cancel();
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
        self.shared.closing.cancel();
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
    let users = shared.users.load_full();
    let incoming = tokio::select! {
        () = shared.closing.cancelled() => return,
        incoming = shared.frontend.receive_administrator(tcp, address, &users.verifiers) => incoming,
    };
    match incoming {
        Ok(IncomingAdmin::Cancel(request, _stream)) => shared.cancel(&request),
        Ok(IncomingAdmin::Administrator(administrator)) => {
            let permit = Arc::clone(&shared.connections).try_acquire_owned().ok();
            let rights = users.rights(&administrator.name);
            if let Err(error) = connection::serve(administrator, rights, permit, &shared).await {
                tracing::debug!(%address, %error, "an administrator's connection broke");
            }
        }
        // A port scan or pg_isready: it comes every few seconds, and means nothing.
        Err(FrontendError::Gone) => tracing::debug!(%address, "a connection ended without a word"),
        Err(error) => tracing::info!(%address, error = &error as &dyn std::error::Error, "no administrator"),
    }
}

/// A connection to the admin port; unregistered when dropped.
pub(in crate::admin) struct AdminConnection {
    pub(in crate::admin) pid: i32,
    pub(in crate::admin) key: Bytes,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for AdminConnection {
    fn drop(&mut self) {
        self.shared.waits().remove(&(self.pid, self.key.clone()));
    }
}

impl AdminConnection {
    /// A token for the next command: a cancel request for this connection cancels it.
    pub(in crate::admin) fn next_wait(&self) -> CancellationToken {
        let token = self.shared.closing.child_token();
        self.shared.waits().insert((self.pid, self.key.clone()), token.clone());
        token
    }
}

impl Shared {
    pub(in crate::admin) fn register(self: &Arc<Shared>, permit: OwnedSemaphorePermit) -> AdminConnection {
        let pid = self.last_pid.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
        let key = Bytes::copy_from_slice(&rand::random::<[u8; 4]>());
        AdminConnection { pid, key, shared: Arc::clone(self), _permit: permit }
    }

    fn cancel(&self, request: &CancelRequest) {
        if let Some(wait) = self.waits().get(&(request.pid, request.key.clone())) {
            wait.cancel();
        }
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, HashMap<(i32, Bytes), CancellationToken>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
