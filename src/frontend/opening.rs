//! The first packets: TLS or not, a cancel request or a client.
//!
//! ```text
//!   0x16 ----------> TLS (ALPN "postgresql") --+
//!   SSLRequest ----> 'S' TLS, or 'N' ----------+--> CancelRequest: done
//!   GSSENCRequest -> 'N' ----------------------+--> StartupMessage
//! ```
//! Each request is allowed once, in any order; under TLS none of them is allowed again. A Unix socket has no
//! TLS.

use bytes::{BufMut, Bytes};

use super::channel::Channel;
use super::{Encryption, Frontend, FrontendError};
use crate::tls::{Acceptor, ClientIdentity, Handshake, Stream};
use crate::wire::startup::{CancelRequest, Opening, StartupMessage, TLS_HANDSHAKE_BYTE};

/// What the first packets were.
#[derive(Debug)]
pub(super) enum Opened {
    Cancel(CancelRequest),
    Startup(Startup),
}

/// A client that wants a session.
#[derive(Debug)]
pub(super) struct Startup {
    pub(super) message: StartupMessage,
    pub(super) agreed: Agreed,
}

/// The result of a TLS handshake.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    /// The hash of our certificate, for channel binding.
    pub(super) end_point: Option<Bytes>,
    /// The client's certificate, if it sent a valid one.
    pub(super) identity: Option<ClientIdentity>,
}

/// Requests that are allowed once each.
#[derive(Debug, Default)]
struct Asked {
    tls: bool,
    gss: bool,
}

/// Reads up to the startup packet or cancel request. Afterwards `channel` uses TLS if that was agreed.
pub(super) async fn open(frontend: &Frontend, channel: &mut Channel) -> Result<Opened, FrontendError> {
    let mut asked = Asked::default();
    let mut agreed = Agreed::default();
    if begins_with_tls(channel.stream()?).await? {
        let acceptor = frontend.acceptor.as_ref().ok_or(FrontendError::NoTls)?;
        agreed = encrypt(acceptor, channel, Handshake::Direct).await?;
        asked = Asked { tls: true, gss: true };
    }
    loop {
        match channel.opening().await? {
            Opening::Ssl if !asked.tls => {
                asked.tls = true;
                agreed = on_ssl_request(frontend, channel).await?;
                asked.gss |= channel.is_tls();
            }
            Opening::GssEnc if !asked.gss => {
                asked.gss = true;
                answer(channel, b'N').await?;
            }
            Opening::Ssl | Opening::GssEnc => return Err(FrontendError::AskedTwice),
            Opening::Cancel(request) => return Ok(Opened::Cancel(request)),
            Opening::Startup(_) if frontend.encryption == Encryption::Required && channel.is_exposed() => {
                return Err(FrontendError::TlsRequired);
            }
            Opening::Startup(message) => return Ok(Opened::Startup(Startup { message, agreed })),
        }
    }
}

/// Looks at the first byte without taking it: a handshake needs all of them.
async fn begins_with_tls(stream: &Stream) -> Result<bool, FrontendError> {
    let Stream::Plain(socket) = stream else { return Ok(false) };
    let mut first = [0];
    match socket.peek(&mut first).await? {
        0 => Err(FrontendError::Gone),
        _ => Ok(first == [TLS_HANDSHAKE_BYTE]),
    }
}

async fn on_ssl_request(frontend: &Frontend, channel: &mut Channel) -> Result<Agreed, FrontendError> {
    match &frontend.acceptor {
        Some(acceptor) if channel.is_exposed() => {
            answer(channel, b'S').await?;
            encrypt(acceptor, channel, Handshake::Requested).await
        }
        // On a Unix socket PostgreSQL has no TLS, either.
        _ => answer(channel, b'N').await.map(|()| Agreed::default()),
    }
}

async fn answer(channel: &mut Channel, byte: u8) -> Result<(), FrontendError> {
    if !channel.inbox.is_empty() {
        return Err(FrontendError::EarlyBytes);
    }
    channel.out.put_u8(byte);
    channel.send().await
}

async fn encrypt(
    acceptor: &Acceptor,
    channel: &mut Channel,
    handshake: Handshake,
) -> Result<Agreed, FrontendError> {
    let plain = channel.take_stream()?;
    let accepted = acceptor.accept(plain, &channel.inbox, handshake).await?;
    channel.put_stream(accepted.stream);
    let identity = accepted.client_certificate.as_deref().map(ClientIdentity::of);
    Ok(Agreed { end_point: accepted.end_point, identity })
}
