//! The cure of a finding: text to be pasted into `psql`, mostly by a superuser.
//!
//! Owns the form of such a text: each line is a comment, or one whole statement with at most a comment behind
//! it. It deliberately does not know which cure belongs to which finding.
//!
//! # Why
//! Cures name objects of users, and a name in PostgreSQL may contain any character except zero. In a comment,
//! a line break in a name would begin a line that PostgreSQL runs with the privileges of the user that pastes
//! it (`pg_dump` replaces it by a space for the same reason). So a [`Cure`] can only be built from typed
//! parts. A comment is written as by [`printable::one_line`]: `\n` is shown as a backslash and an n. A
//! statement is parsed as `psql` parses it, and unsafe characters between its quotes are written with
//! PostgreSQL's own escapes (`U&"x\000a"`, `E'x\n'`): it means the same, in one line. A text that `psql`
//! would not take as exactly one statement, whatever the settings of the database, becomes a comment.

use std::fmt::{self, Write as _};
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::printable;

/// Lines that are comments or statements. Stored as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cure(String);

impl Cure {
    /// One comment line; `text` is without the dashes.
    pub fn comment(text: impl AsRef<str>) -> Cure {
        Cure(String::new()).and_comment(text)
    }

    /// One statement, with its semicolon. Names and values are quoted by the caller.
    pub fn sql(statement: impl AsRef<str>) -> Cure {
        Cure(String::new()).and_sql(statement)
    }

    /// One statement per line.
    pub fn statements(each: impl IntoIterator<Item = String>) -> Cure {
        each.into_iter().fold(Cure(String::new()), Cure::and_sql)
    }

    /// A shell command: words of letters, digits, `.`, `_` and `-`.
    pub fn command(line: &str) -> Cure {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || " ._-".contains(letter);
        match line.chars().all(is_plain) && !line.starts_with('-') {
            true => Cure(line.to_owned()),
            false => Cure::comment(line),
        }
    }

    pub fn and_comment(mut self, text: impl AsRef<str>) -> Cure {
        self.begin_line();
        self.0.push_str("--");
        self.push_words(text.as_ref());
        self
    }

    pub fn and_sql(mut self, statement: impl AsRef<str>) -> Cure {
        match one_statement(statement.as_ref()) {
            Some(statement) => {
                self.begin_line();
                self.0.push_str(&statement);
                self
            }
            None => self.and_comment("not to be pasted as it is:").and_comment(statement),
        }
    }

    /// A statement that the operator has to decide on: a comment, which is complete once the dashes are
    /// removed.
    pub fn and_perhaps(self, statement: impl AsRef<str>) -> Cure {
        let statement = statement.as_ref();
        self.and_comment(one_statement(statement).unwrap_or_else(|| statement.to_owned()))
    }

    /// Statements that lose something permanently, or that are right only in some cases: comments, below the
    /// decision to make.
    pub fn to_decide(decision: impl AsRef<str>, each: impl IntoIterator<Item = String>) -> Cure {
        each.into_iter().fold(Cure::comment(decision), Cure::and_perhaps)
    }

    /// Adds a comment at the end of the last line.
    pub fn remark(mut self, text: impl AsRef<str>) -> Cure {
        self.0.push_str(" --");
        self.push_words(text.as_ref());
        self
    }

    pub fn and(mut self, other: impl Into<Cure>) -> Cure {
        self.begin_line();
        self.0.push_str(&other.into().0);
        self
    }

    fn begin_line(&mut self) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
    }

    fn push_words(&mut self, text: &str) {
        if !text.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(&printable::one_line(text));
    }
}

/// One statement, as [`Cure::sql`].
impl From<String> for Cure {
    fn from(statement: String) -> Cure {
        Cure::sql(statement)
    }
}

impl From<&str> for Cure {
    fn from(statement: &str) -> Cure {
        Cure::sql(statement)
    }
}

