//! Executes statements: the only code through which people change the catalogue.
//!
//! Owns dispatch, the audit trail, and what concerns this process (reload, shutdown). The commands of each
//! noun have a file of their own. It deliberately runs no move: it records what was requested, and the mover
//! reads that.
//!
//! # Cancel safety
//! [`Executor::execute`] must run to its end, or the audit trail would not know the outcome. Its waits for
//! moves and clients end early when the token of [`Caller`] is cancelled; what was recorded continues.
//! CREATE, DROP and ADOPT DATABASE are recorded operations, and are waited for until they are done or undone.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::answer::{Answer, row};
use crate::admin::commands::{self, Effect};
use crate::admin::driver_queries;
use crate::admin::lookup::command;
use crate::admin::parse::Parsed;
use crate::admin::refuse::AdminError;
use crate::admin::show::samples::Samples;
use crate::admin::statement::{DriverQuery, ShutdownMode, Statement};
use crate::admin::users::Rights;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Trail};
use crate::config::Config;
use crate::control::MoverSettings;
use crate::control::lifecycle::Reach;
use crate::error::{Explain, Refusal, Severity};
use crate::frontend::Access;
use crate::model::{AuditEntry, SystemRecord, UnixMillis};
use crate::route::RouteTable;
use crate::telemetry::{Metrics, names};

/// The outcome of a command that succeeded.
pub(in crate::admin) const OK: &str = "ok";

/// Time limit of a step on a system.
const SYSTEM_TIMEOUT: Duration = Duration::from_secs(30);

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

/// What an [`Executor`] is made of.
pub struct Parts {
    pub catalog: Catalog,
    /// The sessions and gates of this process.
    pub routes: Arc<RouteTable>,
    pub config: Arc<ArcSwap<Config>>,
    /// The address on which this process serves applications: the port is known once it is open.
    pub applications: SocketAddr,
    /// The mover's current settings: PLAN MOVE checks with the same ones.
    pub mover: Arc<ArcSwap<MoverSettings>>,
    pub requests: mpsc::Sender<ProcessRequest>,
    /// Notified when roles may have changed.
    pub logins: Arc<Notify>,
    /// The access of applications, not of administrators.
    pub access: Arc<Access>,
    pub metrics: Metrics,
    pub clock: fn() -> UnixMillis,
}

/// The administrator that runs a statement, and the channels to it before the answer.
#[derive(Debug, Clone)]
pub struct Caller {
    pub who: String,
    pub rights: Rights,
    /// Notices and progress. Dropped if the channel is full or closed.
    pub notices: mpsc::Sender<Refusal>,
    /// Ends a wait.
    pub cancel: CancellationToken,
    /// The audit entry of the running command.
    pub trail: Option<Trail>,
}

impl Caller {
    pub(in crate::admin) fn notice(
        &self,
        severity: Severity,
        sqlstate: crate::error::SqlState,
        message: impl Into<String>,
    ) {
        let _ = self.notices.try_send(Refusal::new(severity, sqlstate, message));
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

/// The catalogue: what commands of [`commands::Scope::Cluster`] work with. Any process that has the store
/// could run them.
pub struct Cluster {
    catalog: Catalog,
    clock: fn() -> UnixMillis,
    pub(in crate::admin) mover: Arc<ArcSwap<MoverSettings>>,
    pub(in crate::admin) logins: Arc<Notify>,
    /// Keeps entries of one millisecond in their order.
    audit_ids: Mutex<ulid::Generator>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

/// The process that is asked: what commands of [`commands::Scope::Process`] work with.
pub(in crate::admin) struct Local {
    pub(in crate::admin) routes: Arc<RouteTable>,
    pub(in crate::admin) access: Arc<Access>,
    pub(in crate::admin) config: Arc<ArcSwap<Config>>,
    pub(in crate::admin) applications: SocketAddr,
    pub(in crate::admin) samples: Samples,
    pub(in crate::admin) clock: fn() -> UnixMillis,
    requests: mpsc::Sender<ProcessRequest>,
    metrics: Metrics,
}

/// Executes statements. Cheap to clone.
///
/// Its own methods are the commands that need both: a change that every process follows, and a wait until
/// this one does.
#[derive(Clone)]
pub struct Executor {
    pub(in crate::admin) cluster: Arc<Cluster>,
    pub(in crate::admin) local: Arc<Local>,
}

/// A command that needs both works with the catalogue as one that needs nothing else.
impl Deref for Executor {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    pub fn new(parts: Parts) -> Executor {
        let Parts { catalog, routes, config, applications, mover, requests, logins, access, metrics, clock } =
            parts;
        let audit_ids = Mutex::new(ulid::Generator::new());
        let samples = Samples::begin(std::time::Instant::now());
        Executor {
            cluster: Arc::new(Cluster { catalog, clock, mover, logins, audit_ids }),
            local: Arc::new(Local {
                routes,
                access,
                config,
                applications,
                samples,
                clock,
                requests,
                metrics,
            }),
        }
    }

    /// Takes samples for the averages of SHOW STATS; never returns.
    pub(in crate::admin) async fn sample(self) {
        loop {
            tokio::time::sleep(self.local.config.load().admin.stats_period).await;
            self.local.samples.take(&self.local.routes, std::time::Instant::now());
        }
    }

    /// Executes one statement and, if it changes anything, writes an audit entry.
    pub async fn execute(&self, parsed: &Parsed, caller: &Caller) -> Result<Answer, Refusal> {
        let effect = command(&parsed.statement).effect;
        let trail = (effect == Effect::Change).then(|| self.trail(parsed, caller));
        let caller = &Caller { trail: trail.clone(), ..caller.clone() };
        let outcome = self.dispatch(&parsed.statement, caller).await;
        let outcome = outcome.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "a command is refused");
            error.refusal(Severity::Error)
        });
        self.count(&parsed.statement, &outcome);
        if let Some(trail) = &trail {
            self.audit(trail, &outcome).await;
        }
        outcome
    }

