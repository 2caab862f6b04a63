use std::fs;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};
use ring::digest;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::verify::{ServerVerifier, VerifyScope};
use super::*;
use crate::model::SslMode;

/// A directory of PEM files and the CA that signs them.
struct Authority {
    directory: TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let directory = TempDir::new().unwrap();
        let mut params = named("the authority", &[]);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let authority = Authority { directory, ca: Issuer::new(params, key) };
        authority.write("ca.crt", &certificate.pem());
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Signs a certificate and writes `<file>.crt` and `<file>.key`.
    fn issue(&self, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{file}.crt"), &params.signed_by(&key, &self.ca).unwrap().pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn issue_self_signed(&self, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{file}.crt"), &params.self_signed(&key).unwrap().pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn files(&self, file: &str, client_certificates: ClientCertificates) -> ServerTls {
        ServerTls {
            certificate: self.path(&format!("{file}.crt")),
            key: self.path(&format!("{file}.key")),
            client_certificates,
        }
    }

    fn acceptor(&self, file: &str) -> Acceptor {
        Acceptor::open(self.files(file, ClientCertificates::Ignored)).unwrap()
    }

    fn trusting(&self, roots: &str) -> Connector {
        Connector::open(ClientTls { roots: Roots::File(self.path(roots)), identity: None }).unwrap()
    }
}

fn named(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

type Sides = (Result<AcceptedConnection, TlsError>, Result<Connected, TlsError>);

async fn shake(acceptor: &Acceptor, connector: &Connector, host: &str, mode: SslMode) -> Sides {
    let (server, client) = sockets().await;
    tokio::join!(
        acceptor.accept(Stream::from(server), &[], Handshake::Requested),
        connector.connect(client, host, mode),
    )
}

#[tokio::test]
async fn both_sides_exchange_bytes_and_agree_on_the_end_point() {
    let authority = Authority::new();
    authority.issue("server", &named("server", &["db.example"]));
    let (server, client) = shake(
        &authority.acceptor("server"),
        &authority.trusting("ca.crt"),
        "db.example",
        SslMode::VerifyFull,
    )
    .await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert!(server.end_point.is_some());
    assert_eq!(server.end_point, client.end_point);
    let (mut server, mut client) = (server.stream, client.stream);
    assert!(server.is_tls() && client.is_tls());
    let summary = server.tls_summary().unwrap();
    assert!(summary.starts_with("TLSv1.3/TLS_AES_"), "{summary}");
    assert_eq!(client.tls_summary(), Some(summary));
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    server.write_all(b"pong").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"pong");
}

#[tokio::test]
async fn each_sslmode_believes_what_libpq_would_believe() {
    let authority = Authority::new();
    let stranger = Authority::new();
    authority.issue("good", &named("good", &["db.example", "127.0.0.1"]));
    let acceptor = authority.acceptor("good");
    let (knowing, unknowing) = (authority.trusting("ca.crt"), stranger.trusting("ca.crt"));
    let native = Connector::native().unwrap();
    use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
    for (connector, host, mode, believed) in [
        (&unknowing, "db.example", Prefer, true),
        (&native, "db.example", Require, true),
        // A configured root file makes `require` verify the chain.
        (&unknowing, "db.example", Require, false),
        (&knowing, "other.example", Require, true),
        (&unknowing, "db.example", VerifyCa, false),
        (&knowing, "other.example", VerifyCa, true),
        (&knowing, "other.example", VerifyFull, false),
        (&knowing, "db.example", VerifyFull, true),
        (&knowing, "127.0.0.1", VerifyFull, true),
        (&knowing, "127.0.0.2", VerifyFull, false),
        (&unknowing, "db.example", VerifyFull, false),
        // The name is not checked, so it may be one that no certificate could contain.
        (&knowing, "not a host name", VerifyCa, true),
        (&knowing, "not a host name", VerifyFull, false),
    ] {
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            shake(&acceptor, connector, host, mode).await.1.is_ok()
        });
        assert_eq!(outcome.await, Ok(believed), "{host} {mode:?}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root_as_in_the_manual_of_postgresql() {
    let authority = Authority::new();
    let mut params = named("db.example", &[]);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.issue_self_signed("server", &params);
    let acceptor = authority.acceptor("server");
    let connector = authority.trusting("server.crt");
    assert!(shake(&acceptor, &connector, "any.example", SslMode::VerifyCa).await.1.is_ok());
    // The host is in the common name only.
    assert!(shake(&acceptor, &connector, "db.example", SslMode::VerifyFull).await.1.is_ok());
    assert!(shake(&acceptor, &connector, "any.example", SslMode::VerifyFull).await.1.is_err());
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    authority.issue_self_signed("expired", &params);
    let (acceptor, connector) = (authority.acceptor("expired"), authority.trusting("expired.crt"));
    assert!(shake(&acceptor, &connector, "db.example", SslMode::VerifyCa).await.1.is_err());
}

#[tokio::test]
async fn a_common_name_counts_only_where_the_certificate_names_no_host() {
    let authority = Authority::new();
    authority.issue("server", &named("db.example", &["other.example"]));
    let acceptor = authority.acceptor("server");
    let connector = authority.trusting("ca.crt");
    assert!(shake(&acceptor, &connector, "db.example", SslMode::VerifyFull).await.1.is_err());
    assert!(shake(&acceptor, &connector, "other.example", SslMode::VerifyFull).await.1.is_ok());
}

#[tokio::test]
async fn bytes_before_the_handshake_end_the_connection() {
    let authority = Authority::new();
    authority.issue("server", &named("server", &["db.example"]));
    let (server, _client) = sockets().await;
    let outcome = authority.acceptor("server").accept(Stream::from(server), b"Q", Handshake::Requested).await;
    assert!(matches!(outcome, Err(TlsError::EarlyBytes { bytes: 1 })));
}

