//! Answers as messages: the description of the columns, and rows in the formats that the client chose.

use std::sync::Arc;

use futures_util::stream;
use pgwire::api::portal::Format;
use pgwire::api::results::{DataRowEncoder, FieldInfo, QueryResponse};
use pgwire::error::PgWireResult;
use pgwire::messages::data::DataRow;

use crate::admin::answer::{Answer, Row};
use crate::admin::column::{Column, ColumnType, Numeric};
use crate::error::{Refusal, SqlState};
use crate::wire::message::frontend::{BINARY, TEXT};

/// Whether the result formats of a Bind fit these columns: no code means text for all, one code applies to
/// all. See "Bind" in the chapter "Message Formats".
///
/// pgwire takes an unknown code for text, and panics where there are fewer codes than columns.
pub(in crate::admin) fn check_formats(codes: &[i16], columns: usize) -> Result<(), Refusal> {
    if let Some(code) = codes.iter().find(|code| ![TEXT, BINARY].contains(*code)) {
        let text = format!("unsupported format code: {code}");
        return Err(Refusal::error(SqlState::INVALID_PARAMETER_VALUE, text));
    }
    if codes.len() > 1 && codes.len() != columns {
        let text = format!("bind message has {} result formats but query has {columns} columns", codes.len());
        return Err(Refusal::error(SqlState::PROTOCOL_VIOLATION, text));
    }
    Ok(())
}

pub(in crate::admin) fn fields(columns: &[Column], format: &Format) -> Vec<FieldInfo> {
    let described = columns.iter().enumerate().map(|(index, column)| {
        FieldInfo::new(column.name.to_owned(), None, None, column.kind.postgres(), format.format_for(index))
            .with_type_size(column.kind.bytes())
    });
    described.collect()
}

/// The rows of an answer, encoded when they are fetched. Their number is the exact size hint of the stream.
pub(in crate::admin) fn response(answer: Answer, format: &Format) -> QueryResponse {
    let columns = answer.columns;
    let schema = Arc::new(fields(columns, format));
    let mut encoder = DataRowEncoder::new(Arc::clone(&schema));
    let rows = answer.rows.into_iter().map(move |row| encode(&mut encoder, columns, &row));
    let mut response = QueryResponse::new(schema, stream::iter(rows));
    response.set_command_tag(&answer.tag);
    response
}

/// A value that does not fit its column's type is a bug of ours; NULL is the least wrong answer then.
fn encode(encoder: &mut DataRowEncoder, columns: &[Column], row: &Row) -> PgWireResult<DataRow> {
    for (cell, column) in row.iter().zip(columns) {
        let cell = cell.as_deref();
        match column.kind {
            ColumnType::Text => encoder.encode_field(&cell)?,
            ColumnType::Int4 => encoder.encode_field(&cell.and_then(|cell| cell.parse::<i32>().ok()))?,
            ColumnType::Int8 => encoder.encode_field(&cell.and_then(|cell| cell.parse::<i64>().ok()))?,
            ColumnType::Numeric => {
                encoder.encode_field(&cell.and_then(|cell| cell.parse().ok().map(Numeric)))?
            }
        }
    }
    Ok(encoder.take_row())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: ColumnType, value: &str, format: i16) -> Option<Vec<u8>> {
        let columns = [Column { name: "a", kind }];
        let mut encoder = DataRowEncoder::new(Arc::new(fields(&columns, &Format::from(format))));
        let row = encode(&mut encoder, &columns, &vec![Some(value.to_owned())]).unwrap();
        let (length, value) = row.data.split_first_chunk::<4>().unwrap();
        match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                assert_eq!(usize::try_from(length).unwrap(), value.len());
                Some(value.to_vec())
            }
        }
    }

    #[test]
    fn numbers_have_the_binary_form_of_their_type() {
        assert_eq!(encoded(ColumnType::Int4, "-2", BINARY), Some(vec![0xff, 0xff, 0xff, 0xfe]));
        assert_eq!(encoded(ColumnType::Int8, "258", BINARY), Some(vec![0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(encoded(ColumnType::Int4, "3000000000", BINARY), None);
        // As `SELECT numeric_send(120003)` answers: two digits, the first of weight 1.
        assert_eq!(
            encoded(ColumnType::Numeric, "120003", BINARY),
            Some(vec![0, 2, 0, 1, 0, 0, 0, 0, 0, 12, 0, 3])
        );
        assert_eq!(encoded(ColumnType::Numeric, "0", BINARY), Some(vec![0; 8]));
        assert_eq!(encoded(ColumnType::Text, "ä", BINARY), Some("ä".as_bytes().to_vec()));
    }

    #[test]
    fn text_is_the_form_that_postgresql_writes() {
        for (kind, value) in [
            (ColumnType::Int4, "-2"),
            (ColumnType::Int8, "258"),
            (ColumnType::Numeric, "120003"),
            (ColumnType::Text, "{\"ä\"}"),
        ] {
            assert_eq!(encoded(kind, value, TEXT).as_deref(), Some(value.as_bytes()));
        }
    }

    #[test]
    fn one_format_is_for_all_columns_and_another_number_must_match() {
        for (codes, columns) in [(&[][..], 5), (&[BINARY], 3), (&[BINARY], 0), (&[TEXT, BINARY], 2)] {
            assert_eq!(check_formats(codes, columns), Ok(()));
        }
        assert_eq!(check_formats(&[TEXT, BINARY], 3).unwrap_err().sqlstate.as_str(), "08P01");
        assert_eq!(check_formats(&[2], 1).unwrap_err().sqlstate.as_str(), "22023");
    }
}
