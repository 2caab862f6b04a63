//! What PostgreSQL cannot be asked for, as it was seen in requests and answers: names of custom settings, how
//! often advisory locks were taken, what cannot travel.
//!
//! # Why
//! Most sessions do nothing of that kind. So the notes are made when there is something to note, and until
//! then each Bind, Execute and answer returns at its first branch.

use std::collections::BTreeMap;

use super::bind::BindValues;
use super::lock_counts::{LockCounts, Which};
use super::{AdvisoryLock, LockKey, SessionState};
use crate::session::scan::{
    self, Effects, KeySource, LockCall, LockOperation, Operand, ScanFinding, SettingName,
};
use crate::wire::message::TransactionStatus;
use crate::wire::message::backend::parse_data_row;
use crate::wire::message::frontend::{parse_bind_names, parse_execute};

/// Names of custom settings that are remembered.
pub(super) const SETTINGS_MAX: usize = 256;

/// Prepared statements and portals with lock calls or settings named by a parameter.
const SUSPECTS_MAX: usize = 256;
/// Why code that cannot be read pins the session, for a person.
const OPAQUE: &str = "code that may have set a setting of any name";

/// What executing a prepared statement does that must be noted when it happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) calls: Vec<LockCall>,
    /// Parameters that name settings.
    pub(super) settings: Vec<u16>,
    pub(super) unclear: bool,
    pub(super) changes: bool,
}

impl Suspect {
    pub(super) fn is_harmless(&self) -> bool {
        *self == Suspect::default()
    }
}

/// A lock call with an outcome that has not been seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    /// Index of the result, since the last boundary, that shows it.
    pub(super) result: u32,
    pub(super) column: u16,
    pub(super) operation: LockOperation,
    pub(super) which: Which,
}

/// Which result of those that were asked for since the last boundary is on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Results {
    /// [`Results::UNCLEAR`]: not to be compared with `answered` until the next boundary.
    asked: u32,
    answered: u32,
}

impl Results {
    const UNCLEAR: u32 = u32::MAX;

    /// Returns the index of the first of them.
    #[inline]
    fn ask(&mut self, count: u32) -> u32 {
        let first = self.asked;
        self.asked = self.asked.saturating_add(count);
        first
    }

    fn lose_count(&mut self) {
        self.asked = Results::UNCLEAR;
    }

    fn are_clear(self) -> bool {
        self.asked != Results::UNCLEAR
    }

    /// No request stands behind the one that was answered last.
    fn are_all_answered(self) -> bool {
        self.are_clear() && self.asked <= self.answered
    }
}

/// The notes of one session.
#[derive(Debug, Default)]
pub struct Notes {
    results: Results,
    /// `None`: nothing was noted yet.
    noted: Option<Box<Noted>>,
}

/// What a Bind shows of a statement with settings that parameters name.
pub(super) struct BoundSuspect {
    /// What setting them does.
    pub(super) effects: Effects,
    /// Executing the portal may do more than was noted.
    pub(super) is_lost: bool,
}

/// What requests show.
impl Notes {
    /// Requests with so many results. Returns the index of the first.
    #[inline]
    pub(super) fn ask(&mut self, results: u32) -> u32 {
        self.results.ask(results)
    }

    /// A request with an unknown number of results.
    pub(super) fn ask_unclear(&mut self) {
        self.results.lose_count();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.noted.is_none()
    }

