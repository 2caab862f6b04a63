//! Connections that are alike: each of them fits any client of the same kind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::keeper::{REST_MAX, REST_MIN};
use super::treasury::Ground;
use super::{Lending, Pool, Pooled, Waiter};
use crate::error::chain;
use crate::event_loop;
use crate::model::{RouteRecord, UnixMillis};
use crate::route::LentFacts;
use crate::session::serve::Origin;
use crate::session::state::Soil;
use crate::session::twin::Twin;

/// Connections of one role with the same startup parameters.
#[derive(Debug)]
pub(in crate::session) struct Shelf {
    pub(in crate::session) origin: Arc<Origin>,
    pub(in crate::session) pool: Rc<Pool>,
    #[allow(clippy::vec_box, reason = "a connection changes hands with each transaction")]
    pub(super) idle: RefCell<Vec<Box<Pooled>>>,
    /// The fewest that were idle at the same time since the keeper's last survey: this many were not needed.
    pub(super) surplus: Cell<usize>,
    /// Connections that are being opened.
    pub(super) opening: Cell<u32>,
    /// What a new client gets without a connection of its own, and the state that it begins with.
    pub(super) ground: RefCell<Option<Ground>>,
    /// Why the last connection could not be opened; `None` once one could.
    pub(super) failure: RefCell<Option<String>>,
    /// Failures in a row, and until when no other connection is tried.
    pub(super) failures: Cell<(u32, Option<Instant>)>,
}

impl Shelf {
    /// A connection could not be opened a moment ago.
    pub(super) fn rests(&self) -> bool {
        self.failures.get().1.is_some_and(|until| until > Instant::now())
    }

    pub(super) fn succeeded(&self) {
        self.failure.take();
        self.failures.set((0, None));
    }

    pub(super) fn failed(&self, why: String) {
        *self.failure.borrow_mut() = Some(why);
        let count = self.failures.get().0.saturating_add(1);
        let rest = REST_MIN.saturating_mul(1 << count.min(6)).min(REST_MAX);
        self.failures.set((count, Some(Instant::now() + rest)));
    }

    /// The facts of a connection that was opened for this shelf.
    pub(in crate::session) fn facts(&self, pid: i32, record: &RouteRecord) -> LentFacts {
        LentFacts {
            pid,
            role: self.origin.role().to_string(),
            generation: record.generation,
            opened_at: UnixMillis::now(),
        }
    }

    /// An idle connection: the one of this number, if there is one; else the one that was used last, as its
    /// server process has most in its caches.
    pub(in crate::session) fn take_idle(&self, preferred: Option<u64>) -> Option<Box<Pooled>> {
        loop {
            let mut idle = self.idle.borrow_mut();
            let found = preferred.and_then(|number| idle.iter().rposition(|pooled| pooled.number == number));
            let mut pooled = match found {
                Some(at) => idle.remove(at),
                None => idle.pop()?,
            };
            self.surplus.set(self.surplus.get().min(idle.len()));
            drop(idle);
            if self.pool.is_current(&mut pooled) {
                return Some(pooled);
            }
            self.pool.close(pooled);
        }
    }

    /// Puts back a connection that was taken and not used.
    pub(in crate::session) fn put_idle(&self, pooled: Box<Pooled>) {
        self.idle.borrow_mut().push(pooled);
    }

    /// Gives a connection back.
    pub(in crate::session) fn give_back(self: &Rc<Shelf>, pooled: Box<Pooled>) {
        self.pool.give_back(self, pooled);
    }

    /// Removes what its client may have left, then gives the connection back; closes it if that cannot be
    /// removed.
    pub(in crate::session) fn clean_and_give_back(self: &Rc<Shelf>, mut pooled: Box<Pooled>, soil: Soil) {
        if soil == Soil::Lasting || pooled.reads_functions_otherwise() {
            return self.discard(pooled);
        }
        let shelf = Rc::clone(self);
        event_loop::spawn(async move {
            let deadline = Instant::now() + shelf.pool.connect_time_max();
            match pooled.clean(soil, deadline).await {
                Ok(()) => shelf.give_back(pooled),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "a connection could not be cleaned, and is closed");
                    shelf.discard(pooled);
                }
            }
        });
    }

    /// Closes a connection that cannot be lent any more.
    pub(in crate::session) fn discard(&self, pooled: Box<Pooled>) {
        self.pool.close(pooled);
        self.pool.grow();
    }

    /// Enters the queue. Dropping the receiver leaves it.
    pub(in crate::session) fn wait(self: &Rc<Shelf>) -> oneshot::Receiver<Lending> {
        let (gives, given) = oneshot::channel();
        self.surplus.set(0);
        let waiter = Waiter { shelf: Rc::clone(self), since: Instant::now(), gives };
        self.pool.waiting.borrow_mut().push_back(waiter);
        self.pool.grow();
        given
    }

    /// What a new session begins with; `None`: no connection of this shelf has been opened yet.
    pub(in crate::session) fn ground(&self) -> Option<Ground> {
        self.ground.borrow().clone()
    }

    /// Why no connection can be had, as far as that is known.
    pub(in crate::session) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(super) fn learn(&self, twin: &Twin) -> Ground {
        let mut known = self.ground.borrow_mut();
        let state = match &*known {
            Some(ground) if *ground.state == *twin.state() => Arc::clone(&ground.state),
            _ => Arc::new(twin.state().clone()),
        };
        let ground = Ground { parameters: twin.connection().parameters.clone(), state };
        self.pool.treasury.remember(self.pool.route.id(), &self.origin, &ground);
        *known = Some(ground.clone());
        ground
    }
}
