//! Executes statements: the only code through which people change the catalogue.
//!
//! Owns the permission check, the dispatch by scope, and the audit trail. The commands of each noun have a
//! file of their own. It deliberately runs no move: it records what was requested, and the mover reads that.
//!
//! ```text
//!   Statement --row of the table--> rights? --+-- Cluster --> run_on_cluster(cluster) --+--> follow --> audit
//!                                             +-- Process --> run_on_process(local) ----+
//! ```
//!
//! # Why the answer waits for this process
//! A client that connects here as soon as CREATE DATABASE answers must be served, and a new one must be
//! refused after DISABLE. The command itself is not of this process: it says with which commit its change was
//! written, and the dispatch waits until this process follows that.
//!
//! # Cancel safety
//! [`Executor::execute`] must run to its end, or the audit trail would not know the outcome. Its waits for
//! moves and clients end early when the token of [`Caller`] is cancelled; what was recorded continues.
//! CREATE, DROP and ADOPT DATABASE are recorded operations, and are waited for until they are done or undone.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::audited::{self, Rates};
use super::context::{AuditedCommand, Caller, Cluster, ExecutorParts, Local, OK};
use super::people_error::PeopleError;
use super::{
    adopt, audit, create, databases, discretion, drop, enable, kill, moves, pause, people, permission,
    process, reconnect, systems, teams, transfers, transitions,
};
use crate::admin::answer::{Answer, row};
use crate::admin::commands::{Effect, Scope, Show};
use crate::admin::driver_queries;
use crate::admin::error::AdminError;
use crate::admin::lookup::command;
use crate::admin::parse::Parsed;
use crate::admin::port::directory::Directory;
use crate::admin::show::dispatch::ShowRows;
use crate::admin::statement::{DriverQuery, Statement};
use crate::catalog::Trail;
use crate::error::{Explain, Refusal, Severity};
use crate::model::AuditEntry;
use crate::telemetry::names;

/// Executes statements. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    cluster: Arc<Cluster>,
    local: Arc<Local>,
    rates: Arc<Rates>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    pub fn new(parts: ExecutorParts) -> Executor {
        let (cluster, local) = parts.into_contexts();
        Executor { cluster: Arc::new(cluster), local: Arc::new(local), rates: Arc::default() }
    }

    /// The users that may log in.
    pub(in crate::admin) fn directory(&self) -> Directory {
        Directory::new(Arc::clone(&self.cluster.file_users), self.cluster.catalog().clone())
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
        let trail = match command(&parsed.statement).effect {
            Effect::Change => Some(self.trail(parsed, caller).await),
            Effect::Look | Effect::Check => None,
        };
        let caller = &Caller { trail: trail.clone(), ..caller.clone() };
        let outcome = match self.rates.check_change(caller, &command(&parsed.statement)) {
            Ok(()) => self.dispatch(&parsed.statement, caller).await,
            Err(too_fast) => Err(too_fast.into()),
        };
        let outcome = outcome.inspect_err(|error| {
            tracing::debug!(error = error as &dyn std::error::Error, "a command is refused");
        });
        self.count(&parsed.statement, &outcome);
        if let Some(trail) = &trail {
            self.audit(trail, caller, &outcome).await;
        }
        let told = outcome.map_err(|error| match caller.rights.is_of_product() {
            true => discretion::for_product(error),
            false => error,
        });
        told.map_err(|error| error.refusal(Severity::Error))
    }

    /// The check of rights: the table of commands says which roles may run each. What is committed is checked
    /// again by the permit. The scope says which context the command gets.
    async fn dispatch(&self, statement: &Statement, caller: &Caller) -> Result<Answer, AdminError> {
        let row = command(statement);
        let permit = permission::check(&self.cluster, caller, &row, statement).await?;
        let caller = &Caller { permit, ..caller.clone() };
        let work = match row.scope {
            Scope::Cluster => run_on_cluster(&self.cluster, caller, statement),
            Scope::Process => run_on_process(&self.local, &self.cluster, caller, statement),
        };
        let outcome = work.ok_or(AdminError::NotDispatched { syntax: row.syntax })?.await;
        let answer = outcome.map_err(|error| permission::explained(error, caller, &row))?;
        if let Some(revision) = answer.written_at {
            self.local.follow(revision).await;
        }
        Ok(answer)
    }

    fn count(&self, statement: &Statement, outcome: &Result<Answer, AdminError>) {
        let verb = command(statement).tag;
        let sqlstate =
            outcome.as_ref().map_or_else(|error| error.sqlstate().to_string(), |_| "00000".to_owned());
        self.local.metrics.counter(&names::ADMIN_COMMANDS, &[verb, &sqlstate]).increment(1);
    }

    async fn trail(&self, parsed: &Parsed, caller: &Caller) -> Trail {
        let Parsed { statement, text } = parsed;
        let command = AuditedCommand {
            text: audited::text(text),
            reason: statement.reason().map(str::to_owned),
            database: audited::database(&self.cluster, statement).await,
            told: audited::told(statement),
        };
        self.cluster.new_trail(caller, command)
    }

    /// A command that was executed but could not be audited stays executed: the log says so. Most commands
    /// write their entry in the commit of their change.
    async fn audit(&self, trail: &Trail, caller: &Caller, outcome: &Result<Answer, AdminError>) {
        let AuditEntry { who, command, told, .. } = trail.entry();
        let error = outcome.as_ref().err();
        let (outcome, told, is_bounded) = match outcome {
            Ok(_) => (OK.to_owned(), told.clone(), false),
            Err(error) => {
                let is_bounded = error.is_for_lack_of_rights() || caller.rights.is_of_product();
                let told = audited::told_of_refusal(trail.entry(), error);
                (format!("{}: {}", error.sqlstate(), error.message()), told, is_bounded)
            }
        };
        tracing::info!(who, command, outcome, "admin command");
        // What is refused for its rate may come at any rate.
        let is_too_fast = matches!(error, Some(AdminError::People(PeopleError::TooFast { .. })));
        if is_too_fast || (is_bounded && !self.rates.may_write_refusal(who)) {
            return;
        }
        // The operation writes its outcome when it ends.
        if matches!(error, Some(AdminError::OperationGoesOn { .. })) {
            return;
        }
        if let Err(error) = self.cluster.catalog().audit().end(trail, outcome, told).await {
            tracing::error!(error = &error as &dyn std::error::Error, command, "the audit entry is lost");
        }
    }
}

