//! The answers to questions about a session: rows of texts, and what is wrong with one that is not
//! understood.
//!
//! Owns how a text travels: as hexadecimal bytes, in UTF-8 or the encoding of the database, which no setting
//! of the session changes. It deliberately knows no question.

use crate::backend::QueryError;
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::wire::message::backend::ErrorFields;

pub(super) type Rows = Vec<Vec<Option<String>>>;

/// Why a session is pinned: its own statement_timeout is too short for the question for its state.
pub(in crate::session) const TIMEOUT_TOO_SHORT: &str = "a statement_timeout too short to read its state in";

/// Why a session's state is not known.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the state of the session cannot be asked for")]
    Query(#[from] QueryError),
    #[error("the server does not tell the state of the session: {fields}")]
    Refused { fields: Box<ErrorFields> },
    #[error("the state of the session reads {what}, which is not understood")]
    Answer { what: String },
}

impl SnapshotError {
    /// The session's own `statement_timeout` ended the question.
    pub fn is_too_slow(&self) -> bool {
        matches!(self, SnapshotError::Refused { fields } if fields.sqlstate() == SqlState::QUERY_CANCELED)
    }
}

impl Explain for SnapshotError {
    fn sqlstate(&self) -> SqlState {
        SqlState::INTERNAL_ERROR
    }

    fn blame(&self) -> Blame {
        match self {
            SnapshotError::Query(_) | SnapshotError::Refused { .. } => Blame::Server,
            SnapshotError::Answer { .. } => Blame::Platform,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }

    fn message(&self) -> String {
        "the state of the session could not be read".to_owned()
    }
}

/// The first statement of a question: by its own settings, a client's transactions may have to wait until no
/// serializable transaction that writes is open. After `SET TRANSACTION` the setting would be listed as one
/// of the session for ever; `SET LOCAL` leaves no trace.
pub(in crate::session) const AT_ONCE: &str = "SET LOCAL transaction_isolation TO 'read committed'; ";

/// In which encoding texts come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// As they are stored: no text fails to be converted.
    Database,
}

/// An SQL expression of type text, as hexadecimal bytes.
fn text(expression: &str, encoding: Encoding) -> String {
    let encoding = match encoding {
        Encoding::Utf8 => "'UTF8'",
        Encoding::Database => "pg_catalog.getdatabaseencoding()",
    };
    format!("pg_catalog.encode(pg_catalog.convert_to({expression}, {encoding}), 'hex')")
}

pub(super) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

pub(in crate::session) fn unhex(hex: &str) -> Option<String> {
    String::from_utf8(unhex_bytes(hex)?).ok()
}

fn unhex_bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.0.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8));
    bytes.collect::<Option<_>>().filter(|_| pairs.1.is_empty())
}

/// An expression between these marks stands for [`text`] of it.
pub(super) fn expand(parts: &str, marks: (&str, &str), encoding: Encoding) -> String {
    let mut sql = String::with_capacity(parts.len() * 2);
    let mut rest = parts;
    while let Some((before, after)) = rest.split_once(marks.0) {
        sql.push_str(before);
        let (expression, tail) = after.split_once(marks.1).unwrap_or((after, ""));
        sql.push_str(&text(expression, encoding));
        rest = tail;
    }
    sql.push_str(rest);
    sql
}

/// A row's fields, by position.
pub(super) struct Fields<'a> {
    kind: &'a str,
    row: &'a [Option<String>],
}

impl<'a> Fields<'a> {
    pub(super) fn of(row: &'a [Option<String>]) -> Fields<'a> {
        Fields { kind: row.first().and_then(Option::as_deref).unwrap_or_default(), row }
    }

    pub(super) fn kind(&self) -> &'a str {
        self.kind
    }

    pub(super) fn unexpected(&self, field: usize) -> SnapshotError {
        SnapshotError::Answer {
            what: format!("field {field} of \"{}\" as {:?}", self.kind, self.row.get(field)),
        }
    }

    pub(super) fn is_there(&self, field: usize) -> bool {
        matches!(self.row.get(field), Some(Some(_)))
    }

    pub(super) fn plain(&self, field: usize) -> Result<&str, SnapshotError> {
        self.row.get(field).and_then(Option::as_deref).ok_or_else(|| self.unexpected(field))
    }

    pub(super) fn text(&self, field: usize) -> Result<String, SnapshotError> {
        unhex(self.plain(field)?).ok_or_else(|| self.unexpected(field))
    }

    /// A text in the encoding in which it was asked for.
    pub(super) fn bytes(&self, field: usize) -> Result<Vec<u8>, SnapshotError> {
        unhex_bytes(self.plain(field)?).ok_or_else(|| self.unexpected(field))
    }

    pub(super) fn number<N: std::str::FromStr>(&self, field: usize) -> Result<N, SnapshotError> {
        self.plain(field)?.parse().map_err(|_| self.unexpected(field))
    }

    pub(super) fn optional_number<N: std::str::FromStr>(
        &self,
        field: usize,
    ) -> Result<Option<N>, SnapshotError> {
        if self.is_there(field) { self.number(field).map(Some) } else { Ok(None) }
    }

    pub(super) fn list(&self, field: usize) -> Result<Vec<u32>, SnapshotError> {
        let numbers = self.plain(field)?.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().map_err(|_| self.unexpected(field))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_survives_the_way_to_the_server_and_back() {
        for text in ["", "app.x", "it's \"quoted\" \\ {brace}", "größe"] {
            assert_eq!(unhex(&hex(text)).as_deref(), Some(text));
        }
        assert_eq!(unhex("4"), None);
        assert_eq!(unhex("zz"), None);
    }
}
