//! Prepared statements that clients share, and what one of them could do to the others by them.

use bytes::BytesMut;
use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use freehold::wire::message::{Target, frontend};

use super::raw::{client, hear, say};
use super::stage::{Stage, eventually, server};

/// One connection for all clients, on one worker: a worker has its own.
fn stage() -> (Postgres, Stage) {
    let server = server(Major::oldest());
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| {
        record.pooling = Pooling::Transaction;
        record.server_connections_max = 1;
    });
    (server, stage)
}

async fn ask(client: &mut ServerConnection, sql: &str) -> String {
    let results = client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    results.last().and_then(|result| result.value(0, 0)).unwrap_or("NULL").to_owned()
}

/// Runs a batch; the first value of the last result, or the SQLSTATE.
async fn run(client: &mut ServerConnection, build: impl FnOnce(&mut BytesMut)) -> String {
    let mut batch = BytesMut::new();
    build(&mut batch);
    let replies = client.run_each(&batch).await.unwrap();
    if let Some(error) = replies.iter().find_map(|reply| reply.error.as_ref()) {
        return error.sqlstate().to_string();
    }
    let value = |reply: &freehold::backend::Reply| Some(reply.results.last()?.value(0, 0)?.to_owned());
    replies.iter().rev().find_map(value).unwrap_or("NULL".to_owned())
}

fn execute(out: &mut BytesMut, name: &str) {
    frontend::bind(out, b"", name.as_bytes(), &[]);
    frontend::execute(out, b"", 0);
    frontend::sync(out);
}

fn parse_and_execute(out: &mut BytesMut, name: &str, text: &str) {
    frontend::parse(out, name.as_bytes(), text.as_bytes(), &[]);
    execute(out, name);
}

