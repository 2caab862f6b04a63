//! The files for Docker are read by the same code as any others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use freehold::admin::users::read_users;
use freehold::auth::scram::Verifier;
use freehold::config::Config;
use freehold::lab::{Install, Majors};

#[test]
fn the_configuration_of_the_compose_file_is_good_and_its_administrator_can_log_in() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/freehold.toml");
    let config = Config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(
        config.proxy.listen.addresses().all(|address| address.ip().is_unspecified()),
        "clients come from other containers"
    );
    read_users(&config.admin.users_file).unwrap();
    let line = std::fs::read_to_string(&config.admin.users_file).unwrap();
    let stored = line.split('"').nth(3).unwrap();
    assert!(line.starts_with("\"admin\" "), "{line}");
    assert_eq!(
        stored,
        made_again(stored, "change-me"),
        "the password that docker-compose.yml and setup.sh say"
    );
}

/// The verifier of a password with the salt and the iterations of another: the same exactly if the password
/// is. `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`
fn made_again(verifier: &str, password: &str) -> String {
    let (iterations, salt) = verifier.split('$').nth(1).unwrap().split_once(':').unwrap();
    let salt = base64::engine::general_purpose::STANDARD.decode(salt).unwrap();
    Verifier::from_password(password, &salt, iterations.parse().unwrap()).to_string()
}

#[test]
fn the_scripts_find_the_servers_that_the_lab_finds() {
    let list = "set -euo pipefail; . deploy/postgresql.sh; postgresql_programs";
    let output =
        Command::new("bash").args(["-c", list]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |install: &Install| format!("{} {}\n", install.major, install.bin.display());
    let expected: String = Majors::discover().installs().map(line).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn two_servers_stop_although_a_pid_file_names_another_process() {
    let files = tempfile::tempdir().unwrap();
    let play = files.path().join("play");
    std::fs::create_dir_all(play.join("source")).unwrap();
    std::fs::write(play.join("source/PG_VERSION"), "15\n").unwrap();
    // This very process: it must survive.
    std::fs::write(play.join("source/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let stop = Command::new("deploy/two-servers.sh")
        .arg("stop")
        .arg(&play)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(stop.success());
    assert!(!play.exists());
}
