//! The server connection of a client, and what belongs to one kind of it only.
//!
//! Owns the answer to the question whether the client has a connection of its own: whatever depends on it is
//! a match on [`Backend`]. It deliberately knows no gate and no order: the relay asks for a connection, and
//! gives it back.
//!
//! # Why
//! A connection of one's own carries a session, and may outlive it; a lent one carries a transaction. Nearly
//! everything else about them is the same: the relay reads and writes [`Backend::connection_mut`], whichever
//! kind that is.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::admission::Wait;
use super::observe;
use crate::backend::ServerConnection;
use crate::error::Refusal;
use crate::event_loop;
use crate::model::RouteRecord;
use crate::session::migrate::sequence_memory::{PreviousConnection, Recall};
use crate::session::pool::kept::ConnectionHistory;
use crate::session::pool::pooled_client::PooledClient;
use crate::session::state::{Bound, StateTracker};
use crate::session::statements::FRONT_BYTES;
use crate::session::worker::Worker;
use crate::tls::Stream;
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::frame::{Part, Piece, WHOLE_BYTES_MAX};
use crate::wire::message::backend::tag as answer;
use crate::wire::message::frontend::{parse_parse, tag as request};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX, TransactionStatus};

#[derive(Debug)]
pub(in crate::session) enum Backend {
    /// The client has a connection of its own until it leaves.
    Dedicated(Dedicated),
    /// A connection is lent to the client for each transaction.
    Pooled(Box<PooledClient>),
}

#[derive(Debug)]
pub(in crate::session) struct Dedicated {
    connection: Box<ServerConnection>,
    /// Boxed: most sessions have neither.
    memory: Option<Box<Memory>>,
}

/// What a session leaves on its connection, and what it has left on earlier ones.
#[derive(Debug, Default)]
struct Memory {
    /// Set where the connection may go to another client afterwards.
    reuse: Option<Reuse>,
    /// Set for a session that has gone on with another connection and may ask for sequence values drawn
    /// before.
    recall: Option<Box<Recall>>,
}

/// How a client may affect later clients of its connection.
#[derive(Debug)]
struct Reuse {
    /// The history of the connection; after a move, of the first one.
    history: ConnectionHistory,
    /// Definitions have changed since the last transaction boundary.
    has_defined: bool,
}

impl Dedicated {
    /// `history`: set where the connection may go to another client afterwards.
    pub(in crate::session) fn new(
        connection: Box<ServerConnection>,
        history: Option<ConnectionHistory>,
    ) -> Dedicated {
        let reuse = history.map(|history| Reuse { history, has_defined: false });
        let memory = reuse.map(|reuse| Box::new(Memory { reuse: Some(reuse), recall: None }));
        Dedicated { connection, memory }
    }

    fn reuse(&mut self) -> Option<&mut Reuse> {
        self.memory.as_mut()?.reuse.as_mut()
    }

    pub(in crate::session) fn take_recall(&mut self) -> Option<Box<Recall>> {
        self.memory.as_mut()?.recall.take()
    }

    pub(in crate::session) fn set_recall(&mut self, recall: Option<Box<Recall>>) {
        match recall {
            Some(recall) => self.memory.get_or_insert_default().recall = Some(recall),
            None => drop(self.take_recall()),
        }
    }

    /// The history of the connection, if it may go to another client.
    pub(in crate::session) fn history(&self) -> Option<ConnectionHistory> {
        self.memory.as_ref()?.reuse.as_ref().map(|reuse| reuse.history)
    }

    /// The client has left: its connection is kept for another one.
    pub(in crate::session) fn give_up(&mut self) -> Box<ServerConnection> {
        self.connection.take()
    }

    /// An answer to the client begins here.
    #[inline]
    pub(super) fn saw_answer(&mut self, piece: &Piece<'_>) {
        if let Some(reuse) = self.reuse() {
            reuse.has_defined = reuse.has_defined || observe::defines(piece);
        }
    }

    /// A transaction has ended. `true`: connections that are kept for later clients may be outdated now.
    pub(super) fn take_defined(&mut self) -> bool {
        self.reuse().is_some_and(|reuse| std::mem::take(&mut reuse.has_defined))
    }

    /// The session has left a connection; `None`: there is nothing of the old one to remember.
    pub(in crate::session) fn remember(
        &mut self,
        left: Option<&Rc<PreviousConnection>>,
        tracker: &StateTracker,
    ) {
        let before = self.take_recall();
        let Some(left) = left else { return };
        let parse = tracker.unnamed().body().and_then(|body| parse_parse(body).ok());
        self.set_recall(Some(Recall::after(before, left, parse.map(|parse| parse.sql))));
    }
}

