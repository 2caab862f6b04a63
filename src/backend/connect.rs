//! Opens a connection as a role.

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::channel::Channel;
use super::error::LoginStep;
use super::{ConnectError, ConnectRequest, Opened, ServerConnection, login, socket};
use crate::error::SqlState;
use crate::model::SslMode;
use crate::tls::Connector;
use crate::wire::{PROTOCOL_MINOR_SERVER, startup};

/// Connects, starts TLS, logs in, and waits until the server is ready for a query.
///
/// Fails with [`ConnectError::Timeout`] once the deadline has passed, with [`ConnectError::Refused`] if the
/// server refuses. As in libpq, `sslmode=prefer` tries again without TLS if the handshake fails or
/// `pg_hba.conf` has no entry for encrypted connections.
///
/// # Cancel safety
/// Dropping the future closes the socket; there are no other effects.
pub async fn connect(
    request: &ConnectRequest,
    connector: &Connector,
    deadline: Instant,
) -> Result<ServerConnection, ConnectError> {
    let mode = request.place.sslmode;
    match attempt(request, mode, connector, deadline).await {
        Err(error) if mode == SslMode::Prefer && plaintext_may_help(&error) => {
            attempt(request, SslMode::Disable, connector, deadline).await
        }
        outcome => outcome,
    }
}

fn plaintext_may_help(error: &ConnectError) -> bool {
    match error {
        ConnectError::Tls { .. } | ConnectError::ErrorBeforeTls { .. } => true,
        ConnectError::Refused { fields, step: LoginStep::First } => {
            fields.sqlstate() == SqlState::INVALID_AUTHORIZATION
        }
        _ => false,
    }
}

async fn attempt(
    request: &ConnectRequest,
    mode: SslMode,
    connector: &Connector,
    deadline: Instant,
) -> Result<ServerConnection, ConnectError> {
    let address = &request.place.address;
    let late = |stage| ConnectError::Timeout { address: address.clone(), stage };
    let opening = Box::pin(socket::open(address, mode, connector));
    let opened = timeout_at(deadline, opening).await.map_err(|_| late("connection"))??;
    let login = Box::pin(enter(opened, request));
    timeout_at(deadline, login).await.map_err(|_| late("login"))?
}

async fn enter(opened: Opened, request: &ConnectRequest) -> Result<ServerConnection, ConnectError> {
    let Opened { stream, end_point, peer } = opened;
    let mut channel = Channel::new(stream, request.place.address.clone());
    let mut packet = BytesMut::new();
    startup::startup_message(&mut packet, PROTOCOL_MINOR_SERVER, parameters(request));
    channel.send(&packet).await?;
    login::authenticate(&mut channel, request, end_point, peer).await?;
    login::settle(channel).await
}

fn parameters(request: &ConnectRequest) -> impl Iterator<Item = (&str, &str)> {
    let who = [("user", request.role.as_str()), ("database", request.place.dbname.as_str())];
    let further = request.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    who.into_iter().chain(further.filter(|(name, _)| *name != "user" && *name != "database"))
}
