//! From the state that a server connection has to the state that it should have: a list of steps, and each
//! step as messages.
//!
//! Owns the order of things and the bytes; does no IO. [`super::twin`] runs them.
//!
//! # The order
//! 1. Release what is gone: locks, LISTENs, statements. Every session releases before it waits for a lock, so
//!    two twins cannot wait for each other.
//! 2. Set settings, as the role that logged in, which may set most. Then session authorization, which resets
//!    the role, then the role.
//! 3. Prepare statements, under the search path and role of the session: PostgreSQL looks names up again
//!    whenever these change, so the path that was set when the client prepared does not matter, only its
//!    parameter types do.
//! 4. LISTEN, and locks last: they may wait.
//! 5. Set the settings that would have disturbed all this: encoding, timeouts, and whether a transaction may
//!    have to wait before it begins. After them make the unnamed statement, as its text is in the client's
//!    encoding; where the session has none, close the steps' own.
//!
//! # Why values and not SQL text
//! Everything that a client chose travels as a parameter of the extended protocol, so nothing needs quoting.
//! PREPARE and LISTEN take no parameters: PREPARE is the client's own statement again, and a channel is a
//! quoted identifier.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::BytesMut;

use crate::session::state::{
    AdvisoryLock, LockKey, PreparedStatement, SessionState, TEXT_SEARCH, TypeName, Unnamed,
};
use crate::wire::message::Target;
use crate::wire::message::frontend;

const TEXT_OID: u32 = 25;
const BIGINT_OID: u32 = 20;
const INTEGER_OID: u32 = 23;

/// Settings that have values of ours while the steps run, and get the session's values at the end.
const DEFERRED: [&str; 3] = ["client_encoding", "statement_timeout", "lock_timeout"];

/// With this setting each step may wait until no serializable transaction that writes is open. So it is off
/// while the steps run.
const WAITS: &str = "default_transaction_deferrable";

/// One step, answered by one ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::session) enum Step<'a> {
    /// Lets transactions begin without a wait, by a command that itself waits for nothing.
    BeginAtOnce,
    /// Sets UTF-8, no statement timeout, and this lock timeout.
    Begin(Duration),
    Unlock(AdvisoryLock),
    Unlisten(&'a str),
    Deallocate(&'a str),
    /// `None` is RESET. Role and session authorization are settings, too.
    Set(&'a str, Option<&'a str>),
    Prepare(&'a str, &'a PreparedStatement),
    Listen(&'a str),
    Lock(AdvisoryLock),
    /// Does not wait.
    TryLock(AdvisoryLock),
    /// Undoes `Begin`: the session's own values, in the order of [`DEFERRED`].
    End([Option<&'a str>; 3]),
    Unnamed(&'a Unnamed),
    /// The session has no unnamed statement: closes the one that the steps before left.
    CloseUnnamed,
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::BeginAtOnce => write!(f, "setting \"{WAITS}\""),
            Step::Begin(_) | Step::End(_) => f.write_str("setting \"client_encoding\""),
            Step::Set("role", Some(role)) => write!(f, "role \"{role}\""),
            Step::Set("session_authorization", Some(role)) => write!(f, "session authorization \"{role}\""),
            Step::Set(name, _) => write!(f, "setting \"{name}\""),
            Step::Prepare(name, _) | Step::Deallocate(name) => write!(f, "prepared statement \"{name}\""),
            Step::Listen(channel) | Step::Unlisten(channel) => write!(f, "LISTEN \"{channel}\""),
            Step::Lock(lock) | Step::TryLock(lock) | Step::Unlock(lock) => lock.fmt(f),
            Step::Unnamed(_) | Step::CloseUnnamed => f.write_str("unnamed prepared statement"),
        }
    }
}

/// What to do about a lock that another session holds on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockPatience {
    /// Leave it: while sessions run, the session of the other twin may have released it meanwhile. A refresh
    /// gets it.
    Try,
    /// Wait: inside a hold, each lock is held by one session, and the other twins release theirs.
    Wait(Duration),
}

/// The steps from `old` to `new`, on a connection that was logged in as `login`. Empty if nothing differs.
pub(in crate::session) fn steps<'a>(
    old: &'a SessionState,
    new: &'a SessionState,
    login: &str,
    patience: LockPatience,
) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    releases(old, new, &mut steps);
    settings(old, new, login, &mut steps);
    for (name, statement) in &new.statements {
        if old.statements.get(name) != Some(statement) {
            steps.push(Step::Prepare(name, statement));
        }
    }
    steps.extend(new.channels.difference(&old.channels).map(|channel| Step::Listen(channel)));
    for (&lock, &count) in &new.locks {
        let missing = count.saturating_sub(old.locks.get(&lock).copied().unwrap_or_default());
        let step = match patience {
            LockPatience::Try => Step::TryLock(lock),
            LockPatience::Wait(_) => Step::Lock(lock),
        };
        steps.extend((0..missing).map(|_| step));
    }
    let deferred = DEFERRED.map(|name| new.settings.get(name).map(String::as_str));
    let deferred_differ = DEFERRED.iter().any(|&name| old.settings.get(name) != new.settings.get(name));
    let waits = [old, new].map(|state| state.settings.get(WAITS).map(String::as_str));
    if !steps.is_empty() || deferred_differ || waits[0] != waits[1] {
        let lock_wait = match patience {
            LockPatience::Try => Duration::ZERO,
            LockPatience::Wait(wait) => wait,
        };
        steps.insert(0, Step::Begin(lock_wait));
        steps.push(Step::End(deferred));
        if waits != [None; 2] {
            steps.insert(0, Step::BeginAtOnce);
            steps.push(Step::Set(WAITS, waits[1]));
        }
    }
    // Every step above parses an unnamed statement of its own.
    if !steps.is_empty() || old.unnamed != new.unnamed {
        steps.push(new.unnamed.as_ref().map_or(Step::CloseUnnamed, Step::Unnamed));
    }
    steps
}

