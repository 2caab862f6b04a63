//! What strangers send, thrown at every parser: seeded, bounded in count, part of `make test`.
//!
//! Each of [`targets`] has a property that must hold for any bytes. Here its corpus (`corpus/<target>/`) is
//! run, then inputs of its generator and mutations of both. A failure prints the seed and leaves the input as
//! a file; moved into the corpus, it is tried in every run. `FREEHOLD_FUZZ_SEED` and `FREEHOLD_FUZZ_INPUTS`
//! repeat a run, or make it longer. The same targets and corpus run under libFuzzer: `libfuzzer/Cargo.toml`
//! says how.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;

use mutate::mutate;
use targets::Target;

const INPUTS: u64 = 2_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs one input. One that fails is kept, and said how to have it again.
fn check(target: &Target, origin: &str, input: &[u8]) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.check)(input))) else { return };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    std::fs::write(&kept, input).unwrap();
    eprintln!("{}: {origin} fails; it is in {}", target.name, kept.display());
    resume_unwind(panic);
}

fn fuzz(target: &Target) {
    let corpus = corpus(target);
    for (path, input) in &corpus {
        check(target, &path.display().to_string(), input);
    }
    let first = number("FREEHOLD_FUZZ_SEED").unwrap_or_else(|| rand::random::<u64>() >> 16);
    let inputs = number("FREEHOLD_FUZZ_INPUTS").unwrap_or(INPUTS);
    println!("{}: seeds from {first}", target.name);
    for seed in first..first + inputs {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut input = (target.generate)(&mut rng);
        match seed % 4 {
            0 => {}
            1 => mutate(&mut rng, &mut input, &corpus[(seed % corpus.len() as u64) as usize].1),
            _ => {
                let other = std::mem::take(&mut input);
                input.clone_from(&corpus[(seed / 4 % corpus.len() as u64) as usize].1);
                mutate(&mut rng, &mut input, &other);
            }
        }
        check(target, &format!("FREEHOLD_FUZZ_SEED={seed} FREEHOLD_FUZZ_INPUTS=1"), &input);
    }
}

#[test]
fn startup_packets_in_pieces_are_what_they_are_whole_and_are_built_back() {
    fuzz(&targets::STARTUP);
}

#[test]
fn a_stream_in_pieces_is_walked_like_the_whole_and_little_of_it_is_kept() {
    fuzz(&targets::FRAME);
}

#[test]
fn what_a_parser_of_messages_accepts_is_built_back() {
    fuzz(&targets::MESSAGE);
}

#[test]
fn the_ledger_agrees_with_a_model_of_the_server() {
    fuzz(&targets::EXCHANGE);
}

#[test]
fn a_login_by_scram_succeeds_where_nobody_meddles_and_only_there() {
    fuzz(&targets::SCRAM);
}

#[test]
fn admin_commands_and_their_mistakes_stand_where_they_say() {
    fuzz(&targets::ADMIN);
}

#[test]
fn statements_are_found_one_by_one_what_is_found_in_all_of_them() {
    fuzz(&targets::SCAN);
}

#[test]
fn mistakes_in_a_configuration_stand_where_they_say() {
    fuzz(&targets::CONFIG);
}
