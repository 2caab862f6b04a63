//! The productions of DEPRECATE, REVIVE and QUARANTINE.

use crate::admin::SyntaxError;
use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::{Clients, Deprecate, Quarantine, Revive, Statement};

/// Parses what follows the verb.
pub(in crate::admin) fn lifecycle_verb(parser: &mut Parser, verb: &str) -> Result<Statement, SyntaxError> {
    parser.expect("DATABASE")?;
    match verb {
        "DEPRECATE" => deprecate(parser),
        "REVIVE" => revive(parser),
        _ => quarantine(parser),
    }
}

fn deprecate(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    let (mut sunset, mut reason, mut successor) = (None, None, None);
    parser.clauses(&["SUNSET", "REASON", "SUCCESSOR"], |parser, clause| {
        match clause {
            "SUNSET" => sunset = Some(values::date(parser)?),
            "REASON" => reason = Some(values::reason_text(parser)?),
            _ => successor = Some(values::database(parser)?),
        }
        Ok(())
    })?;
    Ok(Statement::Deprecate(Deprecate { name, sunset, reason, successor }))
}

fn revive(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    Ok(Statement::Revive(Revive { name, reason: values::reason(parser)? }))
}

fn quarantine(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    let (mut until, mut reason, mut clients) = (None, None, Clients::Refused);
    parser.clauses(&["UNTIL", "REASON", "ACCEPT"], |parser, clause| {
        match clause {
            "UNTIL" => until = Some(values::date(parser)?),
            "REASON" => reason = Some(values::reason_text(parser)?),
            _ => {
                parser.expect("CLIENTS")?;
                clients = Clients::Accepted;
            }
        }
        Ok(())
    })?;
    Ok(Statement::Quarantine(Quarantine { name, until, reason, clients }))
}
