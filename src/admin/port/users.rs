//! The administrators: a file with a name and a SCRAM verifier on each line, like PgBouncer's `userlist.txt`.
//!
//! ```text
//! # freehold hash-password alice
//! "alice" "SCRAM-SHA-256$4096:<salt>$<stored key>:<server key>"
//! "grafana" "SCRAM-SHA-256$4096:<salt>$<stored key>:<server key>" stats
//! ```
//!
//! `stats` at the end of a line: this user may run SHOW and change nothing, like PgBouncer's `stats_users`.
//! Every other one is an administrator of the platform. Users with fewer rights are in the catalogue.
//!
//! # Why verifiers only
//! Reading a verifier is not enough to log in. Reading a password is, so passwords in the file are refused.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use crate::admin::rights::Rights;
use crate::auth::scram::{ITERATIONS_DEFAULT, SALT_BYTES_DEFAULT, Verifier};

/// Names, verifiers and rights of the administrators.
#[derive(Debug, Clone, Default)]
pub struct Users {
    pub verifiers: HashMap<String, Verifier>,
    readers: HashSet<String>,
}

impl Users {
    /// The rights of an administrator; `None`: the file does not list the name.
    pub fn rights(&self, name: &str) -> Option<Rights> {
        self.verifiers.contains_key(name).then(|| match self.readers.contains(name) {
            true => Rights::stats(),
            false => Rights::admin(),
        })
    }
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot read the administrators from {path} (freehold hash-password NAME >> {path})")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Without an administrator no command could be given to Freehold, not even RELOAD.
    #[error("{path} names no administrator (freehold hash-password NAME >> {path})")]
    Empty { path: PathBuf },
    #[error("{path}:{line}: expected \"name\" \"verifier\", and behind it stats or nothing")]
    Shape { path: PathBuf, line: usize },
    #[error("{path}:{line}: this is no SCRAM verifier; `freehold hash-password NAME` prints one")]
    Verifier { path: PathBuf, line: usize },
    #[error("{path}:{line}: \"{name}\" is listed twice")]
    Twice { path: PathBuf, line: usize, name: String },
}

/// Reads the file. Blocking.
pub fn read_users(path: &Path) -> Result<Users, UsersError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| UsersError::Read { path: path.to_owned(), source })?;
    let users = parse_users(&text, path)?;
    if users.verifiers.is_empty() {
        return Err(UsersError::Empty { path: path.to_owned() });
    }
    Ok(users)
}

fn parse_users(text: &str, path: &Path) -> Result<Users, UsersError> {
    let mut users = Users::default();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let path = || path.to_owned();
        let (name, verifier, is_reader) =
            entry(line).ok_or_else(|| UsersError::Shape { path: path(), line: number })?;
        let verifier =
            Verifier::parse(verifier).map_err(|_| UsersError::Verifier { path: path(), line: number })?;
        if is_reader {
            users.readers.insert(name.clone());
        }
        if users.verifiers.insert(name.clone(), verifier).is_some() {
            return Err(UsersError::Twice { path: path(), line: number, name });
        }
    }
    Ok(users)
}

/// `"name" "verifier" [stats]`, and whether `stats` is there; a quote in a name is doubled.
fn entry(line: &str) -> Option<(String, &str, bool)> {
    let rest = line.strip_prefix('"')?;
    let mut end = 0;
    loop {
        end += rest.get(end..)?.find('"')?;
        match rest.get(end + 1..)?.starts_with('"') {
            true => end += 2,
            false => break,
        }
    }
    let name = rest.get(..end)?.replace("\"\"", "\"");
    let (verifier, behind) = rest.get(end + 1..)?.trim().strip_prefix('"')?.split_once('"')?;
    let is_reader = match behind.trim() {
        "" => false,
        "stats" => true,
        _ => return None,
    };
    (!name.is_empty()).then_some((name, verifier, is_reader))
}

/// The line of the file for a name and a password.
pub fn user_line(name: &str, password: &str) -> String {
    format!("\"{}\" \"{}\"", name.replace('"', "\"\""), verifier_of(password))
}

/// The verifier of a password.
pub(in crate::admin) fn verifier_of(password: &str) -> String {
    let salt: [u8; SALT_BYTES_DEFAULT] = rand::random();
    let iterations = NonZeroU32::new(ITERATIONS_DEFAULT).unwrap_or(NonZeroU32::MIN);
    Verifier::from_password(password, &salt, iterations).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Users, UsersError> {
        parse_users(text, Path::new("admins.txt"))
    }

    #[test]
    fn a_line_that_was_printed_is_read_back() {
        let text = format!("# comment\n\n{}\n{}\n", user_line("alice", "a"), user_line("b \"c\"", "d"));
        let users = parsed(&text).unwrap();
        assert!(users.verifiers.contains_key("alice") && users.verifiers.contains_key("b \"c\""));
        assert_eq!((users.rights("alice"), users.rights("bob")), (Some(Rights::admin()), None));
    }

    #[test]
    fn stats_behind_a_verifier_is_the_right_to_look() {
        let users =
            parsed(&format!("{} stats\n{}", user_line("grafana", "a"), user_line("alice", "b"))).unwrap();
        let expected = (Some(Rights::stats()), Some(Rights::admin()));
        assert_eq!((users.rights("grafana"), users.rights("alice")), expected);
        let other = parsed(&format!("{} admin", user_line("grafana", "a")));
        assert!(matches!(other, Err(UsersError::Shape { line: 1, .. })));
    }

    #[test]
    fn a_plain_password_is_refused_with_its_line() {
        let error = parsed("\n\"alice\" \"secret\"\n").unwrap_err().to_string();
        assert!(error.starts_with("admins.txt:2:") && error.contains("hash-password"), "{error}");
    }

    #[test]
    fn a_name_that_is_listed_twice_or_a_line_of_another_shape_is_refused() {
        let line = user_line("alice", "a");
        assert!(matches!(parsed(&format!("{line}\n{line}")), Err(UsersError::Twice { line: 2, .. })));
        for bad in ["alice", "\"alice\"", "\"alice", "\"\" \"x\"", "\"alice\" x"] {
            assert!(matches!(parsed(bad), Err(UsersError::Shape { .. })), "{bad}");
        }
    }
}
