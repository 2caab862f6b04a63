//! The productions of CREATE, ALTER and DROP TEAM, and of the transfer of a database to another team.

use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::{AlterTeam, CreateTeam, DropTeam, RejectTransfer, Statement, Transfer};
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::DatabaseName;

const CONTACT: &str = "where the team is reached";
/// The longest CONTACT or ESCALATION, in bytes.
const REACHED_BYTES_MAX: usize = 1_000;

const ESCALATION: &str = "where to turn when the contact does not answer";

pub(in crate::admin) fn create_team(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::team(parser)?;
    let (mut contact, mut escalation, mut parent) = (None, None, None);
    parser.clauses(&["CONTACT", "ESCALATION", "PARENT"], |parser, clause| {
        match clause {
            "CONTACT" => contact = Some(stated(parser, CONTACT)?),
            "ESCALATION" => escalation = Some(stated(parser, ESCALATION)?),
            _ => parent = Some(values::team(parser)?),
        }
        Ok(())
    })?;
    let Some(contact) = contact else { return Err(parser.expected("CONTACT 'text'")) };
    Ok(Statement::CreateTeam(CreateTeam { name, contact, escalation, parent }))
}

/// A text that says something.
fn stated(parser: &mut Parser, what: &'static str) -> Result<String, SyntaxError> {
    let span = parser.span();
    let text = values::prose(parser, what, REACHED_BYTES_MAX)?;
    match text.trim().is_empty() {
        false => Ok(text),
        true => {
            let error = SyntaxError::new(span, format!("an empty text does not say {what}"));
            Err(error.with_hint("Write a channel, an address or a number.").of_kind(ErrorKind::Value))
        }
    }
}

pub(in crate::admin) fn alter_team(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    const CLAUSES: [&str; 3] = ["CONTACT", "ESCALATION", "PARENT"];
    let name = values::team(parser)?;
    let (mut contact, mut escalation, mut parent) = (None, None, None);
    if parser.at_end_of_statement() {
        parser.one_of(&CLAUSES)?;
    }
    parser.clauses(&CLAUSES, |parser, clause| {
        match clause {
            "CONTACT" => contact = Some(stated(parser, CONTACT)?),
            "ESCALATION" => escalation = Some(stated(parser, ESCALATION)?),
            _ if parser.accept("NONE") => parent = Some(None),
            _ => parent = Some(Some(values::team(parser)?)),
        }
        Ok(())
    })?;
    Ok(Statement::AlterTeam(AlterTeam { name, contact, escalation, parent }))
}

pub(in crate::admin) fn drop_team(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::team(parser)?;
    Ok(Statement::DropTeam(DropTeam { name, reason: values::reason(parser)? }))
}

/// Parses what follows the verb.
pub(in crate::admin) fn transfer_verb(parser: &mut Parser, verb: &str) -> Result<Statement, SyntaxError> {
    match verb {
        "TRANSFER" => transfer(parser),
        "ACCEPT" => {
            parser.expect("TRANSFER")?;
            Ok(Statement::AcceptTransfer(offered_database(parser)?))
        }
        _ => {
            parser.expect("TRANSFER")?;
            let name = offered_database(parser)?;
            Ok(Statement::RejectTransfer(RejectTransfer { name, reason: values::reason(parser)? }))
        }
    }
}

fn transfer(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    parser.expect("DATABASE")?;
    let name = values::database(parser)?;
    parser.expect("TO")?;
    let team = values::owner(parser)?;
    Ok(Statement::Transfer(Transfer { name, team, reason: values::reason(parser)? }))
}

/// After TRANSFER: `OF name`.
pub(in crate::admin) fn offered_database(parser: &mut Parser) -> Result<DatabaseName, SyntaxError> {
    parser.expect("OF")?;
    values::database(parser)
}
