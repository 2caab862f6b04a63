//! The one table of commands: syntax, the columns of the answer, a sentence.
//!
//! `SHOW HELP`, the Describe of the extended protocol and `config/admin.md` are rendered from it. Names of columns are
//! part of the interface: they may be added at the end, never renamed. Where a verb is PgBouncer's, its columns come
//! first, in its order and with its units, because exporters read them.

use super::statement::{Chatter, Show, Statement};

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    pub syntax: &'static str,
    pub doc: &'static str,
    /// Of the rows in the answer; none where there are no rows. All are of type text.
    pub columns: &'static [&'static str],
    /// The tag of CommandComplete; where there are rows, their number follows a SELECT or SHOW.
    pub tag: &'static str,
}

macro_rules! commands {
    ($($name:ident: $tag:literal, $syntax:literal, [$($column:literal),* $(,)?], $doc:literal;)*) => {
        $(
            pub const $name: Command =
                Command { syntax: $syntax, doc: $doc, columns: &[$($column),*], tag: $tag };
        )*

        /// Every command, in the order of SHOW HELP.
        pub const COMMANDS: &[Command] = &[$($name,)*];
    };
}

commands! {
    SHOW_DATABASES: "SHOW", "SHOW DATABASES",
        ["name", "host", "port", "database", "force_user", "pool_size", "min_pool_size", "reserve_pool_size",
         "server_lifetime", "pool_mode", "load_balance_hosts", "max_connections", "current_connections",
         "max_client_connections", "current_client_connections", "paused", "disabled",
         "owner", "state", "tier", "system", "epoch", "operation", "purpose", "id", "adopted"],
        "Every database: where it is, whose it is, what for.";
    SHOW_DATABASE: "SHOW", "SHOW DATABASE name", ["property", "value"],
        "One database with its contract and its logins.";
    SHOW_HISTORY: "SHOW", "SHOW HISTORY name", ["at", "who", "what", "epoch"],
        "What happened to a database, oldest first.";
    CREATE_DATABASE: "CREATE DATABASE",
        "CREATE DATABASE name OWNER [TEAM] team PURPOSE 'text' [TIER dev|standard|critical] [ON SYSTEM system]",
        ["name", "id", "dsn", "role", "password", "system"],
        "Creates a database and a role of the same name. The password is shown once and stored nowhere.";
    ADOPT_DATABASE: "ADOPT DATABASE",
        "ADOPT DATABASE name ON SYSTEM system OWNER [TEAM] team PURPOSE 'text' [TIER dev|standard|critical] [DBNAME 'name']",
        ["name", "id", "dsn", "role", "superuser", "verifier", "warning"],
        "Takes in a database that exists, where it lies, with the roles it has. A row for each role that can log in.";
    ALTER_DATABASE: "ALTER DATABASE",
        "ALTER DATABASE name [OWNER [TEAM] team] [PURPOSE 'text'] [TIER dev|standard|critical] [POOLING session|transaction] [POOL_SIZE n] [MAX_CLIENTS n]", [],
        "Changes owner, purpose or contract. New connections are pooled by the new mode, those that exist keep theirs.";
    DROP_DATABASE: "DROP DATABASE", "DROP DATABASE name CONFIRM 'name' REASON 'text'", ["name", "system", "left_as"],
        "Ends a database. Its data is not destroyed: a created one is closed and renamed, an adopted one left as it is.";
    PAUSE: "PAUSE", "PAUSE [name]", [],
        "Lets running transactions end and holds new ones, without an error; returns when none runs. All databases without a name.";
    RESUME: "RESUME", "RESUME [name]", [], "Ends a PAUSE.";
    PLAN_MOVE: "PLAN MOVE", "PLAN MOVE DATABASE name TO [SYSTEM] system",
        ["severity", "check", "object", "message", "cure", "responsible"],
        "Says what would hinder a move, with the cure. Changes nothing.";
    // libpq takes a tag that begins with "MOVE " for that of a cursor, and expects a number behind it.
    MOVE_DATABASE: "MOVE",
        "MOVE DATABASE name TO [SYSTEM] system [MAX PAUSE 'duration'] [REASON 'text'] [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Moves a database while its applications run. With WAIT the answer comes when they are on the target.";
    UNDO_MOVE: "UNDO MOVE", "UNDO MOVE number [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Brings the database back, with everything written since.";
    CANCEL_MOVE: "CANCEL MOVE", "CANCEL MOVE number [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Stops a move that has not switched yet, and removes what it made.";
    FINISH_MOVE: "FINISH MOVE", "FINISH MOVE number [DROP SOURCE] [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Ends a move for good: no way back any more. The old copy is closed and renamed, or dropped.";
    SHOW_MOVES: "SHOW", "SHOW MOVES",
        ["id", "database", "source", "target", "phase", "activity", "percent", "lag_bytes", "eta",
         "longest_stall_ms", "requested_by", "started_at", "ended_at", "error"],
        "Every move, newest first.";
    SHOW_MOVE: "SHOW", "SHOW MOVE number", ["property", "value"], "One move: steps, progress, the parts of its pause.";
    SHOW_SYSTEMS: "SHOW", "SHOW SYSTEMS",
        ["name", "host", "port", "role", "version", "databases", "accepts_databases", "sslmode", "replication_host",
         "replication_port", "created_at"],
        "Every PostgreSQL server.";
    CREATE_SYSTEM: "CREATE SYSTEM",
        "CREATE SYSTEM name HOST 'host' PORT number ROLE role [DATABASE name] [PASSWORD FILE 'path'] [SSLMODE mode] \
         [REPLICATION HOST 'host' PORT number]",
        ["name", "version", "wal_level", "superuser", "warning"],
        "Makes a PostgreSQL server known, after connecting to it. PASSWORD FILE: an absolute path on the machine of Freehold. \
         REPLICATION: how other systems reach it, where that differs.";
    ALTER_SYSTEM: "ALTER SYSTEM",
        "ALTER SYSTEM name [HOST 'host'] [PORT number] [ROLE role] [DATABASE name] [PASSWORD FILE 'path'] [SSLMODE mode] \
         [REPLICATION HOST 'host' PORT number] [CORDON|UNCORDON]", [],
        "Changes how a system is reached; CORDON: no database comes here any more.";
    DROP_SYSTEM: "DROP SYSTEM", "DROP SYSTEM name", [], "Forgets a system that holds no database.";
    SHOW_TEAMS: "SHOW", "SHOW TEAMS", ["name", "contact", "databases", "created_at"], "Every team.";
    CREATE_TEAM: "CREATE TEAM", "CREATE TEAM name CONTACT 'text'", [], "Makes a team known, and where it is reached.";
    ALTER_TEAM: "ALTER TEAM", "ALTER TEAM name CONTACT 'text'", [], "Changes where a team is reached.";
    DROP_TEAM: "DROP TEAM", "DROP TEAM name", [], "Forgets a team that owns no database.";
    SHOW_SESSIONS: "SHOW", "SHOW SESSIONS",
        ["database", "session", "role", "client", "application_name", "state", "since_ms", "server_pid", "twin_pid",
         "epoch", "readiness", "pinned_by", "connected_at"],
        "Clients of this process, and what keeps one from travelling.";
    SHOW_POOLS: "SHOW", "SHOW POOLS",
        ["database", "user", "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active",
         "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait",
         "maxwait_us", "pool_mode", "load_balance_hosts", "gate", "epoch"],
        "Clients and server connections of this process by database and role.";
    SHOW_CLIENTS: "SHOW", "SHOW CLIENTS",
        ["type", "user", "database", "replication", "state", "addr", "port", "local_addr", "local_port",
         "connect_time", "request_time", "wait", "wait_us", "close_needed", "ptr", "link", "remote_pid", "tls",
         "application_name", "prepared_statements", "id"],
        "Client connections, as PgBouncer shows them.";
    SHOW_SERVERS: "SHOW", "SHOW SERVERS",
        ["type", "user", "database", "replication", "state", "addr", "port", "local_addr", "local_port",
         "connect_time", "request_time", "wait", "wait_us", "close_needed", "ptr", "link", "remote_pid", "tls",
         "application_name", "prepared_statements", "id"],
        "Server connections, as PgBouncer shows them.";
    SHOW_LISTS: "SHOW", "SHOW LISTS", ["list", "items"], "How many there are of each thing.";
    SHOW_STATE: "SHOW", "SHOW STATE", ["key", "value"], "Whether this process is active or paused.";
    SHOW_CONFIG: "SHOW", "SHOW CONFIG", ["key", "value", "default", "changeable", "description"],
        "Every setting. changeable: RELOAD applies a change.";
    SHOW_HBA: "SHOW", "SHOW HBA",
        ["rule_number", "line_number", "type", "database", "user_name", "address", "auth_method", "options", "file_name"],
        "The rules by which applications come in, in their order; the first that is for a client decides.";
    SHOW_AUDIT: "SHOW", "SHOW AUDIT", ["at", "who", "command", "reason", "outcome"],
        "Who changed what, newest first.";
    SHOW_VERSION: "SHOW", "SHOW VERSION", ["version"], "The version that runs.";
    SHOW_HELP: "SHOW", "SHOW HELP", ["command", "description"], "This table.";
    RELOAD: "RELOAD", "RELOAD", ["setting", "applied"],
        "Reads the configuration file again and applies what can change. Nobody is dropped.";
    SHUTDOWN: "SHUTDOWN", "SHUTDOWN", [], "Lets transactions end, then stops the process.";
}

