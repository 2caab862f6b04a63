//! kill -9 of the process at every recorded point of a move: it resumes or is undone, and nothing is lost.
//!
//! `make chaos` kills at every point. `make test` kills at those of [`SHORT_FORM`]: on both sides of what is
//! undone, what goes on, and the decision. The tests of `moves` stop the mover at every point there, within
//! one process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/chaos.rs"]
mod chaos;
mod support;

use std::time::Duration;

use support::ledger::{self, Load};
use support::{Stage, leftovers, until};

/// Crash points and where the move must stand after the restart, without anybody's doing.
const ON_THE_WAY: &[(&str, &[&str])] = &[
    // The preflight changes nothing, so it is simply done again.
    ("preflight:after_intent", &["kept"]),
    ("preflight:before_outcome", &["kept"]),
    ("provision:after_intent", &["rolled back"]),
    ("provision:before_outcome", &["rolled back"]),
    ("copy:after_intent", &["rolled back"]),
    ("copy:before_outcome", &["rolled back"]),
    ("catchup:after_intent", &["kept"]),
    ("catchup:before_outcome", &["kept"]),
    ("catchup:after_outcome", &["kept"]),
    ("compare:after_intent", &["kept"]),
    ("compare:before_outcome", &["kept"]),
    ("cutover:after_intent", &["kept"]),
    ("cutover:warmed", &["kept"]),
    ("cutover:fenced_ahead", &["kept"]),
    ("cutover:held", &["kept"]),
    ("cutover:fenced", &["kept"]),
    ("cutover:marker_seen", &["kept"]),
    ("cutover:before_commit", &["kept"]),
    ("cutover:after_commit", &["kept"]),
    ("cutover:before_outcome", &["kept"]),
    ("settle:after_intent", &["kept"]),
    ("settle:before_outcome", &["kept"]),
];

const ON_THE_WAY_BACK: &[&str] = &[
    "undo_cutover:before_intent",
    "undo_cutover:after_intent",
    "undo_cutover:warmed",
    "undo_cutover:fenced_ahead",
    "undo_cutover:held",
    "undo_cutover:fenced",
    "undo_cutover:marker_seen",
    "undo_cutover:before_commit",
    "undo_cutover:after_commit",
    "undo_cutover:before_outcome",
];

/// What `make test` does of [`ON_THE_WAY`] and [`ON_THE_WAY_BACK`].
const SHORT_FORM: &[&str] = &[
    "provision:before_outcome",
    "copy:after_intent",
    "catchup:after_outcome",
    "cutover:fenced",
    "cutover:before_commit",
    "cutover:after_commit",
    "settle:after_intent",
    "undo_cutover:held",
    "undo_cutover:before_commit",
    "undo_cutover:after_commit",
];

/// Whether this run kills there.
fn is_due(point: &str) -> bool {
    chaos::is_requested() || SHORT_FORM.contains(&point)
}

/// One move meets all of them, one after the other: the process that takes over ends at the next.
const BEFORE_EACH_STEP: &[&str] = &[
    "preflight:before_intent",
    "provision:before_intent",
    "copy:before_intent",
    "catchup:before_intent",
    "compare:before_intent",
    "cutover:before_intent",
    "settle:before_intent",
];

const AROUND_THE_FINISH: &[&str] =
    &["finish:before_intent", "finish:after_intent", "finish:before_outcome", "finish:after_outcome"];

const AROUND_EACH_UNDO: &[&str] =
    &["before_undo_intent", "after_undo_intent", "before_undo_outcome", "after_undo_outcome"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_before_each_step_and_around_its_end_is_finished_all_the_same() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    stage.freehold.restart(Some(BEFORE_EACH_STEP[0]));
    let load = Load::start_named(&login, 4, "before").await;
    let _ = stage.freehold.admin().await.try_run("MOVE DATABASE shop TO SYSTEM new").await;
    crash_at_each(&mut stage, &BEFORE_EACH_STEP[1..]);
    let admin = stage.freehold.admin().await;
    let id = admin.run("SHOW MOVES").await[0]["id"].clone();
    admin.wait_for_phase(&id, &["kept"]).await;
    let mut acknowledged = load.finish().await.acknowledged;

    stage.freehold.restart(Some(AROUND_THE_FINISH[0]));
    let load = Load::start_named(&login, 4, "around").await;
    let _ = stage.freehold.admin().await.try_run(&format!("FINISH MOVE {id}")).await;
    crash_at_each(&mut stage, &AROUND_THE_FINISH[1..]);
    stage.freehold.admin().await.wait_for_phase(&id, &["finished"]).await;
    acknowledged.extend(load.finish().await.acknowledged);
    writes_again(&login).await;
    nothing_is_left(&stage, "the end").await;
    nothing_is_lost(&login, &acknowledged, "the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_is_killed_around_each_undo_is_finished_all_the_same() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let around = |step: &'static str| AROUND_EACH_UNDO.iter().map(move |point| format!("{step}:{point}"));
    let points: Vec<String> =
        ["cutover", "catchup", "copy", "provision"].into_iter().flat_map(around).collect();
    let points: Vec<&str> = points.iter().map(String::as_str).collect();
    stage.freehold.restart(Some(points[0]));
    let load = Load::start_named(&login, 4, "rollback").await;
    // What cannot travel keeps the cutover waiting until the move is cancelled: then there is everything to
    // undo.
    let pinned = login.connect().await;
    pinned.batch_execute("CREATE TEMP TABLE cart (id int)").await.unwrap();
    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["cutover"]).await;
    let _ = admin.try_run(&format!("CANCEL MOVE {id}")).await;
    crash_at_each(&mut stage, &points[1..]);
    stage.freehold.admin().await.wait_for_phase(&id, &["rolled back"]).await;
    let acknowledged = load.finish().await.acknowledged;
    writes_again(&login).await;
    nothing_is_left(&stage, "the rollback").await;
    nothing_is_lost(&login, &acknowledged, "the rollback").await;
}

