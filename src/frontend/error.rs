//! Why a connection did not become a client.

use std::io;

use crate::auth::scram::ScramError;
use crate::error::{Blame, Explain, Refusal, Retry, SqlState};
use crate::tls::TlsError;
use crate::wire::Violation;

#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    #[error("the client closed the connection before it was logged in")]
    Gone,
    #[error("the login took too long")]
    TooSlow,
    #[error("the connection broke before the client was logged in")]
    Io(#[from] io::Error),
    #[error("the client broke the protocol")]
    Violation(#[from] Violation),
    #[error("TLS failed")]
    Tls(#[from] TlsError),
    #[error("a request for encryption came twice")]
    AskedTwice,
    #[error("bytes came between a request for encryption and its answer")]
    EarlyBytes,
    #[error("direct TLS, but no certificate is configured")]
    NoTls,
    #[error("a client without TLS")]
    TlsRequired,
    #[error("message {tag:#04x} during the login")]
    UnexpectedMessage { tag: u8 },
    /// Wrong password, or no such role: the client is not told which.
    #[error("login of role \"{role}\" failed")]
    Password {
        role: String,
        #[source]
        source: ScramError,
    },
    /// Too many clients over the limit get an error already: this one gets none.
    #[error("too many clients, and too many that are told so")]
    Overrun,
    /// Its login took long, and another connection needed the place; closed without an answer.
    #[error("the login took long, and there was no other place for the next client")]
    Displaced,
    #[error("more than {clients_max} clients")]
    Full { clients_max: u32 },
    #[error("more than {max} clients of role \"{role}\"")]
    RoleFull { role: String, max: u32 },
    #[error("more than {max} clients of role \"{role}\" in one database")]
    DatabaseRoleFull { role: String, max: u32 },
    /// No rule matches this client.
    #[error("no rule for {who}")]
    NoRule { who: String },
    #[error("a rule rejects {who}")]
    RejectedByRule { who: String },
    /// The rule requires a certificate, and the client sent none.
    #[error("a client without a certificate")]
    NoCertificate,
    #[error("a certificate of {names} does not stand for role \"{role}\"")]
    CertificateName { role: String, names: String },
    #[error("a password would be sent without TLS")]
    PasswordInTheClear,
    /// The client learns this only if the rule requires no password.
    #[error("role \"{role}\" is not known")]
    UnknownRole { role: String },
    /// The password was not checked.
    #[error("too many logins of role \"{role}\" from there failed")]
    Throttled { role: String },
    #[error("more than {per_second} logins in a second")]
    TooManyLogins { per_second: u32 },
    #[error("more than {per_second} logins to database \"{database}\" in a second")]
    TooManyLoginsOfDatabase { database: String, per_second: u32 },
    #[error("more than {per_second} logins of role \"{role}\" in a second")]
    TooManyLoginsOfRole { role: String, per_second: u32 },
    /// The client is told no more than of a wrong password, so that it learns of no role that it exists.
    #[error(
        "the password of role \"{role}\" is stored as md5, which the client's rule does not accept: set it again \
         with password_encryption = 'scram-sha-256'"
    )]
    Md5Role { role: String },
    #[error("role \"{role}\" may not log in")]
    MayNotLogIn { role: String },
    #[error("the role may not connect to database \"{database}\"")]
    MayNotConnect { database: String },
    #[error("database \"{database}\" is not known")]
    UnknownDatabase { database: String },
    #[error("somebody looks for the admin port here")]
    AdminDatabase { database: String },
    /// The database's lifecycle forbids clients.
    #[error("database \"{database}\" refuses its clients")]
    Refused { database: String, refusal: Refusal },
}

impl FrontendError {
    /// What is known of the role may be out of date: PostgreSQL might have accepted the client.
    pub(super) fn is_of_the_role(&self) -> bool {
        matches!(
            self,
            FrontendError::Password { .. }
                | FrontendError::UnknownRole { .. }
                | FrontendError::Md5Role { .. }
                | FrontendError::MayNotLogIn { .. }
                | FrontendError::MayNotConnect { .. }
        )
    }

