//! Errors of opening a connection, and of an exchange on it.

use std::io;

use super::Credential;
use crate::auth::scram::ScramError;
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{Address, ServerAuth};
use crate::tls::TlsError;
use crate::wire::Violation;
use crate::wire::message::backend::ErrorFields;

/// Why a connection was not opened. The `Display` text is for the log; a client gets [`Explain::message`],
/// which names no address.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach {address}")]
    Unreachable {
        address: Address,
        #[source]
        source: io::Error,
    },
    /// The deadline passed during `stage`.
    #[error("{address} did not finish the {stage} in time")]
    Timeout { address: Address, stage: &'static str },
    #[error("TLS to {address} failed")]
    Tls {
        address: Address,
        #[source]
        source: TlsError,
    },
    /// The server has no TLS, and `sslmode` requires it.
    #[error("{address} does not support TLS")]
    NoTls { address: Address },
    /// An unencrypted error, which an attacker could have sent: its text is not used (CVE-2024-10977).
    #[error("{address} sent an error during the negotiation of TLS")]
    ErrorBeforeTls { address: Address },
    /// The server's own error. Addresses in it have been replaced.
    #[error("the server refused the connection: {fields}")]
    Refused { fields: Box<ErrorFields>, step: LoginStep },
    #[error("{address} asks for {asked}, and {held} is at hand")]
    Authentication { address: Address, asked: String, held: &'static str },
    /// Nothing was sent: the system is not allowed to ask for it.
    #[error("{address} asks for {asked}, which is not sent to this system (AUTH {} allows it)", needed.as_str())]
    Withheld { address: Address, asked: &'static str, needed: ServerAuth },
    /// Nothing was sent: an attacker could be asking in the system's place.
    #[error("{address} asks for {asked}, and nothing has proved that it is the system")]
    Unverified { address: Address, asked: &'static str },
    /// The server accepted a SCRAM login without its own proof.
    #[error("{address} accepted the login without proving that it knows the password")]
    Unproven { address: Address },
    /// The certificate is not verified, and channel binding is not available either.
    #[error("{address} does not bind the login to its certificate, which is not verified")]
    Unbound { address: Address },
    #[error("SCRAM with {address} failed")]
    Scram {
        address: Address,
        #[source]
        source: ScramError,
    },
    #[error("{address} broke the protocol during the login")]
    Protocol {
        address: Address,
        #[source]
        source: Violation,
    },
    #[error("{address} sent an unexpected message '{}' during the login", char::from(*tag))]
    Unexpected { address: Address, tag: u8 },
    #[error("the connection to {address} broke during the login")]
    Broken {
        address: Address,
        #[source]
        source: io::Error,
    },
}

/// Stage of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStep {
    /// The refusal was the first answer to the startup packet: from `pg_hba.conf`.
    First,
    Later,
}

impl ConnectError {
    /// The server asks for authentication, and there are no credentials at all.
    pub fn lacks_a_secret(&self) -> bool {
        matches!(self, ConnectError::Authentication { held, .. } if *held == Credential::NOTHING)
    }

    /// The server's error fields, if the server refused.
    pub fn refusal_fields(&self) -> Option<&ErrorFields> {
        match self {
            ConnectError::Refused { fields, .. } => Some(fields),
            _ => None,
        }
    }
}

impl Explain for ConnectError {
    fn sqlstate(&self) -> SqlState {
        match self {
            ConnectError::Refused { fields, .. } => fields.sqlstate(),
            _ => SqlState::CONNECTION_FAILURE,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            ConnectError::Tls { source, .. } if source.blame() == Blame::Platform => Blame::Platform,
            ConnectError::Authentication { .. }
            | ConnectError::Withheld { .. }
            | ConnectError::Unverified { .. }
            | ConnectError::Unbound { .. }
            | ConnectError::NoTls { .. } => Blame::Platform,
            _ => Blame::Server,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            ConnectError::Refused { fields, .. } => match fields.sqlstate().as_str() {
                // The database accepts no connections now, or is in use by another session.
                "55000" | "55006" => Retry::Later,
                // Connections, resources, operator intervention, system errors, internal errors. Other codes
                // concern the request itself, for example a startup parameter.
                code => match code.get(..2) {
                    Some("08" | "53" | "57" | "58" | "F0" | "XX") | None => Retry::Later,
                    Some(_) => Retry::Never,
                },
            },
            _ => Retry::Later,
        }
    }

    fn message(&self) -> String {
        match self {
            ConnectError::Refused { fields, .. } => fields.message().to_owned(),
            ConnectError::Timeout { .. } => "the database did not answer in time".to_owned(),
            ConnectError::Unreachable { .. } => "the database cannot be reached".to_owned(),
            ConnectError::Authentication { .. }
            | ConnectError::Withheld { .. }
            | ConnectError::Unverified { .. }
            | ConnectError::Unbound { .. } => {
                "the database asks for a proof of identity that cannot be given".to_owned()
            }
            _ => "the connection to the database could not be established".to_owned(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            ConnectError::Refused { fields, .. } => fields.detail().map(str::to_owned),
            ConnectError::Authentication { asked, held, .. } => {
                Some(format!("The server asks for {asked}, and {held} is at hand."))
            }
            ConnectError::Withheld { asked, .. } => {
                Some(format!("The server asks for {asked}, which is not sent to it. Nothing was sent."))
            }
            ConnectError::Unverified { asked, .. } => Some(format!(
                "The server asks for {asked}, and nothing has proved which server it is. Nothing was sent."
            )),
            ConnectError::Unproven { .. } => {
                Some("The server accepted the login without proving that it knows the password.".to_owned())
            }
            ConnectError::Unbound { .. } => Some(
                "The server's certificate is not verified, and the login is not bound to it (SCRAM-SHA-256-PLUS).".to_owned(),
            ),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConnectError::Refused { fields, .. } => fields.hint().map(str::to_owned),
            error if error.lacks_a_secret() => Some(
                "This client came in without a password. The platform team gives Freehold one for the role \
                 (access.server_passwords_file), or a certificate that the server maps to it (server_tls.cert)."
                    .to_owned(),
            ),
            ConnectError::Withheld { needed, .. } => Some(format!(
                "The platform team sets the role's password anew under password_encryption = 'scram-sha-256' and lets the server \
                 ask by scram-sha-256 (pg_hba.conf). If that cannot be: ALTER SYSTEM name SSLMODE 'verify-full' AUTH {};",
                needed.as_str()
            )),
            ConnectError::Unverified { .. } => Some(
                "The platform team makes the server's certificate verified: server_tls.ca, and ALTER SYSTEM name SSLMODE 'verify-full';"
                    .to_owned(),
            ),
            ConnectError::Unbound { .. } => Some(
                "The platform team names the authority of its servers in server_tls.ca, or sets ALTER SYSTEM name SSLMODE 'verify-full';"
                    .to_owned(),
            ),
            ConnectError::Authentication { .. } => {
                Some(
                "Let the server ask by scram-sha-256 (pg_hba.conf), and store the role's password as a SCRAM-SHA-256 verifier there."
                    .to_owned(),
            )
            }
            _ => None,
        }
    }
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server's own error. After an ERROR the connection stays usable, after a FATAL it has ended.
    #[error("{fields}")]
    Server { fields: Box<ErrorFields> },
    #[error("the connection broke")]
    Io {
        #[source]
        source: io::Error,
    },
    #[error("the server closed the connection")]
    Closed,
    #[error("the server broke the protocol")]
    Protocol {
        #[source]
        source: Violation,
    },
    #[error("the server sent an unexpected message '{}'", char::from(*tag))]
    Unexpected { tag: u8 },
    /// A value is not UTF-8: the `client_encoding` of the connection is another one. The connection stays
    /// usable.
    #[error("the server answered in an encoding that is not UTF-8")]
    Encoding,
    #[error("the answer is longer than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    /// An earlier exchange was dropped in the middle, so the next answer could belong to another query.
    #[error("an earlier exchange on the connection did not end")]
    Abandoned,
    #[error("the batch cannot be run: {reason}")]
    Batch { reason: &'static str },
}

impl QueryError {
    pub(super) fn server(fields: ErrorFields) -> QueryError {
        QueryError::Server { fields: Box::new(fields) }
    }

    /// The server's error fields, if the server refused.
    pub fn fields(&self) -> Option<&ErrorFields> {
        match self {
            QueryError::Server { fields } => Some(fields),
            _ => None,
        }
    }
}

impl Explain for QueryError {
    fn sqlstate(&self) -> SqlState {
        match self {
            QueryError::Server { fields } => fields.sqlstate(),
            QueryError::Io { .. } | QueryError::Closed | QueryError::Abandoned => {
                SqlState::CONNECTION_FAILURE
            }
            QueryError::Protocol { .. } | QueryError::Unexpected { .. } => SqlState::PROTOCOL_VIOLATION,
            QueryError::Encoding => SqlState::FEATURE_NOT_SUPPORTED,
            QueryError::TooLarge { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
            QueryError::Batch { .. } => SqlState::INTERNAL_ERROR,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            QueryError::Batch { .. } | QueryError::Abandoned => Blame::Platform,
            _ => Blame::Server,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            QueryError::Server { .. } | QueryError::Batch { .. } | QueryError::Encoding => Retry::Never,
            _ => Retry::Later,
        }
    }

    fn message(&self) -> String {
        match self {
            QueryError::Server { fields } => fields.message().to_owned(),
            error => error.to_string(),
        }
    }

    fn detail(&self) -> Option<String> {
        self.fields().and_then(ErrorFields::detail).map(str::to_owned)
    }

    fn hint(&self) -> Option<String> {
        self.fields().and_then(ErrorFields::hint).map(str::to_owned)
    }
}
