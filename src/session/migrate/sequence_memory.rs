//! `currval` and `lastval` of a session that goes on with another server connection.
//!
//! Owns what the old connection is asked ([`PreviousConnection`]) and what is remembered of the answer
//! ([`Recall`]); [`recall`](super::recall) restores it on the new connection. It deliberately restores only
//! what a client asks for.
//!
//! # Why
//! * PostgreSQL keeps the value that a session drew last of each sequence in the memory of its process, so
//!   only that process can be asked. It is asked when the session has left it: behind the hold, beside the
//!   session. A client that asks for such a value before that waits for the answer; no other client waits.
//! * A restore locks the sequence for a moment (`system/recall.rs` says why), and most sessions never ask. So
//!   it is made before the first request that asks, and only for the values that the request asks for. Inside
//!   a transaction, a savepoint protects the transaction from an error of the restore.
//! * A value that was drawn on the new connection is newer. The function leaves it as it is.
//! * A value that cannot be restored (the move was finished, a sequence stays locked, a right is missing, the
//!   transaction is read-only) is forgotten: the server then says that the value is not defined in this
//!   session, as it does for a session that drew none.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::backend::{Reply, ServerConnection};
use crate::event_loop;
use crate::session::scan::{MemoryReads, memory_reads};
use crate::session::state::{Hints, PreparedStatement, unhex};
use crate::wire::message::frontend::{self, parse_bind_names, parse_parse, tag as request};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};

/// How long the old server may take to answer. The question's own timeouts are shorter.
const ANSWER_MAX: Duration = Duration::from_secs(3);

const CURRVAL_OID: u32 = 1575;
const LASTVAL_OID: u32 = 2559;

/// Settings for the question. The connection is closed after it.
const SETTINGS: &str = "SET search_path TO pg_catalog, pg_temp; SET client_encoding TO 'UTF8'; \
    SET statement_timeout TO '2s'; SET lock_timeout TO '20ms'";

/// A session that has drawn nothing returns at once. Asking for the last value locks its sequence, and
/// nothing else in the transaction does: so the lock tells which sequence it is. Each further question locks
/// its sequence until the transaction ends, so it commits from time to time.
const QUESTION: &str = "DO $freehold$
#variable_conflict use_variable
DECLARE
    last_is pg_catalog.oid;
    seq pg_catalog.oid;
    number pg_catalog.int8;
    asked pg_catalog.int4 := 0;
    told pg_catalog.text := '';
BEGIN
    BEGIN
        PERFORM lastval();
    EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
        RETURN;
    END;
    last_is := (SELECT l.relation FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid()
        AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND c.relkind = 'S' LIMIT 1);
    FOREACH seq IN ARRAY ARRAY(SELECT c.oid FROM pg_class c WHERE c.relkind = 'S') LOOP
        asked := asked + 1;
        IF asked % 100 = 0 THEN
            COMMIT;
        END IF;
        BEGIN
            number := currval(seq);
            told := told || (SELECT concat(CASE WHEN c.oid = last_is THEN '*' END,
                    encode(convert_to(format('%I.%I', n.nspname, c.relname), 'UTF8'), 'hex'), ':',
                    encode(convert_to(c.relname, 'UTF8'), 'hex'), ':', number, ' ')
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = seq);
        EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege OR lock_not_available
            OR undefined_table THEN
            NULL;
        END;
    END LOOP;
    PERFORM set_config('freehold.told', told, false);
END
$freehold$";

const ANSWER: &str = "SELECT pg_catalog.current_setting('freehold.told', true)";

/// The values that a session drew last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::session) struct Memory {
    /// By the sequence's name with its schema, as hexadecimal UTF-8.
    drawn: BTreeMap<Box<str>, Drawn>,
    /// The sequence that `lastval` refers to.
    last: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Drawn {
    /// The sequence's name, without its schema.
    name: Box<str>,
    number: i64,
}

/// The arguments of one restore.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) names: String,
    pub(super) numbers: String,
    pub(super) last: Option<(Box<str>, String)>,
    pub(super) wants_last: bool,
}

impl Memory {
    /// `None`: the text is no answer to our question.
    fn read(answer: &str) -> Option<Memory> {
        let mut memory = Memory::default();
        for one in answer.split_ascii_whitespace() {
            let (is_last, one) = one.strip_prefix('*').map_or((false, one), |one| (true, one));
            let mut parts = one.split(':');
            let sequence: Box<str> = parts.next()?.into();
            let drawn = Drawn { name: unhex(parts.next()?)?.into(), number: parts.next()?.parse().ok()? };
            if is_last {
                memory.last = Some(sequence.clone());
            }
            memory.drawn.insert(sequence, drawn);
        }
        Some(memory)
    }

