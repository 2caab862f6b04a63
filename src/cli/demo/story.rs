//! The steps of the demo.

use std::time::{Duration, Instant};

use tokio_postgres::{Config, NoTls};

use super::admin::{Admin, AdminError};
use super::environment::{Environment, EnvironmentError};
use super::load::{Application, Distribution, create_schema};
use super::tell::Teller;
use super::verdict::{FinalRows, Verdict, millis};
use super::watch::{self, Moved, WatchError};
use super::{Options, digest, leftovers};
use crate::error::Explain as _;

/// Time that the application runs before its database is moved.
const CALM: Duration = Duration::from_secs(2);
const LIVELY_WITHIN: Duration = Duration::from_secs(20);
/// Number of transactions that shows that the application works.
const LIVELY_TRANSACTIONS: u64 = 100;
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20);

/// Prefixes of the properties of a pause in `SHOW MOVE`.
const CUTOVER: &str = "cutover_";
const UNDO: &str = "undo_";
/// Those of them that concern the pause as a whole.
const SUMMARY: [&str; 5] = ["longest_stall", "p99_stall", "p90_stall", "median_stall", "hold"];

/// A demo that ran to its end, and its servers, still running.
#[derive(Debug)]
pub(super) struct DemoResult {
    pub(super) verdict: Verdict,
    pub(super) environment: Environment,
    pub(super) dsn: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoryError {
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("a system could not be looked at")]
    Lab(#[from] crate::lab::LabError),
    #[error("the application could not do its work")]
    Application(#[from] tokio_postgres::Error),
    #[error(
        "CREATE DATABASE without an owner was expected to be refused with the right command in the hint: {0}"
    )]
    NotRefused(String),
    #[error("the application was not lively within {} s", LIVELY_WITHIN.as_secs())]
    NotLively,
}

