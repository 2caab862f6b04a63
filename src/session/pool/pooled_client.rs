//! A client with a server connection for each transaction: what it takes from one connection to the next.
//!
//! ```text
//!   no connection --- a request ---> waits in line ---> made to fit ---> lent --- boundary ---> given back
//!                                                                          |
//!                                                                          +-- pinned: stays with it
//! ```
//!
//! Owns what makes a connection the client's own while it is lent: settings, role, statements made by SQL
//! ([`PooledClient::state`]), statements made by Parse ([`Statements`]), and the reasons for keeping it
//! ([`PooledClient::pins`]).
//!
//! # Why
//! The state is asked from PostgreSQL, as for a move: after a transaction that may have changed it, and only
//! then. Most transactions cannot, and most clients of a service have the same state, so most loans only take
//! an idle connection from the pool. State that another connection cannot have (temporary tables, session
//! locks, LISTEN, cursors WITH HOLD) keeps the connection, so that it is not silently lost.

use std::collections::{BTreeSet, HashSet};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::{Defining, Knowledge, Lending, Pool, Pooled};
use crate::backend::{Parameters, ServerConnection};
use crate::error::{Blame, Explain, Refusal, Severity, SqlState, chain};
use crate::model::{RouteRecord, Timeout, timeout_text};
use crate::route::{Activity, Readiness};
use crate::session::cancel::registry::{CancelTarget, CurrentTarget};
use crate::session::ending::Ending;
use crate::session::limits::Source;
use crate::session::migrate::follow::{Migration, is_held};
use crate::session::migrate::restore::LockPatience;
use crate::session::migrate::twin::TwinError;
use crate::session::relay::counters;
use crate::session::relay::{Relay, Reuse};
use crate::session::serve::Session;
use crate::session::state::{Freshness, Residue, SessionState, Statement};
use crate::session::statements::{PREFIX, ParseContext, Schema, Statements, Texts, digest};
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::frame::Piece;
use crate::wire::message::backend::notice_response;

/// Connections that are tried for one request before the client gets an error.
const TRIES_MAX: u32 = 5;

/// One client's side of the pool.
#[derive(Debug)]
pub(in crate::session) struct PooledClient {
    pool: Rc<Pool>,
    pub(in crate::session) statements: Statements,
    /// The state that a connection must have to be lent to this client.
    state: Arc<SessionState>,
    /// The connection that is lent now; the relay has its socket.
    lease: Option<Box<Pooled>>,
    /// The number of the connection that was lent last.
    last: u64,
    /// Why the connection stays with the client, for a person.
    pins: Vec<String>,
    /// The connection stays because its state could not be read: it is asked again after each transaction.
    pub(in crate::session) asks_again: bool,
    current_target: Arc<CurrentTarget>,
    /// [`DatabasePool::functions`](super::DatabasePool::functions) as the tracker knows them.
    functions: u64,
    /// [`DatabasePool::definitions`](super::DatabasePool::definitions) when the connection was
    /// lent.
    definitions: u64,
    /// The loan has changed definitions; dropping this at its end, whatever that is, announces the change.
    defining: Option<Defining>,
    /// [`PooledClient::parse_context`] as it was last computed, from these parameters and this state.
    parse_context: (Parameters, Arc<SessionState>, u128),
}

/// How a wait for a connection ends or is interrupted.
enum ConnectionWait {
    Lent(Lending),
    /// The request was cancelled: there is nothing to wait for any more.
    TakenBack,
    Noticed,
    Late,
}

/// Whether the client's statements made by SQL were prepared again on its new connection.
struct PreparedAgain(bool);

/// Why a connection is not lent to a client.
enum Unfit {
    /// It is dead; another one may do.
    Gone,
    /// Functions were read on it under other settings than the client's, or with other definitions; a new
    /// connection is needed.
    Read,
    /// It does not accept the client's state.
    State(TwinError),
}

