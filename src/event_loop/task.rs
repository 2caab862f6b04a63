//! Tasks of a loop, and how they are woken.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::sync::{Notify, oneshot};

use super::wake_queue::WakeQueue;
use super::{spawn_boxed, with_current};

pub(super) type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// A task in its loop.
pub(super) struct Entry {
    /// `None` while it runs, and when it is over.
    pub(super) future: Cell<Option<Boxed>>,
    /// It has ended or was aborted.
    pub(super) is_over: Cell<bool>,
    pub(super) signal: Arc<Signal>,
    /// A waker made of `signal`.
    pub(super) waker: Waker,
    pub(super) member: Option<Member>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("number", &self.signal.number).finish_non_exhaustive()
    }
}

impl Entry {
    /// Drops its future, now or after its current run. Its loop removes it at its next turn.
    pub(super) fn abort(&self) {
        if !self.is_over.replace(true) {
            discard(self.future.take());
            self.waker.wake_by_ref();
        }
    }
}

/// Drops a future; a panic in its drop does not affect other tasks.
pub(super) fn discard(future: Option<Boxed>) {
    if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
        tracing::error!("a task panicked when it was dropped");
    }
}

/// The data behind a task's wakers.
#[derive(Debug)]
pub(super) struct Signal {
    number: usize,
    /// Its number is in the ready queue. Read and written only by the thread of its loop.
    is_queued: AtomicBool,
    /// Its number is in the wake queue.
    is_posted: AtomicBool,
    wake_queue: Arc<WakeQueue>,
}

impl Signal {
    pub(super) fn new(number: usize, wake_queue: &Arc<WakeQueue>) -> Arc<Signal> {
        Arc::new(Signal {
            number,
            is_queued: AtomicBool::new(false),
            is_posted: AtomicBool::new(false),
            wake_queue: Arc::clone(wake_queue),
        })
    }

    /// The task begins to run: a wake-up from now on makes it run again.
    #[inline]
    pub(super) fn begin(&self) {
        self.is_queued.store(false, Ordering::Relaxed);
    }

    /// Its number was taken out of the wake queue before the task runs: the task sees everything that the
    /// waking thread did before.
    pub(super) fn taken_from_mailbox(&self) {
        self.is_posted.swap(false, Ordering::AcqRel);
    }

    /// On the thread of its loop: `true` if it was not queued, and must be queued now.
    #[inline]
    pub(super) fn mark_queued(&self) -> bool {
        let is_new = !self.is_queued.load(Ordering::Relaxed);
        if is_new {
            self.is_queued.store(true, Ordering::Relaxed);
        }
        is_new
    }

    #[inline]
    pub(super) fn number(&self) -> usize {
        self.number
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        let is_here = with_current(|current| {
            let is_here = current.is_of(&self.wake_queue);
            if is_here {
                current.queue(self);
            }
            is_here
        });
        if is_here != Some(true) && !self.is_posted.swap(true, Ordering::AcqRel) {
            self.wake_queue.push(self.number);
        }
    }
}

/// The task panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinError;

/// A task with a result to wait for. Dropping this aborts it.
#[derive(Debug)]
pub struct Task<T> {
    outcome: oneshot::Receiver<T>,
    entry: Rc<Entry>,
}

impl<T: 'static> Task<T> {
    /// # Panics
    /// On a thread without a loop.
    pub fn spawn(future: impl Future<Output = T> + 'static) -> Task<T> {
        let (tell, outcome) = oneshot::channel();
        let future = Box::pin(future);
        let telling = async move {
            let _ = tell.send(future.await);
        };
        Task { outcome, entry: spawn_boxed(Box::pin(telling), None) }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(outcome.map_err(|_| JoinError))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.entry.abort();
    }
}

/// Tasks that are counted, and aborted together.
#[derive(Debug, Default)]
pub struct TaskGroup(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    tasks: Cell<usize>,
    /// The last one has ended.
    emptied: Notify,
}

/// Membership of a task in a group.
pub(super) struct Member(Rc<Counts>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.tasks.set(self.0.tasks.get() - 1);
        if self.0.tasks.get() == 0 {
            self.0.emptied.notify_one();
        }
    }
}

impl TaskGroup {
    /// # Panics
    /// On a thread without a loop.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.tasks.set(self.0.tasks.get() + 1);
        spawn_boxed(Box::pin(future), Some(Member(Rc::clone(&self.0))));
    }

    /// Number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.0.tasks.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when none is left.
    pub async fn emptied(&self) {
        while !self.is_empty() {
            self.0.emptied.notified().await;
        }
    }

    /// Drops the remaining tasks, except the one that calls this.
    pub fn abort_all(&self) {
        let is_one =
            |entry: &Entry| entry.member.as_ref().is_some_and(|member| Rc::ptr_eq(&member.0, &self.0));
        let ours: Vec<Rc<Entry>> = with_current(|current| {
            let tasks = current.tasks.borrow();
            tasks.iter().filter(|(_, entry)| is_one(entry)).map(|(_, entry)| Rc::clone(entry)).collect()
        })
        .unwrap_or_default();
        ours.iter().for_each(|entry| entry.abort());
    }
}
