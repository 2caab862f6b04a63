//! What sessions do when the record of their database changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use freehold::lab::{Major, Postgres};
use freehold::model::{GateOrder, HoldReason, MoveId, Place, SystemName};
use freehold::route::{Activity, GateState, Readiness};
use futures_util::{SinkExt, pin_mut};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::AsyncMessage;
use tokio_postgres::error::SqlState;

use super::stage::{self, Stage, eventually, text};

pub(crate) fn target(server: &Postgres) -> Place {
    Place { system: SystemName::parse("two").unwrap(), ..stage::place(server) }
}

/// All sessions have done what the current order asks.
async fn all_ready(stage: &Stage) {
    let order = stage.route.current().order;
    let is_ready =
        |readiness: &Readiness| matches!(readiness, Readiness::Ready { order: done } if *done >= order);
    let behind =
        || stage.route.session_table().sessions().into_iter().filter(|row| !is_ready(&row.readiness)).count();
    eventually("all sessions are ready", || behind() == 0).await;
}

/// What the mover does, without moving data. How long the gate was shut.
pub(crate) async fn move_to(stage: &Stage, place: &Place) -> Duration {
    let by = || HoldReason::Move { id: MoveId(1) };
    stage.order(|record| record.next = Some(place.clone()));
    all_ready(stage).await;
    stage.order(|record| record.gate = GateOrder::Latched { by: by() });
    let began = Instant::now();
    stage.order(|record| record.gate = GateOrder::Held { by: by(), until: None });
    stage.route.gate().drained().await.unwrap();
    all_ready(stage).await;
    stage.order(|record| {
        record.place = place.clone();
        record.next = None;
        record.epoch = record.epoch.next();
        record.gate = GateOrder::Open;
    });
    let shut = began.elapsed();
    all_ready(stage).await;
    shut
}

fn backends(server: &Postgres) -> String {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND usename = 'app'";
    server.psql(count).unwrap()
}

/// A client whose notifications are kept.
async fn listener(stage: &Stage) -> (tokio_postgres::Client, UnboundedReceiver<String>) {
    let (client, mut connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let (heard, hears) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = futures_util::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = heard.send(notification.payload().to_owned());
            }
        }
    });
    (client, hears)
}

#[tokio::test]
async fn a_held_gate_parks_requests_and_lets_running_transactions_finish() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (running, waiting) = (stage.connect().await, stage.connect().await);
    running.batch_execute("BEGIN").await.unwrap();
    stage.hold();
    running.batch_execute("SELECT 1").await.unwrap();
    assert!(!stage.route.gate().is_drained());
    let parked = tokio::spawn(async move { waiting.query_one("SELECT 42", &[]).await });
    running.batch_execute("COMMIT").await.unwrap();
    stage.route.gate().drained().await.unwrap();
    let is_parked =
        || stage.route.session_table().sessions().iter().any(|row| row.activity == Activity::Held);
    eventually("the request waits at the gate", is_parked).await;
    assert!(!parked.is_finished());
    stage.open();
    assert_eq!(parked.await.unwrap().unwrap().get::<_, i32>(0), 42);
    all_ready(&stage).await;
    assert_eq!(stage.route.gate().stalls().held, 1);
}