impl PooledClient {
    /// `state` is the state of a new session on this pool.
    pub(in crate::session) fn new(
        pool: Rc<Pool>,
        state: Arc<SessionState>,
        session: u64,
        current_target: Arc<CurrentTarget>,
    ) -> PooledClient {
        let caches_unnamed = pool.database_pool.settings().caches_unnamed;
        let parameters = Parameters::default();
        let parse_context = parse_context_of(&parameters, &state);
        PooledClient {
            parse_context: (parameters, Arc::clone(&state), parse_context),
            functions: pool.database_pool.functions(),
            definitions: pool.database_pool.definitions(),
            pool,
            statements: Statements::new(session, caches_unnamed),
            state,
            lease: None,
            last: 0,
            pins: Vec::new(),
            asks_again: false,
            current_target,
            defining: None,
        }
    }

    pub(in crate::session) fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Another client waits for a connection of this pool.
    pub(in crate::session) fn is_pressed(&self) -> bool {
        self.pool.database_pool.is_pressed()
    }

    /// What decides, beside its text, the meaning of a statement that is parsed now, where the server reports
    /// these parameters. `as_known`: nothing may have changed it since the state was known.
    pub(in crate::session) fn parse_context(
        &mut self,
        parameters: &Parameters,
        as_known: bool,
    ) -> ParseContext {
        // The reason for keeping a connection may change what a name means on it: a temporary table.
        if !as_known || self.is_pinned() {
            return ParseContext::Unsure;
        }
        let (seen, state, known) = &self.parse_context;
        if !(seen.is_same(parameters) && Arc::ptr_eq(state, &self.state)) {
            let known = parse_context_of(parameters, &self.state);
            self.parse_context = (parameters.clone(), Arc::clone(&self.state), known);
            return ParseContext::Known(known);
        }
        ParseContext::Known(*known)
    }

    /// A message of the client's is about to be sent: see [`Statements::on_request`].
    pub(in crate::session) fn replacement(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) -> Option<&[u8]> {
        let schema = self.pool.database_pool.schema();
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.schema != schema) {
            lease.schema = schema;
            self.statements.outdated();
        }
        let is_taken = |name: &str| self.state.statements.contains_key(name);
        self.statements.on_request(piece, exchange, texts, parse_context, is_taken)
    }

    /// Removes statements that clients share, which are not this client's state. A statement of its own that
    /// cannot be made again pins the connection, and so does one that it made by SQL under a name like
    /// theirs: another client must not find that.
    pub(in crate::session) fn without_shared(&mut self, state: &mut SessionState) {
        let mut made_by_parse = HashSet::new();
        let pins = &mut state.pins;
        state.statements.retain(|name, statement| {
            let Some(key) = name.strip_prefix(PREFIX) else { return true };
            match statement {
                Statement::Protocol { .. } => made_by_parse.extend(u128::from_str_radix(key, 16).ok()),
                Statement::Sql { .. } => {
                    pins.insert(format!("prepared statement \"{name}\", a name that Freehold uses itself"));
                }
            }
            false
        });
        self.statements.server.found(&made_by_parse);
        state.pins.extend(self.statements.pin().map(str::to_owned));
    }

    /// The session has moved to another connection, which belongs to no pool.
    pub(in crate::session) fn moved(&mut self, record: &Arc<RouteRecord>, pid: i32) {
        self.statements.server.close_all();
        self.statements.server.lose_unnamed();
        if let Some(lease) = &mut self.lease {
            let facts = self.pool.facts(pid, record);
            lease.moved(record, self.pool.database_pool.route.session_table().enter_lent(facts));
        }
    }

    /// An idle connection; if the client has prepared statements, preferably its last one, which may have
    /// them.
    fn take_idle(&self) -> Option<Box<Pooled>> {
        self.pool.take_idle(self.statements.are_named().then_some(self.last))
    }

    /// A connection that can be lent as it is: it lives, and has the client's state.
    fn take_fitting(&mut self) -> Option<Box<Pooled>> {
        let database_pool = &self.pool.database_pool;
        if database_pool.is_pressed() {
            return None;
        }
        let mut pooled = self.take_idle()?;
        let fits = Arc::ptr_eq(&pooled.state, &self.state)
            && pooled.on_server.is_clean()
            && !pooled.keeps_other_values(&self.state)
            && pooled.schema == database_pool.schema()
            && !database_pool.is_look_due()
            && !database_pool.has_rested(&pooled, database_pool.settings().check_after)
            && pooled.twin.is_alive();
        if fits {
            return Some(pooled);
        }
        self.pool.put_idle(pooled);
        None
    }
}

