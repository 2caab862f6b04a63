//! What has run in a session, and what follows from that.
//!
//! Owns the parts that remember it, each of which answers one question:
//!
//! | part | question |
//! |---|---|
//! | [`TextJudge`] | what may running a text do? |
//! | [`Loan`] | what may the session leave behind in its connection? |
//! | [`KnownState`] | is the state of the session known without asking? |
//! | [`Notes`] | what has it done that PostgreSQL cannot be asked for? |
//!
//! What concerns several of them is a method here. It knows texts, effects and statements by name, but no
//! message: those are read by [`StateTracker`](super::StateTracker).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::followed::{Followed, Unknown};
use super::freshness::Freshness;
use super::known_state::KnownState;
use super::loan::Loan;
use super::lock_counts::Which;
use super::notes::{BoundSuspect, Notes, Suspect, which};
use super::text_judge::{Pieces, TextJudge};
use super::{AdvisoryLock, Hints, Residue, SessionState};
use crate::session::scan::{self, Effects, LockCall, StatementEffect, Verdict};
use crate::wire::message::frontend::Parse;

/// Texts that ran before it was known what the database's functions do, to be judged when it is.
const UNJUDGED_BYTES_MAX: usize = 64 * 1024;
/// The same for texts that make something temporary, in a session with a connection of its own.
const UNJUDGED_TEMPORARY_BYTES_MAX: usize = 4 * 1024;
/// A word that is cut in two by the pieces of a large text is at most this long.
const SEAM_BYTES: usize = 160;

/// A statement that is bound, whichever session parsed it.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'s> {
    pub(in crate::session) sql: &'s [u8],
    /// What it does, judged by the hints of that number; kept with the text.
    pub(in crate::session) judged: &'s Cell<(u32, Effects)>,
}

/// What was read of a text.
struct Read {
    verdict: Verdict,
    statements: u16,
}

/// What one session has run.
#[derive(Debug, Default)]
pub(in crate::session) struct ExecutionRecord {
    pub(super) texts: TextJudge,
    /// What the present loan has done.
    pub(super) loan: Loan,
    pub(super) state: KnownState,
    pub(super) notes: Notes,
}

/// What runs.
impl ExecutionRecord {
    /// A Query with this text.
    pub(super) fn run_query(&mut self, sql: &[u8]) {
        let mut suspect = Suspect::default();
        let read = self.read(sql, &mut suspect);
        self.ran_text(sql, read.verdict.effects, || read.verdict.culprit(sql));
        let first = self.notes.ask(u32::from(read.statements.max(1)));
        if !suspect.is_harmless() {
            self.run_suspect(&suspect, first, |key| which(key, |_| None));
        }
    }

    /// The server parses the text. Returns what it does when it is bound.
    pub(super) fn parse(&mut self, sql: &[u8], suspect: &mut Suspect) -> Effects {
        let read = self.read(sql, suspect);
        let effects = read.verdict.effects;
        suspect.changes = effects.has(Effects::ASKS);
        // Parsing computes constants: for a type with checks, that runs the checks.
        self.loan.may_leave(self.texts.residue_of(effects));
        self.loan.note_names(effects, self.texts.hints());
        if self.state.is_following() && !is_plain(effects) {
            self.changed();
        }
        if effects.has(Effects::OPAQUE | Effects::LOCKS) {
            // Whether it runs is not checked: its effects count as done.
            self.ran(effects.without(Effects::DEFINES), || read.verdict.culprit(sql));
        }
        effects
    }

    /// A named statement was parsed, which does this when it is bound.
    pub(super) fn prepare(&mut self, parse: &Parse<'_>, effects: Effects) {
        match self.state.is_lent() {
            true => self.loan.prepare(effects),
            false => self.change_statements(|followed, hints| followed.parse(parse, hints, effects)),
        }
    }

    /// A statement is bound whose text is known.
    pub(super) fn run_bound(&mut self, Bound { sql, judged }: Bound<'_>) {
        let (id, known) = judged.get();
        match &self.texts.hints {
            Some(hints) if hints.id() == id => self.ran_text(sql, known, String::new),
            Some(hints) => {
                let id = hints.id();
                let verdict = self.texts.judge(sql, self.state.freshness());
                judged.set((id, verdict.effects));
                self.ran_text(sql, verdict.effects, || verdict.culprit(sql));
            }
            None => self.ran(Effects::RUNS, String::new),
        }
        if self.texts.hints.is_none() {
            self.keep_unjudged(sql, true);
        }
    }