/// What a connection that nobody had before says.
async fn direct(server: &Postgres, text: &str) -> String {
    server.psql_in("shop", text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_in_one_clients_transaction_is_not_what_anothers_statement_means() {
    let (server, stage) = stage();
    server
        .psql_in(
            "shop",
            "CREATE FUNCTION odd() RETURNS void LANGUAGE plpgsql AS 'begin set local transform_null_equals = on; end'",
        )
        .unwrap();
    for (at, (before, text)) in [
        ("SET LOCAL transform_null_equals = on", "SELECT ((1 = null) IS NULL)::text"),
        ("SELECT odd()", "SELECT ((2 = null) IS NULL)::text"),
        ("SELECT set_config('transform_null_equals', 'on', true)", "SELECT ((3 = null) IS NULL)::text"),
        ("SET LOCAL array_nulls = off", "SELECT '{NULL}'::text[]::text"),
        ("SET LOCAL datestyle = 'SQL, DMY'", "SELECT ('01/02/2003'::date - date '2003-01-01')::text"),
        ("SET LOCAL standard_conforming_strings = off", r"SELECT 'a\\b'"),
        ("SET LOCAL search_path = pg_catalog", "SELECT current_schemas(false)::text"),
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = direct(&server, text).await;
        for pipelined in [true, false] {
            let (mut one, mut other) =
                (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
            // A text of its own for each round.
            let text = format!("{text} /* {at} {pipelined} */");
            if pipelined {
                let found = run(&mut one, |out| {
                    frontend::query(out, "BEGIN");
                    frontend::query(out, before);
                    parse_and_execute(out, "s1", &text);
                    frontend::query(out, "COMMIT");
                })
                .await;
                assert_ne!(found, "26000", "{before}");
            } else {
                ask(&mut one, "BEGIN").await;
                ask(&mut one, before).await;
                run(&mut one, |out| parse_and_execute(out, "s1", &text)).await;
                ask(&mut one, "COMMIT").await;
            }
            for _ in 0..2 {
                let found = run(&mut other, |out| parse_and_execute(out, "", &text)).await;
                assert_eq!(found, wanted, "{before}, pipelined: {pipelined}");
            }
            let found = run(&mut other, |out| parse_and_execute(out, "s1", &text)).await;
            assert_eq!(found, wanted, "{before}, pipelined: {pipelined}, named");
            // Nor is it what its own client finds in a transaction that has no such setting.
            assert_eq!(run(&mut one, |out| execute(out, "s1")).await, wanted, "{before}, its own");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_made_again_in_such_a_transaction_is_not_shared_either() {
    let (server, stage) = stage();
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    let text = "SELECT ('01/02/2003'::date - date '2003-01-01')::text";
    for client in [&mut one, &mut other] {
        assert_eq!(run(client, |out| parse_and_execute(out, "s1", text)).await, "1");
    }
    // The server has none of them any more.
    ask(&mut one, "CREATE TABLE t (i int)").await;
    ask(&mut one, "ALTER TABLE t ADD j int").await;
    ask(&mut one, "BEGIN; SET LOCAL datestyle = 'SQL, DMY'").await;
    run(&mut one, |out| execute(out, "s1")).await;
    ask(&mut one, "COMMIT").await;
    assert_eq!(run(&mut other, |out| execute(out, "s1")).await, "1");
    assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_decides_nothing_leaves_statements_shared() {
    let (server, stage) = stage();
    let mut clients = [client(&stage, &server, &[]).await, client(&stage, &server, &[]).await];
    for client in &mut clients {
        ask(client, "BEGIN; SET LOCAL app.tenant = '7'; SET LOCAL statement_timeout = '1min'").await;
        assert_eq!(run(client, |out| parse_and_execute(out, "s1", "SELECT 'shared'")).await, "shared");
        ask(client, "COMMIT").await;
    }
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT ''shared'''";
    assert_eq!(ask(&mut clients[0], count).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_never_see_does_not_spoil_their_statement() {
    for make in [
        "BEGIN; CREATE TEMP TABLE orders (x int, y int)|ROLLBACK",
        "BEGIN; CREATE TEMP TABLE orders (x int, y int) ON COMMIT DROP|COMMIT",
        "BEGIN; ALTER TABLE orders ADD z int|ROLLBACK",
        "BEGIN; DROP TABLE orders; CREATE TABLE orders (x int, y int)|ROLLBACK",
        "CREATE TEMP TABLE orders (x int, y int)|DROP TABLE pg_temp.orders",
    ] {
        let (server, stage) = stage();
        let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
        ask(&mut one, "CREATE TABLE orders (v text)").await;
        ask(&mut one, "INSERT INTO orders VALUES ('mine')").await;
        let (make, end) = make.split_once('|').unwrap();
        ask(&mut one, make).await;
        run(&mut one, |out| parse_and_execute(out, "s1", "SELECT * FROM orders")).await;
        ask(&mut one, end).await;
        let found = run(&mut other, |out| parse_and_execute(out, "s1", "SELECT * FROM orders")).await;
        assert_eq!(found, "mine", "{make}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_parse_was_skipped_is_not_run() {
    let (server, stage) = stage();
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    ask(&mut one, "CREATE TABLE t (v text)").await;
    let text = "INSERT INTO t VALUES ('ran') RETURNING v";
    run(&mut one, |out| {
        frontend::parse(out, b"s1", text.as_bytes(), &[]);
        frontend::sync(out);
    })
    .await;
    say(&mut other, |out| {
        frontend::parse(out, b"a", b"SELEC bad", &[]);
        frontend::parse(out, b"c", text.as_bytes(), &[]);
        frontend::sync(out);
        execute(out, "c");
        frontend::describe(out, Target::Statement, b"c");
        frontend::sync(out);
    })
    .await;
    let (tags, error) = hear(&mut other, "EZEZEZ").await;
    assert_eq!((tags.as_str(), error.unwrap().sqlstate().as_str()), ("EZEZEZ", "26000"));
    assert_eq!(ask(&mut one, "SELECT count(*) FROM t").await, "0");
    // A name that it had before means what it meant, and the statement is there for everybody.
    for client in [&mut one, &mut other] {
        assert_eq!(run(client, |out| parse_and_execute(out, "d", text)).await, "ran");
    }
    // The same in one write with a statement of that text under another name.
    say(&mut other, |out| {
        frontend::parse(out, b"a", b"SELEC bad", &[]);
        frontend::parse(out, b"c", b"SELECT 'new'", &[]);
        frontend::sync(out);
        frontend::parse(out, b"e", b"SELECT 'new'", &[]);
        execute(out, "e");
    })
    .await;
    let (tags, _) = hear(&mut other, "Z12DCZ").await;
    assert_eq!(tags, "EZ12DCZ");
    assert_eq!(run(&mut one, |out| parse_and_execute(out, "e", "SELECT 'new'")).await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_replaces_or_takes_away_the_statement_of_another_client() {
    let deallocate_all = "DO $$ BEGIN EXECUTE 'deallocate all'; END $$";
    for attack in [
        &["DEALLOCATE @", "PREPARE @ AS SELECT 'evil'::text AS v"][..],
        &["DEALLOCATE @"],
        &[deallocate_all],
        &["DO $$ BEGIN EXECUTE 'deallocate @'; EXECUTE 'prepare @ as select ''evil''::text as v'; END $$"],
        &["SELECT throw_away()"],
        &["DEALLOCATE ALL"],
    ] {
        let (server, stage) = stage();
        server
            .psql_in(
                "shop",
                "CREATE FUNCTION throw_away() RETURNS void LANGUAGE plpgsql AS 'begin deallocate all; end'",
            )
            .unwrap();
        stage.order(|record| record.server_connections_max = 2);
        let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
        for client in [&mut one, &mut other] {
            assert_eq!(run(client, |out| parse_and_execute(out, "s1", "SELECT 'good' AS v")).await, "good");
        }
        // In one transaction: the connection with the name stays.
        ask(&mut one, "BEGIN").await;
        assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "good");
        let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''good'' AS v'";
        let name = ask(&mut one, name).await;
        assert!(name.starts_with("freehold_"), "{name}");
        for sql in attack {
            ask(&mut one, &sql.replace('@', &name)).await;
        }
        ask(&mut one, "COMMIT").await;
        for _ in 0..3 {
            assert_eq!(run(&mut other, |out| execute(out, "s1")).await, "good", "{attack:?}");
            assert_eq!(run(&mut other, |out| parse_and_execute(out, "", "SELECT 'good' AS v")).await, "good");
        }
        drop(one);
        eventually("its session ends", || stage.route.roster().sessions().len() == 1).await;
        for at in 0..3 {
            let mut more = client(&stage, &server, &[]).await;
            let found = run(&mut more, |out| parse_and_execute(out, "s1", "SELECT 'good' AS v")).await;
            assert_eq!(found, "good", "{attack:?} {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_begins_like_ours_is_its_clients_own() {
    let (server, stage) = stage();
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    ask(&mut one, "BEGIN").await;
    assert_eq!(run(&mut one, |out| parse_and_execute(out, "s1", "SELECT 'good'")).await, "good");
    let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''good'''";
    let name = ask(&mut one, name).await;
    assert!(name.starts_with("freehold_"), "{name}");
    ask(&mut one, "COMMIT").await;
    assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "good");
    assert_eq!(run(&mut other, |out| execute(out, &name)).await, "26000");
    let describe = |out: &mut BytesMut| {
        frontend::describe(out, Target::Statement, name.as_bytes());
        frontend::sync(out);
    };
    assert_eq!(run(&mut other, describe).await, "26000");
    let close = |out: &mut BytesMut| {
        frontend::close(out, Target::Statement, name.as_bytes());
        frontend::sync(out);
    };
    assert_eq!(run(&mut other, close).await, "NULL");
    assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "good");
    assert_eq!(run(&mut other, |out| parse_and_execute(out, &name, "SELECT 'other'")).await, "other");
    assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "good");
    assert_eq!(run(&mut other, |out| execute(out, &name)).await, "other");
    assert_eq!(run(&mut other, close).await, "NULL");
    assert_eq!(run(&mut other, |out| execute(out, &name)).await, "26000");
    assert_eq!(run(&mut one, |out| execute(out, "s1")).await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sql_prepares_under_a_name_like_ours_stays_with_its_client() {
    let (server, stage) = stage();
    stage.order(|record| record.server_connections_max = 2);
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    ask(&mut one, "PREPARE freehold_x AS SELECT 42").await;
    assert_eq!(ask(&mut one, "EXECUTE freehold_x").await, "42");
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'freehold_x'";
    for _ in 0..3 {
        assert_eq!(ask(&mut other, count).await, "0");
    }
    let shown = || {
        format!(
            "{:?}",
            stage.route.roster().sessions().iter().map(|row| row.readiness.clone()).collect::<Vec<_>>()
        )
    };
    assert!(shown().contains("a name that Freehold uses itself"), "{}", shown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_whichever_way_the_statement_was_prepared() {
    let (server, stage) = stage();
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    ask(&mut one, "PREPARE s1 AS SELECT 'by SQL'").await;
    assert_eq!(run(&mut one, |out| parse_and_execute(out, "s1", "SELECT 'by Parse'")).await, "42P05");
    assert_eq!(ask(&mut one, "EXECUTE s1").await, "by SQL");
    assert_eq!(run(&mut one, |out| parse_and_execute(out, "s2", "SELECT 'by Parse'")).await, "by Parse");
    assert_eq!(run(&mut one, |out| frontend::query(out, "PREPARE s2 AS SELECT 'by SQL'")).await, "42P05");
    assert_eq!(run(&mut one, |out| execute(out, "s2")).await, "by Parse");
    // Others have names of their own, and find nothing of it.
    assert_eq!(run(&mut other, |out| parse_and_execute(out, "s1", "SELECT 'other'")).await, "other");
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'freehold_stand_in'";
    assert_eq!(ask(&mut other, count).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_literal_that_means_now_is_of_each_clients_own_time() {
    let (server, stage) = stage();
    for literal in ["' now'", "$$now$$", "E'n\\x6fw'", "'no'\n'w'"] {
        let text = format!("SELECT {literal}::timestamptz::text");
        let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
        let first = run(&mut one, |out| parse_and_execute(out, "s1", &text)).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let second = run(&mut other, |out| parse_and_execute(out, "s1", &text)).await;
        assert_ne!(first, second, "{literal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_statements_made_by_one_text_follow_their_client() {
    let (server, stage) = stage();
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    let all: String = (0..1000).map(|at| format!("PREPARE a{at} AS SELECT {at};")).collect();
    ask(&mut one, &all).await;
    ask(&mut other, "PREPARE a7 AS SELECT 'other'").await;
    for at in [0, 7, 999] {
        assert_eq!(ask(&mut one, &format!("EXECUTE a{at}")).await, at.to_string());
        assert_eq!(ask(&mut other, "EXECUTE a7").await, "other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_beyond_what_is_kept_for_a_client_stay_on_its_connection() {
    let (server, stage) = stage();
    let mut one = client(&stage, &server, &[]).await;
    let text = |at: usize| format!("SELECT {at} /* {} */", "x".repeat(7 * 1024));
    let total = 1500;
    for at in 0..total {
        let text = text(at);
        run(&mut one, |out| {
            frontend::parse(out, format!("s{at}").as_bytes(), text.as_bytes(), &[]);
            frontend::sync(out);
        })
        .await;
    }
    let shown = || {
        format!(
            "{:?}",
            stage.route.roster().sessions().iter().map(|row| row.readiness.clone()).collect::<Vec<_>>()
        )
    };
    eventually("it says why its connection stays", || shown().contains("one of too many")).await;
    for at in [0, 700, 1300, total - 1] {
        assert_eq!(run(&mut one, |out| execute(out, &format!("s{at}"))).await, at.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_an_end_end_the_session() {
    let (server, stage) = stage();
    let mut one = client(&stage, &server, &[]).await;
    for at in 0..9_000 {
        say(&mut one, |out| {
            frontend::parse(out, format!("{at:01000}").as_bytes(), b"SELECT 1", &[]);
        })
        .await;
        if at % 100 == 0 {
            say(&mut one, frontend::sync).await;
            let (tags, error) = hear(&mut one, "Z").await;
            if !tags.ends_with('Z') {
                assert_eq!(error.unwrap().sqlstate().as_str(), "54000");
                return;
            }
        }
    }
    panic!("nobody has counted them");
}
