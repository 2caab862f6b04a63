//! What pgwire calls for the messages of an administrator: statements, portals, answers.
//!
//! No statement has parameters; rows come in the formats that a Bind asks for.
//!
//! # Transactions
//! Commands take effect at once. BEGIN, COMMIT and ROLLBACK change only the status that ReadyForQuery
//! reports, because drivers that wrap everything in a transaction read it. Portals live until the end of the
//! transaction, because drivers fetch from them in parts.
//!
//! # Why not all of pgwire's own flow
//! Its trait methods are overridden where they differ from PostgreSQL or from what a command needs:
//! - `on_query` runs all statements before it sends the first answer. An answer may hold a password that is
//!   shown once, and the next command may take long, and fail: each answer is sent when it is there.
//! - `on_execute` runs a command that has no rows again each time its portal is executed, reserves memory for
//!   as many rows as an Execute asks for (an Int32, a negative one as a huge number), and ends every
//!   CommandComplete with a number of rows.
//! - `on_sync` ends the unnamed portal within a transaction, and no portal at the end of one.
//! - `on_parse`, `on_bind` and `on_close` know no bound for the number of names, and flush each answer.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{Sink, SinkExt as _, Stream as _, StreamExt as _};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldInfo, QueryResponse, Response};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage as Reply;
use pgwire::messages::data::RowDescription;
use pgwire::messages::extendedquery as extended;
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::simplequery::Query;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::answer::Answer;
use crate::admin::column::Column;
use crate::admin::context::Caller;
use crate::admin::error::AdminError;
use crate::admin::execute::Executor;
use crate::admin::lookup::command;
use crate::admin::parse::{Parsed, parse};
use crate::admin::permit::CommandPermit;
use crate::admin::port::connections::AdminConnection;
use crate::admin::port::directory::{Directory, Origin};
use crate::admin::port::row_encoding::{check_formats, fields, response};
use crate::admin::statement::{DriverQuery, Statement};
use crate::error::{Explain as _, Refusal, Severity, SqlState};
use crate::model::UnixMillis;

/// Prepared statements of one connection, and also its portals.
const NAMES_MAX: usize = 1_000;
/// Notices that are queued for the client.
const NOTICES_MAX: usize = 64;

/// The requests of one administrator.
pub(in crate::admin) struct Queries {
    pub(in crate::admin) name: String,
    pub(in crate::admin) address: Option<IpAddr>,
    origin: Mutex<Origin>,
    pub(in crate::admin) connection: AdminConnection,
    pub(in crate::admin) executor: Executor,
    directory: Directory,
    /// Cancelled when the client is gone: a wait ends then, and no further statement begins.
    pub(in crate::admin) gone: CancellationToken,
    statements: Count,
    portals: Count,
}

