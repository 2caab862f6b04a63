//! The messages of SCRAM, both roles against each other, with somebody in between.

use std::num::NonZeroU32;

use bytes::Bytes;
use freehold::auth::scram::{
    ClientLogin, MESSAGE_BYTES_MAX, Nonce, Offer, ScramError, ServerLogin, Verifier,
};
use rand::RngExt;
use rand::rngs::StdRng;

use super::Choices;

const PASSWORD: &str = "open sesame";

/// Which message is changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddled {
    Nothing,
    ClientFirst,
    ServerFirst,
    ClientFinal,
    ServerFinal,
    /// The text of a verifier, as a server may hold it.
    Verifier,
}

/// Where nothing is changed both sides agree. Where something is, they do not, unless it changed what means
/// nothing.
pub(super) fn check(input: &[u8]) {
    use Meddled::*;
    let mut choices = Choices(input);
    let meddled = [Nothing, ClientFirst, ServerFirst, ClientFinal, ServerFinal, Verifier][choices.below(6)];
    let offer = match choices.below(2) {
        0 => Offer::Plain,
        _ => Offer::EndPoint(Bytes::from_static(&[9; 32])),
    };
    let iterations = NonZeroU32::new(1 + choices.below(3) as u32).unwrap();
    let change = Change::read(&mut choices);
    if meddled == Verifier {
        return check_verifier(choices.0);
    }
    match (login(meddled, &offer, iterations, &change), meddled) {
        (Ok(()), _) => {}
        (Err(error), Nothing) => panic!("an honest login failed: {error}"),
        // What was changed is noticed.
        (Err(_), _) => {}
    }
}

/// Bytes of a message that are replaced.
#[derive(Debug)]
struct Change<'a> {
    at: usize,
    length: usize,
    by: &'a [u8],
}

impl<'a> Change<'a> {
    fn read(choices: &mut Choices<'a>) -> Change<'a> {
        let (at, length, count) = (usize::from(choices.byte()), choices.below(16), choices.below(16));
        Change { at, length, by: choices.bytes(count) }
    }

    fn of(&self, message: &str) -> Vec<u8> {
        let mut bytes = message.as_bytes().to_vec();
        let at = self.at % (bytes.len() + 1);
        let end = (at + self.length).min(bytes.len());
        drop(bytes.splice(at..end, self.by.iter().copied()));
        bytes
    }
}

/// The whole login. `Ok` where both sides believe in each other; it is checked that they may.
fn login(
    meddled: Meddled,
    offer: &Offer,
    iterations: NonZeroU32,
    change: &Change<'_>,
) -> Result<(), ScramError> {
    let sent = |at: Meddled, message: &str| match at == meddled {
        true => change.of(message),
        false => message.as_bytes().to_vec(),
    };
    let verifier = Verifier::from_password(PASSWORD, b"salt of 16 bytes", iterations);
    let fingerprint = verifier.fingerprint();
    let server = ServerLogin::new(verifier, offer.clone());
    let client = ClientLogin::start(server.mechanisms(), offer, &Nonce::from_random([1; 18])).unwrap();
    let client_first = client.message;
    let first = sent(Meddled::ClientFirst, &client_first);
    let (challenge, server) = server.first(client.mechanism, &first, &Nonce::from_random([2; 18]))?;
    let challenge_sent = sent(Meddled::ServerFirst, &challenge);
    let answering = client.next.challenge(&challenge_sent)?;
    let derivation = answering.derivation()?;
    // Work that a liar asks for is bounded, but not small.
    if iterations_in(&challenge_sent) > 100 {
        return Err(ScramError::Rejected);
    }
    let (last, client) = answering.answer(&derivation.keys(PASSWORD));
    let last_sent = sent(Meddled::ClientFinal, &last);
    let (outcome, keys) = server.finish(&last_sent)?;
    assert_eq!(keys.fingerprint(), fingerprint);
    assert!(first.len().max(last_sent.len()) <= MESSAGE_BYTES_MAX, "a message was too long");
    assert!(last_sent == last.as_bytes(), "a proof was changed, and accepted");
    assert!(first == client_first.as_bytes(), "the first message was changed, and accepted");
    assert!(challenge_sent == challenge.as_bytes(), "the challenge was changed, and accepted");
    let outcome_sent = sent(Meddled::ServerFinal, &outcome);
    client.finish(&outcome_sent)?;
    assert!(outcome_sent.starts_with(outcome.as_bytes()), "another signature was believed");
    Ok(())
}

fn iterations_in(challenge: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(challenge);
    text.rsplit("i=").next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A verifier that is understood is written back to one that is equal.
fn check_verifier(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(verifier) = Verifier::parse(text) else { return };
    assert_eq!(Verifier::parse(&verifier.to_string()).unwrap(), verifier);
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    let mut out: Vec<u8> = (0..6).map(|_| rng.random()).collect();
    if out[0] % 6 == 5 {
        let verifier = Verifier::from_password("x", &[1, 2, 3], NonZeroU32::MIN).to_string();
        out[5] = 0;
        out.extend(verifier.as_bytes());
        let at = rng.random_range(6..out.len());
        out[at] ^= 1 << rng.random_range(0..8);
    } else {
        let telling: &[u8] = b",=npyvsrci0A/+\xff\0";
        out.extend((0..16).map(|_| telling[rng.random_range(0..telling.len())]));
    }
    out
}
