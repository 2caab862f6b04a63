//! What drivers rarely do and the protocol allows, message by message.

use bytes::{BufMut, BytesMut};
use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::lab::Major;
use freehold::model::{Address, Place, Pooling, RoleName};
use freehold::tls::Connector;
use freehold::wire::message::backend::{ErrorFields, tag};
use freehold::wire::message::{Header, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::orders;
use super::stage::{self, PASSWORD, PATIENCE, ROLE, Stage, eventually};

/// A client of the data plane.
pub(crate) async fn client(
    stage: &Stage,
    server: &freehold::lab::Postgres,
    settings: &[(&str, &str)],
) -> ServerConnection {
    let request = ConnectRequest {
        place: Place {
            address: Address { host: "127.0.0.1".to_owned(), port: stage.port() },
            ..stage::place(server)
        },
        role: RoleName::parse(ROLE).unwrap(),
        startup: settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        credential: Credential::Password(Zeroizing::new(PASSWORD.to_owned())),
    };
    connect(&request, &Connector::native().unwrap(), Instant::now() + PATIENCE).await.unwrap()
}

/// The tags of what comes until the connection ends or `enough` has come, and the last error.
pub(crate) async fn hear(client: &mut ServerConnection, enough: &str) -> (String, Option<ErrorFields>) {
    hear_until(client, |tags| !enough.is_empty() && tags.ends_with(enough)).await
}

async fn hear_until(
    client: &mut ServerConnection,
    is_enough: impl Fn(&str) -> bool,
) -> (String, Option<ErrorFields>) {
    let (mut inbox, mut tags, mut error) = (BytesMut::new(), String::new(), None);
    while !is_enough(&tags) {
        let read = timeout(PATIENCE, client.stream.read_buf(&mut inbox)).await.unwrap();
        if !matches!(read, Ok(1..)) {
            break;
        }
        while let Some(header) = Header::parse(&inbox, 1 << 30).unwrap()
            && inbox.len() >= header.message_bytes()
        {
            let message = inbox.split_to(header.message_bytes());
            tags.push(char::from(header.tag));
            if header.tag == tag::ERROR_RESPONSE {
                error = Some(ErrorFields::parse(&message[5..]).unwrap());
            }
        }
    }
    (tags, error)
}

pub(crate) async fn say(client: &mut ServerConnection, build: impl FnOnce(&mut BytesMut)) {
    client.stream.write_all(&messages(build)).await.unwrap();
}

#[tokio::test]
async fn the_process_id_that_a_client_is_given_is_its_backends_own() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    let results = client.query("SELECT pg_backend_pid()").await.unwrap();
    assert_eq!(results[0].value(0, 0), Some(client.pid.to_string().as_str()));
}

#[tokio::test]
async fn a_client_that_moved_still_knows_its_own_notifications() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&one, &two);
    let stage = Stage::before(&one);
    let mut client = client(&stage, &one, &[]).await;
    let told = client.pid;
    client.query("LISTEN c").await.unwrap();
    orders::move_to(&stage, &orders::target(&two)).await;
    let actual = client.query("SELECT pg_backend_pid()").await.unwrap()[0].value(0, 0).unwrap().to_owned();
    assert_ne!(actual, told.to_string());
    client.query("NOTIFY c, 'mine'").await.unwrap();
    let heard = client.take_async_messages();
    assert_eq!(heard[0], tag::NOTIFICATION_RESPONSE);
    assert_eq!(heard[5..9], told.to_be_bytes());
    two.psql_in("shop", "NOTIFY c, 'a stranger''s'").unwrap();
    let (tags, _) = hear(&mut client, "A").await;
    assert!(tags.ends_with('A'));
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_reads_the_answers() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    say(&mut client, |out| frontend::query(out, "SELECT 1; SELECT pg_sleep(0.3); SELECT 2")).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(hear(&mut client, "").await.0, "TDCTDCTDCZ");
    eventually("the session ends", || stage.route.session_table().is_empty()).await;
}

#[tokio::test]
async fn a_terminate_pipelined_behind_a_query_lets_it_finish() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    server.psql_in("shop", "CREATE TABLE t (i int); GRANT ALL ON t TO app").unwrap();
    let mut client = client(&stage, &server, &[]).await;
    say(&mut client, |out| {
        frontend::query(out, "INSERT INTO t VALUES (1)");
        frontend::terminate(out);
        out.put_slice(b"whatever follows is not for the server");
    })
    .await;
    assert_eq!(hear(&mut client, "").await.0, "CZ");
    assert_eq!(server.psql_in("shop", "SELECT count(*) FROM t").unwrap(), "1");
    eventually("the pass is back", || stage.route.gate().inside() == 0).await;
}

