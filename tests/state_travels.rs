//! The state of a session travels with it, in session mode, without the client's doing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "state_travels/sequence_memory.rs"]
mod sequence_memory;
mod support;

use std::time::Duration;

use futures_util::StreamExt;
use support::{Login, Stage};
use tokio::sync::mpsc;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_session_state_survives_a_move_and_the_way_back() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let (client, mut notifications) = connect(&login).await;
    client
        .batch_execute(
            "CREATE SCHEMA \"odd Name\";
             CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE TABLE diary (id serial PRIMARY KEY, mood mood, note text)",
        )
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    client
        .batch_execute(
            "SET work_mem = '7MB'; SET TIME ZONE 'Europe/Zurich'; SET search_path = \"odd Name\", public;
             SET app.tenant = 'a ''quoted'' value'; LISTEN \"Bell\"; PREPARE twice(int) AS SELECT $1 * 2;
             SELECT pg_advisory_lock(42); SELECT pg_advisory_lock(42); SELECT pg_advisory_lock_shared(1, 2)",
        )
        .await
        .unwrap();
    let named = client
        .prepare("INSERT INTO public.diary (mood, note) VALUES ($1::text::mood, $2) RETURNING id")
        .await
        .unwrap();
    let typed = client.prepare("SELECT count(*) FROM public.diary WHERE mood = $1").await.unwrap();
    client.query_one(&named, &[&"sad", &"before"]).await.unwrap();

    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    for (phase, word) in [("kept", "there"), ("undone", "back")] {
        if phase == "undone" {
            admin.run(&format!("UNDO MOVE {id}")).await;
        }
        admin.wait_for_phase(&id, &[phase]).await;
        check(&client, word).await;
        client.query_one(&named, &[&"happy", &word]).await.unwrap();
        let other = login.connect().await;
        let typed_again = client.query_one(&typed, &[&Mood("happy")]).await.unwrap();
        assert!(typed_again.get::<_, i64>(0) >= 1);
        let taken: bool = other.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap().get(0);
        assert!(!taken, "the advisory lock is still held, {word}");
        other.batch_execute(&format!("NOTIFY \"Bell\", '{word}'")).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(5), notifications.recv()).await;
        assert_eq!(heard.unwrap().as_deref(), Some(word));
    }

    // Held twice before the move: held until it is released twice.
    let unlocked: bool = client.query_one("SELECT pg_advisory_unlock(42)", &[]).await.unwrap().get(0);
    assert!(unlocked);
    let other = login.connect().await;
    let taken: bool = other.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap().get(0);
    assert!(!taken, "one of two locks was released");
    client.query_one("SELECT pg_advisory_unlock(42)", &[]).await.unwrap();
    let taken: bool = other.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap().get(0);
    assert!(taken, "both were released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_travel_is_named_delays_the_move_and_then_lets_it_go() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let client = login.connect().await;
    client.batch_execute("SET application_name = 'basket'; CREATE TEMP TABLE cart (id int)").await.unwrap();

    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    support::until("the session is named", || async {
        let sessions = admin.run("SHOW SESSIONS").await;
        sessions.iter().any(|row| row["application_name"] == "basket" && row["pinned_by"].contains("cart"))
    })
    .await;
    client.batch_execute("DROP TABLE cart").await.unwrap();
    admin.wait_for_phase(&id, &["kept"]).await;
    client.batch_execute("CREATE TEMP TABLE cart (id int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_session_stores_and_sees_the_same_whatever_the_servers_are_set_to() {
    let stage = Stage::set().await;
    for sql in [
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'ISO, DMY'",
        "default_text_search_config = 'pg_catalog.german'",
    ] {
        stage.source.psql(&format!("ALTER SYSTEM SET {sql}")).unwrap();
    }
    for sql in ["default_transaction_read_only = on", "statement_timeout = '500ms'"] {
        stage.target.psql(&format!("ALTER SYSTEM SET {sql}")).unwrap();
    }
    for server in [&stage.source, &stage.target] {
        server.psql("SELECT pg_reload_conf()").unwrap();
    }
    let login = stage.create_shop().await;
    let client = login.connect().await;
    client
        .batch_execute(
            "CREATE TABLE t (d date, at timestamp, words tsvector); ALTER TABLE t REPLICA IDENTITY FULL",
        )
        .await
        .unwrap();
    let write = "INSERT INTO t VALUES ('03/04/2026', '2026-11-28 20:03:38+00'::timestamptz, to_tsvector('die Häuser'))
        RETURNING concat_ws('|', d, at, words, pg_sleep(0.6))";
    let before = support::texts(&client, write).await;
    assert!(before.iter().any(|row| row.contains("2026-04-03")), "{before:?}");
    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    assert_eq!(support::texts(&client, write).await, before, "the same session");
    assert_eq!(support::texts(&login.connect().await, write).await, before, "a new one");
    admin.run(&format!("UNDO MOVE {id}")).await;
    admin.wait_for_phase(&id, &["undone"]).await;
    assert_eq!(support::texts(&client, write).await, before, "the same session, back");
    let settings = "SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0";
    assert_eq!(stage.source.psql(settings).unwrap(), "0");
}

async fn check(client: &Client, word: &str) {
    let row = client
        .query_one(
            "SELECT current_setting('work_mem'), current_setting('TimeZone'), current_setting('search_path'),
                    current_setting('app.tenant')",
            &[],
        )
        .await
        .unwrap();
    let values: Vec<String> = (0..4).map(|index| row.get(index)).collect();
    assert_eq!(values, ["7MB", "Europe/Zurich", "\"odd Name\", public", "a 'quoted' value"], "{word}");
    let rows = client.simple_query("EXECUTE twice(21)").await.unwrap();
    assert!(format!("{rows:?}").contains("42"), "{rows:?}");
}

async fn connect(login: &Login) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = login.config().connect(NoTls).await.unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = told.send(notification.payload().to_owned());
            }
        }
    });
    (client, heard)
}

