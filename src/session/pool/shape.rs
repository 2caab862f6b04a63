//! Whether statements that clients share still mean what they did when they were prepared.
//!
//! # Why
//! PostgreSQL decides once, when a statement is prepared, of which types its parameters are, and which functions and operators that
//! leads to. Where a column gets another type, or a function an overload, whoever prepares the same text afterwards must not be given
//! the old statement: values would be stored otherwise in silence. A change by a command of a client's is seen by its tag. For
//! others, beside Freehold or in code that nobody reads, the catalogue is looked at: before a connection is lent, when there is a doubt or ten
//! seconds have gone by. A digest decides, so temporary tables and what only moved cost nobody a statement.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where so many digests in a row have shown nothing, and the last took longer than this, as many times as long goes by before there is another
/// one without a command that has changed definitions.
const FRUITLESS: u32 = 3;
const SLOW: Duration = Duration::from_millis(50);
const REST_TIMES: u32 = 10;

/// Doubts of less weight are none so soon after a look.
const REST: Duration = Duration::from_secs(1);

/// How many there were to look, and how many of them were looked at.
#[derive(Debug, Default)]
struct Reasons {
    all: AtomicU64,
    settled: AtomicU64,
}

impl Reasons {
    fn add(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    /// How many there are, and whether some were not looked at.
    fn count(&self) -> (u64, bool) {
        let all = self.all.load(Ordering::Acquire);
        (all, all != self.settled.load(Ordering::Acquire))
    }

    fn settle(&self, all: u64) {
        self.settled.fetch_max(all, Ordering::AcqRel);
    }
}

/// Of one database.
#[derive(Debug)]
pub(super) struct Shape {
    /// A command has changed definitions.
    doubts: Reasons,
    /// The digest may be another one, and most often is not.
    guesses: Reasons,
    /// It is time to look whether anything has changed.
    turns: Reasons,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    changes: Option<String>,
    digest: Option<String>,
    /// How long the last digest took, and when it was there.
    took: Duration,
    /// Digests in a row that were the same as the one before.
    fruitless: u32,
    looked: Option<Instant>,
}

impl Known {
    fn is_resting(&self) -> bool {
        let rest = self.took * REST_TIMES;
        let is_slow = self.took > SLOW && self.fruitless >= FRUITLESS;
        is_slow && self.looked.is_some_and(|looked| looked.elapsed() < rest)
    }
}

/// A look that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    doubts: u64,
    guesses: u64,
    turns: u64,
    pub(super) needs_digest: bool,
    began: Instant,
}

impl Shape {
    pub(super) fn new() -> Shape {
        // The first look is due at once: later ones are compared with it.
        let (doubts, guesses, turns) = Default::default();
        let shape = Shape { doubts, guesses, turns, known: Mutex::default() };
        shape.turn();
        shape
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubt(&self) {
        self.doubts.add();
    }

    pub(super) fn turn(&self) {
        self.turns.add();
    }

    /// An error may come of a statement that means what it did; as well it may be the client's own.
    pub(super) fn suspect(&self) {
        if self.known().looked.is_none_or(|looked| looked.elapsed() > REST) {
            self.turn();
        }
    }

    /// A session has seen that many changes.
    pub(super) fn saw_changes(&self, changes: Option<&str>) {
        if changes.is_none() || self.known().changes.as_deref() != changes {
            // Where temporary tables come and go, it differs most of the time.
            self.guess();
        }
    }

    /// Something may have changed the digest. Most often it has not: one that is slow is waited for.
    pub(super) fn guess(&self) {
        self.guesses.add();
    }

    pub(super) fn due(&self) -> Option<Look> {
        let (doubts, is_doubted) = self.doubts.count();
        let (guesses, is_guessed) = self.guesses.count();
        let (turns, is_turn) = self.turns.count();
        let is_due = is_doubted || ((is_guessed || is_turn) && !self.known().is_resting());
        let needs_digest = is_doubted || is_guessed;
        is_due.then(|| Look { doubts, guesses, turns, needs_digest, began: Instant::now() })
    }

    /// Whether the count alone shows that nothing has changed.
    pub(super) fn is_counted(&self, changes: Option<&str>) -> bool {
        let mut known = self.known();
        if known.looked.is_none() {
            known.looked = Some(Instant::now());
            known.changes = changes.map(str::to_owned);
            return true;
        }
        changes.is_some() && known.changes.as_deref() == changes
    }

    /// What a look has brought; `None`: the server did not say. Whether statements of before may mean something else now.
    pub(super) fn learn(&self, look: Look, changes: Option<String>, digest: Option<String>) -> bool {
        let mut known = self.known();
        known.took = look.began.elapsed();
        known.looked = Some(Instant::now());
        known.changes = changes;
        let is_same = digest.is_some() && known.digest == digest;
        known.fruitless = if is_same { known.fruitless.saturating_add(1) } else { 0 };
        known.digest = digest;
        !is_same
    }

    pub(super) fn settle(&self, look: Look) {
        self.doubts.settle(look.doubts);
        self.guesses.settle(look.guesses);
        self.turns.settle(look.turns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_look_is_due_at_once_and_a_doubt_asks_for_the_digest() {
        let shape = Shape::new();
        let first = shape.due().unwrap();
        assert!(!first.needs_digest && shape.is_counted(Some("7")));
        shape.settle(first);
        assert!(shape.due().is_none());
        shape.saw_changes(Some("7"));
        assert!(shape.due().is_none());
        shape.saw_changes(Some("8"));
        let look = shape.due().unwrap();
        assert!(look.needs_digest);
        // Nothing is known that it could be compared with.
        assert!(shape.learn(look, text("8"), text("a")));
        shape.doubt();
        shape.settle(look);
        let again = shape.due().unwrap();
        assert!(!shape.learn(again, text("9"), text("a")));
        shape.settle(again);
        assert!(shape.due().is_none() && shape.is_counted(Some("9")) && !shape.is_counted(None));
        assert!(shape.learn(again, text("9"), None), "the server did not say");
    }

    #[test]
    fn a_slow_digest_that_shows_nothing_is_not_asked_for_without_a_rest() {
        let shape = Shape::new();
        let began = Instant::now().checked_sub(SLOW * 2).unwrap();
        for _ in 0..=FRUITLESS {
            shape.guess();
            let slow = Look { began, ..shape.due().unwrap() };
            shape.learn(slow, None, text("a"));
            shape.settle(slow);
        }
        shape.guess();
        assert!(shape.due().is_none());
        shape.doubt();
        assert!(shape.due().unwrap().needs_digest);
    }
}
