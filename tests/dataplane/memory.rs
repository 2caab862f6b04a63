//! What a process takes of the machine's memory. A test that measures it runs in a process of its own, where
//! no other test allocates.

use std::process::Command;

/// Says to a test that its process runs nothing else.
const ALONE: &str = "FREEHOLD_TEST_ALONE";

/// Runs the test `name` in a process of its own and fails if it fails there. `true`: this is that process,
/// and the test goes on.
pub(crate) fn is_alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// Of this process.
pub(crate) fn resident_bytes() -> usize {
    let pages: usize =
        std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
