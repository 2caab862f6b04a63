//! Opens a stream to an address, with or without TLS.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ConnectError;
use crate::model::{Address, SslMode};
use crate::tls::{Certificate, Connected, Connector, Socket, Stream};
use crate::wire::startup;

/// Idle time after which the kernel sends keepalive probes. The kernel's default is two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A stream before the first PostgreSQL message.
#[derive(Debug)]
pub struct Opened {
    pub stream: Stream,
    /// Hash of the server's certificate, if known.
    pub end_point: Option<Bytes>,
    pub peer: ServerIdentity,
}

/// Identity of the peer, as far as it is known before the first PostgreSQL message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerIdentity {
    /// The system: its certificate was verified, or it is behind a Unix socket.
    Verified,
    /// The holder of this certificate. TLS is required, so a login with channel binding proves that it is the
    /// system.
    CertificatePresented,
    /// Possibly an attacker in between.
    Unverified,
}

/// Connects, and starts TLS according to `mode`. On a Unix socket `mode` has no meaning, as in libpq.
pub async fn open(address: &Address, mode: SslMode, connector: &Connector) -> Result<Opened, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: address.clone(), source };
    if address.is_local() {
        let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
        let unix = Socket::connect_unix(path).await.map_err(unreachable)?;
        return Ok(Opened { stream: Stream::from(unix), end_point: None, peer: ServerIdentity::Verified });
    }
    let tcp = connect_tcp(address).await.map_err(unreachable)?;
    if mode == SslMode::Disable {
        return Ok(plain(tcp));
    }
    encrypt(tcp, address, mode, connector).await
}

async fn connect_tcp(address: &Address) -> io::Result<Socket> {
    let tcp = Socket::connect_tcp(&address.host, address.port).await?;
    SockRef::from(&tcp).set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(tcp)
}

async fn encrypt(
    mut tcp: Socket,
    address: &Address,
    mode: SslMode,
    connector: &Connector,
) -> Result<Opened, ConnectError> {
    let broken = |source| ConnectError::Broken { address: address.clone(), source };
    let mut request = BytesMut::new();
    startup::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(broken)?;
    // Exactly one byte is read: injected bytes after it stay in the socket, where they make the handshake
    // fail instead of being taken for data received over TLS.
    match tcp.read_u8().await.map_err(broken)? {
        b'S' => {}
        b'N' if mode == SslMode::Prefer => {
            return Ok(plain(tcp));
        }
        b'N' => return Err(ConnectError::NoTls { address: address.clone() }),
        b'E' => return Err(ConnectError::ErrorBeforeTls { address: address.clone() }),
        tag => return Err(ConnectError::Unexpected { address: address.clone(), tag }),
    }
    match connector.connect(tcp, &address.host, mode).await {
        Ok(Connected { stream, end_point, certificate }) => {
            let peer = match certificate {
                Certificate::Verified => ServerIdentity::Verified,
                // An attacker that can present another certificate here could also answer that there is no
                // TLS.
                Certificate::Unverified if mode == SslMode::Prefer => ServerIdentity::Unverified,
                Certificate::Unverified => ServerIdentity::CertificatePresented,
            };
            Ok(Opened { stream, end_point, peer })
        }
        Err(source) => Err(ConnectError::Tls { address: address.clone(), source }),
    }
}

fn plain(tcp: Socket) -> Opened {
    Opened { stream: Stream::from(tcp), end_point: None, peer: ServerIdentity::Unverified }
}
