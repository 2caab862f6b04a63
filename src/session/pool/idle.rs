//! Connections that are alike: each of them fits any client of the same kind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pooled::Pooled;
use super::shared::SessionTemplate;
use super::{DatabasePool, QueuePlace, Waiter};
use crate::model::{RouteRecord, UnixMillis};
use crate::route::LentFacts;
use crate::session::migrate::twin::StatefulConnection;
use crate::session::origin::Origin;

/// Pause after a connection that could not be opened; doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

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
    pub(super) fn is_backing_off(&self) -> bool {
        self.failures.get().1.is_some_and(|until| until > Instant::now())
    }

    pub(super) fn succeeded(&self) {
        self.failure.take();
        self.failures.set((0, None));
    }

    pub(super) fn failed(&self, why: String) {
        *self.failure.borrow_mut() = Some(why);
        let count = self.failures.get().0.saturating_add(1);
        let rest = BACKOFF_MIN.saturating_mul(1 << count.min(6)).min(BACKOFF_MAX);
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

    /// Takes an idle connection: the one of this number, if there is one; else the one that was used last.
    pub(super) fn pop(&self, preferred: Option<u64>) -> Option<Box<Pooled>> {
        let mut idle = self.idle.borrow_mut();
        let found = preferred.and_then(|number| idle.iter().rposition(|pooled| pooled.number == number));
        let pooled = match found {
            Some(at) => idle.remove(at),
            None => idle.pop()?,
        };
        self.surplus.set(self.surplus.get().min(idle.len()));
        Some(pooled)
    }

    /// Enters the queue.
    pub(in crate::session) fn wait(self: &Rc<Pool>) -> QueuePlace {
        let (gives, given) = oneshot::channel();
        self.surplus.set(0);
        let waiter = Waiter { pool: Rc::clone(self), since: Instant::now(), gives };
        self.database_pool.waiting.borrow_mut().push_back(waiter);
        self.database_pool.grow();
        QueuePlace { given }
    }

    /// What a new session begins with; `None`: no connection of this pool has been opened yet.
    pub(in crate::session) fn template(&self) -> Option<SessionTemplate> {
        self.template.borrow().clone()
    }

    /// Why no connection can be had, as far as that is known.
    pub(in crate::session) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(super) fn learn(&self, server: &StatefulConnection) -> SessionTemplate {
        let mut known = self.template.borrow_mut();
        let state = match &*known {
            Some(template) if *template.state == *server.state() => Arc::clone(&template.state),
            _ => Arc::new(server.state().clone()),
        };
        let template = SessionTemplate { parameters: server.connection().parameters.clone(), state };
        self.database_pool.pool_registry.remember(self.database_pool.route.id(), &self.origin, &template);
        *known = Some(template.clone());
        template
    }
}