    /// The statement with this name is bound. It may be one that SQL prepared, or one that was parsed before
    /// functions changed.
    pub(super) fn run_named(&mut self, name: &[u8]) {
        match self.state.effects_of(name, &self.texts) {
            Some(effects) => {
                self.loan.may_leave(Residue::Statements);
                self.ran(effects, String::new);
            }
            None => self.run_unread(),
        }
    }

    /// Something runs, and its text is not known.
    pub(super) fn run_unread(&mut self) {
        self.loan.may_leave(Residue::Statements);
        if self.state.is_following() {
            self.changed();
        }
        let is_prepared = self.notes.get().is_some_and(|noted| noted.sql_prepared_change);
        let asks = if self.state.is_lent() || is_prepared { Effects::ASKS } else { Effects::NONE };
        match self.texts.hints.as_ref().map(|hints| hints.any()) {
            // What was prepared was judged then.
            Some(any) => self.ran(any.closing() | asks, String::new),
            None => {
                self.texts.ran_unjudged = true;
                self.changed();
            }
        }
    }

    /// The server reads the values of parameters, or analyses a text again. That may run code that no text
    /// names: the check of a domain, for one.
    pub(super) fn run_implied(&mut self) {
        let Some(hints) = &self.texts.hints else { return };
        let implied = hints.implied();
        if !implied.is_none() {
            self.ran(implied, String::new);
        }
    }

    /// A lock call or a change is on its way; `key_of` gives the key of each call in turn.
    pub(super) fn run_suspect(
        &mut self,
        suspect: &Suspect,
        first: u32,
        key_of: impl FnMut(&LockCall) -> Which,
    ) {
        if suspect.changes || !suspect.calls.is_empty() {
            self.changed();
        }
        self.notes.run_suspect(suspect, first, key_of);
    }

    /// A Bind has shown this.
    pub(super) fn bound_suspect(&mut self, bound: &BoundSuspect) {
        if bound.is_lost {
            self.changed();
        }
        self.ran(bound.effects, String::new);
    }

    /// A portal is executed, and what its statement does may not have been remembered.
    pub(super) fn run_lost_suspect(&mut self) {
        self.changed();
        self.notes.make().lock_counts.lose_count();
        self.ran(scan::decided_by(None), String::new);
    }

    /// Freehold sends a Parse of its own, of a text that this client or another one has prepared: its
    /// constants are computed.
    pub(in crate::session) fn parsed_ours(&mut self) {
        self.loan.parsed_ours(self.texts.hints());
    }

    /// The client's statements were prepared again on its new connection, which computes their constants.
    pub(in crate::session) fn restored(&mut self) {
        self.parsed_ours();
        if self.loan.residue() != Residue::Clean {
            self.loan.parses_otherwise = true;
            self.changed();
        }
    }
}

/// Texts, and what they do.
impl ExecutionRecord {
    fn read(&mut self, sql: &[u8], suspect: &mut Suspect) -> Read {
        let mut verdict = self.texts.judge(sql, self.state.freshness());
        if self.texts.hints.is_none() && verdict.effects.has(Effects::RUNS) {
            self.keep_unjudged(sql, verdict.effects.has(Effects::TEMPORARY));
            // Whether that matters is found when the text is judged.
            verdict.effects = verdict.effects.without(Effects::TEMPORARY);
        }
        if !verdict.effects.has(Effects::SCAN) {
            return Read { verdict, statements: 1 };
        }
        let notes = &mut self.notes;
        let read = self.texts.scan(sql, verdict.effects, &mut |finding| notes.make().note(finding, suspect));
        if self.state.is_lent() && scan::executes_ours(sql) {
            verdict.effects |= Effects::ANY;
        }
        // A custom setting that ends with its transaction leaves an empty value behind. Where connections are
        // lent, an empty value counts as none.
        if read.effect == StatementEffect::Changes || (read.sets_locally && !self.state.is_lent()) {
            verdict.effects |= Effects::ASKS;
        }
        Read { verdict, statements: read.statements }
    }

    /// Keeps the text until it is known what the database's functions do.
    fn keep_unjudged(&mut self, sql: &[u8], makes_temporary: bool) {
        let is_lent = self.state.is_lent();
        self.texts.ran_unjudged |= !is_lent;
        if !is_lent && !makes_temporary {
            return;
        }
        let bytes_max = if is_lent { UNJUDGED_BYTES_MAX } else { UNJUDGED_TEMPORARY_BYTES_MAX };
        let unjudged = &mut self.notes.make().unjudged;
        let bytes: usize = unjudged.iter().map(Vec::len).sum();
        if bytes + sql.len() <= bytes_max {
            unjudged.push(sql.to_vec());
        } else {
            self.texts.ran_unjudged = true;
            if makes_temporary {
                self.loan.note(Effects::TEMPORARY);
            }
        }
    }

