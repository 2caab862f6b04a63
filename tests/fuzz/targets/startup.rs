//! The packets that open a connection.

use bytes::BytesMut;
use freehold::wire::Violation;
use freehold::wire::startup::{self, Opening, PACKET_BYTES_MAX};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Choices, pick, put_cuts};

/// In pieces as whole; never more kept than a packet; what was understood is built back to the byte.
pub(super) fn check(input: &[u8]) {
    let (whole, pieces) = Choices(input).pieces();
    let read = openings(&[whole]);
    assert_eq!(read, openings(&pieces));
    let mut built = BytesMut::new();
    read.openings.iter().for_each(|opening| build(&mut built, opening));
    assert_eq!(built, whole[..whole.len() - read.left]);
}

#[derive(Debug, PartialEq)]
struct Read {
    openings: Vec<Opening>,
    violation: Option<Violation>,
    left: usize,
}

fn openings(pieces: &[&[u8]]) -> Read {
    let mut read = Read { openings: Vec::new(), violation: None, left: 0 };
    let mut buffer = BytesMut::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while read.violation.is_none() {
            match startup::take(&mut buffer) {
                Ok(Some(opening)) => read.openings.push(opening),
                Ok(None) => break,
                Err(violation) => read.violation = Some(violation),
            }
        }
        assert!(read.violation.is_some() || buffer.len() < PACKET_BYTES_MAX, "too much is waited for");
    }
    read.left = buffer.len();
    read
}

fn build(out: &mut BytesMut, opening: &Opening) {
    match opening {
        Opening::Ssl => startup::ssl_request(out),
        Opening::GssEnc => startup::gssenc_request(out),
        Opening::Cancel(request) => startup::cancel_request(out, request.pid, &request.key),
        Opening::Startup(message) => {
            let parameters = message.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            startup::startup_message(out, message.version.minor, parameters);
            assert!(!message.role().is_empty() && !message.database().is_empty());
            assert!(message.settings().count() <= message.parameters.len());
        }
    }
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    put_cuts(rng, &mut out);
    let mut packets = BytesMut::new();
    for _ in 0..rng.random_range(1..4) {
        match rng.random_range(0..6) {
            0 => startup::ssl_request(&mut packets),
            1 => startup::gssenc_request(&mut packets),
            2 => {
                let key: Vec<u8> = (0..rng.random_range(0..300)).map(|_| rng.random()).collect();
                startup::cancel_request(&mut packets, rng.random(), &key);
            }
            _ => {
                let names = ["user", "database", "options", "replication", "_pq_.test", "é", "user"];
                let values = ["app", "", "shop", "-c a=b\\ c", "database", "ä\u{10000}"];
                let count = rng.random_range(0..10);
                let pairs: Vec<_> = (0..count).map(|_| (pick(rng, &names), pick(rng, &values))).collect();
                startup::startup_message(&mut packets, rng.random_range(0..4), pairs);
            }
        }
    }
    out.extend_from_slice(&packets);
    out
}
