//! Errors in the text of a command, with their position.

use std::ops::Range;

use crate::error::{Blame, Explain, Retry, SqlState};

/// The kind of error, which decides the SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Syntax,
    Name,
    Value,
    TooLong,
    Unsupported,
}

/// An error in the text of a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Byte range in the text.
    pub span: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
    pub kind: ErrorKind,
}

impl SyntaxError {
    pub(in crate::admin) fn new(span: Range<usize>, message: impl Into<String>) -> SyntaxError {
        SyntaxError { span, message: message.into(), hint: None, kind: ErrorKind::Syntax }
    }

    pub(in crate::admin) fn with_hint(mut self, hint: impl Into<String>) -> SyntaxError {
        self.hint = Some(hint.into());
        self
    }

    pub(in crate::admin) fn of_kind(mut self, kind: ErrorKind) -> SyntaxError {
        self.kind = kind;
        self
    }

    pub(in crate::admin) fn of_name(self) -> SyntaxError {
        self.of_kind(ErrorKind::Name)
    }

    /// The field `P` of an ErrorResponse: characters, from 1.
    pub fn position(&self, text: &str) -> usize {
        text.get(..self.span.start).map_or(1, |before| before.chars().count() + 1)
    }
}

impl Explain for SyntaxError {
    fn sqlstate(&self) -> SqlState {
        match self.kind {
            ErrorKind::Syntax => SqlState::SYNTAX_ERROR,
            ErrorKind::Name => SqlState::INVALID_NAME,
            ErrorKind::Value => SqlState::INVALID_PARAMETER_VALUE,
            ErrorKind::TooLong => SqlState::PROGRAM_LIMIT_EXCEEDED,
            ErrorKind::Unsupported => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Client
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn message(&self) -> String {
        self.message.clone()
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
