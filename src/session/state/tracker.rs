//! What a client's requests show that PostgreSQL cannot be asked for later. The module above says which call
//! comes when.
//!
//! # Why
//! It sees every request of a session, so it must cost nothing where nothing is of interest: a session that
//! never sets a custom setting, locks or listens keeps a few words, and each Bind and Execute returns at its
//! first branch. What it remembers is bounded; where a bound is hit, the session is pinned and says so.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::bind::BindValues;
use super::followed::{self, Followed};
use super::freshness::Freshness;
use super::loan::Loan;
use super::lock_counts::Which;
use super::notes::{Notes, Pending, SETTINGS_MAX, Suspect, which};
use super::residue::STRINGS;
use super::text_judge::{Pieces, TextJudge};
use super::unnamed::{UNNAMED_BYTES_MAX, UnnamedStatement, has_unstable_types};
use super::{AdvisoryLock, Hints, Residue, SessionState, Unnamed};
use crate::session::scan::{self, Effects, LockCall, LockOperation, SettingName, StatementEffect, Verdict};
use crate::wire::exchange::Exchange;
use crate::wire::message::backend::{parse_data_row, parse_parameter_description};
use crate::wire::message::frontend::{self, parse_bind_names, parse_execute, parse_parse, parse_target};
use crate::wire::message::{HEADER_BYTES, Target, TransactionStatus};

/// Prepared statements and portals with lock calls or settings named by a parameter.
const SUSPECTS_MAX: usize = 256;
/// Texts that ran before it was known what the database's functions do, to be judged when it is.
const UNJUDGED_BYTES_MAX: usize = 64 * 1024;
/// The same for texts that make something temporary, in a session with a connection of its own.
const UNJUDGED_TEMPORARY_BYTES_MAX: usize = 4 * 1024;
/// Why code that cannot be read pins the session, for a person.
const OPAQUE: &str = "code that may have set a setting of any name";

/// Which result of those that were asked for since the last boundary is on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Results {
    asked: u32,
    answered: u32,
    /// An error made the two counts incomparable until the next boundary.
    misaligned: bool,
}

/// A statement that is bound, whichever session parsed it.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'s> {
    pub(in crate::session) sql: &'s [u8],
    /// What it does, judged by the hints of that number; kept with the text.
    pub(in crate::session) judged: &'s Cell<(u32, Effects)>,
}

/// Follows one session. Idle cost: the size of this struct, and the unnamed statement of the client.
#[derive(Debug)]
pub struct StateTracker {
    freshness: Freshness,
    /// How its texts are read, and what they may do.
    pub(in crate::session) texts: TextJudge,
    /// What the present loan has done.
    pub(in crate::session) loan: Loan,
    unnamed: UnnamedStatement,
    results: Results,
    asks_for_all_locks: bool,
    /// Statements made by Parse are no part of the session's state: its connection is lent, and `statements`
    /// follows them.
    lent: bool,
    /// The next state that is taken is followed from then on.
    follows: bool,
    /// The state, where it is known without asking.
    followed: Option<Box<Followed>>,
    notes: Option<Box<Notes>>,
}

/// What was read of a text.
struct Read {
    verdict: Verdict,
    statements: u16,
}

/// A word that is cut in two by the pieces of a large text is at most this long.
const SEAM_BYTES: usize = 160;

impl Default for StateTracker {
    fn default() -> StateTracker {
        StateTracker::new()
    }
}

impl StateTracker {
    pub fn new() -> StateTracker {
        StateTracker {
            freshness: Freshness::Never,
            texts: TextJudge::default(),
            loan: Loan::default(),
            unnamed: UnnamedStatement::new(),
            results: Results::default(),
            asks_for_all_locks: false,
            lent: false,
            follows: false,
            followed: None,
            notes: None,
        }
    }

    /// For a session that begins.
    pub(in crate::session) fn knowing(hints: Option<Arc<Hints>>) -> StateTracker {
        StateTracker { texts: TextJudge::knowing(hints), ..StateTracker::new() }
    }

    /// For a session with a lent connection and a known initial state.
    pub(in crate::session) fn of_lent(hints: Option<Arc<Hints>>) -> StateTracker {
        StateTracker {
            freshness: Freshness::Fresh,
            lent: true,
            texts: TextJudge::knowing(hints),
            ..StateTracker::new()
        }
    }

    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Since the state was known, nothing was requested that may have changed what a text means when it is
    /// parsed: settings, or the objects that names refer to.
    pub(in crate::session) fn parses_as_known(&self) -> bool {
        self.freshness <= Freshness::Unnamed && !self.loan.parses_otherwise
    }

    /// Called for every request, before the call for its content.
    #[inline]
    pub fn on_request(&mut self, tag: u8) {
        if Exchange::counts(tag) {
            self.unnamed.count_request();
        }
    }

