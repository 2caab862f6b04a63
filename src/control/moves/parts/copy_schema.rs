//! The schema of a database: dumped in the slot's snapshot, restored before and after the rows.
//!
//! # Why
//! PostgreSQL runs code of the database's users while it creates what they defined: to compute a constant of
//! a type with checks, to simplify an expression of a column or of a partition key, to check rows. So objects
//! are created by the role that writes the rows, which is no superuser and owns them for that time; the
//! platform restores only what PostgreSQL lets only a superuser create, and the statements about existing
//! objects (owners, privileges, comments). None of these runs users' code.
//!
//! The lists leave out the move's own objects (guard, publications) and subscriptions: two subscribers of one
//! slot would share its changes. Users' publications are restored.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::system::names::HELPER_SCHEMA;

use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::parts::dump_toc;
use crate::control::moves::parts::own_login::OwnLogin;
use crate::control::moves::parts::pg_tools::{self, ToolError, Tools};
use crate::control::moves::parts::refused::{self, Refused};
use crate::control::moves::parts::tool_socket::{ToolRole, ToolSocket};

const TEMPORARY_BYTES_MAX: usize = 30;
/// Last line of `pg_restore` if statements failed and it went on.
const NOT_ALL: &str = "errors ignored on restore";

/// Kinds of entries that only a superuser can restore, with the OID of their objects' catalog: the kind's
/// name alone could be the beginning of another kind's and the name of a schema. 0: no object.
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
/// Kinds of entries that apply to objects after their owners are set.
const AFTERWARDS: [(u32, &str); 5] =
    [(0, "ACL"), (826, "DEFAULT ACL"), (0, "COMMENT"), (0, "SECURITY LABEL"), (3466, "EVENT TRIGGER")];

/// Properties of objects that their kinds do not show: (catalog, oid).
#[derive(Debug, Default)]
pub(in crate::control) struct Known {
    /// Objects that only a superuser can create, of kinds that other roles may create.
    pub(in crate::control) of_superusers: HashSet<(u32, u32)>,
    /// Objects of moves, which are not restored.
    pub(in crate::control) of_moves: HashSet<(u32, u32)>,
}

/// A private directory with the dump in it; dropped with the value.
#[derive(Debug)]
pub(in crate::control) struct SchemaDump {
    tools: Tools,
    directory: PathBuf,
    known: Known,
}

/// Part of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Section {
    /// Types, tables, functions, views.
    PreData,
    /// Indexes, constraints, triggers, publications.
    PostData,
}

/// The role that restores an entry, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum RestoringRole {
    Applier,
    Platform,
    /// The platform, after all objects exist and have their owners.
    PlatformAfterwards,
}

