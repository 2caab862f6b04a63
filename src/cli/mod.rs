//! The verbs of the command line.
//!
//! Owns arguments, tables and exit codes. Everything but `serve`, `check`, `hash-password` and `demo` is a
//! thin client of the admin port: a verb becomes one admin command, so whatever the command line can do, psql
//! can do.
//!
//! Exit codes: 0 it worked; 1 it did not, or `audit verify` found a difference; 3 a move is blocked, or
//! another operation is in the way; 4 a wait ended before what was waited for.

mod admin;
mod check;
pub mod demo;
mod output;
mod password;
mod verbs;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::verbs::Verb;

#[derive(Debug, Parser)]
#[command(
    name = "freehold",
    version,
    about = "Databases as products: a PostgreSQL proxy that moves live databases between systems."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run proxy, admin port and control loop in one process.
    Serve {
        /// The configuration; `config/freehold.toml` lists every setting.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Explain every mistake of a configuration file.
    Check {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the line of `admin.users_file` for an administrator. The password is read from standard input.
    HashPassword {
        /// The administrator's name.
        name: String,
    },
    /// Tell the story on PostgreSQL servers of its own: a database moves there and back under load.
    Demo(demo::Options),
    #[command(flatten)]
    Verb(Verb),
}

/// How the admin port is reached and how answers are shown.
#[derive(Debug, Clone, Args)]
pub(super) struct Connection {
    /// The admin port.
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_ADMIN",
        hide_env_values = true,
        value_name = "DSN",
        default_value = "postgres://admin@127.0.0.1:6433/freehold"
    )]
    admin: String,
    /// Verify the admin port's certificate and name against these authorities (PEM).
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How answers are shown.
    #[arg(short, long, global = true, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// Exit codes besides 0 and 1.
const BLOCKED: u8 = 3;
const TIMED_OUT: u8 = 4;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let Arguments { command, connection } = Arguments::parse();
    match command {
        Command::Serve { config } => crate::app::serve(&config),
        Command::Check { config } => check::check(&config),
        Command::HashPassword { name } => with_runtime(password::print_line(&name)),
        Command::Demo(options) => demo::main(&options),
        Command::Verb(verb) => with_runtime(verbs::run(verb, connection)),
    }
}

/// One thread is enough for a client.
fn with_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("freehold: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
