//! The login on the admin port: TLS, cancel requests, the startup packet, SCRAM against the administrators'
//! verifiers. There is no route: an administrator talks to Freehold itself.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::channel::Channel;
use super::opening::{self, Opened, Startup};
use super::{Frontend, FrontendError, login, prove};
use crate::auth::scram::{Offer, ServerLogin, Verifier};
use crate::error::{Refusal, SqlState};
use crate::tls::Stream;
use crate::wire::message::backend;
use crate::wire::startup::CancelRequest;

/// Connections to the admin port that have not logged in: administrators are few, and strangers take no
/// descriptors that clients need.
const LOGINS_MAX: usize = 64;

/// Where administrators are looked up by name.
pub trait Administrators: Sync {
    /// What is known of one besides the verifier.
    type Known: Send;

    fn find(&self, name: &str) -> impl Future<Output = Option<(Verifier, Self::Known)>> + Send;
}

/// What a connection to the admin port turned out to be.
#[derive(Debug)]
pub enum IncomingAdmin<K> {
    /// Cancels another connection's command. Gets no answer; the caller closes the stream afterwards.
    Cancel(CancelRequest, Stream),
    /// With what was known of it when its password was checked.
    Administrator(Administrator, K),
}

/// An authenticated administrator. AuthenticationOk has been sent, nothing after it.
#[derive(Debug)]
pub struct Administrator {
    pub stream: Stream,
    /// Bytes that the client sent after its login without waiting for the answer.
    pub early: BytesMut,
    pub address: SocketAddr,
    pub name: String,
    pub application_name: String,
}

impl Frontend {
    /// Like [`Frontend::receive`], for the admin port. `routes` is not used.
    pub async fn receive_administrator<A: Administrators>(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        users: &A,
    ) -> Result<IncomingAdmin<A::Known>, FrontendError> {
        let pending = self.access.pending.begin_within(LOGINS_MAX, Some(address.ip()), Instant::now());
        let pending = pending.ok_or(FrontendError::Overrun)?;
        let mut channel = Channel::new(Stream::from(tcp));
        let meeting = Box::pin(self.meet_administrator(&mut channel, address, users));
        let met = self.in_time(meeting, &pending).await;
        if let Err(error) = &met {
            self.refuse(channel, error).await;
        }
        met
    }

    async fn meet_administrator<A: Administrators>(
        &self,
        channel: &mut Channel,
        address: SocketAddr,
        users: &A,
    ) -> Result<IncomingAdmin<A::Known>, FrontendError> {
        let startup = match opening::open(self, channel).await? {
            Opened::Cancel(request) => return Ok(IncomingAdmin::Cancel(request, channel.take_stream()?)),
            Opened::Startup(startup) => startup,
        };
        if let Some(negotiation) = startup.message.negotiation() {
            backend::negotiate_protocol_version(&mut channel.out, &negotiation);
        }
        let known = self.prove_administrator(channel, &startup, address, users).await?;
        refuse_other_databases(startup.message.database())?;
        backend::authentication_ok(&mut channel.out);
        channel.send().await?;
        let administrator = Administrator {
            stream: channel.take_stream()?,
            early: channel.take_early(),
            address,
            name: startup.message.role().to_owned(),
            application_name: startup.message.parameter("application_name").unwrap_or_default().to_owned(),
        };
        Ok(IncomingAdmin::Administrator(administrator, known))
    }

    /// Unknown names go through the same messages as known ones, and fail like a wrong password.
    async fn prove_administrator<A: Administrators>(
        &self,
        channel: &mut Channel,
        startup: &Startup,
        address: SocketAddr,
        users: &A,
    ) -> Result<A::Known, FrontendError> {
        let name = startup.message.role();
        // Whatever database the client names: the verifier is the same.
        let attempt = self.access.attempt(Some(address.ip()), login::ADMIN_DATABASES[0], name);
        attempt.look()?;
        let offer = startup.agreed.end_point.clone().map_or(Offer::Plain, Offer::EndPoint);
        let (login, known) = match users.find(name).await {
            Some((verifier, known)) => (ServerLogin::new(verifier, offer), Some(known)),
            None => (ServerLogin::unknown(&self.mock, name, prove::iterations_default(), offer), None),
        };
        prove::scram(channel, &attempt, login).await?;
        known.ok_or_else(|| prove::rejected(name))
    }
}

fn refuse_other_databases(database: &str) -> Result<(), FrontendError> {
    if login::ADMIN_DATABASES.contains(&database) {
        return Ok(());
    }
    let refusal = Refusal::fatal(SqlState::INVALID_CATALOG_NAME, format!("database \"{database}\" does not exist"))
        .with_hint("This is the admin port: its only database is \"freehold\". Databases of applications are on the other port.");
    Err(FrontendError::Refused { database: database.to_owned(), refusal })
}
