//! From a route to a ready server connection.
//!
//! Owns opening a connection to PostgreSQL as a role ([`connect()`]), what one is ([`ServerConnection`], with the few
//! exchanges that Freehold itself has with it), and asking a server to cancel ([`cancel()`]). It deliberately owns no
//! decision: where to connect, as whom, how long to wait and what to do about a refusal come from above. Start with
//! [`connect()`].
//!
//! # Why
//! tokio-postgres cannot hand over its socket, log in with keys instead of a password, or speak the replication
//! protocol. A session needs the first two, a move the third, so the login is ours, over our own `wire` and `auth`.
//!
//! A server that asks for no proof (`trust`, `peer`, a client certificate) is accepted whatever the [`Credential`] is, unless
//! it would have to prove itself by one: who may come in is the server's decision, and an adopted system may trust its
//! network. It has proved nothing by that. What a server gets that asks is in `login`.

mod answers;
mod cancel;
mod channel;
mod connect;
mod connection;
mod error;
mod introduced;
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
pub use connection::{Parts, ServerConnection};
pub use error::{ConnectError, QueryError};
pub use introduced::Introduced;
pub use parameters::{Parameters, SharedParameters};
pub use socket::{Opened, Peer, open};

use crate::auth::md5::Md5Secret;
use crate::auth::{ClientKeys, Proof};
use crate::model::{Place, RoleName};

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    pub place: Place,
    pub role: RoleName,
    /// Further parameters of the startup packet, in order: settings, `options`, `replication`. `user` and `database`
    /// in it are ignored: they are `role` and `place`.
    pub startup: Vec<(String, String)>,
    pub credential: Credential,
}

/// How we can prove the role.
#[derive(Clone)]
pub enum Credential {
    /// Not at all: only a server that asks for nothing lets us in.
    Trust,
    /// Learned from a client's own login. SCRAM only.
    Keys(Arc<ClientKeys>),
    /// md5 only: the role's password is stored so on the server.
    Md5(Md5Secret),
    /// SCRAM; md5 or cleartext towards systems that may ask for it ([`ServerAuth`](crate::model::ServerAuth)).
    Password(Zeroizing<String>),
}

impl Credential {
    /// [`Credential::kind`] of none.
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
