//! The cursor over tokens: what a production can read, and the errors that say what was expected.

use std::ops::Range;
use std::time::Duration;

use crate::admin::SyntaxError;
use crate::admin::statement::Secret;
use crate::admin::token::{Kind, Token, tokens};
use crate::config::closest;
use crate::model::NameError;

pub(in crate::admin) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// No error shows what was found: it may be a password in the wrong place.
    is_discreet: bool,
    /// Where secrets stand in the text.
    secrets: Vec<Range<usize>>,
}

const END: Token = Token { kind: Kind::End, span: 0..0 };

impl Parser {
    pub(in crate::admin) fn new(text: &str) -> Result<Parser, SyntaxError> {
        Ok(Parser { tokens: tokens(text)?, at: 0, is_discreet: false, secrets: Vec::new() })
    }

    fn token(&self) -> &Token {
        self.tokens.get(self.at).or_else(|| self.tokens.last()).unwrap_or(&END)
    }

    /// The unquoted word at the cursor, in upper case.
    pub(in crate::admin) fn word(&self) -> Option<String> {
        self.word_ahead(0)
    }

    pub(in crate::admin) fn word_ahead(&self, ahead: usize) -> Option<String> {
        match &self.tokens.get(self.at + ahead)?.kind {
            Kind::Word(word) => Some(word.to_uppercase()),
            _ => None,
        }
    }

    /// Behind the token at the cursor is a name, and no keyword of the clauses that may come.
    pub(in crate::admin) fn name_follows(&self) -> bool {
        match self.tokens.get(self.at + 1).map(|token| &token.kind) {
            Some(Kind::Quoted(_)) => true,
            Some(Kind::Word(word)) => !word.eq_ignore_ascii_case("SINCE"),
            _ => false,
        }
    }

    pub(in crate::admin) fn span(&self) -> Range<usize> {
        self.token().span.clone()
    }

    pub(in crate::admin) fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    pub(in crate::admin) fn at_end_of_input(&self) -> bool {
        self.token().kind == Kind::End
    }

    pub(in crate::admin) fn at_end_of_statement(&self) -> bool {
        matches!(self.token().kind, Kind::End | Kind::Symbol(';'))
    }

    pub(in crate::admin) fn accept_symbol(&mut self, symbol: char) -> bool {
        let found = self.token().kind == Kind::Symbol(symbol);
        if found {
            self.advance();
        }
        found
    }

    pub(in crate::admin) fn accept(&mut self, keyword: &str) -> bool {
        let found = self.word().as_deref() == Some(keyword);
        if found {
            self.advance();
        }
        found
    }

    /// The position of the cursor: for [`Parser::words_from`].
    pub(in crate::admin) fn place(&self) -> usize {
        self.at
    }

    /// The run of unquoted words that starts at a position, in upper case.
    pub(in crate::admin) fn words_from(&self, place: usize) -> Vec<String> {
        let words = self.tokens.iter().skip(place).map_while(|token| match &token.kind {
            Kind::Word(word) => Some(word.to_uppercase()),
            _ => None,
        });
        words.collect()
    }

    /// The unquoted words up to the end of the statement, in upper case.
    pub(in crate::admin) fn words_left(&self) -> Vec<String> {
        let left = self.tokens.iter().skip(self.at);
        let statement = left.take_while(|token| !matches!(token.kind, Kind::End | Kind::Symbol(';')));
        let words = statement.filter_map(|token| match &token.kind {
            Kind::Word(word) => Some(word.to_uppercase()),
            _ => None,
        });
        words.collect()
    }

