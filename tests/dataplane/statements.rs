//! Prepared statements that clients share, and what one of them could do to the others by them.

use std::time::Duration;

use bytes::BytesMut;
use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::{Pooling, RoleName};
use freehold::tls::Connector;
use freehold::wire::message::{Target, frontend};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::raw::{client, hear, say};
use super::stage::{self, Stage, eventually, server};

fn stage() -> (Postgres, Stage) {
    let server = server(Major::oldest());
    let stage = stage_of_one(&server, false);
    (server, stage)
}

/// One connection for all clients, on one worker: a worker has its own.
pub(super) fn stage_of_one(server: &Postgres, caches_unnamed: bool) -> Stage {
    let stage = Stage::configured(server, |config| {
        config.workers = 1;
        config.pool.caches_unnamed = caches_unnamed;
    });
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 1;
    });
    stage
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
        stage.order(|record| record.terms.server_connections_max = 2);
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
        eventually("its session ends", || stage.route.session_table().sessions().len() == 1).await;
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
    stage.order(|record| record.terms.server_connections_max = 2);
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
            stage
                .route
                .session_table()
                .sessions()
                .iter()
                .map(|row| row.readiness.clone())
                .collect::<Vec<_>>()
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
            stage
                .route
                .session_table()
                .sessions()
                .iter()
                .map(|row| row.readiness.clone())
                .collect::<Vec<_>>()
        )
    };
    eventually("it says why its connection stays", || shown().contains("one of too many")).await;
    for at in [0, 700, 1300, total - 1] {
        assert_eq!(run(&mut one, |out| execute(out, &format!("s{at}"))).await, at.to_string());
    }
}

/// An error that reads as if the server could not read the message, but comes of what the message runs.
#[tokio::test(flavor = "multi_thread")]
async fn no_error_of_one_client_takes_or_replaces_the_unnamed_statement_of_another() {
    let unreadable = "SELECT convert_from(decode('ff', 'hex'), 'UTF8')";
    let violation = "DO $$ BEGIN RAISE 'no' USING ERRCODE = '08P01'; END $$";
    let attacks: [&(dyn Fn(&mut BytesMut) + Sync); 5] = [
        &|out| frontend::query(out, unreadable),
        &|out| frontend::query(out, violation),
        &|out| parse_and_execute(out, "", unreadable),
        &|out| parse_and_execute(out, "", violation),
        // The server cannot read the first message, and carries out the next ones.
        &|out| {
            out.extend_from_slice(b"Q\0\0\0\x07\xff\xff\0");
            parse_and_execute(out, "", "SELECT 'evil'");
        },
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let (server, stage) = stage();
        let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
        assert_eq!(run(&mut other, |out| parse_and_execute(out, "", "SELECT 'good'")).await, "good");
        say(&mut one, |out| attack(out)).await;
        hear(&mut one, if number == 4 { "Z12DCZ" } else { "Z" }).await;
        assert_eq!(run(&mut other, |out| execute(out, "")).await, "good", "attack {number}");
    }
}

/// What becomes of the unnamed statement when a request that replaces it is skipped, and another one behind
/// the next Sync is carried out.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_gives_no_client_the_unnamed_statement_of_another() {
    type Replaces<'a> = &'a dyn Fn(&mut BytesMut, &str);
    let replaces: [Replaces<'_>; 3] = [
        &|out, text| frontend::parse(out, b"", text.as_bytes(), &[]),
        &|out, text| frontend::query(out, text),
        &|out, _| frontend::close(out, Target::Statement, b""),
    ];
    for (skipped, replaces_skipped) in replaces.iter().enumerate() {
        for (runs, replaces_then) in replaces.iter().enumerate() {
            let (server, stage) = stage();
            let (mut one, mut other) =
                (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
            run(&mut one, |out| parse_and_execute(out, "fails", "SELECT 1 / $1::int")).await;
            assert_eq!(run(&mut other, |out| parse_and_execute(out, "", "SELECT 'good'")).await, "good");
            let mut pipeline = BytesMut::new();
            frontend::bind(&mut pipeline, b"", b"missing", &[]);
            replaces_skipped(&mut pipeline, "SELECT 'skipped'");
            frontend::sync(&mut pipeline);
            replaces_then(&mut pipeline, "SELECT 'evil'");
            if runs != 1 {
                frontend::sync(&mut pipeline);
            }
            say(&mut one, |out| out.extend_from_slice(&pipeline)).await;
            hear(&mut one, ["EZ1Z", "EZTDCZ", "EZ3Z"][runs]).await;
            for _ in 0..2 {
                assert_eq!(run(&mut other, |out| execute(out, "")).await, "good", "{skipped} {runs}");
            }
        }
    }
}

