//! The productions of CREATE, ALTER and DROP TEAM.

use crate::admin::SyntaxError;
use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::{AlterTeam, CreateTeam, DropTeam, Statement};

const CONTACT: &str = "where the team is reached";
const ESCALATION: &str = "where to turn when the contact does not answer";

pub(in crate::admin) fn create_team(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::team(parser)?;
    let (mut contact, mut escalation, mut parent) = (None, None, None);
    parser.clauses(&["CONTACT", "ESCALATION", "PARENT"], |parser, clause| {
        match clause {
            "CONTACT" => contact = Some(parser.text(CONTACT)?),
            "ESCALATION" => escalation = Some(parser.text(ESCALATION)?),
            _ => parent = Some(values::team(parser)?),
        }
        Ok(())
    })?;
    let Some(contact) = contact else { return Err(parser.expected("CONTACT 'text'")) };
    Ok(Statement::CreateTeam(CreateTeam { name, contact, escalation, parent }))
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
            "CONTACT" => contact = Some(parser.text(CONTACT)?),
            "ESCALATION" => escalation = Some(parser.text(ESCALATION)?),
            _ if parser.accept("NONE") => parent = Some(None),
            _ => parent = Some(Some(values::team(parser)?)),
        }
        Ok(())
    })?;
    Ok(Statement::AlterTeam(AlterTeam { name, contact, escalation, parent }))
}

pub(in crate::admin) fn drop_team(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::team(parser)?;
    let mut reason = None;
    parser.clauses(&["REASON"], |parser, _| {
        reason = Some(parser.text("a reason")?);
        Ok(())
    })?;
    Ok(Statement::DropTeam(DropTeam { name, reason }))
}
