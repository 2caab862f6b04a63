//! Builds the parts of a process, connects them, and shuts them down in order.
//!
//! Owns [`Serve`]: proxy, admin port and control loop in one process on the embedded store. It deliberately
//! holds no logic of its own: the logic of a part is in its module, the meaning of settings in [`settings`].
//!
//! ```text
//!   clients -> DataPlane --- RouteTable <- Follower --+
//!                                                     |-- Catalog -- EmbeddedStore
//!   admins  -> AdminPort --- Executor ----------------+
//!   Mover, DatabaseOperations, LoginSync, Reconciler --+
//! ```
//!
//! # Why
//! Start and end have a fixed order: clients are accepted after the routes are known, the mover ends before
//! the proxies that it waits for, and a move in its pause is finished or aborted before anything else stops.

pub mod access;
mod health;
mod process;
mod requests;
pub mod settings;
mod takeover;

pub use process::serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::access::AccessErrors;
use self::health::{Figures, HealthPort};
use self::requests::{Leaving, Reloadable};
use self::takeover::Successor;
use crate::admin::serve::{AdminOptions, AdminServer};
use crate::admin::users::{UsersError, read_users};
use crate::admin::{Executor, Parts, ProcessRequest};
use crate::auth::scram::MockSecret;
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, copied};
use crate::config::Config;
use crate::control::logins::LoginSync;
use crate::control::moves::settings::LatencySource;
use crate::control::reconcile::Reconciler;
use crate::control::{DatabaseOperations, Mover, MoverSettings};
use crate::frontend::listener::Listener;
use crate::frontend::{Access, Balancers};
use crate::model::{ProxyRecord, UnixMillis};
use crate::route::RouteTable;
use crate::route::follow::{Follower, FollowerOptions};
use crate::session::{DataPlane, DataPlaneConfig};
use crate::telemetry::Metrics;
use crate::telemetry::log::LogHandle;
use crate::tls::{Acceptor, Connector, TlsError};

