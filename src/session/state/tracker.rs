//! Reads the messages of one session for what they do to its state. The module above says which message comes
//! when.
//!
//! # Why
//! It sees every request of a session, so it must cost nothing where nothing is of interest: a session that
//! never sets a custom setting, locks or listens keeps a few words, and each Bind and Execute returns at its
//! first branch. What is remembered is bounded; where a bound is hit, the session is pinned and says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::execution::{Bound, ExecutionRecord};
use super::known_state::KnownState;
use super::loan::Loan;
use super::lock_counts::Which;
use super::notes::{Notes, Suspect};
use super::residue::STRINGS;
use super::text_judge::{Pieces, TextJudge};
use super::unnamed::{UNNAMED_BYTES_MAX, UnnamedStatement};
use super::{Hints, Residue, Unnamed};
use crate::session::scan::Effects;
use crate::wire::exchange::Exchange;
use crate::wire::message::frontend::{self, Parse, parse_parse, parse_target};
use crate::wire::message::{HEADER_BYTES, Target, TransactionStatus};

/// Follows one session: one method for each message, and one for each question that concerns more than one of
/// its parts. Idle cost: the size of this struct, and the unnamed statement of the client.
#[derive(Debug, Default)]
pub struct StateTracker {
    execution: ExecutionRecord,
    unnamed: UnnamedStatement,
}

/// Its parts.
impl StateTracker {
    /// For a session that begins.
    pub(in crate::session) fn knowing(hints: Option<Arc<Hints>>) -> StateTracker {
        let execution = ExecutionRecord { texts: TextJudge::knowing(hints), ..ExecutionRecord::default() };
        StateTracker { execution, ..StateTracker::default() }
    }

    /// For a session with a lent connection and a known initial state.
    pub(in crate::session) fn of_lent(hints: Option<Arc<Hints>>) -> StateTracker {
        let mut tracker = StateTracker::knowing(hints);
        tracker.execution.state = KnownState::of_lent();
        tracker
    }

    /// A tracker that asks for these settings in a session that it has not followed.
    pub(in crate::session) fn asking_for<'a>(names: impl Iterator<Item = &'a String>) -> StateTracker {
        let mut tracker = StateTracker::default();
        let is_custom = |name: &&String| name.contains('.');
        names.filter(is_custom).for_each(|name| tracker.execution.notes.make().setting(name.clone()));
        tracker
    }

    /// What has run, and the questions that concern several of the parts below.
    pub(in crate::session) fn execution(&self) -> &ExecutionRecord {
        &self.execution
    }

    pub(in crate::session) fn execution_mut(&mut self) -> &mut ExecutionRecord {
        &mut self.execution
    }

    /// Whether the state is known without asking.
    pub fn state(&self) -> &KnownState {
        &self.execution.state
    }

    pub(in crate::session) fn state_mut(&mut self) -> &mut KnownState {
        &mut self.execution.state
    }

    /// What PostgreSQL cannot be asked for. Answers that concern nothing else are passed to it.
    pub fn notes(&self) -> &Notes {
        &self.execution.notes
    }

    pub fn notes_mut(&mut self) -> &mut Notes {
        &mut self.execution.notes
    }

    /// What the present loan has done.
    pub(in crate::session) fn loan(&self) -> &Loan {
        &self.execution.loan
    }

    pub(in crate::session) fn loan_mut(&mut self) -> &mut Loan {
        &mut self.execution.loan
    }

    /// How texts are read, and what they may do.
    pub(in crate::session) fn texts_mut(&mut self) -> &mut TextJudge {
        &mut self.execution.texts
    }

    /// What is known of the database's functions.
    pub(in crate::session) fn hints(&self) -> Option<&Arc<Hints>> {
        self.execution.texts.hints()
    }

    pub(in crate::session) fn unnamed(&self) -> &UnnamedStatement {
        &self.unnamed
    }
}

/// Requests.
impl StateTracker {
    /// Called for every request, before the call for its content.
    #[inline]
    pub fn on_request(&mut self, tag: u8) {
        if Exchange::counts(tag) {
            self.unnamed.count_request();
        }
    }

    /// These requests, counted back from the last one, are not carried out, or may not be.
    pub fn on_skipped(&mut self, requests: Range<usize>) {
        self.execution.loan.skipped = true;
        if !self.execution.state.is_lent() && self.unnamed.is_among(&requests) {
            self.unnamed.lose();
            self.execution.changed();
        }
    }

    /// A Query; `body` with or without its closing NUL. It destroys the unnamed statement.
    pub fn on_query(&mut self, body: &[u8]) {
        self.close_unnamed();
        self.execution.run_query(body.strip_suffix(b"\0").unwrap_or(body));
    }