    pub(super) fn get(&self) -> Option<&Noted> {
        self.noted.as_deref()
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut Noted> {
        self.noted.as_deref_mut()
    }

    /// To note something.
    pub(super) fn make(&mut self) -> &mut Noted {
        self.noted.get_or_insert_default()
    }

    /// Lock calls are on their way, with results from `first` on; `key_of` gives the key of each in turn.
    pub(super) fn run_suspect(
        &mut self,
        suspect: &Suspect,
        first: u32,
        mut key_of: impl FnMut(&LockCall) -> Which,
    ) {
        let are_clear = self.results.are_clear();
        if suspect.unclear || (!suspect.calls.is_empty() && !are_clear) {
            self.make().lock_counts.lose_count();
        }
        if suspect.calls.is_empty() || !are_clear {
            return;
        }
        let noted = self.make();
        for call in &suspect.calls {
            let which = key_of(call);
            let result = first + u32::from(call.statement);
            noted.pending.push(Pending { result, column: call.column, operation: call.operation, which });
        }
    }

    /// A statement was prepared, and executing it does this.
    pub(super) fn remember(&mut self, statement: &[u8], suspect: Suspect) {
        if suspect.is_harmless() {
            // A named one is still there if the server refuses this Parse, because the name is taken.
            if let Some(noted) = &mut self.noted
                && statement.is_empty()
            {
                noted.statements.remove(statement);
            }
            return;
        }
        let noted = self.make();
        if noted.statements.len() < SUSPECTS_MAX || noted.statements.contains_key(statement) {
            noted.statements.insert(statement.to_vec(), suspect);
        } else {
            noted.suspects_overflow = true;
            // Settings that its parameters name will not be seen.
            noted.settings_computed |= !suspect.settings.is_empty();
        }
    }

    /// A Bind. Beyond its names, it is read only for a suspicious statement.
    #[inline]
    pub(super) fn bind(&mut self, body: &[u8]) -> Option<BoundSuspect> {
        let noted = self.noted.as_mut()?;
        if noted.statements.is_empty() && noted.portals.is_empty() && !noted.sql_prepared_lock {
            return None;
        }
        noted.bind(body)
    }

    /// A Bind that is too large to be held, with its first bytes.
    pub(super) fn bind_large(&mut self, start: &[u8]) -> Option<BoundSuspect> {
        let noted = self.noted.as_mut()?;
        let statement = parse_bind_names(start).map(|names| names.statement).unwrap_or_default();
        let suspect = noted.statements.get(statement)?;
        let sets = !suspect.settings.is_empty();
        if suspect.unclear || !suspect.calls.is_empty() {
            noted.lock_counts.lose_count();
        }
        noted.settings_computed |= sets;
        let effects = if sets { scan::decided_by(None) } else { Effects::NONE };
        Some(BoundSuspect { effects, is_lost: true })
    }

    /// Whether an Execute may run a statement that was not remembered.
    #[inline]
    pub(super) fn has_lost_suspects(&self) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.suspects_overflow)
    }

    /// An Execute: what its portal does, and the keys of its lock calls.
    pub(super) fn execute(&self, body: &[u8]) -> Option<(Suspect, Vec<Which>)> {
        let noted = self.noted.as_ref().filter(|noted| !noted.portals.is_empty())?;
        let portal = parse_execute(body).map(|(portal, _)| portal).unwrap_or_default();
        noted.portals.get(portal).cloned()
    }
}

/// What answers show.
impl Notes {
    /// Whether the result that is on its way shows the outcome of a lock call.
    #[inline]
    pub fn watches_rows(&self) -> bool {
        let Some(noted) = &self.noted else {
            return false;
        };
        noted.pending.iter().any(|pending| pending.result == self.results.answered)
    }

    pub fn on_data_row(&mut self, body: &[u8]) {
        let answered = self.results.answered;
        let Some(noted) = &mut self.noted else {
            return;
        };
        let Ok(row) = parse_data_row(body) else {
            return noted.lock_counts.lose_count();
        };
        for pending in noted.pending.iter().filter(|pending| pending.result == answered) {
            // NULL: a key was NULL, and the function was not called.
            let Some(Some(outcome)) = row.get(usize::from(pending.column)) else {
                continue;
            };
            let is_true = matches!(outcome, [b't'] | [1]);
            match pending.operation {
                LockOperation::Lock => noted.lock_counts.taken(pending.which),
                LockOperation::TryLock if is_true => noted.lock_counts.taken(pending.which),
                LockOperation::Unlock if is_true => noted.lock_counts.released(pending.which),
                LockOperation::UnlockAll => noted.lock_counts.all_released(),
                LockOperation::TryLock | LockOperation::Unlock => {}
            }
        }
    }

    /// A CommandComplete with its command tag, with or without the NUL.
    pub fn on_command_complete(&mut self, command: &[u8]) {
        self.on_no_command();
        let Some(noted) = &mut self.noted else {
            return;
        };
        match command.strip_suffix(b"\0").unwrap_or(command) {
            // Requests behind it may have been noted already.
            b"DISCARD ALL" if !self.results.are_all_answered() => {}
            b"DISCARD ALL" => noted.discard_all(),
            b"DEALLOCATE ALL" => noted.statements.clear(),
            _ => {}
        }
    }

    /// EmptyQueryResponse, PortalSuspended or FunctionCallResponse.
    #[inline]
    pub(in crate::session) fn on_no_command(&mut self) {
        let answered = self.results.answered;
        self.results.answered = self.results.answered.saturating_add(1);
        if let Some(noted) = &mut self.noted {
            noted.pending.retain(|pending| pending.result > answered);
        }
    }

    /// An ErrorResponse: what was asked for until the next Sync does not run.
    pub(super) fn on_error(&mut self) {
        let answered = self.results.answered;
        self.results.lose_count();
        let Some(noted) = &mut self.noted else {
            return;
        };
        let running = noted.pending.iter().filter(|pending| pending.result == answered).count();
        // One call that failed took nothing. Of several, the first ones may have.
        if running > 1 || noted.pending.len() > running {
            noted.lock_counts.lose_count();
        }
        noted.pending.clear();
    }

