//! The relay: one client, one server connection, the same bytes.
//!
//! ```text
//!              requests (Inbox)                    to_server (Outbox)
//!   client  ------------------>  admit, note  ------------------------->  server
//!           <------------------  note         <-------------------------
//!              to_client (Outbox)                  answers (Inbox)
//! ```
//!
//! Owns the path of a query: the gate, the [`Exchange`] ledger, and what each direction waits for. It
//! deliberately owns no order of the catalogue: at a boundary with something to do it returns
//! [`Pause::Boundary`], and [`follow`](super::migrate::follow) does it. Start with [`Relay::poll`].
//!
//! # Why one hand-written poll
//! Two tasks, or two futures, for two directions would wake each other: here a wake-up does the work of both
//! directions and sleeps again. A query costs one read and one write in each direction, no allocation, and no
//! memory that another thread writes to. An idle session is this struct and nothing else.
//!
//! # Why nothing is lost or doubled
//! A request is noted in the ledger when its bytes go to the outbox, and never taken back. While a message of
//! the client has not been admitted, none of its bytes has. So at a boundary the server has received whole
//! requests and answered all of them, and whatever else the client sent is still here.

mod answers;
pub(super) mod counters;
pub(super) mod doubt;
pub(super) mod notification_pids;
pub(super) mod observe;
pub(super) mod pipe;
mod requests;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

use super::cancel::cancelable_wait::CancelableWait;
use super::cancel::registry::CancelRegistration;
use super::ending::Ending;
use super::limits::{Terms, Watch};
use super::migrate::sequence_memory::{Parting, Recall};
use super::pool::pooled_client::PooledClient;
use super::relay::pipe::{Inbox, Outbox};
use super::state::{Freshness, StateTracker};
use super::statements::ForwardAs;
use super::worker::Worker;
use crate::backend::{Parameters, ServerConnection};
use crate::route::{Activity, Gate, Pass, Route, SessionHandle, TurnWatch};
use crate::tls::Stream;
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::message::backend::parameter_status;
use crate::wire::message::frontend::parse_parse;

/// Rounds of both directions in one poll; then other sessions of the worker run.
const ROUNDS_MAX: usize = 8;
/// Messages of both directions in one poll: the round that goes beyond it is the last, as one round may bring
/// thousands, and each is work. Rows that are not read do not count.
const MESSAGES_MAX: u16 = 512;

/// Why the relay stopped for now.
#[derive(Debug)]
pub(super) enum Pause {
    /// No transaction runs, no message is cut in the middle, and there is an order to follow.
    Boundary,
    /// The same, and the server has to be asked something before its connection is given back.
    Rest,
    /// The client's request needs a server connection.
    Unserved,
    /// The client's request asks for sequence values that its session drew on another connection.
    Recall,
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
    /// For what the session drew from sequences elsewhere.
    Recall,
}

/// One flag for each direction.
#[derive(Debug, Clone, Copy)]
struct Round {
    requests: bool,
    answers: bool,
}

/// Which of the server's messages matters when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastWords {
    None,
    /// A FATAL error was forwarded: the client knows.
    Fatal,
}

/// Where the client's unnamed statement is, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unnamed {
    OnServer,
    /// The new server connection does not have it yet.
    Owed,
    /// As `Owed`, and the client's next request is about it.
    Wanted,
}

/// Whether the server knows that the client sends nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    Unsaid,
    Said,
}

/// The two connections that are relayed.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) client: Stream,
    pub(super) server: Box<ServerConnection>,
    /// What the client sent before it was told that the server is ready.
    pub(super) early: BytesMut,
}

