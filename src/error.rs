//! What every error of Freehold knows about itself: SQLSTATE, responsible party, and whether to retry.
//!
//! Owns the vocabulary ([`SqlState`], [`Blame`], [`Retry`]) and [`Refusal`], the one form in which an error
//! reaches a client or an administrator. It deliberately owns no error of its own: each module has one enum
//! with a variant per operation that failed, and implements [`Explain`] for it.
//!
//! # Why
//! A driver decides by SQLSTATE whether to retry; a person decides by the text which team to call. Both are
//! facts of the error, so they belong to its type and not to the code that prints it. The text for a client
//! never holds the address of a system or a secret: [`Explain::message`] is for clients, the `Display` chain
//! is for the log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A five character SQLSTATE. See "PostgreSQL Error Codes", appendix A of the PostgreSQL manual.
///
/// Codes beginning with `MF` are Freehold's own class (the SQL standard leaves classes I to Z to
/// implementations); they appear on the admin port only. Clients of databases get standard codes, because
/// drivers act on them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Parses the five characters of a code; anything that is not five ASCII letters or digits becomes
    /// `XX000`.
    pub fn parse(code: &str) -> SqlState {
        match <[u8; 5]>::try_from(code.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_alphanumeric) => SqlState(bytes),
            _ => SqlState::INTERNAL_ERROR,
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The first two characters: the class.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! sqlstates {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: SqlState = SqlState(*$code);)*
        }
    };
}

sqlstates! {
    SUCCESSFUL_COMPLETION = b"00000";
    WARNING = b"01000";
    DEPRECATED_FEATURE = b"01P01";
    CONNECTION_FAILURE = b"08006";
    PROTOCOL_VIOLATION = b"08P01";
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    FEATURE_NOT_SUPPORTED = b"0A000";
    INVALID_TEXT_REPRESENTATION = b"22P02";
    INVALID_PARAMETER_VALUE = b"22023";
    DEPENDENT_OBJECTS_STILL_EXIST = b"2BP01";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    TRANSACTION_TIMEOUT = b"25P04";
    INVALID_AUTHORIZATION = b"28000";
    INVALID_PASSWORD = b"28P01";
    INVALID_CATALOG_NAME = b"3D000";
    SERIALIZATION_FAILURE = b"40001";
    INSUFFICIENT_PRIVILEGE = b"42501";
    SYNTAX_ERROR = b"42601";
    INVALID_NAME = b"42602";
    UNDEFINED_OBJECT = b"42704";
    DUPLICATE_OBJECT = b"42710";
    DUPLICATE_DATABASE = b"42P04";
    TOO_MANY_CONNECTIONS = b"53300";
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    OBJECT_IN_USE = b"55006";
    LOCK_NOT_AVAILABLE = b"55P03";
    QUERY_CANCELED = b"57014";
    ADMIN_SHUTDOWN = b"57P01";
    CANNOT_CONNECT_NOW = b"57P03";
    IDLE_SESSION_TIMEOUT = b"57P05";
    IO_ERROR = b"58030";
    INTERNAL_ERROR = b"XX000";
    DATA_CORRUPTED = b"XX001";
    /// A database needs an owner.
    OWNER_REQUIRED = b"MF001";
    /// A database needs a purpose.
    PURPOSE_REQUIRED = b"MF002";
    /// The owner is not a team known to Freehold.
    UNKNOWN_TEAM = b"MF003";
    /// A change of the lifecycle needs a reason, and a deprecation a sunset.
    REASON_REQUIRED = b"MF004";
    /// The sunset is nearer than the notice period of the database's tier.
    SUNSET_TOO_NEAR = b"MF005";
    /// A move cannot start: the preflight found blockers.
    MOVE_BLOCKED = b"MF101";
    /// Another operation runs on the database.
    OPERATION_IN_PROGRESS = b"MF102";
    /// The move is not in a phase that allows the command.
    MOVE_NOT_IN_PHASE = b"MF103";
    /// The move that a command waited for was cancelled.
    MOVE_CANCELED = b"MF104";
    /// The target does not hold the same data as the source.
    SHAPE_CHANGED = b"MF201";
    /// The target has another schema than the source.
    SCHEMA_DIFFERS = b"MF202";
}