    /// These requests, counted back from the last one, are not carried out, or may not be.
    pub fn on_skipped(&mut self, requests: Range<usize>) {
        self.loan.skipped = true;
        if !self.lent && self.unnamed.is_among(&requests) {
            self.unnamed.lose();
            self.changed();
        }
    }

    /// A Query; `body` with or without its closing NUL. It destroys the unnamed statement.
    pub fn on_query(&mut self, body: &[u8]) {
        let sql = body.strip_suffix(b"\0").unwrap_or(body);
        self.forget_unnamed();
        let mut suspect = Suspect::default();
        let read = self.read(sql, &mut suspect);
        self.ran_text(sql, read.verdict.effects, || read.verdict.culprit(sql));
        let first = self.results.asked;
        self.results.asked = self.results.asked.saturating_add(u32::from(read.statements.max(1)));
        if !suspect.is_harmless() {
            self.run_suspect(&suspect, first, |key| which(key, |_| None));
        }
    }

    /// A Parse. A named one changes the session's state by itself.
    pub fn on_parse(&mut self, body: &[u8]) {
        let Ok(parse) = parse_parse(body) else {
            return self.changed();
        };
        let mut suspect = Suspect::default();
        let read = self.read(parse.sql, &mut suspect);
        let effects = read.verdict.effects;
        suspect.changes = effects.has(Effects::ASKS);
        // Parsing computes constants: for a type with checks, that runs the checks.
        self.loan.may_leave(self.texts.residue_of(effects));
        self.loan.note_names(effects, self.texts.hints());
        if self.followed.is_some() && !is_plain(effects) {
            self.changed();
        }
        if effects.has(Effects::OPAQUE | Effects::LOCKS) {
            // Whether it runs is not checked: its effects count as done.
            self.ran(effects.without(Effects::DEFINES), || read.verdict.culprit(parse.sql));
        }
        match parse.statement.is_empty() {
            true => {
                let hints = self.texts.hints_id();
                self.unnamed.parsed(parse.sql, effects, hints, self.texts.residue_of(effects));
                self.keep_unnamed(body);
            }
            false if self.lent => self.loan.prepare(effects),
            false => self.follow(|followed, hints| followed.parse(&parse, hints, effects)),
        }
        self.remember(parse.statement, suspect);
    }

    /// A Bind of a statement that this tracker saw parsed. Beyond its names, the body is read only for a
    /// suspicious statement.
    pub fn on_bind(&mut self, body: &[u8], bound: Option<Bound<'_>>) {
        self.run_implied();
        self.run_bound(body, bound);
        self.bind_suspect(body);
    }

    /// Notes what the statement does that a Bind names; `front` is the beginning of the Bind.
    fn run_bound(&mut self, front: &[u8], bound: Option<Bound<'_>>) {
        let Some(Bound { sql, judged }) = bound else {
            // The name of the portal, then that of the statement.
            let end = memchr::memchr(0, front).unwrap_or(front.len());
            return match front.get(end + 1) {
                Some(0) => self.run_unnamed(),
                // It may be one that SQL prepared, or one that was parsed before functions changed.
                _ => self.run_named(front.get(end + 1..).unwrap_or_default()),
            };
        };
        let (id, known) = judged.get();
        match &self.texts.hints {
            Some(hints) if hints.id() == id => self.ran_text(sql, known, String::new),
            Some(hints) => {
                let id = hints.id();
                let verdict = self.texts.judge(sql, self.freshness);
                judged.set((id, verdict.effects));
                self.ran_text(sql, verdict.effects, || verdict.culprit(sql));
            }
            None => self.ran(Effects::RUNS, String::new),
        }
        if self.texts.hints.is_none() {
            self.keep_unjudged(sql, true);
        }
    }

    /// The server reads the values of parameters, or analyses a text again. That may run code that no text
    /// names: the check of a domain, for one.
    fn run_implied(&mut self) {
        let Some(hints) = &self.texts.hints else { return };
        let implied = hints.implied();
        if !implied.is_none() {
            self.ran(implied, String::new);
        }
    }

    fn run_unnamed(&mut self) {
        self.loan.may_leave(self.unnamed.residue);
        let effects = self.unnamed.effects;
        match &self.texts.hints {
            Some(hints) if hints.id() == self.unnamed.hints => {
                let otherwise = self.loan.parses_otherwise || self.unnamed.parses_otherwise;
                self.ran(effects, String::new);
                self.loan.parses_otherwise = otherwise;
            }
            _ => self.run_unread(),
        }
    }

    /// Freehold sends a Parse of its own, of a text that this client or another one has prepared: its
    /// constants are computed.
    pub(in crate::session) fn on_injected(&mut self) {
        self.loan.parsed_ours(self.texts.hints());
    }

    /// The client's statements were prepared again on its new connection, which computes their constants.
    pub(in crate::session) fn on_restored(&mut self) {
        self.on_injected();
        if self.loan.residue() != Residue::Clean {
            self.loan.parses_otherwise = true;
            self.changed();
        }
    }