    pub(in crate::admin) fn accept_any(&mut self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.accept(keyword))
    }

    pub(in crate::admin) fn expect(&mut self, keyword: &'static str) -> Result<(), SyntaxError> {
        self.one_of(&[keyword]).map(|_| ())
    }

    /// Reads one of these keywords.
    pub(in crate::admin) fn one_of(
        &mut self,
        keywords: &[&'static str],
    ) -> Result<&'static str, SyntaxError> {
        let word = self.word();
        match word.and_then(|word| keywords.iter().copied().find(|keyword| *keyword == word)) {
            Some(keyword) => {
                self.advance();
                Ok(keyword)
            }
            None => Err(self.expected_keyword(keywords)),
        }
    }

    fn expected_keyword(&self, keywords: &[&'static str]) -> SyntaxError {
        let error = self.expected(&listed(keywords));
        match self.word().and_then(|word| closest(&word, keywords.iter().copied())) {
            Some(meant) => error.with_hint(format!("Did you mean {meant}?")),
            None => error,
        }
    }

    /// An error: what was expected here, and what was found.
    pub(in crate::admin) fn expected(&self, what: &str) -> SyntaxError {
        let found = match &self.token().kind {
            Kind::End => "the end of the command".to_owned(),
            _ if self.is_discreet => "something else".to_owned(),
            Kind::Word(word) => format!("\"{word}\""),
            Kind::Quoted(name) => format!("\"{name}\""),
            Kind::Text(text) => format!("'{text}'"),
            Kind::Number(number) => number.clone(),
            Kind::Symbol(symbol) => format!("\"{symbol}\""),
        };
        SyntaxError::new(self.span(), format!("expected {what}, found {found}"))
    }

    /// From here on, errors do not show what was found.
    pub(in crate::admin) fn be_discreet(&mut self) {
        self.is_discreet = true;
    }

    /// `'text'` that is shown nowhere, and its place.
    pub(in crate::admin) fn secret(&mut self, what: &str) -> Result<(Secret, Range<usize>), SyntaxError> {
        let span = self.span();
        let secret = Secret::new(self.text(what)?);
        self.secrets.push(span.clone());
        Ok((secret, span))
    }

    /// A part of the text, with secrets replaced.
    pub(in crate::admin) fn shown(&self, text: &str, part: Range<usize>) -> String {
        let (mut shown, mut at) = (String::new(), part.start);
        for secret in self.secrets.iter().filter(|secret| part.contains(&secret.start)) {
            shown.push_str(text.get(at..secret.start).unwrap_or(""));
            shown.push_str("'***'");
            at = secret.end;
        }
        shown.push_str(text.get(at..part.end).unwrap_or(""));
        shown.trim_end().to_owned()
    }

    pub(in crate::admin) fn end_of_statement(&mut self) -> Result<(), SyntaxError> {
        match self.at_end_of_statement() {
            true => Ok(()),
            false => Err(self.expected("the end of the command")),
        }
    }

    /// Ignores everything up to the end of the statement.
    pub(in crate::admin) fn skip_statement(&mut self) {
        while !self.at_end_of_statement() {
            self.advance();
        }
    }

    /// An identifier. Unquoted ones are folded to lower case, as in PostgreSQL.
    pub(in crate::admin) fn identifier(&mut self, what: &str) -> Result<(String, Range<usize>), SyntaxError> {
        let span = self.span();
        let name = match &self.token().kind {
            Kind::Word(word) => word.to_lowercase(),
            Kind::Quoted(name) => name.clone(),
            _ => return Err(self.expected(what)),
        };
        self.advance();
        Ok((name, span))
    }

    /// A validated name.
    pub(in crate::admin) fn name<T>(
        &mut self,
        what: &str,
        parse: impl Fn(&str) -> Result<T, NameError>,
    ) -> Result<T, SyntaxError> {
        let (name, span) = self.identifier(what)?;
        parse(&name).map_err(|error| SyntaxError::new(span, error.to_string()).of_name())
    }

    /// `'text'`
    pub(in crate::admin) fn text(&mut self, what: &str) -> Result<String, SyntaxError> {
        let Kind::Text(text) = &self.token().kind else {
            let error = self.expected(&format!("{what} in single quotes"));
            return Err(match &self.token().kind {
                _ if self.is_discreet => error,
                Kind::Word(word) => error.with_hint(format!("Write '{word}'.")),
                Kind::Quoted(word) => {
                    error.with_hint(format!("Write '{word}': double quotes are for names."))
                }
                _ => error,
            });
        };
        let text = text.clone();
        self.advance();
        Ok(text)
    }

    /// `'text'` or an identifier, such as a role or a mode.
    pub(in crate::admin) fn text_or_identifier(
        &mut self,
        what: &str,
    ) -> Result<(String, Range<usize>), SyntaxError> {
        let span = self.span();
        match &self.token().kind {
            Kind::Text(text) => {
                let text = text.clone();
                self.advance();
                Ok((text, span))
            }
            _ => self.identifier(what),
        }
    }

    pub(in crate::admin) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, SyntaxError> {
        let Kind::Number(number) = &self.token().kind else {
            return Err(self.expected(what));
        };
        match number.parse() {
            Ok(number) => {
                self.advance();
                Ok(number)
            }
            Err(_) => Err(self.expected(what)),
        }
    }

    /// `'500ms'`
    pub(in crate::admin) fn duration(&mut self, what: &str) -> Result<Duration, SyntaxError> {
        let span = self.span();
        let text = self.text(what)?;
        humantime::parse_duration(&text).map_err(|_| {
            SyntaxError::new(span, format!("'{text}' is not a duration"))
                .with_hint("Write a number with its unit: '500ms', '2s'.")
        })
    }

    /// Clauses in any order, each at most once, up to the end of the statement.
    pub(in crate::admin) fn clauses(
        &mut self,
        allowed: &[&'static str],
        mut clause: impl FnMut(&mut Parser, &'static str) -> Result<(), SyntaxError>,
    ) -> Result<(), SyntaxError> {
        let mut seen: Vec<&str> = Vec::new();
        while !self.at_end_of_statement() {
            let span = self.span();
            let keyword = self.one_of(allowed)?;
            if seen.contains(&keyword) {
                return Err(SyntaxError::new(span, format!("{keyword} is given twice")));
            }
            seen.push(keyword);
            clause(self, keyword)?;
        }
        Ok(())
    }
}

/// `A, B or C`
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