    /// A text is run or parsed that is too large to be held as a whole; it begins with this.
    pub(super) fn run_large(&mut self, text: &[u8]) {
        self.changed();
        // The pieces may cut the text anywhere.
        self.loan.may_leave(Residue::Statements);
        let any = self.texts.hints.as_ref().map_or(Effects::NONE, |hints| hints.any());
        // The pieces are searched for opaque code.
        self.loan
            .note_names(Effects::PATH | Effects::VALUES | any.without(Effects::OPAQUE), self.texts.hints());
        self.texts.large = Pieces::Sql;
        let read = self.read(text, &mut Suspect::default());
        self.ran(read.verdict.effects, || read.verdict.culprit(text));
        self.cut_text(text);
    }

    /// The next piece of a large message. Reads bytes: a text that only mentions what is tracked counts as
    /// doing it.
    pub(super) fn run_large_part(&mut self, part: &[u8]) {
        if self.texts.large == Pieces::Other {
            return;
        }
        let mut seam = self.notes.get_mut().map(|noted| std::mem::take(&mut noted.tail)).unwrap_or_default();
        seam.extend_from_slice(&part[..part.len().min(SEAM_BYTES)]);
        self.cut_text(&seam);
        self.cut_text(part);
    }

    fn cut_text(&mut self, part: &[u8]) {
        let unseen = match &self.texts.hints {
            Some(hints) => scan::mentions_opaque(part) || hints.opaque_names().are_in(part),
            None => {
                self.texts.ran_unjudged = true;
                scan::mentions_opaque(part)
            }
        };
        if unseen {
            self.ran(Effects::ANY, || "a text too large to be read".to_owned());
        }
        if scan::touched(part).has(Effects::READING) {
            self.loan.may_leave(Residue::Lasting);
        }
        if scan::mentions_temporary(part) {
            self.loan.note(Effects::TEMPORARY);
        }
        let noted = self.notes.make();
        let seen = scan::quick_scan(part);
        if seen.locks {
            noted.lock_counts.lose_count();
        }
        noted.settings_computed |= seen.sets;
        noted.tail = part[part.len().saturating_sub(SEAM_BYTES)..].to_vec();
    }
}

/// What follows from the effects of what runs.
impl ExecutionRecord {
    /// Something ran that may have these effects, and its text is known.
    fn ran_text(&mut self, sql: &[u8], effects: Effects, culprit: impl FnOnce() -> String) {
        let before = self.loan.parses_otherwise;
        self.ran(effects, culprit);
        if !before && self.loan.parses_otherwise {
            self.loan.parses_otherwise = !scan::leaves_parsing_alone(sql);
        }
    }

    /// Something ran that may have these effects. `culprit` names it for a person.
    #[inline]
    pub(super) fn ran(&mut self, effects: Effects, culprit: impl FnOnce() -> String) {
        // Without hints, any expression may call a function that changes the session.
        let is_unknown = effects.has(Effects::RUNS) && self.texts.hints.is_none();
        if effects.without(Effects::RUNS).is_none() && !is_unknown {
            return;
        }
        let effects = self.loan.with_prepared(effects);
        self.loan.may_leave(self.texts.residue_of(effects));
        self.loan.note_names(effects, self.texts.hints());
        self.loan.parses_otherwise = true;
        if effects.has(Effects::ANY | Effects::DEFINES) || is_unknown {
            self.changed();
            self.ran_more(effects, culprit);
        } else if self.state.is_following() && !is_plain(effects) {
            // What was read of it may be right, but a followed state needs a proof.
            self.changed();
        }
    }

    fn ran_more(&mut self, effects: Effects, culprit: impl FnOnce() -> String) {
        if effects.has(Effects::OPAQUE) {
            self.state.ask_for_all_locks();
            self.notes.make().opaque.get_or_insert_with(culprit);
        }
        if effects.has(Effects::OPAQUE | Effects::LOCKS) {
            self.notes.make().lock_counts.lose_count();
        }
        if effects.has(Effects::DEFINES) {
            self.loan.defined = true;
            // What runs from here on may have been redefined.
            self.texts.hints = None;
        }
    }

    /// The state may have changed, and has to be asked for.
    pub(super) fn changed(&mut self) {
        self.state.changed();
        self.loan.may_leave(Residue::Session);
    }

