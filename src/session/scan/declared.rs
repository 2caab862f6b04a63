//! The names in a function's body that PostgreSQL looks up once in a connection's life.
//!
//! # Why
//! PL/pgSQL looks up the types of variables, their collations and the types of a cursor's arguments when it
//! compiles a function, at its first call in a session, under the search path of that moment. When it calls a
//! procedure for the first time, it decides which variables get the output values. Names in its expressions
//! and statements are looked up again when the path changes. If the call of an SQL function is put into an
//! expression that is kept (that of an index, for one), the function stays there with all of its names.
//!
//! By PL/pgSQL's grammar (`pl_gram.y`), declarations end at a BEGIN in the place of a variable's name. A
//! semicolon ends each of them, wherever it stands; the type ends at `=`, `:=` or DEFAULT; a cursor's query
//! begins after FOR or IS.

use super::judge::with_folded;
use super::lexer::{Backslashes, Lexer, Token};
use super::words::{Meaning, meaning};

/// An unqualified name, as PostgreSQL folds it, that keeps its meaning for the connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept<'a> {
    /// A type, a table or a collation.
    Type(&'a [u8]),
    /// A procedure that is called.
    Procedure(&'a [u8]),
    /// A name in a form that is not read here.
    AnyType,
    AnyProcedure,
}

/// Where in a body a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Statements,
    /// The name of a variable, or BEGIN, comes next.
    Declaration,
    /// After that name.
    Type {
        of_cursor: bool,
        depth: u32,
    },
    /// After the type.
    Value,
}

/// Calls `sink` with each name in the body of a PL/pgSQL function that keeps its meaning.
pub(crate) fn declared(body: &[u8], sink: &mut dyn FnMut(Kept<'_>)) {
    for &backslashes in readings(body) {
        declared_as(body, backslashes, sink);
    }
}

/// A setting of the session that runs the body decides how its literals are read.
fn readings(body: &[u8]) -> &'static [Backslashes] {
    let both = &[Backslashes::Literal, Backslashes::Escape];
    if memchr::memchr(b'\\', body).is_some() { both } else { &both[..1] }
}

fn declared_as(body: &[u8], backslashes: Backslashes, sink: &mut dyn FnMut(Kept<'_>)) {
    let mut place = Place::Statements;
    let mut before = None;
    let mut lexer = Lexer::new(body, backslashes);
    while let Some(token) = lexer.next() {
        place = match (place, token) {
            (_, Token::Word(word)) if word.eq_ignore_ascii_case(b"DECLARE") => Place::Declaration,
            (Place::Declaration, Token::Word(word)) if word.eq_ignore_ascii_case(b"BEGIN") => {
                Place::Statements
            }
            (Place::Statements, Token::Word(word)) if word.eq_ignore_ascii_case(b"CALL") => {
                called(lexer, sink);
                place
            }
            (Place::Statements, _) => place,
            (_, Token::Symbol(b';')) => Place::Declaration,
            (Place::Declaration, _) => Place::Type { of_cursor: false, depth: 0 },
            (Place::Value, _) => place,
            (Place::Type { of_cursor, depth }, token) => in_type(of_cursor, depth, before, token, sink),
        };
        before = Some(token);
    }
}

/// The name of the procedure comes next.
fn called(mut lexer: Lexer<'_>, sink: &mut dyn FnMut(Kept<'_>)) {
    let name = lexer.next();
    if lexer.peek() == Some(Token::Symbol(b'.')) {
        return;
    }
    match name {
        Some(Token::Word(name)) if name.is_ascii() => {
            with_folded(name, false, |name| sink(Kept::Procedure(name)));
        }
        Some(Token::Quoted(name)) => with_folded(name, true, |name| sink(Kept::Procedure(name))),
        Some(Token::Word(_) | Token::Escaped(_)) => sink(Kept::AnyProcedure),
        _ => {}
    }
}

