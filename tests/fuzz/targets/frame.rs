//! Where one message ends and the next begins.

use bytes::BytesMut;
use freehold::wire::Violation;
use freehold::wire::frame::{Part, WHOLE_BYTES_MAX, Walker};
use freehold::wire::message::{Target, frontend};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Choices, put_cuts};

/// Kept back until they are whole, by the bits of the first byte.
const WANTED: [u8; 8] = *b"ZSQPBEd\0";

/// In pieces as whole: the same messages, bytes and violation; what is wanted comes whole; little is kept.
pub(super) fn check(input: &[u8]) {
    let mut choices = Choices(input);
    let mask = choices.byte();
    let wanted = |tag| WANTED.iter().enumerate().any(|(bit, known)| *known == tag && mask & 1 << bit != 0);
    let (whole, pieces) = choices.pieces();
    let walk = Walk::over(&[whole], wanted);
    assert_eq!(walk, Walk::over(&pieces, wanted));
    assert_eq!(walk.forwarded, whole[..walk.forwarded.len()]);
}

#[derive(Debug, Default, PartialEq)]
struct Walk {
    forwarded: Vec<u8>,
    /// Tag and body; the last may be incomplete.
    messages: Vec<(u8, Vec<u8>)>,
    between: bool,
    violation: Option<Violation>,
}

impl Walk {
    fn over(pieces: &[&[u8]], wanted: impl Fn(u8) -> bool) -> Walk {
        let mut walk = Walk { between: true, ..Walk::default() };
        let mut walker = Walker::default();
        let mut kept = Vec::new();
        for piece in pieces {
            kept.extend_from_slice(piece);
            let taken = walk.take(&mut walker, &kept, &wanted);
            kept.drain(..taken);
            if walk.violation.is_some() {
                return walk;
            }
            assert!(kept.len() < WHOLE_BYTES_MAX, "{} bytes are kept", kept.len());
        }
        walk.between = walker.is_between_messages();
        walk
    }

    fn take(&mut self, walker: &mut Walker, bytes: &[u8], wanted: &impl Fn(u8) -> bool) -> usize {
        let mut taken = 0;
        loop {
            let piece = match walker.next(&bytes[taken..], wanted) {
                Ok(Some(piece)) => piece,
                Ok(None) => return taken,
                Err(violation) => {
                    self.violation = Some(violation);
                    return taken;
                }
            };
            assert!(!piece.bytes.is_empty(), "a piece without bytes is no progress");
            if piece.part.begins() {
                let declared = u32::from_be_bytes(piece.bytes[1..5].try_into().unwrap()) as usize + 1;
                let is_kept = wanted(piece.tag) && declared <= WHOLE_BYTES_MAX;
                assert!(!is_kept || piece.part == Part::Whole);
                self.messages.push((piece.tag, Vec::new()));
            }
            self.messages.last_mut().unwrap().1.extend_from_slice(piece.body());
            self.forwarded.extend_from_slice(piece.bytes);
            assert_eq!(piece.part.ends(), walker.is_between_messages());
            taken += piece.bytes.len();
        }
    }
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let mut out = vec![rng.random()];
    put_cuts(rng, &mut out);
    let mut stream = BytesMut::new();
    for _ in 0..rng.random_range(1..6) {
        match rng.random_range(0..5) {
            0 => frontend::sync(&mut stream),
            1 => frontend::query(&mut stream, "SELECT 1"),
            2 => frontend::describe(&mut stream, Target::Portal, b"p"),
            3 => frontend::copy_data(&mut stream, &vec![b'x'; rng.random_range(0..40)]),
            // At the edge of what is kept.
            _ => frontend::query(&mut stream, &"x".repeat(WHOLE_BYTES_MAX - 6 + rng.random_range(0..3) - 1)),
        }
    }
    out.extend_from_slice(&stream);
    out
}
