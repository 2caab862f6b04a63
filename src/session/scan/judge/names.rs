//! Names as PostgreSQL reads them, and texts that names are put into.

use super::super::lexer::Token;
use super::super::words::WORD_BYTES_MAX;

/// The mark in a template of `format` for a name that is put in.
pub(super) const TEMPLATE_NAME: &[u8] = b"%";

/// A template of `format` as SQL. `None`: it puts in more than names and values.
pub(super) fn template_sql(template: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 && rest.get(digits) == Some(&b'$') {
            rest = &rest[digits + 1..];
        }
        let (kind, after) = rest.split_first()?;
        match kind {
            b'%' => out.push(b'%'),
            b'I' => out.extend_from_slice(b"\"%\""),
            b'L' => out.extend_from_slice(b"''"),
            _ => return None,
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// The content of a literal or of a quoted name without its doubled quotes.
pub(super) fn undoubled(text: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, &[quote, quote]) {
        out.extend_from_slice(&rest[..=at]);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    out
}

/// The name as PostgreSQL folds it, at its full length. `None`: the token is no name, or has escapes.
pub(in crate::session::scan) fn folded(token: Token<'_>) -> Option<Vec<u8>> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase()),
        Token::Quoted(quoted) => Some(undoubled(quoted, b'"')),
        _ => None,
    }
}

/// The name as PostgreSQL folds it, and cuts it to 63 bytes.
pub(in crate::session::scan) fn with_folded<T>(
    written: &[u8],
    is_quoted: bool,
    look: impl FnOnce(&[u8]) -> T,
) -> T {
    if is_quoted && written.windows(2).any(|pair| pair == b"\"\"") {
        return look(cut(&undoubled(written, b'"')));
    }
    let name = cut(written);
    if is_quoted || !name.iter().any(u8::is_ascii_uppercase) {
        return look(name);
    }
    let mut folded = [0; WORD_BYTES_MAX];
    let Some(folded) = folded.get_mut(..name.len()) else { return look(name) };
    folded.copy_from_slice(name);
    folded.make_ascii_lowercase();
    look(folded)
}

/// Truncates an identifier as PostgreSQL does.
pub(in crate::session::scan) fn cut(name: &[u8]) -> &[u8] {
    if name.len() <= WORD_BYTES_MAX {
        return name;
    }
    let cut = &name[..WORD_BYTES_MAX];
    match std::str::from_utf8(cut) {
        Ok(_) => cut,
        Err(error) => &cut[..error.valid_up_to()],
    }
}
