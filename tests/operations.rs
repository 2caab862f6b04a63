//! What those who run Freehold do to a process that serves: adopt, pause, reload, ask, end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use freehold::admin::commands::COMMANDS;
use freehold::lab::{Major, Postgres, free_port};
use support::{Admin, Freehold, Login, Stage, create_system, until};
use tokio_postgres::AsyncMessage;

/// Many times longer than a query takes that nobody holds.
const HELD_FOR: Duration = Duration::from_millis(500);

/// One system and a Freehold, with more lines in its configuration.
async fn small_stage(config: &str) -> (Freehold, Postgres) {
    let postgres = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start(config, &[&postgres]);
    let admin = freehold.admin().await;
    admin.run(&create_system("old", &postgres)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    (freehold, postgres)
}

/// Database `orders` as somebody made it long ago, with a role of its own.
async fn adopted(freehold: &Freehold, postgres: &Postgres) -> Login {
    postgres.psql("CREATE ROLE old_app LOGIN PASSWORD 'geheim'").unwrap();
    postgres.psql("CREATE DATABASE orders OWNER old_app").unwrap();
    let adopt = "ADOPT DATABASE orders ON SYSTEM old OWNER payments PURPOSE 'orders of the last ten years'";
    freehold.admin().await.run(adopt).await;
    Login {
        port: freehold.proxy_port,
        dbname: "orders".to_owned(),
        role: "old_app".to_owned(),
        password: "geheim".to_owned(),
    }
}

/// The value of a setting as the process has it.
async fn setting(admin: &Admin, name: &str) -> String {
    let rows = admin.run("SHOW CONFIG").await;
    rows.iter().find(|row| row["key"] == name).unwrap()["value"].clone()
}

fn signal(freehold: &Freehold, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &freehold.pid().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// The status line and the body of an answer.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: freehold\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_an_adopted_database_comes_in_at_once_with_the_password_it_has() {
    let (freehold, postgres) = small_stage("").await;
    let client = adopted(&freehold, &postgres).await.connect().await;
    let row = client.query_one("SELECT current_user::text, current_database()::text", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("old_app", "orders"));
    client.batch_execute("CREATE TABLE t (id int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_waits_for_the_transaction_that_runs_and_holds_the_next() {
    let (freehold, postgres) = small_stage("").await;
    let login = adopted(&freehold, &postgres).await;
    let (mut running, next) = (login.connect().await, login.connect().await);
    let (admin, pauser) = (freehold.admin().await, freehold.admin().await);
    let transaction = running.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (id int)").await.unwrap();

    let pausing = tokio::spawn(async move { pauser.run("PAUSE orders").await });
    let paused = |row: &support::Row| row["key"] == "paused" && row["value"] == "yes";
    until("the gate is held", || async { admin.run("SHOW STATE").await.iter().any(paused) }).await;
    let mut waiting = tokio::spawn(async move { next.query_one("SELECT 1", &[]).await });
    assert!(!pausing.is_finished(), "a transaction still runs");
    transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    transaction.commit().await.unwrap();
    pausing.await.unwrap();

    // That nothing comes can only be seen by giving it time to come.
    assert!(tokio::time::timeout(HELD_FOR, &mut waiting).await.is_err(), "new transactions wait");
    admin.run("RESUME orders").await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_and_sighup_apply_what_may_change_and_a_mistake_changes_nothing() {
    let (freehold, _postgres) = small_stage("").await;
    let admin = freehold.admin().await;
    let file = freehold.config_path();
    let original = std::fs::read_to_string(&file).unwrap();
    let with = |lines: &str| std::fs::write(&file, format!("{original}{lines}")).unwrap();

    with("pin_wait = \"7s\"\n[store]\npath = \"elsewhere.redb\"\n");
    let answer = admin.run("RELOAD").await;
    let applied = |name: &str| answer.iter().find(|row| row["setting"] == name).unwrap()["applied"].clone();
    assert_eq!((applied("move.pin_wait"), applied("store.path")), ("now".into(), "at the next start".into()));
    assert_eq!(setting(&admin, "move.pin_wait").await, "\"7s\"");
    assert!(!setting(&admin, "store.path").await.contains("elsewhere"), "it is not in force");

    with("pin_wait = \"8s\"\nlag_max = 5\n");
    let refused = admin.try_run("RELOAD").await.unwrap_err();
    assert!(refused.as_db_error().unwrap().detail().unwrap().contains("lag_max needs a unit"));
    assert_eq!(setting(&admin, "move.pin_wait").await, "\"7s\"");

    with("pin_wait = \"9s\"\n");
    signal(&freehold, "HUP");
    until("SIGHUP is obeyed", || async { setting(&admin, "move.pin_wait").await == "\"9s\"" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_transaction_end_while_ready_says_no() {
    let metrics = free_port().unwrap();
    let (mut freehold, postgres) =
        small_stage(&format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n")).await;
    let mut client = adopted(&freehold, &postgres).await.connect().await;
    assert!(get(metrics, "/ready").contains("200 OK"));
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (id int)").await.unwrap();

    signal(&freehold, "TERM");
    until("/ready says no", || async { get(metrics, "/ready").contains("503 ") }).await;
    assert!(get(metrics, "/health").contains("200 OK"), "the process lives");
    transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    transaction.commit().await.unwrap();
    assert!(freehold.wait_for_end(Duration::from_secs(20)).success());
    assert_eq!(postgres.psql_in("orders", "SELECT count(*) FROM t").unwrap(), "1");
}

/// The command with all that is optional, and without.
fn forms_of(syntax: &str) -> [String; 2] {
    let whole = syntax.replace("'time'", "'1h'");
    let mut least = whole.clone();
    while let (Some(start), Some(end)) = (least.find(" ["), least.find(']')) {
        least.replace_range(start..=end, "");
    }
    [whole.replace(['[', ']'], ""), least].map(|form| {
        let first: Vec<&str> = form.split(' ').map(|word| word.split('|').next().unwrap()).collect();
        first.join(" ").replace(" name", " shop").replace(" number", " 1")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_show_command_is_answered_with_the_columns_of_the_table() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let _client = login.connect().await;
    let admin = stage.freehold.admin().await;
    assert_eq!(admin.start_move("shop", "new").await, "1");
    let shows: Vec<_> = COMMANDS.iter().filter(|command| command.syntax.starts_with("SHOW ")).collect();
    assert!(shows.len() > 15);
    let forms = shows.iter().flat_map(|command| forms_of(command.syntax).map(|sql| (command, sql)));
    for (command, sql) in forms {
        let statement = admin.0.prepare(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let columns: Vec<&str> = statement.columns().iter().map(|column| column.name()).collect();
        assert_eq!(columns, command.columns.iter().map(|column| column.name).collect::<Vec<_>>(), "{sql}");
        for row in admin.0.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
            assert_eq!(row.len(), columns.len(), "{sql}");
        }
    }
    admin.wait_for_phase("1", &["kept"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_differ_after_the_switch_are_told_to_everybody_who_waits_or_asks() {
    let metrics = free_port().unwrap();
    let stage = Stage::set_with(&format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n")).await;
    let login = stage.create_shop().await;
    let client = login.connect().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
        .await
        .unwrap();
    // What cannot travel keeps the move waiting after both sides were compared.
    let pinned = login.connect().await;
    pinned.batch_execute("CREATE TEMP TABLE cart (id int)").await.unwrap();
    let (admin, waiter) = (stage.freehold.admin().await, stage.freehold.admin().await);
    let waiting = tokio::spawn(async move { waiter.try_run("MOVE DATABASE shop TO SYSTEM new WAIT").await });
    until("there is a move", || async { !admin.run("SHOW MOVES").await.is_empty() }).await;
    let row = admin.wait_for_phase("1", &["cutover"]).await;
    assert_eq!(row["comparison"], "equal");
    let tables = admin.run("SHOW MOVE 1 TABLES").await;
    let shown: Vec<&str> =
        ["table", "verdict", "rows"].iter().map(|name| tables[0][*name].as_str()).collect();
    assert_eq!(shown, ["public.t", "equal", "100"]);
    assert!(admin.property("1", "equal_before_cutover").await.starts_with("1 of 1 tables, 100 rows"));
    stage.target.psql_in("shop", "DELETE FROM t WHERE id = 42").unwrap();
    drop(pinned);

    let refused = waiting.await.unwrap().unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "MF201", "{refused:?}");
    assert!(refused.detail().unwrap().contains("public.t: source 100 rows"), "{refused:?}");
    for (command, other) in [("FINISH MOVE 1", "UNDO"), ("UNDO MOVE 1 WAIT", "FINISH")] {
        let refused = admin.try_run(command).await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "MF201", "{command}: {refused:?}");
        assert!(
            refused.hint().unwrap().contains(&format!("{other} MOVE 1 ACCEPT DIFFERENCES")),
            "{refused:?}"
        );
    }
    let row = admin.show_move("1").await;
    assert_eq!((row["phase"].as_str(), row["comparison"].as_str()), ("kept", "differs"));
    assert!(row["error"].contains("1 table differs"), "{row:?}");
    assert!(admin.property("1", "alarm_detail").await.contains("Both copies are kept"));
    assert_eq!(admin.run("SHOW MOVE 1 TABLES").await[0]["verdict"], "differs");
    let audit = admin.run("SHOW AUDIT").await;
    assert!(audit.iter().any(|entry| entry["outcome"].starts_with("MF201: copies differ")), "{audit:?}");
    assert!(get(metrics, "/metrics").contains("freehold_move_differences{database=\"shop\"} 1"));

    admin.run("UNDO MOVE 1 ACCEPT DIFFERENCES WAIT").await;
    assert!(admin.property("1", "differences_accepted").await.starts_with("by "));
    assert!(get(metrics, "/metrics").contains("freehold_move_differences{database=\"shop\"} 0"));
    assert_eq!(stage.source.psql_in("shop", "SELECT count(*) FROM t").unwrap(), "100");
}

/// What a command of the admin port says before it answers.
async fn notices(freehold: &Freehold, sql: &str) -> Vec<String> {
    let connected = freehold.admin_config().connect(tokio_postgres::NoTls).await;
    let (client, mut connection) = connected.unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let listening = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                said.send(notice.message().to_owned()).unwrap();
            }
        }
    });
    client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    drop(client);
    listening.await.unwrap();
    heard.iter().collect()
}

/// How what is said of a move begins, by its phase.
const SAID: [(&str, &[&str]); 11] = [
    (
        "preflight",
        &["measuring how long clients wait", "looking for what is in the way", "trying the schema"],
    ),
    ("provision", &["preparing ", "trying whether the systems reach each other", "waiting for a VACUUM"]),
    (
        "copy",
        &[
            "waiting for older transactions",
            "copying ",
            "building indexes",
            "giving objects",
            "refreshing materialized views",
            "gathering statistics",
        ],
    ),
    ("catchup", &["starting replication"]),
    ("compare", &["comparing the schemas of both sides", "compared "]),
    ("cutover", &["sessions prepare connections", "waiting for long transactions"]),
    ("settle", &["turning replication around", "comparing the rows of both sides"]),
    ("kept", &["kept current for an undo"]),
    (
        "undoing",
        &[
            "waiting until the source has every change",
            "refreshing materialized views",
            "sessions prepare connections",
            "waiting for long transactions",
        ],
    ),
    ("finishing", &["comparing the rows of both sides", "removing what the move made"]),
    ("rolling back", &["removing what the move made"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_a_move_hear_of_each_phase_what_is_done_in_it() {
    let stage = Stage::set().await;
    let client = stage.create_shop().await.connect().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
        .await
        .unwrap();
    let ends = [
        ("MOVE DATABASE shop TO SYSTEM new", "kept"),
        ("UNDO MOVE 1", "undone"),
        ("MOVE DATABASE shop TO SYSTEM new", "kept"),
        ("FINISH MOVE 2", "finished"),
    ];
    let mut activities = 0;
    for (command, end) in ends {
        let said = notices(&stage.freehold, &format!("{command} WAIT")).await;
        assert_eq!(said.last().map(String::as_str), Some(end), "{command}: {said:#?}");
        for line in &said {
            let Some((phase, rest)) = line.split_once(": ") else { continue };
            let (_, beginnings) = SAID.iter().find(|(known, _)| *known == phase).expect(line);
            // Figures need no activity beside them.
            let is_figure = rest.starts_with(|first: char| first.is_ascii_digit());
            let is_of_phase = beginnings.iter().any(|beginning| rest.starts_with(beginning));
            assert!(is_figure || is_of_phase, "{command}: {line:?} in {said:#?}");
            activities += usize::from(!is_figure);
        }
    }
    assert!(activities >= 8, "{activities} activities were heard of");
}