    /// Binds the statement with the name at the beginning of `front`.
    fn run_named(&mut self, front: &[u8]) {
        let name = &front[..memchr::memchr(0, front).unwrap_or(front.len())];
        match self.followed_effects(name) {
            Some(effects) => {
                self.loan.may_leave(Residue::Statements);
                self.ran(effects, String::new);
            }
            None => self.run_unread(),
        }
    }

    /// What binding the statement does, if the session's statements are known.
    fn followed_effects(&mut self, name: &[u8]) -> Option<Effects> {
        let (Some(followed), Some(hints)) = (&self.followed, &self.texts.hints) else { return None };
        let sql = match followed.effects(name, hints.id())? {
            Ok(effects) => return Some(effects),
            Err(sql) => sql.as_bytes(),
        };
        let (id, mut effects) = (hints.id(), self.texts.judge(sql, self.freshness).effects);
        if effects.has(Effects::SCAN) {
            // It has not been read in full.
            effects |= Effects::ASKS;
        }
        self.followed.as_mut()?.judged(name, id, effects);
        Some(effects)
    }

    /// Something runs, and its text is not known.
    fn run_unread(&mut self) {
        self.loan.may_leave(Residue::Statements);
        if self.followed.is_some() {
            self.changed();
        }
        let is_prepared = self.notes.as_ref().is_some_and(|notes| notes.sql_prepared_change);
        let asks = if self.lent || is_prepared { Effects::ASKS } else { Effects::NONE };
        match self.texts.hints.as_ref().map(|hints| hints.any()) {
            Some(any) => self.ran(any | asks, String::new),
            None => {
                self.texts.ran_unjudged = true;
                self.changed();
            }
        }
    }

    fn bind_suspect(&mut self, body: &[u8]) {
        let Some(notes) = &mut self.notes else {
            return;
        };
        if notes.statements.is_empty() && notes.portals.is_empty() && !notes.sql_prepared_lock {
            return;
        }
        let Ok(names) = parse_bind_names(body) else {
            return;
        };
        let suspect = match notes.statements.get(names.statement) {
            Some(suspect) => suspect.clone(),
            // It may be the one that SQL prepared.
            None if notes.sql_prepared_lock && !names.statement.is_empty() => {
                Suspect { unclear: true, changes: true, ..Suspect::default() }
            }
            None => {
                notes.portals.remove(names.portal);
                return;
            }
        };
        let values = BindValues::parse(body);
        let mut decided = Effects::NONE;
        for &parameter in &suspect.settings {
            let name = values.as_ref().and_then(|values| values.text(parameter));
            decided |= scan::decided_by(name);
            match name.map(SettingName::of) {
                Some(SettingName::Custom(name)) => notes.setting(name),
                Some(SettingName::Listed) if name.is_some_and(|name| name.eq_ignore_ascii_case(b"seed")) => {
                    notes.foreign_state(scan::SEED);
                }
                // PostgreSQL lists it.
                Some(SettingName::Listed) => {}
                Some(SettingName::Odd) | None => notes.settings_computed = true,
            }
        }
        let number = |parameter| values.as_ref().and_then(|values| values.number(parameter));
        let keys = suspect.calls.iter().map(|call| which(call, number)).collect();
        if notes.portals.len() < SUSPECTS_MAX {
            notes.portals.insert(names.portal.to_vec(), (suspect, keys));
        } else {
            notes.lock_counts.lose_count();
            self.changed();
        }
        self.ran(decided, String::new);
    }

    /// An Execute; the effects of its statement counted when it was bound.
    pub fn on_execute(&mut self, body: &[u8]) {
        let result = self.results.asked;
        self.results.asked = self.results.asked.saturating_add(1);
        let Some(notes) = &self.notes else {
            return;
        };
        if notes.portals.is_empty() && !notes.suspects_overflow {
            return;
        }
        let portal = parse_execute(body).map(|(portal, _)| portal).unwrap_or_default();
        if notes.suspects_overflow {
            self.changed();
            self.notes().lock_counts.lose_count();
            self.ran(scan::decided_by(None), String::new);
        }
        let Some((suspect, keys)) = self.notes().portals.get(portal).cloned() else {
            return;
        };
        let mut keys = keys.into_iter();
        self.run_suspect(&suspect, result, |_| keys.next().unwrap_or(Which::Computed));
    }

    pub fn on_close(&mut self, body: &[u8]) {
        match parse_target(body) {
            Ok((Target::Statement, b"")) => self.forget_unnamed(),
            Ok((Target::Portal, _)) => {}
            Ok((Target::Statement, name)) => self.follow(|followed, _| followed.close(name)),
            Err(_) => self.changed(),
        }
    }

