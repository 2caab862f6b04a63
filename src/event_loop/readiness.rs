//! The readiness of one socket, and the tasks that wait for it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::wake_queue::WakeQueue;

/// A direction of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// A call may transfer something, as far as is known.
const READY: u8 = 1;
/// Permanently: the next call reports the end, and so do all later ones.
const CLOSED: u8 = 2;

/// No task waits.
const NO_WAITER: u32 = u32::MAX;
/// A task waits with a waker that is not its own.
const BY_WAKER: u32 = u32::MAX - 1;

/// Transfers of a task before other tasks run.
const TRANSFERS_MAX: u32 = 128;

thread_local! {
    static CURRENT_TASK: CurrentTask = const { CurrentTask::none() };
}

/// The task that a thread currently runs: thread-local data for sockets.
struct CurrentTask {
    /// Address of its loop's wake queue; 0 if no loop runs.
    home: Cell<usize>,
    number: Cell<u32>,
    /// The pointer of its waker; 0 if a socket has to store the waker.
    waker: Cell<usize>,
    transfers_left: Cell<u32>,
}

impl CurrentTask {
    const fn none() -> CurrentTask {
        CurrentTask {
            home: Cell::new(0),
            number: Cell::new(BY_WAKER),
            waker: Cell::new(0),
            transfers_left: Cell::new(0),
        }
    }
}

fn id(home: &Arc<WakeQueue>) -> usize {
    Arc::as_ptr(home).addr()
}

/// A task begins to run, on the loop with this wake queue. `number` is enough to wake it; `None`: only its
/// waker can.
#[inline]
pub(super) fn begin_turn(home: &Arc<WakeQueue>, number: Option<usize>, waker: &Waker) {
    let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number < BY_WAKER);
    CURRENT_TASK.with(|turn| {
        turn.home.set(id(home));
        turn.number.set(number.unwrap_or(BY_WAKER));
        turn.waker.set(number.map_or(0, |_| waker.data().addr()));
        turn.transfers_left.set(TRANSFERS_MAX);
    });
}

/// The loop of this thread has ended.
pub(super) fn end_turns() {
    CURRENT_TASK.with(|turn| turn.home.set(0));
}

/// What to wake.
#[derive(Debug)]
pub(super) enum Waiter {
    Task(usize),
    Waker(Waker),
}

/// Written only by the thread of its loop, so it is never contended, and needs no ordering with other memory.
#[derive(Debug)]
struct DirectionState {
    flags: AtomicU8,
    /// The number of the waiting task.
    waiter: AtomicU32,
}

impl Default for DirectionState {
    fn default() -> DirectionState {
        DirectionState { flags: AtomicU8::new(0), waiter: AtomicU32::new(NO_WAITER) }
    }
}

/// The readiness of a socket for reading and writing.
#[derive(Debug)]
pub(super) struct Readiness {
    /// The wake queue of its loop. Kept alive, so that no other loop's wake queue can get the same address.
    home: Arc<WakeQueue>,
    ways: [DirectionState; 2],
    /// Rarely used: mostly a task waits with its own waker.
    wakers: Mutex<Option<Box<[Option<Waker>; 2]>>>,
}

impl Readiness {
    pub(super) fn new(home: &Arc<WakeQueue>) -> Readiness {
        Readiness { home: Arc::clone(home), ways: Default::default(), wakers: Mutex::default() }
    }

    fn way(&self, direction: Direction) -> &DirectionState {
        &self.ways[direction as usize]
    }

    /// Whether this thread runs its loop.
    #[inline]
    pub(super) fn is_at_home(&self) -> bool {
        CURRENT_TASK.try_with(|turn| turn.home.get() == id(&self.home)).unwrap_or(false)
    }

    #[inline]
    pub(super) fn is_ready(&self, direction: Direction) -> bool {
        self.way(direction).flags.load(Ordering::Relaxed) & READY != 0
    }

    /// Ready when a transfer may be tried; a task that has used up its transfers is woken for its next turn.
    #[inline]
    pub(super) fn poll_ready(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_ready(direction) {
            self.wait(direction, cx);
            return Poll::Pending;
        }
        let left = CURRENT_TASK
            .with(|turn| turn.transfers_left.replace(turn.transfers_left.get().saturating_sub(1)));
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The polling task is woken by the next event.
    #[inline]
    pub(super) fn wait(&self, direction: Direction, cx: &mut Context<'_>) {
        let task = CURRENT_TASK.with(|turn| match turn.waker.get() == cx.waker().data().addr() {
            true => turn.number.get(),
            false => BY_WAKER,
        });
        if task == BY_WAKER {
            self.keep(direction, cx.waker());
        }
        self.way(direction).waiter.store(task, Ordering::Relaxed);
    }

    #[cold]
    fn keep(&self, direction: Direction, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let place = &mut wakers.get_or_insert_default()[direction as usize];
        match place {
            Some(known) => known.clone_from(waker),
            None => *place = Some(waker.clone()),
        }
    }

    /// The last transfer reported that the next one would block.
    #[inline]
    pub(super) fn exhausted(&self, direction: Direction) {
        let flags = &self.way(direction).flags;
        if flags.load(Ordering::Relaxed) & CLOSED == 0 {
            flags.store(0, Ordering::Relaxed);
        }
    }

    /// The socket is ready again, or closed. Returns what waited for that.
    #[inline]
    pub(super) fn news(&self, direction: Direction, is_closed: bool) -> Option<Waiter> {
        let way = self.way(direction);
        let known = way.flags.load(Ordering::Relaxed);
        way.flags.store(known | READY | if is_closed { CLOSED } else { 0 }, Ordering::Relaxed);
        let waiter = way.waiter.load(Ordering::Relaxed);
        if waiter == NO_WAITER {
            return None;
        }
        way.waiter.store(NO_WAITER, Ordering::Relaxed);
        match waiter {
            BY_WAKER => self.kept(direction).map(Waiter::Waker),
            number => Some(Waiter::Task(number as usize)),
        }
    }

    #[cold]
    fn kept(&self, direction: Direction) -> Option<Waker> {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.as_mut()?[direction as usize].take()
    }
}
