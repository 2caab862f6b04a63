//! Why a process does not start.

use std::net::SocketAddr;

use super::access::AccessErrors;
use crate::admin::users::UsersError;
use crate::catalog::store::StoreError;
use crate::tls::TlsError;

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error("a certificate cannot be used")]
    Tls(#[from] TlsError),
    #[error("cannot listen for clients")]
    Listen {
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen for administrators on {address}")]
    Admin {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the rules of access cannot be used")]
    Access(#[from] AccessErrors),
    #[error("the administrators cannot be read")]
    Users(#[from] UsersError),
    #[error("cannot listen for metrics on {address}")]
    Metrics {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("\"{text}\" in {variable} is not a point of a move")]
    Fault { variable: &'static str, text: String },
}

impl ServeError {
    pub(super) fn listen(source: std::io::Error) -> ServeError {
        ServeError::Listen { source }
    }
}
