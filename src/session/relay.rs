//! The relay: one client, one server connection, the same bytes.
//!
//! ```text
//!              requests (Inbox)                    to_server (Outbox)
//!   client  ------------------>  admit, note  ------------------------->  server
//!           <------------------  note         <-------------------------
//!              to_client (Outbox)                  answers (Inbox)
//! ```
//!
//! Owns the path of a query: the gate, the [`Exchange`] ledger, who waits for whom. It deliberately owns no order
//! of the catalogue: at a boundary with something to do it comes back with [`Pause::Boundary`], and [`hold`](super::hold)
//! does it. Start with [`Relay::poll`].
//!
//! # Why one hand-written poll
//! Two tasks, or two futures, for two directions would wake each other: here a wake-up does what there is to do in both
//! directions and sleeps again. A query costs one read and one write in each direction, no allocation, and no memory that
//! another thread writes to. An idle session is this struct and nothing else.
//!
//! # Why nothing is lost or doubled
//! A request is noted in the ledger when its bytes go to the outbox, and never taken back. While a message of the client
//! has not been admitted, none of its bytes has. So at a boundary the server has seen whole requests, has answered all
//! of them, and whatever else the client said is still here.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::ending::Ending;
use super::observe;
use super::parking::{self, Parking};
use super::pids::Pids;
use super::pipe::{Inbox, Outbox, Outgoing};
use super::registry::Enlisted;
use super::state::{Freshness, StateTracker};
use super::statements::{FRONT_BYTES, Told, is_complete};
use super::tenancy::Tenancy;
use super::worker::Worker;
use crate::backend::{Parameters, ServerConnection};
use crate::error::{Refusal, Severity, SqlState};
use crate::route::{Activity, Gate, GateState, Member, Pass, Route, TurnWatch};
use crate::tls::Stream;
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::frame::{Piece, WHOLE_BYTES_MAX};
use crate::wire::message::backend::{
    error_response, parameter_status, parse_parameter_status, parse_ready_for_query, ready_for_query,
    tag as answer,
};
use crate::wire::message::frontend::tag as request;
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};

/// Rounds of both directions in one poll; then other sessions of the worker have their turn.
const ROUNDS_MAX: usize = 8;

/// The whole message.
const TERMINATE: [u8; 5] = [request::TERMINATE, 0, 0, 0, 4];

/// Why the relay stopped for now.
#[derive(Debug)]
pub(super) enum Pause {
    /// No transaction runs, no message is cut in the middle, and there is an order to follow.
    Boundary,
    /// The same, and before the server connection is given back something is to be asked.
    Rest,
    /// The client's request needs a server connection.
    Unserved,
    Ended(Ending),
}

/// Why the client's next message is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// For the answers to what was forwarded.
    Answers,
    /// For the gate, since then.
    Gate(Instant),
    /// For an order to be followed.
    Order,
    /// For a server connection that is lent.
    Connection,
}

/// A word for each direction.
#[derive(Debug, Clone, Copy)]
struct Round {
    requests: bool,
    answers: bool,
}

/// What of the server's messages matters for the connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastWords {
    None,
    /// A FATAL error was forwarded: the client knows.
    Fatal,
}

/// Whether the server knows that the client sends nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    Unsaid,
    Said,
}

/// How far a stretch of answers has been looked at, and how much of it the client is told; what is not told was
/// moved out of its way.
#[derive(Debug, Clone, Copy)]
struct Walked {
    taken: usize,
    told: usize,
}

/// What is relayed between.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) client: Stream,
    pub(super) server: ServerConnection,
    /// What the client sent before it was told that the server is ready.
    pub(super) early: BytesMut,
}

