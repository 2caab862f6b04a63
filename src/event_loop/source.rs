//! A socket registered with a loop.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll};

pub use super::readiness::Direction;
use super::readiness::Readiness;
use super::with_current;

/// Whether another transfer may follow at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    MayFollow,
    /// The next one would block.
    WouldBlock,
}

/// A non-blocking descriptor that the loop of its thread watches.
///
/// It may be moved to another thread, and can only be dropped there: every transfer fails.
#[derive(Debug)]
pub struct Source<T: AsFd> {
    io: T,
    number: u32,
    readiness: Arc<Readiness>,
}

impl<T: AsFd> Source<T> {
    /// Fails if this thread runs no loop, or if the kernel cannot watch `io`.
    pub fn new(io: T) -> io::Result<Source<T>> {
        let registered = with_current(|current| {
            let readiness = Arc::new(Readiness::new(&current.wake_queue));
            let number = current.poller.register(&io, &readiness)?;
            Ok::<_, io::Error>((number, readiness))
        });
        let (number, readiness) = registered.ok_or_else(elsewhere)??;
        Ok(Source { io, number: u32::try_from(number).map_err(io::Error::other)?, readiness })
    }

    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// As far as is known, without a system call.
    #[inline]
    pub fn is_ready(&self, direction: Direction) -> bool {
        self.readiness.is_ready(direction)
    }

    /// `true`: a transfer would block, as far as is known, and the task is woken when that changes.
    #[inline]
    pub fn will_wake(&self, direction: Direction, cx: &mut Context<'_>) -> bool {
        let waits = !self.is_ready(direction) && self.readiness.is_at_home();
        if waits {
            self.readiness.wait(direction, cx);
        }
        waits
    }

    /// Calls `transfer` once it may not block, and again whenever it would have blocked after all. `transfer`
    /// returns its result, and whether more may follow.
    #[inline]
    pub fn poll_transfer<R>(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        mut transfer: impl FnMut(&T) -> io::Result<(R, More)>,
    ) -> Poll<io::Result<R>> {
        if !self.readiness.is_at_home() {
            return Poll::Ready(Err(elsewhere()));
        }
        while self.readiness.poll_ready(direction, cx).is_ready() {
            match transfer(&self.io) {
                Ok((transferred, more)) => {
                    if more == More::WouldBlock {
                        self.readiness.exhausted(direction);
                    }
                    return Poll::Ready(Ok(transferred));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.exhausted(direction);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }
}

impl<T: AsFd> Drop for Source<T> {
    fn drop(&mut self) {
        // On another thread the number means another socket; its own loop removes it when the loop ends.
        if self.readiness.is_at_home() {
            with_current(|current| current.poller.deregister(self.number as usize, &self.io));
        }
    }
}

#[cold]
fn elsewhere() -> io::Error {
    io::Error::other("a socket is used by a thread that does not run its event loop")
}