/// The execution of a statement, once it is awaited.
type Work<'a> = BoxFuture<'a, Result<Answer, AdminError>>;

/// The commands on the catalogue; None: the statement is one for a process.
fn run_on_cluster<'a>(
    cluster: &'a Cluster,
    caller: &'a Caller,
    statement: &'a Statement,
) -> Option<Work<'a>> {
    let work: Work<'a> = match statement {
        Statement::CreateTeam(team) => Box::pin(teams::create_team(cluster, caller, team)),
        Statement::AlterTeam(team) => Box::pin(teams::alter_team(cluster, caller, team)),
        Statement::DropTeam(team) => Box::pin(teams::drop_team(cluster, caller, team)),
        Statement::CreateUser(user) => Box::pin(people::create_user(cluster, caller, user)),
        Statement::AlterUser(user) => Box::pin(people::alter_user(cluster, caller, user)),
        Statement::DropUser(user) => Box::pin(people::drop_user(cluster, caller, user)),
        Statement::Grant(grant) => Box::pin(people::grant(cluster, caller, grant)),
        Statement::Revoke(grant) => Box::pin(people::revoke(cluster, caller, grant)),
        Statement::CreateSystem(create) => Box::pin(systems::create_system(cluster, caller, create)),
        Statement::AlterSystem(alter) => Box::pin(systems::alter_system(cluster, caller, alter)),
        Statement::DropSystem(system) => Box::pin(systems::drop_system(cluster, caller, system)),
        Statement::CreateDatabase(create) => Box::pin(create::create_database(cluster, caller, create)),
        Statement::AlterDatabase(alter) => Box::pin(databases::alter_database(cluster, caller, alter)),
        Statement::AdoptDatabase(adopt) => Box::pin(adopt::adopt_database(cluster, caller, adopt)),
        Statement::DropDatabase(drop) => Box::pin(drop::drop_database(cluster, caller, drop)),
        Statement::Deprecate(deprecate) => Box::pin(transitions::deprecate(cluster, caller, deprecate)),
        Statement::Revive(revive) => Box::pin(transitions::revive(cluster, caller, revive)),
        Statement::Transfer(transfer) => Box::pin(transfers::transfer(cluster, caller, transfer)),
        Statement::AcceptTransfer(name) => Box::pin(transfers::accept(cluster, caller, name)),
        Statement::RejectTransfer(reject) => Box::pin(transfers::reject(cluster, caller, reject)),
        Statement::CancelTransfer(name) => Box::pin(transfers::cancel(cluster, caller, name)),
        Statement::Resume(database) => Box::pin(pause::resume(cluster, caller, database.as_ref())),
        Statement::Disable(database) => Box::pin(enable::disable(cluster, caller, database)),
        Statement::Enable(database) => Box::pin(enable::enable(cluster, caller, database)),
        Statement::Reconnect(database) => Box::pin(reconnect::reconnect(cluster, caller, database.as_ref())),
        Statement::PlanMove { database, system } => {
            Box::pin(moves::plan_move(cluster, caller, database, system))
        }
        Statement::Move(movement) => Box::pin(moves::start_move(cluster, caller, movement)),
        Statement::UndoMove { id, differences, wait } => {
            Box::pin(moves::undo_move(cluster, caller, (*id, *differences), *wait))
        }
        Statement::AdoptMove(id) => Box::pin(moves::adopt_move(cluster, caller, *id)),
        Statement::CancelMove { id, wait } => Box::pin(moves::cancel_move(cluster, caller, *id, *wait)),
        Statement::FinishMove { id, source, differences, wait } => {
            Box::pin(moves::finish_move(cluster, caller, *id, (*source, *differences), *wait))
        }
        Statement::VerifyAudit(head) => Box::pin(audit::verify(cluster, *head)),
        Statement::Show(show) => return show.on_cluster(cluster, caller).map(|rows| shown(show, rows)),
        Statement::Quarantine(_)
        | Statement::Pause(_)
        | Statement::WaitClose(_)
        | Statement::Kill(_)
        | Statement::KillClient(_)
        | Statement::Reload
        | Statement::Shutdown(_)
        | Statement::DriverQuery(_) => return None,
    };
    Some(work)
}

