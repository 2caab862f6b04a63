//! The fast path to a verdict: for a text that calls only harmless built-in functions, in a database with
//! harmless names only.
//!
//! # Why
//! Nearly all texts are of this kind, and cutting each into tokens would cost more than all other work for a
//! query. Each byte is read once, and every byte counts as code: the content of a literal or a comment can
//! only make a text look worse. What could make it look better (a comment between a name and its parenthesis,
//! a quoted name) ends the fast path, and [`super::read()`] cuts tokens.

use super::effects::Effects;
use super::lexer::{Backslashes, Lexer, Token, is_name_byte, is_space};
use super::words::{Meaning, meaning};
use super::{StatementEffect, effect_of, proof, starts};

/// How many bytes are searched together: a compiler turns that into a few vector instructions.
const STRIDE: usize = 32;

/// The bytes of the longest mark, `into`, behind its first one.
const AHEAD: usize = 3;

/// The effects of a text that is harmless in all that is built in. `None`: it has to be read by its tokens.
pub(crate) fn screen(sql: &[u8]) -> Option<Effects> {
    let (effects, from) = match sql {
        // Nearly all texts.
        [b'S', b'E', b'L', b'E', b'C', b'T', b' ', ..] | [b's', b'e', b'l', b'e', b'c', b't', b' ', ..] => {
            (Effects::RUNS, b"SELECT ".len())
        }
        _ => first_words(sql)?,
    };
    // The end of the only statement needs no look of its own.
    let sql = sql.trim_ascii_end();
    let sql = sql.strip_suffix(b";").unwrap_or(sql);
    let mut at = from;
    while at < sql.len() {
        let mut padded = [0; STRIDE + AHEAD];
        let block = sql[at..].first_chunk().unwrap_or_else(|| {
            padded[..sql.len() - at].copy_from_slice(&sql[at..]);
            &padded
        });
        if has_mark(block) {
            let end = sql.len().min(at + STRIDE);
            if (at..end).any(|at| is_mark(&sql[at..]) && !is_fine(sql, at)) {
                return None;
            }
        }
        at += STRIDE;
    }
    Some(effects)
}

/// Whether one of the first [`STRIDE`] bytes begins a mark.
#[inline]
fn has_mark(block: &[u8; STRIDE + AHEAD]) -> bool {
    // Without branches, so that it can be done for many bytes at once.
    (0..STRIDE)
        .fold(0, |found, at| found | u8::from(begins_mark(&[0, 1, 2, 3].map(|behind| block[at + behind]))))
        != 0
}

/// Whether the text begins with something that has to be checked.
fn is_mark(text: &[u8]) -> bool {
    begins_mark(&[0, 1, 2, 3].map(|at| text.get(at).copied().unwrap_or_default()))
}

/// A parenthesis, a dot, the end of a statement, a quoted name, a comment, `pg_` as in `pg_temp` and
/// `pg_settings`, `into`.
#[inline(always)]
fn begins_mark(&[a, b, c, d]: &[u8; 4]) -> bool {
    let is = |byte: u8, letter: u8| byte | 0x20 == letter;
    (a == b'(')
        | (a == b'.')
        | (a == b';')
        | (a == b'"')
        | ((a == b'-') & (b == b'-'))
        | ((a == b'/') & (b == b'*'))
        | (is(a, b'p') & is(b, b'g') & (c == b'_'))
        | (is(a, b'i') & is(b, b'n') & is(c, b't') & is(d, b'o'))
}

