//! The statements of administrators, parsed. A [`Statement`] is well-formed; the executor decides whether it
//! is allowed.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

pub use crate::admin::commands::Show;
use crate::catalog::chain::Head;
use crate::model::{
    ContractChange, DatabaseName, Date, MoveId, RoleName, ServerAuth, SslMode, SystemName, TeamName, Tier,
    UserGrant, UserName,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    CreateTeam(CreateTeam),
    AlterTeam(AlterTeam),
    DropTeam(DropTeam),
    CreateUser(UserPassword),
    AlterUser(UserPassword),
    DropUser(UserName),
    Grant(GrantOf),
    Revoke(GrantOf),
    CreateSystem(CreateSystem),
    AlterSystem(AlterSystem),
    DropSystem(SystemName),
    CreateDatabase(CreateDatabase),
    AlterDatabase(AlterDatabase),
    AdoptDatabase(AdoptDatabase),
    DropDatabase(DropDatabase),
    Deprecate(Deprecate),
    Revive(Revive),
    Quarantine(Quarantine),
    Transfer(Transfer),
    AcceptTransfer(DatabaseName),
    RejectTransfer(RejectTransfer),
    CancelTransfer(DatabaseName),
    PlanMove {
        database: DatabaseName,
        system: SystemName,
    },
    Move(Move),
    UndoMove {
        id: MoveId,
        differences: Differences,
        wait: Wait,
    },
    CancelMove {
        id: MoveId,
        wait: Wait,
    },
    /// Makes this store the one that drives the move, whatever its claim on the systems says.
    AdoptMove(MoveId),
    FinishMove {
        id: MoveId,
        source: SourceDisposition,
        differences: Differences,
        wait: Wait,
    },
    Pause(Drain),
    /// None: all databases.
    Resume(Option<DatabaseName>),
    Disable(DatabaseName),
    Enable(DatabaseName),
    Reconnect(Option<DatabaseName>),
    WaitClose(Drain),
    Kill(Option<DatabaseName>),
    /// The number of a session.
    KillClient(u64),
    Reload,
    Shutdown(ShutdownMode),
    /// With the head that the chain must pass through.
    VerifyAudit(Option<Head>),
    Show(Show),
    DriverQuery(DriverQuery),
}

/// Whether the command answers when the work is recorded, or when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    Yes,
}

/// A command that waits for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// None: all databases.
    pub database: Option<DatabaseName>,
    /// Its bound, if not the configured one.
    pub within: Option<Duration>,
}

/// When a process ends after it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// When running transactions have ended, or after `proxy.drain_timeout`.
    Now,
    /// When no session has a server connection any more. New clients are refused.
    WaitForServers,
    /// When every client has left. New clients are refused.
    WaitForClients,
}

/// Whether a move may finish although its two copies differ, or are not known to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differences {
    Refused,
    Accepted,
}

/// What FINISH MOVE does with the copy on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceDisposition {
    /// Closed and renamed.
    Keep,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTeam {
    pub name: TeamName,
    pub contact: String,
    pub escalation: Option<String>,
    pub parent: Option<TeamName>,
}

/// The changes; None leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterTeam {
    pub name: TeamName,
    pub contact: Option<String>,
    pub escalation: Option<String>,
    /// `Some(None)`: PARENT NONE.
    pub parent: Option<Option<TeamName>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropTeam {
    pub name: TeamName,
    pub reason: Option<String>,
}

/// A password or a verifier as it was typed. It is shown nowhere, and wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub(in crate::admin) fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    pub(in crate::admin) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPassword {
    pub name: UserName,
    pub password: Secret,
}

/// What is given to a user, or taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOf {
    pub grant: UserGrant,
    pub user: UserName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSystem {
    pub name: SystemName,
    pub host: String,
    pub port: u16,
    pub role: RoleName,
    /// The database that the platform's role connects to; `postgres` if not given.
    pub database: String,
    pub password_file: Option<String>,
    pub sslmode: SslMode,
    pub auth: ServerAuth,
    pub replication: Option<(String, u16)>,
}

/// The changes; None leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterSystem {
    pub name: SystemName,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub role: Option<RoleName>,
    pub database: Option<String>,
    pub password_file: Option<String>,
    pub sslmode: Option<SslMode>,
    pub auth: Option<ServerAuth>,
    pub replication: Option<(String, u16)>,
    /// CORDON: the system takes no new databases; UNCORDON: it does.
    pub placement: Option<Placement>,
}

/// Whether a system takes new databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    Accept,
    Refuse,
}