/// The process is on its way to a crash; whoever takes over runs into the next one, and the last goes on.
fn crash_at_each(stage: &mut Stage, points: &[&str]) {
    for next in points.iter().copied().map(Some).chain([None]) {
        eprintln!("crash, then {next:?}");
        stage.freehold.crash_into(next, Duration::from_secs(120));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_killed_anywhere_resumes_or_is_undone_and_loses_nothing() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let mut acknowledged = Vec::new();
    for (point, ends) in ON_THE_WAY.iter().filter(|(point, _)| is_due(point)) {
        eprintln!("crash at {point}");
        stage.freehold.restart(Some(point));
        let (load, id) = crash(&mut stage, &login, "MOVE DATABASE shop TO SYSTEM new").await;
        acknowledged.extend(load);
        let admin = stage.freehold.admin().await;
        let row = admin.wait_for_phase(&id, ends).await;
        writes_again(&login).await;
        if row["phase"] == "kept" {
            admin.run(&format!("UNDO MOVE {id}")).await;
            admin.wait_for_phase(&id, &["undone"]).await;
        }
        nothing_is_left(&stage, point).await;
        nothing_is_lost(&login, &acknowledged, point).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_was_killed_anywhere_goes_on_and_loses_nothing() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let mut acknowledged = Vec::new();
    for point in ON_THE_WAY_BACK.iter().filter(|point| is_due(point)) {
        eprintln!("crash at {point}");
        let admin = stage.freehold.admin().await;
        let id = admin.start_move("shop", "new").await;
        admin.wait_for_phase(&id, &["kept"]).await;
        stage.freehold.restart(Some(point));
        let (load, _) = crash(&mut stage, &login, &format!("UNDO MOVE {id}")).await;
        acknowledged.extend(load);
        let admin = stage.freehold.admin().await;
        let row = admin.wait_for_phase(&id, &["kept", "undone"]).await;
        if row["phase"] == "kept" {
            admin.run(&format!("UNDO MOVE {id}")).await;
            admin.wait_for_phase(&id, &["undone"]).await;
        }
        writes_again(&login).await;
        nothing_is_left(&stage, point).await;
        nothing_is_lost(&login, &acknowledged, point).await;
    }
}

/// Lets the command run into the crash point under load; answers what the clients know to be committed.
async fn crash(stage: &mut Stage, login: &support::Login, command: &str) -> (Vec<(String, i64)>, String) {
    let load = Load::start_named(login, 4, &format!("{:x}", rand::random::<u64>())).await;
    let admin = stage.freehold.admin().await;
    let begun = std::time::Instant::now();
    // The process may end before it has answered; what it recorded is there.
    let _ = admin.try_run(command).await;
    stage.freehold.restart_after_crash(Duration::from_secs(120));
    eprintln!("  crashed after {:?}", begun.elapsed());
    let moves = stage.freehold.admin().await.run("SHOW MOVES").await;
    let id = moves[0]["id"].clone();
    (load.finish().await.acknowledged, id)
}

async fn writes_again(login: &support::Login) {
    until("the application can write again", || async {
        let Ok(client) = login.try_connect().await else { return false };
        client.execute("UPDATE account SET balance = balance WHERE id = 1", &[]).await.is_ok()
    })
    .await;
}

async fn nothing_is_left(stage: &Stage, point: &str) {
    until(&format!("nothing is left after {point}"), || async {
        leftovers(&stage.source).await.is_empty() && leftovers(&stage.target).await.is_empty()
    })
    .await;
}

async fn nothing_is_lost(login: &support::Login, acknowledged: &[(String, i64)], point: &str) {
    let verdict =
        ledger::Verdict { acknowledged: acknowledged.to_vec(), errors: Vec::new(), longest: Duration::ZERO };
    eprintln!("  {point}: {} acknowledged commits", acknowledged.len());
    verdict.assert_nothing_lost(&login.connect().await).await;
}
