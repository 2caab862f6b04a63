//! Small changes to an input.

use rand::RngExt;
use rand::rngs::StdRng;

/// Inputs do not grow beyond it.
const BYTES_MAX: usize = 64 * 1024;
const TELLING: [u8; 12] = [0, 1, 3, 4, 5, 8, b'\'', b'"', b'$', 0x7f, 0x80, 0xff];

/// Makes one to six changes; some bring in a part of `other`.
pub(crate) fn mutate(rng: &mut StdRng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=input.len());
        let some = at..(at + rng.random_range(0..=16)).min(input.len());
        match rng.random_range(0..8) {
            0 => drop(input.drain(some)),
            1 => input.truncate(at),
            2 => {
                let again = input[some].to_vec();
                drop(input.splice(at..at, again));
            }
            3 => input.insert(at, rng.random()),
            4 => {
                let from = rng.random_range(0..=other.len());
                let part = other[from..(from + rng.random_range(0..=64)).min(other.len())].to_vec();
                drop(input.splice(some, part));
            }
            5 if at < input.len() => input[at] = TELLING[rng.random_range(0..TELLING.len())],
            _ if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            _ => input.push(rng.random()),
        }
    }
    input.truncate(BYTES_MAX);
}
