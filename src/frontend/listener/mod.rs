//! Where clients connect: TCP addresses and Unix sockets.
//!
//! Owns the listening sockets and their files. It deliberately accepts no connection: the session layer does.

mod socket_file;

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

pub use self::socket_file::SocketFile;
use crate::model::ListenOn;

/// Detects that a client machine has vanished: its open transaction may block other clients. No
/// TCP_USER_TIMEOUT: it would also end a client that reads a large result slowly.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// The port in the name of a Unix socket if there is no TCP address to take it from.
pub const PORT_DEFAULT: u16 = 6432;

/// How to open the listening sockets.
#[derive(Debug)]
pub struct ListenOptions {
    pub on: Vec<ListenOn>,
    /// Open already, and kept open by the process that started this one. If there are any, `on` is ignored.
    pub handed_over: Vec<Listener>,
    /// Permissions of the Unix sockets: write permission is what lets a client connect.
    pub unix_mode: u32,
    pub sharing: Sharing,
}

/// Whether two processes may listen on the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Alone,
    /// Another Freehold may: it takes over from this one, or this one from it.
    InTurn,
}

/// Why a listening socket cannot be opened.
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

/// A listening socket. When dropped, it is closed and its file removed.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// With its file, if this process made it.
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// The sockets that a service manager handed over (`LISTEN_FDS`, see sd_listen_fds(3)). Call it once,
    /// when the process starts: it removes the variables.
    pub fn from_service_manager() -> io::Result<Vec<Listener>> {
        let mut handed_over = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..handed_over.len() {
            let tcp = handed_over.take_tcp_listener(index).map(|tcp| tcp.map(Listener::Tcp));
            let unix =
                |_| handed_over.take_unix_listener(index).map(|it| it.map(|unix| Listener::Unix(unix, None)));
            listeners.extend(tcp.or_else(unix)?);
        }
        Ok(listeners)
    }

    /// Opens all sockets, or none. They are non-blocking.
    pub fn open_all(options: ListenOptions) -> Result<Vec<Listener>, ListenError> {
        if !options.handed_over.is_empty() {
            let unblocked = options.handed_over.into_iter().map(Listener::unblocked);
            return unblocked.collect::<io::Result<_>>().map_err(|source| failed(&"LISTEN_FDS", source));
        }
        let mut listeners = Vec::new();
        for address in options.on.iter().filter_map(ListenOn::tcp) {
            listeners.push(Listener::Tcp(
                listen_on(address, options.sharing).map_err(|source| failed(&address, source))?,
            ));
        }
        let port = listeners.iter().find_map(Listener::local_addr).map_or(PORT_DEFAULT, |it| it.port());
        for on in &options.on {
            if let ListenOn::Unix(directory) = on {
                let (listener, file) = SocketFile::listen(directory, port, &options)?;
                listeners.push(Listener::Unix(listener, Some(file)));
            }
        }
        Ok(listeners)
    }

    fn unblocked(self) -> io::Result<Listener> {
        match &self {
            Listener::Tcp(listener) => listener.set_nonblocking(true)?,
            Listener::Unix(listener, _) => listener.set_nonblocking(true)?,
        }
        Ok(self)
    }

    /// `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// `None` for a TCP socket.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(_, Some(file)) => Some(file.path().to_owned()),
            Listener::Unix(listener, None) => listener.local_addr().ok()?.as_pathname().map(Path::to_owned),
        }
    }
}

fn failed(on: &dyn Display, source: io::Error) -> ListenError {
    ListenError::Open { on: on.to_string(), source }
}

/// Sets the options of a client's socket, or of a listener before it listens: accepted sockets inherit them.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether [`prepare`] has set the options.
pub fn is_prepared(socket: &impl AsFd) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    Ok(socket.tcp_nodelay()?
        && socket.keepalive()?
        && socket.tcp_keepalive_time()? == KEEPALIVE_AFTER
        && socket.tcp_keepalive_interval()? == KEEPALIVE_INTERVAL
        && socket.tcp_keepalive_retries()? == KEEPALIVE_PROBES)
}

fn listen_on(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::InTurn)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    prepare(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
