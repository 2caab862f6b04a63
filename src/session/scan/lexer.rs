//! SQL text as tokens, as PostgreSQL's own lexer cuts it (manual chapter 4.1), over a borrowed slice.
//!
//! Owns the question "is this byte code, a name, a literal or a comment". It deliberately knows no grammar,
//! never fails and never allocates: a text that PostgreSQL would refuse gives some tokens, and the server
//! reports the error.

/// A setting of the session that changes how tokens are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backslashes {
    /// `standard_conforming_strings = on`, the default: a backslash in `'...'` is a character.
    #[default]
    Literal,
    /// `standard_conforming_strings = off`: it escapes.
    Escape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or an unquoted name, as written.
    Word(&'a [u8]),
    /// A quoted name: what stands between the quotes, doubled quotes left doubled.
    Quoted(&'a [u8]),
    /// A quoted name in Unicode escapes, `U&"..."`: what stands between the quotes. See [`super::unicode`].
    Escaped(&'a [u8]),
    /// A string literal of any kind: what stands between its quotes, escapes left as they are.
    Text(&'a [u8]),
    Number(&'a [u8]),
    /// `$1`
    Parameter(u16),
    /// Any other byte.
    Symbol(u8),
}

impl Token<'_> {
    pub(crate) fn is_word(&self, word: &[u8]) -> bool {
        matches!(self, Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// A word, or the same between quotes.
    pub(crate) fn is_name(&self, name: &[u8]) -> bool {
        self.is_word(name) || *self == Token::Quoted(name)
    }
}

const SPACE: u8 = 1;
const NAME_START: u8 = 2;
const DIGIT: u8 = 4;
const DOLLAR: u8 = 8;
const NAME: u8 = NAME_START | DIGIT | DOLLAR;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut class = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => NAME_START,
            b'0'..=b'9' => DIGIT,
            b'$' => DOLLAR,
            _ => 0,
        };
        byte += 1;
    }
    class
}

fn is(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

/// A byte of a name or a number.
pub(super) fn is_name_byte(byte: u8) -> bool {
    is(byte, NAME)
}

pub(super) fn is_space(byte: u8) -> bool {
    is(byte, SPACE)
}

/// A cursor over the tokens of a text. `Copy`: looking ahead is walking a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    backslashes: Backslashes,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(sql: &'a [u8], backslashes: Backslashes) -> Lexer<'a> {
        Lexer { sql, at: 0, backslashes }
    }

    /// The offset of the next byte to be read.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<Token<'a>> {
        let mut ahead = *self;
        ahead.next()
    }

    fn byte(&self, at: usize) -> u8 {
        self.sql.get(at).copied().unwrap_or(0)
    }

    fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.sql.get(from..to.min(self.sql.len())).unwrap_or_default()
    }

    /// Skips white space and comments.
    pub(crate) fn skip_blank(&mut self) {
        loop {
            match (self.byte(self.at), self.byte(self.at + 1)) {
                _ if self.at >= self.sql.len() => return,
                (byte, _) if is(byte, SPACE) => self.at += 1,
                (b'-', b'-') => {
                    let rest = self.slice(self.at, self.sql.len());
                    self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                }
                (b'/', b'*') => self.skip_comment(),
                _ => return,
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut depth = 0u32;
        while self.at < self.sql.len() {
            match (self.byte(self.at), self.byte(self.at + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Whether `literal`, a part of this text, is in Unicode escapes: `U&'...'`.
    pub(crate) fn is_escaped(&self, literal: &[u8]) -> bool {
        let start = (literal.as_ptr() as usize).wrapping_sub(self.sql.as_ptr() as usize);
        start.checked_sub(2).and_then(|at| self.sql.get(at)) == Some(&b'&')
    }

    fn name_end(&self, from: usize) -> usize {
        let rest = self.slice(from, self.sql.len());
        from + rest.iter().position(|&byte| !is(byte, NAME)).unwrap_or(rest.len())
    }

    /// The text up to the closing `quote`, which may occur doubled inside. Starts after the opening one.
    fn quoted(&mut self, quote: u8, escapes: Backslashes) -> &'a [u8] {
        let start = self.at;
        loop {
            let rest = self.slice(self.at, self.sql.len());
            let found = match escapes {
                Backslashes::Literal => memchr::memchr(quote, rest),
                Backslashes::Escape => memchr::memchr2(quote, b'\\', rest),
            };
            let Some(found) = found else {
                self.at = self.sql.len();
                return self.slice(start, self.at);
            };
            self.at += found;
            if self.byte(self.at) == quote && self.byte(self.at + 1) != quote {
                self.at += 1;
                return self.slice(start, self.at - 1);
            }
            // A doubled quote, or a backslash with what it escapes.
            self.at = (self.at + 2).min(self.sql.len());
        }
    }

    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        self.at = self.name_end(start);
        let word = self.slice(start, self.at);
        let next = self.byte(self.at);
        match word {
            [b'e' | b'E'] if next == b'\'' => self.text(Backslashes::Escape),
            [b'b' | b'B' | b'x' | b'X'] if next == b'\'' => self.text(Backslashes::Literal),
            [b'n' | b'N'] if next == b'\'' => self.text(self.backslashes),
            [b'u' | b'U'] if next == b'&' => self.unicode(word),
            _ => Token::Word(word),
        }
    }

    fn text(&mut self, escapes: Backslashes) -> Token<'a> {
        self.at += 1;
        let start = self.at;
        let mut text = self.quoted(b'\'', escapes);
        // The next part of the same literal is read in the same way as the first.
        while let Some(next) = self.continuation() {
            self.at = next + 1;
            self.quoted(b'\'', escapes);
            text = self.slice(start, self.at.saturating_sub(1));
        }
        Token::Text(text)
    }

    /// Where the literal that has just been closed continues: after a new line, with only white space and
    /// one-line comments between.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut has_new_line = false;
        loop {
            match (self.byte(at), self.byte(at + 1)) {
                (b'\'', _) if has_new_line => return Some(at),
                (b'-', b'-') => {
                    let rest = self.slice(at, self.sql.len());
                    at += memchr::memchr2(b'\n', b'\r', rest)?;
                }
                (byte, _) if is(byte, SPACE) => {
                    has_new_line |= matches!(byte, b'\n' | b'\r');
                    at += 1;
                }
                _ => return None,
            }
        }
    }

    /// `U&'...'` and `U&"..."`.
    fn unicode(&mut self, word: &'a [u8]) -> Token<'a> {
        match self.byte(self.at + 1) {
            b'\'' => {
                self.at += 1;
                self.text(Backslashes::Literal)
            }
            b'"' => {
                self.at += 2;
                Token::Escaped(self.quoted(b'"', Backslashes::Literal))
            }
            _ => Token::Word(word),
        }
    }

    /// `$1`, `$$...$$`, `$tag$...$tag$`, or a lone `$`.
    fn dollar(&mut self) -> Token<'a> {
        let start = self.at;
        if is(self.byte(start + 1), DIGIT) {
            self.at += 1;
            let mut number = 0u16;
            while is(self.byte(self.at), DIGIT) {
                number = number.saturating_mul(10).saturating_add(u16::from(self.byte(self.at) - b'0'));
                self.at += 1;
            }
            return Token::Parameter(number);
        }
        let mut end = start + 1;
        while is(self.byte(end), NAME_START | DIGIT) {
            end += 1;
        }
        if self.byte(end) != b'$' {
            self.at += 1;
            return Token::Symbol(b'$');
        }
        let tag = self.slice(start, end + 1);
        let body = end + 1;
        let rest = self.slice(body, self.sql.len());
        let length = memchr::memmem::find(rest, tag).unwrap_or(rest.len());
        self.at = (body + length + tag.len()).min(self.sql.len());
        Token::Text(self.slice(body, body + length))
    }

    /// Ends before a letter that does not belong to it: `1and` is two tokens, as it was before PostgreSQL 15.
    /// `1..2` is a range.
    fn number(&mut self) -> Token<'a> {
        let start = self.at;
        if self.byte(start) == b'0' && matches!(self.byte(start + 1), b'x' | b'X' | b'o' | b'O' | b'b' | b'B')
        {
            self.at += 2;
            while self.byte(self.at).is_ascii_hexdigit() || self.byte(self.at) == b'_' {
                self.at += 1;
            }
            return Token::Number(self.slice(start, self.at));
        }
        self.digits();
        if self.byte(self.at) == b'.' && self.byte(self.at + 1) != b'.' {
            self.at += 1;
            self.digits();
        }
        let sign = usize::from(matches!(self.byte(self.at + 1), b'+' | b'-'));
        if matches!(self.byte(self.at), b'e' | b'E') && is(self.byte(self.at + 1 + sign), DIGIT) {
            self.at += 1 + sign;
            self.digits();
        }
        Token::Number(self.slice(start, self.at))
    }

    fn digits(&mut self) {
        while is(self.byte(self.at), DIGIT)
            || (self.byte(self.at) == b'_' && is(self.byte(self.at + 1), DIGIT))
        {
            self.at += 1;
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        if self.at >= self.sql.len() {
            return None;
        }
        let byte = self.byte(self.at);
        if is(byte, NAME_START) {
            return Some(self.word());
        }
        Some(match byte {
            b'\'' => self.text(self.backslashes),
            b'"' => {
                self.at += 1;
                Token::Quoted(self.quoted(b'"', Backslashes::Literal))
            }
            b'$' => self.dollar(),
            b'0'..=b'9' => self.number(),
            _ => {
                self.at += 1;
                Token::Symbol(byte)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shapes(sql: &str, backslashes: Backslashes) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let shape = |token| match token {
            Token::Word(word) => text(word),
            Token::Quoted(name) => format!("[{}]", text(name)),
            Token::Escaped(name) => format!("&[{}]", text(name)),
            Token::Text(body) => format!("<{}>", text(body)),
            Token::Number(number) => text(number),
            Token::Parameter(number) => format!("${number}"),
            Token::Symbol(byte) => char::from(byte).to_string(),
        };
        Lexer::new(sql.as_bytes(), backslashes).map(shape).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn literals_names_and_comments_are_cut_as_postgresql_cuts_them() {
        let cases = [
            ("select 'it''s', \"a\"\"b\"", "select <it''s> , [a\"\"b]"),
            ("a--c;\nb/*x/*y*/z*/c", "a b c"),
            (r"E'a\'b' x", r"<a\'b> x"),
            (r"'a\' x", r"<a\> x"),
            ("$$a;b$$ $t$ $$ $t$ $1 $", "<a;b> < $$ > $1 $"),
            ("a$b$ c", "a$b$ c"),
            ("U&'x' u&\"n\" u & 1 N'n' x'1F'", "<x> &[n] u & 1 <n> <1F>"),
            ("1.5e3 1_000 $12::int", "1.5e3 1_000 $12 : : int"),
            ("1and 1..f() 1e 0x1F .5", "1 and 1 . . f ( ) 1 e 0x1F . 5"),
            ("E'a'\n '\\'' x", "<a'\n '\\'> x"),
            ("E'a' -- '\n'\\'' x", "<a' -- '\n'\\'> x"),
            ("E'a' '\\' x", "<a> <\\> x"),
            ("'open", "<open>"),
            ("/* open", ""),
        ];
        for (sql, expected) in cases {
            assert_eq!(shapes(sql, Backslashes::Literal), expected, "{sql}");
        }
    }

    #[test]
    fn a_backslash_escapes_only_where_the_session_says_so() {
        assert_eq!(shapes(r"'a\'; set x' y", Backslashes::Escape), r"<a\'; set x> y");
        assert_eq!(shapes(r"'a\'; set x", Backslashes::Literal), r"<a\> ; set x");
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_to_the_end(sql in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut lexer = Lexer::new(&sql, Backslashes::Escape);
            let tokens = lexer.by_ref().count();
            prop_assert!(tokens <= sql.len());
            prop_assert_eq!(lexer.offset(), sql.len());
        }
    }
}
