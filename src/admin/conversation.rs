//! An administrator's connection: simple and extended protocol over the [`Executor`](super::Executor).
//!
//! No statement has parameters; rows come in the formats that a Bind asks for.
//!
//! # Transactions
//! Commands take effect at once. BEGIN, COMMIT and ROLLBACK change only the status that ReadyForQuery
//! reports, because drivers that wrap everything in a transaction read it. Portals live until the end of the
//! transaction, because drivers fetch from them in parts.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::Answer;
use super::chatter::SERVER_VERSION;
use super::column::Column;
use super::execute::Caller;
use super::formats::Formats;
use super::lookup::command;
use super::parse::{Parsed, TEXT_BYTES_MAX, parse};
use super::refuse::AdminError;
use super::serve::{Seat, Shared};
use super::statement::{Chatter, Statement};
use super::users::Rights;
use crate::error::{Explain as _, Refusal, Severity, SqlState};
use crate::frontend::Administrator;
use crate::tls::Stream;
use crate::wire::message::{Header, Target, TransactionStatus, backend, frontend};

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;
/// Prepared statements of one connection, and also its portals.
const NAMES_MAX: usize = 1_000;
/// Notices that are queued for the client.
const NOTICES_MAX: usize = 64;
/// Answers are sent in pieces of this size, in bytes.
const SEND_BYTES: usize = 64 * 1024;

/// Serves an administrator until one of the two ends the connection.
pub(super) async fn hold(
    administrator: Administrator,
    rights: Rights,
    permit: Option<OwnedSemaphorePermit>,
    shared: &std::sync::Arc<Shared>,
) -> io::Result<()> {
    let Administrator { mut stream, early, name, application_name, .. } = administrator;
    let Some(permit) = permit else {
        let full = Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many connections to the admin port");
        return farewell(
            &mut stream,
            BytesMut::new(),
            &full.with_hint("admin.connections_max is the limit."),
        )
        .await;
    };
    let seat = shared.seat(permit);
    let mut out = BytesMut::new();
    greet(&mut out, &name, &application_name, &seat);
    let mut conversation = Conversation {
        stream,
        inbox: early,
        out,
        name,
        rights,
        seat,
        shared,
        statements: HashMap::new(),
        portals: HashMap::new(),
        status: TransactionStatus::Idle,
        flow: Flow::Normal,
    };
    conversation.send().await?;
    conversation.run().await
}

fn greet(out: &mut BytesMut, name: &str, application_name: &str, seat: &Seat) {
    let parameters = [
        ("server_version", SERVER_VERSION),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("is_superuser", "off"),
        ("session_authorization", name),
        ("application_name", application_name),
    ];
    for (parameter, value) in parameters {
        backend::parameter_status(out, parameter, value);
    }
    backend::backend_key_data(out, seat.pid, &seat.key);
    backend::ready_for_query(out, TransactionStatus::Idle);
}

async fn farewell(stream: &mut Stream, mut out: BytesMut, refusal: &Refusal) -> io::Result<()> {
    backend::error_response(&mut out, refusal);
    stream.write_all_buf(&mut out).await?;
    stream.shutdown().await
}

/// After an error in the extended protocol every message is skipped until Sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Normal,
    Skipping,
}

/// What to do after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

/// A bound statement, and its answer once it was executed: the rest of the rows can be fetched.
struct Portal {
    statement: Option<Parsed>,
    answer: Option<Answer>,
    formats: Formats,
    sent: usize,
}

struct Conversation<'a> {
    stream: Stream,
    inbox: BytesMut,
    out: BytesMut,
    name: String,
    rights: Rights,
    seat: Seat,
    shared: &'a std::sync::Arc<Shared>,
    /// None: an empty statement.
    statements: HashMap<Bytes, Option<Parsed>>,
    portals: HashMap<Bytes, Portal>,
    status: TransactionStatus,
    flow: Flow,
}

