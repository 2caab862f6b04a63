//! A client that is lent a connection for each transaction: what the relay does where a loan begins and ends.
//!
//! [`PooledClient`](crate::session::pool::pooled_client::PooledClient) keeps what the client takes from one
//! connection to the next; [`borrow`](crate::session::borrow) is where it waits for one.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::admission::Wait;
use super::server_end::LastError;
use super::{Backend, Pause, Relay, counters};
use crate::session::ending::Ending;
use crate::session::pool::{HintsStatus, Lease};
use crate::session::state::Freshness;
use crate::wire::exchange::Rest;

impl Relay {
    /// The next thing to do where server connections are lent.
    pub(super) fn lent_pause(&mut self) -> Option<Pause> {
        let Backend::Pooled(client) = &self.backend else { return None };
        if client.is_used && self.is_at_boundary() {
            let is_known = self.tracker.state().freshness() <= Freshness::Unnamed;
            let Backend::Pooled(client) = &mut self.backend else { return None };
            client.is_used = false;
            let may_stay = client.is_pinned() && is_known && !client.asks_again;
            if !may_stay && !self.detach_settled() {
                return Some(Pause::ReturnConnection);
            }
        }
        (self.admission.wait == Wait::Connection).then_some(Pause::NeedsConnection)
    }

    /// Takes a connection that can be lent as it is. `false`: there is none.
    pub(super) fn attach_matching(&mut self) -> bool {
        let Backend::Pooled(client) = &mut self.backend else { return false };
        match client.take_matching() {
            Some(lease) => {
                self.attach(lease);
                true
            }
            None => false,
        }
    }

    /// The connection is the client's from now on.
    pub(in crate::session) fn attach(&mut self, lease: Lease) {
        let Backend::Pooled(client) = &mut self.backend else { return };
        let known = client.begin_loan(lease, self.member.session());
        if let Some(knowledge) = client.take_new_functions() {
            self.tracker.texts_mut().forget_hints();
            match knowledge {
                HintsStatus::Current => {}
                HintsStatus::Doubtful => self.worker.recheck_hints(self.route.id()),
                HintsStatus::Outdated => self.worker.forget_hints(self.route.id()),
            }
        }
        // Another session may have read meanwhile what they do.
        if self.tracker.hints().is_none()
            && let Some(known) = self.worker.hints(self.route.id()).get()
        {
            self.tracker.execution_mut().use_hints(Arc::clone(known));
        }
        counters::assigned(&self.member);
        self.admission.leave_queue();
        self.server_end.last_error = LastError::None;
        self.take_received();
        if let Some(known) = known {
            self.worker.share(&mut self.backend.connection_mut().parameters);
            self.tell_parameters(&known);
        }
    }

    /// Gives the connection back at a boundary if nothing has to be asked first. `false`: something has to be
    /// asked.
    pub(in crate::session) fn detach_settled(&mut self) -> bool {
        let Backend::Pooled(client) = &mut self.backend else { return false };
        client.saw_changes_of_others(&mut self.tracker);
        let is_known =
            self.tracker.state().freshness() <= Freshness::Unnamed && self.tracker.unnamed().pin().is_none();
        let nothing_to_ask = is_known && client.may_give_back() && self.exchange.rest() == Rest::Settled;
        if !nothing_to_ask || !client.clear_target() {
            return false;
        }
        client.end_loan(&mut self.tracker);
        true
    }

    /// A transaction has ended: what it did to definitions is passed on before the client learns of its end.
    pub(super) fn tell_of_schema(&mut self) {
        match &mut self.backend {
            Backend::Dedicated(dedicated) => {
                if dedicated.take_defined() {
                    self.worker.catalogue(self.route.id()).require_check();
                }
            }
            Backend::Pooled(client) => client.tell_of_schema(self.tracker.loan().is_defining()),
        }
    }

    /// Has every session of the database read again what functions do, if that may have changed.
    pub(in crate::session) fn follow_definitions(&mut self) {
        let Backend::Pooled(client) = &mut self.backend else { return };
        if !self.tracker.loan_mut().take_defined() {
            return;
        }
        self.worker.forget_hints(self.route.id());
        client.end_defining(self.tracker.hints());
        self.tracker.texts_mut().forget_hints();
    }

    /// The client leaves: its connection is given back or closed.
    pub(in crate::session) fn leave_connection(&mut self) {
        if self.backend.needs_connection()
            || (self.may_send_own_message() && self.is_clean() && self.detach_settled())
        {
            return;
        }
        if let Backend::Pooled(client) = &mut self.backend {
            // Ends an open transaction now, whatever the client still has to read.
            client.discard(&mut self.tracker);
        }
    }

    /// Serves a client that waits in the queue: it may leave, cancel or send more. Ready when there is
    /// nothing to wait for.
    pub(in crate::session) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        if self.worker.is_stopping() {
            return Poll::Ready(Err(Ending::Stopping));
        }
        if self.admission.poll_turned(cx)
            && let Some(refusal) = self.route.current().terms.service.ending()
        {
            return Poll::Ready(Err(Ending::Refused(refusal)));
        }
        self.admission.note_hold_in_queue(self.route.gate());
        match self.stay_in_queue(cx) {
            Ok(true) if self.member.is_dismissed() => Poll::Ready(Err(Ending::Dismissed)),
            Ok(true) => Poll::Pending,
            Ok(false) => Poll::Ready(Ok(())),
            Err(ending) => Poll::Ready(Err(ending)),
        }
    }
}
