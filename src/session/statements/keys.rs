//! Maps by the keys of statements.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Hashes the keys of statements. A key is random, or a digest with a secret: its own bits are spread, and no
/// client can choose them.
#[derive(Debug, Default)]
pub(in crate::session) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[inline]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

pub(in crate::session) type KeyMap<V> = HashMap<u128, V, BuildHasherDefault<KeyHasher>>;
pub(in crate::session) type KeySet = HashSet<u128, BuildHasherDefault<KeyHasher>>;