#[tokio::test]
async fn direct_tls_must_name_the_protocol() {
    let authority = Authority::new();
    authority.issue("server", &named("server", &["db.example"]));
    let acceptor = authority.acceptor("server");
    for (offered, accepted) in [(Some("postgresql"), true), (Some("http/1.1"), false), (None, false)] {
        let verifier = ServerVerifier::new(rustls::RootCertStore::empty(), Vec::new());
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.demanding(VerifyScope::Encryption)))
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (server, client) = sockets().await;
        let name = ServerName::try_from("db.example").unwrap();
        let (server, _client) = tokio::join!(
            acceptor.accept(Stream::from(server), &[], Handshake::Direct),
            connector.connect(name, client),
        );
        assert_eq!(server.is_ok(), accepted, "{offered:?}");
    }
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_drops_nobody() {
    let authority = Authority::new();
    authority.issue("server", &named("server", &["old.example"]));
    let acceptor = authority.acceptor("server");
    let connector = authority.trusting("ca.crt");
    let (server, client) = shake(&acceptor, &connector, "old.example", SslMode::VerifyFull).await;
    let (mut server, mut client) = (server.unwrap().stream, client.unwrap().stream);

    authority.issue("server", &named("server", &["new.example"]));
    acceptor.reload().unwrap();
    assert!(shake(&acceptor, &connector, "new.example", SslMode::VerifyFull).await.1.is_ok());
    assert!(shake(&acceptor, &connector, "old.example", SslMode::VerifyFull).await.1.is_err());
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");

    authority.write("server.crt", "nonsense");
    assert!(acceptor.reload().is_err());
    assert!(shake(&acceptor, &connector, "new.example", SslMode::VerifyFull).await.1.is_ok());
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_as_configured() {
    let authority = Authority::new();
    let stranger = Authority::new();
    authority.issue("server", &named("server", &["db.example"]));
    authority.issue("ann", &named("ann", &[]));
    stranger.issue("eve", &named("eve", &[]));
    let trusted = || ClientAuthority { ca: authority.path("ca.crt"), crl: None };
    let open = |clients| Acceptor::open(authority.files("server", clients)).unwrap();
    let optional = open(ClientCertificates::Optional(trusted()));
    let required = open(ClientCertificates::Required(trusted()));
    let as_client = |from: &Authority, name: &str| {
        let identity = Identity {
            certificate: from.path(&format!("{name}.crt")),
            key: from.path(&format!("{name}.key")),
        };
        Connector::open(ClientTls { roots: Roots::File(authority.path("ca.crt")), identity: Some(identity) })
            .unwrap()
    };
    let (ann, eve, nobody) =
        (as_client(&authority, "ann"), as_client(&stranger, "eve"), authority.trusting("ca.crt"));
    for (acceptor, connector, accepted, shown) in [
        (&optional, &nobody, true, false),
        (&optional, &ann, true, true),
        (&optional, &eve, false, false),
        (&required, &nobody, false, false),
        (&required, &ann, true, true),
        (&required, &eve, false, false),
    ] {
        let (server, _client) = shake(acceptor, connector, "db.example", SslMode::VerifyFull).await;
        assert_eq!(server.is_ok(), accepted);
        assert_eq!(server.is_ok_and(|server| server.client_certificate.is_some()), shown);
    }
}

#[test]
fn the_end_point_is_hashed_by_the_function_of_the_signature() {
    let hash = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = named("server", &[]).self_signed(&key).unwrap();
        (certificate.der().to_vec(), server_end_point(certificate.der()))
    };
    let (der, end_point) = hash(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(end_point.as_deref(), Some(digest::digest(&digest::SHA256, &der).as_ref()));
    let (der, end_point) = hash(&rcgen::PKCS_ECDSA_P384_SHA384);
    assert_eq!(end_point.as_deref(), Some(digest::digest(&digest::SHA384, &der).as_ref()));
    // Ed25519 has no separate hash: RFC 5929 defines nothing for it, and PostgreSQL cannot bind to it either.
    assert_eq!(hash(&rcgen::PKCS_ED25519).1, None);
    assert_eq!(server_end_point(b"no certificate"), None);
}

#[test]
fn unusable_files_are_named() {
    let authority = Authority::new();
    authority.issue("server", &named("server", &["db.example"]));
    authority.issue("other", &named("other", &["db.example"]));
    authority.write("empty.crt", "");
    let mut files = authority.files("server", ClientCertificates::Ignored);
    files.key = authority.path("other.key");
    assert!(matches!(Acceptor::open(files.clone()), Err(TlsError::Config { .. })));
    files.key = authority.path("missing.key");
    let error = Acceptor::open(files.clone()).unwrap_err();
    assert!(error.to_string().contains("missing.key"), "{error}");
    files.certificate = authority.path("empty.crt");
    assert!(matches!(Acceptor::open(files), Err(TlsError::NoCertificate { .. })));
}

#[test]
fn a_client_certificate_is_read_for_its_names_and_none_has_a_zero_byte() {
    let key = KeyPair::generate().unwrap();
    let of = |params: CertificateParams| ClientIdentity::of(params.self_signed(&key).unwrap().der());
    let identity = of(named("ann", &["ann.example.com", "10.0.0.1"]));
    assert_eq!(identity.common_name.as_deref(), Some("ann"));
    assert_eq!(identity.alternative_names, ["ann.example.com"], "an address is no name");
    assert_eq!(of(named("admin\0.example.com", &[])).common_name, None);
    assert_eq!(of(named("", &[])).common_name, None);
    assert_eq!(ClientIdentity::of(b"no certificate"), ClientIdentity::default());
}
