//! The two families of functions that change a session from within an expression: `set_config` and the
//! session-level advisory locks (manual, 9.28.1 and 9.28.10). `_xact_` locks end with their transaction and
//! are not reported.

use super::lexer::{Lexer, Token};
use super::{ScanFinding, SettingName};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOperation {
    /// Waits, so a row in the result means that the lock was taken.
    Lock,
    /// Taken if the result is true.
    TryLock,
    /// Released once if the result is true.
    Unlock,
    /// Nothing is held afterwards.
    UnlockAll,
}

/// Where a part of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    Literal(i64),
    Parameter(u16),
    Computed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// `pg_advisory_unlock_all()`
    Every,
    Bigint(Operand),
    Pair(Operand, Operand),
}

/// A lock call in the select list of a statement without FROM, or as its only FROM item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockCall {
    /// Which statement of the text, from 0.
    pub statement: u16,
    /// Which column of its result shows the outcome, from 0.
    pub column: u16,
    pub operation: LockOperation,
    pub shared: bool,
    pub key: KeySource,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LockFunction {
    operation: LockOperation,
    shared: bool,
}

const LOCK_FUNCTIONS: &[(&[u8], LockOperation, bool)] = &[
    (b"pg_advisory_lock", LockOperation::Lock, false),
    (b"pg_advisory_lock_shared", LockOperation::Lock, true),
    (b"pg_try_advisory_lock", LockOperation::TryLock, false),
    (b"pg_try_advisory_lock_shared", LockOperation::TryLock, true),
    (b"pg_advisory_unlock", LockOperation::Unlock, false),
    (b"pg_advisory_unlock_shared", LockOperation::Unlock, true),
    (b"pg_advisory_unlock_all", LockOperation::UnlockAll, false),
];

impl LockFunction {
    pub(super) fn named(name: &[u8]) -> Option<LockFunction> {
        let (_, operation, shared) =
            LOCK_FUNCTIONS.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(name))?;
        Some(LockFunction { operation: *operation, shared: *shared })
    }
}

/// Reports the calls of a SELECT that does nothing but lock: `SELECT f(..) [[AS] a] [, ...]` or
/// `SELECT * FROM f(..)`. `false`: it is not of that shape, and nothing was reported.
pub(super) fn report_lock_calls(lexer: Lexer<'_>, statement: u16, sink: &mut dyn FnMut(ScanFinding)) -> bool {
    const CALLS_MAX: usize = 8;
    let mut calls: [Option<LockCall>; CALLS_MAX] = [None; CALLS_MAX];
    let found = Shape { lexer }.select(statement, &mut calls).is_some() && calls[0].is_some();
    if found {
        calls.into_iter().flatten().for_each(|call| sink(ScanFinding::Lock(call)));
    }
    found
}

/// A strict reader of one shape of statement; each method returns `None` for any other text.
struct Shape<'a> {
    lexer: Lexer<'a>,
}

impl<'a> Shape<'a> {
    fn select(mut self, statement: u16, calls: &mut [Option<LockCall>]) -> Option<()> {
        self.lexer.next().filter(|token| token.is_word(b"SELECT"))?;
        if self.accept(b'*') {
            self.lexer.next().filter(|token| token.is_word(b"FROM"))?;
            let call = self.lock_call(statement, 0)?;
            calls.first_mut()?.replace(call);
            self.alias()?;
            return self.end();
        }
        let mut slots = calls.iter_mut();
        for column in 0.. {
            match self.constant() {
                true => {}
                false => {
                    let call = self.lock_call(statement, column)?;
                    slots.next()?.replace(call);
                }
            }
            self.alias()?;
            if !self.accept(b',') {
                return self.end();
            }
        }
        None
    }

    fn accept(&mut self, symbol: u8) -> bool {
        let accepted = self.lexer.peek() == Some(Token::Symbol(symbol));
        if accepted {
            self.lexer.next();
        }
        accepted
    }

    fn end(&mut self) -> Option<()> {
        match self.lexer.next() {
            None | Some(Token::Symbol(b';')) => Some(()),
            _ => None,
        }
    }