    /// The named statements have changed. `note` follows that where the state is known; it gets the number of
    /// the hints.
    pub(super) fn change_statements(&mut self, note: impl FnOnce(&mut Followed, u32) -> Result<(), Unknown>) {
        let hints = self.texts.hints_id();
        self.state.follow(|followed| note(followed, hints));
        self.loan.may_leave(Residue::Session);
    }

    /// Since the state was known, nothing was requested that may have changed what a text means when it is
    /// parsed: settings, or the objects that names refer to.
    pub(in crate::session) fn parses_as_known(&self) -> bool {
        self.state.freshness() <= Freshness::Unnamed && !self.loan.parses_otherwise
    }
}

/// What is known of the database's functions.
impl ExecutionRecord {
    /// Judges the texts that ran while the hints were not known.
    pub(in crate::session) fn use_hints(&mut self, hints: Arc<Hints>) {
        let any = hints.any();
        self.texts.hints = Some(hints);
        let texts = match self.notes.get_mut() {
            Some(noted) => std::mem::take(&mut noted.unjudged),
            None => Vec::new(),
        };
        for sql in texts {
            let verdict = self.texts.judge(&sql, self.state.freshness());
            self.ran(verdict.effects.without(Effects::DEFINES), || verdict.culprit(&sql));
        }
        let ran_redefined = std::mem::take(&mut self.texts.ran_redefined);
        if std::mem::take(&mut self.texts.ran_unjudged) {
            self.ran(any.without(Effects::DEFINES), String::new);
            self.loan.note(Effects::DEFINES);
        } else if ran_redefined {
            // Others' changes keep no connection with this client.
            self.ran(any.closing().without(Effects::DEFINES), String::new);
            self.loan.note(Effects::DEFINES);
        }
    }

    /// Another session has changed what functions do while this session ran some of them.
    pub(in crate::session) fn definitions_changed(&mut self) {
        if let Some(hints) = &self.texts.hints {
            self.loan.note_names(
                hints.any().without(Effects::PATH | Effects::VALUES | Effects::OPAQUE),
                self.texts.hints(),
            );
        }
        self.texts.hints = None;
        self.texts.ran_redefined = true;
        self.changed();
    }
}

/// What the question for the state has to include, and what its answer means.
impl ExecutionRecord {
    /// Whether `pg_locks` has to be read: that is costly where many locks are held.
    pub(super) fn may_hold_locks(&self) -> bool {
        self.state.asks_for_all_locks() || self.notes.may_hold_locks()
    }

    /// The session has changed something that DISCARD ALL does not reset, or a setting with an unknown name.
    pub(super) fn has_done_what_stays(&self) -> bool {
        let names = self.loan.names();
        self.loan.residue() == Residue::Lasting
            || names.keeps_found()
            || names.keeps_values()
            || names.keeps_temporary()
            || self.notes.has_done_what_stays()
    }

    /// The present state was taken, with these locks held. The types with these OIDs have these names.
    pub(super) fn taken(
        &mut self,
        state: &mut SessionState,
        held: &[AdvisoryLock],
        types: BTreeMap<u32, String>,
    ) {
        self.notes.complete(state, held, self.state.is_lent());
        self.state.taken(state, types);
    }

    /// Compares the server's counts of changed definitions, as of the state, with those of the hints. All of
    /// them matter where something ran that cannot be read.
    pub(super) fn saw_definitions(
        &mut self,
        (watched, all): (Option<i64>, Option<i64>),
        changes: Option<String>,
    ) {
        if !self.asks_for_definitions() {
            return;
        }
        let noted = self.notes.make();
        noted.changes = Some(changes);
        let Some(hints) = &self.texts.hints else { return };
        let is_newer =
            |count: Option<i64>, read: Option<i64>| count.zip(read).is_some_and(|(count, read)| count > read);
        let ran_opaque = noted.opaque.is_some();
        if is_newer(watched, hints.definitions) || (ran_opaque && is_newer(all, hints.all_definitions)) {
            self.loan.defined = true;
            self.loan.may_keep_anything();
        }
    }

    /// Whether to ask if definitions have changed: only where connections are lent, which rely on it.
    pub(super) fn asks_for_definitions(&self) -> bool {
        self.is_lent()
    }

    /// The connection is lent, for each transaction.
    pub(super) fn is_lent(&self) -> bool {
        self.state.is_lent()
    }
}

const READS: Effects = Effects::RUNS.with(Effects::SCAN);

/// It is proven to leave nothing behind. A text that still has to be scanned only reads: `current_setting`,
/// for one.
fn is_plain(effects: Effects) -> bool {
    effects.without(READS).is_none()
}