/// Settings that decide what a text means when it is parsed, as the server reports them.
const READ_BY_PARSE: [&str; 5] =
    ["client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings"];

/// A digest of what decides, beside its text, the meaning of a statement: those settings, and everything that
/// the session has set (its search path).
fn parse_context_of(parameters: &Parameters, state: &SessionState) -> u128 {
    let reported = READ_BY_PARSE.iter().map(|name| parameters.value(name).unwrap_or_default());
    let own = state.settings.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let role = [state.session_user.as_str(), state.role.as_str()];
    let parts: Vec<&[u8]> = reported.chain(role).chain(own).map(str::as_bytes).collect();
    digest(&parts)
}

/// Puts the connection back into `pooled`; the absent one that the client gets instead keeps the parameters
/// that the client knows.
fn take_back(pooled: &mut Pooled, server: &mut Box<ServerConnection>) {
    pooled.twin.exchange_connection(server);
    server.parameters.clone_from(&pooled.twin.connection().parameters);
}

/// Removes what another connection cannot have, or has already.
fn lendable(mut state: SessionState) -> SessionState {
    state.unnamed = None;
    // An empty custom setting is what SET LOCAL leaves behind on any connection.
    state.settings.retain(|name, value| !(name.contains('.') && value.is_empty()));
    state.losses = BTreeSet::new();
    state
}

fn pins(state: &SessionState) -> Vec<String> {
    let channels = state.channels.iter().map(|channel| format!("LISTEN \"{channel}\""));
    let locks = state.locks.keys().map(ToString::to_string);
    state.pins().into_iter().chain(channels).chain(locks).collect()
}

impl Relay {
    /// The client has no server connection now.
    pub(in crate::session) fn is_unserved(&self) -> bool {
        self.server.is_absent()
    }

    /// Takes a connection that can be lent as it is. `false`: there is none.
    pub(in crate::session) fn attach_fitting(&mut self) -> bool {
        let Some(pooled_client) = &mut self.pooled_client else { return false };
        match pooled_client.take_fitting() {
            Some(pooled) => {
                self.attach(pooled);
                true
            }
            None => false,
        }
    }

    fn attach(&mut self, mut pooled: Box<Pooled>) {
        let Some(pooled_client) = &mut self.pooled_client else { return };
        pooled.twin.exchange_connection(&mut self.server);
        pooled_client.current_target.point_to(CancelTarget {
            record: Arc::clone(&pooled.record),
            pid: self.server.pid,
            key: self.server.cancel_key.clone(),
        });
        pooled_client.last = pooled.number;
        pooled_client.statements.server = std::mem::take(&mut pooled.on_server);
        pooled_client.definitions = pooled_client.pool.database_pool.definitions();
        if pooled_client.functions != pooled_client.pool.database_pool.functions() {
            pooled_client.functions = pooled_client.pool.database_pool.functions();
            self.tracker.forget_hints();
            match pooled_client.pool.database_pool.take_knowledge() {
                Knowledge::Told => {}
                Knowledge::Doubted => self.worker.doubt_hints(self.route.id()),
                Knowledge::Outdated => self.worker.forget_hints(self.route.id()),
            }
        }
        // Another session may have read meanwhile what they do.
        if self.tracker.hints().is_none()
            && let Some(known) = self.worker.hints(self.route.id()).get()
        {
            self.tracker.use_hints(Arc::clone(known));
        }
        pooled.lent_at = pooled_client.pool.database_pool.catalogue();
        pooled.lent_to(Some(self.member.session()));
        // Its liveness was checked without a waker: the relay has to poll it for answers.
        self.is_newly_lent = true;
        counters::assigned(&self.member);
        self.go_on_from_line();
        self.server_replaced(&pooled.twin.connection().parameters);
        if let Some(pooled_client) = &mut self.pooled_client {
            pooled_client.lease = Some(pooled);
        }
    }

