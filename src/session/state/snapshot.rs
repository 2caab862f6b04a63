//! Asks PostgreSQL for the state of a session, on the session's own server connection.
//!
//! # Why it looks like this
//! The statement runs in a session with the settings of an unknown client. So every name and every operator
//! is qualified: a `search_path` may hide `pg_catalog.=`. Texts come as hexadecimal UTF-8 and go in the same
//! way: neither `client_encoding`, `bytea_output`, `standard_conforming_strings` nor `DateStyle` can change
//! their meaning, and a name may contain any character. The statement reads catalogs and functions that
//! PUBLIC may read, whatever the role.
//!
//! A simple Query destroys the client's unnamed statement; so it is parsed again afterwards, from the bytes
//! that the client sent. Nothing else that SQL can see is touched: no named statement, no setting, no
//! sequence, no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::hints::{self, ALL_DEFINITIONS, DEFINITIONS, MANY};
use super::lock_counts::key_of_row;
use super::rows::{AT_ONCE, Encoding, Fields, Rows, SnapshotError, expand, hex, unhex};
use super::shape::CHANGES;
use super::{AdvisoryLock, Hints, HintsCell, PreparedStatement, SessionState, StateTracker, TypeName};
use crate::backend::ServerConnection;
use crate::session::scan;
use crate::wire::message::frontend;

/// How long a client waits for the question for a database's code; without an answer, connections are closed
/// after each loan. Shorter than the wait for a session's state.
const HINTS_TIME_MAX: Duration = Duration::from_millis(1500);

/// Takes the state of the session at a boundary, in one round trip; in two for the first session of a
/// database, which fills `hints`.
///
/// The tracker is `Fresh` afterwards. A session with an unnamed statement that is too large to be kept, or
/// unclear, is not asked: the question would destroy it; its state is empty but for the pin.
///
/// # Cancel safety
/// Not cancel safe: dropped in the middle, the connection owes answers and must be closed.
pub async fn snapshot(
    connection: &mut ServerConnection,
    tracker: &mut StateTracker,
    hints: &HintsCell,
) -> Result<SessionState, SnapshotError> {
    if let Some(pin) = tracker.unnamed().pin() {
        let mut state = SessionState::default();
        state.pins.insert(pin.to_owned());
        return Ok(state);
    }
    learn(connection, tracker, hints).await?;
    let rows = ask(connection, &sql(tracker), tracker.unnamed().body()).await?;
    let mut reading = Reading::default();
    for row in &rows {
        reading.row(row)?;
    }
    Ok(reading.finish(tracker))
}

/// Gives the tracker what is known of the database's functions; asks the server if that is not known yet.
pub(super) async fn learn(
    connection: &mut ServerConnection,
    tracker: &mut StateTracker,
    hints: &HintsCell,
) -> Result<(), SnapshotError> {
    let known = known_hints(connection, tracker.unnamed().body(), hints, HINTS_TIME_MAX).await?;
    tracker.execution_mut().use_hints(known);
    Ok(())
}

/// Fills `hints` on a connection that no client has.
///
/// # Cancel safety
/// Not cancel safe: dropped in the middle, the connection owes answers and must be closed.
pub(in crate::session) async fn fill_hints(
    connection: &mut ServerConnection,
    hints: &HintsCell,
    time_max: Duration,
) -> Result<(), SnapshotError> {
    known_hints(connection, None, hints, time_max).await.map(|_| ())
}

/// The answer takes a server tens of milliseconds of CPU time, in a large database more. So one session asks,
/// and those that want to know it at the same time wait for that answer.
async fn known_hints(
    connection: &mut ServerConnection,
    unnamed: Option<&[u8]>,
    hints: &HintsCell,
    time_max: Duration,
) -> Result<Arc<Hints>, SnapshotError> {
    match hints.get() {
        Some(known) => Ok(Arc::clone(known)),
        // Boxed: it is seldom asked, and would make the task of each session larger.
        None => Box::pin(ask_for_hints(connection, unnamed, hints, time_max)).await,
    }
}

