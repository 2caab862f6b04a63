//! A stream socket without TLS, with minimal overhead around its system calls.
//!
//! # Why
//! Most of a query's cost is its four system calls; the overhead around them matters. They are made without
//! the C library's cancellation points, which take two atomic writes each in a multi-threaded process, and a
//! transfer is tried before a waker is registered.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::coop;

use crate::event_loop::{self, Direction, More, Source};

/// Address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Tcp,
    Unix,
}

/// A connected socket, watched by the event loop of its thread, or by tokio's runtime if the thread has no
/// loop.
#[derive(Debug)]
pub struct Socket {
    family: Family,
    watched: Watched,
}

#[derive(Debug)]
enum Watched {
    Here(Source<OwnedFd>),
    ByRuntime(Box<OnRuntime>),
}

#[derive(Debug)]
enum OnRuntime {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    /// `tcp` must be non-blocking.
    ///
    /// # Panics
    /// On a thread with neither an event loop nor a runtime.
    pub fn tcp(tcp: TcpStream) -> io::Result<Socket> {
        match event_loop::is_here() {
            true => Socket::watch_here(tcp.into(), Family::Tcp),
            false => Ok(tokio::net::TcpStream::from_std(tcp)?.into()),
        }
    }

    /// As [`Socket::tcp`].
    pub fn unix(unix: UnixStream) -> io::Result<Socket> {
        match event_loop::is_here() {
            true => Socket::watch_here(unix.into(), Family::Unix),
            false => Ok(tokio::net::UnixStream::from_std(unix)?.into()),
        }
    }

    fn watch_here(fd: OwnedFd, family: Family) -> io::Result<Socket> {
        Ok(Socket { family, watched: Watched::Here(Source::new(fd)?) })
    }