    /// Gives the connection back at a boundary if nothing has to be asked first. `false`: something has to be
    /// asked.
    pub(in crate::session) fn detach_settled(&mut self) -> bool {
        let Some(pooled_client) = &mut self.pooled_client else { return false };
        // This check comes first: a client that is no longer counted as defining has counted its change
        // before.
        if pooled_client.pool.database_pool.is_being_defined() {
            self.tracker.distrust();
        }
        if pooled_client.definitions != pooled_client.pool.database_pool.definitions() {
            // What ran since then may have been defined otherwise than it was known.
            pooled_client.definitions = pooled_client.pool.database_pool.definitions();
            self.tracker.definitions_changed();
        }
        let is_known = self.tracker.freshness() <= Freshness::Unnamed && self.tracker.unnamed_pin().is_none();
        let nothing_to_ask = is_known
            && pooled_client.pins.is_empty()
            && pooled_client.statements.pin().is_none()
            && self.exchange.rest() == Rest::Settled;
        if !nothing_to_ask || !pooled_client.current_target.clear() {
            return false;
        }
        self.detach();
        true
    }

    fn detach(&mut self) {
        let Some(pooled_client) = &mut self.pooled_client else { return };
        let Some(mut pooled) = pooled_client.lease.take() else { return self.drop_server() };
        take_back(&mut pooled, &mut self.server);
        pooled_client.defining = None;
        pooled.lent_to(None);
        pooled.on_server = std::mem::take(&mut pooled_client.statements.server);
        pooled.on_server.end_loan();
        let (mut residue, names) = (self.tracker.take_soil(), self.tracker.take_names());
        pooled.has_run(residue);
        let database_pool = &pooled_client.pool.database_pool;
        database_pool.saw_hints(self.tracker.hints());
        let is_cleanable = residue == Residue::Clean || !database_pool.has_login_trigger();
        if database_pool.keeps_other_meanings(&mut pooled, names) || !is_cleanable {
            residue = Residue::Lasting;
        }
        match residue {
            Residue::Clean => pooled_client.pool.give_back(pooled),
            residue => pooled_client.pool.clean_and_give_back(pooled, residue),
        }
    }

    /// A transaction has ended. Before a client learns of that, statements are marked to be prepared anew if
    /// they may mean something else now.
    pub(in crate::session) fn tell_of_schema(&mut self) {
        let is_defining = self.tracker.is_defining();
        let Some(pooled_client) = &mut self.pooled_client else {
            // Connections that are kept for later clients may now be outdated.
            if self.reuse == Reuse::ServerAndDefinitions {
                self.reuse = Reuse::Server;
                self.worker.catalogue(self.route.id()).doubt();
            }
            return;
        };
        let database_pool = &pooled_client.pool.database_pool;
        match std::mem::replace(&mut pooled_client.statements.schema, Schema::Same) {
            Schema::Changed => {
                database_pool.schema_changed();
                database_pool.guess_schema();
            }
            Schema::Doubted => database_pool.doubt_schema(),
            _ if is_defining => database_pool.doubt_schema(),
            Schema::Guessed => database_pool.guess_schema(),
            Schema::Suspect => database_pool.suspect_schema(),
            Schema::Same => {}
        }
    }

