//! From an accepted socket to an authenticated client.
//!
//! Owns the first words of a connection: TLS, cancel requests, the startup packet, the login. It deliberately opens no
//! server connection and starts no session: what it returns is a [`Visitor`], and the session layer goes on.
//! Start with [`Frontend::receive`].
//!
//! # Why
//! All of it happens before anybody is known, so all of it is bounded: ten kilobytes for a startup packet, one deadline
//! for the whole. A database that does not exist, a role that does not exist and a wrong password take the same messages
//! and the same work; a database's state (deprecated, refused) is told only to those who have proved who they are.

mod access;
#[cfg(test)]
mod access_tests;
mod administrator;
mod balancer;
mod channel;
mod crowd;
mod current;
#[cfg(test)]
mod current_tests;
mod error;
pub mod listener;
mod login;
mod opening;
mod prove;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

pub use access::{Access, Policy};
pub use administrator::{AdminVisitor, Administrator};
pub use balancer::Balancers;
pub use crowd::{Admission, CrowdLimits};
pub use error::FrontendError;

use self::channel::Channel;
use self::opening::Opened;
use crate::auth::Proof;
use crate::auth::scram::MockSecret;
use crate::error::Explain;
use crate::error::Severity;
use crate::model::Peer;
use crate::route::{Route, RouteTable};
use crate::tls::{Acceptor, Stream};
use crate::wire::message::backend;
use crate::wire::startup::CancelRequest;

/// Whether a client may speak without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    #[default]
    Optional,
    Required,
}

/// What is needed to receive a client. One for the process.
#[derive(Debug)]
pub struct Frontend {
    pub routes: Arc<RouteTable>,
    /// `None`: TLS is answered with `N`.
    pub acceptor: Option<Acceptor>,
    pub encryption: Encryption,
    /// From the accepted socket to the end of the login.
    pub login_time_max: Duration,
    /// For the logins of roles that do not exist.
    pub mock: MockSecret,
    pub access: Arc<Access>,
}

/// Who came.
#[derive(Debug)]
pub enum Visitor {
    /// Wants another connection's query to end. Gets no answer: the stream is to be closed when that has been done.
    Cancel {
        request: CancelRequest,
        stream: Stream,
    },
    Client(Box<Client>),
}

/// Somebody who proved who he is.
#[derive(Debug)]
pub struct Client {
    pub stream: Stream,
    /// What it sent behind its login without waiting.
    pub early: BytesMut,
    /// The end of its login, up to AuthenticationOk, to be sent before anything else: with it, in one piece.
    pub unsent: BytesMut,
    pub address: Peer,
    pub route: Arc<Route>,
    pub role: String,
    /// The minor version of protocol 3 that is spoken.
    pub protocol_minor: u16,
    /// The startup parameters other than `user` and `database`, in order.
    pub settings: Vec<(String, String)>,
    /// What opens the server.
    pub proof: Proof,
    /// Its share of the limits; to be kept while it is connected.
    pub admission: Admission,
}

impl Client {
    /// A startup parameter; the last of a name wins.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Frontend {
    /// Reads and answers up to the end of the login. On an error the client has been told, as far as it can be.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn receive(&self, stream: Stream, address: Peer) -> Result<Visitor, FrontendError> {
        // Kept until a refusal has been read, too.
        let mut admission = Some(self.access.admission()?);
        let mut channel = Channel::new(stream);
        let meeting = Box::pin(self.meet(&mut channel, address, &mut admission));
        let met = match tokio::time::timeout(self.login_time_max, meeting).await {
            Ok(met) => met,
            Err(_) => Err(FrontendError::TooSlow),
        };
        if let Err(error) = &met {
            // Not part of what a session keeps for its life.
            Box::pin(self.refuse(channel, error)).await;
        }
        met
    }

    async fn meet(
        &self,
        channel: &mut Channel,
        address: Peer,
        admission: &mut Option<Admission>,
    ) -> Result<Visitor, FrontendError> {
        match opening::open(self, channel).await? {
            Opened::Cancel(request) => Ok(Visitor::Cancel { request, stream: channel.take_stream()? }),
            Opened::Startup(startup) => {
                self.access.check_admission(admission.as_ref())?;
                let admitted = login::login(self, channel, &startup, address).await?;
                let mut admission = admission.take().ok_or(FrontendError::Gone)?;
                self.access.sit(&mut admission, &admitted.route, startup.message.role())?;
                self.access.turn_of_client(&admitted.route, startup.message.role()).await?;
                Ok(Visitor::Client(Box::new(Client {
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

    /// Says why, within the bound that a login has; whoever does not read is not waited for.
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
