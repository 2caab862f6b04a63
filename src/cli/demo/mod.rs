//! `freehold demo`: the story of the README on PostgreSQL servers that it starts itself.
//!
//! Owns the story ([`story`]), its application ([`load`]), its environment ([`environment`]) and its verdict
//! ([`verdict`]). It deliberately has no private access to Freehold: it uses admin SQL on the admin port and
//! the DSN that it gets, like any user. Its claims are computed from the application's records and the
//! database's contents.
//!
//! # Nothing stays behind
//! Everything that was started belongs to the [`environment::Environment`]; leaving the story in any way,
//! Ctrl-C and SIGTERM included, drops it.

mod admin;
mod digest;
mod environment;
mod leftovers;
mod load;
mod story;
mod tell;
mod verdict;
mod watch;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use story::DemoResult;
use tell::Teller;

/// Ledger clients; fewer would prove little.
const CLIENTS_MIN: usize = 16;

/// What can be said to `freehold demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Leave everything running at the end, print the DSNs and a move to try by hand; Ctrl-C ends it.
    #[arg(long)]
    pub keep: bool,
    /// One JSON object per line, for machines.
    #[arg(long)]
    pub json: bool,
    /// Concurrent clients of the application, at least 16.
    #[arg(long, value_name = "N", default_value_t = CLIENTS_MIN, value_parser = clients)]
    pub clients: usize,
}

fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ CLIENTS_MIN..=200) => Ok(count),
        _ => Err(format!("needs a number between {CLIENTS_MIN} and 200")),
    }
}

/// Runs the demo on threads of its own; see [`run`].
pub fn main(options: &Options) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(options)),
        Err(error) => {
            eprintln!("freehold: no threads: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo. The exit code is 0 for a good verdict, 1 for a bad one or an aborted demo, 130 after
/// Ctrl-C.
pub async fn run(options: &Options) -> ExitCode {
    let mut teller = Teller::new(options.json);
    let told = tokio::select! {
        told = story::tell(options, &mut teller) => told,
        () = interrupted() => {
            teller.progress_done();
            teller.say("stopped; nothing is left behind");
            return ExitCode::from(130);
        }
    };
    teller.progress_done();
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            teller.broke_off(&error, error.hint().as_deref());
            return ExitCode::FAILURE;
        }
    };
    let good = told.verdict.is_good();
    if options.keep {
        keep(&told, &mut teller).await;
    }
    told.environment.stop().await;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints how to go on by hand, and leaves everything running until Ctrl-C.
async fn keep(told: &DemoResult, teller: &mut Teller) {
    let (target, _) = told.environment.target();
    let admin = told.environment.admin_url();
    teller.chapter("Still running; Ctrl-C ends it");
    teller.facts(&[
        ("application", told.dsn.clone()),
        ("administrator", admin.clone()),
        ("look", format!("psql '{admin}' -c 'SHOW DATABASES'")),
        ("load", format!("pgbench -i '{0}' && pgbench -M prepared -c 16 -T 60 '{0}'", told.dsn)),
        ("move", format!("psql '{admin}' -c 'MOVE DATABASE shop TO SYSTEM {target} WAIT'")),
    ]);
    interrupted().await;
}

/// Waits for Ctrl-C or SIGTERM. Cancel-safe: the runtime keeps a signal until it is received.
async fn interrupted() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}
