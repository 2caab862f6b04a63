//! A session: one client, its server connection, and how far it is with the orders of its database.
//!
//! Owns the parts. What is done with them is in the modules that a pause of the relay leads to:
//! [`serve`](super::serve) (its life), [`borrow`](super::borrow) (a lent connection),
//! [`follow`](super::migrate::follow) (orders).

use std::sync::Arc;
use std::task::{Context, Poll};

use super::accept::new_client::LoadToken;
use super::cancel::registry::CancelRegistration;
use super::ending::Ending;
use super::migrate::migration::Migration;
use super::origin::Origin;
use super::relay::{Pause, Relay};
use super::worker::Registered;
use crate::frontend::ConnectionPermit;

/// A session's share of its worker.
pub(super) struct Presence {
    pub(super) registered: Registered,
    pub(super) _load: LoadToken,
}

/// A client with its server connection.
pub(super) struct Session {
    pub(super) relay: Relay,
    pub(super) registration: CancelRegistration,
    pub(super) origin: Arc<Origin>,
    pub(super) migration: Migration,
    /// Counted while the client is connected.
    pub(super) _admission: ConnectionPermit,
    pub(super) _presence: Presence,
}

impl Session {
    /// Forwards until there is something else to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        if self.migration.poll(cx) {
            self.relay.admission.look_up();
        }
        let polled = self.relay.poll(cx);
        // Checked after the poll, which has registered the waker: a later dismissal wakes the session.
        if polled.is_pending() && self.relay.member.is_dismissed() {
            return Poll::Ready(Pause::Ended(Ending::Dismissed));
        }
        polled
    }
}
