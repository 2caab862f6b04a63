//! TLS between client and proxy, with and without being asked.

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use freehold::lab::Major;
use freehold::model::SslMode;
use freehold::tls::{Acceptor, ClientCertificates, ClientTls, Connector, Roots, ServerTls};
use freehold::wire::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::{self, ROLE, Stage, text};

/// A certificate for `localhost` and 127.0.0.1 that is its own authority.
pub(crate) fn certificate(directory: &Path) -> (Acceptor, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files =
        ServerTls { certificate: certificate.clone(), key, client_certificates: ClientCertificates::Ignored };
    (Acceptor::open(files).unwrap(), certificate)
}

#[test]
fn psql_verifies_the_certificate_and_binds_its_login_to_it() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let mut psql = stage.program(&server, "psql");
    psql.env("PGSSLMODE", "verify-full")
        .env("PGHOST", "localhost")
        .env("PGHOSTADDR", "127.0.0.1")
        .env("PGSSLROOTCERT", &certificate)
        .env("PGCHANNELBINDING", "require");
    let output = psql.args(["-X", "-A", "-t", "-c", "SELECT repeat('x', 300000)"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).len(), 300_000);
}

#[test]
fn pgbench_works_under_tls_and_plaintext_clients_are_served_beside_it() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, _) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let init = stage.program(&server, "pgbench").args(["-i", "-q", "-s", "1"]).output().unwrap();
    assert!(init.status.success(), "{}", text(&init.stderr));
    let mut pgbench = stage.program(&server, "pgbench");
    pgbench.env("PGSSLMODE", "require").args(["-n", "-M", "prepared", "-c", "4", "-t", "50"]);
    let output = pgbench.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&stage.psql(&server, "SELECT count(*) FROM pgbench_history").stdout), "200");
}

/// libpq waits for its socket while something lies in its TLS buffer, unless records end where the data does.
#[test]
fn a_pipeline_under_tls_leaves_nothing_in_the_clients_buffer() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, _) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let script = directory.path().join("pipeline.sql");
    let lengths = [1, 8_170, 8_192, 16_383, 16_384, 16_385, 20_000, 70_000];
    let selects: String = lengths.map(|length| format!("SELECT repeat('x', {length});\n")).concat();
    std::fs::write(&script, format!("\\startpipeline\n{selects}\\endpipeline\n")).unwrap();
    let mut pgbench = stage.program(&server, "pgbench");
    pgbench
        .env("PGSSLMODE", "require")
        .args(["-n", "-M", "extended", "-c", "2", "-t", "50", "-f"])
        .arg(&script);
    let output = pgbench.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("actually processed: 100/100"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn direct_tls_needs_no_request() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let roots = ClientTls { roots: Roots::File(certificate), identity: None };
    let connector = Connector::open(roots).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap();
    let mut stream = connector.connect(tcp, "localhost", SslMode::VerifyFull).await.unwrap().stream;
    let mut packet = BytesMut::new();
    startup::startup_message(&mut packet, 0, [("user", ROLE), ("database", "shop")]);
    stream.write_all(&packet).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'R');
}

#[tokio::test]
async fn a_cancel_request_under_tls_ends_in_order() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let roots = ClientTls { roots: Roots::File(certificate), identity: None };
    let connector = Connector::open(roots).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap();
    let mut stream = connector.connect(tcp, "localhost", SslMode::VerifyFull).await.unwrap().stream;
    let mut packet = BytesMut::new();
    startup::cancel_request(&mut packet, 1, &[1, 2, 3, 4]);
    stream.write_all(&packet).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "nothing is answered");
}

#[tokio::test]
async fn bytes_sent_in_the_clear_behind_an_ssl_request_end_the_connection() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, _) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    let mut tcp = TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap();
    let mut packet = BytesMut::new();
    startup::ssl_request(&mut packet);
    startup::startup_message(&mut packet, 0, [("user", ROLE), ("database", "shop")]);
    tcp.write_all(&packet).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    assert_ne!(answer.first(), Some(&b'S'), "TLS is not begun");
}
