//! Tests the order of a turn, which only a race can show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Gate;

#[test]
fn who_enters_after_a_release_without_having_seen_it_sees_that_the_turn_has_grown() {
    let gate = Arc::new(Gate::new(1));
    let place = Arc::new(AtomicU64::new(0));
    let mover = std::thread::spawn({
        let (gate, place) = (Arc::clone(&gate), Arc::clone(&place));
        move || {
            for _ in 0..2_000_000 {
                gate.hold();
                while !gate.is_drained() {
                    std::hint::spin_loop();
                }
                place.fetch_add(1, Ordering::SeqCst);
                gate.open();
            }
        }
    });
    while !mover.is_finished() {
        let (turn, known) = (gate.turn(), place.load(Ordering::SeqCst));
        let Ok(_pass) = gate.try_enter(0) else { continue };
        if gate.turn() == turn {
            assert_eq!(place.load(Ordering::SeqCst), known, "a transaction would go to the old place");
        }
    }
    mover.join().unwrap();
}