    /// An ErrorResponse, and requests behind it run in spite of it: which result belongs to which call is not
    /// known any more.
    pub(super) fn on_error_in_pipeline(&mut self) {
        self.results.lose_count();
        if let Some(noted) = &mut self.noted {
            noted.lose_pending();
        }
    }

    /// ReadyForQuery with nothing owed.
    #[inline]
    pub(super) fn on_ready(&mut self, status: TransactionStatus) {
        self.results = Results::default();
        let Some(noted) = &mut self.noted else {
            return;
        };
        noted.tail = Vec::new();
        noted.lose_pending();
        if status == TransactionStatus::Idle {
            noted.portals.clear();
        }
    }
}

/// What the question for the state has to include, and what its answer means.
impl Notes {
    pub(super) fn setting_names(&self) -> &[String] {
        self.noted.as_ref().map_or(&[], |noted| &noted.settings)
    }

    /// Locks were taken, or may have been.
    pub(super) fn may_hold_locks(&self) -> bool {
        self.noted.as_ref().is_some_and(|noted| !noted.lock_counts.is_empty())
    }

    /// Something was done that DISCARD ALL does not reset, or a setting with an unknown name was set.
    pub(super) fn has_done_what_stays(&self) -> bool {
        let stays = |noted: &Noted| {
            let untold = noted.settings_overflow || noted.settings_computed || noted.settings_untold;
            untold || noted.opaque.is_some() || !noted.foreign.is_empty()
        };
        self.noted.as_deref().is_some_and(stays)
    }

    /// Completes the state that was taken, with these locks held.
    pub(super) fn complete(&mut self, state: &mut SessionState, held: &[AdvisoryLock], is_lent: bool) {
        if self.noted.is_some() || !held.is_empty() {
            self.make().complete(state, held, is_lent);
        }
    }

    /// How many changes of the catalogue the server had counted, if it counts; `None`: it was not asked.
    pub(in crate::session) fn take_changes(&mut self) -> Option<Option<String>> {
        self.noted.as_mut()?.changes.take()
    }
}

/// What most sessions never need.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// How many changes of the catalogue the server had counted when the state was asked for, if it counts.
    pub(super) changes: Option<Option<String>>,
    pub(super) settings: Vec<String>,
    pub(super) settings_overflow: bool,
    pub(super) settings_computed: bool,
    /// Unknown settings were set before a DISCARD ALL of the client's, which leaves them empty and not as
    /// they were.
    pub(super) settings_untold: bool,
    /// The last code that may have set a setting of any name.
    pub(super) opaque: Option<String>,
    /// Texts that ran before it was known what the database's functions do.
    pub(super) unjudged: Vec<Vec<u8>>,
    pub(super) statements: BTreeMap<Vec<u8>, Suspect>,
    pub(super) portals: BTreeMap<Vec<u8>, (Suspect, Vec<Which>)>,
    pub(super) suspects_overflow: bool,
    /// SQL-level PREPARE of a statement that locks was seen.
    pub(super) sql_prepared_lock: bool,
    /// SQL-level PREPARE of a statement that changes the session was seen.
    pub(super) sql_prepared_change: bool,
    pub(super) lock_counts: LockCounts,
    pub(super) pending: Vec<Pending>,
    pub(super) foreign: Vec<&'static str>,
    pub(super) sequence_memory: bool,
    /// The last bytes of the previous piece of a large text.
    pub(super) tail: Vec<u8>,
}

impl Noted {
    pub(super) fn note(&mut self, finding: ScanFinding, suspect: &mut Suspect) {
        match finding {
            ScanFinding::Setting(name) => self.setting(name),
            ScanFinding::SettingParameter(parameter) => suspect.settings.push(parameter),
            ScanFinding::SettingComputed => self.settings_computed = true,
            ScanFinding::Lock(call) => suspect.calls.push(call),
            ScanFinding::LockUnclear => suspect.unclear = true,
            ScanFinding::LockPrepared => self.sql_prepared_lock = true,
            ScanFinding::ChangePrepared => self.sql_prepared_change = true,
            ScanFinding::Executes => self.executes(suspect),
            ScanFinding::Foreign(what) => self.foreign_state(what),
            ScanFinding::SequenceMemory => self.sequence_memory = true,
        }
    }

    /// EXECUTE runs any prepared statement, made by either way.
    fn executes(&self, suspect: &mut Suspect) {
        let locks = |known: &Suspect| known.unclear || !known.calls.is_empty();
        suspect.unclear |=
            self.sql_prepared_lock || self.suspects_overflow || self.statements.values().any(locks);
        // The statement may do something else now than when it was prepared.
        suspect.changes = true;
    }

