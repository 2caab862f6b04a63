//! Load balancers in front of us, and the client addresses that they report.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::FrontendError;
use crate::model::{Network, Peer};
use crate::tls::Stream;
use crate::wire::proxy_header::{ConnectionSource, PREFIX_BYTES, Prefix};

/// The networks from which PROXY headers are trusted.
///
/// A connection from one of these networks must begin with a PROXY header. It is trusted, so only load
/// balancers may have addresses there. From any other address a header is a protocol error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancers(pub Vec<Network>);

impl Balancers {
    /// Reads the header of a connection that comes from a balancer. Returns the client's address.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn locate(
        &self,
        stream: &mut Stream,
        address: Peer,
        time_max: Duration,
    ) -> Result<Peer, FrontendError> {
        let is_balancer = |ip| self.0.iter().any(|network| network.holds(ip));
        if !address.ip().is_some_and(is_balancer) {
            return Ok(address);
        }
        let reading = Box::pin(read(stream));
        match tokio::time::timeout(time_max, reading).await {
            Err(_) => Err(FrontendError::TooSlow),
            Ok(read) => Ok(match read? {
                ConnectionSource::Balancer | ConnectionSource::Unknown => address,
                ConnectionSource::Tcp(client) => Peer::tcp(client),
                ConnectionSource::Unix => Peer::Unix,
            }),
        }
    }
}

/// Reads exactly the header and not a byte more: what follows may be a TLS handshake.
async fn read(stream: &mut Stream) -> Result<ConnectionSource, FrontendError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let prefix = Prefix::parse(&prefix)?;
    let mut rest = vec![0; prefix.rest_bytes];
    stream.read_exact(&mut rest).await?;
    Ok(prefix.source(&rest)?)
}
