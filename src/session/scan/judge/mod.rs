//! Whether a text of SQL is understood and harmless, or what running it may do to its session.
//!
//! Owns the verdict ([`read()`] for what a client sends, [`judge_body`] for the body of a function). It
//! deliberately keeps no names of settings and counts no locks: [`super::scan()`] does that, for texts that
//! have any.
//!
//! # Why
//! A text is harmless only if each of its tokens is understood. A word is a word of the grammar, a built-in
//! function on the list of harmless ones, or a name; names are looked up in the catalogue of the database
//! ([`Names`]), without regard to schemas, because a search path may put any of them first. If a text is not
//! understood, the state is asked for at the boundary; if PostgreSQL cannot be asked for it, the session
//! keeps its connection.
//!
//! # What it does not see
//! Operators, casts, and checks of domains are not named in a text. If one of them calls something that is
//! not harmless, [`Names::implied`] applies to every text.

mod block;
mod names;

use self::block::skip_label;
use self::names::{TEMPLATE_NAME, undoubled};
pub(super) use self::names::{cut, folded, with_folded};
use super::effects::{Effects, Names};
use super::lexer::{Backslashes, Lexer, Token};
use super::words::{Meaning, meaning};
use super::{StatementEffect, calls, effect_of, ends_with_transaction, proof, touched, unicode};

/// The verdict on a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) effects: Effects,
    /// Where the first name with an opaque effect lies in the text.
    culprit: (u32, u32),
}

impl Verdict {
    /// A verdict without a culprit.
    pub(crate) fn of(effects: Effects) -> Verdict {
        Verdict { effects, culprit: (0, 0) }
    }

    /// The effects of both.
    pub(crate) fn or(self, other: Verdict) -> Verdict {
        let culprit = if self.effects.has(Effects::OPAQUE) { self.culprit } else { other.culprit };
        Verdict { effects: self.effects | other.effects, culprit }
    }

    /// The part of the text that made it opaque, as it is written.
    pub(crate) fn culprit(self, sql: &[u8]) -> String {
        let (start, end) = (self.culprit.0 as usize, self.culprit.1 as usize);
        String::from_utf8_lossy(sql.get(start..end).unwrap_or_default()).into_owned()
    }
}

/// The verdict on a text of a client's, token by token. In a database with harmless names only,
/// [`super::screen()`] gives the same for most texts in less time.
pub(crate) fn read(sql: &[u8], backslashes: Backslashes, names: &mut impl Names) -> Verdict {
    let mut verdict = understood(sql, backslashes, names);
    if !verdict.effects.has(Effects::UNPROVEN) && !proof::is_proven(sql, names) {
        verdict.effects |= Effects::UNPROVEN;
    }
    if verdict.effects.has(Effects::UNPROVEN) {
        verdict.effects |= touched::touched(sql);
        if backslashes == Backslashes::Escape && touched::names_strings(sql) {
            verdict.effects |= Effects::READING;
        }
    }
    verdict
}

fn understood(sql: &[u8], backslashes: Backslashes, names: &mut impl Names) -> Verdict {
    let mut judge = Judge::new(sql, names, Dialect::Sql);
    judge.text(sql, backslashes);
    let verdict = judge.verdict();
    match verdict.effects.has(Effects::ESCAPED) {
        false => verdict,
        true => {
            let plain = unicode::plain(sql, backslashes);
            let mut judge = Judge::new(&plain, names, Dialect::Sql);
            judge.text(&plain, backslashes);
            let mut effects = judge.verdict().effects | Effects::ESCAPED | Effects::SCAN;
            if super::mentions(sql, b"uescape") {
                // The escape character is read in only one of several notations.
                effects |= Effects::ANY;
            }
            Verdict { effects, culprit: verdict.culprit }
        }
    }
}

/// What the body of a function may do.
pub(crate) fn judge_body(body: &[u8], dialect: Dialect, names: &mut impl Names) -> Effects {
    judge_body_at(body, dialect, 1, names)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sql,
    /// The body of a function in PL/pgSQL, or of DO.
    PlPgSql,
}

/// Greatest depth of text inside text that is read.
const DEPTH_MAX: u8 = 3;