    /// A Parse. A named one changes the session's state by itself.
    pub fn on_parse(&mut self, body: &[u8]) {
        let Ok(parse) = parse_parse(body) else {
            return self.execution.changed();
        };
        let mut suspect = Suspect::default();
        let effects = self.execution.parse(parse.sql, &mut suspect);
        match parse.statement.is_empty() {
            true => self.keep_unnamed(&parse, body, effects),
            false => self.execution.prepare(&parse, effects),
        }
        self.execution.notes.remember(parse.statement, suspect);
    }

    /// A Bind of a statement that this tracker saw parsed. Beyond its names, the body is read only for a
    /// suspicious statement.
    pub fn on_bind(&mut self, body: &[u8], bound: Option<Bound<'_>>) {
        self.run_bound(body, bound);
        if let Some(suspect) = self.execution.notes.bind(body) {
            self.execution.bound_suspect(&suspect);
        }
    }

    /// Notes what the statement does that a Bind names; `front` is the beginning of the Bind.
    fn run_bound(&mut self, front: &[u8], bound: Option<Bound<'_>>) {
        self.execution.run_implied();
        if let Some(bound) = bound {
            return self.execution.run_bound(bound);
        }
        // The name of the portal, then that of the statement.
        let name = match front {
            [0, name @ ..] => name,
            _ => &front[memchr::memchr(0, front).map_or(front.len(), |end| end + 1)..],
        };
        match name.first() {
            Some(0) => self.run_unnamed(),
            _ => self.execution.run_named(&name[..memchr::memchr(0, name).unwrap_or(name.len())]),
        }
    }

    /// The unnamed statement is bound.
    fn run_unnamed(&mut self) {
        let (execution, unnamed) = (&mut self.execution, &self.unnamed);
        execution.loan.may_leave(unnamed.residue);
        match execution.texts.hints() {
            Some(hints) if hints.id() == unnamed.hints => {
                let otherwise = execution.loan.parses_otherwise || unnamed.parses_otherwise;
                execution.ran(unnamed.effects, String::new);
                execution.loan.parses_otherwise = otherwise;
            }
            _ => execution.run_unread(),
        }
    }

    /// An Execute; the effects of its statement counted when it was bound.
    pub fn on_execute(&mut self, body: &[u8]) {
        let result = self.execution.notes.ask(1);
        if self.execution.notes.is_empty() {
            return;
        }
        if self.execution.notes.has_lost_suspects() {
            self.execution.run_lost_suspect();
        }
        if let Some((suspect, keys)) = self.execution.notes.execute(body) {
            let mut keys = keys.into_iter();
            self.execution.run_suspect(&suspect, result, |_| keys.next().unwrap_or(Which::Computed));
        }
    }

    pub fn on_close(&mut self, body: &[u8]) {
        match parse_target(body) {
            Ok((Target::Statement, b"")) => self.close_unnamed(),
            Ok((Target::Portal, _)) => {}
            Ok((Target::Statement, name)) => {
                self.execution.change_statements(|followed, _| followed.close(name));
            }
            Err(_) => self.execution.changed(),
        }
    }

    /// A Describe. For a statement, the answer has the types of its parameters.
    pub fn on_describe(&mut self, body: &[u8]) {
        let Ok((Target::Statement, name)) = parse_target(body) else { return };
        // The text is analysed again if definitions or the path have changed.
        match self.execution.texts.hints() {
            Some(_) => self.execution.run_implied(),
            None => self.execution.ran(Effects::RUNS, String::new),
        }
        if self.execution.state.describe(name).is_err() {
            self.execution.changed();
        }
    }

    /// A FunctionCall: drivers use it only for large objects, with descriptors that end with the transaction.
    pub fn on_function_call(&mut self, body: &[u8]) {
        const LARGE_OBJECTS: std::ops::RangeInclusive<u32> = 952..=964;
        const LARGE_OBJECTS_MORE: [u32; 7] = [715, 764, 765, 767, 1004, 3170, 3172];
        self.execution.notes.ask(1);
        let oid = body.first_chunk::<4>().map_or(0, |oid| u32::from_be_bytes(*oid));
        if !LARGE_OBJECTS.contains(&oid) && !LARGE_OBJECTS_MORE.contains(&oid) {
            self.execution.ran(Effects::ANY, || format!("a FunctionCall of {oid}"));
            self.execution.run_unread();
        }
    }

