//! Edges of the protocol, message by message. Each test is named after its row of the table in `main`.

use bytes::{BufMut, BytesMut};
use freehold::lab::Major;
use freehold::wire::message::{Target, frontend};

use super::guest::{Guest, sleepers};
use super::stage::{self, Stage, eventually};

/// Parse, Bind, Execute of the unnamed statement.
fn extended(out: &mut BytesMut, sql: &str) {
    frontend::parse(out, b"", sql.as_bytes(), &[]);
    frontend::bind(out, b"", b"", &[]);
    frontend::execute(out, b"", 0);
}

/// A message of any kind and length.
fn message(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_i32(body.len() as i32 + 4);
    out.put_slice(body);
}

/// The session is at rest: it answers, and holds no pass.
async fn still_serves(stage: &Stage, guest: &mut Guest) {
    guest.say(|out| frontend::query(out, "SELECT 1")).await;
    assert_eq!(guest.hear("Z").await.tags, "TDCZ");
    eventually("the pass is back", || stage.route.gate().inside() == 0).await;
}

#[tokio::test]
async fn error_inside_extended_skips_to_the_sync_and_a_query_in_the_batch_with_it() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest
        .say(|out| {
            extended(out, "SELECT 1/0");
            frontend::query(out, "SELECT 'skipped'");
            extended(out, "SELECT 'skipped, too'");
            frontend::sync(out);
            frontend::query(out, "SELECT 'answered'");
        })
        .await;
    let heard = guest.hear("ZTDCZ").await;
    assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), ("1EZTDCZ", "22012"));
    still_serves(&stage, &mut guest).await;
}

#[tokio::test]
async fn mixed_query_after_extended_without_sync_yields_its_own_ready_for_query() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest
        .say(|out| {
            extended(out, "SELECT 1");
            frontend::query(out, "SELECT 2");
            extended(out, "SELECT 3");
            frontend::query(out, "SELECT 4");
            frontend::sync(out);
        })
        .await;
    assert_eq!(guest.hear("ZZ").await.tags, "12DCTDCZ12DCTDCZZ");
    still_serves(&stage, &mut guest).await;
}

#[tokio::test]
async fn sync_during_copy_in_is_ignored() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest.say(|out| frontend::query(out, "CREATE TEMP TABLE t (i int)")).await;
    guest.hear("Z").await;
    for simple in [true, false] {
        guest
            .say(|out| match simple {
                true => frontend::query(out, "COPY t FROM STDIN"),
                false => extended(out, "COPY t FROM STDIN"),
            })
            .await;
        // The answer to an Execute comes without a Flush: the server has asked for data.
        assert!(guest.hear("G").await.tags.ends_with('G'));
        guest
            .say(|out| {
                frontend::sync(out);
                frontend::copy_data(out, b"1\n");
                frontend::flush(out);
                frontend::sync(out);
                frontend::copy_done(out);
                frontend::sync(out);
            })
            .await;
        let ready = if simple { "CZZ" } else { "CZ" };
        assert_eq!(guest.hear(ready).await.tags, ready);
        still_serves(&stage, &mut guest).await;
    }
}

#[tokio::test]
async fn late_copy_data_after_a_server_error_is_ignored_and_nothing_stays_active() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest.say(|out| frontend::query(out, "CREATE TEMP TABLE t (i int)")).await;
    guest.hear("Z").await;
    guest.say(|out| frontend::query(out, "COPY t FROM STDIN")).await;
    assert_eq!(guest.hear("G").await.tags, "G");
    guest.say(|out| frontend::copy_data(out, b"no number\n")).await;
    assert_eq!(guest.hear("Z").await.tags, "EZ");
    guest
        .say(|out| {
            frontend::copy_data(out, b"2\n");
            frontend::copy_data(out, b"3\n");
            frontend::copy_done(out);
        })
        .await;
    still_serves(&stage, &mut guest).await;

    // By the extended protocol everything up to the Sync is late.
    guest.say(|out| extended(out, "COPY t FROM STDIN")).await;
    assert_eq!(guest.hear("G").await.tags, "12G");
    guest
        .say(|out| {
            frontend::copy_data(out, b"no number\n");
            frontend::copy_data(out, b"2\n");
            frontend::copy_done(out);
            frontend::sync(out);
        })
        .await;
    assert_eq!(guest.hear("Z").await.tags, "EZ");
    still_serves(&stage, &mut guest).await;
}