/// PostgreSQL 18 answers `I` to the Sync and keeps the transaction open: see `wire::exchange`. Other versions
/// have committed by then.
#[tokio::test]
async fn a_transaction_that_is_open_behind_an_idle_report_is_lent_to_nobody() {
    let server = stage::server(Major::newest());
    server
        .psql_in("shop", "CREATE TABLE t (v int); INSERT INTO t VALUES (0); GRANT ALL ON t TO app")
        .unwrap();
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 1;
    });
    for stays in [true, false] {
        let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
        let batch = messages(|out| {
            frontend::parse(out, b"", b"UPDATE t SET v = 7", &[]);
            bound(out, b"", b"", &[]);
            frontend::execute(out, b"", 0);
            frontend::query(out, "SELECT 1");
            frontend::sync(out);
        });
        one.stream.write_all(&batch).await.unwrap();
        hear_all(&mut one, &batch).await;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL";
        assert_eq!(server.psql(open).unwrap(), if server.major >= 18 { "1" } else { "0" });
        let ending = async {
            if stays {
                // As without a pool: the next command says that the transaction is gone.
                let next = one.query("SELECT 1").await;
                assert_eq!(next.is_err(), server.major >= 18, "{next:?}");
                one.query("SELECT 1").await.unwrap();
            }
            drop(one);
        };
        // There is one connection: it is lent when the transaction has ended.
        let (updated, ()) = tokio::join!(other.query("UPDATE t SET v = v + 100"), ending);
        updated.unwrap();
        assert_eq!(server.psql(open).unwrap(), "0");
    }
}

#[tokio::test]
async fn a_flush_without_sync_brings_answers_and_keeps_the_transaction() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    say(&mut client, |out| {
        frontend::parse(out, b"", b"SELECT 1", &[]);
        frontend::bind(out, b"", b"", &[]);
        frontend::execute(out, b"", 0);
        frontend::flush(out);
    })
    .await;
    assert_eq!(hear(&mut client, "C").await.0, "12DC");
    assert_eq!(stage.route.gate().inside(), 1);
    say(&mut client, frontend::sync).await;
    assert_eq!(hear(&mut client, "Z").await.0, "Z");
    eventually("the pass is back", || stage.route.gate().inside() == 0).await;
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_answered() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    let mut query = BytesMut::new();
    frontend::query(&mut query, "SELECT 1");
    for byte in query {
        client.stream.write_all(&[byte]).await.unwrap();
        // Each byte is to arrive alone: the proxy has read the one before.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    assert_eq!(hear(&mut client, "Z").await.0, "TDCZ");
}

#[tokio::test]
async fn a_client_that_stalls_inside_a_request_holds_nobody_up() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    let mut query = BytesMut::new();
    frontend::query(&mut query, "SELECT 1");
    client.stream.write_all(&query[..7]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    stage.hold();
    stage.route.gate().drained().await.unwrap();
    client.stream.write_all(&query[7..]).await.unwrap();
    stage.open();
    assert_eq!(hear(&mut client, "Z").await.0, "TDCZ");
}

#[tokio::test]
async fn what_a_client_asked_for_before_it_gave_up_at_the_gate_is_not_done() {
    let server = stage::server(Major::oldest());
    server.psql_in("shop", "CREATE TABLE t (i int); GRANT ALL ON t TO app").unwrap();
    let stage = Stage::before(&server);
    let (mut gone, mut polite) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    stage.hold();
    say(&mut gone, |out| frontend::query(out, "INSERT INTO t VALUES (1)")).await;
    say(&mut polite, |out| {
        frontend::query(out, "INSERT INTO t VALUES (2)");
        frontend::terminate(out);
    })
    .await;
    let held = |row: &freehold::route::SessionRow| row.activity == freehold::route::Activity::Held;
    eventually("both wait", || {
        stage.route.session_table().sessions().iter().filter(|row| held(row)).count() == 2
    })
    .await;
    drop((gone, polite));
    eventually("one has left its seat", || stage.route.session_table().len() == 1).await;
    stage.open();
    eventually("both have left", || stage.route.session_table().is_empty()).await;
    assert_eq!(server.psql_in("shop", "SELECT i FROM t").unwrap(), "2");
}

#[tokio::test]
async fn a_function_call_is_answered() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    // int4abs(-7), oid 1251, text formats.
    say(&mut client, |out| {
        let mut body = BytesMut::new();
        body.put_u32(1251);
        body.put_i16(0);
        body.put_i16(1);
        body.put_i32(2);
        body.put_slice(b"-7");
        body.put_i16(0);
        out.put_u8(frontend::tag::FUNCTION_CALL);
        out.put_i32(body.len() as i32 + 4);
        out.put_slice(&body);
    })
    .await;
    assert_eq!(hear(&mut client, "Z").await.0, "VZ");
    assert_eq!(stage.route.gate().inside(), 0);
}

