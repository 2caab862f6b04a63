//! The productions of PgBouncer's commands.

use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::{Drain, ShutdownMode, Statement};
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::DatabaseName;

/// Parses what follows the verb.
pub(in crate::admin) fn process_verb(parser: &mut Parser, verb: &str) -> Result<Statement, SyntaxError> {
    Ok(match verb {
        "PAUSE" => Statement::Pause(drain(parser)?),
        "RESUME" => Statement::Resume(optional_database(parser)?),
        "DISABLE" => Statement::Disable(named_database(parser)?),
        "ENABLE" => Statement::Enable(named_database(parser)?),
        "RECONNECT" => Statement::Reconnect(optional_database(parser)?),
        "WAIT_CLOSE" => Statement::WaitClose(drain(parser)?),
        "KILL" => Statement::Kill(optional_database(parser)?),
        "KILL_CLIENT" => Statement::KillClient(parser.number("the id of a client")?),
        "SUSPEND" => return Err(suspend(parser)),
        _ => Statement::Shutdown(shutdown_mode(parser)?),
    })
}

fn drain(parser: &mut Parser) -> Result<Drain, SyntaxError> {
    let database = match parser.word().as_deref() {
        Some("WITHIN") => None,
        _ => optional_database(parser)?,
    };
    let within = match parser.accept("WITHIN") {
        true => Some(parser.duration("a duration")?),
        false => None,
    };
    Ok(Drain { database, within })
}

fn shutdown_mode(parser: &mut Parser) -> Result<ShutdownMode, SyntaxError> {
    if parser.at_end_of_statement() {
        return Ok(ShutdownMode::Now);
    }
    match parser.one_of(&["WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"])? {
        "WAIT_FOR_CLIENTS" => Ok(ShutdownMode::WaitForClients),
        _ => Ok(ShutdownMode::WaitForServers),
    }
}

/// PgBouncer's SUSPEND was the first half of handing its sockets to another process.
fn suspend(parser: &Parser) -> SyntaxError {
    SyntaxError::new(parser.span(), "a process cannot be suspended")
        .with_hint("PAUSE; holds clients between transactions.")
        .of_kind(ErrorKind::Unsupported)
}

fn optional_database(parser: &mut Parser) -> Result<Option<DatabaseName>, SyntaxError> {
    match parser.at_end_of_statement() {
        true => Ok(None),
        false => named_database(parser).map(Some),
    }
}

/// `[DATABASE] name`; a database may itself be named "database".
fn named_database(parser: &mut Parser) -> Result<DatabaseName, SyntaxError> {
    if parser.word_ahead(1).is_some() {
        parser.accept("DATABASE");
    }
    values::database(parser)
}