#[derive(Debug)]
pub(super) struct Relay {
    pub(super) worker: Rc<Worker>,
    pub(super) route: Arc<Route>,
    pub(super) member: SessionHandle,
    cancelable_wait: Arc<CancelableWait>,
    /// The process id that the client got at its start.
    told_pid: i32,
    pub(super) client: Stream,
    pub(super) server: Box<ServerConnection>,
    pub(super) exchange: Exchange,
    pub(super) tracker: StateTracker,
    pub(super) to_client: Outbox,
    /// Set for a client with a lent server connection.
    pub(super) pooled_client: Option<Box<PooledClient>>,
    requests: Inbox,
    answers: Inbox,
    to_server: Outbox,
    turns: TurnWatch,
    pass: Option<Pass>,
    wait: Wait,
    /// For a session that has gone on with another connection and may ask for sequence values drawn before.
    pub(super) recall: Option<Box<Recall>>,
    pub(super) unnamed: Unnamed,
    /// There is work for the next boundary.
    due: bool,
    /// A transaction has begun since the server connection was lent.
    used: bool,
    /// Since when the client has not been read while an order was followed: a request may have come then. For
    /// a request that waits for a server connection: when it met a held gate.
    deaf_since: Option<Instant>,
    last_words: LastWords,
    /// What the client gets of the server message that is being forwarded.
    told: ForwardAs,
    /// Messages read in this poll.
    looked_at: u16,
    /// The server connection was lent just now, and has not been polled yet.
    pub(super) is_newly_lent: bool,
    goodbye: Goodbye,
    /// The server has reported a setting since its parameters were shared with other connections.
    is_unshared: bool,
    pub(super) reuse: Reuse,
    activity: Activity,
    watch: Watch,
}

/// How a client with a connection of its own may affect later clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    None,
    /// The server connection may go to another client.
    Server,
    /// The same, and definitions have changed since the last transaction boundary.
    ServerAndDefinitions,
}

