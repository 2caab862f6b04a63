//! Parses text into [`Statement`]s: one production for each command.
//!
//! # Why
//! Written by hand, because an administrator at three in the morning needs "did you mean" with the exact
//! position, and a grammar of sixty productions costs less than teaching a generator to do that.

use crate::admin::commands::command_meant;
use crate::admin::driver_queries;
use crate::admin::parser::Parser;
use crate::admin::sql::{parse_lifecycle, parse_people, parse_show, parse_teams, parse_verbs, values};
use crate::admin::statement::{
    AdoptDatabase, AlterDatabase, AlterSystem, CreateDatabase, CreateSystem, Differences, DropDatabase, Move,
    Placement, SourceDisposition, Statement, Wait,
};
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::{
    ContractChange, DatabaseName, QuotasChange, RoleName, ServerAuth, SslMode, SystemName, Timeout,
    TimeoutsChange,
};

/// A statement and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub statement: Statement,
    /// Its own text, without the semicolon, and with passwords replaced.
    pub text: String,
}

/// The longest text that is parsed, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Parses every statement of a text; none if it is empty. One error refuses the whole text, as in PostgreSQL.
pub fn parse(text: &str) -> Result<Vec<Parsed>, SyntaxError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(SyntaxError::new(0..0, format!("the command is longer than {TEXT_BYTES_MAX} bytes")));
    }
    let mut parser = Parser::new(text)?;
    let mut statements = Vec::new();
    loop {
        while parser.accept_symbol(';') {}
        if parser.at_end_of_input() {
            return Ok(statements);
        }
        let start = parser.span().start;
        let place = parser.place();
        let statement =
            statement(&mut parser).map_err(|error| with_syntax(error, &parser.words_from(place)))?;
        let text = parser.shown(text, start..parser.span().start);
        statements.push(Parsed { statement, text });
    }
}

/// Once the command is known, adds its syntax: that says more than what was expected at one position.
fn with_syntax(error: SyntaxError, words: &[String]) -> SyntaxError {
    match (&error.hint, error.kind, command_meant(words)) {
        (None, ErrorKind::Syntax, Some(command)) => error.with_hint(command.syntax),
        _ => error,
    }
}

const VERBS: [&str; 30] = [
    "SHOW",
    "CREATE",
    "ALTER",
    "DROP",
    "GRANT",
    "REVOKE",
    "ADOPT",
    "DEPRECATE",
    "REVIVE",
    "QUARANTINE",
    "TRANSFER",
    "ACCEPT",
    "REJECT",
    "PLAN",
    "MOVE",
    "UNDO",
    "CANCEL",
    "FINISH",
    "PAUSE",
    "RESUME",
    "DISABLE",
    "ENABLE",
    "RECONNECT",
    "WAIT_CLOSE",
    "KILL",
    "KILL_CLIENT",
    "SUSPEND",
    "RELOAD",
    "SHUTDOWN",
    "VERIFY",
];

fn statement(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    if let Some(query) = driver_queries::parse(parser)? {
        parser.end_of_statement()?;
        return Ok(Statement::DriverQuery(query));
    }
    let statement = match parser.one_of(&VERBS).map_err(with_help)? {
        "SHOW" => parse_show::show(parser)?,
        "CREATE" => create(parser)?,
        "ALTER" => alter(parser)?,
        "DROP" => drop_object(parser)?,
        "GRANT" => Statement::Grant(parse_people::grant_of(parser, "TO")?),
        "REVOKE" => Statement::Revoke(parse_people::grant_of(parser, "FROM")?),
        "ADOPT" => adopt(parser)?,
        verb @ ("DEPRECATE" | "REVIVE" | "QUARANTINE") => parse_lifecycle::lifecycle_verb(parser, verb)?,
        verb @ ("TRANSFER" | "ACCEPT" | "REJECT") => parse_teams::transfer_verb(parser, verb)?,
        "PLAN" => plan(parser)?,
        "MOVE" => movement(parser)?,
        "UNDO" => undo(parser)?,
        "CANCEL" => cancel(parser)?,
        "FINISH" => finish(parser)?,
        "RELOAD" => Statement::Reload,
        "VERIFY" => verify(parser)?,
        verb => parse_verbs::process_verb(parser, verb)?,
    };
    parser.end_of_statement()?;
    Ok(statement)
}

