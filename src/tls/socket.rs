//! Reading and writing a socket without TLS, with as little around the system call as can be.
//!
//! # Why
//! Most of a query's cost is its four system calls; what is around them counts. These are made without the C library's
//! points of cancellation, which take two atomic writes each in a process of several threads, and a socket is asked
//! before anybody registers to be woken.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;

/// What both kinds of sockets can do.
pub(super) trait Socket: AsFd {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Calls `act` unless it is known that it would block; from then on that is known if it says so.
    fn try_io<R>(&self, interest: Interest, act: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    /// As far as is known, without a system call.
    fn is_readable(&self) -> bool {
        self.try_io(Interest::READABLE, || Ok(())).is_ok()
    }
}

macro_rules! socket {
    ($($kind:ty),*) => {$(
        impl Socket for $kind {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn try_io<R>(&self, interest: Interest, act: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, act)
            }
        }
    )*};
}

socket!(TcpStream, UnixStream);

/// As [`AsyncRead::poll_read`](tokio::io::AsyncRead::poll_read).
pub(super) fn poll_read(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let received = ready!(poll_receive(socket, cx, buffer.initialize_unfilled()))?;
    buffer.advance(received);
    Poll::Ready(Ok(()))
}

/// How many bytes have come; 0 is the end.
pub(super) fn poll_receive(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    free: &mut [u8],
) -> Poll<io::Result<usize>> {
    poll_transfer(socket, cx, Interest::READABLE, free.len(), || {
        let (_, bytes) = rustix::net::recv(socket, &mut *free, RecvFlags::empty())?;
        Ok(bytes)
    })
}

/// `true`: nothing is there to be read, as far as is known, and the task is woken when something comes.
pub(super) fn will_wake(socket: &impl Socket, cx: &mut Context<'_>) -> bool {
    // A task that has used up its turn is told to wait as well, and is woken for that alone.
    socket.poll_read_ready(cx).is_pending() && coop::has_budget_remaining()
}

/// As [`AsyncWrite::poll_write`](tokio::io::AsyncWrite::poll_write).
pub(super) fn poll_send(socket: &impl Socket, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_transfer(socket, cx, Interest::WRITABLE, bytes.len(), || {
        Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
    })
}

/// Ready with how many of `wanted` bytes `call` has transferred.
#[inline]
fn poll_transfer(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    interest: Interest,
    wanted: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let turn = ready!(coop::poll_proceed(cx));
        if let Some(bytes) = transfer(socket, interest, wanted, &mut call)? {
            turn.made_progress();
            return Poll::Ready(Ok(bytes));
        }
        // Gives the turn back: with none left, nobody would be registered.
        drop(turn);
        ready!(match interest.is_readable() {
            true => socket.poll_read_ready(cx),
            false => socket.poll_write_ready(cx),
        })?;
    }
}

/// How many of `wanted` bytes `call` has transferred. `None`: the socket has to become ready first.
fn transfer(
    socket: &impl Socket,
    interest: Interest,
    wanted: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    let mut transferred = None;
    let outcome = socket.try_io(interest, || {
        let bytes = call()?;
        transferred = Some(bytes);
        // Less than wanted is all there is or fits: the next call would block, and need not be made to find out.
        if (1..wanted).contains(&bytes) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match outcome {
        Err(error) if transferred.is_none() && error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(transferred),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tls::Stream;

    /// More than a socket takes at once.
    const MANY: usize = 8 << 20;

    fn pair() -> (Stream, Stream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Stream::from(one), Stream::from(other))
    }

    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
    }

    #[tokio::test]
    async fn what_one_end_writes_the_other_reads_however_much_it_is() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..MANY).map(|at| (at % 251) as u8).collect();
        let mut received = Vec::new();
        let write = async {
            one.write_all(&sent).await.unwrap();
            one.shutdown().await.unwrap();
        };
        in_time(async { tokio::join!(write, other.read_to_end(&mut received)) }).await.1.unwrap();
        assert!(received == sent);
    }

    #[tokio::test]
    async fn who_has_read_all_is_woken_by_what_comes_later() {
        let (mut one, mut other) = pair();
        let mut buffer = [0; 64];
        for round in 0..100_u8 {
            let later = async {
                tokio::task::yield_now().await;
                one.write_all(&[round]).await.unwrap();
            };
            let (read, ()) = in_time(async { tokio::join!(other.read(&mut buffer), later) }).await;
            assert_eq!((read.unwrap(), buffer[0]), (1, round));
            assert!(!other.may_be_readable());
        }
    }

    #[tokio::test]
    async fn nobody_reads_for_ever_without_giving_others_a_turn() {
        let (mut one, mut other) = pair();
        one.write_all(&[0; 4096]).await.unwrap();
        // More than a task may do in one turn; there would be more to read all the time.
        let reads = async {
            for _ in 0..1000 {
                other.read_u8().await.unwrap();
            }
        };
        let mut reads = std::pin::pin!(reads);
        let finished = std::future::poll_fn(|cx| Poll::Ready(reads.as_mut().poll(cx).is_ready())).await;
        assert!(!finished);
        in_time(reads).await;
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_is_an_end_to_who_reads_and_an_error_to_who_writes() {
        let (one, mut other) = pair();
        drop(one);
        assert_eq!(in_time(other.read(&mut [0; 8])).await.unwrap(), 0);
        let error = in_time(other.write_all(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
