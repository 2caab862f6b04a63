//! Writes answers as messages: the description of the columns, and rows in the formats that the client chose.

use std::borrow::Cow;

use bytes::BytesMut;

use super::answer::Row;
use super::column::Column;
use crate::error::{Refusal, SqlState};
use crate::wire::message::backend::{self, ResultColumn};
use crate::wire::message::frontend::{BINARY, TEXT};

/// The formats of a Bind; the default is text for all columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Formats(Vec<i16>);

impl Formats {
    /// No code means text for all columns, one code applies to all. See "Bind" in the chapter "Message
    /// Formats".
    pub(super) fn new(codes: Vec<i16>, columns: usize) -> Result<Formats, Refusal> {
        if let Some(code) = codes.iter().find(|code| ![TEXT, BINARY].contains(*code)) {
            let text = format!("unsupported format code: {code}");
            return Err(Refusal::error(SqlState::INVALID_PARAMETER_VALUE, text));
        }
        if codes.len() > 1 && codes.len() != columns {
            let text =
                format!("bind message has {} result formats but query has {columns} columns", codes.len());
            return Err(Refusal::error(SqlState::PROTOCOL_VIOLATION, text));
        }
        Ok(Formats(codes))
    }

    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => TEXT,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(TEXT),
        }
    }

    pub(super) fn describe(&self, out: &mut BytesMut, columns: &[Column]) {
        let described = columns.iter().enumerate().map(|(index, column)| ResultColumn {
            name: column.name,
            type_oid: column.kind.oid(),
            type_bytes: column.kind.bytes(),
            format: self.of(index),
        });
        backend::row_description(out, described);
    }

    /// A value that does not fit its column's type is a bug of ours; NULL is the least wrong answer then.
    pub(super) fn row(&self, out: &mut BytesMut, columns: &[Column], row: &Row) {
        let cells = row.iter().zip(columns).enumerate().map(|(index, (cell, column))| {
            let cell = cell.as_deref()?;
            match self.of(index) {
                BINARY => column.kind.binary(cell).map(Cow::Owned),
                _ => Some(Cow::Borrowed(cell.as_bytes())),
            }
        });
        let cells: Vec<Option<Cow<'_, [u8]>>> = cells.collect();
        let values: Vec<Option<&[u8]>> = cells.iter().map(Option::as_deref).collect();
        backend::data_row(out, &values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_format_is_for_all_columns_and_another_number_must_match() {
        let all = Formats::new(vec![BINARY], 3).unwrap();
        assert_eq!((all.of(0), all.of(2)), (BINARY, BINARY));
        let each = Formats::new(vec![TEXT, BINARY], 2).unwrap();
        assert_eq!((each.of(0), each.of(1)), (TEXT, BINARY));
        assert_eq!(Formats::default().of(5), TEXT);
        assert_eq!(Formats::new(vec![TEXT, BINARY], 3).unwrap_err().sqlstate.as_str(), "08P01");
        assert_eq!(Formats::new(vec![2], 1).unwrap_err().sqlstate.as_str(), "22023");
    }
}