    /// A Describe. For a statement, the answer has the types of its parameters.
    pub fn on_describe(&mut self, body: &[u8]) {
        let Ok((Target::Statement, name)) = parse_target(body) else { return };
        // The text is analysed again if definitions or the path have changed.
        match self.texts.hints {
            Some(_) => self.run_implied(),
            None => self.ran(Effects::RUNS, String::new),
        }
        if self.followed.as_mut().is_some_and(|followed| followed.describe(name).is_err()) {
            self.changed();
        }
    }

    /// A ParameterDescription, with its body.
    pub fn on_parameter_description(&mut self, body: &[u8]) {
        if let Some(followed) = &mut self.followed {
            followed.described(parse_parameter_description(body).ok());
        }
    }

    /// Whether the next ParameterDescription is of interest.
    #[inline]
    pub fn is_following(&self) -> bool {
        self.followed.is_some()
    }

    /// Follows a change if the state is known; otherwise the state has to be asked for.
    fn follow(&mut self, note: impl FnOnce(&mut Followed, u32) -> Result<(), followed::Unknown>) {
        let hints = self.texts.hints_id();
        let is_followed = self.followed.as_mut().is_some_and(|followed| note(followed, hints).is_ok());
        if !is_followed {
            return self.changed();
        }
        self.freshness = self.freshness.max(Freshness::Followed);
        self.loan.may_leave(Residue::Session);
    }

    /// A FunctionCall: drivers use it only for large objects, with descriptors that end with the transaction.
    pub fn on_function_call(&mut self, body: &[u8]) {
        const LARGE_OBJECTS: std::ops::RangeInclusive<u32> = 952..=964;
        const LARGE_OBJECTS_MORE: [u32; 7] = [715, 764, 765, 767, 1004, 3170, 3172];
        self.results.asked = self.results.asked.saturating_add(1);
        let oid = body.first_chunk::<4>().map_or(0, |oid| u32::from_be_bytes(*oid));
        if !LARGE_OBJECTS.contains(&oid) && !LARGE_OBJECTS_MORE.contains(&oid) {
            self.ran(Effects::ANY, || format!("a FunctionCall of {oid}"));
            self.run_unread();
        }
    }

    /// A request of kind `tag` that is too large to be held as a whole, with its first bytes.
    pub fn on_large(&mut self, tag: u8, start: &[u8], bound: Option<Bound<'_>>) {
        self.texts.large = Pieces::Other;
        let text = match tag {
            frontend::tag::QUERY => {
                self.forget_unnamed();
                self.results.asked = self.results.asked.saturating_add(1);
                // The number of its results is not known.
                self.results.misaligned = true;
                start
            }
            frontend::tag::PARSE => {
                if start.first() == Some(&0) {
                    self.unnamed.is_too_large();
                }
                let name = memchr::memchr(0, start).unwrap_or(start.len());
                let statement = start.get(..name).unwrap_or_default();
                self.remember(statement, Suspect { changes: true, ..Suspect::default() });
                start.get(name + 1..).unwrap_or_default()
            }
            frontend::tag::BIND => {
                self.run_implied();
                self.run_bound(start, bound);
                return self.on_large_bind(start);
            }
            frontend::tag::FUNCTION_CALL => return self.on_function_call(start),
            _ => return self.changed(),
        };
        self.changed();
        // The pieces may cut the text anywhere.
        self.loan.may_leave(Residue::Statements);
        let any = self.texts.hints.as_ref().map_or(Effects::NONE, |hints| hints.any());
        // The pieces are searched for opaque code.
        self.loan
            .note_names(Effects::PATH | Effects::VALUES | any.without(Effects::OPAQUE), self.texts.hints());
        self.unnamed.may_leave_statements();
        self.texts.large = Pieces::Sql;
        let read = self.read(text, &mut Suspect::default());
        self.ran(read.verdict.effects, || read.verdict.culprit(text));
        self.cut_text(text);
    }

    /// The next piece of it. Reads bytes: a text that only mentions what is tracked counts as doing it.
    pub fn on_large_part(&mut self, part: &[u8]) {
        if self.texts.large == Pieces::Other {
            return;
        }
        let mut seam = self.notes.as_mut().map(|notes| std::mem::take(&mut notes.tail)).unwrap_or_default();
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
        let notes = self.notes();
        let seen = scan::glance(part);
        if seen.locks {
            notes.lock_counts.lose_count();
        }
        notes.settings_computed |= seen.sets;
        notes.tail = part[part.len().saturating_sub(SEAM_BYTES)..].to_vec();
    }

    fn on_large_bind(&mut self, start: &[u8]) {
        let Some(notes) = &mut self.notes else {
            return;
        };
        let statement = parse_bind_names(start).map(|names| names.statement).unwrap_or_default();
        if let Some(suspect) = notes.statements.get(statement).cloned() {
            let sets = !suspect.settings.is_empty();
            notes.settings_computed |= sets;
            if suspect.unclear || !suspect.calls.is_empty() {
                notes.lock_counts.lose_count();
            }
            if sets {
                self.ran(scan::decided_by(None), String::new);
            }
            self.changed();
        }
    }

