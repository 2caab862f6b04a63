//! TLS by rustls for both sides, and the [`Stream`] that is the same with and without TLS.
//!
//! Owns [`Acceptor`] (Freehold is the server: certificate, client certificates, direct TLS), [`Connector`]
//! (Freehold is the client: libpq's `sslmode`) and the certificate hash that SCRAM binds a login to. It
//! deliberately sends no packet of PostgreSQL: the frontend and the backend negotiate TLS.
//!
//! # Why
//! * Both ends are reloadable: a new certificate applies to the next handshake, and existing connections
//!   stay.
//! * Session resumption is off on both sides, as in PostgreSQL: libpq never resumes, and a ticket is an
//!   additional secret.
//! * Bytes that arrived before a handshake end the connection ([`TlsError::EarlyBytes`]): they were sent
//!   unencrypted (CVE-2021-23214, CVE-2021-3935).

mod acceptor;
mod binding;
mod connector;
mod identity;
mod socket;
mod stream;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

pub use acceptor::{AcceptedConnection, Acceptor, ClientAuthority, ClientCertificates, Handshake, ServerTls};
pub use binding::server_end_point;
pub use connector::{Certificate, ClientTls, Connected, Connector, Identity, Roots};
pub use identity::ClientIdentity;
pub use socket::{Family, Socket};
pub use stream::Stream;

use crate::error::{Blame, Explain, Retry, SqlState};

/// The protocol name that direct TLS must offer. Source: "SSL Session Encryption" in the PostgreSQL manual.
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no list of revoked certificates", path.display())]
    NoRevocationList { path: PathBuf },
    #[error("certificate and key cannot be used")]
    Config {
        #[source]
        source: rustls::Error,
    },
    #[error("the list of trusted certificates cannot be used")]
    Roots {
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    #[error("no trusted certificate is known, so no server can be verified")]
    NoRoots,
    /// Bytes arrived before the handshake.
    #[error("received {bytes} unencrypted bytes before the TLS handshake")]
    EarlyBytes { bytes: usize },
    #[error("TLS is spoken over TCP only")]
    NotTcp,
    #[error("the TLS handshake failed")]
    Handshake {
        #[source]
        source: io::Error,
    },
    #[error("direct TLS without the protocol name \"postgresql\"")]
    NoAlpn,
    #[error("\"{host}\" is no name that a certificate can be verified for")]
    ServerName { host: String },
}

impl TlsError {
    /// The file that cannot be used, if the error is about a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            TlsError::File { path, .. }
            | TlsError::NoCertificate { path }
            | TlsError::NoRevocationList { path } => Some(path),
            _ => None,
        }
    }

    fn of_setup(&self) -> bool {
        matches!(
            self,
            TlsError::File { .. }
                | TlsError::NoCertificate { .. }
                | TlsError::NoRevocationList { .. }
                | TlsError::Config { .. }
                | TlsError::Roots { .. }
                | TlsError::NoRoots
                | TlsError::ServerName { .. }
        )
    }
}

impl Explain for TlsError {
    fn sqlstate(&self) -> SqlState {
        match self {
            TlsError::EarlyBytes { .. } | TlsError::NoAlpn => SqlState::PROTOCOL_VIOLATION,
            TlsError::Handshake { .. } | TlsError::NotTcp => SqlState::CONNECTION_FAILURE,
            _ => SqlState::INTERNAL_ERROR,
        }
    }

    fn blame(&self) -> Blame {
        if self.of_setup() { Blame::Platform } else { Blame::Client }
    }

    fn retry(&self) -> Retry {
        if self.of_setup() { Retry::Later } else { Retry::Never }
    }

    fn message(&self) -> String {
        match self {
            error if error.of_setup() => "TLS is not set up correctly".to_owned(),
            error => error.to_string(),
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::File { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn read_revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::File { path: path.to_owned(), source };
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    // An empty list would mean that nothing is checked.
    match lists.is_empty() {
        true => Err(TlsError::NoRevocationList { path: path.to_owned() }),
        false => Ok(lists),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn read_roots(certificates: &[CertificateDer<'static>]) -> Result<rustls::RootCertStore, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|source| TlsError::Config { source })?;
    }
    Ok(roots)
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
