//! Limits how much a server can send in a session of the platform.
//!
//! # Why
//! The driver keeps what it receives: a message until it is complete, rows until the last, the name of each
//! reported setting. A compromised server would fill the memory of the process that every other database
//! depends on. So the stream is parsed message by message before the driver sees it, and fails when a limit
//! is exceeded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Violation;
use crate::wire::frame::{Piece, Walker};
use crate::wire::message::Header;
use crate::wire::message::backend::tag;

/// The longest answers hold a row for each table of a database.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit from one ReadyForQuery to the next.
const EXCHANGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Least memory that the driver uses for a message besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Limit for ParameterStatus messages in the whole life of a session.
const REPORTED_BYTES_MAX: usize = 1024 * 1024;

const READ_BYTES: usize = 16 * 1024;

/// A stream with limits; see the module.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    tally: Tally,
    /// Where the stream is read into; kept, because a new one is filled with zeros at each read.
    chunk: Box<[u8]>,
    /// Read, but not yet passed on.
    held: BytesMut,
    /// Number of bytes at its front that were checked.
    seen: usize,
}

/// Counts of what was received.
#[derive(Debug, Default)]
struct Tally {
    walker: Walker,
    exchange_bytes: usize,
    reported_bytes: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Bounded<S> {
        let chunk = vec![0; READ_BYTES].into();
        Bounded { stream, tally: Tally::default(), chunk, held: BytesMut::new(), seen: 0 }
    }
}

impl Tally {
    /// Checks new bytes, and returns how many may be passed on: all but the beginning of an incomplete
    /// header.
    fn look(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut seen = 0;
        while let Some(piece) = self.walker.next(bytes.get(seen..).unwrap_or_default(), |_| false)? {
            seen += piece.bytes.len();
            if piece.part.begins() {
                self.begin(&piece)?;
            }
        }
        Ok(seen)
    }

    fn begin(&mut self, piece: &Piece<'_>) -> Result<(), Violation> {
        let header = Header::parse(piece.bytes, MESSAGE_BYTES_MAX)?;
        let bytes = header.map_or(0, |header| header.message_bytes()) + MESSAGE_OVERHEAD_BYTES;
        self.exchange_bytes += bytes;
        match piece.tag {
            tag::READY_FOR_QUERY => self.exchange_bytes = 0,
            tag::PARAMETER_STATUS => self.reported_bytes += bytes,
            _ => {}
        }
        let too_much =
            |what, bytes| Violation::Length { what, length: i64::try_from(bytes).unwrap_or(i64::MAX) };
        if self.exchange_bytes > EXCHANGE_BYTES_MAX {
            return Err(too_much("an answer", self.exchange_bytes));
        }
        if self.reported_bytes > REPORTED_BYTES_MAX {
            return Err(too_much("the settings that a server reports", self.reported_bytes));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.seen == 0 {
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(chunk.filled());
            this.seen = this
                .tally
                .look(&this.held)
                .map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation))?;
        }
        let length = this.seen.min(out.remaining());
        out.put_slice(this.held.get(..length).unwrap_or_default());
        this.held.advance(length);
        this.seen -= length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn message(tag: u8, body_bytes: usize) -> Vec<u8> {
        let length = u32::try_from(body_bytes + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], &vec![b'x'; body_bytes]].concat()
    }

    /// What passes through; an error if a limit is exceeded.
    async fn through(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        Bounded::new(bytes).read_to_end(&mut read).await.map(|_| read)
    }

    #[tokio::test]
    async fn what_was_asked_for_comes_as_it_is() {
        let rows = [message(b'T', 100), message(b'D', 20_000).repeat(1000), message(b'Z', 1)].concat();
        let twice = rows.repeat(2);
        assert_eq!(through(&twice).await.unwrap(), twice, "each answer counts for itself");
    }

    #[tokio::test]
    async fn an_answer_without_an_end_ends_the_session() {
        let endless: [&[u8]; 5] = [
            b"D\x7f\xff\xff\xff",
            b"D\x01\x00\x00\x05",
            b"D\xff\xff\xff\xff",
            &message(b'D', 1 << 20).repeat(65),
            &message(b'N', 6).repeat(EXCHANGE_BYTES_MAX / MESSAGE_OVERHEAD_BYTES),
        ];
        for bytes in endless {
            assert!(through(bytes).await.is_err());
        }
    }

    #[tokio::test]
    async fn settings_that_are_reported_without_an_end_end_the_session_however_slowly_they_come() {
        let slowly = [message(b'S', 900), message(b'Z', 1)].concat();
        assert!(through(&slowly.repeat(900)).await.is_ok());
        assert!(through(&slowly.repeat(1100)).await.is_err());
    }
}