async fn ask_for_hints(
    connection: &mut ServerConnection,
    unnamed: Option<&[u8]>,
    hints: &HintsCell,
    time_max: Duration,
) -> Result<Arc<Hints>, SnapshotError> {
    let _asking = hints.asking().await;
    match hints.get() {
        Some(known) => Ok(Arc::clone(known)),
        None => match read_hints(connection, unnamed, hints, time_max).await? {
            Some(read) => Ok(hints.fill(read)),
            None if has_own_settings(connection, unnamed).await? && hints.may_fail_again() => {
                Ok(hints.unread())
            }
            None => Ok(hints.fill(hints.unread())),
        },
    }
}

/// Whether the client has changed settings, which may be why it gets no answer.
async fn has_own_settings(
    connection: &mut ServerConnection,
    unnamed: Option<&[u8]>,
) -> Result<bool, SnapshotError> {
    const OWN: &str = "SELECT FROM pg_catalog.pg_settings s \
        WHERE s.source OPERATOR(pg_catalog.=) 'session' LIMIT 1";
    match ask(connection, OWN, unnamed).await {
        Ok(rows) => Ok(!rows.is_empty()),
        Err(SnapshotError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `None`: there was no answer, which may be due to the session.
async fn read_hints(
    connection: &mut ServerConnection,
    unnamed: Option<&[u8]>,
    hints: &HintsCell,
    time_max: Duration,
) -> Result<Option<Arc<Hints>>, SnapshotError> {
    if let Some((before, question)) = hints.before()
        && before.are_right(&ask(connection, &question, unnamed).await?)
    {
        return Ok(Some(Arc::clone(before)));
    }
    let began = Instant::now();
    let rows = match ask(connection, &hints::sql(time_max), unnamed).await {
        // A cancel request of the client's has hit it.
        Err(error) if error.is_too_slow() && began.elapsed() < time_max => return Err(error),
        Err(SnapshotError::Refused { fields }) => {
            let error = fields.message();
            tracing::warn!(
                error,
                "what functions do could not be read: connections are closed after each loan"
            );
            return Ok(None);
        }
        rows => rows?,
    };
    if let [row] = &rows[..]
        && Fields::of(row).kind() == MANY
    {
        let count = Fields::of(row).number::<usize>(1)?;
        tracing::warn!(
            rows = count,
            "what functions do is too much to be read: connections are closed after each loan"
        );
        return Ok(Some(hints.unread()));
    }
    Ok(Some(Arc::new(Hints::from_rows(&rows).await?)))
}

/// Runs `sql`, and parses the unnamed statement again in the same round trip. If the server refuses that now
/// (its table is gone), the client could not have run it either.
async fn ask(
    connection: &mut ServerConnection,
    sql: &str,
    unnamed: Option<&[u8]>,
) -> Result<Rows, SnapshotError> {
    let mut batch = BytesMut::with_capacity(sql.len() + unnamed.map_or(0, <[u8]>::len) + 32);
    frontend::query(&mut batch, &[AT_ONCE, sql].concat());
    if let Some(body) = unnamed {
        frontend::parse_again(&mut batch, body);
        frontend::sync(&mut batch);
    }
    let reply = connection.run_each(&batch).await?.into_iter().next().unwrap_or_default();
    match reply.error {
        Some(fields) => Err(SnapshotError::Refused { fields: Box::new(fields) }),
        None => Ok(reply.results.into_iter().flat_map(|result| result.rows).collect()),
    }
}

/// The names of two lists of settings: those that the client was seen to set, and those that the database's
/// code mentions.
pub(super) fn candidates(tracker: &StateTracker) -> String {
    let hinted = tracker.hints().map_or(&[][..], |hints| &hints.settings);
    let names = tracker.notes().setting_names().iter().chain(hinted);
    names.map(|name| format!("'{}'", hex(name))).collect::<Vec<_>>().join(",")
}

/// The state of a client that is lent connections is kept while the client is idle, twice where the
/// connection has it, too, and thousands of clients may be idle. Most have a few hundred bytes.
const LENT_BYTES_MAX: usize = 1 << 20;

/// Of a client with a connection of its own, the state is kept while its database moves.
const OWN_BYTES_MAX: usize = 16 << 20;

/// What a row counts beside its texts: about what it takes up.
const ROW_BYTES: usize = 128;

/// Each row is a kind and up to four texts. Sizes are added up on the server: where all together are beyond
/// the limit, only what cannot be left out is sent, and the name of the largest part.
fn sql(tracker: &StateTracker) -> String {
    let is_lent = tracker.execution().is_lent();
    let bytes_max = if is_lent { LENT_BYTES_MAX } else { OWN_BYTES_MAX };
    let is_shared = match is_lent {
        true => format!("(NOT s.from_sql AND pg_catalog.starts_with(s.name, '{}'))", scan::OURS),
        false => "false".to_owned(),
    };
    let bounded = BOUNDED.replace("@parts", &parts(tracker)).replace("@is_shared", &is_shared);
    let bounded = bounded.replace("@row", &ROW_BYTES.to_string()).replace("@max", &bytes_max.to_string());
    expand(&bounded, ("{", "}"), Encoding::Utf8)
}

fn parts(tracker: &StateTracker) -> String {
    let mut parts = [IDENTITY, SETTINGS, STATEMENTS, CHANNELS, CURSORS, TEMPORARY].concat();
    let names = candidates(tracker);
    if !names.is_empty() {
        parts.push_str(&CUSTOM.replace("@names", &names));
    }
    let mut unnamed = String::new();
    for oid in tracker.unnamed().unstable_types() {
        unnamed.push_str(&format!(" UNION ALL SELECT '{oid}'::pg_catalog.oid"));
    }
    parts.push_str(&TYPES.replace("@unnamed", &unnamed));
    if tracker.execution().may_hold_locks() {
        parts.push_str(LOCKS);
    }
    if tracker.execution().asks_for_definitions() {
        parts.push_str(
            &DEFINED
                .replace("@definitions", DEFINITIONS)
                .replace("@all_definitions", ALL_DEFINITIONS)
                .replace("@changes", CHANGES),
        );
    }
    parts
}

/// Locks are always sent: how often each is held would be forgotten otherwise. The server has a limit for
/// them.
const BOUNDED: &str = "WITH part AS MATERIALIZED (@parts), total AS MATERIALIZED (SELECT pg_catalog.sum(p.size) AS bytes FROM part p) \
    SELECT p.kind, p.a, p.b, p.c, p.d FROM part p CROSS JOIN total t WHERE t.bytes OPERATOR(pg_catalog.<=) '@max'::pg_catalog.numeric \
    OR p.kind OPERATOR(pg_catalog.=) ANY (ARRAY['identity','definitions','lock']::pg_catalog.text[]) \
    UNION ALL SELECT 'large', t.bytes::pg_catalog.text, l.kind, pg_catalog.left(l.a, 126), NULL \
    FROM total t CROSS JOIN LATERAL (SELECT p.kind, p.a FROM part p ORDER BY p.size DESC LIMIT 1) l \
    WHERE t.bytes OPERATOR(pg_catalog.>) '@max'::pg_catalog.numeric";

const IDENTITY: &str = "SELECT 'identity' AS kind, {session_user::pg_catalog.text} AS a, \
    {pg_catalog.current_setting('role')} AS b, NULL::pg_catalog.text AS c, NULL::pg_catalog.text AS d, 0 AS size";

/// What SET TRANSACTION sets is listed as a setting, too, but belongs to the transaction.
const SETTINGS: &str = " UNION ALL SELECT 'setting', {s.name}, \
    CASE WHEN v.size OPERATOR(pg_catalog.<=) @max THEN {v.value} END, NULL, NULL, \
    @row OPERATOR(pg_catalog.+) pg_catalog.octet_length(s.name) OPERATOR(pg_catalog.+) v.size \
    FROM pg_catalog.pg_settings s CROSS JOIN LATERAL (SELECT w.value, pg_catalog.octet_length(w.value) AS size \
    FROM (SELECT pg_catalog.current_setting(s.name) AS value) w) v WHERE s.source OPERATOR(pg_catalog.=) 'session' AND s.name OPERATOR(pg_catalog.!~) \
    '^(transaction_(isolation|read_only|deferrable)|role|session_authorization|seed)$'";

const CUSTOM: &str = " UNION ALL SELECT 'setting', n.name, \
    CASE WHEN v.size OPERATOR(pg_catalog.<=) @max THEN {v.value} END, NULL, NULL, \
    @row OPERATOR(pg_catalog.+) pg_catalog.octet_length(n.name) OPERATOR(pg_catalog.+) v.size \
    FROM pg_catalog.unnest(ARRAY[@names]::pg_catalog.text[]) AS n(name) \
    CROSS JOIN LATERAL (SELECT w.value, coalesce(pg_catalog.octet_length(w.value), 0) AS size \
    FROM (SELECT pg_catalog.current_setting(pg_catalog.convert_from(pg_catalog.decode(n.name, 'hex'), 'UTF8'), true) AS value) w) v";

/// Each statement's text is the whole text that the client sent. If one text has made many statements, it is
/// sent once, with the first of them by name, which the others refer to. Of statements that clients share
/// only the names are sent; `Statements` limits them.
const STATEMENTS: &str = " UNION ALL SELECT CASE WHEN p.is_shared THEN 'shared' ELSE 'statement' END, {p.name}, \
    CASE WHEN p.is_sent AND p.bytes OPERATOR(pg_catalog.<=) @max THEN {p.statement} END, \
    CASE WHEN NOT p.is_shared THEN pg_catalog.concat(p.from_sql, ' ', {p.first}) END, \
    CASE WHEN NOT p.is_shared THEN pg_catalog.array_to_string(p.parameter_types::pg_catalog.oid[], ',') END, \
    CASE WHEN p.is_shared THEN 0 ELSE @row OPERATOR(pg_catalog.+) pg_catalog.octet_length(p.name) \
    OPERATOR(pg_catalog.+) CASE WHEN p.is_sent THEN p.bytes ELSE 0 END END \
    FROM (SELECT f.*, pg_catalog.octet_length(f.statement) AS bytes, \
    NOT f.is_shared AND f.name OPERATOR(pg_catalog.=) f.first AS is_sent FROM (SELECT o.*, \
    pg_catalog.min(o.name) OVER (PARTITION BY o.statement, o.is_shared) AS first \
    FROM (SELECT s.*, @is_shared AS is_shared FROM pg_catalog.pg_prepared_statements s) o) f) p";

/// Names of the types with OIDs that mean nothing on another server. An array is named by its element.
const TYPES: &str = " UNION ALL SELECT 'type', o.oid::pg_catalog.text, {(SELECT CASE WHEN e.oid IS NULL \
    THEN pg_catalog.format('%I.%I', n.nspname, t.typname) ELSE pg_catalog.format('%I.%I[]', en.nspname, e.typname) END \
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace \
    LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem AND e.typarray OPERATOR(pg_catalog.=) t.oid \
    LEFT JOIN pg_catalog.pg_namespace en ON en.oid OPERATOR(pg_catalog.=) e.typnamespace \
    WHERE t.oid OPERATOR(pg_catalog.=) o.oid)}, NULL, NULL, @row \
    FROM (SELECT DISTINCT x.oid FROM (SELECT pg_catalog.unnest(s.parameter_types::pg_catalog.oid[]) AS oid \
    FROM pg_catalog.pg_prepared_statements s WHERE NOT @is_shared@unnamed) x) o WHERE o.oid OPERATOR(pg_catalog.>=) '10000'::pg_catalog.oid";

const CHANNELS: &str =
    " UNION ALL SELECT 'channel', {c}, NULL, NULL, NULL, @row FROM pg_catalog.pg_listening_channels() c";

const CURSORS: &str = " UNION ALL SELECT 'cursor', {c.name}, NULL, NULL, NULL, \
    @row OPERATOR(pg_catalog.+) pg_catalog.octet_length(c.name) FROM pg_catalog.pg_cursors c WHERE c.is_holdable";

/// Everything in the session's temporary schema depends on it; the sequences of its tables are left out.
const TEMPORARY: &str = " UNION ALL SELECT 'temporary', o.type, {coalesce(o.name, o.identity)}, NULL, NULL, \
    @row OPERATOR(pg_catalog.+) pg_catalog.octet_length(coalesce(o.name, o.identity)) \
    FROM pg_catalog.pg_depend d, LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) o \
    WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
    AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend s \
    WHERE s.classid OPERATOR(pg_catalog.=) d.classid AND s.objid OPERATOR(pg_catalog.=) d.objid \
    AND s.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
    AND s.refobjsubid OPERATOR(pg_catalog.>) 0 AND s.deptype OPERATOR(pg_catalog.<>) 'n' \
    AND s.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass)";

const LOCKS: &str = " UNION ALL SELECT 'lock', l.classid::pg_catalog.text, l.objid::pg_catalog.text, \
    l.objsubid::pg_catalog.text, l.mode, 0 FROM pg_catalog.pg_locks l WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' \
    AND l.granted AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND l.database OPERATOR(pg_catalog.=) \
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())";

/// How many definitions have changed, to be compared with the count when the hints were read.
const DEFINED: &str = " UNION ALL SELECT 'definitions', (@definitions)::pg_catalog.text, \
    (@all_definitions)::pg_catalog.text, (@changes)::pg_catalog.text, NULL, 0";

/// A prepared statement as the server lists it.
#[derive(Debug)]
struct Listed {
    name: String,
    /// The statement that the text is sent with.
    first: String,
    from_sql: bool,
    oids: Vec<u32>,
}

/// The answer, row by row.
#[derive(Debug, Default)]
struct Reading {
    state: SessionState,
    statements: Vec<Listed>,
    /// Texts by the first statement that each has made, with which it was sent.
    texts: HashMap<String, String>,
    types: BTreeMap<u32, Option<String>>,
    held: Vec<AdvisoryLock>,
    /// The counts of the definitions that are always watched, and of all.
    definitions: (Option<i64>, Option<i64>),
    /// The count of [`CHANGES`].
    changes: Option<String>,
}

impl Reading {
    fn row(&mut self, row: &[Option<String>]) -> Result<(), SnapshotError> {
        let fields = Fields::of(row);
        let kind = fields.kind();
        let state = &mut self.state;
        match kind {
            "identity" => {
                state.session_user = fields.text(1)?;
                state.role = fields.text(2)?;
            }
            "setting" => {
                // A custom setting that was never set has no value.
                if fields.is_there(2) {
                    state.settings.insert(fields.text(1)?, fields.text(2)?);
                }
            }
            "statement" => {
                let oids = fields.list(4)?;
                let (from_sql, first) =
                    fields.plain(3)?.split_once(' ').ok_or_else(|| fields.unexpected(3))?;
                let first = unhex(first).ok_or_else(|| fields.unexpected(3))?;
                let name = fields.text(1)?;
                if fields.is_there(2) {
                    self.texts.insert(name.clone(), fields.text(2)?);
                }
                self.statements.push(Listed { name, first, from_sql: from_sql == "t", oids });
            }
            // Only its name counts.
            "shared" => {
                let statement = PreparedStatement::Protocol { sql: String::new(), types: Vec::new() };
                state.statements.insert(fields.text(1)?, statement);
            }
            "large" => {
                state.pins.insert(too_large(&fields)?);
                state.is_too_large = true;
            }
            "type" => {
                let name = if fields.is_there(2) { Some(fields.text(2)?) } else { None };
                self.types.insert(fields.number(1)?, name);
            }
            "channel" => {
                state.channels.insert(fields.text(1)?);
            }
            "cursor" => {
                state.pins.insert(format!("cursor \"{}\" WITH HOLD", fields.text(1)?));
            }
            "temporary" => {
                state.pins.insert(format!("temporary {} \"{}\"", fields.plain(1)?, fields.text(2)?));
            }
            "definitions" => {
                self.definitions = (fields.optional_number(1)?, fields.optional_number(2)?);
                self.changes = fields.plain(3).ok().map(str::to_owned);
            }
            "lock" => {
                let key = key_of_row(fields.number(1)?, fields.number(2)?, fields.number(3)?);
                self.held.push(AdvisoryLock { key, shared: fields.plain(4)? == "ShareLock" });
            }
            _ => return Err(fields.unexpected(0)),
        }
        Ok(())
    }

    fn finish(mut self, tracker: &mut StateTracker) -> SessionState {
        let texts = std::mem::take(&mut self.texts);
        // Each text is read once, however many statements it has made.
        let mut made: HashMap<&str, HashMap<String, Option<&str>>> = HashMap::new();
        for listed in std::mem::take(&mut self.statements) {
            let Some((first, text)) = texts.get_key_value(&listed.first) else { continue };
            match listed.from_sql {
                true => {
                    let made = made.entry(first).or_insert_with(|| scan::prepare_statements(text));
                    self.prepared(listed.name, made);
                }
                false => self.parsed(listed.name, text, &listed.oids),
            }
        }
        let names = self.types.into_iter().filter_map(|(oid, name)| Some((oid, name?))).collect();
        self.state.unnamed = tracker.unnamed().statement(&names);
        let execution = tracker.execution_mut();
        execution.taken(&mut self.state, &self.held, names);
        execution.saw_definitions(self.definitions, self.changes);
        self.state
    }

    /// `made`: the statements that its text prepares.
    fn prepared(&mut self, name: String, made: &HashMap<String, Option<&str>>) {
        match made.get(&name).copied().flatten() {
            Some(sql) => {
                self.state.statements.insert(name, PreparedStatement::Sql { sql: sql.to_owned() });
            }
            None => {
                self.state.pins.insert(format!("prepared statement \"{name}\", made among other statements"));
            }
        }
    }

    fn parsed(&mut self, name: String, text: &str, oids: &[u32]) {
        let type_of = |&oid: &u32| match self.types.get(&oid) {
            Some(name) => name.clone().map(TypeName::Named),
            None => Some(TypeName::BuiltIn(oid)),
        };
        match oids.iter().map(type_of).collect::<Option<Vec<_>>>() {
            Some(types) => {
                self.state
                    .statements
                    .insert(name, PreparedStatement::Protocol { sql: text.to_owned(), types });
            }
            None => {
                self.state
                    .losses
                    .insert(format!("prepared statement \"{name}\", whose parameter type was dropped"));
            }
        }
    }
}

/// Why a session with a state beyond the limit keeps its connection.
fn too_large(fields: &Fields<'_>) -> Result<String, SnapshotError> {
    let (bytes, kind) = (fields.plain(1)?, fields.plain(2)?);
    let largest = match (kind, fields.text(3)) {
        ("setting", Ok(name)) => format!("setting \"{name}\""),
        ("statement", Ok(name)) => format!("prepared statement \"{name}\""),
        _ => format!("{kind}s"),
    };
    Ok(format!("settings, prepared statements and other state of {bytes} bytes, above all {largest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_operator_of_the_question_is_qualified() {
        let mut tracker = StateTracker::default();
        tracker.on_query(b"set a.b = 1");
        let state = sql(&tracker);
        let bare: Vec<&str> = state
            .split_whitespace()
            .filter(|word| ["=", "<>", "<", ">=", ">", "~", "||", "IN", "LIKE", "BETWEEN"].contains(word))
            .collect();
        assert!(bare.is_empty(), "{bare:?} in {state}");
        // The other question sets its own search path.
        assert!(
            hints::sql(HINTS_TIME_MAX)
                .trim_start()
                .starts_with("SET LOCAL search_path TO pg_catalog, pg_temp;")
        );
        assert!(!hints::sql(HINTS_TIME_MAX).contains('\\'), "a setting decides what a backslash means");
        assert!(state.contains("612e62"), "the candidate is asked for");
    }
}