    fn constant(&mut self) -> bool {
        let is_constant = match self.lexer.peek() {
            Some(Token::Text(_) | Token::Number(_) | Token::Parameter(_)) => true,
            Some(token) => token.is_word(b"NULL") || token.is_word(b"TRUE") || token.is_word(b"FALSE"),
            None => false,
        };
        if is_constant {
            self.lexer.next();
        }
        is_constant
    }

    /// `AS name`, `name`, or nothing. A cast of the outcome would hide it.
    fn alias(&mut self) -> Option<()> {
        match self.lexer.peek() {
            None | Some(Token::Symbol(b',' | b';')) => return Some(()),
            Some(token) if token.is_word(b"AS") => {
                self.lexer.next();
            }
            _ => {}
        }
        let is_clause = |token: &Token<'_>| {
            let clauses: [&[u8]; 14] = [
                b"FROM",
                b"WHERE",
                b"GROUP",
                b"HAVING",
                b"WINDOW",
                b"UNION",
                b"INTERSECT",
                b"EXCEPT",
                b"ORDER",
                b"LIMIT",
                b"OFFSET",
                b"FETCH",
                b"FOR",
                b"INTO",
            ];
            clauses.iter().any(|clause| token.is_word(clause))
        };
        let name = self.lexer.next()?;
        let is_name = matches!(name, Token::Word(_) | Token::Quoted(_)) && !is_clause(&name);
        is_name.then_some(())
    }

    fn lock_call(&mut self, statement: u16, column: u16) -> Option<LockCall> {
        let mut name = self.lexer.next()?;
        if self.accept(b'.') {
            if !name.is_name(b"pg_catalog") {
                return None;
            }
            name = self.lexer.next()?;
        }
        let (Token::Word(word) | Token::Quoted(word)) = name else {
            return None;
        };
        let function = LockFunction::named(word)?;
        if !self.accept(b'(') {
            return None;
        }
        let key = self.key()?;
        Some(LockCall { statement, column, operation: function.operation, shared: function.shared, key })
    }

    /// The arguments and the closing parenthesis.
    fn key(&mut self) -> Option<KeySource> {
        if self.accept(b')') {
            return Some(KeySource::Every);
        }
        let first = argument(&mut self.lexer)?;
        match first.end {
            End::Close => Some(KeySource::Bigint(first.operand())),
            End::Comma => {
                let second = argument(&mut self.lexer)?;
                matches!(second.end, End::Close).then(|| KeySource::Pair(first.operand(), second.operand()))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Comma,
    Close,
}

/// One argument of a call, if it is simple enough to be known.
struct Argument<'a> {
    value: Option<Token<'a>>,
    negative: bool,
    end: End,
}

impl Argument<'_> {
    fn operand(&self) -> Operand {
        match self.value {
            Some(Token::Parameter(number)) if !self.negative => Operand::Parameter(number),
            Some(Token::Number(digits) | Token::Text(digits)) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.trim().parse::<i128>().ok())
                .map(|number| if self.negative { -number } else { number })
                .and_then(|number| i64::try_from(number).ok())
                .map_or(Operand::Computed, Operand::Literal),
            _ => Operand::Computed,
        }
    }
}

/// A longer argument counts as unknown: otherwise calls inside calls would be read again for each of them.
const ARGUMENT_TOKENS_MAX: u32 = 64;

