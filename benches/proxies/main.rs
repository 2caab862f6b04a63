//! The relay side by side with PgBouncer and HAProxy: one PostgreSQL, one run, interleaved rounds.
//!
//! `make bench`, or `cargo bench --bench proxies -- [--rounds N] [--seconds S] [--only WORD] [--stage
//! pinned|free] [--out DIRECTORY]`. Writes `results.md`, `results.json` and `results.svg` into the directory
//! (default `bench-results`).
//!
//! Owns what is measured ([`workloads`]), with what ([`contenders`]), how ([`measure`]) and how it is told
//! ([`report`]).
//!
//! # Why it looks like this
//! Machines are shared and noisy, so every figure is a ratio to PgBouncer in the same round, with its minimum
//! and maximum over the rounds; and what a proxy costs is its CPU time, which the scheduler counts in
//! nanoseconds, whatever else runs. Two stages: *pinned*, everything on one CPU, where no wake-up crosses
//! CPUs and only code is compared; *free*, as one would run it. Contenders that cannot be had are left out,
//! and the report says so.
//!
//! | variable | adds |
//! |---|---|
//! | `FREEHOLD_BENCH_PGBOUNCER` | another PgBouncer, by the path of its program: the others are compared with it then |
//! | `FREEHOLD_BENCH_OTHER` | any other pooler, by the path of a script that becomes it: see [`contenders::other`] |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on stops")]

mod contenders;
mod measure;
mod report;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use contenders::{Arena, Stage};
use measure::Sample;
use workloads::WORKLOADS;

/// What is asked for on the command line.
struct Wanted {
    rounds: u32,
    time: Duration,
    only: Option<String>,
    stages: Vec<Stage>,
    out: PathBuf,
}

fn main() {
    let wanted = wanted(std::env::args().skip(1));
    let mut samples = Vec::new();
    let mut notes = Vec::new();
    for &stage in &wanted.stages {
        let arena = Arena::open(stage);
        notes = arena.notes.clone();
        samples.extend(run(&arena, &wanted));
    }
    report::write(&wanted.out, &samples, &notes).expect("the results can be written");
    println!("\nresults: {}", wanted.out.join("results.md").display());
}

fn run(arena: &Arena, wanted: &Wanted) -> Vec<Sample> {
    let mut samples = Vec::new();
    let is_wanted = |name: &str| wanted.only.as_deref().is_none_or(|word| name.contains(word));
    for workload in WORKLOADS.iter().filter(|workload| is_wanted(workload.name)) {
        for round in 0..workload.kind.rounds(wanted.rounds) {
            for contender in arena.contenders.iter().filter(|contender| workload.suits(contender)) {
                let Some(sample) = measure::measure(arena, contender, workload, round, wanted.time) else {
                    println!("{} {}: did not run", workload.name, contender.name);
                    continue;
                };
                println!("{}", report::line(&sample));
                samples.push(sample);
            }
        }
    }
    samples
}

fn wanted(arguments: impl Iterator<Item = String>) -> Wanted {
    let mut wanted = Wanted {
        rounds: 5,
        time: Duration::from_secs(4),
        only: None,
        stages: vec![Stage::Pinned, Stage::Free],
        out: "bench-results".into(),
    };
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--rounds" => wanted.rounds = value.parse().expect("a number"),
            "--seconds" => wanted.time = Duration::from_secs(value.parse().expect("a number")),
            "--only" => wanted.only = Some(value),
            "--stage" => wanted.stages = vec![Stage::parse(&value)],
            "--out" => wanted.out = value.into(),
            _ => panic!("no such option: {name}"),
        }
    }
    wanted
}
