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

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::{Defining, HintsStatus, Lease, Pool};
use crate::backend::{Parameters, ServerConnection};
use crate::error::{Blame, Refusal, Severity, SqlState};
use crate::model::RouteRecord;
use crate::session::cancel::registry::CurrentTarget;
use crate::session::migrate::restore::LockPatience;
use crate::session::migrate::twin::RestoreError;
use crate::session::state::{Hints, PreparedStatement, Residue, SessionState, StateTracker};
use crate::session::statements::{KeySet, OnServer, PREFIX, ParseContext, Schema, Statements, Texts, digest};
use crate::wire::exchange::Exchange;
use crate::wire::frame::Piece;

/// One client's side of the pool.
#[derive(Debug)]
pub(in crate::session) struct PooledClient {
    pool: Rc<Pool>,
    pub(in crate::session) statements: Statements,
    /// The state that a connection must have to be lent to this client.
    state: Arc<SessionState>,
    /// The connection that is lent now.
    lease: Option<Lease>,
    /// Stands in while none is lent; has the parameters that the client knows then.
    absent: Box<ServerConnection>,
    /// The connection was lent just now, and has not been polled for answers yet.
    pub(in crate::session) is_newly_lent: bool,
    /// A transaction has begun since the connection was lent.
    pub(in crate::session) is_used: bool,
    /// The number of the connection that was lent last.
    last: u64,
    /// Why the connection stays with the client, for a person.
    pins: Vec<String>,
    /// The connection stays because its state could not be read: it is asked again after each transaction.
    pub(in crate::session) asks_again: bool,
    current_target: Arc<CurrentTarget>,
    /// [`Definitions::functions`](super::definitions::Definitions::functions) as the tracker knows them.
    functions: u64,
    /// [`Definitions::number`](super::definitions::Definitions::number) when the connection was lent.
    definitions: u64,
    /// The loan has changed definitions; dropping this at its end, whatever that is, announces the change.
    defining: Option<Defining>,
    /// [`PooledClient::parse_context`] as it was last computed, from these parameters and this state.
    parse_context: Option<(Parameters, Arc<SessionState>, u128)>,
}

/// Whether the client's statements made by SQL were prepared again on its new connection.
pub(in crate::session) struct PreparedAgain(pub(in crate::session) bool);

/// Why a connection is not lent to a client.
pub(in crate::session) enum Unusable {
    /// It is dead; another one may do.
    Dead,
    /// Functions were read on it under other settings than the client's, or with other definitions; a new
    /// connection is needed.
    FunctionsRead,
    /// It does not accept the client's state.
    State(RestoreError),
}

