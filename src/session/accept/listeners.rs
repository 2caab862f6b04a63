//! Accepting sockets and handing each to the worker with the fewest clients.
//!
//! ```text
//!   open --- close ---> what is in the backlog ---> closed
//!     |                         ^
//!     +--- make way ---> handshakes that have begun
//! ```

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rustix::event::{self, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::fd_reserve::FdReserve;
use super::new_client::{AcceptedSocket, LoadToken, NewClient};
use crate::event_loop::{self, Direction, More, Source};
use crate::frontend::listener::{self, Listener, SocketFile};
use crate::model::Peer;
use crate::session::Begun;

/// Pause after an error of the process, not of the socket, when a client cannot even be refused: avoids
/// spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TCP handshake that has begun ends within this time, unless the client is farther away than a database
/// client would be. Shorter than the second after which a client repeats a first packet that was not
/// answered.
const HANDSHAKE_MAX: Duration = Duration::from_millis(500);

/// Which process owns the connections that wait to be accepted when a listener closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Backlog {
    /// No other process would take them.
    Ours,
    /// The socket stays open in another process: they wait for that one.
    Shared,
}

/// What a listener is asked to do, and its answer.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct ListenerShutdown {
    /// Close at once.
    pub(in crate::session) closing: CancellationToken,
    /// Another process listens on the same addresses: close without refusing a client.
    pub(in crate::session) handing_over: CancellationToken,
    /// Set when the listeners are closed and every accepted client has been handed over.
    pub(in crate::session) closed: CancellationToken,
}

/// A command to a worker.
pub(in crate::session) enum WorkerCommand {
    Receive(Box<NewClient>),
    /// Accept clients as well.
    Accept(AcceptLoop, Begun),
    /// End every session at its next boundary, and all that are left after `drain`. Answered when none is
    /// left.
    Stop {
        drain: Duration,
        stopped: oneshot::Sender<()>,
    },
}

/// Hands clients to workers, and knows how many each worker has.
pub(in crate::session) struct Dispatcher {
    workers: Vec<(UnboundedSender<WorkerCommand>, Arc<AtomicUsize>)>,
    entering: TaskTracker,
    present: TaskTracker,
}

impl Dispatcher {
    /// `entering` counts clients that have connected and have no session yet, `present` those that have not
    /// left.
    pub(in crate::session) fn new(
        workers: &[UnboundedSender<WorkerCommand>],
        entering: &TaskTracker,
        present: &TaskTracker,
    ) -> Dispatcher {
        let workers = workers.iter().map(|worker| (worker.clone(), Arc::default())).collect();
        Dispatcher { workers, entering: entering.clone(), present: present.clone() }
    }

    fn dispatch(&self, socket: AcceptedSocket, address: Peer) {
        let open = self.workers.iter().filter(|(worker, _)| !worker.is_closed());
        let least = open.min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        if let Some((worker, load)) = least {
            let (load, entering) = (LoadToken::take(load, self.present.token()), self.entering.token());
            // A worker that has ended drops it: the client sees its connection close.
            let _ =
                worker.send(WorkerCommand::Receive(Box::new(NewClient { socket, address, load, entering })));
        }
    }
}

/// The listeners, and where their clients go.
pub(in crate::session) struct AcceptLoop {
    listeners: Vec<(Listener, FdReserve)>,
    backlog: Backlog,
    dispatcher: Dispatcher,
    shutdown: ListenerShutdown,
    /// Sets `closed` when dropped, also where the listeners could not be opened.
    closed: DropGuard,
}

impl AcceptLoop {
    /// Fails if there are too few descriptors to keep one back for refusals.
    pub(in crate::session) fn new(
        listeners: Vec<Listener>,
        backlog: Backlog,
        dispatcher: Dispatcher,
        shutdown: ListenerShutdown,
    ) -> io::Result<AcceptLoop> {
        let closed = shutdown.closed.clone().drop_guard();
        let with_spare = |listener| Ok((listener, FdReserve::open()?));
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(with_spare).collect();
        Ok(AcceptLoop { listeners: listeners?, backlog, dispatcher, shutdown, closed })
    }

    /// Runs on a thread of its own. Returns when told to close.
    pub(in crate::session) fn run(self, begun: Begun) -> io::Result<()> {
        event_loop::run(self.serve(begun), || ())?
    }