impl Relay {
    pub(super) fn new(
        worker: Rc<Worker>,
        terms: Rc<Terms>,
        member: SessionHandle,
        registration: &CancelRegistration,
        ends: Ends,
        tracker: StateTracker,
    ) -> Relay {
        let Ends { client, mut server, early } = ends;
        let route = Arc::clone(terms.route());
        let watch = Watch::new(member.clock(), terms);
        let turns = route.gate().watch(worker.index());
        let requests = Inbox::keeping(early);
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
            cancelable_wait: Arc::clone(&registration.cancelable_wait),
            told_pid: registration.pid,
            client,
            server,
            exchange: Exchange::new(),
            tracker,
            to_client: Outbox::default(),
            pooled_client: None,
            // Bytes that came early are looked at before anything is read, as if they had been held back.
            wait: if requests.kept.is_empty() { Wait::Nothing } else { Wait::Answers },
            requests,
            answers,
            to_server: Outbox::default(),
            turns,
            pass: None,
            recall: None,
            unnamed: Unnamed::OnServer,
            // The record may have changed since the connection was opened.
            due: true,
            used: false,
            deaf_since: None,
            last_words: LastWords::None,
            told: ForwardAs::AsItCame,
            looked_at: 0,
            is_newly_lent: false,
            goodbye: Goodbye::Unsaid,
            is_unshared: false,
            reuse: Reuse::None,
            activity: Activity::Idle,
            watch,
        }
    }

    /// Forwards until there is nothing to forward.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        if let Some(overdue) = self.watch.take() {
            return Poll::Ready(Pause::Ended(Ending::Overdue(overdue)));
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch();
        let mut round = Round { requests: true, answers: true };
        // Once is enough: a change of the gate from here on wakes the session again.
        self.poll_turned(cx);
        self.looked_at = 0;
        for _ in 0..ROUNDS_MAX {
            let mut moved = match self.poll_round(cx, &mut scratch, round) {
                Ok(moved) => moved,
                Err(ending) => return Poll::Ready(Pause::Ended(ending)),
            };
            if (self.due || worker.is_stopping()) && self.is_at_boundary() {
                self.due = false;
                self.deaf_since = Some(Instant::now());
                return Poll::Ready(Pause::Boundary);
            }
            if self.wait == Wait::Recall && self.is_quiet() {
                return Poll::Ready(Pause::Recall);
            }
            if self.has_left() {
                return Poll::Ready(Pause::Ended(Ending::ClientLeft));
            }
            if self.pooled_client.is_some() {
                if let Some(pause) = self.lent_pause() {
                    return Poll::Ready(pause);
                }
                // The connection was given back: no answers come until another is asked for.
                moved.answers &= !self.is_unserved() || self.wait != Wait::Nothing;
            }
            if !moved.requests && !moved.answers && !self.is_newly_lent {
                return Poll::Pending;
            }
            if self.looked_at > MESSAGES_MAX {
                break;
            }
            round = self.next_round(moved);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Runs each direction of `round` once. Returns which of them moved; one that did not has registered the
    /// waker for what it waits for.
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

    /// Polls a direction that did not move only if the other one may have set it free: each poll of a socket
    /// that has nothing costs a lock.
    fn next_round(&mut self, moved: Round) -> Round {
        let is_newly_lent = std::mem::take(&mut self.is_newly_lent);
        Round {
            requests: moved.requests || self.wait != Wait::Nothing,
            answers: moved.answers || !self.to_client.is_empty() || is_newly_lent,
        }
    }

    /// The client has left, and its server connection outlives it.
    fn has_left(&self) -> bool {
        self.requests.ended && self.server_stays()
    }

    /// Whether Terminate need not reach the server if the client leaves now: the connection outlives it, or
    /// is closed anyway.
    fn server_stays(&self) -> bool {
        match self.pooled_client.is_some() {
            // A connection at rest is given back; one that works for the client is closed.
            true => self.exchange.rest() != Rest::Busy || self.exchange.is_silent(),
            false => self.reuse != Reuse::None && self.exchange.rest() == Rest::Settled,
        }
    }

    /// The next thing to do where server connections are lent.
    fn lent_pause(&mut self) -> Option<Pause> {
        if self.used && self.is_at_boundary() {
            self.used = false;
            let stays = self.pooled_client.as_ref().is_some_and(|pooled_client| pooled_client.is_pinned());
            let is_known = self.tracker.freshness() <= Freshness::Unnamed;
            let asks_again =
                self.pooled_client.as_ref().is_some_and(|pooled_client| pooled_client.asks_again);
            let may_stay = stays && is_known && !asks_again;
            if !may_stay && !self.detach_settled() {
                return Some(Pause::Rest);
            }
        }
        (self.wait == Wait::Connection).then_some(Pause::Unserved)
    }

    /// No transaction runs and no message is cut in the middle: the server connection may be used or
    /// exchanged.
    fn is_at_boundary(&self) -> bool {
        self.pass.is_none() && self.is_clean() && !self.requests.ended
    }

    /// The server connection is between two transactions, and no message of the client's is on its way.
    pub(super) fn is_clean(&self) -> bool {
        self.exchange.rest() != Rest::Busy && self.is_between_all()
    }

    /// The same inside a transaction, between two of its requests.
    fn is_quiet(&self) -> bool {
        self.exchange.is_between_cycles() && self.is_between_all()
    }

    /// No message is cut in the middle, or waits to be sent.
    fn is_between_all(&self) -> bool {
        self.requests.is_between_messages()
            && self.answers.is_between_messages()
            && self.answers.kept.is_empty()
            && self.to_server.is_empty()
            && self.goodbye == Goodbye::Unsaid
    }

    fn gate(&self) -> &Gate {
        self.route.gate()
    }

    /// Writes one word of the session's own memory, and only when the activity changes.
    pub(super) fn set_activity(&mut self, activity: Activity) {
        if self.activity != activity {
            self.activity = activity;
            self.member.set_activity(activity, self.worker.clock.now());
        }
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Another part of the session has work for the next boundary.
    pub(super) fn look_up(&mut self) {
        self.due = true;
    }

    /// Bytes that the server sent and that have not been taken. The caller may take some; the rest is
    /// searched afterwards.
    pub(super) fn kept_answers(&mut self) -> &mut BytesMut {
        self.answers.lend()
    }

    /// Makes the connection ready for an exchange of Freehold's own. Returns the parameters that the client
    /// knows.
    pub(super) fn before_own_exchange(&mut self) -> Parameters {
        if let Some(pooled_client) = &mut self.pooled_client {
            // The exchange may replace the unnamed statement of the connection.
            pooled_client.statements.server.lose_unnamed();
        }
        self.server.put_back(&std::mem::take(&mut self.answers.kept));
        self.server.parameters.clone()
    }

    /// After Freehold's own exchange with the server: forwards the messages that came for the client
    /// meanwhile. `known` are the parameters that the client knew before.
    pub(super) fn after_own_exchange(&mut self, known: &Parameters) {
        self.answers = Inbox::default();
        if self.server.has_received() {
            let mut asynchronous = BytesMut::from(self.server.take_async_messages());
            self.pids().rename_all(&mut asynchronous);
            self.to_client.queue(&asynchronous);
            self.answers = Inbox::beginning_with(self.server.take_unread());
        }
        self.tell_parameters(known);
    }

    /// The client goes on with another server connection, and gets a ParameterStatus for each parameter that
    /// differs.
    pub(super) fn replace_server(&mut self, server: Box<ServerConnection>) -> Box<ServerConnection> {
        let old = std::mem::replace(&mut self.server, server);
        self.server_replaced(&old.parameters);
        old
    }

    /// The server connection has been replaced; `known` are the parameters that the client knows.
    pub(super) fn server_replaced(&mut self, known: &Parameters) {
        if !known.is_same(&self.server.parameters) {
            self.worker.share(&mut self.server.parameters);
        }
        self.last_words = LastWords::None;
        self.after_own_exchange(known);
    }

    fn tell_parameters(&mut self, known: &Parameters) {
        if known.is_same(&self.server.parameters) {
            return;
        }
        let mut news = BytesMut::new();
        for (name, value) in self.server.parameters.iter() {
            if known.value(name) != Some(value) {
                parameter_status(&mut news, name, value);
                self.tracker.on_parameter_status(name, value);
            }
        }
        self.to_client.queue(&news);
    }

    /// The session has left a connection; `None`: there is nothing of the old one to remember.
    pub(super) fn remember(&mut self, parting: Option<&Rc<Parting>>) {
        let before = self.recall.take();
        let Some(parting) = parting else { return };
        let parse = self.tracker.unnamed_parse().and_then(|body| parse_parse(body).ok());
        self.recall = Some(Recall::after(before, parting, parse.map(|parse| parse.sql)));
    }

    /// The client has left: the server connection is kept for another client.
    pub(super) fn give_up_server(&mut self) -> (Box<ServerConnection>, StateTracker) {
        (self.server.take(), std::mem::take(&mut self.tracker))
    }

    /// The request that waited at the gate goes on, now or in an instant: records how long it waited.
    pub(super) fn record_stall(&mut self) {
        if let Wait::Gate(since) = self.wait {
            self.gate().record_stall(since.elapsed());
            self.wait = Wait::Order;
        }
    }

    /// The client waits at the gate.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.wait, Wait::Gate(_))
    }

    /// The client's next request is about its unnamed statement, which has to be made first.
    pub(super) fn wants_unnamed(&mut self) -> bool {
        let is_wanted = self.unnamed == Unnamed::Wanted;
        if is_wanted {
            self.unnamed = Unnamed::Owed;
        }
        is_wanted
    }

    /// Counts a question for the session's state inside a hold.
    pub(super) fn record_question(&self) {
        self.gate().record_question();
    }

    /// Whether a message of our own may still go to the client: not in the middle of a server message.
    pub(super) fn can_speak(&self) -> bool {
        self.answers.is_between_messages()
    }
}