impl Deref for Cure {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The statement in one printable line that means the same whatever `standard_conforming_strings` says;
/// `None` if it is not exactly one statement with its semicolon, or contains what `psql` interprets: a
/// backslash, a variable. Manual chapter 4.1, and "Meta-Commands" and "Variables" of `psql`.
fn one_statement(sql: &str) -> Option<String> {
    let mut out = String::with_capacity(sql.len() + 16);
    let mut rest = sql.trim();
    let mut depth = 0_usize;
    while let Some(letter) = rest.chars().next() {
        let after = rest.get(letter.len_utf8()..)?;
        let next = after.chars().next();
        rest = match letter {
            '"' => quoted_name(after, &mut out)?,
            '\'' => literal(after, &mut out)?,
            '$' => dollar_quoted(rest, &mut out)?,
            ';' => {
                out.push(';');
                return (depth == 0 && after.is_empty()).then_some(out);
            }
            '\\' => return None,
            '-' if next == Some('-') => return None,
            '/' if next == Some('*') => return None,
            ':' if matches!(next, Some(':' | '=')) => {
                out.push_str(rest.get(..2)?);
                rest.get(2..)?
            }
            ':' if next.is_some_and(begins_variable) => return None,
            '\n' | '\t' => {
                out.push(' ');
                after
            }
            _ if printable::is_command(letter) => return None,
            _ => {
                match letter {
                    '(' => depth += 1,
                    ')' => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                out.push(letter);
                after
            }
        };
    }
    None
}

/// Whether a letter after a colon begins a variable of `psql`; a number does not.
fn begins_variable(letter: char) -> bool {
    letter.is_ascii_alphabetic() || matches!(letter, '_' | '\'' | '"' | '{') || !letter.is_ascii()
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii()
}

/// The text up to its closing quote, doubled quotes left doubled, and the rest.
fn up_to(quote: char, text: &str, escapes: bool) -> Option<(&str, &str)> {
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let is_doubled = letter == quote && letters.peek().is_some_and(|(_, next)| *next == quote);
        if is_doubled || escapes && letter == '\\' {
            letters.next();
        } else if letter == quote {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
    }
    None
}

/// Parses a name after its opening quote.
fn quoted_name<'a>(text: &'a str, out: &mut String) -> Option<&'a str> {
    let (name, rest) = up_to('"', text, false)?;
    // `U&` before it would give its backslashes a meaning.
    if out.ends_with('&') {
        return None;
    }
    match name.chars().any(printable::is_command) {
        false => {
            let _ = write!(out, "\"{name}\"");
        }
        true => {
            out.push_str("U&\"");
            for letter in name.chars() {
                match letter {
                    '\\' => out.push_str("\\\\"),
                    letter if printable::is_command(letter) => {
                        let _ = write!(out, "\\{:04x}", u32::from(letter));
                    }
                    letter => out.push(letter),
                }
            }
            out.push('"');
        }
    }
    Some(rest)
}