#[tokio::test]
async fn a_pipeline_is_held_between_two_of_its_transactions() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let client = stage.connect().await;
    let statement = client.prepare("SELECT $1::int").await.unwrap();
    let queries = (0..5_000).map(|number| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&number]).await.unwrap().get::<_, i32>(0) }
    });
    let all = futures_util::future::join_all(queries);
    let hold = async {
        eventually("it runs", || stage.route.gate().inside() == 1).await;
        stage.hold();
        stage.route.gate().drained().await.unwrap();
        stage.open();
    };
    let (answers, ()) = tokio::join!(all, hold);
    assert_eq!(answers, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_always_has_a_request_on_its_way_can_be_moved() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&one, &two);
    let stage = Stage::before(&one);
    let client = Arc::new(stage.connect().await);
    let loops = (0..8).map(|_| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { while client.query_one("SELECT pg_sleep(0.001)", &[]).await.is_ok() {} })
    });
    let loops: Vec<_> = loops.collect();
    move_to(&stage, &target(&two)).await;
    assert_eq!(backends(&two), "1");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_waits_at_the_gate_can_be_cancelled_and_is_never_done() {
    let server = stage::server(Major::oldest());
    server.psql_in("shop", "CREATE TABLE t (i int); GRANT ALL ON t TO app").unwrap();
    let stage = Stage::before(&server);
    let client = Arc::new(stage.connect().await);
    let token = client.cancel_token();
    let insert = client.prepare("INSERT INTO t VALUES (1)").await.unwrap();
    stage.hold();
    for simple in [true, false] {
        let (client, insert) = (Arc::clone(&client), insert.clone());
        let parked = tokio::spawn(async move {
            match simple {
                true => client.batch_execute("INSERT INTO t VALUES (1)").await,
                false => client.execute(&insert, &[]).await.map(drop),
            }
        });
        let held = |row: &freehold::route::SessionRow| row.activity == freehold::route::Activity::Held;
        eventually("it waits", || stage.route.session_table().sessions().iter().any(held)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        let error = parked.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
        eventually("it waits no longer", || !stage.route.session_table().sessions().iter().any(held)).await;
    }
    stage.open();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(server.psql_in("shop", "SELECT i FROM t").unwrap(), "2");
}

#[tokio::test]
async fn a_session_that_began_before_its_password_changed_can_be_moved() {
    let (one, two) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    let stage = Stage::before(&one);
    let before = stage.connect().await;
    one.psql("ALTER ROLE app PASSWORD 'another'").unwrap();
    stage::copy_verifier(&one, &two);
    stage.read_logins(&one);
    let mut config = stage.config();
    let (after, connection) = config.password("another").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    move_to(&stage, &target(&two)).await;
    for client in [&before, &after] {
        client.batch_execute("SELECT 1").await.unwrap();
    }
    assert_eq!(backends(&two), "2");
}

#[tokio::test]
async fn a_new_client_waits_while_the_gate_is_latched_and_is_refused_nothing() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let old = stage.connect().await;
    stage.order(|record| record.gate = GateOrder::Latched { by: HoldReason::Pause });
    let config = stage.config();
    let new = tokio::spawn(async move { config.connect(tokio_postgres::NoTls).await });
    eventually("it is logged in", || stage.route.session_table().len() == 2).await;
    old.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(backends(&server), "1");
    stage.open();
    let (client, connection) = new.await.unwrap().unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_client_that_gives_up_at_a_shut_gate_leaves_its_seat() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    stage.hold();
    let config = stage.config();
    let new = tokio::spawn(async move { config.connect(tokio_postgres::NoTls).await });
    eventually("it is logged in", || stage.route.session_table().len() == 1).await;
    new.abort();
    eventually("it has left", || stage.route.session_table().is_empty()).await;
}

#[tokio::test]
async fn a_session_goes_along_with_everything_that_it_has() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let (client, mut hears) = listener(&stage).await;
    let protocol_level = client.prepare("SELECT $1::int + 1").await.unwrap();
    client
        .batch_execute(
            "SET work_mem = '7MB'; SET app.tenant = 'blue'; PREPARE twice(int) AS SELECT $1 * 2; \
             LISTEN news; SELECT pg_advisory_lock(42); SELECT pg_advisory_lock(42)",
        )
        .await
        .unwrap();
    let idle = stage.connect().await;

    move_to(&stage, &target(&destination)).await;

    let version: i32 =
        client.query_one("SHOW server_version_num", &[]).await.unwrap().get::<_, &str>(0).parse().unwrap();
    assert_eq!(version / 10_000, destination.major as i32);
    let row = client.query_one(&protocol_level, &[&41]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    for (question, answer) in [
        ("SELECT current_setting('work_mem')", "7MB"),
        ("SELECT current_setting('app.tenant')", "blue"),
        ("SELECT pg_listening_channels()", "news"),
        ("SELECT pg_advisory_unlock(42)::text", "true"),
        ("SELECT pg_advisory_unlock(42)::text", "true"),
        ("SELECT pg_advisory_unlock(42)::text", "false"),
    ] {
        assert_eq!(client.query_one(question, &[]).await.unwrap().get::<_, &str>(0), answer, "{question}");
    }
    let rows = client.simple_query("EXECUTE twice(21)").await.unwrap();
    assert!(format!("{rows:?}").contains("42"), "{rows:?}");
    destination.psql_in("shop", "NOTIFY news, 'from the new place'").unwrap();
    assert_eq!(hears.recv().await.unwrap(), "from the new place");
    idle.batch_execute("SELECT 1").await.unwrap();
    eventually("nobody is left behind", || backends(&source) == "0").await;
    assert_eq!(backends(&destination), "2");
}

