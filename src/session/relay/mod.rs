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

mod admission;
mod answers;
mod backend;
pub(super) mod counters;
pub(super) mod doubt;
mod lending;
pub(super) mod notification_pids;
pub(super) mod observe;
pub(super) mod pipe;
mod requests;
mod server_end;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

pub(super) use self::admission::Admission;
use self::admission::Wait;
pub(super) use self::backend::{Backend, Dedicated};
use self::pipe::{Inbox, Outbox};
use self::server_end::{LastError, ServerEnd};
use super::cancel::cancelable_wait::CancelableWait;
use super::cancel::registry::CancelRegistration;
use super::ending::Ending;
use super::limits::{Terms, Watch};
use super::state::StateTracker;
use super::worker::Worker;
use crate::backend::{Parameters, ServerConnection};
use crate::model::RouteRecord;
use crate::route::{Activity, Route, SessionHandle};
use crate::tls::Stream;
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::message::HEADER_BYTES;
use crate::wire::message::backend::parameter_status;
use crate::wire::message::frontend::tag as request;

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
    ReturnConnection,
    /// The client's request needs a server connection.
    NeedsConnection,
    /// The client's request asks for sequence values that its session drew on another connection.
    Recall,
    Ended(Ending),
}

/// One flag for each direction.
#[derive(Debug, Clone, Copy)]
struct Round {
    requests: bool,
    answers: bool,
}

/// Where the client's unnamed statement is, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnnamedPlace {
    OnServer,
    /// The new server connection does not have it yet.
    Missing,
    /// As `Missing`, and the client's next request is about it.
    Wanted,
}

impl UnnamedPlace {
    /// The message that begins here may be about the unnamed statement that the server connection does not
    /// have yet: then it is made first, at the boundary that is now. A Query or another unnamed Parse
    /// destroys it, wherever it is.
    fn is_wanted_by(&mut self, bytes: &[u8]) -> bool {
        if *self == UnnamedPlace::OnServer {
            return false;
        }
        let (tag, name) = (bytes.first().copied(), bytes.get(HEADER_BYTES));
        match (tag, name) {
            (Some(request::PARSE), None) => return false,
            (Some(request::QUERY), _) | (Some(request::PARSE), Some(0)) => {
                *self = UnnamedPlace::OnServer;
                return false;
            }
            (Some(tag), _) if !Exchange::begins_work(tag) => return false,
            _ => {}
        }
        *self = UnnamedPlace::Wanted;
        true
    }

    /// The client's next request is about it: it has to be made first.
    pub(super) fn take_wanted(&mut self) -> bool {
        let is_wanted = *self == UnnamedPlace::Wanted;
        if is_wanted {
            *self = UnnamedPlace::Missing;
        }
        is_wanted
    }
}

