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
use super::{StatementEffect, effect_of, ends, proof, starts};

/// Bytes that may begin or end something that has to be checked.
const LOOKED_AT: [bool; 256] = {
    let mut looked_at = [false; 256];
    let mut at = 0;
    let bytes = b"(;\"-/_nN.";
    while at < bytes.len() {
        looked_at[bytes[at] as usize] = true;
        at += 1;
    }
    looked_at
};

/// The effects of a text that is harmless in all that is built in. `None`: it has to be read by its tokens.
pub(crate) fn screen(sql: &[u8]) -> Option<Effects> {
    let (effects, from) = match sql {
        // Nearly all texts.
        [b'S', b'E', b'L', b'E', b'C', b'T', b' ', ..] | [b's', b'e', b'l', b'e', b'c', b't', b' ', ..] => {
            (Effects::RUNS, b"SELECT ".len())
        }
        _ => first_words(sql)?,
    };
    let rest = sql.get(from..)?;
    for (at, &byte) in rest.iter().enumerate() {
        if LOOKED_AT[byte as usize] && !is_fine(sql, from + at) {
            return None;
        }
    }
    Some(effects)
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

/// Whether the byte at `at` needs no reading by tokens.
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
        b';' => after.iter().all(|&byte| is_space(byte)),
        b'-' => after.first() != Some(&b'-'),
        b'/' => after.first() != Some(&b'*'),
        // pg_temp, pg_settings
        b'_' => !ends(before, b"pg"),
        b'n' | b'N' => {
            let is_into = ends(before, b"i") && starts(after, b"to");
            !is_into || before.get(before.len().wrapping_sub(2)).is_some_and(|&byte| is_name_byte(byte))
        }
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
