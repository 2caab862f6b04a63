//! The installed PostgreSQL majors.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LabError;

/// The major version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Major {
    Oldest,
    Newest,
    Number(u32),
}

impl Major {
    /// The oldest that is installed.
    pub fn oldest() -> Major {
        Major::Oldest
    }

    /// The newest that is installed; the same as the oldest if there is only one.
    pub fn newest() -> Major {
        Major::Newest
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Major::Oldest => f.write_str("oldest"),
            Major::Newest => f.write_str("newest"),
            Major::Number(number) => write!(f, "{number}"),
        }
    }
}

/// One installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub major: u32,
    /// As the server prints it: `15.18`.
    pub version: String,
    /// The directory of `postgres`, `initdb`, `psql`, `pg_dump`.
    pub bin: PathBuf,
}

/// Every installed PostgreSQL that Freehold can use, one per major.
#[derive(Debug, Clone, Default)]
pub struct Majors {
    installs: BTreeMap<u32, Install>,
}

/// Freehold's logical replication does not support older servers.
const SUPPORTED_SINCE: u32 = 14;
const NEEDED: [&str; 4] = ["postgres", "initdb", "psql", "pg_dump"];

impl Majors {
    /// Looks in `$FREEHOLD_PG_DIRS` (separated by colons; each holds `bin/postgres`, or directories that do),
    /// then where Debian and Ubuntu install PostgreSQL, then where `deploy/get-postgresql.sh` does. The first
    /// of a major wins.
    pub fn discover() -> Majors {
        let mut majors = Majors::default();
        for place in places() {
            for home in homes(&place) {
                if let Some(install) = inspect(&home.join("bin")) {
                    majors.installs.entry(install.major).or_insert(install);
                }
            }
        }
        majors
    }

    /// All of them, oldest first.
    pub fn installs(&self) -> impl DoubleEndedIterator<Item = &Install> {
        self.installs.values()
    }

    pub fn find(&self, major: Major) -> Result<&Install, LabError> {
        let found = match major {
            Major::Oldest => self.installs().next(),
            Major::Newest => self.installs().next_back(),
            Major::Number(number) => self.installs.get(&number),
        };
        found.ok_or_else(|| LabError::NoSuchMajor {
            wanted: major.to_string(),
            found: self.installs().map(|install| install.version.as_str()).collect::<Vec<_>>().join(", "),
            looked_in: places()
                .iter()
                .map(|place| place.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        env::var_os("FREEHOLD_PG_DIRS").iter().flat_map(|dirs| env::split_paths(dirs)).collect();
    places.push("/usr/lib/postgresql".into());
    places.push("/usr/local/lib/freehold/postgresql".into());
    let data_home = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    places.extend(data_home.map(|dir| dir.join("freehold/postgresql")));
    places
}

/// The place itself and the directories in it, in the order of their names.
fn homes(place: &Path) -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> =
        place.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    homes.sort();
    homes.insert(0, place.to_owned());
    homes
}

fn inspect(bin: &Path) -> Option<Install> {
    if !NEEDED.iter().all(|program| bin.join(program).is_file()) {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg(OsStr::new("--version")).output().ok()?;
    let (major, version) = parse_version(std::str::from_utf8(&output.stdout).ok()?)?;
    (major >= SUPPORTED_SINCE).then(|| Install { major, version, bin: bin.to_owned() })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is major 15, version 15.18.
fn parse_version(line: &str) -> Option<(u32, String)> {
    let version = line.split_once(')')?.1.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_distributions_and_betas_are_understood() {
        let parse = |line| parse_version(line).map(|(major, version)| (major, version.to_string()));
        assert_eq!(parse("postgres (PostgreSQL) 18.4\n"), Some((18, "18.4".into())));
        assert_eq!(
            parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some((15, "15.18".into()))
        );
        assert_eq!(parse("postgres (PostgreSQL) 19beta2"), Some((19, "19beta2".into())));
        assert_eq!(parse("something else"), None);
    }

    #[test]
    fn a_major_that_is_not_installed_is_refused_with_what_there_is_and_how_to_get_it() {
        let error = Majors::discover().find(Major::Number(9)).unwrap_err();
        assert!(matches!(error, LabError::NoSuchMajor { .. }), "{error:?}");
        assert!(crate::error::Explain::hint(&error).unwrap().contains("get-postgresql.sh"));
    }
}
