//! How long clients may take, and how long their messages may be.

use std::sync::Arc;
use std::time::Duration;

use freehold::lab::Major;
use freehold::model::quotas::MESSAGE_SIZES;
use freehold::model::{
    ByteSize, DatabaseName, Pooling, Quotas, RoleLimits, RoleName, RolesLimits, RouteRecord, Timeouts,
};
use freehold::session::LimitsPolicy;
use freehold::wire::message::HEADER_BYTES;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use super::stage::{PATIENCE, Stage, eventually, server};

const SHORT: Option<Duration> = Some(Duration::from_millis(300));

/// A client, and the error that its connection ends with.
async fn observed(stage: &Stage) -> (Client, JoinHandle<Option<Error>>) {
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
    (client, ended)
}

/// Code and hint.
fn told(error: Option<Error>) -> (String, String) {
    let error = error.unwrap();
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error}"));
    (error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned())
}

async fn last_words(ended: JoinHandle<Option<Error>>) -> (String, String) {
    told(tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap())
}

/// Does what `sql` says and waits for the end of the connection; the code of the last error.
async fn ending(stage: &Stage, sql: &str) -> String {
    let (client, ended) = observed(stage).await;
    match client.batch_execute(sql).await {
        Err(error) => told(Some(error)).0,
        Ok(()) => last_words(ended).await.0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_nothing_is_ended_and_one_that_works_is_not() {
    let server = server(Major::oldest());
    let stage = Stage::limited(&server, Timeouts { idle: SHORT, ..Timeouts::default() });
    assert_eq!(ending(&stage, "SELECT pg_sleep(1)").await, "57P05", "after its query, not in it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nobody_goes_on_with_is_ended_and_rolled_back() {
    let server = server(Major::oldest());
    let limits = Timeouts { idle_in_transaction: SHORT, ..Timeouts::default() };
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
    let limits = Timeouts { transaction: SHORT, ..Timeouts::default() };
    let stage = Stage::limited(&server, limits);
    let (client, ended) = observed(&stage).await;
    client.batch_execute("BEGIN").await.unwrap();
    let error = loop {
        if let Err(error) = client.batch_execute("SELECT pg_sleep(0.01)").await {
            break error;
        }
    };
    // It may be told between two queries.
    let (code, _) = if error.code().is_some() { told(Some(error)) } else { last_words(ended).await };
    assert_eq!(code, "25P04");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_on_the_server_too() {
    let server = server(Major::oldest());
    let stage = Stage::limited(&server, Timeouts { query: SHORT, ..Timeouts::default() });
    assert_eq!(ending(&stage, "SELECT pg_sleep(600)").await, "57014");
    let runs = || {
        server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()").unwrap()
    };
    eventually("nobody sleeps", || runs() == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_at_a_shut_gate_is_nobodys_fault() {
    let server = server(Major::oldest());
    let limits =
        Timeouts { query: SHORT, transaction: SHORT, idle_in_transaction: SHORT, ..Timeouts::default() };
    let stage = Stage::limited(&server, limits);
    let client = stage.connect().await;
    client.batch_execute("SELECT 1").await.unwrap();
    stage.hold();
    let asked = tokio::spawn(async move { client.batch_execute("SELECT 1").await });
    let held = || stage.route.session_table().sessions().iter().any(|row| row.activity.as_str() == "held");
    eventually("it waits", held).await;
    // Several looks at the clocks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.open();
    tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_limits_those_who_are_there_and_says_so() {
    let server = server(Major::oldest());
    let stage = Stage::before(&server);
    let (client, ended) = observed(&stage).await;
    client.batch_execute("SELECT 1").await.unwrap();
    stage.order(|record| record.terms.timeouts.idle = SHORT);
    let (code, hint) = last_words(ended).await;
    assert_eq!(code, "57P05");
    assert!(hint.contains("contract of the database (IDLE_TIMEOUT)"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_frees_a_database_from_the_limits_of_the_process() {
    let server = server(Major::oldest());
    let stage = Stage::limited(&server, Timeouts { query: SHORT, idle: SHORT, ..Timeouts::default() });
    let none = Some(Duration::ZERO);
    stage.order(|record| record.terms.timeouts = Timeouts { query: none, idle: none, ..Timeouts::default() });
    let (client, ended) = observed(&stage).await;
    client.batch_execute("SELECT pg_sleep(1)").await.unwrap();
    // Back to what the process says.
    stage.order(|record| record.terms.timeouts = Timeouts::default());
    let (code, hint) = last_words(ended).await;
    assert_eq!(code, "57P05");
    assert!(hint.contains("timeouts."), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_says_how_long_clients_wait_in_line() {
    let server = server(Major::oldest());
    let stage = Stage::before(&server);
    let pooled = |record: &mut RouteRecord| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 1;
        record.terms.timeouts.wait = SHORT;
    };
    stage.order(pooled);
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.batch_execute("BEGIN").await.unwrap();
    let (code, hint) = told(two.batch_execute("SELECT 1").await.err());
    assert_eq!(code, "53300");
    assert!(hint.contains("contract of the database (WAIT_TIMEOUT)"), "{hint}");
    one.batch_execute("COMMIT").await.unwrap();
    two.batch_execute("SELECT 1").await.unwrap();
}

const SMALLEST: ByteSize = *MESSAGE_SIZES.start();

/// A query of so many bytes, as a message.
fn query_of(size: ByteSize) -> String {
    let rest = "SELECT ''".len() + HEADER_BYTES + 1;
    format!("SELECT '{}'", "x".repeat(usize::try_from(size.0).unwrap() - rest))
}

/// What a client is told of a message that is one byte too long; nothing of it reaches the server.
async fn too_long(client: Client, ended: JoinHandle<Option<Error>>, size: ByteSize) -> String {
    client.batch_execute(&query_of(size)).await.expect("as long as it may be");
    let longer = query_of(ByteSize(size.0 + 1));
    let (code, hint) = match client.batch_execute(&longer).await {
        Err(error) if error.code().is_some() => told(Some(error)),
        _ => last_words(ended).await,
    };
    assert_eq!(code, "54000");
    hint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_ends_its_client_in_both_modes_and_its_transaction_is_undone() {
    let server = server(Major::oldest());
    let stage = Stage::before(&server);
    server.psql_in("shop", "CREATE TABLE t (n int); GRANT ALL ON t TO app").unwrap();
    for pooling in [Pooling::Session, Pooling::Transaction] {
        stage.order(|record| {
            record.terms.pooling = pooling;
            record.terms.quotas.message_size_max = Some(SMALLEST);
        });
        let (client, ended) = observed(&stage).await;
        client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        let hint = too_long(client, ended, SMALLEST).await;
        assert!(hint.contains("contract of the database (MAX_MESSAGE_SIZE)"), "{hint}");
        let gone =
            || server.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").unwrap() == "0";
        eventually("its server connection has ended", gone).await;
        assert_eq!(server.psql_in("shop", "SELECT count(*) FROM t").unwrap(), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_messages_is_limited_for_the_process_a_database_or_a_role_and_for_those_who_are_there() {
    let server = server(Major::oldest());
    let mut limits = None;
    let stage = Stage::configured(&server, |config| limits = Some(Arc::clone(&config.limits)));
    let limits = limits.unwrap();
    let sizes = [1, 2, 3, 4].map(|factor| ByteSize(SMALLEST.0 * factor));
    let of_role = |database: Option<&str>, size| RoleLimits {
        role: RoleName::parse("app").unwrap(),
        database: database.map(|name| DatabaseName::parse(name).unwrap()),
        clients_max: None,
        quotas: Quotas { message_size_max: Some(size), ..Quotas::default() },
        timeouts: Timeouts::default(),
    };
    let mut roles = RolesLimits::default();
    roles.add(of_role(Some("other"), SMALLEST));
    // The most specific comes last, and each time somebody is there already.
    for (size, said) in
        sizes.into_iter().zip(["limits.message_size_max", "contract", "role's, in", "in this database"])
    {
        let (client, ended) = observed(&stage).await;
        client.batch_execute("SELECT 1").await.unwrap();
        match said {
            "contract" => stage.order(|record| record.terms.quotas.message_size_max = Some(size)),
            "role's, in" => assert!(roles.add(of_role(None, size))),
            "in this database" => assert!(roles.add(of_role(Some("shop"), size))),
            _ => {}
        }
        let process = LimitsPolicy {
            message_size_max: Some(sizes[0]),
            roles: roles.clone(),
            ..LimitsPolicy::default()
        };
        limits.store(Arc::new(process));
        // Longer than workers take to look.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let hint = too_long(client, ended, size).await;
        assert!(hint.contains(said), "{hint}");
    }
}