    /// From the change of a definition until it is in force, no session relies on what was read of
    /// definitions.
    pub(in crate::session) fn tell_of_definitions(&mut self) {
        if self.tracker.is_defining()
            && let Some(pooled_client) = &mut self.pooled_client
            && pooled_client.defining.is_none()
        {
            pooled_client.defining = Some(pooled_client.pool.database_pool.define());
        }
    }

    /// Has every session of the database read again what functions do, if that may have changed.
    fn follow_definitions(&mut self) {
        let Some(pooled_client) = &mut self.pooled_client else { return };
        if !self.tracker.take_defined() {
            return;
        }
        let database_pool = &pooled_client.pool.database_pool;
        // Dropping it announces the change.
        if pooled_client.defining.take().is_none() {
            database_pool.definitions_changed();
        }
        database_pool.take_knowledge();
        pooled_client.functions = database_pool.functions();
        pooled_client.definitions = database_pool.definitions();
        self.worker.forget_hints(self.route.id());
        database_pool.saw_hints(self.tracker.hints());
        self.tracker.forget_hints();
    }

    /// Discards a connection to the place where the database was before.
    fn discard_lease_before(&mut self, record: &RouteRecord) {
        let Some(pooled_client) = &self.pooled_client else { return };
        if pooled_client.lease.as_ref().is_some_and(|lease| lease.record.epoch != record.epoch) {
            self.discard_lease();
        }
    }

    fn discard_lease(&mut self) {
        let Some(pooled_client) = &mut self.pooled_client else { return };
        let _ = pooled_client.current_target.clear();
        pooled_client.pins.clear();
        pooled_client.defining = None;
        let Some(mut pooled) = pooled_client.lease.take() else { return self.drop_server() };
        take_back(&mut pooled, &mut self.server);
        // What its client has done will not be asked any more.
        if self.tracker.take_soil() != Residue::Clean {
            pooled_client.pool.database_pool.guess_schema();
        }
        pooled_client.pool.discard(pooled);
    }

    /// Closes a connection that came from no pool.
    fn drop_server(&mut self) {
        drop(self.server.take());
    }

    /// How long the client may wait in the queue now, and where that is set.
    fn patience(&self) -> (Duration, Source) {
        self.watch().terms().wait(&self.worker.plane.limits.load())
    }

    /// The client leaves: its connection is given back or closed.
    pub(in crate::session) fn leave_connection(&mut self) {
        if self.pooled_client.is_none() || self.is_unserved() {
            return;
        }
        if !(self.can_speak() && self.is_clean() && self.detach_settled()) {
            // Ends an open transaction now, whatever the client still has to read.
            self.discard_lease();
        }
    }

    /// Serves a client that waits in the queue: it may leave, cancel or send more. Ready when there is
    /// nothing to wait for.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        if self.worker.is_stopping() {
            return Poll::Ready(Err(Ending::Stopping));
        }
        if self.poll_turned(cx)
            && let Some(refusal) = self.route.current().terms.service.refusal()
        {
            return Poll::Ready(Err(Ending::Refused(refusal)));
        }
        self.note_hold_in_line();
        match self.stay_in_line(cx) {
            Ok(true) if self.member.is_dismissed() => Poll::Ready(Err(Ending::Dismissed)),
            Ok(true) => Poll::Pending,
            Ok(false) => Poll::Ready(Ok(())),
            Err(ending) => Poll::Ready(Err(ending)),
        }
    }
}

