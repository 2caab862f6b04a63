//! Text for a terminal or a log, without what would command it.
//!
//! # Why
//! Names come from strangers: the role of a startup packet is written to the log before anybody has proved anything. An
//! escape sequence in it would clear the screen of whoever reads the log, an end of line would forge the next entry, and a
//! mark that turns the direction of writing shows something else than there is.

use std::borrow::Cow;
use std::fmt::Write as _;

/// What a terminal obeys instead of showing it.
pub(super) fn is_command(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// One line: `\n`, `\u{1b}` stand for what was there.
pub fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_command, |out, letter| out.extend(letter.escape_default()))
}

/// As [`one_line`], but ends of lines stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |letter| letter != '\n' && is_command(letter),
        |out, letter| out.extend(letter.escape_default()),
    )
}

/// A text of JSON, in which such letters can stand inside strings only.
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