#[tokio::test]
async fn a_query_of_twenty_megabytes_passes_with_and_without_a_gate() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    let sql = format!("SELECT length('{}')", "x".repeat(20_000_000));
    for held in [false, true] {
        if held {
            stage.hold();
        }
        let mut query = BytesMut::new();
        frontend::query(&mut query, &sql);
        let route = std::sync::Arc::clone(&stage.route);
        let opening = async {
            if held {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                assert_eq!(route.gate().inside(), 0);
                stage.open();
            }
        };
        let results = async { client.run(&query).await.unwrap() };
        let (results, ()) = tokio::join!(results, opening);
        assert_eq!(results[0].value(0, 0), Some("20000000"));
    }
}

#[tokio::test]
async fn an_idle_client_hears_why_its_server_connection_ended() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    server.psql(&format!("SELECT pg_terminate_backend({})", client.pid)).unwrap();
    let (tags, error) = hear(&mut client, "").await;
    assert_eq!(tags, "E");
    assert_eq!(error.unwrap().sqlstate().as_str(), "57P01");
}

#[tokio::test]
async fn a_client_is_told_when_the_server_vanishes_without_a_word() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    say(&mut client, |out| frontend::query(out, "SELECT pg_sleep(600)")).await;
    eventually("it runs", || stage.route.gate().inside() == 1).await;
    server.kill9().unwrap();
    let (tags, error) = hear(&mut client, "").await;
    assert_eq!(tags, "E");
    let error = error.unwrap();
    assert_eq!(error.sqlstate().as_str(), "57P01");
    assert!(!error.message().contains("127.0.0.1"));
}

#[tokio::test]
async fn a_length_that_cannot_be_ends_the_session_with_08p01() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[]).await;
    say(&mut client, |out| out.put_slice(b"Q\xff\xff\xff\xff")).await;
    let (tags, error) = hear(&mut client, "").await;
    assert_eq!((tags.as_str(), error.unwrap().sqlstate().as_str()), ("E", "08P01"));
    eventually("the session ends", || stage.route.session_table().is_empty()).await;
}

#[tokio::test]
async fn a_walsender_is_served_and_pinned() {
    let server = stage::server(Major::oldest());
    server.psql("ALTER ROLE app REPLICATION").unwrap();
    let stage = Stage::before(&server);
    let mut client = client(&stage, &server, &[("replication", "database")]).await;
    let results = client.query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(results[0].value(0, 3), Some("shop"));
    stage.order(|record| record.next = Some(stage::place(&server)));
    let pinned = || {
        let rows = stage.route.session_table().sessions();
        matches!(&rows[0].readiness, freehold::route::Readiness::Pinned { reasons, .. } if reasons[0].contains("replication"))
    };
    eventually("it is pinned", pinned).await;
}

/// PostgreSQL reads abbreviated booleans, too; a client that asks for no replication is one like any other.
#[tokio::test]
async fn a_client_that_says_no_to_replication_in_short_is_lent_its_connections() {
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 1;
    });
    let mut clients = Vec::new();
    for no in ["f", "fa", "n", "of", "FALSE", "Off", "0"] {
        let mut client = client(&stage, &server, &[("replication", no)]).await;
        client.query("SELECT 1").await.unwrap();
        clients.push(client);
    }
    let used = server.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").unwrap();
    assert_eq!(used, "1");
}

/// What a client left under pooling by transaction, as the next one sees it who has the same server
/// connection.
async fn left_by(stage: &Stage, server: &freehold::lab::Postgres, batches: &[BytesMut]) -> String {
    let mut attacker = client(stage, server, &[]).await;
    // What the database's functions do is known from here on.
    for _ in 0..2 {
        attacker.query("SELECT 1").await.unwrap();
    }
    for batch in batches {
        attacker.stream.write_all(batch).await.unwrap();
        // Some of it fails, on purpose.
        hear_all(&mut attacker, batch).await;
    }
    attacker.query("SELECT 1").await.unwrap();
    drop(attacker);
    let mut next = client(stage, server, &[]).await;
    let seen = "SELECT current_setting('work_mem'), coalesce(current_setting('attack.x', true), ''), \
                (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')";
    let results = next.query(seen).await.unwrap();
    (0..3).map(|at| results[0].value(0, at).unwrap().to_owned()).collect::<Vec<_>>().join("|")
}

/// Reads the answers to all of a batch: each Query and each Sync ends with a ReadyForQuery.
pub(crate) async fn hear_all(client: &mut ServerConnection, batch: &BytesMut) {
    let (mut rest, mut ends) = (batch.clone(), 0);
    while let Some(header) = Header::parse(&rest, 1 << 30).unwrap() {
        ends += usize::from(matches!(header.tag, frontend::tag::QUERY | frontend::tag::SYNC));
        let _ = rest.split_to(header.message_bytes());
    }
    let (tags, _) = hear_until(client, |tags| tags.matches('Z').count() >= ends).await;
    assert_eq!(tags.matches('Z').count(), ends, "{tags}");
}

