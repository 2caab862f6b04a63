//! What a text of SQL may do to the state of its session: a conservative reading of tokens, not a parse.
//!
//! Owns the lists of PostgreSQL's verbs and functions that touch a session. It deliberately decides nothing:
//! it reports findings, and [`super::state`] keeps those that PostgreSQL itself cannot report later. SQL text
//! never decides a transaction boundary. Start with [`scan`].
//!
//! # Why
//! PostgreSQL can be asked for most of a session's state at a boundary, so the text is read for three things
//! only: names that cannot be enumerated (`SET app.user`), counts that are not visible from outside (advisory
//! locks taken twice), and whether asking again is worth a round trip. Each error is on the side of asking
//! again. A full parser would cost more, would differ between majors, and would still not see into functions
//! and triggers.
//!
//! # Cost
//! Most texts are harmless: [`screen()`] finds that in one pass, and only texts that may hold a finding are
//! scanned. Neither allocates, unless a setting's name is found.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;

mod calls;
mod declared;
mod effects;
mod judge;
mod lexer;
mod memory;
mod proof;
mod screen;
mod touched;
mod unicode;
mod uses;
mod words;

use judge::folded;
use lexer::{Lexer, Token};

pub(crate) use declared::{Kept, Used, declared, is_moment, used};
pub(crate) use effects::{Effects, Names, Unknown};
pub(crate) use judge::{Dialect, Verdict, judge_body, read};
pub(crate) use memory::{MemoryReads, memory_reads, reads_memory};
pub(crate) use screen::screen;
pub(crate) use touched::{decided_by, decides_values, touched, touched_by_body};
pub(crate) use unicode::plain;
pub(crate) use uses::{NamedUse, StatementUse, uses_in_command, uses_in_text};
pub(crate) use words::{Meaning, meaning, not_harmless};

pub use calls::{KeySource, LockCall, LockOperation, Operand};
pub use lexer::Backslashes;

/// How a statement can touch the state of its session, by its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum StatementEffect {
    /// Transaction control, SHOW, NOTIFY and the like: nothing that outlives the transaction.
    #[default]
    None,
    /// Runs expressions: changes something only if a function, trigger, rule or policy does.
    Runs,
    /// SET, PREPARE, LISTEN, CREATE TEMP, DO, and every statement that is not on a list.
    Changes,
}

/// A part of the state that PostgreSQL cannot be asked for later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanFinding {
    /// The text names this custom setting: it sets it, reads it, or may set it.
    Setting(String),
    /// `set_config($n, ...)`: the name is the parameter's value.
    SettingParameter(u16),
    /// `set_config` for the session, with a computed name.
    SettingComputed,
    /// A lock call that runs once for each row of the statement's result, which shows its outcome.
    Lock(LockCall),
    /// A lock call that runs a number of times that the text does not show.
    LockUnclear,
    /// PREPARE of a statement that calls lock functions.
    LockPrepared,
    /// PREPARE of a statement that calls `set_config`.
    ChangePrepared,
    /// EXECUTE of an SQL-level prepared statement.
    Executes,
    /// State that a session cannot carry, and its name.
    Foreign(&'static str),
    /// `currval` or `lastval`: a new server connection has no answer to them.
    SequenceMemory,
}

/// The summary of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scan {
    /// The strongest effect of its statements.
    pub effect: StatementEffect,
    /// Statements in it, without empty ones: the number of CommandCompletes that answer a simple Query.
    pub statements: u16,
    /// It sets something until the end of the transaction.
    pub sets_locally: bool,
}

/// Reads `sql` and calls `sink` for each finding, in the order of the text.
pub fn scan(sql: &[u8], backslashes: Backslashes, sink: &mut dyn FnMut(ScanFinding)) -> Scan {
    Scanner { sink, backslashes, scan: Scan::default(), depth: 0 }.run(sql)
}

/// Whether the effect of this function of `pg_catalog` on a session has been decided.
pub fn is_classified(function: &str) -> bool {
    use Meaning::*;
    matches!(meaning(function.as_bytes()), Some(Reserved | Harmless | Asks | RunsText | Scanned))
}

/// Reads the body of a function, or of a DO block, for code that touches a session.
pub(crate) fn scan_body(body: &[u8], backslashes: Backslashes, sink: &mut dyn FnMut(ScanFinding)) {
    Scanner { sink, backslashes, scan: Scan::default(), depth: 1 }.text(body);
}

