//! Accepting sockets and handing each to the worker with the fewest.
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
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Begun;
use super::spare::Spare;
use super::worker::{Errand, Load};
use crate::event_loop::{self, Direction, More, Source};
use crate::frontend::listener::{self, Listener, SocketFile};
use crate::model::Peer;
use crate::tls::{Socket, Stream};

/// After an error that concerns the process and not the socket, where nobody could even be refused: instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TCP handshake that has begun ends within this, or its client is farther away than anybody who runs a database's
/// client. Shorter than the second after which a client asks again whose first packet was not answered.
const HANDSHAKE_MAX: Duration = Duration::from_millis(500);

/// Whose connections are that wait to be accepted when a door closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backlog {
    /// Nobody else would take them.
    Ours,
    /// The socket stays open elsewhere: they wait for the next process.
    Shared,
}

/// What the door is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Doorbell {
    /// Closes at once.
    pub(super) closing: CancellationToken,
    /// Another process listens on the same places: closes without turning anybody away.
    pub(super) making_way: CancellationToken,
    /// The door tells that it is closed, and everybody who came has been handed over.
    pub(super) closed: CancellationToken,
}

/// Knows how many each worker has.
pub(super) struct Desk {
    workers: Vec<(UnboundedSender<Errand>, Arc<AtomicUsize>)>,
    entering: TaskTracker,
    present: TaskTracker,
}

/// Somebody on the way to a worker.
pub(super) struct Arrival {
    pub(super) socket: Accepted,
    pub(super) address: Peer,
    /// The place in the worker's load that it takes.
    pub(super) load: Load,
    /// Until it is a session, or nothing.
    pub(super) entering: TaskTrackerToken,
}

impl Desk {
    /// `entering` counts those who have come and have no session yet, `present` those who have come and have not left.
    pub(super) fn new(
        workers: &[UnboundedSender<Errand>],
        entering: &TaskTracker,
        present: &TaskTracker,
    ) -> Desk {
        let workers = workers.iter().map(|worker| (worker.clone(), Arc::default())).collect();
        Desk { workers, entering: entering.clone(), present: present.clone() }
    }

    fn hand_over(&self, socket: Accepted, address: Peer) {
        let open = self.workers.iter().filter(|(worker, _)| !worker.is_closed());
        let least = open.min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        if let Some((worker, load)) = least {
            let (load, entering) = (Load::take(load, self.present.token()), self.entering.token());
            // A worker that has ended drops it: the client sees its connection close.
            let _ = worker.send(Errand::Receive(Box::new(Arrival { socket, address, load, entering })));
        }
    }
}

/// Where clients come in, and to whom they are led.
pub(super) struct Lobby {
    listeners: Vec<(Listener, Spare)>,
    backlog: Backlog,
    desk: Desk,
    bell: Doorbell,
    /// Tells that it is closed, also where it could not be opened.
    closed: DropGuard,
}

impl Lobby {
    /// Fails where there are too few descriptors to refuse anybody.
    pub(super) fn new(
        listeners: Vec<Listener>,
        backlog: Backlog,
        desk: Desk,
        bell: Doorbell,
    ) -> io::Result<Lobby> {
        let closed = bell.closed.clone().drop_guard();
        let with_spare = |listener| Ok((listener, Spare::open()?));
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(with_spare).collect();
        Ok(Lobby { listeners: listeners?, backlog, desk, bell, closed })
    }

    /// A thread of its own. Returns when told to close.
    pub(super) fn run(self, begun: Begun) -> io::Result<()> {
        event_loop::run(self.serve(begun), || ())?
    }

    /// Ends when told to close. `begun` is told when clients can come in.
    pub(super) async fn serve(self, begun: Begun) -> io::Result<()> {
        let _closed = self.closed;
        let door = |(listener, spare)| {
            let place = Place::new(listener)?;
            Ok(Door { place, backlog: self.backlog, desk: &self.desk, spare })
        };
        let doors: io::Result<Vec<Door<'_>>> = self.listeners.into_iter().map(door).collect();
        let doors = doors?;
        let _ = begun.send(());
        join_all(doors.into_iter().map(|door| door.serve(self.bell.clone()))).await;
        Ok(())
    }
}

/// An accepted socket.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    /// On the thread of the worker.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Accepted::Tcp(tcp) => Socket::tcp(tcp).map(Stream::from),
            Accepted::Unix(unix) => Socket::unix(unix).map(Stream::from),
        }
    }

    pub(super) fn as_socket(&self) -> SockRef<'_> {
        match self {
            Accepted::Tcp(tcp) => SockRef::from(tcp),
            Accepted::Unix(unix) => SockRef::from(unix),
        }
    }
}

/// A listener on this thread's event loop.
enum Place {
    Tcp {
        listener: Source<TcpListener>,
        /// What it accepts has what it has. Not so where somebody else opened it: then each socket is asked for it.
        is_prepared: bool,
    },
    /// Its file goes first, so that nobody comes to a door that is about to close.
    Unix { _file: Option<SocketFile>, listener: Source<UnixListener> },
}

impl Place {
    fn new(listener: Listener) -> io::Result<Place> {
        match listener {
            Listener::Tcp(tcp) => {
                let is_prepared = listener::is_prepared(&tcp)?;
                Ok(Place::Tcp { listener: Source::new(tcp)?, is_prepared })
            }
            Listener::Unix(unix, file) => Ok(Place::Unix { _file: file, listener: Source::new(unix)? }),
        }
    }

