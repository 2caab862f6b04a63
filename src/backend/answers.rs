//! The answers to a batch, collected up to the ReadyForQuery after each part of it.

use std::io;

use super::QueryError;
use crate::error::Severity;
use crate::wire::Violation;
use crate::wire::message::backend::{self, ErrorFields, FieldDescription, tag};
use crate::wire::message::{Header, frontend};

/// Limit for all answers to one batch together. The largest question is the one for a database's code, whose
/// parts have limits that add up to less.
const ANSWER_BYTES_MAX: usize = 96 * 1024 * 1024;

/// Memory that a value takes in addition to its text: an empty one has four bytes in the protocol.
const VALUE_BYTES: usize = size_of::<Option<String>>();

/// The answer to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultSet {
    /// Empty if the statement returns no rows, or if the batch did not ask for their description.
    pub columns: Vec<FieldDescription>,
    /// Values in text format; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// `SELECT 1`, `INSERT 0 1`; empty for an empty query and for a portal that has more rows.
    pub command: String,
}

/// Everything up to one ReadyForQuery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub results: Vec<ResultSet>,
    /// The error that ended it early.
    pub error: Option<ErrorFields>,
}

impl ResultSet {
    /// A value by row and column number; `None` if it is NULL or missing.
    pub fn value(&self, row: usize, column: usize) -> Option<&str> {
        self.rows.get(row)?.get(column)?.as_deref()
    }
}

/// Counts the ReadyForQuery messages that answer a batch.
///
/// A Query between an extended message and its Sync is refused: its answer depends on errors before it.
pub(super) fn replies_to(batch: &[u8]) -> Result<usize, QueryError> {
    let mut rest = batch;
    let (mut replies, mut unsynced) = (0, false);
    while let Some(header) =
        Header::parse(rest, batch.len()).map_err(|_| QueryError::Batch { reason: "a length is wrong" })?
    {
        rest = rest
            .get(header.message_bytes()..)
            .ok_or(QueryError::Batch { reason: "it ends inside a message" })?;
        match header.tag {
            frontend::tag::SYNC | frontend::tag::FUNCTION_CALL => (replies, unsynced) = (replies + 1, false),
            frontend::tag::QUERY if unsynced => {
                return Err(QueryError::Batch { reason: "a Query stands before the Sync" });
            }
            frontend::tag::QUERY => replies += 1,
            _ => unsynced = true,
        }
    }
    match (rest.is_empty(), unsynced) {
        (true, false) => Ok(replies),
        _ => Err(QueryError::Batch { reason: "it does not end with a Sync or a Query" }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Other,
}

/// The answers received so far.
pub(super) struct Answers {
    replies: Vec<Reply>,
    expected: usize,
    reply: Reply,
    result: ResultSet,
    /// FATAL: the server is about to close the connection.
    last_words: Option<ErrorFields>,
    encoding: Encoding,
    /// Size of the whole messages taken so far, and of the parsed results.
    pub(super) bytes: usize,
}

impl Answers {
    pub(super) fn expecting(expected: usize) -> Answers {
        Answers {
            replies: Vec::new(),
            expected,
            reply: Reply::default(),
            result: ResultSet::default(),
            last_words: None,
            encoding: Encoding::Utf8,
            bytes: 0,
        }
    }

    /// Fails before a message is received that would exceed the limit.
    pub(super) fn make_room(&self, message_bytes: usize) -> Result<(), QueryError> {
        match self.bytes.saturating_add(message_bytes) > ANSWER_BYTES_MAX {
            true => Err(QueryError::TooLarge { bytes_max: ANSWER_BYTES_MAX }),
            false => Ok(()),
        }
    }

    pub(super) fn into_replies(self) -> Result<Vec<Reply>, QueryError> {
        match self.encoding {
            Encoding::Utf8 => Ok(self.replies),
            Encoding::Other => Err(QueryError::Encoding),
        }
    }

    pub(super) fn complete(&self) -> bool {
        self.replies.len() >= self.expected
    }

    pub(super) fn next_reply(&mut self) {
        self.result = ResultSet::default();
        self.replies.push(std::mem::take(&mut self.reply));
    }

    fn next_result(&mut self, command: String) {
        let mut result = std::mem::take(&mut self.result);
        result.command = command;
        self.reply.results.push(result);
    }

    pub(super) fn read(&mut self, tag: u8, body: &[u8]) -> Result<(), QueryError> {
        match self.parse(tag, body) {
            Ok(()) => Ok(()),
            Err(QueryError::Protocol { source: Violation::NotUtf8 { .. } }) => {
                self.encoding = Encoding::Other;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn parse(&mut self, tag: u8, body: &[u8]) -> Result<(), QueryError> {
        let protocol = |source| QueryError::Protocol { source };
        match tag {
            tag::ROW_DESCRIPTION => {
                self.result.columns = backend::parse_row_description(body).map_err(protocol)?
            }
            tag::DATA_ROW => {
                let row = backend::parse_data_row(body).and_then(owned).map_err(protocol)?;
                self.make_room(row.len() * VALUE_BYTES)?;
                self.bytes += row.len() * VALUE_BYTES;
                self.result.rows.push(row);
            }
            tag::COMMAND_COMPLETE => {
                let command = backend::parse_command_complete(body).map_err(protocol)?.to_owned();
                self.next_result(command);
            }
            tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => self.next_result(String::new()),
            tag::FUNCTION_CALL_RESPONSE => {
                let value = backend::parse_function_call_response(body).map_err(protocol)?;
                self.result.rows.push(owned(vec![value]).map_err(protocol)?);
                self.next_result(String::new());
            }
            tag::ERROR_RESPONSE => {
                let fields = ErrorFields::parse(body).map_err(protocol)?;
                match fields.severity() {
                    Severity::Fatal => self.last_words = Some(fields),
                    _ => _ = self.reply.error.get_or_insert(fields),
                }
            }
            tag::PARSE_COMPLETE
            | tag::BIND_COMPLETE
            | tag::CLOSE_COMPLETE
            | tag::NO_DATA
            | tag::PARAMETER_DESCRIPTION
            | tag::COPY_OUT_RESPONSE
            | tag::COPY_DATA
            | tag::COPY_DONE => {}
            tag => return Err(QueryError::Unexpected { tag }),
        }
        Ok(())
    }

    pub(super) fn ended(self) -> QueryError {
        match self.last_words {
            Some(fields) => QueryError::server(fields),
            None => QueryError::Closed,
        }
    }

    pub(super) fn broke(self, source: io::Error) -> QueryError {
        match self.last_words {
            Some(fields) => QueryError::server(fields),
            None if source.kind() == io::ErrorKind::UnexpectedEof => QueryError::Closed,
            None if source.kind() == io::ErrorKind::ConnectionReset => QueryError::Closed,
            None => QueryError::Io { source },
        }
    }
}

fn owned(row: Vec<Option<&[u8]>>) -> Result<Vec<Option<String>>, Violation> {
    let text = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Violation::NotUtf8 { what: "DataRow" }),
    };
    row.into_iter().map(|value| value.map(text).transpose()).collect()
}