/// The effects of a call, inside a body, of a function that the full scan reads.
pub(crate) fn effects_in_body(function: &[u8]) -> Effects {
    let is = |name: &[u8]| function.eq_ignore_ascii_case(name);
    match () {
        () if is(b"current_setting") || is(b"currval") || is(b"lastval") => Effects::NONE,
        () if is(b"set_config") => Effects::ASKS,
        () if calls::LockFunction::named(function).is_some() => Effects::ASKS | Effects::LOCKS,
        () => Effects::ANY,
    }
}

/// Every statement that a text prepares, with the part of the text that does so; `None`: that part is
/// ambiguous.
///
/// `pg_prepared_statements.statement` holds the whole text that the client sent (measured on 15 and 18), so
/// sending it again as it is could run the statements around the PREPARE.
pub fn prepare_statements(sql: &str) -> HashMap<String, Option<&str>> {
    let mut lexer = Lexer::new(sql.as_bytes(), Backslashes::Literal);
    let mut found = HashMap::new();
    loop {
        lexer.skip_blank();
        let start = lexer.offset();
        let Some(first) = lexer.next() else { return found };
        let name = lexer.peek().filter(|_| first.is_word(b"PREPARE")).and_then(folded);
        let mut end = lexer.offset();
        let mut token = Some(first);
        while token.is_some_and(|token| token != Token::Symbol(b';')) {
            end = lexer.offset();
            token = lexer.next();
        }
        if let Some(name) = name.and_then(|name| String::from_utf8(name).ok()) {
            let is_known = found.contains_key(&name);
            found.insert(name, sql.get(start..end).filter(|_| !is_known));
        }
    }
}

/// Whether a literal of the text may hold one of these words, however it is quoted, escaped or continued.
pub(crate) fn may_hold_in_literal(sql: &[u8], words: &[&[u8]]) -> bool {
    if memchr::memchr2(b'\'', b'$', sql).is_none() {
        return false;
    }
    let holds = |text: &[u8]| words.iter().any(|word| mentions(text, word));
    if mentions(sql, b"uescape") {
        return true;
    }
    if memchr::memchr(b'\\', sql).is_none() {
        let is_continued =
            |text: &[u8]| text.contains(&b'\'') && memchr::memchr2(b'\n', b'\r', text).is_some();
        let literals = Lexer::new(sql, Backslashes::Literal);
        return literals
            .into_iter()
            .any(|token| matches!(token, Token::Text(text) if holds(text) || is_continued(text)));
    }
    // A setting decides where a literal ends: all of the text counts.
    let plain: Vec<u8> = sql.iter().copied().filter(|&byte| byte != b'\\').collect();
    let spells = |at: usize| {
        let after = &sql[at + 1..];
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'7' | b'x' | b'u' | b'U' | b'+');
        after.first().is_some_and(is_number)
            || after.get(..4).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    holds(&plain) || memchr::memchr_iter(b'\\', sql).any(spells)
}

/// The prefix of the names of prepared statements that Freehold makes.
pub(crate) const OURS: &str = "freehold_";

/// Whether the text may run, by SQL, a prepared statement with a name like those that Freehold keeps for all
/// clients.
pub(crate) fn executes_ours(sql: &[u8]) -> bool {
    mentions(sql, b"execute") && (mentions(sql, OURS.as_bytes()) || mentions(sql, b"u&\""))
}

/// Whether the text only begins a transaction and sets, until its end, something that does not affect
/// parsing. Only the plainest form counts.
pub(crate) fn leaves_parsing_alone(sql: &[u8]) -> bool {
    let is_plain = |&byte: &u8| byte.is_ascii() && !matches!(byte, b'\\' | b'"' | b'*');
    let text = sql.trim_ascii().to_ascii_lowercase();
    let leaves = |statement: &[u8]| {
        let calls = statement.iter().filter(|&&byte| byte == b'(').count();
        if let Some(setting) = statement.strip_prefix(b"set local ") {
            return calls == 0 && decides_nothing(setting);
        }
        if let Some(setting) = statement.strip_prefix(b"select set_config('") {
            return calls == 1 && statement.ends_with(b")") && decides_nothing(setting);
        }
        let begins = statement.starts_with(b"begin") || statement.starts_with(b"start transaction");
        begins && statement.iter().all(|&byte| byte.is_ascii_alphabetic() || byte == b' ')
    };
    let mut statements = text.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    text.iter().all(is_plain) && statements.all(|statement| statement.is_empty() || leaves(statement))
}

