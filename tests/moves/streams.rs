//! Replication that stops, differs, or keeps too much.

use freehold::control::moves::faults::CrashPoint;
use freehold::model::{Address, MovePhase, MoveRequest, MoveStep};

use crate::assert_clean;
use crate::clients::Load;
use crate::stage::{PATIENCE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_error_rolls_the_move_back_and_says_so() {
    let stage = Stage::set().await;
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
    // A row that the source will send, too.
    let row = "INSERT INTO ledger (id, client, number) VALUES (999999, 1, 1)";
    stage.target.psql_in("shop", row).unwrap();
    stage.source.psql_in("shop", row).unwrap();
    // Back to catch-up by a cutover that fails, which then meets the stopped stream.
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert!(failure.message.contains("replication"), "{failure:?}");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_tracks_where_rows_come_from_meets_no_conflict() {
    let stage = Stage::set_with(&[("track_commit_timestamp", "on")]).await;
    let load = Load::start(&stage, 4).await;
    let id = stage.moved().await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systems_that_do_not_reach_each_other_are_found_before_a_row_is_copied() {
    let stage = Stage::set().await;
    // Nobody listens there.
    let nowhere = Address { host: stage.target.host.clone(), port: freehold::lab::free_port().unwrap() };
    for (system, other) in [("old", "new"), ("new", "old")] {
        stage.replicate_from(system, Some(nowhere.clone())).await;
        let id = stage.request_move().await;
        let failure = stage.rests_in(id, MovePhase::RolledBack).await.failure.unwrap();
        assert_eq!(failure.step, MoveStep::Provision);
        let expected = format!("system {other} cannot connect to system {system} for replication");
        assert_eq!(failure.message, expected);
        stage.replicate_from(system, None).await;
        assert_clean(&stage, id, "old").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_keeps_too_much_for_the_move_is_relieved_of_it() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.wal_retained_bytes_max = 0);
    let load = Load::start(&stage, 4).await;
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    assert_eq!(record.failure.unwrap().sqlstate, "53400");
    assert_clean(&stage, id, "old").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_that_is_lost_is_said_and_the_database_goes_on() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 2).await;
    let id = stage.moved().await;
    stage.change_settings(|settings| settings.wal_retained_bytes_max = 0);
    stage.restart_mover();
    let record = stage.until(id, |record| record.facts.notes.contains_key("no_way_back_because")).await;
    assert_eq!(record.phase, MovePhase::Kept);
    stage.change_settings(|settings| settings.wal_retained_bytes_max = u64::MAX);
    stage.request(id, MoveRequest::Undo).await;
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert!(record.failure.is_some(), "an undo without a way back");
    stage.assert_open_on("new").await;
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_does_not_end_the_way_back_and_an_error_that_stays_does() {
    let stage = Stage::set_with(&[("wal_retrieve_retry_interval", "100ms")]).await;
    let id = stage.moved().await;
    for _ in 0..2 {
        let pid = stage.target.psql("SELECT active_pid FROM pg_replication_slots").unwrap();
        stage.target.psql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
        let another = format!("SELECT count(*) FROM pg_replication_slots WHERE active_pid <> {pid}");
        stage.until_answer(&stage.target, &another, "1").await;
    }
    // What is written after that still comes.
    stage.target.psql_in("shop", "INSERT INTO ledger (id, client, number) VALUES (999998, 1, 1)").unwrap();
    let has_come = "SELECT count(*) FROM ledger WHERE id = 999998";
    stage.until_answer_in("shop", &stage.source, has_come, "1").await;

    let row = "INSERT INTO ledger (id, client, number) VALUES (999999, 1, 1)";
    stage.source.psql_in("shop", row).unwrap();
    stage.target.psql_in("shop", row).unwrap();
    let record = stage.until(id, |record| record.facts.notes.contains_key("no_way_back_because")).await;
    let because = &record.facts.notes["no_way_back_because"];
    assert!(because.contains("replication"), "{because}");
    stage.assert_open_on("new").await;
}

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_gone_does_not_fill_the_disk_of_the_target() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 2).await;
    let id = stage.moved().await;
    stage.source.kill9().unwrap();
    stage.change_settings(|settings| settings.wal_retained_bytes_max = 0);
    stage.restart_mover();
    stage.until(id, |record| record.facts.notes.contains_key("no_way_back_because")).await;
    stage.until_answer(&stage.target, SLOTS, "0").await;
    load.end(&stage).await;
    stage.source.restart().unwrap();
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_parks_keeps_no_more_wal_on_the_live_side_than_it_may() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.policy.retry.step_attempts_max = 1);
    // The target dies: its side of the undo fails, the source's slot goes all the same.
    let id = stage.frozen_at(MoveStep::Catchup, CrashPoint::BEFORE_OUTCOME).await;
    stage.target.kill9().unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Parked).await;
    assert_eq!(stage.source.psql(SLOTS).unwrap(), "0");
    stage.target.restart().unwrap();
    stage.request(id, MoveRequest::Cancel).await;
    stage.rests_in(id, MovePhase::RolledBack).await;
    assert_clean(&stage, id, "old").await;

    // The source was away when its slot should have gone: once it is back, the slot goes when it keeps too
    // much.
    let id = stage.frozen_at(MoveStep::Catchup, CrashPoint::BEFORE_OUTCOME).await;
    stage.source.kill9().unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Parked).await;
    stage.source.restart().unwrap();
    assert_eq!(stage.source.psql(SLOTS).unwrap(), "1");
    stage.change_settings(|settings| settings.wal_retained_bytes_max = 0);
    stage.restart_mover();
    stage.until_answer(&stage.source, SLOTS, "0").await;
    stage.request(id, MoveRequest::Cancel).await;
    stage.rests_in(id, MovePhase::RolledBack).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_crashes_while_the_target_follows_is_waited_for() {
    let stage = Stage::set().await;
    let id = stage.frozen_at(MoveStep::Catchup, CrashPoint::AFTER_INTENT).await;
    stage.source.kill9().unwrap();
    stage.without_faults();
    stage.restart_mover();
    stage.until(id, |record| record.failure.is_some()).await;
    stage.source.restart().unwrap();
    stage.rests_in(id, MovePhase::Kept).await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_are_refused_on_both_sides_until_the_move_has_ended() {
    let stage = Stage::set().await;
    let app = stage.source.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    let view = "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM account; CREATE UNIQUE INDEX ON counted (count)";
    app.batch_execute(view).await.unwrap();
    drop(app);
    let id = stage.moved().await;
    let app = stage.target.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    for work in [
        "REFRESH MATERIALIZED VIEW CONCURRENTLY counted",
        "REINDEX TABLE CONCURRENTLY account",
        "VACUUM (FULL, ANALYZE) account",
    ] {
        app.batch_execute(work).await.unwrap_or_else(|error| panic!("{work}: {error:?}"));
    }
    let refused = app.batch_execute("CREATE TABLE more (id int)").await.unwrap_err();
    let refused = refused.as_db_error().unwrap().clone();
    assert_eq!(refused.code().code(), "55006");
    assert!(refused.hint().unwrap().contains("FINISH MOVE 1"), "{refused:?}");
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    app.batch_execute("CREATE TABLE more (id int)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_is_refused_before_it_makes_anybody_wait_for_its_lock() {
    let stage = Stage::set().await;
    stage.moved().await;
    let reader = stage.target.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    reader.batch_execute("BEGIN; SELECT FROM account").await.unwrap();
    let app = stage.target.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    for change in ["ALTER TABLE account ADD COLUMN more int", "DROP TABLE account"] {
        let refused = tokio::time::timeout(PATIENCE, app.batch_execute(change)).await.expect("it waits");
        assert_eq!(refused.unwrap_err().code().unwrap().code(), "55006", "{change}");
    }
    // What is temporary, or not there, is nobody's business.
    let passes = "DROP TABLE IF EXISTS never_there; CREATE TEMP TABLE cart (a int);
        ALTER TABLE cart ADD COLUMN b int; DROP TABLE cart";
    app.batch_execute(passes).await.unwrap();
    app.batch_execute("CREATE TEMP TABLE cart (a int)").await.unwrap();
    reader.batch_execute("COMMIT").await.unwrap();
    let refused = app.batch_execute("ALTER TABLE account ADD COLUMN more int").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55006");
}

/// What takes the way back of a kept move away, and what is said of it then.
const LOSSES: &[(&str, &str, &str)] = &[
    ("publication_dropped", "DROP PUBLICATION {back}", "publication {back} on system new was dropped"),
    ("table_renewed", "ALTER PUBLICATION {back} DROP TABLE ledger; ALTER PUBLICATION {back} ADD TABLE ledger", "its tables are not"),
    ("inserts_only", "ALTER PUBLICATION {back} SET (publish = 'insert')", "it does not tell every change"),
    (
        "slot_dropped",
        "DO $$ BEGIN LOOP
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{back}' AND active;
            BEGIN PERFORM pg_drop_replication_slot('{back}'); EXIT; EXCEPTION WHEN object_in_use THEN NULL; END;
         END LOOP; END $$",
        "slot {back} on system new was dropped",
    ),
    (
        "subscription_dropped",
        "ALTER SUBSCRIPTION {back} DISABLE; ALTER SUBSCRIPTION {back} SET (slot_name = NONE); DROP SUBSCRIPTION {back}",
        "subscription {back} on system old was dropped",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_takes_the_way_back_away_is_noticed_and_said_while_the_database_goes_on() {
    let stage = Stage::set().await;
    let others = LOSSES.iter().map(|(dbname, _, _)| stage.beside(dbname));
    let others = futures_util::future::join_all(others).await;
    let lost = others.iter().zip(LOSSES).map(|(other, (dbname, sql, said))| async move {
        let id = other.moved().await;
        // The watch has seen all of it once.
        other.until(id, |record| record.facts.notes.contains_key("way_back_publication")).await;
        let store = other.catalog.store_id().await.unwrap();
        let back = format!("freehold_back_{store}_{id}");
        let server = if dbname.starts_with("subscription") { &other.source } else { &other.target };
        // All at once: what is switched off for a moment only is switched on again.
        server.psql_in(dbname, &sql.replace("{back}", &back)).unwrap();
        let record = other.until(id, |record| record.facts.notes.contains_key("no_way_back_because")).await;
        let because = &record.facts.notes["no_way_back_because"];
        assert!(because.contains(&said.replace("{back}", &back)), "{dbname}: {because}");
        assert_eq!(record.phase, MovePhase::Kept);
        other.assert_open_on("new").await;
        other.request(id, MoveRequest::Finish).await;
        other.rests_in(id, MovePhase::Finished).await;
        id
    });
    let ids = futures_util::future::join_all(lost).await;
    for (other, id) in others.iter().zip(ids) {
        assert_eq!(other.left_behind(id).await, Vec::<String>::new(), "{}", other.dbname);
    }
}
