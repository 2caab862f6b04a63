//! How long clients may take.

use std::time::Duration;

use freehold::lab::Major;
use freehold::session::TimeLimits;

use super::stage::{PATIENCE, Stage, eventually, server};

const SHORT: Option<Duration> = Some(Duration::from_millis(300));

/// Does what `sql` says and waits for the end of the connection; the code of the last error.
async fn ending(stage: &Stage, sql: &str) -> String {
    let (client, mut connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(async move {
        std::future::poll_fn(|cx| {
            loop {
                match std::task::ready!(connection.poll_message(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return std::task::Poll::Ready(Some(error)),
                    None => return std::task::Poll::Ready(None),
                }
            }
        })
        .await
    });
    let asked = client.batch_execute(sql).await;
    let error = match asked {
        Err(error) => Some(error),
        Ok(()) => tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap(),
    };
    error.and_then(|error| error.code().map(|code| code.code().to_owned())).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_nothing_is_ended_and_one_that_works_is_not() {
    let server = server(Major::oldest());
    let stage = Stage::limited(&server, TimeLimits { idle: SHORT, ..TimeLimits::default() });
    assert_eq!(ending(&stage, "SELECT pg_sleep(1)").await, "57P05", "after its query, not in it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nobody_goes_on_with_is_ended_and_rolled_back() {
    let server = server(Major::oldest());
    let limits = TimeLimits { idle_in_transaction: SHORT, ..TimeLimits::default() };
    let stage = Stage::limited(&server, limits);
    server.psql_in("shop", "CREATE TABLE t (n int); GRANT ALL ON t TO app").unwrap();
    assert_eq!(ending(&stage, "BEGIN; LOCK TABLE t").await, "25P03");
    let locked = || {
        server.psql_in("shop", "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass").unwrap() != "0"
    };
    eventually("its lock is gone", || !locked()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_short_queries_may_not_take_for_ever() {
    let server = server(Major::oldest());
    let limits = TimeLimits { transaction: SHORT, ..TimeLimits::default() };
    let stage = Stage::limited(&server, limits);
    let client = stage.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let error = loop {
        if let Err(error) = client.batch_execute("SELECT pg_sleep(0.01)").await {
            break error;
        }
    };
    assert_eq!(error.code().unwrap().code(), "25P04");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_on_the_server_too() {
    let server = server(Major::oldest());
    let stage = Stage::limited(&server, TimeLimits { query: SHORT, ..TimeLimits::default() });
    assert_eq!(ending(&stage, "SELECT pg_sleep(600)").await, "57014");
    let runs = || {
        server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()").unwrap()
    };
    eventually("nobody sleeps", || runs() == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_at_a_shut_gate_is_nobodys_fault() {
    let server = server(Major::oldest());
    let limits = TimeLimits { query: SHORT, transaction: SHORT, idle: None, idle_in_transaction: SHORT };
    let stage = Stage::limited(&server, limits);
    let client = stage.connect().await;
    client.batch_execute("SELECT 1").await.unwrap();
    stage.hold();
    let asked = tokio::spawn(async move { client.batch_execute("SELECT 1").await });
    let held = || stage.route.roster().sessions().iter().any(|row| row.activity.as_str() == "held");
    eventually("it waits", held).await;
    // Several looks at the clocks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.open();
    tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
}