/// A walsender's first word, and one in the other direction.
async fn streaming(stage: &Stage) -> Guest {
    let mut guest = Guest::at(stage).await;
    guest.log_in(0, &[("replication", "database")]).await;
    guest
        .say(|out| {
            frontend::query(out, "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        })
        .await;
    assert_eq!(guest.hear("Z").await.tags, "TDCZ");
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    guest.say(|out| frontend::query(out, start)).await;
    assert_eq!(guest.hear("W").await.tags, "W");
    // A standby status update that asks for an answer.
    let mut status = BytesMut::new();
    status.put_u8(b'r');
    status.put_slice(&[0; 32]);
    status.put_u8(1);
    guest.say(|out| frontend::copy_data(out, &status)).await;
    assert_eq!(guest.hear("d").await.tags, "d");
    guest
}

#[tokio::test]
async fn copy_both_goes_both_ways_and_either_side_ends_it() {
    let server = stage::server(Major::oldest());
    server.psql("ALTER ROLE app REPLICATION").unwrap();
    server.psql_in("shop", "CREATE TABLE t (i int); CREATE PUBLICATION p FOR TABLE t").unwrap();
    let stage = Stage::before(&server);

    let mut guest = streaming(&stage).await;
    server.psql_in("shop", "INSERT INTO t VALUES (1)").unwrap();
    assert!(guest.hear("ddd").await.tags.ends_with("ddd"), "begin, relation, insert");
    guest.say(frontend::copy_done).await;
    let tags = guest.hear("Z").await.tags;
    assert!(tags.contains('c') && tags.ends_with("CZ"), "{tags}");
    guest.say(|out| frontend::query(out, "IDENTIFY_SYSTEM")).await;
    assert_eq!(guest.hear("Z").await.tags, "TDCZ", "the connection goes on");
    guest.say(frontend::terminate).await;
    assert_eq!(guest.rest().await, b"");

    let mut guest = streaming(&stage).await;
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").unwrap();
    let heard = guest.hear("").await;
    assert_eq!((heard.tags.trim_start_matches('d'), heard.sqlstate().as_str()), ("E", "57P01"));
    eventually("the session ends", || stage.route.session_table().is_empty()).await;
}

#[tokio::test]
async fn empty_query() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest
        .say(|out| {
            frontend::query(out, "");
            frontend::query(out, " ; -- nothing");
            extended(out, "");
            frontend::sync(out);
        })
        .await;
    assert_eq!(guest.hear("12IZ").await.tags, "IZIZ12IZ");
    still_serves(&stage, &mut guest).await;
}

#[tokio::test]
async fn multi_statement_query_with_a_transaction_in_it() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest.say(|out| frontend::query(out, "BEGIN; SELECT 1; COMMIT; SELECT 2; BEGIN")).await;
    assert_eq!(guest.hear("Z").await.tags, "CTDCCTDCCZ");
    assert_eq!(stage.route.gate().inside(), 1, "the text does not say it, ReadyForQuery does");
    guest.say(|out| frontend::query(out, "COMMIT; SELECT 1/0; SELECT 3")).await;
    assert_eq!(guest.hear("Z").await.tags, "CEZ");
    still_serves(&stage, &mut guest).await;
}

#[tokio::test]
async fn ready_for_query_of_a_failed_transaction_holds_the_server_until_it_ends() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    for end in ["ROLLBACK", "COMMIT"] {
        guest.say(|out| frontend::query(out, "BEGIN; SELECT 1/0")).await;
        assert_eq!(guest.hear("Z").await.tags, "CEZ");
        guest.say(|out| frontend::query(out, "SELECT 1")).await;
        assert_eq!(guest.hear("Z").await.sqlstate(), "25P02");
        assert_eq!(stage.route.gate().inside(), 1);
        guest.say(|out| frontend::query(out, end)).await;
        assert_eq!(guest.hear("Z").await.tags, "CZ");
        still_serves(&stage, &mut guest).await;
    }
}

#[tokio::test]
async fn portals_live_across_a_sync_in_a_transaction_and_closing_one_leaves_its_statement() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    guest
        .say(|out| {
            frontend::query(out, "BEGIN");
            frontend::parse(out, b"same", b"SELECT generate_series(1, 3)", &[]);
            frontend::bind(out, b"same", b"same", &[]);
            frontend::execute(out, b"same", 1);
            frontend::sync(out);
            frontend::execute(out, b"same", 1);
            frontend::close(out, Target::Portal, b"same");
            frontend::sync(out);
            frontend::execute(out, b"same", 1);
            frontend::sync(out);
            frontend::query(out, "ROLLBACK");
            frontend::bind(out, b"", b"same", &[]);
            frontend::execute(out, b"", 0);
            frontend::sync(out);
        })
        .await;
    let heard = guest.hear("DDDCZ").await;
    assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), ("CZ12DsZDs3ZEZCZ2DDDCZ", "34000"));
    still_serves(&stage, &mut guest).await;
}

