//! Reading a body from front to back without ever reading past its end.

use memchr::memchr;

use super::{PROTOCOL_MAJOR, PROTOCOL_MINOR_CLIENT};
use crate::error::{Blame, Explain, Retry, SqlState};

/// Bytes that the protocol does not allow. SQLSTATE 08P01, except for a protocol version (0A000) and a
/// startup packet without a role (28000), as PostgreSQL answers them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{what} ends too early")]
    Truncated { what: &'static str },
    #[error("{what} has {bytes} bytes too many")]
    Trailing { what: &'static str, bytes: usize },
    #[error("a string in {what} has no end")]
    Unterminated { what: &'static str },
    #[error("text in {what} is not UTF-8")]
    NotUtf8 { what: &'static str },
    #[error("invalid length of {what}: {length}")]
    Length { what: &'static str, length: i64 },
    #[error("invalid value in {what}: {value}")]
    Value { what: &'static str, value: i64 },
    /// A message that only a login may contain.
    #[error("a message of type '{}' after the login", char::from(*tag))]
    AfterLogin { tag: u8 },
    #[error("no PROXY header of version 2")]
    NoProxyHeader,
    #[error("a cancel key of {bytes} bytes")]
    CancelKey { bytes: usize },
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports {PROTOCOL_MAJOR}.0 to \
         {PROTOCOL_MAJOR}.{PROTOCOL_MINOR_CLIENT}"
    )]
    Protocol { major: u16, minor: u16 },
    #[error("no PostgreSQL user name specified in startup packet")]
    NoRole,
}

impl Explain for Violation {
    fn sqlstate(&self) -> SqlState {
        match self {
            Violation::Protocol { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Violation::NoRole => SqlState::INVALID_AUTHORIZATION,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// The sender. The error of the layer that read from a server wraps this one.
    fn blame(&self) -> Blame {
        Blame::Client
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn message(&self) -> String {
        self.to_string()
    }
}

/// The rest of a body. `what` names the message in errors.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(what: &'static str, body: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: body, what }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Violation::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Violation::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Violation> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Violation> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn four(&mut self) -> Result<[u8; 4], Violation> {
        self.array()
    }

    /// An Int16 that is a count.
    pub(crate) fn count(&mut self) -> Result<usize, Violation> {
        let count = self.i16()?;
        usize::try_from(count).map_err(|_| self.invalid(i64::from(count)))
    }

    /// An Int32 length and as many bytes; -1 is NULL.
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>, Violation> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => self.bytes(length).map(Some),
                Err(_) => Err(Violation::Length { what: self.what, length: i64::from(length) }),
            },
        }
    }

    /// A string up to its NUL, in any encoding.
    pub(crate) fn cstr(&mut self) -> Result<&'a [u8], Violation> {
        let Some(end) = memchr(0, self.rest) else {
            return Err(Violation::Unterminated { what: self.what });
        };
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }

    /// A string up to its NUL that must be UTF-8.
    pub(crate) fn text(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.cstr()?;
        std::str::from_utf8(bytes).map_err(|_| Violation::NotUtf8 { what: self.what })
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Fails if bytes are left.
    pub(crate) fn end(self) -> Result<(), Violation> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(Violation::Trailing { what: self.what, bytes }),
        }
    }

    pub(crate) fn invalid(&self, value: i64) -> Violation {
        Violation::Value { what: self.what, value }
    }
}
