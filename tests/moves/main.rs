//! Moves of a database between two real PostgreSQL systems, under load, with faults at every instant.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod aborts;
#[path = "../support/chaos.rs"]
mod chaos;
mod clients;
mod crashes;
#[path = "../moving/dumps.rs"]
mod dumps;
mod encodings;
mod meaning;
mod names;
mod numbers;
mod own_roles;
mod proof;
mod rights;
mod roles;
mod schema;
mod stage;
mod streams;
mod throttle;
mod truncated;
mod versions;
mod views;

use clients::Load;
use freehold::control::moves::faults::CrashPoint;
use freehold::model::{MoveId, MovePhase, MoveRequest, MoveStep, StepEvent};
use stage::Stage;

/// All points with `make chaos`; otherwise every second one. `tests/crash.rs` has others.
fn some_of(points: impl Iterator<Item = CrashPoint>) -> impl Iterator<Item = CrashPoint> {
    points.step_by(if chaos::is_requested() { 1 } else { 2 })
}

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
    let at =
        |step, event| record.log.iter().find(|entry| (entry.step, entry.event) == (step, event)).unwrap().at;
    let compared = at(MoveStep::Compare, StepEvent::Started).until(at(MoveStep::Compare, StepEvent::Done));
    println!("compared {:?} in {compared:?}", record.facts.compared_before);
    println!("verified {:?} notes {:?}", record.facts.tables_verified, record.facts.notes);
    assert_eq!(stage.route().current().place.system.as_str(), "new");

    stage.request(id, MoveRequest::Undo).await;
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
    let database = stage.catalog.databases().get(&stage.database).await.unwrap().unwrap().value;
    assert_eq!(database.operation, None);
    assert!(!database.history.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_move_leaves_nothing_but_the_closed_copy() {
    let stage = Stage::set().await;
    let id = stage.moved().await;
    stage.request(id, MoveRequest::Finish).await;
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
    let done = stage.freeze_at(MoveStep::Finish, CrashPoint::BEFORE_OUTCOME);
    stage.request(id, MoveRequest::Finish).await;
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
    stage.request(id, MoveRequest::FinishAndDrop).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
    assert_eq!(stage.source.psql("SELECT count(*) FROM pg_database WHERE datname ~ 'shop'").unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_move_leaves_nothing_in_whichever_phase_it_is() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for step in [MoveStep::Provision, MoveStep::Copy, MoveStep::Catchup, MoveStep::Compare, MoveStep::Cutover]
    {
        let id = stage.frozen_at(step, CrashPoint::BEFORE_INTENT).await;
        stage.request(id, MoveRequest::Cancel).await;
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
        stage.target.psql("ALTER SYSTEM SET transaction_timeout = '500ms'").unwrap();
        stage.target.psql("SELECT pg_reload_conf()").unwrap();
    }
    let id = stage.moved().await;
    stage.request(id, MoveRequest::Undo).await;
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
    stage.request(id, MoveRequest::Undo).await;
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
    let id = stage.frozen_before_catchup().await;
    stage.source.psql_in("shop", &write(1_000_000)).unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    let shown = "SELECT n.id, a.id FROM newest n, above a";
    assert_eq!(stage.target.psql_in("shop", shown).unwrap(), "1000000|1000001");
    stage.target.psql_in("shop", &write(2_000_000)).unwrap();
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(stage.source.psql_in("shop", shown).unwrap(), "2000000|2000001");
}

/// What a server knows of the application: its roles, their passwords, their memberships, what is set for the
/// database.
fn known(server: &freehold::lab::Postgres) -> String {
    let sql = "SELECT rolname, rolpassword, rolconnlimit, rolvaliduntil FROM pg_authid WHERE rolname !~ '^(pg_|postgres|freehold)' ORDER BY 1;
        SELECT m.roleid::regrole, m.member::regrole FROM pg_auth_members m WHERE m.member::regrole::text !~ '^(pg_|postgres|freehold)' ORDER BY 1, 2;
        SELECT s.setrole::regrole, c FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE c !~ '^freehold' AND s.setrole::regrole::text !~ '^freehold' ORDER BY 1, 2";
    server.psql(sql).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_settings_that_change_under_a_move_are_the_same_after_it_in_either_direction() {
    let stage = Stage::set().await;
    for sql in [
        "CREATE ROLE team",
        "CREATE ROLE left_team",
        "GRANT left_team TO app",
        "ALTER ROLE app SET work_mem = '5MB'",
        "ALTER DATABASE shop SET search_path = public, pg_temp",
        "ALTER DATABASE shop SET DateStyle = 'German'",
    ] {
        stage.source.psql(sql).unwrap();
    }
    let id = stage.frozen_before_catchup().await;
    let changes = |name: &str, secret: &str| {
        [
            format!("CREATE ROLE {name} LOGIN PASSWORD '{secret}'"),
            format!("GRANT CONNECT ON DATABASE shop TO {name}"),
            "ALTER ROLE app CONNECTION LIMIT 33 VALID UNTIL '2099-01-01'".to_owned(),
            "ALTER ROLE app RESET work_mem".to_owned(),
            format!("GRANT team TO app; GRANT team TO {name}; REVOKE left_team FROM app"),
            format!("ALTER ROLE {name} IN DATABASE shop SET work_mem = '6MB'"),
            "ALTER DATABASE shop RESET DateStyle".to_owned(),
            format!("ALTER DATABASE shop SET application_name = '{name}'"),
        ]
    };
    for sql in changes("first", "one") {
        stage.source.psql(&sql).unwrap();
    }
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    assert_eq!(known(&stage.target), known(&stage.source));
    stage.target.connect_as("shop", "first", "one").await.expect("a role that was made during the move");

    for sql in changes("second", "two") {
        stage.target.psql(&sql).unwrap();
    }
    stage.target.psql("ALTER ROLE first PASSWORD 'three'; ALTER ROLE app CONNECTION LIMIT -1").unwrap();
    let there = known(&stage.target);
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(known(&stage.source), there);
    for (role, secret) in [("first", "three"), ("second", "two")] {
        stage.source.connect_as("shop", role, secret).await.expect("a role that was changed after the move");
    }
    assert_clean(&stage, id, "old").await;
}