/// What the next literals of a statement contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literals {
    Values,
    /// CREATE FUNCTION and DO: bodies.
    Code,
}

/// Whether a name stands where the text makes or fills the object of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Introduced {
    No,
    /// The next name does.
    Next,
    /// The last name did.
    Last,
}

/// A CASE that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Expression,
    Statement,
}

struct Judge<'n, N> {
    names: &'n mut N,
    dialect: Dialect,
    /// Address of the text in which culprits are reported.
    base: usize,
    found: Effects,
    culprit: (u32, u32),
    depth: u8,
    literals: Literals,
    /// A statement begins here.
    at_start: bool,
    /// The statement begins with a parenthesis.
    is_opened: bool,
    /// Whether the next or the last name is one that is not called, whatever follows it.
    introduced: Introduced,
    /// The name before the last dot is that of the temporary schema.
    in_temporary: bool,
    /// The last name stands after a dot, where keywords are names.
    is_qualified: bool,
    statements: u32,
    sees_settings_view: bool,
    sees_update: bool,
    /// CREATE TYPE makes more than one type, under other names.
    makes_type: bool,
    /// PL/pgSQL, in declarations: names of variables look like the beginnings of statements.
    declares: bool,
    cases: Vec<Case>,
}

impl<'n, N: Names> Judge<'n, N> {
    fn new(sql: &[u8], names: &'n mut N, dialect: Dialect) -> Judge<'n, N> {
        Judge {
            names,
            dialect,
            base: sql.as_ptr() as usize,
            found: Effects::NONE,
            culprit: (0, 0),
            depth: 0,
            literals: Literals::Values,
            at_start: true,
            is_opened: false,
            introduced: Introduced::No,
            in_temporary: false,
            is_qualified: false,
            statements: 0,
            sees_settings_view: false,
            sees_update: false,
            makes_type: false,
            declares: false,
            cases: Vec::new(),
        }
    }

    fn verdict(self) -> Verdict {
        let mut effects = self.found;
        if self.sees_settings_view && self.sees_update {
            effects |= Effects::ANY;
        }
        if effects.has(Effects::RUNS) {
            effects |= self.names.implied();
        }
        if self.statements > 1 {
            effects |= Effects::SCAN;
        }
        Verdict { effects, culprit: self.culprit }
    }

    fn add(&mut self, effects: Effects, culprit: &[u8]) {
        if effects.has(Effects::OPAQUE) && !self.found.has(Effects::OPAQUE) && !culprit.is_empty() {
            let start = (culprit.as_ptr() as usize).wrapping_sub(self.base);
            self.culprit = (start as u32, start.wrapping_add(culprit.len()) as u32);
        }
        self.found |= effects;
    }

    fn text(&mut self, sql: &[u8], backslashes: Backslashes) {
        let mut lexer = Lexer::new(sql, backslashes);
        // The last token, if it was a word or a name.
        let mut before: Option<Token<'_>> = None;
        let mut is_behind_dot = false;
        while let Some(token) = lexer.next() {
            let was_qualified = std::mem::replace(&mut self.is_qualified, std::mem::take(&mut is_behind_dot));
            match token {
                Token::Word(word) if self.is_qualified => {
                    self.qualified(word, false, &lexer);
                    before = Some(token);
                    continue;
                }
                Token::Word(word) => {
                    self.word(word, before, &mut lexer);
                    before = Some(token);
                    continue;
                }
                Token::Quoted(name) if self.is_qualified => {
                    self.qualified(name, true, &lexer);
                    before = Some(token);
                    continue;
                }
                Token::Quoted(name) => {
                    self.begin_without_verb(&lexer);
                    self.introduced = match self.introduced {
                        Introduced::Next => Introduced::Last,
                        _ => Introduced::No,
                    };
                    self.name(name, true);
                    before = Some(token);
                    continue;
                }
                Token::Escaped(_) => self.add(Effects::ESCAPED, b""),
                Token::Symbol(b'(') => {
                    self.is_opened |= self.at_start;
                    if let Some(name) = before {
                        self.call(name, was_qualified, lexer);
                    }
                }
                Token::Symbol(b'.') => {
                    is_behind_dot = true;
                    self.in_temporary = before.is_some_and(is_temporary);
                    if self.introduced == Introduced::Last {
                        self.introduced = Introduced::Next;
                    }
                    before = None;
                    continue;
                }
                Token::Symbol(b';') => self.end_statement(&lexer),
                Token::Symbol(b'<')
                    if self.at_start
                        && self.dialect == Dialect::PlPgSql
                        && lexer.peek() == Some(Token::Symbol(b'<')) =>
                {
                    skip_label(&mut lexer);
                    continue;
                }
                Token::Text(body) => self.literal(body, sql),
                Token::Symbol(_) | Token::Number(_) | Token::Parameter(_) => {}
            }
            if self.at_start && !matches!(token, Token::Symbol(b'(' | b';')) {
                self.begin_without_verb(&lexer);
            }
            self.introduced = Introduced::No;
            self.in_temporary = false;
            before = None;
        }
        self.end_statement(&lexer);
    }

    fn end_statement(&mut self, lexer: &Lexer<'_>) {
        if std::mem::take(&mut self.is_opened) {
            self.begin_without_verb(lexer);
        }
        self.at_start = true;
        self.introduced = Introduced::No;
        self.literals = Literals::Values;
    }

    /// A statement that does not begin with a word is unknown.
    fn begin_without_verb(&mut self, lexer: &Lexer<'_>) {
        if !std::mem::take(&mut self.at_start) {
            return;
        }
        self.is_opened = false;
        self.statements += 1;
        let assigns = self.dialect == Dialect::PlPgSql && self.is_assignment(lexer);
        if !assigns {
            self.add(Effects::ASKS | Effects::SCAN | Effects::RUNS, b"");
        }
    }

    fn word<'a>(&mut self, word: &'a [u8], before: Option<Token<'a>>, lexer: &mut Lexer<'a>) {
        if self.at_start {
            self.begin(word, lexer);
            return;
        }
        if self.dialect == Dialect::PlPgSql && self.block_word(word, lexer) {
            self.introduced = Introduced::No;
            return;
        }
        if self.literals == Literals::Code && word.eq_ignore_ascii_case(b"language") {
            self.language(lexer);
        }
        let introduced = std::mem::replace(&mut self.introduced, Introduced::No);
        match meaning(word) {
            Some(Meaning::Reserved) => {}
            Some(Meaning::Introduces) => {
                self.introduced = Introduced::Next;
                self.name(word, false);
            }
            Some(Meaning::Into) => {
                let inserts = before.is_some_and(|token| token.is_word(b"INSERT") || token.is_word(b"MERGE"));
                if !inserts && self.dialect == Dialect::Sql {
                    // SELECT INTO makes a table, which may be temporary, whatever comes before its name.
                    let effects = self.names.on_definition() | self.makes_temporary(temporary_name(*lexer));
                    self.add(effects | Effects::ASKS | Effects::SCAN, word);
                }
                self.introduced = Introduced::Next;
            }
            Some(Meaning::Update) => {
                self.sees_update = true;
                self.name(word, false);
            }
            Some(Meaning::SettingsView) => {
                self.sees_settings_view = true;
                self.name(word, false);
            }
            _ => {
                if introduced == Introduced::Next {
                    self.introduced = Introduced::Last;
                }
                self.name(word, false);
            }
        }
    }

