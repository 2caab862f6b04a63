//! How other threads wake tasks of a loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Numbers of tasks, put in by any thread and taken out by the loop's own.
#[derive(Debug)]
pub(super) struct Mailbox {
    woken: Mutex<Vec<usize>>,
    /// `woken` is not empty.
    has_post: AtomicBool,
    /// The loop waits, or is about to: whoever brings something rings.
    is_asleep: AtomicBool,
    bell: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Mailbox> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox {
            woken: Mutex::default(),
            has_post: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            bell,
        })
    }

    /// Readable whenever somebody has rung since the loop last waited.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn bring(&self, number: usize) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        // This and the two of `lie_down` are in one order for both threads: either the loop sees the post, or we see it asleep.
        self.has_post.store(true, Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            // It fails when the counter is full: then the bell rings anyhow.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// `true`: nothing is there, and from now on whoever brings something rings.
    pub(super) fn lie_down(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        !self.has_post.load(Ordering::SeqCst)
    }

    /// The loop is awake, and takes what is there.
    pub(super) fn get_up(&self, mut take: impl FnMut(usize)) {
        self.is_asleep.store(false, Ordering::Relaxed);
        if self.has_post.load(Ordering::Acquire) {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_post.store(false, Ordering::Relaxed);
            woken.drain(..).for_each(&mut take);
        }
    }
}
