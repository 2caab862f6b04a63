//! A pooled connection: what is known of it from one client to the next, and how it is closed.
//!
//! Owns the one way in which such a connection ends: [`Pooled`] closes it when it is dropped, wherever that
//! happens, and the permit to have it comes back afterwards.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::DatabasePool;
use super::permits::Permit;
use crate::event_loop;
use crate::model::RouteRecord;
use crate::route::{LentPid, Moment};
use crate::session::migrate::twin::{RestoreError, StatefulConnection};
use crate::session::state::{Residue, SessionState, reads_functions_otherwise};
use crate::session::statements::OnServer;

/// A new connection serves this many clients of its kind, or for this long, before it makes room for another
/// kind: if all clients were served strictly in turn, each of them could cost the server a new process.
const ALIKE_MAX: u32 = 16;
const ALIKE_TIME_MAX: Duration = Duration::from_millis(250);

/// A connection and its state. Dropping it closes the connection; the permit to have it comes back when the
/// server process is gone, or nearly so.
#[derive(Debug)]
pub(in crate::session) struct Pooled {
    pub(super) number: u64,
    pub(in crate::session) server: StatefulConnection,
    /// The state of the connection; shared with sessions that have the same.
    pub(super) state: Arc<SessionState>,
    /// The state that it began with.
    pub(super) template: Arc<SessionState>,
    /// While it is lent, none: its client has them.
    pub(super) on_server: Box<OnServer>,
    pub(in crate::session) record: Arc<RouteRecord>,
    /// [`Definitions::schema`](super::definitions::Definitions::schema) when its statements were made.
    pub(super) schema: u64,
    /// It was not opened by this pool.
    pub(super) is_foreign: bool,
    /// A client has had it.
    pub(in crate::session) was_lent: bool,
    /// The value of [`Definitions::catalogue`](super::definitions::Definitions::catalogue) when it was lent.
    pub(super) lent_at: u64,
    pub(super) keeps: Keeps,
    /// The number of the gate's change at which it was last seen to be where the database is.
    pub(super) turn: u64,
    /// How many waiters have been given it.
    pub(super) served: u32,
    pub(super) opened: Instant,
    /// When it was opened and when it was given back, by the pool's clock (`DatabasePool::now`).
    pub(super) born: Moment,
    pub(super) rested: Moment,
    /// `None`: it is being closed.
    pub(super) slot: Option<ConnectionSlot>,
    pub(super) database_pool: Weak<DatabasePool>,
}

/// What a connection takes up until it is closed.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    pub(super) permit: Permit,
    /// Its line in the session table.
    pub(super) pid: LentPid,
}

/// What PostgreSQL keeps of earlier commands for the life of a connection: no command clears it.
#[derive(Debug)]
pub(super) struct Keeps {
    /// [`Pooled::lent_at`] for the first loan that may have called functions: those were read under the
    /// settings that the connection began with, and with the definitions of that time.
    pub(super) ran_at: Option<u64>,
    /// A command has kept what a name meant under the search path of that moment.
    pub(super) found: bool,
    /// A command has kept values as a client with this state reads them.
    pub(super) values: Option<Arc<SessionState>>,
    /// [`SettingDifferences::results_kept`](super::setting_differences::SettingDifferences::results_kept).
    pub(super) results_kept: Rc<Cell<bool>>,
}

impl Keeps {
    /// Of a connection on which nothing has run.
    pub(super) fn nothing(results_kept: &Rc<Cell<bool>>) -> Keeps {
        Keeps { ran_at: None, found: false, values: None, results_kept: Rc::clone(results_kept) }
    }
}

impl Pooled {
    /// Functions may have been read under its client's settings, for the connection's life.
    pub(super) fn reads_functions_otherwise(&self) -> bool {
        reads_functions_otherwise(&self.state, &self.template)
    }

    /// Functions or values were read on it under other settings than a client with this state has.
    pub(super) fn has_read_otherwise(&self, client: &SessionState) -> bool {
        self.keeps.ran_at.is_some() && reads_functions_otherwise(client, &self.template)
            || self.keeps_other_values(client)
    }

    /// Records what the loan that ends now has run.
    pub(super) fn has_run(&mut self, residue: Residue) {
        if residue != Residue::Clean {
            self.keeps.ran_at.get_or_insert(self.lent_at);
        }
    }

    /// Whether functions or domains may have changed since the connection read them. `catalogue` is
    /// [`Definitions::catalogue`](super::definitions::Definitions::catalogue).
    pub(super) fn keeps_outdated(&self, catalogue: u64) -> bool {
        self.keeps.ran_at.is_some_and(|ran_at| ran_at != catalogue)
    }

    /// It keeps values that a client with this state would read otherwise.
    pub(super) fn keeps_other_values(&self, client: &SessionState) -> bool {
        self.keeps.values.as_ref().is_some_and(|kept| {
            kept.reads_values_otherwise(client)
                || self.keeps.results_kept.get() && kept.computes_otherwise(client)
        })
    }

    /// It was opened for clients of its kind a moment ago.
    pub(super) fn is_new(&self) -> bool {
        self.served < ALIKE_MAX && self.opened.elapsed() < ALIKE_TIME_MAX
    }

    /// The worker that needs it more gets its permit once it is closed.
    pub(super) fn give_permit_to(&mut self, other: usize) {
        if let Some(slot) = &mut self.slot {
            slot.permit.give_to(other);
        }
    }

    /// Removes what its client may have left.
    pub(super) async fn clean(&mut self, residue: Residue, deadline: Instant) -> Result<(), RestoreError> {
        // Statements that its client made by SQL are part of the state that has to go.
        let residue = if self.state.statements.is_empty() { residue } else { Residue::Statements };
        self.server.clean(residue, &self.template, deadline).await?;
        self.state = Arc::clone(&self.template);
        self.on_server.lose_unnamed();
        if residue == Residue::Statements {
            *self.on_server = OnServer::default();
        }
        Ok(())
    }

    /// The session that has it from now on; `None`: it is idle.
    pub(super) fn set_borrower(&mut self, session: Option<u64>) {
        self.was_lent |= session.is_some();
        if let Some(slot) = &self.slot {
            slot.pid.set_borrower(session);
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        // The thread ends: dropping the connection closes its socket.
        if !event_loop::is_here() {
            return;
        }
        let connection = self.server.take_connection();
        let closing = Closing::begin(&self.database_pool, slot);
        event_loop::spawn(async move {
            connection.terminate().await;
            drop(closing);
        });
    }
}

/// A connection that is being closed. Dropping this returns the permit, for the first waiter.
struct Closing {
    _slot: ConnectionSlot,
    /// `None`: its permit is for another worker, or the pool is gone.
    database_pool: Option<Rc<DatabasePool>>,
}

impl Closing {
    fn begin(database_pool: &Weak<DatabasePool>, slot: ConnectionSlot) -> Closing {
        let database_pool = database_pool.upgrade().filter(|_| !slot.permit.is_given());
        if let Some(database_pool) = &database_pool {
            database_pool.closing.set(database_pool.closing.get() + 1);
        }
        Closing { _slot: slot, database_pool }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(database_pool) = &self.database_pool {
            database_pool.closing.set(database_pool.closing.get().saturating_sub(1));
        }
    }
}
