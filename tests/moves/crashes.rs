//! The mover is killed at every instant that has a name, and another one takes over.

use freehold::control::moves::faults::CrashPoint;
use freehold::control::operations::Boundary;
use freehold::model::{MovePhase, MoveRequest, MoveStep};

use crate::clients::Load;
use crate::stage::Stage;
use crate::{assert_clean, some_of};

/// Around every step.
const AROUND: [CrashPoint; 4] = [
    CrashPoint::BEFORE_INTENT,
    CrashPoint::AFTER_INTENT,
    CrashPoint::BEFORE_OUTCOME,
    CrashPoint::AFTER_OUTCOME,
];
/// Inside a cutover, before and after the compare-and-swap.
const INSIDE: [CrashPoint; 7] = [
    CrashPoint::Warmed,
    CrashPoint::FencedAhead,
    CrashPoint::Held,
    CrashPoint::Fenced,
    CrashPoint::MarkerSeen,
    CrashPoint::BeforeCommit,
    CrashPoint::AfterCommit,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_is_killed_around_any_step_before_the_cutover_resumes() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for point in some_of(AROUND.into_iter()) {
        let mut kills = vec![(MoveStep::Preflight, point)];
        if matches!(point, CrashPoint::BEFORE_INTENT | CrashPoint::AFTER_OUTCOME) {
            kills.extend([(MoveStep::Provision, point), (MoveStep::Copy, point)]);
        }
        kills.extend([(MoveStep::Catchup, point), (MoveStep::Compare, point)]);
        let id = stage.request_move_and_kill(&kills).await;
        stage.rests_in(id, MovePhase::Kept).await;
        stage.request(id, MoveRequest::Undo).await;
        stage.rests_in(id, MovePhase::Undone).await;
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_is_killed_while_it_copies_rolls_back() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for step in [MoveStep::Provision, MoveStep::Copy] {
        for point in [CrashPoint::AFTER_INTENT, CrashPoint::BEFORE_OUTCOME] {
            let id = stage.request_move_and_kill(&[(step, point)]).await;
            let record = stage.rests_in(id, MovePhase::RolledBack).await;
            assert_eq!(record.failure.unwrap().sqlstate, "57P01", "{step:?} {point:?}");
            assert_clean(&stage, id, "old").await;
        }
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_is_killed_inside_a_cutover_lets_every_client_go_on() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for point in some_of(INSIDE.into_iter().chain(AROUND)) {
        let id = stage.request_move_and_kill(&[(MoveStep::Cutover, point)]).await;
        stage.rests_in(id, MovePhase::Kept).await;
        let reached = stage.freeze_at(MoveStep::UndoCutover, point);
        stage.request(id, MoveRequest::Undo).await;
        stage.crash_when(&reached).await;
        stage.rests_in(id, MovePhase::Undone).await;
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_is_killed_after_the_commit_finishes_what_it_began() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    for point in some_of(AROUND.into_iter()) {
        let id = stage.request_move_and_kill(&[(MoveStep::Settle, point)]).await;
        stage.rests_in(id, MovePhase::Kept).await;
        let reached = stage.freeze_at(MoveStep::Finish, point);
        stage.request(id, MoveRequest::Undo).await;
        stage.crash_when(&reached).await;
        stage.rests_in(id, MovePhase::Undone).await;
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_is_killed_is_repeated() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    let around_undo = [
        Boundary::BeforeUndoIntent,
        Boundary::AfterUndoIntent,
        Boundary::BeforeUndoOutcome,
        Boundary::AfterUndoOutcome,
    ];
    for point in some_of(around_undo.map(CrashPoint::Recorded).into_iter()) {
        // Cancelled in the middle of the cutover, so that there is everything to undo.
        let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::FencedAhead).await;
        stage.request(id, MoveRequest::Cancel).await;
        let steps = [MoveStep::Cutover, MoveStep::Catchup, MoveStep::Copy, MoveStep::Provision];
        stage.kill_at_each(&steps.map(|step| (step, point))).await;
        stage.rests_in(id, MovePhase::RolledBack).await;
        assert_clean(&stage, id, "old").await;
    }
    load.end(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_that_gets_another_address_under_a_move_changes_nothing_but_where_it_is_looked_for() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 2).await;
    // Committed and not recorded: the route and the record name two addresses of one database.
    let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::AfterCommit).await;
    stage.readdress("new", "localhost").await;
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    assert_eq!(stage.route().current().place.address.host, "localhost");

    // And while it is kept: the way back follows, and the undo goes to where the source is now.
    stage.readdress("new", "127.0.0.1").await;
    stage.readdress("old", "localhost").await;
    stage.restart_mover();
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(stage.route().current().place.address.host, "localhost");
    load.end(&stage).await;
    assert_clean(&stage, id, "old").await;
}
