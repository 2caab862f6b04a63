//! What a loan of a connection has done: what it may have left, and what code it ran keeps for later.
//!
//! Owns the answer for the client that gets the connection next. A session with a connection of its own is
//! one loan.

use std::sync::Arc;

use super::{Hints, Residue};
use crate::session::scan::Effects;

/// What a loan has done with names and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamesUse(Effects);

impl NamesUse {
    /// It may have changed the search path, for a while at least.
    pub(in crate::session) fn changes_path(self) -> bool {
        self.0.has(Effects::PATH)
    }

    /// The same, or that is not known: it has run texts that are built while they run.
    pub(in crate::session) fn may_change_path(self) -> bool {
        self.0.has(Effects::PATH | Effects::OPAQUE)
    }

    /// It may have run code that keeps what a name meant under that path.
    pub(in crate::session) fn keeps_found(self) -> bool {
        self.0.has(Effects::BY_PATH)
    }

    /// It may have changed settings by which values are read, or that is not known.
    pub(in crate::session) fn may_change_values(self) -> bool {
        self.0.has(Effects::VALUES | Effects::OPAQUE)
    }

    /// It may have run code that keeps a value that was read under those settings.
    pub(in crate::session) fn keeps_values(self) -> bool {
        self.0.has(Effects::BY_VALUES)
    }

    /// It has run texts that are put together while they run, and they may have set anything for a while.
    pub(in crate::session) fn ran_opaque(self) -> bool {
        self.0.has(Effects::OPAQUE)
    }

    /// What it ran was not known, or definitions have changed meanwhile: the above is a guess.
    pub(in crate::session) fn is_guess(self) -> bool {
        self.0.has(Effects::DEFINES)
    }

    /// What it keeps may refer to a temporary object.
    pub(in crate::session) fn keeps_temporary(self) -> bool {
        self.0.has(Effects::FINDS) && self.0.has(Effects::TEMPORARY)
    }
}

/// What the present loan has done.
#[derive(Debug)]
pub(in crate::session) struct Loan {
    residue: Residue,
    /// Changed the search path, or run code that keeps what names mean.
    names: NamesUse,
    /// What any text may set that was prepared by SQL or under a name: an EXECUTE may run it.
    prepared: Effects,
    /// Definitions have changed, or may have.
    pub(super) defined: bool,
    /// An error came: requests were skipped.
    pub(super) skipped: bool,
    /// Something ran that may decide what a text means when it is parsed.
    pub(super) parses_otherwise: bool,
}

impl Default for Loan {
    fn default() -> Loan {
        Loan {
            residue: Residue::Clean,
            names: NamesUse::default(),
            prepared: Effects::NONE,
            defined: false,
            skipped: false,
            parses_otherwise: false,
        }
    }
}

impl Loan {
    pub(super) fn residue(&self) -> Residue {
        self.residue
    }

    #[inline]
    pub(super) fn may_leave(&mut self, residue: Residue) {
        self.residue = self.residue.max(residue);
    }

    pub(super) fn names(&self) -> NamesUse {
        self.names
    }

    pub(super) fn note(&mut self, names: Effects) {
        self.names.0 |= names;
    }

    /// Something ran that may have these effects.
    pub(super) fn note_names(&mut self, effects: Effects, hints: Option<&Arc<Hints>>) {
        let mut note = |is_done: bool, names: Effects| {
            if is_done {
                self.names.0 |= names;
            }
        };
        note(effects.has(Effects::PATH), Effects::PATH);
        note(effects.has(Effects::VALUES), Effects::VALUES);
        note(effects.has(Effects::OPAQUE), Effects::OPAQUE);
        note(effects.has(Effects::DEFINES), Effects::DEFINES);
        note(effects.has(Effects::TEMPORARY | Effects::OPAQUE), Effects::TEMPORARY);
        let reached = match hints {
            // What it calls is not known.
            Some(hints) if effects.has(Effects::OPAQUE) => effects | hints.any(),
            _ => effects,
        };
        // A function is compiled when it is created; what is created may be used in the same loan, before it
        // is read.
        note(reached.has(Effects::BY_PATH | Effects::DEFINES), Effects::BY_PATH);
        note(reached.has(Effects::FINDS | Effects::DEFINES), Effects::FINDS);
        note(reached.has(Effects::BY_VALUES | Effects::DEFINES), Effects::BY_VALUES);
    }

