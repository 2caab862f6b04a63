//! Which sequence values of a session a text asks for: the answers of `currval` and `lastval`.

use super::lexer::{Backslashes, Lexer, Token};
use super::{ends, starts};

/// Longer names are cut by PostgreSQL.
const NAME_BYTES_MAX: usize = 63;

/// What a text asks for; in doubt, more than that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemoryReads {
    /// The value that was drawn last, of any sequence.
    pub(crate) last: bool,
    pub(crate) sequences: SequencesRead,
}

/// The sequences that a text asks for the last value of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SequencesRead {
    /// Sequences with these names, in any schema.
    Named(Vec<Box<[u8]>>),
    Any,
}

impl Default for SequencesRead {
    fn default() -> SequencesRead {
        SequencesRead::Named(Vec::new())
    }
}

impl SequencesRead {
    /// Whether a sequence with this name is among them.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        match self {
            SequencesRead::Any => true,
            SequencesRead::Named(names) => names.iter().any(|known| **known == *name),
        }
    }
}

impl MemoryReads {
    pub(crate) const ANY: MemoryReads = MemoryReads { last: true, sequences: SequencesRead::Any };

    pub(crate) fn is_none(&self) -> bool {
        !self.last && self.sequences == SequencesRead::default()
    }

    pub(crate) fn add(&mut self, other: MemoryReads) {
        self.last |= other.last;
        match (&mut self.sequences, other.sequences) {
            (SequencesRead::Named(names), SequencesRead::Named(more)) => names.extend(more),
            (sequences, SequencesRead::Any) => *sequences = SequencesRead::Any,
            (SequencesRead::Any, _) => {}
        }
    }
}

/// How often one of the two functions is mentioned.
fn mentions(sql: &[u8]) -> usize {
    let is_one = |at: &usize| {
        starts(&sql[*at..], b"val") && (ends(&sql[..*at], b"curr") || ends(&sql[..*at], b"last"))
    };
    memchr::memchr2_iter(b'v', b'V', sql).filter(is_one).count()
}

/// Whether the body of a function may ask for values.
pub(crate) fn reads_memory(body: &[u8]) -> bool {
    mentions(body) > 0
}

/// The values that the text asks for by itself, without the functions that it calls.
pub(crate) fn memory_reads(sql: &[u8]) -> MemoryReads {
    let mut reads = MemoryReads::default();
    let mut mentions = mentions(sql);
    if mentions == 0 {
        return reads;
    }
    let mut lexer = Lexer::new(sql, Backslashes::Literal);
    while let Some(token) = lexer.next() {
        if lexer.peek() != Some(Token::Symbol(b'(')) {
            continue;
        }
        if token.is_name(b"lastval") {
            reads.last = true;
            mentions -= 1;
        } else if token.is_name(b"currval") {
            reads.add(MemoryReads { last: false, sequences: argument(lexer) });
            mentions -= 1;
        }
    }
    // The other mentions are in a block, or in a text that is run.
    if mentions > 0 { MemoryReads::ANY } else { reads }
}

/// The sequence in the argument of the call, if it is a literal. `lexer` stands before the parenthesis.
fn argument(mut lexer: Lexer<'_>) -> SequencesRead {
    lexer.next();
    let name = match lexer.next() {
        Some(Token::Text(literal)) => name_in(literal),
        _ => None,
    };
    let is_all = matches!(lexer.next(), Some(Token::Symbol(b')' | b':')));
    match name.filter(|_| is_all) {
        Some(name) => SequencesRead::Named(vec![name]),
        None => SequencesRead::Any,
    }
}

/// The name of the sequence without its schema, as PostgreSQL would read it; `None` if that is not simple.
fn name_in(literal: &[u8]) -> Option<Box<[u8]>> {
    let literal = literal.trim_ascii();
    let start = memchr::memrchr(b'.', literal).map_or(0, |dot| dot + 1);
    let (schema, name) = literal.split_at_checked(start)?;
    let quotes = |text: &[u8]| memchr::memchr_iter(b'"', text).count();
    let is_odd = |byte: &u8| matches!(byte, b'\\' | b'\'') || !byte.is_ascii();
    if literal.iter().any(is_odd) || quotes(schema) % 2 > 0 || name.len() > NAME_BYTES_MAX {
        return None;
    }
    match name.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"").filter(|name| quotes(name) == 0).map(Box::from),
        // A number is the sequence's object id.
        None if quotes(name) > 0 || name.first().is_none_or(u8::is_ascii_digit) => None,
        None => Some(name.to_ascii_lowercase().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> (bool, Vec<String>) {
        let reads = memory_reads(sql.as_bytes());
        let names = match reads.sequences {
            SequencesRead::Any => vec!["*".to_owned()],
            SequencesRead::Named(names) => {
                names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
            }
        };
        (reads.last, names)
    }

    #[test]
    fn a_literal_names_the_sequence() {
        assert_eq!(of("SELECT currval('t_id_seq')"), (false, vec!["t_id_seq".to_owned()]));
        assert_eq!(of("select CURRVAL ( 'Public.T_id_seq'::regclass )").1, ["t_id_seq"]);
        assert_eq!(of(r#"SELECT pg_catalog.currval('"Odd Schema"."T_id"')"#).1, ["T_id"]);
        assert_eq!(of("SELECT currval('a'), currval('b')").1, ["a", "b"]);
    }

    #[test]
    fn what_is_not_plain_may_be_any() {
        for sql in [
            "SELECT currval($1)",
            "SELECT currval('a' || 'b')",
            "SELECT currval(pg_get_serial_sequence('t', 'id'))",
            r#"SELECT currval('"a.b"')"#,
            "SELECT currval('größe')",
            "SELECT currval('16384')",
        ] {
            assert_eq!(of(sql), (false, vec!["*".to_owned()]), "{sql}");
        }
        for sql in ["DO $$ BEGIN PERFORM currval('a'); END $$", "SELECT f('select lastval()')"] {
            assert_eq!(memory_reads(sql.as_bytes()), MemoryReads::ANY, "{sql}");
        }
    }

    #[test]
    fn lastval_names_none_and_most_texts_ask_for_nothing() {
        assert_eq!(of("SELECT LASTVAL()"), (true, Vec::new()));
        assert!(memory_reads(b"INSERT INTO t VALUES (nextval('s'), 'last value')").is_none());
        assert!(memory_reads(b"SELECT 1").is_none());
    }
}