    /// Names of settings are compared as PostgreSQL compares them, without regard to case.
    pub(super) fn setting(&mut self, name: String) {
        if self.settings.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            return;
        }
        if self.settings.len() == SETTINGS_MAX {
            self.settings_overflow = true;
            return;
        }
        self.settings.push(name);
    }

    pub(super) fn foreign_state(&mut self, what: &'static str) {
        if !self.foreign.contains(&what) {
            self.foreign.push(what);
        }
    }

    fn bind(&mut self, body: &[u8]) -> Option<BoundSuspect> {
        let names = parse_bind_names(body).ok()?;
        let suspect = match self.statements.get(names.statement) {
            Some(suspect) => suspect.clone(),
            // It may be the one that SQL prepared.
            None if self.sql_prepared_lock && !names.statement.is_empty() => {
                Suspect { unclear: true, changes: true, ..Suspect::default() }
            }
            None => {
                self.portals.remove(names.portal);
                return None;
            }
        };
        let values = BindValues::parse(body);
        let effects = self.bind_settings(&suspect, values.as_ref());
        let number = |parameter| values.as_ref().and_then(|values| values.number(parameter));
        let keys = suspect.calls.iter().map(|call| which(call, number)).collect();
        let is_lost = self.portals.len() >= SUSPECTS_MAX;
        match is_lost {
            true => self.lock_counts.lose_count(),
            false => drop(self.portals.insert(names.portal.to_vec(), (suspect, keys))),
        }
        Some(BoundSuspect { effects, is_lost })
    }

    /// Notes the settings that parameters name. Returns what setting them does.
    fn bind_settings(&mut self, suspect: &Suspect, values: Option<&BindValues<'_>>) -> Effects {
        let mut effects = Effects::NONE;
        for &parameter in &suspect.settings {
            let name = values.and_then(|values| values.text(parameter));
            effects |= scan::decided_by(name);
            match name.map(SettingName::of) {
                Some(SettingName::Custom(name)) => self.setting(name),
                Some(SettingName::Listed) if name.is_some_and(|name| name.eq_ignore_ascii_case(b"seed")) => {
                    self.foreign_state(scan::SEED);
                }
                // PostgreSQL lists it.
                Some(SettingName::Listed) => {}
                Some(SettingName::Odd) | None => self.settings_computed = true,
            }
        }
        effects
    }

    /// A DISCARD ALL was carried out.
    fn discard_all(&mut self) {
        self.lock_counts.all_released();
        self.statements.clear();
        self.sql_prepared_lock = false;
        self.suspects_overflow = false;
        // RESET ALL is part of it; inside a transaction it is refused, so it cannot be rolled back.
        self.settings_untold |= self.settings_computed || self.settings_overflow || self.opaque.is_some();
        self.settings_computed = false;
        self.opaque = None;
        self.settings_overflow = false;
    }

    /// The outcome of the calls on their way will not be seen.
    fn lose_pending(&mut self) {
        if !self.pending.is_empty() {
            self.pending.clear();
            self.lock_counts.lose_count();
        }
    }

    fn complete(&mut self, state: &mut SessionState, held: &[AdvisoryLock], is_lent: bool) {
        match self.lock_counts.settle(held) {
            Some(counts) => state.locks = counts,
            None => {
                // The locks are asked for again until they are gone.
                self.lock_counts.lose_count();
                state.pins.extend(held.iter().map(|lock| format!("{lock} held an unknown number of times")))
            }
        }
        if self.settings_overflow {
            state.pins.insert(format!("more than {SETTINGS_MAX} custom settings"));
        }
        if self.settings_computed {
            state.pins.insert("a setting whose name was computed".to_owned());
        }
        if let Some(culprit) = self.opaque.as_deref().filter(|_| is_lent) {
            state.pins.insert(match culprit {
                "" => OPAQUE.to_owned(),
                culprit => format!("{OPAQUE}: {culprit}"),
            });
        }
        state.pins.extend(self.foreign.iter().map(|&what| what.to_owned()));
        if self.sequence_memory {
            state.losses.insert("currval and lastval".to_owned());
        }
    }
}

/// The lock of a call, where its key is known.
pub(super) fn which(call: &LockCall, parameter: impl Fn(u16) -> Option<i64>) -> Which {
    let value = |operand| match operand {
        Operand::Literal(value) => Some(value),
        Operand::Parameter(number) => parameter(number),
        Operand::Computed => None,
    };
    let half = |operand| value(operand).and_then(|value| i32::try_from(value).ok());
    let key = match call.key {
        KeySource::Every => None,
        KeySource::Bigint(key) => value(key).map(LockKey::Bigint),
        KeySource::Pair(first, second) => half(first).zip(half(second)).map(|(a, b)| LockKey::Pair(a, b)),
    };
    key.map_or(Which::Computed, |key| Which::Known(AdvisoryLock { key, shared: call.shared }))
}