    /// Ends when told to close. Sends to `begun` when clients can connect.
    pub(in crate::session) async fn serve(self, begun: Begun) -> io::Result<()> {
        let _closed = self.closed;
        let task = |(listener, fd_reserve)| {
            let bound = BoundListener::new(listener)?;
            Ok(ListenerTask { bound, backlog: self.backlog, dispatcher: &self.dispatcher, fd_reserve })
        };
        let tasks: io::Result<Vec<ListenerTask<'_>>> = self.listeners.into_iter().map(task).collect();
        let tasks = tasks?;
        let _ = begun.send(());
        join_all(tasks.into_iter().map(|task| task.serve(self.shutdown.clone()))).await;
        Ok(())
    }
}

/// A listener on this thread's event loop.
enum BoundListener {
    Tcp {
        listener: Source<TcpListener>,
        /// Accepted sockets inherit its options. Not so where another process opened it: then each
        /// socket is checked.
        is_prepared: bool,
    },
    /// The file is dropped before the listener, so that no client connects to a listener that is about to
    /// close.
    Unix { _file: Option<SocketFile>, listener: Source<UnixListener> },
}

impl BoundListener {
    fn new(listener: Listener) -> io::Result<BoundListener> {
        match listener {
            Listener::Tcp(tcp) => {
                let is_prepared = listener::is_prepared(&tcp)?;
                Ok(BoundListener::Tcp { listener: Source::new(tcp)?, is_prepared })
            }
            Listener::Unix(unix, file) => {
                Ok(BoundListener::Unix { _file: file, listener: Source::new(unix)? })
            }
        }
    }

    /// Cancel-safe: a connection that is not returned stays in the backlog.
    async fn accept(&self) -> io::Result<(AcceptedSocket, Peer)> {
        match self {
            BoundListener::Tcp { listener, is_prepared } => {
                let (socket, address) = accept(listener).await?;
                let tcp = TcpStream::from(socket);
                if !is_prepared {
                    listener::prepare(&tcp)?;
                }
                // Without an address, the client has already left.
                let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
                let address = SocketAddr::try_from(address).map_err(|_| io::ErrorKind::ConnectionAborted)?;
                Ok((AcceptedSocket::Tcp(tcp), Peer::tcp(address)))
            }
            BoundListener::Unix { listener, .. } => {
                let (socket, _) = accept(listener).await?;
                Ok((AcceptedSocket::Unix(socket.into()), Peer::Unix))
            }
        }
    }

    /// From now on no new client connects here, as far as the kernel allows: another process listens.
    fn turn_round(&self) -> io::Result<()> {
        match self {
            BoundListener::Tcp { listener, .. } => {
                SockRef::from(listener.get_ref()).attach_filter(&NO_NEW_CONNECTIONS)
            }
            // The file with that name belongs to the other process.
            BoundListener::Unix { .. } => Ok(()),
        }
    }
}

/// A non-blocking socket, and its peer's address.
async fn accept(listener: &Source<impl AsFd>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    poll_fn(|cx| {
        listener.poll_transfer(Direction::Read, cx, |listener| {
            match acceptfrom_with(listener, flags) {
                Ok(accepted) => Ok((accepted, More::MayFollow)),
                // The kernel looks for a free descriptor before it looks for a client.
                Err(Errno::MFILE | Errno::NFILE) if !is_waited_at(listener)? => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                Err(error) => Err(error.into()),
            }
        })
    })
    .await
}

/// Whether a client waits to be accepted.
fn is_waited_at(listener: &impl AsFd) -> io::Result<bool> {
    let mut readable = [PollFd::new(listener, PollFlags::IN)];
    Ok(event::poll(&mut readable, Some(&Timespec::default()))? > 0)
}

/// A socket filter: drops a packet with SYN and without ACK, the first of a connection. The client sends it
/// again after a second, and the kernel gives it to the listener that is open then.
///
/// Flags are byte 13 of a TCP header. "BPF" in `linux/filter.h`: load a byte, mask, compare, return.
const NO_NEW_CONNECTIONS: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

struct ListenerTask<'a> {
    bound: BoundListener,
    backlog: Backlog,
    dispatcher: &'a Dispatcher,
    fd_reserve: FdReserve,
}