impl Conversation<'_> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let closing = self.shared.closing.clone();
            let message = tokio::select! {
                message = self.message() => message?,
                () = closing.cancelled() => {
                    let reason = Refusal::fatal(SqlState::ADMIN_SHUTDOWN, "the admin port is shutting down");
                    let out = std::mem::take(&mut self.out);
                    return farewell(&mut self.stream, out, &reason).await;
                }
            };
            let Some((tag, body)) = message else { return Ok(()) };
            if self.take(tag, &body).await? == Next::End {
                return Ok(());
            }
        }
    }

    /// The next message; None: the client is gone. Cancel-safe: what was read stays in the inbox.
    async fn message(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            match Header::parse(&self.inbox, MESSAGE_BYTES_MAX) {
                Ok(Some(header)) if self.inbox.len() >= header.message_bytes() => {
                    let mut message = self.inbox.split_to(header.message_bytes()).freeze();
                    message.advance(message.len() - header.body_bytes);
                    return Ok(Some((header.tag, message)));
                }
                Ok(_) => {}
                Err(violation) => {
                    let out = std::mem::take(&mut self.out);
                    farewell(&mut self.stream, out, &violation.refusal(Severity::Fatal)).await?;
                    return Ok(None);
                }
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn take(&mut self, tag: u8, body: &Bytes) -> io::Result<Next> {
        use frontend::tag;
        match tag {
            tag::TERMINATE => return Ok(Next::End),
            tag::SYNC => {
                self.flow = Flow::Normal;
                self.ready().await?;
            }
            _ if self.flow == Flow::Skipping => {}
            tag::QUERY => self.query(body).await?,
            tag::FLUSH => self.send().await?,
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            _ => {
                if let Err(refusal) = self.extended(tag, body).await? {
                    self.refuse(&refusal);
                    self.flow = Flow::Skipping;
                    if refusal.severity == Severity::Fatal {
                        self.send().await?;
                        return Ok(Next::End);
                    }
                }
            }
        }
        Ok(Next::Go)
    }

    /// Runs the statements of a simple query in order, up to the first that fails.
    async fn query(&mut self, body: &Bytes) -> io::Result<()> {
        match understood(frontend::parse_query(body).map_err(|v| v.refusal(Severity::Error))) {
            Err(refusal) => self.refuse(&refusal),
            Ok(statements) if statements.is_empty() => backend::empty_query_response(&mut self.out),
            Ok(statements) => {
                for parsed in &statements {
                    match self.execute(parsed).await? {
                        Ok(answer) => {
                            self.answer(&answer).await?;
                            // The answer may hold a password that is shown once; the next command may take
                            // long, and fail.
                            self.send().await?;
                        }
                        Err(refusal) => {
                            self.refuse(&refusal);
                            break;
                        }
                    }
                }
            }
        }
        self.ready().await
    }

    /// Portals end with their transaction. See "Extended Query" in the chapter "Frontend/Backend Protocol".
    async fn ready(&mut self) -> io::Result<()> {
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        backend::ready_for_query(&mut self.out, self.status);
        self.send().await
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        if !answer.columns.is_empty() {
            Formats::default().describe(&mut self.out, answer.columns);
        }
        self.rows(answer, &Formats::default(), 0..answer.rows.len()).await?;
        backend::command_complete(&mut self.out, &answer.tag);
        Ok(())
    }

    async fn rows(&mut self, answer: &Answer, formats: &Formats, range: Range<usize>) -> io::Result<()> {
        for row in answer.rows.get(range).unwrap_or_default() {
            formats.row(&mut self.out, answer.columns, row);
            if self.out.len() > SEND_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Handles a message of the extended protocol.
    async fn extended(&mut self, tag: u8, body: &Bytes) -> io::Result<Result<(), Refusal>> {
        use frontend::tag;
        Ok(match tag {
            tag::PARSE => self.on_parse(body),
            tag::BIND => self.on_bind(body),
            tag::DESCRIBE => self.on_describe(body),
            tag::CLOSE => self.on_close(body),
            tag::EXECUTE => return self.on_execute(body).await,
            tag::FUNCTION_CALL => {
                Err(Refusal::error(SqlState::FEATURE_NOT_SUPPORTED, "there are no functions here"))
            }
            _ => Err(Refusal::fatal(
                SqlState::PROTOCOL_VIOLATION,
                format!("invalid frontend message type {tag}"),
            )),
        })
    }

    fn on_parse(&mut self, body: &Bytes) -> Result<(), Refusal> {
        let message = frontend::parse_parse(body).map_err(|v| v.refusal(Severity::Error))?;
        let mut statements = understood(Ok(message.sql))?;
        if statements.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Refusal::error(SqlState::SYNTAX_ERROR, text));
        }
        bounded(self.statements.len())?;
        self.statements.insert(Bytes::copy_from_slice(message.statement), statements.pop());
        backend::parse_complete(&mut self.out);
        Ok(())
    }

    fn on_bind(&mut self, body: &Bytes) -> Result<(), Refusal> {
        let names = frontend::parse_bind_names(body).map_err(|v| v.refusal(Severity::Error))?;
        let statement = self.statement(names.statement)?.clone();
        let codes = frontend::parse_bind_result_formats(body).map_err(|v| v.refusal(Severity::Error))?;
        let formats = Formats::new(codes, columns(statement.as_ref()).len())?;
        bounded(self.portals.len())?;
        let portal = Portal { statement, answer: None, formats, sent: 0 };
        self.portals.insert(Bytes::copy_from_slice(names.portal), portal);
        backend::bind_complete(&mut self.out);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<Parsed>, Refusal> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Refusal::error(SqlState::parse("26000"), format!("prepared statement \"{name}\" does not exist"))
        })
    }

    fn on_describe(&mut self, body: &Bytes) -> Result<(), Refusal> {
        let (target, name) = frontend::parse_target(body).map_err(|v| v.refusal(Severity::Error))?;
        let text = Formats::default();
        let (columns, formats) = match target {
            Target::Statement => {
                let columns = columns(self.statement(name)?.as_ref());
                backend::parameter_description(&mut self.out, &[]);
                (columns, &text)
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (columns(portal.statement.as_ref()), &portal.formats)
            }
        };
        match columns.is_empty() {
            true => backend::no_data(&mut self.out),
            false => formats.describe(&mut self.out, columns),
        }
        Ok(())
    }

    fn on_close(&mut self, body: &Bytes) -> Result<(), Refusal> {
        let (target, name) = frontend::parse_target(body).map_err(|v| v.refusal(Severity::Error))?;
        match target {
            Target::Statement => drop(self.statements.remove(name)),
            Target::Portal => drop(self.portals.remove(name)),
        }
        backend::close_complete(&mut self.out);
        Ok(())
    }

    async fn on_execute(&mut self, body: &Bytes) -> io::Result<Result<(), Refusal>> {
        let (name, rows_max) = match frontend::parse_execute(body) {
            Ok(execute) => execute,
            Err(violation) => return Ok(Err(violation.refusal(Severity::Error))),
        };
        let Some(mut portal) = self.portals.remove(name) else { return Ok(Err(no_portal(name))) };
        let Some(parsed) = &portal.statement else {
            backend::empty_query_response(&mut self.out);
            return Ok(Ok(()));
        };
        let answer = match portal.answer.take() {
            Some(answer) => answer,
            None => match self.execute(parsed).await? {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        let left = answer.rows.len() - portal.sent;
        let count = usize::try_from(rows_max).ok().filter(|max| *max > 0).map_or(left, |max| max.min(left));
        self.rows(&answer, &portal.formats, portal.sent..portal.sent + count).await?;
        portal.sent += count;
        if portal.sent < answer.rows.len() {
            backend::portal_suspended(&mut self.out);
        } else {
            backend::command_complete(&mut self.out, &answer.tag);
        }
        portal.answer = Some(answer);
        self.portals.insert(Bytes::copy_from_slice(name), portal);
        Ok(Ok(()))
    }

    /// Runs a statement to its end. Meanwhile the client gets notices, and a wait ends if the client leaves.
    async fn execute(&mut self, parsed: &Parsed) -> io::Result<Result<Answer, Refusal>> {
        if let Some(outcome) = self.transaction(&parsed.statement) {
            return Ok(outcome);
        }
        let (notices, mut incoming) = mpsc::channel(NOTICES_MAX);
        let caller = Caller {
            who: self.name.clone(),
            rights: self.rights,
            notices,
            cancel: self.seat.next_wait(),
            trail: None,
        };
        let executor = self.shared.executor.clone();
        let mut work = Box::pin(executor.execute(parsed, &caller));
        let mut presence = Presence::Here;
        let outcome = loop {
            // The work is polled to its end in every case; reading and receiving lose nothing when dropped.
            tokio::select! {
                biased;
                Some(notice) = incoming.recv() => {
                    backend::notice_response(&mut self.out, &notice);
                    if presence == Presence::Here && send(&mut self.stream, &mut self.out).await.is_err() {
                        presence = Presence::Gone;
                        caller.cancel.cancel();
                    }
                }
                outcome = &mut work => break outcome,
                read = self.stream.read_buf(&mut self.inbox), if presence == Presence::Here && self.inbox.len() < MESSAGE_BYTES_MAX => {
                    if !matches!(read, Ok(1..)) {
                        presence = Presence::Gone;
                        caller.cancel.cancel();
                    }
                }
            }
        };
        drop(work);
        while let Ok(notice) = incoming.try_recv() {
            backend::notice_response(&mut self.out, &notice);
        }
        match presence {
            Presence::Here => Ok(outcome),
            Presence::Gone => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// BEGIN and the like change only the status; in a failed transaction all other statements are refused.
    fn transaction(&mut self, statement: &Statement) -> Option<Result<Answer, Refusal>> {
        let ends = matches!(statement, Statement::Chatter(Chatter::Commit | Chatter::Rollback));
        let mends = matches!(statement, Statement::Chatter(Chatter::RollbackToSavepoint));
        if self.status == TransactionStatus::Failed && !ends && !mends {
            return Some(Err(AdminError::TransactionAborted.refusal(Severity::Error)));
        }
        match statement {
            Statement::Chatter(Chatter::Begin) => self.status = TransactionStatus::InTransaction,
            _ if mends && self.status == TransactionStatus::Failed => {
                self.status = TransactionStatus::InTransaction;
            }
            _ if ends => {
                self.status = TransactionStatus::Idle;
                self.portals.clear();
            }
            _ => return None,
        }
        Some(Ok(Answer::done(command(statement))))
    }

    fn refuse(&mut self, refusal: &Refusal) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
        backend::error_response(&mut self.out, refusal);
    }

    async fn send(&mut self) -> io::Result<()> {
        send(&mut self.stream, &mut self.out).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Gone,
}

async fn send(stream: &mut Stream, out: &mut BytesMut) -> io::Result<()> {
    stream.write_all_buf(out).await?;
    stream.flush().await
}

/// Parses text into statements; an error has its position.
fn understood(sql: Result<&[u8], Refusal>) -> Result<Vec<Parsed>, Refusal> {
    let sql = std::str::from_utf8(sql?).map_err(|_| {
        Refusal::error(SqlState::parse("22021"), "invalid byte sequence for encoding \"UTF8\"")
    })?;
    parse(sql).map_err(|error| error.refusal(Severity::Error).at_position(error.position(sql)))
}

fn columns(parsed: Option<&Parsed>) -> &'static [Column] {
    parsed.map_or(&[], |parsed| command(&parsed.statement).columns)
}

fn no_portal(name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(name);
    Refusal::error(SqlState::parse("34000"), format!("portal \"{name}\" does not exist"))
}

fn bounded(count: usize) -> Result<(), Refusal> {
    match count < NAMES_MAX {
        true => Ok(()),
        false => Err(Refusal::error(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("more than {NAMES_MAX} prepared statements or portals"),
        )),
    }
}
