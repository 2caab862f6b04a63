//! What running a text may do: by the rules by which the server reads literals now, and by what is known of
//! the database's functions.

use std::sync::Arc;

use super::freshness::Freshness;
use super::residue::STRINGS;
use super::{Hints, Residue};
use crate::session::scan::{self, Backslashes, Effects, Scan, ScanFinding, Unknown, Verdict};
use crate::wire::message::TransactionStatus;

/// Encodings that only clients have: the second byte of a character may be that of a backslash (manual,
/// 24.3.1).
const HIDING_ENCODINGS: [&str; 7] = ["BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"];

/// What the further pieces of a large message are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pieces {
    Sql,
    /// Values of parameters, or nothing that matters.
    #[default]
    Other,
}

/// Judges the texts of one session.
#[derive(Debug, Default)]
pub(in crate::session) struct TextJudge {
    backslashes: Backslashes,
    /// The client's encoding has characters with a backslash as their second byte.
    hides_backslashes: bool,
    /// A setting that decides how literals are read may have been set in this transaction.
    doubts_literals: bool,
    /// Something ran that could not be judged, and its text is not kept.
    pub(super) ran_unjudged: bool,
    /// Another session has changed definitions while something ran.
    pub(super) ran_redefined: bool,
    /// Of a message that is too large to be held as a whole.
    pub(super) large: Pieces,
    /// What is known of functions.
    pub(super) hints: Option<Arc<Hints>>,
}

impl TextJudge {
    pub(super) fn knowing(hints: Option<Arc<Hints>>) -> TextJudge {
        TextJudge { hints, ..TextJudge::default() }
    }

    #[inline]
    pub(super) fn hints(&self) -> Option<&Arc<Hints>> {
        self.hints.as_ref()
    }

    /// What functions do is to be read again: until then any may change the session.
    pub(in crate::session) fn forget_hints(&mut self) {
        self.hints = None;
    }

    /// The number of the hints; 0: there are none.
    pub(super) fn hints_id(&self) -> u32 {
        self.hints.as_ref().map_or(0, |hints| hints.id())
    }

    /// What running the text may do, as far as that is known now.
    pub(super) fn judge(&self, sql: &[u8], freshness: Freshness) -> Verdict {
        let judged = |backslashes| match &self.hints {
            Some(hints) => hints.judge(sql, backslashes),
            // Nothing is known of any name, so the state is asked for in any case.
            None => match scan::screen(sql) {
                Some(effects) => Verdict::of(effects),
                None => scan::read(sql, backslashes, &mut Unknown),
            },
        };
        let mut verdict = judged(self.backslashes);
        // How literals are read may have changed since the server last said so.
        let is_stale = freshness >= Freshness::Stale || self.doubts_literals || self.hides_backslashes;
        if is_stale && memchr::memchr(b'\\', sql).is_some() {
            let other = match self.backslashes {
                Backslashes::Literal => Backslashes::Escape,
                Backslashes::Escape => Backslashes::Literal,
            };
            verdict = verdict.or(judged(other));
            if sql.windows(2).any(|pair| pair[0] >= 0x80 && pair[1] == b'\\') {
                verdict.effects |= Effects::ANY;
            }
        }
        // The server reads the text after a conversion, which may yield a backslash.
        if self.hides_backslashes && !sql.is_ascii() {
            verdict.effects |= Effects::UNPROVEN | Effects::STATEMENTS;
        }
        verdict
    }

    /// Reads a text that may hold findings, by its verdict.
    pub(super) fn scan(&mut self, sql: &[u8], effects: Effects, sink: &mut dyn FnMut(ScanFinding)) -> Scan {
        let plain = effects.has(Effects::ESCAPED).then(|| scan::plain(sql, self.backslashes));
        let read = scan::scan(plain.as_deref().unwrap_or(sql), self.backslashes, sink);
        self.doubts_literals |= read.sets_locally;
        read
    }

    /// What code with these effects may leave, as far as is known now.
    pub(super) fn residue_of(&self, effects: Effects) -> Residue {
        match &self.hints {
            None if effects.has(Effects::RUNS) => Residue::Statements,
            // A hidden body may run any code of the database. Code that changes how functions are read counts
            // only if it can be reached by name: one such function would otherwise cost every client of the
            // database its connection.
            Some(hints) if effects.has(Effects::UNPROVEN) => {
                Residue::of(effects | hints.any().without(Effects::READING))
            }
            _ => Residue::of(effects),
        }
    }

    /// Two settings decide how texts are read.
    pub(in crate::session) fn on_parameter_status(&mut self, name: &str, value: &str) {
        match name {
            STRINGS => {
                self.backslashes = if value == "off" { Backslashes::Escape } else { Backslashes::Literal };
            }
            "client_encoding" => self.hides_backslashes = HIDING_ENCODINGS.contains(&value),
            _ => {}
        }
    }

    /// At `I`, what was set for the transaction is over.
    #[inline]
    pub(super) fn on_ready(&mut self, status: TransactionStatus) {
        self.doubts_literals &= status != TransactionStatus::Idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_is_read_both_ways_where_its_meaning_is_in_doubt() {
        // Read by one rule, the second statement is a part of a literal.
        let sql = br"SELECT '\'; DISCARD ALL; --'";
        let mut judge = TextJudge::default();
        judge.on_parameter_status(STRINGS, "off");
        let known = judge.judge(sql, Freshness::Fresh).effects;
        let doubted = judge.judge(sql, Freshness::Stale).effects;
        assert_ne!(known, doubted);
        judge.on_parameter_status(STRINGS, "on");
        assert_eq!(judge.judge(sql, Freshness::Stale).effects, doubted);
    }

    #[test]
    fn without_hints_any_expression_may_leave_statements() {
        let judge = TextJudge::default();
        assert_eq!(judge.hints_id(), 0);
        assert_eq!(judge.residue_of(Effects::RUNS), Residue::Statements);
        assert_eq!(judge.residue_of(Effects::NONE), Residue::Clean);
    }
}