    /// A name after a dot: of a column, or of a function, which may be called without a parenthesis (manual,
    /// 38.5.3).
    fn qualified(&mut self, name: &[u8], is_quoted: bool, lexer: &Lexer<'_>) {
        if self.introduced == Introduced::Next {
            self.introduced = Introduced::Last;
        }
        self.name(name, is_quoted);
        if self.in_temporary {
            let token = if is_quoted { Token::Quoted(name) } else { Token::Word(name) };
            let effects = self.makes_temporary(Some(token).filter(|_| !self.makes_type));
            self.add(effects, b"");
        }
        if name.eq_ignore_ascii_case(b"pg_settings") {
            self.sees_settings_view = true;
        }
        if lexer.peek() == Some(Token::Symbol(b'(')) {
            return;
        }
        match meaning(name) {
            Some(Meaning::Asks) => self.add(Effects::ASKS, b""),
            Some(Meaning::RunsText) => self.add(Effects::ANY, name),
            Some(Meaning::Scanned) => self.add(super::effects_in_body(name) | Effects::SCAN, name),
            _ => {}
        }
        if super::calls::LockFunction::named(name).is_some() || name.eq_ignore_ascii_case(b"set_config") {
            self.add(Effects::ANY, name);
        }
    }

    /// `LANGUAGE name`, of a body in the same statement.
    fn language(&mut self, lexer: &Lexer<'_>) {
        let is_read = match lexer.peek() {
            Some(Token::Word(name) | Token::Quoted(name) | Token::Text(name)) => {
                name.eq_ignore_ascii_case(b"plpgsql") || name.eq_ignore_ascii_case(b"sql")
            }
            _ => false,
        };
        if !is_read {
            self.add(Effects::ANY, b"");
        }
    }

