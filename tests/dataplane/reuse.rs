//! `pool.reuse_connections`: server connections that outlive their client, and clients that must find them as
//! new.

use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use freehold::route::Logins;
use tokio_postgres::Client;

use super::lent::ask;
use super::orders;
use super::stage::{PASSWORD, ROLE, Stage, WORKERS, eventually, server};

fn stage() -> (Postgres, Stage) {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| {
        config.pool.reuses = true;
        // Clients that come one after the other come to the same worker.
        config.workers = 1;
    });
    (server, stage)
}

async fn pid(client: &Client) -> i32 {
    ask(client, "SELECT pg_backend_pid()").await.parse().unwrap()
}

/// The client leaves, and its server connection is idle or gone.
async fn leave(server: &Postgres, client: Client, pid: i32) {
    drop(client);
    // DISCARD ALL, or the question behind it, was the last thing that it did; or there is no such process any
    // more.
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND \
         NOT (state = 'idle' AND (query = 'DISCARD ALL' OR query LIKE '%unnest(ARRAY%'))"
    );
    eventually("the connection is settled", || server.psql(&sql).unwrap() == "0").await;
}

/// The process of a client that has come and left.
async fn left_behind(server: &Postgres, stage: &Stage) -> i32 {
    let client = stage.connect().await;
    let own = pid(&client).await;
    leave(server, client, own).await;
    own
}

fn lives(server: &Postgres, pid: i32) -> bool {
    server.psql(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).unwrap() == "1"
}