/// Entries that are restored together, in order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control) struct Run {
    pub(in crate::control) by: RestoringRole,
    list: String,
    /// Restored one after the other, even with several workers.
    in_turn: bool,
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
    /// Dumps the schema as the snapshot sees it.
    pub(in crate::control) async fn take(
        ends: &Endpoints,
        tools: Tools,
        snapshot: &str,
        known: Known,
    ) -> Result<SchemaDump, ToolError> {
        let dump = SchemaDump { tools, directory: private_directory(ends)?, known };
        dump.write(&ends.source, Some(snapshot)).await?;
        Ok(dump)
    }

    /// Dumps the current schema for a trial; does not touch a move's files.
    pub(in crate::control) async fn take_now(
        source: &Endpoint,
        tools: Tools,
        known: Known,
    ) -> Result<SchemaDump, ToolError> {
        let dump = SchemaDump { tools, directory: directory_of_a_trial()?, known };
        dump.write(source, None).await?;
        Ok(dump)
    }

    async fn write(&self, source: &Endpoint, snapshot: Option<&str>) -> Result<(), ToolError> {
        let (mut command, _socket) =
            self.tools.command("pg_dump", (source, ToolRole::Platform), &self.directory)?;
        command.args(["--format=custom", "--compress=0", "--schema-only", "--no-tablespaces"]);
        command.args(["--no-subscriptions", "--exclude-schema", HELPER_SCHEMA, "--lock-wait-timeout=10s"]);
        command.args(snapshot.map(|snapshot| format!("--snapshot={snapshot}")));
        command.arg("--file").arg(self.archive());
        pg_tools::run(command).await?;
        self.leave_out_column_versions().await
    }

    /// Removes column options that only the source's server uses.
    async fn leave_out_column_versions(&self) -> Result<(), ToolError> {
        let path = self.archive();
        let failed = |source| ToolError::File { program: "pg_dump".into(), path: path.clone(), source };
        let mut archive = tokio::fs::read(&path).await.map_err(failed)?;
        let columns = dump_toc::leave_out_column_versions(&mut archive)?;
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

    /// The runs that create the objects of a section.
    pub(in crate::control) async fn runs(&self, section: Section) -> Result<Vec<Run>, ToolError> {
        let runs = Run::without_afterwards(self.runs_of(Some(section)).await?);
        Ok(match section {
            Section::PreData => runs,
            // The applier's entries there depend on none of the platform's, and are restored in parallel.
            Section::PostData => {
                let (parallel, attaching) =
                    Run::of(RestoringRole::Applier, &runs).part(&self.dependencies().await?);
                vec![parallel, attaching, Run::of(RestoringRole::Platform, &runs)]
            }
        })
    }

    /// The statements about existing objects of both sections.
    pub(in crate::control) async fn afterwards(&self) -> Result<Run, ToolError> {
        Ok(Run::of(RestoringRole::PlatformAfterwards, &self.runs_of(None).await?))
    }

    /// The runs that create the objects of both sections, if no rows are copied in between.
    pub(in crate::control) async fn runs_without_rows(&self) -> Result<Vec<Run>, ToolError> {
        Ok(Run::without_afterwards(self.runs_of(None).await?))
    }

    /// The dependencies of each entry, by entry number.
    pub(in crate::control) async fn dependencies(&self) -> Result<HashMap<u32, Vec<u32>>, ToolError> {
        let path = self.archive();
        let read = tokio::fs::read(&path).await;
        let archive = read.map_err(|source| ToolError::File { program: "pg_dump".into(), path, source })?;
        Ok(dump_toc::dependencies(&archive)?)
    }

    async fn runs_of(&self, section: Option<Section>) -> Result<Vec<Run>, ToolError> {
        let mut command = self.tools.plain("pg_restore");
        command.arg("--list").args(section.map(|section| format!("--section={}", section.as_str())));
        command.arg(self.archive());
        let all = pg_tools::run(command).await?;
        Ok(Run::split(&String::from_utf8_lossy(&all), &self.known))
    }

    /// Restores one run; the first error ends it.
    pub(in crate::control) async fn restore(
        &self,
        target: &Endpoint,
        applier: &OwnLogin,
        run: &Run,
        workers: usize,
    ) -> Result<(), ToolError> {
        if run.is_empty() {
            return Ok(());
        }
        let jobs = if run.in_turn { 1 } else { workers.max(1) };
        let options = ["--exit-on-error".to_owned(), format!("--jobs={jobs}")];
        let (command, _socket) = self.restoring(target, applier, run, &options).await?;
        pg_tools::run(command).await.map(drop)
    }

    /// Restores as much of a run as possible; returns what was refused.
    pub(in crate::control) async fn try_restore(
        &self,
        target: &Endpoint,
        applier: &OwnLogin,
        run: &Run,
    ) -> Result<Vec<Refused>, ToolError> {
        if run.is_empty() {
            return Ok(Vec::new());
        }
        // Only with --verbose do newer versions say to which entry an error belongs.
        let options = ["--verbose".to_owned()];
        let (command, _socket) = self.restoring(target, applier, run, &options).await?;
        let told = pg_tools::run_to_the_end(command, NOT_ALL).await?;
        Ok(refused::read(&told))
    }

    /// The `pg_restore` command of a run.
    async fn restoring(
        &self,
        target: &Endpoint,
        applier: &OwnLogin,
        run: &Run,
        options: &[String],
    ) -> Result<(Command, ToolSocket), ToolError> {
        let path = self.list();
        let failed = |source| ToolError::File { program: "pg_restore".into(), path: path.clone(), source };
        tokio::fs::write(&path, &run.list).await.map_err(failed)?;
        let who = match run.by {
            RestoringRole::Applier => ToolRole::Applier(applier.clone()),
            RestoringRole::Platform | RestoringRole::PlatformAfterwards => ToolRole::Platform,
        };
        let (mut command, socket) = self.tools.command("pg_restore", (target, who), &self.directory)?;
        // Owners are set separately.
        command.args(["--no-tablespaces", "--no-owner"]).args(options);
        command.arg("--use-list").arg(path).arg(self.archive());
        Ok((command, socket))
    }
}

