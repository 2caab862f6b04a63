//! The state of a session that must outlive its server connection.
//!
//! Owns what the state is ([`SessionState`]), how PostgreSQL is asked for it ([`snapshot()`]), and what is
//! remembered of a client's requests because PostgreSQL cannot be asked for it ([`StateTracker`]). It does
//! not restore anything: that is [`super::migrate::restore`] and [`super::migrate::twin`]; and it never
//! decides when a transaction ends: the relay reports that.
//!
//! # How the relay uses this
//! One [`StateTracker`] per session, called for each message, with bodies without their five bytes of header:
//!
//! | message | call |
//! |---|---|
//! | client: Query, Parse, Bind | `on_query`, `on_parse`, `on_bind` |
//! | client: Execute, Close, FunctionCall | `on_execute`, `on_close`, `on_function_call` |
//! | client: one of them, too large to be held | `on_large(tag, first bytes)`; `on_large_part` per piece |
//! | server: CommandComplete | `notes_mut().on_command_complete(command)` |
//! | server: EmptyQueryResponse, PortalSuspended | `notes_mut().on_no_command()` |
//! | server: DataRow, only while `notes().watches_rows()` | `notes_mut().on_data_row` |
//! | server: ParameterDescription, only while `state().is_following()` | `state_mut().on_parameter_description` |
//! | server: ErrorResponse | `on_error`, `on_error_in_pipeline` |
//! | server: ParameterStatus | `on_reported_setting` |
//! | server: ReadyForQuery with nothing owed after it | `on_ready(status)`; with `I` it is the boundary |
//!
//! The tracker reads the messages; what follows from them is kept in parts. Each answers one question, and is
//! asked for itself: `tracker.state().freshness()`.
//!
//! ```text
//!   StateTracker -+-> ExecutionRecord -+-> TextJudge    what may running a text do?
//!                 |                    +-> Loan         what may the session leave behind?
//!                 |                    +-> KnownState   is its state known without asking?
//!                 |                    `-> Notes        what can PostgreSQL not be asked for?
//!                 `-> UnnamedStatement                  what is parsed under no name?
//! ```
//!
//! At a boundary, with a `next` place in the route:
//! 1. `state().freshness()` is `Never` or `Stale`: [`snapshot()`], then
//!    [`super::migrate::twin::Twin::build`] or `refresh`. One [`Hints`] per database and warm order is shared by the sessions of a worker (`Arc`), so
//!    that it is read once.
//! 2. [`SessionState::pins`] not empty: the session is pinned, for these reasons. Otherwise it is ready.
//! 3. inside the hold: `Stale` again means one more snapshot and a `refresh` with
//!    [`super::migrate::restore::LockPatience::Wait`]; `Unnamed` and
//!    `Fresh` mean nothing, unless the twin is not
//!    [`super::migrate::twin::Twin::is_complete`]: then a lock is still missing, and `refresh` with `Wait`
//!    takes it.
//! 4. at the switch, [`StateTracker::on_switch`] with [`super::migrate::twin::Twin::unnamed_types`].
//!
//! A snapshot runs on the session's own server connection, at a boundary only, and none of the client's
//! messages may be sent until it is back. It leaves no trace that SQL could see. The twin is built beside the
//! session, which goes on.
//!
//! # Why
//! What PostgreSQL knows is asked from PostgreSQL, because a proxy's copy of it is wrong as soon as a
//! function, a trigger or a ROLLBACK did something that no text shows. The rest is a short list: names of
//! custom settings (`pg_settings` hides them), how often an advisory lock is held (`pg_locks` has one row),
//! and the unnamed statement (no view shows it, and a snapshot destroys it).

mod bind;
mod execution;
mod followed;
mod freshness;
mod hints;
mod known_state;
mod loan;
mod lock_counts;
mod notes;
mod reset;
mod residue;
mod rows;
mod shape;
mod snapshot;
mod text_judge;
mod tracker;
mod unnamed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use execution::Bound;
pub use freshness::Freshness;
pub(in crate::session) use hints::HINTS_MAX;
pub use hints::{Hints, HintsCell};
pub use known_state::KnownState;
pub use loan::NamesUse;
pub use notes::Notes;
pub use reset::{ResetOutcome, reset};
pub(super) use residue::TEXT_SEARCH;
pub use residue::{Residue, reads_functions_otherwise};
pub use rows::SnapshotError;
pub(super) use rows::{AT_ONCE, TIMEOUT_TOO_SHORT, unhex};
pub(in crate::session) use shape::questions as shape_questions;
pub(in crate::session) use snapshot::fill_hints;
pub use snapshot::snapshot;
pub use tracker::StateTracker;
pub(super) use unnamed::{UNNAMED_BYTES_KEPT, UNNAMED_BYTES_MAX, UNNAMED_TOO_LARGE};

use super::scan;

/// The key of an advisory lock. `pg_locks` tells both kinds apart by `objsubid` 1 and 2; equal numbers of
/// both kinds are different locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKey {
    Bigint(i64),
    Pair(i32, i32),
}

