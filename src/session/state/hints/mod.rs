//! What the functions, views, policies, triggers and defaults of a database can do to a session: read from
//! its catalogue.
//!
//! Owns the question ([`sql`]) and the answer ([`Hints`]): for each name of the database, the effects that a
//! text with that name may have. [`scan::read`](crate::session::scan::read()) looks names up here.
//!
//! # Why
//! No text of a client shows what a function does. Without hints, every query could have changed the session,
//! and each session would ask again at each boundary; with them, only those texts lead to a question that
//! contain a name not known to be harmless. A function is harmless if every word of its body is: the body is
//! read like a text of a client's. A function in C is harmless if it is declared stable or immutable, or
//! belongs to an extension that is known; in another language, never. A table is as harmless as its triggers,
//! rules, policies, defaults, checks and index expressions, and as the tables with rows that change with its
//! own. Names are looked up without regard to schemas, so a search path cannot hide one.
//!
//! The answer also has the names of custom settings that the database's own code sets or reads by a literal
//! name: those are the ones that an application cannot afford to lose.
//!
//! Expressions are stored as trees. They are searched as text, because `pg_get_expr` may wait for a table's
//! lock.

mod keeping;
mod question;
mod reading;
mod trees;
mod verdicts;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

use self::question::CATALOGUE;
pub(super) use self::question::{ALL_DEFINITIONS, DEFINITIONS, sql};
use self::reading::Reading;
use self::verdicts::Verdicts;
use super::rows::{Fields, Rows, SnapshotError};
use crate::session::scan::{self, Backslashes, Effects, Names, OpaqueNames, Verdict};

/// Shared by the sessions of a database on one worker.
#[derive(Debug, Default)]
pub struct Hints {
    /// Tells one reading from another; 0 is none.
    id: u32,
    /// Names that are not known to be harmless.
    names: HashMap<Box<[u8]>, Effects>,
    /// Names of functions that are harmless.
    functions: HashSet<Box<[u8]>>,
    /// The effects of any text that runs: an operator or a cast may call something that is not harmless.
    implied: Effects,
    /// The effects of any change of a definition: an event trigger.
    on_definition: Effects,
    /// The effects of all names together.
    any: Effects,
    /// The effects of names with characters beyond ASCII.
    beyond_ascii: Effects,
    /// Names that functions, domains or indexes keep the meaning of, without the leading underscores of array
    /// types.
    kept: HashSet<Box<[u8]>>,
    /// They may keep the meaning of any other name, too.
    keeps_any: bool,
    /// Connections keep results of user-defined immutable functions, which any setting may affect.
    keeps_results: bool,
    /// An event trigger runs at each login.
    has_login_trigger: bool,
    /// Names of custom settings that the database's own code mentions.
    pub(super) settings: Vec<String>,
    /// [`DEFINITIONS`] at that moment; `None`: the server does not count.
    pub(super) definitions: Option<i64>,
    /// [`ALL_DEFINITIONS`] at that moment.
    pub(super) all_definitions: Option<i64>,
    /// [`CATALOGUE`] at that moment.
    catalogue: Option<i64>,
    verdicts: Verdicts,
    /// The question took too long, or its answer was too long: nothing is known.
    unread: Option<Unread>,
    /// Names that, when used, ask for sequence values that the session drew.
    memory_readers: Vec<Box<[u8]>>,
    /// Made for a session that has gone on with another connection and had drawn values.
    memory_names: OnceLock<OpaqueNames>,
    /// Made for a text that is too large to be held.
    opaque_names: OnceLock<OpaqueNames>,
}

/// When the question is asked again that failed.
#[derive(Debug, Clone, Copy)]
struct Unread {
    at: Instant,
    rest: Duration,
}

/// The pause after the question failed; doubled each time, up to the longer one.
const REST_MIN: Duration = Duration::from_secs(20);
const REST_MAX: Duration = Duration::from_secs(600);

/// A longer answer is not read.
pub(super) const ROWS_MAX: usize = 150_000;