    /// Connects to the first address of the host that answers. Fails with the error of the last one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn connect_tcp(host: &str, port: u16) -> io::Result<Socket> {
        let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        for address in tokio::net::lookup_host((host, port)).await? {
            outcome = Socket::connect(Domain::for_address(address), &address.into(), Family::Tcp).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// As [`Socket::connect_tcp`].
    pub async fn connect_unix(path: impl AsRef<Path>) -> io::Result<Socket> {
        Socket::connect(Domain::UNIX, &SockAddr::unix(path)?, Family::Unix).await
    }

    async fn connect(domain: Domain, address: &SockAddr, family: Family) -> io::Result<Socket> {
        let new = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        match new.connect(address) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let socket = match family {
            Family::Tcp => Socket::tcp(new.into())?,
            Family::Unix => Socket::unix(new.into())?,
        };
        poll_fn(|cx| socket.poll_connected(cx)).await?;
        Ok(socket)
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_transfer(cx, Direction::Write, usize::MAX, || {
            let socket = SockRef::from(self);
            match (socket.take_error()?, socket.peer_addr()) {
                (Some(error), _) => Err(error),
                (None, Ok(_)) => Ok(0),
                // It was reported writable before it began to connect.
                (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                (None, Err(error)) => Err(error),
            }
        })
        .map_ok(|_| ())
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// `None`: it is a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        SockRef::from(self).local_addr().ok()?.as_socket()
    }

    /// `None`: it is a unix socket, or no longer connected.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        SockRef::from(self).peer_addr().ok()?.as_socket()
    }

    /// Waits for at least one byte and copies the next bytes without taking them; returns their number, 0 at
    /// the end.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut peek = || {
            let (_, bytes) = rustix::net::recv(self, &mut *buffer, RecvFlags::PEEK)?;
            Ok(bytes)
        };
        // Zero bytes are wanted: the data stays, and the socket stays readable.
        poll_fn(|cx| self.poll_transfer(cx, Direction::Read, 0, &mut peek)).await
    }

    /// As far as is known, without a system call.
    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        match &self.watched {
            Watched::Here(source) => source.is_ready(Direction::Read),
            Watched::ByRuntime(socket) => socket.try_io(Direction::Read, || Ok(())).is_ok(),
        }
    }

    /// `true`: there is nothing to read, as far as is known, and the task is woken when that changes.
    #[inline]
    pub(super) fn will_wake(&self, cx: &mut Context<'_>) -> bool {
        match &self.watched {
            Watched::Here(source) => source.will_wake(Direction::Read, cx),
            // A task without budget gets Pending as well, and is woken only because of that.
            Watched::ByRuntime(socket) => {
                socket.poll_ready(Direction::Read, cx).is_pending() && coop::has_budget_remaining()
            }
        }
    }

    /// As [`AsyncRead::poll_read`] into plain memory: returns the number of bytes, 0 at the end.
    #[inline]
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, free: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Direction::Read, free.len(), || {
            let (_, bytes) = rustix::net::recv(self, &mut *free, RecvFlags::empty())?;
            Ok(bytes)
        })
    }

    /// As [`AsyncWrite::poll_write`].
    #[inline]
    pub(super) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Direction::Write, bytes.len(), || {
            Ok(rustix::net::send(self, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    /// Ready with the number of the `wanted` bytes that `call` has transferred.
    ///
    /// Fewer than wanted means that no more is available or fits: the next call would block, so it is not
    /// made to find out.
    #[inline]
    fn poll_transfer(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        wanted: usize,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        match &self.watched {
            Watched::Here(source) => source.poll_transfer(direction, cx, |_| {
                let bytes = call()?;
                let is_less = (1..wanted).contains(&bytes);
                Ok((bytes, if is_less { More::WouldBlock } else { More::MayFollow }))
            }),
            Watched::ByRuntime(socket) => socket.poll_transfer(cx, direction, call),
        }
    }
}

impl From<tokio::net::TcpStream> for Socket {
    fn from(tcp: tokio::net::TcpStream) -> Socket {
        Socket { family: Family::Tcp, watched: Watched::ByRuntime(Box::new(OnRuntime::Tcp(tcp))) }
    }
}

impl From<tokio::net::UnixStream> for Socket {
    fn from(unix: tokio::net::UnixStream) -> Socket {
        Socket { family: Family::Unix, watched: Watched::ByRuntime(Box::new(OnRuntime::Unix(unix))) }
    }
}

impl OnRuntime {
    fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (self, direction) {
            (OnRuntime::Tcp(tcp), Direction::Read) => tcp.poll_read_ready(cx),
            (OnRuntime::Tcp(tcp), Direction::Write) => tcp.poll_write_ready(cx),
            (OnRuntime::Unix(unix), Direction::Read) => unix.poll_read_ready(cx),
            (OnRuntime::Unix(unix), Direction::Write) => unix.poll_write_ready(cx),
        }
    }

    /// Calls `act` unless it is known to block; records it if it would have blocked.
    fn try_io<R>(&self, direction: Direction, act: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        let interest = match direction {
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        };
        match self {
            OnRuntime::Tcp(tcp) => tcp.try_io(interest, act),
            OnRuntime::Unix(unix) => unix.try_io(interest, act),
        }
    }

    fn poll_transfer(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(direction, cx))?;
            match self.try_io(direction, &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.watched {
            Watched::Here(source) => source.get_ref().as_fd(),
            Watched::ByRuntime(socket) => match socket.as_ref() {
                OnRuntime::Tcp(tcp) => tcp.as_fd(),
                OnRuntime::Unix(unix) => unix.as_fd(),
            },
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let received = ready!(self.poll_receive(cx, buffer.initialize_unfilled()))?;
        buffer.advance(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self, Shutdown::Write) {
            // The connection has ended already.
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = slices {
            return self.poll_send(cx, one);
        }
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        self.poll_transfer(cx, Direction::Write, wanted, || {
            let mut nothing = rustix::net::SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(&*self, slices, &mut nothing, SendFlags::NOSIGNAL)?)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than a socket buffer holds.
    const MANY: usize = 8 << 20;

    fn pair() -> (Socket, Socket) {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (Socket::unix(one).unwrap(), Socket::unix(other).unwrap())
    }

    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
    }

    /// Runs on a runtime, then on an event loop.
    fn everywhere<F: Future>(what: impl Fn() -> F) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(what());
        let _entered = runtime.enter();
        event_loop::run(what(), || ()).unwrap();
    }

    #[test]
    fn what_one_end_writes_the_other_reads_however_much_it_is() {
        everywhere(async || {
            let (mut one, mut other) = pair();
            let sent: Vec<u8> = (0..MANY).map(|at| (at % 251) as u8).collect();
            let mut received = Vec::new();
            let write = async {
                one.write_all(&sent).await.unwrap();
                one.shutdown().await.unwrap();
            };
            in_time(async { tokio::join!(write, other.read_to_end(&mut received)) }).await.1.unwrap();
            assert!(received == sent);
        });
    }

    #[test]
    fn who_has_read_all_is_woken_by_what_comes_later() {
        everywhere(async || {
            let (mut one, mut other) = pair();
            let mut buffer = [0; 64];
            for round in 0..100_u8 {
                let later = async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    one.write_all(&[round]).await.unwrap();
                };
                let (read, ()) = in_time(async { tokio::join!(other.read(&mut buffer), later) }).await;
                assert_eq!((read.unwrap(), buffer[0]), (1, round));
            }
        });
    }

    #[test]
    fn nobody_reads_for_ever_without_giving_others_a_turn() {
        everywhere(async || {
            let (mut one, mut other) = pair();
            one.write_all(&[0; 4096]).await.unwrap();
            // More than a task may do in one turn; there is always more to read.
            let reads = async {
                for _ in 0..1000 {
                    other.read_u8().await.unwrap();
                }
            };
            let mut reads = std::pin::pin!(reads);
            let finished = poll_fn(|cx| Poll::Ready(reads.as_mut().poll(cx).is_ready())).await;
            assert!(!finished);
            in_time(reads).await;
        });
    }

    #[test]
    fn a_peer_that_has_gone_is_an_end_to_who_reads_and_an_error_to_who_writes() {
        everywhere(async || {
            let (one, mut other) = pair();
            drop(one);
            assert_eq!(in_time(other.read(&mut [0; 8])).await.unwrap(), 0);
            let error = in_time(other.write_all(b"x")).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn who_peeks_takes_nothing() {
        everywhere(async || {
            let (mut one, mut other) = pair();
            one.write_all(b"xy").await.unwrap();
            for _ in 0..3 {
                let mut first = [0];
                assert_eq!((in_time(other.peek(&mut first)).await.unwrap(), first), (1, *b"x"));
            }
            let mut both = [0; 2];
            in_time(other.read_exact(&mut both)).await.unwrap();
            assert_eq!(&both, b"xy");
        });
    }

    #[test]
    fn a_host_is_connected_to_at_the_address_that_answers() {
        everywhere(async || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            for host in ["127.0.0.1", "localhost"] {
                let socket = in_time(Socket::connect_tcp(host, address.port())).await.unwrap();
                assert_eq!((socket.family(), socket.peer_addr()), (Family::Tcp, Some(address)));
                let accepted = listener.accept().unwrap().1;
                assert_eq!(socket.local_addr(), Some(accepted));
            }
            drop(listener);
            let refused = in_time(Socket::connect_tcp("127.0.0.1", address.port())).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn a_socket_file_is_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door");
        everywhere(async || {
            let missing = in_time(Socket::connect_unix(&path)).await.unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let mut socket = in_time(Socket::connect_unix(&path)).await.unwrap();
            assert_eq!((socket.family(), socket.peer_addr()), (Family::Unix, None));
            let (mut accepted, _) = listener.accept().unwrap();
            in_time(socket.write_all(b"hello")).await.unwrap();
            let mut said = [0; 5];
            std::io::Read::read_exact(&mut accepted, &mut said).unwrap();
            assert_eq!(&said, b"hello");
            std::fs::remove_file(&path).unwrap();
        });
    }
}
