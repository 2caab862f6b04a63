//! TLS towards servers: they present the certificate, and `sslmode` decides how it is verified.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use tokio_rustls::TlsConnector;

use super::verify::{ServerVerifier, VerifyScope};
use super::{
    ALPN_POSTGRESQL, Socket, Stream, TlsError, provider, read_certificates, read_key, read_roots,
    server_end_point,
};
use crate::model::SslMode;

/// The trusted authorities, and Freehold's own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    pub roots: Roots,
    /// Freehold's own certificate, for servers that ask for one.
    pub identity: Option<Identity>,
}

/// The authorities that are trusted for servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those that the operating system trusts: libpq's `sslrootcert=system`.
    Native,
    /// None: only modes without verification succeed, and no file is read.
    Empty,
    /// PEM. As in libpq, a configured file makes `require` verify the chain, too.
    File(PathBuf),
}

/// A certificate of Freehold and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A connection over TLS.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    /// Hash of the server's certificate, for SCRAM-SHA-256-PLUS.
    pub end_point: Option<Bytes>,
    pub certificate: Certificate,
}

/// What a server's certificate proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// It was signed by an authority that the operator configured for the systems, or by a known one for the
    /// server's name.
    Verified,
    /// Any party could have presented it. A chain to an authority of the operating system without a check of
    /// the name proves no more: any party can obtain such a certificate. libpq refuses this combination.
    Unverified,
}

/// Makes TLS connections to servers. Clones share the trusted certificates.
///
/// | sslmode | encrypted | chain verified | name verified |
/// |---|---|---|---|
/// | disable | no | | |
/// | prefer | if the server can | no | no |
/// | require | yes | where the roots are a file | no |
/// | verify-ca | yes | yes | no |
/// | verify-full | yes | yes | yes |
///
/// Unlike libpq, `prefer` verifies nothing even with a file: it falls back to no TLS if TLS fails, so a check
/// would protect nothing.
#[derive(Debug, Clone)]
pub struct Connector {
    files: Arc<ClientTls>,
    trust: Arc<ArcSwap<Trust>>,
}

#[derive(Debug)]
struct Trust {
    encrypt: Arc<ClientConfig>,
    verify_chain: Arc<ClientConfig>,
    verify_full: Arc<ClientConfig>,
    /// No certificate is trusted: the verifying modes fail with an error that says so.
    empty: bool,
}

impl Connector {
    /// Reads the files. Blocking: call it at start, or off the workers.
    pub fn open(files: ClientTls) -> Result<Connector, TlsError> {
        let trust = Trust::read(&files)?;
        Ok(Connector { files: Arc::new(files), trust: Arc::new(ArcSwap::from_pointee(trust)) })
    }

    /// With the operating system's roots and without a certificate of Freehold.
    pub fn native() -> Result<Connector, TlsError> {
        Connector::open(ClientTls { roots: Roots::Native, identity: None })
    }

    /// Reads the files again, for the next handshakes. On an error nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.renewal()?();
        Ok(())
    }

    /// Like [`Acceptor::renewal`](super::Acceptor::renewal).
    pub fn renewal(&self) -> Result<impl FnOnce() + use<>, TlsError> {
        let (trust, fresh) = (Arc::clone(&self.trust), Arc::new(Trust::read(&self.files)?));
        Ok(move || trust.store(fresh))
    }

    /// Performs the handshake with a server that agreed to TLS. Nothing may have been read from the socket
    /// beyond its `S`.
    pub async fn connect(
        &self,
        tcp: impl Into<Socket>,
        host: &str,
        mode: SslMode,
    ) -> Result<Connected, TlsError> {
        let (config, name, certificate) = self.config(host, mode)?;
        let tls = TlsConnector::from(config)
            .connect(name, tcp.into())
            .await
            .map_err(|source| TlsError::Handshake { source })?;
        let end_point = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| server_end_point(certificate));
        Ok(Connected { stream: Stream::TlsClient(Box::new(tls)), end_point, certificate })
    }

    /// What a certificate that `mode` accepts will prove.
    pub fn certificate(&self, mode: SslMode) -> Certificate {
        match (mode, &self.files.roots) {
            (SslMode::VerifyFull, _) => Certificate::Verified,
            (SslMode::Require | SslMode::VerifyCa, Roots::File(_)) => Certificate::Verified,
            _ => Certificate::Unverified,
        }
    }

    /// Whether certificates are verified against authorities that the operator named. A certificate of a
    /// public authority proves no more than that its holder owns a host name.
    pub fn has_own_authority(&self) -> bool {
        matches!(self.files.roots, Roots::File(_))
    }

    fn config(
        &self,
        host: &str,
        mode: SslMode,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>, Certificate), TlsError> {
        let trust = self.trust.load();
        let config = match mode {
            SslMode::Disable | SslMode::Prefer => &trust.encrypt,
            SslMode::Require if !matches!(self.files.roots, Roots::File(_)) => &trust.encrypt,
            SslMode::Require | SslMode::VerifyCa => &trust.verify_chain,
            SslMode::VerifyFull => &trust.verify_full,
        };
        if trust.empty && !Arc::ptr_eq(config, &trust.encrypt) {
            return Err(TlsError::NoRoots);
        }
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if mode == SslMode::VerifyFull => {
                return Err(TlsError::ServerName { host: host.to_owned() });
            }
            // The name is not checked, and an IP address is not sent as SNI.
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1]))),
        };
        Ok((Arc::clone(config), name, self.certificate(mode)))
    }
}

impl Trust {
    fn read(files: &ClientTls) -> Result<Trust, TlsError> {
        let certificates = match &files.roots {
            Roots::Native => rustls_native_certs::load_native_certs().certs,
            Roots::Empty => Vec::new(),
            Roots::File(path) => read_certificates(path)?,
        };
        let verifier = match &files.roots {
            // An invalid certificate of the operating system is skipped.
            Roots::Native | Roots::Empty => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(certificates);
                ServerVerifier::new(roots, Vec::new())
            }
            Roots::File(_) => ServerVerifier::new(read_roots(&certificates)?, certificates),
        };
        let identity = match &files.identity {
            None => None,
            Some(identity) => Some((read_certificates(&identity.certificate)?, read_key(&identity.key)?)),
        };
        Ok(Trust {
            empty: verifier.trusts_nobody(),
            encrypt: client_config(verifier.demanding(VerifyScope::Encryption), identity.as_ref())?,
            verify_chain: client_config(verifier.demanding(VerifyScope::Chain), identity.as_ref())?,
            verify_full: client_config(verifier.demanding(VerifyScope::ChainAndName), identity.as_ref())?,
        })
    }
}

type LoadedIdentity = (Vec<CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>);

fn client_config(
    verifier: ServerVerifier,
    identity: Option<&LoadedIdentity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Config { source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|source| TlsError::Config { source })?,
    };
    config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
