//! Copies rows from one system to another: COPY TO on one side, COPY FROM on the other, and the bytes between
//! them.
//!
//! Two connections of Freehold's own wire code. The rows are not parsed: CopyData messages are taken out of
//! their frames, merged into large ones and written. Only one buffer in each direction is kept, so a slow
//! target slows the source down.
//!
//! # Why
//! The driver passes each row through a channel and a task. Here a row costs a header that is read and a copy
//! of its bytes; and the target, which has the most to do, gets a message for 64 KiB instead of one for each
//! row.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::backend::{self, Credential, QueryError, ServerConnection};
use crate::model::{RoleName, SystemName, SystemRecord};
use crate::wire::Violation;
use crate::wire::message::backend::{ErrorFields, tag};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX, frontend};

use super::SystemError;
use super::access::{CONNECTING, SystemAccess};
use super::session::{Setup, UNLIMITED, without_event_triggers};

const COPYING: &str = "copying rows";
const READ_BYTES: usize = 128 << 10;
/// Limit for other messages than rows: an error contains the row that it is about.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Size of a message to the target, without its header.
const CHUNK_BYTES: usize = 64 << 10;

/// A session of the platform over Freehold's own wire code, for operations that the driver does not support.
#[derive(Debug)]
pub struct RawSession {
    connection: ServerConnection,
    system: SystemName,
}

impl RawSession {
    /// Connects with the settings of every session of the platform, followed by `startup`.
    pub async fn connect(
        access: &SystemAccess,
        system: &SystemRecord,
        dbname: &str,
        startup: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<RawSession, SystemError> {
        let started = Instant::now();
        let startup = Setup::Fixed.startup(without_event_triggers(system), startup);
        let connection = access.connect(system, dbname, startup, deadline).await?;
        RawSession::opened(connection, system, started, deadline).await
    }

    /// Connects as another role, with its password and these settings.
    pub async fn connect_as(
        access: &SystemAccess,
        system: &SystemRecord,
        dbname: &str,
        login: (&RoleName, &Zeroizing<String>),
        (setup, startup): (Setup, &[(&str, &str)]),
        deadline: Instant,
    ) -> Result<RawSession, SystemError> {
        let started = Instant::now();
        let (role, password) = login;
        let credential = Credential::Password(password.clone());
        let startup = setup.startup("", startup);
        let connection = access.connect_as(system, dbname, (role, credential), startup, deadline).await?;
        RawSession::opened(connection, system, started, deadline).await
    }

    async fn opened(
        connection: ServerConnection,
        system: &SystemRecord,
        started: Instant,
        deadline: Instant,
    ) -> Result<RawSession, SystemError> {
        let mut session = RawSession { connection, system: system.name.clone() };
        let late = |_| SystemError::Timeout {
            system: system.name.clone(),
            operation: CONNECTING,
            waited: started.elapsed(),
        };
        timeout_at(deadline, session.query(CONNECTING, UNLIMITED)).await.map_err(late)??;
        Ok(session)
    }

    /// Runs SQL by the simple protocol.
    pub async fn query(
        &mut self,
        operation: &'static str,
        sql: &str,
    ) -> Result<Vec<backend::ResultSet>, SystemError> {
        let answer = Box::pin(self.connection.query(sql)).await;
        answer.map_err(|error| SystemError::from_query(&self.system, operation, error))
    }

    /// The process id of the server's backend.
    pub fn pid(&self) -> i32 {
        self.connection.pid
    }

    /// The last ParameterStatus value of a setting.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.connection.parameter(name)
    }

    /// Sends a COPY and waits for the start of copy mode, message `answer` (CopyOutResponse, CopyInResponse).
    async fn begin_copy(&mut self, sql: &str, answer: u8) -> Result<BytesMut, SystemError> {
        let mut sent = BytesMut::new();
        frontend::query(&mut sent, sql);
        let unread = self.connection.take_unread();
        let (stream, system) = (&mut self.connection.stream, &self.system);
        stream.write_all(&sent).await.map_err(|source| broken(system, source))?;
        stream.flush().await.map_err(|source| broken(system, source))?;
        let mut reader = Reader { from: stream, unread, system };
        loop {
            let (tag, body) = reader.message().await?;
            match tag {
                tag if tag == answer => return Ok(reader.unread),
                tag::ERROR_RESPONSE => return Err(refused(system, &body)),
                tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => {}
                tag => return Err(unexpected(system, tag)),
            }
        }
    }
}

/// Copies the output of `from_sql` (COPY ... TO STDOUT) on one side to `into_sql` (COPY ... FROM STDIN) on
/// the other, in the current transactions of the two sessions. `moved` gets the bytes and rows as they are
/// copied, and returns how long to rest. After an error neither session is usable.
///
/// # Cancel safety
/// None: drop both sessions with the future.
pub async fn copy(
    from: &mut RawSession,
    from_sql: &str,
    into: &mut RawSession,
    into_sql: &str,
    moved: impl FnMut(usize, u64) -> Duration,
) -> Result<(), SystemError> {
    let into_unread = into.begin_copy(into_sql, tag::COPY_IN_RESPONSE).await?;
    let from_unread = from.begin_copy(from_sql, tag::COPY_OUT_RESPONSE).await?;
    let (answers, rows) = tokio::io::split(&mut into.connection.stream);
    let answers = Reader { from: answers, unread: into_unread, system: &into.system };
    let source = Reader { from: &mut from.connection.stream, unread: from_unread, system: &from.system };
    let target = Writer { into: rows, chunk: empty_chunk(), rows: 0, moved, system: &into.system };
    // The target's answers are read while it is written to: it may refuse a row long before the last one.
    let ((), ()) = tokio::try_join!(Box::pin(pump(source, target)), Box::pin(until_ready(answers)))?;
    Ok(())
}

