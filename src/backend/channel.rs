//! Whole messages from and to a server during a login.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ConnectError;
use crate::model::Address;
use crate::tls::Stream;
use crate::wire::Violation;
use crate::wire::message::{HEADER_BYTES, Header};

/// No message of a login is longer; PostgreSQL's longest is an ErrorResponse.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A login that needs more than this is rejected.
const LOGIN_BYTES_MAX: usize = 1024 * 1024;

/// A stream that is read message by message.
pub(super) struct Channel {
    pub(super) stream: Stream,
    /// Received, not yet read.
    pub(super) unread: BytesMut,
    pub(super) address: Address,
    taken_bytes: usize,
}

pub(super) struct Message {
    pub(super) tag: u8,
    /// Including the header.
    pub(super) bytes: Bytes,
}

impl Message {
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

impl Channel {
    pub(super) fn new(stream: Stream, address: Address) -> Channel {
        Channel { stream, unread: BytesMut::new(), address, taken_bytes: 0 }
    }

    pub(super) fn broken(&self, source: io::Error) -> ConnectError {
        ConnectError::Broken { address: self.address.clone(), source }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let sent = match self.stream.write_all(bytes).await {
            Ok(()) => self.stream.flush().await,
            Err(error) => Err(error),
        };
        sent.map_err(|source| self.broken(source))
    }

    /// The next message. Cancel-safe: what was received stays in `unread`.
    pub(super) async fn receive(&mut self) -> Result<Message, ConnectError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Message>, ConnectError> {
        let protocol = |source| ConnectError::Protocol { address: self.address.clone(), source };
        let Some(header) = Header::parse(&self.unread, BODY_BYTES_MAX).map_err(protocol)? else {
            return Ok(None);
        };
        let taken_bytes = self.taken_bytes + header.message_bytes();
        if taken_bytes > LOGIN_BYTES_MAX {
            return Err(protocol(Violation::Length { what: "login", length: taken_bytes as i64 }));
        }
        if self.unread.remaining() < header.message_bytes() {
            return Ok(None);
        }
        self.taken_bytes = taken_bytes;
        let bytes = self.unread.split_to(header.message_bytes()).freeze();
        Ok(Some(Message { tag: header.tag, bytes }))
    }
}