/// The hints of a database, or room for them: filled by the first session that asks.
#[derive(Debug, Default)]
pub struct HintsCell {
    answer: OnceLock<Arc<Hints>>,
    /// Held by the session that asks the server.
    asking: Mutex<()>,
    /// The previous hints, which may still be right.
    before: Option<Arc<Hints>>,
}

impl HintsCell {
    pub fn of(hints: Arc<Hints>) -> HintsCell {
        HintsCell { answer: OnceLock::from(hints), ..HintsCell::default() }
    }

    /// A cell to be filled again; with the previous hints, if the catalogue has not changed.
    pub(in crate::session) fn to_be_checked(&self) -> HintsCell {
        let before = self.answer.get().or(self.before.as_ref()).cloned();
        match before {
            Some(before) if before.is_resting() => HintsCell::of(before),
            before => HintsCell { before, ..HintsCell::default() },
        }
    }

    /// A cell to be filled again, as definitions have changed. What could not be read stays so for its time:
    /// otherwise a client that changes definitions would make others wait for the question again and again.
    pub(in crate::session) fn outdated(&self) -> HintsCell {
        match self.answer.get().or(self.before.as_ref()) {
            Some(before) if before.unread.is_some() => self.to_be_checked(),
            _ => HintsCell::default(),
        }
    }

    /// Hints for a database whose code could not be read.
    pub(super) fn unread(&self) -> Arc<Hints> {
        let last = self.before.as_ref().and_then(|before| before.unread);
        Arc::new(Hints::unread(last.map_or(REST_MIN, |last| (last.rest * 2).min(REST_MAX))))
    }

    pub fn get(&self) -> Option<&Arc<Hints>> {
        self.answer.get()
    }

    /// Waits until no other session asks.
    pub(super) async fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    /// The previous hints, with the question that tells whether they are right.
    pub(super) fn before(&self) -> Option<(&Arc<Hints>, String)> {
        self.before.as_ref().map(|before| (before, format!("SELECT ({CATALOGUE})::pg_catalog.text")))
    }

    pub(super) fn fill(&self, hints: Arc<Hints>) -> Arc<Hints> {
        Arc::clone(self.answer.get_or_init(|| hints))
    }
}

/// What functions of a database do to its sessions is read again after this time: another client may have
/// redefined them.
pub(in crate::session) const HINTS_MAX: Duration = Duration::from_secs(10);

/// The newest major with all of its functions on a list.
const MAJOR_KNOWN_MAX: u32 = 18;

impl Hints {
    /// Reads the answer to [`sql`].
    ///
    /// A database may have thousands of functions: yields to other tasks of the worker in between.
    pub(super) async fn from_rows(rows: &Rows) -> Result<Hints, SnapshotError> {
        let mut reading = Reading::default();
        let (mut major, mut definitions, mut catalogue, mut all_definitions) = (0, None, None, None);
        // These rows are needed to read the others.
        for row in rows {
            reading.names_row(&Fields::of(row))?;
        }
        for row in rows {
            let fields = Fields::of(row);
            if fields.kind() == "server" {
                major = fields.number::<u32>(1)? / 10_000;
                definitions = fields.optional_number(2)?;
                catalogue = fields.optional_number(3)?;
                all_definitions = fields.optional_number(4)?;
            } else {
                reading.row(&fields)?;
            }
            if reading.is_turn_over() {
                tokio::task::yield_now().await;
            }
        }
        let mut hints = reading.finish();
        (hints.definitions, hints.catalogue) = (definitions, catalogue);
        hints.all_definitions = all_definitions;
        if major > MAJOR_KNOWN_MAX {
            // Functions of a newer major are on no list, and its own views may call them.
            hints.implied |= Effects::ANY;
        }
        Ok(hints)
    }

    /// Nothing is known: any text may do anything.
    fn unread(rest: Duration) -> Hints {
        let all =
            Effects::ANY | Effects::UNPROVEN | Effects::FINDS | Effects::BY_PATH | scan::decided_by(None);
        Hints {
            id: rand::random_range(1..u32::MAX),
            implied: all,
            on_definition: all,
            any: all,
            beyond_ascii: all,
            keeps_any: true,
            keeps_results: true,
            has_login_trigger: true,
            unread: Some(Unread { at: Instant::now(), rest }),
            ..Hints::default()
        }
    }

