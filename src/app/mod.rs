//! Builds the parts of a process, connects them, and shuts them down in order.
//!
//! Owns [`Serve`]: the two roles of a process, proxy and control, in one process on one store. It
//! deliberately holds no logic of its own: the logic of a part is in its module, the meaning of settings in
//! [`settings`].
//!
//! ```text
//!   Serve = Shared { config, catalog, metrics, connector }
//!         + ProxyRole      clients -> DataPlane --- RouteTable <- Follower --- Catalog -- Store
//!                          RouteTable -- Recorder (what was measured) ------ Catalog
//!         + ControlRole    admins -> AdminServer -- Executor ----------------- Catalog
//!                          Mover, DatabaseOperations, SunsetWatch, LoginSync, Reconciler -- Catalog
//! ```
//!
//! # Why
//! Start and end have a fixed order: clients are accepted after the routes are known, the mover ends before
//! the proxies that it waits for, and a move in its pause is finished or aborted before anything else stops.

pub mod access;
mod error;
mod health;
mod process;
mod requests;
mod roles;
pub mod settings;
mod store;
mod takeover;

pub use error::ServeError;
pub use process::serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::health::{HealthPort, MetricSources};
use self::requests::{ClientShutdown, Reloadable};
use self::roles::Shared;
use self::roles::control::{ControlParts, ControlRole, StartupTasks};
use self::roles::proxy::{ProxyParts, ProxyRole};
use self::store::{OpenStore, open_store};
use self::takeover::Successor;
use crate::admin::ProcessRequest;
use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::config::Config;
use crate::control::operations::WallClock;
use crate::frontend::listener::Listener;
use crate::model::UnixMillis;
use crate::route::RouteTable;
use crate::telemetry::Metrics;
use crate::telemetry::log::LogHandle;
use crate::tls::Acceptor;

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
    control: ControlRole,
    proxy: ProxyRole,
}

/// Inputs of a process besides its configuration.
#[derive(Debug)]
pub struct ProcessInputs {
    /// The file that RELOAD and SIGHUP read again.
    pub file: Option<PathBuf>,
    /// Applies a changed log level.
    pub log: Option<LogHandle>,
    /// Listeners for clients, opened by the parent process.
    pub listeners: Vec<Listener>,
    /// The wall clock: what is due by it runs by itself.
    pub clock: WallClock,
}

impl Default for ProcessInputs {
    fn default() -> ProcessInputs {
        ProcessInputs { file: None, log: None, listeners: Vec::new(), clock: UnixMillis::now }
    }
}

impl Serve {
    /// Starts on the current runtime, without a file to reload from.
    pub async fn start(config: Config) -> Result<Serve, ServeError> {
        Serve::start_from(config, ProcessInputs::default()).await
    }

    /// Starts on the current runtime, with these inputs.
    pub async fn start_from(config: Config, given: ProcessInputs) -> Result<Serve, ServeError> {
        let OpenStore { store, turn, start } = open_store(&config).await?;
        let catalog = Catalog::new(store);
        warn_of_secrets(&config, &catalog).await?;
        let acceptors = [settings::client_acceptor(&config)?, settings::admin_acceptor(&config)?];
        let shared = Shared {
            connector: settings::connector(&config)?,
            config: Arc::new(ArcSwap::from_pointee(config)),
            catalog,
            metrics: Metrics::new(),
            clock: given.clock,
        };
        let (ask, requests) = mpsc::channel(8);
        let (proxy, control) = start_roles(&shared, given.listeners, acceptors.clone(), ask).await?;
        let draining = CancellationToken::new();
        let health = open_health_port(&shared, &proxy.routes, &draining).await?;
        start.finish();
        // Clients are accepted here now: the old process may stop.
        drop(turn);

        Ok(Serve {
            proxy_addr: proxy.address(),
            admin_addr: control.admin.local_addr(),
            metrics_addr: health.as_ref().map(HealthPort::local_addr),
            socket_paths: proxy.data.socket_paths().to_vec(),
            requests,
            reloadable: Reloadable {
                file: given.file,
                config: shared.config,
                control: Arc::clone(&control.control_settings),
                logins_interval: control.logins_interval.clone(),
                acceptors: acceptors.into_iter().flatten().collect(),
                connector: shared.connector,
                access: vec![Arc::clone(&proxy.access), Arc::clone(&control.access)],
                limits: Arc::clone(proxy.data.limits()),
                log: given.log,
            },
            health,
            draining,
            control,
            proxy,
        })
    }

    /// Serves until SIGTERM, SIGINT or SHUTDOWN; carries out RELOAD and SIGHUP meanwhile.
    pub async fn run(mut self) {
        let leaving =
            ClientShutdown { data: &self.proxy.data, routes: &self.proxy.routes, draining: &self.draining };
        requests::until_end(&mut self.requests, &self.reloadable, &self.control.admin, &leaving).await;
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
        self.control.stop().await;
        drop(self.health);
        let config = self.reloadable.config.load_full();
        self.proxy.make_way(successor, &config, drain).await;
    }

    async fn end(self, drain: Duration) {
        // First, so that load balancers switch over while running transactions end.
        self.draining.cancel();
        self.control.stop().await;
        self.proxy.stop(drain).await;
        drop(self.health);
    }
}

/// In this order: what proxies rely on, clients, administrators.
async fn start_roles(
    shared: &Shared,
    listeners: Vec<Listener>,
    [client_acceptor, admin_acceptor]: [Option<Acceptor>; 2],
    requests: mpsc::Sender<ProcessRequest>,
) -> Result<(ProxyRole, ControlRole), ServeError> {
    let workers = settings::workers(&shared.config.load());
    let routes = RouteTable::new(workers);
    let groundwork = StartupTasks::start(shared, &routes).await?;
    let parts = ProxyParts {
        routes: Arc::clone(&routes),
        workers,
        acceptor: client_acceptor,
        listeners,
        login_refresh: groundwork.login_refresh(),
        suspect: groundwork.suspect_handle(),
    };
    let proxy = ProxyRole::start(shared, parts).await?;
    let parts = ControlParts {
        groundwork,
        acceptor: admin_acceptor,
        routes,
        access: Arc::clone(&proxy.access),
        applications: proxy.address(),
        requests,
    };
    let control = ControlRole::start(shared, parts).await?;
    Ok((proxy, control))
}

/// Files that other users can read do not prevent the start: a warning is logged.
async fn warn_of_secrets(config: &Config, catalog: &Catalog) -> Result<(), StoreError> {
    let systems = catalog.systems().list().await?.into_values();
    for (what, warning) in settings::warnings(config, &systems) {
        tracing::warn!("{what}: {warning}");
    }
    Ok(())
}

async fn open_health_port(
    shared: &Shared,
    routes: &Arc<RouteTable>,
    draining: &CancellationToken,
) -> Result<Option<HealthPort>, ServeError> {
    let Some(address) = shared.config.load().metrics.listen else { return Ok(None) };
    let figures = MetricSources {
        metrics: shared.metrics.clone(),
        routes: Arc::clone(routes),
        catalog: shared.catalog.clone(),
        draining: draining.clone(),
    };
    let failed = |source| ServeError::Metrics { address, source };
    HealthPort::open(address, figures).await.map(Some).map_err(failed)
}