impl Backend {
    /// The connection; an absent one while the client has none, with the parameters that the client knows.
    #[inline]
    pub(in crate::session) fn connection(&self) -> &ServerConnection {
        match self {
            Backend::Dedicated(dedicated) => &dedicated.connection,
            Backend::Pooled(client) => client.connection(),
        }
    }

    #[inline]
    pub(in crate::session) fn connection_mut(&mut self) -> &mut ServerConnection {
        match self {
            Backend::Dedicated(dedicated) => &mut dedicated.connection,
            Backend::Pooled(client) => client.connection_mut(),
        }
    }

    /// The client goes on with this connection, which belongs to no pool. Returns the one that it had.
    pub(super) fn replace(
        &mut self,
        connection: Box<ServerConnection>,
        record: &Arc<RouteRecord>,
    ) -> Box<ServerConnection> {
        match self {
            Backend::Dedicated(dedicated) => std::mem::replace(&mut dedicated.connection, connection),
            Backend::Pooled(client) => client.go_on_with(connection, record),
        }
    }

    #[inline]
    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.connection_mut().stream
    }

    /// The client has no server connection now.
    #[inline]
    pub(in crate::session) fn needs_connection(&self) -> bool {
        match self {
            Backend::Dedicated(_) => false,
            Backend::Pooled(client) => !client.has_connection(),
        }
    }

    /// Whether Terminate need not reach the server if the client leaves now: the connection outlives it, or
    /// is closed anyway.
    pub(super) fn stays(&self, exchange: &Exchange) -> bool {
        match self {
            Backend::Dedicated(dedicated) => {
                dedicated.history().is_some() && exchange.rest() == Rest::Settled
            }
            // A connection at rest is given back; one that works for the client is closed.
            Backend::Pooled(_) => exchange.rest() != Rest::Busy || exchange.is_silent(),
        }
    }

    /// The connection was lent just now, and has not been polled for answers yet.
    #[inline]
    pub(super) fn is_newly_lent(&self) -> bool {
        match self {
            Backend::Dedicated(_) => false,
            Backend::Pooled(client) => client.is_newly_lent,
        }
    }

    /// The same, once.
    #[inline]
    pub(super) fn take_newly_lent(&mut self) -> bool {
        match self {
            Backend::Dedicated(_) => false,
            Backend::Pooled(client) => std::mem::take(&mut client.is_newly_lent),
        }
    }

    /// A transaction begins on the connection.
    #[inline]
    pub(super) fn begin_transaction(&mut self) {
        if let Backend::Pooled(client) = self {
            client.is_used = true;
        }
    }

    /// The request for which the client has its connection was answered in place of the server: a lent one is
    /// given back.
    pub(super) fn mark_unneeded(&mut self) {
        if let Backend::Pooled(client) = self {
            client.is_used |= client.has_connection();
        }
    }

    /// Another client waits for a connection like this one.
    pub(super) fn has_waiting_clients(&self) -> bool {
        match self {
            Backend::Dedicated(_) => false,
            Backend::Pooled(client) => client.has_waiting_clients(),
        }
    }

    /// Where connections are lent, messages are understood by the names at their front, and no connection is
    /// borrowed for a message that may never be complete.
    pub(super) fn has_enough(&self, bytes: &[u8]) -> bool {
        let Backend::Pooled(client) = self else { return true };
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else {
            // The walker reports what is wrong with it.
            return bytes.len() >= HEADER_BYTES;
        };
        let wanted = if client.has_connection() { FRONT_BYTES } else { WHOLE_BYTES_MAX };
        bytes.len() >= header.message_bytes().min(wanted)
    }

    /// For a client that pipelines over an error: what its next message means depends on answers that are on
    /// their way.
    pub(super) fn waits_for_doubt(&self, exchange: &Exchange, bytes: &[u8]) -> bool {
        let Backend::Pooled(client) = self else { return false };
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else { return false };
        let message = &bytes[..bytes.len().min(header.message_bytes())];
        exchange.will_report() && client.statements.is_doubtful(message)
    }

    /// Why the session ends instead of sending the message that begins here.
    pub(super) fn refusal(&self, piece: &Piece<'_>) -> Option<Refusal> {
        match self {
            Backend::Dedicated(_) => None,
            Backend::Pooled(client) => client.statements.refusal(piece),
        }
    }

    /// As many answers are pending as are kept.
    pub(super) fn is_full(&self, exchange: &Exchange) -> bool {
        exchange.is_full()
            || match self {
                Backend::Dedicated(_) => false,
                Backend::Pooled(client) => client.statements.is_full(),
            }
    }

    /// What is sent in place of a piece of the client's, where its connection is lent or outlives it.
    pub(super) fn replacement(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        tracker: &StateTracker,
        worker: &Worker,
    ) -> Option<&[u8]> {
        if piece.tag == request::TERMINATE && self.stays(exchange) {
            return Some(&[]);
        }
        let Backend::Pooled(client) = self else { return None };
        // Without a connection there is nothing that such a message could end or continue.
        if !client.has_connection() {
            return Some(&[]);
        }
        if !piece.part.begins() {
            return None;
        }
        let parse_context = client.parse_context(tracker.execution().parses_as_known());
        client.replacement(piece, exchange, &mut worker.texts.borrow_mut(), parse_context)
    }

    /// Tells the tracker of the requests that were put before the client's: it counts every request.
    pub(super) fn count_injected(&mut self, tracker: &mut StateTracker) {
        let Backend::Pooled(client) = self else { return };
        for _ in 0..client.statements.take_injected() {
            tracker.on_request(request::PARSE);
            tracker.execution_mut().parsed_ours();
        }
    }

    /// From the change of a definition until it is in force, no session relies on what was read of
    /// definitions.
    #[inline]
    pub(super) fn tell_of_definitions(&mut self, tracker: &StateTracker) {
        if tracker.loan().is_defining()
            && let Backend::Pooled(client) = self
        {
            client.begin_defining();
        }
    }

    /// The messages that begin here may ask for sequence values that the session drew on an earlier
    /// connection: then those are restored before the first of the messages, as no message of ours may come
    /// between them and their Sync.
    pub(super) fn wait_for_recall(&mut self, exchange: &Exchange, bytes: &[u8]) -> Wait {
        let Backend::Dedicated(dedicated) = self else { return Wait::Nothing };
        let Some(memory) = &mut dedicated.memory else { return Wait::Nothing };
        memory.recall.take_if(|recall| recall.is_empty());
        let is_between = exchange.is_between_cycles();
        let Some(recall) = &mut memory.recall else { return Wait::Nothing };
        if !(is_between || exchange.ends_cycle()) || exchange.status() == TransactionStatus::Failed {
            return Wait::Nothing;
        }
        match recall.is_wanted_by(bytes) {
            false => Wait::Nothing,
            true if is_between => Wait::Recall,
            true => Wait::Answers,
        }
    }

    /// The statement that the last message binds, where the client's name for it is known.
    pub(super) fn bound(&self) -> Option<Bound<'_>> {
        match self {
            Backend::Dedicated(_) => None,
            Backend::Pooled(client) => client.statements.bound(),
        }
    }

    /// An error that names a statement by Freehold's name for it, with the client's name.
    #[inline]
    pub(super) fn with_client_names(&self, piece: &Piece<'_>) -> Option<BytesMut> {
        match self {
            Backend::Pooled(client) if piece.tag == answer::ERROR_RESPONSE && piece.part == Part::Whole => {
                client.statements.with_client_names(piece.bytes)
            }
            Backend::Pooled(_) | Backend::Dedicated(_) => None,
        }
    }

    /// The connection goes to another client, or back, once the server has nothing to do: it is not waited
    /// for.
    #[inline]
    pub(super) fn is_given_back(&self, exchange: &Exchange) -> bool {
        match self {
            Backend::Dedicated(_) => false,
            Backend::Pooled(_) => exchange.rest() != Rest::Busy,
        }
    }

    /// An exchange of Freehold's own begins, which may replace the unnamed statement of the connection.
    pub(super) fn lose_unnamed(&mut self) {
        if let Backend::Pooled(client) = self {
            client.statements.server.lose_unnamed();
        }
    }

    /// The session may ask for sequence values that it drew on an earlier connection.
    #[inline]
    pub(super) fn recalls(&self) -> bool {
        match self {
            Backend::Dedicated(Dedicated { memory: Some(memory), .. }) => memory.recall.is_some(),
            Backend::Dedicated(_) | Backend::Pooled(_) => false,
        }
    }

    /// Those values are not defined any more.
    pub(super) fn forget_recall(&mut self) {
        if let Backend::Dedicated(dedicated) = self {
            dedicated.set_recall(None);
        }
    }

    /// The session ends with its connection at rest: tells the server. A lent one closes as it is dropped.
    pub(in crate::session) fn terminate(self) {
        if let Backend::Dedicated(Dedicated { connection, .. }) = self
            && !connection.is_absent()
        {
            event_loop::spawn(connection.terminate());
        }
    }
}