/// A first word that resembles no command leads to the list of them.
fn with_help(error: SyntaxError) -> SyntaxError {
    match error.hint {
        Some(_) => error,
        None => error.with_hint("SHOW HELP lists the commands."),
    }
}

/// `AUDIT [HEAD 'number:digest']`
fn verify(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    parser.expect("AUDIT")?;
    let head = match parser.accept("HEAD") {
        true => Some(values::audit_head(parser)?),
        false => None,
    };
    Ok(Statement::VerifyAudit(head))
}

fn create(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    match parser.one_of(&["DATABASE", "SYSTEM", "TEAM", "USER"])? {
        "DATABASE" => create_database(parser),
        "SYSTEM" => create_system(parser),
        "USER" => Ok(Statement::CreateUser(parse_people::user_password(parser)?)),
        _ => parse_teams::create_team(parser),
    }
}

fn alter(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    match parser.one_of(&["DATABASE", "SYSTEM", "TEAM", "USER"])? {
        "DATABASE" => alter_database(parser),
        "SYSTEM" => alter_system(parser),
        "USER" => Ok(Statement::AlterUser(parse_people::user_password(parser)?)),
        _ => parse_teams::alter_team(parser),
    }
}

fn drop_object(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    match parser.one_of(&["DATABASE", "SYSTEM", "TEAM", "USER"])? {
        "DATABASE" => drop_database(parser),
        "USER" => Ok(Statement::DropUser(values::user(parser)?)),
        "SYSTEM" => Ok(Statement::DropSystem(values::system(parser)?)),
        _ => parse_teams::drop_team(parser),
    }
}

fn create_database(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    let (mut owner, mut purpose, mut tier, mut system) = (None, None, None, None);
    parser.clauses(&["OWNER", "PURPOSE", "TIER", "ON"], |parser, clause| {
        match clause {
            "OWNER" => owner = Some(values::owner(parser)?),
            "PURPOSE" => purpose = Some(values::purpose(parser)?),
            "TIER" => tier = Some(values::tier(parser)?),
            _ => system = Some(values::on_system(parser)?),
        }
        Ok(())
    })?;
    Ok(Statement::CreateDatabase(CreateDatabase { name, owner, purpose, tier, system }))
}

fn alter_database(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    parser.accept("SET");
    let (mut owner, mut purpose, mut tier) = (None, None, None);
    let (mut pooling, mut pool_size, mut clients_max) = (None, None, None);
    let (mut quotas, mut timeouts) = (QuotasChange::default(), TimeoutsChange::default());
    let clauses = [
        "OWNER",
        "PURPOSE",
        "TIER",
        "POOLING",
        "POOL_SIZE",
        "MAX_CLIENTS",
        "MAX_MESSAGE_SIZE",
        "MAX_LOGIN_RATE",
    ];
    let clauses: Vec<&str> = clauses.into_iter().chain(Timeout::ALL.map(Timeout::clause)).collect();
    if parser.at_end_of_statement() {
        parser.one_of(&clauses)?;
    }
    parser.clauses(&clauses, |parser, clause| {
        match (clause, Timeout::of_clause(clause)) {
            ("OWNER", _) => owner = Some(values::owner(parser)?),
            ("PURPOSE", _) => purpose = Some(values::purpose(parser)?),
            ("TIER", _) => tier = Some(values::tier(parser)?),
            ("POOLING", _) => pooling = Some(values::pooling(parser)?),
            ("POOL_SIZE", _) => pool_size = Some(values::connections(parser)?),
            ("MAX_MESSAGE_SIZE", _) => quotas.message_size_max = Some(values::message_size(parser)?),
            ("MAX_LOGIN_RATE", _) => quotas.logins_per_second_max = Some(values::login_rate(parser)?),
            (_, Some(timeout)) => timeouts[timeout] = Some(values::timeout(parser, timeout)?),
            (_, None) => clients_max = Some(values::connections(parser)?),
        }
        Ok(())
    })?;
    let contract = ContractChange { tier, pooling, pool_size, clients_max, quotas, timeouts };
    Ok(Statement::AlterDatabase(AlterDatabase { name, owner, purpose, contract }))
}

