//! Connections that are alike: each of them fits any client of the same kind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::maintenance::{REST_MAX, REST_MIN};
use super::shared::SessionTemplate;
use super::{DatabasePool, Lending, Pooled, Waiter};
use crate::error::chain;
use crate::event_loop;
use crate::model::{RouteRecord, UnixMillis};
use crate::route::LentFacts;
use crate::session::migrate::twin::Twin;
use crate::session::serve::Origin;
use crate::session::state::Residue;

/// Connections of one role with the same startup parameters.
#[derive(Debug)]
pub(in crate::session) struct Pool {
    pub(in crate::session) origin: Arc<Origin>,
    pub(in crate::session) database_pool: Rc<DatabasePool>,
    #[allow(clippy::vec_box, reason = "a connection changes hands with each transaction")]
    pub(super) idle: RefCell<Vec<Box<Pooled>>>,
    /// The fewest that were idle at the same time since the last rebalance: this many were not
    /// needed.
    pub(super) surplus: Cell<usize>,
    /// Connections that are being opened.
    pub(super) opening: Cell<u32>,
    /// What a new client gets without a connection of its own, and the state that it begins with.
    pub(super) template: RefCell<Option<SessionTemplate>>,
    /// Why the last connection could not be opened; `None` once one could.
    pub(super) failure: RefCell<Option<String>>,
    /// Failures in a row, and until when no other connection is tried.
    pub(super) failures: Cell<(u32, Option<Instant>)>,
}

impl Pool {
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

    /// The facts of a connection that was opened for this pool.
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
            if self.database_pool.is_current(&mut pooled) {
                return Some(pooled);
            }
            self.database_pool.close(pooled);
        }
    }

    /// Puts back a connection that was taken and not used.
    pub(in crate::session) fn put_idle(&self, pooled: Box<Pooled>) {
        self.idle.borrow_mut().push(pooled);
    }

    /// Gives a connection back.
    pub(in crate::session) fn give_back(self: &Rc<Pool>, pooled: Box<Pooled>) {
        self.database_pool.give_back(self, pooled);
    }

    /// Removes what its client may have left, then gives the connection back; closes it if that cannot be
    /// removed.
    pub(in crate::session) fn clean_and_give_back(
        self: &Rc<Pool>,
        mut pooled: Box<Pooled>,
        residue: Residue,
    ) {
        if residue == Residue::Lasting || pooled.reads_functions_otherwise() {
            return self.discard(pooled);
        }
        let pool = Rc::clone(self);
        event_loop::spawn(async move {
            let deadline = Instant::now() + pool.database_pool.connect_time_max();
            match pooled.clean(residue, deadline).await {
                Ok(()) => pool.give_back(pooled),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "a connection could not be cleaned, and is closed");
                    pool.discard(pooled);
                }
            }
        });
    }

    /// Closes a connection that cannot be lent any more.
    pub(in crate::session) fn discard(&self, pooled: Box<Pooled>) {
        self.database_pool.close(pooled);
        self.database_pool.grow();
    }

    /// Enters the queue. Dropping the receiver leaves it.
    pub(in crate::session) fn wait(self: &Rc<Pool>) -> oneshot::Receiver<Lending> {
        let (gives, given) = oneshot::channel();
        self.surplus.set(0);
        let waiter = Waiter { pool: Rc::clone(self), since: Instant::now(), gives };
        self.database_pool.waiting.borrow_mut().push_back(waiter);
        self.database_pool.grow();
        given
    }

    /// What a new session begins with; `None`: no connection of this pool has been opened yet.
    pub(in crate::session) fn template(&self) -> Option<SessionTemplate> {
        self.template.borrow().clone()
    }

    /// Why no connection can be had, as far as that is known.
    pub(in crate::session) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(super) fn learn(&self, twin: &Twin) -> SessionTemplate {
        let mut known = self.template.borrow_mut();
        let state = match &*known {
            Some(template) if *template.state == *twin.state() => Arc::clone(&template.state),
            _ => Arc::new(twin.state().clone()),
        };
        let template = SessionTemplate { parameters: twin.connection().parameters.clone(), state };
        self.database_pool.pool_registry.remember(self.database_pool.route.id(), &self.origin, &template);
        *known = Some(template.clone());
        template
    }
}
