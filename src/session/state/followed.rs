//! What is known of a session's state without asking, from the moment at which it was asked for.
//!
//! ```text
//!   requests: Parse, Describe, Close of a named statement  ->  pending
//!   all answered, and no error among them                  ->  changes of the base
//!   an error, a change that cannot be followed exactly, or     ->  unknown: PostgreSQL is asked again
//!     anything else that may have changed the state
//! ```
//!
//! Owns the state that was asked for last (the base), the changes since that are known exactly, and what each
//! named statement does when it is bound. It deliberately guesses nothing: anything that
//! [`StateTracker`](super::StateTracker) cannot prove to be harmless and that cannot be followed exactly here
//! makes the state unknown.
//!
//! # Why
//! In the pause of a move every session's state must be known. Asking each session's server takes a
//! millisecond, so a thousand sessions would wait for a second. Sessions do the same things again and again:
//! plain statements, which change nothing (`scan::proof`), and statements that a driver prepares and closes,
//! where PostgreSQL itself reports that they were carried out.
//!
//! # Why an error ends it
//! After an error the server skips the requests behind it, and only the exchange's ledger knows which those
//! were. Errors are rare, and asking tells all: so requests are believed only if every one of them was
//! carried out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::{PreparedStatement, SessionState, TypeName};
use crate::session::scan::Effects;
use crate::wire::message::frontend::Parse;

/// Requests that are kept since the last moment without open answers; after a longer pipeline PostgreSQL is
/// asked.
const PENDING_MAX: usize = 256;
/// Bytes of changed texts and names that are kept; for more, PostgreSQL is asked.
const BYTES_MAX: usize = 64 * 1024;
/// PostgreSQL cuts longer names of prepared statements.
const NAME_BYTES_MAX: usize = 63;
/// Statements with known effects that are kept; for others it is only known that they run.
const JUDGED_MAX: usize = 1_000;

/// A request that is not answered yet.
#[derive(Debug)]
enum Pending {
    Parse {
        name: Box<str>,
        sql: Box<str>,
        /// As the client gave them.
        types: Vec<u32>,
        /// The server takes them as they are.
        are_settled: bool,
    },
    /// A Describe of a statement, also of the unnamed one; with the types that the server reported.
    Describe {
        name: Box<[u8]>,
        types: Option<Vec<u32>>,
    },
    Close {
        name: Box<str>,
    },
}

/// The base and all that has changed since; the module's documentation has the rules.
#[derive(Debug)]
pub(super) struct Followed {
    base: Arc<SessionState>,
    /// Names of the types with OIDs that another server may not know, as of the base.
    types: BTreeMap<u32, String>,
    /// What differs from the base; `None`: the statement is gone.
    statements: BTreeMap<Box<str>, Option<PreparedStatement>>,
    bytes: usize,
    pending: VecDeque<Pending>,
    /// An error came since the last moment without open answers.
    has_failed: bool,
    /// What binding a named statement does, judged by the hints of that number.
    judged: HashMap<Box<[u8]>, (u32, Effects)>,
    /// Nothing has changed since another connection was found to have all of the state.
    is_as_carried: bool,
    /// The unnamed statement uses types defined by users: it is carried as a part of the state.
    carries_unnamed: bool,
}

/// The state is not known any more.
#[derive(Debug)]
pub(super) struct Unknown;

impl Followed {
    /// Begins with a state that PostgreSQL has just reported.
    pub(super) fn from(base: Arc<SessionState>, types: BTreeMap<u32, String>) -> Followed {
        Followed {
            base,
            types,
            statements: BTreeMap::new(),
            bytes: 0,
            pending: VecDeque::new(),
            has_failed: false,
            judged: HashMap::new(),
            is_as_carried: false,
            carries_unnamed: false,
        }
    }

    pub(super) fn carried(&mut self, all: bool) {
        self.is_as_carried = all;
    }

    pub(super) fn is_as_carried(&self) -> bool {
        self.is_as_carried
    }

