//! A connection that is logged in, for a driver or a program that has to log in itself.
//!
//! Takes the startup packet of the driver or program, and answers with what the server answered to Freehold:
//! that the login succeeded. So a secret stays with Freehold's own login, which knows which requests may be
//! answered, and the user of the connection never has it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ConnectionParts, ServerConnection};
use crate::tls::Stream;
use crate::wire::message::{TransactionStatus, backend};

/// The driver's side of the connection: accepts a startup packet, sends AuthenticationOk and all messages up
/// to ReadyForQuery; then it is the server's stream.
#[derive(Debug)]
pub struct DriverConnection {
    stream: Stream,
    /// What the driver has to read before the server's stream.
    greeting: BytesMut,
    startup: Startup,
}

/// How much of the startup packet has been received.
#[derive(Debug, Clone, Copy)]
enum Startup {
    Length { known: usize, so_far: u32 },
    Rest { bytes: usize },
}

const LENGTH_BYTES: usize = 4;

impl Startup {
    /// Takes bytes of the packet from the front of `bytes`; returns 0 when the packet has ended.
    fn swallow(&mut self, bytes: &[u8]) -> usize {
        match self {
            Startup::Rest { bytes: left } => {
                let taken = (*left).min(bytes.len());
                *left -= taken;
                taken
            }
            Startup::Length { known, so_far } => {
                let taken = (LENGTH_BYTES - *known).min(bytes.len());
                for byte in bytes.iter().take(taken) {
                    *so_far = *so_far << 8 | u32::from(*byte);
                }
                *known += taken;
                if *known == LENGTH_BYTES {
                    let whole = usize::try_from(*so_far).unwrap_or(usize::MAX);
                    *self = Startup::Rest { bytes: whole.saturating_sub(LENGTH_BYTES) };
                }
                taken
            }
        }
    }
}

impl DriverConnection {
    /// For a startup packet that has been read already.
    pub fn after_startup(connection: ServerConnection) -> DriverConnection {
        DriverConnection { startup: Startup::Rest { bytes: 0 }, ..DriverConnection::from(connection) }
    }
}

impl From<ServerConnection> for DriverConnection {
    fn from(connection: ServerConnection) -> DriverConnection {
        let ConnectionParts { stream, pid, cancel_key, parameters, asynchronous, unread } =
            connection.into_parts();
        let mut greeting = BytesMut::new();
        backend::authentication_ok(&mut greeting);
        for (name, value) in parameters.iter() {
            backend::parameter_status(&mut greeting, name, value);
        }
        if !cancel_key.is_empty() {
            backend::backend_key_data(&mut greeting, pid, &cancel_key);
        }
        greeting.extend_from_slice(&asynchronous);
        backend::ready_for_query(&mut greeting, TransactionStatus::Idle);
        greeting.extend_from_slice(&unread);
        DriverConnection { stream, greeting, startup: Startup::Length { known: 0, so_far: 0 } }
    }
}

impl AsyncRead for DriverConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.greeting.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        let now = this.greeting.len().min(into.remaining());
        into.put_slice(this.greeting.get(..now).unwrap_or_default());
        this.greeting.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DriverConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.startup.swallow(bytes) {
            0 => Pin::new(&mut this.stream).poll_write(cx, bytes),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::backend::Parameters;
    use crate::wire::startup;

    fn driver(stream: UnixStream) -> DriverConnection {
        let mut parameters = Parameters::default();
        parameters.set("server_version", "18.1").unwrap();
        let key = Bytes::from_static(&[1, 2, 3, 4]);
        let unread = BytesMut::from(&b"later"[..]);
        ServerConnection::new(Stream::from(stream), 7, key, parameters, unread, BytesMut::new()).into()
    }

    #[tokio::test]
    async fn a_startup_packet_cut_anywhere_is_swallowed_and_nothing_else() {
        let mut packet = BytesMut::new();
        startup::startup_message(&mut packet, 0, [("user", "ann"), ("options", "-c x=y")].into_iter());
        for cut in 0..=packet.len() {
            let (ours, mut server) = UnixStream::pair().unwrap();
            let mut driver = driver(ours);
            driver.write_all(packet.get(..cut).unwrap()).await.unwrap();
            let rest = [packet.get(cut..).unwrap(), b"Q\0\0\0\x05\0"].concat();
            driver.write_all(&rest).await.unwrap();
            driver.flush().await.unwrap();
            drop(driver);
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"Q\0\0\0\x05\0", "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_the_server_said_is_told_in_order_and_then_the_server_is_heard() {
        let (ours, mut server) = UnixStream::pair().unwrap();
        let mut driver = driver(ours);
        server.write_all(b" words").await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        driver.read_to_end(&mut heard).await.unwrap();
        let mut expected = BytesMut::new();
        backend::authentication_ok(&mut expected);
        backend::parameter_status(&mut expected, "server_version", "18.1");
        backend::backend_key_data(&mut expected, 7, &[1, 2, 3, 4]);
        backend::ready_for_query(&mut expected, TransactionStatus::Idle);
        expected.extend_from_slice(b"later words");
        assert_eq!(heard, expected);
    }
}