/// Reads one argument with the comma or parenthesis that ends it. `None`: the text ends first, it is too
/// long, or it contains a lock call or a `set_config`.
fn argument<'a>(lexer: &mut Lexer<'a>) -> Option<Argument<'a>> {
    let mut value = None;
    let mut negative = false;
    let mut tokens = 0u32;
    let mut read = 0u32;
    let mut depth = 0u32;
    // `::type`, `::type(n)` or `::schema.type` after a simple value does not change it.
    let mut cast = false;
    loop {
        let token = lexer.next()?;
        let end = match token {
            Token::Symbol(b',') if depth == 0 => Some(End::Comma),
            Token::Symbol(b')') if depth == 0 => Some(End::Close),
            _ => None,
        };
        if let Some(end) = end {
            return Some(Argument { value: value.filter(|_| tokens == 1), negative, end });
        }
        match token {
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth -= 1,
            Token::Symbol(b';') => return None,
            Token::Word(word) | Token::Quoted(word) if LockFunction::named(word).is_some() => return None,
            token if token.is_name(b"set_config") => return None,
            _ if read == ARGUMENT_TOKENS_MAX => return None,
            _ => read += 1,
        }
        match token {
            Token::Symbol(b'-') if tokens == 0 && !negative => negative = true,
            Token::Symbol(b':') if tokens == 1 => cast = true,
            Token::Word(word) if cast && is_plain_type(word) => {}
            Token::Symbol(b'.') if cast => {}
            token => {
                tokens += 1;
                value = Some(token);
                cast = false;
            }
        }
    }
}

/// Types to which a cast leaves a literal unchanged.
fn is_plain_type(word: &[u8]) -> bool {
    let types: [&[u8]; 11] = [
        b"pg_catalog",
        b"text",
        b"varchar",
        b"name",
        b"int",
        b"integer",
        b"int2",
        b"int4",
        b"int8",
        b"bigint",
        b"smallint",
    ];
    types.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Reports the setting that a `set_config(` names. The lexer stands before the parenthesis. `is_prepared`: it
/// runs later, with parameters that are not seen.
pub(super) fn set_config(mut lexer: Lexer<'_>, is_prepared: bool, sink: &mut dyn FnMut(ScanFinding)) {
    lexer.next();
    set_config_of(lexer, is_prepared, sink);
}

/// Whether what a `set_config` sets is known from its text. The lexer stands behind the parenthesis.
pub(super) fn is_set_by_name(lexer: Lexer<'_>) -> bool {
    let mut is_known = true;
    set_config_of(lexer, true, &mut |finding| is_known &= matches!(finding, ScanFinding::Setting(_)));
    is_known
}

fn set_config_of(mut lexer: Lexer<'_>, is_prepared: bool, sink: &mut dyn FnMut(ScanFinding)) {
    let Some(name) = argument(&mut lexer) else {
        return sink(ScanFinding::SettingComputed);
    };
    match name.value {
        Some(Token::Text(text)) if text.eq_ignore_ascii_case(b"seed") => {
            sink(ScanFinding::Foreign(super::SEED))
        }
        Some(Token::Text(text)) => match SettingName::of(text) {
            SettingName::Custom(name) => sink(ScanFinding::Setting(name)),
            SettingName::Listed => {}
            // It may contain escapes.
            SettingName::Odd => sink(ScanFinding::SettingComputed),
        },
        Some(Token::Parameter(number)) if !is_prepared => sink(ScanFinding::SettingParameter(number)),
        _ if is_local(&mut lexer) => {}
        _ => sink(ScanFinding::SettingComputed),
    }
}

/// Whether a `set_config(` sets until the end of the transaction only.
pub(super) fn is_for_transaction(mut lexer: Lexer<'_>) -> bool {
    lexer.next();
    argument(&mut lexer).is_some() && is_local(&mut lexer)
}

/// Reports the setting that a `current_setting(` names, where it is literal.
pub(super) fn current_setting(mut lexer: Lexer<'_>, sink: &mut dyn FnMut(ScanFinding)) {
    lexer.next();
    if let Some(Argument { value: Some(Token::Text(text)), .. }) = argument(&mut lexer)
        && let SettingName::Custom(name) = SettingName::of(text)
    {
        sink(ScanFinding::Setting(name));
    }
}

/// Whether the third argument is the literal `true`: then the setting ends with its transaction.
fn is_local(lexer: &mut Lexer<'_>) -> bool {
    let value = argument(lexer);
    let local = argument(lexer);
    value.is_some()
        && local.is_some_and(|local| match local.value {
            _ if local.negative => false,
            Some(Token::Text(text)) => text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"t"),
            Some(token) => token.is_word(b"TRUE"),
            None => false,
        })
}