/// The commands on the process that is asked; None: the statement is one on the catalogue. [`super::context`]
/// says which of them get the catalogue, too, and why.
fn run_on_process<'a>(
    local: &'a Local,
    cluster: &'a Cluster,
    caller: &'a Caller,
    statement: &'a Statement,
) -> Option<Work<'a>> {
    let work: Work<'a> = match statement {
        Statement::Quarantine(quarantine) => {
            Box::pin(transitions::quarantine(local, cluster, caller, quarantine))
        }
        Statement::Pause(drain) => Box::pin(pause::pause(local, cluster, caller, drain)),
        Statement::Kill(database) => Box::pin(kill::kill(local, cluster, caller, database.as_ref())),
        Statement::WaitClose(drain) => Box::pin(reconnect::wait_close(local, caller, drain)),
        Statement::KillClient(session) => Box::pin(kill::kill_client(local, *session)),
        Statement::Reload => Box::pin(process::reload(local)),
        Statement::Shutdown(mode) => Box::pin(process::shutdown(local, *mode)),
        Statement::Show(show) => {
            return show.on_process(local, cluster, caller).map(|rows| shown(show, rows));
        }
        Statement::DriverQuery(query) => Box::pin(async { Ok(answer_driver(statement, query, caller)) }),
        Statement::CreateTeam(_)
        | Statement::AlterTeam(_)
        | Statement::DropTeam(_)
        | Statement::CreateUser(_)
        | Statement::AlterUser(_)
        | Statement::DropUser(_)
        | Statement::Grant(_)
        | Statement::Revoke(_)
        | Statement::CreateSystem(_)
        | Statement::AlterSystem(_)
        | Statement::DropSystem(_)
        | Statement::CreateDatabase(_)
        | Statement::AlterDatabase(_)
        | Statement::AdoptDatabase(_)
        | Statement::DropDatabase(_)
        | Statement::Deprecate(_)
        | Statement::Revive(_)
        | Statement::Transfer(_)
        | Statement::AcceptTransfer(_)
        | Statement::RejectTransfer(_)
        | Statement::CancelTransfer(_)
        | Statement::Resume(_)
        | Statement::Disable(_)
        | Statement::Enable(_)
        | Statement::Reconnect(_)
        | Statement::PlanMove { .. }
        | Statement::Move(_)
        | Statement::UndoMove { .. }
        | Statement::AdoptMove(_)
        | Statement::CancelMove { .. }
        | Statement::FinishMove { .. }
        | Statement::VerifyAudit(_) => return None,
    };
    Some(work)
}

