//! What happened to a database, in its record.
//!
//! # Why a bounded number of entries
//! A record is read and written as a whole, and every process keeps it in memory. Its owner may change it as
//! often as it likes: without a bound the record would grow with each change. The audit trail has what is not
//! kept here.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::{Epoch, UnixMillis};

/// How many entries are kept.
const ENTRIES_MAX: usize = 100;

/// The newest entries, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    history: Vec<HistoryEntry>,
    /// How many older ones are no longer kept.
    #[serde(default, rename = "history_older", skip_serializing_if = "is_zero")]
    older: u64,
}

impl History {
    /// Adds the newest entry. The oldest one makes room for it.
    pub fn push(&mut self, entry: HistoryEntry) {
        self.history.push(entry);
        let superfluous = self.history.len().saturating_sub(ENTRIES_MAX);
        self.history.drain(..superfluous);
        self.older += superfluous as u64;
    }

    /// How many entries are no longer kept.
    pub fn older(&self) -> u64 {
        self.older
    }
}

impl From<HistoryEntry> for History {
    fn from(first: HistoryEntry) -> History {
        History { history: vec![first], older: 0 }
    }
}

impl Deref for History {
    type Target = [HistoryEntry];

    fn deref(&self) -> &[HistoryEntry] {
        &self.history
    }
}

// serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One thing that happened to a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub at: UnixMillis,
    pub who: String,
    /// A sentence: `moved from pg15 to pg17 (move 3), longest client stall 7 ms`.
    pub what: String,
    pub epoch: Option<Epoch>,
    /// Hidden where it is not stored: nothing says that an older entry names no system.
    #[serde(default, skip_serializing_if = "Told::is_nothing")]
    pub told: Told,
}

/// What the people of the product are told of an entry of a history or of the audit trail, which may name
/// systems and moves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// Nothing: it is the platform's alone.
    #[default]
    Nothing,
    AsItIs,
    InOtherWords(String),
}

impl Told {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Told::Nothing
    }
}

impl HistoryEntry {
    /// What the people of the product are told.
    pub fn of_product(&self) -> Option<&str> {
        match &self.told {
            Told::Nothing => None,
            Told::AsItIs => Some(&self.what),
            Told::InOtherWords(words) => Some(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> HistoryEntry {
        let (who, what) = ("alice".to_owned(), "revived".to_owned());
        HistoryEntry { at: UnixMillis(at), who, what, epoch: None, told: Told::AsItIs }
    }

    #[derive(Serialize, Deserialize)]
    struct Record {
        name: String,
        #[serde(flatten)]
        history: History,
    }

    #[test]
    fn the_newest_entries_are_kept_and_the_others_are_counted() {
        let mut history = History::from(entry(0));
        (1..250).for_each(|at| history.push(entry(at)));
        assert_eq!((history.len(), history.older()), (ENTRIES_MAX, 150));
        assert_eq!((history[0].at, history[ENTRIES_MAX - 1].at), (UnixMillis(150), UnixMillis(249)));
    }

    #[test]
    fn a_history_of_an_older_version_is_read_and_a_short_one_is_written_as_that_did() {
        let stored = r#"{"name":"shop","history":[{"at":1,"who":"alice","what":"revived","epoch":null,"told":"asitis"}]}"#;
        let mut record: Record = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), stored);
        (0..ENTRIES_MAX as u64).for_each(|at| record.history.push(entry(at)));
        let stored = serde_json::to_string(&record).unwrap();
        assert!(stored.ends_with(r#"],"history_older":1}"#), "{stored}");
        assert_eq!(serde_json::from_str::<Record>(&stored).unwrap().history, record.history);
    }
}