/// An enum's label as a parameter: tokio-postgres sends it as text under the type that the server named.
#[derive(Debug)]
struct Mood(&'static str);

impl tokio_postgres::types::ToSql for Mood {
    fn to_sql(
        &self,
        _: &tokio_postgres::types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(_: &tokio_postgres::types::Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// Bytes as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Raw(Vec<u8>);

impl tokio_postgres::types::ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> tokio_postgres::types::FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value in PostgreSQL's binary format, with its length.
fn field(value: &[u8]) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// An array of one element; it names the element's type.
fn array(of: u32, element: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1, 0, 0, 0, 0][..], &of.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 1], &field(element)].concat()
}

/// What a driver asks for once and goes on using: the types of the columns of `kept`.
async fn types_of(client: &Client) -> Vec<Type> {
    let kept = client.prepare("SELECT m, ms, p, ps, s, ss FROM kept").await.unwrap();
    kept.columns().iter().map(|column| column.type_().clone()).collect()
}

/// New statements with parameters of remembered types, and rows with values that name types: in binary as
/// well as in text.
async fn probe(client: &Client, types: &[Type], when: &str) -> Vec<Raw> {
    let [mood, moods, pair, pairs, span, spans] = types else { panic!("{types:?}") };
    // 7 and 'ok' as a composite, which names the types of its fields; the range from 3 to 9.
    let row =
        [&[0, 0, 0, 2, 0, 0, 0, 23][..], &field(&[0, 0, 0, 7]), &mood.oid().to_be_bytes(), &field(b"ok")]
            .concat();
    let range = [&[2][..], &field(&[0, 0, 0, 3]), &field(&[0, 0, 0, 9])].concat();
    let given = [
        (mood, b"ok".to_vec(), "ok"),
        (moods, array(mood.oid(), b"ok"), "{ok}"),
        (pair, row.clone(), "(7,ok)"),
        (pairs, array(pair.oid(), &row), "{\"(7,ok)\"}"),
        (span, range.clone(), "[3,9)"),
        (spans, array(span.oid(), &range), "{\"[3,9)\"}"),
    ];
    for (of, value, text) in given {
        let sql = format!("SELECT $1::text /* {when} {} */", of.name());
        let statement = client.prepare_typed(&sql, std::slice::from_ref(of)).await;
        let statement = statement.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = client.query_one(&statement, &[&Raw(value)]).await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(row.get::<_, String>(0), text, "{sql}");
    }
    let row =
        client.query_one(&format!("SELECT m, ms, p, ps, s, ss FROM kept /* {when} */"), &[]).await.unwrap();
    (0..row.len()).map(|index| row.get(index)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_a_client_remembers_stay_the_same_in_both_pooling_modes() {
    let stage = Stage::set().await;
    let admin = stage.freehold.admin().await;
    // The two servers have counted differently so far.
    stage.source.psql("CREATE TYPE noise AS ENUM ('a'); CREATE TYPE more_noise AS (a noise)").unwrap();
    let schema = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, m mood); CREATE TYPE span AS RANGE (subtype = int4);
        CREATE TABLE kept (m mood, ms mood[], p pair, ps pair[], s span, ss span[], id int PRIMARY KEY);
        INSERT INTO kept VALUES ('ok', '{sad,ok}', '(1,sad)', '{\"(2,ok)\"}', '[1,5)', '{\"[2,3)\"}', 1)";
    let mut clients = Vec::new();
    for (dbname, pooling) in [("shop", "session"), ("cart", "transaction")] {
        let create = format!(
            "CREATE DATABASE {dbname} OWNER payments PURPOSE 'Types that drivers remember' ON SYSTEM old"
        );
        let made = admin.run(&create).await;
        admin.run(&format!("ALTER DATABASE {dbname} POOLING {pooling}")).await;
        let (role, password) = (made[0]["role"].clone(), made[0]["password"].clone());
        let login = Login { port: stage.freehold.proxy_port, dbname: dbname.into(), role, password };
        support::until("it takes clients", || async { login.try_connect().await.is_ok() }).await;
        let client = login.connect().await;
        client.batch_execute(schema).await.unwrap();
        let types = types_of(&client).await;
        let before = probe(&client, &types, "before").await;
        clients.push((login, client, types, before));
    }
    let mut ids = Vec::new();
    for (at, phase) in ["kept", "undone", "kept", "finished"].into_iter().enumerate() {
        if phase == "kept" {
            ids = Vec::new();
            for (login, ..) in &clients {
                ids.push(admin.start_move(&login.dbname, "new").await);
            }
        } else {
            let verb = if phase == "undone" { "UNDO" } else { "FINISH" };
            for id in &ids {
                admin.run(&format!("{verb} MOVE {id}")).await;
            }
        }
        for (id, (login, client, types, before)) in ids.iter().zip(&clients) {
            admin.wait_for_phase(id, &[phase]).await;
            let when = format!("{phase} {at}");
            assert_eq!(&probe(client, types, &when).await, before, "{} {when}", login.dbname);
            // Another connection of the same program knows the types already.
            let other = login.connect().await;
            assert_eq!(&probe(&other, types, &when).await, before, "{} {when}, anew", login.dbname);
            assert_eq!(&types_of(&other).await, types);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_functions_do_is_asked_once_and_on_no_clients_connection() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    for server in [&stage.source, &stage.target] {
        server.psql("ALTER SYSTEM SET log_statement = 'all'").unwrap();
        server.psql("SELECT pg_reload_conf()").unwrap();
    }
    let clients = futures_util::future::join_all((0..12).map(|_| login.connect())).await;
    let before = server_pids(&clients).await;

    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    let after = server_pids(&clients).await;
    admin.run(&format!("UNDO MOVE {id}")).await;
    admin.wait_for_phase(&id, &["undone"]).await;

    // Each worker of the proxy asks for its sessions.
    let workers = std::thread::available_parallelism().unwrap().get();
    for (server, pids) in [(&stage.source, before), (&stage.target, after)] {
        let asked = asked_what_functions_do(&server.log());
        assert!(!asked.is_empty() && asked.len() <= workers, "{asked:?}");
        assert!(asked.iter().all(|pid| !pids.contains(pid)), "{asked:?} of {pids:?}");
    }
}

async fn server_pids(clients: &[Client]) -> Vec<i32> {
    let mut pids = Vec::new();
    for client in clients {
        pids.push(client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0));
    }
    pids
}

/// The processes that a server's log shows to have been asked what the functions of a database do.
fn asked_what_functions_do(log: &str) -> Vec<i32> {
    let (mut asked, mut pid) = (Vec::new(), 0);
    for line in log.lines() {
        let named = line.split_once("UTC [").and_then(|(_, rest)| rest.split_once(']')?.0.parse().ok());
        pid = named.unwrap_or(pid);
        if line.contains("WITH ours(of_ours)") {
            asked.push(pid);
        }
    }
    asked
}
