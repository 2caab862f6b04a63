//! The server's side: checks a client against a verifier, and learns its keys.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroize;

use super::verifier::SALT_BYTES_DEFAULT;
use super::{
    Attributes, BINDING_HEADER, Nonce, Offer, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier,
    decode_key, hmac_sha256, same, xor,
};
use crate::auth::{ClientKeys, KEY_BYTES, sha256};

/// Makes up verifiers for roles that do not exist: always the same one for a role, so that asking twice
/// reveals nothing. All processes of a store share the secret, and keep it: otherwise asking two of them,
/// or asking again after a restart, does.
#[derive(Clone)]
pub struct MockSecret([u8; KEY_BYTES]);

impl MockSecret {
    pub fn from_random(bytes: [u8; KEY_BYTES]) -> MockSecret {
        MockSecret(bytes)
    }

    /// The secret of one port: with the same salts on two ports, a role that exists on one of them alone
    /// would be known by its salt.
    pub fn of_port(nonce: &[u8; KEY_BYTES], port: &str) -> MockSecret {
        MockSecret(hmac_sha256(nonce, port.as_bytes()))
    }

    /// The verifier of a role that does not exist. No password matches it.
    pub fn verifier(&self, role: &str, iterations: NonZeroU32) -> Verifier {
        let salt = hmac_sha256(&self.0, role.as_bytes());
        Verifier {
            iterations,
            salt: salt.iter().copied().take(SALT_BYTES_DEFAULT).collect(),
            stored_key: hmac_sha256(&self.0, &salt),
            server_key: hmac_sha256(&salt, &self.0),
        }
    }
}

impl Drop for MockSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockSecret")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Known,
    /// The verifier is made up: every proof is refused.
    Unknown,
}

/// A login that waits for client-first.
#[derive(Debug)]
pub struct ServerLogin {
    verifier: Verifier,
    standing: Standing,
    offer: Offer,
}

impl ServerLogin {
    pub fn new(verifier: Verifier, offer: Offer) -> ServerLogin {
        ServerLogin { verifier, standing: Standing::Known, offer }
    }

    /// For a role that does not exist, may not log in, or has no SCRAM verifier. Takes the same messages and
    /// time as any other login, and fails like a wrong password. `iterations` should be what the real
    /// verifiers have.
    pub fn unknown(secret: &MockSecret, role: &str, iterations: NonZeroU32, offer: Offer) -> ServerLogin {
        ServerLogin::hopeless(secret.verifier(role, iterations), offer)
    }

    /// The same, with the salt and the iterations of this verifier; every password is refused.
    pub fn hopeless(verifier: Verifier, offer: Offer) -> ServerLogin {
        ServerLogin { verifier, standing: Standing::Unknown, offer }
    }

    /// The mechanisms for AuthenticationSASL.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        self.offer.mechanisms()
    }

    /// Takes the SASLInitialResponse, returns server-first for AuthenticationSASLContinue.
    pub fn first(
        self,
        mechanism: &str,
        client_first: &[u8],
        nonce: &Nonce,
    ) -> Result<(String, AwaitFinal), ScramError> {
        let mut attributes = Attributes::new(client_first)?;
        let header = take_header(&mut attributes)?;
        let binding = self.expected_binding(mechanism, header)?;
        let is_bound = mechanism == SCRAM_SHA_256_PLUS;
        let bare = attributes.message.get(header.len()..).unwrap_or_default();
        // The startup packet names the role: PostgreSQL ignores the name here, and so do we.
        attributes.expect('n')?;
        let client_nonce = attributes.nonce()?;
        while !attributes.at_end() {
            attributes.any()?;
        }
        let nonce = format!("{client_nonce}{}", nonce.0);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let transcript = format!("{bare},{server_first},");
        let (verifier, standing) = (self.verifier, self.standing);
        let next = AwaitFinal { verifier, standing, binding, is_bound, nonce, transcript };
        Ok((server_first, next))
    }

    /// What the client must send back as `c`: its own header and, with -PLUS, the hash of our certificate.
    fn expected_binding(&self, mechanism: &str, header: &str) -> Result<String, ScramError> {
        match (mechanism, &self.offer, header) {
            (SCRAM_SHA_256_PLUS, Offer::EndPoint(hash), BINDING_HEADER) => {
                Ok(STANDARD.encode([header.as_bytes(), hash.as_ref()].concat()))
            }
            (SCRAM_SHA_256_PLUS, Offer::EndPoint(_), _) => Err(ScramError::Malformed("channel binding type")),
            (SCRAM_SHA_256, Offer::EndPoint(_), "y,,") => Err(ScramError::Downgrade),
            (SCRAM_SHA_256, _, "n,," | "y,,") => Ok(STANDARD.encode(header)),
            (SCRAM_SHA_256, _, _) => Err(ScramError::Malformed("channel binding without -PLUS")),
            _ => Err(ScramError::Mechanism),
        }
    }
}