impl Session {
    /// The client's request needs a connection: waits for one and makes it the client's.
    pub(in crate::session) async fn borrow(&mut self) -> Result<(), Ending> {
        let mut tries = 0;
        while tries < TRIES_MAX {
            let Some(lending) = self.next_lending().await? else { return Ok(()) };
            let mut pooled = match lending {
                Ok(pooled) => pooled,
                Err(refusal) => return self.relay.refuse_waiting(refusal),
            };
            let Some(pooled_client) = &mut self.relay.pooled_client else { return Ok(()) };
            match Box::pin(pooled_client.make_fit(&mut pooled)).await {
                Ok(PreparedAgain(prepared_again)) => {
                    let record = Arc::clone(&pooled.record);
                    self.arrive(&record);
                    self.relay.attach(pooled);
                    if prepared_again {
                        self.relay.tracker.on_restored();
                    }
                    return Ok(());
                }
                Err(Unfit::Gone) => {
                    tries += 1;
                    pooled_client.pool.discard(pooled);
                }
                // A new one takes its place.
                Err(Unfit::Read) => pooled_client.pool.discard(pooled),
                // What an earlier client did there may be the reason, as temporary tables are for
                // `temp_buffers`.
                Err(Unfit::State(_)) if pooled.was_lent && tries + 1 < TRIES_MAX => {
                    tries += 1;
                    pooled_client.pool.discard(pooled);
                }
                Err(Unfit::State(error)) => {
                    tracing::warn!(error = %chain(&error), "a connection does not take a client's state");
                    pooled_client.pool.discard(pooled);
                    return self.relay.refuse_waiting(error.refusal(Severity::Error));
                }
            }
        }
        self.relay.refuse_waiting(unreachable(None))
    }

    /// `None`: the request was cancelled.
    async fn next_lending(&mut self) -> Result<Option<Lending>, Ending> {
        let Some(pooled_client) = &mut self.relay.pooled_client else { return Ok(None) };
        if !pooled_client.is_pressed()
            && let Some(pooled) = pooled_client.take_idle()
        {
            return Ok(Some(Ok(pooled)));
        }
        let (pool, settings) = (Rc::clone(&pooled_client.pool), *pooled_client.pool.database_pool.settings());
        let (patience, source) = self.relay.patience();
        self.relay.set_activity(Activity::Waiting);
        let mut given = pool.wait();
        let mut deadline = Instant::now() + patience;
        let mut notice = Some(Instant::now() + settings.notice_after);
        loop {
            let next = notice.unwrap_or(deadline).min(deadline);
            match self.wait_for_connection(&mut given, next, deadline).await? {
                ConnectionWait::Lent(lending) => return Ok(Some(lending)),
                ConnectionWait::TakenBack => return Ok(None),
                ConnectionWait::Noticed => {
                    notice = None;
                    let mut message = BytesMut::new();
                    notice_response(&mut message, &long_wait(pool.failure()));
                    self.relay.to_client.queue(&message);
                }
                // The client is not to blame for a hold: its time begins anew when the hold is over.
                ConnectionWait::Late if is_held(&self.relay.route.current()) => {
                    deadline = Instant::now() + patience;
                }
                ConnectionWait::Late => return Ok(Some(Err(none_free(patience, source, pool.failure())))),
            }
        }
    }

