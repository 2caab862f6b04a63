//! From a client that has logged in to a session: registration, a server connection, the greeting.
//!
//! Owns which connection a new client gets: one of its own, now or from an earlier client, or one that is
//! lent for each transaction. It deliberately relays nothing: [`serve`](super::serve) does.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::cancel::registry::{CancelTarget, Secret};
use super::client_session::{Presence, Session};
use super::ending::{self, Ending};
use super::migrate::migration::Migration;
use super::origin::Origin;
use super::pool::kept::{ConnectionHistory, LOOK_MAX};
use super::pool::pooled_client::{self, PooledClient};
use super::pool::{Pool, SessionTemplate};
use super::relay::{Backend, Dedicated, Ends, Relay, counters};
use super::state::{SessionState, StateTracker};
use super::worker::Worker;
use crate::backend::{self, ConnectError, ConnectRequest, ServerConnection};
use crate::error::{Explain, Refusal, Severity, SqlState, chain};
use crate::frontend::Client;
use crate::model::{Pooling, RouteRecord, UnixMillis};
use crate::route::{Entrance, GateState, Pass, Replication, SessionFacts, SessionHandle};
use crate::tls::Socket;
use crate::wire::boolean::parse_bool;
use crate::wire::message::{TransactionStatus, backend as message};

/// How much a client may send before its session is ready: more than a driver's first queries, little for the
/// process.
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// `None`: the client has been told why it gets no session.
pub(super) async fn begin(worker: &Rc<Worker>, client: Box<Client>, presence: Presence) -> Option<Session> {
    let mut client = client;
    match open(worker, &mut client, presence.registered.session).await {
        Ok(opened) => Some(greet(worker, *client, opened, presence)),
        Err(refusal) => {
            if let Some(refusal) = refusal {
                client.route.session_table().count_failure(refusal.sqlstate, refusal.blame);
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
    record: Arc<RouteRecord>,
    origin: Arc<Origin>,
    first: First,
}

/// The connection that a client begins with.
enum First {
    /// One of its own, and its history.
    Dedicated(Box<ServerConnection>, ConnectionHistory),
    /// None: an absent one, the pool that lends it others, and the state that those begin with.
    Pooled(Box<ServerConnection>, Rc<Pool>, Arc<SessionState>),
}

impl First {
    fn connection_mut(&mut self) -> &mut ServerConnection {
        match self {
            First::Dedicated(connection, _) | First::Pooled(connection, ..) => connection,
        }
    }
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
    let origin = Origin::of(client).map_err(Some)?;
    if record.terms.pooling == Pooling::Transaction && !origin.is_replication() {
        return open_lent(worker, client, member, origin).await;
    }
    let (pass, record) = enter(worker, client, &member).await?;
    let kept = match worker.plane.pool.reuses {
        true => worker.kept.take(&record, &origin, worker.plane.pool.check_after).await,
        false => None,
    };
    let (server, history) = match kept {
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
    Ok(Opened { member, record, origin: Arc::new(origin), first: First::Dedicated(server, history) })
}

/// Opens a connection. If it may outlive its client, reads the catalogue's digest before the client can run
/// anything, to compare it with later ones.
async fn connect_known(
    worker: &Worker,
    request: &ConnectRequest,
    record: &RouteRecord,
) -> Result<(ServerConnection, ConnectionHistory), ConnectError> {
    let catalogue = worker.catalogue(&record.database);
    let history = ConnectionHistory::new(catalogue.number());
    let mut server = connect(worker, request).await?;
    if worker.plane.pool.reuses && !catalogue.is_known() {
        let looking = timeout(LOOK_MAX, catalogue.check(&mut server)).await;
        if !matches!(looking, Ok(Ok(()))) {
            // The connection has pending answers, or is broken.
            server = connect(worker, request).await?;
        }
    }
    Ok((server, history))
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
    let absent = Box::new(ServerConnection::absent(template.parameters));
    let origin = Arc::clone(&pool.origin);
    Ok(Opened { member, record, origin, first: First::Pooled(absent, pool, template.state) })
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
                Some(Ok(lease)) => {
                    lease.give_back();
                    return pool.template().ok_or(None);
                }
                Some(Err(refusal)) => return Err(Some(Refusal { severity: Severity::Fatal, ..refusal })),
                None => return Err(Ending::Stopping.refusal()),
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
        Some("database") => Replication::Logical,
        Some(value) if parse_bool(value) != Some(false) => Replication::Physical,
        _ => Replication::None,
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

/// Sends the client what PostgreSQL would send it, and begins to relay.
fn greet(worker: &Rc<Worker>, client: Client, opened: Opened, presence: Presence) -> Session {
    let session = presence.registered.session;
    let Opened { member, record, origin, mut first } = opened;
    let migration = Migration::at(&record);
    let (pid, target) = match &first {
        First::Dedicated(server, _) => {
            (server.pid, Some(CancelTarget { record, pid: server.pid, key: server.cancel_key.clone() }))
        }
        // The session has no server process of its own; a random number tells its notifications from those of
        // others.
        First::Pooled(..) => (rand::random_range(1..=i32::MAX), None),
    };
    let secret = || Secret::random(client.protocol_minor);
    let registration = worker.plane.registry.register(pid, target, secret);
    let mut greeting = client.unsent;
    let server = first.connection_mut();
    for (name, value) in server.parameters.iter() {
        message::parameter_status(&mut greeting, name, value);
    }
    message::backend_key_data(&mut greeting, registration.pid, registration.secret.bytes());
    let notices: Bytes = server.take_async_messages();
    greeting.extend_from_slice(&notices);
    message::ready_for_query(&mut greeting, TransactionStatus::Idle);
    let database = client.route.id();
    let (backend, tracker) = match first {
        First::Dedicated(server, history) => {
            let may_outlive = worker.plane.pool.reuses && !origin.is_replication();
            let hints = if may_outlive { worker.kept.known_hints(database) } else { None };
            let dedicated = Dedicated::new(server, may_outlive.then_some(history));
            (Backend::Dedicated(dedicated), StateTracker::knowing(hints))
        }
        First::Pooled(absent, pool, state) => {
            let target = Arc::clone(&registration.current_target);
            let pooled = Box::new(PooledClient::new(pool, absent, state, session, target));
            (Backend::Pooled(pooled), StateTracker::of_lent(worker.hints(database).get().cloned()))
        }
    };
    let terms = worker.terms(&client.route, origin.role().as_str());
    let ends = Ends { client: client.stream, backend, early: client.early };
    let mut relay = Relay::new(Rc::clone(worker), terms, member, &registration, ends, tracker);
    worker.watch(session, &relay.watch);
    relay.to_client.queue(&greeting);
    Session { relay, registration, origin, migration, _admission: client.admission, _presence: presence }
}
