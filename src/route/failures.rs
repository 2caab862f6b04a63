//! How many errors the clients of a database were told, by class of SQLSTATE and by responsible side.
//!
//! # Why shared by all workers
//! Errors are rare, and most databases of a process have none for long: the counts are made at the first
//! error. Then an atomic addition by several threads costs less than counts for each worker.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Blame, SqlState};
use crate::model::ErrorCounts;

/// The classes of PostgreSQL's manual, appendix A, in their order; an application may raise others.
const CLASSES: [&str; 44] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23",
    "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44",
    "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
];

/// The class of all others.
const OTHER: &str = "other";

/// One for each side, in the order of [`Blame::ALL`].
type OfClass = [AtomicU64; Blame::ALL.len()];

#[derive(Debug, Default)]
pub(super) struct Failures(OnceLock<Box<[OfClass; CLASSES.len() + 1]>>);

impl Failures {
    pub(super) fn count(&self, sqlstate: SqlState, blame: Blame) {
        let none = || Box::new(std::array::from_fn(|_| OfClass::default()));
        let class = CLASSES.binary_search(&sqlstate.class()).unwrap_or(CLASSES.len());
        self.0.get_or_init(none)[class][blame as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that are not 0.
    pub(super) fn counts(&self) -> ErrorCounts {
        let mut counts = ErrorCounts::default();
        let Some(classes) = self.0.get() else { return counts };
        for (name, sides) in CLASSES.into_iter().chain([OTHER]).zip(&**classes) {
            let of_side = |blame: Blame| (blame, sides[blame as usize].load(Ordering::Relaxed));
            let of_class: BTreeMap<Blame, u64> =
                Blame::ALL.into_iter().map(of_side).filter(|(_, count)| *count > 0).collect();
            if !of_class.is_empty() {
                counts.insert(name.to_owned(), of_class);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_class_and_side() {
        let failures = Failures::default();
        assert!(failures.counts().is_empty());
        for (sqlstate, blame) in [
            ("57P01", Blame::Server),
            ("57P03", Blame::Server),
            ("57014", Blame::Client),
            ("42601", Blame::Client),
            ("ZZ001", Blame::Client),
            ("00000", Blame::Client),
            ("XX000", Blame::Platform),
        ] {
            failures.count(SqlState::parse(sqlstate), blame);
        }
        let told = serde_json::to_string(&failures.counts()).unwrap();
        assert_eq!(
            told,
            r#"{"00":{"client":1},"42":{"client":1},"57":{"client":1,"server":2},"XX":{"platform":1},"other":{"client":1}}"#
        );
    }

    #[test]
    fn the_classes_are_sorted() {
        assert!(CLASSES.is_sorted());
    }
}
