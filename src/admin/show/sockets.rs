//! SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS: a row for each connection, as PgBouncer shows them.
//!
//! # What is 0 or NULL
//! What Freehold does not have: PgBouncer's buffer positions, and the local address of a server connection.
//! `ptr` and `link` are not memory addresses, but they pair a client with its server as PgBouncer's do.

use std::collections::HashMap;
use std::time::Duration;

use crate::admin::answer::{Row, row};
use crate::admin::context::Local;
use crate::admin::error::AdminError;
use crate::admin::show::sessions::{is_lent, wait};
use crate::model::{RouteRecord, UnixMillis};
use crate::route::{Entrance, LentRow, Route, SessionRow};

/// The buffer columns at the end of SHOW SOCKETS.
const BUFFER_COLUMNS: usize = 7;

/// A server connection: a session's own, or a lent one.
struct Server {
    /// The value of column `ptr`.
    name: String,
    id: u64,
    pid: i32,
    role: String,
    opened_at: UnixMillis,
    generation: u64,
    session: Option<u64>,
}

impl Server {
    fn own(session: &SessionRow) -> Option<Server> {
        Some(Server {
            name: format!("s{}", session.session),
            id: session.session,
            pid: session.server_pid?,
            role: session.role.clone(),
            opened_at: session.connected_at,
            generation: session.generation,
            session: Some(session.session),
        })
    }

    fn lent(lent: LentRow) -> Server {
        Server {
            name: format!("l{}", lent.number),
            id: lent.number,
            pid: lent.facts.pid,
            role: lent.facts.role,
            opened_at: lent.facts.opened_at,
            generation: lent.facts.generation,
            session: lent.session,
        }
    }
}

/// A row before it is formatted.
struct Socket<'a> {
    kind: &'a str,
    role: &'a str,
    state: &'a str,
    remote: (String, Option<String>),
    local: Option<(String, Option<String>)>,
    connected_at: UnixMillis,
    request_at: UnixMillis,
    wait: Duration,
    close_needed: bool,
    name: String,
    link: String,
    pid: i32,
    application_name: &'a str,
    id: u64,
}

impl Socket<'_> {
    fn row(self, record: &RouteRecord, entrance: Option<&Entrance>) -> Row {
        let (local_address, local_port) = self.local.map_or((None, None), |(host, port)| (Some(host), port));
        let tls = entrance.and_then(|entrance| entrance.tls.as_deref()).filter(|_| self.kind == "C");
        row![
            self.kind,
            self.role,
            &record.name,
            entrance.map_or("none", |entrance| entrance.replication.as_str()),
            self.state,
            self.remote.0,
            self.remote.1.unwrap_or_else(|| "0".to_owned()),
            local_address,
            local_port,
            seconds(self.connected_at),
            seconds(self.request_at),
            self.wait.as_secs(),
            self.wait.subsec_micros(),
            if self.close_needed { "1" } else { "0" },
            self.name,
            self.link,
            self.pid,
            tls.unwrap_or_default(),
            self.application_name,
            "0",
            self.id
        ]
    }
}

/// The sessions of a database and all its server connections.
struct Connections {
    sessions: Vec<SessionRow>,
    servers: Vec<Server>,
    /// By session, the index of its connection in `servers`.
    server_of: HashMap<u64, usize>,
}

impl Connections {
    fn of(route: &Route) -> Connections {
        let (sessions, lent) = (route.session_table().sessions(), route.session_table().lent());
        let own = sessions.iter().filter(|session| !is_lent(session, &lent)).filter_map(Server::own);
        let mut servers: Vec<Server> = own.collect();
        servers.extend(lent.into_iter().map(Server::lent));
        let paired = servers.iter().enumerate();
        let server_of = paired.filter_map(|(at, server)| Some((server.session?, at))).collect();
        Connections { sessions, servers, server_of }
    }

    fn server_of(&self, session: u64) -> Option<&Server> {
        self.servers.get(*self.server_of.get(&session)?)
    }

    /// The sessions by their numbers.
    fn by_number(&self) -> HashMap<u64, &SessionRow> {
        self.sessions.iter().map(|session| (session.session, session)).collect()
    }
}

pub(in crate::admin) async fn show_clients(local: &Local) -> Result<Vec<Row>, AdminError> {
    Ok(each_route(local, client_rows))
}

