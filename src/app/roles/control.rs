//! The role that serves administrators and carries out what they order: the admin port, moves and other
//! recorded operations, logins, the terms of routes.
//!
//! It starts in two steps, because a proxy of the same process starts in between: [`StartupTasks`] is what a
//! proxy relies on, and the admin port says what the proxy does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use super::Shared;
use crate::admin::serve::{AdminOptions, AdminServer, IDLE_TIME_MAX};
use crate::admin::users::read_users;
use crate::admin::{Executor, ExecutorParts, ProcessRequest};
use crate::app::error::ServeError;
use crate::app::settings;
use crate::catalog::LoginRefreshSender;
use crate::control::logins::LoginSync;
use crate::control::reconcile::Reconciler;
use crate::control::settings::LatencySource;
use crate::control::{ControlSettings, DatabaseOperations, Mover, SunsetWatch};
use crate::frontend::Access;
use crate::route::RouteTable;
use crate::tls::Acceptor;

/// Time for running admin commands to end at a shutdown.
const ADMIN_GRACE: Duration = Duration::from_secs(2);

/// Runs before the first client: routes say what the records say, what is due is done, and logins are kept up
/// to date.
#[derive(Debug)]
pub(in crate::app) struct StartupTasks {
    reconciler: Reconciler,
    sunsets: SunsetWatch,
    login_sync: LoginSync,
    control_settings: Arc<ArcSwap<ControlSettings>>,
    logins_interval: watch::Sender<Duration>,
}

impl StartupTasks {
    /// `routes` are those of this process, which measure how long clients wait for answers.
    pub(in crate::app) async fn start(
        shared: &Shared,
        routes: &Arc<RouteTable>,
    ) -> Result<StartupTasks, ServeError> {
        let config = shared.config.load_full();
        let mut control = settings::control(&config, &shared.connector, settings::fault()?);
        let routes = Arc::clone(routes);
        control.latencies =
            LatencySource::new(move |database| Some(routes.by_id(database)?.session_table().latencies()));
        let control_settings = Arc::new(ArcSwap::from_pointee(control));
        let reconciler = Reconciler::start(shared.catalog.clone(), shared.clock).await;
        let sunsets = SunsetWatch::start(shared.catalog.clone(), shared.clock).await;
        let (logins_interval, interval) = watch::channel(config.moves.logins_interval);
        let login_sync = LoginSync::start(shared.catalog.clone(), Arc::clone(&control_settings), interval);
        Ok(StartupTasks { reconciler, sunsets, login_sync, control_settings, logins_interval })
    }

    /// Where proxies ask whether logins are up to date.
    pub(in crate::app) fn login_refresh(&self) -> LoginRefreshSender {
        self.login_sync.login_refresh()
    }

    /// Notified when a client is refused.
    pub(in crate::app) fn suspect_handle(&self) -> Arc<Notify> {
        self.login_sync.suspect_handle()
    }
}

/// What the role needs besides [`Shared`].
pub(in crate::app) struct ControlParts {
    pub(in crate::app) groundwork: StartupTasks,
    pub(in crate::app) acceptor: Option<Acceptor>,
    /// Routes, access policy and address of the proxy in this process, for commands that are about it.
    pub(in crate::app) routes: Arc<RouteTable>,
    pub(in crate::app) access: Arc<Access>,
    pub(in crate::app) applications: SocketAddr,
    /// Takes RELOAD and SHUTDOWN.
    pub(in crate::app) requests: mpsc::Sender<ProcessRequest>,
}

/// Running: administrators are served.
#[derive(Debug)]
pub(in crate::app) struct ControlRole {
    pub(in crate::app) admin: AdminServer,
    /// Access policy of the admin port.
    pub(in crate::app) access: Arc<Access>,
    pub(in crate::app) control_settings: Arc<ArcSwap<ControlSettings>>,
    pub(in crate::app) logins_interval: watch::Sender<Duration>,
    mover: Mover,
    operations: DatabaseOperations,
    login_sync: LoginSync,
    reconciler: Reconciler,
    sunsets: SunsetWatch,
}

impl ControlRole {
    /// Before the first command, what earlier processes began is known, and is finished or undone.
    pub(in crate::app) async fn start(
        shared: &Shared,
        parts: ControlParts,
    ) -> Result<ControlRole, ServeError> {
        let ControlParts { groundwork, acceptor, routes, access, applications, requests } = parts;
        let StartupTasks { reconciler, sunsets, login_sync, control_settings, logins_interval } = groundwork;
        let catalog = &shared.catalog;
        let executor = Executor::new(ExecutorParts {
            catalog: catalog.clone(),
            routes,
            config: Arc::clone(&shared.config),
            applications,
            settings: Arc::clone(&control_settings),
            requests,
            logins: login_sync.refresh_handle(),
            access,
            metrics: shared.metrics.clone(),
            clock: shared.clock,
        });
        let operations =
            DatabaseOperations::start(catalog.clone(), Arc::clone(&control_settings), shared.clock).await;
        let access = Arc::new(shared.access()?);
        let admin = open_admin_port(shared, executor, acceptor, &access).await?;
        let mover = Mover::start(catalog.clone(), Arc::clone(&control_settings), shared.clock);
        Ok(ControlRole {
            admin,
            access,
            control_settings,
            logins_interval,
            mover,
            operations,
            login_sync,
            reconciler,
            sunsets,
        })
    }

    /// Ends in order: no new command, no move in its pause.
    pub(in crate::app) async fn stop(self) {
        self.admin.shutdown(ADMIN_GRACE).await;
        tokio::join!(self.mover.stop(), self.operations.stop());
        drop((self.login_sync, self.reconciler, self.sunsets));
    }
}

async fn open_admin_port(
    shared: &Shared,
    executor: Executor,
    acceptor: Option<Acceptor>,
    access: &Arc<Access>,
) -> Result<AdminServer, ServeError> {
    let config = shared.config.load_full();
    let options = AdminOptions {
        listen: config.admin.listen,
        acceptor,
        users: read_users(&config.admin.users_file)?,
        connections_max: config.admin.connections_max,
        login_time_max: config.proxy.login_timeout,
        idle_time_max: IDLE_TIME_MAX,
        access: Arc::clone(access),
        mock: shared.mock_secret("admin").await?,
    };
    let failed = |source| ServeError::Admin { address: config.admin.listen, source };
    AdminServer::start(options, executor).await.map_err(failed)
}