    fn is_empty(&self) -> bool {
        self.drawn.is_empty() && self.last.is_none()
    }

    /// Values that were drawn later replace the earlier ones.
    fn add(&mut self, later: Memory) {
        self.drawn.extend(later.drawn);
        self.last = later.last.or(self.last.take());
    }

    /// What has to be restored before this is asked.
    fn call(&self, reads: &MemoryReads) -> Option<Call> {
        let wanted: Vec<_> =
            self.drawn.iter().filter(|(_, drawn)| reads.sequences.has(drawn.name.as_bytes())).collect();
        let last = self.last.as_ref().and_then(|last| self.drawn.get_key_value(last));
        let wants_last = reads.last && last.is_some();
        if wanted.is_empty() && !wants_last {
            return None;
        }
        let list = |all: Vec<String>| format!("{{{}}}", all.join(","));
        Some(Call {
            names: list(wanted.iter().map(|(name, _)| name.to_string()).collect()),
            numbers: list(wanted.iter().map(|(_, drawn)| drawn.number.to_string()).collect()),
            last: last.map(|(name, drawn)| (name.clone(), drawn.number.to_string())),
            wants_last,
        })
    }

    /// Drops what was asked for: it is restored, or never will be.
    fn forget(&mut self, reads: &MemoryReads, knows_last: bool) {
        self.drawn.retain(|_, drawn| !reads.sequences.has(drawn.name.as_bytes()));
        let is_gone = |last: &str| !self.drawn.contains_key(last);
        if knows_last || reads.last || self.last.as_deref().is_some_and(is_gone) {
            self.last = None;
        }
    }
}

/// A server connection that a session has left, its sequence values, and the statements that the session had
/// prepared by then.
#[derive(Debug)]
pub(in crate::session) struct PreviousConnection {
    /// Taken when it is asked or closed.
    connection: RefCell<Option<Box<ServerConnection>>>,
    /// `None`: the server has not answered.
    answer: RefCell<Option<Memory>>,
    told: Notify,
    /// Statements that ask for drawn values, once it is known that there are any.
    statements: RefCell<BTreeMap<String, PreparedStatement>>,
    /// What the database's functions do.
    hints: Option<Arc<Hints>>,
}

impl PreviousConnection {
    pub(in crate::session) fn of(
        connection: Box<ServerConnection>,
        statements: BTreeMap<String, PreparedStatement>,
        hints: Option<Arc<Hints>>,
    ) -> PreviousConnection {
        PreviousConnection {
            connection: RefCell::new(Some(connection)),
            answer: RefCell::default(),
            told: Notify::new(),
            statements: RefCell::new(statements),
            hints,
        }
    }

    /// The connection; the first caller gets it.
    pub(in crate::session) fn take_connection(&self) -> Option<Box<ServerConnection>> {
        self.connection.take()
    }

    /// Asks what the session drew there. After that, the connection can only be closed.
    pub(in crate::session) async fn ask(&self, connection: &mut ServerConnection) {
        let mut batch = BytesMut::new();
        [SETTINGS, QUESTION, ANSWER].iter().for_each(|sql| frontend::query(&mut batch, sql));
        let asked = timeout(ANSWER_MAX, connection.run_each(&batch)).await;
        let replies = asked.ok().and_then(Result::ok).unwrap_or_default();
        let memory = heard(&replies).unwrap_or_else(|| {
            let error = replies.iter().find_map(|reply| reply.error.as_ref());
            let error = error.map(|fields| fields.message().to_owned());
            tracing::info!(?error, "what a session drew from sequences is not known");
            Memory::default()
        });
        match memory.is_empty() {
            true => self.statements.borrow_mut().clear(),
            false => self.keep_readers(),
        }
        self.answer.replace(Some(memory));
        self.told.notify_waiters();
    }

    fn keep_readers(&self) {
        self.statements.borrow_mut().retain(|_, statement| !self.reads(text_of(statement)).is_none());
    }

    /// The values that were drawn there; once.
    async fn hear(&self) -> Memory {
        if let Some(mut connection) = self.take_connection() {
            self.ask(&mut connection).await;
            event_loop::spawn(connection.terminate_fully());
        }
        if self.answer.borrow().is_none() {
            let _ = timeout(ANSWER_MAX, self.told.notified()).await;
        }
        self.answer.replace(Some(Memory::default())).unwrap_or_default()
    }

    fn has_told_nothing(&self) -> bool {
        self.answer.borrow().as_ref().is_some_and(Memory::is_empty)
    }

