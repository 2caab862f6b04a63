//! Accepting sockets and handing each to the worker with the fewest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::worker::{Errand, Load};
use crate::frontend::listener::{Listener, SocketFile};
use crate::model::Peer;
use crate::tls::Stream;

/// After an error that concerns the process and not the socket (no file descriptors left), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client whose machine has vanished is noticed after this and some probes: its transaction keeps others waiting.
/// No TCP_USER_TIMEOUT: it would end a client that reads a large result slowly, too.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Knows how many each worker has.
pub(super) struct Desk {
    workers: Vec<(UnboundedSender<Errand>, Arc<AtomicUsize>)>,
}

impl Desk {
    pub(super) fn new(workers: &[UnboundedSender<Errand>]) -> Desk {
        Desk { workers: workers.iter().map(|worker| (worker.clone(), Arc::default())).collect() }
    }

    fn hand_over(&self, socket: Socket, address: Peer) {
        let least = self.workers.iter().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        if let Some((worker, load)) = least {
            // A worker that has ended drops it: the client sees its connection close.
            let _ = worker.send(Errand::Receive(socket, address, Load::take(load)));
        }
    }
}

/// The thread. Returns when told to close.
pub(super) fn run(listeners: Vec<Listener>, desk: Desk, closing: &CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let desk = Arc::new(desk);
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let place = Place::new(listener)?;
            accepting.spawn(accept_all(place, Arc::clone(&desk), closing.clone()));
        }
        while accepting.join_next().await.is_some() {}
        Ok(())
    })
}

/// An accepted socket, on its way to its worker.
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// On the runtime of the worker.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Socket::Tcp(tcp) => tokio::net::TcpStream::from_std(tcp).map(Stream::from),
            Socket::Unix(unix) => tokio::net::UnixStream::from_std(unix).map(Stream::from),
        }
    }
}

/// A listener on this thread's runtime.
enum Place {
    Tcp(tokio::net::TcpListener),
    /// Its file goes first, so that nobody comes to a door that is about to close.
    Unix {
        _file: SocketFile,
        listener: tokio::net::UnixListener,
    },
}

impl Place {
    fn new(listener: Listener) -> io::Result<Place> {
        match listener {
            Listener::Tcp(tcp) => tokio::net::TcpListener::from_std(tcp).map(Place::Tcp),
            Listener::Unix(unix, file) => {
                let listener = tokio::net::UnixListener::from_std(unix)?;
                Ok(Place::Unix { _file: file, listener })
            }
        }
    }

    /// Cancel-safe: a connection that is not returned stays in the backlog.
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Place::Tcp(listener) => {
                let (tcp, address) = listener.accept().await?;
                let tcp = tcp.into_std()?;
                prepare(&tcp)?;
                Ok((Socket::Tcp(tcp), Peer::tcp(address)))
            }
            Place::Unix { listener, .. } => {
                let (unix, _) = listener.accept().await?;
                Ok((Socket::Unix(unix.into_std()?), Peer::Unix))
            }
        }
    }
}

async fn accept_all(place: Place, desk: Arc<Desk>, closing: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = place.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => desk.hand_over(socket, address),
            Err(error) if is_of_the_socket(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn prepare(socket: &std::net::TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// The client was gone before it was accepted; the next one may be there.
fn is_of_the_socket(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}
