//! Statements of PL/pgSQL: where they begin, and what EXECUTE runs.
//!
//! Owns what the body of a function or of a DO block has beyond SQL (manual, chapter 43). For a statement
//! that it does not know, the state is asked for.

use super::super::effects::Effects;
use super::super::lexer::{Backslashes, Lexer, Token};
use super::super::proof::goes_on;
use super::super::words::{Meaning, meaning};
use super::names::{template_sql, undoubled};
use super::{Case, DEPTH_MAX, Dialect, Judge, Names};

impl<N: Names> Judge<'_, N> {
    /// Whether a variable is assigned or declared here. The lexer stands after its name.
    pub(super) fn is_assignment(&self, lexer: &Lexer<'_>) -> bool {
        match lexer.peek() {
            Some(Token::Symbol(b':' | b'=' | b'[' | b'.')) => true,
            _ => self.declares,
        }
    }

    /// Reads the first word of a PL/pgSQL statement. `false`: the statement is one of SQL.
    pub(super) fn begin_in_block<'a>(&mut self, word: &'a [u8], lexer: &mut Lexer<'a>) -> bool {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"DECLARE") {
            self.declares = true;
            return true;
        }
        if is(b"BEGIN") {
            self.declares = false;
            return true;
        }
        if self.block_word(word, lexer) {
            return true;
        }
        const CONTROL: [&[u8]; 21] = [
            b"IF",
            b"ELSIF",
            b"ELSEIF",
            b"WHILE",
            b"FOR",
            b"FOREACH",
            b"EXIT",
            b"CONTINUE",
            b"RETURN",
            b"RAISE",
            b"ASSERT",
            b"GET",
            b"NULL",
            b"WHEN",
            b"EXCEPTION",
            b"OPEN",
            b"CLOSE",
            b"PERFORM",
            b"STRICT",
            b"COMMIT",
            b"ROLLBACK",
        ];
        let is_control = CONTROL.iter().any(|verb| is(verb));
        if is_control
            || (meaning(word).is_none_or(|word| word != Meaning::Reserved) && self.is_assignment(lexer))
        {
            self.at_start = false;
            if !is_control {
                self.name(word, false);
            }
            return true;
        }
        false
    }

    /// Reads a word of PL/pgSQL that a statement follows, wherever the word stands. `true`: it is one.
    pub(super) fn block_word<'a>(&mut self, word: &'a [u8], lexer: &mut Lexer<'a>) -> bool {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        match () {
            () if is(b"THEN") || is(b"ELSE") => self.at_start = self.cases.last() != Some(&Case::Expression),
            () if is(b"LOOP") => self.at_start = true,
            () if is(b"CASE") => {
                let case = if self.at_start { Case::Statement } else { Case::Expression };
                self.cases.push(case);
                self.at_start = false;
            }
            () if is(b"END") => {
                if let Some(Token::Word(next)) = lexer.peek()
                    && [&b"CASE"[..], b"IF", b"LOOP"].iter().any(|word| next.eq_ignore_ascii_case(word))
                {
                    lexer.next();
                    if next.eq_ignore_ascii_case(b"CASE") {
                        self.cases.pop();
                    }
                } else if self.cases.last() == Some(&Case::Expression) {
                    self.cases.pop();
                }
                self.at_start = false;
            }
            () if is(b"EXECUTE") => {
                self.at_start = false;
                self.dynamic(*lexer);
            }
            () => return false,
        }
        true
    }

    /// Reads EXECUTE of a text, in PL/pgSQL. The lexer stands after the word.
    fn dynamic(&mut self, mut lexer: Lexer<'_>) {
        let known = match lexer.next() {
            // It is part of CREATE TRIGGER.
            Some(token) if token.is_word(b"FUNCTION") || token.is_word(b"PROCEDURE") => return,
            Some(Token::Text(text)) if lexer.is_escaped(text) || goes_on(text) => None,
            Some(Token::Text(text)) => {
                let ends = match lexer.next() {
                    None | Some(Token::Symbol(b';')) => true,
                    Some(token) => [&b"INTO"[..], b"USING", b"LOOP"].iter().any(|word| token.is_word(word)),
                };
                ends.then(|| undoubled(text, b'\''))
            }
            Some(token) if token.is_word(b"FORMAT") && lexer.next() == Some(Token::Symbol(b'(')) => {
                match (lexer.next(), lexer.next()) {
                    (Some(Token::Text(template)), Some(Token::Symbol(b',' | b')')))
                        if !lexer.is_escaped(template) && !goes_on(template) =>
                    {
                        template_sql(&undoubled(template, b'\'')).filter(|sql| !sets(sql))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        match known {
            Some(text) if self.depth < DEPTH_MAX && !text.contains(&b'\\') => {
                self.nested(&text, Dialect::Sql);
            }
            _ => self.add(Effects::ANY, b"EXECUTE"),
        }
    }

    fn nested(&mut self, text: &[u8], dialect: Dialect) {
        let mut inner = Judge::new(text, &mut *self.names, dialect);
        inner.depth = self.depth + 1;
        inner.text(text, Backslashes::Literal);
        let effects = inner.verdict().effects;
        self.add(effects.without(Effects::SCAN), b"");
    }
}

/// Skips `<<label>>`, after its first byte, and nothing else.
pub(super) fn skip_label(lexer: &mut Lexer<'_>) {
    let mut ahead = *lexer;
    let label = (ahead.next(), ahead.next(), ahead.next(), ahead.next());
    let angle = |byte| Some(Token::Symbol(byte));
    if label.0 == angle(b'<')
        && matches!(label.1, Some(Token::Word(_) | Token::Quoted(_)))
        && (label.2, label.3) == (angle(b'>'), angle(b'>'))
    {
        *lexer = ahead;
    }
}

/// Whether the names that are put in may be those of settings or of prepared statements.
fn sets(template: &[u8]) -> bool {
    let first = Lexer::new(template, Backslashes::Literal).next();
    let may_name: [&[u8]; 10] = [
        b"SELECT",
        b"INSERT",
        b"UPDATE",
        b"DELETE",
        b"TRUNCATE",
        b"CREATE",
        b"ALTER",
        b"DROP",
        b"GRANT",
        b"REVOKE",
    ];
    !first.is_some_and(|token| may_name.iter().any(|verb| token.is_word(verb)))
}
