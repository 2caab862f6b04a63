//! SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS: a row for each connection, as PgBouncer shows them.
//!
//! # What is 0 or NULL
//! What Freehold does not have: PgBouncer's buffer positions, and the address of our end of a server connection. `ptr`
//! and `link` are not addresses of memory, but they pair a client with its server as PgBouncer's do.

use super::answer::{Answer, Row, row};
use super::commands;
use super::execute::Executor;
use crate::model::UnixMillis;
use crate::route::{Route, SessionRow};

/// The positions in buffers at the end of SHOW SOCKETS.
const BUFFER_COLUMNS: usize = 7;

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

impl Executor {
    pub(super) fn show_clients(&self) -> Answer {
        let rows = self.each_session(|route, session| Some(self.socket(End::Client, route, session)));
        Answer::rows(commands::SHOW_CLIENTS, rows)
    }

    pub(super) fn show_servers(&self) -> Answer {
        let rows = self.each_session(|route, session| {
            session.server_pid.map(|_| self.socket(End::Server, route, session))
        });
        Answer::rows(commands::SHOW_SERVERS, rows)
    }

    pub(super) fn show_sockets(&self) -> Answer {
        let mut rows = self.show_clients().rows;
        rows.extend(self.show_servers().rows);
        rows.iter_mut().for_each(with_buffers);
        Answer::rows(commands::SHOW_SOCKETS, rows)
    }

    pub(super) fn show_active_sockets(&self) -> Answer {
        const STATE: usize = 4;
        let mut rows = self.show_sockets().rows;
        rows.retain(|row| row.get(STATE).is_some_and(|state| state.as_deref() != Some("idle")));
        Answer::rows(commands::SHOW_ACTIVE_SOCKETS, rows)
    }

    fn socket(&self, end: End, route: &Route, session: &SessionRow) -> Row {
        let record = route.current();
        let (remote, local, pid) = match end {
            End::Client => {
                (split(&session.client), session.entrance.local.map(|local| split(&local.to_string())), 0)
            }
            End::Server => {
                let place = &record.place.address;
                let pid = session.server_pid.unwrap_or_default();
                ((place.host.clone(), Some(place.port.to_string())), None, pid)
            }
        };
        let (local_address, local_port) = local.map_or((None, None), |(address, port)| (Some(address), port));
        let wait = super::show_local::wait(session, &record);
        let (client, server) = (format!("c{}", session.session), format!("s{}", session.session));
        let (own, other) = match end {
            End::Client => (client, session.server_pid.map(|_| server)),
            End::Server => (server, Some(client)),
        };
        row![
            if end == End::Client { "C" } else { "S" },
            session.role.as_str(),
            &record.name,
            session.entrance.replication.as_str(),
            state(end, session, wait.is_some()),
            remote.0,
            remote.1.unwrap_or_else(|| "0".to_owned()),
            local_address,
            local_port,
            seconds(session.connected_at),
            seconds(self.last_request(session)),
            wait.unwrap_or_default().as_secs(),
            wait.unwrap_or_default().subsec_micros(),
            if end == End::Server && session.generation != record.generation { "1" } else { "0" },
            own,
            other.unwrap_or_default(),
            pid,
            if end == End::Client { session.entrance.tls.as_deref().unwrap_or_default() } else { "" },
            session.application_name.as_str(),
            "0",
            session.session
        ]
    }

    /// When it last began or ended a request.
    fn last_request(&self, session: &SessionRow) -> UnixMillis {
        let age = u64::try_from(session.since.as_millis()).unwrap_or(u64::MAX);
        UnixMillis(self.now().0.saturating_sub(age)).max(session.connected_at)
    }
}

fn with_buffers(row: &mut Row) {
    row.extend(std::iter::repeat_n(Some("0".to_owned()), BUFFER_COLUMNS));
}

/// As in PgBouncer, whoever is paired is active, whether or not it works at this instant.
fn state(end: End, session: &SessionRow, waits: bool) -> &'static str {
    match end {
        End::Client if waits => "waiting",
        End::Client if session.server_pid.is_none() => "idle",
        End::Client | End::Server => "active",
    }
}

/// `127.0.0.1:5000` as address and port; a unix socket has no port.
fn split(address: &str) -> (String, Option<String>) {
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => (address.ip().to_string(), Some(address.port().to_string())),
        Err(_) => (address.to_owned(), None),
    }
}

/// As PgBouncer writes times: `2026-11-23 20:45:53 UTC`.
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
