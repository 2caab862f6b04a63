//! Messages with a type byte: [`frontend`] are those that a client sends, [`backend`] those that a server
//! sends.
//!
//! Each side has its type bytes, the builders (they append a whole message to a buffer) and the parsers of
//! bodies. A *body* is the part after the length. A *message* is type byte, length and body.
//!
//! # Why
//! Freehold is a server to clients and a client to servers, so both directions are built and both are parsed.

pub mod backend;
pub mod frontend;

use bytes::{BufMut, BytesMut};

use super::Violation;

/// Type byte and length.
pub const HEADER_BYTES: usize = 5;

/// PostgreSQL's own limit of one message: `PQ_LARGE_MESSAGE_LIMIT`, which is MaxAllocSize - 1.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff - 1;

/// The header before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes that follow the header.
    pub body_bytes: usize,
}

impl Header {
    /// Reads the header at the front of a buffer. `None`: five bytes have not arrived yet.
    ///
    /// Fails with 08P01 if the length is below 4 or above `body_bytes_max`, before anything is allocated.
    pub fn parse(buffered: &[u8], body_bytes_max: usize) -> Result<Option<Header>, Violation> {
        let Some([tag, length @ ..]) = buffered.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        match body {
            Some(body_bytes) if body_bytes <= body_bytes_max => Ok(Some(Header { tag: *tag, body_bytes })),
            _ => Err(Violation::Length { what: "message", length: i64::from(length) }),
        }
    }

    pub fn message_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes
    }
}

/// Appends a message; `body` writes its body, which has to stay below [`MESSAGE_BYTES_MAX`].
pub(crate) fn put(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_i32(0);
    body(out);
    debug_assert!(out.len() - start <= MESSAGE_BYTES_MAX);
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its NUL. A NUL inside would end it early on the other side anyway, so it is truncated
/// there.
pub(crate) fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// Appends an Int16 count; the protocol counts up to 32767.
fn put_count(out: &mut BytesMut, count: usize) {
    out.put_i16(i16::try_from(count).unwrap_or(i16::MAX));
}

/// State of a connection as ReadyForQuery reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    /// In a transaction that failed: every command is refused until it ends.
    Failed,
}

impl TransactionStatus {
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    pub fn as_byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// The object of Describe and Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Statement,
    Portal,
}

impl Target {
    fn as_byte(self) -> u8 {
        match self {
            Target::Statement => b'S',
            Target::Portal => b'P',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_known_after_five_bytes_and_bounded_before_anything_is_kept() {
        assert_eq!(Header::parse(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(Header::parse(b"Q\0\0\0\x05x", 100), Ok(Some(Header { tag: b'Q', body_bytes: 1 })));
        for length in [-1i32, 0, 3, 105, i32::MAX] {
            let mut message = vec![b'Q'];
            message.extend_from_slice(&length.to_be_bytes());
            assert!(Header::parse(&message, 100).is_err(), "{length}");
        }
    }

    #[test]
    fn a_string_with_a_nul_inside_cannot_smuggle_a_second_string() {
        let mut out = BytesMut::new();
        put_cstr(&mut out, b"shop\0evil");
        assert_eq!(&out[..], b"shop\0");
    }
}
