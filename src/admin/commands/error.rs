//! Why a well-formed command is not executed.

use std::time::Duration;

use super::audit_error::AuditError;
use super::people_error::PeopleError;
use super::team_error::TeamError;
use super::transfer_error::TransferError;
use super::transition_error::TransitionError;
use crate::admin::blockers::Blockers;
use crate::catalog::store::StoreError;
use crate::control::StepError;
use crate::control::lifecycle::LifecycleError;
use crate::error::{Blame, Explain, Retry, SqlState};
pub use crate::model::identifier;
use crate::model::{
    DatabaseStep, Failure, MoveFailure, MoveId, MovePhase, OperationRef, ServerAuth, SslMode,
};
use crate::system::SystemError;

/// The shortest purpose that is accepted, in characters.
pub(in crate::admin) const PURPOSE_CHARS_MIN: usize = 20;

#[derive(Debug, thiserror::Error)]
pub(in crate::admin) enum AdminError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Transition(#[from] TransitionError),
    #[error(transparent)]
    Team(#[from] TeamError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    People(#[from] PeopleError),
    /// `command` is the complete right command.
    #[error("a database needs an owner")]
    OwnerRequired { command: String },
    #[error("a database needs a purpose")]
    PurposeRequired { why: PurposeFault, command: String },
    #[error("team \"{team}\" does not exist")]
    UnknownTeam { team: String, known: Vec<String>, meant: Option<String> },
    #[error("{kind} \"{name}\" does not exist")]
    Unknown { kind: &'static str, name: String, meant: Option<String> },
    #[error("{kind} \"{name}\" exists")]
    Exists { kind: &'static str, name: String },
    #[error("this is the server that is known as system \"{other}\"")]
    SameServer { other: String },
    #[error("another server answers at this address, and system \"{system}\" holds databases")]
    OtherServer { system: String, databases: Vec<String> },
    #[error("AUTH {} needs a server that proves itself, and SSLMODE {} does not demand it", auth.as_str(), sslmode.as_str())]
    WeakProof { auth: ServerAuth, sslmode: SslMode },
    /// Refused with verify-ca and the certificate authorities of the operating system.
    #[error("AUTH {} needs a server that proves itself, and SSLMODE verify-ca has no authority of your own here", auth.as_str())]
    PublicAuthority { auth: ServerAuth },
    #[error("{kind} \"{name}\" cannot be dropped: databases depend on it")]
    InUse { kind: &'static str, name: String, databases: Vec<String> },
    #[error("no system takes new databases")]
    NoSystem,
    #[error("system \"{system}\" takes no new databases")]
    Cordoned { system: String },
    #[error("database \"{dbname}\" of system \"{system}\" is known as \"{name}\"")]
    Adopted { dbname: String, system: String, name: String },
    #[error("database \"{database}\" has a move that has not ended: {id}, {}", phase.as_str())]
    MoveInProgress { database: String, id: MoveId, phase: MovePhase },
    #[error("database \"{database}\" has an operation that has not ended: {operation}")]
    OperationInProgress { database: String, operation: OperationRef },
    /// In the words of the step that failed.
    #[error("{}", failure.message)]
    OperationFailed { failure: Box<Failure<DatabaseStep>> },
    #[error("{operation} has not ended yet")]
    OperationGoesOn { operation: OperationRef },
    #[error("move {id} is {}: it cannot be {action}", phase.as_str())]
    NotInPhase { id: MoveId, phase: MovePhase, action: &'static str },
    #[error("move {id} is not driven by this store")]
    NotOurs { id: MoveId, because: String },
    #[error("move {id} is driven by this store: there is nothing to adopt")]
    Ours { id: MoveId },
    #[error("move {id} cannot be undone: the source was not kept current")]
    NoUndo { id: MoveId, because: String },
    #[error("move {id} of database \"{database}\" did not succeed: {}", failure.message)]
    MoveFailed { id: MoveId, database: String, failure: Box<MoveFailure> },
    #[error("move {id} cannot be {action}: {}", failure.message)]
    Doubtful { id: MoveId, action: &'static str, failure: Box<MoveFailure> },
    #[error("database \"{database}\" is {state}")]
    NotServed { database: String, state: String },
    #[error("database \"{database}\" is on system \"{system}\" already")]
    AlreadyThere { database: String, system: String },
    #[error("clients of database \"{database}\" are held by {holder}")]
    Held { database: String, holder: String },
    #[error("dropping a database needs its name as CONFIRM and a REASON")]
    Unconfirmed { command: String },
    #[error("canceling the wait on user request")]
    WaitCanceled,
    #[error("canceling the wait on user request")]
    CloseCanceled,
    /// `command` ends the pause, which stays.
    #[error("canceling the wait on user request")]
    PauseCanceled { command: String },
    /// `blockers` describes the blocking sessions; `taken_back`: the pause was this command's own, and has
    /// ended.
    #[error("database \"{database}\" was not drained within {}", humantime::format_duration(*within))]
    NotDrained { database: String, within: Duration, blockers: Blockers, taken_back: bool },
    #[error("database \"{database}\" still has old server connections after {}", humantime::format_duration(*within))]
    NotClosed { database: String, within: Duration, blockers: Blockers },
    #[error("the configuration was not applied")]
    Reload { problems: String },
    /// To a user that may not know with what.
    #[error("the platform is at work on database \"{database}\"")]
    PlatformAtWork { database: String },
    /// An error that may tell of systems, for a user that may not know of them.
    #[error("the platform could not carry this out")]
    Concealed { sqlstate: SqlState, retry: Retry },
    #[error("the process is shutting down")]
    ShuttingDown,
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    TransactionAborted,
    #[error("the {what} cannot be written: {reason}")]
    NotWritten { what: &'static str, reason: String },
    /// The table of commands and the dispatch disagree: a test shows that they do not.
    #[error("nothing executes {syntax}")]
    NotDispatched { syntax: &'static str },
}

impl AdminError {
    /// The error of another part that explains itself.
    fn cause(&self) -> Option<&dyn Explain> {
        match self {
            AdminError::Store(error) => Some(error),
            AdminError::Lifecycle(error) => Some(error),
            AdminError::Step(error) => Some(error),
            AdminError::Transition(error) => Some(error),
            AdminError::Team(error) => Some(error),
            AdminError::Transfer(error) => Some(error),
            AdminError::Audit(error) => Some(error),
            AdminError::People(error) => Some(error),
            _ => None,
        }
    }

    /// The user may not run the command.
    pub(in crate::admin) fn is_for_lack_of_rights(&self) -> bool {
        use PeopleError::{Denied, HasChanged, MayOnlyLook};
        matches!(self, AdminError::People(Denied { .. } | HasChanged { .. } | MayOnlyLook { .. }))
    }
}

/// A change of a record failed on the system.
impl From<SystemError> for AdminError {
    fn from(error: SystemError) -> AdminError {
        AdminError::Lifecycle(error.into())
    }
}

/// What is wrong with a purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum PurposeFault {
    Missing,
    TooShort,
    SameAsName,
}

impl Explain for AdminError {
    fn sqlstate(&self) -> SqlState {
        match self {
            AdminError::Store(error) => error.sqlstate(),
            AdminError::Lifecycle(error) => error.sqlstate(),
            AdminError::Step(error) => error.sqlstate(),
            AdminError::Transition(error) => error.sqlstate(),
            AdminError::Team(error) => error.sqlstate(),
            AdminError::Transfer(error) => error.sqlstate(),
            AdminError::Audit(error) => error.sqlstate(),
            AdminError::People(error) => error.sqlstate(),
            AdminError::OwnerRequired { .. } => SqlState::OWNER_REQUIRED,
            AdminError::PurposeRequired { .. } => SqlState::PURPOSE_REQUIRED,
            AdminError::UnknownTeam { .. } => SqlState::UNKNOWN_TEAM,
            AdminError::Unknown { kind: "database", .. } => SqlState::INVALID_CATALOG_NAME,
            AdminError::Unknown { .. } => SqlState::UNDEFINED_OBJECT,
            AdminError::Exists { kind: "database", .. } | AdminError::Adopted { .. } => {
                SqlState::DUPLICATE_DATABASE
            }
            AdminError::Exists { .. } | AdminError::SameServer { .. } => SqlState::DUPLICATE_OBJECT,
            AdminError::InUse { .. } | AdminError::OtherServer { .. } => {
                SqlState::DEPENDENT_OBJECTS_STILL_EXIST
            }
            AdminError::WeakProof { .. } | AdminError::PublicAuthority { .. } => {
                SqlState::INVALID_PARAMETER_VALUE
            }
            AdminError::NoSystem | AdminError::Cordoned { .. } | AdminError::NotServed { .. } => {
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            AdminError::AlreadyThere { .. } | AdminError::Unconfirmed { .. } => {
                SqlState::INVALID_PARAMETER_VALUE
            }
            AdminError::MoveInProgress { .. }
            | AdminError::OperationInProgress { .. }
            | AdminError::OperationGoesOn { .. } => SqlState::OPERATION_IN_PROGRESS,
            AdminError::OperationFailed { failure } => SqlState::parse(&failure.sqlstate),
            AdminError::NotInPhase { .. }
            | AdminError::NoUndo { .. }
            | AdminError::NotOurs { .. }
            | AdminError::Ours { .. } => SqlState::MOVE_NOT_IN_PHASE,
            AdminError::MoveFailed { failure, .. } => match SqlState::parse(&failure.sqlstate) {
                // 57014 would mean that this command was cancelled; here the move was, which the waiting
                // command did not request.
                SqlState::QUERY_CANCELED => SqlState::MOVE_CANCELED,
                other => other,
            },
            AdminError::Doubtful { failure, .. } => SqlState::parse(&failure.sqlstate),
            AdminError::Held { .. } => SqlState::OBJECT_IN_USE,
            AdminError::NotDrained { .. } | AdminError::NotClosed { .. } => SqlState::LOCK_NOT_AVAILABLE,
            AdminError::WaitCanceled | AdminError::CloseCanceled | AdminError::PauseCanceled { .. } => {
                SqlState::QUERY_CANCELED
            }
            AdminError::Reload { .. } => SqlState::INVALID_PARAMETER_VALUE,
            AdminError::PlatformAtWork { .. } => SqlState::OPERATION_IN_PROGRESS,
            AdminError::Concealed { sqlstate, .. } => *sqlstate,
            AdminError::ShuttingDown => SqlState::ADMIN_SHUTDOWN,
            AdminError::TransactionAborted => SqlState::parse("25P02"),
            AdminError::NotWritten { .. } | AdminError::NotDispatched { .. } => SqlState::INTERNAL_ERROR,
        }
    }

    fn blame(&self) -> Blame {
        if let Some(cause) = self.cause() {
            return cause.blame();
        }
        match self {
            AdminError::MoveFailed { failure, .. } | AdminError::Doubtful { failure, .. } => {
                failure.blame.unwrap_or(Blame::Platform)
            }
            AdminError::OperationFailed { failure } => failure.blame.unwrap_or(Blame::Platform),
            AdminError::NoSystem
            | AdminError::Reload { .. }
            | AdminError::PlatformAtWork { .. }
            | AdminError::Concealed { .. }
            | AdminError::ShuttingDown
            | AdminError::NotWritten { .. }
            | AdminError::NotDispatched { .. } => Blame::Platform,
            AdminError::NotDrained { .. } | AdminError::NotClosed { .. } => Blame::Product,
            _ => Blame::Client,
        }
    }

    fn retry(&self) -> Retry {
        if let Some(cause) = self.cause() {
            return cause.retry();
        }
        match self {
            AdminError::Concealed { retry, .. } => *retry,
            AdminError::MoveInProgress { .. }
            | AdminError::OperationInProgress { .. }
            | AdminError::OperationGoesOn { .. }
            | AdminError::PlatformAtWork { .. }
            | AdminError::Held { .. }
            | AdminError::NotInPhase { .. }
            | AdminError::NotDrained { .. }
            | AdminError::NotClosed { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        self.cause().map_or_else(|| self.to_string(), Explain::message)
    }

    fn detail(&self) -> Option<String> {
        if let Some(cause) = self.cause() {
            return cause.detail();
        }
        match self {
            AdminError::PurposeRequired { why, .. } => Some(match why {
                PurposeFault::Missing => "Nothing says what it is for.".to_owned(),
                PurposeFault::TooShort => format!("A purpose has at least {PURPOSE_CHARS_MIN} characters."),
                PurposeFault::SameAsName => "The name is no purpose.".to_owned(),
            }),
            AdminError::UnknownTeam { known, .. } if !known.is_empty() => {
                Some(format!("Teams are {}.", known.join(", ")))
            }
            AdminError::InUse { databases, .. } | AdminError::OtherServer { databases, .. } => {
                Some(format!("Databases: {}.", databases.join(", ")))
            }
            AdminError::MoveFailed { failure, .. } | AdminError::Doubtful { failure, .. } => {
                failure.detail.clone()
            }
            AdminError::OperationFailed { failure } => failure.detail.clone(),
            AdminError::NoUndo { because, .. } | AdminError::NotOurs { because, .. } => Some(because.clone()),
            AdminError::WeakProof { auth, .. } => Some(match auth {
                ServerAuth::Password => "Whoever answers in the server's place would be sent the password.".to_owned(),
                _ => "Whoever answers in the server's place could hand the answer on to the server, and be let in.".to_owned(),
            }),
            AdminError::PublicAuthority { .. } => Some(
                "The authorities of the operating system vouch for the owner of every host, and the host is chosen here.".to_owned(),
            ),
            AdminError::Reload { problems } => Some(problems.clone()),
            AdminError::NotDrained { blockers, taken_back, .. } => Some(format!(
                "{} {}",
                blockers.detail(),
                match taken_back {
                    true => "The pause was taken back: nobody is held.",
                    false => "It was paused before, and stays so.",
                }
            )),
            AdminError::NotClosed { blockers, .. } => Some(format!(
                "{} Their connections are closed when they can be, or when the client leaves.",
                blockers.detail()
            )),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        if let Some(cause) = self.cause() {
            return cause.hint();
        }
        match self {
            AdminError::OwnerRequired { command }
            | AdminError::PurposeRequired { command, .. }
            | AdminError::Unconfirmed { command } => Some(command.clone()),
            AdminError::UnknownTeam { meant: Some(meant), .. }
            | AdminError::Unknown { meant: Some(meant), .. } => Some(format!("Did you mean \"{meant}\"?")),
            AdminError::UnknownTeam { team, .. } => {
                Some(format!("CREATE TEAM {} CONTACT 'where the team is reached';", identifier(team)))
            }
            AdminError::OtherServer { .. } => Some(
                "CREATE SYSTEM makes it known under a name of its own; MOVE DATABASE or DROP DATABASE empties this one.".to_owned(),
            ),
            AdminError::WeakProof { .. } => Some(
                "Add SSLMODE 'verify-full' (server_tls.ca names the authority), or leave AUTH out and give the role a \
                 SCRAM-SHA-256 verifier: SET password_encryption = 'scram-sha-256'; ALTER ROLE ... PASSWORD '...'".to_owned(),
            ),
            AdminError::PublicAuthority { .. } => {
                Some("Name the authority of your servers in server_tls.ca and add SSLMODE 'verify-full', or use AUTH scram.".to_owned())
            }
            AdminError::NoSystem => Some("CREATE SYSTEM name HOST 'host' PORT 5432 ROLE role;".to_owned()),
            AdminError::Cordoned { system } => Some(format!("ALTER SYSTEM {system} UNCORDON;")),
            AdminError::MoveInProgress { id, phase, .. } => Some(commands_that_end(*id, *phase)),
            AdminError::OperationInProgress { .. } | AdminError::OperationGoesOn { .. } => {
                Some("SHOW OPERATIONS; follows it.".to_owned())
            }
            AdminError::OperationFailed { failure } => failure.hint.clone(),
            AdminError::NotInPhase { id, phase, .. } => Some(commands_that_end(*id, *phase)),
            AdminError::MoveFailed { failure, .. } | AdminError::Doubtful { failure, .. } => {
                failure.hint.clone()
            }
            AdminError::NotOurs { id, .. } => {
                Some(format!("ADOPT MOVE {id}; makes this store drive it. Stop the Freehold that did before."))
            }
            AdminError::NoUndo { id, .. } => {
                Some(format!("FINISH MOVE {id}; then move the database back by another move."))
            }
            AdminError::Exists { kind, name } => Some(change_of(kind, name)),
            AdminError::InUse { databases, .. } => {
                Some(format!("{}; empties it.", of_each("MOVE DATABASE", databases, "TO SYSTEM system")))
            }
            AdminError::SameServer { other } => {
                Some(format!("ALTER SYSTEM {} changes how it is reached.", identifier(other)))
            }
            AdminError::Adopted { name, .. } => Some(format!("SHOW DATABASE {};", identifier(name))),
            AdminError::AlreadyThere { .. } => Some("SHOW SYSTEMS; lists the others.".to_owned()),
            AdminError::NotServed { database, state } => Some(reason_why(database, state)),
            AdminError::Held { database, holder } if holder == "PAUSE" => {
                Some(format!("RESUME {};", identifier(database)))
            }
            AdminError::NotDrained { database, blockers, .. } => Some(longer("PAUSE", database, blockers)),
            AdminError::NotClosed { database, blockers, .. } => Some(longer("WAIT_CLOSE", database, blockers)),
            AdminError::CloseCanceled => {
                Some("Connections are replaced on: close_needed in SHOW SERVERS.".to_owned())
            }
            AdminError::Unknown { kind: "client", .. } => Some("SHOW CLIENTS; lists them.".to_owned()),
            AdminError::WaitCanceled => Some("The move goes on: SHOW MOVES.".to_owned()),
            AdminError::PauseCanceled { command } => {
                Some(format!("New transactions are held on; {command} lets them go."))
            }
            AdminError::PlatformAtWork { .. } => Some("Try again later, or ask the platform team.".to_owned()),
            AdminError::Concealed { .. } => Some("Ask the platform team: its log says more.".to_owned()),
            AdminError::TransactionAborted => Some("ROLLBACK;".to_owned()),
            _ => None,
        }
    }
}

/// The command that says why a database is not served, or serves it again.
fn reason_why(database: &str, state: &str) -> String {
    let name = identifier(database);
    match state {
        "quarantined" => format!("REVIVE DATABASE {name}; serves it again, and then it can move."),
        _ => format!("SHOW HISTORY {name};"),
    }
}

/// The hint for a wait that was too short.
fn longer(verb: &str, database: &str, blockers: &Blockers) -> String {
    let wait = format!("{verb} {} WITHIN '10min'; waits longer.", identifier(database));
    blockers.cure().map_or(wait.clone(), |cure| format!("{cure}; {wait}"))
}

/// The commands that change an existing object.
fn change_of(kind: &str, name: &str) -> String {
    let name = identifier(name);
    match kind {
        "team" => format!("ALTER TEAM {name} CONTACT 'text'; changes it."),
        "system" => {
            format!("ALTER SYSTEM {name} changes how it is reached; another name makes another system.")
        }
        "user" => format!("ALTER USER {name} PASSWORD 'text'; changes its password."),
        "database" => format!("Choose another name; SHOW DATABASE {name}; says whose it is."),
        _ => "Choose another name.".to_owned(),
    }
}

/// The command for one of these databases; an entry may have a remark in parentheses.
fn of_each(verb: &str, databases: &[String], rest: &str) -> String {
    let name = databases.first().and_then(|name| name.split(' ').next()).unwrap_or("name");
    format!("{verb} {} {rest}", identifier(name))
}

/// The commands that end a move in this phase.
fn commands_that_end(id: MoveId, phase: MovePhase) -> String {
    match phase {
        MovePhase::Kept => format!("FINISH MOVE {id}; or UNDO MOVE {id};"),
        MovePhase::Preflight
        | MovePhase::Provision
        | MovePhase::Copy
        | MovePhase::Catchup
        | MovePhase::Compare
        | MovePhase::Cutover => {
            format!("Wait for it, or CANCEL MOVE {id};")
        }
        _ => format!("SHOW MOVE {id};"),
    }
}

/// A text as it can be typed in a command.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
