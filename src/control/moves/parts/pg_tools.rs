//! Finds and runs `pg_dump` and `pg_restore`, and reads their output. They get no secret: see `tool_socket`.
//!
//! # Why
//! `pg_dump` is the most complete way to dump a schema, and its major must be the target's: an older one does
//! not know newer servers, a newer one writes what an older server does not understand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::parts::dump_toc::InvalidArchive;
use crate::control::moves::parts::tool_socket::{ToolRole, ToolSocket};
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::system::session::without_event_triggers;

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("no pg_dump of PostgreSQL {major} or newer was found in {}", listed(searched))]
    Missing { major: u32, searched: Vec<PathBuf> },
    #[error("{program} cannot be started")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} failed: {stderr}")]
    Failed { program: String, stderr: String },
    #[error("a file of {program} cannot be written: {path}", path = path.display())]
    File {
        program: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Archive(#[from] InvalidArchive),
}

fn listed(directories: &[PathBuf]) -> String {
    let each: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    each.join(", ")
}

impl Explain for ToolError {
    fn sqlstate(&self) -> SqlState {
        match self {
            ToolError::File { .. } => SqlState::IO_ERROR,
            _ => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Platform
    }

    fn retry(&self) -> Retry {
        match self {
            // Only the program's message distinguishes a race or a lost connection from a refusal.
            ToolError::Failed { stderr, .. } if PASSING.iter().any(|words| stderr.contains(words)) => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn hint(&self) -> Option<String> {
        match self {
            ToolError::Missing { major, .. } => Some(format!(
                "Install the client programs of PostgreSQL {major} (Debian and Ubuntu: postgresql-client-{major}), or name \
                 their directory in the setting moves.pg_bin_dirs."
            )),
            ToolError::Failed { stderr, .. } if NO_RIGHT.iter().any(|words| stderr.contains(words)) => Some(
                "A move restores the schema as a role that is no superuser, because PostgreSQL runs code of the database's users \
                 meanwhile. It owns what it creates; of extensions and of the server it has what everybody has."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The programs of one PostgreSQL version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    pub bin: PathBuf,
    pub major: u32,
}

/// Messages of failures that may be temporary.
const PASSING: [&str; 5] = [
    "lock timeout",
    "deadlock detected",
    "connection to server",
    "server closed the connection",
    "terminating connection",
];

/// Messages of failures for lack of privileges.
const NO_RIGHT: [&str; 2] = ["permission denied", "must be "];

/// Longer error output of a program is truncated.
const STDERR_BYTES_MAX: usize = 4096;
/// Limit for asking a program for its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

impl Tools {
    /// The programs of exactly this major, else of the nearest newer one. Looks in `directories`, then where
    /// distributions and `deploy/get-postgresql.sh` install PostgreSQL, then in `PATH`.
    pub async fn find(directories: &[PathBuf], major: u32) -> Result<Tools, ToolError> {
        let searched = searched(directories);
        let mut best: Option<Tools> = None;
        for bin in &searched {
            let Some(found) = major_of(bin).await else { continue };
            if found >= major && best.as_ref().is_none_or(|best| found < best.major) {
                best = Some(Tools { bin: bin.clone(), major: found });
            }
        }
        best.ok_or(ToolError::Missing { major, searched })
    }

    /// A program that is connected to a database of a system, through a socket in a private directory. Keep
    /// the socket as long as the program runs.
    pub(in crate::control) fn command(
        &self,
        program: &str,
        (end, who): (&Endpoint, ToolRole),
        directory: &Path,
    ) -> Result<(Command, ToolSocket), ToolError> {
        let failed =
            |source| ToolError::File { program: program.to_owned(), path: directory.to_owned(), source };
        // The event trigger that keeps the OIDs of types must fire in a restore.
        let quietly = if program == "pg_dump" { without_event_triggers(&end.system) } else { "" };
        let options = format!("{}{quietly}", options(end.system.version_num));
        let socket = ToolSocket::open(directory, end, who, options).map_err(failed)?;
        let mut command = self.plain(program);
        command.env("PGCONNECT_TIMEOUT", "60");
        command.arg("--no-password").arg("--dbname").arg(socket.conninfo());
        Ok((command, socket))
    }

    /// A program without a connection.
    pub fn plain(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// Settings of the programs' connections. They keep the role that logged in. Index builds get memory; commits
/// need not be flushed, since a crash of the target before the cutover starts the copy again. Constants in
/// the schema (defaults, checks) are read as they were written; what is computed from rows (indexes) follows
/// the settings of the database.
const OPTIONS: &str = "-c role=none -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c default_transaction_read_only=off -c lc_monetary=C -c array_nulls=on -c synchronous_commit=off \
    -c maintenance_work_mem=256MB";

/// The settings, with the limits that only newer servers have.
fn options(version_num: u32) -> String {
    let limits = [(140_000, "idle_session_timeout"), (170_000, "transaction_timeout")];
    let known = limits.into_iter().filter(|(since, _)| version_num >= *since);
    known.fold(OPTIONS.to_owned(), |options, (_, name)| format!("{options} -c {name}=0"))
}

/// Runs to the end and returns its output; an error contains the program's messages. Dropping the future
/// kills the program.
pub async fn run(mut command: Command) -> Result<Vec<u8>, ToolError> {
    let program = program_of(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output =
        command.output().await.map_err(|source| ToolError::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(program, &output.stderr))
}

/// Runs to the end and returns its error output, if the program says that it went on after errors.
pub(in crate::control) async fn run_to_the_end(
    mut command: Command,
    went_on: &str,
) -> Result<String, ToolError> {
    let program = program_of(&command);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let output =
        command.output().await.map_err(|source| ToolError::Start { program: program.clone(), source })?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() || stderr.contains(went_on) {
        true => Ok(stderr),
        false => Err(failed(program, &output.stderr)),
    }
}

fn program_of(command: &Command) -> String {
    let path = PathBuf::from(command.as_std().get_program());
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn failed(program: String, stderr: &[u8]) -> ToolError {
    let cut = stderr.len().min(STDERR_BYTES_MAX);
    let stderr = String::from_utf8_lossy(stderr.get(..cut).unwrap_or_default());
    ToolError::Failed { program, stderr: stderr.trim().to_owned() }
}

fn searched(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = directories.to_vec();
    let mut installed =
        vec![PathBuf::from("/usr/lib/postgresql"), PathBuf::from("/usr/local/lib/freehold/postgresql")];
    let data_home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data_home =
        data_home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    installed.extend(data_home.map(|home| home.join("freehold/postgresql")));
    for place in installed {
        let mut versions: Vec<PathBuf> =
            place.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        versions.sort();
        places.extend(versions.into_iter().map(|version| version.join("bin")));
    }
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places.retain(|bin| bin.join("pg_dump").is_file() && bin.join("pg_restore").is_file());
    places
}

/// Parses `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` as 15.
async fn major_of(bin: &Path) -> Option<u32> {
    let mut command = Command::new(bin.join("pg_dump"));
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_WITHIN, command.output()).await.ok()?.ok()?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = line.split_once(')')?.1.trim_start();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_programs_of_the_targets_major_are_preferred() {
        let any = Tools::find(&[], 15).await.unwrap();
        assert!(any.major >= 15);
        let missing = Tools::find(&[], 99).await.unwrap_err();
        assert!(missing.hint().unwrap().contains("postgresql-client-99"));
    }
}
