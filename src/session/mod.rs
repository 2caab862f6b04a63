//! One client's life, and the threads on which all of them live.
//!
//! Owns [`DataPlane`]: the acceptor, the workers, and on each worker the sessions. A session is one task: it
//! registers in its database's session table, opens a server connection, relays, and at transaction
//! boundaries follows the orders of its database's route. It deliberately knows nothing of why an order is
//! given: it sees a gate, a place and an epoch.
//!
//! Start with `serve` (a session's life), then `relay` (the path of a query).
//!
//! # Why
//! A session, its buffers and its server connection stay on one thread, so that a query takes no lock, wakes
//! no other thread and writes no memory that another one writes. The acceptor hands a socket to the worker
//! with the fewest clients; a single worker accepts for itself.

mod accept;
mod borrow;
mod cancel;
mod client_session;
mod ending;
mod establish;
mod limits;
pub mod migrate;
mod origin;
mod pool;
mod relay;
pub mod scan;
mod serve;
pub mod state;
mod statements;
mod turn_clock;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use self::accept::listeners::{AcceptLoop, Backlog, Dispatcher, ListenerShutdown, WorkerCommand};
use self::cancel::quota::Quota;
use self::cancel::registry::CancelRegistry;
pub use self::limits::LimitsPolicy;
use self::pool::PoolRegistry;
pub use self::pool::PoolSettings;
use crate::auth::scram::MockSecret;
use crate::frontend::listener::{ListenOptions, Listener};
use crate::frontend::{Access, Balancers, Encryption, Frontend};
use crate::route::RouteTable;
use crate::tls::{Acceptor, Connector};

/// What the data plane is given at its start.
#[derive(Debug)]
pub struct DataPlaneConfig {
    /// Where clients connect; port 0 takes a free one.
    pub listen: ListenOptions,
    /// Worker threads; should be the number that the [`RouteTable`] was made for.
    pub workers: usize,
    /// Networks of load balancers, which state the address of the client in a PROXY header.
    pub balancers: Balancers,
    /// `None`: no TLS towards clients.
    pub acceptor: Option<Acceptor>,
    pub encryption: Encryption,
    /// TLS towards servers.
    pub connector: Connector,
    /// Time from an accepted socket to the end of the login.
    pub login_time_max: Duration,
    /// Time for one server connection, its login included.
    pub connect_time_max: Duration,
    /// How long clients may take. A new value applies to connected clients, too.
    pub limits: Arc<ArcSwap<LimitsPolicy>>,
    /// How connections are kept that are lent from client to client.
    pub pool: PoolSettings,
    /// For the logins of roles that do not exist; one for the fleet.
    pub mock: MockSecret,
    /// Cancel requests that an address may send; 0 is any number.
    pub cancels_per_second_max: u32,
    /// Which clients may connect, and how many.
    pub access: Arc<Access>,
}

/// A Tokio runtime beside the workers: one thread keeps their timers, the others do what blocks.
struct AuxRuntime {
    handle: Handle,
    /// `None` when it is being dropped.
    runtime: Option<Runtime>,
}

