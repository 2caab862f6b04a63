//! From an accepted socket to an authenticated client.
//!
//! Owns the first messages of a connection: TLS, cancel requests, the startup packet, the login. It
//! deliberately opens no server connection and starts no session: it returns an [`Incoming`], and the session
//! layer continues. Start with [`Frontend::receive`].
//!
//! # Why
//! All of it happens before the client is authenticated, so all of it is bounded: ten kilobytes for a startup
//! packet, one deadline for the whole. An unknown database, an unknown role and a wrong password take the
//! same messages and the same work; only authenticated clients learn a database's state (deprecated,
//! refused).

mod access;
#[cfg(test)]
mod access_tests;
mod administrator;
mod balancer;
mod channel;
mod connection_limits;
mod current;
#[cfg(test)]
mod current_tests;
mod error;
pub mod listener;
mod login;
mod opening;
mod pending_logins;
mod prove;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

pub use access::{Access, Policy};
pub use administrator::{Administrator, Administrators, IncomingAdmin};
pub use balancer::Balancers;
pub use connection_limits::{ClientLimits, ConnectionPermit};
pub use error::FrontendError;

use self::channel::Channel;
use self::login::Admitted;
use self::opening::{Opened, Startup};
use self::pending_logins::PendingLogin;
use crate::auth::Proof;
use crate::auth::scram::MockSecret;
use crate::error::Explain;
use crate::error::Severity;
use crate::model::Peer;
use crate::route::{Route, RouteTable};
use crate::tls::{Acceptor, Stream};
use crate::wire::message::backend;
use crate::wire::startup::CancelRequest;

/// Whether a client may connect without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    #[default]
    Optional,
    Required,
}

/// What is needed to receive a client. One per process.
#[derive(Debug)]
pub struct Frontend {
    pub routes: Arc<RouteTable>,
    /// `None`: TLS requests are answered with `N`.
    pub acceptor: Option<Acceptor>,
    pub encryption: Encryption,
    /// From the accepted socket to the end of the login.
    pub login_time_max: Duration,
    /// For the logins of roles that do not exist.
    pub mock: MockSecret,
    pub access: Arc<Access>,
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Incoming {
    /// Cancels another connection's query. Gets no answer: the caller closes the stream afterwards.
    Cancel {
        request: CancelRequest,
        stream: Stream,
    },
    Client(Box<Client>),
}

/// An authenticated client.
#[derive(Debug)]
pub struct Client {
    pub stream: Stream,
    /// Bytes that the client sent after its login without waiting for the answer.
    pub early: BytesMut,
    /// The end of its login, up to AuthenticationOk; the session sends it in one piece with its first
    /// message.
    pub unsent: BytesMut,
    pub address: Peer,
    pub route: Arc<Route>,
    pub role: String,
    /// The negotiated minor version of protocol 3.
    pub protocol_minor: u16,
    /// The startup parameters other than `user` and `database`, in order.
    pub settings: Vec<(String, String)>,
    /// What authenticates the client's role to a server.
    pub proof: Proof,
    /// Its share of the limits; held while it is connected.
    pub admission: ConnectionPermit,
}

impl Client {
    /// A startup parameter; the last one of a name wins.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Frontend {
    /// Reads and answers up to the end of the login. On an error the client has got the error if possible.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn receive(&self, stream: Stream, address: Peer) -> Result<Incoming, FrontendError> {
        // Held until the refusal is sent, too.
        let mut admission = Some(self.access.admission()?);
        let mut channel = Channel::new(stream);
        let pending = self.access.pending.begin(address.ip(), Instant::now());
        let meeting = Box::pin(self.meet(&mut channel, address, &mut admission));
        let met = self.in_time(meeting, &pending).await;
        drop(pending);
        if let Err(error) = &met {
            // Boxed, so that the session's future does not keep its size.
            Box::pin(self.refuse(channel, error)).await;
        }
        met
    }

    /// Runs a login for as long as it may take.
    async fn in_time<T>(
        &self,
        login: impl Future<Output = Result<T, FrontendError>>,
        pending: &PendingLogin,
    ) -> Result<T, FrontendError> {
        tokio::select! {
            // A login that has just ended needs no place any more.
            biased;
            met = tokio::time::timeout(self.login_time_max, login) => met.unwrap_or(Err(FrontendError::TooSlow)),
            () = pending.displaced() => Err(FrontendError::Displaced),
        }
    }

    async fn meet(
        &self,
        channel: &mut Channel,
        address: Peer,
        admission: &mut Option<ConnectionPermit>,
    ) -> Result<Incoming, FrontendError> {
        match opening::open(self, channel).await? {
            Opened::Cancel(request) => Ok(Incoming::Cancel { request, stream: channel.take_stream()? }),
            Opened::Startup(startup) => {
                let logged_in = self.log_in(channel, &startup, address, admission).await;
                let (admitted, admission) = logged_in.inspect_err(|error| self.count(&startup, error))?;
                Ok(Incoming::Client(Box::new(Client {
                    stream: channel.take_stream()?,
                    early: channel.take_early(),
                    unsent: std::mem::take(&mut channel.out),
                    address,
                    route: admitted.route,
                    role: startup.message.role().to_owned(),
                    protocol_minor: startup.message.minor(),
                    settings: owned(startup.message.settings()),
                    proof: admitted.proof,
                    admission,
                })))
            }
        }
    }

    async fn log_in(
        &self,
        channel: &mut Channel,
        startup: &Startup,
        address: Peer,
        admission: &mut Option<ConnectionPermit>,
    ) -> Result<(Admitted, ConnectionPermit), FrontendError> {
        self.access.check_admission(admission.as_ref())?;
        let admitted = login::login(self, channel, startup, address).await?;
        let mut admission = admission.take().ok_or(FrontendError::Gone)?;
        self.access.assign_role(&mut admission, &admitted.route, startup.message.role())?;
        self.access.turn_of_client(&admitted.route, startup.message.role()).await?;
        Ok((admitted, admission))
    }

    /// A client of this database was told an error.
    fn count(&self, startup: &Startup, error: &FrontendError) {
        if error.is_told()
            && let Some(route) = self.routes.lookup(startup.message.database())
        {
            route.session_table().count_failure(error.sqlstate(), error.blame());
        }
    }

    /// Sends the error, within the time limit of a login.
    async fn refuse(&self, mut channel: Channel, error: &FrontendError) {
        if !error.is_told() {
            return;
        }
        channel.out.clear();
        backend::error_response(&mut channel.out, &error.refusal(Severity::Fatal));
        let _ = tokio::time::timeout(self.login_time_max, channel.close()).await;
    }
}

fn owned<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