    /// Whether the client gets an answer.
    pub(super) fn is_told(&self) -> bool {
        match self {
            FrontendError::Gone
            | FrontendError::Io(_)
            | FrontendError::NoTls
            | FrontendError::Overrun
            | FrontendError::Displaced => false,
            // A cancel request is never answered.
            FrontendError::Violation(Violation::CancelKey { .. }) => false,
            // Such a client would not read it. PostgreSQL closes without an answer, too, and clients rely on
            // that if they leave before they have begun: their Terminate looks like this.
            FrontendError::Violation(Violation::Length { .. }) => false,
            // After a failed handshake the client cannot read an answer.
            FrontendError::Tls(_) => false,
            _ => true,
        }
    }
}

impl Explain for FrontendError {
    fn sqlstate(&self) -> SqlState {
        match self {
            FrontendError::Gone | FrontendError::Io(_) | FrontendError::NoTls => SqlState::CONNECTION_FAILURE,
            FrontendError::TooSlow => SqlState::QUERY_CANCELED,
            FrontendError::Violation(violation) => violation.sqlstate(),
            FrontendError::Tls(error) => error.sqlstate(),
            FrontendError::AskedTwice
            | FrontendError::EarlyBytes
            | FrontendError::UnexpectedMessage { .. } => SqlState::PROTOCOL_VIOLATION,
            FrontendError::TlsRequired
            | FrontendError::MayNotLogIn { .. }
            | FrontendError::NoRule { .. }
            | FrontendError::RejectedByRule { .. }
            | FrontendError::NoCertificate
            | FrontendError::CertificateName { .. }
            | FrontendError::PasswordInTheClear
            | FrontendError::UnknownRole { .. } => SqlState::INVALID_AUTHORIZATION,
            FrontendError::Password { source, .. } => source.sqlstate(),
            FrontendError::Throttled { .. }
            | FrontendError::TooManyLogins { .. }
            | FrontendError::TooManyLoginsOfDatabase { .. }
            | FrontendError::TooManyLoginsOfRole { .. }
            | FrontendError::Overrun
            | FrontendError::Displaced
            | FrontendError::Full { .. }
            | FrontendError::RoleFull { .. }
            | FrontendError::DatabaseRoleFull { .. } => SqlState::TOO_MANY_CONNECTIONS,
            FrontendError::Md5Role { .. } => SqlState::INVALID_PASSWORD,
            FrontendError::MayNotConnect { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            FrontendError::UnknownDatabase { .. } | FrontendError::AdminDatabase { .. } => {
                SqlState::INVALID_CATALOG_NAME
            }
            FrontendError::Refused { refusal, .. } => refusal.sqlstate,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            // Limits of the whole process: the clients of other databases use them up, too.
            FrontendError::NoTls
            | FrontendError::Overrun
            | FrontendError::Displaced
            | FrontendError::Full { .. }
            | FrontendError::TooManyLogins { .. } => Blame::Platform,
            FrontendError::Refused { refusal, .. } => refusal.blame,
            _ => Blame::Client,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            FrontendError::Gone | FrontendError::Io(_) | FrontendError::TooSlow => Retry::Now,
            FrontendError::Refused { .. }
            | FrontendError::Throttled { .. }
            | FrontendError::TooManyLogins { .. }
            | FrontendError::TooManyLoginsOfDatabase { .. }
            | FrontendError::TooManyLoginsOfRole { .. }
            | FrontendError::Overrun
            | FrontendError::Displaced
            | FrontendError::Full { .. }
            | FrontendError::RoleFull { .. }
            | FrontendError::DatabaseRoleFull { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        match self {
            FrontendError::TooSlow => "canceling authentication due to timeout".to_owned(),
            FrontendError::Violation(violation) => violation.message(),
            FrontendError::TlsRequired => "connection requires TLS".to_owned(),
            FrontendError::Password { role, source: ScramError::Rejected }
            | FrontendError::Md5Role { role } => {
                format!("password authentication failed for user \"{role}\"")
            }
            FrontendError::Overrun | FrontendError::Displaced | FrontendError::Full { .. } => {
                "sorry, too many clients already".to_owned()
            }
            FrontendError::RoleFull { role, .. } => format!("too many connections for role \"{role}\""),
            FrontendError::DatabaseRoleFull { role, .. } => {
                format!("too many connections for role \"{role}\" in this database")
            }
            FrontendError::NoRule { who } => format!("no pg_hba.conf entry for {who}"),
            FrontendError::RejectedByRule { who } => match who.strip_prefix("replication connection from ") {
                Some(who) => format!("pg_hba.conf rejects replication connection for {who}"),
                None => format!("pg_hba.conf rejects connection for {who}"),
            },
            FrontendError::NoCertificate => "connection requires a valid client certificate".to_owned(),
            FrontendError::CertificateName { role, .. } => {
                format!("certificate authentication failed for user \"{role}\"")
            }
            FrontendError::PasswordInTheClear => "connection requires TLS for a password".to_owned(),
            FrontendError::UnknownRole { role } => format!("role \"{role}\" does not exist"),
            FrontendError::Throttled { role } => {
                format!("too many failed logins for user \"{role}\" from this address")
            }
            FrontendError::TooManyLogins { .. } => "too many clients log in at the same time".to_owned(),
            FrontendError::TooManyLoginsOfDatabase { database, .. } => {
                format!("too many clients of database \"{database}\" log in at the same time")
            }
            FrontendError::TooManyLoginsOfRole { role, .. } => {
                format!("too many clients of role \"{role}\" log in at the same time")
            }
            FrontendError::Password { source, .. } => source.message(),
            FrontendError::MayNotLogIn { role } => format!("role \"{role}\" is not permitted to log in"),
            FrontendError::MayNotConnect { database } => {
                format!("permission denied for database \"{database}\"")
            }
            FrontendError::UnknownDatabase { database } | FrontendError::AdminDatabase { database } => {
                format!("database \"{database}\" does not exist")
            }
            FrontendError::Refused { refusal, .. } => refusal.message.clone(),
            FrontendError::AskedTwice
            | FrontendError::EarlyBytes
            | FrontendError::UnexpectedMessage { .. } => {
                "invalid frontend message during the login".to_owned()
            }
            FrontendError::Gone | FrontendError::Io(_) | FrontendError::Tls(_) | FrontendError::NoTls => {
                self.to_string()
            }
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            FrontendError::Full { clients_max } => {
                Some(format!("Freehold takes {clients_max} clients here (limits.clients_max)."))
            }
            FrontendError::RoleFull { max, .. } => Some(format!(
                "This role may have {max} connections here (limits.clients_per_role_max, [[limits.roles]])."
            )),
            FrontendError::DatabaseRoleFull { max, .. } => Some(format!(
                "This role may have {max} connections to one database here (limits.clients_per_database_role_max, [[limits.roles]])."
            )),
            FrontendError::NoRule { .. } | FrontendError::RejectedByRule { .. } => Some(
                "The rules are Freehold's own (access.hba_file), not those of a server behind it.".to_owned(),
            ),
            FrontendError::Throttled { .. } => {
                Some("The password of this attempt was not looked at; it may be right.".to_owned())
            }
            FrontendError::TooManyLogins { per_second } => {
                Some(format!("limits.logins_per_second_max allows {per_second} in a second."))
            }
            FrontendError::TooManyLoginsOfDatabase { per_second, .. } => {
                Some(format!("Its contract (MAX_LOGIN_RATE) allows {per_second} in a second."))
            }
            FrontendError::TooManyLoginsOfRole { per_second, .. } => Some(format!(
                "This role may log in {per_second} times in a second here ([[limits.roles]], logins_per_second_max)."
            )),
            FrontendError::MayNotConnect { .. } => Some("User does not have CONNECT privilege.".to_owned()),
            FrontendError::Refused { refusal, .. } => refusal.detail.clone(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FrontendError::TlsRequired | FrontendError::PasswordInTheClear => {
                Some("Connect with sslmode=require or stricter.".to_owned())
            }
            FrontendError::Full { .. }
            | FrontendError::RoleFull { .. }
            | FrontendError::DatabaseRoleFull { .. } => {
                Some("Use fewer connections, or ask the platform team to raise the limit.".to_owned())
            }
            FrontendError::Throttled { .. } => Some(
                "Try again in a while. Look for a program at this address that has an old password.".to_owned(),
            ),
            FrontendError::TooManyLogins { .. }
            | FrontendError::TooManyLoginsOfDatabase { .. }
            | FrontendError::TooManyLoginsOfRole { .. } => {
                Some("Try again, each client after another time.".to_owned())
            }
            FrontendError::AdminDatabase { .. } => Some(
                "This port serves the databases of applications. Freehold's own commands are on the admin port."
                    .to_owned(),
            ),
            FrontendError::Refused { refusal, .. } => refusal.hint.clone(),
            _ => None,
        }
    }
}