/// The effects of the verb, and where its operands begin; the table that an INSERT fills belongs to the verb.
fn first_words(sql: &[u8]) -> Option<(Effects, usize)> {
    let mut lexer = Lexer::new(sql, Backslashes::Literal);
    let Some(Token::Word(verb)) = lexer.next() else { return None };
    // Other verbs are never proven.
    if !proof::is_verb(verb) {
        return None;
    }
    let effects = match effect_of(verb) {
        StatementEffect::None => Effects::NONE,
        StatementEffect::Runs => Effects::RUNS,
        StatementEffect::Changes => return None,
    };
    let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
    // COMMIT PREPARED runs nothing now, but changes definitions.
    if [&b"COMMIT"[..], b"ROLLBACK"].iter().any(|known| is(known)) && !ends_plainly(lexer) {
        return None;
    }
    if is(b"INSERT") {
        lexer.next().filter(|token| token.is_word(b"INTO"))?;
        table_name(&mut lexer)?;
    }
    Some((effects, lexer.offset()))
}

/// Whether the statement is not COMMIT PREPARED or ROLLBACK PREPARED.
fn ends_plainly(mut lexer: Lexer<'_>) -> bool {
    lexer.all(|token| !token.is_word(b"PREPARED"))
}

/// `name` or `schema.name`, with the parenthesis behind it.
fn table_name(lexer: &mut Lexer<'_>) -> Option<()> {
    loop {
        let Some(Token::Word(name)) = lexer.next() else { return None };
        if meaning(name).is_some_and(|word| word != Meaning::Harmless) || starts(name, b"pg_temp") {
            return None;
        }
        match lexer.peek() {
            Some(Token::Symbol(b'.')) => lexer.next(),
            Some(Token::Symbol(b'(')) => {
                lexer.next();
                return Some(());
            }
            _ => return Some(()),
        };
    }
}

/// Whether the mark at `at` needs no reading by tokens.
fn is_fine(sql: &[u8], at: usize) -> bool {
    let before = &sql[..at];
    let after = &sql[at + 1..];
    match sql[at] {
        b'(' => is_no_call(before),
        // A function may be called in the notation of a column.
        b'.' => {
            let start = after.iter().position(|&byte| !is_space(byte)).unwrap_or(after.len());
            let length =
                after[start..].iter().position(|&byte| !is_name_byte(byte)).unwrap_or(after.len() - start);
            !matches!(
                meaning(&after[start..start + length]),
                Some(Meaning::Asks | Meaning::RunsText | Meaning::Scanned)
            )
        }
        // Not the word INTO, but a part of another one.
        b'i' | b'I' => before.last().is_some_and(|&byte| is_name_byte(byte)),
        _ => false,
    }
}

/// Whether the parenthesis follows no name, or the name of something harmless.
fn is_no_call(before: &[u8]) -> bool {
    let end = before.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    let start = before[..end].iter().rposition(|&byte| !is_name_byte(byte)).map_or(0, |last| last + 1);
    let word = &before[start..end];
    // After a dot every word is a name.
    let is_qualified = || before[..start].iter().rfind(|&&byte| !is_space(byte)) == Some(&b'.');
    match meaning(word) {
        Some(Meaning::Harmless) => true,
        Some(Meaning::Grammar | Meaning::Reserved | Meaning::Introduces) => !is_qualified(),
        _ => word.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_lies() {
        for mark in [
            "unknown(1)",
            "a.set_config",
            "x; y",
            "\"x\"",
            "-- x",
            "/* x",
            "pg_temp",
            "PG_x",
            "into t",
            "InTo t",
        ] {
            for padding in 0..3 * STRIDE {
                for end in ["", ";", " ; ", &" ".repeat(STRIDE)] {
                    let sql = format!("SELECT {} {mark}{end}", "1".repeat(padding));
                    assert_eq!(screen(sql.as_bytes()), None, "{sql}");
                }
            }
        }
    }

    #[test]
    fn what_only_begins_like_a_mark_is_fine_wherever_it_lies() {
        for text in ["count(*)", "t.a", "a - -1 / 2", "pg", "pint, x_into_y, xinto", "1;", "1 ;\n "] {
            for padding in 0..3 * STRIDE {
                let sql = format!("SELECT {} {text}", "1".repeat(padding));
                assert_eq!(screen(sql.as_bytes()), Some(Effects::RUNS), "{sql}");
            }
        }
    }
}
