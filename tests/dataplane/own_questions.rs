//! Freehold's own questions on a client's connection: whatever their answers are like, each client gets the
//! answers to its own requests, or its connection ends with an error.

use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use freehold::route::{Readiness, SessionRow};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::implied::one_connection;
use super::memory::{is_alone, resident_bytes};
use super::orders;
use super::stage::{self, PASSWORD, ROLE, Stage, eventually};

/// As text this is within every limit; the answer to a question that contained it would be beyond.
const LONG: usize = 60_000_000;

/// Asks with texts that lead to a question of Freehold's after each of them. `false`: the connection has
/// ended.
async fn gets_its_own_answers(client: &Client) -> bool {
    for number in 0..5 {
        let sql = format!("SELECT set_config('work_mem', '{}MB', false), 'answer {number}'", number + 4);
        let Ok(messages) = client.simple_query(&sql).await else { return false };
        let rows: Vec<_> = messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some((row.len(), row.get(1).unwrap_or("NULL").to_owned())),
                _ => None,
            })
            .collect();
        assert_eq!(rows, [(2, format!("answer {number}"))]);
    }
    true
}

/// A client without Freehold.
async fn directly(server: &Postgres, role: &str, password: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host(&server.host).port(server.port).user(role).password(password).dbname("shop");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A client of another role, which may make temporary objects only.
async fn with_temporary_rights(server: &Postgres) -> Client {
    server.psql("CREATE ROLE stranger LOGIN PASSWORD 'stranger'").unwrap();
    server.psql_in("shop", "REVOKE CREATE ON SCHEMA public FROM public").unwrap();
    directly(server, "stranger", "stranger").await
}

/// A client of another role in the same database, on a connection of its own to the server. Its temporary
/// function has a setting with a long value.
async fn stranger(server: &Postgres) -> Client {
    let client = with_temporary_rights(server).await;
    let value = "a".repeat(LONG);
    let made = format!(
        "CREATE FUNCTION pg_temp.big() RETURNS int LANGUAGE sql SET application_name TO '{value}' AS 'SELECT 1'"
    );
    client.simple_query(&made).await.unwrap();
    client
}

/// Transaction pooling over so many connections.
fn lends(stage: &Stage, connections: u32) {
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = connections;
    });
}

async fn sets_a_long_value(client: &Client) {
    let set = format!("SELECT length(set_config('app.x', repeat('a', {LONG}), false))");
    client.simple_query(&set).await.unwrap();
}

