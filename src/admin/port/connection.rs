//! An administrator's connection: reads and bounds messages, and gives them to pgwire.
//!
//! Owns the socket after the login: `frontend` has done TLS, the startup packet and the password, so that no
//! byte from before a handshake is taken for one behind it. From then on pgwire has the protocol
//! ([`process_message`] with its codec), and `queries` the answers.
//!
//! # Why messages are checked before pgwire decodes them
//! Its decoders trust counts: they read behind the end of a message that is shorter than it says, into the
//! next one, and panic at the end of the buffer. They replace what is no UTF-8, so two names can become one.
//! They allow a gigabyte for a Query before any of it has come. So each message is cut out by its header,
//! whose length is bounded first, and its body is checked by `wire`; pgwire gets what is whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::SinkExt as _;
use pgwire::api::{ClientInfo as _, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{BackendKeyData, ParameterStatus, SecretKey};
use pgwire::messages::{PgWireBackendMessage as Reply, PgWireFrontendMessage as Message};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::{AsyncReadExt as _, Empty, Join, ReadHalf, WriteHalf, empty, join, split};
use tokio::time::sleep;
use tokio_util::codec::{Decoder as _, Framed};
use tokio_util::sync::CancellationToken;

use crate::admin::driver_queries::SERVER_VERSION;
use crate::admin::parse::{Parsed, TEXT_BYTES_MAX};
use crate::admin::port::connections::{AdminConnection, Connections};
use crate::admin::port::directory::Origin;
use crate::admin::port::places::AdminPlace;
use crate::admin::port::queries::{Queries, explained, refused};
use crate::error::{Explain as _, Refusal, Severity, SqlState};
use crate::frontend::Administrator;
use crate::tls::Stream;
use crate::wire::Violation;
use crate::wire::message::{HEADER_BYTES, Header, frontend};

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;
/// Answers are sent in pieces of this size, in bytes.
const SEND_BYTES: usize = 64 * 1024;

/// The client's side of the connection as pgwire sees it. It never reads: `MessageReader` does.
type Client = Framed<Join<Empty, WriteHalf<Stream>>, PgWireMessageServerCodec<Parsed>>;

/// Serves an administrator until one of the two ends the connection.
pub(in crate::admin) async fn serve(
    administrator: Administrator,
    origin: Origin,
    place: Result<AdminPlace, Refusal>,
    connections: &Arc<Connections>,
) -> io::Result<()> {
    let Administrator { stream, early, address, name, application_name } = administrator;
    let mut state = DefaultClient::new(address, !matches!(stream, Stream::Plain(_)));
    state.state = PgWireConnectionState::ReadyForQuery;
    let (reading, writing) = split(stream);
    let mut client = Framed::new(join(empty(), writing), PgWireMessageServerCodec::new(state));
    client.set_backpressure_boundary(SEND_BYTES);
    let place = match place {
        Ok(place) => place,
        Err(full) => return end_with_error(&mut client, &full).await,
    };
    let connection = connections.register(place);
    complete_startup(&mut client, &name, &application_name, &connection).await?;
    let by = (name, Some(address.ip()));
    let queries = Queries::new(by, origin, connection, connections.executor.clone());
    let mut connection = Connection {
        reader: MessageReader { reading, unread: early },
        client,
        queries: Arc::new(queries),
        absent: Arc::new(NoopHandler),
        closing: connections.closing.clone(),
        idle_time_max: connections.idle_time_max,
    };
    connection.run().await
}

async fn complete_startup(
    client: &mut Client,
    name: &str,
    application_name: &str,
    connection: &AdminConnection,
) -> io::Result<()> {
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
        let status = ParameterStatus::new(parameter.to_owned(), value.to_owned());
        client.feed(Reply::ParameterStatus(status)).await?;
    }
    let key = BackendKeyData::new(connection.pid, SecretKey::Bytes(connection.key.clone()));
    client.feed(Reply::BackendKeyData(key)).await?;
    client.send(Reply::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle))).await
}

/// Ends the connection with an error.
async fn end_with_error(client: &mut Client, refusal: &Refusal) -> io::Result<()> {
    process_error(client, refused(refusal), true).await
}

/// What to do after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

struct Connection {
    reader: MessageReader,
    client: Client,
    queries: Arc<Queries>,
    /// Stands for what `frontend` has done (login, cancel requests) and for COPY.
    absent: Arc<NoopHandler>,
    closing: CancellationToken,
    idle_time_max: Duration,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let message = tokio::select! {
                message = self.reader.message() => message?,
                () = self.closing.cancelled() => {
                    let reason = Refusal::fatal(SqlState::ADMIN_SHUTDOWN, "the admin port is shutting down");
                    return end_with_error(&mut self.client, &reason).await;
                }
                () = sleep(self.idle_time_max) => match self.queries.ends_when_idle().await {
                    Some(reason) => return end_with_error(&mut self.client, &reason).await,
                    None => continue,
                },
            };
            let Some(message) = message else { return Ok(()) };
            let next = match message {
                Ok((tag, message)) => self.take(tag, message).await?,
                Err(violation) => {
                    end_with_error(&mut self.client, &violation.refusal(Severity::Fatal)).await?;
                    Next::End
                }
            };
            if next == Next::End {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, tag: u8, message: BytesMut) -> io::Result<Next> {
        use frontend::tag;
        if tag == tag::TERMINATE {
            return Ok(Next::End);
        }
        // As pgwire does, but before the body is looked at: PostgreSQL skips what it cannot read, too.
        if matches!(self.client.state(), PgWireConnectionState::AwaitingSync) && tag != tag::SYNC {
            return Ok(Next::Go);
        }
        let outcome = match self.decode(tag, message) {
            Ok(message) => self.process(message).await?,
            Err(refusal) => Err(refused(&refusal)),
        };
        match outcome {
            Ok(()) => Ok(Next::Go),
            Err(PgWireError::IoError(error)) => Err(error),
            Err(error) => self.refuse(error, tag != tag::QUERY).await,
        }
    }