/// A Query that is skipped, and one that is carried out, where the client had an unnamed statement before.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_behind_a_skipped_one_destroys_the_unnamed_statement_too() {
    let (server, stage) = stage();
    let mut one = client(&stage, &server, &[]).await;
    assert_eq!(run(&mut one, |out| parse_and_execute(out, "", "SELECT 'first'")).await, "first");
    say(&mut one, |out| {
        frontend::bind(out, b"", b"missing", &[]);
        frontend::query(out, "SELECT 'skipped'");
        frontend::sync(out);
        frontend::query(out, "SELECT 'runs'");
    })
    .await;
    hear(&mut one, "EZTDCZ").await;
    assert_eq!(run(&mut one, |out| execute(out, "")).await, "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_without_an_end_inside_a_copy_end_the_session() {
    let (server, stage) = stage();
    server.psql_in("shop", "CREATE TABLE copied (v text); GRANT ALL ON copied TO PUBLIC").unwrap();
    let copy = |syncs: usize| {
        move |out: &mut BytesMut| {
            (0..syncs).for_each(|_| frontend::sync(out));
            frontend::copy_data(out, b"x\n");
            frontend::copy_done(out);
        }
    };
    for (syncs, expected) in [(16_000, None), (20_000, Some("54000"))] {
        let mut one = client(&stage, &server, &[]).await;
        say(&mut one, |out| frontend::query(out, "COPY copied FROM STDIN")).await;
        hear(&mut one, "G").await;
        say(&mut one, copy(syncs)).await;
        let (_, error) = hear(&mut one, "Z").await;
        assert_eq!(error.map(|error| error.sqlstate().to_string()).as_deref(), expected, "{syncs} Syncs");
        drop(one);
        // The only connection is free again, or a new one is opened.
        let mut next = client(&stage, &server, &[]).await;
        assert_eq!(ask(&mut next, "SELECT count(*) FROM copied").await, "1", "{syncs} Syncs");
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

fn parse_and_execute_with(out: &mut BytesMut, name: &str, text: &str, values: &[&str]) {
    frontend::parse(out, name.as_bytes(), text.as_bytes(), &[]);
    let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
    frontend::bind(out, b"", name.as_bytes(), &values);
    frontend::execute(out, b"", 0);
    frontend::sync(out);
}

/// A connection past Freehold.
pub(super) async fn fresh(server: &Postgres) -> ServerConnection {
    let request = ConnectRequest {
        place: stage::place(server),
        role: RoleName::parse(stage::ROLE).unwrap(),
        startup: Vec::new(),
        credential: Credential::Password(Zeroizing::new(stage::PASSWORD.to_owned())),
    };
    connect(&request, &Connector::native().unwrap(), Instant::now() + stage::PATIENCE).await.unwrap()
}

/// What a client that comes now gets for a text which others have prepared.
async fn newcomer(stage: &Stage, server: &Postgres, text: &str, values: &[&str]) -> String {
    let mut client = client(stage, server, &[]).await;
    run(&mut client, |out| parse_and_execute_with(out, "s", text, values)).await
}

/// What is there, a text with a value, and what changes its meaning.
const CHANGES: [(&str, &str, &str, &str); 8] = [
    (
        "CREATE TABLE t0(v date)",
        "INSERT INTO t0 VALUES ($1) RETURNING v::text",
        "2026-01-02 17:30",
        "ALTER TABLE t0 ALTER v TYPE timestamp",
    ),
    (
        "CREATE TABLE t1(v real)",
        "INSERT INTO t1 VALUES ($1) RETURNING v::text",
        "0.123456789012",
        "ALTER TABLE t1 ALTER v TYPE float8",
    ),
    (
        "CREATE FUNCTION f2(int) RETURNS text LANGUAGE sql AS $$ SELECT 'int' $$",
        "SELECT f2($1)",
        "7",
        "CREATE FUNCTION f2(text) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$",
    ),
    (
        "CREATE OPERATOR @#@ (RIGHTARG = int, FUNCTION = int4abs)",
        "SELECT (@#@ $1)::text",
        "-7",
        "CREATE OPERATOR @#@ (RIGHTARG = text, FUNCTION = upper)",
    ),
    (
        "CREATE TYPE mood AS ENUM ('a'); \
         CREATE FUNCTION f4(mood) RETURNS text LANGUAGE sql AS $$ SELECT 'by a cast' $$",
        "SELECT ($1::mood)::text",
        "a",
        "CREATE CAST (mood AS text) WITH FUNCTION f4(mood)",
    ),
    (
        "CREATE TABLE t5(v date)",
        "INSERT INTO t5 VALUES ($1) RETURNING v::text",
        "2026-01-02 17:30",
        "CREATE TABLE app.t5(v timestamp)",
    ),
    (
        "CREATE TABLE t6(v date)",
        "INSERT INTO t6 VALUES ($1) RETURNING v::text",
        "2026-01-02 17:30",
        "SELECT NULL::timestamp AS v INTO app.t6",
    ),
    (
        "CREATE TABLE t7(v date)",
        "INSERT INTO t7 VALUES ($1) RETURNING v::text",
        "2026-01-02 17:30",
        "DO $$ BEGIN EXECUTE 'ALTER ' || 'TABLE t7 ALTER v TYPE timestamp'; END $$",
    ),
];

/// What the changes are made in is the role's own.
fn prepare(server: &Postgres) {
    server
        .psql_in("shop", "CREATE SCHEMA app AUTHORIZATION app; GRANT CREATE ON SCHEMA public TO app")
        .unwrap();
    for (before, ..) in CHANGES {
        server.psql_in("shop", &format!("SET search_path = public; SET ROLE app; {before}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_changes_counts_on_every_connection() {
    let (server, stage) = stage();
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 2;
    });
    prepare(&server);
    let (mut one, mut other) = (client(&stage, &server, &[]).await, client(&stage, &server, &[]).await);
    for (at, (_, text, value, change)) in CHANGES.into_iter().enumerate() {
        let name = format!("s{at}");
        let mut both = Vec::new();
        for client in [&mut one, &mut other] {
            ask(client, "BEGIN").await;
            both.push(run(client, |out| parse_and_execute_with(out, &name, text, &[value])).await);
        }
        ask(&mut one, "COMMIT").await;
        ask(&mut other, "COMMIT").await;
        let mut changer = client(&stage, &server, &[]).await;
        ask(&mut changer, change).await;
        // Its connection has been asked by then what became of it.
        ask(&mut changer, "SELECT 1").await;
        // Code that nobody reads keeps the connection for its client.
        changer.terminate().await;
        let wanted =
            run(&mut fresh(&server).await, |out| parse_and_execute_with(out, "s", text, &[value])).await;
        assert!(both.iter().all(|before| *before != wanted), "{text}: {wanted}");
        let mut holder = client(&stage, &server, &[]).await;
        ask(&mut holder, "BEGIN").await;
        let there = run(&mut holder, |out| parse_and_execute_with(out, "s", text, &[value])).await;
        assert_eq!(there, wanted, "{change}");
        assert_eq!(newcomer(&stage, &server, text, &[value]).await, wanted, "{change}, the other connection");
        ask(&mut holder, "COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_beside_freehold_counts_after_a_while() {
    let (server, stage) = stage();
    prepare(&server);
    let mut wanted = Vec::new();
    for (_, text, value, change) in CHANGES {
        let before = newcomer(&stage, &server, text, &[value]).await;
        let mut direct = fresh(&server).await;
        ask(&mut direct, change).await;
        let after = run(&mut direct, |out| parse_and_execute_with(out, "s", text, &[value])).await;
        assert_ne!(before, after, "{text}");
        wanted.push(after);
    }
    // Nobody comes in between: who comes next is not the one at whose expense it is found.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for ((_, text, value, change), wanted) in CHANGES.into_iter().zip(&wanted) {
        assert_eq!(newcomer(&stage, &server, text, &[value]).await, *wanted, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_comes_of_a_type_of_before_comes_once() {
    let (server, stage) = stage();
    server
        .psql_in("shop", "CREATE TABLE items(v int); INSERT INTO items VALUES (5); GRANT ALL ON items TO app")
        .unwrap();
    let text = "SELECT v::text FROM items WHERE v = $1";
    for _ in 0..3 {
        assert_eq!(newcomer(&stage, &server, text, &["5"]).await, "5");
    }
    server.psql_in("shop", "ALTER TABLE items ALTER v TYPE text USING v::text").unwrap();
    let first = newcomer(&stage, &server, text, &["5"]).await;
    assert!(["42883", "5"].contains(&&*first), "{first}");
    assert_eq!(newcomer(&stage, &server, text, &["5"]).await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_write_and_temporary_tables_leave_statements_prepared() {
    let (server, stage) = stage();
    server
        .psql_in(
            "shop",
            "CREATE TABLE log(v int); GRANT ALL ON log TO app; CREATE FUNCTION note(v int) RETURNS int LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO log VALUES (v); RETURN v; END $$",
        )
        .unwrap();
    let text = "SELECT count(*)::text FROM log WHERE v > $1";
    let prepared = "SELECT string_agg(prepare_time::text, ' ') FROM pg_prepared_statements WHERE statement LIKE '%FROM log%'";
    let mut times = Vec::new();
    for round in 0..6 {
        let mut one = client(&stage, &server, &[]).await;
        ask(&mut one, "SELECT note(1)").await;
        ask(&mut one, "BEGIN; CREATE TEMP TABLE mine(id int PRIMARY KEY, v int DEFAULT 1) ON COMMIT DROP")
            .await;
        ask(&mut one, "INSERT INTO mine VALUES (1)").await;
        ask(&mut one, "COMMIT").await;
        ask(&mut one, "CREATE TEMP TABLE more(v text)").await;
        ask(&mut one, "DROP TABLE more").await;
        newcomer(&stage, &server, text, &["0"]).await;
        times.push(ask(&mut one, prepared).await);
        if round == 4 {
            // It is looked whether anything was changed.
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
    }
    // What the functions of the database do is read first, and the first digest is compared with none.
    let mut times = times.split_off(2);
    times.dedup();
    assert_eq!(times.len(), 1, "{times:?}");
}
