//! Asks a server to cancel a command of one of its connections.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::{ConnectError, socket};
use crate::model::{Place, SslMode};
use crate::tls::{Connector, Stream};
use crate::wire::startup;

/// Sends a CancelRequest over a connection of its own and waits until the server has closed it: then the
/// signal has been sent, and a query that starts afterwards is not affected.
///
/// The server never reports whether there was a command to cancel.
///
/// # Cancel safety
/// Dropping the future closes the socket; the request may have been executed.
pub async fn cancel(
    place: &Place,
    connector: &Connector,
    pid: i32,
    key: &[u8],
    deadline: Instant,
) -> Result<(), ConnectError> {
    let late = |_| ConnectError::Timeout { address: place.address.clone(), stage: "cancel request" };
    timeout_at(deadline, Box::pin(request(place, connector, pid, key))).await.map_err(late)?
}

async fn request(place: &Place, connector: &Connector, pid: i32, key: &[u8]) -> Result<(), ConnectError> {
    let opened = match socket::open(&place.address, place.sslmode, connector).await {
        Err(ConnectError::Tls { .. } | ConnectError::ErrorBeforeTls { .. })
            if place.sslmode == SslMode::Prefer =>
        {
            socket::open(&place.address, SslMode::Disable, connector).await?
        }
        outcome => outcome?,
    };
    let mut packet = BytesMut::new();
    startup::cancel_request(&mut packet, pid, key);
    send_and_wait(opened.stream, &packet)
        .await
        .map_err(|source| ConnectError::Broken { address: place.address.clone(), source })
}

async fn send_and_wait(mut stream: Stream, packet: &[u8]) -> io::Result<()> {
    stream.write_all(packet).await?;
    stream.flush().await?;
    let mut ignored = [0; 64];
    loop {
        match stream.read(&mut ignored).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The server closes without a close_notify, also over TLS: that is its answer.
            Err(error) if is_end(error.kind()) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn is_end(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
