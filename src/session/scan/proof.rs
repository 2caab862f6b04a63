//! Whether a text is so plain that it can leave nothing in the session.
//!
//! # Why
//! [`super::read()`] understands much: bodies of functions, computed names, escapes. It decides what a client
//! keeps, and when PostgreSQL is asked; a mistake there may cost that client a setting, but must never give
//! the setting to another client. So other clients are protected by rules that can be checked by reading this
//! file: a connection is lent again as it is only after texts of one statement of a few kinds, which call
//! only harmless built-in functions and contain no name that runs code of the database's users. After any
//! other text it is cleaned (see [`Residue`](crate::session::state::Residue)).
//!
//! Nothing is decoded here: a backslash, an escape, or a literal that continues in the next line makes a text
//! unproven.

use super::effects::{Effects, Names};
use super::judge::with_folded;
use super::lexer::{Backslashes, Lexer, Token};
use super::words::{Meaning, meaning};

/// Statements that do nothing but read and write rows, or begin and end transactions.
const VERBS: [&[u8]; 15] = [
    b"SELECT",
    b"INSERT",
    b"UPDATE",
    b"DELETE",
    b"VALUES",
    b"TABLE",
    b"WITH",
    b"BEGIN",
    b"START",
    b"COMMIT",
    b"END",
    b"ROLLBACK",
    b"ABORT",
    b"SAVEPOINT",
    b"RELEASE",
];

/// Whether a statement is one of [`VERBS`], by its first word.
pub(super) fn is_verb(word: &[u8]) -> bool {
    VERBS.iter().any(|verb| word.eq_ignore_ascii_case(verb))
}

/// PostgreSQL truncates names in its own encoding: this many bytes of a client's encoding are never too many.
const BEYOND_ASCII_BYTES_MAX: usize = 15;

/// Whether the text leaves nothing in the session, by the rules in the module's documentation.
pub(super) fn is_proven(sql: &[u8], names: &mut impl Names) -> bool {
    // Settings decide how these are read.
    if memchr::memchr2(b'\\', b'$', sql).is_some_and(|at| !is_parameter(sql, at)) {
        return false;
    }
    let mut lexer = Lexer::new(sql, Backslashes::Literal);
    let Some(Token::Word(verb)) = lexer.next() else { return false };
    if !is_verb(verb) {
        return false;
    }
    let inserts = verb.eq_ignore_ascii_case(b"INSERT");
    if inserts && !insert_target(&mut lexer, names) {
        return false;
    }
    let mut before = None;
    while let Some(token) = lexer.next() {
        let is_fine = match token {
            Token::Word(word) => is_fine_word(word, before, &lexer, names),
            Token::Quoted(name) => !is_called(&lexer) && are_harmless(name, true, names),
            Token::Escaped(_) => false,
            Token::Text(text) => !goes_on(text) && !is_prefixed(sql, text),
            Token::Symbol(b';') => return lexer.next().is_none(),
            Token::Symbol(_) | Token::Number(_) | Token::Parameter(_) => true,
        };
        if !is_fine {
            return false;
        }
        before = Some(token);
    }
    true
}

/// A dollar that does not begin a `$1` begins a literal.
fn is_parameter(sql: &[u8], first: usize) -> bool {
    let dollars = memchr::memchr_iter(b'$', &sql[first..]);
    !sql[first..].contains(&b'\\')
        && dollars.into_iter().all(|at| sql.get(first + at + 1).is_some_and(u8::is_ascii_digit))
}

/// `INTO name` or `INTO schema.name`, with the parenthesis behind it.
fn insert_target(lexer: &mut Lexer<'_>, names: &mut impl Names) -> bool {
    if !lexer.next().is_some_and(|token| token.is_word(b"INTO")) {
        return false;
    }
    loop {
        let is_fine = match lexer.next() {
            Some(Token::Word(name)) => !is_temporary(name) && are_harmless(name, false, names),
            Some(Token::Quoted(name)) => !is_temporary(name) && are_harmless(name, true, names),
            _ => false,
        };
        if !is_fine {
            return false;
        }
        match lexer.peek() {
            Some(Token::Symbol(b'.' | b'(')) if lexer.next() == Some(Token::Symbol(b'.')) => {}
            _ => return true,
        }
    }
}

fn is_fine_word(word: &[u8], before: Option<Token<'_>>, lexer: &Lexer<'_>, names: &mut impl Names) -> bool {
    let known = meaning(word);
    let is_behind_dot = before == Some(Token::Symbol(b'.'));
    let is_fine = match known {
        // INTO in the middle of a statement makes a table; PREPARED, below, ends a prepared transaction.
        Some(Meaning::Into | Meaning::SettingsView) => false,
        Some(Meaning::Scanned) if reads_only(word) => true,
        Some(Meaning::Asks | Meaning::RunsText | Meaning::Scanned) => !is_called(lexer) && !is_behind_dot,
        Some(Meaning::Harmless) => true,
        Some(Meaning::Reserved | Meaning::Grammar | Meaning::Introduces) => {
            !(is_called(lexer) && is_behind_dot)
        }
        Some(Meaning::Update) | None => !is_called(lexer),
    };
    is_fine
        && !is_temporary(word)
        && ![&b"PREPARED"[..], b"UESCAPE"].iter().any(|other| word.eq_ignore_ascii_case(other))
        && are_harmless(word, false, names)
}

