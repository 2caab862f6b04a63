//! Where clients come in: TCP addresses and Unix sockets.
//!
//! Owns the listening sockets and what of the file system belongs to them. It deliberately accepts nobody: who hands out
//! what comes in is the session layer.

mod socket_file;

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

pub use self::socket_file::SocketFile;
use crate::model::ListenOn;

/// Clients that have connected and are not yet accepted.
const BACKLOG: i32 = 1024;

/// The port in the name of a Unix socket where there is no TCP address to take it from.
pub const PORT_DEFAULT: u16 = 6432;

/// How the places to listen on are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenOptions {
    pub on: Vec<ListenOn>,
    /// Permissions of the Unix sockets: who may write may connect.
    pub unix_mode: u32,
    pub sharing: Sharing,
}

/// Whether two processes may listen on the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Alone,
    /// Another Freehold may: it takes over from this one, or this one from it.
    InTurn,
}

/// Why nobody can come in there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{on}")]
    Open {
        on: String,
        #[source]
        source: io::Error,
    },
    #[error("{}: {} listens there", path.display(), by(*.pid))]
    Occupied { path: PathBuf, pid: Option<u32> },
    #[error("{} is no socket; remove it, if nobody needs it", path.display())]
    NotASocket { path: PathBuf },
    #[error("{} is locked by another process that starts or ends", path.display())]
    Locked { path: PathBuf },
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// An open place. Closed, and its file removed, when dropped.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Opens all of them, or none. The sockets do not block.
    pub fn open_all(options: &ListenOptions) -> Result<Vec<Listener>, ListenError> {
        let mut listeners = Vec::new();
        for address in options.on.iter().filter_map(ListenOn::tcp) {
            listeners.push(Listener::Tcp(
                listen_on(address, options.sharing).map_err(|source| failed(&address, source))?,
            ));
        }
        let port = listeners.iter().find_map(Listener::local_addr).map_or(PORT_DEFAULT, |it| it.port());
        for on in &options.on {
            if let ListenOn::Unix(directory) = on {
                let (listener, file) = SocketFile::listen(directory, port, options)?;
                listeners.push(Listener::Unix(listener, file));
            }
        }
        Ok(listeners)
    }

    /// `None`: it is a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// `None`: it is a TCP socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(_, file) => Some(file.path()),
        }
    }
}

fn failed(on: &dyn Display, source: io::Error) -> ListenError {
    ListenError::Open { on: on.to_string(), source }
}

fn listen_on(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::InTurn)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