async fn a_long_value_of_its_own(pooling: Pooling) {
    let server = stage::server(Major::oldest());
    let stage = one_connection(&server, pooling);
    let (one, other) = (stage.connect().await, stage.connect().await);
    sets_a_long_value(&one).await;
    assert!(gets_its_own_answers(&one).await, "the value is not fetched");
    drop(one);
    assert!(gets_its_own_answers(&other).await);
    drop(other);
    // On what the others have left.
    for _ in 0..2 {
        assert!(gets_its_own_answers(&stage.connect().await).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_long_value_gets_its_own_answers_with_transaction_pooling() {
    a_long_value_of_its_own(Pooling::Transaction).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_long_value_gets_its_own_answers_where_connections_are_reused() {
    a_long_value_of_its_own(Pooling::Session).await;
}

async fn a_long_setting_of_anothers_function(pooling: Pooling) {
    let server = stage::server(Major::oldest());
    let _stranger = stranger(&server).await;
    let stage = one_connection(&server, pooling);
    for _ in 0..3 {
        assert!(gets_its_own_answers(&stage.connect().await).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_defines_changes_no_answer_with_transaction_pooling() {
    a_long_setting_of_anothers_function(Pooling::Transaction).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_defines_changes_no_answer_where_connections_are_reused() {
    a_long_setting_of_anothers_function(Pooling::Session).await;
}

/// A long constant in the place of a setting's name, and a function with long settings, of the owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_defines_changes_no_answer() {
    let server = stage::server(Major::oldest());
    let (value, name) = ("a".repeat(LONG / 2), "b".repeat(10_000));
    let made = format!(
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql SET application_name TO '{value}' AS 'SELECT 1';
         CREATE FUNCTION two() RETURNS int LANGUAGE sql SET application_name TO '{value}' AS 'SELECT 1';
         CREATE VIEW sets AS SELECT current_setting('a.{name}', true), set_config('a.{name}', '1', false)"
    );
    directly(&server, ROLE, PASSWORD).await.batch_execute(&made).await.unwrap();
    for pooling in [Pooling::Transaction, Pooling::Session] {
        let stage = one_connection(&server, pooling);
        for _ in 0..2 {
            assert!(gets_its_own_answers(&stage.connect().await).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_defines_changes_no_answer_in_a_move() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&one, &two);
    let _stranger = stranger(&one).await;
    let stage = Stage::before(&one);
    let client = stage.connect().await;
    assert!(gets_its_own_answers(&client).await);
    orders::move_to(&stage, &orders::target(&two)).await;
    assert!(gets_its_own_answers(&client).await);
}

/// Why the only session keeps its connection or cannot move; empty if it does neither.
fn reasons(stage: &Stage) -> Vec<String> {
    let rows = stage.route.session_table().sessions();
    let of_row = |row: &SessionRow| match &row.readiness {
        Readiness::Pinned { reasons, .. } => reasons.clone(),
        _ => Vec::new(),
    };
    rows.iter().flat_map(of_row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_more_state_than_is_kept_keeps_its_connection_and_says_why() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    lends(&stage, 20);
    let works = [
        ("SELECT length(set_config('app.x', repeat('a', 2000000), false))".to_owned(), "setting \"app.x\""),
        (format!("PREPARE p AS SELECT '{}'", "p".repeat(2_000_000)), "prepared statement \"p\""),
    ];
    for (work, what) in works {
        let client = stage.connect().await;
        client.simple_query(&work).await.unwrap();
        eventually("it is pinned", || reasons(&stage).iter().any(|reason| reason.contains(what))).await;
        assert!(gets_its_own_answers(&client).await);
        let found = "SELECT length(current_setting('app.x', true))::text || (SELECT count(*) FROM pg_prepared_statements)";
        let before = client.simple_query(found).await.unwrap().len();
        assert_eq!(before, client.simple_query(found).await.unwrap().len());
        client.simple_query("RESET app.x; DEALLOCATE ALL").await.unwrap();
        eventually("it is not pinned any more", || reasons(&stage).is_empty()).await;
        drop(client);
        eventually("it has left", || stage.route.session_table().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_of_idle_clients_take_no_memory() {
    if !is_alone("own_questions::long_values_of_idle_clients_take_no_memory") {
        return;
    }
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    lends(&stage, 20);
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..16 {
        let client = stage.connect().await;
        client
            .simple_query("SELECT length(set_config('app.x', repeat('1', 30000000), false))")
            .await
            .unwrap();
        assert!(gets_its_own_answers(&client).await);
        clients.push(client);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more for 16 clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_too_much_state_does_not_move_and_says_why() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&one, &two);
    let stage = Stage::before(&one);
    let client = stage.connect().await;
    sets_a_long_value(&client).await;
    stage.order(|record| record.next = Some(orders::target(&two)));
    eventually("it is pinned", || reasons(&stage).iter().any(|reason| reason.contains("app.x"))).await;
    assert!(gets_its_own_answers(&client).await);
    client.simple_query("SET app.x = 'short'").await.unwrap();
    orders::move_to(&stage, &orders::target(&two)).await;
    assert!(gets_its_own_answers(&client).await);
    let rows = client.simple_query("SHOW app.x").await.unwrap();
    let moved = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(moved, Some("short"));
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_code_of_another_role_keeps_no_connection_with_its_client() {
    let server = stage::server(Major::oldest());
    let stranger = with_temporary_rights(&server).await;
    stranger
        .batch_execute(
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN EXECUTE 'select ' || '1'; RETURN 1; END $$;
             CREATE FUNCTION pg_temp.g(int, int) RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN EXECUTE 'select ' || '1'; RETURN 1; END $$;
             CREATE DOMAIN pg_temp.d AS int DEFAULT pg_temp.f() CHECK (pg_temp.f() = 1);
             CREATE OPERATOR pg_temp.@@@ (FUNCTION = pg_temp.g, LEFTARG = int, RIGHTARG = int);
             DO $$ BEGIN FOR i IN 1..5000 LOOP
                 EXECUTE format('CREATE FUNCTION pg_temp.h%s() RETURNS int LANGUAGE sql AS ''SELECT 1''', i);
             END LOOP; END $$",
        )
        .await
        .unwrap();
    let stage = one_connection(&server, Pooling::Transaction);
    let (one, other) = (stage.connect().await, stage.connect().await);
    for _ in 0..3 {
        for client in [&one, &other] {
            client.simple_query("SELECT 1").await.unwrap();
            assert!(gets_its_own_answers(client).await);
            client.simple_query("SELECT length(repeat('x', 3))").await.unwrap();
        }
        assert_eq!(reasons(&stage), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_the_server_does_not_answer_in_time_ends_no_session() {
    let server = stage::server(Major::oldest());
    let locker = directly(&server, &server.superuser, &server.password).await;
    locker.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let stage = Stage::before(&server);
    lends(&stage, 4);
    let (one, other) = (stage.connect().await, stage.connect().await);
    for client in [&one, &other] {
        assert!(gets_its_own_answers(client).await);
    }
    assert_eq!(reasons(&stage), [""; 0], "unread code keeps no connection");
    locker.batch_execute("COMMIT").await.unwrap();
    assert!(gets_its_own_answers(&one).await);
}

/// A client's own settings decide how its transactions begin: such a one waits until no serializable
/// transaction that writes is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_transactions_wait_keeps_no_other_clients_connection() {
    let server = stage::server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    lends(&stage, 3);
    let writer = directly(&server, ROLE, PASSWORD).await;
    for sql in ["CREATE TABLE t (a int)", "BEGIN ISOLATION LEVEL SERIALIZABLE", "INSERT INTO t VALUES (1)"] {
        writer.batch_execute(sql).await.unwrap();
    }
    let attacker = stage.connect().await;
    attacker
        .batch_execute(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        )
        .await
        .unwrap();
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE";
    for sql in ["CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT f()"] {
        attacker.simple_query(&format!("{begin}; {sql}; COMMIT")).await.unwrap();
    }
    let others = [stage.connect().await, stage.connect().await];
    for client in &others {
        client.simple_query("SELECT pg_backend_pid()").await.unwrap();
    }
    let kept: Vec<String> =
        reasons(&stage).into_iter().filter(|reason| reason.contains("code that may")).collect();
    assert_eq!(kept, [""; 0], "clients with plain texts keep their connections");
}

/// More than the question for a database's code reads, made by a role that has a schema of its own and
/// nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn many_functions_of_another_role_keep_no_connection_with_its_client() {
    let server = stage::server(Major::oldest());
    let schema = "CREATE ROLE stranger LOGIN PASSWORD 'stranger'; CREATE SCHEMA own AUTHORIZATION stranger";
    server.psql_in("shop", schema).unwrap();
    let stranger = directly(&server, "stranger", "stranger").await;
    for at in 0..8 {
        let made = format!(
            "DO $$ BEGIN FOR i IN 1..20000 LOOP
                 EXECUTE format('CREATE FUNCTION own.f%s_{at}() RETURNS int LANGUAGE sql AS ''SELECT 1''', i);
             END LOOP; END $$"
        );
        stranger.batch_execute(&made).await.unwrap();
    }
    let stage = Stage::configured(&server, |config| config.workers = 1);
    lends(&stage, 4);
    let clients = [stage.connect().await, stage.connect().await];
    for client in clients.iter().cycle().take(4) {
        client.simple_query("SELECT 1").await.unwrap();
    }
    assert_eq!(reasons(&stage), [""; 0]);
}

/// A function of another role with a body that has no form in UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_utf8_keeps_no_connection_with_its_client() {
    for (encoding, byte) in [("WIN1252", "81"), ("SQL_ASCII", "ff")] {
        let server = Postgres::builder(Major::oldest()).start().unwrap();
        server.psql(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).unwrap();
        let database = format!(
            "CREATE DATABASE shop OWNER {ROLE} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        server.psql(&database).unwrap();
        let made = format!(
            "CREATE ROLE stranger; CREATE SCHEMA own AUTHORIZATION stranger; SET ROLE stranger;
             CREATE FUNCTION own.f() RETURNS int LANGUAGE sql AS E'SELECT 1 -- \\x{byte}'"
        );
        server.psql_in("shop", &made).unwrap();
        let stage = Stage::before(&server);
        lends(&stage, 4);
        let clients = [stage.connect().await, stage.connect().await];
        for client in clients.iter().cycle().take(4) {
            client.simple_query("SELECT 1").await.unwrap();
        }
        assert_eq!(reasons(&stage), [""; 0], "{encoding}");
    }
}

/// One statement of a role that has a schema of its own and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_domain_of_another_role_keeps_no_connection_with_its_client() {
    let server = stage::server(Major::oldest());
    let schema = "CREATE ROLE stranger LOGIN PASSWORD 'stranger'; CREATE SCHEMA own AUTHORIZATION stranger";
    server.psql_in("shop", schema).unwrap();
    let stranger = directly(&server, "stranger", "stranger").await;
    let values: Vec<String> = (0..600_000).map(|value| value.to_string()).collect();
    let made = format!("CREATE DOMAIN own.d AS int CHECK (VALUE IN ({}))", values.join(","));
    stranger.batch_execute(&made).await.unwrap();
    let stage = Stage::configured(&server, |config| config.workers = 1);
    lends(&stage, 4);
    let clients = [stage.connect().await, stage.connect().await];
    for client in clients.iter().cycle().take(4) {
        client.simple_query("SELECT 1").await.unwrap();
    }
    assert_eq!(reasons(&stage), [""; 0]);
}
