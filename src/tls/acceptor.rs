//! TLS towards clients: Freehold presents the certificate.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;

use super::{
    ALPN_POSTGRESQL, Family, Stream, TlsError, provider, read_certificates, read_key, read_revocations,
    read_roots, server_end_point,
};

/// The files for TLS towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM: Freehold's certificate, then the intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    pub client_certificates: ClientCertificates,
}

/// How client certificates are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Not requested.
    Ignored,
    /// Requested; one that is presented must be signed by this CA.
    Optional(ClientAuthority),
    /// No handshake without one.
    Required(ClientAuthority),
}

/// The authority for client certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthority {
    /// PEM.
    pub ca: PathBuf,
    /// PEM: the certificates that it has revoked. If set, every certificate of a chain needs a list of its
    /// issuer that has not expired, as with PostgreSQL's `ssl_crl_file`.
    pub crl: Option<PathBuf>,
}

/// How a client started TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// It sent an SSLRequest and got its `S`.
    Requested,
    /// It began with a ClientHello. It must name the protocol (ALPN), or the bytes could belong to another
    /// protocol (ALPACA).
    Direct,
}

/// A connection over TLS.
#[derive(Debug)]
pub struct AcceptedConnection {
    pub stream: Stream,
    /// Hash of the presented certificate, for SCRAM-SHA-256-PLUS. `None`: its signature has no usable hash.
    pub end_point: Option<Bytes>,
    /// The verified certificate of the client.
    pub client_certificate: Option<CertificateDer<'static>>,
}

/// Accepts TLS connections on clients' sockets. Clones share the certificate.
#[derive(Debug, Clone)]
pub struct Acceptor {
    files: Arc<ServerTls>,
    served: Arc<ArcSwap<Served>>,
}

#[derive(Debug)]
struct Served {
    config: Arc<ServerConfig>,
    end_point: Option<Bytes>,
}

impl Acceptor {
    /// Reads the files. Blocking: call it at start, or off the workers.
    pub fn open(files: ServerTls) -> Result<Acceptor, TlsError> {
        let served = Served::read(&files)?;
        Ok(Acceptor { files: Arc::new(files), served: Arc::new(ArcSwap::from_pointee(served)) })
    }

    /// Reads the files again. The next handshakes use them; existing connections stay. On an error nothing
    /// changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.renewal()?();
        Ok(())
    }

    /// Reads the files again; calling the result makes the next handshakes use them. For a caller that renews
    /// several at once, or none.
    pub fn renewal(&self) -> Result<impl FnOnce() + use<>, TlsError> {
        let (served, fresh) = (Arc::clone(&self.served), Arc::new(Served::read(&self.files)?));
        Ok(move || served.store(fresh))
    }

    /// Performs the handshake. `buffered` is what was read from the socket after the SSLRequest: if it is not
    /// empty the connection is ended, because it was sent unencrypted.
    pub async fn accept(
        &self,
        stream: Stream,
        buffered: &[u8],
        handshake: Handshake,
    ) -> Result<AcceptedConnection, TlsError> {
        if !buffered.is_empty() {
            return Err(TlsError::EarlyBytes { bytes: buffered.len() });
        }
        let tcp = match stream {
            Stream::Plain(socket) if socket.family() == Family::Tcp => socket,
            _ => return Err(TlsError::NotTcp),
        };
        let served = self.served.load_full();
        let tls = TlsAcceptor::from(Arc::clone(&served.config))
            .accept(tcp)
            .await
            .map_err(|source| TlsError::Handshake { source })?;
        let connection = tls.get_ref().1;
        if handshake == Handshake::Direct && connection.alpn_protocol() != Some(ALPN_POSTGRESQL) {
            return Err(TlsError::NoAlpn);
        }
        let client_certificate = connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned());
        let end_point = served.end_point.clone();
        Ok(AcceptedConnection { stream: Stream::TlsServer(Box::new(tls)), end_point, client_certificate })
    }
}

impl Served {
    fn read(files: &ServerTls) -> Result<Served, TlsError> {
        let chain = read_certificates(&files.certificate)?;
        let key = read_key(&files.key)?;
        let end_point = chain.first().and_then(|certificate| server_end_point(certificate));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Config { source })?;
        let builder = match client_verifier(&files.client_certificates)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|source| TlsError::Config { source })?;
        config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Served { config: Arc::new(config), end_point })
    }
}

fn client_verifier(
    certificates: &ClientCertificates,
) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, TlsError> {
    let authority = match certificates {
        ClientCertificates::Ignored => return Ok(None),
        ClientCertificates::Optional(authority) | ClientCertificates::Required(authority) => authority,
    };
    let roots = Arc::new(read_roots(&read_certificates(&authority.ca)?)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(crl) = &authority.crl {
        builder = builder.with_crls(read_revocations(crl)?).enforce_revocation_expiration();
    }
    if matches!(certificates, ClientCertificates::Optional(_)) {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|source| TlsError::Roots { source })
}
