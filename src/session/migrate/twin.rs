//! A second server connection for a session, on the place where its database may be soon, with the session's
//! state.
//!
//! Owns building a twin ([`Twin::build`]) and keeping it up to date ([`Twin::refresh`]). When that happens,
//! and the switch itself, are the relay's; [`crate::session::state`] describes the whole.
//!
//! # Why
//! Opening a connection, a SCRAM login and a thousand prepared statements take far longer than a pause may
//! last, so all of it happens before, beside the running session. The twin is then asked for its state, which
//! is compared: a setting that the other major does not know or a type that is missing there is found, and
//! named, while the session can still stay. Inside the pause only the difference is applied, in one round
//! trip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::restore::{LockPatience, Step, Types, encode, execute, oids_of, steps, type_names};
use crate::backend::{ConnectError, ConnectRequest, QueryError, Reply, ServerConnection, connect};
use crate::error::{Blame, Explain, Retry, SqlState};
use crate::session::state::{
    AT_ONCE, Hints, HintsCell, PreparedStatement, Residue, SessionState, SnapshotError, StateTracker,
    TIMEOUT_TOO_SHORT, snapshot,
};
use crate::tls::Connector;
use crate::wire::message::backend::{ErrorFields, tag};
use crate::wire::message::{Header, MESSAGE_BYTES_MAX, Target, frontend};

/// A part of a state that the target did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostPart {
    /// `setting "work_mem"`, `prepared statement "s1"`
    pub what: String,
    pub sqlstate: SqlState,
    pub message: String,
}