/// The party that is responsible for a failure. Part of the product's responsibility model, shown with every
/// refusal: [`Refusal::responsible`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The client program broke the protocol or mistyped a command.
    Client,
    /// The team that owns the database.
    Product,
    /// The team that runs Freehold.
    Platform,
    /// A PostgreSQL system.
    Server,
    /// The store that holds the catalogue.
    Store,
}

impl Blame {
    pub const ALL: [Blame; 5] = [Blame::Client, Blame::Product, Blame::Platform, Blame::Server, Blame::Store];

    /// In one word, as it is stored and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Client => "client",
            Blame::Product => "product",
            Blame::Platform => "platform",
            Blame::Server => "server",
            Blame::Store => "store",
        }
    }

    /// The platform answers for it: it runs Freehold, its store and the systems.
    pub fn is_of_platform(self) -> bool {
        match self {
            Blame::Client | Blame::Product => false,
            Blame::Platform | Blame::Server | Blame::Store => true,
        }
    }

    /// The side for an error that a PostgreSQL system has sent. What is not known to be the system's is an
    /// answer to what the client sent, as a syntax error is.
    pub fn of_server(sqlstate: SqlState) -> Blame {
        match sqlstate {
            // The client's own protocol, a timeout that it has set, or a request to cancel.
            SqlState::PROTOCOL_VIOLATION | SqlState::QUERY_CANCELED | SqlState::IDLE_SESSION_TIMEOUT => {
                Blame::Client
            }
            // The connection, resources, operator intervention, files and internal errors.
            _ if matches!(sqlstate.class(), "08" | "53" | "57" | "58" | "F0" | "XX") => Blame::Server,
            _ => Blame::Client,
        }
    }

    /// The side for an error that no type of ours explains.
    fn of(sqlstate: SqlState) -> Blame {
        match sqlstate {
            // What the client sent, or its time was up, or it asked for the end itself.
            SqlState::QUERY_CANCELED | SqlState::IDLE_SESSION_TIMEOUT => return Blame::Client,
            _ => {}
        }
        match sqlstate.class() {
            // Limits of a contract: the owner of the database uses it up, or asks for more.
            "53" => Blame::Product,
            // Operator intervention, the system around Freehold, and Freehold's own mistakes.
            "57" | "58" | "XX" => Blame::Platform,
            _ => Blame::Client,
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blame::Client => "client",
            Blame::Product => "product team",
            Blame::Platform => "platform team",
            Blame::Server => "PostgreSQL system",
            Blame::Store => "store",
        })
    }
}

/// Whether repeating the operation can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    Never,
    /// After something else has changed, such as a limit or a system that is up again.
    Later,
    /// Immediately; the failure was a race.
    Now,
}

/// An error that can be shown to a client or an administrator.
pub trait Explain: std::error::Error {
    fn sqlstate(&self) -> SqlState;
    fn blame(&self) -> Blame;
    fn retry(&self) -> Retry;
    /// The primary message: lower case, no full stop, no address of a system, no secret.
    fn message(&self) -> String;
    /// More facts, as a full sentence.
    fn detail(&self) -> Option<String> {
        None
    }
    /// What to do about it, as a full sentence; a complete command if there is one.
    fn hint(&self) -> Option<String> {
        None
    }
    fn refusal(&self, severity: Severity) -> Refusal {
        Refusal {
            severity,
            sqlstate: self.sqlstate(),
            message: self.message(),
            detail: self.detail(),
            hint: self.hint(),
            position: None,
            blame: self.blame(),
        }
    }
}

/// The severities of an ErrorResponse or NoticeResponse (field `S` and `V`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Notice,
    Warning,
    Error,
    /// The connection ends after this message.
    Fatal,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// The error that a client or an administrator gets: the fields of an ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Position in the text of the command, in characters from 1.
    pub position: Option<usize>,
    /// The side that can do something about it.
    pub blame: Blame,
}

