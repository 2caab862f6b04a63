//! What most sessions do not need: names of settings, lock calls under way, what cannot travel.

use std::collections::BTreeMap;

use super::lock_counts::{LockCounts, Which};
use super::{AdvisoryLock, LockKey};
use crate::session::scan::{KeySource, LockCall, LockOperation, Operand, ScanFinding};

/// Names of custom settings that are remembered.
pub(super) const SETTINGS_MAX: usize = 256;

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

/// What most sessions never need.
#[derive(Debug, Default)]
pub(super) struct Notes {
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

impl Notes {
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
