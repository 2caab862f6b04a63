//! The packets that open a connection: they have no type byte, and come before authentication.
//!
//! Owns the packets that can come first on a socket: SSLRequest, GSSENCRequest, CancelRequest,
//! StartupMessage. It does not decide which of them may come now, or twice; the frontend does. Start with
//! [`take`].
//!
//! # Why
//! These bytes come from any machine that reaches the port, so the length is checked before a byte is kept:
//! [`PACKET_BYTES_MAX`] is PostgreSQL's own MAX_STARTUP_PACKET_LENGTH.
//!
//! Source: "Message Formats" of the PostgreSQL manual; `ProcessStartupPacket` in `backend_startup.c`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::cursor::Cursor;
use super::message::put_cstr;
use super::{CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_MIN, PROTOCOL_MAJOR, PROTOCOL_MINOR_CLIENT, Violation};

pub const PACKET_BYTES_MIN: usize = 8;
pub const PACKET_BYTES_MAX: usize = 10_000;

/// First byte of a TLS ClientHello record: direct TLS, not a packet of PostgreSQL. No allowed length begins
/// with it.
pub const TLS_HANDSHAKE_BYTE: u8 = 0x16;

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

const WHAT: &str = "startup packet";

/// A packet that opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// Answered with one byte: `S` or `N`.
    Ssl,
    /// Answered with one byte: `G` or `N`.
    GssEnc,
    /// Never answered: the connection is closed.
    Cancel(CancelRequest),
    Startup(StartupMessage),
}

/// Requests the cancellation of another connection's running command.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    pub pid: i32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2. A secret.
    pub key: Bytes,
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// `3.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersion {
    pub major: u16,
    pub minor: u16,
}

/// The protocol version and the parameters of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    pub version: ProtocolVersion,
    /// In the order in which they came; a name may occur twice.
    pub parameters: Vec<(String, String)>,
}

/// Contents of NegotiateProtocolVersion for a client that asked for more than is supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    pub minor: u16,
    /// The unknown `_pq_.` parameters.
    pub unrecognized: Vec<String>,
}

impl StartupMessage {
    /// The last value of a parameter: as in PostgreSQL, the last one wins.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The role. Never empty: without one the packet is a [`Violation::NoRole`].
    pub fn role(&self) -> &str {
        self.parameter("user").unwrap_or_default()
    }

    /// The database; the role's name if none is given.
    pub fn database(&self) -> &str {
        match self.parameter("database") {
            None | Some("") => self.role(),
            Some(database) => database,
        }
    }

    /// All parameters except role and database: settings, `options`, `replication`. Protocol extensions
    /// (`_pq_.`) are left out.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters
            .iter()
            .filter(|(name, _)| name != "user" && name != "database" && !name.starts_with("_pq_."))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The minor version of this connection. 3.1 does not exist: a client that asks for it gets 3.0.
    pub fn minor(&self) -> u16 {
        match self.version.minor {
            0 | 1 => 0,
            _ => PROTOCOL_MINOR_CLIENT,
        }
    }

    /// The answer if the minor version differs from the client's, or if it asked for protocol extensions. At
    /// most one NegotiateProtocolVersion is sent on a connection.
    pub fn negotiation(&self) -> Option<Negotiation> {
        let names = self.parameters.iter().map(|(name, _)| name);
        let unrecognized: Vec<String> = names.filter(|name| name.starts_with("_pq_.")).cloned().collect();
        let minor = self.minor();
        if self.version.minor == minor && unrecognized.is_empty() {
            return None;
        }
        Some(Negotiation { minor, unrecognized })
    }
}

/// The length that a packet declares, including itself. `None`: four bytes have not arrived yet.
///
/// Fails with 08P01 for a length outside of 8 to 10 000 bytes, before anything is allocated.
pub fn declared_length(buffered: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(length) = buffered.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(bytes) if (PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&bytes) => Ok(Some(bytes)),
        _ => Err(Violation::Length { what: WHAT, length: i64::from(length) }),
    }
}

/// Takes one packet off the front of a buffer. `None`: it is not complete yet. Later bytes stay in the
/// buffer: after [`Opening::Ssl`] they were sent before the handshake and must end the connection.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Opening>, Violation> {
    let Some(length) = declared_length(buffer)? else {
        return Ok(None);
    };
    let Some(packet) = buffer.get(..length) else {
        return Ok(None);
    };
    let opening = parse(packet)?;
    buffer.advance(length);
    Ok(Some(opening))
}