#[tokio::test]
async fn parse_failure_leaves_its_name_free_and_a_second_parse_of_a_name_is_42p05() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    for (sql, tags, sqlstate) in
        [("broken", "EZ", "42601"), ("SELECT 1", "1Z", ""), ("SELECT 2", "EZ", "42P05")]
    {
        guest
            .say(|out| {
                frontend::parse(out, b"name", sql.as_bytes(), &[]);
                frontend::sync(out);
            })
            .await;
        let heard = guest.hear("Z").await;
        assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), (tags, sqlstate), "{sql}");
    }
}

#[tokio::test]
async fn oversized_message_is_refused_by_its_kind_before_any_of_it_goes_on() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    for tag in *b"CDEHSXcfpZ" {
        for (length, header_only) in [(10_001, false), (10_001, true), (i32::MAX, true)] {
            let mut guest = Guest::in_session(&stage).await;
            match header_only {
                true => guest.say(|out| (out.put_u8(tag), out.put_i32(length)).1).await,
                false => guest.say(|out| message(out, tag, &vec![b'x'; length as usize - 4])).await,
            }
            let heard = guest.hear("").await;
            let expected = ("E", "08P01");
            assert_eq!(
                (heard.tags.as_str(), heard.sqlstate().as_str()),
                expected,
                "{} {length}",
                char::from(tag)
            );
        }
    }
    for tag in *b"QPBFd" {
        let mut guest = Guest::in_session(&stage).await;
        guest.say(|out| (out.put_u8(tag), out.put_i32(0x4000_0003)).1).await;
        assert_eq!(guest.hear("").await.sqlstate(), "08P01", "{}", char::from(tag));
    }
    eventually("the sessions end", || stage.route.session_table().is_empty()).await;
}

#[tokio::test]
async fn a_name_as_long_as_postgresql_lets_it_be_passes() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut guest = Guest::in_session(&stage).await;
    let name = vec![b'n'; 9_994];
    guest
        .say(|out| {
            frontend::close(out, Target::Statement, &name);
            frontend::sync(out);
        })
        .await;
    assert_eq!(guest.hear("Z").await.tags, "3Z");
}

#[tokio::test]
async fn duplex_both_sides_write_more_than_any_buffer_holds() {
    const QUERIES: usize = 40;
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let guest = Guest::in_session(&stage).await;
    // Each query is a megabyte, and so is its answer.
    let sql = format!("SELECT '{}'", "x".repeat(1 << 20));
    let (mut reading, mut writing) = tokio::io::split(guest.stream);
    let written = tokio::spawn(async move {
        let mut query = BytesMut::new();
        frontend::query(&mut query, &sql);
        for _ in 0..QUERIES {
            tokio::io::AsyncWriteExt::write_all(&mut writing, &query).await.unwrap();
        }
        writing
    });
    let mut answers = vec![0; QUERIES * (1 << 20)];
    let read = tokio::io::AsyncReadExt::read_exact(&mut reading, &mut answers);
    tokio::time::timeout(stage::PATIENCE, read).await.expect("no deadlock").unwrap();
    written.await.unwrap();
}

#[tokio::test]
async fn server_fatal_mid_pipeline_is_told_once_and_nothing_is_sent_again() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    server.psql_in("shop", "CREATE TABLE t (i int); GRANT ALL ON t TO app").unwrap();
    let mut guest = Guest::at(&stage).await;
    let pid = guest.log_in(0, &[]).await.pid;
    guest
        .say(|out| {
            frontend::query(out, "INSERT INTO t VALUES (1)");
            frontend::query(out, "SELECT pg_sleep(600)");
            frontend::query(out, "INSERT INTO t VALUES (2)");
            extended(out, "INSERT INTO t VALUES (3)");
            frontend::sync(out);
        })
        .await;
    eventually("it sleeps", || sleepers(&server) == 1).await;
    server.psql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let heard = guest.hear("").await;
    assert_eq!((heard.tags.as_str(), heard.sqlstate().as_str()), ("CZTE", "57P01"));
    eventually("the session ends", || stage.route.session_table().is_empty()).await;
    assert_eq!(server.psql_in("shop", "SELECT i FROM t").unwrap(), "1");
}

#[tokio::test]
async fn a_notice_at_any_time_reaches_an_idle_client() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut idle = Guest::in_session(&stage).await;
    let pid = server.psql_in("shop", "SELECT pg_backend_pid()").unwrap();
    assert!(!pid.is_empty());
    // A server process that dies has the others say goodbye: a warning, which is a NoticeResponse.
    let mut victim = Guest::at(&stage).await;
    let pid = victim.log_in(0, &[]).await.pid;
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let heard = idle.hear("").await;
    assert!(heard.tags.starts_with('N'), "{}", heard.tags);
    assert_eq!(heard.sqlstate(), "57P01", "what follows is ours: the server closed without an error");
    assert_eq!(victim.hear("").await.tags, "E");
}