impl AuxRuntime {
    fn start() -> io::Result<AuxRuntime> {
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("timers").enable_all().build()?;
        Ok(AuxRuntime { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for AuxRuntime {
    fn drop(&mut self) {
        // The last reference may be dropped by a task, which must not wait for a thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all workers share; nothing in it is written for a query.
struct DataPlaneShared {
    balancers: Balancers,
    frontend: Frontend,
    connector: Connector,
    registry: Arc<CancelRegistry>,
    cancels: Quota,
    connect_time_max: Duration,
    workers: usize,
    limits: Arc<ArcSwap<LimitsPolicy>>,
    pool: PoolSettings,
    pool_registry: Arc<PoolRegistry>,
    door: ListenerShutdown,
}

impl fmt::Debug for DataPlaneShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlaneShared").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// The running data plane. Dropping it ends every session at once; [`DataPlane::shutdown`] ends them in
/// order.
pub struct DataPlane {
    limits: Arc<ArcSwap<LimitsPolicy>>,
    addresses: Vec<SocketAddr>,
    sockets: Vec<PathBuf>,
    workers: Vec<UnboundedSender<WorkerCommand>>,
    threads: Vec<JoinHandle<()>>,
    aux_runtime: Arc<AuxRuntime>,
    door: ListenerShutdown,
    /// Clients that have connected and have no session yet.
    entering: TaskTracker,
    /// Clients that have connected and have not left.
    present: TaskTracker,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A thread sends once to say that it runs; dropping the sender says that it does not.
type Begun = mpsc::Sender<()>;

fn begins(has_begun: &mpsc::Receiver<()>, what: &str) -> io::Result<()> {
    has_begun
        .recv()
        .map_err(|_| io::Error::other(format!("{what} of the data plane could not begin, see above")))
}

impl DataPlane {
    /// Opens the listeners and starts the threads. Needs no runtime.
    ///
    /// Fails where an address cannot be listened on or a thread cannot be started.
    pub fn start(config: DataPlaneConfig, routes: Arc<RouteTable>) -> io::Result<DataPlane> {
        let workers = config.workers.max(1);
        let limits = Arc::clone(&config.limits);
        let door = ListenerShutdown::default();
        let plane = Arc::new(DataPlaneShared {
            balancers: config.balancers,
            frontend: Frontend {
                routes,
                acceptor: config.acceptor,
                encryption: config.encryption,
                login_time_max: config.login_time_max,
                mock: config.mock,
                access: config.access,
            },
            connector: config.connector,
            registry: Arc::default(),
            cancels: Quota::new(config.cancels_per_second_max),
            connect_time_max: config.connect_time_max,
            workers,
            limits: config.limits,
            pool: config.pool,
            pool_registry: Arc::default(),
            door: door.clone(),
        });
        let backlog = if config.listen.handed_over.is_empty() { Backlog::Ours } else { Backlog::Shared };
        let listeners = Listener::open_all(config.listen).map_err(io::Error::other)?;
        let mut started = DataPlane {
            limits,
            addresses: listeners.iter().filter_map(Listener::local_addr).collect(),
            sockets: listeners.iter().filter_map(Listener::path).collect(),
            workers: Vec::new(),
            threads: Vec::new(),
            aux_runtime: Arc::new(AuxRuntime::start()?),
            door,
            entering: TaskTracker::new(),
            present: TaskTracker::new(),
        };
        for index in 0..workers {
            let (sender, commands) = unbounded_channel();
            let plane = Arc::clone(&plane);
            started.workers.push(sender);
            started.spawn(format!("worker-{index}"), |begun| {
                move || worker::run(index, plane, commands, begun)
            })?;
        }
        let dispatcher = Dispatcher::new(&started.workers, &started.entering, &started.present);
        let accept_loop = AcceptLoop::new(listeners, backlog, dispatcher, started.door.clone())?;
        match &started.workers[..] {
            // With one worker there is no choice: waking another thread for each client would be a waste.
            [only] => {
                let (begun, has_begun) = mpsc::channel();
                drop(only.send(WorkerCommand::Accept(accept_loop, begun)));
                begins(&has_begun, "the door")?;
            }
            _ => started.spawn("acceptor".to_owned(), |begun| move || accept_loop.run(begun))?,
        }
        Ok(started)
    }

    /// Returns when the thread runs. Fails if it ended before: without it, the process would accept clients
    /// and not serve them.
    fn spawn<B: FnOnce() -> io::Result<()> + Send + 'static>(
        &mut self,
        name: String,
        body: impl FnOnce(Begun) -> B,
    ) -> io::Result<()> {
        let (begun, has_begun) = mpsc::channel();
        let body = body(begun);
        let shown = name.clone();
        let (log_name, aux_runtime) = (name.clone(), Arc::clone(&self.aux_runtime));
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _entered = aux_runtime.handle.enter();
            if let Err(error) = body() {
                tracing::error!(thread = log_name, %error, "a thread of the data plane ended");
            }
        })?;
        self.threads.push(thread);
        begins(&has_begun, &shown)
    }

    /// How long clients may take. A new value applies to connected clients, too.
    pub fn limits(&self) -> &Arc<ArcSwap<LimitsPolicy>> {
        &self.limits
    }

    /// The TCP addresses where clients connect, in the order of the configuration.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The Unix sockets where clients connect.
    pub fn socket_paths(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// The first TCP address.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// Stops accepting without refusing a client, because another process listens on the same addresses.
    /// Returns once every accepted connection has a session or is closed, at most shortly after `time_max`.
    pub async fn hand_over_listeners(&self, time_max: Duration) {
        self.door.handing_over.cancel();
        self.door.closed.cancelled().await;
        self.entering.close();
        let _ = tokio::time::timeout(time_max, self.entering.wait()).await;
    }

    /// After [`DataPlane::hand_over_listeners`]: waits at most `time_max` until all clients have left.
    pub async fn linger(&self, time_max: Duration) {
        self.present.close();
        let _ = tokio::time::timeout(time_max, self.present.wait()).await;
    }

    /// Closes the listeners. Sessions go on.
    pub fn stop_accepting(&self) {
        self.door.closing.cancel();
    }

    /// Stops accepting. Sessions end at their next boundary with 57P01; those that are left after `drain` end
    /// at once.
    pub async fn shutdown(mut self, drain: Duration) {
        self.door.closing.cancel();
        self.door.closed.cancelled().await;
        let mut stopping = Vec::new();
        for worker in &self.workers {
            let (stopped, ended) = oneshot::channel();
            if worker.send(WorkerCommand::Stop { drain, stopped }).is_ok() {
                stopping.push(ended);
            }
        }
        for ended in stopping {
            let _ = ended.await;
        }
        self.workers.clear();
        for thread in self.threads.drain(..) {
            // They have ended, or are about to.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.door.closing.cancel();
    }
}
