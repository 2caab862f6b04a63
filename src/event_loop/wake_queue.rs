//! The queue through which other threads wake tasks of a loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Numbers of tasks, added by any thread and removed by the loop's own.
#[derive(Debug)]
pub(super) struct WakeQueue {
    woken: Mutex<Vec<usize>>,
    /// `woken` is not empty.
    has_post: AtomicBool,
    /// The loop waits, or is about to: a thread that adds a number must write to the eventfd.
    is_asleep: AtomicBool,
    eventfd_handle: OwnedFd,
}

impl WakeQueue {
    pub(super) fn new() -> io::Result<WakeQueue> {
        let eventfd_handle = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(WakeQueue {
            woken: Mutex::default(),
            has_post: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            eventfd_handle,
        })
    }

    /// Readable when a thread has written to it since the loop last waited.
    pub(super) fn eventfd_handle(&self) -> BorrowedFd<'_> {
        self.eventfd_handle.as_fd()
    }

    pub(super) fn push(&self, number: usize) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        // This store and swap and the two operations of `before_park` are sequentially consistent: either the
        // loop sees the number, or this thread sees that the loop sleeps.
        self.has_post.store(true, Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            // It fails when the counter is full: then the descriptor is readable anyway.
            let _ = rustix::io::write(&self.eventfd_handle, &1_u64.to_ne_bytes());
        }
    }

    /// `true`: the queue is empty, and from now on a thread that adds to it wakes the loop.
    pub(super) fn before_park(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        !self.has_post.load(Ordering::SeqCst)
    }

    /// The loop is awake, and takes the numbers in the queue.
    pub(super) fn after_unpark(&self, mut take: impl FnMut(usize)) {
        self.is_asleep.store(false, Ordering::Relaxed);
        if self.has_post.load(Ordering::Acquire) {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_post.store(false, Ordering::Relaxed);
            woken.drain(..).for_each(&mut take);
        }
    }
}
