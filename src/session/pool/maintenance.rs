//! What happens to a pool without a client asking: connections of an older epoch, idle ones, and waiters.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::DatabasePool;
use crate::route::Moment;
use crate::session::state::HINTS_MAX;

/// How often a pool is checked while nothing happens, and while a client waits.
const CHECK_IDLE: Duration = Duration::from_secs(1);
const CHECK_WAITING: Duration = Duration::from_millis(50);

/// Connections that were not needed for this long are given to a worker with waiting clients.
const REBALANCE_EVERY: Duration = Duration::from_millis(200);

/// Runs as long as the pool lives.
pub(super) async fn maintain(database_pool: Weak<DatabasePool>) {
    let Some(first) = database_pool.upgrade() else { return };
    let mut turns = first.route.gate().watch(first.parts.worker);
    let (permits, worker) = (std::sync::Arc::clone(&first.permits), first.parts.worker);
    drop(first);
    let mut hints_read = Moment::now();
    loop {
        let pause = match database_pool.upgrade() {
            Some(database_pool)
                if database_pool.has_waiting_clients() || database_pool.permits.is_any_waiting() =>
            {
                CHECK_WAITING
            }
            Some(_) => CHECK_IDLE,
            None => return,
        };
        // Every branch only wakes: the code below finds out what to do.
        tokio::select! {
            _ = turns.turned() => {}
            () = permits.notified(worker) => {}
            () = sleep(pause) => {}
        }
        let Some(database_pool) = database_pool.upgrade() else { return };
        let now = Moment::now();
        database_pool.now.set(now);
        if hints_read.is_over(HINTS_MAX, now) {
            hints_read = now;
            database_pool.permits.functions_changed();
            database_pool.permits.catalogue_check.request_regular();
        }
        database_pool.close_unneeded();
        database_pool.grow();
    }
}

impl DatabasePool {
    /// Closes connections that cannot be lent any more or have been idle for too long; removes waiters that
    /// have left the queue.
    fn close_unneeded(self: &Rc<DatabasePool>) {
        self.waiting.borrow_mut().retain(|waiter| !waiter.gives.is_closed());
        let idle_max = self.parts.settings.idle_time_max;
        let mut spared = self.permits.open().saturating_sub(self.parts.settings.idle_min);
        for pool in self.pools.borrow().iter() {
            let mut kept = Vec::new();
            for mut pooled in pool.idle.take() {
                let is_old = self.has_been_idle(&pooled, idle_max) && spared > 0;
                if self.is_current(&mut pooled) && !is_old {
                    kept.push(pooled);
                    continue;
                }
                spared = spared.saturating_sub(1);
            }
            *pool.idle.borrow_mut() = kept;
        }
        // Drops pools that have no idle connection and no session.
        self.pools.borrow_mut().retain(|pool| !pool.idle.borrow().is_empty() || Rc::strong_count(pool) > 1);
        while let Some(other) = self.permits.worker_short_of_connections(self.parts.worker, false)
            && let Some(mut idle) = self.take_longest_idle()
        {
            idle.give_permit_to(other);
        }
        if self.rebalanced.get().is_over(REBALANCE_EVERY, self.now.get()) {
            self.rebalance();
        }
    }

    /// Gives connections that were not needed since the last rebalance to workers with waiting clients.
    fn rebalance(self: &Rc<DatabasePool>) {
        for pool in self.pools.borrow().iter() {
            for _ in 0..pool.surplus.get() {
                let Some(other) = self.permits.worker_short_of_connections(self.parts.worker, true) else {
                    break;
                };
                let mut idle = pool.idle.borrow_mut();
                if idle.is_empty() {
                    break;
                }
                idle.remove(0).give_permit_to(other);
            }
            pool.surplus.set(pool.idle.borrow().len());
        }
        self.rebalanced.set(self.now.get());
    }
}