#[tokio::test]
async fn a_client_is_told_what_the_new_server_reports_differently() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    assert_ne!(source.major, destination.major, "two majors are needed");
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let (client, connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let connection = std::sync::Arc::new(std::sync::Mutex::new(connection));
    let polled = std::sync::Arc::clone(&connection);
    tokio::spawn(futures_util::future::poll_fn(move |cx| {
        use std::future::Future;
        std::pin::Pin::new(&mut *polled.lock().unwrap()).poll(cx)
    }));
    client.batch_execute("SELECT 1").await.unwrap();
    move_to(&stage, &target(&destination)).await;
    client.batch_execute("SELECT 1").await.unwrap();
    let told = connection.lock().unwrap().parameter("server_version").unwrap().to_owned();
    assert!(told.starts_with(&destination.major.to_string()), "{told}");
}

#[tokio::test]
async fn an_aborted_hold_leaves_everybody_where_he_was() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    client
        .batch_execute("CREATE TEMP TABLE cart (i int); DROP TABLE cart; SET app.tenant = 'blue'")
        .await
        .unwrap();
    stage.order(|record| record.next = Some(target(&destination)));
    all_ready(&stage).await;
    assert_eq!(backends(&destination), "1");
    stage.hold();
    all_ready(&stage).await;
    let waiting = tokio::spawn(async move {
        let tenant = client.query_one("SELECT current_setting('app.tenant')", &[]).await?;
        Ok::<_, tokio_postgres::Error>((client, tenant.get::<_, String>(0)))
    });
    stage.order(|record| {
        record.next = None;
        record.gate = GateOrder::Open;
    });
    let (_client, tenant) = waiting.await.unwrap().unwrap();
    assert_eq!(tenant, "blue");
    eventually("the twin is gone", || backends(&destination) == "0").await;
    assert_eq!(backends(&source), "1");
}

#[tokio::test]
async fn state_that_changes_after_the_twin_was_built_is_brought_in_step_inside_the_hold() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    stage.order(|record| record.next = Some(target(&destination)));
    all_ready(&stage).await;
    client.batch_execute("SET app.tenant = 'red'; SELECT pg_advisory_lock(7)").await.unwrap();
    let late = client.prepare("SELECT 'late'").await.unwrap();
    move_to(&stage, &target(&destination)).await;
    let tenant = client.query_one("SELECT current_setting('app.tenant')", &[]).await.unwrap();
    assert_eq!(tenant.get::<_, &str>(0), "red");
    assert_eq!(client.query_one(&late, &[]).await.unwrap().get::<_, &str>(0), "late");
    assert_eq!(destination.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").unwrap(), "1");
}

#[tokio::test]
async fn a_session_that_cannot_travel_is_pinned_and_says_why_until_it_can() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    client.batch_execute("CREATE TEMP TABLE cart (i int)").await.unwrap();
    stage.order(|record| record.next = Some(target(&destination)));
    let readiness = || stage.route.session_table().sessions()[0].readiness.clone();
    eventually("it is pinned", || matches!(readiness(), Readiness::Pinned { .. })).await;
    let Readiness::Pinned { reasons, .. } = readiness() else { panic!("not pinned") };
    assert!(reasons[0].contains("cart"), "{reasons:?}");
    client.batch_execute("DROP TABLE cart").await.unwrap();
    eventually("it can travel", || matches!(readiness(), Readiness::Ready { .. })).await;
    move_to(&stage, &target(&destination)).await;
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_session_whose_copy_failed_in_doubt_travels_too() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    for server in [&source, &destination] {
        server.psql_in("shop", "CREATE TABLE line (id int); GRANT ALL ON line TO app").unwrap();
    }
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    {
        let sink = client.copy_in("COPY line FROM STDIN").await.unwrap();
        pin_mut!(sink);
        sink.send(Bytes::from_static(b"not a number\n")).await.unwrap();
        assert!(sink.finish().await.is_err());
    }
    move_to(&stage, &target(&destination)).await;
    let rows: i64 = client.query_one("SELECT count(*) FROM line", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn a_cancel_request_after_a_move_reaches_the_new_server() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    let token = client.cancel_token();
    move_to(&stage, &target(&destination)).await;
    let sleeping = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await });
    let sleepers =
        || destination.psql("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'");
    eventually("it sleeps", || sleepers().unwrap() == "1").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert_eq!(sleeping.await.unwrap().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn a_session_without_a_twin_builds_one_when_its_database_has_left() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let client = stage.connect().await;
    client.batch_execute("SET app.tenant = 'green'").await.unwrap();
    stage.order(|record| {
        record.place = target(&destination);
        record.epoch = record.epoch.next();
    });
    let tenant = client.query_one("SELECT current_setting('app.tenant')", &[]).await.unwrap();
    assert_eq!(tenant.get::<_, &str>(0), "green");
    eventually("nobody is left behind", || backends(&source) == "0").await;
}

