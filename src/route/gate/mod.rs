//! The gate of a database: every transaction enters through it, and only the gate decides whether it may.
//!
//! ```text
//!                 latch                      hold
//!      +------+ --------> +---------+ ---------------> +------+
//!      | Open |           | Latched |                  | Held | -- last pass dropped --> drained
//!      +------+ <-------- +---------+ <--------------- +------+
//!          ^      open                     latch          |
//!          +------------------- open ---------------------+
//!
//!               new transaction   new server connection
//!      Open           yes                 yes
//!      Latched        yes                 no
//!      Held           no                  no
//! ```
//!
//! Only the follower moves it ([`Gate::open`], [`Gate::latch`], [`Gate::hold`]), in the order of the
//! catalogue; sessions obey. Every change is a *turn*: a number that grows, and a wake-up of every registered
//! session.
//!
//! # Why a pass is proof
//! The gate has one counter for each worker, on a cache line of its own. To enter, a session adds one to its
//! worker's counter and *then* reads the state; to hold, the follower writes the state and *then* reads the
//! counters. Both pairs are sequentially consistent, so they have one order that all threads agree on, and in
//! every such order at least one side sees the other (Dekker's argument): either the session sees `Held` and
//! takes its one back, or the holder sees the one and waits. Dropping a pass mirrors it: subtract, *then*
//! read the state; so either the holder sees the zero or the dropper sees `Held` and wakes it. After
//! `drained` no pass exists and none can be had until the gate moves again.
//!
//! No query writes to memory that another worker writes to: the counter belongs to the worker, the state is
//! only read. The addition is a read-modify-write although only one thread uses the counter: on x86 and ARM
//! it costs what a sequentially consistent store costs, and with a wrong worker index it is slower, but still
//! correct.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use super::change_notifier::{ChangeNotifier, Urgency};
use super::stall::Stalls;
use crate::model::StallReport;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GateState {
    Open = 0,
    Latched = 1,
    Held = 2,
}

impl GateState {
    pub fn as_str(self) -> &'static str {
        match self {
            GateState::Open => "open",
            GateState::Latched => "latched",
            GateState::Held => "held",
        }
    }

    fn admits(self, purpose: Purpose) -> Result<(), GateClosed> {
        match (self, purpose) {
            (GateState::Open, _) | (GateState::Latched, Purpose::Transaction) => Ok(()),
            (GateState::Latched, Purpose::Connect) | (GateState::Held, _) => Err(GateClosed(self)),
        }
    }

    fn of(number: u8) -> GateState {
        match number {
            0 => GateState::Open,
            1 => GateState::Latched,
            _ => GateState::Held,
        }
    }
}

/// The gate does not admit this now: wait for the next turn ([`Gate::watch`]) and try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gate is {}", .0.as_str())]
pub struct GateClosed(pub GateState);

/// The gate was changed during a wait for it to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gate was opened before it was drained")]
pub struct GateReopened;

/// The gate of one database; see the module.
#[derive(Debug)]
pub struct Gate {
    shared: Arc<Shared>,
    /// One for each worker, so that creating a pass counts references on the worker's own cache line.
    shards: Vec<Arc<CachePadded<Shard>>>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    turn: AtomicU64,
    counters: Vec<CachePadded<Counter>>,
    wakers: Vec<Mutex<Wakers>>,
    drained: Notify,
    notifier: Option<Arc<ChangeNotifier>>,
    stalls: Mutex<Stalls>,
}

/// Existing passes of one worker.
#[derive(Debug, Default)]
struct Counter {
    transactions: AtomicU32,
    connects: AtomicU32,
}

#[derive(Debug, Default)]
struct Wakers {
    next: u64,
    registered: HashMap<u64, Waker>,
}

/// One worker's access to the gate.
#[derive(Debug)]
struct Shard {
    shared: Arc<Shared>,
    worker: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Transaction,
    Connect,
}

impl Gate {
    /// An open gate for so many workers (at least one).
    pub fn new(workers: usize) -> Gate {
        Gate::with_notifier(workers, GateState::Open, None)
    }

    pub(crate) fn with_notifier(
        workers: usize,
        state: GateState,
        notifier: Option<Arc<ChangeNotifier>>,
    ) -> Gate {
        let workers = workers.max(1);
        let shared = Arc::new(Shared {
            state: AtomicU8::new(state as u8),
            turn: AtomicU64::new(1),
            counters: (0..workers).map(|_| CachePadded::default()).collect(),
            wakers: (0..workers).map(|_| Mutex::default()).collect(),
            drained: Notify::new(),
            notifier,
            stalls: Mutex::default(),
        });
        let shard = |worker| Arc::new(CachePadded::new(Shard { shared: Arc::clone(&shared), worker }));
        let shards = (0..workers).map(shard).collect();
        Gate { shared, shards }
    }

    /// Admits a transaction. Costs one atomic step on the worker's own memory and one load.
    pub fn try_enter(&self, worker: usize) -> Result<Pass, GateClosed> {
        self.enter(worker, Purpose::Transaction)
    }