/// Whether the setting that is named here, in lower case, affects neither how texts are read nor which
/// objects their names mean: a custom one, a limit, a cost.
fn decides_nothing(rest: &[u8]) -> bool {
    let end = rest.iter().position(|&byte| !lexer::is_name_byte(byte) && byte != b'.').unwrap_or(rest.len());
    let name = &rest[..end];
    const NAMES: [&[u8]; 9] = [
        b"application_name",
        b"client_min_messages",
        b"hash_mem_multiplier",
        b"jit",
        b"maintenance_work_mem",
        b"random_page_cost",
        b"seq_page_cost",
        b"synchronous_commit",
        b"work_mem",
    ];
    name.contains(&b'.')
        || name.ends_with(b"_timeout")
        || [&b"enable_"[..], b"log_", b"track_", b"max_parallel_"].iter().any(|start| name.starts_with(start))
        || NAMES.contains(&name)
}

/// Length of the longest verb that is known.
const VERB_BYTES_MAX: usize = 10;

/// The effect of a statement that begins with this word.
///
/// COMMIT runs deferred triggers; FETCH and MOVE run the cursor's query; maintenance runs index expressions.
/// What EXECUTE runs was read when it was prepared ([`ScanFinding::Executes`]).
fn effect_of(verb: &[u8]) -> StatementEffect {
    let mut upper = [0; VERB_BYTES_MAX];
    let Some(upper) = upper.get_mut(..verb.len()) else { return StatementEffect::Changes };
    upper.copy_from_slice(verb);
    upper.make_ascii_uppercase();
    match &*upper {
        b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"COMMIT" | b"END" | b"WITH" | b"VALUES"
        | b"MERGE" | b"COPY" | b"FETCH" | b"MOVE" | b"TABLE" | b"TRUNCATE" | b"CALL" | b"EXECUTE"
        | b"ANALYZE" | b"VACUUM" | b"REFRESH" | b"REINDEX" | b"GRANT" | b"REVOKE" | b"COMMENT" => {
            StatementEffect::Runs
        }
        b"BEGIN" | b"START" | b"SHOW" | b"SAVEPOINT" | b"RELEASE" | b"NOTIFY" | b"LOCK" | b"ROLLBACK"
        | b"ABORT" | b"CHECKPOINT" => StatementEffect::None,
        _ => StatementEffect::Changes,
    }
}

fn starts(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn ends(text: &[u8], word: &[u8]) -> bool {
    text.len().checked_sub(word.len()).is_some_and(|from| text[from..].eq_ignore_ascii_case(word))
}

/// Greatest depth of text inside text: the body of DO, the argument of EXECUTE in it. Deeper text counts as
/// unclear.
const DEPTH_MAX: u8 = 3;

/// What the first word of a statement means for the calls inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    /// The statement runs now, and its lock calls have been reported already.
    Told,
    /// The statement runs now.
    Running,
    /// SET, and SHOW: a function may have set the setting that is read.
    Assigns,
    /// DO, or text inside a text: calls may run any number of times.
    Block,
    /// PREPARE.
    Prepared,
    /// EXECUTE, CALL: its arguments may be names of settings.
    Arguments,
    /// DDL: text inside is stored, not run.
    Stored,
}

struct Scanner<'s> {
    sink: &'s mut dyn FnMut(ScanFinding),
    backslashes: Backslashes,
    scan: Scan,
    depth: u8,
}

