//! Parses text into [`Statement`]s: one production for each command.
//!
//! # Why
//! Written by hand, because an administrator at three in the morning needs "did you mean" with the exact
//! position, and a grammar of sixty productions costs less than teaching a generator to do that.

use std::time::Duration;

use crate::admin::commands::command_meant;
use crate::admin::driver_queries;
use crate::admin::parser::Parser;
use crate::admin::statement::{
    AdoptDatabase, AlterDatabase, AlterSystem, CreateDatabase, CreateSystem, Differences, DropDatabase, Move,
    Placement, SourceFate, Statement, TeamClause, Wait,
};
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::quotas::{LOGINS_PER_SECOND_MAX, MESSAGE_SIZES};
use crate::model::{
    ByteSize, ContractChange, DatabaseName, MoveId, Pooling, QuotasChange, RoleName, ServerAuth, SslMode,
    SystemName, TeamName, Tier, Timeout, TimeoutsChange,
};

/// A statement and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub statement: Statement,
    /// Its own text, without the semicolon.
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
        let statement = parser.statement().map_err(|error| with_syntax(error, &parser.words_from(place)))?;
        let own = text.get(start..parser.span().start).unwrap_or("").trim_end();
        statements.push(Parsed { statement, text: own.to_owned() });
    }
}

/// Once the command is known, adds its syntax: that says more than what was expected at one position.
fn with_syntax(error: SyntaxError, words: &[String]) -> SyntaxError {
    match (&error.hint, error.kind, command_meant(words)) {
        (None, ErrorKind::Syntax, Some(command)) => error.with_hint(command.syntax),
        _ => error,
    }
}

const VERBS: [&str; 21] = [
    "SHOW",
    "CREATE",
    "ALTER",
    "DROP",
    "ADOPT",
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
];

impl Parser {
    fn statement(&mut self) -> Result<Statement, SyntaxError> {
        if let Some(query) = driver_queries::parse(self)? {
            self.end_of_statement()?;
            return Ok(Statement::DriverQuery(query));
        }
        let statement = match self.one_of(&VERBS)? {
            "SHOW" => self.show()?,
            "CREATE" => self.create()?,
            "ALTER" => self.alter()?,
            "DROP" => self.drop_object()?,
            "ADOPT" => self.adopt()?,
            "PLAN" => self.plan()?,
            "MOVE" => self.movement()?,
            "UNDO" => self.undo()?,
            "CANCEL" => self.cancel()?,
            "FINISH" => self.finish()?,
            "RELOAD" => Statement::Reload,
            verb => self.process_verb(verb)?,
        };
        self.end_of_statement()?;
        Ok(statement)
    }

    fn create(&mut self) -> Result<Statement, SyntaxError> {
        match self.one_of(&["DATABASE", "SYSTEM", "TEAM"])? {
            "DATABASE" => self.create_database(),
            "SYSTEM" => self.create_system(),
            _ => Ok(Statement::CreateTeam(self.team_clause()?)),
        }
    }

    fn alter(&mut self) -> Result<Statement, SyntaxError> {
        match self.one_of(&["DATABASE", "SYSTEM", "TEAM"])? {
            "DATABASE" => self.alter_database(),
            "SYSTEM" => self.alter_system(),
            _ => Ok(Statement::AlterTeam(self.team_clause()?)),
        }
    }

    fn drop_object(&mut self) -> Result<Statement, SyntaxError> {
        match self.one_of(&["DATABASE", "SYSTEM", "TEAM"])? {
            "DATABASE" => self.drop_database(),
            "SYSTEM" => Ok(Statement::DropSystem(self.system()?)),
            _ => Ok(Statement::DropTeam(self.team()?)),
        }
    }

    fn team_clause(&mut self) -> Result<TeamClause, SyntaxError> {
        let name = self.team()?;
        self.expect("CONTACT")?;
        Ok(TeamClause { name, contact: self.text("where the team is reached")? })
    }

    fn create_database(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.database()?;
        let (mut owner, mut purpose, mut tier, mut system) = (None, None, None, None);
        self.clauses(&["OWNER", "PURPOSE", "TIER", "ON"], |parser, clause| {
            match clause {
                "OWNER" => owner = Some(parser.owner()?),
                "PURPOSE" => purpose = Some(parser.text("a purpose")?),
                "TIER" => tier = Some(parser.tier()?),
                _ => system = Some(parser.on_system()?),
            }
            Ok(())
        })?;
        Ok(Statement::CreateDatabase(CreateDatabase { name, owner, purpose, tier, system }))
    }

