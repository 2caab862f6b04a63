//! Which prepared statements a text names: those that it prepares, executes or deallocates by SQL.

use super::judge::folded;
use super::lexer::{Backslashes, Lexer, Token};

/// What a command does with a prepared statement that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedUse {
    Prepares,
    Executes,
    Deallocates,
    /// `DEALLOCATE ALL`, `DISCARD ALL`: it names none.
    DeallocatesAll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatementUse {
    /// Folded as PostgreSQL folds it.
    pub(crate) name: Box<[u8]>,
    pub(crate) does: NamedUse,
}

/// The uses in a text of one command. Nearly every text is told by its first word.
pub(crate) fn uses_in_command(sql: &[u8]) -> Vec<StatementUse> {
    let mut uses = Vec::new();
    read_command(&mut Lexer::new(sql, Backslashes::Literal), &mut uses);
    uses
}

/// The uses in a text of any number of commands, in the order of the text. It is read to its end only where a
/// second command may follow.
pub(crate) fn uses_in_text(sql: &[u8]) -> Vec<StatementUse> {
    let text = sql.trim_ascii_end();
    if memchr::memchr(b';', text.strip_suffix(b";").unwrap_or(text)).is_none() {
        return uses_in_command(sql);
    }
    let mut uses = Vec::new();
    let mut lexer = Lexer::new(sql, Backslashes::Literal);
    while lexer.peek().is_some() {
        read_command(&mut lexer, &mut uses);
        while lexer.next().is_some_and(|token| token != Token::Symbol(b';')) {}
    }
    uses
}

/// Reads as much of a command as has to be read, and nothing of the next one.
fn read_command(lexer: &mut Lexer<'_>, uses: &mut Vec<StatementUse>) {
    let Some(Token::Word(verb)) = lexer.peek() else { return };
    let is = |word: &[u8]| verb.eq_ignore_ascii_case(word);
    let mut add = |token: Option<Token<'_>>, does: NamedUse| {
        if let Some(name) = token.and_then(folded) {
            uses.push(StatementUse { name: name.into(), does });
        }
    };
    match () {
        () if is(b"EXECUTE") || is(b"PREPARE") => {
            lexer.next();
            add(lexer.peek(), if is(b"EXECUTE") { NamedUse::Executes } else { NamedUse::Prepares });
        }
        () if is(b"DEALLOCATE") => {
            lexer.next();
            let (mut name, mut ahead) = (lexer.peek(), *lexer);
            ahead.next();
            let next = ahead.peek().filter(|next| *next != Token::Symbol(b';'));
            if name.is_some_and(|name| name.is_word(b"PREPARE")) && next.is_some() {
                name = next;
            }
            match name.is_some_and(|name| name.is_word(b"ALL")) {
                true => add(name, NamedUse::DeallocatesAll),
                false => add(name, NamedUse::Deallocates),
            }
        }
        () if is(b"DISCARD") => {
            lexer.next();
            add(lexer.peek().filter(|what| what.is_word(b"ALL")), NamedUse::DeallocatesAll);
        }
        // EXPLAIN EXECUTE, CREATE TABLE ... AS EXECUTE.
        () if is(b"EXPLAIN") || is(b"CREATE") => {
            while let Some(token) = lexer.peek().filter(|token| *token != Token::Symbol(b';')) {
                lexer.next();
                if token.is_word(b"EXECUTE") {
                    add(lexer.peek(), NamedUse::Executes);
                }
            }
        }
        () => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uses: &[StatementUse]) -> String {
        let one = |named: &StatementUse| {
            let does = match named.does {
                NamedUse::Prepares => "+",
                NamedUse::Executes => "!",
                NamedUse::Deallocates => "-",
                NamedUse::DeallocatesAll => "--",
            };
            format!("{does}{}", String::from_utf8_lossy(&named.name))
        };
        uses.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_text_names_statements_wherever_sql_can() {
        for (sql, expected) in [
            ("EXECUTE S1(1, 2)", "!s1"),
            ("/* x */ execute \"S \"\"1\"", "!S \"1"),
            ("PREPARE a (int) AS SELECT $1", "+a"),
            ("deallocate a", "-a"),
            ("deallocate prepare a", "-a"),
            ("deallocate prepare", "-prepare"),
            ("deallocate prepare all", "--all"),
            ("deallocate \"all\"; discard all", "-all --all"),
            ("discard plans", ""),
            ("explain (analyze, costs off) execute s1", "!s1"),
            ("create temp table t as execute s1(7) with no data", "!s1"),
            ("select 5; execute s1; ;deallocate s1;", "!s1 -s1"),
            ("select 'execute s1; execute s2'; execute s3 -- ; execute s4", "!s3"),
            ("select $$; execute s1; $$", ""),
            ("execute", ""),
            ("deallocate", ""),
            ("deallocate prepare;", "-prepare"),
        ] {
            assert_eq!(shown(&uses_in_text(sql.as_bytes())), expected, "{sql}");
        }
    }

    #[test]
    fn one_command_is_read_by_its_own_words_only() {
        assert_eq!(shown(&uses_in_command(b"select 5; execute s1")), "");
        assert_eq!(shown(&uses_in_command(b"explain execute s1")), "!s1");
        assert_eq!(shown(&uses_in_command(b"explain select 1; execute s1")), "");
    }
}