impl Scanner<'_> {
    fn run(mut self, sql: &[u8]) -> Scan {
        self.text(sql);
        self.scan
    }

    fn text(&mut self, sql: &[u8]) {
        let mut lexer = Lexer::new(sql, self.backslashes);
        while let Some(first) = lexer.peek() {
            if first == Token::Symbol(b';') {
                lexer.next();
                continue;
            }
            self.statement(&mut lexer);
            self.scan.statements = self.scan.statements.saturating_add(1);
        }
    }

    /// Reads one statement, including its `;`.
    fn statement(&mut self, lexer: &mut Lexer<'_>) {
        let mut verb = *lexer;
        while verb.peek() == Some(Token::Symbol(b'(')) {
            verb.next();
        }
        let context = match verb.next() {
            Some(Token::Word(word)) => self.verb(word, *lexer),
            _ => {
                self.raise(StatementEffect::Changes);
                Context::Running
            }
        };
        while let Some(token) = lexer.next() {
            match token {
                Token::Symbol(b';') => return,
                Token::Word(word) => self.word(word, lexer, context),
                Token::Quoted(name) => self.quoted(name, lexer, context),
                Token::Text(body) => self.literal(body, context),
                _ => {}
            }
        }
    }

    fn verb(&mut self, word: &[u8], statement: Lexer<'_>) -> Context {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        match is(b"SET") && ends_with_transaction(statement) {
            true => self.scan.sets_locally = true,
            false => self.raise(effect_of(word)),
        }
        if self.depth > 0 {
            return Context::Block;
        }
        if is(b"SELECT") {
            return match calls::report_lock_calls(statement, self.scan.statements, self.sink) {
                true => Context::Told,
                false => Context::Running,
            };
        }
        if is(b"EXECUTE") {
            (self.sink)(ScanFinding::Executes);
            return Context::Arguments;
        }
        if is(b"EXPLAIN") {
            // With ANALYZE, the EXECUTE that it may explain runs.
            (self.sink)(ScanFinding::Executes);
            return Context::Running;
        }
        if is(b"LOAD") {
            (self.sink)(ScanFinding::Foreign("a library loaded by LOAD"));
        }
        match () {
            () if is(b"SET") || is(b"SHOW") => Context::Assigns,
            () if is(b"DO") => Context::Block,
            () if is(b"CALL") => Context::Arguments,
            () if is(b"PREPARE") => Context::Prepared,
            () if [&b"CREATE"[..], b"ALTER", b"COMMENT"].iter().any(|name| is(name)) => Context::Stored,
            () => Context::Running,
        }
    }

    fn raise(&mut self, effect: StatementEffect) {
        self.scan.effect = self.scan.effect.max(effect);
    }

    fn word(&mut self, word: &[u8], lexer: &Lexer<'_>, context: Context) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if starts(word, b"pg_temp") {
            self.raise(StatementEffect::Changes);
        }
        if (is(b"SET") || is(b"SHOW"))
            && matches!(context, Context::Assigns | Context::Block | Context::Stored)
        {
            let finding = set_name(*lexer).and_then(SettingName::finding);
            if let Some(finding) =
                finding.filter(|finding| is(b"SET") || matches!(finding, ScanFinding::Setting(_)))
            {
                (self.sink)(finding);
            } else if is(b"SET") && sets_seed(*lexer) {
                (self.sink)(ScanFinding::Foreign(SEED));
            }
            return;
        }
        if lexer.peek() == Some(Token::Symbol(b'(')) {
            self.call(word, lexer, context);
        }
    }

    fn quoted(&mut self, name: &[u8], lexer: &Lexer<'_>, context: Context) {
        if starts(name, b"pg_temp") {
            self.raise(StatementEffect::Changes);
        }
        if lexer.peek() == Some(Token::Symbol(b'(')) {
            self.call(name, lexer, context);
        }
    }

    fn call(&mut self, function: &[u8], lexer: &Lexer<'_>, context: Context) {
        let is = |name: &[u8]| function.eq_ignore_ascii_case(name);
        if is(b"set_config") {
            match calls::is_for_transaction(*lexer) {
                true => self.scan.sets_locally = true,
                false => self.raise(StatementEffect::Changes),
            }
            if context == Context::Prepared {
                (self.sink)(ScanFinding::ChangePrepared);
            }
            return calls::set_config(*lexer, context == Context::Prepared, self.sink);
        }
        if is(b"current_setting") {
            return calls::current_setting(*lexer, self.sink);
        }
        if is(b"currval") || is(b"lastval") {
            return (self.sink)(ScanFinding::SequenceMemory);
        }
        if let Some((_, what)) = FOREIGN.iter().find(|(names, _)| names.iter().any(|name| is(name))) {
            self.raise(StatementEffect::Changes);
            return (self.sink)(ScanFinding::Foreign(what));
        }
        if calls::LockFunction::named(function).is_none() {
            return;
        }
        self.raise(StatementEffect::Changes);
        match context {
            Context::Told | Context::Stored => {}
            Context::Prepared => (self.sink)(ScanFinding::LockPrepared),
            _ => (self.sink)(ScanFinding::LockUnclear),
        }
    }

    /// A string may be the name of a setting, or SQL that the statement runs.
    fn literal(&mut self, body: &[u8], context: Context) {
        if matches!(context, Context::Block | Context::Arguments)
            && let SettingName::Custom(name) = SettingName::of(body)
        {
            return (self.sink)(ScanFinding::Setting(name));
        }
        let is_code = matches!(context, Context::Block | Context::Stored) && mentions(body, b"set ");
        let is_state = mentions(body, b"set_config") || mentions(body, b"_advisory");
        if context == Context::Told || !(is_code || is_state) {
            return;
        }
        if self.depth == DEPTH_MAX {
            return (self.sink)(ScanFinding::LockUnclear);
        }
        let before = self.scan;
        self.depth += 1;
        match context {
            Context::Stored => self.stored(body),
            _ => {
                self.text(body);
                self.raise(StatementEffect::Changes);
            }
        }
        self.depth -= 1;
        self.scan.statements = before.statements;
    }

    /// Reads the body of a function that is being created, for the names of settings that it will set.
    fn stored(&mut self, body: &[u8]) {
        let outer = &mut *self.sink;
        let mut names_only = |finding| {
            if matches!(finding, ScanFinding::Setting(_)) {
                outer(finding);
            }
        };
        let (backslashes, depth) = (self.backslashes, self.depth);
        Scanner { sink: &mut names_only, backslashes, scan: Scan::default(), depth }.text(body);
    }
}

