//! Whether shared statements, and what connections keep of functions and domains, still have the meaning that
//! they had when they were made.
//!
//! # Why
//! PostgreSQL decides once, when a statement is prepared, which types its parameters have, and which
//! functions and operators that leads to. If a column gets another type, or a function an overload, a client
//! that prepares the same text afterwards must not get the old statement: values would silently be stored
//! differently. A change by a client's command shows in its tag. For other changes, made outside of Freehold
//! or in code that is not read, the catalogue is checked before a connection is lent, on suspicion or after
//! ten seconds. A digest decides, so temporary tables and rows that only moved outdate no statement and no
//! connection. The first digest is taken before anything has run, to compare the next one with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this many digests in a row without a change, if the last took longer than `SLOW`, the next one is
/// delayed by `REST_TIMES` that time, unless a command has changed definitions.
const SAME_MAX: u32 = 3;
const SLOW: Duration = Duration::from_millis(50);
const REST_TIMES: u32 = 10;

/// A suspicion so soon after a check is ignored.
const REST: Duration = Duration::from_secs(1);

/// How many reasons for a check there were, and how many of them a check has dealt with.
#[derive(Debug, Default)]
struct CheckReasons {
    all: AtomicU64,
    settled: AtomicU64,
}

impl CheckReasons {
    fn add(&self) {
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    /// How many there are, and whether some have not been dealt with.
    fn count(&self) -> (u64, bool) {
        let all = self.all.load(Ordering::Acquire);
        (all, all != self.settled.load(Ordering::Acquire))
    }

    fn settle(&self, all: u64) {
        self.settled.fetch_max(all, Ordering::AcqRel);
    }
}

/// The state of one database.
#[derive(Debug)]
pub(super) struct CatalogueCheck {
    /// A command has changed definitions.
    required: CheckReasons,
    /// The digest may have changed, and most often has not.
    requested: CheckReasons,
    /// A regular check is due.
    regular: CheckReasons,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    changes: Option<String>,
    digest: Option<String>,
    /// How long the last check took.
    took: Duration,
    /// Digests in a row that were the same as the one before.
    same: u32,
    last_checked: Option<Instant>,
}

impl Known {
    fn is_delayed(&self) -> bool {
        let rest = self.took * REST_TIMES;
        let is_slow = self.took > SLOW && self.same >= SAME_MAX;
        is_slow && self.last_checked.is_some_and(|last_checked| last_checked.elapsed() < rest)
    }
}

/// A check that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueCheck {
    required: u64,
    requested: u64,
    regular: u64,
    pub(super) needs_digest: bool,
    began: Instant,
}

impl CatalogueCheck {
    pub(super) fn new() -> CatalogueCheck {
        // The first check is due at once: later ones are compared with it.
        let (required, requested, regular) = Default::default();
        let catalogue_check = CatalogueCheck { required, requested, regular, known: Mutex::default() };
        catalogue_check.request_regular();
        catalogue_check
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn require(&self) {
        self.required.add();
    }

    pub(super) fn request_regular(&self) {
        self.regular.add();
    }

    /// An error may come from a statement that still has its old meaning, or be the client's own.
    pub(super) fn request_after_error(&self) {
        if self.known().last_checked.is_none_or(|last_checked| last_checked.elapsed() > REST) {
            self.request_regular();
        }
    }

    /// A session has seen this count of changes.
    pub(super) fn saw_changes(&self, changes: Option<&str>) {
        if changes.is_none() || self.known().changes.as_deref() != changes {
            // Where temporary tables come and go, it differs most of the time.
            self.request();
        }
    }

    /// The digest may have changed. Most often it has not, so a slow digest is delayed.
    pub(super) fn request(&self) {
        self.requested.add();
    }

    pub(super) fn due(&self) -> Option<DueCheck> {
        let (required, is_required) = self.required.count();
        let (requested, is_requested) = self.requested.count();
        let (regular, is_regular) = self.regular.count();
        let is_due = is_required || ((is_requested || is_regular) && !self.known().is_delayed());
        let needs_digest = is_required || is_requested || !self.was_checked();
        is_due.then(|| DueCheck { required, requested, regular, needs_digest, began: Instant::now() })
    }

    /// Whether the count alone shows that nothing has changed.
    pub(super) fn is_counted(&self, changes: Option<&str>) -> bool {
        changes.is_some() && self.known().changes.as_deref() == changes
    }

    /// Whether the catalogue was checked at least once.
    pub(super) fn was_checked(&self) -> bool {
        self.known().last_checked.is_some()
    }

    /// Records the result of a check; `None`: the server did not say. `true`: statements that were made
    /// before may have another meaning now.
    pub(super) fn learn(&self, check: DueCheck, changes: Option<String>, digest: Option<String>) -> bool {
        let mut known = self.known();
        known.took = check.began.elapsed();
        let is_first = known.last_checked.replace(Instant::now()).is_none();
        known.changes = changes;
        let is_same = digest.is_some() && known.digest == digest;
        known.same = if is_same { known.same.saturating_add(1) } else { 0 };
        known.digest = digest;
        // Before the first check nothing was made that could be outdated.
        let has_begun = is_first && known.digest.is_some();
        !(is_same || has_begun)
    }

    pub(super) fn settle(&self, check: DueCheck) {
        self.required.settle(check.required);
        self.requested.settle(check.requested);
        self.regular.settle(check.regular);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_look_asks_for_the_digest_and_later_ones_do_if_there_is_a_doubt() {
        let catalogue_check = CatalogueCheck::new();
        let first = catalogue_check.due().unwrap();
        assert!(first.needs_digest && !catalogue_check.was_checked());
        assert!(!catalogue_check.learn(first, text("7"), text("z")), "nothing has run before");
        catalogue_check.settle(first);
        assert!(catalogue_check.was_checked());
        catalogue_check.request_regular();
        let turn = catalogue_check.due().unwrap();
        assert!(!turn.needs_digest && catalogue_check.is_counted(Some("7")));
        catalogue_check.settle(turn);
        assert!(catalogue_check.due().is_none());
        catalogue_check.saw_changes(Some("7"));
        assert!(catalogue_check.due().is_none());
        catalogue_check.saw_changes(Some("8"));
        let check = catalogue_check.due().unwrap();
        assert!(check.needs_digest);
        assert!(catalogue_check.learn(check, text("8"), text("a")));
        catalogue_check.require();
        catalogue_check.settle(check);
        let again = catalogue_check.due().unwrap();
        assert!(!catalogue_check.learn(again, text("9"), text("a")));
        catalogue_check.settle(again);
        assert!(
            catalogue_check.due().is_none()
                && catalogue_check.is_counted(Some("9"))
                && !catalogue_check.is_counted(None)
        );
        assert!(catalogue_check.learn(again, text("9"), None), "the server did not say");
        let silent = CatalogueCheck::new();
        assert!(silent.learn(silent.due().unwrap(), None, None), "nor did it at first");
    }

    #[test]
    fn a_slow_digest_that_shows_nothing_is_not_asked_for_without_a_rest() {
        let catalogue_check = CatalogueCheck::new();
        let began = Instant::now().checked_sub(SLOW * 2).unwrap();
        for _ in 0..=SAME_MAX {
            catalogue_check.request();
            let slow = DueCheck { began, ..catalogue_check.due().unwrap() };
            catalogue_check.learn(slow, None, text("a"));
            catalogue_check.settle(slow);
        }
        catalogue_check.request();
        assert!(catalogue_check.due().is_none());
        catalogue_check.require();
        assert!(catalogue_check.due().unwrap().needs_digest);
    }
}