    /// pgwire's ReadyForQuery after a failed simple query leaves the portals of the transaction.
    async fn refuse(&mut self, error: PgWireError, is_extended: bool) -> io::Result<Next> {
        let next = if error.is_fatal() { Next::End } else { Next::Go };
        process_error(&mut self.client, explained(error), is_extended).await?;
        self.queries.end_portals(&self.client);
        Ok(next)
    }

    fn decode(&mut self, tag: u8, mut message: BytesMut) -> Result<Message, Refusal> {
        check(tag, message.get(HEADER_BYTES..).unwrap_or_default())?;
        match self.client.codec_mut().decode(&mut message) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Refusal::fatal(SqlState::PROTOCOL_VIOLATION, "a message was not whole")),
            Err(error) => Err(Refusal::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())),
        }
    }

    /// Lets pgwire answer a message. Meanwhile reads on: only so is it known that the client has left.
    async fn process(&mut self, message: Message) -> io::Result<PgWireResult<()>> {
        let Connection { reader, client, queries, absent, .. } = self;
        let work = process_message(
            message,
            client,
            Arc::clone(absent),
            Arc::clone(queries),
            Arc::clone(queries),
            Arc::clone(absent),
            Arc::clone(absent),
        );
        let mut work = Box::pin(work);
        loop {
            // The work is polled to its end in every case; reading loses nothing when dropped.
            tokio::select! {
                biased;
                outcome = &mut work => break match queries.gone.is_cancelled() {
                    false => Ok(outcome),
                    true => Err(io::ErrorKind::UnexpectedEof.into()),
                },
                read = reader.read(), if !queries.gone.is_cancelled() && reader.has_room() => {
                    if !matches!(read, Ok(1..)) {
                        queries.gone.cancel();
                    }
                }
            }
        }
    }
}

/// What the client has sent and pgwire has not got.
struct MessageReader {
    reading: ReadHalf<Stream>,
    unread: BytesMut,
}

impl MessageReader {
    fn has_room(&self) -> bool {
        self.unread.len() < MESSAGE_BYTES_MAX
    }

    /// Cancel-safe. 0: the client is gone.
    async fn read(&mut self) -> io::Result<usize> {
        self.reading.read_buf(&mut self.unread).await
    }

    /// The next message with its header; None: the client is gone. Fails with 08P01 if it is too long, before
    /// its body has come.
    ///
    /// Cancel-safe: what was read stays.
    async fn message(&mut self) -> io::Result<Option<Result<(u8, BytesMut), Violation>>> {
        loop {
            match header(&self.unread) {
                Ok(Some(header)) if self.unread.len() >= header.message_bytes() => {
                    let message = self.unread.split_to(header.message_bytes());
                    return Ok(Some(Ok((header.tag, message))));
                }
                Ok(_) => {}
                Err(violation) => return Ok(Some(Err(violation))),
            }
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The bound is this port's own, and PostgreSQL's for messages that have only names in them.
fn header(unread: &[u8]) -> Result<Option<Header>, Violation> {
    let most = unread.first().map_or(0, |tag| frontend::body_bytes_max(*tag));
    Header::parse(unread, most.min(MESSAGE_BYTES_MAX))
}

/// Whether pgwire can decode this body as it is meant.
fn check(tag: u8, body: &[u8]) -> Result<(), Refusal> {
    use frontend::tag;
    let broken = |violation: Violation| violation.refusal(Severity::Error);
    match tag {
        tag::QUERY => check_text(frontend::parse_query(body).map_err(broken)?),
        tag::PARSE => {
            let parse = frontend::parse_parse(body).map_err(broken)?;
            check_text(parse.sql)?;
            check_name(parse.statement)
        }
        tag::BIND => {
            frontend::parse_bind_result_formats(body).map_err(broken)?;
            let names = frontend::parse_bind_names(body).map_err(broken)?;
            check_name(names.statement)?;
            check_name(names.portal)
        }
        tag::DESCRIBE | tag::CLOSE => check_name(frontend::parse_target(body).map_err(broken)?.1),
        tag::EXECUTE => check_name(frontend::parse_execute(body).map_err(broken)?.0),
        tag::SYNC | tag::FLUSH => Ok(()),
        // pgwire ignores them as PostgreSQL does: a client may send them before it has read that COPY failed.
        tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
        // Not among pgwire's messages.
        tag::FUNCTION_CALL => {
            Err(Refusal::error(SqlState::FEATURE_NOT_SUPPORTED, "there are no functions here"))
        }
        // pgwire ignores a password after the login.
        _ => {
            Err(Refusal::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {tag}")))
        }
    }
}

fn check_text(text: &[u8]) -> Result<(), Refusal> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::error(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence for encoding \"UTF8\"",
        )),
    }
}

/// A name of a statement or a portal.
fn check_name(name: &[u8]) -> Result<(), Refusal> {
    // pgwire keeps what has no name under this one.
    if name == pgwire::api::DEFAULT_NAME.as_bytes() {
        let text = format!("the name \"{}\" is reserved", pgwire::api::DEFAULT_NAME);
        return Err(Refusal::error(SqlState::INVALID_NAME, text));
    }
    check_text(name)
}
