//! The first packets of a connection: encryption, lengths, cancel requests.

use bytes::{BufMut, BytesMut};
use freehold::frontend::Encryption;
use freehold::lab::Major;
use freehold::model::SslMode;
use freehold::tls::{ClientTls, Connector, Roots};
use freehold::wire::startup;
use tokio::net::TcpStream;

use super::encryption::certificate;
use super::guest::{self, Guest, sleepers};
use super::stage::{self, ROLE, Stage};

type Request = fn(&mut BytesMut);

/// Sends requests for encryption one by one; each must be answered with `N`.
async fn refused(guest: &mut Guest, requests: &[Request]) {
    for request in requests {
        guest.say(request).await;
        assert_eq!(guest.byte().await, Some(b'N'));
    }
}

async fn under_tls(stage: &Stage, certificate: &std::path::Path) -> Guest {
    let roots = ClientTls { roots: Roots::File(certificate.to_owned()), identity: None };
    let tcp = TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap();
    let connector = Connector::open(roots).unwrap();
    Guest::on(connector.connect(tcp, "localhost", SslMode::VerifyFull).await.unwrap().stream)
}

#[tokio::test]
async fn plaintext_after_a_request_for_encryption_ends_the_connection() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, _) = certificate(directory.path());
    for acceptor in [None, Some(acceptor)] {
        let stage = Stage::with(&server, acceptor);
        for request in [startup::ssl_request as Request, startup::gssenc_request] {
            let mut guest = Guest::at(&stage).await;
            guest
                .say(|out| {
                    request(out);
                    startup::startup_message(out, 0, [("user", ROLE), ("database", "shop")]);
                })
                .await;
            let heard = guest.hear("").await;
            assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), ("E", "08P01"));
        }
    }
}

#[tokio::test]
async fn repeated_requests_for_encryption_end_the_connection() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (ssl, gss) = (startup::ssl_request as Request, startup::gssenc_request as Request);
    for allowed in [vec![], vec![ssl], vec![gss], vec![ssl, gss], vec![gss, ssl]] {
        let mut guest = Guest::at(&stage).await;
        refused(&mut guest, &allowed).await;
        guest.log_in(0, &[]).await;
        for again in &allowed {
            let mut guest = Guest::at(&stage).await;
            refused(&mut guest, &allowed).await;
            guest.say(again).await;
            assert_eq!(guest.hear("").await.sqlstate(), "08P01");
        }
    }
}

#[tokio::test]
async fn under_tls_no_encryption_is_asked_for_again() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::with(&server, Some(acceptor));
    for request in [startup::ssl_request as Request, startup::gssenc_request] {
        let mut guest = under_tls(&stage, &certificate).await;
        guest.say(request).await;
        assert_eq!(guest.hear("").await.sqlstate(), "08P01");
    }
}

#[tokio::test]
async fn direct_tls_without_a_certificate_of_ours_ends_the_connection() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::at(&stage).await;
    guest.send(&[startup::TLS_HANDSHAKE_BYTE, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await;
    assert_eq!(guest.rest().await, b"");
}

#[tokio::test]
async fn startup_length() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    for length in [i32::MIN, -1, 0, 3, 7, 10_001, 0x0100_0000, i32::MAX] {
        let mut guest = Guest::at(&stage).await;
        guest.say(|out| out.put_i32(length)).await;
        // As PostgreSQL does: what sends this does not speak the protocol.
        assert_eq!(guest.rest().await, b"", "{length}");
    }
    // As long as a packet may be.
    let mut bare = BytesMut::new();
    let names = [("user", ROLE), ("database", "shop"), ("options", "")];
    startup::startup_message(&mut bare, 0, names);
    let options = format!("-c search_path={}", "x".repeat(startup::PACKET_BYTES_MAX - bare.len() - 15));
    let mut guest = Guest::at(&stage).await;
    guest.log_in(0, &[("options", options.as_str())]).await;
}

#[tokio::test]
async fn a_cancel_request_may_come_over_tls_and_without_it_where_tls_is_required() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::configured(&server, |config| {
        (config.acceptor, config.encryption) = (Some(acceptor), Encryption::Required);
    });
    for over_tls in [true, false] {
        let mut client = under_tls(&stage, &certificate).await;
        let greeting = client.log_in(2, &[]).await;
        client.sleep(&server).await;
        let mut guest = match over_tls {
            true => under_tls(&stage, &certificate).await,
            false => Guest::at(&stage).await,
        };
        guest.say(|out| startup::cancel_request(out, greeting.pid, &greeting.key)).await;
        assert_eq!(guest.rest().await, b"");
        assert_eq!(client.hear("Z").await.sqlstate(), "57014");
    }
    let mut plain = Guest::at(&stage).await;
    plain.startup(0, &[]).await;
    assert_eq!(plain.hear("").await.sqlstate(), "28000");
}

#[tokio::test]
async fn cancel_requests_are_limited_per_address() {
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.cancels_per_second_max = 1);
    let mut client = Guest::at(&stage).await;
    let greeting = client.log_in(2, &[]).await;
    client.sleep(&server).await;
    // Wrong ones count, too; a second cannot be over sooner than it is.
    let begun = std::time::Instant::now();
    guest::cancel(&stage, greeting.pid, &[0; 32]).await;
    guest::cancel(&stage, greeting.pid, &greeting.key).await;
    let dropped = sleepers(&server) == 1;
    assert!(dropped || begun.elapsed() >= std::time::Duration::from_secs(1));
    while sleepers(&server) == 1 {
        guest::cancel(&stage, greeting.pid, &greeting.key).await;
    }
    assert_eq!(client.hear("Z").await.sqlstate(), "57014");
}

#[tokio::test]
async fn nobody_who_has_not_proved_who_he_is_takes_much_memory() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    for length in [65_540, 1 << 20, i32::MAX] {
        let mut guest = Guest::at(&stage).await;
        guest.startup(0, &[]).await;
        assert_eq!(guest.hear("R").await.tags, "R");
        // The length alone is enough to end it, as PostgreSQL does: nothing is waited for, and nothing kept.
        guest.say(|out| (out.put_u8(b'p'), out.put_i32(length)).1).await;
        assert_eq!(guest.rest().await, b"", "{length}");
    }
}