    fn is_resting(&self) -> bool {
        self.unread.is_some_and(|unread| unread.at.elapsed() < unread.rest)
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the catalogue is as it was, by the answer to [`HintsCell::before`].
    pub(super) fn are_right(&self, answer: &Rows) -> bool {
        let now = answer.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        now.is_some() && now == self.catalogue
    }

    #[cfg(test)]
    pub(super) fn with(name: &str, effects: Effects) -> Hints {
        Hints {
            id: 1,
            names: HashMap::from([(name.as_bytes().into(), effects)]),
            any: effects,
            ..Hints::default()
        }
    }

    /// What may run without being named in a text: the check of a domain, a cast.
    pub(super) fn implied(&self) -> Effects {
        self.implied
    }

    /// An event trigger runs at each login: cleaning a connection does not run it again.
    pub(in crate::session) fn has_login_trigger(&self) -> bool {
        self.has_login_trigger
    }

    /// Whether connections keep results of user-defined immutable functions: any setting may affect those,
    /// not only the settings by which PostgreSQL reads values.
    pub(in crate::session) fn keeps_results(&self) -> bool {
        self.keeps_results
    }

    /// The effects of all of the database's code together.
    pub(super) fn any(&self) -> Effects {
        self.any | self.implied
    }

    /// Finds the names of code with effects that cannot be asked for.
    pub(super) fn opaque_names(&self) -> &OpaqueNames {
        self.opaque_names.get_or_init(|| {
            let unseen = Effects::OPAQUE | Effects::LOCKS;
            let named = self.names.iter().filter(|(_, effects)| effects.has(unseen));
            OpaqueNames::of(named.map(|(name, _)| &**name))
        })
    }

    /// Finds the names that, when used, ask for sequence values that the session drew.
    pub(in crate::session) fn memory_names(&self) -> &OpaqueNames {
        self.memory_names.get_or_init(|| OpaqueNames::of(self.memory_readers.iter().map(|name| &**name)))
    }

    fn names(&self) -> Known<'_> {
        Known(self)
    }

    /// What running the text may do to a session.
    pub(super) fn judge(&self, sql: &[u8], backslashes: Backslashes) -> Verdict {
        let screened = if self.names().are_all_harmless() { scan::screen(sql) } else { None };
        match screened {
            Some(effects) => Verdict::of(effects),
            None => self.verdicts.find(sql, backslashes, || scan::read(sql, backslashes, &mut self.names())),
        }
    }
}

/// The names of a database, to judge a text by.
pub(super) struct Known<'h>(&'h Hints);

impl Names for Known<'_> {
    fn are_all_harmless(&self) -> bool {
        self.0.names.is_empty() && self.0.implied.is_none()
    }

    fn effects(&mut self, name: &[u8]) -> Effects {
        let known = self.0.names.get(name).copied().unwrap_or_default();
        // A client with another encoding writes it in other bytes, or folds it otherwise.
        if name.is_ascii() { known } else { known | self.0.beyond_ascii }
    }

    fn call(&mut self, name: &[u8]) -> Effects {
        match self.0.functions.contains(name) || self.0.names.contains_key(name) {
            true => Effects::NONE,
            false => Effects::ASKS,
        }
    }

    fn implied(&mut self) -> Effects {
        self.0.implied
    }

    fn makes_temporary(&mut self, name: Option<&[u8]>) -> Effects {
        let is_kept = self.0.keeps_any || name.is_none_or(|name| self.0.kept.contains(element(name)));
        if is_kept { Effects::TEMPORARY } else { Effects::NONE }
    }

    fn on_definition(&mut self) -> Effects {
        self.0.on_definition
    }

    fn any(&mut self) -> Effects {
        self.0.any()
    }
}

/// The name of a type, from the name of its array type.
fn element(name: &[u8]) -> &[u8] {
    &name[name.iter().take_while(|&&byte| byte == b'_').count()..]
}

#[cfg(test)]
mod tests;