/// A session-level advisory lock. The same key may be held shared and exclusive at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvisoryLock {
    pub key: LockKey,
    pub shared: bool,
}

impl fmt::Display for AdvisoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.shared { "shared advisory lock" } else { "advisory lock" };
        match self.key {
            LockKey::Bigint(key) => write!(f, "{kind} ({key})"),
            LockKey::Pair(first, second) => write!(f, "{kind} ({first}, {second})"),
        }
    }
}

/// A type, named so that it means the same on another server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TypeName {
    /// An OID below [`TypeName::FIRST_UNSTABLE_OID`]: the same everywhere, or 0 where the server is to
    /// choose.
    BuiltIn(u32),
    /// A qualified name as `to_regtype` reads it: `app."Mood"[]`.
    Named(String),
}

impl TypeName {
    /// OIDs from here on are given out by each initdb or at run time (`FirstGenbkiObjectId`).
    pub const FIRST_UNSTABLE_OID: u32 = 10_000;
}

/// A named prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreparedStatement {
    /// Made by Parse: the text, and the types that the server decided on.
    Protocol { sql: String, types: Vec<TypeName> },
    /// Made by PREPARE: the text of that statement only, without the rest of the client's text.
    Sql { sql: String },
}

/// The unnamed statement: some drivers parse it, wait, and bind it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// In the client's encoding.
    pub sql: Vec<u8>,
    pub types: Vec<TypeName>,
}

/// All that a session carries, owned and comparable: equal states behave alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionState {
    /// The session's own settings, custom ones too, as `current_setting` returns and `set_config` takes them.
    pub settings: BTreeMap<String, String>,
    pub session_user: String,
    /// `none`, or a name.
    pub role: String,
    pub statements: BTreeMap<String, PreparedStatement>,
    pub channels: BTreeSet<String>,
    /// With the number of times that each is held.
    pub locks: BTreeMap<AdvisoryLock, u32>,
    pub unnamed: Option<Unnamed>,
    /// Why the session cannot migrate now.
    pub(crate) pins: BTreeSet<String>,
    /// What the session loses when it travels; it travels all the same.
    pub(crate) losses: BTreeSet<String>,
    /// More than is kept: settings, statements and channels are not here, and one of the pins says so.
    pub(crate) is_too_large: bool,
}

impl SessionState {
    /// Reasons why the session cannot migrate, for a person: `temporary table "cart"`,
    /// `cursor "c" WITH HOLD`.
    pub fn pins(&self) -> Vec<String> {
        self.pins.iter().cloned().collect()
    }

    /// Names without a schema may have another meaning than in a session with the other state.
    pub(super) fn has_other_path(&self, other: &SessionState) -> bool {
        const PATH: &str = "search_path";
        self.settings.get(PATH) != other.settings.get(PATH) || self.has_other_role(other)
    }

    fn has_other_role(&self, other: &SessionState) -> bool {
        (&self.role, &self.session_user) != (&other.role, &other.session_user)
    }

    /// Whether PostgreSQL's own code may compute other values from constants than in a session with the other
    /// state.
    ///
    /// Compares only the settings that affect this. Others, such as `application_name` and
    /// `statement_timeout`, differ between clients that can share what a connection keeps.
    pub(super) fn reads_values_otherwise(&self, other: &SessionState) -> bool {
        let decides = |(name, _): &(&String, &String)| scan::decides_values(name);
        self.settings.iter().filter(decides).ne(other.settings.iter().filter(decides))
    }

    /// Whether a user-defined immutable function may return something else: it can read any setting,
    /// including `application_name` and custom ones, and the role.
    pub(super) fn computes_otherwise(&self, other: &SessionState) -> bool {
        self.settings != other.settings || self.has_other_role(other)
    }

    /// What the session loses when it travels: answers of `currval`, for one, where they cannot be restored.
    pub fn losses(&self) -> Vec<String> {
        self.losses.iter().cloned().collect()
    }

    /// What differs from `other`, for a person; empty if a client could not tell the two apart.
    pub fn differences(&self, other: &SessionState) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |differs: bool, what: String| {
            if differs {
                found.push(what);
            }
        };
        note(self.session_user != other.session_user, "session authorization".to_owned());
        note(self.role != other.role, "role".to_owned());
        for name in keys(&self.settings, &other.settings) {
            note(self.settings.get(name) != other.settings.get(name), format!("setting \"{name}\""));
        }
        for name in keys(&self.statements, &other.statements) {
            let differs = self.statements.get(name) != other.statements.get(name);
            note(differs, format!("prepared statement \"{name}\""));
        }
        for channel in self.channels.symmetric_difference(&other.channels) {
            note(true, format!("LISTEN \"{channel}\""));
        }
        for lock in keys(&self.locks, &other.locks) {
            note(self.locks.get(lock) != other.locks.get(lock), lock.to_string());
        }
        found
    }
}

/// The keys of both, each once.
fn keys<'a, K: Ord, V>(one: &'a BTreeMap<K, V>, other: &'a BTreeMap<K, V>) -> BTreeSet<&'a K> {
    one.keys().chain(other.keys()).collect()
}
