//! The schema of a database: written down in the slot's snapshot, restored before and after the rows.
//!
//! # Why
//! PostgreSQL runs code of the database's users while it creates what they defined: to compute a constant of a type with checks, to simplify
//! an expression of a column or of a partition key, to check rows. So objects are created by the role that writes the rows, which is no
//! superuser and owns them for that time; only what PostgreSQL lets nobody but a superuser create, and what is said about objects afterwards
//! (owners, rights, comments), comes from the platform. None of that runs users' code.
//!
//! The lists leave out what is the move's own (guard, publications) and what must not travel: a publication of
//! the user's does, a subscription does not, because two subscribers of one slot would share its changes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::system::names::HELPER_SCHEMA;

use super::archive;
use super::ends::{End, Ends};
use super::own_login::OwnLogin;
use super::tool_socket::As;
use super::tools::{self, ToolError, Tools};

const TEMPORARY_BYTES_MAX: usize = 40;

/// Kinds of entries that only a superuser can restore, with the catalog that their objects are in: the kind's name alone could be the
/// beginning of another kind's and the name of a schema. 0: of no object.
const OF_SUPERUSERS: [(u32, &str); 14] = [
    (3079, "EXTENSION"),
    (2612, "PROCEDURAL LANGUAGE"),
    (0, "SHELL TYPE"),
    (2605, "CAST"),
    (2616, "OPERATOR CLASS"),
    (2753, "OPERATOR FAMILY"),
    (3601, "TEXT SEARCH PARSER"),
    (3764, "TEXT SEARCH TEMPLATE"),
    (2328, "FOREIGN DATA WRAPPER"),
    (1417, "SERVER"),
    (0, "USER MAPPING"),
    (2601, "ACCESS METHOD"),
    (3576, "TRANSFORM"),
    (6237, "PUBLICATION TABLES IN SCHEMA"),
];
/// Kinds of entries about objects that have their owners by then.
const AFTERWARDS: [(u32, &str); 5] =
    [(0, "ACL"), (826, "DEFAULT ACL"), (0, "COMMENT"), (0, "SECURITY LABEL"), (3466, "EVENT TRIGGER")];

/// What the catalogues say of objects that their kinds do not say: (catalog, oid).
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What only a superuser can create, of kinds that others may create.
    pub(super) of_superusers: HashSet<(u32, u32)>,
    /// The moves' own, which is not restored.
    pub(super) of_moves: HashSet<(u32, u32)>,
}

/// A directory of the move's own with the dump in it; removed with the value.
#[derive(Debug)]
pub(super) struct SchemaDump {
    tools: Tools,
    directory: PathBuf,
    known: Known,
}

/// Which part of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Types, tables, functions, views.
    PreData,
    /// Indexes, constraints, triggers, publications.
    PostData,
}

/// Who restores an entry, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Applier,
    Platform,
    /// The platform, when everything is there and has its owner.
    PlatformAfterwards,
}

/// Entries that are restored together, in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) by: By,
    list: String,
}

impl Section {
    fn as_str(self) -> &'static str {
        match self {
            Section::PreData => "pre-data",
            Section::PostData => "post-data",
        }
    }
}

impl Drop for SchemaDump {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl SchemaDump {
    /// Writes the schema down as the snapshot sees it.
    pub(super) async fn take(
        ends: &Ends,
        tools: Tools,
        snapshot: &str,
        known: Known,
    ) -> Result<SchemaDump, ToolError> {
        let dump = SchemaDump { tools, directory: private_directory(ends)?, known };
        let source = (&ends.source, As::Platform);
        let (mut command, _socket) = dump.tools.command("pg_dump", source, &dump.directory)?;
        command.args(["--format=custom", "--compress=0", "--schema-only", "--no-tablespaces"]);
        command.args(["--no-subscriptions", "--exclude-schema", HELPER_SCHEMA, "--lock-wait-timeout=10s"]);
        command.arg(format!("--snapshot={snapshot}")).arg("--file").arg(dump.archive());
        tools::run(command).await?;
        dump.leave_out_column_versions().await?;
        Ok(dump)
    }

    /// What the source keeps for itself in the options of columns is for no other server.
    async fn leave_out_column_versions(&self) -> Result<(), ToolError> {
        let path = self.archive();
        let failed = |source| ToolError::File { program: "pg_dump".into(), path: path.clone(), source };
        let mut archive = tokio::fs::read(&path).await.map_err(failed)?;
        let columns = archive::leave_out_column_versions(&mut archive)?;
        if columns > 0 {
            tracing::debug!(
                columns,
                "pg_dump wrote down what the source keeps for itself in the options of columns"
            );
            tokio::fs::write(&path, archive).await.map_err(failed)?;
        }
        Ok(())
    }

    fn archive(&self) -> PathBuf {
        self.directory.join("schema.dump")
    }

    fn list(&self) -> PathBuf {
        self.directory.join("schema.list")
    }

    /// What of a section is created before anything is said about it.
    pub(super) async fn runs(&self, section: Section) -> Result<Vec<Run>, ToolError> {
        let mut runs = self.runs_of(Some(section)).await?;
        runs.retain(|run| run.by != By::PlatformAfterwards);
        Ok(match section {
            Section::PreData => runs,
            // What the applier makes there waits for nothing of the platform's, and is made in parallel.
            Section::PostData => [By::Applier, By::Platform].map(|by| Run::of(by, &runs)).into(),
        })
    }

