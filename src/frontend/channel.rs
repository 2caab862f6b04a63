//! A client's socket during the login, read and written message by message; the relay comes later.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::FrontendError;
use crate::tls::Stream;
use crate::wire::message::Header;
use crate::wire::startup::{self, Opening};

/// The longest message that an unauthenticated client may send. SCRAM needs a few hundred bytes; PostgreSQL's
/// own limit is `PG_MAX_AUTH_TOKEN_LENGTH`.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// Buffer for a read: no message of an ordinary login is longer.
const READ_BYTES: usize = 1024;

/// Buffer for a write: the longest is the end of the login, with every ParameterStatus.
const WRITE_BYTES: usize = 1024;

/// A stream with the bytes that were read and not yet parsed. What is to be sent is built in `out`.
#[derive(Debug)]
pub(super) struct Channel {
    /// `None` during a handshake, and for good if the handshake failed.
    stream: Option<Stream>,
    pub(super) inbox: BytesMut,
    pub(super) out: BytesMut,
}

impl Channel {
    pub(super) fn new(stream: Stream) -> Channel {
        Channel {
            stream: Some(stream),
            inbox: BytesMut::with_capacity(READ_BYTES),
            out: BytesMut::with_capacity(WRITE_BYTES),
        }
    }

    pub(super) fn stream(&mut self) -> Result<&mut Stream, FrontendError> {
        self.stream.as_mut().ok_or(FrontendError::Gone)
    }

    pub(super) fn take_stream(&mut self) -> Result<Stream, FrontendError> {
        self.stream.take().ok_or(FrontendError::Gone)
    }

    /// Takes what the client sent without waiting. Leaves no buffer behind.
    pub(super) fn take_early(&mut self) -> BytesMut {
        match std::mem::take(&mut self.inbox) {
            nothing if nothing.is_empty() => BytesMut::new(),
            early => early,
        }
    }

    pub(super) fn put_stream(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    /// Whether the network could read the bytes. A Unix socket does not leave the machine.
    pub(super) fn is_exposed(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_exposed)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// The next packet without a type byte.
    pub(super) async fn opening(&mut self) -> Result<Opening, FrontendError> {
        loop {
            if let Some(opening) = startup::take(&mut self.inbox)? {
                return Ok(opening);
            }
            self.fill().await?;
        }
    }

    /// The next message: its type byte and its body.
    pub(super) async fn message(&mut self) -> Result<(u8, Bytes), FrontendError> {
        loop {
            if let Some(header) = Header::parse(&self.inbox, MESSAGE_BYTES_MAX)?
                && self.inbox.len() >= header.message_bytes()
            {
                let mut message = self.inbox.split_to(header.message_bytes()).freeze();
                message.advance(message.len() - header.body_bytes);
                return Ok((header.tag, message));
            }
            self.fill().await?;
        }
    }

    /// Sends what was built in `out`.
    pub(super) async fn send(&mut self) -> Result<(), FrontendError> {
        let stream = self.stream.as_mut().ok_or(FrontendError::Gone)?;
        stream.write_all_buf(&mut self.out).await?;
        stream.flush().await?;
        Ok(())
    }

    /// Sends `out` and shuts the connection down in order, so that the client can read to its end.
    pub(super) async fn close(mut self) -> Result<(), FrontendError> {
        self.send().await?;
        self.stream()?.shutdown().await?;
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), FrontendError> {
        let stream = self.stream.as_mut().ok_or(FrontendError::Gone)?;
        self.inbox.reserve(READ_BYTES);
        match stream.read_buf(&mut self.inbox).await? {
            0 => Err(FrontendError::Gone),
            _ => Ok(()),
        }
    }
}
