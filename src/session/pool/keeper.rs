//! What happens to a pool without a client asking: connections of an older epoch, idle ones, and waiters.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::{Pool, Pooled};
use crate::route::Moment;
use crate::session::worker::HINTS_MAX;

/// Pause after a connection that could not be opened; doubles with each failure.
pub(super) const REST_MIN: Duration = Duration::from_millis(50);
pub(super) const REST_MAX: Duration = Duration::from_secs(2);

/// How often a pool is checked while nothing happens, and while a client waits.
const LOOK_IDLE: Duration = Duration::from_secs(1);
const LOOK_WAITING: Duration = Duration::from_millis(50);

/// Connections that were not needed for this long are given to a worker with waiting clients.
const SURVEY_EVERY: Duration = Duration::from_millis(200);

/// Runs as long as the pool lives.
pub(super) async fn keep(pool: Weak<Pool>) {
    let Some(first) = pool.upgrade() else { return };
    let mut turns = first.route.gate().watch(first.parts.worker);
    let (permits, worker) = (std::sync::Arc::clone(&first.permits), first.parts.worker);
    drop(first);
    let mut hints_read = Moment::now();
    loop {
        let pause = match pool.upgrade() {
            Some(pool) if pool.is_pressed() || pool.permits.anybody_starves() => LOOK_WAITING,
            Some(_) => LOOK_IDLE,
            None => return,
        };
        // Every branch only wakes: the code below finds out what to do.
        tokio::select! {
            _ = turns.turned() => {}
            () = permits.rung(worker) => {}
            () = sleep(pause) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        let now = Moment::now();
        pool.now.set(now);
        if hints_read.is_over(HINTS_MAX, now) {
            hints_read = now;
            pool.permits.functions_changed();
            pool.permits.shape.turn();
        }
        pool.tidy();
        pool.grow();
    }
}

impl Pool {
    /// Closes connections that cannot be lent any more or have been idle for too long; removes waiters that
    /// have left the queue.
    fn tidy(self: &Rc<Pool>) {
        self.waiting.borrow_mut().retain(|waiter| !waiter.gives.is_closed());
        let idle_max = self.parts.settings.idle_time_max;
        let mut spared = self.permits.open().saturating_sub(self.parts.settings.idle_min);
        for shelf in self.shelves.borrow().iter() {
            let mut kept = Vec::new();
            for mut pooled in shelf.idle.take() {
                let is_old = self.has_rested(&pooled, idle_max) && spared > 0;
                if self.is_current(&mut pooled) && !is_old {
                    kept.push(pooled);
                    continue;
                }
                spared = spared.saturating_sub(1);
                self.close(pooled);
            }
            *shelf.idle.borrow_mut() = kept;
        }
        // Drops shelves that have no idle connection and no session.
        self.shelves
            .borrow_mut()
            .retain(|shelf| !shelf.idle.borrow().is_empty() || Rc::strong_count(shelf) > 1);
        while let Some(other) = self.permits.needier(self.parts.worker, false)
            && let Some(idle) = self.take_longest_idle()
        {
            self.give_away(idle, other);
        }
        if self.surveyed.get().is_over(SURVEY_EVERY, self.now.get()) {
            self.survey();
        }
    }

    /// Gives connections that were not needed since the last survey to workers with waiting clients.
    fn survey(self: &Rc<Pool>) {
        for shelf in self.shelves.borrow().iter() {
            for _ in 0..shelf.surplus.get() {
                let Some(other) = self.permits.needier(self.parts.worker, true) else { break };
                let mut idle = shelf.idle.borrow_mut();
                if idle.is_empty() {
                    break;
                }
                let pooled = idle.remove(0);
                drop(idle);
                self.give_away(pooled, other);
            }
            shelf.surplus.set(shelf.idle.borrow().len());
        }
        self.surveyed.set(self.now.get());
    }

    fn give_away(self: &Rc<Pool>, mut pooled: Box<Pooled>, other: usize) {
        pooled.permit.give_to(other);
        self.close(pooled);
    }
}
