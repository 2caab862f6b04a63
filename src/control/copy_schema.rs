//! The schema of a database: written down in the slot's snapshot, restored before and after the rows.
//!
//! # Why
//! The restore list leaves out what is the move's own (guard, publications) and what must not travel: a publication of
//! the user's does, a subscription does not, because two subscribers of one slot would share its changes.

use std::path::{Path, PathBuf};

use crate::system::names::{GUARD_TRIGGERS, HELPER_SCHEMA, PREFIX};

use super::archive;
use super::ends::{End, Ends};
use super::tools::{self, ToolError, Tools};

const TEMPORARY_BYTES_MAX: usize = 40;

/// A directory of the move's own with the dump in it; removed with the value.
#[derive(Debug)]
pub(super) struct SchemaDump {
    tools: Tools,
    directory: PathBuf,
}

/// Which part of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Types, tables, functions, views.
    PreData,
    /// Indexes, constraints, triggers, publications, event triggers.
    PostData,
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
    pub(super) async fn take(ends: &Ends, tools: Tools, snapshot: &str) -> Result<SchemaDump, ToolError> {
        let dump = SchemaDump { tools, directory: private_directory(ends)? };
        let (mut command, _socket) = dump.tools.command("pg_dump", &ends.source, &dump.directory)?;
        command.args(["--format=custom", "--compress=0", "--schema-only", "--no-tablespaces"]);
        command.args(["--no-subscriptions", "--exclude-schema", HELPER_SCHEMA, "--lock-wait-timeout=10s"]);
        command.arg(format!("--snapshot={snapshot}")).arg("--file").arg(dump.archive());
        tools::run(command).await?;
        dump.leave_out_column_versions().await?;
        dump.write_list().await?;
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

    /// Writes the list of what is to be restored.
    async fn write_list(&self) -> Result<(), ToolError> {
        let mut command = self.tools.plain("pg_restore");
        command.arg("--list").arg(self.archive());
        let all = String::from_utf8_lossy(&tools::run(command).await?).into_owned();
        let kept: String =
            all.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
        let path = self.list();
        let failed = |source| ToolError::File { program: "pg_restore".into(), path: path.clone(), source };
        tokio::fs::write(&path, kept).await.map_err(failed)
    }

    /// Restores one section; the first error ends it.
    pub(super) async fn restore(
        &self,
        target: &End,
        section: Section,
        workers: usize,
    ) -> Result<(), ToolError> {
        let (mut command, _socket) = self.tools.command("pg_restore", target, &self.directory)?;
        command.args(["--exit-on-error", "--no-tablespaces"]);
        command.arg(format!("--section={}", section.as_str()));
        if section == Section::PostData {
            command.arg(format!("--jobs={}", workers.max(1)));
        }
        command.arg("--use-list").arg(self.list()).arg(self.archive());
        tools::run(command).await.map(drop)
    }
}

/// Whether a line of `pg_restore --list` is about an object of the move's:
/// `3461; 3466 16415 EVENT TRIGGER - freehold_guard postgres`.
fn is_ours(line: &str) -> bool {
    let guard =
        |line: &str| GUARD_TRIGGERS.iter().any(|name| line.contains(&format!("EVENT TRIGGER - {name} ")));
    let publication = |line: &str| {
        let ours = [format!("{PREFIX}_move_"), format!("{PREFIX}_back_")];
        let named = |kind: &str| {
            line.split_once(kind)
                .is_some_and(|(_, rest)| ours.iter().any(|prefix| rest.contains(prefix.as_str())))
        };
        named(" PUBLICATION - ") || named(" PUBLICATION TABLE ")
    };
    !line.starts_with(';') && (guard(line) || publication(line))
}

/// Named by the source and the move, so that a leftover of a crash is found and replaced.
fn private_directory(ends: &Ends) -> Result<PathBuf, ToolError> {
    let name = format!("freehold-{}-move-{}", ends.source.system.system_identifier, ends.id);
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
    fn only_the_moves_own_objects_are_left_out_of_the_restore() {
        assert!(is_ours("3461; 3466 16415 EVENT TRIGGER - freehold_guard postgres"));
        assert!(is_ours("3462; 3466 16416 EVENT TRIGGER - freehold_guard_drop postgres"));
        assert!(is_ours("3460; 6104 16420 PUBLICATION - freehold_move_7 postgres"));
        assert!(is_ours("3463; 6106 16421 PUBLICATION TABLE public freehold_move_7 accounts postgres"));
        assert!(!is_ours("3460; 6104 16420 PUBLICATION - outbox postgres"));
        assert!(!is_ours("215; 1259 16386 TABLE public freehold_move_7 app"));
        assert!(!is_ours("3461; 3466 16415 EVENT TRIGGER - guard postgres"));
        assert!(!is_ours("; Archive created at 2026-11-23"));
    }
}