/// The table for the documentation, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Commands of the admin port\n\n\
         Rendered from the table in `src/admin/commands.rs`; `FREEHOLD_RENDER=1 cargo test --lib the_reference` writes it\n\
         anew. All columns are of type text. Their names stay as they are; new ones are added at the end. Keywords may be\n\
         written in any case; `[...]` may be left out, `a|b` is a choice; the clauses after the first name may come in any\n\
         order. Several commands are separated by `;`.\n",
    );
    for command in COMMANDS {
        text.push_str(&format!(
            "\n## {}\n\n```sql\n{}\n```\n\n{}\n",
            title(command),
            command.syntax,
            command.doc
        ));
        if !command.columns.is_empty() {
            text.push_str(&format!("\nColumns: `{}`.\n", command.columns.join("`, `")));
        }
    }
    text
}

/// The keywords in front.
fn title(command: &Command) -> String {
    let keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase());
    command.syntax.split(' ').take_while(keyword).collect::<Vec<_>>().join(" ")
}

/// The command whose keywords have the most in common with these words, if it is the only one.
pub(super) fn command_meant(words: &[String]) -> Option<Command> {
    let common = |command: &Command| {
        let title = title(command);
        title.split(' ').zip(words).take_while(|(keyword, word)| keyword == word).count()
    };
    let most = COMMANDS.iter().map(common).max().filter(|most| *most > 0)?;
    let mut best = COMMANDS.iter().filter(|command| common(command) == most);
    let found = best.next().copied();
    found.filter(|_| best.next().is_none())
}

