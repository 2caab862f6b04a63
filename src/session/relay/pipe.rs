//! The two ends of a direction: bytes that were read and not yet taken, bytes that are to be sent and not yet
//! gone.
//!
//! Owns every read and write of the relay, so that another kind of IO has one place to be added.
//!
//! # Why
//! Both are empty while nothing is stuck: a read goes into the worker's scratch buffer and from there to the
//! other side within one poll. Only bytes that the other side does not take, or an incomplete message, get
//! memory of their own, which is freed afterwards. That is at most one scratch buffer in each direction,
//! because nothing is read while something is stuck.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use crate::tls::Stream;
use crate::wire::frame::Walker;

/// What arrives from one side.
#[derive(Debug, Default)]
pub(in crate::session) struct Inbox {
    pub(in crate::session) walker: Walker,
    /// Bytes that were read and not taken: an incomplete message, or one that must wait.
    pub(in crate::session) kept: BytesMut,
    /// `kept` came by another way than [`Inbox::poll_fill`], and has not been searched for messages.
    pub(in crate::session) unseen: bool,
    /// The other side sends nothing more.
    pub(in crate::session) ended: bool,
    /// The session will be woken when there is something to read, and has not read since that was arranged.
    will_wake: bool,
}

impl Inbox {
    /// Reads behind the bytes that were kept. Ready with how many bytes lie at the front of `scratch`; 0 is
    /// the end.
    ///
    /// A read that does not fill the buffer is not followed by another before the socket says that there is
    /// more.
    pub(in crate::session) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.will_wake && !stream.may_be_readable() {
            return Poll::Pending;
        }
        let kept = self.kept.len();
        let polled = stream.poll_receive(cx, scratch.get_mut(kept..).unwrap_or_default());
        // A task that has used up its budget gets Pending, too, and is woken for that alone.
        self.will_wake = polled.is_pending() && stream.will_wake(cx);
        let read = ready!(polled)?;
        if read == 0 {
            self.ended = true;
            return Poll::Ready(Ok(0));
        }
        if kept > 0 {
            scratch[..kept].copy_from_slice(&self.kept);
            self.kept = BytesMut::new();
        }
        Poll::Ready(Ok(kept + read))
    }

    /// Arranges to be woken for more, after everything was read. `false`: there may be something to read now.
    #[inline]
    pub(in crate::session) fn rests(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> bool {
        self.will_wake = self.will_wake || stream.will_wake(cx);
        self.will_wake
    }

    /// Lends the bytes that have come to a caller that takes from them and may read more behind them. The
    /// rest is searched afterwards, and the session no longer knows whether it will be woken for more.
    pub(in crate::session) fn lend(&mut self) -> &mut BytesMut {
        self.unseen = true;
        self.will_wake = false;
        &mut self.kept
    }

    /// Keeps the bytes that were not taken.
    pub(in crate::session) fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.kept = BytesMut::from(rest);
        }
    }

    /// Begins with bytes that were read before, and are searched when they are asked for.
    pub(in crate::session) fn keeping(kept: BytesMut) -> Inbox {
        Inbox { kept, ..Inbox::default() }
    }

    /// Begins with bytes that were read by other code.
    pub(in crate::session) fn beginning_with(received: BytesMut) -> Inbox {
        Inbox { unseen: !received.is_empty(), kept: received, ..Inbox::default() }
    }

    /// The bytes that have not been searched; once.
    pub(in crate::session) fn take_unseen(&mut self) -> Option<BytesMut> {
        std::mem::take(&mut self.unseen).then(|| std::mem::take(&mut self.kept))
    }

    /// No message has been taken in part, and none waits in part.
    pub(in crate::session) fn is_between_messages(&self) -> bool {
        self.walker.is_between_messages()
    }
}

/// What is sent for a stretch of requests in which some are replaced: nothing is copied if none is.
#[derive(Debug, Default)]
pub(in crate::session) struct Outgoing {
    altered: BytesMut,
    /// How much of the stretch has been copied or replaced.
    copied: usize,
}