fn releases<'a>(old: &'a SessionState, new: &'a SessionState, steps: &mut Vec<Step<'a>>) {
    for (&lock, &count) in &old.locks {
        let extra = count.saturating_sub(new.locks.get(&lock).copied().unwrap_or_default());
        steps.extend((0..extra).map(|_| Step::Unlock(lock)));
    }
    steps.extend(old.channels.difference(&new.channels).map(|channel| Step::Unlisten(channel)));
    for (name, statement) in &old.statements {
        if new.statements.get(name) != Some(statement) {
            steps.push(Step::Deallocate(name));
        }
    }
}

fn settings<'a>(old: &'a SessionState, new: &'a SessionState, login: &str, steps: &mut Vec<Step<'a>>) {
    let is_ours = |name: &str| DEFERRED.contains(&name) || name == WAITS;
    let gone = old.settings.keys().filter(|&name| !new.settings.contains_key(name)).map(|name| (name, None));
    let set = new
        .settings
        .iter()
        .filter(|&(name, value)| old.settings.get(name) != Some(value))
        .map(|(name, value)| (name, Some(value.as_str())));
    let changes: Vec<Step<'a>> = gone
        .chain(set)
        .filter(|(name, _)| !is_ours(name))
        .map(|(name, value)| Step::Set(name, value))
        .collect();
    let user_differs = old.session_user != new.session_user;
    // Settings are set as the role that logged in; so the session's role is reset first and set again
    // afterwards.
    let is_disguised = old.role != "none" || old.session_user != login;
    let undressed = is_disguised && (!changes.is_empty() || user_differs);
    if undressed {
        steps.push(Step::Set("role", Some("none")));
        steps.push(Step::Set("session_authorization", None));
    }
    steps.extend(changes);
    if new.has_other_path(old) && [old, new].iter().all(|state| !state.settings.contains_key(TEXT_SEARCH)) {
        steps.push(Step::Set(TEXT_SEARCH, None));
    }
    let user_now = if undressed { login } else { &old.session_user };
    let dressed = user_now != new.session_user;
    if dressed {
        steps.push(Step::Set("session_authorization", Some(&new.session_user)));
    }
    let role_now = if undressed || dressed { "none" } else { &old.role };
    if role_now != new.role {
        steps.push(Step::Set("role", Some(&new.role)));
    }
}

/// OIDs of types on the target, by the names they have everywhere.
pub(in crate::session) type Types = BTreeMap<String, u32>;

/// The named types that a state needs.
pub(in crate::session) fn type_names(state: &SessionState) -> impl Iterator<Item = &String> {
    let statements = state.statements.values().flat_map(|statement| match statement {
        PreparedStatement::Protocol { types, .. } => types.as_slice(),
        PreparedStatement::Sql { .. } => &[],
    });
    let unnamed = state.unnamed.iter().flat_map(|unnamed| &unnamed.types);
    statements.chain(unnamed).filter_map(|name| match name {
        TypeName::Named(name) => Some(name),
        TypeName::BuiltIn(_) => None,
    })
}

