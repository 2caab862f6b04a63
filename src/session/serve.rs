//! A session's life: registration, a server connection, the greeting, then relay and orders until one side
//! leaves.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::accept::listeners::NewClient;
use super::cancel::registry::{CancelRegistration, CancelTarget, Secret};
use super::ending::{self, Ending};
use super::migrate::follow::Migration;
use super::pool::pooled_client::{self, PooledClient};
use super::pool::reuse::{self, LOOK_MAX, Left, Past};
use super::pool::{Pool, SessionTemplate};
use super::relay::counters;
use super::relay::{Ends, Pause, Relay, Reuse};
use super::state::{SessionState, StateTracker};
use super::worker::{LoadToken, Registered, Worker};
use crate::auth::Proof;
use crate::backend::{self, ConnectError, ConnectRequest, ServerConnection};
use crate::error::{Explain, Refusal, Severity, SqlState, chain};
use crate::event_loop;
use crate::frontend::{Client, ConnectionPermit, Incoming};
use crate::model::{Login, Peer, Place, Pooling, RoleName, RouteRecord, UnixMillis};
use crate::route::{Entrance, GateState, Pass, Replication, Route, SessionFacts, SessionHandle};
use crate::tls::{Socket, Stream};
use crate::wire::exchange::Rest;
use crate::wire::message::{TransactionStatus, backend as message};
use crate::wire::startup::CancelRequest;

/// How much a client may send before its session is ready: more than a driver's first queries, little for the
/// process.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// Serves one client, from its first byte to its last.
///
/// # Why
/// Nearly all sessions are idle nearly always, and an idle one is this future: so it holds a [`Session`] and
/// nothing else. What a login, an order or the end needs is boxed while it lasts.
pub(super) async fn incoming(worker: Rc<Worker>, arrival: Box<NewClient>) {
    let Some(mut session) = Box::pin(receive(worker, arrival)).await else { return };
    let ending = loop {
        match poll_fn(|cx| session.poll(cx)).await {
            Pause::Ended(ending) => break ending,
            Pause::Boundary if session.relay.worker.is_stopping() => break Ending::Stopping,
            pause => match Box::pin(session.after(pause)).await {
                Ok(()) => {}
                Err(ending) => break ending,
            },
        }
    };
    Box::pin(session.end(ending)).await;
}

/// Runs up to ReadyForQuery. `None`: there is no session to serve; the client has been told why.
async fn receive(worker: Rc<Worker>, arrival: Box<NewClient>) -> Option<Session> {
    let NewClient { socket, address, load, entering } = *arrival;
    let stream = socket.into_stream();
    let stream =
        stream.inspect_err(|error| tracing::warn!(%error, "an accepted socket cannot be used")).ok()?;
    let client = arrive(&worker, stream, address).await?;
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let presence = Presence { registered: worker.register(&waker), _load: load };
    let session = begin(&worker, client, presence).await;
    drop(entering);
    session
}

/// Runs up to the end of the login. `None`: there is no session to begin.
async fn arrive(worker: &Worker, mut stream: Stream, address: Peer) -> Option<Box<Client>> {
    let plane = &worker.plane;
    let located = plane.balancers.locate(&mut stream, address, plane.frontend.login_time_max).await;
    let address = match located {
        Ok(address) => address,
        Err(error) => {
            // Sends no answer: the balancer would not understand one.
            tracing::warn!(balancer = %address, error = %chain(&error), "a balancer does not say who comes");
            return None;
        }
    };
    match plane.frontend.receive(stream, address).await {
        Ok(Incoming::Client(client)) => return Some(client),
        Ok(Incoming::Cancel { request, stream }) => {
            if plane.cancels.admits(address.ip(), Instant::now().into_std()) {
                cancel(worker, &request).await;
            } else {
                tracing::debug!(client = %address, "a cancel request too many");
            }
            // Closes in order: over TLS, libpq takes a connection that breaks off for a cancel that failed.
            ending::close(stream, BytesMut::new()).await;
        }
        Err(error) => tracing::info!(client = %address, error = %chain(&error), "no session"),
    }
    None
}

