//! What a client and its server say to each other arrives.

use std::time::Duration;

use bytes::Bytes;
use freehold::lab::Major;
use freehold::model::Pooling;
use freehold::wire::message::frontend;
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;

use super::memory::{is_alone, resident_bytes};
use super::raw;
use super::stage::{self, Stage, eventually, text};

#[test]
fn psql_and_pgbench_in_all_modes_work_through_it() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let output = stage.psql(&server, "SELECT 1 + 1;\nSELECT broken;\nSELECT current_user;\n");
    assert_eq!(text(&output.stdout), "2\napp");
    assert!(text(&output.stderr).contains("column \"broken\" does not exist"));

    let init = stage.program(&server, "pgbench").args(["-i", "-q", "-s", "1"]).output().unwrap();
    assert!(init.status.success(), "{}", text(&init.stderr));
    for mode in ["simple", "extended", "prepared"] {
        let mut pgbench = stage.program(&server, "pgbench");
        let output = pgbench.args(["-n", "-M", mode, "-c", "6", "-t", "50"]).output().unwrap();
        assert!(output.status.success(), "{mode}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("number of transactions actually processed: 300/300"));
    }
    let branches = server.psql_in("shop", "SELECT count(*) FROM pgbench_history").unwrap();
    assert_eq!(branches, "900");
}

#[tokio::test]
async fn prepared_statements_pipelines_and_errors_work_through_it() {
    let server = stage::server(Major::newest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    let statement = client.prepare("SELECT $1::int + $2::int").await.unwrap();
    let sums = (0..50).map(|number| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&number, &1]).await.unwrap().get::<_, i32>(0) }
    });
    let sums = futures_util::future::join_all(sums).await;
    assert_eq!(sums, (1..=50).collect::<Vec<_>>());

    let error = client.query("SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    assert_eq!(client.query_one("SELECT 'still here'", &[]).await.unwrap().get::<_, &str>(0), "still here");
}

#[tokio::test]
async fn copy_in_and_out_and_its_failures_work_through_it() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    client.batch_execute("CREATE TABLE line (id int, note text)").await.unwrap();

    let sink = client.copy_in("COPY line FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for chunk in 0..100 {
        let rows: String = (0..1000).map(|row| format!("{}\tnote {row}\n", chunk * 1000 + row)).collect();
        sink.send(Bytes::from(rows)).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 100_000);

    let stream = client.copy_out("COPY line TO STDOUT").await.unwrap();
    pin_mut!(stream);
    let mut bytes = 0;
    while let Some(chunk) = stream.try_next().await.unwrap() {
        bytes += chunk.len();
    }
    assert!(bytes > 1_000_000);

    let sink = client.copy_in("COPY line FROM STDIN").await.unwrap();
    pin_mut!(sink);
    sink.send(Bytes::from_static(b"not a number\tx\n")).await.unwrap();
    assert!(sink.finish().await.is_err());
    let count: i64 = client.query_one("SELECT count(*) FROM line", &[]).await.unwrap().get(0);
    assert_eq!(count, 100_000);
    // Every failed COPY above left the ledger right: the gate is empty.
    eventually("the gate is empty", || stage.route.gate().inside() == 0).await;
}

#[tokio::test]
async fn a_result_of_100_megabytes_streams_to_a_slow_reader_in_bounded_memory() {
    if !is_alone("relay::a_result_of_100_megabytes_streams_to_a_slow_reader_in_bounded_memory") {
        return;
    }
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    let before = resident_bytes();
    let rows = client
        .query_raw("SELECT repeat('x', 1000000) FROM generate_series(1, 100)", Vec::<i32>::new())
        .await
        .unwrap();
    pin_mut!(rows);
    let (mut bytes, mut most) = (0, 0);
    while let Some(row) = rows.next().await {
        bytes += row.unwrap().get::<_, &str>(0).len();
        tokio::time::sleep(Duration::from_millis(5)).await;
        most = most.max(resident_bytes().saturating_sub(before));
    }
    assert_eq!(bytes, 100_000_000);
    assert!(most < 60 << 20, "the process grew by {most} bytes");
}