    fn alter_database(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.database()?;
        self.accept("SET");
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
        if self.at_end_of_statement() {
            self.one_of(&clauses)?;
        }
        self.clauses(&clauses, |parser, clause| {
            match (clause, Timeout::of_clause(clause)) {
                ("OWNER", _) => owner = Some(parser.owner()?),
                ("PURPOSE", _) => purpose = Some(parser.text("a purpose")?),
                ("TIER", _) => tier = Some(parser.tier()?),
                ("POOLING", _) => pooling = Some(parser.pooling()?),
                ("POOL_SIZE", _) => pool_size = Some(parser.connections()?),
                ("MAX_MESSAGE_SIZE", _) => quotas.message_size_max = Some(parser.message_size()?),
                ("MAX_LOGIN_RATE", _) => quotas.logins_per_second_max = Some(parser.login_rate()?),
                (_, Some(timeout)) => timeouts[timeout] = Some(parser.timeout(timeout)?),
                (_, None) => clients_max = Some(parser.connections()?),
            }
            Ok(())
        })?;
        let contract = ContractChange { tier, pooling, pool_size, clients_max, quotas, timeouts };
        Ok(Statement::AlterDatabase(AlterDatabase { name, owner, purpose, contract }))
    }

    fn adopt(&mut self) -> Result<Statement, SyntaxError> {
        if self.one_of(&["DATABASE", "MOVE"])? == "MOVE" {
            return Ok(Statement::AdoptMove(self.move_id()?));
        }
        let name = self.database()?;
        self.expect("ON")?;
        let system = self.on_system()?;
        let (mut owner, mut purpose, mut tier, mut dbname) = (None, None, None, None);
        self.clauses(&["OWNER", "PURPOSE", "TIER", "DBNAME"], |parser, clause| {
            match clause {
                "OWNER" => owner = Some(parser.owner()?),
                "PURPOSE" => purpose = Some(parser.text("a purpose")?),
                "TIER" => tier = Some(parser.tier()?),
                _ => dbname = Some(parser.text_or_identifier("the name on the system")?.0),
            }
            Ok(())
        })?;
        Ok(Statement::AdoptDatabase(AdoptDatabase { name, system, owner, purpose, tier, dbname }))
    }

    fn drop_database(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.database()?;
        let (mut confirm, mut reason) = (None, None);
        self.clauses(&["CONFIRM", "REASON"], |parser, clause| {
            match clause {
                "CONFIRM" => confirm = Some(parser.text("the name of the database")?),
                _ => reason = Some(parser.text("a reason")?),
            }
            Ok(())
        })?;
        Ok(Statement::DropDatabase(DropDatabase { name, confirm, reason }))
    }