async fn cancel(worker: &Worker, request: &CancelRequest) {
    let plane = &worker.plane;
    let Some(found) = plane.registry.find(request) else { return };
    if found.cancelable_wait.cancel() {
        return;
    }
    let Some(in_flight) = found.begin() else { return };
    let target = &in_flight.target;
    let deadline = Instant::now() + plane.connect_time_max;
    let sent =
        backend::cancel(&target.record.place, &plane.connector, target.pid, &target.key, deadline).await;
    if let Err(error) = sent {
        tracing::warn!(database = %target.record.name, error = %chain(&error), "a cancel request was not delivered");
    }
}

/// A session's share of its worker.
struct Presence {
    registered: Registered,
    _load: LoadToken,
}

/// A client with its server connection.
pub(super) struct Session {
    pub(super) relay: Relay,
    pub(super) registration: CancelRegistration,
    pub(super) origin: Arc<Origin>,
    pub(super) migration: Migration,
    /// The past of the server connection; after a move, of the first one.
    server_past: Box<Past>,
    /// Counted while the client is connected.
    _admission: ConnectionPermit,
    _presence: Presence,
}

impl Session {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        if self.migration.poll(cx) {
            self.relay.look_up();
        }
        let polled = self.relay.poll(cx);
        // Checked after the poll, which has registered the waker: a later dismissal wakes the session.
        if polled.is_pending() && self.relay.member.is_dismissed() {
            return Poll::Ready(Pause::Ended(Ending::Dismissed));
        }
        polled
    }

    /// Cancels the query of a client that has left.
    fn stop_server(&self) {
        let Some(target) = self.registration.target() else { return };
        let (connector, deadline) = (
            self.relay.worker.plane.connector.clone(),
            Instant::now() + self.relay.worker.plane.connect_time_max,
        );
        event_loop::spawn(async move {
            let _ =
                backend::cancel(&target.record.place, &connector, target.pid, &target.key, deadline).await;
        });
    }

    /// Keeps the server connection for the next client, if it may go to one.
    fn leave_server(&mut self) {
        let Some(target) = self.registration.target() else { return };
        let is_free = self.relay.reuse != Reuse::None
            && self.relay.is_clean()
            && self.registration.current_target.clear();
        if is_free && self.relay.exchange.rest() == Rest::Settled {
            let (connection, tracker) = self.relay.give_up_server();
            let left = Left {
                route: Arc::clone(&self.relay.route),
                origin: Arc::clone(&self.origin),
                connection,
                tracker,
                record: target.record,
                past: *self.server_past,
            };
            reuse::keep(&self.relay.worker, left);
        }
    }

    async fn after(&mut self, pause: Pause) -> Result<(), Ending> {
        match pause {
            Pause::Boundary => {
                if self.relay.wants_unnamed() {
                    self.restore_unnamed().await?;
                }
                self.follow().await
            }
            Pause::Rest => self.rest().await,
            Pause::Unserved => self.borrow().await,
            Pause::Recall => self.recall().await,
            Pause::Ended(ending) => Err(ending),
        }
    }

    async fn end(mut self, ending: Ending) {
        tracing::debug!(session = self.relay.member.session(), ?ending, "session ends");
        self.migration.twin_state.dismiss();
        let is_working = match &ending {
            Ending::Overdue(overdue) => overdue.is_working(),
            Ending::Dismissed => self.relay.exchange.rest() == Rest::Busy,
            _ => false,
        };
        if is_working {
            self.stop_server();
        }
        self.relay.leave_connection();
        if matches!(ending, Ending::ClientLeft) {
            self.leave_server();
        }
        // From here on the session cannot be cancelled: nothing runs any more.
        drop(self.registration);
        ending::end(self.relay, &ending).await;
    }
}

/// The client's role, startup parameters and credentials: enough to open a server connection for it anywhere.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    role: RoleName,
    /// The startup parameters, in order.
    settings: Vec<(String, String)>,
    proof: Proof,
}

/// Whether a connection opened for one would do for the other.
impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        self.role == other.role && self.settings == other.settings && self.proof.opens_the_same(&other.proof)
    }
}

impl Origin {
    pub(super) fn request(&self, place: Place, route: &Route) -> ConnectRequest {
        ConnectRequest {
            place,
            role: self.role.clone(),
            startup: self.settings.clone(),
            credential: route.newest_proof(self.role.as_str(), &self.proof).into(),
        }
    }

    pub(super) fn role(&self) -> &RoleName {
        &self.role
    }

