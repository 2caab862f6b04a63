//! Verbs that become one admin command each.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use tokio::sync::mpsc;
use tokio_postgres::error::DbError;

use super::admin::{AdminPort, AdminPortError, Table};
use super::watch::Watch;
use super::{BLOCKED, Connection, Output, output};
use crate::admin::{identifier, literal};
use crate::error::chain;
use crate::model::printable;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run admin commands.
    Sql {
        /// For example "SHOW HELP".
        statement: String,
    },
    /// List the databases.
    Databases,
    /// List the PostgreSQL systems.
    Systems,
    /// List the teams.
    Teams,
    /// List the moves.
    Moves,
    /// List the clients' sessions.
    Sessions,
    /// Create a database. The password is shown once.
    Create(Create),
    /// Take in a database that exists, where it lies.
    Adopt(Adopt),
    /// Say what would hinder a move. Changes nothing; exits with 3 where something would.
    Plan(Plan),
    /// Move a database while its applications run.
    Move(Move),
    /// Bring a moved database back.
    Undo(Undo),
    /// Stop a move that has not switched yet.
    Cancel(OfMove),
    /// End a move for good.
    Finish(Finish),
    /// Drive a move that rests because the store is a copy of another.
    AdoptMove {
        /// The number of the move.
        id: u64,
    },
    /// The contract of a database.
    Contract {
        database: String,
        /// As one document for programs.
        #[arg(long)]
        format: Option<ContractFormat>,
    },
    /// What administrators did.
    #[command(subcommand)]
    Audit(Audit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ContractFormat {
    Json,
    Yaml,
    /// Open Data Contract Standard.
    Odcs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Compare every entry with the chain of digests that is written with the entries.
    Verify {
        /// A head that an earlier verification showed: the chain must pass through it.
        #[arg(long, value_name = "NUMBER:DIGEST")]
        head: Option<String>,
    },
}

/// What every database needs.
#[derive(Debug, Args)]
pub(super) struct Product {
    database: String,
    /// The team that owns it.
    #[arg(long)]
    owner: String,
    /// What it is for, in a sentence.
    #[arg(long)]
    purpose: String,
    /// dev, standard or critical.
    #[arg(long)]
    tier: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    product: Product,
    /// The system that holds it; the emptiest where not said.
    #[arg(long)]
    on: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Adopt {
    #[command(flatten)]
    product: Product,
    /// The system where it lies.
    #[arg(long)]
    on: String,
    /// Its name there, where that is another.
    #[arg(long)]
    dbname: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Plan {
    database: String,
    /// The system it would go to.
    #[arg(long)]
    to: String,
}

#[derive(Debug, Args)]
pub(super) struct Move {
    database: String,
    /// The system it goes to.
    #[arg(long)]
    to: String,
    /// The longest that clients may be held, for example 500ms.
    #[arg(long)]
    max_pause: Option<String>,
    /// Why: goes into the audit trail.
    #[arg(long)]
    reason: Option<String>,
    /// Return when the clients are on the target.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct OfMove {
    /// The number of the move.
    id: u64,
    /// Return when it is done.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Undo {
    #[command(flatten)]
    of: OfMove,
    /// Go back although the two copies differ.
    #[arg(long)]
    accept_differences: bool,
}

#[derive(Debug, Args)]
pub(super) struct Finish {
    #[command(flatten)]
    of: OfMove,
    /// End the move although the two copies differ, or are not known to be equal.
    #[arg(long)]
    accept_differences: bool,
    /// Drop the old copy instead of closing and renaming it.
    #[arg(long)]
    drop_source: bool,
}

/// What is shown of SHOW DATABASES: the rest is for exporters.
const DATABASE_COLUMNS: [&str; 9] = [
    "name",
    "owner",
    "state",
    "tier",
    "system",
    "epoch",
    "operation",
    "current_client_connections",
    "purpose",
];

/// A verb as an admin command.
struct Request {
    sql: String,
    shown: Shown,
}

/// What is made of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Everything,
    Columns(&'static [&'static str]),
    /// Exits with 3 where a row is a blocker.
    Findings,
    /// The text of the contract alone, however answers are shown.
    Contract,
}

pub(super) async fn run(verb: Verb, connection: Connection) -> ExitCode {
    match carry_out(&request(verb), &connection).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", printable::lines(&chain(&error)));
            error.exit_code()
        }
    }
}

async fn carry_out(request: &Request, connection: &Connection) -> Result<ExitCode, AdminPortError> {
    let (sender, mut notices) = mpsc::unbounded_channel::<DbError>();
    let port = AdminPort::connect(connection, sender).await?;
    let watch = if request.sql.ends_with(" WAIT") { Watch::begin() } else { Watch::Lines };
    let mut code = ExitCode::SUCCESS;
    let answer = |table: Table| {
        if request.shown == Shown::Findings && names_a_blocker(&table) {
            code = ExitCode::from(BLOCKED);
        }
        watch.beside(|| show(table, request.shown, connection.output));
    };
    watch.during(port.run(&request.sql, answer), &mut notices).await?;
    Ok(code)
}

fn names_a_blocker(table: &Table) -> bool {
    (0..table.rows.len()).any(|row| table.value(row, "severity") == Some("blocker"))
}

fn show(table: Table, shown: Shown, output: Output) {
    let table = match shown {
        Shown::Columns(columns) => table.only(columns),
        Shown::Contract => return output::print_text(table.value(0, "contract").unwrap_or_default()),
        Shown::Everything | Shown::Findings => table,
    };
    output::print(&table, output);
}

