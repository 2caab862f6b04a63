//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677) as PostgreSQL speaks them.
//!
//! ```text
//! client role                                      server role
//! ClientLogin::start   -- client-first -->         ServerLogin::first
//! AwaitChallenge       <-- server-first --         AwaitFinal
//! Challenge::answer    -- client-final -->         AwaitFinal::finish  = ClientKeys
//! AwaitOutcome::finish <-- server-final --
//! ```
//! A step takes the state and returns the next one, so messages out of order do not compile.
//!
//! # Why
//! * [`Offer`] says what the *transport* can bind, and both sides refuse a downgrade: if a client says `y`
//!   ("I could bind, you cannot") to a server that can, a third party altered the server's offer.
//! * For an unknown role, [`ServerLogin::unknown`] sends the same messages, does the same work, and always
//!   refuses.
//! * PostgreSQL ignores the name inside the messages, so we do, and send it empty, as libpq does.

mod client;
mod server;
mod verifier;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::hmac;
use subtle::ConstantTimeEq;

pub use client::{AwaitChallenge, AwaitOutcome, Challenge, ClientLogin};
pub use server::{AwaitFinal, MockSecret, ServerLogin};
pub use verifier::{Derivation, ITERATIONS_DEFAULT, SALT_BYTES_DEFAULT, Verifier, VerifierError};

use super::KEY_BYTES;
use crate::error::{Blame, Explain, Retry, SqlState};

pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`.
pub const MESSAGE_BYTES_MAX: usize = 1024;

const BINDING_HEADER: &str = "p=tls-server-end-point,,";

/// The nonce of one side of one login.
#[derive(Clone)]
pub struct Nonce(String);

impl Nonce {
    /// Encodes as many random bytes as PostgreSQL does.
    pub fn from_random(bytes: [u8; 18]) -> Nonce {
        Nonce(STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// What the transport below a login can be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// No TLS, or a certificate without a usable hash.
    Plain,
    /// `tls-server-end-point` of the connection.
    EndPoint(Bytes),
}

impl Offer {
    /// The mechanisms that a server with this transport offers, best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self {
            Offer::Plain => &[SCRAM_SHA_256],
            Offer::EndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }
}

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("SCRAM message of {bytes} bytes is too long")]
    TooLong { bytes: usize },
    #[error("SASL mechanism was not offered")]
    Mechanism,
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// The proof is wrong, or the role is unknown: the client cannot tell which.
    #[error("password authentication failed")]
    Rejected,
    /// More rounds than we accept.
    #[error("SCRAM iteration count {0} is out of bounds")]
    Iterations(u64),
    /// The server could not prove that it holds the verifier.
    #[error("the server's SCRAM signature is wrong")]
    ServerSignature,
    /// The server ended the login with a SCRAM error.
    #[error("the server answered SCRAM error \"{0}\"")]
    ServerRefused(String),
}

impl Explain for ScramError {
    fn sqlstate(&self) -> SqlState {
        match self {
            ScramError::Rejected => SqlState::INVALID_PASSWORD,
            ScramError::Downgrade | ScramError::Binding => SqlState::INVALID_AUTHORIZATION,
            ScramError::AuthorizationIdentity | ScramError::Extension => SqlState::FEATURE_NOT_SUPPORTED,
            ScramError::ServerSignature | ScramError::ServerRefused(_) | ScramError::Iterations(_) => {
                SqlState::CONNECTION_FAILURE
            }
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            ScramError::ServerSignature | ScramError::ServerRefused(_) | ScramError::Iterations(_) => {
                Blame::Server
            }
            _ => Blame::Client,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn message(&self) -> String {
        self.to_string()
    }
}

/// The attributes of a message, one after the other: `r=abc,s=...`.
struct Attributes<'a> {
    message: &'a str,
    /// Where the next attribute begins; past the end when there is none.
    next: usize,
}

impl<'a> Attributes<'a> {
    fn new(message: &'a [u8]) -> Result<Attributes<'a>, ScramError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ScramError::TooLong { bytes: message.len() });
        }
        let message = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        Ok(Attributes { message, next: 0 })
    }

    fn at_end(&self) -> bool {
        self.next > self.message.len()
    }

    /// Name and value of the next attribute, whatever its name.
    fn any(&mut self) -> Result<(char, &'a str), ScramError> {
        let rest = self.message.get(self.next..).ok_or(ScramError::Malformed("attribute missing"))?;
        let attribute = rest.split(',').next().unwrap_or_default();
        self.next += attribute.len() + 1;
        let (name, value) =
            attribute.split_once('=').ok_or(ScramError::Malformed("attribute without value"))?;
        let mut letters = name.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if letter.is_ascii_alphabetic() => Ok((letter, value)),
            _ => Err(ScramError::Malformed("attribute without name")),
        }
    }

    /// The value of the next attribute, which must have this name.
    fn expect(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.any()? {
            (found, value) if found == name => Ok(value),
            ('m', _) => Err(ScramError::Extension),
            _ => Err(ScramError::Malformed("another attribute expected")),
        }
    }

    /// A nonce: printable ASCII, not empty.
    fn nonce(&mut self) -> Result<&'a str, ScramError> {
        let nonce = self.expect('r')?;
        match !nonce.is_empty() && nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            true => Ok(nonce),
            false => Err(ScramError::Malformed("nonce")),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed("base64"))
}

fn decode_key(text: &str) -> Result<[u8; KEY_BYTES], ScramError> {
    decode(text)?.try_into().map_err(|_| ScramError::Malformed("key length"))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut signature = [0; KEY_BYTES];
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    signature.copy_from_slice(hmac::sign(&key, message).as_ref());
    signature
}

fn xor(left: &[u8; KEY_BYTES], right: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    std::array::from_fn(|index| left[index] ^ right[index])
}

fn same(left: &[u8; KEY_BYTES], right: &[u8; KEY_BYTES]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests;