fn adopt(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    if parser.one_of(&["DATABASE", "MOVE"])? == "MOVE" {
        return Ok(Statement::AdoptMove(values::move_id(parser)?));
    }
    let name = values::database(parser)?;
    parser.expect("ON")?;
    let system = values::on_system(parser)?;
    let (mut owner, mut purpose, mut tier, mut dbname) = (None, None, None, None);
    parser.clauses(&["OWNER", "PURPOSE", "TIER", "DBNAME"], |parser, clause| {
        match clause {
            "OWNER" => owner = Some(values::owner(parser)?),
            "PURPOSE" => purpose = Some(values::purpose(parser)?),
            "TIER" => tier = Some(values::tier(parser)?),
            _ => dbname = Some(parser.text_or_identifier("the name on the system")?.0),
        }
        Ok(())
    })?;
    Ok(Statement::AdoptDatabase(AdoptDatabase { name, system, owner, purpose, tier, dbname }))
}

fn drop_database(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::database(parser)?;
    let (mut confirm, mut reason) = (None, None);
    parser.clauses(&["CONFIRM", "REASON"], |parser, clause| {
        match clause {
            "CONFIRM" => confirm = Some(parser.text("the name of the database")?),
            _ => reason = Some(values::reason_text(parser)?),
        }
        Ok(())
    })?;
    Ok(Statement::DropDatabase(DropDatabase { name, confirm, reason }))
}

fn create_system(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::system(parser)?;
    let mut clauses = SystemClauses::default();
    parser.clauses(&SystemClauses::KEYWORDS[..8], |parser, clause| {
        system_clause(parser, clause, &mut clauses)
    })?;
    // Asks for missing clauses in the order of the syntax.
    let Some(host) = clauses.host else { return Err(parser.expected("HOST 'address'")) };
    let Some(port) = clauses.port else { return Err(parser.expected("PORT number")) };
    let Some(role) = clauses.role else { return Err(parser.expected("ROLE name")) };
    Ok(Statement::CreateSystem(CreateSystem {
        name,
        host,
        port,
        role,
        database: clauses.database.unwrap_or_else(|| "postgres".to_owned()),
        password_file: clauses.password_file,
        sslmode: clauses.sslmode.unwrap_or_default(),
        auth: clauses.auth.unwrap_or_default(),
        replication: clauses.replication,
    }))
}

fn alter_system(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let name = values::system(parser)?;
    parser.accept("SET");
    let mut clauses = SystemClauses::default();
    if parser.at_end_of_statement() {
        parser.one_of(&SystemClauses::KEYWORDS)?;
    }
    parser.clauses(&SystemClauses::KEYWORDS, |parser, clause| system_clause(parser, clause, &mut clauses))?;
    let SystemClauses { host, port, role, database, password_file, sslmode, auth, replication, placement } =
        clauses;
    Ok(Statement::AlterSystem(AlterSystem {
        name,
        host,
        port,
        role,
        database,
        password_file,
        sslmode,
        auth,
        replication,
        placement,
    }))
}

fn system_clause(
    parser: &mut Parser,
    clause: &'static str,
    clauses: &mut SystemClauses,
) -> Result<(), SyntaxError> {
    match clause {
        "HOST" => clauses.host = Some(parser.text_or_identifier("a host")?.0),
        "PORT" => clauses.port = Some(values::port(parser)?),
        "ROLE" => clauses.role = Some(values::role(parser)?),
        "DATABASE" => clauses.database = Some(parser.text_or_identifier("a database of the system")?.0),
        "PASSWORD" => {
            parser.expect("FILE")?;
            clauses.password_file = Some(values::absolute_path(parser)?);
        }
        "SSLMODE" => clauses.sslmode = Some(values::sslmode(parser)?),
        "AUTH" => clauses.auth = Some(values::server_auth(parser)?),
        "REPLICATION" => {
            parser.expect("HOST")?;
            let host = parser.text_or_identifier("a host")?.0;
            parser.expect("PORT")?;
            clauses.replication = Some((host, values::port(parser)?));
        }
        "CORDON" => clauses.placement = Some(Placement::Refuse),
        _ => clauses.placement = Some(Placement::Accept),
    }
    Ok(())
}