    /// What is said about the objects of both sections.
    pub(super) async fn afterwards(&self) -> Result<Run, ToolError> {
        Ok(Run::of(By::PlatformAfterwards, &self.runs_of(None).await?))
    }

    async fn runs_of(&self, section: Option<Section>) -> Result<Vec<Run>, ToolError> {
        let mut command = self.tools.plain("pg_restore");
        command.arg("--list").args(section.map(|section| format!("--section={}", section.as_str())));
        command.arg(self.archive());
        let all = tools::run(command).await?;
        Ok(Run::split(&String::from_utf8_lossy(&all), &self.known))
    }

    /// Restores one run; the first error ends it.
    pub(super) async fn restore(
        &self,
        target: &End,
        applier: &OwnLogin,
        run: &Run,
        workers: usize,
    ) -> Result<(), ToolError> {
        if run.list.is_empty() {
            return Ok(());
        }
        let path = self.list();
        let failed = |source| ToolError::File { program: "pg_restore".into(), path: path.clone(), source };
        tokio::fs::write(&path, &run.list).await.map_err(failed)?;
        let who = match run.by {
            By::Applier => As::Applier(applier.clone()),
            By::Platform | By::PlatformAfterwards => As::Platform,
        };
        let (mut command, _socket) = self.tools.command("pg_restore", (target, who), &self.directory)?;
        // Owners come by themselves.
        command.args(["--exit-on-error", "--no-tablespaces", "--no-owner"]);
        command.arg(format!("--jobs={}", workers.max(1)));
        command.arg("--use-list").arg(path).arg(self.archive());
        tools::run(command).await.map(drop)
    }
}

impl Run {
    /// Splits what `pg_restore --list` prints where another one restores.
    fn split(list: &str, known: &Known) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for line in list.lines().filter(|line| !line.starts_with(';')) {
            let Some(by) = who_restores(line, known) else { continue };
            match runs.last_mut().filter(|run| run.by == by) {
                Some(run) => run.list.push_str(&format!("{line}\n")),
                None => runs.push(Run { by, list: format!("{line}\n") }),
            }
        }
        runs
    }

    /// All that one restores.
    fn of(by: By, runs: &[Run]) -> Run {
        Run { by, list: runs.iter().filter(|run| run.by == by).map(|run| run.list.as_str()).collect() }
    }
}

/// Who restores the entry in a line of `pg_restore --list`: `215; 1259 16386 TABLE public accounts app`. `None`: it stays where it is.
fn who_restores(line: &str, known: &Known) -> Option<By> {
    let entry = line.split_once("; ").map_or(line, |(_, entry)| entry);
    let mut parts = entry.splitn(3, ' ');
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let object: (u32, u32) = (number(), number());
    let what = parts.next().unwrap_or_default();
    let is = |(catalog, kind): &(u32, &str)| {
        *catalog == object.0 && what.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' '))
    };
    match () {
        () if known.of_moves.contains(&object) => None,
        () if AFTERWARDS.iter().any(is) => Some(By::PlatformAfterwards),
        () if OF_SUPERUSERS.iter().any(is) || known.of_superusers.contains(&object) => Some(By::Platform),
        () => Some(By::Applier),
    }
}

/// Named by the source and the move, so that a leftover of a crash is found and replaced.
fn private_directory(ends: &Ends) -> Result<PathBuf, ToolError> {
    let name = format!("freehold-{}-move-{}", ends.source.system.system_identifier, ends.move_id());
    let directory = temporary().join(name);
    let failed = |source| ToolError::File { program: "pg_dump".into(), path: directory.clone(), source };
    let _ = std::fs::remove_dir_all(&directory);
    make_private(&directory).map_err(failed)?;
    Ok(directory)
}

/// There is a socket in the directory, whose path has at most 107 bytes.
fn temporary() -> PathBuf {
    let wanted = std::env::temp_dir();
    if wanted.as_os_str().len() <= TEMPORARY_BYTES_MAX { wanted } else { "/tmp".into() }
}

#[cfg(unix)]
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_restored_by_a_superuser_only_where_nobody_else_could() {
        let list = "\
; Archive created at 2026-11-23
5; 2615 16400 SCHEMA - sales app
2; 3079 16401 EXTENSION - hstore
3600; 0 0 COMMENT - EXTENSION hstore
650; 1247 16499 TYPE public mood app
229; 1255 16501 FUNCTION public in_c(integer) postgres
230; 1255 16502 FUNCTION public in_sql(integer) app
215; 1259 16386 TABLE public extension app
3461; 3466 16415 EVENT TRIGGER - freehold_guard postgres
216; 2604 16420 DEFAULT ACL v c app
217; 1255 16503 FUNCTION public EVENT TRIGGER - freehold_guard () app
3601; 0 0 ACL - SCHEMA public postgres
";
        let of_moves = HashSet::from([(3466, 16415)]);
        let runs = Run::split(list, &Known { of_superusers: HashSet::from([(1255, 16501)]), of_moves });
        let shown: Vec<(By, usize)> = runs.iter().map(|run| (run.by, run.list.lines().count())).collect();
        let (applier, platform, afterwards) = (By::Applier, By::Platform, By::PlatformAfterwards);
        let wanted = [
            (applier, 1),
            (platform, 1),
            (afterwards, 1),
            (applier, 1),
            (platform, 1),
            (applier, 4),
            (afterwards, 1),
        ];
        assert_eq!(shown, wanted);
        assert_eq!(Run::of(afterwards, &runs).list.lines().count(), 2);
    }
}