    /// Every request that matters was answered.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// The current state. Only where it [is settled](Followed::is_settled).
    pub(super) fn state(&mut self) -> Arc<SessionState> {
        if !self.statements.is_empty() {
            let mut state = SessionState::clone(&self.base);
            for (name, statement) in std::mem::take(&mut self.statements) {
                match statement {
                    Some(statement) => state.statements.insert(name.into_string(), statement),
                    None => state.statements.remove(&*name),
                };
            }
            self.bytes = 0;
            self.base = Arc::new(state);
        }
        Arc::clone(&self.base)
    }

    pub(super) fn types(&self) -> &BTreeMap<u32, String> {
        &self.types
    }

    pub(super) fn knows_types(&self, mut oids: impl Iterator<Item = u32>) -> bool {
        oids.all(|oid| oid < TypeName::FIRST_UNSTABLE_OID || self.types.contains_key(&oid))
    }

    /// The unnamed statement has been replaced.
    pub(super) fn unnamed_changed(&mut self, has_unstable_types: bool) {
        if std::mem::replace(&mut self.carries_unnamed, has_unstable_types) || has_unstable_types {
            self.is_as_carried = false;
        }
    }

    /// Notes a Parse of a named statement, which has these effects when it is bound.
    pub(super) fn parse(&mut self, parse: &Parse<'_>, hints: u32, effects: Effects) -> Result<(), Unknown> {
        let name = ascii(parse.statement).filter(|name| name.len() <= NAME_BYTES_MAX).ok_or(Unknown)?;
        let sql = ascii(parse.sql).ok_or(Unknown)?;
        let types: Vec<u32> = parse.parameter_types().collect();
        let are_settled = (types.is_empty() && !sql.contains('$')) || are_all_given(&types, sql);
        if self.judged.len() < JUDGED_MAX || self.judged.contains_key(parse.statement) {
            self.judged.insert(parse.statement.into(), (hints, effects));
        }
        self.add(Pending::Parse { name: name.into(), sql: sql.into(), types, are_settled })
    }

    pub(super) fn describe(&mut self, name: &[u8]) -> Result<(), Unknown> {
        self.add(Pending::Describe { name: name.into(), types: None })
    }

    pub(super) fn close(&mut self, name: &[u8]) -> Result<(), Unknown> {
        self.judged.remove(name);
        let name = ascii(name).filter(|name| name.len() <= NAME_BYTES_MAX).ok_or(Unknown)?;
        self.add(Pending::Close { name: name.into() })
    }

    fn add(&mut self, pending: Pending) -> Result<(), Unknown> {
        if self.pending.len() >= PENDING_MAX {
            return Err(Unknown);
        }
        self.pending.push_back(pending);
        Ok(())
    }

    /// Notes the server's answer to the next Describe of a statement; `None`: it is too long to be read.
    pub(super) fn described(&mut self, reported: Option<Vec<u32>>) {
        self.has_failed |= reported.is_none();
        let next = self.pending.iter_mut().find_map(|pending| match pending {
            Pending::Describe { types: types @ None, .. } => Some(types),
            _ => None,
        });
        if let Some(types) = next {
            *types = Some(reported.unwrap_or_default());
        }
    }

    pub(super) fn failed(&mut self) {
        self.has_failed = true;
    }

    /// Everything was answered.
    pub(super) fn settle(&mut self) -> Result<(), Unknown> {
        let has_failed = std::mem::take(&mut self.has_failed);
        let changes = |pending: &Pending| !matches!(pending, Pending::Describe { .. });
        if has_failed {
            let is_touched = self.pending.iter().any(changes);
            self.pending.clear();
            return if is_touched { Err(Unknown) } else { Ok(()) };
        }
        while let Some(pending) = self.pending.pop_front() {
            match pending {
                Pending::Parse { name, sql, types, are_settled } => {
                    let types = match are_settled {
                        true => types,
                        false => self.reported_types(&name).ok_or(Unknown)?,
                    };
                    self.made(name, &sql, &types)?;
                }
                Pending::Close { name } => self.closed(name),
                Pending::Describe { .. } => {}
            }
        }
        Ok(())
    }

