//! `freehold demo` as a machine reads it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The demo in a directory for temporary files of its own, so that what it leaves can be seen.
fn demo(files: &Path) -> Child {
    // PostgreSQL's user must be able to enter when we are root.
    std::fs::set_permissions(files, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Command::new("timeout")
        .args(["--kill-after=10", "--foreground", "175", env!("CARGO_BIN_EXE_freehold"), "demo", "--json"])
        .env("TMPDIR", files)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn events(child: &mut Child) -> impl Iterator<Item = Value> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

fn is_empty(directory: &Path) -> bool {
    directory.read_dir().unwrap().next().is_none()
}

/// The ports that the story names: two servers, applications, administrators.
fn ports(story: &[Value]) -> BTreeSet<u16> {
    let notes = story.iter().filter_map(|event| event["text"].as_str());
    let after = notes.flat_map(|note| note.split("127.0.0.1:").skip(1));
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let ports: BTreeSet<u16> = after.filter_map(|text| digits(text).parse().ok()).collect();
    assert_eq!(ports.len(), 4, "{ports:?}");
    ports
}

/// Files that are gone do not show that a server is.
fn assert_silent(ports: &BTreeSet<u16>) {
    for port in ports {
        assert!(TcpStream::connect(("127.0.0.1", *port)).is_err(), "somebody still listens on {port}");
    }
}

#[test]
fn the_demo_tells_its_story_reaches_a_good_verdict_and_leaves_nothing_behind() {
    let files = tempfile::Builder::new().prefix("fh").rand_bytes(4).tempdir_in("/tmp").unwrap();
    let mut child = demo(files.path());
    let story: Vec<Value> = events(&mut child).collect();
    let status = child.wait().unwrap();
    let verdict =
        story.iter().find(|event| event["event"] == "verdict").unwrap_or_else(|| panic!("{story:#?}"));
    assert!(status.success() && verdict["good"] == true, "{verdict:#}");
    assert!(verdict["findings"].as_array().unwrap().len() > 10);
    for question in ["longest wait of a client, move", "longest wait of a client, undo"] {
        let findings = verdict["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["question"] == question).unwrap();
        let number =
            |name: &str| finding["numbers"][name].as_f64().unwrap_or_else(|| panic!("{name}: {finding:#}"));
        assert!(number("clients_longest_ms") <= number("allowed_ms"), "{finding:#}");
        for part in
            ["longest_stall_ms", "hold_ms", "drain_ms", "fence_ms", "marker_ms", "seal_ms", "commit_ms"]
        {
            assert!(number(part) >= 0.0);
        }
    }
    assert!(story.iter().any(|event| event["event"] == "refused" && event["sqlstate"] == "MF001"));
    let phases: Vec<&str> = story.iter().filter_map(|event| event["move"]["phase"].as_str()).collect();
    for phase in ["copy", "kept", "undone"] {
        assert!(phases.contains(&phase), "{phase} in {phases:?}");
    }
    assert!(is_empty(files.path()));
    assert_silent(&ports(&story));
}

#[test]
fn a_demo_that_is_interrupted_in_a_move_ends_everything_it_started() {
    let files = tempfile::Builder::new().prefix("fh").rand_bytes(4).tempdir_in("/tmp").unwrap();
    let mut child = demo(files.path());
    let pid = child.id();
    let mut moving = events(&mut child);
    let before: Vec<Value> = moving.by_ref().take_while(|event| event["event"] != "progress").collect();
    let ports = ports(&before);
    let killed = Command::new("sh").args(["-c", &format!("kill -s INT {pid}")]).status().unwrap();
    assert!(killed.success());
    moving.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(is_empty(files.path()));
    assert_silent(&ports);
}