fn plan(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    parser.expect("MOVE")?;
    let (database, system) = route(parser)?;
    Ok(Statement::PlanMove { database, system })
}

fn movement(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let (database, system) = route(parser)?;
    let (mut pause_max, mut reason, mut wait) = (None, None, Wait::No);
    parser.clauses(&["MAX", "REASON", "WAIT"], |parser, clause| {
        match clause {
            "MAX" => {
                parser.expect("PAUSE")?;
                pause_max = Some(parser.duration("a duration")?);
            }
            "REASON" => reason = Some(values::reason_text(parser)?),
            _ => wait = Wait::Yes,
        }
        Ok(())
    })?;
    Ok(Statement::Move(Move { database, system, pause_max, reason, wait }))
}

fn route(parser: &mut Parser) -> Result<(DatabaseName, SystemName), SyntaxError> {
    parser.expect("DATABASE")?;
    let database = values::database(parser)?;
    parser.expect("TO")?;
    Ok((database, values::optional_system(parser)?))
}

fn undo(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    parser.expect("MOVE")?;
    let id = values::move_id(parser)?;
    let (mut differences, mut wait) = (Differences::Refused, Wait::No);
    parser.clauses(&["ACCEPT", "WAIT"], |parser, clause| {
        match clause {
            "ACCEPT" => differences = accepted_differences(parser)?,
            _ => wait = Wait::Yes,
        }
        Ok(())
    })?;
    Ok(Statement::UndoMove { id, differences, wait })
}

fn cancel(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    if parser.one_of(&["MOVE", "TRANSFER"])? == "TRANSFER" {
        return Ok(Statement::CancelTransfer(parse_teams::offered_database(parser)?));
    }
    Ok(Statement::CancelMove { id: values::move_id(parser)?, wait: wait(parser)? })
}

fn finish(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    parser.expect("MOVE")?;
    let id = values::move_id(parser)?;
    let (mut source, mut differences, mut wait) = (SourceDisposition::Keep, Differences::Refused, Wait::No);
    parser.clauses(&["DROP", "ACCEPT", "WAIT"], |parser, clause| {
        match clause {
            "ACCEPT" => differences = accepted_differences(parser)?,
            "DROP" => {
                parser.expect("SOURCE")?;
                source = SourceDisposition::Drop;
            }
            _ => wait = Wait::Yes,
        }
        Ok(())
    })?;
    Ok(Statement::FinishMove { id, source, differences, wait })
}

/// Parses what follows ACCEPT.
fn accepted_differences(parser: &mut Parser) -> Result<Differences, SyntaxError> {
    parser.expect("DIFFERENCES").map(|()| Differences::Accepted)
}

fn wait(parser: &mut Parser) -> Result<Wait, SyntaxError> {
    if parser.at_end_of_statement() {
        return Ok(Wait::No);
    }
    parser.expect("WAIT").map(|()| Wait::Yes)
}

#[derive(Default)]
struct SystemClauses {
    host: Option<String>,
    port: Option<u16>,
    role: Option<RoleName>,
    database: Option<String>,
    password_file: Option<String>,
    sslmode: Option<SslMode>,
    auth: Option<ServerAuth>,
    replication: Option<(String, u16)>,
    placement: Option<Placement>,
}

impl SystemClauses {
    /// Only ALTER has the last two.
    const KEYWORDS: [&'static str; 10] = [
        "HOST",
        "PORT",
        "ROLE",
        "DATABASE",
        "PASSWORD",
        "SSLMODE",
        "AUTH",
        "REPLICATION",
        "CORDON",
        "UNCORDON",
    ];
}