    /// What the server reported for the statement before the name got another one.
    fn reported_types(&mut self, name: &str) -> Option<Vec<u32>> {
        for pending in &mut self.pending {
            match pending {
                Pending::Describe { name: other, types } if **other == *name.as_bytes() => {
                    return types.clone();
                }
                Pending::Parse { name: other, .. } | Pending::Close { name: other } if **other == *name => {
                    return None;
                }
                _ => {}
            }
        }
        None
    }

    fn made(&mut self, name: Box<str>, sql: &str, oids: &[u32]) -> Result<(), Unknown> {
        let type_of = |&oid: &u32| match oid {
            oid if oid < TypeName::FIRST_UNSTABLE_OID => Some(TypeName::BuiltIn(oid)),
            oid => self.types.get(&oid).cloned().map(TypeName::Named),
        };
        let types: Vec<TypeName> = oids.iter().map(type_of).collect::<Option<_>>().ok_or(Unknown)?;
        self.bytes += name.len() + sql.len();
        if self.bytes > BYTES_MAX {
            return Err(Unknown);
        }
        self.is_as_carried = false;
        self.statements.insert(name, Some(PreparedStatement::Protocol { sql: sql.to_owned(), types }));
        Ok(())
    }

    fn closed(&mut self, name: Box<str>) {
        let was_made = match self.statements.remove(&name) {
            Some(Some(PreparedStatement::Protocol { sql, .. } | PreparedStatement::Sql { sql })) => {
                self.bytes = self.bytes.saturating_sub(name.len() + sql.len());
                true
            }
            _ => false,
        };
        let is_in_base = self.base.statements.contains_key(&*name);
        if is_in_base {
            self.statements.insert(name, None);
        }
        if was_made || is_in_base {
            self.is_as_carried = false;
        }
    }

    /// What binding the named statement does, if that was judged by these hints; otherwise its text, to be
    /// judged. `None`: the statement is not known, or was prepared by SQL.
    pub(super) fn effects(&self, name: &[u8], hints: u32) -> Option<Result<Effects, &str>> {
        if let Some(&(known, effects)) = self.judged.get(name)
            && known == hints
        {
            return Some(Ok(effects));
        }
        let name = std::str::from_utf8(name).ok()?;
        let statement = match self.statements.get(name) {
            Some(changed) => changed.as_ref()?,
            None => self.base.statements.get(name)?,
        };
        match statement {
            PreparedStatement::Protocol { sql, .. } => Some(Err(sql)),
            PreparedStatement::Sql { .. } => None,
        }
    }

    pub(super) fn judged(&mut self, name: &[u8], hints: u32, effects: Effects) {
        if self.judged.len() < JUDGED_MAX || self.judged.contains_key(name) {
            self.judged.insert(name.into(), (hints, effects));
        }
    }
}

/// A text that has the same bytes in every encoding.
fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

/// PostgreSQL's `unknown`: as a parameter type it leaves the choice to the server, as 0 does.
const UNKNOWN_OID: u32 = 705;