/// Whether a string, which may be SQL, contains `word`; most strings are short.
pub(crate) fn mentions(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// Whether this is `SET LOCAL a = b` or `SET TRANSACTION ...`, without doubt. `rest` begins at the verb or
/// after it.
fn ends_with_transaction(mut rest: Lexer<'_>) -> bool {
    let mut token = rest.next();
    if token.is_some_and(|token| token.is_word(b"SET")) {
        token = rest.next();
    }
    token.is_some_and(|token| token.is_word(b"LOCAL") || token.is_word(b"TRANSACTION"))
        && rest.peek() != Some(Token::Symbol(b'.'))
}

/// The state of `random()`, which PostgreSQL does not report.
pub(crate) const SEED: &str = "a seed of random()";

/// Functions that leave state which PostgreSQL does not report, or does not remove.
const FOREIGN: [(&[&[u8]], &str); 5] = [
    (&[b"pg_replication_origin_session_setup"], "a replication origin"),
    (&[b"setseed"], SEED),
    (&[b"pg_backup_start"], "a base backup under way"),
    (&[b"dblink_connect", b"dblink_connect_u"], "a dblink connection"),
    (
        &[
            b"pg_create_physical_replication_slot",
            b"pg_create_logical_replication_slot",
            b"pg_copy_physical_replication_slot",
            b"pg_copy_logical_replication_slot",
        ],
        "a replication slot, which may be a temporary one",
    ),
];

/// Whether SET sets `seed`. Its effect stays, even if it is set for the transaction only.
fn sets_seed(mut lexer: Lexer<'_>) -> bool {
    let named = |token: Token<'_>| token.is_name(b"seed");
    let is_scope = |token: Token<'_>| token.is_word(b"SESSION") || token.is_word(b"LOCAL");
    lexer.next().is_some_and(|token| named(token) || (is_scope(token) && lexer.next().is_some_and(named)))
}

/// The setting that SET sets: `SET [SESSION | LOCAL] a.b`. Walks a copy of the lexer.
fn set_name(mut lexer: Lexer<'_>) -> Option<SettingName> {
    let mut token = lexer.next()?;
    if (token.is_word(b"SESSION") || token.is_word(b"LOCAL")) && lexer.peek() != Some(Token::Symbol(b'.')) {
        token = lexer.next()?;
    }
    let mut name = part(token)?;
    while lexer.peek() == Some(Token::Symbol(b'.')) {
        lexer.next();
        name.push('.');
        name.push_str(&part(lexer.next()?)?);
    }
    Some(SettingName::of(name.as_bytes()))
}

/// An identifier, truncated as PostgreSQL truncates it.
fn part(token: Token<'_>) -> Option<String> {
    match token {
        Token::Word(word) => Some(String::from_utf8_lossy(judge::cut(word)).into_owned()),
        Token::Quoted(quoted) => {
            let name = String::from_utf8_lossy(quoted).replace("\"\"", "\"");
            Some(String::from_utf8_lossy(judge::cut(name.as_bytes())).into_owned())
        }
        _ => None,
    }
}

/// The kind of setting that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SettingName {
    /// Two or more identifiers joined by dots (`valid_custom_variable_name`): `pg_settings` may not list it.
    Custom(String),
    /// One identifier: `pg_settings` lists it, or there is no such setting.
    Listed,
    /// Neither, or too long to be kept.
    Odd,
}