    /// Whether its role may log in with what it proved, if `login` is what is known of the role.
    pub(super) fn comes_in_by(&self, login: &Login) -> bool {
        login.may_log_in() && self.proof.is_of(login)
    }

    /// The client asked to be a walsender.
    pub(super) fn is_replication(&self) -> bool {
        let off = |value: &str| matches!(value, "false" | "off" | "no" | "0");
        self.settings.iter().any(|(name, value)| name == "replication" && !off(value))
    }
}

/// `None`: the client has been told why it gets no session.
async fn begin(worker: &Rc<Worker>, client: Box<Client>, presence: Presence) -> Option<Session> {
    let mut client = client;
    match open(worker, &mut client, presence.registered.session).await {
        Ok(opened) => Some(greet(worker, *client, opened, presence)),
        Err(refusal) => {
            if let Some(refusal) = refusal {
                message::error_response(&mut client.unsent, &refusal);
            }
            ending::close(client.stream, client.unsent).await;
            None
        }
    }
}

/// What a session begins with.
struct Opened {
    member: SessionHandle,
    server: Box<ServerConnection>,
    record: Arc<RouteRecord>,
    origin: Arc<Origin>,
    past: Past,
    /// Set where connections are lent: where from, and the state that they begin with.
    lent: Option<(Rc<Pool>, Arc<SessionState>)>,
}

/// Registers the session and opens the server connection, when the gate allows it. `None`: the client has
/// gone.
async fn open(worker: &Worker, client: &mut Client, session: u64) -> Result<Opened, Option<Refusal>> {
    let route = Arc::clone(&client.route);
    let record = route.current();
    let member = route
        .session_table()
        .join_within(record.terms.client_connections_max, facts(worker, client, &record, session))
        .ok_or_else(|| Some(full(&record)))?;
    let origin = origin(client).map_err(Some)?;
    if record.terms.pooling == Pooling::Transaction && !origin.is_replication() {
        return open_lent(worker, client, member, origin).await;
    }
    let (pass, record) = enter(worker, client, &member).await?;
    let kept = match worker.plane.pool.reuses {
        true => worker.kept.take(&record, &origin, worker.plane.pool.check_after).await,
        false => None,
    };
    let (server, past) = match kept {
        Some(kept) => kept,
        None => {
            let request = origin.request(record.place.clone(), &route);
            let opened = Box::pin(connect_known(worker, &request, &record)).await.map_err(|error| {
                tracing::warn!(database = %record.name, role = %client.role, error = %chain(&error), "no server connection");
                Some(error.refusal(Severity::Fatal))
            })?;
            (Box::new(opened.0), opened.1)
        }
    };
    member.switched(record.epoch, server.pid);
    member.set_generation(record.generation);
    counters::assigned(&member);
    drop(pass);
    Ok(Opened { member, server, record, origin: Arc::new(origin), past, lent: None })
}

/// Opens a connection. If it may outlive its client, reads the catalogue's digest before the client can run
/// anything, to compare it with later ones.
async fn connect_known(
    worker: &Worker,
    request: &ConnectRequest,
    record: &RouteRecord,
) -> Result<(ServerConnection, Past), ConnectError> {
    let catalogue = worker.catalogue(&record.database);
    let past = Past::new(catalogue.number());
    let mut server = connect(worker, request).await?;
    if worker.plane.pool.reuses && !catalogue.is_known() {
        let looking = timeout(LOOK_MAX, catalogue.look(&mut server)).await;
        if !matches!(looking, Ok(Ok(()))) {
            // The connection has pending answers, or is broken.
            server = connect(worker, request).await?;
        }
    }
    Ok((server, past))
}

/// Opens a connection. If the system has none to spare, one that is kept for later clients is closed first.
async fn connect(worker: &Worker, request: &ConnectRequest) -> Result<ServerConnection, ConnectError> {
    let deadline = Instant::now() + worker.plane.connect_time_max;
    let connected = backend::connect(request, &worker.plane.connector, deadline).await;
    match connected {
        Err(error)
            if error.sqlstate() == SqlState::TOO_MANY_CONNECTIONS && worker.kept.make_room(request).await =>
        {
            backend::connect(request, &worker.plane.connector, deadline).await
        }
        connected => connected,
    }
}