#[derive(Debug)]
pub(super) struct Relay {
    pub(super) worker: Rc<Worker>,
    pub(super) route: Arc<Route>,
    pub(super) member: Member,
    parking: Arc<Parking>,
    /// The server process that the client was told at its start.
    told_pid: i32,
    pub(super) client: Stream,
    pub(super) server: ServerConnection,
    pub(super) exchange: Exchange,
    pub(super) tracker: StateTracker,
    pub(super) to_client: Outbox,
    /// Of a client whose server connection is lent.
    pub(super) tenancy: Option<Box<Tenancy>>,
    requests: Inbox,
    answers: Inbox,
    to_server: Outbox,
    turns: TurnWatch,
    pass: Option<Pass>,
    wait: Wait,
    /// Something is to be done at the next boundary.
    due: bool,
    /// A transaction has begun since the server connection was lent.
    used: bool,
    /// While an order was followed the client was not read: what is there now may have come then.
    deaf_since: Option<Instant>,
    last_words: LastWords,
    goodbye: Goodbye,
    activity: Activity,
}

impl Relay {
    pub(super) fn new(
        worker: Rc<Worker>,
        route: Arc<Route>,
        member: Member,
        enlisted: &Enlisted,
        ends: Ends,
        tracker: StateTracker,
    ) -> Relay {
        let Ends { client, mut server, early } = ends;
        let turns = route.gate().watch(worker.index());
        let requests = Inbox { kept: early, ..Inbox::default() };
        worker.share(&mut server.parameters);
        let answers = Inbox::beginning_with(server.take_unread());
        let mut tracker = tracker;
        for (name, value) in server.parameters.iter() {
            tracker.on_parameter_status(name, value);
        }
        Relay {
            worker,
            route,
            member,
            parking: Arc::clone(&enlisted.parking),
            told_pid: enlisted.pid,
            client,
            server,
            exchange: Exchange::new(),
            tracker,
            to_client: Outbox::default(),
            tenancy: None,
            // What came early is looked at before anything is read, as if it had been held back.
            wait: if requests.kept.is_empty() { Wait::Nothing } else { Wait::Answers },
            requests,
            answers,
            to_server: Outbox::default(),
            turns,
            pass: None,
            // The record may have changed since the connection was opened.
            due: true,
            used: false,
            deaf_since: None,
            last_words: LastWords::None,
            goodbye: Goodbye::Unsaid,
            activity: Activity::Idle,
        }
    }