    fn create_system(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.system()?;
        let mut clauses = SystemClauses::default();
        self.clauses(&SystemClauses::KEYWORDS[..8], |parser, clause| {
            parser.system_clause(clause, &mut clauses)
        })?;
        // Asks for missing clauses in the order of the syntax.
        let Some(host) = clauses.host else { return Err(self.expected("HOST 'address'")) };
        let Some(port) = clauses.port else { return Err(self.expected("PORT number")) };
        let Some(role) = clauses.role else { return Err(self.expected("ROLE name")) };
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

    fn alter_system(&mut self) -> Result<Statement, SyntaxError> {
        let name = self.system()?;
        self.accept("SET");
        let mut clauses = SystemClauses::default();
        if self.at_end_of_statement() {
            self.one_of(&SystemClauses::KEYWORDS)?;
        }
        self.clauses(&SystemClauses::KEYWORDS, |parser, clause| parser.system_clause(clause, &mut clauses))?;
        let SystemClauses {
            host,
            port,
            role,
            database,
            password_file,
            sslmode,
            auth,
            replication,
            placement,
        } = clauses;
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
        &mut self,
        clause: &'static str,
        clauses: &mut SystemClauses,
    ) -> Result<(), SyntaxError> {
        match clause {
            "HOST" => clauses.host = Some(self.text_or_identifier("a host")?.0),
            "PORT" => clauses.port = Some(self.port()?),
            "ROLE" => clauses.role = Some(self.role()?),
            "DATABASE" => clauses.database = Some(self.text_or_identifier("a database of the system")?.0),
            "PASSWORD" => {
                self.expect("FILE")?;
                clauses.password_file = Some(self.absolute_path()?);
            }
            "SSLMODE" => clauses.sslmode = Some(self.sslmode()?),
            "AUTH" => clauses.auth = Some(self.server_auth()?),
            "REPLICATION" => {
                self.expect("HOST")?;
                let host = self.text_or_identifier("a host")?.0;
                self.expect("PORT")?;
                clauses.replication = Some((host, self.port()?));
            }
            "CORDON" => clauses.placement = Some(Placement::Refuse),
            _ => clauses.placement = Some(Placement::Accept),
        }
        Ok(())
    }

    /// Refuses a relative path: its meaning depends on the directory in which the process was started.
    fn absolute_path(&mut self) -> Result<String, SyntaxError> {
        let span = self.span();
        let path = self.text("a path")?;
        match path.starts_with('/') {
            true => Ok(path),
            false => Err(SyntaxError::new(span, format!("'{path}' is no absolute path"))
                .with_hint("Write the whole path, from / on, as it is on the machine of Freehold.")
                .of_kind(ErrorKind::Value)),
        }
    }

    fn plan(&mut self) -> Result<Statement, SyntaxError> {
        self.expect("MOVE")?;
        let (database, system) = self.route()?;
        Ok(Statement::PlanMove { database, system })
    }

    fn movement(&mut self) -> Result<Statement, SyntaxError> {
        let (database, system) = self.route()?;
        let (mut pause_max, mut reason, mut wait) = (None, None, Wait::No);
        self.clauses(&["MAX", "REASON", "WAIT"], |parser, clause| {
            match clause {
                "MAX" => {
                    parser.expect("PAUSE")?;
                    pause_max = Some(parser.duration("a duration")?);
                }
                "REASON" => reason = Some(parser.text("a reason")?),
                _ => wait = Wait::Yes,
            }
            Ok(())
        })?;
        Ok(Statement::Move(Move { database, system, pause_max, reason, wait }))
    }

    fn route(&mut self) -> Result<(DatabaseName, SystemName), SyntaxError> {
        self.expect("DATABASE")?;
        let database = self.database()?;
        self.expect("TO")?;
        Ok((database, self.noise_system()?))
    }

    fn undo(&mut self) -> Result<Statement, SyntaxError> {
        self.expect("MOVE")?;
        let id = self.move_id()?;
        let (mut differences, mut wait) = (Differences::Refused, Wait::No);
        self.clauses(&["ACCEPT", "WAIT"], |parser, clause| {
            match clause {
                "ACCEPT" => differences = parser.accepted_differences()?,
                _ => wait = Wait::Yes,
            }
            Ok(())
        })?;
        Ok(Statement::UndoMove { id, differences, wait })
    }

    fn cancel(&mut self) -> Result<Statement, SyntaxError> {
        self.expect("MOVE")?;
        Ok(Statement::CancelMove { id: self.move_id()?, wait: self.wait()? })
    }

    fn finish(&mut self) -> Result<Statement, SyntaxError> {
        self.expect("MOVE")?;
        let id = self.move_id()?;
        let (mut source, mut differences, mut wait) = (SourceFate::Keep, Differences::Refused, Wait::No);
        self.clauses(&["DROP", "ACCEPT", "WAIT"], |parser, clause| {
            match clause {
                "ACCEPT" => differences = parser.accepted_differences()?,
                "DROP" => {
                    parser.expect("SOURCE")?;
                    source = SourceFate::Drop;
                }
                _ => wait = Wait::Yes,
            }
            Ok(())
        })?;
        Ok(Statement::FinishMove { id, source, differences, wait })
    }

    /// Parses what follows ACCEPT.
    fn accepted_differences(&mut self) -> Result<Differences, SyntaxError> {
        self.expect("DIFFERENCES").map(|()| Differences::Accepted)
    }

    fn wait(&mut self) -> Result<Wait, SyntaxError> {
        if self.at_end_of_statement() {
            return Ok(Wait::No);
        }
        self.expect("WAIT").map(|()| Wait::Yes)
    }

    pub(in crate::admin) fn move_id(&mut self) -> Result<MoveId, SyntaxError> {
        self.number("the number of a move").map(MoveId)
    }

    pub(in crate::admin) fn database(&mut self) -> Result<DatabaseName, SyntaxError> {
        self.name("the name of a database", DatabaseName::parse)
    }

    fn system(&mut self) -> Result<SystemName, SyntaxError> {
        self.name("the name of a system", SystemName::parse)
    }

    fn team(&mut self) -> Result<TeamName, SyntaxError> {
        self.name("the name of a team", TeamName::parse)
    }

    /// `[SYSTEM] name`
    fn noise_system(&mut self) -> Result<SystemName, SyntaxError> {
        self.accept("SYSTEM");
        self.system()
    }

    /// After ON: `SYSTEM name`.
    fn on_system(&mut self) -> Result<SystemName, SyntaxError> {
        self.expect("SYSTEM")?;
        self.system()
    }

    /// `[TEAM] name`. Not checked to be the name of a team here: an unknown owner gets an error of its own.
    fn owner(&mut self) -> Result<String, SyntaxError> {
        self.accept("TEAM");
        Ok(self.identifier("the name of a team")?.0)
    }

    fn role(&mut self) -> Result<RoleName, SyntaxError> {
        let (role, span) = self.text_or_identifier("a role")?;
        RoleName::parse(&role).map_err(|error| SyntaxError::new(span, error.to_string()).of_name())
    }

    fn port(&mut self) -> Result<u16, SyntaxError> {
        let span = self.span();
        match self.number("a port number")? {
            0 => Err(SyntaxError::new(span, "0 is no port").of_kind(ErrorKind::Value)),
            port => Ok(port),
        }
    }

    fn tier(&mut self) -> Result<Tier, SyntaxError> {
        match self.one_of(&["DEV", "STANDARD", "CRITICAL"])? {
            "DEV" => Ok(Tier::Dev),
            "STANDARD" => Ok(Tier::Standard),
            _ => Ok(Tier::Critical),
        }
    }

    fn pooling(&mut self) -> Result<Pooling, SyntaxError> {
        match self.one_of(&["SESSION", "TRANSACTION"])? {
            "SESSION" => Ok(Pooling::Session),
            _ => Ok(Pooling::Transaction),
        }
    }

    fn connections(&mut self) -> Result<u32, SyntaxError> {
        let span = self.span();
        match self.number("a number of connections")? {
            0 => Err(SyntaxError::new(span, "no connection is too few").of_kind(ErrorKind::Value)),
            size => Ok(size),
        }
    }

    /// `'64MB'` or DEFAULT; `None`: the process's setting applies.
    fn message_size(&mut self) -> Result<Option<ByteSize>, SyntaxError> {
        if self.accept("DEFAULT") {
            return Ok(None);
        }
        let span = self.span();
        let text = self.text("DEFAULT or a size such as '64MB'")?;
        let (least, most) = (MESSAGE_SIZES.start(), MESSAGE_SIZES.end());
        let error = match ByteSize::parse(&text) {
            Some(size) if MESSAGE_SIZES.contains(&size) => return Ok(Some(size)),
            Some(_) => {
                SyntaxError::new(span, format!("MAX_MESSAGE_SIZE needs a size between {least} and {most}"))
            }
            None => SyntaxError::new(span, format!("'{text}' is no size"))
                .with_hint("Write a number with its unit: '512kB', '64MB'."),
        };
        Err(error.of_kind(ErrorKind::Value))
    }

    /// `50`, `0` (no limit) or DEFAULT; `None`: the database has no limit of its own.
    fn login_rate(&mut self) -> Result<Option<u32>, SyntaxError> {
        if self.accept("DEFAULT") {
            return Ok(None);
        }
        let span = self.span();
        match self.number("DEFAULT or a number of logins in a second")? {
            rate if rate <= LOGINS_PER_SECOND_MAX => Ok(Some(rate)),
            _ => Err(SyntaxError::new(span, format!("MAX_LOGIN_RATE needs at most {LOGINS_PER_SECOND_MAX}"))
                .of_kind(ErrorKind::Value)),
        }
    }

    /// `'30s'`, `0` or DEFAULT; `None`: the process's setting applies.
    fn timeout(&mut self, timeout: Timeout) -> Result<Option<Duration>, SyntaxError> {
        if self.accept("DEFAULT") {
            return Ok(None);
        }
        let span = self.span();
        let time = match self.number::<u64>("no limit") {
            Ok(0) => Duration::ZERO,
            Ok(_) => {
                return Err(SyntaxError::new(span, "a duration needs a unit")
                    .with_hint("Write a number with its unit: '500ms', '2s'. 0 is no limit.")
                    .of_kind(ErrorKind::Value));
            }
            Err(_) => self.duration("DEFAULT, 0 or a duration")?,
        };
        let refused = |rest| SyntaxError::new(span, format!("{} {rest}", timeout.clause()));
        timeout.check(time).map_err(|rest| refused(rest).of_kind(ErrorKind::Value))?;
        Ok(Some(time))
    }

    fn sslmode(&mut self) -> Result<SslMode, SyntaxError> {
        const MODES: &str = "disable, prefer, require, verify-ca or verify-full";
        let expected = self.expected(MODES);
        let (mode, _) = self.text_or_identifier(MODES)?;
        SslMode::parse(&mode).ok_or(expected)
    }

    fn server_auth(&mut self) -> Result<ServerAuth, SyntaxError> {
        const METHODS: &str = "scram, md5 or password";
        let expected = self.expected(METHODS);
        let (method, _) = self.text_or_identifier(METHODS)?;
        ServerAuth::parse(&method).ok_or(expected)
    }
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
