//! Freehold's own questions on a client's connection: whatever their answers are like, each client gets the
//! answers to its own requests, or its connection ends with an error.

use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::implied::one_connection;
use super::orders;
use super::stage::{self, Stage};

/// As text this is within every limit; the answer to a question that contained it would be beyond.
const LONG: usize = 40_000_000;

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

/// A client of another role in the same database, on a connection of its own to the server. Its temporary
/// function has a setting with a long value.
async fn stranger(server: &Postgres) -> Client {
    server.psql("CREATE ROLE stranger LOGIN PASSWORD 'stranger'").unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host(&server.host).port(server.port).user("stranger").password("stranger").dbname("shop");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let value = "a".repeat(LONG);
    let made = format!(
        "CREATE FUNCTION pg_temp.big() RETURNS int LANGUAGE sql SET application_name TO '{value}' AS 'SELECT 1'"
    );
    client.simple_query(&made).await.unwrap();
    client
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
    gets_its_own_answers(&one).await;
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
        gets_its_own_answers(&stage.connect().await).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_another_role_defines_changes_no_answer_in_a_move() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&one, &two);
    let _stranger = stranger(&one).await;
    let stage = Stage::before(&one);
    let client = stage.connect().await;
    gets_its_own_answers(&client).await;
    orders::move_to(&stage, &orders::target(&two)).await;
    gets_its_own_answers(&client).await;
}