/// How many names a connection has given. pgwire's store does not say.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Count {
    fn check(&self) -> PgWireResult<()> {
        match self.0.load(Ordering::Relaxed) < NAMES_MAX {
            true => Ok(()),
            false => Err(refused(&Refusal::error(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("more than {NAMES_MAX} prepared statements or portals"),
            ))),
        }
    }

    /// Before a name is stored: `replaced` is what it stood for.
    fn add<T>(&self, replaced: Option<&T>) {
        self.0.fetch_add(usize::from(replaced.is_none()), Ordering::Relaxed);
    }

    /// Before a name is removed.
    fn subtract<T>(&self, removed: Option<&T>) {
        self.0.fetch_sub(usize::from(removed.is_some()), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Queries {
    pub(in crate::admin) fn new(
        (name, address): (String, Option<IpAddr>),
        origin: Origin,
        connection: AdminConnection,
        executor: Executor,
    ) -> Queries {
        Queries {
            name,
            address,
            origin: Mutex::new(origin),
            connection,
            directory: executor.directory(),
            executor,
            gone: CancellationToken::new(),
            statements: Count::default(),
            portals: Count::default(),
        }
    }

    fn origin(&self) -> Origin {
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change of a password on this connection: one of the user's own is the one that counts now.
    fn note_password(&self, statement: &Statement, changed_at: Option<UnixMillis>) {
        let is_own = matches!(statement, Statement::AlterUser(user) if user.name.as_str() == self.name);
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, Some(now), Origin::Catalogue { password_changed_at, .. }) =
            (is_own, changed_at, &mut *origin)
        {
            *password_changed_at = now;
        }
    }

    /// Why the connection ends that has been idle for its time; `None`: it may go on. It takes a place, and
    /// one of the platform's team may wait for work on it.
    pub(in crate::admin) async fn ends_when_idle(&self) -> Option<Refusal> {
        match self.directory.rights(&self.name, self.origin()).await {
            Ok(rights) if rights.is_of_product() => {
                let idle = "terminating connection: it was idle for too long";
                let reason = Refusal::fatal(SqlState::IDLE_SESSION_TIMEOUT, idle);
                Some(reason.with_hint("Connect again for the next command."))
            }
            Ok(_) => None,
            // The store did not answer: the next command says so.
            Err(refusal) => (refusal.severity == Severity::Fatal).then_some(refusal),
        }
    }

    /// Portals end with their transaction. See "Extended Query" in the chapter "Frontend/Backend Protocol".
    pub(in crate::admin) fn end_portals<C>(&self, client: &C)
    where
        C: ClientInfo + ClientPortalStore,
        C::PortalStore: PortalStore,
    {
        if client.transaction_status() == TransactionStatus::Idle {
            client.portal_store().clear_portals();
            self.portals.clear();
        }
    }

    fn close_portal<C>(&self, client: &C, name: &str)
    where
        C: ClientPortalStore,
        C::PortalStore: PortalStore,
    {
        let store = client.portal_store();
        self.portals.subtract(store.get_portal(name).as_ref());
        store.rm_portal(name);
    }

    /// Runs a statement to its end. Meanwhile the client gets notices, and a wait ends if the client leaves.
    async fn run<C>(&self, client: &mut C, parsed: &Parsed) -> PgWireResult<Answer>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let rights = self.directory.rights(&self.name, self.origin()).await;
        let rights = rights.map_err(|refusal| refused(&refusal))?;
        if let Some(outcome) = self.transaction(client, &parsed.statement) {
            return outcome;
        }
        let (notices, mut incoming) = mpsc::channel(NOTICES_MAX);
        let caller = Caller {
            who: self.name.clone(),
            address: self.address,
            rights,
            notices,
            cancel: self.connection.next_wait(),
            trail: None,
            permit: CommandPermit::default(),
        };
        let mut work = Box::pin(self.executor.execute(parsed, &caller));
        let outcome = loop {
            // The work is polled to its end in every case; receiving loses nothing when dropped.
            tokio::select! {
                biased;
                Some(notice) = incoming.recv(), if !self.gone.is_cancelled() => {
                    if client.send(Reply::NoticeResponse(notice_of(&notice))).await.is_err() {
                        self.gone.cancel();
                    }
                }
                () = self.gone.cancelled(), if !caller.cancel.is_cancelled() => caller.cancel.cancel(),
                outcome = &mut work => break outcome,
            }
        };
        drop(work);
        if let Ok(answer) = &outcome {
            self.note_password(&parsed.statement, answer.password_changed_at);
        }
        if self.gone.is_cancelled() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        while let Ok(notice) = incoming.try_recv() {
            client.feed(Reply::NoticeResponse(notice_of(&notice))).await?;
        }
        outcome.map_err(|refusal| refused(&refusal))
    }

    /// BEGIN and the like change only the status; in a failed transaction all other statements are refused.
    fn transaction<C>(&self, client: &mut C, statement: &Statement) -> Option<PgWireResult<Answer>>
    where
        C: ClientInfo + ClientPortalStore,
        C::PortalStore: PortalStore,
    {
        let ends = matches!(statement, Statement::DriverQuery(DriverQuery::Commit | DriverQuery::Rollback));
        let mends = matches!(statement, Statement::DriverQuery(DriverQuery::RollbackToSavepoint));
        let has_failed = client.transaction_status() == TransactionStatus::Error;
        if has_failed && !ends && !mends {
            return Some(Err(refused(&AdminError::TransactionAborted.refusal(Severity::Error))));
        }
        match statement {
            Statement::DriverQuery(DriverQuery::Begin) => {
                client.set_transaction_status(TransactionStatus::Transaction);
            }
            _ if mends && has_failed => client.set_transaction_status(TransactionStatus::Transaction),
            _ if ends => {
                client.set_transaction_status(TransactionStatus::Idle);
                self.end_portals(client);
            }
            _ => return None,
        }
        Some(Ok(Answer::done(command(statement))))
    }
}

#[async_trait]
impl SimpleQueryHandler for Queries {
    /// Runs the statements of a simple query in order, up to the first that fails.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let statements = statements_of(&query.query)?;
        if statements.is_empty() {
            client.feed(Reply::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for parsed in &statements {
            let answer = self.run(client, parsed).await?;
            let mut answer = response(answer, &Format::UnifiedText);
            if !answer.row_schema.is_empty() {
                let described = answer.row_schema.iter().map(Into::into).collect();
                client.feed(Reply::RowDescription(RowDescription::new(described))).await?;
            }
            send_rows(client, &mut answer, usize::MAX).await?;
            client.flush().await?;
        }
        self.end_portals(client);
        client.send(Reply::ReadyForQuery(ReadyForQuery::new(client.transaction_status()))).await?;
        Ok(())
    }

    /// All answers at once: `on_query` sends each when it is there.
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let mut responses = Vec::new();
        for parsed in &statements_of(query)? {
            let answer = self.run(client, parsed).await?;
            responses.push(Response::Query(response(answer, &Format::UnifiedText)));
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Parsed;
    type QueryParser = Commands;

    fn query_parser(&self) -> Arc<Commands> {
        Arc::new(Commands)
    }

    async fn on_parse<C>(&self, client: &mut C, mut message: extended::Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        // Types of parameters that are not there: pgwire would describe them.
        message.type_oids.clear();
        let parsed = StoredStatement::parse(client, &message, self.query_parser()).await?;
        self.statements.check()?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let store = client.portal_store();
        self.statements.add(store.get_statement(name).as_ref());
        match parsed {
            Some(statement) => store.put_statement(Arc::new(statement)),
            None => store.put_empty_statement(name),
        }
        client.feed(Reply::ParseComplete(extended::ParseComplete::new())).await?;
        Ok(())
    }

    async fn on_bind<C>(&self, client: &mut C, mut message: extended::Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        // Nothing reads them, and a portal would keep them.
        message.parameters.clear();
        let store = client.portal_store();
        let name = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let Some(entry) = store.get_statement(name) else {
            return Err(PgWireError::StatementNotFound(name.to_owned()));
        };
        let width = entry.value().map_or(0, |stored| columns(&stored.statement).len());
        check_formats(&message.result_column_format_codes, width).map_err(|refusal| refused(&refusal))?;
        self.portals.check()?;
        let name = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        self.portals.add(store.get_portal(name).as_ref());
        match entry {
            Entry::Value(statement) => store.put_portal(Arc::new(Portal::try_new(&message, statement)?)),
            Entry::Empty => store.put_empty_portal(name),
        }
        client.feed(Reply::BindComplete(extended::BindComplete::new())).await?;
        Ok(())
    }

    async fn on_execute<C>(&self, client: &mut C, message: extended::Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client.feed(Reply::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let rows_max = usize::try_from(message.max_rows).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
        let state = portal.state();
        let mut state = state.lock().await;
        if matches!(*state, PortalExecutionState::Initial) {
            match ExtendedQueryHandler::do_query(self, client, &portal, rows_max).await {
                Ok(Response::Query(answer)) => *state = PortalExecutionState::Suspended(answer),
                Ok(_) => {}
                Err(error) => {
                    // A portal whose command has failed cannot be executed again.
                    self.close_portal(client, name);
                    return Err(error);
                }
            }
        }
        // It stays suspended when its rows are all sent, so that its tag is there for another Execute.
        if let PortalExecutionState::Suspended(answer) = &mut *state {
            send_rows(client, answer, rows_max).await?;
        }
        Ok(())
    }

    async fn on_sync<C>(&self, client: &mut C, _message: extended::Sync) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        self.end_portals(client);
        client.send(Reply::ReadyForQuery(ReadyForQuery::new(client.transaction_status()))).await?;
        Ok(())
    }

    async fn on_close<C>(&self, client: &mut C, message: extended::Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match message.target_type {
            extended::TARGET_TYPE_BYTE_STATEMENT => {
                let store = client.portal_store();
                self.statements.subtract(store.get_statement(name).as_ref());
                store.rm_statement(name);
            }
            _ => self.close_portal(client, name),
        }
        client.feed(Reply::CloseComplete(extended::CloseComplete::new())).await?;
        Ok(())
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Parsed>,
        _rows_max: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<Reply> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Parsed>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<Reply>>::Error>,
    {
        let answer = self.run(client, &portal.statement.statement).await?;
        Ok(Response::Query(response(answer, &portal.result_column_format)))
    }
}

/// The language of commands, for pgwire.
#[derive(Debug)]
pub(in crate::admin) struct Commands;

#[async_trait]
impl QueryParser for Commands {
    type Statement = Parsed;

    async fn parse_sql<C>(
        &self,
        _client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Parsed>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut statements = statements_of(sql)?;
        if statements.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(refused(&Refusal::error(SqlState::SYNTAX_ERROR, text)));
        }
        Ok(statements.pop())
    }

    fn get_parameter_types(&self, _statement: &Parsed) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(&self, parsed: &Parsed, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(columns(parsed), format.unwrap_or(&Format::UnifiedText)))
    }
}

/// Sends up to so many rows; then PortalSuspended if there are more, else CommandComplete with the answer's
/// own tag.
async fn send_rows<C>(client: &mut C, answer: &mut QueryResponse, rows_max: usize) -> PgWireResult<()>
where
    C: Sink<Reply> + Unpin,
    PgWireError: From<<C as Sink<Reply>>::Error>,
{
    let mut sent = 0;
    while sent < rows_max
        && let Some(row) = answer.data_rows.next().await
    {
        client.feed(Reply::DataRow(row?)).await?;
        sent += 1;
    }
    let reply = match answer.data_rows.size_hint() {
        (0, Some(0)) => Reply::CommandComplete(CommandComplete::new(answer.command_tag.clone())),
        _ => Reply::PortalSuspended(extended::PortalSuspended::new()),
    };
    client.feed(reply).await?;
    Ok(())
}

/// Parses text into statements; an error has its position.
fn statements_of(sql: &str) -> PgWireResult<Vec<Parsed>> {
    parse(sql).map_err(|error| refused(&error.refusal(Severity::Error).at_position(error.position(sql))))
}

fn columns(parsed: &Parsed) -> &'static [Column] {
    command(&parsed.statement).columns
}

/// A refusal as pgwire sends it.
pub(in crate::admin) fn refused(refusal: &Refusal) -> PgWireError {
    PgWireError::UserError(Box::new(info(refusal)))
}

fn notice_of(refusal: &Refusal) -> NoticeResponse {
    info(refusal).into()
}

fn info(refusal: &Refusal) -> ErrorInfo {
    // A text ends at its first NUL on the other side; pgwire would send the rest as further fields.
    let text = |text: &str| text.split('\0').next().unwrap_or_default().to_owned();
    let severity = refusal.severity.as_str().to_owned();
    let mut info = ErrorInfo::new(severity.clone(), refusal.sqlstate.to_string(), text(&refusal.message));
    info.severity_nonlocalized = Some(severity);
    info.detail = refusal.detail.as_deref().map(text);
    info.hint = refusal.hint.as_deref().map(text);
    info.position = refusal.position.map(|position| position.to_string());
    info.where_context = refusal.responsible();
    info
}

/// Errors that pgwire makes itself get PostgreSQL's words; it has one SQLSTATE for statements and portals.
pub(in crate::admin) fn explained(error: PgWireError) -> PgWireError {
    let name = |name: &str| if name == DEFAULT_NAME { "" } else { name }.to_owned();
    match error {
        PgWireError::StatementNotFound(statement) => {
            let text = format!("prepared statement \"{}\" does not exist", name(&statement));
            refused(&Refusal::error(SqlState::parse("26000"), text))
        }
        PgWireError::PortalNotFound(portal) => {
            let text = format!("portal \"{}\" does not exist", name(&portal));
            refused(&Refusal::error(SqlState::parse("34000"), text))
        }
        other => other,
    }
}