/// Whether the types of all parameters are given. The server takes a type that a client gives.
fn are_all_given(types: &[u32], sql: &str) -> bool {
    // Counts digits after a dollar anywhere: too many parameters are safe, too few are not.
    let behind = sql.split('$').skip(1);
    let numbers = behind.map(|text| {
        let end = text.find(|other: char| !other.is_ascii_digit()).unwrap_or(text.len());
        if end == 0 { Some(0) } else { text[..end].parse::<usize>().ok() }
    });
    types.iter().all(|&oid| oid != 0 && oid != UNKNOWN_OID)
        && numbers.into_iter().all(|number| number.is_some_and(|n| n <= types.len()))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::message::HEADER_BYTES;
    use crate::wire::message::frontend::{self, parse_parse};

    fn followed() -> Followed {
        let base = SessionState {
            statements: BTreeMap::from([(
                "old".to_owned(),
                PreparedStatement::Protocol { sql: "select 1".to_owned(), types: Vec::new() },
            )]),
            ..SessionState::default()
        };
        Followed::from(Arc::new(base), BTreeMap::from([(16_999, "app.mood".to_owned())]))
    }

    fn parse(followed: &mut Followed, name: &str, sql: &str, types: &[u32]) -> Result<(), Unknown> {
        let mut message = BytesMut::new();
        frontend::parse(&mut message, name.as_bytes(), sql.as_bytes(), types);
        followed.parse(&parse_parse(&message[HEADER_BYTES..]).unwrap(), 1, Effects::NONE)
    }

    fn names(followed: &mut Followed) -> Vec<String> {
        followed.state().statements.keys().cloned().collect()
    }

    #[test]
    fn a_statement_is_there_when_the_server_has_answered_with_the_types_that_it_reported() {
        let mut followed = followed();
        parse(&mut followed, "s", "select $1, $2", &[]).unwrap();
        followed.describe(b"").unwrap();
        followed.describe(b"s").unwrap();
        assert!(!followed.is_settled());
        followed.described(Some(Vec::new()));
        followed.described(Some(vec![23, 16_999]));
        followed.settle().unwrap();
        let expected = PreparedStatement::Protocol {
            sql: "select $1, $2".to_owned(),
            types: vec![TypeName::BuiltIn(23), TypeName::Named("app.mood".to_owned())],
        };
        assert_eq!(followed.state().statements["s"], expected);
    }

    #[test]
    fn types_that_were_not_reported_are_asked_for() {
        for (sql, types) in [
            ("select $1", &[][..]),
            ("select $1", &[0]),
            ("select $1", &[UNKNOWN_OID]),
            ("select $2", &[23]),
            ("select '$9'", &[]),
        ] {
            let mut followed = followed();
            parse(&mut followed, "s", sql, types).unwrap();
            assert!(followed.settle().is_err(), "{sql} {types:?}");
        }
        for (sql, types) in
            [("select 1", &[][..]), ("select $1", &[23]), ("select $1", &[23, 25]), ("select $1", &[16_999])]
        {
            let mut followed = followed();
            parse(&mut followed, "s", sql, types).unwrap();
            assert!(followed.settle().is_ok(), "{sql} {types:?}");
        }
        let mut followed = followed();
        parse(&mut followed, "s", "select $1", &[17_000]).unwrap();
        assert!(followed.settle().is_err(), "a type that the base does not name");
    }

    #[test]
    fn an_error_leaves_it_unknown_what_was_carried_out() {
        let mut followed = followed();
        parse(&mut followed, "s", "select 1", &[]).unwrap();
        followed.failed();
        assert!(followed.settle().is_err());
        followed.failed();
        assert!(followed.settle().is_ok(), "nothing was asked for");
    }

    #[test]
    fn statements_that_come_and_go_leave_nothing_behind() {
        let mut followed = followed();
        for number in 0..10_000 {
            let name = format!("s{number}");
            parse(&mut followed, &name, &"x".repeat(1_000), &[]).unwrap();
            followed.settle().unwrap();
            followed.close(name.as_bytes()).unwrap();
            followed.settle().unwrap();
        }
        assert!(followed.statements.is_empty() && followed.judged.is_empty());
        followed.close(b"old").unwrap();
        followed.close(b"never was").unwrap();
        followed.settle().unwrap();
        assert_eq!(names(&mut followed), [""; 0]);
        parse(&mut followed, "old", "select 2", &[]).unwrap();
        followed.settle().unwrap();
        assert_eq!(names(&mut followed), ["old"]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut followed = followed();
        let long = "x".repeat(BYTES_MAX);
        parse(&mut followed, "s", &long, &[]).unwrap();
        assert!(followed.settle().is_err());
        let mut other = super::tests::followed();
        for number in 0..PENDING_MAX {
            other.describe(format!("s{number}").as_bytes()).unwrap();
        }
        assert!(other.describe(b"one more").is_err());
        assert!(parse(&mut other, &"n".repeat(NAME_BYTES_MAX + 1), "select 1", &[]).is_err());
        assert!(parse(&mut super::tests::followed(), "s", "select 'größe'", &[]).is_err());
    }
}