const ONE_VALUE: Command = Command { syntax: "", doc: "", columns: &["?column?"], tag: "SELECT" };
const SILENT: Command = Command { syntax: "", doc: "", columns: &[], tag: "SET" };

/// The row of the table that a statement belongs to.
pub fn command(statement: &Statement) -> Command {
    match statement {
        Statement::CreateTeam(_) => CREATE_TEAM,
        Statement::AlterTeam(_) => ALTER_TEAM,
        Statement::DropTeam(_) => DROP_TEAM,
        Statement::CreateSystem(_) => CREATE_SYSTEM,
        Statement::AlterSystem(_) => ALTER_SYSTEM,
        Statement::DropSystem(_) => DROP_SYSTEM,
        Statement::CreateDatabase(_) => CREATE_DATABASE,
        Statement::AlterDatabase(_) => ALTER_DATABASE,
        Statement::AdoptDatabase(_) => ADOPT_DATABASE,
        Statement::DropDatabase(_) => DROP_DATABASE,
        Statement::PlanMove { .. } => PLAN_MOVE,
        Statement::Move(_) => MOVE_DATABASE,
        Statement::UndoMove { .. } => UNDO_MOVE,
        Statement::CancelMove { .. } => CANCEL_MOVE,
        Statement::FinishMove { .. } => FINISH_MOVE,
        Statement::Pause(_) => PAUSE,
        Statement::Resume(_) => RESUME,
        Statement::Reload => RELOAD,
        Statement::Shutdown => SHUTDOWN,
        Statement::Show(show) => shown(show),
        Statement::Chatter(chatter) => said(chatter),
    }
}