fn in_type(
    of_cursor: bool,
    depth: u32,
    before: Option<Token<'_>>,
    token: Token<'_>,
    sink: &mut dyn FnMut(Kept<'_>),
) -> Place {
    let here = |of_cursor, depth| Place::Type { of_cursor, depth };
    // After a dot comes a part of the name before it; after a percent sign, TYPE or ROWTYPE.
    let belongs = matches!(before, Some(Token::Symbol(b'.' | b'%')));
    match token {
        Token::Symbol(b'=') => return Place::Value,
        Token::Symbol(b'(') => return here(of_cursor, depth + 1),
        Token::Symbol(b')') => return here(of_cursor, depth.saturating_sub(1)),
        Token::Word(_) | Token::Quoted(_) | Token::Escaped(_) if belongs => {}
        Token::Word(word) if word.eq_ignore_ascii_case(b"DEFAULT") => return Place::Value,
        Token::Word(word) if word.eq_ignore_ascii_case(b"CURSOR") => return here(true, depth),
        Token::Word(word) if of_cursor && depth == 0 && is_any(word, &[&b"FOR"[..], b"IS"]) => {
            return Place::Value;
        }
        Token::Word(word) if names_no_type(word) => {}
        Token::Word(word) if word.is_ascii() => with_folded(word, false, |name| sink(Kept::Type(name))),
        Token::Quoted(name) => with_folded(name, true, |name| sink(Kept::Type(name))),
        // The server's encoding decides how such a word is folded.
        Token::Word(_) | Token::Escaped(_) => sink(Kept::AnyType),
        _ => {}
    }
    here(of_cursor, depth)
}

fn is_any(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// Reserved words, and words that the grammar itself maps to a type of `pg_catalog`.
fn names_no_type(word: &[u8]) -> bool {
    const FIXED: [&[u8]; 19] = [
        b"bigint",
        b"bit",
        b"boolean",
        b"char",
        b"character",
        b"dec",
        b"decimal",
        b"float",
        b"int",
        b"integer",
        b"interval",
        b"national",
        b"nchar",
        b"numeric",
        b"real",
        b"smallint",
        b"time",
        b"timestamp",
        b"varchar",
    ];
    meaning(word) == Some(Meaning::Reserved) || is_any(word, &FIXED)
}

/// A part of a body in SQL that depends on the search path or on settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Used<'a> {
    /// A name, as PostgreSQL folds it.
    Name(&'a [u8]),
    /// Adjacent characters of operators: one operator or several.
    Operators(&'a [u8]),
    /// A value that settings may affect: a literal of a date, interval, amount, array or document; a number
    /// as text; a comparison with NULL.
    Value,
    /// A literal that means another time at each execution: `'now'`.
    Moment,
    /// A conversion, for example of a parameter: `$1::date`.
    Cast,
    /// A call with a constant as an argument.
    Call { name: &'a [u8], takes_only_constants: bool },
    /// A form that the scan does not understand.
    Any,
}

/// Calls `sink` with each unqualified name of a body, and each operator. Words in literals count:
/// `'english'::regconfig`.
pub(crate) fn used(body: &[u8], sink: &mut dyn FnMut(Used<'_>)) {
    for &backslashes in readings(body) {
        used_as(body, backslashes, 0, sink);
    }
}

/// Greatest depth of literals in literals that are read.
const DEPTH_MAX: u8 = 3;

fn used_as(body: &[u8], backslashes: Backslashes, depth: u8, sink: &mut dyn FnMut(Used<'_>)) {
    let mut is_behind_dot = false;
    let mut operators: Option<(usize, usize)> = None;
    let mut computing = Computing::default();
    let mut lexer = Lexer::new(body, backslashes);
    loop {
        lexer.skip_blank();
        let start = lexer.offset();
        let token = lexer.next();
        operators = match (operators, token) {
            (Some((from, to)), Some(Token::Symbol(byte))) if to == start && is_operator(byte) => {
                Some((from, lexer.offset()))
            }
            (before, token) => {
                if let Some((from, to)) = before {
                    sink(Used::Operators(&body[from..to]));
                    computing.operators(&body[from..to], token, sink);
                }
                matches!(token, Some(Token::Symbol(byte)) if is_operator(byte))
                    .then(|| (start, lexer.offset()))
            }
        };
        let Some(token) = token else { return };
        computing.token(token, lexer.peek(), sink);
        match token {
            Token::Word(word) if meaning(word) == Some(Meaning::Reserved) => {}
            Token::Word(word) if word.is_ascii() && !is_behind_dot => {
                with_folded(word, false, |name| sink(Used::Name(name)));
            }
            Token::Quoted(name) if !is_behind_dot => {
                with_folded(name, true, |name| sink(Used::Name(name)));
            }
            Token::Word(_) | Token::Escaped(_) if !is_behind_dot => sink(Used::Any),
            Token::Text(text) if depth >= DEPTH_MAX || is_spelled(body, text) => {
                sink(Used::Any);
                sink(Used::Value);
            }
            Token::Text(text) => {
                if is_moment(text) {
                    sink(Used::Moment);
                }
                if depends_on_settings(text) {
                    sink(Used::Value);
                }
                used_as(text, Backslashes::Literal, depth + 1, sink);
            }
            _ => {}
        }
        is_behind_dot = token == Token::Symbol(b'.');
    }
}

/// Finds what PostgreSQL may compute once when it plans a body.
#[derive(Default)]
struct Computing<'a> {
    /// The open parentheses and brackets.
    open: Vec<Group<'a>>,
    /// The outermost group that was closed last, until the token after the next one.
    closed: Option<Group<'a>>,
    before: Option<Token<'a>>,
    /// The token before that.
    earlier: Option<Token<'a>>,
    /// The last token that is not a character of an operator.
    operand: Option<Token<'a>>,
    /// The last token, ignoring parentheses, was `=`, or was NULL.
    is_behind_equals: bool,
    is_behind_null: bool,
}

/// The content of parentheses or brackets.
#[derive(Debug, Clone, Copy, Default)]
struct Group<'a> {
    /// The function that the parentheses call.
    called: Option<Token<'a>>,
    has_variable: bool,
    has_constant: bool,
}

impl<'a> Computing<'a> {
    fn token(&mut self, token: Token<'a>, next: Option<Token<'_>>, sink: &mut dyn FnMut(Used<'_>)) {
        let before = self.before;
        match token {
            Token::Symbol(b'(') => {
                let called = before.filter(|token| matches!(token, Token::Word(_) | Token::Quoted(_)));
                self.open.push(Group { called, ..Group::default() });
            }
            Token::Symbol(b'[') => self.open.push(Group::default()),
            Token::Symbol(b')' | b']') => self.close(sink),
            Token::Parameter(_) | Token::Escaped(_) => self.variable(),
            Token::Quoted(_) if next != Some(Token::Symbol(b'(')) => self.variable(),
            Token::Word(word) if self.is_behind_equals && word.eq_ignore_ascii_case(b"NULL") => {
                sink(Used::Value);
            }
            Token::Word(word) if word.eq_ignore_ascii_case(b"AS") => {
                // `CAST(... AS type)`
                if let Some(group) = self.open.last().copied()
                    && group.called.is_some_and(|called| called.is_word(b"CAST"))
                {
                    self.cast(Some(group), next, sink);
                }
            }
            Token::Word(word) if is_variable(word, before, next) => self.variable(),
            Token::Number(_) | Token::Text(_) => {
                if let Some(group) = self.open.last_mut() {
                    group.has_constant = true;
                }
            }
            // `(...)::type`
            Token::Symbol(b':') if before == Some(Token::Symbol(b':')) => {
                let is_group = matches!(self.earlier, Some(Token::Symbol(b')' | b']')));
                self.cast(self.closed.filter(|_| is_group), next, sink);
            }
            _ => {}
        }
        if !matches!(token, Token::Symbol(byte) if is_operator(byte)) {
            self.operand = Some(token);
            self.is_behind_equals &= token == Token::Symbol(b'(');
            self.is_behind_null =
                token.is_word(b"NULL") || self.is_behind_null && token == Token::Symbol(b')');
        }
        (self.earlier, self.before) = (before, Some(token));
    }

    fn variable(&mut self) {
        if let Some(group) = self.open.last_mut() {
            group.has_variable = true;
        }
    }

    fn close(&mut self, sink: &mut dyn FnMut(Used<'_>)) {
        let Some(mut group) = self.open.pop() else { return };
        group.has_variable |= matches!(group.called, Some(Token::Word(word)) if is_any(word, &TIMES));
        let takes_only_constants = !group.has_variable;
        let mut call = |name: &[u8]| sink(Used::Call { name, takes_only_constants });
        match group.called {
            _ if group.has_variable && !group.has_constant => {}
            Some(Token::Word(word)) => with_folded(word, false, &mut call),
            Some(Token::Quoted(name)) => with_folded(name, true, &mut call),
            _ => {}
        }
        if let Some(outer) = self.open.last_mut() {
            outer.has_variable |= group.has_variable;
            outer.has_constant |= group.has_constant || !group.has_variable;
        }
        self.closed = Some(group);
    }

    fn cast(&self, group: Option<Group<'_>>, to: Option<Token<'_>>, sink: &mut dyn FnMut(Used<'_>)) {
        sink(Used::Cast);
        let is_plain = |word: &[u8]| is_any(word, &PLAIN_TYPES);
        let reads_none = matches!(to, Some(Token::Word(word)) if is_plain(word));
        if group.is_some_and(|group| !group.has_variable) && !reads_none {
            sink(Used::Value);
        }
    }

    /// `0.1 || $1` converts the number to text; `transform_null_equals` decides what `$1 = NULL` means.
    fn operators(&mut self, run: &[u8], next: Option<Token<'_>>, sink: &mut dyn FnMut(Used<'_>)) {
        self.is_behind_equals = run == b"=";
        if self.is_behind_equals && self.is_behind_null {
            sink(Used::Value);
        }
        let is_number = |token: Option<Token<'_>>| matches!(token, Some(Token::Number(_)));
        if run == b"||" && (is_number(next) || is_number(self.operand)) {
            sink(Used::Value);
        }
    }
}

/// Functions that are called at each execution.
const TIMES: [&[u8]; 4] = [b"now", b"transaction_timestamp", b"statement_timestamp", b"clock_timestamp"];

/// Types to which no setting affects the conversion of a constant.
const PLAIN_TYPES: [&[u8]; 11] = [
    b"int",
    b"integer",
    b"bigint",
    b"smallint",
    b"int2",
    b"int4",
    b"int8",
    b"numeric",
    b"decimal",
    b"boolean",
    b"bool",
];

/// Whether the word may name an argument: it is no keyword, function or type.
fn is_variable(word: &[u8], before: Option<Token<'_>>, next: Option<Token<'_>>) -> bool {
    let is_type = before.is_some_and(|token| token == Token::Symbol(b':') || token.is_word(b"AS"))
        || matches!(next, Some(Token::Text(_)));
    let is_part = matches!(next, Some(Token::Symbol(b'(' | b'.')));
    meaning(word).is_none() && !is_type && !is_part
}

/// Whether the text names a time such as now, alone or within a time or a range (manual, 8.5.1.4).
pub(crate) fn is_moment(text: &[u8]) -> bool {
    const MOMENTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    const WORDS_MAX: usize = 8;
    let words = || text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words().any(|word| is_any(word, &MOMENTS)) && words().count() <= WORDS_MAX
}

/// Whether it may be a date, a time, an interval, an amount, or an array of them: those contain digits,
/// except for the days named relative to today (manual, 8.5.1.4), and no characters of patterns. Also an
/// array with `NULL` in it, or XML.
fn depends_on_settings(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    if text.first() == Some(&b'<') || is_moment(text) {
        return true;
    }
    if text.iter().any(|byte| b"^*?|\\~%=&".contains(byte)) {
        return false;
    }
    let has_null = || text.windows(4).any(|word| word.eq_ignore_ascii_case(b"null"));
    text.iter().any(u8::is_ascii_digit) || text.contains(&b'{') && has_null()
}

/// Whether a literal may spell a name by escapes: `E'...'`, `U&'...'`.
fn is_spelled(body: &[u8], text: &[u8]) -> bool {
    let start = (text.as_ptr() as usize).wrapping_sub(body.as_ptr() as usize);
    let prefix = start.checked_sub(2).and_then(|at| body.get(at));
    match prefix {
        Some(b'e' | b'E') => text.contains(&b'\\'),
        Some(b'&') => true,
        _ => false,
    }
}

fn is_operator(byte: u8) -> bool {
    b"+-*/<>=~!@#%^&|`?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_that_settings_decide_are_told_from_texts_and_patterns() {
        let counts = |body: &str| {
            let mut counts = false;
            used(body.as_bytes(), &mut |used| counts |= used == Used::Value);
            counts
        };
        for body in [
            "SELECT $1 > '01/02/2003'",
            "SELECT $1 > date '01/02/2003'",
            "SELECT $1 < interval '-1 2:03'",
            "SELECT $1 < '@ 1 minute ago'",
            "SELECT $1 <@ '[2003-01-01 America/New_York,)'::tstzrange",
            "SELECT $1 > '$1,000.00'::money",
            "SELECT $1 > 'Today '",
            "SELECT $1 <> '{a,Null}'",
            "SELECT $1 IS DOCUMENT AND '<a>&amp;</a>' IS DOCUMENT",
            "SELECT $1 > E'\\x31/2/2003'",
            "SELECT $1 = (NULL)",
            "SELECT (Null) = $1",
            "SELECT $1 <> (sqrt(2) + 0.1)::text",
            "SELECT $1 <> CAST(0.1::float8 AS varchar)",
            "SELECT $1 <> 'x' || 0.1",
            "SELECT $1 <> 0.1 || $2",
        ] {
            assert!(counts(body), "{body}");
        }
        for body in [
            "SELECT lower($1) || 'x' = 'a-b'",
            "SELECT $1 ~ '^[a-z0-9]+@[a-z0-9]+$'",
            "SELECT $1 LIKE 'A1%'",
            "SELECT unaccent('public.unaccent'::regdictionary, $1)",
            "SELECT $1 > 5 AND $1 <> '{}'",
            "SELECT CASE WHEN $1 = '' OR $1 IS NULL THEN NULL ELSE $1 END",
            "SELECT $1 <= now()::date",
            "SELECT ($1 + 1)::text <> (x)::text AND CAST($1 AS text) = (1)::numeric::text",
        ] {
            assert!(!counts(body), "{body}");
        }
    }

    fn names(body: &str) -> Vec<String> {
        let mut found = Vec::new();
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        declared(body.as_bytes(), &mut |kept| {
            found.push(match kept {
                Kept::Type(name) => text(name),
                Kept::Procedure(name) => format!("{}()", text(name)),
                Kept::AnyType => "?".to_owned(),
                Kept::AnyProcedure => "?()".to_owned(),
            })
        });
        found
    }

    #[test]
    fn names_of_types_are_found_in_every_block_and_only_without_a_schema() {
        assert_eq!(names("BEGIN RETURN money_t; END"), Vec::<String>::new());
        assert_eq!(names("declare r Money_T; s public.money_t; BEGIN x := 1; END"), ["money_t", "public"]);
        let nested = "BEGIN DECLARE \"R\" \"T\"[]; t orders.id%TYPE; BEGIN NULL; END; SELECT 1; DECLARE u orders%ROWTYPE; BEGIN END; END";
        assert_eq!(names(nested), ["T", "orders", "orders"]);
        assert_eq!(
            names("<<l>> declare a integer; b constant numeric(6,2) not null = 1; begin end"),
            ["constant"]
        );
    }

    #[test]
    fn declarations_end_where_those_of_plpgsql_do_and_not_before() {
        for body in [
            "declare a int := (select x.begin from (select 1 as begin) x); v m_t; begin end",
            "declare a int default begin; v m_t; begin end",
            "declare begin_ int; v m_t; begin end",
            "declare \"begin\" int; v m_t; begin end",
            "declare a int = 1; declare v m_t; begin end",
            "declare a int; /* ; begin */ v m_t; -- ; begin\nbegin end",
            "declare a text := '; begin '; v m_t; begin end",
            "declare a text := $x$; begin $x$; v m_t; begin end",
            "begin declare v m_t; begin end; end",
        ] {
            assert_eq!(names(body).last().map(String::as_str), Some("m_t"), "{body}");
        }
        // A setting decides whether the literal ends at its second quote.
        let found = names(r"declare a text := '\'; v m_t; begin '; begin x := 'y'; end");
        assert!(found.iter().any(|name| name == "m_t"), "{found:?}");
        let found = names(r"declare a text := '\'; begin '; v m_t; begin end");
        assert!(found.iter().any(|name| name == "m_t"), "{found:?}");
        assert_eq!(names("declare a int; begin return (select m_t from t); end"), Vec::<String>::new());
    }

    #[test]
    fn collations_arguments_of_cursors_and_escaped_names_are_found_and_queries_are_not() {
        assert_eq!(names("declare v text collate c9; begin end"), ["text", "c9"]);
        assert!(names("declare v U&\"m\\005ft\"; begin end").contains(&"?".to_owned()));
        let cursor =
            "declare c no scroll cursor (a m_t, b int) for select x from orders where f is null; begin end";
        assert_eq!(names(cursor), ["no", "scroll", "a", "m_t", "b"]);
        assert_eq!(names("begin call p(1, 2); call s.q(); call U&\"x\"(); end"), ["p()", "?()"]);
    }

    #[test]
    fn calls_with_constants_and_moments_are_told_from_other_calls_and_words() {
        let found = |body: &str| {
            let (mut calls, mut is_moment) = (Vec::new(), false);
            used(body.as_bytes(), &mut |used| match used {
                Used::Call { name, takes_only_constants } => {
                    let mark = if takes_only_constants { "" } else { "?" };
                    calls.push(format!("{}{mark}", String::from_utf8_lossy(name)));
                }
                Used::Moment => is_moment = true,
                _ => {}
            });
            (calls.join(" "), is_moment)
        };
        let calls = |body: &str| found(body).0;
        assert_eq!(calls("SELECT $1 > MkDay(1, 2, 2003)"), "mkday");
        assert_eq!(calls("SELECT $1 > s.\"Day\"('a' || lower('b'))"), "lower Day");
        assert_eq!(calls("SELECT $1 > day(date '2003-01-01', (1)::int, TRUE)"), "day");
        assert_eq!(calls("SELECT f($1, 'a') AND g(x, 2) AND h($1 + 1)"), "f? g? h?");
        assert_eq!(calls("SELECT lower(unaccent($1)) = f(x)"), "");
        assert_eq!(calls("SELECT $1 = me()"), "me");
        for (body, is_moment) in [
            ("SELECT $1 <= 'now'::timestamptz", true),
            ("SELECT $1 <@ '[Yesterday 10:00,)'::tstzrange", true),
            ("SELECT $1 <> 'known'", false),
            ("SELECT $1 <> 'todays'", false),
        ] {
            assert_eq!(found(body).1, is_moment, "{body}");
        }
    }

    fn uses(body: &str) -> Vec<String> {
        let mut found = Vec::new();
        used(body.as_bytes(), &mut |used| {
            found.push(match used {
                Used::Cast | Used::Moment | Used::Call { .. } => return,
                Used::Name(name) | Used::Operators(name) => String::from_utf8_lossy(name).into_owned(),
                Used::Value => "value".to_owned(),
                Used::Any => "?".to_owned(),
            })
        });
        found
    }

    #[test]
    fn a_body_in_sql_uses_names_operators_and_what_its_literals_name() {
        assert_eq!(uses("select H($1) || s.g(\"X\")<>-1"), ["h", "||", "s", "X", "<>-"]);
        assert_eq!(uses("select to_tsvector('english', $1)"), ["to_tsvector", "english"]);
        assert_eq!(uses("select U&\"h\"($1)"), ["?"]);
        assert_eq!(uses("select 1 +"), ["+"]);
        assert!(uses(r"select e'\x61'::regclass").contains(&"?".to_owned()));
        assert!(!uses(r"select regexp_replace($1, '\s+', '\1')").contains(&"?".to_owned()));
    }
}