impl SettingName {
    pub(crate) fn of(bytes: &[u8]) -> SettingName {
        const NAME_BYTES_MAX: usize = 255;
        let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80;
        let is_part = |part: &[u8]| {
            part.first().is_some_and(|&byte| is_start(byte))
                && part.iter().all(|&byte| is_start(byte) || byte.is_ascii_digit() || byte == b'$')
        };
        if bytes.len() > NAME_BYTES_MAX || !bytes.split(|&byte| byte == b'.').all(is_part) {
            return SettingName::Odd;
        }
        match String::from_utf8(bytes.to_vec()) {
            Ok(name) if name.contains('.') => SettingName::Custom(name),
            Ok(_) => SettingName::Listed,
            Err(_) => SettingName::Odd,
        }
    }

    fn finding(self) -> Option<ScanFinding> {
        match self {
            SettingName::Custom(name) => Some(ScanFinding::Setting(name)),
            SettingName::Listed => None,
            SettingName::Odd => Some(ScanFinding::SettingComputed),
        }
    }
}

/// Findings in a piece of a text that is too large to be held as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QuickScan {
    pub(crate) locks: bool,
    /// `set_config`, or SET of a name with a dot in it.
    pub(crate) sets: bool,
}

/// Names of a database's functions with effects that PostgreSQL cannot be asked for later.
#[derive(Debug)]
pub(crate) struct OpaqueNames {
    /// `None`: there is none, or one that cannot be searched for.
    names: Option<AhoCorasick>,
    /// One of them can be written in more ways than can be searched for.
    is_written_otherwise: bool,
}

impl OpaqueNames {
    pub(crate) fn of<'n>(names: impl Iterator<Item = &'n [u8]>) -> OpaqueNames {
        let names: Vec<&[u8]> = names.collect();
        let is_odd = |name: &&[u8]| name.is_empty() || !name.is_ascii() || name.contains(&b'"');
        let found = AhoCorasick::builder().ascii_case_insensitive(true).build(&names);
        let is_written_otherwise = names.iter().any(is_odd) || found.is_err();
        OpaqueNames { names: found.ok().filter(|_| !names.is_empty()), is_written_otherwise }
    }

    /// Whether a piece of a text that is too large to be held may call one. A call contains the
    /// function's name, as it is or with escapes.
    pub(crate) fn are_in(&self, part: &[u8]) -> bool {
        self.is_written_otherwise || self.names.as_ref().is_some_and(|names| names.is_match(part))
    }
}

/// Whether a piece of a text that is too large to be held may run, by PostgreSQL's own means, what cannot be
/// asked for later.
pub(crate) fn mentions_opaque(part: &[u8]) -> bool {
    const TEXTS: [&[u8]; 7] =
        [b"&\"", b"_to_xml", b"ts_stat", b"ts_rewrite", b"pg_settings", b"execute", b"language"];
    let mut folded = part.to_vec();
    folded.make_ascii_lowercase();
    let holds = |name: &[u8]| memchr::memmem::find(&folded, name).is_some();
    TEXTS.iter().any(|text| holds(text))
}

/// Whether the piece of a text may make something temporary.
pub(crate) fn mentions_temporary(part: &[u8]) -> bool {
    memchr::memchr2_iter(b't', b'T', part).any(|at| starts(&part[at..], b"temp"))
}

/// Looks at bytes, not tokens: the piece may begin and end anywhere. Large texts are mostly data, so matches
/// are rare.
pub(crate) fn quick_scan(part: &[u8]) -> QuickScan {
    let mut quick_scan = QuickScan::default();
    for at in memchr::memchr_iter(b'_', part) {
        quick_scan.locks |= starts(&part[at + 1..], b"advisory");
        quick_scan.sets |= starts(&part[at + 1..], b"config") && ends(&part[..at], b"set");
    }
    quick_scan.sets |= memchr::memchr2_iter(b's', b'S', part).any(|at| {
        let rest = &part[at..];
        let ends =
            rest.get(3).is_some_and(|&byte| lexer::is_space(byte) || matches!(byte, b'/' | b'-' | b'"'));
        if !starts(rest, b"set") || !ends {
            return false;
        }
        let mut lexer = Lexer::new(&rest[3..], Backslashes::Literal);
        set_name(lexer).is_some_and(|name| name != SettingName::Listed) && lexer.next().is_some()
    });
    quick_scan
}

#[cfg(test)]
mod tests;
