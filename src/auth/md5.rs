//! PostgreSQL's md5 authentication, as client and as server, for peers that do not support SCRAM.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "md5";

/// The answer to AuthenticationMD5Password: `md5` and `md5(md5(password || role) || salt)` in hexadecimal.
pub fn answer(role: &str, password: &str, salt: [u8; 4]) -> Zeroizing<String> {
    Md5Secret::from_password(role, password).answer(salt)
}

/// What a server stores: `md5` and the hash of password and role. It is equivalent to the password for this
/// scheme: it logs in to every server that stores the same one.
#[derive(Clone)]
pub struct Md5Secret(Zeroizing<String>);

impl Md5Secret {
    /// Parses `pg_authid.rolpassword`. `None`: it is not an md5 password.
    pub fn parse(text: &str) -> Option<Md5Secret> {
        let hash = text.strip_prefix(PREFIX)?;
        let hexadecimal = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then(|| Md5Secret(Zeroizing::new(hash.to_owned())))
    }

    pub fn from_password(role: &str, password: &str) -> Md5Secret {
        Md5Secret(hex_md5(&[password.as_bytes(), role.as_bytes()]))
    }

    /// The answer to AuthenticationMD5Password.
    pub fn answer(&self, salt: [u8; 4]) -> Zeroizing<String> {
        let outer = hex_md5(&[self.0.as_bytes(), &salt]);
        Zeroizing::new(format!("{PREFIX}{}", outer.as_str()))
    }

    /// Whether `answer` is the right answer to this salt.
    pub fn accepts(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.answer(salt).as_bytes().ct_eq(answer).into()
    }

    pub(super) fn is_same(&self, other: &Md5Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    pub fn is_of(&self, role: &str, password: &str) -> bool {
        self.0.as_bytes().ct_eq(Md5Secret::from_password(role, password).0.as_bytes()).into()
    }
}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret")
    }
}

fn hex_md5(parts: &[&[u8]]) -> Zeroizing<String> {
    let mut hasher = Md5::new();
    parts.iter().for_each(|part| hasher.update(part));
    let hash = hasher.finalize();
    Zeroizing::new(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_md5_answer_is_computed_as_postgresql_does() {
        // select 'md5' || md5(md5('secret' || 'ann') || 'salt')
        assert_eq!(hex_md5(&[b"secret", b"ann"]).as_str(), "9d792a3a8853c2411afb9163d088c036");
        assert_eq!(answer("ann", "secret", *b"salt").as_str(), "md5b8f5ba9f485dba302ec0963f7ee9ba8f");
    }

    #[test]
    fn what_is_stored_accepts_its_password_and_its_answer_and_no_other() {
        let secret = Md5Secret::parse("md59d792a3a8853c2411afb9163d088c036").unwrap();
        assert!(
            secret.is_of("ann", "secret") && !secret.is_of("ann", "Secret") && !secret.is_of("bob", "secret")
        );
        assert!(secret.accepts(*b"salt", b"md5b8f5ba9f485dba302ec0963f7ee9ba8f"));
        assert!(!secret.accepts(*b"pepr", b"md5b8f5ba9f485dba302ec0963f7ee9ba8f"));
        assert!(!secret.accepts(*b"salt", b"md5") && !secret.accepts(*b"salt", b""));
    }

    #[test]
    fn only_md5_and_a_hash_is_an_md5_secret() {
        for text in ["", "md5", "md5123", "SCRAM-SHA-256$4096:x$y:z", "md5zz792a3a8853c2411afb9163d088c036"] {
            assert!(Md5Secret::parse(text).is_none(), "{text}");
        }
    }
}
