//! Transaction pooling: connections that are lent for one transaction, and clients that must not notice.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use freehold::lab::{Major, Postgres};
use freehold::model::{GateOrder, Pooling};
use freehold::route::{Activity, SessionRow};
use freehold::wire::message::{Target, frontend};
use tokio::io::AsyncWriteExt;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::stage::{PATIENCE, Stage, WORKERS, eventually, server};
use super::{orders, raw};

/// A server behind which so many connections are shared. A single one is shared by all clients: each worker
/// would have its own.
fn stage(connections: u32) -> (Postgres, Stage) {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = WORKERS.min(connections as usize));
    share(&stage, connections);
    (server, stage)
}

fn share(stage: &Stage, connections: u32) {
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = connections;
    });
}

pub(crate) async fn ask(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut values = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            values.push((0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect::<Vec<_>>().join("|"));
        }
    }
    values.join(",")
}

fn backends(server: &Postgres) -> String {
    server.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_use_few_connections_and_each_keeps_its_settings() {
    let (server, stage) = stage(2);
    let mut clients = Vec::new();
    for at in 0..8 {
        let client = stage.connect().await;
        ask(&client, &format!("SET app.me = 'client {at}'; SET work_mem = '{}kB'", 1025 + at)).await;
        clients.push(client);
    }
    for _ in 0..3 {
        for (at, client) in clients.iter().enumerate() {
            let found = ask(client, "SELECT current_setting('app.me'), current_setting('work_mem')").await;
            assert_eq!(found, format!("client {at}|{}kB", 1025 + at));
        }
    }
    let fresh = stage.connect().await;
    let found = ask(
        &fresh,
        "SELECT coalesce(nullif(current_setting('app.me', true), ''), 'none'), current_setting('work_mem')",
    )
    .await;
    assert_eq!(found, "none|4MB");
    assert!(backends(&server).parse::<u32>().unwrap() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_has_the_name_of_one_of_ours_is_a_function_like_any_other() {
    let (_server, stage) = stage(1);
    let made = "CREATE SCHEMA freehold;
        CREATE FUNCTION freehold.recall_sequences(text[], bigint[], text, bigint, boolean) RETURNS boolean LANGUAGE plpgsql
            AS 'BEGIN PERFORM set_config(''app.tenant'', ''A'', false), set_config(''work_mem'', ''7MB'', false); RETURN true; END';
        CREATE VIEW recalls AS SELECT freehold.recall_sequences(NULL, NULL, NULL, NULL, NULL) AS x";
    ask(&stage.connect().await, made).await;
    let (one, other) = (stage.connect().await, stage.connect().await);
    for _ in 0..3 {
        assert_eq!(ask(&one, "SELECT x FROM recalls").await, "t");
        let found = ask(&other, "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), 'none'), current_setting('work_mem')").await;
        assert_eq!(found, "none|4MB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_stays_on_its_connection() {
    let (_server, stage) = stage(2);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "CREATE TABLE t (n int)").await;
    ask(&one, "BEGIN").await;
    ask(&one, "INSERT INTO t VALUES (1)").await;
    for _ in 0..5 {
        assert_eq!(ask(&other, "SELECT count(*) FROM t").await, "0");
        assert_eq!(ask(&one, "SELECT count(*) FROM t").await, "1");
    }
    ask(&one, "ROLLBACK").await;
    assert_eq!(ask(&one, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_follow_the_client_under_whatever_names_others_use() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    // tokio-postgres counts: both clients call their first statement s0.
    let first = one.prepare("SELECT $1::int + 1").await.unwrap();
    let second = other.prepare("SELECT $1::int * 100").await.unwrap();
    for n in 0..4_i32 {
        let a: i32 = one.query_one(&first, &[&n]).await.unwrap().get(0);
        let b: i32 = other.query_one(&second, &[&n]).await.unwrap().get(0);
        assert_eq!((a, b), (n + 1, n * 100));
    }
    drop(first);
    let again = one.prepare("SELECT $1::int + 1").await.unwrap();
    let a: i32 = one.query_one(&again, &[&1_i32]).await.unwrap().get(0);
    assert_eq!(a, 2);
    let error = one.prepare("SELECT nonsense").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42703");
    let b: i32 = other.query_one(&second, &[&5_i32]).await.unwrap().get(0);
    assert_eq!(b, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_statements_are_parsed_once_for_all_where_that_is_asked_for() {
    use tokio_postgres::types::Type;
    for caches in [true, false] {
        let server = server(Major::oldest());
        let stage = Stage::configured(&server, |config| config.pool.caches_unnamed = caches);
        // One for each worker: they stay open.
        share(&stage, WORKERS as u32);
        let (one, other) = (stage.connect().await, stage.connect().await);
        for n in 0..4_i32 {
            let a = one.query_typed("SELECT $1 + 1", &[(&n, Type::INT4)]).await.unwrap();
            let b = other.query_typed("SELECT $1 + 1", &[(&n, Type::INT4)]).await.unwrap();
            let c = other.query_typed("SELECT $1 * 3", &[(&n, Type::INT4)]).await.unwrap();
            let found: Vec<i32> = [a, b, c].iter().map(|rows| rows[0].get(0)).collect();
            assert_eq!(found, [n + 1, n + 1, n * 3]);
        }
        let error = one.query_typed("SELECT nonsense", &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42703");
        assert_eq!(ask(&other, "SELECT 'goes on'").await, "goes on");
        let kept =
            ask(&other, "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'freehold%'").await;
        assert_eq!(kept, if caches { "2" } else { "0" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_made_by_sql_follow_the_client() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "PREPARE double(int) AS SELECT $1 * 2").await;
    ask(&other, "PREPARE double(int) AS SELECT $1 * 2000").await;
    for _ in 0..3 {
        assert_eq!(ask(&one, "EXECUTE double(4)").await, "8");
        assert_eq!(ask(&other, "EXECUTE double(4)").await, "8000");
    }
    ask(&one, "DEALLOCATE double").await;
    let error = one.simple_query("EXECUTE double(4)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "26000");
    assert_eq!(ask(&other, "EXECUTE double(4)").await, "8000");
    ask(&other, "DISCARD ALL").await;
    let error = other.simple_query("EXECUTE double(4)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_local_settings_do_what_they_do_without_a_pool() {
    let (server, stage) = stage(1);
    server.psql("CREATE ROLE reader; GRANT reader TO app").unwrap();
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "SET ROLE reader").await;
    assert_eq!(ask(&other, "SELECT current_user").await, "app");
    assert_eq!(ask(&one, "SELECT current_user").await, "reader");
    ask(&other, "BEGIN; SET LOCAL app.tenant = '7'; COMMIT").await;
    assert_eq!(
        ask(&one, "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), 'none')").await,
        "none"
    );
    ask(&one, "RESET ROLE").await;
    assert_eq!(ask(&one, "SELECT current_user").await, "app");
}

/// PostgreSQL refuses to change `temp_buffers` in a session that has used a temporary table, for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_settings_a_used_connection_refuses_gets_a_new_one() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "SET temp_buffers = '16MB'").await;
    for _ in 0..2 {
        other
            .batch_execute(
                "BEGIN; CREATE TEMP TABLE z (a int) ON COMMIT DROP; INSERT INTO z VALUES (1); COMMIT",
            )
            .await
            .unwrap();
        assert_eq!(ask(&one, "SHOW temp_buffers").await, "16MB");
        assert_eq!(ask(&other, "SHOW temp_buffers").await, "8MB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_over_keeps_its_connection_and_says_why() {
    let (_server, stage) = stage(3);
    let (one, other) = (stage.connect().await, stage.connect().await);
    for (make, undo, reason) in [
        ("CREATE TEMP TABLE cart (n int)", "DROP TABLE cart", "temporary table \"cart\""),
        ("SELECT pg_advisory_lock(42)", "SELECT pg_advisory_unlock(42)", "advisory lock (42)"),
        ("LISTEN news", "UNLISTEN news", "LISTEN \"news\""),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE c", "cursor \"c\" WITH HOLD"),
    ] {
        ask(&one, make).await;
        let pid = ask(&one, "SELECT pg_backend_pid()").await;
        for _ in 0..3 {
            assert_ne!(ask(&other, "SELECT pg_backend_pid()").await, pid, "{make}");
            assert_eq!(ask(&one, "SELECT pg_backend_pid()").await, pid, "{make}");
        }
        let rows = stage.route.session_table().sessions();
        let shown = format!("{:?}", rows.iter().map(|row| &row.readiness).collect::<Vec<_>>());
        assert!(shown.contains(&reason.replace('"', "\\\"")), "{shown}");
        ask(&one, undo).await;
        let free = || stage.route.session_table().sessions().iter().all(|row| row.server_pid.is_none());
        eventually(undo, free).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_wait_in_line_and_one_that_waits_too_long_is_told_and_stays() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "BEGIN").await;
    let waiting = tokio::spawn(async move {
        let found = ask(&other, "SELECT 'served'").await;
        (found, other)
    });
    let waits =
        || stage.route.session_table().sessions().iter().any(|row| row.activity.as_str() == "waiting");
    eventually("the other waits", waits).await;
    ask(&one, "COMMIT").await;
    let (found, _other) = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(found, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_log_in_while_every_connection_is_in_use() {
    let (_server, stage) = stage(1);
    let busy = stage.connect().await;
    ask(&busy, "BEGIN").await;
    // On each of the workers.
    for _ in 0..4 {
        let (client, connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
        drop((client, connection));
    }
    ask(&busy, "COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_in_line_can_cancel() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "BEGIN").await;
    let token = other.cancel_token();
    let waiting = tokio::spawn(async move { (other.simple_query("SELECT 1").await.unwrap_err(), other) });
    let waits =
        || stage.route.session_table().sessions().iter().any(|row| row.activity.as_str() == "waiting");
    eventually("the other waits", waits).await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let (error, other) = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(error.code().unwrap().code(), "57014");
    ask(&one, "COMMIT").await;
    assert_eq!(ask(&other, "SELECT 2").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_a_transaction_leaves_nothing_behind() {
    let (_server, stage) = stage(1);
    let one = stage.connect().await;
    ask(&one, "CREATE TABLE t (n int)").await;
    ask(&one, "BEGIN; INSERT INTO t VALUES (1)").await;
    drop(one);
    let other = stage.connect().await;
    assert_eq!(ask(&other, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_moves_and_nobody_notices() {
    let (server, stage) = stage(2);
    let target = super::stage::server(Major::newest());
    super::stage::copy_verifier(&server, &target);
    let mut clients = Vec::new();
    for at in 0..6 {
        let client = stage.connect().await;
        ask(&client, &format!("SET app.me = '{at}'")).await;
        let statement = client.prepare("SELECT current_setting('app.me') || $1::text").await.unwrap();
        clients.push((client, statement));
    }
    let before = ask(&clients[0].0, "SHOW server_version_num").await;
    stage.hold();
    let place = super::stage::place(&target);
    stage.order(|record| {
        record.place = place;
        record.epoch = record.epoch.next();
        record.gate = GateOrder::Open;
    });
    for (at, (client, statement)) in clients.iter().enumerate() {
        let found: String = client.query_one(statement, &[&"!"]).await.unwrap().get(0);
        assert_eq!(found, format!("{at}!"));
        assert_ne!(ask(client, "SHOW server_version_num").await, before);
    }
    eventually("connections to where it was are closed", || backends(&server) == "0").await;
}

/// The old place's connections are closed while the gate is held, so the request waits for one and not at the
/// gate.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_connection_in_a_hold_counts_as_held() {
    let (server, stage) = stage(2);
    let target = super::stage::server(Major::newest());
    super::stage::copy_verifier(&server, &target);
    let client = stage.connect().await;
    ask(&client, "SELECT 1").await;
    stage.hold();
    let _ = stage.route.gate().take_stalls();
    let place = super::stage::place(&target);
    stage.order(|record| {
        record.place = place;
        record.epoch = record.epoch.next();
    });
    let asked = tokio::spawn(async move { ask(&client, "SELECT 1").await });
    let waits = |row: &SessionRow| row.activity == Activity::Waiting;
    eventually("the request waits", || stage.route.session_table().sessions().iter().any(waits)).await;
    let held = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let held = held.elapsed();
    stage.order(|record| record.gate = GateOrder::Open);
    asked.await.unwrap();
    let stalls = stage.route.gate().stalls();
    assert_eq!(stalls.held, 1);
    assert!(stalls.longest >= held, "{stalls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced_before_anybody_gets_it() {
    let (server, stage) = stage(1);
    let client = stage.connect().await;
    for _ in 0..3 {
        // The second one is served when nothing is asked about the first any more.
        ask(&client, "SELECT 1").await;
        ask(&client, "SELECT 1").await;
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").unwrap();
        eventually("it has ended", || backends(&server) == "0").await;
    }
    assert_eq!(ask(&client, "SELECT 'alive'").await, "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_tables_were_altered_is_prepared_anew() {
    let (_server, stage) = stage(2);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let text = "SELECT * FROM t";
    let old = one.prepare(text).await.unwrap();
    assert_eq!(one.query_one(&old, &[]).await.unwrap().len(), 1);
    ask(&other, "ALTER TABLE t ADD b int").await;
    let fresh = other.prepare(text).await.unwrap();
    assert_eq!(other.query_one(&fresh, &[]).await.unwrap().len(), 2);
    // A client that prepared before may be told what PostgreSQL tells it, and prepares again.
    drop(old);
    let again = one.prepare(text).await.unwrap();
    assert_eq!(one.query_one(&again, &[]).await.unwrap().len(), 2);
}

/// Two clients that use one worker's only connection by turns: nothing of the one may be the other's.
#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_statement_is_its_clients_own() {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    share(&stage, 1);
    // Each boundary asks for the state: any query may have changed it.
    server
        .psql_in(
            "shop",
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('a.b', '1', false) $$",
        )
        .unwrap();
    let mut one = raw::client(&stage, &server, &[]).await;
    let mut other = raw::client(&stage, &server, &[]).await;
    let parse = |sql: &str| built(|out| frontend::parse(out, b"", sql.as_bytes(), &[]));
    let bind = || {
        built(|out| {
            frontend::bind(out, b"", b"", &[]);
            frontend::execute(out, b"", 0);
        })
    };
    one.run(&parse("SELECT 'one'")).await.unwrap();
    other.run(&bind()).await.unwrap_err();
    other.run(&parse("SELECT 'other'")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(one.run(&bind()).await.unwrap()[0].value(0, 0), Some("one"));
        assert_eq!(other.run(&bind()).await.unwrap()[0].value(0, 0), Some("other"));
    }
    other.query("SELECT 1").await.unwrap();
    other.run(&bind()).await.unwrap_err();
    assert_eq!(one.run(&bind()).await.unwrap()[0].value(0, 0), Some("one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_survives_what_the_server_skips_and_nothing_else() {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    share(&stage, 1);
    let mut one = raw::client(&stage, &server, &[]).await;
    let mut other = raw::client(&stage, &server, &[]).await;
    let parse = |sql: &str| built(|out| frontend::parse(out, b"", sql.as_bytes(), &[]));
    let run = built(|out| {
        frontend::bind(out, b"", b"", &[]);
        frontend::execute(out, b"", 0);
    });
    let skipped = built(|out| {
        frontend::bind(out, b"", b"there is none", &[]);
        frontend::parse(out, b"", b"SELECT 'skipped'", &[]);
        frontend::close(out, Target::Statement, b"");
    });
    one.run(&parse("SELECT 'first'")).await.unwrap();
    for between in ["SELECT 'other'", "SELECT 'another'"] {
        one.run(&skipped).await.unwrap_err();
        other.run(&parse(between)).await.unwrap();
        assert_eq!(one.run(&run).await.unwrap()[0].value(0, 0), Some("first"));
    }
    // Sent in one piece: what the last one means is known when the error has come.
    other.run(&parse("SELECT 'other'")).await.unwrap();
    let replies = one.run_each(&[&skipped[..], &run].concat()).await.unwrap();
    assert!(replies[0].error.is_some());
    assert_eq!(replies[1].results[0].value(0, 0), Some("first"));
    one.run(&parse("SELECT nonsense")).await.unwrap_err();
    one.run(&run).await.unwrap_err();
    assert_eq!(other.run(&run).await.unwrap()[0].value(0, 0), Some("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_what_is_no_message_spoils_no_connection() {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    share(&stage, 1);
    let other = stage.connect().await;
    for _ in 0..20 {
        let mut one = raw::client(&stage, &server, &[]).await;
        let mut out = BytesMut::from(&b"y\0\0\0\x04"[..]);
        frontend::sync(&mut out);
        one.stream.write_all(&out).await.unwrap();
        assert_eq!(ask(&other, "SELECT 'served'").await, "served");
    }
}

fn built(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    build(&mut out);
    frontend::sync(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_means_what_its_clients_settings_say() {
    let (_server, stage) = stage(1);
    let (one, other) = (stage.connect().await, stage.connect().await);
    ask(&one, "SET DateStyle = 'ISO, MDY'").await;
    ask(&other, "SET DateStyle = 'ISO, DMY'").await;
    let text = "SELECT '01/02/2020'::date::text";
    let (first, second) = (one.prepare(text).await.unwrap(), other.prepare(text).await.unwrap());
    for _ in 0..2 {
        let found: String = one.query_one(&first, &[]).await.unwrap().get(0);
        assert_eq!(found, "2020-01-02");
        let found: String = other.query_one(&second, &[]).await.unwrap().get(0);
        assert_eq!(found, "2020-02-01");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_driver_prepared_can_be_executed_and_deallocated_by_sql() {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    share(&stage, 1);
    let mut one = raw::client(&stage, &server, &[]).await;
    let mut other = raw::client(&stage, &server, &[]).await;
    one.query("CREATE TABLE t (n int)").await.unwrap();
    let text = b"SELECT count(*) FROM t";
    one.run(&built(|out| frontend::parse(out, b"S_1", text, &[]))).await.unwrap();
    other.run(&built(|out| frontend::parse(out, b"S_9", text, &[]))).await.unwrap();
    assert_eq!(one.query("EXECUTE \"S_1\"").await.unwrap()[0].value(0, 0), Some("0"));
    // In a transaction that has failed nothing is deallocated.
    one.query("BEGIN").await.unwrap();
    one.query("SELECT nonsense").await.unwrap_err();
    one.query("DEALLOCATE \"S_1\"").await.unwrap_err();
    one.query("ROLLBACK").await.unwrap();
    assert_eq!(one.query("EXECUTE \"S_1\"").await.unwrap()[0].value(0, 0), Some("0"));
    // On a connection where it cannot be made any more.
    other.query("DROP TABLE t").await.unwrap();
    let execute = tokio::time::timeout(PATIENCE, one.query("EXECUTE \"S_1\"")).await.unwrap();
    execute.unwrap_err();
    tokio::time::timeout(PATIENCE, one.query("DEALLOCATE \"S_1\"")).await.unwrap().unwrap();
    one.query("EXECUTE \"S_1\"").await.unwrap_err();
    other.query("CREATE TABLE t (n int)").await.unwrap();
    assert_eq!(other.query("EXECUTE \"S_9\"").await.unwrap()[0].value(0, 0), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_client_moves_with_the_statements_that_its_driver_prepared() {
    let (server, stage) = stage(2);
    let target = super::stage::server(Major::newest());
    super::stage::copy_verifier(&server, &target);
    let client = stage.connect().await;
    let statement = client.prepare("SELECT $1::int + 1").await.unwrap();
    ask(&client, "LISTEN news").await;
    let pinned = || stage.route.session_table().sessions().iter().any(|row| row.server_pid.is_some());
    eventually("it is pinned", pinned).await;
    orders::move_to(&stage, &orders::target(&target)).await;
    for n in 0..3_i32 {
        let found: i32 = client.query_one(&statement, &[&n]).await.unwrap().get(0);
        assert_eq!(found, n + 1);
    }
    ask(&client, "UNLISTEN news").await;
    let found: i32 = client.query_one(&statement, &[&7_i32]).await.unwrap().get(0);
    assert_eq!(found, 8);
}

/// Types keep their OIDs in a move: made in the same order on servers that are new, they have the same ones
/// here.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_were_kept_call_the_same_functions_after_a_move() {
    let (server, stage) = stage(2);
    let target = super::stage::server(Major::oldest());
    super::stage::copy_verifier(&server, &target);
    let sql = "CREATE TYPE mood AS ENUM ('sad', 'ok'); SELECT 'mood'::regtype::oid";
    let oids = [&server, &target].map(|server| server.psql_in("shop", sql).unwrap());
    assert_eq!(oids[0], oids[1]);
    for server in [&server, &target] {
        for argument in ["mood", "text"] {
            let sql = "CREATE FUNCTION fo({}) RETURNS text LANGUAGE sql AS $$ SELECT '{}'::text $$";
            server.psql_in("shop", &sql.replace("{}", argument)).unwrap();
        }
    }
    let mood = oids[0].lines().last().unwrap().parse().unwrap();
    let mut client = raw::client(&stage, &server, &[]).await;
    for (name, sql) in [(&b"named"[..], &b"SELECT 'n' || fo($1)"[..]), (b"", b"SELECT 'u' || fo($1)")] {
        client.run(&built(|out| frontend::parse(out, name, sql, &[mood]))).await.unwrap();
    }
    let mut places = [orders::target(&target), super::stage::place(&server)].into_iter();
    loop {
        for (name, expected) in [(&b"named"[..], "nmood"), (b"", "umood")] {
            let execute = built(|out| {
                frontend::bind(out, b"", name, &[Some(b"ok")]);
                frontend::execute(out, b"", 0);
            });
            assert_eq!(client.run(&execute).await.unwrap()[0].value(0, 0), Some(expected));
        }
        let Some(place) = places.next() else { break };
        orders::move_to(&stage, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_the_middle_of_a_query_spoils_no_connection() {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    share(&stage, 1);
    let other = stage.connect().await;
    for _ in 0..3 {
        let mut one = raw::client(&stage, &server, &[]).await;
        let mut out = BytesMut::new();
        frontend::query(&mut out, "SELECT pg_sleep(0.1)");
        frontend::terminate(&mut out);
        one.stream.write_all(&out).await.unwrap();
        assert_eq!(ask(&other, "SELECT 'served'").await, "served");
    }
}

/// Each function gives another answer where it was read, or planned, with another client's settings.
const READ_ONCE: &str = "
    CREATE FUNCTION public.midnight() RETURNS text LANGUAGE plpgsql AS
        $$BEGIN RETURN extract(epoch FROM '2024-01-01 00:00'::timestamptz)::bigint; END$$;
    CREATE FUNCTION public.day() RETURNS text LANGUAGE plpgsql AS
        $$BEGIN RETURN extract(month FROM '01/02/2003'::date); END$$;
    CREATE FUNCTION public.nothing(x int) RETURNS text LANGUAGE plpgsql AS
        $$BEGIN IF x = null THEN RETURN 'null'; END IF; RETURN 'other'; END$$;
    CREATE FUNCTION public.path() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN length('C:\\new'); END$$;";

const READ_ALL: &str = "SELECT midnight(), day(), nothing(NULL), path()";

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_read_for_each_client_as_its_own_settings_say() {
    let (server, stage) = stage(1);
    server.psql_in("shop", READ_ONCE).unwrap();
    let expected = "1704067200|1|other|6";
    let settings = [
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'ISO, DMY'",
        "transform_null_equals = on",
        "standard_conforming_strings = off",
    ];
    for setting in settings {
        // A new connection, which has not read the functions yet.
        stage.order(|record| record.generation += 1);
        let other = stage.connect().await;
        ask(&other, &format!("SET {setting}")).await;
        assert_ne!(ask(&other, READ_ALL).await, expected, "{setting}");
        let next = stage.connect().await;
        assert_eq!(ask(&next, READ_ALL).await, expected, "after SET {setting}");

        stage.order(|record| record.generation += 1);
        ask(&next, "BEGIN").await;
        ask(&next, &format!("SET LOCAL {setting}")).await;
        assert_ne!(ask(&next, READ_ALL).await, expected, "{setting}");
        ask(&next, "COMMIT").await;
        assert_eq!(ask(&next, READ_ALL).await, expected, "after SET LOCAL {setting}");

        stage.order(|record| record.generation += 1);
        ask(&next, &format!("BEGIN; SET LOCAL {setting}; {READ_ALL}; COMMIT")).await;
        assert_eq!(ask(&next, READ_ALL).await, expected, "after {setting} within one text");
        let other_again = ask(&other, READ_ALL).await;
        assert_ne!(other_again, expected, "{setting} is still its client's");
    }
}
