//! RECONNECT: a session goes on with a new connection to the place where its database is.
//!
//! Owns [`Session::reconnect`]. It is a move without a target: a twin is built beside the session with its
//! state, and at a boundary it takes over. It deliberately ends no session: one that cannot go on elsewhere
//! keeps its connection, which is closed when its client leaves, as PgBouncer does with every session.
//!
//! # Sessions that stay
//! Two connections to one database see each other, which those of a move do not. A session that listens would
//! get notifications twice while both listen, a session that holds an advisory lock keeps its own twin from
//! taking it, and a session that would lose an answer (`currval`) is not worth a new connection. Such
//! sessions are checked again after a while.

use std::sync::Arc;

use super::follow::queued;
use super::twin_state::TwinState;
use crate::model::{GateOrder, RouteRecord};
use crate::route::Readiness;
use crate::session::client_session::Session;
use crate::session::ending::Ending;
use crate::session::state::SessionState;

/// A count of failures for which `TwinState::resting` waits longest.
const TRIES_MANY: u32 = u32::MAX;

impl Session {
    /// One step nearer to a connection of the record's generation. At a boundary only.
    ///
    /// Fails where the session cannot go on: its server is gone.
    pub(in crate::session) async fn reconnect(
        &mut self,
        record: &Arc<RouteRecord>,
    ) -> Result<Readiness, Ending> {
        if record.gate != GateOrder::Open || self.origin.is_replication() {
            return Ok(self.stay(record));
        }
        self.renew_step(record).await?;
        Ok(Readiness::Ready { order: record.order })
    }

    async fn renew_step(&mut self, record: &Arc<RouteRecord>) -> Result<(), Ending> {
        if self.migration.twin_state.place().is_some_and(|place| *place != record.place) {
            self.migration.twin_state.dismiss();
        }
        match &self.migration.twin_state {
            TwinState::Queued(_) | TwinState::Preparing { .. } | TwinState::BackingOff { .. } => {
                return Ok(());
            }
            TwinState::Empty { .. } => {
                self.migration.twin_state = queued(self, record);
                return Ok(());
            }
            TwinState::Admitted(_) | TwinState::Ready { .. } | TwinState::Failed { .. } => {}
        }
        let state = match self.take_state(record).await? {
            Ok(state) if may_leave(&state) => state,
            _ => return self.look_again_later(),
        };
        match std::mem::take(&mut self.migration.twin_state) {
            TwinState::Admitted(permit) => {
                self.migration.twin_state = TwinState::building(self.plan(&record.place, state), 0, permit);
                Ok(())
            }
            ready @ TwinState::Ready { .. } => {
                self.migration.twin_state = ready;
                self.take_over(record).await
            }
            _ => self.look_again_later(),
        }
    }

    async fn take_over(&mut self, record: &Arc<RouteRecord>) -> Result<(), Ending> {
        match self.take_twin(record).await {
            Some(twin) => {
                self.go_on_with(*twin, record);
                tracing::debug!(database = %record.name, generation = record.generation, "renewed");
                Ok(())
            }
            None => self.look_again_later(),
        }
    }

    fn look_again_later(&mut self) -> Result<(), Ending> {
        self.migration.twin_state.dismiss();
        self.migration.twin_state = TwinState::backing_off(TRIES_MANY);
        Ok(())
    }
}

fn may_leave(state: &SessionState) -> bool {
    state.pins().is_empty()
        && state.losses().is_empty()
        && state.channels.is_empty()
        && state.locks.is_empty()
}