fn shown(show: &Show) -> Command {
    match show {
        Show::Databases => SHOW_DATABASES,
        Show::Database(_) => SHOW_DATABASE,
        Show::Systems => SHOW_SYSTEMS,
        Show::Teams => SHOW_TEAMS,
        Show::Moves => SHOW_MOVES,
        Show::Move(_) => SHOW_MOVE,
        Show::Sessions => SHOW_SESSIONS,
        Show::Pools => SHOW_POOLS,
        Show::Clients => SHOW_CLIENTS,
        Show::Servers => SHOW_SERVERS,
        Show::Lists => SHOW_LISTS,
        Show::State => SHOW_STATE,
        Show::Config => SHOW_CONFIG,
        Show::Version => SHOW_VERSION,
        Show::Help => SHOW_HELP,
        Show::Audit => SHOW_AUDIT,
        Show::Hba => SHOW_HBA,
        Show::History(_) => SHOW_HISTORY,
    }
}

fn said(chatter: &Chatter) -> Command {
    match chatter {
        Chatter::Accepted(tag) => Command { tag, ..SILENT },
        Chatter::Begin => Command { tag: "BEGIN", ..SILENT },
        Chatter::Commit => Command { tag: "COMMIT", ..SILENT },
        Chatter::Rollback => Command { tag: "ROLLBACK", ..SILENT },
        Chatter::RollbackToSavepoint => Command { tag: "ROLLBACK", ..SILENT },
        Chatter::SelectNumber(_) | Chatter::NoTypes => ONE_VALUE,
        Chatter::SelectFunction(name) => {
            Command { columns: std::slice::from_ref(name_of(name)), ..ONE_VALUE }
        }
        Chatter::Setting(name, _) => {
            Command { columns: std::slice::from_ref(name_of(name)), tag: "SHOW", ..ONE_VALUE }
        }
    }
}

/// A reference that lives as long as the table it comes from.
fn name_of(name: &str) -> &'static &'static str {
    super::chatter::NAMES.iter().find(|known| **known == name).unwrap_or(&"?column?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_documented_by_sentences_and_named_once() {
        for (index, command) in COMMANDS.iter().enumerate() {
            assert!(command.doc.ends_with('.'), "{}", command.syntax);
            assert!(command.syntax.starts_with(command.tag), "{}", command.syntax);
            assert!(
                !COMMANDS[..index].iter().any(|other| other.syntax == command.syntax),
                "{}",
                command.syntax
            );
            let mut columns = command.columns.to_vec();
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), command.columns.len(), "{}", command.syntax);
        }
    }

    #[test]
    fn the_reference_is_what_the_table_renders() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/admin.md");
        if std::env::var_os("FREEHOLD_RENDER").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert!(stored == reference(), "stale: run FREEHOLD_RENDER=1 cargo test --lib the_reference");
    }

    #[test]
    fn the_columns_of_pgbouncer_come_first() {
        assert_eq!(SHOW_POOLS.columns[..4], ["database", "user", "cl_active", "cl_waiting"]);
        assert_eq!(SHOW_DATABASES.columns[15..17], ["paused", "disabled"]);
        assert_eq!(SHOW_CLIENTS.columns[20], "id");
    }
}
