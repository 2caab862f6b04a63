//! One change, one commit: a command that is killed before or after any of its commits leaves no half of a
//! change.
//!
//! Every command of the table is run. A first run counts its commits; then, for each commit, a process that
//! runs the command on the embedded store is killed (SIGKILL) before it and another one after it. What starts
//! afterwards on that store must leave catalogue, routes, logins and systems in agreement.
//!
//! `make chaos` kills on both sides of every commit; `make test` on one side of each, in turn.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agreement;
#[path = "../support/chaos.rs"]
mod chaos;
mod commands;
mod fixture;
mod many;
mod process;

use std::time::{Duration, Instant};

use freehold::admin::commands::COMMANDS;
use freehold::lab::{Major, Postgres};

use self::agreement::Known;
use self::commands::{Case, case_of, title};
use self::process::{Kill, Process, Side};

/// More commits than any command may make here: a bound on the loops.
const COMMITS_MAX: usize = 30;

/// The systems, and a store that knows two of them.
struct Lab {
    systems: Vec<(&'static str, Postgres)>,
    process: Process,
    /// Makes names of databases distinct.
    runs: u32,
}

impl Lab {
    async fn set() -> Lab {
        let start = || Postgres::start_async(Major::Oldest);
        let (one, two, three) = tokio::try_join!(start(), start(), start()).unwrap();
        let systems = vec![("one", one), ("two", two), ("three", three)];
        let lab = Lab { systems, process: Process::new(), runs: 0 };
        let mut here = lab.process.open().await;
        here.drive().await;
        here.run("CREATE TEAM payments CONTACT '#payments'").await.unwrap();
        for name in ["one", "two"] {
            here.run(&lab.spelled("CREATE SYSTEM {system}", name)).await.unwrap();
        }
        for number in 1..=3 {
            let keep = format!(
                "CREATE DATABASE keep{number} OWNER payments PURPOSE 'stays where it is for the whole test' ON SYSTEM one"
            );
            here.run(&keep).await.unwrap();
        }
        here.run("MOVE DATABASE keep3 TO SYSTEM two").await.unwrap();
        here.close().await;
        lab
    }

    fn spelled(&self, text: &str, system: &str) -> String {
        let (name, server) = self.systems.iter().find(|(name, _)| *name == system).unwrap();
        let how = format!(
            "{name} HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'",
            server.host,
            server.port,
            server.superuser,
            server.password_file.display()
        );
        text.replace("{system}", &how).replace("{n}", &self.runs.to_string())
    }

    /// Sets the case, runs its command in a process that may be killed, and starts again. How many commits it
    /// made.
    async fn run(&mut self, case: &Case, kill: Option<Kill>) -> usize {
        self.runs += 1;
        for raw in &case.on_system {
            let (_, two) = &self.systems[1];
            two.psql(&self.spelled(raw, "three")).unwrap();
        }
        let mut here = self.process.open().await;
        here.drive().await;
        for statement in &case.setup {
            let (statement, may_fail) =
                statement.strip_prefix('?').map_or((*statement, false), |rest| (rest, true));
            let outcome = here.run(&self.spelled(statement, "three")).await;
            assert!(may_fail || outcome.is_ok(), "{statement}: {outcome:?}");
        }
        let movement = here.prepare_move(case.phase).await;
        let before = Known::read(&here.catalog).await;
        here.close().await;

        let statement = self.spelled(case.statement, "three").replace("{move}", &movement.to_string());
        let commits = self.process.run_apart(&statement, kill);
        let what = format!("{statement} killed {kill:?}");

        if case.changes_nothing {
            return commits;
        }
        let mut here = self.process.open().await;
        // Even before anything is mended: what clients meet is what the records say.
        Known::read(&here.catalog).await.is_enforced(&what);
        here.start_again().await;
        let after = Known::read(&here.catalog).await;
        after.agrees(&self.systems, &what);
        after.tells_of_changes_since(&before, &what);
        here.close().await;
        if kill.is_none() && !case.is_refused {
            after.was_carried_out(&before, &what);
        }
        commits
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_that_is_killed_around_a_commit_leaves_half_of_a_change() {
    let mut lab = Lab::set().await;
    let mut sides = 0;
    let began = Instant::now();
    for command in COMMANDS {
        let title = title(command.syntax);
        let case = case_of(&title)
            .unwrap_or_else(|| panic!("{title}: no case in tests/one_change/commands.rs: add one"));
        let commits = lab.run(&case, None).await;
        if case.changes_nothing {
            assert_eq!(commits, 0, "{title} changes the catalogue: its case says that it does not");
            continue;
        }
        assert!((1..=COMMITS_MAX).contains(&commits), "{title} made {commits} commits");
        for number in 1..=commits {
            for side in [Side::Before, Side::After] {
                sides += 1;
                if chaos::is_requested() || sides % 2 == 0 {
                    lab.run(&case, Some(Kill { number, side })).await;
                }
            }
            // The next commit is met on its other side.
            sides += 1;
        }
        eprintln!("{title}: {commits} commits, {} s", began.elapsed().as_secs());
    }
    assert!(began.elapsed() < Duration::from_secs(1_200));
}

/// The process that [`process::Process::run_apart`] starts; by itself it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    process::be_the_process().await;
}