    /// The first word of a statement.
    fn begin<'a>(&mut self, word: &'a [u8], lexer: &mut Lexer<'a>) {
        self.is_opened = false;
        if self.dialect == Dialect::PlPgSql && self.begin_in_block(word, lexer) {
            return;
        }
        self.at_start = false;
        self.statements += 1;
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        let effect = effect_of(word);
        let defines: [&[u8]; 7] =
            [b"GRANT", b"REVOKE", b"COMMENT", b"DROP", b"SECURITY", b"REFRESH", b"REINDEX"];
        if defines.iter().any(|verb| is(verb)) {
            let on_definition = self.names.on_definition();
            self.add(on_definition, word);
        }
        self.sees_update |= is(b"UPDATE");
        if is(b"WITH") || is(b"COPY") {
            self.introduced = Introduced::Next;
        }
        // Ends a transaction that was prepared elsewhere.
        if (is(b"COMMIT") || is(b"ROLLBACK")) && lexer.peek().is_some_and(|next| next.is_word(b"PREPARED")) {
            let on_definition = self.names.on_definition();
            self.add(on_definition | Effects::ASKS | Effects::DEFINES, word);
        }
        match effect {
            StatementEffect::None if is(b"SHOW") => self.add(Effects::SCAN, b""),
            StatementEffect::None => {}
            StatementEffect::Runs => {
                self.add(Effects::RUNS, b"");
                if [&b"ANALYZE"[..], b"VACUUM", b"REFRESH", b"REINDEX"].iter().any(|verb| is(verb)) {
                    let any = self.names.any();
                    self.add(any | Effects::ASKS, word);
                } else if is(b"EXECUTE") && self.depth > 0 {
                    // The statement is prepared elsewhere.
                    self.add(Effects::ANY, word);
                } else if is(b"EXECUTE") {
                    let any = self.names.any();
                    self.add(any | Effects::SCAN, word);
                } else if is(b"CALL") {
                    self.add(Effects::ASKS | Effects::SCAN, b"");
                }
            }
            StatementEffect::Changes if is(b"SET") && ends_with_transaction(*lexer) => {
                self.add(Effects::SCAN, b"")
            }
            StatementEffect::Changes => self.begin_change(word, lexer),
        }
    }

    fn begin_change(&mut self, word: &[u8], lexer: &Lexer<'_>) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        // Setting a value computes nothing.
        let runs = if is(b"SET") || is(b"RESET") { Effects::NONE } else { Effects::RUNS };
        self.add(Effects::ASKS | Effects::SCAN | runs, b"");
        if is(b"DO") {
            self.literals = Literals::Code;
        }
        // Dropping a table does not count, as tables come and go, above all temporary ones; a dropped
        // function may have been the reason for asking.
        let drops = is(b"DROP")
            && ![&b"TABLE"[..], b"INDEX", b"SEQUENCE"]
                .iter()
                .any(|kind| lexer.peek().is_some_and(|next| next.is_word(kind)));
        if !drops && !is(b"CREATE") && !is(b"ALTER") && !is(b"IMPORT") {
            return;
        }
        let on_definition = self.names.on_definition();
        self.add(on_definition, word);
        let is_routine = |token: Token<'_>| token.is_word(b"FUNCTION") || token.is_word(b"PROCEDURE");
        let makes_routine = lexer.take(6).any(is_routine);
        if makes_routine {
            self.literals = Literals::Code;
        }
        if is(b"CREATE") && makes_temporary_code(*lexer) {
            self.add(Effects::ANY, word);
        }
        let is_temporary = is(b"CREATE") && !makes_routine && creates_temporary(*lexer);
        let effects = match is_temporary {
            true => self.makes_temporary(temporary_name(*lexer)),
            false => Effects::DEFINES,
        };
        self.add(effects, b"");
        self.makes_type |= lexer.peek().is_some_and(|next| next.is_word(b"TYPE"));
    }

    /// The effects of making a temporary object with this name.
    fn makes_temporary(&mut self, name: Option<Token<'_>>) -> Effects {
        let is_read = |name: &[u8]| name.is_ascii() && !name.contains(&TEMPLATE_NAME[0]);
        match name {
            Some(Token::Word(name)) if is_read(name) => {
                with_folded(name, false, |name| self.names.makes_temporary(Some(name)))
            }
            Some(Token::Quoted(name)) if is_read(name) => {
                with_folded(name, true, |name| self.names.makes_temporary(Some(name)))
            }
            _ => self.names.makes_temporary(None),
        }
    }

    fn literal(&mut self, body: &[u8], sql: &[u8]) {
        if self.literals != Literals::Code {
            return;
        }
        if self.depth >= DEPTH_MAX {
            return self.add(Effects::ANY, b"");
        }
        let start = (body.as_ptr() as usize).wrapping_sub(sql.as_ptr() as usize);
        let is_dollar_quoted = start.checked_sub(1).and_then(|at| sql.get(at)) == Some(&b'$');
        let is_escaped = start.checked_sub(2).and_then(|at| sql.get(at)) == Some(&b'&');
        if is_escaped {
            return self.add(Effects::ANY, b"");
        }
        if !is_dollar_quoted && proof::goes_on(body) {
            return self.add(Effects::ANY, b"");
        }
        let text = if is_dollar_quoted { body.to_vec() } else { undoubled(body, b'\'') };
        if text.contains(&b'\\') && !is_dollar_quoted {
            return self.add(Effects::ANY, b"");
        }
        // The language may be given after the body.
        for dialect in [Dialect::PlPgSql, Dialect::Sql] {
            let effects = judge_body_at(&text, dialect, self.depth + 1, &mut *self.names);
            self.add(effects, b"");
        }
    }

    /// A name that is not a word of the grammar.
    fn name(&mut self, written: &[u8], is_quoted: bool) {
        if is_temporary(Token::Quoted(written)) {
            self.add(Effects::ASKS | Effects::SCAN, b"");
        }
        if is_quoted && written == b"pg_settings" {
            self.sees_settings_view = true;
        }
        if written == TEMPLATE_NAME {
            self.sees_settings_view = true;
            let any = self.names.any();
            return self.add(any | Effects::ASKS, written);
        }
        if !self.names.are_all_harmless() {
            let effects = with_folded(written, is_quoted, |name| self.names.effects(name));
            self.add(effects, written);
        }
    }

    /// `name` is followed by a parenthesis, and the lexer stands after it.
    fn call(&mut self, name: Token<'_>, is_qualified: bool, arguments: Lexer<'_>) {
        let (written, is_quoted) = match name {
            Token::Word(word) => (word, false),
            Token::Quoted(name) => (name, true),
            _ => return,
        };
        let is_put_in = written == TEMPLATE_NAME && self.introduced != Introduced::Last;
        if self.in_temporary || is_put_in {
            return self.add(Effects::ANY, written);
        }
        let is_plain = !is_quoted || !written.iter().any(u8::is_ascii_uppercase);
        let known = if is_plain { meaning(written) } else { None };
        match known {
            Some(Meaning::Harmless) => {}
            Some(Meaning::Scanned) => self.scanned(written, arguments),
            Some(Meaning::Asks) => self.add(Effects::ASKS, b""),
            Some(Meaning::RunsText) => self.add(Effects::ANY, written),
            Some(_) if !is_quoted && !is_qualified => {}
            _ if self.introduced == Introduced::Last => {}
            _ => {
                let effects = with_folded(written, is_quoted, |name| self.names.call(name));
                self.add(effects, written);
            }
        }
    }

    /// A call that the full scan reads; inside a body, which is not scanned, the effects that it may have.
    fn scanned(&mut self, function: &[u8], arguments: Lexer<'_>) {
        match self.depth {
            0 => self.add(Effects::SCAN, b""),
            _ if function.eq_ignore_ascii_case(b"set_config") && !calls::is_set_by_name(arguments) => {
                self.add(Effects::ANY, function);
            }
            _ => self.add(super::effects_in_body(function), function),
        }
    }
}