/// Owner and purpose may be missing: the error is then the complete right command, not a syntax error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDatabase {
    pub name: DatabaseName,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub tier: Option<Tier>,
    pub system: Option<SystemName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterDatabase {
    pub name: DatabaseName,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub contract: ContractChange,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptDatabase {
    pub name: DatabaseName,
    pub system: SystemName,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub tier: Option<Tier>,
    /// Its name on the system, if different.
    pub dbname: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropDatabase {
    pub name: DatabaseName,
    pub confirm: Option<String>,
    pub reason: Option<String>,
}

/// Sunset and reason may be missing: the error is then the complete right command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deprecate {
    pub name: DatabaseName,
    pub sunset: Option<Date>,
    pub reason: Option<String>,
    /// The database that replaces it.
    pub successor: Option<DatabaseName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revive {
    pub name: DatabaseName,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub name: DatabaseName,
    pub until: Option<Date>,
    pub reason: Option<String>,
    pub clients: Clients,
}

/// Whether a database may be quarantined although clients use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    Refused,
    Accepted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub name: DatabaseName,
    pub team: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectTransfer {
    pub name: DatabaseName,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub database: DatabaseName,
    pub system: SystemName,
    pub pause_max: Option<Duration>,
    pub reason: Option<String>,
    pub wait: Wait,
}

/// What drivers and psql send on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverQuery {
    /// SET, RESET, DISCARD, DEALLOCATE and others, accepted without effect. Holds the command tag.
    Accepted(&'static str),
    Begin,
    Commit,
    Rollback,
    RollbackToSavepoint,
    /// `SELECT ... FROM pg_type ...`: there are only the built-in types.
    NoTypes,
    /// `SELECT 1`
    SelectNumber(i64),
    /// `SELECT version()`: the function's name.
    SelectFunction(&'static str),
    /// `SHOW server_version`: name and value.
    Setting(&'static str, &'static str),
}

/// What a statement is about, if that is one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    Database(&'a DatabaseName),
    /// The command makes it.
    NewDatabase(&'a DatabaseName),
    /// A move of a database.
    Move(MoveId),
    Team(&'a TeamName),
    User(&'a UserName),
    Other,
}

impl Statement {
    /// What it is about, for the check of rights and for the audit trail.
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Statement::AlterDatabase(alter) => Subject::Database(&alter.name),
            Statement::Deprecate(deprecate) => Subject::Database(&deprecate.name),
            Statement::Revive(revive) => Subject::Database(&revive.name),
            Statement::Quarantine(quarantine) => Subject::Database(&quarantine.name),
            Statement::Transfer(transfer) => Subject::Database(&transfer.name),
            Statement::AcceptTransfer(name) | Statement::CancelTransfer(name) => Subject::Database(name),
            Statement::RejectTransfer(reject) => Subject::Database(&reject.name),
            Statement::Show(
                Show::Database(name) | Show::Consumers(name) | Show::Contract(name) | Show::History(name),
            ) => Subject::Database(name),
            Statement::Show(Show::ContractText(export)) => Subject::Database(&export.database),
            Statement::AlterTeam(team) => Subject::Team(&team.name),
            Statement::AlterUser(user) => Subject::User(&user.name),
            Statement::CreateDatabase(CreateDatabase { name, .. })
            | Statement::AdoptDatabase(AdoptDatabase { name, .. }) => Subject::NewDatabase(name),
            Statement::DropDatabase(drop) => Subject::Database(&drop.name),
            Statement::Move(movement) => Subject::Database(&movement.database),
            Statement::UndoMove { id, .. }
            | Statement::CancelMove { id, .. }
            | Statement::FinishMove { id, .. }
            | Statement::AdoptMove(id) => Subject::Move(*id),
            Statement::Disable(name) | Statement::Enable(name) => Subject::Database(name),
            Statement::Pause(Drain { database: Some(name), .. })
            | Statement::Resume(Some(name))
            | Statement::Reconnect(Some(name))
            | Statement::WaitClose(Drain { database: Some(name), .. })
            | Statement::Kill(Some(name)) => Subject::Database(name),
            _ => Subject::Other,
        }
    }

    /// The text of its REASON clause.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Statement::Move(movement) => movement.reason.as_deref(),
            Statement::DropDatabase(drop) => drop.reason.as_deref(),
            Statement::DropTeam(drop) => drop.reason.as_deref(),
            Statement::Deprecate(deprecate) => deprecate.reason.as_deref(),
            Statement::Revive(revive) => revive.reason.as_deref(),
            Statement::Quarantine(quarantine) => quarantine.reason.as_deref(),
            Statement::Transfer(transfer) => transfer.reason.as_deref(),
            Statement::RejectTransfer(reject) => reject.reason.as_deref(),
            _ => None,
        }
    }
}