fn shown<'a>(show: &'a Show, rows: ShowRows<'a>) -> Work<'a> {
    Box::pin(async move { Ok(Answer::rows(show.command(), rows.await?)) })
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use arc_swap::ArcSwap;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::commands::{self, COMMANDS, Command};
    use crate::admin::parse;
    use crate::admin::permit::CommandPermit;
    use crate::admin::rights::{Own, Rights};
    use crate::admin::sql::parse_tests::{EXAMPLES, example_of};
    use crate::catalog::embedded::EmbeddedStore;
    use crate::catalog::store::StoreError;
    use crate::catalog::{Catalog, NewDatabase, keys};
    use crate::config::Config;
    use crate::control::ControlSettings;
    use crate::model::{
        Address, Contract, DatabaseId, DatabaseName, DatabaseRecord, Granted, Lifecycle, Place, RouteRecord,
        ServerAuth, SslMode, SystemName, TeamName, TeamRecord, TeamRole, Tier, TransferOffer, UnixMillis,
        UserGrant, UserName, UserRecord,
    };
    use crate::route::RouteTable;
    use crate::telemetry::Metrics;

    fn executor(directory: &tempfile::TempDir) -> Executor {
        let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
        Executor::new(ExecutorParts {
            catalog: Catalog::new(store),
            routes: RouteTable::new(1),
            config: Arc::new(ArcSwap::from_pointee(Config::default())),
            applications: SocketAddr::from(([127, 0, 0, 1], 6432)),
            settings: Arc::new(ArcSwap::from_pointee(ControlSettings::default())),
            requests: mpsc::channel(1).0,
            logins: Arc::default(),
            access: Arc::default(),
            metrics: Metrics::new(),
            clock: || UnixMillis(1),
        })
    }

    /// An example of each row: of the parser's tests, and each SHOW by its own syntax.
    fn statements() -> Vec<Parsed> {
        let shows = COMMANDS
            .iter()
            .filter(|command| command.tag == "SHOW")
            .map(|command| example_of(command.syntax).replace("[DATABASE] ", ""));
        let texts = EXAMPLES.iter().map(|text| (*text).to_owned()).chain(shows);
        texts.flat_map(|text| parse(&text).unwrap()).collect()
    }

    #[test]
    fn a_statement_is_dispatched_by_the_scope_of_its_row_and_by_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let Executor { cluster, local, .. } = executor(&directory);
        let caller = Caller {
            who: "alice".to_owned(),
            address: None,
            rights: Rights::admin(),
            notices: mpsc::channel(1).0,
            cancel: CancellationToken::new(),
            trail: None,
            permit: CommandPermit::default(),
        };
        let mut rows = Vec::new();
        for Parsed { statement, text } in statements() {
            let row = command(&statement);
            let on_cluster = run_on_cluster(&cluster, &caller, &statement).is_some();
            let on_process = run_on_process(&local, &cluster, &caller, &statement).is_some();
            assert_eq!(on_cluster, row.scope == Scope::Cluster, "{text}");
            assert_eq!(on_process, row.scope == Scope::Process, "{text}");
            rows.push(row);
        }
        for row in COMMANDS {
            assert!(rows.contains(row), "{}: no example of it", row.syntax);
        }
    }

    /// A catalogue in which `alice` owns database `shop`, or is offered it, with her rights as they are read.
    async fn shop_of_alice(catalog: &Catalog, offer: Option<TransferOffer>) -> Rights {
        let (user, key) = (alice(), keys::user(&UserName::parse("alice").unwrap()));
        for name in ["payments", "finance", "stock"] {
            let (name, contact) = (TeamName::parse(name).unwrap(), "#oncall".to_owned());
            let team =
                TeamRecord { name, contact, created_at: UnixMillis(0), escalation: None, parent: None };
            catalog.teams().create(&team).await.unwrap();
        }
        for name in ["shop", "shop2"] {
            let place = Place {
                system: SystemName::parse("one").unwrap(),
                address: Address { host: "127.0.0.1".to_owned(), port: 1 },
                dbname: name.to_owned(),
                sslmode: SslMode::Disable,
                auth: ServerAuth::default(),
            };
            let owner = if offer.is_some() { "finance" } else { "payments" };
            let database = DatabaseRecord {
                id: DatabaseId::parse(&format!("db_{name}")).unwrap(),
                name: DatabaseName::parse(name).unwrap(),
                owner: TeamName::parse(owner).unwrap(),
                purpose: "a database that is only a record".to_owned(),
                lifecycle: Lifecycle::Active,
                contract: Contract::of_tier(Tier::Dev),
                operation: None,
                dropping: None,
                offer: offer.clone(),
                adopted: false,
                created_at: UnixMillis(0),
                created_by: "ops".to_owned(),
                history: Default::default(),
            };
            let route = RouteRecord::of(&database, place);
            catalog.databases().create(&NewDatabase { database, route, logins: Vec::new() }).await.unwrap();
        }
        catalog.create(key.clone(), &user).await.unwrap();
        Rights::of_user(&catalog.read(&key).await.unwrap().unwrap())
    }

    fn alice() -> UserRecord {
        let team = TeamName::parse("payments").unwrap();
        let grant = UserGrant::Team { team, role: TeamRole::Owner };
        UserRecord {
            name: UserName::parse("alice").unwrap(),
            verifier: String::new(),
            grants: vec![Granted { grant, at: UnixMillis(0), by: "ops".to_owned() }],
            created_at: UnixMillis(0),
            created_by: "ops".to_owned(),
            password_changed_at: UnixMillis(0),
        }
    }

    /// What comes between the check of a right and the commit.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Between {
        AnotherOwner,
        Revoke,
    }

    /// The outcome of an example of a row, run by `alice`, who has the right when it begins.
    async fn outcome_after(between: Between, row: &Command) -> Result<Answer, AdminError> {
        let directory = tempfile::tempdir().unwrap();
        let Executor { cluster, local, .. } = executor(&directory);
        let catalog = cluster.catalog();
        let is_offer = row.permission.own == Some(Own::Offer);
        let to = |team: &str| {
            let team = TeamName::parse(team).unwrap();
            TransferOffer::new(team, "bob".to_owned(), None, cluster.now())
        };
        let caller = Caller {
            who: "alice".to_owned(),
            address: None,
            rights: shop_of_alice(catalog, is_offer.then(|| to("payments"))).await,
            notices: mpsc::channel(1).0,
            cancel: CancellationToken::new(),
            trail: None,
            permit: CommandPermit::default(),
        };
        let id = DatabaseId::parse("db_shop").unwrap();
        let as_it_needs = |database: &mut DatabaseRecord| {
            match *row {
                commands::REVIVE_DATABASE => {
                    database.lifecycle = Lifecycle::Quarantined { reason: String::new(), until: None };
                }
                commands::CANCEL_TRANSFER => database.offer = Some(to("stock")),
                _ => {}
            }
            Ok::<(), StoreError>(())
        };
        catalog.databases().change(&id, as_it_needs).await.unwrap();
        let own = parse("ALTER DATABASE shop PURPOSE 'orders and carts of the shop'").unwrap();
        let mut examples = own.into_iter().chain(statements());
        let Parsed { statement, .. } = examples.find(|parsed| command(&parsed.statement) == *row).unwrap();
        let permit = permission::check(&cluster, &caller, row, &statement).await.unwrap();
        match between {
            Between::AnotherOwner => {
                let given = |database: &mut DatabaseRecord| {
                    database.owner = TeamName::parse("finance").unwrap();
                    database.offer = is_offer.then(|| to("stock"));
                    Ok::<(), StoreError>(())
                };
                catalog.databases().change(&id, given).await.unwrap();
            }
            Between::Revoke => {
                let revoked = |user: &mut UserRecord| {
                    user.grants.clear();
                    Ok::<(), StoreError>(())
                };
                catalog.update(keys::user(&alice().name), revoked).await.unwrap();
            }
        }
        let before = catalog.databases().get(&id).await.unwrap();
        let caller = Caller { permit, ..caller };
        let work = run_on_cluster(&cluster, &caller, &statement)
            .or_else(|| run_on_process(&local, &cluster, &caller, &statement));
        let outcome = work.unwrap().await;
        assert_eq!(catalog.databases().get(&id).await.unwrap(), before, "{}", row.syntax);
        outcome
    }

    #[tokio::test]
    async fn no_change_is_committed_by_a_right_that_is_gone_by_then() {
        let own = |row: &&Command| row.effect == Effect::Change && row.permission.own.is_some();
        for row in COMMANDS.iter().filter(own) {
            let of_database = matches!(row.permission.own, Some(Own::Database | Own::Offer));
            for between in [Between::AnotherOwner, Between::Revoke] {
                if between == Between::Revoke || of_database {
                    let outcome = outcome_after(between, row).await;
                    let refused = matches!(&outcome, Err(AdminError::Store(StoreError::NotPermitted { .. })));
                    assert!(refused, "{between:?}: {}: {:?}", row.syntax, outcome.err());
                }
            }
        }
    }
}