impl Outgoing {
    /// `replacement` goes out in place of the bytes at `at`; stretches come in their order.
    pub(in crate::session) fn replace(
        &mut self,
        bytes: &[u8],
        at: std::ops::Range<usize>,
        replacement: &[u8],
    ) {
        if self.copied == 0 {
            // Names on the server are often longer than the client's.
            self.altered.reserve(bytes.len() + replacement.len());
        }
        self.altered.extend_from_slice(&bytes[self.copied..at.start]);
        self.altered.extend_from_slice(replacement);
        self.copied = at.end;
    }

    /// All of it; `bytes` is the whole stretch.
    pub(in crate::session) fn finish<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.copied == 0 {
            return bytes;
        }
        self.altered.extend_from_slice(&bytes[self.copied..]);
        &self.altered
    }
}

/// What goes to one side.
#[derive(Debug, Default)]
pub(in crate::session) struct Outbox {
    unsent: BytesMut,
    /// Written, perhaps not flushed: TLS keeps records that the socket did not take.
    unflushed: bool,
}

impl Outbox {
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && !self.unflushed
    }

    /// Sends as much as can be sent now and keeps the rest.
    pub(in crate::session) fn send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        while self.unsent.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) if written == bytes.len() && !stream.is_tls() => return Ok(()),
                Poll::Ready(written) => bytes = &bytes[written..],
                Poll::Pending => break,
            }
            if bytes.is_empty() {
                break;
            }
        }
        self.unsent.extend_from_slice(bytes);
        self.unflushed |= stream.is_tls();
        match self.poll_drain(cx, stream) {
            Poll::Ready(drained) => drained,
            Poll::Pending => Ok(()),
        }
    }

    /// Appends a message of our own, behind everything else.
    pub(in crate::session) fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// The bytes that were to be sent next.
    pub(in crate::session) fn into_unsent(self) -> BytesMut {
        self.unsent
    }

    /// Ready when everything has been handed to the socket.
    #[inline]
    pub(in crate::session) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<()>> {
        match self.is_empty() {
            true => Poll::Ready(Ok(())),
            false => self.poll_unsent(cx, stream),
        }
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.unsent.split_to(written)),
            }
        }
        self.unsent = BytesMut::new();
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::event_loop;
    use crate::tls::Socket;

    /// More than a session may transfer in one turn, byte by byte.
    const MANY: usize = 1000;

    #[test]
    fn a_session_is_woken_for_what_comes_after_somebody_else_has_read() {
        let (mut peer, own) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let received = event_loop::run(
            async {
                let mut stream = Stream::from(Socket::unix(own).unwrap());
                let (mut inbox, mut scratch) = (Inbox::default(), [0; 64]);
                poll_fn(|cx| {
                    assert!(inbox.poll_fill(cx, &mut stream, &mut scratch).is_pending());
                    Poll::Ready(())
                })
                .await;
                peer.write_all(b"for somebody else").unwrap();
                poll_fn(|cx| stream.poll_receive(cx, &mut scratch)).await.unwrap();
                inbox.lend();
                inbox.take_unseen();
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    peer.write_all(b"later").unwrap();
                });
                poll_fn(|cx| inbox.poll_fill(cx, &mut stream, &mut scratch)).await.unwrap()
            },
            || (),
        );
        assert_eq!(received.unwrap(), 5);
    }

    #[test]
    fn a_session_that_has_used_up_its_turn_is_woken_for_what_is_there_and_for_what_comes_later() {
        let (mut peer, own) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        peer.write_all(&[b'x'; MANY]).unwrap();
        let received = event_loop::run(
            async {
                let mut stream = Stream::from(Socket::unix(own).unwrap());
                let (mut inbox, mut scratch, mut turns) = (Inbox::default(), [0; 1], 0);
                let mut received = 0;
                poll_fn(|cx| {
                    turns += 1;
                    while let Poll::Ready(filled) = inbox.poll_fill(cx, &mut stream, &mut scratch) {
                        received += filled.unwrap();
                        if received == MANY {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Pending
                })
                .await;
                assert!(turns > 1, "its turn did not end");
                std::thread::spawn(move || peer.write_all(b"later").unwrap());
                let mut scratch = [0; 64];
                poll_fn(|cx| inbox.poll_fill(cx, &mut stream, &mut scratch)).await.unwrap()
            },
            || (),
        );
        assert_eq!(received.unwrap(), 5);
    }
}