pub(crate) fn messages(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    build(&mut out);
    out
}

pub(crate) fn bound(out: &mut BytesMut, portal: &[u8], statement: &[u8], values: &[&str]) {
    let mut body = BytesMut::new();
    for name in [portal, statement] {
        body.put_slice(name);
        body.put_u8(0);
    }
    body.put_i16(0);
    body.put_i16(values.len() as i16);
    for value in values {
        body.put_i32(value.len() as i32);
        body.put_slice(value.as_bytes());
    }
    body.put_i16(0);
    out.put_u8(frontend::tag::BIND);
    out.put_i32(body.len() as i32 + 4);
    out.put_slice(&body);
}

const SETS: &[u8] = b"select set_config($1,$2,false)";

fn run(out: &mut BytesMut, statement: &[u8], values: &[&str]) {
    bound(out, b"", statement, values);
    frontend::execute(out, b"", 0);
}

/// Sets one setting that PostgreSQL lists, and one that it does not.
fn run_twice(statement: &[u8]) -> BytesMut {
    messages(|out| {
        run(out, statement, &["work_mem", "7MB"]);
        run(out, statement, &["attack.x", "1"]);
        frontend::sync(out);
    })
}

fn parsed(statement: &[u8], sql: &[u8]) -> BytesMut {
    messages(|out| {
        frontend::parse(out, statement, sql, &[]);
        frontend::sync(out);
    })
}

/// Each confuses whoever keeps count of what was parsed and refused.
fn confusions_of_statements() -> Vec<(&'static str, Vec<BytesMut>)> {
    let deallocates = messages(|out| {
        frontend::query(out, "deallocate all");
        frontend::parse(out, b"s", SETS, &[]);
        frontend::sync(out);
    });
    let many = messages(|out| {
        (0..300).for_each(|number| frontend::parse(out, format!("m{number}").as_bytes(), SETS, &[]));
        frontend::sync(out);
    });
    let refused = parsed(b"r", b"select set_config('work_mem','4MB',false)");
    let unnamed = b"select set_config('work_mem','7MB',false), set_config('attack.x','1',false)";
    let skipped = messages(|out| {
        bound(out, b"", b"nope", &[]);
        frontend::parse(out, b"", b"select 1", &[]);
        frontend::sync(out);
    });
    let run_unnamed = messages(|out| {
        run(out, b"", &[]);
        frontend::sync(out);
    });
    vec![
        ("behind DEALLOCATE ALL", vec![deallocates, run_twice(b"s")]),
        ("more statements than are counted", vec![many, run_twice(b"m299")]),
        ("behind a Parse that is refused", vec![parsed(b"r", SETS), refused, run_twice(b"r")]),
        ("behind a Parse that is skipped", vec![parsed(b"", unnamed), skipped, run_unnamed]),
    ]
}

/// Each confuses whoever keeps count of portals, or reads a text before the server does.
fn confusions_of_texts() -> Vec<(&'static str, Vec<BytesMut>)> {
    let portals = messages(|out| {
        frontend::parse(out, b"p", SETS, &[]);
        for portal in 0..300 {
            bound(out, format!("portal {portal}").as_bytes(), b"p", &["work_mem", "7MB"]);
        }
        frontend::execute(out, b"portal 299", 0);
        bound(out, b"last", b"p", &["attack.x", "1"]);
        frontend::execute(out, b"last", 0);
        frontend::sync(out);
    });
    let query = |sql: &str| messages(|out| frontend::query(out, sql));
    let another_rule = messages(|out| {
        frontend::query(out, "set standard_conforming_strings=off");
        frontend::query(out, "select '\\'', U&\"set\\005fconfig\"('attack.x','1',false) --'");
    });
    let large =
        format!("/*{}*/ select set_config('attack.x','1',false), pg_advisory_lock(77)", "x".repeat(9000));
    vec![
        ("more portals than are counted", vec![query("begin"), portals, query("commit")]),
        ("a rule of literals in the same write", vec![another_rule]),
        ("a large text", vec![query(&large)]),
    ]
}

#[tokio::test]
async fn a_client_that_confuses_the_tracker_leaves_nothing_to_the_next_one() {
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| {
        record.terms.pooling = freehold::model::Pooling::Transaction;
        record.terms.server_connections_max = 1;
    });
    for (what, batches) in confusions_of_statements().into_iter().chain(confusions_of_texts()) {
        assert_eq!(left_by(&stage, &server, &batches).await, "4MB||0", "{what}");
    }
}
