//! A server connection that is ready for a query, and the few exchanges of Freehold itself on it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::answers::{Answers, Reply, ResultSet, replies_to};
use super::{Parameters, QueryError};
use crate::tls::Stream;
use crate::wire::Violation;
use crate::wire::message::backend::{self, tag};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX, TransactionStatus, frontend};

const READ_BYTES: usize = 16 * 1024;

/// Between exchanges a server sends little: a notice, a setting that was changed in its files, a final error.
const UNASKED_BYTES_MAX: usize = 64 * 1024;

/// Limit for notices and notifications during one exchange, which are kept for the client.
const ASYNCHRONOUS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Time that a server gets to accept the Terminate message.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// A connection to PostgreSQL, logged in.
///
/// The relay uses `stream` directly. Between two transactions [`ServerConnection::query`] and
/// [`ServerConnection::run`] run an exchange of their own; they must start and end at a boundary.
///
/// An exchange that does not reach its end, whether by an error or because it is dropped, closes `stream`:
/// otherwise the next to use it would take the rest of its answers for their own.
#[derive(Debug)]
pub struct ServerConnection {
    pub stream: Stream,
    /// Process id of the backend; 0 if the server gave none.
    pub pid: i32,
    /// A secret. Empty if the server gave none: then nothing can be cancelled.
    pub cancel_key: Bytes,
    /// The settings that the server reported during the login or an exchange here.
    pub parameters: Parameters,
    /// Received, not yet read.
    unread: BytesMut,
    /// Whole notices and notifications that arrived during other reads.
    asynchronous: BytesMut,
    status: TransactionStatus,
}

/// An exchange of Freehold's own on a connection. Dropped before [`OwnExchange::end`], it closes the
/// connection.
#[derive(Debug)]
pub struct OwnExchange<'c> {
    connection: &'c mut ServerConnection,
    is_answered: bool,
}

impl OwnExchange<'_> {
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.connection.stream
    }

    /// Every request was answered, and every answer was read.
    pub fn end(mut self) {
        self.is_answered = true;
    }
}

impl Drop for OwnExchange<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.stream = Stream::Closed;
            self.connection.unread = BytesMut::new();
        }
    }
}

/// A connection taken apart.
#[derive(Debug)]
pub struct ConnectionParts {
    pub stream: Stream,
    pub pid: i32,
    pub cancel_key: Bytes,
    pub parameters: Parameters,
    /// Whole notices and notifications for the client; they came before `unread`.
    pub asynchronous: Bytes,
    /// Received, not yet read; may end inside a message.
    pub unread: BytesMut,
}

impl ServerConnection {
    pub(super) fn new(
        stream: Stream,
        pid: i32,
        cancel_key: Bytes,
        parameters: Parameters,
        unread: BytesMut,
        asynchronous: BytesMut,
    ) -> ServerConnection {
        let status = TransactionStatus::Idle;
        ServerConnection { stream, pid, cancel_key, parameters, unread, asynchronous, status }
    }

    /// A placeholder while a client has no server connection: `parameters` are those that it knows.
    pub fn absent(parameters: Parameters) -> ServerConnection {
        let nothing = BytesMut::new;
        ServerConnection::new(Stream::Absent, 0, Bytes::new(), parameters, nothing(), nothing())
    }

    /// Takes the connection, and leaves an absent one in its place.
    pub fn take(self: &mut Box<ServerConnection>) -> Box<ServerConnection> {
        let absent = ServerConnection::absent(self.parameters.clone());
        std::mem::replace(self, Box::new(absent))
    }

    pub fn is_absent(&self) -> bool {
        matches!(self.stream, Stream::Absent)
    }

    /// An exchange was broken off.
    pub fn is_closed(&self) -> bool {
        matches!(self.stream, Stream::Closed)
    }

