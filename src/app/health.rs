//! Metrics and health over HTTP/1.1: `/metrics`, `/health`, `/ready`. One answer per connection.
//!
//! # Why
//! Three fixed answers to GET do not need an HTTP library; a later console will bring one and serve these,
//! too.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::model::MovePhase;
use crate::route::{GateState, RouteTable};
use crate::telemetry::{Metrics, names};

const REQUEST_BYTES_MAX: usize = 8 * 1024;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 32;

/// The open port; closes with the value.
#[derive(Debug)]
pub(super) struct HealthPort {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Sources of the metrics.
#[derive(Debug, Clone)]
pub(super) struct MetricSources {
    pub(super) metrics: Metrics,
    pub(super) routes: Arc<RouteTable>,
    pub(super) catalog: Catalog,
    /// Cancelled: the process accepts no more clients.
    pub(super) draining: CancellationToken,
}

impl HealthPort {
    pub(super) async fn open(address: SocketAddr, figures: MetricSources) -> io::Result<HealthPort> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, figures));
        Ok(HealthPort { address, accepting })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthPort {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// If there are too many connections the oldest is ended: it has had the longest time to send its request. An
/// idle connection must not block a health check, because the process would then be restarted.
async fn accept(listener: TcpListener, figures: MetricSources) {
    let mut visitors: VecDeque<Visitor> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Probably out of file descriptors: do not spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        visitors.retain(|visitor| !visitor.0.is_finished());
        if visitors.len() >= CONNECTIONS_MAX {
            visitors.pop_front();
        }
        let figures = figures.clone();
        visitors.push_back(Visitor(tokio::spawn(async move {
            // A slow or vanished scraper is not an error.
            let _ = tokio::time::timeout(REQUEST_TIME_MAX, answer(stream, figures)).await;
        })));
    }
}

/// A connection that is being answered; ends with the value.
struct Visitor(JoinHandle<()>);

impl Drop for Visitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn answer(mut stream: TcpStream, figures: MetricSources) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let (status, body) = figures.body(&String::from_utf8_lossy(line)).await;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

impl MetricSources {
    async fn body(&self, line: &str) -> (&'static str, String) {
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (method, path) {
            ("GET", "/metrics") => {
                if let Err(error) = self.gather().await {
                    tracing::warn!(%error, "the figures of the catalogue are as they were");
                }
                ("200 OK", self.metrics.render())
            }
            ("GET", "/ready") if self.draining.is_cancelled() => {
                ("503 Service Unavailable", "draining\n".to_owned())
            }
            // The port opens after the routes are known and clients are accepted.
            ("GET", "/health" | "/ready") => ("200 OK", "ok\n".to_owned()),
            ("GET", _) => ("404 Not Found", "there are /metrics, /health and /ready\n".to_owned()),
            _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
        }
    }

    /// Metrics that are states and not events are read on request.
    async fn gather(&self) -> Result<(), StoreError> {
        self.metrics.gauge(&names::BUILD, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        for route in self.routes.routes() {
            let record = route.current();
            let label = [record.name.as_str()];
            self.metrics.gauge(&names::SESSIONS, &label).set(route.session_table().len() as f64);
            self.metrics.gauge(&names::ROUTE_EPOCH, &label).set(record.epoch.0 as f64);
            for (class, sides) in route.session_table().measured().errors {
                for (side, count) in sides {
                    let label = [record.name.as_str(), &class, side.as_str()];
                    self.metrics.counter(&names::ERRORS, &label).absolute(count);
                }
            }
            let open = route.gate().state() != GateState::Held;
            self.metrics.gauge(&names::GATE_OPEN, &label).set(f64::from(u8::from(open)));
        }
        let databases = self.catalog.databases().list().await?.into_values();
        for state in ["provisioning", "active", "deprecated", "quarantined", "archived"] {
            let count = databases.iter().filter(|database| database.lifecycle.as_str() == state).count();
            self.metrics.gauge(&names::DATABASES, &[state]).set(count as f64);
        }
        self.gather_moves().await
    }

    async fn gather_moves(&self) -> Result<(), StoreError> {
        let progress = self.catalog.moves().all_progress().await?;
        let moves = self.catalog.moves().list().await?.into_values();
        for phase in MovePhase::ALL.into_iter().filter(|phase| !phase.has_ended()) {
            let count = moves.iter().filter(|movement| movement.phase == phase).count();
            self.metrics.gauge(&names::MOVES, &[phase.as_str()]).set(count as f64);
        }
        for movement in &moves {
            let label = [movement.name.as_str()];
            // Moves are sorted from the oldest on: the newest of a database decides.
            let differences = if movement.phase.has_ended() { 0 } else { movement.facts.differences.len() };
            self.metrics.gauge(&names::MOVE_DIFFERENCES, &label).set(differences as f64);
            if let Some(pause) = movement.undo.as_ref().or(movement.cutover.as_ref()) {
                self.metrics.gauge(&names::MOVE_STALL, &label).set(pause.longest_stall.as_secs_f64());
            }
            if let Some(lag) = progress.get(&movement.id).and_then(|progress| progress.lag_bytes) {
                self.metrics.gauge(&names::MOVE_LAG, &label).set(lag as f64);
            }
        }
        Ok(())
    }
}
