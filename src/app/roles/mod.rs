//! The roles of a process: [`proxy`] serves clients, [`control`] serves administrators and carries out what
//! they order.
//!
//! Owns what both need: [`Shared`]. A role starts with it and with its own parts, and ends by its `stop`. The
//! roles do not know each other: [`Serve`](super::Serve), which runs both in one process, gives each what it
//! needs of the other.

pub(super) mod control;
pub(super) mod proxy;

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::access;
use super::error::ServeError;
use crate::auth::scram::MockSecret;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::control::operations::WallClock;
use crate::frontend::Access;
use crate::telemetry::Metrics;
use crate::tls::Connector;

/// What the roles of a process share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// The configuration in effect.
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) catalog: Catalog,
    pub(super) metrics: Metrics,
    /// Reaches systems.
    pub(super) connector: Connector,
    /// The wall clock of what control does and records.
    pub(super) clock: WallClock,
}

impl Shared {
    /// Decides the logins of one port. Each port has its own: failed logins of one lock out no client of
    /// another.
    fn access(&self) -> Result<Access, ServeError> {
        Ok(Access::new(access::policy(&self.config.load())?, self.metrics.clone()))
    }

    async fn mock_secret(&self, port: &str) -> Result<MockSecret, ServeError> {
        Ok(MockSecret::of_port(&self.catalog.login_nonce().await?, port))
    }
}