    /// Forwards until there is nothing to forward.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch();
        let mut round = Round { requests: true, answers: true };
        for _ in 0..ROUNDS_MAX {
            self.poll_turned(cx);
            let moved = match self.poll_round(cx, &mut scratch, round) {
                Ok(moved) => moved,
                Err(ending) => return Poll::Ready(Pause::Ended(ending)),
            };
            if (self.due || worker.is_stopping()) && self.is_at_boundary() {
                self.due = false;
                self.deaf_since = Some(Instant::now());
                return Poll::Ready(Pause::Boundary);
            }
            if self.tenancy.is_some()
                && let Some(pause) = self.lent_pause()
            {
                return Poll::Ready(pause);
            }
            if !moved.requests && !moved.answers {
                return Poll::Pending;
            }
            round = self.next_round(moved);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Each direction once, where the round has it. Which of them moved; one that did not cannot go on before something
    /// happens, and the waker is where it will.
    fn poll_round(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        round: Round,
    ) -> Result<Round, Ending> {
        let requests = round.requests && self.poll_requests(cx, scratch)?;
        let answers = round.answers && self.poll_answers(cx, scratch)?;
        Ok(Round { requests, answers })
    }

    /// A direction that rests is polled again only where the other one may have set it free: each poll of a socket that
    /// has nothing costs a lock.
    fn next_round(&self, moved: Round) -> Round {
        Round {
            requests: moved.requests || self.wait != Wait::Nothing,
            answers: moved.answers || !self.to_client.is_empty(),
        }
    }

    /// What there is to do where server connections are lent.
    fn lent_pause(&mut self) -> Option<Pause> {
        if self.requests.ended && (self.exchange.rest() != Rest::Busy || self.exchange.is_silent()) {
            return Some(Pause::Ended(Ending::ClientLeft));
        }
        if self.used && self.is_at_boundary() {
            self.used = false;
            let stays = self.tenancy.as_ref().is_some_and(|tenancy| tenancy.is_pinned());
            let is_known = self.tracker.freshness() <= Freshness::Unnamed;
            let may_stay = stays && is_known;
            if !may_stay && !self.detach_settled() {
                return Some(Pause::Rest);
            }
        }
        (self.wait == Wait::Connection).then_some(Pause::Unserved)
    }

    /// Nothing runs and nothing is cut in the middle: the server connection may be used or exchanged.
    fn is_at_boundary(&self) -> bool {
        self.pass.is_none() && self.is_clean() && !self.requests.ended
    }

    /// The server connection is between two transactions, and nothing of the client's is on its way.
    pub(super) fn is_clean(&self) -> bool {
        self.exchange.rest() != Rest::Busy
            && self.requests.is_between_messages()
            && self.answers.is_between_messages()
            && self.answers.kept.is_empty()
            && self.to_server.is_empty()
    }

    // ---- from the client to the server

    fn poll_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.to_server.poll_drain(cx, &mut self.server.stream) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            // Its last words are still to be read, and tell more than the error does.
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
                // Also where nothing was taken: a read that brought something has registered no waker.
                Ok(true)
            }
        }
    }

    /// The client sends nothing more, but may still read. The server is told, and does what it would without us: it
    /// answers what it was asked, then ends. `true`: it has been told just now.
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

    /// What was held back may go on now.
    fn retry_requests(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        let mut kept = std::mem::take(&mut self.requests.kept);
        let taken = self.forward_requests(cx, &kept)?;
        drop(kept.split_to(taken));
        // Room that is not needed is given back.
        self.requests.kept = if kept.is_empty() { BytesMut::new() } else { kept };
        match self.wait {
            Wait::Gate(_) | Wait::Connection => self.stay_parked(cx, scratch)?,
            _ => self.parking.leave(),
        }
        Ok(taken > 0 || self.wait == Wait::Nothing)
    }

    fn stay_parked(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Ending> {
        self.listen_while_parked(cx, scratch)?;
        self.parking.park(cx.waker());
        if self.parking.take_cancelled() {
            self.take_back_parked();
        }
        Ok(())
    }

    /// The request that waits was cancelled: nobody has seen it, and nobody will.
    fn take_back_parked(&mut self) {
        self.answer_waiting(&Refusal::new(
            Severity::Error,
            SqlState::QUERY_CANCELED,
            "canceling statement due to user request".to_owned(),
        ));
    }

    /// Answers the request that waits in place of the server. `false`: it has not all come.
    fn answer_waiting(&mut self, refusal: &Refusal) -> bool {
        let Some(unit) = parking::first_unit(&self.requests.kept) else { return false };
        self.requests.kept.advance(unit);
        let mut answer = BytesMut::new();
        error_response(&mut answer, refusal);
        ready_for_query(&mut answer, self.exchange.status());
        self.to_client.queue(&answer);
        if self.requests.kept.is_empty() {
            self.wait = Wait::Nothing;
            self.set_activity(Activity::Idle);
        }
        true
    }

    /// The request that waits for a server connection will not get one.
    ///
    /// Fails where the client cannot be answered but by ending its connection.
    pub(super) fn refuse_waiting(&mut self, refusal: Refusal) -> Result<(), Ending> {
        match self.answer_waiting(&refusal) {
            true => Ok(()),
            false => Err(Ending::Refused(Refusal { severity: Severity::Fatal, ..refusal })),
        }
    }

    /// What a client can do that waits for a server connection. `false`: there is nothing to wait for any more.
    pub(super) fn stay_in_line(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let worker = Rc::clone(&self.worker);
        let drained = self.to_client.poll_drain(cx, &mut self.client);
        if matches!(drained, Poll::Ready(Err(_))) {
            return Err(Ending::ClientVanished);
        }
        self.stay_parked(cx, &mut worker.scratch())?;
        Ok(self.wait == Wait::Connection)
    }

    /// Whether there was a turn of the gate; then there is something to do at the next boundary.
    pub(super) fn poll_turned(&mut self, cx: &mut Context<'_>) -> bool {
        let has_turned = self.turns.poll_turned(cx.waker()).is_ready();
        self.due |= has_turned;
        has_turned
    }

    /// A client that gives up while it waits at the gate leaves its seat, and what it asked for is not done. Only one that
    /// said Terminate behind its last request asked for it to be done without being there.
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

    /// Takes messages off the front of `bytes` while they are admitted, and sends them. How many bytes that were.
    fn forward_requests(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Ending> {
        let mut taken = 0;
        let mut outgoing = Outgoing::default();
        while let Some(&tag) = bytes.get(taken) {
            if self.requests.is_between_messages() {
                if self.tenancy.is_some() && !self.has_enough(&bytes[taken..]) {
                    self.wait = Wait::Nothing;
                    self.give_back_unused_pass();
                    break;
                }
                self.wait = self.admit(cx, tag);
                if self.wait != Wait::Nothing {
                    break;
                }
            }
            let next = self.requests.walker.next(&bytes[taken..], observe::wants_request);
            let Some(piece) = next.map_err(Ending::ClientBroke)? else {
                self.give_back_unused_pass();
                break;
            };
            let end = taken + piece.bytes.len();
            let replaced = match self.replacement(&piece) {
                Some(replacement) => {
                    outgoing.replace(bytes, taken..end, replacement);
                    true
                }
                None => false,
            };
            taken = end;
            self.note_request(&piece, replaced);
            if self.requests.ended {
                break;
            }
        }
        // Where the server cannot be written to, its last words are still to be read.
        let _ = self.to_server.send(cx, &mut self.server.stream, outgoing.finish(&bytes[..taken]));
        Ok(taken)
    }

    /// Where connections are lent, messages are understood by the names at their front, and a connection is not borrowed
    /// for a message that may never be complete.
    fn has_enough(&self, bytes: &[u8]) -> bool {
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else {
            // The walker says what is wrong with it.
            return bytes.len() >= HEADER_BYTES;
        };
        let wanted = if self.is_unserved() { WHOLE_BYTES_MAX } else { FRONT_BYTES };
        bytes.len() >= header.message_bytes().min(wanted)
    }

    /// What is sent in place of a piece of the client's, where its connection is lent.
    fn replacement(&mut self, piece: &Piece<'_>) -> Option<&[u8]> {
        let tenancy = self.tenancy.as_deref_mut()?;
        // Without a connection there is nothing that such a message could end or continue.
        if self.server.is_absent() || piece.tag == request::TERMINATE {
            return Some(&[]);
        }
        if !piece.part.begins() {
            return None;
        }
        let unnamed = self.tracker.unnamed_parse();
        let texts = &mut self.worker.texts.borrow_mut();
        tenancy.statements.on_request(piece, &mut self.exchange, texts, unnamed)
    }

    /// The message that was let in is not complete: nobody waits for a client that may never finish it.
    fn give_back_unused_pass(&mut self) {
        if self.exchange.rest() != Rest::Busy {
            self.pass = None;
        }
    }

    /// Whether the message that begins with this tag may be forwarded now.
    fn admit(&mut self, cx: &mut Context<'_>, tag: u8) -> Wait {
        if self.exchange.is_full() {
            return Wait::Answers;
        }
        match self.pass.is_some() {
            // A pipeline does not go on to its next transaction where a boundary is wanted: one that never paused would
            // keep its session from every order.
            true if self.wants_boundary() && self.exchange.will_report() => Wait::Answers,
            true => Wait::Nothing,
            false if !Exchange::begins_work(tag) => Wait::Nothing,
            false if self.is_unserved() && !self.attach_fitting() => Wait::Connection,
            false => self.enter(cx),
        }
    }

    fn wants_boundary(&self) -> bool {
        self.due
            || self.worker.is_stopping()
            || self.gate().state() == GateState::Held
            || self.tenancy.as_ref().is_some_and(|tenancy| tenancy.is_pressed())
    }

    /// Through the gate, at a boundary.
    fn enter(&mut self, cx: &mut Context<'_>) -> Wait {
        let Ok(pass) = self.gate().try_enter(self.worker.index()) else {
            self.set_activity(Activity::Held);
            return match self.wait {
                Wait::Gate(since) => Wait::Gate(since),
                // It may have come while the session was not listening.
                _ => Wait::Gate(self.deaf_since.take().unwrap_or_else(Instant::now)),
            };
        };
        // A turn that was not followed yet may have moved the database: see `Gate`.
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

    /// `replaced`: the server is sent something else.
    fn note_request(&mut self, piece: &Piece<'_>, replaced: bool) {
        // Closing a statement that the tenancy knows changes nothing else.
        if !(replaced && piece.tag == request::CLOSE) {
            observe::track_request(&mut self.tracker, piece);
        }
        if piece.part.begins() {
            self.exchange.on_request(piece.tag);
            self.requests.ended = piece.tag == request::TERMINATE;
            if self.pass.is_some() {
                self.set_activity(Activity::Active);
            }
        }
    }

    // ---- from the server to the client

    fn poll_answers(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.to_client.poll_drain(cx, &mut self.client) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Ending::ClientVanished),
        }
        if let Some(mut unseen) = self.answers.take_unseen() {
            self.forward_answers(cx, &mut unseen)?;
            return Ok(true);
        }
        match self.answers.poll_fill(cx, &mut self.server.stream, scratch) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_) | Ok(0)) => Err(self.on_server_end()),
            Poll::Ready(Ok(filled)) => {
                self.forward_answers(cx, &mut scratch[..filled])?;
                Ok(true)
            }
        }
    }

    fn forward_answers(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Result<(), Ending> {
        let walked = self.walk_answers(bytes)?;
        let sent = self.to_client.send(cx, &mut self.client, &bytes[..walked.told]);
        sent.map_err(|_| Ending::ClientVanished)?;
        self.answers.keep(&bytes[walked.taken..]);
        Ok(())
    }

    fn walk_answers(&mut self, bytes: &mut [u8]) -> Result<Walked, Ending> {
        let (mut taken, mut told) = (0, 0);
        let pids = self.pids();
        loop {
            let is_named = |tag| tag == answer::NOTIFICATION_RESPONSE && pids.differ();
            let wanted = |tag| observe::wants_answer(tag, &self.tracker) || is_named(tag);
            let next = self.answers.walker.next(&bytes[taken..], wanted);
            let Some(piece) = next.map_err(Ending::ServerBroke)? else { return Ok(Walked { taken, told }) };
            let (length, is_named) = (piece.bytes.len(), is_named(piece.tag) && piece.part.begins());
            let tag = piece.tag;
            if piece.part.begins() {
                self.note_answer(&piece)?;
            }
            if is_named {
                pids.rename(&mut bytes[taken..taken + length]);
            }
            match self.told_as(tag) {
                Told::AsItCame => {}
                Told::ParseComplete => bytes[taken] = answer::PARSE_COMPLETE,
                Told::Nothing => {
                    taken += length;
                    continue;
                }
            }
            if told < taken {
                bytes.copy_within(taken..taken + length, told);
            }
            taken += length;
            told += length;
        }
    }

    fn told_as(&mut self, tag: u8) -> Told {
        match &mut self.tenancy {
            Some(tenancy) if is_complete(tag) => tenancy.statements.on_complete(),
            _ => Told::AsItCame,
        }
    }

    fn pids(&self) -> Pids {
        Pids { told: self.told_pid, actual: self.server.pid }
    }

    fn note_answer(&mut self, piece: &Piece<'_>) -> Result<(), Ending> {
        match piece.tag {
            answer::READY_FOR_QUERY => return self.on_ready(piece.body()),
            answer::PARAMETER_STATUS => self.on_parameter(piece.body()),
            answer::ERROR_RESPONSE if observe::is_fatal(piece.body()) => self.last_words = LastWords::Fatal,
            _ => {}
        }
        if let Some(tenancy) = &mut self.tenancy {
            observe::track_statements(&mut tenancy.statements, &self.exchange, piece);
        }
        self.exchange.on_answer(piece.tag);
        observe::track_answer(&mut self.tracker, &self.exchange, piece);
        Ok(())
    }

    /// The end of a statement; at a boundary the way out of the gate.
    fn on_ready(&mut self, body: &[u8]) -> Result<(), Ending> {
        let status = parse_ready_for_query(body).map_err(Ending::ServerBroke)?;
        self.exchange.on_ready(status);
        if let Some(tenancy) = &mut self.tenancy {
            tenancy.statements.on_ready(self.exchange.is_silent());
        }
        if self.exchange.is_silent() {
            self.tracker.on_ready(status);
        }
        if self.exchange.rest() != Rest::Busy {
            self.pass = None;
            self.set_activity(Activity::Idle);
        } else if self.exchange.is_silent() {
            self.set_activity(Activity::InTransaction);
        }
        Ok(())
    }

    fn on_parameter(&mut self, body: &[u8]) {
        let Ok((name, value)) = parse_parameter_status(body) else { return };
        if name == "application_name" {
            self.member.set_application_name(value.to_owned());
        }
        self.tracker.on_parameter_status(name, value);
        self.server.parameters.set(name, value);
        self.worker.share(&mut self.server.parameters);
    }

    /// The server has closed the connection.
    fn on_server_end(&self) -> Ending {
        match self.last_words {
            _ if self.requests.ended => Ending::ClientLeft,
            LastWords::Fatal => Ending::ServerSaidWhy,
            LastWords::None => Ending::ServerVanished,
        }
    }

    // ---- around it

    fn gate(&self) -> &Gate {
        self.route.gate()
    }

    /// One store to memory of the session's own, and only when it changes.
    pub(super) fn set_activity(&mut self, activity: Activity) {
        if self.activity != activity {
            self.activity = activity;
            self.member.set_activity(activity);
        }
    }

    /// Something beside the relay has to be looked at, at the next boundary.
    pub(super) fn look_up(&mut self) {
        self.due = true;
    }

    /// What the server sent and nobody has taken; whoever asks takes some, and the rest is looked at afterwards.
    pub(super) fn kept_answers(&mut self) -> &mut BytesMut {
        self.answers.unseen = true;
        &mut self.answers.kept
    }

    /// Makes the connection ready for an exchange of Freehold's own. The parameters that the client has been told.
    pub(super) fn before_own_exchange(&mut self) -> Parameters {
        self.server.put_back(&std::mem::take(&mut self.answers.kept));
        self.server.parameters.clone()
    }

    /// After Freehold's own exchange with the server: what came for the client meanwhile is sent to it. `known` are the
    /// parameters that it was told before.
    pub(super) fn after_own_exchange(&mut self, known: &Parameters) {
        let mut asynchronous = BytesMut::from(self.server.take_async_messages());
        self.pids().rename_all(&mut asynchronous);
        self.to_client.queue(&asynchronous);
        self.answers = Inbox::beginning_with(self.server.take_unread());
        self.tell_parameters(known);
    }

    /// The client goes on with another server connection, and is told what that one reports differently.
    pub(super) fn replace_server(&mut self, server: ServerConnection) -> ServerConnection {
        let old = std::mem::replace(&mut self.server, server);
        self.worker.share(&mut self.server.parameters);
        self.last_words = LastWords::None;
        self.after_own_exchange(&old.parameters);
        old
    }

    fn tell_parameters(&mut self, known: &Parameters) {
        let mut news = BytesMut::new();
        for (name, value) in self.server.parameters.iter() {
            if known.value(name) != Some(value) {
                parameter_status(&mut news, name, value);
                self.tracker.on_parameter_status(name, value);
            }
        }
        self.to_client.queue(&news);
    }

    /// The request that waited at the gate goes on: now, or in an instant.
    pub(super) fn record_stall(&mut self) {
        if let Wait::Gate(since) = self.wait {
            self.gate().record_stall(since.elapsed());
            self.wait = Wait::Order;
        }
    }

    /// Whether something of our own may still be said to the client: not in the middle of a server's message.
    pub(super) fn can_speak(&self) -> bool {
        self.answers.is_between_messages()
    }
}