/// Prepares the greeting of a client from what is known of its pool, without a connection of its own. The
/// first client of its kind waits until a connection is opened.
async fn open_lent(
    worker: &Worker,
    client: &mut Client,
    member: SessionHandle,
    origin: Origin,
) -> Result<Opened, Option<Refusal>> {
    let route = Arc::clone(&client.route);
    let pool = worker.database_pool(&route).pool(origin);
    let template = match pool.template() {
        Some(template) => template,
        None => Box::pin(first_template(worker, client, &pool, &member)).await?,
    };
    let record = route.current();
    if let Some(refusal) = record.login_refusal() {
        return Err(Some(refusal));
    }
    member.arrived(record.epoch);
    let server = Box::new(ServerConnection::absent(template.parameters));
    let origin = Arc::clone(&pool.origin);
    let past = Past::new(0);
    Ok(Opened { member, server, record, origin, past, lent: Some((pool, template.state)) })
}

async fn first_template(
    worker: &Worker,
    client: &mut Client,
    pool: &Rc<Pool>,
    member: &SessionHandle,
) -> Result<SessionTemplate, Option<Refusal>> {
    // Only so that a dismissal wakes it.
    let mut turns = client.route.gate().watch(worker.index());
    let patience = tokio::time::sleep(worker.plane.connect_time_max);
    tokio::pin!(patience);
    let mut given = pool.wait();
    loop {
        if member.is_dismissed() {
            return Err(Ending::Dismissed.refusal());
        }
        let dismissed = poll_fn(|_| if member.is_dismissed() { Poll::Ready(()) } else { Poll::Pending });
        let stopping = poll_fn(|_| if worker.is_stopping() { Poll::Ready(()) } else { Poll::Pending });
        // Cancel-safe: a connection that was sent and not received goes to the next waiter; bytes that were
        // read are in the buffer.
        tokio::select! {
            lending = &mut given => match lending {
                Ok(Ok(pooled)) => {
                    pool.give_back(pooled);
                    return pool.template().ok_or(None);
                }
                Ok(Err(refusal)) => return Err(Some(Refusal { severity: Severity::Fatal, ..refusal })),
                Err(_) => return Err(Ending::Stopping.refusal()),
            },
            // While the gate is shut no connection is opened, and the client is not to blame for that.
            () = &mut patience => match client.route.gate().state() {
                GateState::Open => {
                    let refusal = pooled_client::unreachable(pool.failure());
                    return Err(Some(Refusal { severity: Severity::Fatal, ..refusal }));
                }
                _ => patience.as_mut().reset(Instant::now() + worker.plane.connect_time_max),
            },
            () = stopping => return Err(Ending::Stopping.refusal()),
            _ = turns.turned() => {}
            () = dismissed => {}
            read = client.stream.read_buf(&mut client.early), if client.early.len() < EARLY_BYTES_MAX => {
                if !matches!(read, Ok(1..)) {
                    return Err(None);
                }
            }
        }
    }
}

/// Waits until a server connection may be opened; returns the pass and the record.
async fn enter(
    worker: &Worker,
    client: &mut Client,
    member: &SessionHandle,
) -> Result<(Pass, Arc<RouteRecord>), Option<Refusal>> {
    let route = Arc::clone(&client.route);
    let mut turns = route.gate().watch(worker.index());
    loop {
        if worker.is_stopping() {
            return Err(Ending::Stopping.refusal());
        }
        if member.is_dismissed() {
            return Err(Ending::Dismissed.refusal());
        }
        if let Ok(pass) = route.gate().try_connect(worker.index()) {
            // Read inside the gate: it cannot change before the pass is dropped.
            let record = route.current();
            return match record.login_refusal() {
                Some(refusal) => Err(Some(refusal)),
                None => Ok((pass, record)),
            };
        }
        // The worker wakes the session when it stops, the gate when the session is dismissed.
        let ends = || worker.is_stopping() || member.is_dismissed();
        let stopping = poll_fn(|_| if ends() { Poll::Ready(()) } else { Poll::Pending });
        // Cancel-safe: a change of the gate is taken only when it is seen, and bytes that were read are in
        // the buffer.
        tokio::select! {
            _ = turns.turned() => {}
            () = stopping => {}
            read = client.stream.read_buf(&mut client.early), if client.early.len() < EARLY_BYTES_MAX => {
                if !matches!(read, Ok(1..)) {
                    return Err(None);
                }
            }
        }
    }
}

