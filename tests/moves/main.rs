//! Moves of a database between two real PostgreSQL systems, under load, with faults at every instant.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod aborts;
mod clients;
mod crashes;
mod stage;
mod streams;

use clients::Load;
use freehold::control::settings::CrashPoint;
use freehold::model::{MoveId, MovePhase, MoveStep, MoveWish};
use stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_under_load_and_comes_back_without_an_error() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 8).await;
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::Kept).await;
    let pause = record.cutover.clone().unwrap();
    println!(
        "move: hold {:?}, longest stall {:?}, parts {:?}",
        pause.hold, pause.longest_stall, pause.parts_us
    );
    println!("verified {:?} notes {:?}", record.facts.tables_verified, record.facts.notes);
    assert_eq!(stage.route().current().place.system.as_str(), "new");

    stage.wish(id, MoveWish::Undo).await;
    let record = stage.rests_in(id, MovePhase::Undone).await;
    let pause = record.undo.clone().unwrap();
    println!(
        "undo: hold {:?}, longest stall {:?}, parts {:?}",
        pause.hold, pause.longest_stall, pause.parts_us
    );
    let commits = load.end(&stage).await;
    assert!(commits > 100, "{commits} commits are no load");
    stage.assert_open_on("old").await;
    assert_eq!(stage.left_behind(id).await, Vec::<String>::new());
}

/// What a move leaves when it has ended: nothing.
async fn assert_clean(stage: &Stage, id: MoveId, system: &str) {
    stage.assert_open_on(system).await;
    assert_eq!(stage.left_behind(id).await, Vec::<String>::new());
    let database = stage.catalog.database(&stage.database).await.unwrap().unwrap().value;
    assert_eq!(database.operation, None);
    assert!(!database.history.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_move_leaves_nothing_but_the_closed_copy() {
    let stage = Stage::set().await;
    let id = stage.moved().await;
    stage.wish(id, MoveWish::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
    let copies = "SELECT datname, datallowconn FROM pg_database WHERE datname ~ 'shop'";
    assert_eq!(stage.source.psql(copies).unwrap(), "shop__moved_1|f");
    assert_eq!(stage.target.psql(copies).unwrap(), "shop|t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_that_was_closed_and_not_yet_renamed_is_put_away_by_the_next_try() {
    let stage = Stage::set().await;
    let id = stage.moved().await;
    let done = stage.freeze_at(MoveStep::Finish, CrashPoint::BeforeOutcome);
    stage.wish(id, MoveWish::Finish).await;
    tokio::time::timeout(stage::PATIENCE, done.notified()).await.unwrap();
    // As a crash between the two statements leaves it.
    stage.source.psql("ALTER DATABASE shop__moved_1 RENAME TO shop").unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
    let copies = "SELECT datname, datallowconn FROM pg_database WHERE datname ~ 'shop'";
    assert_eq!(stage.source.psql(copies).unwrap(), "shop__moved_1|f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_can_be_finished_with_the_old_copy_dropped() {
    let stage = Stage::set().await;
    let id = stage.moved().await;
    stage.wish(id, MoveWish::FinishAndDrop).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
    assert_eq!(stage.source.psql("SELECT count(*) FROM pg_database WHERE datname ~ 'shop'").unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_move_leaves_nothing_in_whichever_phase_it_is() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for step in [MoveStep::Provision, MoveStep::Copy, MoveStep::Catchup, MoveStep::Cutover] {
        let before = stage.freeze_at(step, CrashPoint::BeforeIntent);
        let id = stage.request_move().await;
        tokio::time::timeout(stage::PATIENCE, before.notified()).await.unwrap();
        stage.wish(id, MoveWish::Cancel).await;
        stage.without_faults();
        stage.restart_mover();
        let record = stage.rests_in(id, MovePhase::RolledBack).await;
        assert_eq!(record.failure.unwrap().sqlstate, "57014", "cancelled before {step:?}");
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_short_timeouts_moves() {
    let stage = Stage::set().await;
    for timeout in ["idle_session_timeout", "idle_in_transaction_session_timeout"] {
        stage.source.psql(&format!("ALTER DATABASE shop SET {timeout} = '50ms'")).unwrap();
    }
    if stage.target.major >= 17 {
        stage.target.psql("ALTER SYSTEM SET transaction_timeout = '100ms'").unwrap();
        stage.target.psql("SELECT pg_reload_conf()").unwrap();
    }
    let id = stage.moved().await;
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_dropped_on_the_source_after_the_move_does_not_prevent_the_undo() {
    let stage = Stage::set().await;
    for sql in
        ["CREATE ROLE \"Passing \"\"by\"\"\"", "GRANT CONNECT ON DATABASE shop TO \"Passing \"\"by\"\"\""]
    {
        stage.source.psql(sql).unwrap();
    }
    let id = stage.moved().await;
    stage.source.psql("DROP ROLE \"Passing \"\"by\"\"\"").unwrap();
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materialized_views_show_no_older_rows_after_a_move_than_before_it() {
    let stage = Stage::set().await;
    let views = "CREATE MATERIALIZED VIEW newest AS SELECT max(id) AS id FROM ledger;
        CREATE MATERIALIZED VIEW above AS SELECT id + 1 AS id FROM newest";
    stage.source.psql_in("shop", views).unwrap();
    let write = |id: u32| {
        format!(
            "INSERT INTO ledger (id, client, number) VALUES ({id}, 1, 1);
             REFRESH MATERIALIZED VIEW newest; REFRESH MATERIALIZED VIEW above"
        )
    };
    let copied = stage.freeze_at(MoveStep::Catchup, CrashPoint::BeforeIntent);
    let id = stage.request_move().await;
    tokio::time::timeout(stage::PATIENCE, copied.notified()).await.unwrap();
    stage.source.psql_in("shop", &write(1_000_000)).unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    let shown = "SELECT n.id, a.id FROM newest n, above a";
    assert_eq!(stage.target.psql_in("shop", shown).unwrap(), "1000000|1000001");
    stage.target.psql_in("shop", &write(2_000_000)).unwrap();
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(stage.source.psql_in("shop", shown).unwrap(), "2000000|2000001");
}
