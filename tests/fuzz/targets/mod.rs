//! What is tried, each with a property that holds for any bytes: `check` panics where it does not.
//!
//! Shared by the test beside this folder and by the targets of libFuzzer. Their `generate` makes inputs that
//! get past the first byte.

mod admin;
mod config;
mod exchange;
mod frame;
mod message;
mod model;
mod scan;
mod scram;
mod startup;

use rand::rngs::StdRng;

/// One thing that reads bytes of strangers.
#[derive(Debug)]
pub(crate) struct Target {
    /// Also the name of its folder in the corpus.
    pub(crate) name: &'static str,
    pub(crate) check: fn(&[u8]),
    #[allow(dead_code, reason = "libFuzzer makes inputs of its own")]
    pub(crate) generate: fn(&mut StdRng) -> Vec<u8>,
}

pub(crate) const STARTUP: Target =
    Target { name: "startup", check: startup::check, generate: startup::generate };
pub(crate) const FRAME: Target = Target { name: "frame", check: frame::check, generate: frame::generate };
pub(crate) const MESSAGE: Target =
    Target { name: "message", check: message::check, generate: message::generate };
pub(crate) const EXCHANGE: Target =
    Target { name: "exchange", check: exchange::check, generate: exchange::generate };
pub(crate) const SCRAM: Target = Target { name: "scram", check: scram::check, generate: scram::generate };
pub(crate) const ADMIN: Target = Target { name: "admin", check: admin::check, generate: admin::generate };
pub(crate) const SCAN: Target = Target { name: "scan", check: scan::check, generate: scan::generate };
pub(crate) const CONFIG: Target = Target { name: "config", check: config::check, generate: config::generate };

/// Decisions taken from the front of an input; 0 once it is used up.
#[derive(Debug)]
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left, cut at up to seven places.
    fn pieces(&mut self) -> (&'a [u8], Vec<&'a [u8]>) {
        let cuts = self.below(8);
        let places: Vec<usize> =
            (0..cuts).map(|_| usize::from(self.byte()) << 8 | usize::from(self.byte())).collect();
        let whole = std::mem::take(&mut self.0);
        let mut places: Vec<usize> = places.into_iter().map(|place| place % (whole.len() + 1)).collect();
        places.extend([0, whole.len()]);
        places.sort_unstable();
        (whole, places.windows(2).map(|ends| &whole[ends[0]..ends[1]]).collect())
    }
}

/// The bytes before a stream that [`Choices::pieces`] reads: a few cuts.
fn put_cuts(rng: &mut StdRng, out: &mut Vec<u8>) {
    use rand::RngExt;
    let cuts = rng.random_range(0..8u8);
    out.push(cuts);
    out.extend((0..2 * cuts).map(|_| rng.random::<u8>()));
}

/// One of them.
fn pick<'a, T: ?Sized>(rng: &mut StdRng, of: &[&'a T]) -> &'a T {
    use rand::RngExt;
    of[rng.random_range(0..of.len())]
}