#[tokio::test]
async fn sessions_of_a_refused_database_end_with_its_words() {
    let server = stage::server(Major::oldest());
    let stage = Stage::before(&server);
    let (client, connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    stage.order(|record| {
        record.terms.service = freehold::model::Service::Refused {
            sqlstate: "57P03".to_owned(),
            message: "database \"shop\" is quarantined".to_owned(),
            detail: None,
            hint: "Ask its owner.".to_owned(),
        };
    });
    let error = connection.await.unwrap().unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "database \"shop\" is quarantined");
    drop(client);
}

#[test]
fn pgbench_does_not_notice_twenty_moves() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::newest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let init = |server: &Postgres| {
        let init = stage.program(server, "pgbench").args(["-i", "-q", "-s", "1"]).output().unwrap();
        assert!(init.status.success(), "{}", text(&init.stderr));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    init(&source);
    runtime.block_on(move_to(&stage, &target(&destination)));
    init(&source);
    let mut pgbench = stage.program(&source, "pgbench");
    let running = pgbench.args(["-n", "-S", "-M", "prepared", "-c", "8", "-T", "8"]).spawn().unwrap();
    let mut longest = Duration::ZERO;
    runtime.block_on(async {
        eventually("it runs", || stage.route.session_table().len() >= 8).await;
        for round in 0..20 {
            let place = if round % 2 == 0 { stage::place(&source) } else { target(&destination) };
            longest = longest.max(move_to(&stage, &place).await);
        }
    });
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("number of failed transactions: 0"), "{}", text(&output.stdout));
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(stage.route.gate().state(), GateState::Open);
}

#[tokio::test]
async fn a_session_that_could_not_follow_is_told_what_held_it() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let (client, connection) = stage.config().connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TEMP TABLE cart (i int)").await.unwrap();
    stage.order(|record| {
        record.place = target(&destination);
        record.epoch = record.epoch.next();
    });
    let error = connection.await.unwrap().unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code(), &SqlState::ADMIN_SHUTDOWN);
    assert!(error.detail().unwrap().contains("cart"), "{error:?}");
}

#[tokio::test]
async fn the_last_notification_of_the_old_place_is_heard() {
    let (source, destination) = (stage::server(Major::oldest()), stage::server(Major::oldest()));
    stage::copy_verifier(&source, &destination);
    let stage = Stage::before(&source);
    let (client, mut hears) = listener(&stage).await;
    client.batch_execute("LISTEN news").await.unwrap();
    stage.order(|record| record.next = Some(target(&destination)));
    all_ready(&stage).await;
    stage.order(|record| record.gate = GateOrder::Held { by: HoldReason::Pause, until: None });
    all_ready(&stage).await;
    source.psql_in("shop", "NOTIFY news, 'last'").unwrap();
    stage.order(|record| {
        record.place = target(&destination);
        record.next = None;
        record.epoch = record.epoch.next();
        record.gate = GateOrder::Open;
    });
    assert_eq!(hears.recv().await.unwrap(), "last");
    all_ready(&stage).await;
    destination.psql_in("shop", "NOTIFY news, 'first'").unwrap();
    assert_eq!(hears.recv().await.unwrap(), "first");
}
