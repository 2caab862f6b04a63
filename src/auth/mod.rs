//! Authentication: SCRAM-SHA-256 as client and server, md5, and the limits on failed attempts. Sans-IO.
//!
//! Owns the cryptography and the order of the SCRAM messages. It deliberately owns no frame (the messages
//! travel inside those of `wire`), no random source and no thread: nonces are arguments, and the one slow
//! step, deriving keys from a password, is a value that the caller runs where blocking is allowed
//! ([`scram::Derivation`]).
//!
//! # Why
//! A client's proof reveals its ClientKey to the holder of the verifier. A [`ClientKeys`] learned that way
//! logs in to every server that holds the same verifier, so a database can move while no password is stored
//! anywhere. It is as good as the password for that verifier: it lives in memory only, is wiped when dropped,
//! and carries the [`VerifierFingerprint`] of its verifier so that it is never tried against another one.

pub mod hba;
pub mod md5;
pub mod passwords;
pub mod rate_limiter;
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

/// Identifies a verifier by both of its keys, which depend on salt and iterations. As secret as the keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifierFingerprint([u8; KEY_BYTES]);

impl VerifierFingerprint {
    /// The fingerprint of the verifier that the system stores for a role; `None`: it stores none.
    pub fn of(login: &Login) -> Option<VerifierFingerprint> {
        Verifier::parse(login.verifier.as_deref()?).ok().map(|verifier| verifier.fingerprint())
    }
}

impl fmt::Debug for VerifierFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// What Freehold can authenticate to a server with, once its client is authenticated.
#[derive(Debug, Clone)]
pub enum Proof {
    /// Learned from the client's SCRAM proof.
    Keys(Arc<ClientKeys>),
    /// The role has an md5 password, the same on the server as here.
    Md5(Md5Secret),
    /// From the operator's password file.
    Password(Arc<Zeroizing<String>>),
    /// The client sent nothing that authenticates to a server.
    Nothing,
}

impl Proof {
    /// Whether it matches what the system stores for this role, as far as that can be known.
    pub fn is_of(&self, login: &Login) -> bool {
        match self {
            Proof::Keys(keys) => VerifierFingerprint::of(login) == Some(keys.fingerprint()),
            Proof::Md5(secret) => {
                let kept = login.verifier.as_deref().and_then(Md5Secret::parse);
                kept.is_some_and(|kept| kept.is_same(secret))
            }
            Proof::Password(_) | Proof::Nothing => true,
        }
    }

    /// Whether both authenticate alike, so that a connection opened with one may serve the other.
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

/// The keys that authenticate a role to every server with the same verifier. Wiped when dropped, never
/// printed.
pub struct ClientKeys {
    client_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
    fingerprint: VerifierFingerprint,
}

impl ClientKeys {
    /// The fingerprint of the verifier that they belong to.
    pub fn fingerprint(&self) -> VerifierFingerprint {
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