/// A request of six bytes takes more than a hundred while its answer is missing.
#[tokio::test]
async fn a_client_that_asks_and_never_listens_takes_bounded_memory() {
    if !is_alone("relay::a_client_that_asks_and_never_listens_takes_bounded_memory") {
        return;
    }
    const ASKED: usize = 4_000_000;
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| record.terms.pooling = Pooling::Transaction);
    let mut client = raw::client(&stage, &server, &[]).await;
    let before = resident_bytes();
    let batch = raw::messages(|out| (0..10_000).for_each(|_| frontend::parse(out, b"", b"", &[])));
    for _ in 0..ASKED / 10_000 {
        // It is not read any more.
        let sent = tokio::time::timeout(Duration::from_secs(2), client.stream.write_all(&batch)).await;
        if sent.is_err() {
            break;
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 60 << 20, "the process grew by {grown} bytes");
}

#[tokio::test]
async fn a_cancel_request_ends_the_query_of_its_session_and_no_other() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (victim, bystander) = (stage.connect().await, stage.connect().await);
    let token = victim.cancel_token();
    let sleeping = tokio::spawn(async move { victim.batch_execute("SELECT pg_sleep(600)").await });
    let running = tokio::spawn(async move {
        bystander.batch_execute("SELECT pg_sleep(2)").await?;
        Ok::<_, tokio_postgres::Error>(())
    });
    let sleepers = || server.psql("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'");
    eventually("both sleep", || sleepers().unwrap() == "2").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = sleeping.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn notifications_and_settings_reach_an_idle_client() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (client, mut connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = futures_util::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                heard.send(notification.payload().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute("LISTEN news").await.unwrap();
    server.psql_in("shop", "NOTIFY news, 'good'").unwrap();
    assert_eq!(hears.recv().await.unwrap(), "good");
}

#[tokio::test]
async fn the_transaction_of_a_client_that_vanishes_is_rolled_back() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    client.batch_execute("CREATE TABLE t (i int)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(stage.route.gate().inside(), 1);
    drop(client);
    let connected = || server.psql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'").unwrap();
    eventually("the server connection is closed", || connected() == "0").await;
    eventually("the pass is back", || stage.route.gate().inside() == 0).await;
    eventually("the seat is free", || stage.route.session_table().is_empty()).await;
    assert_eq!(server.psql_in("shop", "SELECT count(*) FROM t").unwrap(), "0");
}

#[tokio::test]
async fn what_ends_a_server_connection_is_told_to_the_client_in_the_servers_words() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let running = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await });
    let sleepers = || server.psql("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'");
    eventually("it sleeps", || sleepers().unwrap() == "1").await;
    server.psql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert!(error.as_db_error().unwrap().message().contains("administrator command"));
}

#[tokio::test]
async fn startup_parameters_and_options_reach_the_server() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let mut config = stage.config();
    config.application_name("till").options("-c statement_timeout=7s -c search_path=a,b");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for (setting, value) in
        [("application_name", "till"), ("statement_timeout", "7s"), ("search_path", "a,b")]
    {
        let row = client.query_one("SELECT current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value);
    }
    assert_eq!(stage.route.session_table().sessions()[0].application_name, "till");
}

#[tokio::test]
async fn too_many_clients_are_refused_with_53300() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    stage.order(|record| record.terms.client_connections_max = 1);
    let _first = stage.connect().await;
    let error = stage.config().connect(tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
}

#[tokio::test]
async fn a_shutdown_waits_for_transactions_and_tells_the_rest_57p01() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (busy, idle) = (stage.connect().await, stage.connect().await);
    busy.batch_execute("CREATE TABLE t (i int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let Stage { plane, route, .. } = stage;
    let stopping = tokio::spawn(plane.shutdown(stage::PATIENCE));
    eventually("the idle session ends", || route.session_table().len() == 1).await;
    assert!(idle.batch_execute("SELECT 1").await.is_err());
    busy.batch_execute("COMMIT").await.unwrap();
    stopping.await.unwrap();
    assert_eq!(server.psql_in("shop", "SELECT count(*) FROM t").unwrap(), "1");
}
