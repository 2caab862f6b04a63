//! Text for a terminal or a log, without control characters.
//!
//! # Why
//! Names come from unauthenticated clients: the role of a startup packet is logged before any authentication.
//! An escape sequence in it could clear the screen of a reader of the log, a line break could forge the next
//! entry, and a bidirectional control character could show a misleading text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that a terminal interprets instead of showing them.
pub(super) fn is_command(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// One line: `\n`, `\u{1b}` replace such characters.
pub fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_command, |out, letter| out.extend(letter.escape_default()))
}

/// As [`one_line`], but keeps line breaks.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |letter| letter != '\n' && is_command(letter),
        |out, letter| out.extend(letter.escape_default()),
    )
}

/// A JSON text, in which such characters can only be inside strings.
pub fn json(text: &str) -> Cow<'_, str> {
    let escape = |out: &mut String, letter: char| {
        let _ = write!(out, "\\u{:04x}", u32::from(letter));
    };
    replaced(text, |letter| letter != '\n' && is_command(letter), escape)
}

fn replaced(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replace: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.chars().any(&is_replaced) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_replaced(letter) {
            true => replace(&mut out, letter),
            false => out.push(letter),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(one_line("a\u{1b}[2Jb\r\nc\u{9b}\u{202e}d"), "a\\u{1b}[2Jb\\r\\nc\\u{9b}\\u{202e}d");
        assert_eq!(lines("one\ntwo\u{7}"), "one\ntwo\\u{7}");
        assert_eq!(json("{\"a\":\"\u{9b}\u{7f}\"}"), "{\"a\":\"\\u009b\\u007f\"}");
        assert!(matches!(one_line("größer, 価格 \"x\""), Cow::Borrowed(_)));
    }
}