impl StoryError {
    /// A hint, if there is one.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            StoryError::Environment(EnvironmentError::Lab(error)) | StoryError::Lab(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs everything, and computes the verdict.
pub(super) async fn tell(options: &Options, teller: &mut Teller) -> Result<DemoResult, StoryError> {
    let environment = start_environment(teller).await?;
    let admin = Admin::connect(&environment.admin_dsn()).await?;
    let dsn = a_database_has_an_owner(&environment, &admin, teller).await?;
    let config: Config = dsn.parse()?;
    let application = an_application_runs(&config, options, teller).await?;

    let mut verdict = Verdict::default();
    let there = the_database_moves(&environment, &admin, &application, teller).await?;
    both_copies_are_compared(&environment, &application, &mut verdict, teller).await?;
    let back = and_comes_back(&there, &admin, &application, teller).await?;

    let calm = application_ends(application, &config, &mut verdict, teller).await?;
    let left = leftovers::all(&environment).await?;
    let told = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
    verdict.add("objects left behind on the systems", told, left.is_empty());
    for (question, moved, prefix) in
        [("longest wait of a client, move", &there, CUTOVER), ("longest wait of a client, undo", &back, UNDO)]
    {
        let pause_max = humantime::parse_duration(moved.facts.text("pause_max")).ok();
        verdict.judge_stall(question, moved.felt, pause_max, moved.facts.numbers(prefix));
    }
    teller.chapter("Verdict");
    teller.verdict(&verdict);
    figures(calm, &there, &back, teller);
    Ok(DemoResult { verdict, environment, dsn })
}

async fn start_environment(teller: &mut Teller) -> Result<Environment, StoryError> {
    teller.chapter("Two PostgreSQL systems, one Freehold");
    let began = Instant::now();
    let environment = Environment::start().await?;
    for (name, server) in environment.systems() {
        teller.say(&format!("{name}: PostgreSQL {}, {}:{}", server.major, server.host, server.port));
    }
    teller.say(&format!(
        "Freehold: applications at {}, administrators at {}",
        environment.proxy(),
        environment.admin()
    ));
    teller.say(&format!("started in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(environment)
}

/// Registers systems and a team; a database without an owner is refused, one with an owner and a purpose is
/// created.
async fn a_database_has_an_owner(
    environment: &Environment,
    admin: &Admin,
    teller: &mut Teller,
) -> Result<String, StoryError> {
    teller.chapter("A database has an owner");
    for (name, server) in environment.systems() {
        let command = format!(
            "CREATE SYSTEM {name} HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'",
            server.host,
            server.port,
            server.superuser,
            server.password_file.display()
        );
        teller.command(&command);
        admin.run(&command).await?;
    }
    let team = "CREATE TEAM payments CONTACT '#payments'";
    teller.command(team);
    admin.run(team).await?;
    let create = refused_without_owner(environment, admin, teller).await?;
    teller.command(&create);
    let row = admin.row(&create).await?;
    let dsn = row.needed(&create, "dsn")?;
    teller.say(&format!("its address, for ever: {dsn}"));
    Ok(dsn.to_owned())
}

/// The refusal's hint is the complete correct command; the demo runs it unchanged.
async fn refused_without_owner(
    environment: &Environment,
    admin: &Admin,
    teller: &mut Teller,
) -> Result<String, StoryError> {
    let (source, _) = environment.source();
    let command =
        format!("CREATE DATABASE shop PURPOSE 'orders and payments of the shop' ON SYSTEM {source}");
    teller.command(&command);
    let Err(error) = admin.run(&command).await else {
        return Err(StoryError::NotRefused("it was done".into()));
    };
    let Some(refused) = error.refused() else { return Err(error.into()) };
    teller.refused(&refused);
    let hint = refused.hint.unwrap_or_default();
    if !hint.starts_with("CREATE DATABASE shop OWNER") {
        return Err(StoryError::NotRefused(format!("{} (hint: {hint:?})", refused.message)));
    }
    Ok(hint.trim_end_matches(';').to_owned())
}

async fn an_application_runs(
    dsn: &Config,
    options: &Options,
    teller: &mut Teller,
) -> Result<Application, StoryError> {
    teller.chapter("An application runs, and knows nothing but its DSN");
    let (client, connection) = dsn.connect(NoTls).await?;
    tokio::spawn(connection);
    create_schema(&client).await?;
    let application = Application::start(dsn.clone(), options.clients).await?;
    lively(&application).await?;
    tokio::time::sleep(CALM).await;
    teller.say(&format!(
        "{} clients in session mode move money between accounts (prepared statements, session settings, pipelines);",
        options.clients
    ));
    teller.say("one more listens, one notifies, one holds an advisory lock and one tries to get it");
    Ok(application)
}

/// Waits until more transactions have ended.
async fn lively(application: &Application) -> Result<(), StoryError> {
    let wanted = application.journal().transactions() + LIVELY_TRANSACTIONS;
    let enough = async {
        while application.journal().transactions() < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIVELY_WITHIN, enough).await.map_err(|_| StoryError::NotLively)
}

async fn the_database_moves(
    environment: &Environment,
    admin: &Admin,
    application: &Application,
    teller: &mut Teller,
) -> Result<Moved, StoryError> {
    let (target, _) = environment.target();
    teller.chapter(&format!("The database moves to {target}, under load"));
    let command = format!("MOVE DATABASE shop TO SYSTEM {target}");
    teller.command(&command);
    let row = admin.row(&command).await?;
    let id: u64 = row.needed(&command, "move")?.parse().unwrap_or(1);
    let moved = watch::until("kept", id, admin, application.journal(), teller).await?;
    pause(&moved, CUTOVER, teller);
    lively(application).await?;
    Ok(moved)
}

/// The application pauses for a moment, so that nothing changes while every row is compared.
async fn both_copies_are_compared(
    environment: &Environment,
    application: &Application,
    verdict: &mut Verdict,
    teller: &mut Teller,
) -> Result<(), StoryError> {
    let (source, target) = (environment.source().1, environment.target().1);
    let (left, right) = (source.connect("shop").await?, target.connect("shop").await?);
    let resting = application.rest().await;
    let (left, right) = digest::compare(&left, &right, CAUGHT_UP_WITHIN).await?;
    drop(resting);
    verdict.judge_digests(&left, &right);
    teller.say("the application rested for a moment; every row of both copies was compared");
    Ok(())
}

async fn and_comes_back(
    there: &Moved,
    admin: &Admin,
    application: &Application,
    teller: &mut Teller,
) -> Result<Moved, StoryError> {
    teller.chapter("It comes back as cheaply, under load");
    let id = there.id;
    let command = format!("UNDO MOVE {id}");
    teller.command(&command);
    lively(application).await?;
    admin.run(&command).await?;
    let back = watch::until("undone", id, admin, application.journal(), teller).await?;
    pause(&back, UNDO, teller);
    lively(application).await?;
    Ok(back)
}

/// Ends the application and compares its records with the database's contents.
async fn application_ends(
    application: Application,
    dsn: &Config,
    verdict: &mut Verdict,
    teller: &mut Teller,
) -> Result<Distribution, StoryError> {
    let journal = application.stop().await;
    let (client, connection) = dsn.connect(NoTls).await?;
    tokio::spawn(connection);
    let truth = FinalRows::read(&client).await?;
    let known = journal.snapshot();
    for error in known.errors.iter().chain(&known.settings_lost).take(10) {
        teller.say(&format!("seen by a client: {error}"));
    }
    verdict.judge(&known, &truth);
    Ok(journal.latencies.all())
}

/// The parts of the pause, as the mover and the proxies measured them, and the clients' latencies.
fn pause(moved: &Moved, prefix: &str, teller: &mut Teller) {
    let fact = |name: &str| format!("{prefix}{name}");
    let stall = |name: &str| moved.facts.millis(&fact(name)).map_or("unknown".to_owned(), millis);
    let phases: Vec<String> =
        moved.phases.iter().map(|(phase, took)| format!("{phase} {:.1} s", took.as_secs_f64())).collect();
    teller.say(&format!("done in {:.1} s: {}", moved.took.as_secs_f64(), phases.join(", ")));
    teller.say(&format!(
        "clients were held: longest {}, p99 {}, p90 {}, median {}; {} requests waited, {} sessions changed their system",
        stall("longest_stall_ms"),
        stall("p99_stall_ms"),
        stall("p90_stall_ms"),
        stall("median_stall_ms"),
        moved.facts.text(&fact("held_requests")),
        moved.facts.text(&fact("sessions")),
    ));
    teller.say(&format!("parts of the pause: {}", moved.facts.parts(prefix, &SUMMARY).join(", ")));
}

fn figures(all: Distribution, there: &Moved, back: &Moved, teller: &mut Teller) {
    teller.chapter("What the clients felt");
    teller.facts(&[
        ("during the move", distribution(there.felt)),
        ("during the undo", distribution(back.felt)),
        ("all the time", distribution(all)),
    ]);
}

fn distribution(felt: Distribution) -> String {
    format!(
        "{} requests: median {}, p99 {}, longest {}",
        felt.requests,
        millis(felt.median),
        millis(felt.p99),
        millis(felt.longest)
    )
}
