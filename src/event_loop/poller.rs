//! The epoll instance of a loop.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use slab::Slab;

use super::readiness::{Direction, Readiness, Waiter};

/// Events that are taken from the kernel at once.
const NEWS_MAX: usize = 256;

/// Edge-triggered: one event per change; a socket is registered only once.
const INTERESTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// The number of the wake queue's descriptor in epoll; no socket has it.
const WAKE_QUEUE: u64 = u64::MAX;

pub(super) struct Poller {
    epoll: OwnedFd,
    sockets: RefCell<Slab<Arc<Readiness>>>,
    news: RefCell<Vec<epoll::Event>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller")
            .field("epoll", &self.epoll)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: RefCell::default(),
            news: RefCell::new(Vec::with_capacity(NEWS_MAX)),
        })
    }

    /// Registers the wake queue's descriptor, which wakes the loop but no task.
    pub(super) fn listen(&self, eventfd_handle: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            eventfd_handle,
            EventData::new_u64(WAKE_QUEUE),
            EventFlags::IN | EventFlags::ET,
        )?)
    }

    /// Registers a socket; returns its number.
    pub(super) fn register(&self, socket: impl AsFd, readiness: &Arc<Readiness>) -> io::Result<usize> {
        let number = self.sockets.borrow_mut().insert(Arc::clone(readiness));
        match epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), INTERESTS) {
            Ok(()) => Ok(number),
            Err(error) => {
                self.sockets.borrow_mut().remove(number);
                Err(error.into())
            }
        }
    }

    pub(super) fn deregister(&self, number: usize, socket: impl AsFd) {
        // Closing is not enough if another process has the same socket.
        let _ = epoll::delete(&self.epoll, socket);
        // Outside the borrow: the waker may hold the last reference to its task.
        let readiness = self.sockets.borrow_mut().try_remove(number);
        drop(readiness);
    }

    /// Waits for events, if no task is ready, and passes the tasks that waited for them to `wake`. The
    /// wake queue ends the wait.
    pub(super) fn wait(&self, is_idle: bool, mut wake: impl FnMut(Waiter)) -> io::Result<()> {
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut news = self.news.borrow_mut();
        news.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut news), (!is_idle).then_some(&no_time)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let sockets = self.sockets.borrow();
        for one in news.iter() {
            let (flags, number) = (one.flags, one.data.u64());
            // The number is the wake queue's, or that of a socket closed since.
            let Some(readiness) = usize::try_from(number).ok().and_then(|number| sockets.get(number)) else {
                continue;
            };
            let is_over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            let ends = is_over || flags.contains(EventFlags::RDHUP);
            let news = [
                (Direction::Read, ends || flags.contains(EventFlags::IN), ends),
                (Direction::Write, is_over || flags.contains(EventFlags::OUT), is_over),
            ];
            for (direction, has_news, is_closed) in news {
                if has_news && let Some(waiting) = readiness.news(direction, is_closed) {
                    wake(waiting);
                }
            }
        }
        Ok(())
    }
}