    /// The only permission check: the table of commands says which rights each needs.
    async fn dispatch(&self, statement: &Statement, caller: &Caller) -> Result<Answer, AdminError> {
        if caller.rights == Rights::Look && command(statement).effect.rights() != Rights::Look {
            return Err(AdminError::MayOnlyLook { name: caller.who.clone() });
        }
        let pause_max = || self.local.config.load().moves.pause_max;
        match statement {
            Statement::CreateTeam(team) => self.cluster.create_team(team, caller).await,
            Statement::AlterTeam(team) => self.cluster.alter_team(team, caller).await,
            Statement::DropTeam(team) => self.cluster.drop_team(team, caller).await,
            Statement::CreateSystem(create) => self.cluster.create_system(create, caller).await,
            Statement::AlterSystem(alter) => self.cluster.alter_system(alter, caller).await,
            Statement::DropSystem(system) => self.cluster.drop_system(system, caller).await,
            Statement::CreateDatabase(create) => self.create_database(create, caller).await,
            Statement::AlterDatabase(alter) => self.cluster.alter_database(alter, caller).await,
            Statement::AdoptDatabase(adopt) => self.adopt_database(adopt, caller).await,
            Statement::DropDatabase(drop) => self.drop_database(drop, caller).await,
            Statement::PlanMove { database, system } => {
                self.cluster.plan_move(database, system, pause_max(), caller).await
            }
            Statement::Move(movement) => self.cluster.start_move(movement, pause_max(), caller).await,
            Statement::UndoMove { id, differences, wait } => {
                self.cluster.undo_move(*id, *differences, *wait, caller).await
            }
            Statement::AdoptMove(id) => self.cluster.adopt_move(*id, caller).await,
            Statement::CancelMove { id, wait } => self.cluster.cancel_move(*id, *wait, caller).await,
            Statement::FinishMove { id, source, differences, wait } => {
                self.cluster.finish_move(*id, (*source, *differences), *wait, caller).await
            }
            Statement::Pause(drain) => self.pause(drain, caller).await,
            Statement::Resume(database) => self.cluster.resume(database.as_ref(), caller).await,
            Statement::Disable(database) => self.disable(database, caller).await,
            Statement::Enable(database) => self.enable(database, caller).await,
            Statement::Reconnect(database) => self.reconnect(database.as_ref(), caller).await,
            Statement::WaitClose(drain) => self.wait_close(drain, caller).await,
            Statement::Kill(database) => self.kill(database.as_ref(), caller).await,
            Statement::KillClient(session) => self.local.kill_client(*session).await,
            Statement::Reload => self.local.reload().await,
            Statement::Shutdown(mode) => self.local.shutdown(*mode).await,
            Statement::Show(show) => self.show(show).await,
            Statement::DriverQuery(query) => Ok(answer_driver(statement, query, caller)),
        }
    }

    fn count(&self, statement: &Statement, outcome: &Result<Answer, Refusal>) {
        let verb = command(statement).tag;
        let sqlstate =
            outcome.as_ref().map_or_else(|refusal| refusal.sqlstate.to_string(), |_| "00000".to_owned());
        self.local.metrics.counter(&names::ADMIN_COMMANDS, &[verb, &sqlstate]).increment(1);
    }
}