fn request(verb: Verb) -> Request {
    let (sql, shown) = match verb {
        Verb::Databases => ("SHOW DATABASES".to_owned(), Shown::Columns(&DATABASE_COLUMNS)),
        Verb::Plan(plan) => (plan_sql(&plan), Shown::Findings),
        verb @ Verb::Contract { format: Some(_), .. } => (sql(verb), Shown::Contract),
        other => (sql(other), Shown::Everything),
    };
    Request { sql, shown }
}

fn sql(verb: Verb) -> String {
    match verb {
        Verb::Sql { statement } => statement,
        Verb::Databases => "SHOW DATABASES".to_owned(),
        Verb::Systems => "SHOW SYSTEMS".to_owned(),
        Verb::Teams => "SHOW TEAMS".to_owned(),
        Verb::Moves => "SHOW MOVES".to_owned(),
        Verb::Sessions => "SHOW SESSIONS".to_owned(),
        Verb::Create(create) => {
            let place =
                create.on.as_deref().map_or_else(String::new, |on| format!(" ON SYSTEM {}", identifier(on)));
            format!("CREATE DATABASE {}{place}", product(&create.product, ""))
        }
        Verb::Adopt(adopt) => {
            let place = format!(" ON SYSTEM {}", identifier(&adopt.on));
            let dbname =
                adopt.dbname.as_deref().map_or_else(String::new, |name| format!(" DBNAME {}", literal(name)));
            format!("ADOPT DATABASE {}{dbname}", product(&adopt.product, &place))
        }
        Verb::Plan(plan) => plan_sql(&plan),
        Verb::Move(movement) => move_sql(&movement),
        Verb::Undo(undo) => {
            format!("UNDO MOVE {}{}{}", undo.of.id, accepting(undo.accept_differences), wait(undo.of.wait))
        }
        Verb::AdoptMove { id } => format!("ADOPT MOVE {id}"),
        Verb::Contract { database, format } => {
            let format = match format {
                None => "",
                Some(ContractFormat::Json) => " FORMAT JSON",
                Some(ContractFormat::Yaml) => " FORMAT YAML",
                Some(ContractFormat::Odcs) => " FORMAT ODCS",
            };
            format!("SHOW CONTRACT {}{format}", identifier(&database))
        }
        Verb::Audit(Audit::Verify { head }) => {
            let head = head.map_or_else(String::new, |head| format!(" HEAD {}", literal(&head)));
            format!("VERIFY AUDIT{head}")
        }
        Verb::Cancel(of) => format!("CANCEL MOVE {}{}", of.id, wait(of.wait)),
        Verb::Finish(finish) => {
            let drop = if finish.drop_source { " DROP SOURCE" } else { "" };
            let accept = accepting(finish.accept_differences);
            format!("FINISH MOVE {}{drop}{accept}{}", finish.of.id, wait(finish.of.wait))
        }
    }
}

fn accepting(differences: bool) -> &'static str {
    if differences { " ACCEPT DIFFERENCES" } else { "" }
}

fn plan_sql(plan: &Plan) -> String {
    format!("PLAN MOVE DATABASE {} TO SYSTEM {}", identifier(&plan.database), identifier(&plan.to))
}

fn product(product: &Product, place: &str) -> String {
    let tier = product.tier.as_deref().map_or_else(String::new, |tier| format!(" TIER {}", bare(tier)));
    let (name, owner) = (identifier(&product.database), identifier(&product.owner));
    format!("{name}{place} OWNER {owner} PURPOSE {}{tier}", literal(&product.purpose))
}

/// A keyword that came as an argument: anything else in it becomes a mistake that the admin port explains.
fn bare(word: &str) -> String {
    match word.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => word.to_owned(),
        false => identifier(word),
    }
}

fn move_sql(movement: &Move) -> String {
    let mut sql =
        format!("MOVE DATABASE {} TO SYSTEM {}", identifier(&movement.database), identifier(&movement.to));
    if let Some(pause) = &movement.max_pause {
        sql.push_str(&format!(" MAX PAUSE {}", literal(pause)));
    }
    if let Some(reason) = &movement.reason {
        sql.push_str(&format!(" REASON {}", literal(reason)));
    }
    sql.push_str(wait(movement.wait));
    sql
}

fn wait(wait: bool) -> &'static str {
    if wait { " WAIT" } else { "" }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::parse;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    #[test]
    fn every_verb_becomes_a_command_that_is_understood() {
        let lines = [
            "x databases",
            "x systems",
            "x teams",
            "x moves",
            "x sessions",
            "x create Shop --owner team-a --purpose it's-for-orders --tier dev --on pg-17",
            "x adopt shop --on pg-17 --owner a --purpose orders --dbname Shop",
            "x plan shop --to pg-17",
            "x move shop --to pg-17 --max-pause 500ms --reason upgrade --wait",
            "x undo 3 --wait",
            "x cancel 3",
            "x finish 3 --drop-source --wait",
            "x contract shop",
            "x contract Shop --format odcs",
            "x audit verify",
            "x audit verify --head 1:4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",
        ];
        for line in lines {
            let verb = Line::parse_from(line.split(' ')).verb;
            let sql = request(verb).sql;
            assert!(parse(&sql).is_ok(), "{sql}");
        }
    }
}
