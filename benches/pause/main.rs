//! How long clients wait in a move, by the number of their sessions: two PostgreSQL servers, a Freehold, a
//! load of a small TPC-B-like transaction that is the same however many sessions share it.
//!
//! `make pauses`, or `cargo bench --bench pause -- [--sessions 16,200,1000] [--rounds N] [--rate N]
//! [--pooling session|transaction] [--kind simple|prepared|unnamed|mixed|ledger]`. Each round is a MOVE and
//! its UNDO, so two pauses. Prints a line for each pause and one for all pauses of a number of sessions.
//!
//! # Why it looks like this
//! What is looked for is a cost for each session, so the rate of transactions stays and the sessions become
//! more. The pause and its parts are what SHOW MOVE tells; how long whole transactions took is measured by
//! the clients themselves, by the phase of the move. The servers lie in memory where that is possible: what a
//! commit costs on a disk is not the question.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on stops")]

mod ledger;
mod load;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use freehold::lab::{Major, Postgres};
use load::{Kind, Load};
use support::{Admin, Freehold, Login, Stage, create_system, until};

/// What is asked for on the command line.
struct Wanted {
    sessions: Vec<usize>,
    rounds: u32,
    /// Transactions a second of all sessions together.
    rate: u32,
    pooling: String,
    kind: Kind,
}

/// One pause, in milliseconds but for the counts.
#[derive(Debug, Default, Clone)]
struct Pause {
    hold: f64,
    drain: f64,
    longest_stall: f64,
    p99_stall: f64,
    held: f64,
    questions: f64,
    aborted: f64,
}

fn main() {
    let wanted = wanted(std::env::args().skip(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for &sessions in &wanted.sessions {
            measure(&wanted, sessions).await;
        }
    });
}

async fn measure(wanted: &Wanted, sessions: usize) {
    let stage = stage(sessions).await;
    let login = database(&stage, &wanted.pooling).await;
    load::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    let load = Load::start(&login, sessions, wanted.rate, wanted.kind).await;
    let (mut pauses, mut took) = (Vec::new(), Took::default());
    for _ in 0..wanted.rounds {
        load.goes_on(u64::from(wanted.rate)).await;
        took.keep("no move", load.take());
        let rows = admin.run("MOVE DATABASE shop TO SYSTEM new MAX PAUSE '5s'").await;
        let id = rows[0]["move"].clone();
        pauses.push(pause(&admin, &load, &mut took, &id, "cutover", "kept").await);
        load.goes_on(u64::from(wanted.rate)).await;
        took.keep("kept", load.take());
        admin.run(&format!("UNDO MOVE {id}")).await;
        pauses.push(pause(&admin, &load, &mut took, &id, "undo", "undone").await);
    }
    let (acknowledged, errors) = load.finish().await;
    let of = |name, value: fn(&Pause) -> f64| summary(name, pauses.iter().map(value).collect());
    println!(
        "{sessions} sessions, {} pooling, {} transactions a second: {}; {}; {}; {}; {} errors",
        wanted.pooling,
        wanted.rate,
        of("hold", |pause| pause.hold),
        of("drain", |pause| pause.drain),
        of("longest stall", |pause| pause.longest_stall),
        of("questions in the hold", |pause| pause.questions),
        errors.len()
    );
    took.print();
    if wanted.kind == Kind::Ledger {
        println!("  {}", ledger::verdict(&login.connect().await, &acknowledged).await);
    }
    errors.iter().take(5).for_each(|error| println!("  {error}"));
}

/// How long clients' transactions took, in milliseconds, by the phase in which they ended, in the order of
/// the phases.
#[derive(Default)]
struct Took(Vec<(String, Vec<f64>)>);

impl Took {
    fn keep(&mut self, phase: &str, mut some: Vec<f64>) {
        match self.0.iter_mut().find(|(name, _)| name == phase) {
            Some((_, all)) => all.append(&mut some),
            None => self.0.push((phase.to_owned(), some)),
        }
    }

