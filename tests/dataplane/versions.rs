//! Protocol versions, and the cancel keys that come with them.

use bytes::{BufMut, BytesMut};
use freehold::lab::Major;
use freehold::wire::message::frontend;
use freehold::wire::startup::{self, Negotiation};

use super::guest::{self, Guest, sleepers};
use super::stage::{self, Stage, eventually, text};

#[tokio::test]
async fn negotiate_protocol_version() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let unknown = ("_pq_.test_protocol_negotiation", "");
    let negotiation = |minor, names: &[&str]| Negotiation {
        minor,
        unrecognized: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    // What is asked for, what is answered, the bytes of the cancel key.
    let cases = [
        (0, vec![], None, 4),
        (0, vec![unknown], Some(negotiation(0, &[unknown.0])), 4),
        (1, vec![], Some(negotiation(0, &[])), 4),
        (2, vec![], None, 32),
        (2, vec![unknown, ("_pq_.b", "1")], Some(negotiation(2, &[unknown.0, "_pq_.b"])), 32),
        (3, vec![], Some(negotiation(2, &[])), 32),
        (9999, vec![unknown], Some(negotiation(2, &[unknown.0])), 32),
    ];
    for (minor, further, told, key_bytes) in cases {
        let mut guest = Guest::at(&stage).await;
        let greeting = guest.log_in(minor, &further).await;
        assert_eq!(greeting.negotiations, Vec::from_iter(told), "3.{minor}");
        assert_eq!(greeting.key.len(), key_bytes, "3.{minor}");
        guest.say(|out| frontend::query(out, "SELECT 1")).await;
        assert_eq!(guest.hear("Z").await.tags, "TDCZ", "3.{minor}");
    }
}

#[tokio::test]
async fn another_major_version_is_refused_with_0a000() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    for (major, minor) in [(1, 0), (2, 0), (4, 0), (4, 2)] {
        let mut guest = Guest::at(&stage).await;
        let mut packet = BytesMut::new();
        startup::startup_message(&mut packet, minor, [("user", stage::ROLE)]);
        (&mut packet[4..6]).put_u16(major);
        guest.send(&packet).await;
        let heard = guest.hear("").await;
        assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), ("E", "0A000"));
        let words = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        assert_eq!(heard.error.unwrap().message(), words);
    }
}

#[tokio::test]
async fn a_long_cancel_key_cancels_and_nothing_like_it_does() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::at(&stage).await;
    let greeting = guest.log_in(2, &[]).await;
    guest.sleep(&server).await;
    let mut wrong = greeting.key.to_vec();
    wrong[31] ^= 1;
    for key in [&greeting.key[..4], &greeting.key[..31], &wrong, &[&greeting.key[..], &[0]].concat()] {
        guest::cancel(&stage, greeting.pid, key).await;
        assert_eq!(sleepers(&server), 1);
    }
    guest::cancel(&stage, greeting.pid, &greeting.key).await;
    assert_eq!(guest.hear("Z").await.sqlstate(), "57014");
}

#[tokio::test]
async fn a_cancel_key_out_of_bounds_ends_the_connection_without_a_word() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    for bytes in [0, 1, 3, 257, 5_000] {
        guest::cancel(&stage, 7, &vec![7; bytes]).await;
    }
}

/// libpq of PostgreSQL 18 is the first that speaks 3.2.
#[tokio::test]
async fn psql_speaks_protocol_3_2_and_cancels_with_a_long_key() {
    let server = stage::server(Major::newest());
    if server.major < 18 {
        println!("no psql of PostgreSQL 18 or newer is installed");
        return;
    }
    let stage = Stage::before(&server);
    let mut psql = stage.program(&server, "psql");
    psql.env("PGMINPROTOCOLVERSION", "3.2").env("PGMAXPROTOCOLVERSION", "latest");
    psql.args(["-X", "-c", "\\conninfo", "-c", "SELECT pg_sleep(600)"]);
    let child = psql.spawn().unwrap();
    eventually("it sleeps", || sleepers(&server) == 1).await;
    // As by a person: psql cancels what runs.
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("canceling statement due to user request"));
    let conninfo = text(&output.stdout);
    let version = conninfo.lines().find(|line| line.contains("Protocol Version")).unwrap();
    assert!(version.contains("3.2"), "{conninfo}");
}