impl Run {
    pub(in crate::control) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Splits the output of `pg_restore --list` where the restoring role changes.
    fn split(list: &str, known: &Known) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for line in list.lines().filter(|line| !line.starts_with(';')) {
            let Some(by) = who_restores(line, known) else { continue };
            match runs.last_mut().filter(|run| run.by == by) {
                Some(run) => run.list.push_str(&format!("{line}\n")),
                None => runs.push(Run { by, list: format!("{line}\n"), in_turn: false }),
            }
        }
        runs
    }

    /// Leaves out the statements for afterwards, and joins the runs that they separated.
    fn without_afterwards(runs: Vec<Run>) -> Vec<Run> {
        let mut joined: Vec<Run> = Vec::new();
        for run in runs.into_iter().filter(|run| run.by != RestoringRole::PlatformAfterwards) {
            match joined.last_mut().filter(|last| last.by == run.by) {
                Some(last) => last.list.push_str(&run.list),
                None => joined.push(run),
            }
        }
        joined
    }

    /// All entries that one role restores.
    fn of(by: RestoringRole, runs: &[Run]) -> Run {
        let list = runs.iter().filter(|run| run.by == by).map(|run| run.list.as_str()).collect();
        Run { by, list, in_turn: false }
    }

    /// Entries that can be restored in parallel; then, in turn, the attachments of partitions' indexes to
    /// their parents' indexes, and the entries that depend on them. `needs`: the dependencies of each entry.
    ///
    /// `ALTER INDEX ... ATTACH PARTITION` has locked an index when it waits for the lock of the partitioned
    /// table. A foreign key of that table has locked the table when it opens the indexes, to check the rows.
    /// `pg_restore` does not know the locks of the first, so a parallel restore could deadlock (2 of 60
    /// restores of a small schema with four jobs).
    fn part(self, needs: &HashMap<u32, Vec<u32>>) -> (Run, Run) {
        let mut attaching = HashSet::new();
        let (mut parallel, mut in_turn) = (String::new(), String::new());
        // Dependencies come before the entries that need them.
        for line in self.list.lines() {
            let (number, entry) = line.split_once("; ").unwrap_or_default();
            let number: u32 = number.parse().unwrap_or_default();
            let needs = needs.get(&number).map_or(&[][..], Vec::as_slice);
            let is_attaching = entry.split(' ').skip(2).take(2).eq(["INDEX", "ATTACH"]);
            let list = match is_attaching || needs.iter().any(|need| attaching.contains(need)) {
                true => {
                    attaching.insert(number);
                    &mut in_turn
                }
                false => &mut parallel,
            };
            list.push_str(line);
            list.push('\n');
        }
        let by = self.by;
        (Run { by, list: parallel, in_turn: false }, Run { by, list: in_turn, in_turn: true })
    }
}

/// The role that restores the entry in a line of `pg_restore --list`:
/// `215; 1259 16386 TABLE public accounts app`. `None`: the entry is not restored.
fn who_restores(line: &str, known: &Known) -> Option<RestoringRole> {
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
        () if AFTERWARDS.iter().any(is) => Some(RestoringRole::PlatformAfterwards),
        () if OF_SUPERUSERS.iter().any(is) || known.of_superusers.contains(&object) => {
            Some(RestoringRole::Platform)
        }
        () => Some(RestoringRole::Applier),
    }
}

/// Named after the source and the move, so that a leftover of a crash is found and replaced.
fn private_directory(ends: &Endpoints) -> Result<PathBuf, ToolError> {
    let name = ends.names().directory(&ends.source.system.system_identifier);
    let directory = temporary().join(name);
    let failed = |source| ToolError::File { program: "pg_dump".into(), path: directory.clone(), source };
    let _ = std::fs::remove_dir_all(&directory);
    make_private(&directory).map_err(failed)?;
    Ok(directory)
}

/// A random name: several trials may run at a time.
fn directory_of_a_trial() -> Result<PathBuf, ToolError> {
    let directory = temporary().join(format!("freehold-trial-{:016x}", rand::random::<u64>()));
    let failed = |source| ToolError::File { program: "pg_dump".into(), path: directory.clone(), source };
    make_private(&directory).map_err(failed)?;
    Ok(directory)
}

/// The directory contains a socket; the path of a socket is limited to 107 bytes.
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
    fn indexes_of_partitions_become_parts_of_others_when_no_other_index_is_built() {
        let list = "\
3401; 1259 16500 INDEX public parts_a_idx app
3402; 1259 16501 INDEX public part_a_idx app
3403; 2606 16502 CONSTRAINT public part part_pkey app
3404; 2606 16503 CONSTRAINT public INDEX ATTACH app
3405; 0 0 INDEX ATTACH public part_a_idx app
3406; 0 0 INDEX ATTACH public part_pkey app
3407; 2606 16504 FK CONSTRAINT public child child_fkey app
3408; 2606 16505 FK CONSTRAINT public other other_fkey app
";
        let runs = Run::split(list, &Known::default());
        let needs = HashMap::from([(3405, vec![3401, 3402]), (3407, vec![3406]), (3408, vec![3403])]);
        let (parallel, attaching) = Run::of(RestoringRole::Applier, &runs).part(&needs);
        let numbers = |run: &Run| -> Vec<String> {
            run.list.lines().map(|line| line.chars().take(4).collect()).collect()
        };
        assert_eq!(numbers(&parallel), ["3401", "3402", "3403", "3404", "3408"]);
        assert_eq!(
            (numbers(&attaching), attaching.in_turn),
            (vec!["3405".into(), "3406".into(), "3407".into()], true)
        );
    }

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
        let shown: Vec<(RestoringRole, usize)> =
            runs.iter().map(|run| (run.by, run.list.lines().count())).collect();
        let (applier, platform, afterwards) =
            (RestoringRole::Applier, RestoringRole::Platform, RestoringRole::PlatformAfterwards);
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
        let runs = Run::without_afterwards(runs);
        let shown: Vec<(RestoringRole, usize)> =
            runs.iter().map(|run| (run.by, run.list.lines().count())).collect();
        assert_eq!(shown, [(applier, 1), (platform, 1), (applier, 1), (platform, 1), (applier, 4)]);
    }
}
