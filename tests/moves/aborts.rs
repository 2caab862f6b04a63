//! Cutovers that cannot be, and what the clients notice of them: nothing.

use std::time::Duration;

use freehold::catalog::store::StoreError;
use freehold::control::moves::faults::CrashPoint;
use freehold::model::{
    GateOrder, HoldReason, MovePhase, MoveRecord, MoveRequest, MoveStep, RouteRecord, StepEvent,
};

use crate::clients::{Load, pin};
use crate::stage::{APP_PASSWORD, PATIENCE, Stage};
use crate::{assert_clean, some_of};

fn attempts(record: &MoveRecord) -> usize {
    let failed = |entry: &&freehold::model::StepEntry| {
        entry.step == MoveStep::Cutover && entry.event == StepEvent::Failed
    };
    record.log.iter().filter(failed).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_that_fails_at_any_instant_is_tried_again_and_given_up_in_the_end() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 2);
    let load = Load::start(&stage, 4).await;
    let instants = [
        CrashPoint::Warmed,
        CrashPoint::FencedAhead,
        CrashPoint::Held,
        CrashPoint::Fenced,
        CrashPoint::MarkerSeen,
        CrashPoint::BeforeCommit,
    ];
    for point in some_of(instants.into_iter()) {
        stage.fail_at(MoveStep::Cutover, point);
        let id = stage.request_move().await;
        let record = stage.rests_in(id, MovePhase::RolledBack).await;
        assert_eq!(attempts(&record), 2, "{point:?}");
        assert_eq!(record.failure.unwrap().step, MoveStep::Cutover);
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_fails_leaves_the_clients_on_the_target_and_can_be_asked_for_again() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 2);
    let load = Load::start(&stage, 4).await;
    let id = stage.moved().await;
    for point in [CrashPoint::FencedAhead, CrashPoint::BeforeCommit] {
        stage.fail_at(MoveStep::UndoCutover, point);
        stage.request(id, MoveRequest::Undo).await;
        let record = stage.rests_in(id, MovePhase::Kept).await;
        assert_eq!(record.failure.unwrap().step, MoveStep::UndoCutover);
        stage.assert_open_on("new").await;
    }
    stage.without_faults();
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_makes_the_move_wait_and_is_named() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| {
        settings.policy.retry.hold_attempts_max = 1;
        settings.warm_budget = Duration::from_secs(2);
    });
    let load = Load::start(&stage, 4).await;
    let open = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    // Not before the copy: the slot would wait for it, too.
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
    open.batch_execute("BEGIN; UPDATE account SET balance = balance WHERE id = 50").await.unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert!(failure.detail.as_deref().is_some_and(|detail| detail.contains("role app")), "{failure:?}");
    open.batch_execute("ROLLBACK").await.expect("the transaction was let alone");
    assert_clean(&stage, id, "old").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_session_is_waited_for_and_named() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| {
        settings.policy.retry.hold_attempts_max = 1;
        settings.pin_budget = Duration::from_millis(300);
    });
    let load = Load::start(&stage, 2).await;
    let pinned = pin(&stage.route(), "temporary table \"cart\"");
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let detail = record.failure.unwrap().detail.unwrap();
    assert!(detail.contains("temporary table \"cart\""), "{detail}");
    assert_clean(&stage, id, "old").await;

    // Let go in time, it delays the move and no more.
    stage.change_settings(|settings| settings.pin_budget = PATIENCE);
    let id = stage.request_move().await;
    let waits = async {
        loop {
            let progress = stage.catalog.moves().progress(id).await.unwrap().unwrap_or_default();
            if !progress.pinned.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("the pinned session is never shown");
    drop(pinned);
    stage.rests_in(id, MovePhase::Kept).await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_bypasses_the_proxies_is_shut_out_and_none_of_its_commits_is_lost() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    let bypass = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0;
        loop {
            let sql = "INSERT INTO ledger (client, number) VALUES (1000, $1)";
            match bypass.execute(sql, &[&(acknowledged + 1)]).await {
                Ok(_) => acknowledged += 1,
                Err(_) => return acknowledged,
            }
        }
    });
    let id = stage.moved().await;
    let acknowledged: i32 = writer.await.unwrap();
    let refused = stage.source.connect_as("shop", "app", APP_PASSWORD).await;
    assert!(refused.is_err(), "the source lets writers in after the move");
    let sql = "SELECT count(*) FROM ledger WHERE client = 1000";
    // The last one may have been committed although its answer was cut off.
    let stored: i32 = stage.target.psql_in("shop", sql).unwrap().parse().unwrap();
    assert!(
        (acknowledged..=acknowledged + 1).contains(&stored),
        "{stored} stored, {acknowledged} acknowledged"
    );
    load.end(&stage).await;
    assert_eq!(stage.movement(id).await.cutover.unwrap().aborted_attempts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_keeps_the_fence_from_being_proved() {
    let stage = Stage::set_with(&[("max_prepared_transactions", "5")]).await;
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 1);
    let load = Load::start(&stage, 2).await;
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
    let sql = "BEGIN; INSERT INTO ledger (client, number) VALUES (2000, 1); PREPARE TRANSACTION 'forgotten'";
    let client = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    client.batch_execute(sql).await.unwrap();
    // Of a role that is no more.
    stage.source.psql("CREATE ROLE leaver LOGIN PASSWORD 'l' IN ROLE app").unwrap();
    let leaver = stage.source.connect_as("shop", "leaver", "l").await.unwrap();
    leaver.batch_execute(&sql.replace("2000", "2001").replace("forgotten", "of nobody")).await.unwrap();
    stage.source.psql("DROP ROLE leaver").unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    let detail = failure.detail.clone().unwrap_or_default();
    assert!(detail.contains("forgotten") && detail.contains("of nobody of role unknown"), "{failure:?}");
    // The fence has ended the one that prepared it.
    let client = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    client.batch_execute("ROLLBACK PREPARED 'forgotten'").await.unwrap();
    stage.source.psql_in("shop", "ROLLBACK PREPARED 'of nobody'").unwrap();
    assert_clean(&stage, id, "old").await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_by_an_administrator_is_respected() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 1);
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
    let set = |gate: GateOrder| {
        let change = move |route: &mut RouteRecord| {
            route.gate = gate.clone();
            Ok::<(), StoreError>(())
        };
        stage.catalog.routes().update(&stage.database, change)
    };
    set(GateOrder::Held { by: HoldReason::Pause, until: None }).await.unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    assert_eq!(record.failure.unwrap().message, "the database is paused");
    let route = stage.catalog.routes().get(&stage.database).await.unwrap().unwrap().value;
    assert_eq!(route.gate, GateOrder::Held { by: HoldReason::Pause, until: None }, "the pause stands");
    set(GateOrder::Open).await.unwrap();
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_would_be_too_long_ends_within_its_budget_and_nobody_gets_an_error() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    // A transaction that came through the gate and does not end: no server connection of it is seen.
    let pass = stage.route().gate().try_enter(1).unwrap();
    let id = stage.request_move_with_pause(Duration::from_millis(400)).await;
    stage.until(id, |record| attempts(record) >= 2).await;
    drop(pass);
    let record = stage.rests_in(id, MovePhase::Kept).await;
    let aborted = record.cutover.unwrap().aborted_attempts;
    assert!(aborted >= 2, "{aborted}");
    let longest = load.longest_so_far();
    assert!(longest > Duration::from_millis(300), "nobody was ever held: {longest:?}");
    assert!(longest < Duration::from_millis(1_000), "held for {longest:?} with a budget of 400 ms");
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_is_stopped_in_order_does_not_leave_clients_waiting() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    let pass = stage.route().gate().try_enter(1).unwrap();
    let id = stage.request_move_with_pause(Duration::from_secs(1)).await;
    stage.until_held().await;
    stage.stop_mover().await;
    // Nobody is there any more who could let them go on.
    stage.assert_open_on("old").await;
    drop(pass);
    stage.restart_mover();
    stage.rests_in(id, MovePhase::Kept).await;
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_crashes_behind_its_fence_is_waited_for_and_unfenced() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| {
        settings.policy.retry.step_attempts_max = 2;
        settings.policy.retry.step_backoff = Duration::from_millis(10);
    });
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::FencedAhead).await;
    stage.source.kill9().unwrap();
    stage.crash();
    // More tries than any other step has.
    let undone = |record: &MoveRecord| {
        let failed = |entry: &&freehold::model::StepEntry| {
            entry.step == MoveStep::Cutover && entry.event == StepEvent::UndoFailed
        };
        record.log.iter().rfind(failed).map(|entry| entry.at)
    };
    let first = undone(&stage.until(id, |record| undone(record).is_some()).await);
    stage.until(id, |record| undone(record) > first.map(|at| at.after(Duration::from_millis(200)))).await;
    let route = stage.catalog.routes().get(&stage.database).await.unwrap().unwrap().value;
    assert_eq!(route.gate, GateOrder::Latched { by: HoldReason::Move { id } }, "new clients wait");
    stage.source.restart().unwrap();
    stage.rests_in(id, MovePhase::Kept).await;
    stage.assert_open_on("new").await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_came_to_the_source_during_an_undo_does_not_stay_when_it_is_aborted() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 1);
    let id = stage.moved().await;
    let open = stage.freeze_at(MoveStep::UndoCutover, CrashPoint::FencedAhead);
    stage.request(id, MoveRequest::Undo).await;
    tokio::time::timeout(PATIENCE, open.notified()).await.unwrap();
    let client = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let write = "INSERT INTO ledger (client, number) VALUES (3000, 1)";
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    client.batch_execute(write).await.expect_err("a write that nobody will see");
    assert!(stage.source.connect_as("shop", "app", APP_PASSWORD).await.is_err());
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_does_not_make_new_clients_wait_for_the_other_side() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| {
        settings.policy.retry.hold_attempts_max = 1;
        settings.policy.retry.step_attempts_max = 1;
    });
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::FencedAhead).await;
    stage.target.kill9().unwrap();
    stage.crash();
    // Nothing of the target can be undone, and the clients go on as if there had never been a move.
    stage.rests_in(id, MovePhase::Parked).await;
    stage.assert_open_on("old").await;
    stage.target.restart().unwrap();
    stage.request(id, MoveRequest::Cancel).await;
    stage.rests_in(id, MovePhase::RolledBack).await;
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_connection_that_writes_is_shut_out_like_any_other() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 2).await;
    let mut bypass = stage.replication_connection().await;
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0;
        let insert = "INSERT INTO public.ledger (client, number) VALUES (4000, 1)";
        while bypass.query("writing", insert).await.is_ok() {
            acknowledged += 1;
        }
        acknowledged
    });
    stage.moved().await;
    let acknowledged: i32 = tokio::time::timeout(PATIENCE, writer).await.expect("it writes on").unwrap();
    let sql = "SELECT count(*) FROM ledger WHERE client = 4000";
    let stored: i32 = stage.target.psql_in("shop", sql).unwrap().parse().unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&stored), "{stored} stored, {acknowledged} told");
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replication_does_not_carry_keeps_the_clients_where_they_are() {
    let stage = Stage::set().await;
    stage.source.psql_in("shop", "CREATE UNLOGGED TABLE public.cache (a int)").unwrap();
    stage.change_settings(|settings| settings.policy.retry.hold_attempts_max = 1);
    let appears = [
        ("SELECT lo_from_bytea(77, 'abc')", "SELECT lo_unlink(77)", "large objects"),
        ("INSERT INTO cache VALUES (1)", "TRUNCATE cache", "public.cache"),
    ];
    for (make, remove, named) in appears {
        let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
        stage.source.psql_in("shop", make).unwrap();
        stage.crash();
        let failure = stage.rests_in(id, MovePhase::RolledBack).await.failure.unwrap();
        assert!(failure.detail.as_deref().is_some_and(|detail| detail.contains(named)), "{failure:?}");
        stage.source.psql_in("shop", remove).unwrap();
        assert_clean(&stage, id, "old").await;
    }
    // The platform's own role passes the guard.
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
    stage.source.psql_in("shop", "CREATE TABLE public.sneaked (id int PRIMARY KEY)").unwrap();
    stage.crash();
    let failure = stage.rests_in(id, MovePhase::RolledBack).await.failure.unwrap();
    assert!(failure.detail.unwrap().contains("public.sneaked"));
    stage.source.psql_in("shop", "DROP TABLE public.sneaked").unwrap();

    // The same on the way back, where it can be removed and asked for again.
    let id = stage.moved().await;
    for (make, remove, named) in appears {
        stage.target.psql_in("shop", make).unwrap();
        stage.request(id, MoveRequest::Undo).await;
        let failure = stage.rests_in(id, MovePhase::Kept).await.failure.unwrap();
        assert!(failure.detail.as_deref().is_some_and(|detail| detail.contains(named)), "{failure:?}");
        stage.target.psql_in("shop", remove).unwrap();
    }
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_clean(&stage, id, "old").await;
}