    fn print(&mut self) {
        for (phase, all) in self.0.iter_mut().filter(|(_, all)| !all.is_empty()) {
            all.sort_by(f64::total_cmp);
            let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
            println!(
                "  transactions in {phase}: {}; p50 {:.1} ms, p99 {:.1}, p99.9 {:.1}, longest {:.1}",
                all.len(),
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0)
            );
        }
    }
}

/// Waits for the pause and reads what is told of it.
async fn pause(admin: &Admin, load: &Load, took: &mut Took, id: &str, name: &str, phase: &str) -> Pause {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(600);
    loop {
        let row = admin.show_move(id).await;
        took.keep(&row["phase"], load.take());
        if row["phase"] == phase {
            break;
        }
        let is_over = ["finished", "rolled back", "parked"].contains(&row["phase"].as_str());
        assert!(!is_over && Instant::now() < deadline, "{row:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut pause, mut parts) = (Pause::default(), Vec::new());
    for row in admin.run(&format!("SHOW MOVE {id}")).await {
        let Some(property) = row["property"].strip_prefix(&format!("{name}_")) else { continue };
        let value: f64 = row["value"].parse().unwrap_or_default();
        match property {
            "hold_ms" => pause.hold = value,
            "drain_ms" => pause.drain = value,
            "longest_stall_ms" => pause.longest_stall = value,
            "p99_stall_ms" => pause.p99_stall = value,
            "held_requests" => pause.held = value,
            "asked_in_hold" => pause.questions = value,
            "aborted_attempts" => pause.aborted = value,
            _ => {}
        }
        parts.push(format!("{property} {}", row["value"]));
    }
    println!("  {name} after {:.1} s: {}", began.elapsed().as_secs_f64(), parts.join(", "));
    pause
}

fn summary(name: &str, mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get((values.len() * part / 100).min(values.len() - 1)).copied();
    let figure = |part| at(part).unwrap_or_default();
    format!("{name} min {:.1} p50 {:.1} p90 {:.1} max {:.1}", figure(0), figure(50), figure(90), figure(100))
}

/// The oldest and the newest major, with room for all sessions twice over: twins, and connections that are
/// being closed.
async fn stage(sessions: usize) -> Stage {
    let room = (3 * sessions + 100).to_string();
    let start = |major| Postgres::builder(major).setting("max_connections", room.as_str()).start_async();
    let (source, target) =
        tokio::try_join!(start(Major::oldest()), start(Major::newest())).expect("two PostgreSQL servers");
    let freehold = Freehold::start("warm_timeout = \"5min\"", &[&source, &target]);
    let admin = freehold.admin().await;
    for (name, server) in [("old", &source), ("new", &target)] {
        admin.run(&create_system(name, server)).await;
    }
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    Stage { freehold, source, target }
}

async fn database(stage: &Stage, pooling: &str) -> Login {
    let admin = stage.freehold.admin().await;
    let command = "CREATE DATABASE shop OWNER payments PURPOSE 'What a pause is measured with' TIER critical ON SYSTEM old";
    let rows = admin.run(command).await;
    admin.run(&format!("ALTER DATABASE shop POOLING {pooling}")).await;
    let login = Login {
        port: stage.freehold.proxy_port,
        dbname: "shop".into(),
        role: rows[0]["role"].clone(),
        password: rows[0]["password"].clone(),
    };
    until("shop takes clients", || async { login.try_connect().await.is_ok() }).await;
    login
}

fn wanted(arguments: impl Iterator<Item = String>) -> Wanted {
    let mut wanted = Wanted {
        sessions: vec![16, 200, 1_000],
        rounds: 5,
        rate: 1_000,
        pooling: "session".to_owned(),
        kind: Kind::Mixed,
    };
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--sessions" => {
                wanted.sessions = value.split(',').map(|count| count.parse().expect("a number")).collect();
            }
            "--rounds" => wanted.rounds = value.parse().expect("a number"),
            "--rate" => wanted.rate = value.parse().expect("a number"),
            "--pooling" => wanted.pooling = value,
            "--kind" => wanted.kind = Kind::parse(&value),
            _ => panic!("no such option: {name}"),
        }
    }
    wanted
}