    /// Whether the result that is on its way shows the outcome of a lock call.
    #[inline]
    pub fn watches_rows(&self) -> bool {
        let Some(notes) = &self.notes else {
            return false;
        };
        notes.pending.iter().any(|pending| pending.result == self.results.answered)
    }

    pub fn on_data_row(&mut self, body: &[u8]) {
        let answered = self.results.answered;
        let Some(notes) = &mut self.notes else {
            return;
        };
        let Ok(row) = parse_data_row(body) else {
            return notes.lock_counts.lose_count();
        };
        for pending in notes.pending.iter().filter(|pending| pending.result == answered) {
            // NULL: a key was NULL, and the function was not called.
            let Some(Some(outcome)) = row.get(usize::from(pending.column)) else {
                continue;
            };
            let is_true = matches!(outcome, [b't'] | [1]);
            match pending.operation {
                LockOperation::Lock => notes.lock_counts.taken(pending.which),
                LockOperation::TryLock if is_true => notes.lock_counts.taken(pending.which),
                LockOperation::Unlock if is_true => notes.lock_counts.released(pending.which),
                LockOperation::UnlockAll => notes.lock_counts.all_released(),
                LockOperation::TryLock | LockOperation::Unlock => {}
            }
        }
    }

    /// A CommandComplete with its command tag, with or without the NUL.
    pub fn on_command_complete(&mut self, command: &[u8]) {
        self.on_no_command();
        let Some(notes) = &mut self.notes else {
            return;
        };
        // Requests behind it may have been noted already.
        let is_last = self.results.asked <= self.results.answered;
        match command.strip_suffix(b"\0").unwrap_or(command) {
            b"DISCARD ALL" if !is_last => {}
            b"DISCARD ALL" => {
                notes.lock_counts.all_released();
                notes.statements.clear();
                notes.sql_prepared_lock = false;
                notes.suspects_overflow = false;
                // RESET ALL is part of it; inside a transaction it is refused, so it cannot be rolled back.
                notes.settings_untold |=
                    notes.settings_computed || notes.settings_overflow || notes.opaque.is_some();
                notes.settings_computed = false;
                notes.opaque = None;
                notes.settings_overflow = false;
            }
            b"DEALLOCATE ALL" => notes.statements.clear(),
            _ => {}
        }
    }

    /// EmptyQueryResponse, PortalSuspended or FunctionCallResponse.
    #[inline]
    pub fn on_no_command(&mut self) {
        let answered = self.results.answered;
        self.results.answered = self.results.answered.saturating_add(1);
        if let Some(notes) = &mut self.notes {
            notes.pending.retain(|pending| pending.result > answered);
        }
    }

    /// An ErrorResponse, where no request on its way runs in spite of it: what was asked for until the next
    /// Sync does not run.
    pub fn on_error(&mut self) {
        self.note_failure();
        let answered = self.results.answered;
        let Some(notes) = &mut self.notes else {
            return;
        };
        let running = notes.pending.iter().filter(|pending| pending.result == answered).count();
        // One call that failed took nothing. Of several, the first ones may have.
        if running > 1 || notes.pending.len() > running {
            notes.lock_counts.lose_count();
        }
        notes.pending.clear();
    }

    fn note_failure(&mut self) {
        self.results.misaligned = true;
        self.loan.skipped = true;
        if let Some(followed) = &mut self.followed {
            followed.failed();
        }
    }

    /// An ErrorResponse, where requests behind the next Sync are on their way and will run: which result
    /// belongs to which call is not known any more.
    pub fn on_error_in_pipeline(&mut self) {
        self.note_failure();
        let Some(notes) = &mut self.notes else {
            return;
        };
        if !notes.pending.is_empty() {
            notes.pending.clear();
            notes.lock_counts.lose_count();
        }
    }

    /// The server reports a setting while the client works: the client's request has changed it.
    pub fn on_reported_setting(&mut self, name: &str, value: &str) {
        self.texts.on_parameter_status(name, value);
        if name == STRINGS {
            self.loan.may_leave(Residue::Lasting);
        }
    }

    /// ReadyForQuery with nothing owed: every answer is in. At `I`, the boundary, portals are gone, too.
    #[inline]
    pub fn on_ready(&mut self, status: TransactionStatus) {
        self.results = Results::default();
        self.texts.on_ready(status);
        if self.followed.as_mut().is_some_and(|followed| followed.settle().is_err()) {
            self.changed();
        }
        let Some(notes) = &mut self.notes else {
            return;
        };
        notes.tail = Vec::new();
        if !notes.pending.is_empty() {
            notes.pending.clear();
            notes.lock_counts.lose_count();
        }
        if status == TransactionStatus::Idle {
            notes.portals.clear();
        }
    }