    /// Admits opening a connection to the database's place. Keep the pass until the connection is ready and
    /// its pid is set on the [`SessionHandle`](super::SessionHandle): a latch is complete when no such pass
    /// exists.
    pub fn try_connect(&self, worker: usize) -> Result<Pass, GateClosed> {
        self.enter(worker, Purpose::Connect)
    }

    fn enter(&self, worker: usize, purpose: Purpose) -> Result<Pass, GateClosed> {
        let shard = self.shard(worker);
        // First check without counting, so that waiters at a shut gate do not make it look busy.
        self.state().admits(purpose)?;
        step();
        shard.counter(purpose).fetch_add(1, Ordering::SeqCst);
        // From here on, dropping the pass subtracts the one again, whatever the state is.
        let pass = Pass { shard: Arc::clone(shard), purpose };
        step();
        self.state().admits(purpose)?;
        Ok(pass)
    }

    /// The entry of the worker; an unknown index gets worker 0's (slower, still correct).
    fn shard(&self, worker: usize) -> &Arc<CachePadded<Shard>> {
        self.shards.get(worker).unwrap_or(&self.shards[0])
    }

    pub fn state(&self) -> GateState {
        self.shared.state()
    }

    /// Grows with each turn, and with each change of the route's record.
    pub fn turn(&self) -> u64 {
        self.shared.turn.load(Ordering::SeqCst)
    }

    /// Admits everything.
    pub fn open(&self) {
        self.set(GateState::Open);
    }

    /// Admits transactions, but no new server connections.
    pub fn latch(&self) {
        self.set(GateState::Latched);
    }

    /// Admits nothing. Running transactions go on: see [`Gate::drained`].
    pub fn hold(&self) {
        self.set(GateState::Held);
    }

    /// One turn. The number grows before and after the change. A reader that sees the last number sees the
    /// new state; a session admitted under the new state sees the first, so it does not go to a place that is
    /// no longer the record's.
    pub(crate) fn set(&self, state: GateState) {
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        let before = GateState::of(self.shared.state.swap(state as u8, Ordering::SeqCst));
        let turn = self.shared.turn.fetch_add(1, Ordering::SeqCst) + 1;
        if before != state {
            tracing::debug!(before = before.as_str(), now = state.as_str(), turn, "gate moved");
            self.shared.note_shut(state);
        }
        self.shared.drained.notify_waiters();
        self.wake_all();
    }

    /// Wakes every session without a turn.
    pub(crate) fn wake_all(&self) {
        for wakers in &self.shared.wakers {
            lock(wakers).registered.values().for_each(Waker::wake_by_ref);
        }
    }

    /// Running transactions, and for an instant one that is being refused.
    pub fn inside(&self) -> u32 {
        self.shared.count(Purpose::Transaction)
    }

    /// Connections that are being opened.
    pub fn connecting(&self) -> u32 {
        self.shared.count(Purpose::Connect)
    }

    /// `true`: held, and no pass exists; none is given out until the next turn. May be false for an instant
    /// even after it was true, while an attempt is being refused: a `true` stays valid.
    pub fn is_drained(&self) -> bool {
        self.state() == GateState::Held && self.shared.is_empty()
    }

    /// Waits until a held gate has no passes left.
    ///
    /// Errors: [`GateReopened`] if it is not held (any more).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: it only observes.
    pub async fn drained(&self) -> Result<(), GateReopened> {
        loop {
            // Created before the check: a wake-up between the check and the wait is kept.
            let notified = self.shared.drained.notified();
            step();
            if self.state() != GateState::Held {
                return Err(GateReopened);
            }
            if self.shared.is_empty() {
                return Ok(());
            }
            step();
            notified.await;
        }
    }

    /// Has `waker` woken at every turn, until the registration is dropped. Locks the worker's list for an
    /// instant, so call it once per session, not per query.
    pub fn register(&self, worker: usize, waker: &Waker) -> Registration {
        register(self.shard(worker), waker)
    }

    /// Follows the turns of this gate, beginning with the next one. One for each session, for its lifetime.
    pub fn watch(&self, worker: usize) -> TurnWatch {
        let shard = Arc::clone(self.shard(worker));
        TurnWatch { seen: self.turn(), shard, registered: None }
    }

    /// Records how long a client's request waited. Call it before reporting the session as ready to the
    /// session table, so that the report of a release is complete when the release is.
    pub fn record_stall(&self, waited: Duration) {
        lock(&self.shared.stalls).record(waited);
        if let Some(notifier) = &self.shared.notifier {
            notifier.notify(Urgency::Soon);
        }
    }

    /// Records that a session's state was queried while the gate was shut.
    pub fn record_question(&self) {
        lock(&self.shared.stalls).record_question();
    }

    /// The stalls since the last [`Gate::take_stalls`].
    pub fn stalls(&self) -> StallReport {
        lock(&self.shared.stalls).report()
    }