impl PooledClient {
    /// `absent` has the parameters of a new session on this pool, and `state` is its state.
    pub(in crate::session) fn new(
        pool: Rc<Pool>,
        absent: Box<ServerConnection>,
        state: Arc<SessionState>,
        session: u64,
        current_target: Arc<CurrentTarget>,
    ) -> PooledClient {
        let caches_unnamed = pool.database_pool.settings().caches_unnamed;
        PooledClient {
            parse_context: None,
            functions: pool.database_pool.definitions.functions(),
            definitions: pool.database_pool.definitions.number(),
            pool,
            statements: Statements::new(session, caches_unnamed),
            state,
            lease: None,
            absent,
            is_newly_lent: false,
            is_used: false,
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

    /// The client has a connection now.
    #[inline]
    pub(in crate::session) fn has_connection(&self) -> bool {
        self.lease.is_some()
    }

    /// The connection; an absent one while the client has none.
    #[inline]
    pub(in crate::session) fn connection(&self) -> &ServerConnection {
        match &self.lease {
            Some(lease) => lease.connection(),
            None => &self.absent,
        }
    }

    #[inline]
    pub(in crate::session) fn connection_mut(&mut self) -> &mut ServerConnection {
        match &mut self.lease {
            Some(lease) => lease.connection_mut(),
            None => &mut self.absent,
        }
    }

    /// Another client waits for a connection of this pool.
    pub(in crate::session) fn has_waiting_clients(&self) -> bool {
        self.pool.database_pool.has_waiting_clients()
    }

    /// What decides, beside its text, the meaning of a statement that is parsed now. `as_known`: nothing may
    /// have changed it since the state was known.
    pub(in crate::session) fn parse_context(&mut self, as_known: bool) -> ParseContext {
        // The reason for keeping a connection may change what a name means on it: a temporary table.
        if !as_known || self.is_pinned() {
            return ParseContext::Unsure;
        }
        let parameters = match &self.lease {
            Some(lease) => &lease.connection().parameters,
            None => &self.absent.parameters,
        };
        if let Some((seen, state, known)) = &self.parse_context
            && seen.is_same(parameters)
            && Arc::ptr_eq(state, &self.state)
        {
            return ParseContext::Known(*known);
        }
        let known = parse_context_of(parameters, &self.state);
        self.parse_context = Some((parameters.clone(), Arc::clone(&self.state), known));
        ParseContext::Known(known)
    }

    /// A message of the client's is about to be sent: see [`Statements::on_request`].
    pub(in crate::session) fn replacement(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) -> Option<&[u8]> {
        let schema = self.pool.database_pool.definitions.schema();
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.schema != schema) {
            lease.schema = schema;
            self.statements.server.lose_all();
        }
        let is_taken = |name: &str| self.state.statements.contains_key(name);
        self.statements.on_request(piece, exchange, texts, parse_context, is_taken)
    }

    /// Removes statements that clients share, which are not this client's state. A statement of its own that
    /// cannot be made again pins the connection, and so does one that it made by SQL under a name like
    /// theirs: another client must not find that.
    pub(in crate::session) fn without_shared(&mut self, state: &mut SessionState) {
        let mut made_by_parse = KeySet::default();
        let pins = &mut state.pins;
        state.statements.retain(|name, statement| {
            let is_by_parse = matches!(statement, PreparedStatement::Protocol { .. });
            if is_by_parse && self.statements.server.has_own(name) {
                return false;
            }
            let Some(key) = name.strip_prefix(PREFIX) else { return true };
            match statement {
                PreparedStatement::Protocol { .. } => {
                    made_by_parse.extend(u128::from_str_radix(key, 16).ok())
                }
                PreparedStatement::Sql { .. } => {
                    pins.insert(format!("prepared statement \"{name}\", a name that Freehold uses itself"));
                }
            }
            false
        });
        self.statements.server.found(&made_by_parse);
        state.pins.extend(self.statements.pin().map(str::to_owned));
    }

    /// An idle connection; if the client has prepared statements, preferably its last one, which may have
    /// them.
    pub(in crate::session) fn take_idle(&self) -> Option<Lease> {
        Lease::take(&self.pool, self.statements.are_named().then_some(self.last))
    }

    /// A connection that can be lent as it is: it lives, and has the client's state.
    pub(in crate::session) fn take_matching(&mut self) -> Option<Lease> {
        let database_pool = &self.pool.database_pool;
        if database_pool.has_waiting_clients() {
            return None;
        }
        let mut lease = self.take_idle()?;
        let fits = Arc::ptr_eq(&lease.state, &self.state)
            && lease.on_server.is_clean()
            && !lease.keeps_other_values(&self.state)
            && lease.schema == database_pool.definitions.schema()
            && !database_pool.definitions.is_check_due()
            && !database_pool.has_been_idle(&lease, database_pool.settings().check_after)
            && lease.server.is_alive();
        if fits {
            return Some(lease);
        }
        lease.put_back();
        None
    }

    /// Where its connections come from.
    pub(in crate::session) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// A client that has waited this long gets a notice.
    pub(in crate::session) fn notice_after(&self) -> Duration {
        self.pool.database_pool.settings().notice_after
    }

    /// The connection is the client's from now on. Returns the parameters that the client knows, if those of
    /// the connection may be others.
    pub(in crate::session) fn begin_loan(&mut self, mut lease: Lease, session: u64) -> Option<Parameters> {
        let server = lease.connection();
        self.current_target.point_to(&lease.record, server.pid, &server.cancel_key);
        let known = &self.absent.parameters;
        let known = (!known.is_same(&server.parameters)).then(|| known.clone());
        self.last = lease.number;
        std::mem::swap(&mut self.statements.server, &mut lease.on_server);
        self.definitions = self.pool.database_pool.definitions.number();
        // Its liveness was checked without a waker: the relay has to poll it for answers.
        self.is_newly_lent = true;
        lease.begin(session);
        self.lease = Some(lease);
        known
    }

    /// Functions may do something else than when the tracker was last told.
    pub(in crate::session) fn take_new_functions(&mut self) -> Option<HintsStatus> {
        let definitions = &self.pool.database_pool.definitions;
        let functions = definitions.functions();
        let is_new = std::mem::replace(&mut self.functions, functions) != functions;
        is_new.then(|| definitions.take_hints_status())
    }

    /// Tells the tracker of changes that other sessions have made since the connection was lent.
    pub(in crate::session) fn saw_changes_of_others(&mut self, tracker: &mut StateTracker) {
        let definitions = &self.pool.database_pool.definitions;
        // This check comes first: a client that is no longer counted as defining has counted its change
        // before.
        if definitions.are_changing() {
            tracker.loan_mut().definitions_are_changing();
        }
        let number = definitions.number();
        if std::mem::replace(&mut self.definitions, number) != number {
            // What ran since then may have been defined otherwise than it was known.
            tracker.execution_mut().definitions_changed();
        }
    }

    /// Nothing keeps the connection with the client.
    pub(in crate::session) fn may_give_back(&self) -> bool {
        self.pins.is_empty() && self.statements.pin().is_none()
    }

    /// From now on no cancel request goes to the connection. `false`: one is on its way.
    pub(in crate::session) fn clear_target(&self) -> bool {
        self.current_target.clear()
    }

    pub(in crate::session) fn current_target(&self) -> Arc<CurrentTarget> {
        Arc::clone(&self.current_target)
    }

    /// Ends the loan: the connection has the client's state, and what the tracker knows of it.
    pub(in crate::session) fn end_loan(&mut self, tracker: &mut StateTracker) {
        let Some(mut lease) = self.take_lease() else { return };
        std::mem::swap(&mut self.statements.server, &mut lease.on_server);
        lease.on_server.end_loan();
        let (mut residue, names) = (tracker.take_residue(), tracker.loan_mut().take_names());
        lease.has_run(residue);
        let differences = &self.pool.database_pool.differences;
        differences.saw_hints(tracker.hints());
        let is_cleanable = residue == Residue::Clean || !differences.has_login_trigger();
        if differences.keeps_other_meanings(&mut lease, names) || !is_cleanable {
            residue = Residue::Lasting;
        }
        match residue {
            Residue::Clean => lease.give_back(),
            residue => lease.clean_and_give_back(residue),
        }
    }

    /// Ends the loan and closes the connection, whatever it does now.
    pub(in crate::session) fn discard(&mut self, tracker: &mut StateTracker) {
        let _ = self.current_target.clear();
        self.pins.clear();
        let Some(lease) = self.take_lease() else { return };
        *self.statements.server = OnServer::default();
        // What its client has done will not be asked any more.
        if tracker.take_residue() != Residue::Clean {
            self.pool.database_pool.definitions.request_check();
        }
        lease.discard();
    }

    /// The absent connection that the client has from now on keeps the parameters that it knows.
    fn take_lease(&mut self) -> Option<Lease> {
        self.defining = None;
        let lease = self.lease.take()?;
        self.absent.parameters.clone_from(&lease.connection().parameters);
        Some(lease)
    }

    /// The connection is at another place than the record's.
    pub(in crate::session) fn is_elsewhere(&self, record: &RouteRecord) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.record.epoch != record.epoch)
    }

    /// The client goes on with another connection, which belongs to no pool. Returns the one that it had.
    pub(in crate::session) fn go_on_with(
        &mut self,
        connection: Box<ServerConnection>,
        record: &Arc<RouteRecord>,
    ) -> Box<ServerConnection> {
        self.statements.server.close_all();
        self.statements.server.lose_unnamed();
        match &mut self.lease {
            Some(lease) => {
                let facts = self.pool.facts(connection.pid, record);
                let pid = self.pool.database_pool.route.session_table().enter_lent(facts);
                lease.go_on_with(connection, record, pid)
            }
            // Only a client with a connection follows its database: the new one is closed in place of the
            // old.
            None => connection,
        }
    }

    /// The generation of the connection.
    pub(in crate::session) fn generation(&self) -> Option<u64> {
        self.lease.as_ref().map(|lease| lease.record.generation)
    }

    /// Why the connection stays with the client, for a person. `false`: the reasons are the same as before.
    pub(in crate::session) fn set_pins(&mut self, found: Vec<String>) -> bool {
        let is_new = self.pins != found;
        self.pins = found;
        is_new
    }

    /// A transaction has ended. Before a client learns of that, statements are marked to be prepared anew if
    /// they may mean something else now.
    pub(in crate::session) fn tell_of_schema(&mut self, is_defining: bool) {
        let definitions = &self.pool.database_pool.definitions;
        match std::mem::replace(&mut self.statements.schema, Schema::Same) {
            Schema::Changed => {
                definitions.schema_changed();
                definitions.request_check();
            }
            Schema::DefinitionsChanged => definitions.require_check(),
            _ if is_defining => definitions.require_check(),
            Schema::PossiblyChanged => definitions.request_check(),
            Schema::Suspect => definitions.request_check_after_error(),
            Schema::Same => {}
        }
    }

    /// The client changes definitions: until the change is in force, no session relies on what was read of
    /// them.
    pub(in crate::session) fn begin_defining(&mut self) {
        self.defining.get_or_insert_with(|| self.pool.database_pool.definitions.define());
    }

    /// The change is in force. Every session of the database reads again what functions do; the worker of
    /// this one has to forget it.
    pub(in crate::session) fn end_defining(&mut self, hints: Option<&Arc<Hints>>) {
        let database_pool = &self.pool.database_pool;
        // Dropping it announces the change.
        if self.defining.take().is_none() {
            database_pool.definitions.changed();
        }
        database_pool.definitions.take_hints_status();
        self.functions = database_pool.definitions.functions();
        self.definitions = database_pool.definitions.number();
        database_pool.differences.saw_hints(hints);
    }

    /// A session has seen this count of changes.
    pub(in crate::session) fn saw_changes(&self, changes: Option<&str>) {
        self.pool.database_pool.definitions.saw_changes(changes);
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

/// Removes what another connection cannot have, or has already.
fn lendable(mut state: SessionState) -> SessionState {
    state.unnamed = None;
    // An empty custom setting is what SET LOCAL leaves behind on any connection.
    state.settings.retain(|name, value| !(name.contains('.') && value.is_empty()));
    state.losses = BTreeSet::new();
    state
}

impl PooledClient {
    /// Brings a connection from the state that its last client left to this client's state, in one round trip
    /// at most for each kind of thing that differs.
    pub(in crate::session) async fn apply_client_state(
        &mut self,
        lease: &mut Lease,
    ) -> Result<PreparedAgain, Unusable> {
        let database_pool = &self.pool.database_pool;
        let deadline = Instant::now() + database_pool.connect_time_max();
        if !lease.server.is_alive() {
            return Err(Unusable::Dead);
        }
        if lease.has_read_otherwise(&self.state) {
            return Err(Unusable::FunctionsRead);
        }
        database_pool.definitions.check(lease, deadline).await.map_err(|_| Unusable::Dead)?;
        if lease.keeps_outdated(database_pool.definitions.catalogue()) {
            return Err(Unusable::FunctionsRead);
        }
        let schema = database_pool.definitions.schema();
        if lease.schema != schema {
            let closes = lease.on_server.close_all();
            if !closes.is_empty() {
                lease.server.run_quietly(&closes, deadline).await.map_err(|_| Unusable::Dead)?;
            }
            lease.schema = schema;
        } else if !lease.on_server.is_clean() {
            let closes = lease.on_server.close_uncertain();
            lease.server.run_quietly(&closes, deadline).await.map_err(|_| Unusable::Dead)?;
        } else if database_pool.has_been_idle(lease, database_pool.settings().check_after) {
            let mut question = BytesMut::new();
            crate::wire::message::frontend::query(&mut question, "");
            lease.on_server.lose_unnamed();
            lease.server.run_quietly(&question, deadline).await.map_err(|_| Unusable::Dead)?;
        }
        if Arc::ptr_eq(&lease.state, &self.state) {
            return Ok(PreparedAgain(false));
        }
        let mut prepared_again = false;
        if lease.state != self.state {
            lease.on_server.lose_unnamed();
            let changed = Box::pin(lease.server.refresh(&self.state, LockPatience::Try, deadline)).await;
            changed.map_err(|error| match error {
                error @ RestoreError::Parts(_) => Unusable::State(error),
                _ => Unusable::Dead,
            })?;
            prepared_again = !self.state.statements.is_empty();
        }
        lease.state = Arc::clone(&self.state);
        Ok(PreparedAgain(prepared_again))
    }

    /// Records the state of the client; its connection has the same.
    /// One that is too large to be kept pins the connection instead.
    pub(in crate::session) fn learn(&mut self, state: &SessionState) {
        if state.is_too_large {
            return;
        }
        let state = lendable(state.clone());
        if let Some(template) = self.pool.template() {
            self.pool.database_pool.differences.saw_path(&state, &template.state);
        }
        if *self.state != state {
            self.state = match self.pool.template() {
                Some(template) if *template.state == state => template.state,
                _ => Arc::new(state),
            };
        }
        if let Some(lease) = &mut self.lease {
            lease.server.set_state(SessionState::clone(&self.state));
            lease.state = Arc::clone(&self.state);
        }
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