    /// The session goes on with a server connection that has the state last taken. `unnamed_types` are the
    /// types of its unnamed statement there ([`super::super::migrate::twin::Twin::unnamed_types`]): it may
    /// have to be parsed again.
    pub fn on_switch(&mut self, unnamed_types: &[u32]) {
        self.freshness = Freshness::Never;
        self.texts.hints = None;
        self.unfollow();
        let Some(Ok(parse)) = self.unnamed.body().map(parse_parse) else {
            return;
        };
        let mut message = BytesMut::new();
        frontend::parse(&mut message, b"", parse.sql, unnamed_types);
        self.unnamed.replace(message.get(HEADER_BYTES..).unwrap_or_default());
    }

    /// The state is followed from the next question on, unless the connection is lent.
    pub fn follow_from_now(&mut self) {
        self.follows = !self.lent;
    }

    /// The state is not needed any more, and not followed.
    pub fn unfollow(&mut self) {
        self.follows = false;
        if self.followed.take().is_some() {
            self.freshness = Freshness::Never;
        }
    }

    /// The state that is followed, without the unnamed statement; `None`: it is not known, and has to be
    /// asked for.
    pub fn followed(&mut self) -> Option<Arc<SessionState>> {
        let is_known = self.knows_state();
        self.followed.as_mut().filter(|_| is_known).map(|followed| followed.state())
    }

    /// Whether [`StateTracker::followed`] returns it.
    pub fn knows_state(&self) -> bool {
        let is_known = self.freshness <= Freshness::Followed;
        is_known && self.followed.as_ref().is_some_and(|followed| followed.is_settled())
    }

    /// Another connection has all of the present state.
    pub fn carried(&mut self) {
        let is_known = self.knows_state();
        if let Some(followed) = &mut self.followed {
            followed.carried(is_known);
        }
    }

    /// Nothing has changed since [`StateTracker::carried`].
    pub fn is_as_carried(&self) -> bool {
        self.knows_state() && self.followed.as_ref().is_some_and(|followed| followed.is_as_carried())
    }

    /// The unnamed statement as a part of the state, if it has types with OIDs that may differ on another
    /// server. Others are made again when the client asks for them.
    pub(in crate::session) fn unnamed_to_carry(&self) -> Option<Unnamed> {
        let nothing = BTreeMap::new();
        let names = self.followed.as_ref().map_or(&nothing, |followed| followed.types());
        match self.unnamed.unstable_types().is_empty() {
            true => None,
            false => self.unnamed.statement(names),
        }
    }

    /// `last` with the present unnamed statement. Only where [`Freshness`] is `Fresh` or `Unnamed`.
    pub fn current(&self, last: &SessionState) -> SessionState {
        let mut state = last.clone();
        if self.freshness != Freshness::Fresh {
            state.unnamed = self.unnamed.statement(&BTreeMap::new());
        }
        state
    }

    fn read(&mut self, sql: &[u8], suspect: &mut Suspect) -> Read {
        let mut verdict = self.texts.judge(sql, self.freshness);
        if self.texts.hints.is_none() && verdict.effects.has(Effects::RUNS) {
            self.keep_unjudged(sql, verdict.effects.has(Effects::TEMPORARY));
            // Whether that matters is found when the text is judged.
            verdict.effects = verdict.effects.without(Effects::TEMPORARY);
        }
        if !verdict.effects.has(Effects::SCAN) {
            return Read { verdict, statements: 1 };
        }
        let notes = &mut self.notes;
        let read = self.texts.scan(sql, verdict.effects, &mut |finding| {
            notes.get_or_insert_default().note(finding, suspect);
        });
        if self.lent && scan::executes_ours(sql) {
            verdict.effects |= Effects::ANY;
        }
        // A custom setting that ends with its transaction leaves an empty value behind. Where connections are
        // lent, an empty value counts as none.
        if read.effect == StatementEffect::Changes || (read.sets_locally && !self.lent) {
            verdict.effects |= Effects::ASKS;
        }
        Read { verdict, statements: read.statements }
    }

