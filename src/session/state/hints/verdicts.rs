//! Verdicts that are remembered: applications send the same texts again and again.
//!
//! # Why
//! Cutting a text into tokens costs some ten times as much as finding it again. A text is kept when it comes
//! for the second time, so texts that contain values do not displace others; a slot holds one text, so there
//! is no search.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use crate::session::scan::{Backslashes, Verdict};

const SLOTS: usize = 512;
/// Longer texts are read each time.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// The verdicts by one set of hints.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Used by one worker; the lock is always free.
    slots: Mutex<Vec<Slot>>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// Of the last text in this slot.
    hash: u64,
    /// The text that came twice.
    kept: Option<Kept>,
}

#[derive(Debug, Clone)]
struct Kept {
    text: Box<[u8]>,
    backslashes: Backslashes,
    verdict: Verdict,
}

impl Verdicts {
    /// The verdict on this text, as `read` gave it before or gives it now.
    pub(super) fn find(
        &self,
        sql: &[u8],
        backslashes: Backslashes,
        read: impl FnOnce() -> Verdict,
    ) -> Verdict {
        if sql.len() > TEXT_BYTES_MAX {
            return read();
        }
        let Ok(mut slots) = self.slots.try_lock() else { return read() };
        if slots.is_empty() {
            slots.resize(SLOTS, Slot::default());
        }
        let hash = self.hasher.hash_one(sql);
        let Some(slot) = slots.get_mut(hash as usize % SLOTS) else { return read() };
        if let Some(kept) = &slot.kept
            && slot.hash == hash
            && *kept.text == *sql
            && kept.backslashes == backslashes
        {
            return kept.verdict;
        }
        let verdict = read();
        if slot.hash == hash {
            slot.kept = Some(Kept { text: sql.into(), backslashes, verdict });
        } else {
            *slot = Slot { hash, kept: None };
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_twice_and_then_remembered_as_it_was_read() {
        let verdicts = Verdicts::default();
        let mut reads = 0;
        for _ in 0..5 {
            verdicts.find(b"select 1", Backslashes::Literal, || {
                reads += 1;
                Verdict::default()
            });
        }
        assert_eq!(reads, 2);
        verdicts.find(b"select 1", Backslashes::Escape, || {
            reads += 1;
            Verdict::default()
        });
        assert_eq!(reads, 3, "a backslash means something else there");
    }

    #[test]
    fn long_texts_and_many_texts_are_no_burden() {
        let verdicts = Verdicts::default();
        verdicts.find(&[b' '; TEXT_BYTES_MAX + 1], Backslashes::Literal, Verdict::default);
        assert!(verdicts.slots.lock().unwrap().is_empty());
        for number in 0..10_000 {
            verdicts.find(format!("select {number}").as_bytes(), Backslashes::Literal, Verdict::default);
        }
        let slots = verdicts.slots.lock().unwrap();
        assert_eq!(slots.len(), SLOTS);
        assert!(slots.iter().all(|slot| slot.kept.is_none()));
    }
}
