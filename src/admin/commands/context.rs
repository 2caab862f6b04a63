//! What commands work with: the catalogue, the process that is asked, and the administrator that asks.
//!
//! Owns [`Cluster`] and [`Local`], one for each [`Scope`](super::Scope), and the waits until this process
//! follows what was written. It deliberately executes no command: each is a function over one of the two.
//!
//! # Why two contexts
//! A command on the catalogue has the same effect in every process that has the store, so nothing of this
//! process is in its reach. The dispatcher gives each command the context of its scope; what a command must
//! not use, it cannot name.
//!
//! # Which commands get both
//! * PAUSE and KILL record an order that every process follows, and then wait for the sessions of this one.
//! * QUARANTINE DATABASE changes the catalogue; the clients that this process knows keep it from happening.
//! * SHOW CONSUMERS finds a database in the catalogue, and its clients in this process.
//! * SHOW SLO adds to what is in the store what this process has not written yet; SHOW VIOLATIONS looks at
//!   the sessions of this process and, for one database, at its tables.
//! * SHOW DATABASES and SHOW LISTS put figures of this process beside records of the catalogue.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::permit::CommandPermit;
use crate::admin::rights::Rights;
use crate::admin::show::samples::Samples;
use crate::admin::statement::{Drain, ShutdownMode};
use crate::admin::users::Users;
use crate::catalog::store::Revision;
use crate::catalog::{Catalog, Trail};
use crate::config::Config;
use crate::control::ControlSettings;
use crate::control::lifecycle::SystemConnection;
use crate::error::{Refusal, Severity, SqlState};
use crate::frontend::Access;
use crate::model::{AuditEntry, DatabaseId, ProcessLimits, RouteRecord, SystemRecord, Told, UnixMillis};
use crate::route::{Route, RouteTable};
use crate::telemetry::Metrics;

/// The outcome of a command that succeeded.
pub(in crate::admin) const OK: &str = "ok";

/// Time limit of a step on a system.
const SYSTEM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for this process to follow a change that it wrote itself.
const FOLLOW_TIME_MAX: Duration = Duration::from_secs(5);

/// What an administrator requests of the whole process; `app` answers.
#[derive(Debug)]
pub enum ProcessRequest {
    /// Read the file again. The answer: each setting that differs and whether it is applied now, or the
    /// errors.
    Reload {
        answer: oneshot::Sender<Result<Vec<(String, bool)>, String>>,
    },
    Shutdown(ShutdownMode),
}

/// What an [`Executor`](super::execute::Executor) is made of.
pub struct ExecutorParts {
    pub catalog: Catalog,
    /// The sessions and gates of this process.
    pub routes: Arc<RouteTable>,
    pub config: Arc<ArcSwap<Config>>,
    /// The address on which this process serves applications: the port is known once it is open.
    pub applications: SocketAddr,
    /// The control loop's current settings: PLAN MOVE checks with the same ones.
    pub settings: Arc<ArcSwap<ControlSettings>>,
    pub requests: mpsc::Sender<ProcessRequest>,
    /// Notified when roles may have changed.
    pub logins: Arc<Notify>,
    /// The access of applications, not of administrators.
    pub access: Arc<Access>,
    pub metrics: Metrics,
    pub clock: fn() -> UnixMillis,
}

impl fmt::Debug for ExecutorParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

impl ExecutorParts {
    pub(in crate::admin) fn into_contexts(self) -> (Cluster, Local) {
        let ExecutorParts {
            catalog,
            routes,
            config,
            applications,
            settings,
            requests,
            logins,
            access,
            metrics,
            clock,
        } = self;
        let cluster = Cluster {
            catalog,
            clock,
            settings,
            logins,
            config: Arc::clone(&config),
            applications,
            file_users: Arc::default(),
            audit_ids: Mutex::new(ulid::Generator::new()),
        };
        let samples = Samples::begin(std::time::Instant::now());
        (cluster, Local { routes, access, config, samples, clock, requests, metrics })
    }
}

/// What an audit entry contains of the command itself.
#[derive(Debug, Default)]
pub(in crate::admin) struct AuditedCommand {
    pub(in crate::admin) text: String,
    pub(in crate::admin) reason: Option<String>,
    pub(in crate::admin) database: Option<DatabaseId>,
    pub(in crate::admin) told: Told,
}

/// The user that runs a statement, and the channels to it before the answer.
#[derive(Debug, Clone)]
pub struct Caller {
    pub who: String,
    /// From where the administrator is connected.
    pub address: Option<IpAddr>,
    /// As they are when the statement begins.
    pub rights: Rights,
    /// Notices and progress. Dropped if the channel is full or closed.
    pub notices: mpsc::Sender<Refusal>,
    /// Ends a wait.
    pub cancel: CancellationToken,
    /// The audit entry of the running command.
    pub trail: Option<Trail>,
    /// What the running command may change.
    pub permit: CommandPermit,
}

impl Caller {
    pub(in crate::admin) fn notice(
        &self,
        severity: Severity,
        sqlstate: SqlState,
        message: impl Into<String>,
    ) {
        let _ = self.notices.try_send(Refusal::new(severity, sqlstate, message));
    }
}

