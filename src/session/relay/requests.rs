//! From the client to the server: which requests are admitted, in which form they go out, and what happens
//! while they wait.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::Relay;
use super::admission::Wait;
use super::counters;
use super::observe;
use super::pipe::{Inbox, Outbox, Outgoing};
use super::server_end::SendSide;
use crate::error::{Refusal, Severity, SqlState};
use crate::route::{Activity, GateState};
use crate::session::cancel::cancelable_wait;
use crate::session::ending::Ending;
use crate::tls::Stream;
use crate::wire::exchange::{Exchange, PENDING_MAX};
use crate::wire::frame::Piece;
use crate::wire::message::backend::{error_response, ready_for_query};
use crate::wire::message::frontend::{is_request, tag as request};

impl Relay {
    pub(super) fn poll_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.server_end.outbox.poll_drain(cx, self.backend.stream()) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            // The server's last messages are still to be read, and say more than the error does.
            Poll::Ready(Err(_)) => self.server_end.outbox = Outbox::default(),
        }
        if self.requests.ended {
            let has_connection = !self.backend.needs_connection();
            return Ok(has_connection && self.server_end.poll_shutdown(cx, self.backend.stream()));
        }
        if self.admission.wait == Wait::Connection
            && self.backend.needs_connection()
            && !self.attach_matching()
        {
            return Ok(false);
        }
        if self.admission.wait != Wait::Nothing {
            return self.retry_requests(cx, scratch);
        }
        match self.requests.poll_fill(cx, &mut self.client, scratch) {
            Poll::Pending => {
                self.admission.unread_since = None;
                Ok(false)
            }
            Poll::Ready(Err(_)) => Err(Ending::ClientDisconnected),
            Poll::Ready(Ok(0)) => Ok(true),
            Poll::Ready(Ok(filled)) => {
                let taken = self.forward_requests(cx, &scratch[..filled])?;
                self.requests.keep(&scratch[taken..filled]);
                // Also where nothing was taken: a read that returned bytes has registered no waker.
                let goes_on = self.admission.wait != Wait::Nothing || self.requests.ended;
                Ok(goes_on || !self.requests.rests(cx, &mut self.client))
            }
        }
    }

    /// The message that was held back may be forwarded now.
    fn retry_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        let mut kept = std::mem::take(&mut self.requests.kept);
        let taken = self.forward_requests(cx, &kept)?;
        drop(kept.split_to(taken));
        // Memory that is not needed is given back.
        self.requests.kept = if kept.is_empty() { BytesMut::new() } else { kept };
        match self.admission.wait {
            Wait::Gate(_) | Wait::Connection => self.stay_parked(cx, scratch)?,
            _ => self.cancelable_wait.leave(),
        }
        Ok(taken > 0 || self.admission.wait == Wait::Nothing)
    }

    fn stay_parked(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Ending> {
        listen_while_parked(cx, &mut self.requests, &mut self.client, scratch)?;
        self.cancelable_wait.park(cx.waker());
        if self.cancelable_wait.take_cancelled() {
            // It never reaches a server.
            self.answer_waiting(&Refusal::new(
                Severity::Error,
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request".to_owned(),
            ));
        }
        Ok(())
    }

    /// Answers the request that waits in place of the server. `false`: it is incomplete.
    fn answer_waiting(&mut self, refusal: &Refusal) -> bool {
        let Some(unit) = cancelable_wait::first_unit(&self.requests.kept) else { return false };
        self.requests.kept.advance(unit);
        let mut answer = BytesMut::new();
        error_response(&mut answer, refusal);
        counters::refused(&self.member, refusal);
        ready_for_query(&mut answer, self.exchange.status());
        self.to_client.queue(&answer);
        self.admission.unread_since = None;
        if self.requests.kept.is_empty() {
            self.admission.wait = Wait::Nothing;
            self.cancelable_wait.leave();
            self.backend.mark_unneeded();
            self.set_activity(Activity::Idle);
        }
        true
    }

    /// Answers the request that waits for a server connection with this error.
    ///
    /// Fails if the client can only be answered by ending its connection.
    pub(in crate::session) fn refuse_waiting(&mut self, refusal: Refusal) -> Result<(), Ending> {
        match self.answer_waiting(&refusal) {
            true => Ok(()),
            false => Err(Ending::Refused(Refusal { severity: Severity::Fatal, ..refusal })),
        }
    }

    /// Reads and writes for a client that waits for a server connection. `false`: there is nothing to wait
    /// for any more.
    pub(super) fn stay_in_queue(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let worker = Rc::clone(&self.worker);
        let drained = self.to_client.poll_drain(cx, &mut self.client);
        if matches!(drained, Poll::Ready(Err(_))) {
            return Err(Ending::ClientDisconnected);
        }
        self.stay_parked(cx, &mut worker.scratch())?;
        Ok(self.admission.wait == Wait::Connection)
    }

    /// Takes messages off the front of `bytes` while they are admitted, and sends them. Returns how many
    /// bytes that were.
    fn forward_requests(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Ending> {
        let mut taken = 0;
        let mut outgoing = Outgoing::default();
        while let Some(&tag) = bytes.get(taken) {
            if self.requests.is_between_messages() {
                if !self.backend.has_enough(&bytes[taken..]) {
                    self.admission.wait = Wait::Nothing;
                    self.admission.give_back_unused_pass(&self.exchange);
                    break;
                }
                if self.backend.waits_for_doubt(&self.exchange, &bytes[taken..]) {
                    self.admission.wait = Wait::Answers;
                    break;
                }
                if self.unnamed.is_wanted_by(&bytes[taken..]) {
                    self.admission.is_due = true;
                    self.admission.wait = self.admission.wait_for_order();
                    break;
                }
                if self.backend.is_full(&self.exchange) && self.exchange.reads_data() {
                    return Err(Ending::Refused(too_many_syncs()));
                }
                self.admission.wait = self.admit(cx, tag);
                if self.admission.wait == Wait::Nothing && self.backend.recalls() {
                    self.admission.wait = self.backend.wait_for_recall(&self.exchange, &bytes[taken..]);
                }
                if self.admission.wait != Wait::Nothing {
                    break;
                }
            }
            let next = self.requests.walker.next(&bytes[taken..], observe::wants_request);
            let Some(piece) = next.map_err(Ending::ClientBroke)? else {
                self.admission.give_back_unused_pass(&self.exchange);
                break;
            };
            if observe::may_be_too_long(&piece) {
                observe::check_length(&piece).map_err(Ending::ClientBroke)?;
                self.watch.terms().check_message(piece.bytes).map_err(Ending::Refused)?;
            }
            if let Some(refusal) = self.backend.refusal(&piece) {
                return Err(Ending::Refused(refusal));
            }
            let end = taken + piece.bytes.len();
            let (exchange, tracker) = (&mut self.exchange, &self.tracker);
            let (replaced, first) = match self.backend.replacement(&piece, exchange, tracker, &self.worker) {
                Some(replacement) => {
                    let first = replacement.first().copied();
                    outgoing.replace(bytes, taken..end, replacement);
                    self.backend.count_injected(&mut self.tracker);
                    (true, first)
                }
                None => (false, piece.part.begins().then_some(piece.tag)),
            };
            taken = end;
            self.looked_at = self.looked_at.saturating_add(1);
            counters::forwarded(&self.member, first);
            self.note_request(&piece, replaced);
            self.backend.tell_of_definitions(&self.tracker);
            if self.requests.ended {
                break;
            }
        }
        // Where the server cannot be written to, its last messages are still to be read.
        let _ = self.server_end.outbox.send(cx, self.backend.stream(), outgoing.finish(&bytes[..taken]));
        counters::received(&self.member, taken);
        Ok(taken)
    }

    /// Whether the message that begins with this tag may be forwarded now.
    fn admit(&mut self, cx: &mut Context<'_>, tag: u8) -> Wait {
        if self.backend.is_full(&self.exchange) {
            return Wait::Answers;
        }
        match self.admission.pass.is_some() {
            // A pipeline does not go on to its next transaction where a boundary is wanted: one that never
            // paused would keep its session from following any order.
            true if self.wants_boundary() && self.exchange.will_report() => Wait::Answers,
            true => Wait::Nothing,
            false if !Exchange::begins_work(tag) => Wait::Nothing,
            false if self.backend.needs_connection() && !self.attach_matching() => {
                self.admission.unread_since = None;
                Wait::Connection
            }
            false => self.enter(cx),
        }
    }

    fn wants_boundary(&self) -> bool {
        self.admission.is_due
            || self.worker.is_stopping()
            || self.route.gate().state() == GateState::Held
            || self.backend.has_waiting_clients()
    }

    /// Enters the gate, at a boundary.
    fn enter(&mut self, cx: &mut Context<'_>) -> Wait {
        let wait = self.admission.enter(cx, self.route.gate(), self.worker.index());
        match wait {
            Wait::Nothing => self.backend.begin_transaction(),
            Wait::Gate(_) => self.set_activity(Activity::Held),
            _ => {}
        }
        wait
    }

    /// `replaced`: the server gets another message instead.
    fn note_request(&mut self, piece: &Piece<'_>, replaced: bool) {
        // Closing a statement that the pooled client knows changes nothing else.
        match replaced && piece.tag == request::CLOSE {
            true => self.tracker.on_request(piece.tag),
            false => {
                let bound = self.backend.bound();
                observe::track_request(&mut self.tracker, &self.exchange, piece, bound);
            }
        }
        if piece.part.begins() {
            self.exchange.on_request(piece.tag);
            counters::on_request(&self.member, piece.tag);
            self.requests.ended = piece.tag == request::TERMINATE;
            if (self.requests.ended && !replaced) || !is_request(piece.tag) {
                // The server connection ends when it gets there: it cannot be kept for another client.
                self.server_end.send_side = SendSide::Shut;
            }
            if self.admission.pass.is_some() {
                self.set_activity(Activity::Active);
            }
        }
    }
}

/// The whole message.
const TERMINATE: [u8; 5] = [request::TERMINATE, 0, 0, 0, 4];

/// A client that disconnects while its request waits ends its session, and the request does not run. Only one
/// that sent Terminate behind its last request wants it to run without being there.
fn listen_while_parked(
    cx: &mut Context<'_>,
    requests: &mut Inbox,
    client: &mut Stream,
    scratch: &mut [u8],
) -> Result<(), Ending> {
    while requests.kept.len() < scratch.len() {
        match requests.poll_fill(cx, client, scratch) {
            Poll::Pending => break,
            Poll::Ready(Ok(filled @ 1..)) => requests.keep(&scratch[..filled]),
            Poll::Ready(Err(_) | Ok(0)) if requests.kept.ends_with(&TERMINATE) => {
                requests.ended = false;
                break;
            }
            Poll::Ready(Err(_) | Ok(0)) => return Err(Ending::ClientDisconnected),
        }
    }
    Ok(())
}

/// The Syncs that a client sends inside a COPY are pending until the COPY ends, because it is unknown whether
/// the server reads them as part of it. Waiting for answers would be without an end.
fn too_many_syncs() -> Refusal {
    Refusal::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many Sync messages inside a COPY")
        .with_detail(format!("A COPY may contain {PENDING_MAX} of them."))
        .with_hint("Send Sync after CopyDone.")
}