/// The two connections that are relayed.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) client: Stream,
    pub(super) backend: Backend,
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
    client_pid: i32,
    pub(super) client: Stream,
    pub(super) backend: Backend,
    pub(super) exchange: Exchange,
    pub(super) tracker: StateTracker,
    pub(super) to_client: Outbox,
    requests: Inbox,
    server_end: ServerEnd,
    pub(super) admission: Admission,
    pub(super) unnamed: UnnamedPlace,
    /// Messages read in this poll.
    looked_at: u16,
    activity: Activity,
    pub(super) watch: Watch,
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
        let Ends { client, mut backend, early } = ends;
        let route = Arc::clone(terms.route());
        let watch = Watch::new(member.clock(), terms);
        let turns = route.gate().watch(worker.index());
        // Bytes that came early are looked at before anything is read, as if they had been held back.
        let wait = if early.is_empty() { Wait::Nothing } else { Wait::Answers };
        let requests = Inbox::keeping(early);
        let server = backend.connection_mut();
        worker.share(&mut server.parameters);
        let server_end = ServerEnd::beginning_with(server.take_unread());
        let mut tracker = tracker;
        for (name, value) in server.parameters.iter() {
            tracker.texts_mut().on_parameter_status(name, value);
        }
        Relay {
            worker,
            route,
            member,
            cancelable_wait: Arc::clone(&registration.cancelable_wait),
            client_pid: registration.pid,
            client,
            backend,
            exchange: Exchange::new(),
            tracker,
            to_client: Outbox::default(),
            requests,
            server_end,
            admission: Admission::new(turns, wait),
            unnamed: UnnamedPlace::OnServer,
            looked_at: 0,
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
        self.admission.poll_turned(cx);
        self.looked_at = 0;
        for _ in 0..ROUNDS_MAX {
            let mut moved = match self.poll_round(cx, &mut scratch, round) {
                Ok(moved) => moved,
                Err(ending) => return Poll::Ready(Pause::Ended(ending)),
            };
            if (self.admission.is_due || worker.is_stopping()) && self.is_at_boundary() {
                self.admission.begin_boundary();
                return Poll::Ready(Pause::Boundary);
            }
            // Between two requests, also of one transaction.
            let is_between = || self.exchange.is_between_cycles() && self.is_between_all();
            if self.admission.wait == Wait::Recall && is_between() {
                return Poll::Ready(Pause::Recall);
            }
            // The client has left, and its server connection outlives it.
            if self.requests.ended && self.backend.stays(&self.exchange) {
                return Poll::Ready(Pause::Ended(Ending::ClientLeft));
            }
            if let Backend::Pooled(_) = self.backend {
                if let Some(pause) = self.lent_pause() {
                    return Poll::Ready(pause);
                }
                // The connection was given back: no answers come until another is asked for.
                moved.answers &= !self.backend.needs_connection() || self.admission.wait != Wait::Nothing;
            }
            if !moved.requests && !moved.answers && !self.backend.is_newly_lent() {
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
        let is_newly_lent = self.backend.take_newly_lent();
        Round {
            requests: moved.requests || self.admission.wait != Wait::Nothing,
            answers: moved.answers || !self.to_client.is_empty() || is_newly_lent,
        }
    }

    /// No transaction runs and no message is cut in the middle: the server connection may be used or
    /// exchanged.
    fn is_at_boundary(&self) -> bool {
        self.admission.pass.is_none() && self.is_clean() && !self.requests.ended
    }

    /// The server connection is between two transactions, and no message of the client's is on its way.
    pub(super) fn is_clean(&self) -> bool {
        self.exchange.rest() != Rest::Busy && self.is_between_all()
    }

    /// No message is cut in the middle, or waits to be sent.
    fn is_between_all(&self) -> bool {
        self.requests.is_between_messages() && self.server_end.is_between_all()
    }

    /// Writes one word of the session's own memory, and only when the activity changes.
    pub(super) fn set_activity(&mut self, activity: Activity) {
        if self.activity != activity {
            self.activity = activity;
            self.member.set_activity(activity, self.worker.clock.now());
        }
    }

    /// Makes the connection ready for an exchange of Freehold's own. Returns the parameters that the client
    /// knows.
    pub(super) fn before_own_exchange(&mut self) -> Parameters {
        self.backend.lose_unnamed();
        let server = self.backend.connection_mut();
        server.put_back(&std::mem::take(&mut self.server_end.answers.kept));
        server.parameters.clone()
    }

    /// After Freehold's own exchange with the server: forwards the messages that came for the client
    /// meanwhile. `known` are the parameters that the client knew before.
    pub(super) fn after_own_exchange(&mut self, known: &Parameters) {
        self.take_received();
        self.tell_parameters(known);
    }

    /// What the server has sent before the relay reads it: messages for the client, and the beginning of
    /// others.
    fn take_received(&mut self) {
        self.server_end.answers = Inbox::default();
        let pids = self.pids();
        let server = self.backend.connection_mut();
        if server.has_received() {
            let mut asynchronous = BytesMut::from(server.take_async_messages());
            pids.rename_all(&mut asynchronous);
            self.to_client.queue(&asynchronous);
            self.server_end.answers = Inbox::beginning_with(server.take_unread());
        }
    }

    /// The client goes on with another server connection, which belongs to no pool, and gets a
    /// ParameterStatus for each parameter that differs. Returns the one that it had.
    pub(super) fn replace_server(
        &mut self,
        server: Box<ServerConnection>,
        record: &Arc<RouteRecord>,
    ) -> Box<ServerConnection> {
        let old = self.backend.replace(server, record);
        if !old.parameters.is_same(&self.backend.connection().parameters) {
            self.worker.share(&mut self.backend.connection_mut().parameters);
        }
        self.server_end.last_error = LastError::None;
        self.after_own_exchange(&old.parameters);
        old
    }

    fn tell_parameters(&mut self, known: &Parameters) {
        let parameters = &self.backend.connection().parameters;
        if known.is_same(parameters) {
            return;
        }
        let mut news = BytesMut::new();
        for (name, value) in parameters.iter() {
            if known.value(name) != Some(value) {
                parameter_status(&mut news, name, value);
                self.tracker.texts_mut().on_parameter_status(name, value);
            }
        }
        self.to_client.queue(&news);
    }

    /// Whether a message of our own may still go to the client: not in the middle of a server message.
    pub(super) fn may_send_own_message(&self) -> bool {
        self.server_end.answers.is_between_messages()
    }
}