    async fn wait_for_connection(
        &mut self,
        given: &mut tokio::sync::oneshot::Receiver<Lending>,
        next: Instant,
        deadline: Instant,
    ) -> Result<ConnectionWait, Ending> {
        let mut timer = pin!(sleep_until(next));
        poll_fn(|cx| {
            if let Poll::Ready(lending) = Pin::new(&mut *given).poll(cx) {
                let lending = lending.unwrap_or_else(|_| Err(unreachable(None)));
                return Poll::Ready(Ok(ConnectionWait::Lent(lending)));
            }
            match self.relay.poll_waiting(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(ConnectionWait::TakenBack)),
                Poll::Ready(Err(ending)) => return Poll::Ready(Err(ending)),
                Poll::Pending => {}
            }
            timer
                .as_mut()
                .poll(cx)
                .map(|()| Ok(if next < deadline { ConnectionWait::Noticed } else { ConnectionWait::Late }))
        })
        .await
    }

    /// A transaction has ended that may have changed the state, or a pin: asks, and gives the connection back
    /// if it may go.
    pub(in crate::session) async fn rest(&mut self) -> Result<(), Ending> {
        // Asks once more if another client has changed a function meanwhile.
        while !self.relay.is_unserved() && !self.relay.detach_settled() {
            self.ask_and_rest().await?;
            if self.relay.pooled_client.as_ref().is_none_or(|pooled_client| pooled_client.is_pinned()) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn ask_and_rest(&mut self) -> Result<(), Ending> {
        let record = self.relay.route.current();
        let mut found = Vec::new();
        self.relay.follow_definitions();
        match self.take_state(&record).await? {
            Ok(state) => {
                self.relay.follow_definitions();
                found = pins(&state);
                let changes = self.relay.tracker.take_changes();
                if let Some(pooled_client) = &mut self.relay.pooled_client {
                    if let Some(changes) = changes {
                        pooled_client.pool.database_pool.saw_changes(changes.as_deref());
                    }
                    pooled_client.learn(&state);
                    pooled_client.asks_again = false;
                }
            }
            Err(unknown) => {
                found.push(unknown.0);
                if let Some(pooled_client) = &mut self.relay.pooled_client {
                    pooled_client.asks_again = true;
                }
            }
        }
        let of_statements =
            self.relay.pooled_client.as_ref().and_then(|pooled_client| pooled_client.statements.pin());
        for pin in [self.relay.tracker.unnamed_pin(), of_statements].into_iter().flatten() {
            // The state may name it already, or may have been taken before the pin existed.
            if !found.iter().any(|known| known == pin) {
                found.push(pin.to_owned());
            }
        }
        self.set_pins(found, &record);
        let Some(pooled_client) = &self.relay.pooled_client else { return Ok(()) };
        if pooled_client.is_pinned() {
            return Ok(());
        }
        let current_target = Arc::clone(&pooled_client.current_target);
        while !self.relay.detach_settled() && self.relay.tracker.freshness() <= Freshness::Unnamed {
            current_target.carried_out().await;
            if self.relay.exchange.rest() != Rest::Settled {
                return Err(Ending::ServerVanished);
            }
        }
        Ok(())
    }

    fn set_pins(&mut self, found: Vec<String>, record: &RouteRecord) {
        let Some(pooled_client) = &mut self.relay.pooled_client else { return };
        if pooled_client.pins == found {
            return;
        }
        let member = &self.relay.member;
        match found.is_empty() {
            true => {
                member.set_server_pid(None);
                member.set_readiness(Readiness::Ready { order: record.order });
            }
            false => {
                if let Some(lease) = &pooled_client.lease {
                    self.migration.generation = lease.record.generation;
                }
                member.switched(self.migration.epoch, self.relay.server.pid);
                member.set_generation(self.migration.generation);
                member.set_readiness(Readiness::Pinned { order: record.order, reasons: found.clone() });
            }
        }
        pooled_client.pins = found;
    }

    /// The client goes on at the record's place.
    fn arrive(&mut self, record: &RouteRecord) {
        if record.epoch == self.migration.epoch {
            return;
        }
        self.migration = Migration::at(record);
        self.relay.member.arrived(record.epoch);
    }

    /// Follows the record where the client has no connection that must be carried.
    pub(in crate::session) fn follow_lent(&mut self, record: &RouteRecord) {
        if record.epoch != self.migration.epoch {
            self.relay.discard_lease_before(record);
        }
        self.arrive(record);
        if !is_held(record) {
            self.relay.record_stall();
        }
        self.relay.member.set_readiness(Readiness::Ready { order: record.order });
    }
}

impl PooledClient {
    /// Brings a connection from the state that its last client left to this client's state, in one round trip
    /// at most for each kind of thing that differs.
    async fn make_fit(&mut self, pooled: &mut Pooled) -> Result<PreparedAgain, Unfit> {
        let database_pool = &self.pool.database_pool;
        let deadline = Instant::now() + database_pool.connect_time_max();
        if !pooled.twin.is_alive() {
            return Err(Unfit::Gone);
        }
        if pooled.has_read_otherwise(&self.state) {
            return Err(Unfit::Read);
        }
        database_pool.look(pooled, deadline).await.map_err(|_| Unfit::Gone)?;
        if pooled.keeps_outdated(database_pool.catalogue()) {
            return Err(Unfit::Read);
        }
        let schema = database_pool.schema();
        if pooled.schema != schema {
            let closes = pooled.on_server.close_all();
            if !closes.is_empty() {
                pooled.twin.run_quietly(&closes, deadline).await.map_err(|_| Unfit::Gone)?;
            }
            pooled.schema = schema;
        } else if !pooled.on_server.is_clean() {
            let closes = pooled.on_server.close_doubted();
            pooled.twin.run_quietly(&closes, deadline).await.map_err(|_| Unfit::Gone)?;
        } else if database_pool.has_rested(pooled, database_pool.settings().check_after) {
            let mut question = BytesMut::new();
            crate::wire::message::frontend::query(&mut question, "");
            pooled.on_server.lose_unnamed();
            pooled.twin.run_quietly(&question, deadline).await.map_err(|_| Unfit::Gone)?;
        }
        if Arc::ptr_eq(&pooled.state, &self.state) {
            return Ok(PreparedAgain(false));
        }
        let mut prepared_again = false;
        if pooled.state != self.state {
            pooled.on_server.lose_unnamed();
            let changed = Box::pin(pooled.twin.refresh(&self.state, LockPatience::Try, deadline)).await;
            changed.map_err(|error| match error {
                error @ TwinError::Parts(_) => Unfit::State(error),
                _ => Unfit::Gone,
            })?;
            prepared_again = !self.state.statements.is_empty();
        }
        pooled.state = Arc::clone(&self.state);
        Ok(PreparedAgain(prepared_again))
    }

    /// Records the state of the client; its connection has the same.
    fn learn(&mut self, state: &SessionState) {
        let state = lendable(state.clone());
        if let Some(template) = self.pool.template() {
            self.pool.database_pool.saw_path(&state, &template.state);
        }
        if *self.state != state {
            self.state = match self.pool.template() {
                Some(template) if *template.state == state => template.state,
                _ => Arc::new(state),
            };
        }
        if let Some(lease) = &mut self.lease {
            lease.twin.set_state(SessionState::clone(&self.state));
            lease.state = Arc::clone(&self.state);
        }
    }
}

fn long_wait(failure: Option<String>) -> Refusal {
    let notice = Refusal::new(
        Severity::Notice,
        SqlState::SUCCESSFUL_COMPLETION,
        "waiting for a connection to the database: all are in use".to_owned(),
    );
    match failure {
        Some(failure) => notice.with_detail(format!("The last one could not be opened: {failure}.")),
        None => {
            notice.with_hint("Shorten transactions, or ask the platform team for more server connections.")
        }
    }
}

fn none_free(waited: Duration, source: Source, failure: Option<String>) -> Refusal {
    match failure {
        Some(failure) => unreachable(Some(failure)),
        None => Refusal::new(
            Severity::Error,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("no connection to the database became free within {}", timeout_text(waited)),
        )
        .with_hint(format!(
            "Shorten transactions, or ask the platform team for more server connections. {}",
            source.timeout_hint(Timeout::Wait)
        )),
    }
}

/// No connection could be opened.
pub(in crate::session) fn unreachable(failure: Option<String>) -> Refusal {
    let refusal = Refusal::new(
        Severity::Error,
        SqlState::CANNOT_CONNECT_NOW,
        "the database cannot be reached now".to_owned(),
    )
    .with_blame(Blame::Server);
    match failure {
        Some(failure) => refusal.with_detail(format!("The last connection could not be opened: {failure}.")),
        None => refusal,
    }
    .with_hint("Try again.")
}