    /// Counts as having run code that keeps what names mean.
    pub(super) fn may_keep_anything(&mut self) {
        self.names.0 |= Effects::BY_PATH | Effects::FINDS | Effects::BY_VALUES | Effects::DEFINES;
    }

    /// Another session is changing definitions: what ran may have been something else than was read.
    pub(in crate::session) fn definitions_are_changing(&mut self) {
        self.may_leave(Residue::Statements);
        self.may_keep_anything();
    }

    /// Freehold has parsed a text, which computes its constants.
    pub(super) fn parsed_ours(&mut self, hints: Option<&Arc<Hints>>) {
        let any = hints.map(|hints| hints.any());
        if any.is_some_and(Effects::is_none) {
            return;
        }
        self.may_leave(Residue::Statements);
        match any {
            // Analysing a text makes nothing, except by code that no text names.
            Some(any) => self.note_names(any.without(Effects::OPAQUE | Effects::TEMPORARY), hints),
            // Nothing is known of the functions that may have run.
            None => self.may_keep_anything(),
        }
        if let Some(known) = hints {
            self.note_names(known.implied(), hints);
        }
    }

    /// With what a statement may do that this text executes, where it may execute or prepare one.
    pub(super) fn with_prepared(&mut self, effects: Effects) -> Effects {
        if !effects.has(Effects::STATEMENTS) {
            return effects;
        }
        self.prepare(effects);
        effects | self.prepared
    }

    /// A text with these effects was prepared.
    pub(super) fn prepare(&mut self, effects: Effects) {
        for what in [Effects::PATH, Effects::VALUES, Effects::READING] {
            if effects.has(what) {
                self.prepared |= what;
            }
        }
    }

    /// Whether definitions were changed, and other sessions have not been told yet that they are in force.
    pub(in crate::session) fn is_defining(&self) -> bool {
        self.defined
    }

    /// Definitions have changed, or may have, since this was last asked.
    pub(in crate::session) fn take_defined(&mut self) -> bool {
        std::mem::take(&mut self.defined)
    }

    /// What the loan that ends now has done with names.
    pub(in crate::session) fn take_names(&mut self) -> NamesUse {
        std::mem::take(&mut self.names)
    }

    /// What the loan that ends now may have left, and whether requests were skipped.
    pub(super) fn end(&mut self) -> (Residue, bool) {
        self.parses_otherwise = false;
        (std::mem::take(&mut self.residue), std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_leaves_the_most_of_what_it_ran_and_the_next_begins_with_nothing() {
        let mut loan = Loan::default();
        loan.may_leave(Residue::Statements);
        loan.may_leave(Residue::Session);
        loan.skipped = true;
        loan.parses_otherwise = true;
        assert_eq!(loan.end(), (Residue::Statements, true));
        assert_eq!((loan.end(), loan.parses_otherwise), ((Residue::Clean, false), false));
    }

    #[test]
    fn what_was_prepared_counts_where_something_is_executed() {
        let mut loan = Loan::default();
        loan.prepare(Effects::PATH | Effects::RUNS);
        assert!(!loan.with_prepared(Effects::RUNS).has(Effects::PATH));
        assert!(loan.with_prepared(Effects::STATEMENTS).has(Effects::PATH));
    }

    #[test]
    fn a_new_function_may_be_used_before_it_is_read() {
        let mut loan = Loan::default();
        loan.note_names(Effects::DEFINES, None);
        let names = loan.take_names();
        assert!(names.keeps_found() && names.keeps_values() && names.is_guess() && !names.changes_path());
        assert_eq!(loan.take_names(), NamesUse::default());
    }
}