/// Moves CopyData until CopyDone, then reads the source to its ReadyForQuery.
async fn pump<R: AsyncRead + Unpin, W: AsyncWrite + Unpin, F: FnMut(usize, u64) -> Duration>(
    mut source: Reader<'_, R>,
    mut target: Writer<'_, W, F>,
) -> Result<(), SystemError> {
    loop {
        let header = source.header().await?;
        if header.tag == tag::COPY_DATA {
            source.unread.advance(HEADER_BYTES);
            target.rows += 1;
            let mut left = header.body_bytes;
            while left > 0 {
                if source.unread.is_empty() {
                    source.fill().await?;
                }
                let room = CHUNK_BYTES + HEADER_BYTES - target.chunk.len();
                let now = left.min(source.unread.len()).min(room);
                target.chunk.extend_from_slice(source.unread.get(..now).unwrap_or_default());
                source.unread.advance(now);
                left -= now;
                if now == room {
                    target.send().await?;
                }
            }
            continue;
        }
        let (tag, body) = source.message().await?;
        match tag {
            tag::COPY_DONE => target.finish().await?,
            tag::READY_FOR_QUERY => return Ok(()),
            tag::ERROR_RESPONSE => return Err(refused(source.system, &body)),
            _ => {}
        }
    }
}

/// Reads to ReadyForQuery; returns an error received before it.
async fn until_ready<R: AsyncRead + Unpin>(mut answers: Reader<'_, R>) -> Result<(), SystemError> {
    loop {
        let (tag, body) = answers.message().await?;
        match tag {
            tag::READY_FOR_QUERY => return Ok(()),
            tag::ERROR_RESPONSE => return Err(refused(answers.system, &body)),
            _ => {}
        }
    }
}

struct Reader<'a, R> {
    from: R,
    unread: BytesMut,
    system: &'a SystemName,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn fill(&mut self) -> Result<(), SystemError> {
        self.unread.reserve(READ_BYTES);
        match self.from.read_buf(&mut self.unread).await {
            Ok(0) => Err(SystemError::from_query(self.system, COPYING, QueryError::Closed)),
            Ok(_) => Ok(()),
            Err(source) => Err(broken(self.system, source)),
        }
    }

    /// The header at the front of the buffer, which stays there.
    async fn header(&mut self) -> Result<Header, SystemError> {
        loop {
            let parsed = Header::parse(&self.unread, MESSAGE_BYTES_MAX);
            let violated =
                |source| SystemError::from_query(self.system, COPYING, QueryError::Protocol { source });
            match parsed.map_err(violated)? {
                Some(header) => return Ok(header),
                None => self.fill().await?,
            }
        }
    }

    /// The whole message at the front.
    async fn message(&mut self) -> Result<(u8, BytesMut), SystemError> {
        let header = self.header().await?;
        if header.body_bytes > BODY_BYTES_MAX {
            let source = Violation::Length { what: "message", length: header.message_bytes() as i64 };
            return Err(SystemError::from_query(self.system, COPYING, QueryError::Protocol { source }));
        }
        while self.unread.len() < header.message_bytes() {
            self.fill().await?;
        }
        self.unread.advance(HEADER_BYTES);
        Ok((header.tag, self.unread.split_to(header.body_bytes)))
    }
}

struct Writer<'a, W, F> {
    into: W,
    /// The CopyData message that is being filled, with room for its header.
    chunk: BytesMut,
    /// Rows that begin in it.
    rows: u64,
    moved: F,
    system: &'a SystemName,
}

fn empty_chunk() -> BytesMut {
    let mut chunk = BytesMut::with_capacity(HEADER_BYTES + CHUNK_BYTES);
    chunk.extend_from_slice(&[0; HEADER_BYTES]);
    chunk
}

impl<W: AsyncWrite + Unpin, F: FnMut(usize, u64) -> Duration> Writer<'_, W, F> {
    /// Writes the chunk as one message, if there is anything in it.
    async fn send(&mut self) -> Result<(), SystemError> {
        let bytes = self.chunk.len() - HEADER_BYTES;
        if bytes > 0 {
            let length = u32::try_from(bytes + 4).unwrap_or(u32::MAX).to_be_bytes();
            if let Some(header) = self.chunk.first_chunk_mut::<HEADER_BYTES>() {
                *header = [frontend::tag::COPY_DATA, length[0], length[1], length[2], length[3]];
            }
            self.write_chunk().await;
            self.chunk.truncate(HEADER_BYTES);
        }
        let rest = (self.moved)(bytes, std::mem::take(&mut self.rows));
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SystemError> {
        self.send().await?;
        self.chunk.clear();
        frontend::copy_done(&mut self.chunk);
        self.write_chunk().await;
        self.into.flush().await.map_err(|source| broken(self.system, source))
    }

    async fn write_chunk(&mut self) {
        if self.into.write_all(&self.chunk).await.is_err() {
            // The target's answer or the end of its connection has the reason; both are being read.
            std::future::pending::<()>().await;
        }
    }
}

fn broken(system: &SystemName, source: io::Error) -> SystemError {
    SystemError::from_query(system, COPYING, QueryError::Io { source })
}

fn refused(system: &SystemName, body: &[u8]) -> SystemError {
    match ErrorFields::parse(body) {
        Ok(fields) => SystemError::refused(system.clone(), COPYING, &fields),
        Err(source) => SystemError::from_query(system, COPYING, QueryError::Protocol { source }),
    }
}

fn unexpected(system: &SystemName, tag: u8) -> SystemError {
    SystemError::from_query(system, COPYING, QueryError::Unexpected { tag })
}