    /// Keeps the text until it is known what the database's functions do.
    fn keep_unjudged(&mut self, sql: &[u8], makes_temporary: bool) {
        self.texts.ran_unjudged |= !self.lent;
        if !self.lent && !makes_temporary {
            return;
        }
        let bytes_max = if self.lent { UNJUDGED_BYTES_MAX } else { UNJUDGED_TEMPORARY_BYTES_MAX };
        let unjudged = &mut self.notes().unjudged;
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

    fn notes(&mut self) -> &mut Notes {
        self.notes.get_or_insert_default()
    }

    /// A lock call or a change is on its way; `key_of` gives the key of each call in turn.
    fn run_suspect(&mut self, suspect: &Suspect, first: u32, mut key_of: impl FnMut(&LockCall) -> Which) {
        if suspect.changes {
            self.changed();
        }
        if suspect.unclear {
            self.notes().lock_counts.lose_count();
        }
        if suspect.calls.is_empty() {
            return;
        }
        self.changed();
        let misaligned = self.results.misaligned;
        let notes = self.notes();
        if misaligned {
            return notes.lock_counts.lose_count();
        }
        for call in &suspect.calls {
            let which = key_of(call);
            let result = first + u32::from(call.statement);
            notes.pending.push(Pending { result, column: call.column, operation: call.operation, which });
        }
    }

    fn remember(&mut self, statement: &[u8], suspect: Suspect) {
        if suspect.is_harmless() {
            // A named one is still there if the server refuses this Parse, because the name is taken.
            if let Some(notes) = &mut self.notes
                && statement.is_empty()
            {
                notes.statements.remove(statement);
            }
            return;
        }
        let notes = self.notes();
        if notes.statements.len() < SUSPECTS_MAX || notes.statements.contains_key(statement) {
            notes.statements.insert(statement.to_vec(), suspect);
        } else {
            notes.suspects_overflow = true;
            // Settings that its parameters name will not be seen.
            notes.settings_computed |= !suspect.settings.is_empty();
        }
    }

    /// The same for a text that is known.
    fn ran_text(&mut self, sql: &[u8], effects: Effects, culprit: impl FnOnce() -> String) {
        let before = self.loan.parses_otherwise;
        self.ran(effects, culprit);
        if !before && self.loan.parses_otherwise {
            self.loan.parses_otherwise = !scan::leaves_parsing_alone(sql);
        }
    }

    /// Something ran that may have these effects. `culprit` names it for a person.
    #[inline]
    fn ran(&mut self, effects: Effects, culprit: impl FnOnce() -> String) {
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
        } else if self.followed.is_some() && !is_plain(effects) {
            // What was read of it may be right, but a followed state needs a proof.
            self.changed();
        }
    }

    fn ran_more(&mut self, effects: Effects, culprit: impl FnOnce() -> String) {
        if effects.has(Effects::OPAQUE) {
            self.asks_for_all_locks = true;
            self.notes().opaque.get_or_insert_with(culprit);
        }
        if effects.has(Effects::OPAQUE | Effects::LOCKS) {
            self.notes().lock_counts.lose_count();
        }
        if effects.has(Effects::DEFINES) {
            self.loan.defined = true;
            // What runs from here on may have been redefined.
            self.texts.hints = None;
        }
    }

    fn changed(&mut self) {
        self.freshness = self.freshness.max(Freshness::Stale);
        self.loan.may_leave(Residue::Session);
    }

    fn forget_unnamed(&mut self) {
        if !self.unnamed.forget() {
            return;
        }
        self.freshness = self.freshness.max(Freshness::Unnamed);
        if let Some(followed) = &mut self.followed {
            followed.unnamed_changed(false);
        }
    }

    fn keep_unnamed(&mut self, body: &[u8]) {
        if self.lent && body.len() <= UNNAMED_BYTES_MAX {
            return self.unnamed.keep_none();
        }
        let has_unstable_types = has_unstable_types(body);
        let changed = match has_unstable_types && !self.knows_types(body) {
            true => Freshness::Stale,
            false => Freshness::Unnamed,
        };
        self.freshness = self.freshness.max(changed);
        if let Some(followed) = &mut self.followed {
            followed.unnamed_changed(has_unstable_types);
        }
        if body.len() > UNNAMED_BYTES_MAX {
            self.unnamed.is_too_large();
            self.changed();
            return;
        }
        self.unnamed.keep(body);
    }

    /// The names of its types are known already.
    fn knows_types(&self, body: &[u8]) -> bool {
        let known = self.followed.as_ref().zip(parse_parse(body).ok());
        known.is_some_and(|(followed, parse)| followed.knows_types(parse.parameter_types()))
    }
}

const READS: Effects = Effects::RUNS.with(Effects::SCAN);

/// It is proven to leave nothing behind. A text that still has to be scanned only reads: `current_setting`,
/// for one.
fn is_plain(effects: Effects) -> bool {
    effects.without(READS).is_none()
}

/// What [`super::snapshot()`] asks of the tracker, and reports to it.
impl StateTracker {
    pub(super) fn setting_names(&self) -> &[String] {
        self.notes.as_ref().map_or(&[], |notes| &notes.settings)
    }

    /// The next question is to include locks that the session was not seen to take: by a function written in
    /// C, for one.
    pub(in crate::session) fn ask_for_all_locks(&mut self) {
        self.asks_for_all_locks = true;
    }

    /// The session has changed something that DISCARD ALL does not reset, or a setting with an unknown name.
    pub(super) fn has_done_what_stays(&self) -> bool {
        let names = self.loan.names();
        if self.loan.residue() == Residue::Lasting
            || names.keeps_found()
            || names.keeps_values()
            || names.keeps_temporary()
        {
            return true;
        }
        let stays = |notes: &Notes| {
            let untold = notes.settings_overflow || notes.settings_computed || notes.settings_untold;
            untold || notes.opaque.is_some() || !notes.foreign.is_empty()
        };
        self.notes.as_deref().is_some_and(stays)
    }

