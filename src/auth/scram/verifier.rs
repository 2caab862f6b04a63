//! What a server stores of a password: enough to verify it, not enough to log in with it.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;
use zeroize::{Zeroize, Zeroizing};

use super::{ScramError, decode, decode_key, hmac_sha256, same, xor};
use crate::auth::{ClientKeys, KEY_BYTES, VerifierFingerprint, sha256};

/// PostgreSQL's default of `scram_iterations`.
pub const ITERATIONS_DEFAULT: u32 = 4096;
/// PostgreSQL's `SCRAM_DEFAULT_SALT_LEN`.
pub const SALT_BYTES_DEFAULT: usize = 16;
/// The longest salt accepted, in bytes: a bound. No known system writes a longer one.
const SALT_BYTES_MAX: usize = 512;

/// The most rounds of PBKDF2 that we compute for a server. PostgreSQL's default is 4096.
const ITERATIONS_MAX: u32 = 1_000_000;

const PREFIX: &str = "SCRAM-SHA-256$";

/// Why a text is not a SCRAM verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    #[error("the secret is not a SCRAM-SHA-256 verifier")]
    Kind,
    #[error("the SCRAM-SHA-256 verifier is damaged")]
    Damaged,
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`. RFC 5803.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

impl Verifier {
    pub fn parse(text: &str) -> Result<Verifier, VerifierError> {
        let rest = text.strip_prefix(PREFIX).ok_or(VerifierError::Kind)?;
        let (parameters, keys) = rest.split_once('$').ok_or(VerifierError::Damaged)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(VerifierError::Damaged)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError::Damaged)?;
        let salt = decode(salt).map_err(|_| VerifierError::Damaged)?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(VerifierError::Damaged);
        }
        Ok(Verifier {
            iterations: iterations.parse().map_err(|_| VerifierError::Damaged)?,
            salt,
            stored_key: decode_key(stored_key).map_err(|_| VerifierError::Damaged)?,
            server_key: decode_key(server_key).map_err(|_| VerifierError::Damaged)?,
        })
    }

    /// Computes the verifier of a password. Slow on purpose (milliseconds): never on a worker.
    pub fn from_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let keys = SaltedKeys::derive(password, salt, iterations);
        Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// Derives the keys of this verifier from a password.
    pub fn derivation(&self) -> Result<Derivation, ScramError> {
        Derivation::new(self.salt.clone(), self.iterations)
    }

    /// Whether the keys belong to the right password.
    pub fn accepts(&self, keys: &ClientKeys) -> bool {
        same(&sha256(&keys.client_key), &self.stored_key) & same(&keys.server_key, &self.server_key)
    }

    pub fn fingerprint(&self) -> VerifierFingerprint {
        VerifierFingerprint(xor(&self.stored_key, &self.server_key))
    }

    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }
}

/// The text that PostgreSQL stores, and that `ALTER ROLE ... PASSWORD` takes unchanged.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = STANDARD.encode(&self.salt);
        let stored_key = STANDARD.encode(self.stored_key);
        let server_key = STANDARD.encode(self.server_key);
        write!(f, "{PREFIX}{}:{salt}${stored_key}:{server_key}", self.iterations)
    }
}

/// Omits the keys: with them one can impersonate the server and guess passwords offline.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// PBKDF2 over a password: takes milliseconds, so it runs where blocking is allowed.
#[derive(Debug, Clone)]
pub struct Derivation {
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl Derivation {
    /// Fails above `ITERATIONS_MAX`.
    pub(super) fn new(salt: Vec<u8>, iterations: NonZeroU32) -> Result<Derivation, ScramError> {
        match iterations.get() > ITERATIONS_MAX {
            true => Err(ScramError::Iterations(u64::from(iterations.get()))),
            false => Ok(Derivation { salt, iterations }),
        }
    }

    pub fn keys(&self, password: &str) -> ClientKeys {
        SaltedKeys::derive(password, &self.salt, self.iterations)
            .into_client_keys(&self.salt, self.iterations)
    }
}

/// ClientKey and ServerKey before it is known which verifier they belong to.
pub(super) struct SaltedKeys {
    client_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
}

impl SaltedKeys {
    pub(super) fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> SaltedKeys {
        let prepared = prepare(password);
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, prepared.as_bytes(), salted.as_mut_slice());
        SaltedKeys {
            client_key: hmac_sha256(salted.as_slice(), b"Client Key"),
            server_key: hmac_sha256(salted.as_slice(), b"Server Key"),
        }
    }

    pub(super) fn into_client_keys(self, salt: &[u8], iterations: NonZeroU32) -> ClientKeys {
        let verifier = Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        };
        ClientKeys {
            client_key: self.client_key,
            server_key: self.server_key,
            fingerprint: verifier.fingerprint(),
        }
    }
}

impl Drop for SaltedKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

/// SASLprep. If it prohibits the password or leaves nothing of it, the raw bytes are used, as in PostgreSQL.
fn prepare(password: &str) -> Zeroizing<String> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => Zeroizing::new(prepared.into_owned()),
        _ => Zeroizing::new(password.to_owned()),
    }
}