    /// The stalls so far; resets them.
    pub fn take_stalls(&self) -> StallReport {
        std::mem::take(&mut *lock(&self.shared.stalls)).report()
    }
}

impl Shared {
    fn state(&self) -> GateState {
        GateState::of(self.state.load(Ordering::SeqCst))
    }

    fn count(&self, purpose: Purpose) -> u32 {
        self.counters.iter().map(|counter| counter.of(purpose).load(Ordering::SeqCst)).sum()
    }

    fn is_empty(&self) -> bool {
        self.count(Purpose::Transaction) == 0 && self.count(Purpose::Connect) == 0
    }

    /// Records when the gate was shut, and whether it is drained already.
    fn note_shut(&self, state: GateState) {
        if state == GateState::Held {
            lock(&self.stalls).shut();
            self.note_drained();
        }
    }

    fn note_drained(&self) {
        if self.is_empty() {
            lock(&self.stalls).drained();
        }
    }
}

impl Counter {
    fn of(&self, purpose: Purpose) -> &AtomicU32 {
        match purpose {
            Purpose::Transaction => &self.transactions,
            Purpose::Connect => &self.connects,
        }
    }
}

impl Shard {
    fn counter(&self, purpose: Purpose) -> &AtomicU32 {
        self.shared.counters[self.worker].of(purpose)
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        lock(&self.shared.wakers[self.worker])
    }

    /// Drops a pass. Costs more than a subtraction and a load only if a task waits for it.
    fn leave(&self, purpose: Purpose) {
        self.counter(purpose).fetch_sub(1, Ordering::SeqCst);
        step();
        let done = match (self.shared.state(), purpose) {
            (GateState::Open, _) | (GateState::Latched, Purpose::Transaction) => false,
            (GateState::Latched, Purpose::Connect) => self.shared.count(Purpose::Connect) == 0,
            (GateState::Held, _) => self.shared.is_empty(),
        };
        if !done {
            return;
        }
        if self.shared.state() == GateState::Held {
            self.shared.note_drained();
        }
        self.shared.drained.notify_waiters();
        if let Some(notifier) = &self.shared.notifier {
            notifier.notify(Urgency::Now);
        }
    }
}

/// Proof of admission; dropping it ends the admission.
#[derive(Debug)]
#[must_use = "a pass that is dropped at once lets nothing in"]
pub struct Pass {
    shard: Arc<CachePadded<Shard>>,
    purpose: Purpose,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shard.leave(self.purpose);
    }
}

/// A waker that is woken at every turn. See [`Gate::register`].
#[derive(Debug)]
pub struct Registration {
    shard: Arc<CachePadded<Shard>>,
    id: u64,
}

impl Registration {
    /// Replaces the registered waker.
    pub fn replace(&self, waker: &Waker) {
        self.shard.wakers().registered.insert(self.id, waker.clone());
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shard.wakers().registered.remove(&self.id);
    }
}

/// Follows the turns of a gate. See [`Gate::watch`].
#[derive(Debug)]
pub struct TurnWatch {
    shard: Arc<CachePadded<Shard>>,
    seen: u64,
    registered: Option<(Registration, Waker)>,
}

impl TurnWatch {
    /// Ready with the number of the newest turn if there was one since the last time this was ready. If the
    /// waker is that of the last call (one task, no `FuturesUnordered`), a pending poll costs one load.
    pub fn poll_turned(&mut self, waker: &Waker) -> Poll<u64> {
        if let Poll::Ready(turn) = self.poll_seen() {
            return Poll::Ready(turn);
        }
        match &mut self.registered {
            Some((_, known)) if known.will_wake(waker) => return Poll::Pending,
            Some((registration, known)) => {
                registration.replace(waker);
                known.clone_from(waker);
            }
            none => *none = Some((register(&self.shard, waker), waker.clone())),
        }
        // A turn between the check and the registration woke no waker.
        self.poll_seen()
    }

    /// Waits for the next turn.
    ///
    /// # Cancel safety
    /// A turn is taken only when the future is ready: dropping it loses none.
    pub async fn turned(&mut self) -> u64 {
        std::future::poll_fn(|context| self.poll_turned(context.waker())).await
    }

    fn poll_seen(&mut self) -> Poll<u64> {
        match self.shard.shared.turn.load(Ordering::SeqCst) {
            turn if turn == self.seen => Poll::Pending,
            turn => {
                self.seen = turn;
                Poll::Ready(turn)
            }
        }
    }
}

fn register(shard: &Arc<CachePadded<Shard>>, waker: &Waker) -> Registration {
    let mut wakers = shard.wakers();
    wakers.next += 1;
    let id = wakers.next;
    wakers.registered.insert(id, waker.clone());
    drop(wakers);
    Registration { shard: Arc::clone(shard), id }
}

/// Between two accesses with a significant order. Tests add delays here, to provoke rare interleavings.
#[inline]
fn step() {
    #[cfg(test)]
    tests::lose_time();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod race;
#[cfg(test)]
mod tests;