    /// Begins an exchange of Freehold's own; between two exchanges only.
    pub fn begin_exchange(&mut self) -> OwnExchange<'_> {
        OwnExchange { connection: self, is_answered: false }
    }

    /// The value of a setting that the server last reported.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.value(name)
    }

    /// The status after the last exchange here.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Runs SQL by the simple protocol, on a replication connection as well. Fails with the first error.
    ///
    /// COPY TO STDOUT works, and its data is dropped; COPY FROM STDIN and streams of replication are
    /// unexpected here.
    ///
    /// # Cancel safety
    /// None: a dropped exchange closes the connection, and every later one is [`QueryError::Abandoned`]. So
    /// does an error, unless it is one that the server answered with.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<ResultSet>, QueryError> {
        let mut batch = BytesMut::new();
        frontend::query(&mut batch, sql);
        self.run(&batch).await
    }

    /// Sends Queries, or messages of the extended protocol with a Sync after each sequence, and reads until
    /// the last of them is answered. Fails with the first error; later parts were executed all the same.
    ///
    /// # Cancel safety
    /// None, see [`ServerConnection::query`].
    pub async fn run(&mut self, batch: &[u8]) -> Result<Vec<ResultSet>, QueryError> {
        let mut results = Vec::new();
        for reply in self.run_each(batch).await? {
            if let Some(fields) = reply.error {
                return Err(QueryError::server(fields));
            }
            results.extend(reply.results);
        }
        Ok(results)
    }

    /// Like [`ServerConnection::run`], with a [`Reply`] for each Sync and Query: an error of one ends only
    /// that one.
    ///
    /// # Cancel safety
    /// None, see [`ServerConnection::query`].
    pub async fn run_each(&mut self, batch: &[u8]) -> Result<Vec<Reply>, QueryError> {
        if self.is_closed() {
            return Err(QueryError::Abandoned);
        }
        let mut answers = Answers::expecting(replies_to(batch)?);
        let exchange = self.begin_exchange();
        let mut outbox = Outbox { unsent: BytesMut::from(batch), state: Sending::Unsent };
        while !answers.complete() {
            let connection = &mut *exchange.connection;
            if let Some(message) = connection.take_message(&mut answers)? {
                connection.read_message(&message, &mut answers)?;
                continue;
            }
            match connection.transfer(&mut outbox).await {
                Ok(0) => return Err(answers.ended()),
                Ok(_) => {}
                Err(source) => return Err(answers.broke(source)),
            }
        }
        exchange.end();
        answers.into_replies()
    }

    /// Bytes or messages were received that have not been taken.
    #[inline]
    pub fn has_received(&self) -> bool {
        !self.asynchronous.is_empty() || !self.unread.is_empty()
    }

    /// The whole notices and notifications received since the last call.
    pub fn take_async_messages(&mut self) -> Bytes {
        std::mem::take(&mut self.asynchronous).freeze()
    }

    /// Bytes received and not read yet; may end inside a message.
    pub fn take_unread(&mut self) -> BytesMut {
        match self.unread.is_empty() {
            true => BytesMut::new(),
            false => self.unread.split(),
        }
    }

    /// Puts bytes from `stream` before everything that is still to be read.
    pub fn put_back(&mut self, received: &[u8]) {
        let later = self.unread.split();
        self.unread.extend_from_slice(received);
        self.unread.unsplit(later);
    }

    pub fn into_parts(self) -> ConnectionParts {
        ConnectionParts {
            stream: self.stream,
            pid: self.pid,
            cancel_key: self.cancel_key,
            parameters: self.parameters,
            asynchronous: self.asynchronous.freeze(),
            unread: self.unread,
        }
    }

    /// Whether the server is still there, as far as is known without a query: reads and keeps what it has
    /// sent. A server that sends unrequested answers, or sends without end, counts as dead. Only between two
    /// exchanges.
    pub fn is_alive(&mut self) -> bool {
        if self.unread.is_empty() && !self.stream.may_be_readable() {
            return true;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            // Small: this runs each time the connection is taken from the pool.
            let mut chunk = [0; 256];
            let mut chunk = ReadBuf::new(&mut chunk);
            if self.unread.len() > UNASKED_BYTES_MAX {
                return false;
            }
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut chunk) {
                Poll::Pending => return self.unread_is_unasked(),
                Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                    self.unread.extend_from_slice(chunk.filled());
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Between exchanges a server sends an error only before it closes the connection. Any other answer would
    /// be taken for that of the next query.
    fn unread_is_unasked(&self) -> bool {
        let mut rest = &self.unread[..];
        loop {
            match Header::parse(rest, UNASKED_BYTES_MAX) {
                Ok(None) => return true,
                Ok(Some(header)) if is_asynchronous(header.tag) => {
                    rest = rest.get(header.message_bytes()..).unwrap_or_default();
                }
                _ => return false,
            }
        }
    }

    /// Sends Terminate and closes. Errors are ignored: the connection is gone in any case.
    pub async fn terminate(mut self) {
        let _ = tokio::time::timeout(FAREWELL_MAX, self.say_goodbye()).await;
    }

    /// The same, and waits until the server has closed its side: its backend is gone then, or nearly so.
    pub async fn terminate_fully(mut self) {
        let goodbye = async {
            self.say_goodbye().await?;
            while self.stream.read(&mut [0; 1024]).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(FAREWELL_MAX, goodbye).await;
    }

    async fn say_goodbye(&mut self) -> io::Result<()> {
        let mut last = BytesMut::new();
        frontend::terminate(&mut last);
        self.stream.write_all(&last).await?;
        self.stream.shutdown().await
    }

    /// Takes the next whole message out of `unread`.
    fn take_message(&mut self, answers: &mut Answers) -> Result<Option<Bytes>, QueryError> {
        let protocol = |source| QueryError::Protocol { source };
        let Some(header) = Header::parse(&self.unread, MESSAGE_BYTES_MAX).map_err(protocol)? else {
            return Ok(None);
        };
        answers.make_room(header.message_bytes())?;
        if self.unread.remaining() < header.message_bytes() {
            return Ok(None);
        }
        answers.bytes += header.message_bytes();
        Ok(Some(self.unread.split_to(header.message_bytes()).freeze()))
    }

    fn read_message(&mut self, message: &Bytes, answers: &mut Answers) -> Result<(), QueryError> {
        let tag = message.first().copied().unwrap_or_default();
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        let protocol = |source| QueryError::Protocol { source };
        match tag {
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => self.keep_asynchronous(message)?,
            tag::PARAMETER_STATUS => match backend::parse_parameter_status(body) {
                Ok((name, value)) => self.parameters.set(name, value).map_err(protocol)?,
                // A setting in another encoding, such as application_name: the client must still get it.
                Err(Violation::NotUtf8 { .. }) => self.keep_asynchronous(message)?,
                Err(source) => return Err(protocol(source)),
            },
            tag::READY_FOR_QUERY => {
                self.status = backend::parse_ready_for_query(body).map_err(protocol)?;
                answers.next_reply();
            }
            tag => answers.read(tag, body)?,
        }
        Ok(())
    }

    fn keep_asynchronous(&mut self, message: &[u8]) -> Result<(), QueryError> {
        if self.asynchronous.len() + message.len() > ASYNCHRONOUS_BYTES_MAX {
            return Err(QueryError::TooLarge { bytes_max: ASYNCHRONOUS_BYTES_MAX });
        }
        self.asynchronous.extend_from_slice(message);
        Ok(())
    }

    /// Sends and receives as much as possible now, and waits for at least something. Returns the number of
    /// bytes received; 0 is the end. Does both at once, because a server that cannot send its answers stops
    /// reading.
    async fn transfer(&mut self, outbox: &mut Outbox) -> io::Result<usize> {
        poll_fn(|cx| {
            outbox.poll_send(Pin::new(&mut self.stream), cx);
            let mut chunk = [0; READ_BYTES];
            let mut chunk = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.stream).poll_read(cx, &mut chunk) {
                Poll::Ready(Ok(())) => {
                    self.unread.extend_from_slice(chunk.filled());
                    Poll::Ready(Ok(chunk.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Messages that a server may send at any time.
fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Unsent,
    /// Written, perhaps not flushed: TLS keeps records that the socket did not accept.
    Unflushed,
    Done,
}

/// Bytes still to be sent.
struct Outbox {
    unsent: BytesMut,
    state: Sending,
}

impl Outbox {
    /// A failure to send is not reported here: the server's last messages are still to be read, and the read
    /// fails next.
    fn poll_send(&mut self, mut stream: Pin<&mut Stream>, cx: &mut Context<'_>) {
        while self.state == Sending::Unsent {
            if self.unsent.is_empty() {
                self.state = Sending::Unflushed;
                break;
            }
            match stream.as_mut().poll_write(cx, &self.unsent) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) if count > 0 => self.unsent.advance(count),
                Poll::Ready(_) => self.state = Sending::Done,
            }
        }
        if self.state == Sending::Unflushed && stream.poll_flush(cx).is_ready() {
            self.state = Sending::Done;
        }
    }
}
