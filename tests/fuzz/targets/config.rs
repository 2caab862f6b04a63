//! The configuration file.

use std::path::Path;

use freehold::config::{Config, ConfigErrors};
use rand::RngExt;
use rand::rngs::StdRng;

use super::pick;

/// A file that is understood means the same twice; mistakes stand on lines that there are, and are shown.
pub(super) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Config::parse(&text, Path::new("/base")) {
        Ok(config) => {
            let again = Config::parse(&text, Path::new("/base")).unwrap();
            assert!(config.differences(&again).is_empty());
            assert!(config.reloaded(&again).differences(&config).is_empty());
        }
        Err(errors) => check_errors(&text, &errors),
    }
}

fn check_errors(text: &str, errors: &ConfigErrors) {
    let shown = errors.to_string();
    assert!(!errors.problems().is_empty());
    for problem in errors.problems() {
        assert!(!problem.message.is_empty() && shown.contains(&problem.message));
        let Some(span) = &problem.span else { continue };
        assert!(text.get(span.clone()).is_some(), "{problem:?} is not in {text:?}");
        let (line, column) = errors.position(problem).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        assert!(line <= lines.len() && column <= lines[line - 1].chars().count() + 1);
    }
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let sections = ["proxy", "admin", "store", "move", "log", "metrics", "server_tls", "prxy", "proxy.x", ""];
    let keys = [
        "listen",
        "workers",
        "tls",
        "tls_cert",
        "tls_key",
        "login_timeout",
        "pause_max",
        "copy_split",
        "level",
        "format",
        "pg_bin_dirs",
        "path",
        "users_file",
        "lisen",
        "\"listen\"",
        "a.b",
        "é",
    ];
    let values = [
        "\"127.0.0.1:6432\"",
        "0",
        "-1",
        "4",
        "true",
        "\"5s\"",
        "\"10GB\"",
        "\"1e9 years\"",
        "[]",
        "[\"/usr\"]",
        "\"off\"",
        "{ a = 1 }",
        "1979-05-27",
        "\"",
        "'x'",
        "9223372036854775808",
        "\"\\u0000\"",
        "nan",
    ];
    let mut text = String::new();
    for _ in 0..rng.random_range(1..8) {
        match rng.random_range(0..4) {
            0 => text.push_str(&format!("[{}]", pick(rng, &sections))),
            _ => text.push_str(&format!("{} = {}", pick(rng, &keys), pick(rng, &values))),
        }
        text.push_str(pick(rng, &["\n", "\r\n", " # é\n", ""]));
    }
    text.into_bytes()
}
