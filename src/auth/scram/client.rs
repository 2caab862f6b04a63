//! The client's side: authenticates us to a server, and verifies the server.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::verifier::Derivation;
use super::{
    Attributes, BINDING_HEADER, Nonce, Offer, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, decode,
    decode_key, hmac_sha256, same, xor,
};
use crate::auth::{ClientKeys, KEY_BYTES, sha256};

/// The chosen mechanism and the first message.
#[derive(Debug)]
pub struct ClientLogin {
    /// For SASLInitialResponse.
    pub mechanism: &'static str,
    /// client-first.
    pub message: String,
    pub next: AwaitChallenge,
}

impl ClientLogin {
    /// `offered` is what the server names in AuthenticationSASL, `offer` what our transport can be bound to.
    /// Chooses the strongest mechanism that both support; `None`: the server does not support SCRAM-SHA-256.
    pub fn start(offered: &[&str], offer: &Offer, nonce: &Nonce) -> Option<ClientLogin> {
        let (mechanism, header, binding): (_, _, &[u8]) = match offer {
            Offer::EndPoint(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, BINDING_HEADER, hash)
            }
            _ if !offered.contains(&SCRAM_SHA_256) => return None,
            // We could bind but the server offered no -PLUS: `y` lets it detect that its offer was tampered
            // with.
            Offer::EndPoint(_) => (SCRAM_SHA_256, "y,,", &[]),
            Offer::Plain => (SCRAM_SHA_256, "n,,", &[]),
        };
        let bare = format!("n=,r={}", nonce.0);
        let binding = STANDARD.encode([header.as_bytes(), binding].concat());
        let next = AwaitChallenge { nonce: nonce.0.clone(), bare: bare.clone(), binding };
        Some(ClientLogin { mechanism, message: format!("{header}{bare}"), next })
    }
}

/// A login that waits for server-first.
#[derive(Debug)]
pub struct AwaitChallenge {
    pub(super) nonce: String,
    pub(super) bare: String,
    pub(super) binding: String,
}

impl AwaitChallenge {
    /// Takes the data of AuthenticationSASLContinue.
    pub fn challenge(self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let mut attributes = Attributes::new(server_first)?;
        let nonce = attributes.nonce()?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let salt = decode(attributes.expect('s')?)?;
        let iterations = attributes.expect('i')?;
        let iterations = iterations.parse().map_err(|_| ScramError::Malformed("iteration count"))?;
        let without_proof = format!("c={},r={nonce}", self.binding);
        let message = format!("{},{},{without_proof}", self.bare, attributes.message);
        Ok(Challenge { salt, iterations, without_proof, message })
    }
}

/// A challenge that waits for an answer.
pub struct Challenge {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    /// client-final without its proof.
    without_proof: String,
    /// AuthMessage.
    message: String,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Challenge {
    /// The rounds of PBKDF2 that the server asks for.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Derives the keys for this challenge from a password. Fails above `ITERATIONS_MAX`.
    pub fn derivation(&self) -> Result<Derivation, ScramError> {
        Derivation::new(self.salt.clone(), self.iterations)
    }

    /// Returns client-final for SASLResponse. Keys of another verifier give a proof that the server refuses.
    pub fn answer(self, keys: &ClientKeys) -> (String, AwaitOutcome) {
        let stored_key = sha256(&keys.client_key);
        let signature = hmac_sha256(&stored_key, self.message.as_bytes());
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        let expected = hmac_sha256(&keys.server_key, self.message.as_bytes());
        (format!("{},p={proof}", self.without_proof), AwaitOutcome { expected })
    }
}

/// A login that waits for server-final.
pub struct AwaitOutcome {
    expected: [u8; KEY_BYTES],
}

impl fmt::Debug for AwaitOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitOutcome")
    }
}

impl AwaitOutcome {
    /// Takes the data of AuthenticationSASLFinal: the server must prove that it holds the verifier.
    pub fn finish(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(server_final)?;
        match attributes.any()? {
            ('v', signature) if same(&decode_key(signature)?, &self.expected) => Ok(()),
            ('v', _) => Err(ScramError::ServerSignature),
            ('e', error) => Err(ScramError::ServerRefused(error.to_owned())),
            _ => Err(ScramError::Malformed("another attribute expected")),
        }
    }
}
