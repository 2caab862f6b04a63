//! Executes statements: the only code through which people change the catalogue.
//!
//! Owns dispatch, the audit trail, and what concerns this process (reload, shutdown). The commands of each
//! noun have a file of their own. It deliberately runs no move: it records what was requested, and the mover
//! reads that.
//!
//! # Cancel safety
//! [`Executor::execute`] must run to its end: a half-done CREATE DATABASE would never be undone. Only its
//! waits end early, when the token of [`Caller`] is cancelled; what was recorded continues.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, row};
use super::commands::{self, Effect};
use super::driver_queries;
use super::lookup::command;
use super::parse::Parsed;
use super::refuse::AdminError;
use super::statement::{DriverQuery, ShutdownMode, Statement};
use super::stats::Samples;
use super::users::Rights;
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
pub(super) const OK: &str = "ok";

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

/// What the commands work with.
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
    pub(super) fn notice(
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

/// Executes statements. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    pub(super) parts: Arc<Parts>,
    pub(super) samples: Arc<Samples>,
    /// Keeps entries of one millisecond in their order.
    audit_ids: Arc<Mutex<ulid::Generator>>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    pub fn new(parts: Parts) -> Executor {
        Executor {
            parts: Arc::new(parts),
            samples: Arc::new(Samples::begin(std::time::Instant::now())),
            audit_ids: Arc::new(Mutex::new(ulid::Generator::new())),
        }
    }

    /// Takes samples for the averages of SHOW STATS; never returns.
    pub(super) async fn sample(self) {
        loop {
            tokio::time::sleep(self.parts.config.load().admin.stats_period).await;
            self.samples.take(&self.parts.routes, std::time::Instant::now());
        }
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
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
        match statement {
            Statement::CreateTeam(team) => self.create_team(team, caller).await,
            Statement::AlterTeam(team) => self.alter_team(team, caller).await,
            Statement::DropTeam(team) => self.drop_team(team, caller).await,
            Statement::CreateSystem(create) => self.create_system(create, caller).await,
            Statement::AlterSystem(alter) => self.alter_system(alter, caller).await,
            Statement::DropSystem(system) => self.drop_system(system, caller).await,
            Statement::CreateDatabase(create) => self.create_database(create, caller).await,
            Statement::AlterDatabase(alter) => self.alter_database(alter, caller).await,
            Statement::AdoptDatabase(adopt) => self.adopt_database(adopt, caller).await,
            Statement::DropDatabase(drop) => self.drop_database(drop, caller).await,
            Statement::PlanMove { database, system } => self.plan_move(database, system, caller).await,
            Statement::Move(movement) => self.start_move(movement, caller).await,
            Statement::UndoMove { id, differences, wait } => {
                self.undo_move(*id, *differences, *wait, caller).await
            }
            Statement::AdoptMove(id) => self.adopt_move(*id, caller).await,
            Statement::CancelMove { id, wait } => self.cancel_move(*id, *wait, caller).await,
            Statement::FinishMove { id, source, differences, wait } => {
                self.finish_move(*id, (*source, *differences), *wait, caller).await
            }
            Statement::Pause(drain) => self.pause(drain, caller).await,
            Statement::Resume(database) => self.resume(database.as_ref(), caller).await,
            Statement::Disable(database) => self.disable(database, caller).await,
            Statement::Enable(database) => self.enable(database, caller).await,
            Statement::Reconnect(database) => self.reconnect(database.as_ref(), caller).await,
            Statement::WaitClose(drain) => self.wait_close(drain, caller).await,
            Statement::Kill(database) => self.kill(database.as_ref(), caller).await,
            Statement::KillClient(session) => self.kill_client(*session).await,
            Statement::Reload => self.reload().await,
            Statement::Shutdown(mode) => self.shutdown(*mode).await,
            Statement::Show(show) => self.show(show).await,
            Statement::DriverQuery(query) => Ok(answer_driver(statement, query, caller)),
        }
    }

    fn count(&self, statement: &Statement, outcome: &Result<Answer, Refusal>) {
        let verb = command(statement).tag;
        let sqlstate =
            outcome.as_ref().map_or_else(|refusal| refusal.sqlstate.to_string(), |_| "00000".to_owned());
        self.parts.metrics.counter(&names::ADMIN_COMMANDS, &[verb, &sqlstate]).increment(1);
    }

    /// The audit entry of a command that succeeds.
    fn trail(&self, parsed: &Parsed, caller: &Caller) -> Trail {
        let reason = parsed.statement.reason().map(str::to_owned);
        self.new_trail(caller.who.clone(), parsed.text.clone(), reason, OK)
    }

    pub(super) fn new_trail(
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
        if let Err(error) = self.parts.catalog.end_trail(trail, outcome).await {
            tracing::error!(error = &error as &dyn std::error::Error, command, "the audit entry is lost");
        }
    }

    /// The catalogue for the commit of a command's change: the audit entry is written with it.
    pub(super) fn recording(&self, caller: &Caller) -> Catalog {
        match &caller.trail {
            Some(trail) => self.catalog().with_trail(trail),
            None => self.catalog().clone(),
        }
    }

    async fn reload(&self) -> Result<Answer, AdminError> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.parts.requests.send(ProcessRequest::Reload { answer }).await;
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
        let sent = self.parts.requests.send(ProcessRequest::Shutdown(mode)).await;
        sent.map_err(|_| AdminError::ShuttingDown)?;
        Ok(Answer::done(commands::SHUTDOWN))
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    pub(super) fn now(&self) -> UnixMillis {
        (self.parts.clock)()
    }

    /// How to reach a system, with the mover's settings.
    pub(super) fn reach<'a>(&self, system: &'a SystemRecord, mover: &'a MoverSettings) -> Reach<'a> {
        let deadline = Instant::now() + SYSTEM_TIMEOUT;
        Reach { system, access: &mover.access, deadline }
    }

    pub(super) fn mover(&self) -> Arc<MoverSettings> {
        self.parts.mover.load_full()
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
pub(super) fn is_missing(error: &AdminError) -> bool {
    matches!(error, AdminError::Store(StoreError::Missing { .. }))
}