    /// Whether `pg_locks` has to be read: that is costly where many locks are held.
    pub(super) fn may_hold_locks(&self) -> bool {
        if self.asks_for_all_locks {
            return true;
        }
        self.notes.as_ref().is_some_and(|notes| !notes.lock_counts.is_empty())
    }

    /// Whether to ask if definitions have changed: only where connections are lent, which rely on it.
    pub(super) fn asks_for_definitions(&self) -> bool {
        self.lent
    }

    /// Compares the server's counts of changed definitions, as of the state, with those of the hints. All of
    /// them matter where something ran that cannot be read.
    pub(super) fn saw_definitions(
        &mut self,
        (watched, all): (Option<i64>, Option<i64>),
        changes: Option<String>,
    ) {
        if !self.lent {
            return;
        }
        self.notes.get_or_insert_default().changes = Some(changes);
        let Some(hints) = &self.texts.hints else { return };
        let is_newer =
            |count: Option<i64>, read: Option<i64>| count.zip(read).is_some_and(|(count, read)| count > read);
        let ran_opaque = self.notes.as_ref().is_some_and(|notes| notes.opaque.is_some());
        if is_newer(watched, hints.definitions) || (ran_opaque && is_newer(all, hints.all_definitions)) {
            self.loan.defined = true;
            self.loan.keeps_whatever();
        }
    }

    /// How many changes of the catalogue the server had counted, if it counts; `None`: it was not asked.
    pub(in crate::session) fn take_changes(&mut self) -> Option<Option<String>> {
        self.notes.as_mut()?.changes.take()
    }

    /// What the loan that ends now may have left.
    pub(in crate::session) fn take_residue(&mut self) -> Residue {
        let (residue, skipped) = self.loan.end();
        self.unnamed.end_loan(skipped);
        residue
    }

    pub(in crate::session) fn hints(&self) -> Option<&Arc<Hints>> {
        self.texts.hints()
    }

    /// A tracker that asks for these settings in a session that it has not followed.
    pub(in crate::session) fn asking_for<'a>(names: impl Iterator<Item = &'a String>) -> StateTracker {
        let mut tracker = StateTracker::new();
        let is_custom = |name: &&String| name.contains('.');
        names.filter(is_custom).for_each(|name| tracker.notes().setting(name.clone()));
        tracker
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
        self.texts.ran_unjudged = true;
        self.changed();
    }

    /// Judges the texts that ran while the hints were not known.
    pub(in crate::session) fn use_hints(&mut self, hints: Arc<Hints>) {
        let any = hints.any();
        self.texts.hints = Some(hints);
        let texts = match &mut self.notes {
            Some(notes) => std::mem::take(&mut notes.unjudged),
            None => Vec::new(),
        };
        for sql in texts {
            let verdict = self.texts.judge(&sql, self.freshness);
            self.ran(verdict.effects.without(Effects::DEFINES), || verdict.culprit(&sql));
        }
        if std::mem::take(&mut self.texts.ran_unjudged) {
            self.ran(any.without(Effects::DEFINES), String::new);
            self.loan.note(Effects::DEFINES);
        }
    }

    pub(in crate::session) fn unnamed(&self) -> &UnnamedStatement {
        &self.unnamed
    }

    /// The present state was taken, in which the types with these OIDs have these names.
    pub(super) fn follows_from(&mut self, state: &SessionState, types: BTreeMap<u32, String>) {
        if self.follows {
            let base = Arc::new(SessionState { unnamed: None, ..state.clone() });
            self.followed = Some(Box::new(Followed::from(base, types)));
        }
    }

    /// The present state was taken, with these locks held.
    pub(super) fn taken(&mut self, state: &mut SessionState, held: &[AdvisoryLock]) {
        self.freshness = Freshness::Fresh;
        self.asks_for_all_locks = false;
        let notes = match &mut self.notes {
            Some(notes) => notes,
            None if held.is_empty() => return,
            None => self.notes.get_or_insert_default(),
        };
        match notes.lock_counts.settle(held) {
            Some(counts) => state.locks = counts,
            None => {
                // The locks are asked for again until they are gone.
                notes.lock_counts.lose_count();
                state.pins.extend(held.iter().map(|lock| format!("{lock} held an unknown number of times")))
            }
        }
        if notes.settings_overflow {
            state.pins.insert(format!("more than {SETTINGS_MAX} custom settings"));
        }
        if notes.settings_computed {
            state.pins.insert("a setting whose name was computed".to_owned());
        }
        if let Some(culprit) = notes.opaque.as_deref().filter(|_| self.lent) {
            state.pins.insert(match culprit {
                "" => OPAQUE.to_owned(),
                culprit => format!("{OPAQUE}: {culprit}"),
            });
        }
        state.pins.extend(notes.foreign.iter().map(|&what| what.to_owned()));
        if notes.sequence_memory {
            state.losses.insert("currval and lastval".to_owned());
        }
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