/// The steps as messages, a Sync after each. A type that is not in `types` becomes 0: then the server has to
/// choose, as it did for the client, or refuse.
pub(in crate::session) fn encode(steps: &[Step<'_>], types: &Types) -> BytesMut {
    let mut out = BytesMut::new();
    for step in steps {
        encode_step(&mut out, step, types);
        frontend::sync(&mut out);
    }
    out
}

/// The OIDs of types on the target.
pub(in crate::session) fn oids_of(names: &[TypeName], types: &Types) -> Vec<u32> {
    let oid = |name: &TypeName| match name {
        TypeName::BuiltIn(oid) => *oid,
        TypeName::Named(name) => types.get(name).copied().unwrap_or(0),
    };
    names.iter().map(oid).collect()
}

fn encode_step(out: &mut BytesMut, step: &Step<'_>, types: &Types) {
    let oids = |names: &[TypeName]| oids_of(names, types);
    match *step {
        Step::BeginAtOnce => execute(out, &format!("SET {WAITS} TO off"), &[], &[]),
        Step::Begin(wait) => {
            let wait = wait.as_millis().to_string();
            defer(out, [Some("UTF8"), Some("0"), Some(&wait)]);
        }
        Step::End(values) => defer(out, values),
        Step::Set(name, value) => {
            let values = [Some(name.as_bytes()), value.map(str::as_bytes)];
            execute(out, "SELECT pg_catalog.set_config($1, $2, false)", &[TEXT_OID; 2], &values);
        }
        Step::Deallocate(name) => frontend::close(out, Target::Statement, name.as_bytes()),
        Step::Prepare(name, PreparedStatement::Protocol { sql, types }) => {
            frontend::parse(out, name.as_bytes(), sql.as_bytes(), &oids(types));
        }
        Step::Prepare(_, PreparedStatement::Sql { sql }) => execute(out, sql, &[], &[]),
        Step::Unnamed(unnamed) => frontend::parse(out, b"", &unnamed.sql, &oids(&unnamed.types)),
        Step::CloseUnnamed => frontend::close(out, Target::Statement, b""),
        Step::Listen(channel) => execute(out, &format!("LISTEN {}", quoted(channel)), &[], &[]),
        Step::Unlisten(channel) => execute(out, &format!("UNLISTEN {}", quoted(channel)), &[], &[]),
        Step::Lock(lock) => call_lock(out, "pg_advisory_lock", lock),
        Step::TryLock(lock) => call_lock(out, "pg_try_advisory_lock", lock),
        Step::Unlock(lock) => call_lock(out, "pg_advisory_unlock", lock),
    }
}

/// Sets all of [`DEFERRED`] at once; NULL resets.
fn defer(out: &mut BytesMut, values: [Option<&str>; 3]) {
    let sql = "SELECT pg_catalog.set_config('client_encoding', $1, false), \
        pg_catalog.set_config('statement_timeout', $2, false), pg_catalog.set_config('lock_timeout', $3, false)";
    execute(out, sql, &[TEXT_OID; 3], &values.map(|value| value.map(str::as_bytes)));
}

fn call_lock(out: &mut BytesMut, function: &str, lock: AdvisoryLock) {
    let shared = if lock.shared { "_shared" } else { "" };
    let values: Vec<String> = match lock.key {
        LockKey::Bigint(key) => vec![key.to_string()],
        LockKey::Pair(first, second) => vec![first.to_string(), second.to_string()],
    };
    let (arguments, types) = match lock.key {
        LockKey::Bigint(_) => ("$1", &[BIGINT_OID][..]),
        LockKey::Pair(..) => ("$1, $2", &[INTEGER_OID; 2][..]),
    };
    let sql = format!("SELECT pg_catalog.{function}{shared}({arguments})");
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_bytes())).collect();
    execute(out, &sql, types, &values);
}

