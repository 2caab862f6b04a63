//! The header that a load balancer sends before the client's first byte: the PROXY protocol, version 2.
//!
//! Owns the header's bytes. It deliberately decides nothing: the frontend decides from which addresses a
//! header is accepted.
//!
//! ```text
//!   signature   version, command   family, transport   length   addresses   more, not read
//!     12 bytes        1                   1               2     12, 36, 216
//! ```
//!
//! # Why only version 2
//! Its length is known after sixteen bytes, so exactly the header is read and no byte after it: a TLS
//! handshake must find the client's first byte in the socket. Version 1 has to be read byte by byte, and
//! every balancer supports both.
//!
//! Source: "The PROXY protocol, versions 1 & 2", section 2.2, of HAProxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Violation;
use super::cursor::Cursor;

/// The part with a fixed length, which contains the length of the rest.
pub const PREFIX_BYTES: usize = 16;

/// The longest rest that is read. Balancers add further data (names, certificates, identifiers) after the
/// addresses.
pub const REST_BYTES_MAX: usize = 4096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const WHAT: &str = "PROXY header";

/// The origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionSource {
    /// The balancer itself: a health check.
    Balancer,
    /// A client with an address that the balancer does not tell.
    Unknown,
    Tcp(SocketAddr),
    Unix,
}

/// The beginning of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    command: Command,
    family: u8,
    /// Bytes after the prefix.
    pub rest_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Local,
    Proxy,
}

impl Prefix {
    /// Fails if it is not a header, of another version, or longer than [`REST_BYTES_MAX`].
    pub fn parse(bytes: &[u8; PREFIX_BYTES]) -> Result<Prefix, Violation> {
        let mut cursor = Cursor::new(WHAT, bytes);
        if cursor.bytes(SIGNATURE.len())? != SIGNATURE {
            return Err(Violation::NoProxyHeader);
        }
        let command = match cursor.byte()? {
            0x20 => Command::Local,
            0x21 => Command::Proxy,
            other => return Err(cursor.invalid(i64::from(other))),
        };
        let [family, high, low] = [cursor.byte()?, cursor.byte()?, cursor.byte()?];
        let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
        match rest_bytes <= REST_BYTES_MAX {
            true => Ok(Prefix { command, family, rest_bytes }),
            false => Err(Violation::Length { what: WHAT, length: rest_bytes as i64 }),
        }
    }

    /// `rest` are the bytes after the prefix.
    pub fn source(self, rest: &[u8]) -> Result<ConnectionSource, Violation> {
        let mut cursor = Cursor::new(WHAT, rest);
        let source = match (self.command, self.family) {
            // The rest is to be ignored.
            (Command::Local, _) => ConnectionSource::Balancer,
            (Command::Proxy, 0x00) => ConnectionSource::Unknown,
            (Command::Proxy, 0x11) => {
                let (client, _ours) = (cursor.u32()?, cursor.u32()?);
                tcp(Ipv4Addr::from_bits(client).into(), &mut cursor)?
            }
            (Command::Proxy, 0x21) => {
                let (client, _ours) = (cursor.bytes(16)?, cursor.bytes(16)?);
                let client = client.first_chunk::<16>().copied().unwrap_or_default();
                tcp(Ipv6Addr::from(client).into(), &mut cursor)?
            }
            (Command::Proxy, 0x31) => cursor.bytes(216).map(|_| ConnectionSource::Unix)?,
            (Command::Proxy, other) => return Err(cursor.invalid(i64::from(other))),
        };
        Ok(source)
    }
}

fn tcp(client: IpAddr, cursor: &mut Cursor<'_>) -> Result<ConnectionSource, Violation> {
    let [high, low, _, _] = cursor.four()?;
    Ok(ConnectionSource::Tcp(SocketAddr::new(client, u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn read(bytes: &[u8]) -> Result<ConnectionSource, Violation> {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>().unwrap();
        let prefix = Prefix::parse(prefix)?;
        assert_eq!(prefix.rest_bytes, rest.len());
        prefix.source(rest)
    }

    const FOUR: [u8; 12] = [10, 1, 2, 3, 192, 0, 2, 1, 0x13, 0x88, 0x19, 0x20];

    #[test]
    fn the_client_of_each_family_is_read_and_what_follows_is_not() {
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 9;
        six[32..34].copy_from_slice(&[0x13, 0x88]);
        let more = [&FOUR[..], b"\x04\0\x01x"].concat();
        let cases = [
            (header(0x21, 0x11, &FOUR), ConnectionSource::Tcp("10.1.2.3:5000".parse().unwrap())),
            (header(0x21, 0x11, &more), ConnectionSource::Tcp("10.1.2.3:5000".parse().unwrap())),
            (header(0x21, 0x21, &six), ConnectionSource::Tcp("[2001::9]:5000".parse().unwrap())),
            (header(0x21, 0x31, &[7; 216]), ConnectionSource::Unix),
            (header(0x21, 0x00, b"anything"), ConnectionSource::Unknown),
            (header(0x20, 0x00, b""), ConnectionSource::Balancer),
            (header(0x20, 0x11, b"anything"), ConnectionSource::Balancer),
        ];
        for (bytes, source) in cases {
            assert_eq!(read(&bytes), Ok(source));
        }
    }

    #[test]
    fn what_is_no_header_or_too_short_or_too_long_is_refused() {
        for (command, family, length) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x21, 0x12, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
            (0x21, 0x31, 215),
        ] {
            assert!(
                read(&header(command, family, &vec![1; length])).is_err(),
                "{command:x} {family:x} {length}"
            );
        }
        let mut long = header(0x21, 0x11, &FOUR);
        long[14..16].copy_from_slice(&4097u16.to_be_bytes());
        assert!(matches!(Prefix::parse(long.first_chunk().unwrap()), Err(Violation::Length { .. })));
        for other in [*b"PROXY TCP4 10.1.", [0; 16], *b"\0\0\0\x08\x04\xd2\x16\x2f        "] {
            assert_eq!(Prefix::parse(&other), Err(Violation::NoProxyHeader));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(command in 0x1eu8..0x24, family: u8, rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&header(command, family, &rest));
        }
    }
}