/// Time for running admin commands to end at a shutdown.
const ADMIN_GRACE: Duration = Duration::from_secs(2);

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error("a certificate cannot be used")]
    Tls(#[from] TlsError),
    #[error("cannot listen for clients")]
    Listen {
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen for administrators on {address}")]
    Admin {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the rules of access cannot be used")]
    Access(#[from] AccessErrors),
    #[error("the administrators cannot be read")]
    Users(#[from] UsersError),
    #[error("cannot listen for metrics on {address}")]
    Metrics {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("\"{text}\" in {} is not a point of a move", settings::CRASH_AT)]
    Fault { text: String },
}

impl ServeError {
    fn listen(source: std::io::Error) -> ServeError {
        ServeError::Listen { source }
    }
}

/// Proxy, admin port and control loop in one process, running. End it with [`Serve::shutdown`].
#[derive(Debug)]
pub struct Serve {
    /// The address for applications; port 0 if they connect only by Unix sockets.
    pub proxy_addr: SocketAddr,
    /// The address for administrators.
    pub admin_addr: SocketAddr,
    /// The address of the metrics, if they are served.
    pub metrics_addr: Option<SocketAddr>,
    /// The Unix sockets for applications.
    pub socket_paths: Vec<PathBuf>,
    requests: mpsc::Receiver<ProcessRequest>,
    reloadable: Reloadable,
    health: Option<HealthPort>,
    draining: CancellationToken,
    routes: Arc<RouteTable>,
    admin: AdminServer,
    mover: Mover,
    operations: DatabaseOperations,
    keeper: LoginSync,
    reconciler: Reconciler,
    data: DataPlane,
    follower: Follower,
}

/// Inputs of a process besides its configuration.
#[derive(Debug, Default)]
pub struct Given {
    /// The file that RELOAD and SIGHUP read again.
    pub file: Option<PathBuf>,
    /// Applies a changed log level.
    pub log: Option<LogHandle>,
    /// Listeners for clients, opened by the parent process.
    pub listeners: Vec<Listener>,
}

impl Serve {
    /// Starts on the current runtime, without a file to reload from.
    pub async fn start(config: Config) -> Result<Serve, ServeError> {
        Serve::start_from(config, Given::default()).await
    }

    /// Starts on the current runtime, with these inputs.
    pub async fn start_from(config: Config, given: Given) -> Result<Serve, ServeError> {
        let metrics = Metrics::new();
        let (catalog, turn) = open_catalog(&config).await?;
        warn_of_secrets(&config, &catalog).await?;
        let connector = settings::connector(&config)?;
        let client_acceptor = settings::client_acceptor(&config)?;
        let workers = settings::workers(&config);
        let routes = RouteTable::new(workers);
        let reconciler = Reconciler::start(catalog.clone(), UnixMillis::now).await;
        let follower = follow(&config, &catalog, &routes);
        follower.synced().await;
        let (interval, interval_seen) = watch::channel(config.moves.logins_interval);
        let mover_settings = Arc::new(ArcSwap::from_pointee(mover_settings(&config, &connector, &routes)?));
        let keeper = LoginSync::start(catalog.clone(), Arc::clone(&mover_settings), interval_seen);

        let [client_port, admin_port] = ports(&config, &catalog, &metrics, &keeper).await?;
        let acceptor = client_acceptor.clone();
        let plane = data_plane(&config, workers, acceptor, connector.clone(), &client_port);
        let data = serve_clients(plane, given.listeners, &routes)?;
        let proxy_addr = data.local_addr().unwrap_or_else(settings::no_address);

        let shared = Arc::new(ArcSwap::from_pointee(config.clone()));
        let (ask, requests) = mpsc::channel(8);
        let executor = Executor::new(Parts {
            catalog: catalog.clone(),
            routes: Arc::clone(&routes),
            config: Arc::clone(&shared),
            applications: proxy_addr,
            mover: Arc::clone(&mover_settings),
            requests: ask,
            logins: keeper.refresh_handle(),
            access: Arc::clone(&client_port.access),
            metrics: metrics.clone(),
            clock: UnixMillis::now,
        });
        let operations = operate(&catalog, &mover_settings).await;
        let admin_acceptor = settings::admin_acceptor(&config)?;
        let admin = open_admin_port(&config, executor, admin_acceptor.clone(), &admin_port).await?;
        let mover = Mover::start(catalog.clone(), Arc::clone(&mover_settings), UnixMillis::now);
        let draining = CancellationToken::new();
        let figures = Figures { metrics, routes: Arc::clone(&routes), catalog, draining: draining.clone() };
        let health = open_health_port(&config, figures).await?;
        // Clients are accepted here now: the old process may stop.
        drop(turn);

        Ok(Serve {
            proxy_addr,
            admin_addr: admin.local_addr(),
            metrics_addr: health.as_ref().map(HealthPort::local_addr),
            socket_paths: data.socket_paths().to_vec(),
            requests,
            reloadable: Reloadable {
                file: given.file,
                config: shared,
                mover: mover_settings,
                logins_interval: interval,
                acceptors: [client_acceptor, admin_acceptor].into_iter().flatten().collect(),
                connector,
                access: vec![client_port.access, admin_port.access],
                limits: Arc::clone(data.limits()),
                log: given.log,
            },
            health,
            draining,
            routes,
            admin,
            mover,
            operations,
            keeper,
            reconciler,
            data,
            follower,
        })
    }

    /// Serves until SIGTERM, SIGINT or SHUTDOWN; carries out RELOAD and SIGHUP meanwhile.
    pub async fn run(mut self) {
        let leaving = Leaving { data: &self.data, routes: &self.routes, draining: &self.draining };
        requests::until_end(&mut self.requests, &self.reloadable, &self.admin, &leaving).await;
        self.shutdown().await;
    }

    /// Ends in order: no new command, no move in its pause, no client in a transaction (within the drain
    /// time).
    pub async fn shutdown(self) {
        let drain = self.reloadable.config.load().proxy.drain_timeout;
        self.shutdown_within(drain).await;
    }

    /// Like [`Serve::shutdown`], with another limit for running transactions.
    pub async fn shutdown_within(self, drain: Duration) {
        match Successor::of(&self.reloadable.config.load()) {
            Some(successor) => self.hand_over(&successor, drain).await,
            None => self.end(drain).await,
        }
    }

    /// The successor takes over everything except the existing clients at once; it gets the new clients. Load
    /// balancers need not change anything.
    async fn hand_over(self, successor: &Successor, drain: Duration) {
        tracing::info!("another process takes over");
        let proxy = self.reloadable.config.load().proxy.clone();
        self.admin.shutdown(ADMIN_GRACE).await;
        tokio::join!(self.mover.stop(), self.operations.stop());
        drop((self.keeper, self.reconciler, self.health));
        if let Err(error) = self.follower.stop().await {
            tracing::warn!(%error, "this proxy stays listed in the store");
        }
        successor.serves(proxy.takeover_wait).await;
        self.data.make_way(proxy.login_timeout).await;
        self.data.linger(proxy.takeover_linger).await;
        self.data.shutdown(drain).await;
    }

    async fn end(self, drain: Duration) {
        // First, so that load balancers switch over while running transactions end.
        self.draining.cancel();
        self.admin.shutdown(ADMIN_GRACE).await;
        tokio::join!(self.mover.stop(), self.operations.stop());
        drop((self.keeper, self.reconciler));
        self.data.shutdown(drain).await;
        if let Err(error) = self.follower.stop().await {
            tracing::warn!(%error, "this proxy stays listed in the store");
        }
        drop(self.health);
    }
}

/// What decides the logins of one port.
struct PortAccess {
    access: Arc<Access>,
    mock: MockSecret,
}

/// The port of applications and that of administrators: failed logins of one lock out no client of the other.
async fn ports(
    config: &Config,
    catalog: &Catalog,
    metrics: &Metrics,
    keeper: &LoginSync,
) -> Result<[PortAccess; 2], ServeError> {
    let policy = access::policy(config)?;
    let nonce = catalog.login_nonce().await?;
    let access = || Access::new(policy.clone(), metrics.clone());
    let applications = access().with_keeper(keeper.asker(), keeper.suspect_handle());
    Ok([(applications, "applications"), (access(), "admin")].map(|(access, port)| PortAccess {
        access: Arc::new(access),
        mock: MockSecret::of_port(&nonce, port),
    }))
}

/// Opens the store; if it is a copy, its moves are parked before anything resumes them.
async fn open_catalog(config: &Config) -> Result<(Catalog, Option<takeover::Turn>), StoreError> {
    let (store, turn) = takeover::open_store(config).await?;
    let catalog = Catalog::new(Arc::<EmbeddedStore>::clone(&store));
    for id in copied::part(&store, &catalog).await? {
        tracing::warn!(id = id.0, "the store is a copy of another: the move rests until ADOPT MOVE {id}");
    }
    tracing::info!(store = %catalog.store_id().await?, "what moves make on systems carries this id");
    Ok((catalog, turn))
}

/// Files that other users can read do not prevent the start: a warning is logged.
async fn warn_of_secrets(config: &Config, catalog: &Catalog) -> Result<(), StoreError> {
    let systems = catalog.systems().await?.into_values();
    for (what, warning) in settings::warnings(config, &systems) {
        tracing::warn!("{what}: {warning}");
    }
    Ok(())
}

fn follow(config: &Config, catalog: &Catalog, routes: &Arc<RouteTable>) -> Follower {
    let proxy = ProxyRecord {
        id: config.proxy.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: UnixMillis::now(),
        data_address: config.proxy.listen.to_string(),
    };
    Follower::start(catalog.clone(), Arc::clone(routes), proxy, FollowerOptions::default())
}

fn data_plane(
    config: &Config,
    workers: usize,
    acceptor: Option<Acceptor>,
    connector: Connector,
    port: &PortAccess,
) -> DataPlaneConfig {
    DataPlaneConfig {
        listen: settings::listen(config),
        balancers: Balancers(config.proxy.proxy_protocol_from.0.clone()),
        workers,
        acceptor,
        encryption: settings::encryption(config),
        connector,
        login_time_max: config.proxy.login_timeout,
        connect_time_max: config.proxy.server_connect_timeout,
        limits: Arc::new(ArcSwap::from_pointee(settings::limits(config))),
        pool: settings::pool(config),
        mock: port.mock.clone(),
        cancels_per_second_max: config.proxy.cancels_per_second_max,
        access: Arc::clone(&port.access),
    }
}

fn serve_clients(
    mut plane: DataPlaneConfig,
    handed_over: Vec<Listener>,
    routes: &Arc<RouteTable>,
) -> Result<DataPlane, ServeError> {
    plane.listen.handed_over = handed_over;
    DataPlane::start(plane, Arc::clone(routes)).map_err(ServeError::listen)
}

/// Before the first command: what earlier processes began is known, and is finished or undone.
async fn operate(catalog: &Catalog, settings: &Arc<ArcSwap<MoverSettings>>) -> DatabaseOperations {
    DatabaseOperations::start(catalog.clone(), Arc::clone(settings), UnixMillis::now).await
}

/// The mover's settings, and its source of clients' waits for answers.
fn mover_settings(
    config: &Config,
    connector: &Connector,
    routes: &Arc<RouteTable>,
) -> Result<MoverSettings, ServeError> {
    let mut mover = settings::mover(config, connector, settings::fault()?);
    let routes = Arc::clone(routes);
    mover.latencies =
        LatencySource::new(move |database| Some(routes.by_id(database)?.session_table().latencies()));
    Ok(mover)
}

async fn open_admin_port(
    config: &Config,
    executor: Executor,
    acceptor: Option<Acceptor>,
    port: &PortAccess,
) -> Result<AdminServer, ServeError> {
    let options = AdminOptions {
        listen: config.admin.listen,
        acceptor,
        users: read_users(&config.admin.users_file)?,
        connections_max: config.admin.connections_max,
        login_time_max: config.proxy.login_timeout,
        access: Arc::clone(&port.access),
        mock: port.mock.clone(),
    };
    let failed = |source| ServeError::Admin { address: config.admin.listen, source };
    AdminServer::start(options, executor).await.map_err(failed)
}

async fn open_health_port(config: &Config, figures: Figures) -> Result<Option<HealthPort>, ServeError> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let failed = |source| ServeError::Metrics { address, source };
    HealthPort::open(address, figures).await.map(Some).map_err(failed)
}