fn judge_body_at<N: Names>(body: &[u8], dialect: Dialect, depth: u8, names: &mut N) -> Effects {
    // A setting of the session that runs the body decides how its literals are read.
    let both = [Backslashes::Literal, Backslashes::Escape];
    let ways = if body.contains(&b'\\') { &both[..] } else { &both[..1] };
    let mut effects = Effects::NONE;
    for &backslashes in ways {
        let mut judge = Judge::new(body, &mut *names, dialect);
        judge.depth = depth;
        judge.text(body, backslashes);
        effects |= judge.verdict().effects;
    }
    match effects.has(Effects::ESCAPED) {
        // This is rare, so the body is not read again.
        true => Effects::ANY,
        false => effects.without(Effects::SCAN | Effects::RUNS),
    }
}

/// Whether this is `CREATE [OR REPLACE] [LOCAL] TEMP ...`. The object itself may have one of these words as
/// its name.
fn creates_temporary(mut lexer: Lexer<'_>) -> bool {
    let before: [&[u8]; 4] = [b"OR", b"REPLACE", b"LOCAL", b"GLOBAL"];
    let kind = lexer.find(|token| !before.iter().any(|word| token.is_word(word)));
    kind.is_some_and(|kind| kind.is_word(b"TEMP") || kind.is_word(b"TEMPORARY"))
}

