//! The README's "A first move by hand", run word for word; only ports and places are other ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use freehold::lab::{Major, Majors, free_ports};

/// Longer than the load that the README starts, and what it does before and after.
const ENDS_WITHIN_S: u32 = 200;

/// What a person does without being told: ends what was started, and types no faster than a server starts.
const PRELUDE: &str = "set -e -m -o pipefail
trap 'status=$?; kill -TERM $(jobs -p) 2>/dev/null || true; deploy/two-servers.sh stop PLAY 2>/dev/null || true; exit $status' EXIT
typed_slowly() { for _ in $(seq 600); do (: </dev/tcp/127.0.0.1/ADMINPORT) 2>/dev/null && return; sleep 0.1; done; false; }
still_running() { kill -0 %2 || { echo 'the load was over before what it is to prove'; false; }; }
";

#[test]
fn the_readme_can_be_followed_word_for_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    // The servers' user must be able to enter; the script's own directory below is private to it.
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let play = directory.path().join("play").display().to_string();
    let ports: Vec<String> = free_ports(4).unwrap().iter().map(u16::to_string).collect();
    let script = commands(&std::fs::read_to_string(root.join("README.md")).unwrap())
        .replace("make build\n", "")
        .replace(
            "$PWD/target/release",
            Path::new(env!("CARGO_BIN_EXE_freehold")).parent().unwrap().to_str().unwrap(),
        )
        .replace("freehold.toml &\n", "freehold.toml &\ntyped_slowly\n")
        .replace("wait %2\n", "still_running\nwait %2\n");
    let script = format!("{PRELUDE}{script}").replace("PLAY", &play).replace("/tmp/freehold-play", &play);
    let script = with_ports(&script.replace("ADMINPORT", "6433"), &ports);

    let output = Command::new("timeout")
        .args(["--kill-after=10", &ENDS_WITHIN_S.to_string(), "bash", "-c", &script])
        .current_dir(root)
        .env("PATH", path_with_programs())
        .env("FREEHOLD_PLAY_SOURCE_PORT", &ports[0])
        .env("FREEHOLD_PLAY_TARGET_PORT", &ports[1])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
    assert!(!Path::new(&play).exists(), "nothing is left behind");
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

/// The `sh` blocks of the section.
fn commands(readme: &str) -> String {
    let section = readme.split("\n## A first move by hand\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<&str> =
        section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "the section's commands");
    blocks.concat()
}
