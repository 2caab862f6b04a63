//! One thread's event loop: tasks and sockets that never leave the thread.
//!
//! ```text
//!   +--> run the ready tasks --> wait for a socket, or for another thread's wake-up --+
//!   +--------------------------------------------------------------------------------+
//! ```
//!
//! Owns the order in which tasks run ([`run`], [`spawn`], [`Task`], [`TaskGroup`]) and which task a socket
//! wakes ([`Source`]). It deliberately has no timers and no threads for blocking work: a thread that runs a
//! loop enters the handle of a tokio runtime for those, which wakes it like any other thread.
//!
//! # Why
//! Four system calls are most of what a query costs a proxy, and much of the rest is what a runtime does
//! around them: tokio must allow for threads that steal tasks and sockets from each other. Here no thread
//! does. An event finds its socket by an index, a wake-up is a number in a queue, and neither takes a lock:
//! that saves a fifth of the instructions that a query takes outside the kernel.
//!
//! # A thread knows its loop
//! As a thread of tokio knows its runtime: a socket and a task find it in a thread-local variable, so that
//! code above need not know whether it runs here or on a runtime. No other state is thread-local.

mod poller;
mod readiness;
mod source;
mod task;
#[cfg(test)]
mod tests;
mod wake_queue;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

pub use self::source::{Direction, More, Source};
pub use self::task::{JoinError, Task, TaskGroup};

use self::poller::Poller;
use self::readiness::{Waiter, begin_turn, end_turns};
use self::task::{Entry, Member, Signal, discard};
use self::wake_queue::WakeQueue;

/// Number of tasks that run before sockets are polled again.
const RUNS_MAX: usize = 64;

/// The number of the future that [`run`] was given; no other task uses it.
const MAIN: usize = usize::MAX;

thread_local! {
    /// The loop that this thread runs.
    static CURRENT: RefCell<Option<Rc<EventLoop>>> = const { RefCell::new(None) };
}

/// The loop of one thread.
#[derive(Debug)]
struct EventLoop {
    /// Numbers of tasks to run, in this order.
    ready: RefCell<VecDeque<usize>>,
    tasks: RefCell<Slab<Rc<Entry>>>,
    /// Signal of the future that [`run`] was given.
    main: Arc<Signal>,
    /// Tasks that other threads have woken.
    wake_queue: Arc<WakeQueue>,
    poller: Poller,
}

/// Runs a loop on this thread until `main` is ready. Tasks that have not ended by then are dropped. `on_wake`
/// is called after each wait or poll of the sockets, before anything else runs.
///
/// Fails if the kernel provides no descriptors for it, or if this thread runs a loop already.
pub fn run<F: Future>(main: F, mut on_wake: impl FnMut()) -> io::Result<F::Output> {
    let running = Running::start()?;
    let event_loop = &*running.0;
    let waker = Waker::from(Arc::clone(&event_loop.main));
    waker.wake_by_ref();
    let mut main = pin!(main);
    loop {
        for _ in 0..RUNS_MAX {
            let Some(number) = event_loop.next_ready() else { break };
            if number != MAIN {
                event_loop.run_task(number);
                continue;
            }
            event_loop.main.begin();
            begin_turn(&event_loop.wake_queue, None, &waker);
            if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(output);
            }
        }
        event_loop.wait()?;
        on_wake();
    }
}

/// Runs the future on this thread's loop, until it ends. A panic in it is logged, and ends nothing else.
///
/// # Panics
/// On a thread without a loop.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    spawn_boxed(Box::pin(future), None);
}

/// Whether this thread runs a loop.
pub fn is_here() -> bool {
    CURRENT.try_with(|current| current.borrow().is_some()).unwrap_or(false)
}

#[expect(
    clippy::expect_used,
    reason = "like tokio's: a task without a loop is a mistake of the code, not of the moment"
)]
fn spawn_boxed(future: task::Boxed, member: Option<Member>) -> Rc<Entry> {
    with_current(|current| current.spawn(future, member))
        .expect("a task is spawned by a thread that runs an event loop")
}

