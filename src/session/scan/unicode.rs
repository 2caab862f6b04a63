//! Names in Unicode escapes, `U&"d\0061t\+000061" UESCAPE '\'`, as plain quoted names (manual 4.1.1).

use super::lexer::{Backslashes, Lexer, Token};

/// The same text with each such name as a plain quoted name. A name that PostgreSQL would refuse stays as it
/// is.
pub(crate) fn plain(sql: &[u8], backslashes: Backslashes) -> Vec<u8> {
    let mut lexer = Lexer::new(sql, backslashes);
    let mut out = Vec::with_capacity(sql.len());
    let mut copied = 0;
    loop {
        lexer.skip_blank();
        let start = lexer.offset();
        let Some(token) = lexer.next() else { break };
        let Token::Escaped(raw) = token else { continue };
        let escape = uescape(&mut lexer).unwrap_or(b'\\');
        out.extend_from_slice(&sql[copied..start]);
        put_quoted(&mut out, &decoded(raw, escape));
        copied = lexer.offset();
    }
    out.extend_from_slice(&sql[copied..]);
    out
}

/// `UESCAPE 'c'` after the name; moves the lexer past it.
fn uescape(lexer: &mut Lexer<'_>) -> Option<u8> {
    let mut ahead = *lexer;
    if !ahead.next()?.is_word(b"UESCAPE") {
        return None;
    }
    let Some(Token::Text(&[escape])) = ahead.next() else { return None };
    *lexer = ahead;
    Some(escape)
}

fn put_quoted(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(b" \"");
    for &byte in name {
        out.push(byte);
        if byte == b'"' {
            out.push(byte);
        }
    }
    out.push(b'"');
}

/// The name in UTF-8. `raw` stands between its quotes.
fn decoded(raw: &[u8], escape: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut units = Vec::new();
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        let unit = if byte == escape { unit(after, escape) } else { None };
        if let Some((code, length)) = unit {
            units.push(code);
            rest = &after[length..];
            continue;
        }
        put_units(&mut out, &mut units);
        let (taken, skipped) = match (byte, after.first()) {
            (b'"', Some(b'"')) => (b'"', 2),
            (byte, Some(&next)) if byte == escape && next == escape => (escape, 2),
            (byte, _) => (byte, 1),
        };
        out.push(taken);
        rest = &rest[skipped..];
    }
    put_units(&mut out, &mut units);
    out
}

/// Four hexadecimal digits, or `+` and six; and how many bytes that are.
fn unit(after: &[u8], escape: u8) -> Option<(u32, usize)> {
    let (digits, length) = match after.first()? {
        b'+' => (after.get(1..7)?, 7),
        &byte if byte == escape => return None,
        _ => (after.get(..4)?, 4),
    };
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u32::from_str_radix(digits, 16).ok()?, length))
}

/// Characters above U+FFFF may come as two surrogates.
fn put_units(out: &mut Vec<u8>, units: &mut Vec<u32>) {
    let mut all = units.drain(..).peekable();
    while let Some(unit) = all.next() {
        let code = match (unit, all.peek()) {
            (0xd800..=0xdbff, Some(&low @ 0xdc00..=0xdfff)) => {
                all.next();
                0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            _ => unit,
        };
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_written_plainly_and_nothing_else_changes() {
        let cases = [
            (r#"select U&"set\005fconfig"('a')"#, r#"select  "set_config"('a')"#),
            (r#"u&"d!0061t!+000061" UESCAPE '!' x"#, r#" "data" x"#),
            (r#"u&"\d83d\de00""#, " \"\u{1f600}\""),
            (r#"u&"a""\\b""#, r#" "a""\b""#),
            (r#"u&"\00zz""#, r#" "\00zz""#),
            (r#"select U&'set\005fconfig', "plain""#, r#"select U&'set\005fconfig', "plain""#),
        ];
        for (sql, expected) in cases {
            let found = plain(sql.as_bytes(), Backslashes::Literal);
            assert_eq!(String::from_utf8_lossy(&found), expected, "{sql}");
        }
    }
}