    /// Cancel-safe: a connection that is not returned stays in the backlog.
    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Place::Tcp { listener, is_prepared } => {
                let (socket, address) = accept(listener).await?;
                let tcp = TcpStream::from(socket);
                if !is_prepared {
                    listener::prepare(&tcp)?;
                }
                // Without an address the client has left again.
                let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
                let address = SocketAddr::try_from(address).map_err(|_| io::ErrorKind::ConnectionAborted)?;
                Ok((Accepted::Tcp(tcp), Peer::tcp(address)))
            }
            Place::Unix { listener, .. } => {
                let (socket, _) = accept(listener).await?;
                Ok((Accepted::Unix(socket.into()), Peer::Unix))
            }
        }
    }

    /// From now on nobody new comes here, as far as that can be arranged: another process listens.
    fn turn_round(&self) -> io::Result<()> {
        match self {
            Place::Tcp { listener, .. } => {
                SockRef::from(listener.get_ref()).attach_filter(&NO_NEW_CONNECTIONS)
            }
            // The file of that name is the other process's.
            Place::Unix { .. } => Ok(()),
        }
    }
}

/// A socket that does not block, and where it comes from.
async fn accept(listener: &Source<impl AsFd>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    poll_fn(|cx| {
        listener.poll_transfer(Direction::Read, cx, |listener| {
            Ok((acceptfrom_with(listener, flags)?, More::MayFollow))
        })
    })
    .await
}

/// For the kernel: drops a packet with SYN and without ACK, the first of a connection. Its client sends it again after a
/// second, and the kernel gives it to whoever listens then.
///
/// Flags are byte 13 of a TCP header. "BPF" in `linux/filter.h`: load a byte, mask, compare, return.
const NO_NEW_CONNECTIONS: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

struct Door<'a> {
    place: Place,
    backlog: Backlog,
    desk: &'a Desk,
    spare: Spare,
}

impl Door<'_> {
    async fn serve(mut self, bell: Doorbell) {
        loop {
            // Every branch is cancel-safe.
            tokio::select! {
                accepted = self.place.accept() => self.take(accepted).await,
                () = bell.closing.cancelled() => break,
                () = bell.making_way.cancelled() => {
                    if self.backlog == Backlog::Ours {
                        self.make_way().await;
                    }
                    break;
                }
            }
        }
        if self.backlog == Backlog::Shared {
            return;
        }
        // Whoever was quick enough to connect is heard.
        while let Some(Ok((socket, address))) = self.place.accept().now_or_never() {
            self.desk.hand_over(socket, address);
        }
    }

    async fn take(&mut self, accepted: io::Result<(Accepted, Peer)>) {
        match accepted {
            Ok((socket, address)) => {
                self.spare.over();
                self.desk.hand_over(socket, address);
            }
            Err(error) if is_of_the_socket(&error) => {}
            Err(error) => {
                let refused = self.spare.lend(&error).and_then(|()| self.place.accept().now_or_never());
                match refused {
                    Some(Ok((socket, _))) => self.spare.refuse(&socket),
                    _ => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
                self.spare.take_back();
            }
        }
    }

    /// Lets in those whose handshake has begun; the kernel gives the others to the other process.
    async fn make_way(&mut self) {
        if let Err(error) = self.place.turn_round() {
            tracing::warn!(%error, "a client that connects just now may be turned away");
        }
        let rest = async {
            loop {
                let accepted = self.place.accept().await;
                self.take(accepted).await;
            }
        };
        let _ = tokio::time::timeout(HANDSHAKE_MAX, rest).await;
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::frontend::listener::{ListenOptions, Sharing};
    use crate::model::ListenOn;
    use crate::session::Aside;

    fn listen(address: SocketAddr) -> std::net::TcpListener {
        let on = vec![ListenOn::Tcp(address)];
        let (handed_over, sharing) = (Vec::new(), Sharing::InTurn);
        match Listener::open_all(ListenOptions { on, handed_over, unix_mode: 0, sharing }).unwrap().remove(0)
        {
            Listener::Tcp(listener) => listener,
            Listener::Unix(..) => unreachable!(),
        }
    }

    /// As a thread of the data plane runs it.
    fn on_loop<F: Future>(what: F) -> F::Output {
        let aside = Aside::start().unwrap();
        let _entered = aside.handle.enter();
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
            // Before the place is made: it waits in the backlog.
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let place = Place::new(Listener::Tcp(listener)).unwrap();
            let (socket, _) = place.accept().await.unwrap();
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
        let place = Place::new(Listener::Tcp(old)).unwrap();
        place.turn_round().unwrap();
        // No listener but the old one: what comes now is for the one that follows.
        let late = tokio::task::spawn_blocking(move || TcpStream::connect(address));
        let Ok((Accepted::Tcp(mut accepted), _)) = place.accept().await else { panic!("nobody came") };
        early.write_all(b"still here").unwrap();
        drop(early);
        accepted.set_nonblocking(false).unwrap();
        let mut said = String::new();
        accepted.read_to_string(&mut said).unwrap();
        assert_eq!(said, "still here");
        let grace = tokio::time::timeout(HANDSHAKE_MAX, place.accept()).await;
        assert!(grace.is_err(), "the late one was let in here");
        let new = listen(address);
        drop(place);
        late.await.unwrap().unwrap();
        assert!(new.accept().is_ok());
    }
}
