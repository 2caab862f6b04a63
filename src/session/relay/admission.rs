//! Whether the client's next message may be forwarded, and what it waits for.
//!
//! Owns the pass of the running transaction and the time that a request has waited. It deliberately reads no
//! message: the relay says what a message needs.

use std::task::Context;
use std::time::Instant;

use crate::route::{Gate, GateState, Pass, TurnWatch};
use crate::wire::exchange::{Exchange, Rest};

/// Why the client's next message is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// For the answers to what was forwarded.
    Answers,
    /// For the gate, since then.
    Gate(Instant),
    /// For an order to be followed.
    Order,
    /// For a server connection that is lent.
    Connection,
    /// For what the session drew from sequences elsewhere.
    Recall,
}

#[derive(Debug)]
pub(in crate::session) struct Admission {
    turns: TurnWatch,
    pub(super) pass: Option<Pass>,
    pub(super) wait: Wait,
    /// There is work for the next boundary.
    pub(super) is_due: bool,
    /// Since when the client has not been read while an order was followed: a request may have come then. For
    /// a request that waits for a server connection: when it met a held gate.
    pub(super) unread_since: Option<Instant>,
}

impl Admission {
    /// `wait` is what the bytes wait for that the client sent before its session was ready.
    pub(super) fn new(turns: TurnWatch, wait: Wait) -> Admission {
        // The record may have changed since the connection was opened.
        Admission { turns, pass: None, wait, is_due: true, unread_since: None }
    }

    /// Another part of the session has work for the next boundary.
    pub(in crate::session) fn look_up(&mut self) {
        self.is_due = true;
    }

    /// Whether the gate has changed; then there is work for the next boundary.
    #[inline]
    pub(super) fn poll_turned(&mut self, cx: &mut Context<'_>) -> bool {
        let has_turned = self.turns.poll_turned(cx.waker()).is_ready();
        self.is_due |= has_turned;
        has_turned
    }

    /// The work for the boundary is done from now on; the client is not read meanwhile.
    pub(super) fn begin_boundary(&mut self) {
        self.is_due = false;
        self.unread_since = Some(Instant::now());
    }

    /// Enters the gate, at a boundary. `Nothing`: a transaction may begin.
    pub(super) fn enter(&mut self, cx: &mut Context<'_>, gate: &Gate, worker: usize) -> Wait {
        let Ok(pass) = gate.try_enter(worker) else {
            return match self.wait {
                Wait::Gate(since) => Wait::Gate(since),
                // The request may have come while the client was not read.
                _ => Wait::Gate(self.unread_since.take().unwrap_or_else(Instant::now)),
            };
        };
        // A change of the gate that was not followed yet may have moved the database: see `Gate`.
        self.poll_turned(cx);
        if self.is_due {
            return self.wait_for_order();
        }
        self.record_stall(gate);
        self.unread_since = None;
        self.pass = Some(pass);
        Wait::Nothing
    }

    /// The time at the gate is not over before the order that opened it has been followed.
    pub(super) fn wait_for_order(&self) -> Wait {
        match self.wait {
            Wait::Gate(since) => Wait::Gate(since),
            _ => Wait::Order,
        }
    }

    /// The admitted message is incomplete: gives back the pass, as the client may never finish it.
    pub(super) fn give_back_unused_pass(&mut self, exchange: &Exchange) {
        if exchange.rest() != Rest::Busy {
            self.pass = None;
        }
    }

    /// The request that waited at the gate goes on, now or in an instant: records how long it waited.
    pub(in crate::session) fn record_stall(&mut self, gate: &Gate) {
        if let Wait::Gate(since) = self.wait {
            gate.record_stall(since.elapsed());
            self.wait = Wait::Order;
        }
    }

    /// The client waits at the gate.
    pub(in crate::session) fn is_at_gate(&self) -> bool {
        matches!(self.wait, Wait::Gate(_))
    }

    /// A request that waits for a server connection while the gate is held counts as held from then on.
    pub(super) fn note_hold_in_queue(&mut self, gate: &Gate) {
        if self.unread_since.is_none() && gate.state() == GateState::Held {
            self.unread_since = Some(Instant::now());
        }
    }

    /// Its connection has come. From here on it counts as a request that waited at the gate.
    pub(super) fn leave_queue(&mut self) {
        if self.wait == Wait::Connection
            && let Some(since) = self.unread_since.take()
        {
            self.wait = Wait::Gate(since);
        }
    }
}
