//! Proving who one is: SCRAM-SHA-256 in both roles, md5 towards old servers; and how often one may try. Sans-IO.
//!
//! Owns the cryptography and the order of the SCRAM messages. It deliberately owns no frame (the messages travel inside
//! those of `wire`), no random source and no thread: nonces come in, and the one slow step, deriving keys from a
//! password, is a value that the caller runs where waiting is allowed ([`scram::Derivation`]).
//!
//! # Why
//! A client's proof reveals its ClientKey to whoever holds the verifier. A [`ClientKeys`] learned that way opens every
//! server that holds the same verifier, so a database can move while no password is stored anywhere. It is as good
//! as the password for that verifier: it lives in memory only, is wiped when dropped, and carries the
//! [`Fingerprint`] of its verifier so that it is never tried against another one.

pub mod hba;
pub mod md5;
pub mod pace;
pub mod passwords;
pub mod scram;
pub mod throttle;

use std::fmt;
use std::sync::Arc;

use ring::digest;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use self::md5::Md5Secret;
use self::scram::Verifier;
use crate::model::Login;

/// Length of a SHA-256 key.
pub const KEY_BYTES: usize = 32;

/// Tells verifiers apart, by both of their keys: salt and iterations went into them. As secret as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; KEY_BYTES]);

impl Fingerprint {
    /// Of the verifier that the system keeps of a role; `None`: it keeps none.
    pub fn of(login: &Login) -> Option<Fingerprint> {
        Verifier::parse(login.verifier.as_deref()?).ok().map(|verifier| verifier.fingerprint())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// What there is to prove a role to a server, once its client is in.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Learned from the client's own proof.
    Keys(Arc<ClientKeys>),
    /// The role has an md5 password, on the server as here.
    Md5(Md5Secret),
    /// The operator has written it down.
    Password(Arc<Zeroizing<String>>),
    /// The client brought nothing that opens a server.
    Nothing,
}

impl Proof {
    /// Whether it is what the system keeps of this role's password, as far as that can be told.
    pub fn is_of(&self, login: &Login) -> bool {
        match self {
            Proof::Keys(keys) => Fingerprint::of(login) == Some(keys.fingerprint()),
            Proof::Md5(secret) => {
                let kept = login.verifier.as_deref().and_then(Md5Secret::parse);
                kept.is_some_and(|kept| kept.is_same(secret))
            }
            Proof::Password(_) | Proof::Nothing => true,
        }
    }

    /// Whether a connection of one role that this has opened could have been opened by the other.
    pub fn opens_the_same(&self, other: &Proof) -> bool {
        match (self, other) {
            (Proof::Keys(own), Proof::Keys(other)) => own.fingerprint() == other.fingerprint(),
            (Proof::Md5(own), Proof::Md5(other)) => own.is_same(other),
            (Proof::Password(own), Proof::Password(other)) => own.as_bytes().ct_eq(other.as_bytes()).into(),
            (Proof::Nothing, Proof::Nothing) => true,
            _ => false,
        }
    }
}

/// What proves a role to every server that holds the same verifier. Wiped when dropped, never printed.
pub struct ClientKeys {
    client_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
    fingerprint: Fingerprint,
}

impl ClientKeys {
    /// Of the verifier that they belong to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl Drop for ClientKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKeys").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut hash = [0; KEY_BYTES];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
