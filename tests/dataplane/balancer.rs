//! Clients that a load balancer brings.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use freehold::frontend::Balancers;
use freehold::lab::{Major, Postgres};
use freehold::model::{Network, SslMode};
use freehold::tls::{ClientTls, Connector, Roots, Stream};
use freehold::wire::startup;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::encryption::certificate;
use super::guest::Guest;
use super::stage::{self, Stage, eventually};

fn behind(server: &Postgres, networks: &[&str]) -> Stage {
    let networks = networks.iter().map(|text| Network::parse(text).unwrap()).collect();
    Stage::configured(server, |config| config.balancers = Balancers(networks))
}

/// A header of version 2 for a client of that address.
fn header(out: &mut BytesMut, client: SocketAddr) {
    let addresses = match client {
        SocketAddr::V4(client) => [&client.ip().octets()[..], &[127, 0, 0, 1]].concat(),
        SocketAddr::V6(client) => [&client.ip().octets()[..], &[0; 16]].concat(),
    };
    out.put_slice(b"\r\n\r\n\0\r\nQUIT\n\x21");
    out.put_u8(if client.is_ipv4() { 0x11 } else { 0x21 });
    // With something behind the addresses that nobody here understands.
    out.put_u16(addresses.len() as u16 + 4 + 5);
    out.put_slice(&addresses);
    out.put_u16(client.port());
    out.put_u16(6432);
    out.put_slice(b"\xe0\0\x02hi");
}

#[tokio::test]
async fn a_client_is_shown_by_the_address_in_its_header() {
    let server = stage::server(Major::oldest());
    let stage = behind(&server, &["127.0.0.0/8"]);
    for client in ["203.0.113.7:4711", "[2001:db8::7]:4711"] {
        let mut guest = Guest::at(&stage).await;
        guest.say(|out| header(out, client.parse().unwrap())).await;
        guest.log_in(2, &[]).await;
        assert_eq!(stage.route.session_table().sessions()[0].client, client);
        drop(guest);
        eventually("the session ends", || stage.route.session_table().is_empty()).await;
    }
}

#[tokio::test]
async fn a_header_and_the_startup_packet_may_come_byte_by_byte_or_at_once() {
    let server = stage::server(Major::oldest());
    let stage = behind(&server, &["127.0.0.1"]);
    let mut packet = BytesMut::new();
    header(&mut packet, "203.0.113.7:4711".parse().unwrap());
    startup::startup_message(&mut packet, 0, [("user", stage::ROLE), ("database", "shop")]);
    let mut slow = Guest::at(&stage).await;
    for byte in &packet {
        slow.send(&[*byte]).await;
    }
    let mut quick = Guest::at(&stage).await;
    quick.send(&packet).await;
    for mut guest in [slow, quick] {
        guest.prove(stage::PASSWORD).await.unwrap();
    }
}

#[tokio::test]
async fn a_health_check_of_the_balancer_is_its_own() {
    let server = stage::server(Major::oldest());
    let stage = behind(&server, &["127.0.0.1"]);
    let mut guest = Guest::at(&stage).await;
    guest.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    guest.log_in(0, &[]).await;
    assert!(stage.route.session_table().sessions()[0].client.starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn tls_begins_behind_the_header() {
    let server = stage::server(Major::oldest());
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, certificate) = certificate(directory.path());
    let stage = Stage::configured(&server, |config| {
        config.balancers = Balancers(vec![Network::parse("127.0.0.1").unwrap()]);
        config.acceptor = Some(acceptor);
    });
    let mut tcp = TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap();
    let mut begin = BytesMut::new();
    header(&mut begin, "203.0.113.7:4711".parse().unwrap());
    tcp.write_all(&begin).await.unwrap();
    let connector = Connector::open(ClientTls { roots: Roots::File(certificate), identity: None }).unwrap();
    let stream: Stream = connector.connect(tcp, "localhost", SslMode::VerifyFull).await.unwrap().stream;
    let mut guest = Guest::on(stream);
    guest.log_in(0, &[]).await;
    assert_eq!(stage.route.session_table().sessions()[0].client, "203.0.113.7:4711");
}

#[tokio::test]
async fn a_missing_or_malformed_header_closes_the_connection() {
    let server = stage::server(Major::oldest());
    let stage = behind(&server, &["127.0.0.1"]);
    let mut startup = BytesMut::new();
    startup::startup_message(&mut startup, 0, [("user", stage::ROLE), ("database", "shop")]);
    let malformed: [&[u8]; 6] = [
        &startup,
        b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 6432\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff............",
    ];
    for bytes in malformed {
        let mut guest = Guest::at(&stage).await;
        guest.send(bytes).await;
        assert_eq!(guest.rest().await, b"", "{bytes:?}");
    }
}

#[tokio::test]
async fn a_header_from_elsewhere_is_not_believed() {
    let server = stage::server(Major::oldest());
    let stage = behind(&server, &["192.0.2.0/24"]);
    let mut guest = Guest::at(&stage).await;
    guest.say(|out| header(out, "203.0.113.7:4711".parse().unwrap())).await;
    assert_eq!(guest.rest().await, b"");
    Guest::at(&stage).await.log_in(0, &[]).await;
}

#[tokio::test]
async fn a_balancer_that_says_nothing_is_not_waited_for() {
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| {
        config.balancers = Balancers(vec![Network::parse("127.0.0.1").unwrap()]);
        config.login_time_max = std::time::Duration::from_millis(50);
    });
    let mut guest = Guest::at(&stage).await;
    guest.send(b"\r\n\r\n\0").await;
    assert_eq!(guest.rest().await, b"");
}