impl Refusal {
    /// The responsible side is the one that the class of the SQLSTATE says; [`Refusal::with_blame`] names
    /// another one.
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Refusal {
        let (message, blame) = (message.into(), Blame::of(sqlstate));
        Refusal { severity, sqlstate, message, detail: None, hint: None, position: None, blame }
    }

    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Refusal {
        Refusal::new(Severity::Fatal, sqlstate, message)
    }

    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Refusal {
        Refusal::new(Severity::Error, sqlstate, message)
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_blame(mut self, blame: Blame) -> Refusal {
        self.blame = blame;
        self
    }

    /// The responsible side as a sentence, for an error; a notice asks for nothing.
    ///
    /// # Why it is the field `W` (CONTEXT)
    /// A letter of our own would be allowed ("frontends should silently ignore fields of unrecognized type"),
    /// and nothing would show it: psql and drivers print the fields that they know. DETAIL and HINT have
    /// their own content, which programs compare and people run: some hints are commands, word for word. A
    /// refusal of ours has no other context, and psql and every driver show it with an error.
    pub fn responsible(&self) -> Option<String> {
        match self.severity {
            Severity::Notice | Severity::Warning => None,
            Severity::Error | Severity::Fatal => Some(format!("Responsible: the {}.", self.blame)),
        }
    }

    pub fn at_position(mut self, position: usize) -> Refusal {
        self.position = Some(position);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity.as_str(), self.message, self.sqlstate)
    }
}

/// An error and its causes in one line, for a log or an operator.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        text.push_str(&format!(": {cause}"));
    }
    text
}

/// The causes of an error, the nearest first.
pub fn causes(error: &dyn std::error::Error) -> impl Iterator<Item = &dyn std::error::Error> {
    std::iter::successors(error.source(), |cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let outer = std::io::Error::other(Unwritten(std::io::Error::other("the disk is full")));
        assert_eq!(chain(&outer), "nothing was written: the disk is full");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("nothing was written")]
    struct Unwritten(#[source] std::io::Error);

    #[test]
    fn a_refusal_names_the_side_that_can_do_something_about_it() {
        let of = |sqlstate| Refusal::error(sqlstate, "no").responsible().unwrap();
        assert_eq!(of(SqlState::PROTOCOL_VIOLATION), "Responsible: the client.");
        assert_eq!(of(SqlState::TOO_MANY_CONNECTIONS), "Responsible: the product team.");
        assert_eq!(of(SqlState::CANNOT_CONNECT_NOW), "Responsible: the platform team.");
        assert_eq!(of(SqlState::IDLE_SESSION_TIMEOUT), "Responsible: the client.");
        let server = Refusal::fatal(SqlState::ADMIN_SHUTDOWN, "no").with_blame(Blame::Server);
        assert_eq!(server.responsible().as_deref(), Some("Responsible: the PostgreSQL system."));
        assert_eq!(Refusal::new(Severity::Warning, SqlState::WARNING, "mind").responsible(), None);
    }

    #[test]
    fn an_error_of_a_system_is_the_platforms_unless_the_client_caused_it() {
        for (sqlstate, expected) in [
            ("42601", Blame::Client),
            ("57014", Blame::Client),
            ("40001", Blame::Client),
            ("08P01", Blame::Client),
            ("57P01", Blame::Server),
            ("08006", Blame::Server),
            ("53100", Blame::Server),
            ("XX001", Blame::Server),
        ] {
            let blame = Blame::of_server(SqlState::parse(sqlstate));
            assert_eq!((blame, blame.is_of_platform()), (expected, expected == Blame::Server), "{sqlstate}");
        }
        for (place, blame) in Blame::ALL.into_iter().enumerate() {
            assert_eq!(blame as usize, place);
        }
    }

    #[test]
    fn a_code_that_is_not_five_characters_becomes_internal_error() {
        assert_eq!(SqlState::parse("57P01"), SqlState::ADMIN_SHUTDOWN);
        assert_eq!(SqlState::parse("57P0"), SqlState::INTERNAL_ERROR);
        assert_eq!(SqlState::parse("57P0\n"), SqlState::INTERNAL_ERROR);
    }
}
