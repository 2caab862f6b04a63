//! Rules against clients that try to slip past them.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};
use freehold::auth::scram::Offer;

use crate::raw::Client;
use crate::stage::{Stage, refused, text};

/// Behind a balancer on the loopback address.
pub(crate) const BALANCED: &str = "proxy_protocol_from = [\"127.0.0.1\"]\n";

/// A client that a balancer announces with this address.
pub(crate) async fn from(port: u16, address: &str) -> Client {
    let mut client = Client::at(port).await;
    let mut header = BytesMut::new();
    let source = SocketAddr::new(address.parse().unwrap(), 4711);
    let (family, addresses) = match source.ip() {
        IpAddr::V4(four) => (0x11, [&four.octets()[..], &[127, 0, 0, 1]].concat()),
        IpAddr::V6(six) => (0x21, [&six.octets()[..], &[0; 16]].concat()),
    };
    header.put_slice(b"\r\n\r\n\0\r\nQUIT\n\x21");
    header.put_u8(family);
    header.put_u16(addresses.len() as u16 + 4);
    header.put_slice(&addresses);
    header.put_u16(source.port());
    header.put_u16(6432);
    client.send(&header).await;
    client
}

/// A client that a balancer announces as one of a Unix socket.
async fn from_a_socket(port: u16) -> Client {
    let mut client = Client::at(port).await;
    let mut header = BytesMut::new();
    header.put_slice(b"\r\n\r\n\0\r\nQUIT\n\x21\x31");
    header.put_u16(216);
    header.put_bytes(0, 216);
    client.send(&header).await;
    client
}

#[tokio::test]
async fn a_socket_that_a_balancer_announces_is_no_reason_to_ask_for_a_password_in_the_clear() {
    let stage = Stage::set_with_proxy(BALANCED, "").await;
    stage.rule("local all all password\nhost all all all scram-sha-256\n", "").await;
    let mut client = from_a_socket(stage.owner.port).await;
    client.startup(&stage.owner, &[]).await;
    let (tag, body) = client.message().await.expect("an answer");
    let text = String::from_utf8_lossy(&body);
    assert!(tag == b'E' && text.contains("requires TLS"), "{tag} {text}");
}

#[tokio::test]
async fn an_address_in_other_clothes_meets_the_same_rule() {
    let stage = Stage::set_with_proxy(BALANCED, "").await;
    let login = stage.owner.clone();
    let comes_in = async |address: &str| {
        let mut client = from(login.port, address).await;
        client.startup(&login, &[]).await;
        client.prove(&login.password, &Offer::Plain).await
    };
    for network in ["203.0.113.0/24", "203.0.113.0 255.255.255.0", "::ffff:203.0.113.0/120"] {
        stage.rule(&format!("host all all {network} reject\nhost all all all scram-sha-256\n"), "").await;
        for address in ["203.0.113.9", "::ffff:203.0.113.9", "::ffff:cb00:7109"] {
            assert_eq!(comes_in(address).await, "28000", "{address} and {network}");
        }
        for address in ["203.0.112.9", "2001:db8::1", "::203.0.113.9", "::1"] {
            assert_eq!(comes_in(address).await, "", "{address} and {network}");
        }
    }
    stage.rule("host all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 reject\n", "").await;
    assert_eq!(comes_in("::ffff:203.0.113.9").await, "");
    assert_eq!(comes_in("2001:db8::1").await, "28000");
}

#[tokio::test]
async fn the_first_of_overlapping_rules_decides_and_a_quoted_keyword_is_a_name() {
    let stage = Stage::set("").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    stage.create_role("all", "PASSWORD 'two'").await;
    stage.server.psql("CREATE ROLE staff ROLE second").unwrap();
    let second = stage.login("second", "two");
    crate::support::until("who is a member is known", || async {
        stage.rule("host all +staff all scram-sha-256\n", "").await;
        second.try_connect().await.is_ok()
    })
    .await;
    let scram = "host all all all scram-sha-256\n";
    for (rule, refuses) in [
        ("host all all 127.0.0.1/32 reject\n", true),
        ("host all all 127.0.0.0/8 reject\n", true),
        ("host all all 127.0.0.2/32 reject\n", false),
        ("host all all 128.0.0.0/1 reject\n", false),
        ("host \"all\" all all reject\n", false),
        ("host all \"all\" all reject\n", false),
        ("host all \"+staff\" all reject\n", false),
        ("host all +staff all reject\n", true),
        ("host all +second all reject\n", true),
        ("host all \"+\"staff all reject\n", false),
        ("host \"sameuser\",\"replication\",\"samerole\" all all reject\n", false),
        ("host replication all all reject\n", false),
        ("host shop \"/^sec\" all reject\n", true),
        ("host shop /^sec all reject\n", true),
        ("host shop /^ec all reject\n", false),
        ("host SHOP all all reject\n", false),
        ("host shop Second all reject\n", false),
        ("local all all reject\n", false),
        ("hostssl all all all reject\n", false),
        ("hostnossl all all all reject\n", true),
        ("host all all all scram-sha-256\nhost all all all reject\n", false),
    ] {
        // A type that is for nobody is refused when the file is read: there is no TLS here.
        if rule.starts_with("hostssl") {
            continue;
        }
        stage.rule(&format!("{rule}{scram}"), "").await;
        match refuses {
            true => assert_eq!(refused(&second).await, "28000", "{rule}"),
            false => drop(second.try_connect().await.unwrap_or_else(|error| panic!("{rule}: {error:?}"))),
        }
    }
    stage.rule(&format!("host all \"all\" all reject\n{scram}"), "").await;
    assert_eq!(refused(&stage.login("all", "two")).await, "28000");
    let shown = stage.freehold.admin().await.run("SHOW HBA").await;
    assert_eq!((shown[0]["user_name"].as_str(), shown[1]["user_name"].as_str()), ("\"all\"", "all"));
}

#[tokio::test]
async fn a_socket_in_the_file_system_knows_no_peers_and_no_addresses() {
    let stage = Stage::set("").await;
    let directory = stage.freehold.directory().display().to_string();
    stage.write("hba.conf", "local all all peer\n");
    stage.write("freehold.toml", &stage.configuration("[access]\nhba_file = \"hba.conf\"\n"));
    let error = stage.freehold.admin().await.try_run("RELOAD").await.unwrap_err();
    assert!(format!("{error:?}").contains("proves nothing that opens a server"), "{error:?}");
    stage.rule("host all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256\n", "").await;
    let owner = &stage.owner;
    let local = format!("host={directory} user={} password={}", owner.role, owner.password);
    assert!(text(&stage.psql(&local).stderr).contains("no pg_hba.conf entry for host \"[local]\""));
}
