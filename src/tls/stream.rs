//! A connection to a client or a server, with TLS or without.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

use super::socket::{Family, Socket};

/// Bytes in both directions.
///
/// Data written over TLS may wait in the session for the socket: end a batch of writes with a flush.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    /// Freehold is the TLS server: a client's connection.
    TlsServer(Box<server::TlsStream<Socket>>),
    /// Freehold is the TLS client: a server's connection.
    TlsClient(Box<client::TlsStream<Socket>>),
    /// There is no peer now: nothing can be received or sent.
    Absent,
    /// An exchange on it was broken off, so it was closed: reads as ended.
    Closed,
}

impl Stream {
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::TlsServer(_) | Stream::TlsClient(_))
    }

    /// Over TCP and without TLS: an attacker in between could read the data.
    pub fn is_exposed(&self) -> bool {
        matches!(self, Stream::Plain(socket) if socket.family() == Family::Tcp)
    }

    /// `TLSv1.3/TLS_AES_256_GCM_SHA384`; `None`: without TLS.
    pub fn tls_summary(&self) -> Option<String> {
        let (version, suite) = match self {
            Stream::Absent | Stream::Closed | Stream::Plain(_) => return None,
            Stream::TlsServer(tls) => {
                let connection = tls.get_ref().1;
                (connection.protocol_version()?, connection.negotiated_cipher_suite()?)
            }
            Stream::TlsClient(tls) => {
                let connection = tls.get_ref().1;
                (connection.protocol_version()?, connection.negotiated_cipher_suite()?)
            }
        };
        let version = version.as_str()?.replace('_', ".");
        let suite = suite.suite().as_str()?.replace("TLS13_", "TLS_");
        Some(format!("{version}/{suite}"))
    }

    /// `false`: all received data was read, and a task that waits for more is still waiting.
    ///
    /// With TLS that is unknown: data may wait in the session.
    #[inline]
    pub fn may_be_readable(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_readable(),
            Stream::TlsServer(_) | Stream::TlsClient(_) | Stream::Closed => true,
            Stream::Absent => false,
        }
    }

    /// As [`AsyncRead::poll_read`] into plain memory: returns the number of bytes, 0 at the end.
    #[inline]
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_receive(cx, buffer),
            Stream::TlsServer(_) | Stream::TlsClient(_) => {
                let mut buffer = ReadBuf::new(buffer);
                let polled = Pin::new(self).poll_read(cx, &mut buffer);
                polled.map_ok(|()| buffer.filled().len())
            }
            Stream::Absent => Poll::Pending,
            Stream::Closed => Poll::Ready(Ok(0)),
        }
    }

    /// `true`: there is nothing to read, and the task is woken when that changes.
    ///
    /// With TLS that is unknown.
    #[inline]
    pub fn will_wake(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Stream::Plain(socket) => socket.will_wake(cx),
            Stream::TlsServer(_) | Stream::TlsClient(_) | Stream::Absent | Stream::Closed => false,
        }
    }

    /// The socket, also below TLS. `None`: there is no peer.
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::TlsServer(tls) => Some(tls.get_ref().0),
            Stream::TlsClient(tls) => Some(tls.get_ref().0),
            Stream::Absent | Stream::Closed => None,
        }
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Stream {
        Stream::Plain(socket)
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Stream {
        Socket::from(tcp).into()
    }
}

impl From<UnixStream> for Stream {
    fn from(unix: UnixStream) -> Stream {
        Socket::from(unix).into()
    }
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr, absent => $absent:expr, closed => $closed:expr) => {
        match $self.get_mut() {
            Stream::Plain(inner) => {
                let $stream = Pin::new(inner);
                $call
            }
            Stream::TlsServer(inner) => {
                let $stream = Pin::new(inner.as_mut());
                $call
            }
            Stream::TlsClient(inner) => {
                let $stream = Pin::new(inner.as_mut());
                $call
            }
            Stream::Absent => $absent,
            Stream::Closed => $closed,
        }
    };
}

fn no_peer<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_read(cx, buf), absent => Poll::Pending, closed => Poll::Ready(Ok(())))
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, stream => stream.poll_write(cx, buf), absent => no_peer(), closed => no_peer())
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_flush(cx), absent => Poll::Ready(Ok(())), closed => Poll::Ready(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_shutdown(cx), absent => Poll::Ready(Ok(())), closed => Poll::Ready(Ok(())))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => stream.poll_write_vectored(cx, bufs), absent => no_peer(), closed => no_peer())
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_write_vectored(),
            Stream::TlsServer(tls) => tls.is_write_vectored(),
            Stream::TlsClient(tls) => tls.is_write_vectored(),
            Stream::Absent | Stream::Closed => false,
        }
    }
}