/// `None`: this thread runs no loop.
#[inline]
fn with_current<R>(act: impl FnOnce(&EventLoop) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_deref().map(act)).ok().flatten()
}

/// The loop of this thread, while it runs.
struct Running(Rc<EventLoop>);

impl Running {
    fn start() -> io::Result<Running> {
        let poller = Poller::new()?;
        let wake_queue = Arc::new(WakeQueue::new()?);
        poller.listen(wake_queue.eventfd_handle())?;
        let event_loop = Rc::new(EventLoop {
            ready: RefCell::default(),
            tasks: RefCell::default(),
            main: Signal::new(MAIN, &wake_queue),
            wake_queue,
            poller,
        });
        CURRENT.with_borrow_mut(|current| match current {
            Some(_) => Err(io::Error::other("this thread runs an event loop already")),
            None => {
                *current = Some(Rc::clone(&event_loop));
                begin_turn(&event_loop.wake_queue, None, Waker::noop());
                Ok(Running(event_loop))
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Dropping a task may spawn others.
        loop {
            let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
            if tasks.is_empty() {
                break;
            }
            tasks.into_iter().for_each(|(_, entry)| entry.abort());
        }
        CURRENT.with_borrow_mut(Option::take);
        end_turns();
    }
}

impl EventLoop {
    fn is_of(&self, wake_queue: &Arc<WakeQueue>) -> bool {
        Arc::ptr_eq(&self.wake_queue, wake_queue)
    }

    fn next_ready(&self) -> Option<usize> {
        self.ready.borrow_mut().pop_front()
    }

    fn spawn(&self, future: task::Boxed, member: Option<Member>) -> Rc<Entry> {
        let mut tasks = self.tasks.borrow_mut();
        let place = tasks.vacant_entry();
        let signal = Signal::new(place.key(), &self.wake_queue);
        let entry = Rc::new(Entry {
            future: Cell::new(Some(future)),
            is_over: Cell::new(false),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
            member,
        });
        place.insert(Rc::clone(&entry));
        entry.waker.wake_by_ref();
        Rc::clone(&entry)
    }

    fn run_task(&self, number: usize) {
        // The task may have ended since it was woken; its slot may have been reused, and the new task then
        // polls once for nothing.
        let Some(entry) = self.tasks.borrow().get(number).map(Rc::clone) else { return };
        entry.signal.begin();
        let Some(mut future) = entry.future.take() else { return self.forget(number) };
        begin_turn(&self.wake_queue, Some(number), &entry.waker);
        let mut cx = Context::from_waker(&entry.waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) if !entry.is_over.get() => return entry.future.set(Some(future)),
            Ok(_) => {}
            Err(_) => tracing::error!("a task panicked"),
        }
        entry.is_over.set(true);
        discard(Some(future));
        self.forget(number);
    }

    /// Queues the task, if it has not ended.
    #[inline]
    fn wake(&self, number: usize) {
        self.with_signal(number, |signal| self.queue(signal));
    }

    fn wake_posted(&self, number: usize) {
        self.with_signal(number, |signal| {
            signal.taken_from_mailbox();
            self.queue(signal);
        });
    }

    #[inline]
    fn with_signal(&self, number: usize, act: impl FnOnce(&Signal)) {
        match number {
            MAIN => act(&self.main),
            number => {
                if let Some(entry) = self.tasks.borrow().get(number) {
                    act(&entry.signal);
                }
            }
        }
    }

    #[inline]
    fn queue(&self, signal: &Signal) {
        if signal.mark_queued() {
            self.ready.borrow_mut().push_back(signal.number());
        }
    }

    fn forget(&self, number: usize) {
        // Outside the borrow: dropping it may access the tasks.
        let ended = self.tasks.borrow_mut().try_remove(number);
        drop(ended);
    }

    fn wait(&self) -> io::Result<()> {
        let is_idle = self.ready.borrow().is_empty() && self.wake_queue.before_park();
        let waited = self.poller.wait(is_idle, |waiting| match waiting {
            Waiter::Task(number) => self.wake(number),
            Waiter::Waker(waker) => waker.wake(),
        });
        self.wake_queue.after_unpark(|number| self.wake_posted(number));
        waited
    }
}
