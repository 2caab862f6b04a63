//! A client that was accepted, on its way to the worker that serves it.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::model::Peer;
use crate::tls::{Socket, Stream};

/// An accepted client on its way to a worker.
pub(in crate::session) struct NewClient {
    pub(in crate::session) socket: AcceptedSocket,
    pub(in crate::session) address: Peer,
    /// The place in the worker's load that it takes.
    pub(in crate::session) load: LoadToken,
    /// Held until there is a session, or the client is closed.
    pub(in crate::session) entering: TaskTrackerToken,
}

/// An accepted socket.
pub(in crate::session) enum AcceptedSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AcceptedSocket {
    /// Called on the thread of the worker.
    pub(in crate::session) fn into_stream(self) -> io::Result<Stream> {
        match self {
            AcceptedSocket::Tcp(tcp) => Socket::tcp(tcp).map(Stream::from),
            AcceptedSocket::Unix(unix) => Socket::unix(unix).map(Stream::from),
        }
    }

    pub(in crate::session) fn as_socket(&self) -> SockRef<'_> {
        match self {
            AcceptedSocket::Tcp(tcp) => SockRef::from(tcp),
            AcceptedSocket::Unix(unix) => SockRef::from(unix),
        }
    }
}

/// One session's share of a worker's load.
pub(in crate::session) struct LoadToken {
    counter: Arc<AtomicUsize>,
    _present: TaskTrackerToken,
}

impl LoadToken {
    pub(in crate::session) fn take(counter: &Arc<AtomicUsize>, present: TaskTrackerToken) -> LoadToken {
        counter.fetch_add(1, Ordering::Relaxed);
        LoadToken { counter: Arc::clone(counter), _present: present }
    }
}

impl Drop for LoadToken {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}
