//! From the client to the server: which requests are admitted, in which form they go out, and what happens
//! while they wait.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::counters;
use super::observe;
use super::pipe::{Outbox, Outgoing};
use super::{Goodbye, Relay, Unnamed, Wait};
use crate::error::{Refusal, Severity, SqlState};
use crate::route::{Activity, GateState};
use crate::session::cancel::cancelable_wait;
use crate::session::ending::Ending;
use crate::session::statements::FRONT_BYTES;
use crate::wire::exchange::{Exchange, PENDING_MAX, Rest};
use crate::wire::frame::{Piece, WHOLE_BYTES_MAX};
use crate::wire::message::backend::{error_response, ready_for_query};
use crate::wire::message::frontend::{is_request, tag as request};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX, TransactionStatus};

/// The whole message.
const TERMINATE: [u8; 5] = [request::TERMINATE, 0, 0, 0, 4];

impl Relay {
    pub(super) fn poll_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.to_server.poll_drain(cx, &mut self.server.stream) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            // The server's last messages are still to be read, and say more than the error does.
            Poll::Ready(Err(_)) => self.to_server = Outbox::default(),
        }
        if self.requests.ended {
            return Ok(self.poll_goodbye(cx));
        }
        if self.wait == Wait::Connection && self.is_unserved() && !self.attach_fitting() {
            return Ok(false);
        }
        if self.wait != Wait::Nothing {
            return self.retry_requests(cx, scratch);
        }
        match self.requests.poll_fill(cx, &mut self.client, scratch) {
            Poll::Pending => {
                self.deaf_since = None;
                Ok(false)
            }
            Poll::Ready(Err(_)) => Err(Ending::ClientVanished),
            Poll::Ready(Ok(0)) => Ok(true),
            Poll::Ready(Ok(filled)) => {
                let taken = self.forward_requests(cx, &scratch[..filled])?;
                self.requests.keep(&scratch[taken..filled]);
                // Also where nothing was taken: a read that returned bytes has registered no waker.
                let goes_on = self.wait != Wait::Nothing || self.requests.ended;
                Ok(goes_on || !self.requests.rests(cx, &mut self.client))
            }
        }
    }

    /// The client sends nothing more, but may still read. Shuts down the server's side, too, which then does
    /// what it would do without us: it answers what it was asked, then ends. `true`: that has been done just
    /// now.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> bool {
        if self.goodbye == Goodbye::Said || self.is_unserved() {
            return false;
        }
        if Pin::new(&mut self.server.stream).poll_shutdown(cx).is_pending() {
            return false;
        }
        self.goodbye = Goodbye::Said;
        true
    }

    /// The message that was held back may be forwarded now.
    fn retry_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        let mut kept = std::mem::take(&mut self.requests.kept);
        let taken = self.forward_requests(cx, &kept)?;
        drop(kept.split_to(taken));
        // Memory that is not needed is given back.
        self.requests.kept = if kept.is_empty() { BytesMut::new() } else { kept };
        match self.wait {
            Wait::Gate(_) | Wait::Connection => self.stay_parked(cx, scratch)?,
            _ => self.cancelable_wait.leave(),
        }
        Ok(taken > 0 || self.wait == Wait::Nothing)
    }

    fn stay_parked(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Ending> {
        self.listen_while_parked(cx, scratch)?;
        self.cancelable_wait.park(cx.waker());
        if self.cancelable_wait.take_cancelled() {
            self.take_back_parked();
        }
        Ok(())
    }

    /// The request that waits was cancelled: it never reaches a server.
    fn take_back_parked(&mut self) {
        self.answer_waiting(&Refusal::new(
            Severity::Error,
            SqlState::QUERY_CANCELED,
            "canceling statement due to user request".to_owned(),
        ));
    }

    /// Answers the request that waits in place of the server. `false`: it is incomplete.
    fn answer_waiting(&mut self, refusal: &Refusal) -> bool {
        let Some(unit) = cancelable_wait::first_unit(&self.requests.kept) else { return false };
        self.requests.kept.advance(unit);
        let mut answer = BytesMut::new();
        error_response(&mut answer, refusal);
        ready_for_query(&mut answer, self.exchange.status());
        self.to_client.queue(&answer);
        self.deaf_since = None;
        if self.requests.kept.is_empty() {
            self.wait = Wait::Nothing;
            self.cancelable_wait.leave();
            // A connection that was lent for it is given back.
            self.used |= self.pooled_client.is_some() && !self.is_unserved();
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
    pub(in crate::session) fn stay_in_line(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let worker = Rc::clone(&self.worker);
        let drained = self.to_client.poll_drain(cx, &mut self.client);
        if matches!(drained, Poll::Ready(Err(_))) {
            return Err(Ending::ClientVanished);
        }
        self.stay_parked(cx, &mut worker.scratch())?;
        Ok(self.wait == Wait::Connection)
    }

    /// A request that waits for a server connection while the gate is held counts as held from then on.
    pub(in crate::session) fn note_hold_in_line(&mut self) {
        if self.deaf_since.is_none() && self.gate().state() == GateState::Held {
            self.deaf_since = Some(Instant::now());
        }
    }

    /// Its connection has come. From here on it counts as a request that waited at the gate.
    pub(in crate::session) fn go_on_from_line(&mut self) {
        if self.wait == Wait::Connection
            && let Some(since) = self.deaf_since.take()
        {
            self.wait = Wait::Gate(since);
        }
    }

    /// Whether the gate has changed; then there is work for the next boundary.
    pub(in crate::session) fn poll_turned(&mut self, cx: &mut Context<'_>) -> bool {
        let has_turned = self.turns.poll_turned(cx.waker()).is_ready();
        self.due |= has_turned;
        has_turned
    }

    /// A client that disconnects while it waits at the gate ends its session, and its request does not run.
    /// Only one that sent Terminate behind its last request wants it to run without being there.
    fn listen_while_parked(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Ending> {
        while self.requests.kept.len() < scratch.len() {
            match self.requests.poll_fill(cx, &mut self.client, scratch) {
                Poll::Pending => break,
                Poll::Ready(Ok(filled @ 1..)) => self.requests.keep(&scratch[..filled]),
                Poll::Ready(Err(_) | Ok(0)) if self.requests.kept.ends_with(&TERMINATE) => {
                    self.requests.ended = false;
                    break;
                }
                Poll::Ready(Err(_) | Ok(0)) => return Err(Ending::ClientVanished),
            }
        }
        Ok(())
    }

    /// Takes messages off the front of `bytes` while they are admitted, and sends them. Returns how many
    /// bytes that were.
    fn forward_requests(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Ending> {
        let mut taken = 0;
        let mut outgoing = Outgoing::default();
        while let Some(&tag) = bytes.get(taken) {
            if self.requests.is_between_messages() {
                if self.pooled_client.is_some() && !self.has_enough(&bytes[taken..]) {
                    self.wait = Wait::Nothing;
                    self.give_back_unused_pass();
                    break;
                }
                if self.waits_for_doubt(&bytes[taken..]) {
                    self.wait = Wait::Answers;
                    break;
                }
                if self.unnamed != Unnamed::OnServer && self.waits_for_unnamed(&bytes[taken..]) {
                    self.wait = self.wait_for_order();
                    break;
                }
                if self.is_full() && self.exchange.reads_data() {
                    return Err(Ending::Refused(too_many_syncs()));
                }
                self.wait = self.admit(cx, tag);
                if self.wait == Wait::Nothing && self.recall.is_some() {
                    self.wait = self.wait_for_recall(&bytes[taken..]);
                }
                if self.wait != Wait::Nothing {
                    break;
                }
            }
            let next = self.requests.walker.next(&bytes[taken..], observe::wants_request);
            let Some(piece) = next.map_err(Ending::ClientBroke)? else {
                self.give_back_unused_pass();
                break;
            };
            if observe::may_be_too_long(&piece) {
                observe::check_length(&piece).map_err(Ending::ClientBroke)?;
                self.watch.terms().check_message(piece.bytes).map_err(Ending::Refused)?;
            }
            if let Some(refusal) =
                self.pooled_client.as_ref().and_then(|pooled_client| pooled_client.statements.refusal(&piece))
            {
                return Err(Ending::Refused(refusal));
            }
            let end = taken + piece.bytes.len();
            let (replaced, first) = match self.replacement(&piece) {
                Some(replacement) => {
                    let first = replacement.first().copied();
                    outgoing.replace(bytes, taken..end, replacement);
                    self.count_injected();
                    (true, first)
                }
                None => (false, piece.part.begins().then_some(piece.tag)),
            };
            taken = end;
            self.looked_at = self.looked_at.saturating_add(1);
            counters::forwarded(&self.member, first);
            self.note_request(&piece, replaced);
            self.tell_of_definitions();
            if self.requests.ended {
                break;
            }
        }
        // Where the server cannot be written to, its last messages are still to be read.
        let _ = self.to_server.send(cx, &mut self.server.stream, outgoing.finish(&bytes[..taken]));
        counters::received(&self.member, taken);
        Ok(taken)
    }

    /// Where connections are lent, messages are understood by the names at their front, and no connection is
    /// borrowed for a message that may never be complete.
    fn has_enough(&self, bytes: &[u8]) -> bool {
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else {
            // The walker reports what is wrong with it.
            return bytes.len() >= HEADER_BYTES;
        };
        let wanted = if self.is_unserved() { WHOLE_BYTES_MAX } else { FRONT_BYTES };
        bytes.len() >= header.message_bytes().min(wanted)
    }

    /// For a client that pipelines over an error: what its next message means depends on answers that are on
    /// their way.
    fn waits_for_doubt(&self, bytes: &[u8]) -> bool {
        let Some(pooled_client) = &self.pooled_client else { return false };
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else { return false };
        let message = &bytes[..bytes.len().min(header.message_bytes())];
        self.exchange.will_report() && pooled_client.statements.is_doubtful(message)
    }

    /// The message that begins here may be about the unnamed statement that the server connection does not
    /// have yet: then it is made first, at the boundary that is now. A Query or another unnamed Parse
    /// destroys it, wherever it is.
    fn waits_for_unnamed(&mut self, bytes: &[u8]) -> bool {
        let (tag, name) = (bytes.first().copied(), bytes.get(HEADER_BYTES));
        match (tag, name) {
            (Some(request::PARSE), None) => return false,
            (Some(request::QUERY), _) | (Some(request::PARSE), Some(0)) => {
                self.unnamed = Unnamed::OnServer;
                return false;
            }
            (Some(tag), _) if !Exchange::begins_work(tag) => return false,
            _ => {}
        }
        self.unnamed = Unnamed::Wanted;
        self.due = true;
        true
    }

    /// The messages that begin here may ask for sequence values that the session drew on an earlier
    /// connection: then those are restored before the first of the messages, as no message of ours may come
    /// between them and their Sync.
    fn wait_for_recall(&mut self, bytes: &[u8]) -> Wait {
        if self.recall.as_ref().is_some_and(|recall| recall.is_empty()) {
            self.recall = None;
        }
        let is_between = self.exchange.is_between_cycles();
        let Some(recall) = &mut self.recall else { return Wait::Nothing };
        if !(is_between || self.exchange.ends_cycle()) || self.exchange.status() == TransactionStatus::Failed
        {
            return Wait::Nothing;
        }
        match recall.is_wanted_by(bytes) {
            false => Wait::Nothing,
            true if is_between => Wait::Recall,
            true => Wait::Answers,
        }
    }

    /// What is sent in place of a piece of the client's, where its connection is lent or outlives it.
    fn replacement(&mut self, piece: &Piece<'_>) -> Option<&[u8]> {
        if piece.tag == request::TERMINATE && self.server_stays() {
            return Some(&[]);
        }
        let pooled_client = self.pooled_client.as_deref_mut()?;
        // Without a connection there is nothing that such a message could end or continue.
        if self.server.is_absent() {
            return Some(&[]);
        }
        if !piece.part.begins() {
            return None;
        }
        let parse_context =
            pooled_client.parse_context(&self.server.parameters, self.tracker.parses_as_known());
        let texts = &mut self.worker.texts.borrow_mut();
        pooled_client.replacement(piece, &mut self.exchange, texts, parse_context)
    }

    /// The admitted message is incomplete: gives back the pass, as the client may never finish it.
    fn give_back_unused_pass(&mut self) {
        if self.exchange.rest() != Rest::Busy {
            self.pass = None;
        }
    }

    /// As many answers are pending as are kept.
    fn is_full(&self) -> bool {
        self.exchange.is_full()
            || self.pooled_client.as_ref().is_some_and(|pooled_client| pooled_client.statements.is_full())
    }

    /// Whether the message that begins with this tag may be forwarded now.
    fn admit(&mut self, cx: &mut Context<'_>, tag: u8) -> Wait {
        if self.is_full() {
            return Wait::Answers;
        }
        match self.pass.is_some() {
            // A pipeline does not go on to its next transaction where a boundary is wanted: one that never
            // paused would keep its session from following any order.
            true if self.wants_boundary() && self.exchange.will_report() => Wait::Answers,
            true => Wait::Nothing,
            false if !Exchange::begins_work(tag) => Wait::Nothing,
            false if self.is_unserved() && !self.attach_fitting() => {
                self.deaf_since = None;
                Wait::Connection
            }
            false => self.enter(cx),
        }
    }

    fn wants_boundary(&self) -> bool {
        self.due
            || self.worker.is_stopping()
            || self.gate().state() == GateState::Held
            || self.pooled_client.as_ref().is_some_and(|pooled_client| pooled_client.is_pressed())
    }

    /// Enters the gate, at a boundary.
    fn enter(&mut self, cx: &mut Context<'_>) -> Wait {
        let Ok(pass) = self.gate().try_enter(self.worker.index()) else {
            self.set_activity(Activity::Held);
            return match self.wait {
                Wait::Gate(since) => Wait::Gate(since),
                // The request may have come while the client was not read.
                _ => Wait::Gate(self.deaf_since.take().unwrap_or_else(Instant::now)),
            };
        };
        // A change of the gate that was not followed yet may have moved the database: see `Gate`.
        self.poll_turned(cx);
        if self.due {
            return self.wait_for_order();
        }
        self.record_stall();
        self.deaf_since = None;
        self.pass = Some(pass);
        self.used = true;
        Wait::Nothing
    }

    /// The time at the gate is not over before the order that opened it has been followed.
    fn wait_for_order(&self) -> Wait {
        match self.wait {
            Wait::Gate(since) => Wait::Gate(since),
            _ => Wait::Order,
        }
    }

    /// The tracker counts every request, including those that we inject.
    fn count_injected(&mut self) {
        let Some(pooled_client) = &mut self.pooled_client else { return };
        for _ in 0..pooled_client.statements.take_injected() {
            self.tracker.on_request(request::PARSE);
            self.tracker.on_injected();
        }
    }

    /// `replaced`: the server gets another message instead.
    fn note_request(&mut self, piece: &Piece<'_>, replaced: bool) {
        // Closing a statement that the pooled client knows changes nothing else.
        match replaced && piece.tag == request::CLOSE {
            true => self.tracker.on_request(piece.tag),
            false => {
                let bound =
                    self.pooled_client.as_ref().and_then(|pooled_client| pooled_client.statements.bound());
                observe::track_request(&mut self.tracker, &self.exchange, piece, bound);
            }
        }
        if piece.part.begins() {
            self.exchange.on_request(piece.tag);
            counters::on_request(&self.member, piece.tag);
            self.requests.ended = piece.tag == request::TERMINATE;
            if (self.requests.ended && !replaced) || !is_request(piece.tag) {
                // The server connection ends when it gets there: it cannot be kept for another client.
                self.goodbye = Goodbye::Said;
            }
            if self.pass.is_some() {
                self.set_activity(Activity::Active);
            }
        }
    }
}

/// The Syncs that a client sends inside a COPY are pending until the COPY ends, because it is unknown whether
/// the server reads them as part of it. Waiting for answers would be without an end.
fn too_many_syncs() -> Refusal {
    Refusal::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many Sync messages inside a COPY")
        .with_detail(format!("A COPY may contain {PENDING_MAX} of them."))
        .with_hint("Send Sync after CopyDone.")
}
