//! From a route to a ready server connection.
//!
//! Owns opening a connection to PostgreSQL as a role ([`connect()`]), the connection itself
//! ([`ServerConnection`], with the few exchanges of Freehold's own), and asking a server to cancel
//! ([`cancel()`]). It deliberately owns no decision: address, role, timeout and the reaction to a refusal
//! come from the layers above. Start with [`connect()`].
//!
//! # Why
//! tokio-postgres cannot hand over its socket, log in with keys instead of a password, or speak the
//! replication protocol. A session needs the first two, a move the third, so Freehold has its own login,
//! built on its `wire` and `auth`.
//!
//! A server that asks for no authentication (`trust`, `peer`, a client certificate) is accepted whatever the
//! [`Credential`] is, unless it would have to prove its identity by it: authentication is the server's
//! decision, and an adopted system may trust its network. That proves nothing about the server. `login`
//! decides what a server that asks gets.

mod answers;
mod cancel;
mod channel;
mod connect;
mod connection;
mod driver_connection;
mod error;
mod login;
mod parameters;
mod scrub;
mod socket;

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use answers::{Reply, ResultSet};
pub use cancel::cancel;
pub use connect::connect;
pub use connection::{ConnectionParts, OwnExchange, ServerConnection};
pub use driver_connection::DriverConnection;
pub use error::{ConnectError, QueryError};
pub use parameters::{Parameters, SharedParameters};
pub use socket::{Opened, ServerIdentity, open};

use crate::auth::md5::Md5Secret;
use crate::auth::{ClientKeys, Proof};
use crate::model::{Place, RoleName};

/// The address, the role and the credentials of a connection.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    pub place: Place,
    pub role: RoleName,
    /// Further parameters of the startup packet, in order: settings, `options`, `replication`. `user` and
    /// `database` in it are ignored in favour of `role` and `place`.
    pub startup: Vec<(String, String)>,
    pub credential: Credential,
}

/// The credentials for the role.
#[derive(Clone)]
pub enum Credential {
    /// None: the login succeeds only if the server asks for nothing.
    Trust,
    /// Keys from a client's own login. SCRAM only.
    Keys(Arc<ClientKeys>),
    /// md5 only: the server stores the role's password in that form.
    Md5(Md5Secret),
    /// SCRAM; md5 or cleartext for systems that may ask for it ([`ServerAuth`](crate::model::ServerAuth)).
    Password(Zeroizing<String>),
}

impl Credential {
    /// [`Credential::kind`] of a missing credential.
    const NOTHING: &'static str = "nothing";

    fn kind(&self) -> &'static str {
        match self {
            Credential::Trust => Credential::NOTHING,
            Credential::Keys(_) => "SCRAM keys",
            Credential::Md5(_) => "an md5 secret",
            Credential::Password(_) => "a password",
        }
    }
}

impl From<Proof> for Credential {
    fn from(proof: Proof) -> Credential {
        match proof {
            Proof::Keys(keys) => Credential::Keys(keys),
            Proof::Md5(secret) => Credential::Md5(secret),
            Proof::Password(password) => Credential::Password(Zeroizing::clone(&password)),
            Proof::Nothing => Credential::Trust,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
