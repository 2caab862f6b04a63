//! What libraries of extensions keep in a server process: the next client of a connection finds none of it.

use std::time::Duration;

use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::implied::one_connection;
use super::stage::{self, PASSWORD, ROLE};

/// The first value of the answer, or the SQLSTATE.
async fn value(client: &Client, sql: &str) -> String {
    let messages = match client.simple_query(sql).await {
        Ok(messages) => messages,
        Err(error) => return error.code().map_or("no SQLSTATE", |code| code.code()).to_owned(),
    };
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    row.unwrap_or_else(|| "no row".to_owned())
}

/// One client runs `does`; another one, on the same connection afterwards, must get from `asks` what a client
/// gets where the first one has done nothing.
async fn carries_nothing_over(server: &Postgres, pooling: Pooling, does: &str, asks: &str) {
    let expected = {
        let stage = one_connection(server, pooling);
        value(&stage.connect().await, asks).await
    };
    let stage = one_connection(server, pooling);
    for _ in 0..5 {
        let one = stage.connect().await;
        one.simple_query(does).await.unwrap();
        drop(one);
        // Where connections are reused, it is put back a moment later.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let other = stage.connect().await;
        assert_eq!(value(&other, asks).await, expected, "{pooling:?}: {asks} after {does}");
        drop(other);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `postgres_fdw` keeps its connection to the other server, with all that the session there has been told.
async fn with_foreign_tables() -> Postgres {
    let server = stage::server(Major::oldest());
    let made = format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '{host}', port '{port}', dbname 'shop');
         GRANT USAGE ON FOREIGN SERVER remote TO {ROLE};
         CREATE USER MAPPING FOR {ROLE} SERVER remote OPTIONS (user '{ROLE}', password '{PASSWORD}');
         SET ROLE {ROLE};
         CREATE TABLE secrets (tenant text, secret text);
         INSERT INTO secrets VALUES ('a', 'what only tenant a may read');
         ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
         ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
         CREATE POLICY own ON secrets USING (tenant = current_setting('app.tenant', true));
         CREATE FUNCTION become_a() RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN RETURN set_config('app.tenant', 'a', false); END $$;
         CREATE VIEW becoming_a AS SELECT become_a() AS tenant;
         CREATE FOREIGN TABLE remote_becoming_a (tenant text) SERVER remote
             OPTIONS (table_name 'becoming_a');
         CREATE FOREIGN TABLE remote_secrets (tenant text, secret text) SERVER remote
             OPTIONS (table_name 'secrets')",
        host = server.host,
        port = server.port,
    );
    server.psql_in("shop", &made).unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_foreign_server_is_not_handed_on_with_transaction_pooling() {
    let server = with_foreign_tables().await;
    let (does, asks) = ("SELECT * FROM remote_becoming_a", "SELECT secret FROM remote_secrets");
    carries_nothing_over(&server, Pooling::Transaction, does, asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_foreign_server_is_not_handed_on_where_connections_are_reused() {
    let server = with_foreign_tables().await;
    let (does, asks) = ("SELECT * FROM remote_becoming_a", "SELECT secret FROM remote_secrets");
    carries_nothing_over(&server, Pooling::Session, does, asks).await;
}

/// `isn_weak(true)` is declared IMMUTABLE, and has the library accept wrong check digits from then on. Any
/// role with CREATE on the database may make the extension.
async fn a_switch_of_a_library(pooling: Pooling) {
    let server = stage::server(Major::oldest());
    server.psql_in("shop", &format!("SET ROLE {ROLE}; CREATE EXTENSION isn")).unwrap();
    let (does, asks) = ("SELECT isn_weak(true)", "SELECT '978-0-00-000000-0'::isbn13");
    carries_nothing_over(&server, pooling, does, asks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_a_library_is_not_handed_on_with_transaction_pooling() {
    a_switch_of_a_library(Pooling::Transaction).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_a_library_is_not_handed_on_where_connections_are_reused() {
    a_switch_of_a_library(Pooling::Session).await;
}
