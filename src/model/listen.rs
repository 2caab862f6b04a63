//! The addresses of a process, and the addresses of its clients.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// An address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenOn {
    Tcp(SocketAddr),
    /// A directory: the socket in it is named `.s.PGSQL.<port>`, as PostgreSQL names its own.
    Unix(PathBuf),
}

impl ListenOn {
    /// `127.0.0.1:6432`, `[::1]:6432`, or an absolute directory.
    pub fn parse(text: &str) -> Option<ListenOn> {
        match text.starts_with('/') {
            true => Some(ListenOn::Unix(PathBuf::from(text))),
            false => text.parse().ok().map(ListenOn::Tcp),
        }
    }

    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            ListenOn::Tcp(address) => Some(*address),
            ListenOn::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenOn::Tcp(address) => address.fmt(f),
            ListenOn::Unix(directory) => directory.display().fmt(f),
        }
    }
}

/// A client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl Peer {
    /// An IPv4 address that an IPv6 socket has accepted is shown and checked as an IPv4 address.
    pub fn tcp(address: SocketAddr) -> Peer {
        Peer::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        }
    }
}

/// `127.0.0.1:5000`, or `unix` as PgBouncer shows it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_an_absolute_directory_is_a_place_to_listen_on() {
        for text in ["127.0.0.1:6432", "[::1]:0", "/run/freehold"] {
            assert_eq!(ListenOn::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "run", "./run", "127.0.0.1", "localhost:6432", ":6432"] {
            assert_eq!(ListenOn::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_one_it_maps() {
        let peer = Peer::tcp("[::ffff:10.1.2.3]:5000".parse().unwrap());
        assert_eq!(peer.to_string(), "10.1.2.3:5000");
        assert_eq!(peer.ip(), "10.1.2.3".parse().ok());
        assert_eq!((Peer::Unix.to_string().as_str(), Peer::Unix.ip()), ("unix", None));
    }
}