/// The GS2 header: `n,,`, `y,,` or `p=<type>,,`.
fn take_header<'a>(attributes: &mut Attributes<'a>) -> Result<&'a str, ScramError> {
    let mut parts = attributes.message.splitn(3, ',');
    let (flag, identity) = (parts.next().unwrap_or_default(), parts.next());
    match identity {
        Some("") => {}
        Some(identity) if identity.starts_with('a') => return Err(ScramError::AuthorizationIdentity),
        _ => return Err(ScramError::Malformed("header")),
    }
    if flag != "n" && flag != "y" && !flag.starts_with("p=") {
        return Err(ScramError::Malformed("channel binding flag"));
    }
    attributes.next = flag.len() + 2;
    attributes.message.get(..attributes.next).ok_or(ScramError::Malformed("header"))
}

/// A login that waits for client-final.
pub struct AwaitFinal {
    verifier: Verifier,
    standing: Standing,
    /// The base64 text that `c` must equal.
    binding: String,
    /// `binding` contains the hash of our certificate.
    is_bound: bool,
    /// Client nonce and server nonce, joined.
    nonce: String,
    /// client-first-bare, server-first, and the comma after them.
    transcript: String,
}

impl fmt::Debug for AwaitFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitFinal").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl AwaitFinal {
    /// Takes the SASLResponse, returns server-final for AuthenticationSASLFinal and the client's keys.
    pub fn finish(self, client_final: &[u8]) -> Result<(String, ClientKeys), ScramError> {
        let mut attributes = Attributes::new(client_final)?;
        let binding = attributes.expect('c')?;
        match (binding == self.binding, self.is_bound) {
            (true, _) => {}
            (false, true) => return Err(ScramError::Binding),
            (false, false) => return Err(ScramError::Malformed("unexpected channel binding")),
        }
        if attributes.nonce()? != self.nonce {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let (without_proof, proof) = loop {
            let end = attributes.next.saturating_sub(1);
            if let ('p', proof) = attributes.any()? {
                break (attributes.message.get(..end).unwrap_or_default(), decode_key(proof)?);
            }
        };
        if !attributes.at_end() {
            return Err(ScramError::Malformed("something follows the proof"));
        }
        self.check(without_proof, &proof)
    }

    fn check(
        &self,
        without_proof: &str,
        proof: &[u8; KEY_BYTES],
    ) -> Result<(String, ClientKeys), ScramError> {
        let message = format!("{}{without_proof}", self.transcript);
        let signature = hmac_sha256(&self.verifier.stored_key, message.as_bytes());
        let keys = ClientKeys {
            client_key: xor(proof, &signature),
            server_key: self.verifier.server_key,
            fingerprint: self.verifier.fingerprint(),
        };
        let genuine = same(&sha256(&keys.client_key), &self.verifier.stored_key);
        let outcome = hmac_sha256(&self.verifier.server_key, message.as_bytes());
        match (genuine, self.standing) {
            (true, Standing::Known) => Ok((format!("v={}", STANDARD.encode(outcome)), keys)),
            _ => Err(ScramError::Rejected),
        }
    }
}