/// Whether the text makes a temporary operator, cast, range, or domain with code. What they call runs where
/// no text names it, and is not looked up.
fn makes_temporary_code(mut lexer: Lexer<'_>) -> bool {
    let kinds: [(&[u8], &[&[u8]]); 4] =
        [(b"OPERATOR", &[]), (b"CAST", &[]), (b"TYPE", &[b"RANGE"]), (b"DOMAIN", &[b"CHECK", b"DEFAULT"])];
    let Some(kind) = lexer.next() else { return false };
    let Some((_, with)) = kinds.iter().find(|(word, _)| kind.is_word(word)) else { return false };
    let mut rest = lexer;
    let has_code = with.is_empty() || rest.any(|token| with.iter().any(|word| token.is_word(word)));
    has_code && lexer.any(is_temporary)
}

/// The name of the object that is made, after CREATE or INTO; `None`: it is in a form that is not read here.
fn temporary_name(mut lexer: Lexer<'_>) -> Option<Token<'_>> {
    const BEFORE: [&[u8]; 14] = [
        b"OR",
        b"REPLACE",
        b"LOCAL",
        b"GLOBAL",
        b"TEMP",
        b"TEMPORARY",
        b"UNLOGGED",
        b"RECURSIVE",
        b"TABLE",
        b"VIEW",
        b"SEQUENCE",
        b"IF",
        b"NOT",
        b"EXISTS",
    ];
    let is_before = |token: &Token<'_>| BEFORE.iter().any(|word| token.is_word(word));
    let mut name = lexer.find(|token| !is_before(token))?;
    // An object with one of those words as its name may be followed by such a word.
    let is_behind = |word: &[u8]| {
        matches!(meaning(word), Some(Meaning::Reserved | Meaning::Introduces | Meaning::Into))
            || [&b"PARTITION"[..], b"OF"].iter().any(|other| word.eq_ignore_ascii_case(other))
    };
    if matches!(name, Token::Word(word) if is_behind(word)) {
        return None;
    }
    while lexer.peek() == Some(Token::Symbol(b'.')) {
        lexer.next();
        name = lexer.next()?;
    }
    Some(name)
}

fn is_temporary(name: Token<'_>) -> bool {
    matches!(name, Token::Word(name) | Token::Quoted(name) if super::starts(name, b"pg_temp"))
}

#[cfg(test)]
mod tests;