    /// A request of kind `tag` that is too large to be held as a whole, with its first bytes.
    pub fn on_large(&mut self, tag: u8, start: &[u8], bound: Option<Bound<'_>>) {
        self.execution.texts.large = Pieces::Other;
        let text = match tag {
            frontend::tag::QUERY => {
                self.close_unnamed();
                self.execution.notes.ask_unclear();
                start
            }
            frontend::tag::PARSE => {
                if start.first() == Some(&0) {
                    self.unnamed.is_too_large();
                }
                let name = memchr::memchr(0, start).unwrap_or(start.len());
                let statement = start.get(..name).unwrap_or_default();
                let suspect = Suspect { changes: true, ..Suspect::default() };
                self.execution.notes.remember(statement, suspect);
                start.get(name + 1..).unwrap_or_default()
            }
            frontend::tag::BIND => {
                self.run_bound(start, bound);
                if let Some(suspect) = self.execution.notes.bind_large(start) {
                    self.execution.bound_suspect(&suspect);
                }
                return;
            }
            frontend::tag::FUNCTION_CALL => return self.on_function_call(start),
            _ => return self.execution.changed(),
        };
        self.unnamed.may_leave_statements();
        self.execution.run_large(text);
    }

    /// The next piece of it.
    pub fn on_large_part(&mut self, part: &[u8]) {
        self.execution.run_large_part(part);
    }
}

/// Answers.
impl StateTracker {
    /// An ErrorResponse, where no request on its way runs in spite of it: what was asked for until the next
    /// Sync does not run.
    pub fn on_error(&mut self) {
        self.note_failure();
        self.execution.notes.on_error();
    }

    /// An ErrorResponse, where requests behind the next Sync are on their way and will run.
    pub fn on_error_in_pipeline(&mut self) {
        self.note_failure();
        self.execution.notes.on_error_in_pipeline();
    }

    fn note_failure(&mut self) {
        self.execution.loan.skipped = true;
        self.execution.state.failed();
    }

    /// The server reports a setting while the client works: the client's request has changed it.
    pub fn on_reported_setting(&mut self, name: &str, value: &str) {
        self.execution.texts.on_parameter_status(name, value);
        if name == STRINGS {
            self.execution.loan.may_leave(Residue::Lasting);
        }
    }

    /// ReadyForQuery with nothing owed: every answer is in. At `I`, the boundary, portals are gone, too.
    #[inline]
    pub fn on_ready(&mut self, status: TransactionStatus) {
        self.execution.texts.on_ready(status);
        if self.execution.state.settle().is_err() {
            self.execution.changed();
        }
        self.execution.notes.on_ready(status);
    }
}

/// The session and its server connection.
impl StateTracker {
    /// The session goes on with a server connection that has the state last taken. `unnamed_types` are the
    /// types of its unnamed statement there ([`super::super::migrate::twin::Twin::unnamed_types`]): it may
    /// have to be parsed again.
    pub fn on_switch(&mut self, unnamed_types: &[u32]) {
        self.execution.texts.forget_hints();
        self.execution.state.switched();
        let Some(Ok(parse)) = self.unnamed.body().map(parse_parse) else {
            return;
        };
        let mut message = BytesMut::new();
        frontend::parse(&mut message, b"", parse.sql, unnamed_types);
        self.unnamed.replace(message.get(HEADER_BYTES..).unwrap_or_default());
    }

    /// What the loan that ends now may have left.
    pub(in crate::session) fn take_residue(&mut self) -> Residue {
        let (residue, skipped) = self.execution.loan.end();
        self.unnamed.end_loan(skipped);
        residue
    }
}

/// The unnamed statement.
impl StateTracker {
    /// It is destroyed.
    fn close_unnamed(&mut self) {
        if self.unnamed.forget() {
            self.execution.state.closed_unnamed();
        }
    }

    /// This Parse, with this body, makes it.
    fn keep_unnamed(&mut self, parse: &Parse<'_>, body: &[u8], effects: Effects) {
        let (texts, state) = (&self.execution.texts, &mut self.execution.state);
        self.unnamed.parsed(parse.sql, effects, texts.hints_id(), texts.residue_of(effects));
        if state.is_lent() && body.len() <= UNNAMED_BYTES_MAX {
            return self.unnamed.keep_none();
        }
        state.parsed_unnamed(body);
        match body.len() <= UNNAMED_BYTES_MAX {
            true => self.unnamed.keep(body),
            false => {
                self.unnamed.is_too_large();
                self.execution.changed();
            }
        }
    }

    /// As a part of the state, if it has types with OIDs that may differ on another server. Others are made
    /// again when the client asks for them.
    pub(in crate::session) fn unnamed_to_carry(&self) -> Option<Unnamed> {
        let nothing = BTreeMap::new();
        let names = self.execution.state.types().unwrap_or(&nothing);
        match self.unnamed.unstable_types().is_empty() {
            true => None,
            false => self.unnamed.statement(names),
        }
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