impl Cluster {
    /// The audit entry of a command that succeeds.
    fn trail(&self, parsed: &Parsed, caller: &Caller) -> Trail {
        let reason = parsed.statement.reason().map(str::to_owned);
        self.new_trail(caller.who.clone(), parsed.text.clone(), reason, OK)
    }

    pub(in crate::admin) fn new_trail(
        &self,
        who: String,
        command: String,
        reason: Option<String>,
        outcome: &str,
    ) -> Trail {
        let entry = AuditEntry { at: self.now(), who, command, reason, outcome: outcome.to_owned() };
        let id = self.audit_ids.lock().unwrap_or_else(PoisonError::into_inner).generate().ok();
        Trail::new(id.unwrap_or_else(ulid::Ulid::generate), entry)
    }

    /// A command that was executed but could not be audited stays executed: the log says so. Most commands
    /// write their entry in the commit of their change.
    async fn audit(&self, trail: &Trail, outcome: &Result<Answer, Refusal>) {
        let outcome = match outcome {
            Ok(_) => OK.to_owned(),
            Err(refusal) => format!("{}: {}", refusal.sqlstate, refusal.message),
        };
        let AuditEntry { who, command, .. } = trail.entry();
        tracing::info!(who, command, outcome, "admin command");
        if let Err(error) = self.catalog.end_trail(trail, outcome).await {
            tracing::error!(error = &error as &dyn std::error::Error, command, "the audit entry is lost");
        }
    }

    /// The catalogue for the commit of a command's change: the audit entry is written with it.
    pub(in crate::admin) fn recording(&self, caller: &Caller) -> Catalog {
        match &caller.trail {
            Some(trail) => self.catalog().with_trail(trail),
            None => self.catalog().clone(),
        }
    }

    pub(in crate::admin) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(in crate::admin) fn clock(&self) -> fn() -> UnixMillis {
        self.clock
    }

    pub(in crate::admin) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    /// How to reach a system, with the mover's settings.
    pub(in crate::admin) fn reach<'a>(
        &self,
        system: &'a SystemRecord,
        mover: &'a MoverSettings,
    ) -> Reach<'a> {
        let deadline = Instant::now() + SYSTEM_TIMEOUT;
        Reach { system, access: &mover.access, deadline }
    }

    pub(in crate::admin) fn mover(&self) -> Arc<MoverSettings> {
        self.mover.load_full()
    }
}

impl Local {
    async fn reload(&self) -> Result<Answer, AdminError> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.requests.send(ProcessRequest::Reload { answer }).await;
        sent.map_err(|_| AdminError::ShuttingDown)?;
        let changed = outcome.await.map_err(|_| AdminError::ShuttingDown)?;
        let changed = changed.map_err(|problems| AdminError::Reload { problems })?;
        let rows = changed
            .into_iter()
            .map(|(setting, now)| row![setting, if now { "now" } else { "at the next start" }])
            .collect();
        Ok(Answer::rows(commands::RELOAD, rows))
    }

    async fn shutdown(&self, mode: ShutdownMode) -> Result<Answer, AdminError> {
        let sent = self.requests.send(ProcessRequest::Shutdown(mode)).await;
        sent.map_err(|_| AdminError::ShuttingDown)?;
        Ok(Answer::done(commands::SHUTDOWN))
    }
}

fn answer_driver(statement: &Statement, query: &DriverQuery, caller: &Caller) -> Answer {
    let command = command(statement);
    match query {
        DriverQuery::SelectNumber(number) => Answer::rows(command, vec![row![*number]]),
        DriverQuery::SelectFunction("pg_backend_pid") => Answer::rows(command, vec![row!["0"]]),
        DriverQuery::SelectFunction(name) => {
            let value = driver_queries::function_value(name).unwrap_or_else(|| caller.who.clone());
            Answer::rows(command, vec![row![value]])
        }
        DriverQuery::Setting(_, value) => Answer::rows(command, vec![row![*value]]),
        DriverQuery::NoTypes => Answer::rows(command, Vec::new()),
        DriverQuery::Accepted(_)
        | DriverQuery::Begin
        | DriverQuery::Commit
        | DriverQuery::Rollback
        | DriverQuery::RollbackToSavepoint => Answer::done(command),
    }
}

/// A change of a record failed on the system.
impl From<crate::system::SystemError> for AdminError {
    fn from(error: crate::system::SystemError) -> AdminError {
        AdminError::Lifecycle(error.into())
    }
}

/// The record does not exist: another command dropped it meanwhile.
pub(in crate::admin) fn is_missing(error: &AdminError) -> bool {
    matches!(error, AdminError::Store(StoreError::Missing { .. }))
}
