use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Long enough for a busy machine, short enough to end a test that lost a wake-up.
const DEADLINE: Duration = Duration::from_secs(30);

thread_local! {
    /// State of the random generator; 0: no delays on this thread.
    static DICE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// On a thread with a seed: sometimes a short delay, rarely one that is long enough for all other threads to
/// act.
pub(super) fn lose_time() {
    let mut dice = DICE.get();
    if dice == 0 {
        return;
    }
    // Marsaglia's xorshift: its quality suffices here.
    dice ^= dice << 13;
    dice ^= dice >> 17;
    dice ^= dice << 5;
    DICE.set(dice);
    match dice % 64 {
        0 => std::thread::yield_now(),
        1..8 => (0..dice % 256).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

#[test]
fn each_state_lets_in_what_the_drawing_says() {
    let gate = Gate::new(1);
    for (state, transaction, connect) in
        [(GateState::Open, true, true), (GateState::Latched, true, false), (GateState::Held, false, false)]
    {
        gate.set(state);
        assert_eq!(gate.try_enter(0).is_ok(), transaction, "{state:?}");
        assert_eq!(gate.try_connect(0).is_ok(), connect, "{state:?}");
        assert_eq!((gate.inside(), gate.connecting()), (0, 0), "a refusal leaves nothing behind");
    }
}

#[tokio::test]
async fn a_held_gate_is_drained_by_its_last_pass() {
    let gate = Gate::new(2);
    let (first, second) = (gate.try_enter(0).unwrap(), gate.try_enter(1).unwrap());
    let connecting = gate.try_connect(1).unwrap();
    gate.hold();
    let mut drained = std::pin::pin!(gate.drained());
    for pass in [first, second] {
        assert!(futures_util::poll!(&mut drained).is_pending());
        drop(pass);
    }
    assert!(futures_util::poll!(&mut drained).is_pending(), "a connection is being opened");
    drop(connecting);
    assert_eq!(drained.await, Ok(()));
    assert!(gate.is_drained());
    assert_eq!(gate.try_enter(0).unwrap_err(), GateClosed(GateState::Held));
}

#[tokio::test]
async fn a_gate_that_opens_ends_the_wait_for_its_drain() {
    let gate = Gate::new(1);
    let _pass = gate.try_enter(0).unwrap();
    assert_eq!(gate.drained().await, Err(GateReopened), "an open gate does not drain");
    gate.hold();
    let mut drained = std::pin::pin!(gate.drained());
    assert!(futures_util::poll!(&mut drained).is_pending());
    gate.open();
    assert_eq!(drained.await, Err(GateReopened));
}

#[tokio::test]
async fn a_watch_sees_every_turn_that_came_since_and_none_twice() {
    let gate = Gate::new(1);
    let mut watch = gate.watch(0);
    assert!(futures_util::poll!(std::pin::pin!(watch.turned())).is_pending());
    gate.latch();
    gate.hold();
    assert_eq!(watch.turned().await, gate.turn());
    assert!(futures_util::poll!(std::pin::pin!(watch.turned())).is_pending());
    drop(watch);
    assert!(gate.shared.wakers.iter().all(|wakers| lock(wakers).registered.is_empty()));
}

/// Real threads enter and leave as fast as they can while the gate is repeatedly held and opened. Between
/// `drained` and `open` no thread may be inside, and every drain must complete.
#[test]
fn nobody_is_inside_a_drained_gate() {
    const WORKERS: usize = 3;
    const ROUNDS: usize = 3_000;
    let gate = Arc::new(Gate::new(WORKERS));
    let sealed = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let worker = |worker: usize| {
        let (gate, sealed, stop) = (Arc::clone(&gate), Arc::clone(&sealed), Arc::clone(&stop));
        std::thread::spawn(move || {
            DICE.set(1 + u32::try_from(worker).unwrap());
            let mut entered = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let Ok(pass) = gate.try_enter(worker) else { continue };
                for _ in 0..50 {
                    assert!(!sealed.load(Ordering::SeqCst), "inside a drained gate");
                }
                entered += 1;
                drop(pass);
            }
            entered
        })
    };
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    DICE.set(77);
    runtime().block_on(async {
        for _ in 0..ROUNDS {
            gate.hold();
            tokio::time::timeout(DEADLINE, gate.drained()).await.expect("a lost wake-up").unwrap();
            sealed.store(true, Ordering::SeqCst);
            // Time for a wrong admission to show. (`inside` may be 1 now: a session that is being refused.)
            (0..200).for_each(|_| std::hint::spin_loop());
            assert_eq!(gate.try_enter(0).unwrap_err(), GateClosed(GateState::Held));
            sealed.store(false, Ordering::SeqCst);
            gate.open();
            // Some thread must enter in between: a gate that is never entered proves nothing.
            let began = Instant::now();
            while gate.inside() == 0 && began.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    let entered: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert!(entered > ROUNDS as u64 / 10, "only {entered} passes");
}

/// Threads wait for turns while the gate turns; each must see the last turn.
#[test]
fn no_turn_is_lost_to_a_session_that_is_about_to_wait() {
    const TURNS: u64 = 5_000;
    let gate = Arc::new(Gate::new(2));
    let last = gate.turn() + TURNS;
    let watcher = |worker: usize| {
        let mut watch = gate.watch(worker);
        std::thread::spawn(move || {
            runtime().block_on(async {
                while tokio::time::timeout(DEADLINE, watch.turned()).await.expect("a lost turn") < last {}
            });
        })
    };
    let watchers: Vec<_> = (0..4).map(watcher).collect();
    for _ in 0..TURNS {
        gate.open();
    }
    for watcher in watchers {
        watcher.join().unwrap();
    }
}

/// The algorithm as a model: two sessions (of two workers) enter and leave once, one holder holds and waits.
/// Tries every interleaving of their steps; each atomic access is one step.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Model {
    held: bool,
    counters: [u8; 2],
    notified: u8,
    sessions: [Session; 2],
    holder: Holder,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    Add,
    Look,
    Inside,
    Subtract,
    LookBack,
    Sum { at: u8, sum: u8 },
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Hold,
    Listen,
    Sum { heard: u8, at: u8, sum: u8 },
    Wait { heard: u8 },
    Drained,
}

impl Model {
    fn step_session(&self, i: usize) -> Option<Model> {
        let mut next = self.clone();
        next.sessions[i] = match self.sessions[i] {
            Session::Add => {
                next.counters[i] += 1;
                Session::Look
            }
            Session::Look if self.held => Session::Subtract,
            Session::Look => Session::Inside,
            Session::Inside => Session::Subtract,
            Session::Subtract => {
                next.counters[i] -= 1;
                Session::LookBack
            }
            Session::LookBack if self.held => Session::Sum { at: 0, sum: 0 },
            Session::LookBack => Session::Gone,
            Session::Sum { at: 2, sum: 0 } => {
                next.notified += 1;
                Session::Gone
            }
            Session::Sum { at: 2, .. } => Session::Gone,
            Session::Sum { at, sum } => {
                Session::Sum { at: at + 1, sum: sum + self.counters[usize::from(at)] }
            }
            Session::Gone => return None,
        };
        Some(next)
    }

    fn step_holder(&self) -> Option<Model> {
        let mut next = self.clone();
        next.holder = match self.holder {
            Holder::Hold => {
                next.held = true;
                Holder::Listen
            }
            Holder::Listen => Holder::Sum { heard: self.notified, at: 0, sum: 0 },
            Holder::Sum { at: 2, sum: 0, .. } => Holder::Drained,
            Holder::Sum { at: 2, heard, .. } => Holder::Wait { heard },
            Holder::Sum { heard, at, sum } => {
                Holder::Sum { heard, at: at + 1, sum: sum + self.counters[usize::from(at)] }
            }
            Holder::Wait { heard } if heard == self.notified => return None,
            Holder::Wait { .. } => Holder::Listen,
            Holder::Drained => return None,
        };
        Some(next)
    }
}

#[test]
fn every_interleaving_of_two_sessions_and_a_hold_drains_and_stays_drained() {
    let begin = Model {
        held: false,
        counters: [0; 2],
        notified: 0,
        sessions: [Session::Add; 2],
        holder: Holder::Hold,
    };
    let mut seen = HashSet::new();
    let mut open = vec![begin];
    while let Some(model) = open.pop() {
        if !seen.insert(model.clone()) {
            continue;
        }
        let is_inside = model.sessions.contains(&Session::Inside);
        assert!(!(model.holder == Holder::Drained && is_inside), "inside a drained gate");
        let steps = [model.step_session(0), model.step_session(1), model.step_holder()];
        let next: Vec<Model> = steps.into_iter().flatten().collect();
        assert!(!next.is_empty() || model.holder == Holder::Drained, "a lost wake-up");
        open.extend(next);
    }
    assert!(seen.len() > 500, "{} states", seen.len());
}