/// What a client does, and whether its connection is as new afterwards.
async fn next_after(server: &Postgres, stage: &Stage, work: &[&str]) -> (i32, i32, Client) {
    let first = stage.connect().await;
    let before = pid(&first).await;
    for sql in work {
        ask(&first, sql).await;
    }
    leave(server, first, before).await;
    let second = stage.connect().await;
    let after = pid(&second).await;
    (before, after, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_client_gets_the_connection_and_finds_nothing_of_the_last_one() {
    let (server, stage) = stage();
    server.psql_in("shop", "CREATE SEQUENCE s; GRANT ALL ON s TO app").unwrap();
    let work = [
        "SET work_mem = '7MB'; SET search_path = pg_catalog; SET TimeZone = 'Asia/Tokyo'",
        "PREPARE p AS SELECT 1; CREATE TEMPORARY TABLE t (n int); LISTEN news",
        "SELECT pg_advisory_lock(7); SELECT nextval('public.s')",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    ];
    let (before, after, next) = next_after(&server, &stage, &work).await;
    assert_eq!(before, after);
    let left = "SELECT current_setting('work_mem'), current_setting('search_path'), \
        (SELECT count(*) FROM pg_prepared_statements), to_regclass('pg_temp.t'), \
        (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')";
    assert_eq!(ask(&next, left).await, "4MB|\"$user\", public|0|NULL|0|0|0");
    let error = next.simple_query("SELECT lastval()").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_as_new_is_closed() {
    let (server, stage) = stage();
    server
        .psql_in(
            "shop",
            "CREATE FUNCTION quietly() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.who', 'me', false) $$;
             CREATE FUNCTION seeded() RETURNS int LANGUAGE sql SET seed = 0.5 AS $$ SELECT 1 $$",
        )
        .unwrap();
    let works: [&[&str]; 8] = [
        &["BEGIN", "SET LOCAL seed = 0.5", "COMMIT"],
        &["SET LOCAL \"seed\" TO 0.5"],
        &["SELECT seeded()"],
        &["SET app.word = 'x'"],
        &["BEGIN; SET LOCAL app.word = 'x'; COMMIT"],
        &["SELECT set_config('app.' || 'word', 'x', false)"],
        &["SELECT set_config('app.' || 'word', 'x', false)", "DISCARD ALL"],
        &["SELECT quietly()"],
    ];
    for work in works {
        let (before, after, next) = next_after(&server, &stage, work).await;
        assert_ne!(before, after, "{work:?}");
        assert!(!lives(&server, before));
        let found =
            ask(&next, "SELECT current_setting('app.word', true), current_setting('app.who', true)").await;
        assert_eq!(found, "NULL|NULL", "{work:?}");
        // Not left for the next round.
        let own = pid(&next).await;
        ask(&next, "SET app.last = ''").await;
        leave(&server, next, own).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_ends_with_its_client() {
    let (server, stage) = stage();
    let client = stage.connect().await;
    let before = pid(&client).await;
    ask(&client, "CREATE TABLE t (n int)").await;
    ask(&client, "BEGIN; INSERT INTO t VALUES (1)").await;
    drop(client);
    eventually("the process is gone", || !lives(&server, before)).await;
    let next = stage.connect().await;
    assert_eq!(ask(&next, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_kind_gets_another_connection() {
    let (server, stage) = stage();
    let (before, after, client) = next_after(&server, &stage, &[]).await;
    assert_eq!(before, after);
    leave(&server, client, after).await;
    let mut config = stage.config();
    config.options("-c work_mem=9MB");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_ne!(pid(&client).await, before);
    assert_eq!(ask(&client, "SHOW work_mem").await, "9MB");
    assert!(lives(&server, before), "it waits for its kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_not_kept_where_they_are_not_wanted_any_more() {
    let (server, stage) = stage();
    for change in ["reconnect", "transaction pooling"] {
        let before = left_behind(&server, &stage).await;
        stage.order(|record| match change {
            "reconnect" => record.generation += 1,
            _ => record.terms.pooling = Pooling::Transaction,
        });
        eventually(change, || !lives(&server, before)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_role_that_may_not_come_in_any_more_are_closed() {
    let (server, stage) = stage();
    for change in ["PASSWORD 'another one'", "NOLOGIN"] {
        let before = left_behind(&server, &stage).await;
        server.psql(&format!("ALTER ROLE {ROLE} {change}")).unwrap();
        match change {
            "NOLOGIN" => stage.routes.set_logins(stage.route.id(), Logins::default()),
            _ => stage.read_logins(&server),
        }
        eventually(change, || !lives(&server, before)).await;
        server.psql(&format!("ALTER ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).unwrap();
        stage.read_logins(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_of_the_role_that_is_full_makes_room_and_others_stay() {
    let (server, stage) = stage();
    server.psql(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT 2")).unwrap();
    let with_name = |name: &str| {
        let mut config = stage.config();
        config.application_name(name);
        async move {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        }
    };
    let (one, two) = (with_name("one").await, with_name("two").await);
    let (first, second) = (pid(&one).await, pid(&two).await);
    leave(&server, one, first).await;
    leave(&server, two, second).await;
    let three = with_name("three").await;
    ask(&three, "SELECT 1").await;
    assert!(!lives(&server, first) && lives(&server, second), "the one that was kept first");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_kept_than_the_contract_allows_connections() {
    let (server, stage) = stage();
    stage.order(|record| record.terms.server_connections_max = 2);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(stage.connect().await);
    }
    drop(clients);
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'");
    eventually("three are closed", || server.psql(&sql).unwrap() == "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_makes_room_where_the_server_has_none_left() {
    let (server, stage) = stage();
    server.psql(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT 1")).unwrap();
    let (before, after, client) = next_after(&server, &stage, &[]).await;
    assert_eq!(before, after);
    leave(&server, client, after).await;
    let mut config = stage.config();
    config.application_name("of another kind");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_ne!(pid(&client).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_died_meanwhile_is_nobodys() {
    let (server, stage) = stage();
    let before = left_behind(&server, &stage).await;
    server.psql(&format!("SELECT pg_terminate_backend({before})")).unwrap();
    eventually("it ends", || !lives(&server, before)).await;
    let next = stage.connect().await;
    assert_ne!(pid(&next).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_while_the_database_moves_are_served_by_the_new_system() {
    let (from, stage) = stage();
    let to = server(Major::oldest());
    super::stage::copy_verifier(&from, &to);
    left_behind(&from, &stage).await;
    orders::move_to(&stage, &orders::target(&to)).await;
    let next = stage.connect().await;
    assert_eq!(ask(&next, "SHOW port").await, to.port.to_string());
    eventually("nothing is kept on the old one", || {
        from.psql(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'")).unwrap() == "0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_each_client_gets_a_connection_of_its_own() {
    let server = server(Major::oldest());
    let stage = Stage::before(&server);
    let mut seen = Vec::new();
    for _ in 0..2 * WORKERS {
        let client = stage.connect().await;
        let own = pid(&client).await;
        drop(client);
        eventually("it ends with its client", || !lives(&server, own)).await;
        seen.push(own);
    }
    seen.dedup();
    assert_eq!(seen.len(), 2 * WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_functions_were_read_under_other_rules_is_closed() {
    let (server, stage) = stage();
    let function = "CREATE FUNCTION public.path() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN length('C:\\new'); END$$";
    server.psql_in("shop", function).unwrap();
    let inside = "CREATE FUNCTION public.inside() RETURNS text LANGUAGE plpgsql AS $$BEGIN
        PERFORM set_config('standard_conforming_strings', 'off', true); RETURN public.path(); END$$";
    server.psql_in("shop", inside).unwrap();
    for work in [
        &["SET standard_conforming_strings = off", "SELECT path()"][..],
        &["BEGIN; SET LOCAL standard_conforming_strings = off; SELECT path(); COMMIT"],
        &["BEGIN; SELECT inside(); COMMIT"],
    ] {
        let (before, after, next) = next_after(&server, &stage, work).await;
        assert_ne!(before, after, "{work:?}");
        assert_eq!(ask(&next, "SELECT path()").await, "6", "{work:?}");
        // So that nobody gets its connection in place of the one that is looked at.
        leave(&server, next, after).await;
    }
    let (before, after, _next) =
        next_after(&server, &stage, &["SET standard_conforming_strings = on", "SELECT path()"]).await;
    assert_eq!(before, after, "what changes nothing is no reason");
}
