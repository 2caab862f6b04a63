//! What the current order of one database requires of this proxy, and whether it is done. No IO.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Ack, AckStage, GateOrder, ProxyId, RouteRecord, UnixMillis};
use crate::route::session_table::OrderTarget;
use crate::route::table::Route;

/// One followed database.
#[derive(Debug)]
pub(super) struct OrderTracker {
    pub(super) route: Arc<Route>,
    /// The order that changed the epoch, until all sessions have reached it.
    arriving: Option<u64>,
    /// Stays true once it is, except while warming: new sessions may join then.
    done: bool,
    /// The last acknowledgement in the catalogue.
    acked: Option<Ack>,
    /// When to update counts in the acknowledgement.
    pub(super) refresh_at: Option<Instant>,
    /// When the hold may be aborted.
    pub(super) abort_at: Option<Instant>,
}

/// Whether an acknowledgement must be written.
#[derive(Debug)]
pub(super) enum Answer {
    /// The catalogue has the same already.
    Known,
    /// Only counts differ: a later write is enough.
    Later,
    Write(Box<Ack>),
}

impl OrderTracker {
    /// For a route that is already in the state of its record.
    pub(super) fn new(route: Arc<Route>) -> OrderTracker {
        let duty = OrderTracker {
            route,
            arriving: None,
            done: false,
            acked: None,
            refresh_at: None,
            abort_at: None,
        };
        duty.route.session_table().set_order_target(duty.order_target(&duty.route.current()));
        duty
    }

    /// Applies a newer record: gate and sessions follow.
    pub(super) fn turn(&mut self, record: &RouteRecord, apply: impl FnOnce()) {
        let before = self.route.current();
        self.done = false;
        self.abort_at = None;
        if record.epoch != before.epoch {
            self.arriving = Some(record.order);
        }
        let was_held = matches!(before.gate, GateOrder::Held { .. });
        if matches!(record.gate, GateOrder::Held { .. }) && !was_held {
            // The next report covers this hold only.
            let _ = self.route.gate().take_stalls();
        }
        // Sessions react to the change; their state must count towards this order.
        self.route.session_table().set_order_target(self.order_target(record));
        apply();
    }

    fn order_target(&self, record: &RouteRecord) -> OrderTarget {
        let order = record.order;
        match (&record.gate, &record.next, self.arriving) {
            (GateOrder::Latched { .. }, _, _) | (GateOrder::Held { .. }, None, _) => OrderTarget::Nothing,
            (GateOrder::Open, _, Some(changed)) if changed == order => OrderTarget::Arrive { order },
            (GateOrder::Held { .. } | GateOrder::Open, Some(_), _) => OrderTarget::Travel { order },
            (GateOrder::Open, None, Some(changed)) => OrderTarget::Arrive { order: changed },
            (GateOrder::Open, None, None) => OrderTarget::Nothing,
        }
    }

    fn is_done(&self, record: &RouteRecord) -> bool {
        let gate = self.route.gate();
        let gate_is_done = match record.gate {
            GateOrder::Open => true,
            GateOrder::Latched { .. } => gate.connecting() == 0,
            GateOrder::Held { .. } => gate.is_drained(),
        };
        gate_is_done && self.route.session_table().behind() == 0
    }

    /// Whether the mover waits for progress of this order.
    pub(super) fn is_watched(&self) -> bool {
        !self.done || self.route.current().next.is_some()
    }

    /// What to write to the catalogue now.
    pub(super) fn answer(&mut self, proxy: &ProxyId, at: UnixMillis) -> Answer {
        let record = self.route.current();
        let is_warming = matches!(record.gate, GateOrder::Open) && record.next.is_some();
        self.done = self.is_done(&record) || (self.done && !is_warming);
        if self.done && matches!(record.gate, GateOrder::Open) {
            self.arriving = None;
        }
        let ack = self.ack(&record, proxy, at);
        match &self.acked {
            Some(known) if same(known, &ack) => Answer::Known,
            Some(known) if known.order == ack.order && known.stage == ack.stage => Answer::Later,
            _ => Answer::Write(Box::new(ack)),
        }
    }

    /// The acknowledgement with the current counts.
    pub(super) fn ack(&self, record: &RouteRecord, proxy: &ProxyId, at: UnixMillis) -> Ack {
        let gate = self.route.gate();
        let standing = self.route.session_table().standing();
        let running = match record.gate {
            GateOrder::Open => 0,
            GateOrder::Latched { .. } => gate.connecting(),
            GateOrder::Held { .. } => gate.inside() + gate.connecting(),
        };
        let stall = match record.gate {
            GateOrder::Open => Some(gate.stalls()).filter(|stalls| stalls.held > 0 || stalls.asked > 0),
            GateOrder::Latched { .. } | GateOrder::Held { .. } => None,
        };
        Ack {
            proxy: proxy.clone(),
            database: record.database.clone(),
            order: record.order,
            stage: if self.done { AckStage::Done } else { AckStage::Seen },
            sessions: standing.sessions,
            waiting: if self.done { 0 } else { standing.waiting.max(running) },
            pinned: standing.pinned,
            server_pids: standing.server_pids,
            stall,
            at,
        }
    }

    /// Records what the catalogue has; `None` if that is unknown.
    pub(super) fn acked(&mut self, ack: Option<Ack>) {
        self.acked = ack;
    }

    /// When the current hold may be aborted; `None` if there is no hold with an end.
    pub(super) fn expiry(&self, now: UnixMillis, grace: Duration) -> Option<Instant> {
        match self.route.current().gate {
            GateOrder::Held { until: Some(until), .. } => Some(Instant::now() + now.until(until) + grace),
            GateOrder::Held { until: None, .. } | GateOrder::Latched { .. } | GateOrder::Open => None,
        }
    }
}

fn same(known: &Ack, new: &Ack) -> bool {
    let mut new = new.clone();
    new.at = known.at;
    *known == new
}
