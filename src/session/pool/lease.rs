//! A pooled connection while it is lent, or about to be.
//!
//! ```text
//!   opened ---> idle ---> lease ---> given back ---> idle ...
//!     |          |          |            |
//!     +----------+----------+------------+---> dropped: closed, then the permit comes back
//! ```
//!
//! Owns how a loan ends. It deliberately does not decide which client gets a connection that is given back:
//! [`DatabasePool`](super::DatabasePool) does.
//!
//! # Why
//! A connection is lost in many places: a client leaves in the middle of a query, a session panics, a future
//! is dropped while the connection is made to fit. If each place had to give it back, one that forgot would
//! take a permit from the database for good. So a [`Lease`] is a value: giving it back consumes it, and
//! whatever else happens to it closes the connection. The state of such a connection is not known, so it
//! never goes to another client.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::Pool;
use super::pooled::Pooled;
use crate::backend::ServerConnection;
use crate::error::chain;
use crate::event_loop;
use crate::model::RouteRecord;
use crate::route::LentPid;
use crate::session::state::Residue;

/// A connection that a client has, or is about to get. Giving it back consumes it; one that is dropped
/// instead is closed.
#[derive(Debug)]
pub(in crate::session) struct Lease {
    pooled: Box<Pooled>,
    pool: Rc<Pool>,
}

impl Lease {
    pub(super) fn new(pool: &Rc<Pool>, pooled: Box<Pooled>) -> Lease {
        Lease { pooled, pool: Rc::clone(pool) }
    }

    /// An idle connection of the pool: the one of this number, if there is one; else the one that was used
    /// last, as its server process has most in its caches.
    pub(super) fn take(pool: &Rc<Pool>, preferred: Option<u64>) -> Option<Lease> {
        loop {
            let mut pooled = pool.pop(preferred)?;
            if pool.database_pool.is_current(&mut pooled) {
                return Some(Lease::new(pool, pooled));
            }
        }
    }

    /// The connection, for the session that has it.
    #[inline]
    pub(in crate::session) fn connection(&self) -> &ServerConnection {
        self.pooled.server.connection()
    }

    #[inline]
    pub(in crate::session) fn connection_mut(&mut self) -> &mut ServerConnection {
        self.pooled.server.connection_mut()
    }

    /// The session has it from now on.
    pub(super) fn begin(&mut self, session: u64) {
        self.pooled.lent_at = self.pool.database_pool.definitions.catalogue();
        self.pooled.set_borrower(Some(session));
    }

    /// Its client goes on with `connection`, which belongs to no pool. The lease stands for it from now on,
    /// and is not lent again. Returns the connection that was lent.
    pub(super) fn go_on_with(
        &mut self,
        mut connection: Box<ServerConnection>,
        record: &Arc<RouteRecord>,
        pid: LentPid,
    ) -> Box<ServerConnection> {
        if let Some(slot) = &mut self.pooled.slot {
            pid.set_borrower(slot.pid.borrower());
            slot.pid = pid;
        }
        self.pooled.record = Arc::clone(record);
        self.pooled.is_foreign = true;
        self.pooled.server.exchange_connection(&mut connection);
        connection
    }

    /// Puts it back where it was taken: no client has had it since.
    pub(super) fn put_back(self) {
        let Lease { pooled, pool } = self;
        pool.idle.borrow_mut().push(pooled);
    }

    /// For the first waiter, or for the next client. Its state is known, and nothing of its client is left.
    pub(in crate::session) fn give_back(mut self) {
        self.pooled.set_borrower(None);
        let Lease { pooled, pool } = self;
        pool.database_pool.give_back(&pool, pooled);
    }

    /// Removes what its client may have left, then gives it back; closes it if that cannot be removed.
    pub(super) fn clean_and_give_back(mut self, residue: Residue) {
        self.pooled.set_borrower(None);
        if residue == Residue::Lasting || self.pooled.reads_functions_otherwise() {
            return self.discard();
        }
        event_loop::spawn(async move {
            let deadline = Instant::now() + self.pool.database_pool.connect_time_max();
            match self.pooled.clean(residue, deadline).await {
                Ok(()) => self.give_back(),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "a connection could not be cleaned, and is closed");
                    self.discard();
                }
            }
        });
    }

    /// Closes a connection that cannot be lent any more, and opens another if a client waits for one.
    pub(in crate::session) fn discard(self) {
        let Lease { pooled, pool } = self;
        drop(pooled);
        pool.database_pool.grow();
    }
}

impl Deref for Lease {
    type Target = Pooled;

    #[inline]
    fn deref(&self) -> &Pooled {
        &self.pooled
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut Pooled {
        &mut self.pooled
    }
}