/// Why a session has no twin.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("no server connection could be opened for the session")]
    Connect(#[from] ConnectError),
    #[error("the server connection broke while the session's state was restored on it")]
    Exchange(#[from] QueryError),
    #[error("the state that was restored could not be read back")]
    Verify(#[from] SnapshotError),
    #[error("the server does not accept {} part(s) of the session's state, first {}", .0.len(), first(.0))]
    Parts(Vec<LostPart>),
    #[error("the session's state could not be restored in time")]
    Late,
}

fn first(parts: &[LostPart]) -> String {
    parts.first().map(|part| format!("{}: {}", part.what, part.message)).unwrap_or_default()
}

impl RestoreError {
    /// Why the session cannot migrate, for a person; empty if another try can help.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            RestoreError::Parts(parts) => {
                parts.iter().map(|part| format!("{}: {}", part.what, part.message)).collect()
            }
            RestoreError::Connect(error) if error.retry() == Retry::Never => vec![error.message()],
            RestoreError::Verify(error) if error.is_too_slow() => {
                vec![TIMEOUT_TOO_SHORT.to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

impl Explain for RestoreError {
    fn sqlstate(&self) -> SqlState {
        match self {
            RestoreError::Connect(error) => error.sqlstate(),
            RestoreError::Exchange(error) => error.sqlstate(),
            RestoreError::Verify(error) => error.sqlstate(),
            RestoreError::Parts(parts) => {
                parts.first().map_or(SqlState::INTERNAL_ERROR, |part| part.sqlstate)
            }
            RestoreError::Late => SqlState::QUERY_CANCELED,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            RestoreError::Parts(_) => Blame::Product,
            _ => Blame::Server,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            RestoreError::Connect(error) => error.retry(),
            RestoreError::Parts(_) => Retry::Later,
            _ => Retry::Now,
        }
    }

    fn message(&self) -> String {
        match self {
            RestoreError::Connect(error) => error.message(),
            RestoreError::Parts(parts) => {
                format!("the server does not accept the session's state: {}", first(parts))
            }
            _ => "the session's state could not be restored on its server connection".to_owned(),
        }
    }
}

/// The standby connection of a session, ready to take the session over.
pub type Twin = StatefulConnection;

/// A connection with a state that is known and can be changed: a session's twin, or one of a pool.
#[derive(Debug)]
pub struct StatefulConnection {
    connection: Box<ServerConnection>,
    /// The state that it has.
    state: SessionState,
    login: String,
    types: Types,
}

impl StatefulConnection {
    /// Connects and restores `state`, which must have no pins.
    ///
    /// Advisory locks that another connection holds on the target are left out for now
    /// ([`Twin::is_complete`]): while sessions run, their twins lag behind, and the twin that takes a lock
    /// may come before the one that releases it.
    ///
    /// # Cancel safety
    /// Dropped, the connection closes; nothing else happened.
    pub async fn build(
        request: &ConnectRequest,
        connector: &Connector,
        deadline: Instant,
        state: &SessionState,
    ) -> Result<Twin, RestoreError> {
        let mut twin = Twin::bare(request, connector, deadline).await?;
        let restoring = Box::pin(twin.restore(state));
        timeout_at(deadline, restoring).await.map_err(|_| RestoreError::Late)??;
        Ok(twin)
    }

    /// Connects; the state of the connection is not known yet.
    async fn bare(
        request: &ConnectRequest,
        connector: &Connector,
        deadline: Instant,
    ) -> Result<Twin, ConnectError> {
        let connection = Box::pin(connect(request, connector, deadline)).await?;
        let login = request.role.as_str().to_owned();
        let connection = Box::new(connection);
        Ok(Twin { connection, state: SessionState::default(), login, types: Types::new() })
    }

    /// Connects without restoring anything: the twin has the state of a new session.
    ///
    /// # Cancel safety
    /// Dropped, the connection closes; nothing else happened.
    pub(in crate::session) async fn open(
        request: &ConnectRequest,
        connector: &Connector,
        deadline: Instant,
    ) -> Result<Twin, RestoreError> {
        let mut twin = Twin::bare(request, connector, deadline).await?;
        let nothing = SessionState::default();
        let reading = timeout_at(deadline, Box::pin(twin.read_back(&nothing)));
        let read = match reading.await.map_err(|_| RestoreError::Late)? {
            Err(RestoreError::Verify(error)) if error.is_too_slow() => {
                let patiently = timeout_at(deadline, Box::pin(twin.read_patiently()));
                patiently.await.map_err(|_| RestoreError::Late)?
            }
            read => read,
        };
        twin.state = read?;
        Ok(twin)
    }

    /// The connection, to close it.
    pub(in crate::session) fn take_connection(&mut self) -> Box<ServerConnection> {
        self.connection.take()
    }

    /// Exchanges the connection for `other`, which has the same state.
    pub(in crate::session) fn exchange_connection(&mut self, other: &mut Box<ServerConnection>) {
        std::mem::swap(&mut self.connection, other);
    }

    /// The state that the connection was seen to have.
    pub(in crate::session) fn set_state(&mut self, state: SessionState) {
        self.state = state;
    }

    /// Asks questions of our own; returns the value of each answer that has one.
    pub(in crate::session) async fn ask(
        &mut self,
        batch: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Option<String>>, RestoreError> {
        let asking = self.connection.run_each(batch);
        let replies = timeout_at(deadline, asking).await.map_err(|_| RestoreError::Late)??;
        self.drop_notices();
        let value = |reply: &Reply| Some(reply.results.last()?.value(0, 0)?.to_owned());
        Ok(replies.iter().map(value).collect())
    }

    /// Runs messages of our own and ignores their outcome.
    pub(in crate::session) async fn run_quietly(
        &mut self,
        batch: &[u8],
        deadline: Instant,
    ) -> Result<(), RestoreError> {
        let running = self.connection.run_each(batch);
        timeout_at(deadline, running).await.map_err(|_| RestoreError::Late)??;
        self.drop_notices();
        Ok(())
    }

    /// Removes what a client may have left; the twin then has the state that it began with. After an error it
    /// must not be used.
    pub(in crate::session) async fn clean(
        &mut self,
        residue: Residue,
        began_with: &SessionState,
        deadline: Instant,
    ) -> Result<(), RestoreError> {
        let batch = residue.cleaning();
        let cleaning = self.connection.run_each(&batch);
        let replies = timeout_at(deadline, cleaning).await.map_err(|_| RestoreError::Late)??;
        self.drop_notices();
        match replies.into_iter().find_map(|reply| reply.error) {
            Some(fields) => Err(SnapshotError::Refused { fields: Box::new(fields) }.into()),
            None => {
                self.state = began_with.clone();
                Ok(())
            }
        }
    }

    /// Applies what differs between the twin's state and `state`, in one round trip (one more if a statement
    /// needs a type that none before it needed). After an error the twin must not be used.
    ///
    /// # Cancel safety
    /// None: dropped in the middle, the twin must not be used.
    pub async fn refresh(
        &mut self,
        state: &SessionState,
        patience: LockPatience,
        deadline: Instant,
    ) -> Result<(), RestoreError> {
        let refreshing = Box::pin(self.apply(state, patience));
        let lost = timeout_at(deadline, refreshing).await.map_err(|_| RestoreError::Late)??;
        match lost.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Parts(lost)),
        }
    }

    /// Whether it has all of `state`; `false` while a lock is missing.
    pub fn is_complete(&self, state: &SessionState) -> bool {
        self.state.locks == state.locks
            && self.state.differences(state).is_empty()
            && self.state.unnamed == state.unnamed
    }

    /// The state that it has.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// Whether its connection is still open, as far as that is known without asking.
    pub fn is_alive(&mut self) -> bool {
        self.connection.is_alive()
    }

    pub fn pid(&self) -> i32 {
        self.connection.pid
    }

    pub fn connection(&self) -> &ServerConnection {
        &self.connection
    }

    /// For a relay: what runs on it may change the state, see [`Twin::set_state`].
    #[inline]
    pub(in crate::session) fn connection_mut(&mut self) -> &mut ServerConnection {
        &mut self.connection
    }

    /// The types of its unnamed statement, for [`StateTracker::on_switch`].
    pub fn unnamed_types(&self) -> Vec<u32> {
        self.state.unnamed.as_ref().map(|unnamed| oids_of(&unnamed.types, &self.types)).unwrap_or_default()
    }

    /// Its prepared statements, for the caller that takes its connection.
    pub(in crate::session) fn take_statements(&mut self) -> BTreeMap<String, PreparedStatement> {
        std::mem::take(&mut self.state.statements)
    }

    /// The connection, to go on with. The client has to be told of `parameters` that differ from its own.
    pub fn into_connection(self) -> Box<ServerConnection> {
        self.connection
    }

    async fn restore(&mut self, state: &SessionState) -> Result<(), RestoreError> {
        self.state = self.read_back(state).await?;
        let unnamed = SessionState { unnamed: None, ..state.clone() };
        let lost = self.apply(&unnamed, LockPatience::Try).await?;
        let lost = self.second_try(&unnamed, lost).await?;
        if !lost.is_empty() {
            return Err(RestoreError::Parts(lost));
        }
        self.verify(&unnamed).await?;
        let lost = self.apply(state, LockPatience::Try).await?;
        match lost.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Parts(lost)),
        }
    }

    /// Runs the steps towards `state` and records those that succeeded.
    async fn apply(
        &mut self,
        state: &SessionState,
        patience: LockPatience,
    ) -> Result<Vec<LostPart>, RestoreError> {
        self.look_up_types(state).await?;
        let old = std::mem::take(&mut self.state);
        let steps = steps(&old, state, &self.login, patience);
        let (lost, refused) = self.run(&steps).await?;
        let mut now = SessionState { pins: BTreeSet::new(), ..state.clone() };
        for lock in refused {
            if let Some(count) = now.locks.get_mut(&lock) {
                *count -= 1;
            }
        }
        now.locks.retain(|_, count| *count > 0);
        self.state = now;
        Ok(lost)
    }

    /// The steps that failed, and the locks that could not be taken.
    async fn run(
        &mut self,
        steps: &[Step<'_>],
    ) -> Result<(Vec<LostPart>, Vec<crate::session::state::AdvisoryLock>), RestoreError> {
        if steps.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let replies = self.connection.run_each(&encode(steps, &self.types)).await?;
        self.drop_notices();
        let mut lost = Vec::new();
        let mut refused = Vec::new();
        for (step, reply) in steps.iter().zip(&replies) {
            match (step, &reply.error) {
                // The statement may be stale: then binding it fails here as it would have failed there.
                (Step::Unnamed(_), _) => {}
                (step, Some(fields)) => lost.push(lost_part(step, fields)),
                (Step::TryLock(lock), None) if !is_true(reply) => refused.push(*lock),
                _ => {}
            }
        }
        Ok((lost, refused))
    }

    /// Tries failed steps in another way: a setting that only the session's role may set, a statement with
    /// tables that are not in the present search path or that only the login role may see.
    async fn second_try(
        &mut self,
        state: &SessionState,
        lost: Vec<LostPart>,
    ) -> Result<Vec<LostPart>, RestoreError> {
        if lost.is_empty() {
            return Ok(lost);
        }
        let is_lost = |step: &Step<'_>| lost.iter().any(|part| part.what == step.to_string());
        let settings = state.settings.iter().map(|(name, value)| Step::Set(name, Some(value)));
        let again: Vec<Step<'_>> = settings.filter(is_lost).collect();
        let (mut still_lost, _) = self.run(&again).await?;
        let prepares = state.statements.iter().map(|(name, statement)| Step::Prepare(name, statement));
        let prepares: Vec<Step<'_>> = prepares.filter(is_lost).collect();
        let path = state.settings.get("search_path").map(String::as_str);
        let wide = self.widest_search_path().await?;
        let mut around = vec![Step::Set("role", Some("none")), Step::Set("search_path", Some(&wide))];
        around.extend(&prepares);
        around.extend([Step::Set("search_path", path), Step::Set("role", Some(&state.role))]);
        let (more, _) = self.run(&around).await?;
        still_lost.extend(
            more.into_iter().filter(|part| prepares.iter().any(|step| part.what == step.to_string())),
        );
        let tried =
            |part: &&LostPart| !again.iter().chain(&prepares).any(|step| part.what == step.to_string());
        still_lost.extend(lost.iter().filter(tried).cloned());
        Ok(still_lost)
    }

    /// The present search path, then every schema of the database.
    async fn widest_search_path(&mut self) -> Result<String, RestoreError> {
        let results = self.connection.query(WIDEST_SEARCH_PATH).await?;
        Ok(results.first().and_then(|result| result.value(0, 0)).unwrap_or_default().to_owned())
    }

    /// Reads the state of the twin itself. Its database has the same functions, but none ran here.
    async fn read_back(&mut self, like: &SessionState) -> Result<SessionState, RestoreError> {
        let mut tracker = StateTracker::asking_for(like.settings.keys());
        let hints = HintsCell::of(Arc::new(Hints::default()));
        Ok(snapshot(&mut self.connection, &mut tracker, &hints).await?)
    }

    /// The state of a session that began with a `statement_timeout` too short for the question.
    async fn read_patiently(&mut self) -> Result<SessionState, RestoreError> {
        const TIMEOUT: &str = "statement_timeout";
        self.connection.query("SET statement_timeout TO 0").await?;
        let mut state = self.read_back(&SessionState::default()).await?;
        self.connection.query("RESET statement_timeout").await?;
        // Set by us.
        state.settings.remove(TIMEOUT);
        Ok(state)
    }

    async fn verify(&mut self, wanted: &SessionState) -> Result<(), RestoreError> {
        let found = self.read_back(wanted).await?;
        let locks = |state: &SessionState| SessionState { locks: Default::default(), ..state.clone() };
        let lost: Vec<LostPart> = locks(wanted)
            .differences(&locks(&found))
            .into_iter()
            .map(|what| LostPart {
                what,
                sqlstate: SqlState::INTERNAL_ERROR,
                message: "differs after it was restored".to_owned(),
            })
            .collect();
        match lost.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Parts(lost)),
        }
    }

    async fn look_up_types(&mut self, state: &SessionState) -> Result<(), RestoreError> {
        let missing: BTreeSet<&String> =
            type_names(state).filter(|&name| !self.types.contains_key(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut batch = BytesMut::new();
        const TEXT_OID: u32 = 25;
        // By the settings of the session, its transactions may have to wait for those of others.
        execute(&mut batch, AT_ONCE, &[], &[]);
        frontend::parse(&mut batch, b"", b"SELECT pg_catalog.to_regtype($1)::pg_catalog.oid", &[TEXT_OID]);
        for name in &missing {
            frontend::bind(&mut batch, b"", b"", &[Some(name.as_bytes())]);
            frontend::execute(&mut batch, b"", 0);
        }
        // The question replaces the unnamed statement, and must not stay there.
        frontend::close(&mut batch, Target::Statement, b"");
        frontend::sync(&mut batch);
        self.state.unnamed = None;
        let results = self.connection.run(&batch).await?;
        self.drop_notices();
        for (name, result) in missing.into_iter().zip(results.iter().skip(1)) {
            if let Some(oid) = result.value(0, 0).and_then(|oid| oid.parse().ok()) {
                self.types.insert(name.clone(), oid);
            }
        }
        Ok(())
    }

    /// Notices about our steps are not for the client; notifications for its LISTENs are.
    fn drop_notices(&mut self) {
        let messages = self.connection.take_async_messages();
        let (mut rest, mut kept) = (&messages[..], BytesMut::new());
        while let Ok(Some(header)) = Header::parse(rest, MESSAGE_BYTES_MAX)
            && let Some((message, later)) = rest.split_at_checked(header.message_bytes())
        {
            if header.tag != tag::NOTICE_RESPONSE {
                kept.extend_from_slice(message);
            }
            rest = later;
        }
        self.connection.put_back(&kept);
    }
}

const WIDEST_SEARCH_PATH: &str = "SELECT pg_catalog.concat_ws(', ', NULLIF(pg_catalog.current_setting('search_path'), ''), \
    pg_catalog.string_agg(pg_catalog.quote_ident(n.nspname), ', ')) FROM pg_catalog.pg_namespace n \
    WHERE n.nspname OPERATOR(pg_catalog.!~) '^(pg_|information_schema)'";

fn lost_part(step: &Step<'_>, fields: &ErrorFields) -> LostPart {
    LostPart { what: step.to_string(), sqlstate: fields.sqlstate(), message: fields.message().to_owned() }
}

fn is_true(reply: &Reply) -> bool {
    reply.results.first().and_then(|result| result.value(0, 0)) == Some("t")
}
