//! The README's "A first move by hand" and the pages in `docs/`, run word for word; only ports and places
//! are other ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use freehold::lab::{Major, Majors, free_ports};

/// Longer than the load that the README starts, and what it does before and after.
const ENDS_WITHIN_S: u32 = 260;

/// What a person does without being told: ends what was started, and types no faster than a server starts.
const PRELUDE: &str = "set -e -m -o pipefail
trap 'status=$?; kill -TERM $(jobs -p) 2>/dev/null || true; deploy/two-servers.sh stop PLAY 2>/dev/null || true; exit $status' EXIT
typed_slowly() { for _ in $(seq 600); do (: </dev/tcp/127.0.0.1/ADMINPORT) 2>/dev/null && return; sleep 0.1; done; false; }
still_running() { kill -0 %2 || { echo 'the load was over before what it is to prove'; false; }; }
";

#[test]
fn the_readme_can_be_followed_word_for_word() {
    let readme = read("README.md");
    let blocks = blocks(section(&readme, "A first move by hand"));
    assert!(blocks.len() >= 6, "the section's commands");
    let said = followed(&blocks.concat());
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
}

/// It goes on where the README has created a database, and ends as the README does.
#[test]
fn the_life_of_a_database_can_be_followed_word_for_word() {
    let readme = read("README.md");
    let first = blocks(section(&readme, "A first move by hand"));
    let (begin, end) = (first[..3].concat(), first[first.len() - 1]);
    assert!(begin.contains("CREATE DATABASE shop") && end.contains("kill %1"), "the README's blocks");
    let (life, contract) = (read("docs/lifecycle.md"), read("docs/contract.md"));
    let pages = [blocks(&life), blocks(&contract)].concat().concat();
    let said = followed(&format!("{begin}{pages}{end}"));
    for expected in [
        "WARNING:  database \"shop\" is deprecated, sunset ",
        "; successor \"shop2\"",
        "clients of database \"shop\" are connected or were seen lately",
        "refused: it has clients",
        "NOTICE:  the database is taken from role \"shop\"",
        "FATAL:  database \"shop\" is quarantined",
        "refused: it is quarantined",
        "revived, was quarantined: the report at the end of the month needs it",
        "team \"finance\" cannot be dropped: teams depend on it",
        "refused: it is a parent",
        "refused: it is offered already",
        "transfer to team stock accepted, owner was payments",
        "transfer to team payments rejected: not ours any more",
        "\"client_connections_max\": 50",
        "apiVersion: v3.1.0",
        "shop     | availability ",
        "shop     | table without a key | table public.clicks | ",
        "shop     | pause at moves ",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
}

/// A product's owner who may not see infrastructure, and an operator who may not drop a product, with psql
/// alone.
#[test]
fn people_and_their_rights_can_be_followed_word_for_word() {
    let readme = read("README.md");
    let first = blocks(section(&readme, "A first move by hand"));
    let (begin, end) = (first[..3].concat(), first[first.len() - 1]);
    let people = read("docs/people.md");
    let said = followed(&format!("{begin}{}{end}", blocks(&people).concat()));
    for expected in [
        "ERROR:  the password is too short",
        "ERROR:  permission denied: \"paula\" may not run SHOW DATABASES",
        "DETAIL:  SHOW SYSTEMS needs OPERATOR ON PLATFORM or ADMIN ON PLATFORM or AUDITOR ON PLATFORM.",
        "HINT:  Ask the platform team to do it.",
        "ERROR:  permission denied: \"paula\" may not run MOVE DATABASE",
        "DETAIL:  TIER needs ADMIN ON PLATFORM.",
        "ERROR:  database \"ledger\" does not exist",
        "DETAIL:  ACCEPT TRANSFER needs OWNER ON TEAM finance or ADMIN ON PLATFORM.",
        "ERROR:  the platform is at work on database \"shop\"",
        "ERROR:  permission denied: \"oscar\" may not run DROP DATABASE",
        "DETAIL:  DROP DATABASE needs ADMIN ON PLATFORM.",
        "ERROR:  permission denied: \"oscar\" may not run QUARANTINE DATABASE",
        "CONTEXT:  Responsible: the product team.",
        "moved by the platform",
        "|oscar|MOVE DATABASE shop||ok||shop",
        "|oscar|DROP DATABASE shop||42501||shop",
        "password authentication failed for user \"oscar\"",
        "ALTER USER paula PASSWORD '***'",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    let refusals = said.lines().filter(|line| line.starts_with("refused: ")).count();
    assert_eq!(refusals, blocks(&people).concat().matches("|| echo").count(), "{said}");
    assert!(!said.contains("are my product"), "no password is told:\n{said}");
}

/// Runs commands of a document, and answers what they said. They leave nothing behind.
fn followed(commands: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    // The servers' user must be able to enter; the script's own directory below is private to it.
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let play = directory.path().join("play").display().to_string();
    let ports: Vec<String> = free_ports(4).unwrap().iter().map(u16::to_string).collect();
    let programs = Path::new(env!("CARGO_BIN_EXE_freehold")).parent().unwrap().to_str().unwrap();
    let script = commands
        .replace("make build\n", "")
        .replace("$PWD/target/release", programs)
        .replace("freehold.toml &\n", "freehold.toml &\ntyped_slowly\n")
        .replace("wait %2\n", "still_running\nwait %2\n");
    let script = format!("{PRELUDE}{script}").replace("PLAY", &play).replace("/tmp/freehold-play", &play);
    let script = with_ports(&script.replace("ADMINPORT", "6433"), &ports);

    let output = Command::new("timeout")
        .args(["--kill-after=10", &ENDS_WITHIN_S.to_string(), "bash", "-c", &script])
        .current_dir(root())
        .env("PATH", path_with_programs())
        .env("FREEHOLD_PLAY_SOURCE_PORT", &ports[0])
        .env("FREEHOLD_PLAY_TARGET_PORT", &ports[1])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(!Path::new(&play).exists(), "nothing is left behind");
    said
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap()
}

/// psql and pgbench are where the servers are; not everybody has them in the PATH.
fn path_with_programs() -> OsString {
    let path = std::env::var_os("PATH").unwrap();
    let programs = Majors::discover().find(Major::Newest).unwrap().bin.clone();
    std::env::join_paths(std::env::split_paths(&path).chain([programs])).unwrap()
}

/// With other ports than the README's. In two steps, because a new port may look like an old one.
fn with_ports(script: &str, ports: &[String]) -> String {
    let old = ["5433", "5434", "6432", "6433"];
    let places = old.map(|port| format!("<{port}>"));
    let script =
        old.iter().zip(&places).fold(script.to_owned(), |text, (port, place)| text.replace(port, place));
    places.iter().zip(ports).fold(script, |text, (place, port)| text.replace(place, port))
}

fn section<'a>(document: &'a str, title: &str) -> &'a str {
    let section = document.split(&format!("\n## {title}\n")).nth(1).expect("the section");
    section.split("\n## ").next().unwrap()
}

/// The `sh` blocks of a text.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}
