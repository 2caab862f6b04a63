//! Accepting sockets and handing each to the worker with the fewest.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::worker::{Errand, Load};

/// Clients that have connected and are not yet accepted.
const BACKLOG: i32 = 1024;

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

    fn hand_over(&self, socket: std::net::TcpStream, address: SocketAddr) {
        let least = self.workers.iter().min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        if let Some((worker, load)) = least {
            // A worker that has ended drops it: the client sees its connection close.
            let _ = worker.send(Errand::Receive(socket, address, Load::take(load)));
        }
    }
}

pub(super) fn listen(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    addresses.iter().map(|&address| listen_on(address)).collect()
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The thread. Returns when told to close.
pub(super) fn run(listeners: Vec<TcpListener>, desk: Desk, closing: &CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let desk = Arc::new(desk);
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            accepting.spawn(accept_all(listener, Arc::clone(&desk), closing.clone()));
        }
        while accepting.join_next().await.is_some() {}
        Ok(())
    })
}

async fn accept_all(listener: tokio::net::TcpListener, desk: Arc<Desk>, closing: CancellationToken) {
    loop {
        // Cancel-safe: a connection that is not returned stays in the backlog.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let handed = accepted.and_then(|(tcp, address)| {
            let socket = tcp.into_std()?;
            prepare(&socket)?;
            Ok((socket, address))
        });
        match handed {
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