pub(in crate::admin) async fn show_servers(local: &Local) -> Result<Vec<Row>, AdminError> {
    Ok(each_route(local, server_rows))
}

pub(in crate::admin) async fn show_sockets(local: &Local) -> Result<Vec<Row>, AdminError> {
    let mut rows = show_clients(local).await?;
    rows.extend(show_servers(local).await?);
    rows.iter_mut().for_each(with_buffers);
    Ok(rows)
}

pub(in crate::admin) async fn show_active_sockets(local: &Local) -> Result<Vec<Row>, AdminError> {
    const STATE: usize = 4;
    let mut rows = show_sockets(local).await?;
    rows.retain(|row| row.get(STATE).is_some_and(|state| state.as_deref() != Some("idle")));
    Ok(rows)
}

fn each_route(local: &Local, rows: impl Fn(&Local, &Route) -> Vec<Row>) -> Vec<Row> {
    local.routes.routes().iter().flat_map(|route| rows(local, route)).collect()
}

fn client_rows(local: &Local, route: &Route) -> Vec<Row> {
    let (record, connections) = (route.current(), Connections::of(route));
    let row = |session: &SessionRow| {
        let (server, wait) = (connections.server_of(session.session), wait(session, &record));
        let state = match (wait, server) {
            (Some(_), _) => "waiting",
            (None, Some(_)) => "active",
            (None, None) => "idle",
        };
        let socket = Socket {
            kind: "C",
            role: &session.role,
            state,
            remote: split(&session.client),
            local: session.entrance.local.map(|local| split(&local.to_string())),
            connected_at: session.connected_at,
            request_at: last_request(local, session),
            wait: wait.unwrap_or_default(),
            close_needed: false,
            name: format!("c{}", session.session),
            link: server.map(|server| server.name.clone()).unwrap_or_default(),
            pid: 0,
            application_name: &session.application_name,
            id: session.session,
        };
        socket.row(&record, Some(&session.entrance))
    };
    connections.sessions.iter().map(row).collect()
}

fn server_rows(local: &Local, route: &Route) -> Vec<Row> {
    let (record, connections) = (route.current(), Connections::of(route));
    let (place, sessions) = (&record.place.address, connections.by_number());
    let row = |server: &Server| {
        let session = server.session.and_then(|number| sessions.get(&number).copied());
        let socket = Socket {
            kind: "S",
            role: &server.role,
            // As in PgBouncer: a connection that is paired with a client is active, whether or not it
            // works now.
            state: if server.session.is_some() { "active" } else { "idle" },
            remote: (place.host.clone(), Some(place.port.to_string())),
            local: None,
            connected_at: server.opened_at,
            request_at: session.map_or(server.opened_at, |session| last_request(local, session)),
            wait: Duration::ZERO,
            close_needed: server.generation != record.generation,
            name: server.name.clone(),
            link: session.map(|session| format!("c{}", session.session)).unwrap_or_default(),
            pid: server.pid,
            application_name: session.map_or("", |session| &session.application_name),
            id: server.id,
        };
        socket.row(&record, session.map(|session| &session.entrance))
    };
    connections.servers.iter().map(row).collect()
}

/// When the session last began or ended a request.
fn last_request(local: &Local, session: &SessionRow) -> UnixMillis {
    let age = u64::try_from(session.since.as_millis()).unwrap_or(u64::MAX);
    UnixMillis((local.clock)().0.saturating_sub(age)).max(session.connected_at)
}

fn with_buffers(row: &mut Row) {
    row.extend(std::iter::repeat_n(Some("0".to_owned()), BUFFER_COLUMNS));
}

/// `127.0.0.1:5000` as address and port; a Unix socket has no port.
fn split(address: &str) -> (String, Option<String>) {
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => (address.ip().to_string(), Some(address.port().to_string())),
        Err(_) => (address.to_owned(), None),
    }
}

/// A time as PgBouncer writes it: `2026-11-23 20:45:53 UTC`.
fn seconds(at: UnixMillis) -> String {
    let text = humantime::format_rfc3339_seconds(at.to_system_time()).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_pgbouncer_does() {
        assert_eq!(seconds(UnixMillis(0)), "1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn an_address_is_split_at_its_port() {
        assert_eq!(split("[::1]:5000"), ("::1".to_owned(), Some("5000".to_owned())));
        assert_eq!(split("/tmp"), ("/tmp".to_owned(), None));
    }
}