/// Functions that are scanned for the names in their arguments, and change nothing.
fn reads_only(function: &[u8]) -> bool {
    [&b"current_setting"[..], b"currval", b"lastval"].iter().any(|name| function.eq_ignore_ascii_case(name))
}

/// Whether no code of users runs where an object of this name is used.
fn are_harmless(name: &[u8], is_quoted: bool, names: &mut impl Names) -> bool {
    if !name.is_ascii() && name.len() > BEYOND_ASCII_BYTES_MAX {
        return false;
    }
    let effects = with_folded(name, is_quoted, |name| names.effects(name));
    effects.without(Effects::RUNS).is_none()
}

fn is_called(lexer: &Lexer<'_>) -> bool {
    lexer.peek() == Some(Token::Symbol(b'('))
}

fn is_temporary(name: &[u8]) -> bool {
    super::starts(name, b"pg_temp") || super::starts(name, b"freehold_")
}

/// `'a'` with `'b'` in the next line.
pub(in crate::session::scan) fn goes_on(text: &[u8]) -> bool {
    let quotes = memchr::memchr_iter(b'\'', text).count();
    quotes != 2 * memchr::memmem::find_iter(text, b"''").count()
}

/// `U&'...'`
fn is_prefixed(sql: &[u8], text: &[u8]) -> bool {
    let start = (text.as_ptr() as usize).wrapping_sub(sql.as_ptr() as usize);
    start.checked_sub(2).and_then(|at| sql.get(at)) == Some(&b'&')
}

#[cfg(test)]
mod tests {
    use super::super::effects::Unknown;
    use super::*;

    fn proven(sql: &str) -> bool {
        is_proven(sql.as_bytes(), &mut Unknown)
    }

    #[test]
    fn what_services_send_is_proven() {
        for sql in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
            "select \"u\".\"id\", count(*) from \"public\".\"users\" as \"u\" group by 1 limit 10",
            "INSERT INTO t (a, b) VALUES ($1, $2), ($3, 'it''s') ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING a",
            "insert into public.\"T\" values (now(), lower('X'))",
            "UPDATE t SET a = a + 1, b = coalesce(b, 'x') WHERE id IN (1, 2, 3)",
            "DELETE FROM t USING u WHERE t.id = u.id /* app:web */",
            "WITH a AS (SELECT 1 AS x) SELECT x::text FROM a ORDER BY x DESC",
            "BEGIN",
            "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE",
            "COMMIT;",
            "SAVEPOINT a",
            "SELECT 1 -- the last word",
            "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = $1",
            "SELECT * FROM t WHERE tenant = current_setting('app.tenant')::int AND id = currval('t_id_seq')",
        ] {
            assert!(proven(sql), "{sql}");
        }
    }

    #[test]
    fn what_could_be_read_in_another_way_or_does_more_is_not() {
        for sql in [
            "SELECT 'poison' AS v, 1 AS insert INTO TEMP orders",
            "SELECT (1) insert INTO orders",
            "WITH a AS (SELECT 1) SELECT (1) insert INTO orders",
            "SELECT 1 INTO orders",
            "SELECT 1; SELECT 2",
            "SELECT f(1)",
            "SELECT s.f(1)",
            "SELECT \"lower\"('X')",
            "SELECT x.set_config FROM x",
            "SELECT set_config('a.b', '1', false)",
            "SELECT pg_advisory_lock(1)",
            "SELECT query_to_xml('select 1', true, true, '')",
            "SELECT U&\"set!005fconfig\" UESCAPE '!'('a', 'b', false)",
            "SELECT U&'a'",
            "SELECT 'a'\n'b'",
            "SELECT E'\\''",
            "SELECT '\\'",
            "SELECT $$a$$, 1",
            "SELECT $a$x$a$",
            "SELECT $1, $x$y$x$",
            "SET a.b = 1",
            "DO $$ BEGIN END $$",
            "CALL p()",
            "COPY t FROM STDIN",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "EXPLAIN ANALYZE SELECT 1",
            "FETCH ALL FROM c",
            "EXECUTE p",
            "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
            "INSERT INTO pg_temp.t VALUES (1)",
            "UPDATE pg_settings SET setting = '1'",
            "SELECT * FROM freehold_1",
            "INSERT INTO tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttté VALUES (1)",
            "(SELECT 1)",
            "",
        ] {
            assert!(!proven(sql), "{sql}");
        }
    }
}
