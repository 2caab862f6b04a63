//! kill -9 of the process at every recorded point of a move: it resumes or is undone, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

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
    "undo_cutover:after_intent",
    "undo_cutover:warmed",
    "undo_cutover:held",
    "undo_cutover:fenced",
    "undo_cutover:before_commit",
    "undo_cutover:after_commit",
    "undo_cutover:before_outcome",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_killed_anywhere_resumes_or_is_undone_and_loses_nothing() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let mut acknowledged = Vec::new();
    for (point, ends) in ON_THE_WAY {
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
    for point in ON_THE_WAY_BACK {
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