impl ListenerTask<'_> {
    async fn serve(mut self, shutdown: ListenerShutdown) {
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                accepted = self.bound.accept() => self.take(accepted).await,
                () = shutdown.closing.cancelled() => break,
                () = shutdown.handing_over.cancelled() => {
                    if self.backlog == Backlog::Ours {
                        self.hand_over_listeners().await;
                    }
                    break;
                }
            }
        }
        if self.backlog == Backlog::Shared {
            return;
        }
        // Clients that connected before the close still get a session.
        while let Some(Ok((socket, address))) = self.bound.accept().now_or_never() {
            self.dispatcher.dispatch(socket, address);
        }
    }

    async fn take(&mut self, accepted: io::Result<(AcceptedSocket, Peer)>) {
        match accepted {
            Ok((socket, address)) => {
                self.fd_reserve.recovered();
                self.dispatcher.dispatch(socket, address);
            }
            Err(error) if is_of_the_socket(&error) => {}
            Err(error) => {
                let refused =
                    self.fd_reserve.release(&error).and_then(|()| self.bound.accept().now_or_never());
                match refused {
                    Some(Ok((socket, _))) => self.fd_reserve.refuse(&socket),
                    _ => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
                self.fd_reserve.reopen();
            }
        }
    }

    /// Accepts clients that have begun their handshake; the kernel gives the others to the other process.
    async fn hand_over_listeners(&mut self) {
        if let Err(error) = self.bound.turn_round() {
            tracing::warn!(%error, "a client that connects just now may be turned away");
        }
        let rest = async {
            loop {
                let accepted = self.bound.accept().await;
                self.take(accepted).await;
            }
        };
        let _ = tokio::time::timeout(HANDSHAKE_MAX, rest).await;
    }
}

/// The client left before it was accepted; the next one may be there.
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::frontend::listener::{ListenOptions, Sharing};
    use crate::model::ListenOn;
    use crate::session::AuxRuntime;

    fn listen(address: SocketAddr) -> std::net::TcpListener {
        let on = vec![ListenOn::Tcp(address)];
        let (handed_over, sharing) = (Vec::new(), Sharing::InTurn);
        match Listener::open_all(ListenOptions { on, handed_over, unix_mode: 0, sharing }).unwrap().remove(0)
        {
            Listener::Tcp(listener) => listener,
            Listener::Unix(..) => unreachable!(),
        }
    }

    /// Runs it as a thread of the data plane would.
    fn on_loop<F: Future>(what: F) -> F::Output {
        let aux_runtime = AuxRuntime::start().unwrap();
        let _entered = aux_runtime.handle.enter();
        event_loop::run(what, || ()).unwrap()
    }

    #[test]
    fn a_socket_that_is_accepted_is_prepared_whoever_opened_the_listener() {
        on_loop(accepted_sockets_are_prepared());
    }

    async fn accepted_sockets_are_prepared() {
        let ours = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let handed_over = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        handed_over.set_nonblocking(true).unwrap();
        for listener in [ours, handed_over] {
            // Before it is on the event loop: the client waits in the backlog.
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let bound = BoundListener::new(Listener::Tcp(listener)).unwrap();
            let (socket, _) = bound.accept().await.unwrap();
            assert!(listener::is_prepared(&*socket.as_socket()).unwrap());
        }
    }

    #[test]
    fn who_connects_while_a_listener_makes_way_comes_to_the_next_one_and_who_had_connected_stays() {
        on_loop(a_listener_makes_way());
    }

    async fn a_listener_makes_way() {
        let old = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = old.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        let bound = BoundListener::new(Listener::Tcp(old)).unwrap();
        bound.turn_round().unwrap();
        // The old listener is the only one: a connection that begins now is for its successor.
        let late = tokio::task::spawn_blocking(move || TcpStream::connect(address));
        let Ok((AcceptedSocket::Tcp(mut accepted), _)) = bound.accept().await else {
            panic!("no client was accepted")
        };
        early.write_all(b"still here").unwrap();
        drop(early);
        accepted.set_nonblocking(false).unwrap();
        let mut said = String::new();
        accepted.read_to_string(&mut said).unwrap();
        assert_eq!(said, "still here");
        let grace = tokio::time::timeout(HANDSHAKE_MAX, bound.accept()).await;
        assert!(grace.is_err(), "the late one was let in here");
        let new = listen(address);
        drop(bound);
        late.await.unwrap().unwrap();
        assert!(new.accept().is_ok());
    }
}