/// Parses one whole packet, length included.
pub fn parse(packet: &[u8]) -> Result<Opening, Violation> {
    let declared = declared_length(packet)?;
    let mut cursor = Cursor::new(WHAT, packet);
    cursor.bytes(4)?;
    match declared {
        Some(length) if length == packet.len() => {}
        Some(length) if length > packet.len() => return Err(Violation::Truncated { what: WHAT }),
        _ => return Err(Violation::Length { what: WHAT, length: packet.len() as i64 }),
    }
    match cursor.i32()? {
        SSL_REQUEST => cursor.end().map(|()| Opening::Ssl),
        GSSENC_REQUEST => cursor.end().map(|()| Opening::GssEnc),
        CANCEL_REQUEST => parse_cancel(cursor).map(Opening::Cancel),
        version => parse_startup(version, cursor).map(Opening::Startup),
    }
}

fn parse_cancel(mut cursor: Cursor<'_>) -> Result<CancelRequest, Violation> {
    let pid = cursor.i32()?;
    let key = cursor.rest();
    if !(CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) {
        return Err(Violation::CancelKey { bytes: key.len() });
    }
    Ok(CancelRequest { pid, key: Bytes::copy_from_slice(key) })
}

fn parse_startup(version: i32, mut cursor: Cursor<'_>) -> Result<StartupMessage, Violation> {
    let [a, b, c, d] = version.to_be_bytes();
    let version = ProtocolVersion { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) };
    if version.major != PROTOCOL_MAJOR {
        return Err(Violation::Protocol { major: version.major, minor: version.minor });
    }
    let mut parameters = Vec::new();
    loop {
        let name = cursor.text()?;
        if name.is_empty() {
            break;
        }
        parameters.push((name.to_owned(), cursor.text()?.to_owned()));
    }
    cursor.end()?;
    let message = StartupMessage { version, parameters };
    if message.role().is_empty() {
        return Err(Violation::NoRole);
    }
    Ok(message)
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut BytesMut) {
    out.put_i32(8);
    out.put_i32(SSL_REQUEST);
}

/// Appends a GSSENCRequest.
pub fn gssenc_request(out: &mut BytesMut) {
    out.put_i32(8);
    out.put_i32(GSSENC_REQUEST);
}

/// Appends a CancelRequest.
pub fn cancel_request(out: &mut BytesMut, pid: i32, key: &[u8]) {
    let length = i32::try_from(12 + key.len()).unwrap_or(i32::MAX);
    out.put_i32(length);
    out.put_i32(CANCEL_REQUEST);
    out.put_i32(pid);
    out.put_slice(key);
}

