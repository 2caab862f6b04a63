//! Transaction pooling where clients need server connections of different kinds, which means startup
//! parameters here.

use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use futures_util::future::join_all;
use tokio_postgres::{Client, NoTls};

use super::lent::ask;
use super::stage::{Stage, WORKERS, eventually, server};

fn stage(workers: usize, connections: u32) -> (Postgres, Stage) {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = workers);
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = connections;
    });
    (server, stage)
}

/// How many server connections the database has seen.
fn opened(server: &Postgres) -> u64 {
    server.psql("SELECT sessions FROM pg_stat_database WHERE datname = 'shop'").unwrap().parse().unwrap()
}

/// The process ids of the connections of a kind, in the order in which they were opened.
fn pids(server: &Postgres, kind: usize) -> Vec<String> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'kind {kind}' ORDER BY backend_start"
    );
    server.psql(&sql).unwrap().lines().map(str::to_owned).collect()
}

async fn connect(stage: &Stage, kind: usize) -> Client {
    let mut config = stage.config();
    config.application_name(format!("kind {kind}"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_more_kinds_than_connections_are_all_served_and_a_transaction_opens_one_at_most() {
    const KINDS: usize = 8;
    const CLIENTS: usize = 24;
    for connections in [1, 4] {
        let (server, stage) = stage(WORKERS, connections);
        let clients = join_all((0..CLIENTS).map(|at| connect(&stage, at % KINDS))).await;
        let mut before = opened(&server);
        assert!(before <= CLIENTS as u64, "{before} connections for {CLIENTS} logins");
        for _ in 0..3 {
            let answers = join_all(clients.iter().map(|client| {
                ask(client, "SELECT current_setting('application_name') FROM pg_sleep(0.001)")
            }))
            .await;
            for (at, answer) in answers.iter().enumerate() {
                assert_eq!(*answer, format!("kind {}", at % KINDS));
            }
            let after = opened(&server);
            assert!(after - before <= CLIENTS as u64, "{} for {CLIENTS} transactions", after - before);
            before = after;
        }
        let backends = server.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").unwrap();
        assert!(backends.parse::<u32>().unwrap() <= connections, "{backends} of {connections}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_takes_the_place_of_one_idle_connection_of_another_kind_and_of_no_other() {
    let (server, stage) = stage(1, 4);
    let many = join_all((0..4).map(|_| connect(&stage, 0))).await;
    join_all(many.iter().map(|client| ask(client, "BEGIN; SELECT pg_sleep(0.01)"))).await;
    join_all(many.iter().map(|client| ask(client, "COMMIT"))).await;
    let before = pids(&server, 0);
    assert_eq!(before.len(), 4);
    let other = connect(&stage, 1).await;
    for _ in 0..3 {
        ask(&other, "SELECT 1").await;
    }
    eventually("one makes room", || pids(&server, 0).len() + pids(&server, 1).len() <= 4).await;
    let after = pids(&server, 0);
    assert_eq!(after.len(), 3, "{before:?}, {after:?}");
    assert!(after.iter().all(|pid| before.contains(pid)), "{before:?}, {after:?}");
    // A new connection is counted when it tells its statistics.
    eventually("the fifth is counted", || opened(&server) >= 5).await;
    assert_eq!(opened(&server), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_several_of_its_kind_before_it_makes_room_for_another() {
    const EACH: usize = 6;
    let (server, stage) = stage(1, 1);
    let busy = connect(&stage, 0).await;
    let clients = join_all((0..2 * EACH).map(|at| connect(&stage, at % 2))).await;
    ask(&busy, "BEGIN").await;
    let before = opened(&server);
    let waiting = join_all(clients.iter().map(|client| ask(client, "SELECT 'served'")));
    let free = async {
        let waits = |activity: &str| activity == "waiting";
        let count = || {
            stage.route.session_table().sessions().iter().filter(|row| waits(row.activity.as_str())).count()
        };
        eventually("all wait", || count() == 2 * EACH).await;
        ask(&busy, "COMMIT").await;
    };
    let (answers, ()) = tokio::join!(waiting, free);
    assert!(answers.iter().all(|answer| answer == "served"));
    let opened = opened(&server) - before;
    assert!(opened <= 5, "{opened} connections for {} clients of two kinds", 2 * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_startup_parameter_that_cannot_be_is_refused_as_the_server_does_and_takes_no_place() {
    let (_server, stage) = stage(1, 1);
    let good = connect(&stage, 0).await;
    for _ in 0..3 {
        for (options, code) in [
            ("-c work_mem=abc", "22023"),
            ("-c no_such_setting=1", "42704"),
            ("-c server_version=1", "55P02"),
            ("-c is_superuser=on", "55P02"),
            ("-c transaction_isolation=serializable", "25001"),
        ] {
            let mut config = stage.config();
            let error = config.options(options).connect(NoTls).await.err().unwrap();
            assert_eq!(error.code().unwrap().code(), code, "{options}: {error:?}");
        }
        assert_eq!(ask(&good, "SELECT 'goes on'").await, "goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_begin_with_a_time_for_statements_in_which_its_state_cannot_be_read() {
    let (_server, stage) = stage(1, 1);
    let mut config = stage.config();
    let (client, connection) = config.options("-c statement_timeout=1").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(ask(&client, "SHOW statement_timeout").await, "1ms");
    for _ in 0..3 {
        let error = client.simple_query("SELECT pg_sleep(1)").await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014", "{error:?}");
        assert_eq!(ask(&client, "SHOW statement_timeout").await, "1ms");
    }
}