pub(in crate::session) fn execute(out: &mut BytesMut, sql: &str, types: &[u32], values: &[Option<&[u8]>]) {
    frontend::parse(out, b"", sql.as_bytes(), types);
    frontend::bind(out, b"", b"", values);
    frontend::execute(out, b"", 0);
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> SessionState {
        SessionState { session_user: "app".to_owned(), role: "none".to_owned(), ..SessionState::default() }
    }

    fn described(old: &SessionState, new: &SessionState) -> Vec<String> {
        let steps = steps(old, new, "app", LockPatience::Try);
        steps.iter().map(|step| format!("{step:?}")).collect()
    }

    #[test]
    fn equal_states_need_no_steps() {
        assert_eq!(described(&plain(), &plain()), [""; 0]);
    }

    #[test]
    fn settings_come_before_identity_and_identity_before_statements() {
        let mut new = plain();
        new.settings.insert("work_mem".to_owned(), "64MB".to_owned());
        new.session_user = "bob".to_owned();
        new.role = "reader".to_owned();
        new.statements
            .insert("s".to_owned(), PreparedStatement::Sql { sql: "PREPARE s AS SELECT 1".to_owned() });
        new.channels.insert("c".to_owned());
        let expected = [
            "Begin(0ns)",
            "Set(\"work_mem\", Some(\"64MB\"))",
            "Set(\"default_text_search_config\", None)",
            "Set(\"session_authorization\", Some(\"bob\"))",
            "Set(\"role\", Some(\"reader\"))",
            "Prepare(\"s\", Sql { sql: \"PREPARE s AS SELECT 1\" })",
            "Listen(\"c\")",
            "End([None, None, None])",
            "CloseUnnamed",
        ];
        assert_eq!(described(&plain(), &new), expected);
    }

    #[test]
    fn no_step_waits_for_the_transactions_of_others() {
        let mut waiting = plain();
        waiting.settings.insert(WAITS.to_owned(), "on".to_owned());
        let mut other = waiting.clone();
        other.settings.insert("work_mem".to_owned(), "64MB".to_owned());
        let (begin, end) = (["BeginAtOnce", "Begin(0ns)"], ["End([None, None, None])"]);
        let changed = [&begin[..], &["Set(\"work_mem\", Some(\"64MB\"))"], &end].concat();
        fn with_end<'a>(steps: &[&'a str], last: &'a str) -> Vec<&'a str> {
            [steps, &[last, "CloseUnnamed"]].concat()
        }
        let (on, reset) = (format!("Set(\"{WAITS}\", Some(\"on\"))"), format!("Set(\"{WAITS}\", None)"));
        assert_eq!(described(&waiting, &other), with_end(&changed, &on));
        assert_eq!(described(&plain(), &waiting), with_end(&[&begin[..], &end].concat(), &on));
        assert_eq!(described(&waiting, &plain()), with_end(&[&begin[..], &end].concat(), &reset));
        assert_eq!(described(&waiting, &waiting), [""; 0]);
    }

    #[test]
    fn a_disguised_session_takes_its_own_identity_to_change_settings_and_puts_the_disguise_on_again() {
        let mut old = plain();
        old.role = "reader".to_owned();
        let mut new = old.clone();
        new.settings.insert("a.b".to_owned(), "1".to_owned());
        let expected = [
            "Begin(0ns)",
            "Set(\"role\", Some(\"none\"))",
            "Set(\"session_authorization\", None)",
            "Set(\"a.b\", Some(\"1\"))",
            "Set(\"role\", Some(\"reader\"))",
            "End([None, None, None])",
            "CloseUnnamed",
        ];
        assert_eq!(described(&old, &new), expected);
    }

    #[test]
    fn what_is_gone_is_released_before_anything_is_taken() {
        let lock = |key| AdvisoryLock { key: LockKey::Bigint(key), shared: false };
        let (mut old, mut new) = (plain(), plain());
        old.locks.insert(lock(1), 2);
        old.settings.insert("work_mem".to_owned(), "1MB".to_owned());
        old.settings.insert("statement_timeout".to_owned(), "1s".to_owned());
        new.locks.insert(lock(1), 1);
        new.locks.insert(lock(2), 2);
        let steps = steps(&old, &new, "app", LockPatience::Wait(Duration::from_secs(1)));
        let expected = [
            Step::Begin(Duration::from_secs(1)),
            Step::Unlock(lock(1)),
            Step::Set("work_mem", None),
            Step::Lock(lock(2)),
            Step::Lock(lock(2)),
            Step::End([None, None, None]),
            Step::CloseUnnamed,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn any_step_brings_the_unnamed_statement_back_that_it_destroys() {
        let mut old = plain();
        old.unnamed = Some(Unnamed { sql: b"select $1".to_vec(), types: vec![TypeName::BuiltIn(23)] });
        let mut new = old.clone();
        new.channels.insert("c".to_owned());
        let steps = steps(&old, &new, "app", LockPatience::Try);
        assert!(matches!(steps.last(), Some(Step::Unnamed(_))), "{steps:?}");
    }

    #[test]
    fn a_session_without_an_unnamed_statement_does_not_get_one_of_ours() {
        let mut old = plain();
        old.unnamed = Some(Unnamed { sql: b"select $1".to_vec(), types: Vec::new() });
        assert_eq!(steps(&old, &plain(), "app", LockPatience::Try), [Step::CloseUnnamed]);
    }

    #[test]
    fn the_unnamed_statement_alone_costs_one_message_and_its_sync() {
        let mut new = plain();
        new.unnamed = Some(Unnamed { sql: b"select $1".to_vec(), types: vec![TypeName::BuiltIn(23)] });
        let old = plain();
        let steps = steps(&old, &new, "app", LockPatience::Try);
        assert_eq!(steps.len(), 1);
        let mut expected = BytesMut::new();
        frontend::parse(&mut expected, b"", b"select $1", &[23]);
        frontend::sync(&mut expected);
        assert_eq!(encode(&steps, &Types::new()), expected);
    }
}
