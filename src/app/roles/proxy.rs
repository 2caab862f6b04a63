//! The role that serves clients: it follows the catalogue, and has the ports for applications.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Shared;
use crate::app::error::ServeError;
use crate::app::settings;
use crate::app::takeover::Successor;
use crate::catalog::LoginRefreshSender;
use crate::config::Config;
use crate::frontend::listener::Listener;
use crate::frontend::{Access, Balancers};
use crate::model::{ProxyRecord, UnixMillis};
use crate::route::follow::{Follower, FollowerOptions};
use crate::route::{Recorder, RouteTable};
use crate::session::{DataPlane, DataPlaneConfig};
use crate::tls::Acceptor;

/// What the role needs besides [`Shared`].
pub(in crate::app) struct ProxyParts {
    pub(in crate::app) routes: Arc<RouteTable>,
    /// The number of worker threads, for which the routes were made.
    pub(in crate::app) workers: usize,
    pub(in crate::app) acceptor: Option<Acceptor>,
    /// Opened by the parent process.
    pub(in crate::app) listeners: Vec<Listener>,
    /// Where it asks whether logins are up to date.
    pub(in crate::app) login_refresh: LoginRefreshSender,
    /// Notified when a client is refused.
    pub(in crate::app) suspect: Arc<Notify>,
}

/// Running: clients are accepted.
#[derive(Debug)]
pub(in crate::app) struct ProxyRole {
    pub(in crate::app) routes: Arc<RouteTable>,
    pub(in crate::app) access: Arc<Access>,
    pub(in crate::app) data: DataPlane,
    follower: Follower,
    recorder: Recorder,
}

impl ProxyRole {
    /// Clients are accepted after the routes are known.
    pub(in crate::app) async fn start(shared: &Shared, parts: ProxyParts) -> Result<ProxyRole, ServeError> {
        let config = shared.config.load_full();
        let follower = follow(&config, shared, &parts.routes);
        follower.synced().await;
        let access = Arc::new(shared.access()?.with_keeper(parts.login_refresh, parts.suspect));
        let mut listen = settings::listen(&config);
        listen.handed_over = parts.listeners;
        let plane = DataPlaneConfig {
            listen,
            balancers: Balancers(config.proxy.proxy_protocol_from.0.clone()),
            workers: parts.workers,
            acceptor: parts.acceptor,
            encryption: settings::encryption(&config),
            connector: shared.connector.clone(),
            login_time_max: config.proxy.login_timeout,
            connect_time_max: config.proxy.server_connect_timeout,
            limits: Arc::new(ArcSwap::from_pointee(settings::limits(&config))),
            pool: settings::pool(&config),
            mock: shared.mock_secret("applications").await?,
            cancels_per_second_max: config.proxy.cancels_per_second_max,
            access: Arc::clone(&access),
        };
        let data = DataPlane::start(plane, Arc::clone(&parts.routes)).map_err(ServeError::listen)?;
        let recorder = Recorder::start(shared.catalog.clone(), Arc::clone(&parts.routes), shared.clock);
        Ok(ProxyRole { routes: parts.routes, access, data, follower, recorder })
    }

    /// The address for applications; port 0 if they connect only by Unix sockets.
    pub(in crate::app) fn address(&self) -> SocketAddr {
        self.data.local_addr().unwrap_or_else(settings::no_address)
    }

    /// Ends every session: running transactions within this time.
    pub(in crate::app) async fn stop(self, drain: Duration) {
        self.data.shutdown(drain).await;
        // After the last client: it was told that its session ends.
        self.recorder.stop().await;
        leave(self.follower).await;
    }

    /// The successor gets the new clients; those that are here stay for a while. Returns when they have left.
    pub(in crate::app) async fn make_way(self, successor: &Successor, config: &Config, drain: Duration) {
        let proxy = &config.proxy;
        // The store is the successor's from now on: the clients that stay are not measured any more.
        self.recorder.stop().await;
        leave(self.follower).await;
        successor.serves(proxy.takeover_wait).await;
        self.data.hand_over_listeners(proxy.login_timeout).await;
        self.data.linger(proxy.takeover_linger).await;
        self.data.shutdown(drain).await;
    }
}

fn follow(config: &Config, shared: &Shared, routes: &Arc<RouteTable>) -> Follower {
    let proxy = ProxyRecord {
        id: config.proxy.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: UnixMillis::now(),
        data_address: config.proxy.listen.to_string(),
    };
    Follower::start(shared.catalog.clone(), Arc::clone(routes), proxy, FollowerOptions::default())
}

async fn leave(follower: Follower) {
    if let Err(error) = follower.stop().await {
        tracing::warn!(%error, "this proxy stays listed in the store until its lease ends");
    }
}