fn facts(worker: &Worker, client: &Client, record: &RouteRecord, session: u64) -> SessionFacts {
    SessionFacts {
        session,
        worker: worker.index(),
        role: client.role.clone(),
        client: client.address,
        application_name: client.setting("application_name").unwrap_or_default().to_owned(),
        connected_at: UnixMillis::now(),
        epoch: record.epoch,
        entrance: entrance(client),
    }
}

fn entrance(client: &Client) -> Entrance {
    let replication = match client.setting("replication") {
        None | Some("false" | "off" | "no" | "0") => Replication::None,
        Some("database") => Replication::Logical,
        Some(_) => Replication::Physical,
    };
    Entrance {
        local: client.stream.socket().and_then(Socket::local_addr),
        tls: client.stream.tls_summary().map(String::into_boxed_str),
        replication,
    }
}

fn full(record: &RouteRecord) -> Refusal {
    Refusal::fatal(
        SqlState::TOO_MANY_CONNECTIONS,
        format!("too many connections for database \"{}\"", record.name),
    )
    .with_detail(format!(
        "Its contract allows {} client connections here.",
        record.terms.client_connections_max
    ))
    .with_hint("Use fewer connections, or ask the platform team to raise the limit.")
}

fn origin(client: &Client) -> Result<Origin, Refusal> {
    let role = RoleName::parse(&client.role)
        .map_err(|error| Refusal::fatal(SqlState::INVALID_AUTHORIZATION, error.to_string()))?;
    Ok(Origin { role, settings: client.settings.clone(), proof: client.proof.clone() })
}

/// Sends the client what PostgreSQL would send it, and begins to relay.
fn greet(worker: &Rc<Worker>, client: Client, opened: Opened, presence: Presence) -> Session {
    let session = presence.registered.session;
    let Opened { member, mut server, record, origin, past, lent } = opened;
    let keeps_server = worker.plane.pool.reuses && lent.is_none() && !origin.is_replication();
    let migration = Migration::at(&record);
    let (pid, target) = match server.is_absent() {
        // The session has no server process of its own; a random number tells its notifications from those of
        // others.
        true => (rand::random_range(1..=i32::MAX), None),
        false => (server.pid, Some(CancelTarget { record, pid: server.pid, key: server.cancel_key.clone() })),
    };
    let secret = || Secret::random(client.protocol_minor);
    let registration = worker.plane.registry.register(pid, target, secret);
    let mut greeting = client.unsent;
    for (name, value) in server.parameters.iter() {
        message::parameter_status(&mut greeting, name, value);
    }
    message::backend_key_data(&mut greeting, registration.pid, registration.secret.bytes());
    let notices: Bytes = server.take_async_messages();
    greeting.extend_from_slice(&notices);
    message::ready_for_query(&mut greeting, TransactionStatus::Idle);
    let ends = Ends { client: client.stream, server, early: client.early };
    let tracker = match &lent {
        Some(_) => StateTracker::of_lent(worker.hints(client.route.id()).get().cloned()),
        None => StateTracker::knowing(match keeps_server {
            true => worker.kept.known_hints(client.route.id()),
            false => None,
        }),
    };
    let terms = worker.terms(&client.route, origin.role.as_str());
    let mut relay = Relay::new(Rc::clone(worker), terms, member, &registration, ends, tracker);
    relay.pooled_client = lent.map(|(pool, state)| {
        Box::new(PooledClient::new(pool, state, session, Arc::clone(&registration.current_target)))
    });
    relay.reuse = if keeps_server { Reuse::Server } else { Reuse::None };
    worker.watch(session, relay.watch());
    relay.to_client.queue(&greeting);
    Session {
        relay,
        registration,
        origin,
        migration,
        server_past: Box::new(past),
        _admission: client.admission,
        _presence: presence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle client is this task, its entry in the session table, and its startup parameters. The bound is
    /// the allocator's size class: growing up to it is free.
    const TASK_BYTES_MAX: usize = 896;

    fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_session_is_small() {
        let bytes = future_bytes(incoming);
        assert!(bytes <= TASK_BYTES_MAX, "{bytes} bytes");
    }
}