/// Appends a StartupMessage of protocol `3.minor`. A name or value is truncated at its first NUL; a parameter
/// with an empty name is left out, because it would end the list.
pub fn startup_message<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let start = out.len();
    out.put_i32(0);
    out.put_u16(PROTOCOL_MAJOR);
    out.put_u16(minor);
    for (name, value) in parameters {
        if name.is_empty() || name.starts_with('\0') {
            continue;
        }
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    }
    out.put_u8(0);
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Explain, SqlState};

    fn startup(parameters: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        startup_message(&mut out, 0, parameters.iter().copied());
        out
    }

    fn every_opening() -> Vec<BytesMut> {
        let mut ssl = BytesMut::new();
        ssl_request(&mut ssl);
        let mut gss = BytesMut::new();
        gssenc_request(&mut gss);
        let mut cancel = BytesMut::new();
        cancel_request(&mut cancel, 7, &[1, 2, 3, 4]);
        let mut long_cancel = BytesMut::new();
        cancel_request(&mut long_cancel, 7, &[9; 256]);
        vec![ssl, gss, cancel, long_cancel, startup(&[("user", "ann"), ("options", "-c a=b")])]
    }

    #[test]
    fn every_opening_packet_cut_at_every_byte_waits_for_the_rest_and_then_is_taken_alone() {
        for packet in every_opening() {
            for cut in 0..packet.len() {
                let mut buffer = BytesMut::from(&packet[..cut]);
                assert_eq!(take(&mut buffer), Ok(None));
                assert_eq!(buffer.len(), cut);
                assert!(parse(&packet[..cut]).is_err());
            }
            let mut buffer = packet.clone();
            buffer.extend_from_slice(b"next");
            assert!(take(&mut buffer).unwrap().is_some());
            assert_eq!(&buffer[..], b"next");
        }
    }

    #[test]
    fn a_length_outside_of_the_bounds_is_refused_after_four_bytes() {
        for length in [-1, 0, 7, 10_001, i32::MAX, i32::MIN] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            let error = take(&mut buffer).unwrap_err();
            assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
        }
    }

    #[test]
    fn the_first_byte_of_a_tls_record_is_never_a_length() {
        let mut buffer = BytesMut::from(&[TLS_HANDSHAKE_BYTE, 3, 1, 0][..]);
        assert!(take(&mut buffer).is_err());
    }

    #[test]
    fn the_parameters_keep_their_order_and_the_last_of_a_name_wins() {
        let packet = startup(&[("user", "ann"), ("TimeZone", "UTC"), ("user", "bob"), ("_pq_.x", "1")]);
        let Ok(Opening::Startup(message)) = parse(&packet) else { panic!("not a startup message") };
        assert_eq!(message.role(), "bob");
        assert_eq!(message.database(), "bob");
        assert_eq!(message.settings().collect::<Vec<_>>(), [("TimeZone", "UTC")]);
        assert_eq!(
            message.negotiation(),
            Some(Negotiation { minor: 0, unrecognized: vec!["_pq_.x".to_owned()] })
        );
    }

    #[test]
    fn the_minor_version_that_is_spoken_is_told_where_it_is_not_the_one_that_was_asked_for() {
        for (asked, spoken) in [(0, 0), (1, 0), (2, 2), (3, 2), (9999, 2), (u16::MAX, 2)] {
            let mut packet = BytesMut::new();
            startup_message(&mut packet, asked, [("user", "ann")]);
            let Ok(Opening::Startup(message)) = parse(&packet) else { panic!("not a startup message") };
            assert_eq!(message.minor(), spoken);
            let told = (asked != spoken).then_some(Negotiation { minor: spoken, unrecognized: vec![] });
            assert_eq!(message.negotiation(), told, "{asked}");
        }
    }

    #[test]
    fn another_major_version_is_refused_in_the_words_of_postgresql() {
        let mut older = startup(&[("user", "ann")]);
        older[4..8].copy_from_slice(&(2i32 << 16).to_be_bytes());
        let violation = parse(&older).unwrap_err();
        assert_eq!(violation, Violation::Protocol { major: 2, minor: 0 });
        assert_eq!(violation.message(), "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
    }

    #[test]
    fn a_startup_message_without_a_role_or_an_end_is_refused() {
        assert_eq!(parse(&startup(&[("database", "shop")])), Err(Violation::NoRole));
        let mut endless = startup(&[("user", "ann")]);
        let last = endless.len() - 1;
        endless[last] = b'x';
        assert_eq!(parse(&endless), Err(Violation::Unterminated { what: WHAT }));
        let mut early = startup(&[("user", "ann"), ("", "x")]);
        early.extend_from_slice(b"x\0");
        let length = early.len() as i32;
        early[..4].copy_from_slice(&length.to_be_bytes());
        assert!(matches!(parse(&early), Err(Violation::Trailing { .. })));
    }

    #[test]
    fn a_cancel_key_is_four_to_256_bytes_long() {
        for (length, allowed) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
            let mut packet = BytesMut::new();
            cancel_request(&mut packet, -5, &vec![7; length]);
            assert_eq!(parse(&packet).is_ok(), allowed, "{length}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), length in 0u32..320) {
            let _ = parse(&bytes);
            let mut framed = BytesMut::from(&length.to_be_bytes()[..]);
            framed.extend_from_slice(&bytes);
            let before = framed.len();
            if let Ok(Some(_)) = take(&mut framed) {
                prop_assert_eq!(before - framed.len(), length as usize);
            }
        }

        #[test]
        fn what_is_built_is_read_back(pairs in proptest::collection::vec(("[a-z]{1,9}", "[^\0]{0,9}"), 0..9)) {
            let mut out = BytesMut::new();
            let given = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            startup_message(&mut out, 0, given.chain([("user", "ann")]));
            let Ok(Opening::Startup(message)) = parse(&out) else { panic!("not a startup message") };
            prop_assert_eq!(&message.parameters[..pairs.len()], &pairs[..]);
        }
    }
}
