//! Admin SQL as tokens: words, quoted identifiers, strings, numbers, symbols, each with its span.

use std::ops::Range;

use crate::admin::SyntaxError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) enum Kind {
    /// An unquoted word as it was written. It may contain `-` (`pg-17`): there is no arithmetic here.
    Word(String),
    /// `"Name"`, without the quotes.
    Quoted(String),
    /// `'text'`, without the quotes.
    Text(String),
    Number(String),
    Symbol(char),
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Token {
    pub(in crate::admin) kind: Kind,
    /// Byte range in the statement.
    pub(in crate::admin) span: Range<usize>,
}

/// Splits a text into tokens; the last is [`Kind::End`].
pub(in crate::admin) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut scanner = Scanner { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        scanner.skip_blank()?;
        let start = scanner.at;
        let kind = scanner.token()?;
        let done = kind == Kind::End;
        tokens.push(Token { kind, span: start..scanner.at });
        if done {
            return Ok(tokens);
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            if self.rest().starts_with("--") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                self.skip_comment()?;
            } else if self.peek().is_some_and(|c| c.is_whitespace() || c == '\0') {
                self.bump();
            } else {
                return Ok(());
            }
        }
    }

    /// Skips a comment; comments nest, as in PostgreSQL.
    fn skip_comment(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let mut depth = 0_u32;
        loop {
            if self.rest().starts_with("/*") {
                self.at += 2;
                depth += 1;
            } else if self.rest().starts_with("*/") {
                self.at += 2;
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else if self.bump().is_none() {
                return Err(
                    SyntaxError::new(start..self.at, "unterminated comment").with_hint("Close it with */.")
                );
            }
        }
    }

    fn token(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.at;
        let Some(first) = self.bump() else { return Ok(Kind::End) };
        match first {
            '\'' => self.quoted('\'', start).map(Kind::Text),
            '"' => self.quoted('"', start).map(Kind::Quoted),
            c if c.is_ascii_digit() => {
                Ok(Kind::Number(self.take_while(start, |c| c.is_ascii_digit() || c == '.')))
            }
            c if c.is_alphabetic() || c == '_' => Ok(Kind::Word(self.word(start))),
            c => Ok(Kind::Symbol(c)),
        }
    }

    fn take_while(&mut self, start: usize, belongs: impl Fn(char) -> bool) -> String {
        while self.peek().is_some_and(&belongs) {
            self.bump();
        }
        self.text.get(start..self.at).unwrap_or("").to_owned()
    }

    fn word(&mut self, start: usize) -> String {
        loop {
            self.take_while(start, |c| c.is_alphanumeric() || c == '_' || c == '$');
            let mut ahead = self.rest().chars();
            let dash = ahead.next() == Some('-') && ahead.next().is_some_and(char::is_alphanumeric);
            if !dash {
                return self.text.get(start..self.at).unwrap_or("").to_owned();
            }
            self.bump();
        }
    }

    /// Reads up to the closing quote; a doubled quote stands for one.
    fn quoted(&mut self, quote: char, start: usize) -> Result<String, SyntaxError> {
        let mut value = String::new();
        loop {
            match self.bump() {
                Some(c) if c == quote && self.peek() == Some(quote) => {
                    self.bump();
                    value.push(quote);
                }
                Some(c) if c == quote => return Ok(value),
                Some(c) => value.push(c),
                None => {
                    let what = if quote == '"' { "identifier" } else { "string" };
                    let error = SyntaxError::new(start..self.at, format!("unterminated quoted {what}"));
                    return Err(error.with_hint(format!("Close it with {quote}.")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text).unwrap().into_iter().map(|token| token.kind).collect()
    }

    fn word(text: &str) -> Kind {
        Kind::Word(text.to_owned())
    }

    #[test]
    fn words_strings_numbers_and_symbols_are_told_apart() {
        let expected = vec![
            word("MOVE"),
            Kind::Quoted("Shop \"x\"".to_owned()),
            Kind::Text("it's".to_owned()),
            Kind::Number("12".to_owned()),
            Kind::Symbol(';'),
            Kind::End,
        ];
        assert_eq!(kinds("MOVE \"Shop \"\"x\"\"\" 'it''s' 12;"), expected);
    }

    #[test]
    fn comments_are_blank_and_nest() {
        assert_eq!(kinds("a -- b\n/* c /* d */ e */ f"), vec![word("a"), word("f"), Kind::End]);
    }

    #[test]
    fn a_dash_belongs_to_a_word_but_two_begin_a_comment() {
        assert_eq!(kinds("pg-17"), vec![word("pg-17"), Kind::End]);
        assert_eq!(kinds("pg--17"), vec![word("pg"), Kind::End]);
    }

    #[test]
    fn what_is_not_closed_is_pointed_at() {
        assert_eq!(tokens("a 'b").unwrap_err().span, 2..4);
        assert_eq!(tokens("a \"b").unwrap_err().span, 2..4);
        assert_eq!(tokens("a /* b").unwrap_err().span, 2..6);
    }
}
