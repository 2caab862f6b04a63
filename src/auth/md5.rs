//! PostgreSQL's own md5 scheme, for servers that know nothing better.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// The answer to AuthenticationMD5Password: `md5` and `md5(md5(password || role) || salt)` in hexadecimal.
pub fn answer(role: &str, password: &str, salt: [u8; 4]) -> Zeroizing<String> {
    let inner = hex_md5(&[password.as_bytes(), role.as_bytes()]);
    let outer = hex_md5(&[inner.as_bytes(), &salt]);
    Zeroizing::new(format!("md5{}", outer.as_str()))
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
}