/// Parses a string after its opening quote.
fn literal<'a>(text: &'a str, out: &mut String) -> Option<&'a str> {
    let word: String = out.chars().rev().take_while(|letter| is_of_name(*letter)).collect();
    let has_escapes = word.eq_ignore_ascii_case("e");
    let (body, rest) = up_to('\'', text, has_escapes)?;
    let is_plain = !body.contains('\\') && !body.chars().any(printable::is_command);
    if is_plain && !out.ends_with('&') {
        let _ = write!(out, "'{body}'");
        return Some(rest);
    }
    match (has_escapes, word.is_empty() && !out.ends_with('&')) {
        (true, _) => out.push('\''),
        (false, true) => out.push_str(" E'"),
        (false, false) => return None,
    }
    for letter in body.chars() {
        match letter {
            '\\' if !has_escapes => out.push_str("\\\\"),
            letter if printable::is_command(letter) => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('\'');
    Some(rest)
}

/// Parses from the first dollar on. The text has no escapes, so it must be printable as it is.
fn dollar_quoted<'a>(text: &'a str, out: &mut String) -> Option<&'a str> {
    let is_parameter = text.chars().nth(1).is_some_and(|letter| letter.is_ascii_digit());
    if is_parameter || out.chars().next_back().is_some_and(is_of_name) {
        return None;
    }
    let tag_end = text.get(1..)?.find(|letter| !is_of_name(letter) || letter == '$')? + 2;
    let tag = text.get(..tag_end).filter(|tag| tag.ends_with('$'))?;
    let end = text.get(tag_end..)?.find(tag)? + tag_end + tag.len();
    let whole = text.get(..end).filter(|whole| !whole.chars().any(printable::is_command))?;
    out.push_str(whole);
    text.get(end..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "ALTER ROLE app SUPERUSER; --";

    #[test]
    fn a_comment_has_one_line_whatever_stands_in_it() {
        for end in ["\n", "\r", "\r\n", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
            let name = format!("x{end}{LIVE}");
            let cure =
                Cure::comment(&name).and_perhaps(&name).and_comment("").and_sql("SELECT 1;").remark(&name);
            let lines: Vec<&str> = cure.split(|letter: char| letter.is_control()).collect();
            let starts: Vec<&str> = lines.iter().map(|line| line.get(..2).unwrap()).collect();
            assert_eq!(starts, ["--", "--", "--", "SE"], "{cure}");
            assert!(lines.iter().all(|line| !line.starts_with(LIVE)), "{cure}");
        }
    }

    #[test]
    fn a_statement_has_one_line_and_means_the_same() {
        for (given, expected) in [
            ("SELECT \"a\"\"b\",\n 'c''d'::text ;", "SELECT \"a\"\"b\",  'c''d'::text ;"),
            ("DROP TABLE \"x\n\\! y\";", "DROP TABLE U&\"x\\000a\\\\! y\";"),
            ("SELECT pg_drop_replication_slot('a\rb');", "SELECT pg_drop_replication_slot( E'a\\u000db');"),
            // A database may have standard_conforming_strings = off.
            ("SELECT '\\''; DROP ROLE a; --';", "SELECT  E'\\\\''; DROP ROLE a; --';"),
            ("SELECT  E'\\''';' || E'\n';", "SELECT  E'\\''';' || E'\\u000a';"),
            ("DO $$ BEGIN END; $$;", "DO $$ BEGIN END; $$;"),
            ("DO $a$ $$ ; $a$;", "DO $a$ $$ ; $a$;"),
            ("SELECT (ARRAY[1,2])[1:2];", "SELECT (ARRAY[1,2])[1:2];"),
        ] {
            assert_eq!(&*Cure::sql(given), expected);
        }
    }

    #[test]
    fn what_is_not_one_statement_is_a_comment() {
        for text in [
            "",
            "SELECT 1",
            "SELECT 1; ALTER ROLE app SUPERUSER;",
            "SELECT 1; --",
            "SELECT 1 -- ;",
            "SELECT 1 /* ; */;",
            "SELECT \"x;",
            "SELECT 'x;",
            "SELECT E'\\';",
            "SELECT (1;",
            "SELECT 1);",
            "\\! touch x;",
            "SELECT :name;",
            "SELECT :'name';",
            "SELECT :{?name};",
            "SELECT U&'\\0041';",
            "SELECT U&\"\\0041\";",
            "DO $$ x $$ y $$;",
            "DO $a$ x $b$;",
            "SELECT 1$$;$$;",
            "SELECT $1;",
            "SELECT\r1;",
            "DO $$ a\nb $$;",
        ] {
            let cure = Cure::sql(text);
            assert!(cure.lines().count() == 2 && cure.lines().all(|line| line.starts_with("--")), "{cure}");
        }
        assert_eq!(&*Cure::command("apt-get install x"), "apt-get install x");
        assert_eq!(&*Cure::command("a; b"), "-- a; b");
    }
}
