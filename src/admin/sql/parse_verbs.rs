//! The productions of PgBouncer's commands.

use crate::admin::parser::Parser;
use crate::admin::statement::{Drain, ShutdownMode, Statement};
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::DatabaseName;

impl Parser {
    /// Parses what follows the verb.
    pub(in crate::admin) fn process_verb(&mut self, verb: &str) -> Result<Statement, SyntaxError> {
        Ok(match verb {
            "PAUSE" => Statement::Pause(self.drain()?),
            "RESUME" => Statement::Resume(self.optional_database()?),
            "DISABLE" => Statement::Disable(self.named_database()?),
            "ENABLE" => Statement::Enable(self.named_database()?),
            "RECONNECT" => Statement::Reconnect(self.optional_database()?),
            "WAIT_CLOSE" => Statement::WaitClose(self.drain()?),
            "KILL" => Statement::Kill(self.optional_database()?),
            "KILL_CLIENT" => Statement::KillClient(self.number("the id of a client")?),
            "SUSPEND" => return Err(self.suspend()),
            _ => Statement::Shutdown(self.shutdown_mode()?),
        })
    }

    fn drain(&mut self) -> Result<Drain, SyntaxError> {
        let database = match self.word().as_deref() {
            Some("WITHIN") => None,
            _ => self.optional_database()?,
        };
        let within = match self.accept("WITHIN") {
            true => Some(self.duration("a duration")?),
            false => None,
        };
        Ok(Drain { database, within })
    }

    fn shutdown_mode(&mut self) -> Result<ShutdownMode, SyntaxError> {
        if self.at_end_of_statement() {
            return Ok(ShutdownMode::Now);
        }
        match self.one_of(&["WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"])? {
            "WAIT_FOR_CLIENTS" => Ok(ShutdownMode::WaitForClients),
            _ => Ok(ShutdownMode::WaitForServers),
        }
    }

    /// PgBouncer's SUSPEND was the first half of handing its sockets to another process.
    fn suspend(&self) -> SyntaxError {
        SyntaxError::new(self.span(), "a process cannot be suspended")
            .with_hint("PAUSE; holds clients between transactions.")
            .of_kind(ErrorKind::Unsupported)
    }

    fn optional_database(&mut self) -> Result<Option<DatabaseName>, SyntaxError> {
        match self.at_end_of_statement() {
            true => Ok(None),
            false => self.named_database().map(Some),
        }
    }

    /// `[DATABASE] name`; a database may itself be named "database".
    fn named_database(&mut self) -> Result<DatabaseName, SyntaxError> {
        if self.word_ahead(1).is_some() {
            self.accept("DATABASE");
        }
        self.database()
    }
}