    fn reads(&self, sql: &[u8]) -> MemoryReads {
        match self.hints.as_ref().is_some_and(|hints| hints.memory_names().are_in(sql)) {
            true => MemoryReads::ANY,
            false => memory_reads(sql),
        }
    }

    /// The values that running this prepared statement asks for.
    fn reads_of_statement(&self, name: &[u8]) -> MemoryReads {
        let statements = self.statements.borrow();
        if statements.is_empty() {
            return MemoryReads::default();
        }
        let statement = std::str::from_utf8(name).ok().and_then(|name| statements.get(name));
        statement.map(|statement| self.reads(text_of(statement))).unwrap_or_default()
    }
}

fn text_of(statement: &PreparedStatement) -> &[u8] {
    match statement {
        PreparedStatement::Protocol { sql, .. } | PreparedStatement::Sql { sql } => sql.as_bytes(),
    }
}

fn heard(replies: &[Reply]) -> Option<Memory> {
    let [_, question, answer] = replies else { return None };
    if question.error.is_some() || answer.error.is_some() {
        return None;
    }
    Memory::read(answer.results.first()?.value(0, 0).unwrap_or_default())
}

/// What a session may still ask for, on the connection that it has now.
#[derive(Debug)]
pub(in crate::session) struct Recall {
    /// Connections with answers that are not in `memory` yet, oldest first; always the last one.
    left: Vec<Rc<PreviousConnection>>,
    memory: Memory,
    /// The values that running the unnamed statement, made before, asks for.
    unnamed: MemoryReads,
    /// The values that the waiting requests ask for.
    wanted: MemoryReads,
}

impl Recall {
    /// Of a session that has left this connection; keeps what it had not asked of earlier connections yet.
    /// `unnamed` is the text of its unnamed statement.
    pub(in crate::session) fn after(
        before: Option<Box<Recall>>,
        left: &Rc<PreviousConnection>,
        unnamed: Option<&[u8]>,
    ) -> Box<Recall> {
        let mut recall = before.unwrap_or_else(|| {
            Box::new(Recall {
                left: Vec::new(),
                memory: Memory::default(),
                unnamed: MemoryReads::default(),
                wanted: MemoryReads::default(),
            })
        });
        recall.left.retain(|left| !left.has_told_nothing());
        recall.left.push(Rc::clone(left));
        recall.unnamed = unnamed.map(|sql| left.reads(sql)).unwrap_or_default();
        recall
    }

    /// There is nothing that could be asked for.
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.left.iter().all(|left| left.has_told_nothing())
    }

    /// Whether these messages of the client's, up to the next Sync, ask for values that have to be restored
    /// first.
    pub(in crate::session) fn is_wanted_by(&mut self, messages: &[u8]) -> bool {
        let mut unnamed = self.unnamed.clone();
        let reads = self.reads_of(messages, &mut unnamed);
        let may_come = || self.left.iter().any(|left| !left.has_told_nothing());
        let is_wanted = !reads.is_none() && (may_come() || self.memory.call(&reads).is_some());
        match is_wanted {
            true => self.wanted = reads,
            // The messages go on now.
            false => self.unnamed = unnamed,
        }
        is_wanted
    }

    /// `unnamed` is what running the unnamed statement asks for, before and after the messages.
    fn reads_of(&self, messages: &[u8], unnamed: &mut MemoryReads) -> MemoryReads {
        let mut reads = MemoryReads::default();
        let mut rest = messages;
        while let Ok(Some(header)) = Header::parse(rest, MESSAGE_BYTES_MAX) {
            let message = rest.get(..header.message_bytes());
            match message {
                Some(message) => {
                    reads.add(self.reads_of_message(header.tag, &message[HEADER_BYTES..], unnamed));
                }
                // The rest of the message is not read.
                None if matches!(header.tag, request::QUERY | request::PARSE) => return MemoryReads::ANY,
                None => {
                    let front = rest.get(HEADER_BYTES..).unwrap_or_default();
                    reads.add(self.reads_of_message(header.tag, front, unnamed));
                }
            }
            if matches!(header.tag, request::QUERY | request::SYNC | request::FUNCTION_CALL) {
                break;
            }
            rest = rest.get(header.message_bytes()..).unwrap_or_default();
        }
        reads
    }

    fn reads_of_message(&self, tag: u8, body: &[u8], unnamed: &mut MemoryReads) -> MemoryReads {
        let Some(left) = self.left.last() else { return MemoryReads::default() };
        match tag {
            request::QUERY => {
                *unnamed = MemoryReads::default();
                let sql = body.strip_suffix(b"\0").unwrap_or(body);
                let mut reads = left.reads(sql);
                if let Some(name) = executed(sql) {
                    reads.add(left.reads_of_statement(name));
                }
                reads
            }
            request::PARSE => {
                let Ok(parse) = parse_parse(body) else { return MemoryReads::default() };
                if parse.statement.is_empty() {
                    *unnamed = MemoryReads::default();
                }
                left.reads(parse.sql)
            }
            request::BIND => match parse_bind_names(body).map(|names| names.statement) {
                Ok(b"") => unnamed.clone(),
                Ok(name) => left.reads_of_statement(name),
                Err(_) => MemoryReads::default(),
            },
            request::FUNCTION_CALL => {
                let oid = body.first_chunk::<4>().map_or(0, |oid| u32::from_be_bytes(*oid));
                match matches!(oid, CURRVAL_OID | LASTVAL_OID) {
                    true => MemoryReads::ANY,
                    false => MemoryReads::default(),
                }
            }
            _ => MemoryReads::default(),
        }
    }

    /// Takes the requests that wait for a restore, and what has to be restored for them, once the old server
    /// has answered.
    pub(super) async fn take_wanted(&mut self) -> (MemoryReads, Option<Call>) {
        let reads = std::mem::take(&mut self.wanted);
        self.hear().await;
        let call = self.memory.call(&reads);
        (reads, call)
    }

    /// Drops what was asked for: it is restored, or never will be.
    pub(super) fn forget(&mut self, reads: &MemoryReads, knows_last: bool) {
        self.memory.forget(reads, knows_last);
    }

    async fn hear(&mut self) {
        for left in &self.left {
            self.memory.add(left.hear().await);
        }
        if let Some(last) = self.left.pop() {
            self.left = vec![last];
        }
    }
}