/// The catalogue: what commands of [`Scope::Cluster`](super::Scope) work with. Any process that has the store
/// could run them.
pub(in crate::admin) struct Cluster {
    catalog: Catalog,
    clock: fn() -> UnixMillis,
    settings: Arc<ArcSwap<ControlSettings>>,
    /// Notified when roles may have changed.
    pub(in crate::admin) logins: Arc<Notify>,
    /// For bounds and addresses that answers contain.
    config: Arc<ArcSwap<Config>>,
    applications: SocketAddr,
    /// The users of the file of administrators: the catalogue can have none of these names.
    pub(in crate::admin) file_users: Arc<ArcSwap<Users>>,
    /// Keeps entries of one millisecond in their order.
    audit_ids: Mutex<ulid::Generator>,
}

impl Cluster {
    pub(in crate::admin) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The catalogue for the commit of a command's change: the audit entry is written with it, and nothing is
    /// unless the user still has the right.
    pub(in crate::admin) fn recording(&self, caller: &Caller) -> Catalog {
        let catalog = self.guarded(caller);
        match &caller.trail {
            Some(trail) => catalog.with_trail(trail),
            None => catalog,
        }
    }

    /// For a change whose audit entry an operation writes in the end: nothing is written unless the user
    /// still has the right.
    pub(in crate::admin) fn guarded(&self, caller: &Caller) -> Catalog {
        self.catalog().with_guard(Arc::new(caller.permit.clone()))
    }

    /// The audit entry of a command that has not ended.
    pub(in crate::admin) fn new_trail(&self, caller: &Caller, command: AuditedCommand) -> Trail {
        let AuditedCommand { text, reason, database, told } = command;
        let entry = AuditEntry {
            address: caller.address,
            reason,
            outcome: AuditEntry::PENDING.to_owned(),
            database,
            told,
            ..AuditEntry::new(self.now(), caller.who.clone(), text)
        };
        let id = self.audit_ids.lock().unwrap_or_else(PoisonError::into_inner).generate().ok();
        Trail::new(id.unwrap_or_else(ulid::Ulid::generate), entry)
    }

    pub(in crate::admin) fn clock(&self) -> fn() -> UnixMillis {
        self.clock
    }

    pub(in crate::admin) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    pub(in crate::admin) fn settings(&self) -> Arc<ControlSettings> {
        self.settings.load_full()
    }

    /// How to reach a system, with these settings.
    pub(in crate::admin) fn reach<'a>(
        &self,
        system: &'a SystemRecord,
        settings: &'a ControlSettings,
    ) -> SystemConnection<'a> {
        let deadline = Instant::now() + SYSTEM_TIMEOUT;
        SystemConnection { system, access: &settings.access, deadline }
    }

    pub(in crate::admin) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The configured bound of the pause of a move.
    pub(in crate::admin) fn pause_max(&self) -> Duration {
        self.config.load().moves.pause_max
    }

    /// What this process enforces where a contract says nothing.
    pub(in crate::admin) fn process_limits(&self) -> ProcessLimits {
        let config = self.config.load();
        ProcessLimits { timeouts: config.client_timeouts(), message_size_max: config.limits.message_size_max }
    }

    /// The address to which applications connect.
    pub(in crate::admin) fn address(&self) -> String {
        let listen = self.applications;
        match &self.config.load().proxy.address {
            Some(address) => address.to_string(),
            None if listen.ip().is_unspecified() => format!("127.0.0.1:{}", listen.port()),
            None => listen.to_string(),
        }
    }
}

/// The process that is asked: what commands of [`Scope::Process`](super::Scope) work with.
pub(in crate::admin) struct Local {
    pub(in crate::admin) routes: Arc<RouteTable>,
    pub(in crate::admin) access: Arc<Access>,
    pub(in crate::admin) config: Arc<ArcSwap<Config>>,
    pub(in crate::admin) samples: Samples,
    pub(in crate::admin) clock: fn() -> UnixMillis,
    pub(in crate::admin) requests: mpsc::Sender<ProcessRequest>,
    pub(in crate::admin) metrics: Metrics,
}

impl Local {
    /// The bound of a wait.
    pub(in crate::admin) fn wait_bound(&self, drain: &Drain) -> Duration {
        drain.within.unwrap_or(self.config.load().admin.wait_timeout)
    }

    /// Waits until this process serves its clients as of a commit. The wait is bounded: a slow store does not
    /// fail the command.
    pub(in crate::admin) async fn follow(&self, revision: Revision) {
        let followed = self.routes.followed();
        if followed.has_begun() && timeout(FOLLOW_TIME_MAX, followed.routes(revision)).await.is_err() {
            tracing::warn!("a change was recorded, and this process does not know it yet");
        }
    }

    /// Waits, within a bound, until this process follows an order to a database that it serves.
    pub(in crate::admin) async fn follow_order(&self, record: &RouteRecord) -> Option<Arc<Route>> {
        let route = self.routes.by_id(&record.database)?;
        let _ = timeout(FOLLOW_TIME_MAX, order_reached(&route, record.order)).await;
        Some(route)
    }
}

/// Waits until the route has reached this order.
pub(in crate::admin) async fn order_reached(route: &Route, order: u64) {
    let mut turns = route.gate().watch(0);
    while route.current().order < order {
        turns.turned().await;
    }
}
