//! What `pg_dump` says of a database, in a form that servers of different majors can be compared by.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use freehold::lab::{Major, Majors, Postgres};

/// `pg_dump` of the newest installed major reads every older server.
#[derive(Debug)]
pub(crate) struct Dumps {
    program: PathBuf,
}

impl Dumps {
    pub(crate) fn by_newest() -> Dumps {
        Dumps::of(&Majors::discover().find(Major::newest()).unwrap().bin)
    }

    pub(crate) fn of(bin: &Path) -> Dumps {
        Dumps { program: bin.join("pg_dump") }
    }

    fn dump(&self, server: &Postgres, dbname: &str, arguments: &[&str]) -> Vec<String> {
        let output = std::process::Command::new(&self.program)
            .args(arguments)
            .args(["--exclude-schema=freehold", "-d", &server.dsn(dbname)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // `\restrict` has a random word, and comments name the versions of the server and of the program.
        let kept = |line: &&str| {
            !line.starts_with("--") && !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")
        };
        String::from_utf8(output.stdout).unwrap().lines().filter(kept).map(str::to_owned).collect()
    }

    /// Schema and rows as they are printed, to compare a database with itself at another time.
    pub(crate) fn whole(&self, server: &Postgres, dbname: &str) -> Vec<String> {
        self.dump(server, dbname, &[])
    }

    /// The rows and sequences, in no order of the server's.
    pub(crate) fn rows(&self, server: &Postgres, dbname: &str) -> Vec<String> {
        let mut lines = self.dump(server, dbname, &["--data-only"]);
        lines.retain(|line| !is_by_version(line));
        lines.sort();
        lines
    }

    /// The schema, in no order, without what the platform changes on purpose and what majors print
    /// differently.
    pub(crate) fn schema(&self, server: &Postgres, dbname: &str) -> Vec<String> {
        let kept = |line: &String| {
            !line.trim().is_empty()
                && !is_by_version(line)
                && !line.contains("freehold")
                && !line.contains("WHEN TAG IN ('CREATE INDEX'")
        };
        // Newer majors write the columns of a view without their table where that is clear.
        let plain = |line: String| {
            ["accounts.", "zz_summary.", "prices.", "people."]
                .iter()
                .fold(line, |line, table| line.replace(table, ""))
        };
        let lines = self.dump(server, dbname, &["--schema-only"]);
        let mut lines: Vec<String> =
            lines.into_iter().filter(kept).map(plain).filter_map(without_column_version).collect();
        lines.sort();
        lines
    }
}

/// A setting of the session that restores, which depends on the major that was dumped.
fn is_by_version(line: &str) -> bool {
    line.starts_with("SET ") && line.contains("_timeout = ")
}

/// A line of a schema without what a server keeps for itself in the options of a column.
fn without_column_version(line: String) -> Option<String> {
    let Some((before, after)) = line.rsplit_once("pg_attver=") else { return Some(line) };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let line = match after.strip_prefix(", ") {
        Some(after) => format!("{before}{after}"),
        None => format!("{}{after}", before.trim_end_matches(", ")),
    };
    (!line.ends_with("SET ();")).then_some(line)
}

/// Fails with the lines that only one of two dumps has.
pub(crate) fn assert_same(what: &str, one: &[String], other: &[String]) {
    let only = |here: &[String], there: &[String]| -> Vec<String> {
        let mut rest: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
        for line in there {
            *rest.entry(line).or_default() += 1;
        }
        let is_new = |line: &&String| match rest.get_mut(line.as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        here.iter().filter(is_new).take(20).cloned().collect()
    };
    let (missing, added) = (only(one, other), only(other, one));
    assert!(missing.is_empty() && added.is_empty(), "{what}: missing {missing:#?}, added {added:#?}");
}
