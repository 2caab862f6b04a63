//! Requests to the running process: signals, RELOAD, SHUTDOWN.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{access, settings};
use crate::admin::serve::AdminServer;
use crate::admin::users::read_users;
use crate::admin::{ProcessRequest, ShutdownMode};
use crate::config::{Apply, Config, LogLevel};
use crate::control::ControlSettings;
use crate::error::chain;
use crate::frontend::Access;
use crate::route::RouteTable;
use crate::session::{DataPlane, LimitsPolicy};
use crate::telemetry::log::LogHandle;
use crate::tls::{Acceptor, Connector, TlsError};

/// Interval between checks whether clients have left.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The parts that a changed configuration reaches without a restart.
#[derive(Debug)]
pub(super) struct Reloadable {
    pub(super) file: Option<PathBuf>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) control: Arc<ArcSwap<ControlSettings>>,
    pub(super) logins_interval: watch::Sender<Duration>,
    /// Certificates are read again even if their paths are unchanged: they are renewed in place.
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) connector: Connector,
    /// Access policies of the ports.
    pub(super) access: Vec<Arc<Access>>,
    /// Time limits of clients.
    pub(super) limits: Arc<ArcSwap<LimitsPolicy>>,
    pub(super) log: Option<LogHandle>,
}

impl Reloadable {
    /// Reads the file again and applies the settings that can change now. Returns each setting that differs,
    /// and whether it is applied; on a mistake nothing changes.
    pub(super) fn reload(&self, admin: &AdminServer) -> Result<Vec<(String, bool)>, String> {
        let Some(file) = &self.file else {
            return Err("this process was started without a configuration file".to_owned());
        };
        let fresh = read(file)?;
        let users = read_users(&fresh.admin.users_file).map_err(|error| chain(&error))?;
        let policy = access::policy(&fresh).map_err(|errors| errors.to_string())?;
        let renewals = self.renewals().map_err(|error| chain(&error))?;
        // All files were read: nothing below can fail.
        renewals.into_iter().for_each(|renew| renew());
        admin.set_users(users);
        self.access.iter().for_each(|access| access.set_policy(policy.clone()));
        let running = self.config.load_full();
        let differences = running.differences(&fresh);
        self.follow(running.reloaded(&fresh));
        tracing::info!(changed = differences.len(), "the configuration was read again");
        Ok(differences.iter().map(|setting| (setting.path(), setting.apply == Apply::Reload)).collect())
    }

    /// Reads every certificate again, without using it yet.
    fn renewals(&self) -> Result<Vec<Box<dyn FnOnce()>>, TlsError> {
        let mut renewals: Vec<Box<dyn FnOnce()>> = vec![Box::new(self.connector.renewal()?)];
        for acceptor in &self.acceptors {
            renewals.push(Box::new(acceptor.renewal()?));
        }
        Ok(renewals)
    }

    /// `config` is the configuration now in effect.
    fn follow(&self, config: Config) {
        let known = self.control.load_full();
        let mut control = settings::control(&config, &self.connector, known.fault.clone());
        control.latencies = known.latencies.clone();
        self.control.store(Arc::new(control));
        self.limits.store(Arc::new(settings::limits(&config)));
        self.logins_interval.send_replace(config.moves.logins_interval);
        if let Some(log) = &self.log {
            log.set_level(LogLevel::as_str(config.log.level));
        }
        self.config.store(Arc::new(config));
    }
}

fn read(file: &Path) -> Result<Config, String> {
    Config::load(file).map_err(|errors| errors.to_string())
}

/// What is needed to wait for clients to leave.
pub(super) struct ClientShutdown<'a> {
    pub(super) data: &'a DataPlane,
    pub(super) routes: &'a RouteTable,
    /// Cancelled: the process accepts no more clients.
    pub(super) draining: &'a CancellationToken,
}

impl ClientShutdown<'_> {
    /// Stops accepting clients.
    fn begin(&self) {
        tracing::info!("no client comes in any more; the process ends when those that are here have left");
        self.draining.cancel();
        self.data.stop_accepting();
    }

    /// Waits until clients have left as `mode` requires; forever without a `mode`.
    async fn done(&self, mode: Option<ShutdownMode>) {
        loop {
            let routes = self.routes.routes();
            let mut session_tables = routes.iter().map(|route| route.session_table());
            match mode {
                None => std::future::pending().await,
                Some(ShutdownMode::WaitForClients)
                    if session_tables.all(|session_table| session_table.is_empty()) =>
                {
                    return;
                }
                Some(ShutdownMode::WaitForServers)
                    if session_tables.all(|session_table| session_table.servers_in_use() == 0) =>
                {
                    return;
                }
                Some(ShutdownMode::Now) => return,
                Some(ShutdownMode::WaitForClients | ShutdownMode::WaitForServers) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Handles requests until the process has to end, and may.
pub(super) async fn until_end(
    requests: &mut mpsc::Receiver<ProcessRequest>,
    reloadable: &Reloadable,
    admin: &AdminServer,
    leaving: &ClientShutdown<'_>,
) {
    let mut mode = None;
    let mut hangup = Listener::of(SignalKind::hangup());
    let mut terminate = Listener::of(SignalKind::terminate());
    let mut interrupt = Listener::of(SignalKind::interrupt());
    loop {
        // Each branch is cancel-safe: signals and channel messages are not lost when another branch is taken.
        tokio::select! {
            () = leaving.done(mode) => return,
            () = terminate.heard() => return,
            () = interrupt.heard() => return,
            () = hangup.heard() => {
                if let Err(problems) = reloadable.reload(admin) {
                    tracing::error!(problems, "the configuration stays as it was");
                }
            }
            request = requests.recv() => match request {
                Some(ProcessRequest::Reload { answer }) => {
                    // The requester may be gone.
                    let _ = answer.send(reloadable.reload(admin));
                }
                // A second one ends the wait of the first.
                Some(ProcessRequest::Shutdown(later)) if later != ShutdownMode::Now && mode.is_none() => {
                    leaving.begin();
                    mode = Some(later);
                }
                Some(ProcessRequest::Shutdown(_)) | None => return,
            },
        }
    }
}

/// A signal; if it is not available it is never received.
struct Listener(Option<Signal>);

impl Listener {
    fn of(kind: SignalKind) -> Listener {
        let listening = signal(kind);
        if let Err(error) = &listening {
            tracing::error!(%error, ?kind, "a signal cannot be listened to");
        }
        Listener(listening.ok())
    }

    async fn heard(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}