/// The name of the prepared statement that a text runs.
fn executed(sql: &[u8]) -> Option<&[u8]> {
    const VERB: &[u8] = b"execute";
    let sql = sql.trim_ascii_start();
    let (verb, rest) = sql.split_at_checked(VERB.len())?;
    if !verb.eq_ignore_ascii_case(VERB) {
        return None;
    }
    let rest = rest.trim_ascii();
    match rest.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|&byte| byte == b'"').next(),
        None => rest.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn told(all: &[(&str, i64)]) -> Memory {
        let one = |(name, number): &(&str, i64)| {
            let (star, name) = name.strip_prefix('*').map_or(("", *name), |name| ("*", name));
            format!("{star}{}:{}:{number}", hex(&format!("public.{name}")), hex(name))
        };
        Memory::read(&all.iter().map(one).collect::<Vec<_>>().join(" ")).unwrap()
    }

    #[test]
    fn only_what_is_asked_for_is_restored_and_only_once() {
        let mut memory = told(&[("a", 1), ("*b", -2)]);
        let reads = memory_reads(b"SELECT currval('a')");
        let call = memory.call(&reads).unwrap();
        assert_eq!((call.names, call.numbers), (format!("{{{}}}", hex("public.a")), "{1}".to_owned()));
        assert_eq!(call.last, Some((hex("public.b").into(), "-2".to_owned())));
        assert!(!call.wants_last);
        memory.forget(&reads, true);
        assert_eq!(memory.call(&reads), None);
        assert_eq!(memory.call(&memory_reads(b"SELECT lastval()")), None, "it is known by now");
        assert!(memory.call(&memory_reads(b"SELECT currval('b')")).is_some());
    }

    #[test]
    fn what_was_drawn_later_takes_the_place_of_what_was_drawn_before() {
        let mut memory = told(&[("*a", 1), ("b", 2)]);
        memory.add(Memory::default());
        assert_eq!(memory, told(&[("*a", 1), ("b", 2)]));
        memory.add(told(&[("*b", 7)]));
        assert_eq!(memory, told(&[("a", 1), ("*b", 7)]));
    }

    #[test]
    fn an_answer_that_is_none_is_not_believed() {
        assert_eq!(Memory::read(""), Some(Memory::default()));
        for odd in ["a", "61:61", "61:61:x", "61:6:1"] {
            assert_eq!(Memory::read(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_statement_that_a_text_executes_is_found() {
        assert_eq!(executed(b" EXECUTE s"), Some(&b"s"[..]));
        assert_eq!(executed(b"execute s_1(2);"), Some(&b"s_1"[..]));
        assert_eq!(executed(b"EXECUTE \"S x\" (1)"), Some(&b"S x"[..]));
        assert_eq!(executed(b"SELECT 1"), None);
    }
}
