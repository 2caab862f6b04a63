//! How far a session is with following its database.

use std::sync::Arc;
use std::task::Context;

use super::twin_state::{QueuedPermit, TwinState};
use crate::model::{Epoch, GateOrder, RouteRecord};
use crate::session::state::SessionState;

/// How far a session is with its migration.
#[derive(Debug)]
pub(in crate::session) struct Migration {
    /// The epoch of the server connection.
    pub(in crate::session) epoch: Epoch,
    pub(in crate::session) generation: u64,
    /// The state as it was last asked for; still right while the tracker says so.
    pub(in crate::session) state: Option<Arc<SessionState>>,
    pub(in crate::session) twin_state: TwinState,
    /// The permit to ask for the state while clients run.
    pub(in crate::session) turn: Option<Box<QueuedPermit>>,
    /// The twin was built from `state`, or is being brought to it.
    pub(super) in_step: bool,
    /// The order at which the twin was last built or brought up to date.
    pub(super) tried_for: u64,
    /// The order at which locks were waited for.
    pub(super) pressed_for: u64,
}

impl Migration {
    pub(in crate::session) fn at(record: &RouteRecord) -> Migration {
        Migration {
            epoch: record.epoch,
            generation: record.generation,
            state: None,
            twin_state: TwinState::default(),
            turn: None,
            in_step: false,
            tried_for: 0,
            pressed_for: 0,
        }
    }

    /// `true`: a task that was waited for has ended.
    #[inline]
    pub(in crate::session) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let has_turn = self.turn.as_mut().is_some_and(|turn| turn.poll(cx));
        self.twin_state.poll(cx) || has_turn
    }
}

pub(in crate::session) fn is_held(record: &RouteRecord) -> bool {
    matches!(record.gate, GateOrder::Held { .. })
}
