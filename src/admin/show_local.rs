//! SHOW: what happens in this process: sessions, pools, gates.
//!
//! Where PgBouncer has a column that means nothing here, it holds what PgBouncer shows for "none", so that exporters go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Row, row};
use super::commands;
use super::execute::Executor;
use super::show::gate;
use crate::model::UnixMillis;
use crate::route::{Activity, GateState, Readiness, Route, SessionRow};

/// What SHOW POOLS counts for one database and role.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    active: u32,
    waiting: u32,
    servers_active: u32,
    servers_idle: u32,
    longest_wait: Duration,
}

/// By database and role.
pub(super) fn pools(routes: &[Arc<Route>]) -> BTreeMap<(String, String), Pool> {
    let mut pools: BTreeMap<(String, String), Pool> = BTreeMap::new();
    for route in routes {
        let name = route.current().name.to_string();
        for session in route.roster().sessions() {
            let pool = pools.entry((name.clone(), session.role.clone())).or_default();
            count(pool, &session);
        }
    }
    pools
}

fn count(pool: &mut Pool, session: &SessionRow) {
    let waits = session.activity == Activity::Held;
    pool.active += u32::from(!waits);
    pool.waiting += u32::from(waits);
    if waits {
        pool.longest_wait = pool.longest_wait.max(session.since);
    }
    let works = matches!(session.activity, Activity::Active | Activity::InTransaction);
    let connected = session.server_pid.is_some();
    pool.servers_active += u32::from(connected && works);
    pool.servers_idle += u32::from(connected && !works);
}

impl Executor {
    fn each_session(&self, shown: impl Fn(&Route, &SessionRow) -> Option<Row>) -> Vec<Row> {
        let mut routes = self.parts.routes.routes();
        routes.sort_by(|a, b| a.current().name.cmp(&b.current().name));
        let of = |route: &Arc<Route>| {
            let sessions = route.roster().sessions();
            sessions.iter().filter_map(|session| shown(route, session)).collect::<Vec<Row>>()
        };
        routes.iter().flat_map(of).collect()
    }

    pub(super) fn show_sessions(&self) -> Answer {
        let rows = self.each_session(|route, session| {
            let (readiness, reasons) = standing(&session.readiness);
            Some(row![
                &route.current().name,
                session.session,
                session.role.as_str(),
                session.client.as_str(),
                session.application_name.as_str(),
                session.activity.as_str(),
                u64::try_from(session.since.as_millis()).unwrap_or(u64::MAX),
                session.server_pid,
                session.twin_pid,
                session.epoch,
                readiness,
                reasons,
                session.connected_at
            ])
        });
        Answer::rows(commands::SHOW_SESSIONS, rows)
    }

    pub(super) fn show_pools(&self) -> Answer {
        let routes = self.parts.routes.routes();
        let rows = pools(&routes).into_iter().map(|((database, user), pool)| {
            let route = self.parts.routes.lookup(&database);
            let record = route.map(|route| route.current());
            row![
                database,
                user,
                pool.active,
                pool.waiting,
                "0",
                "0",
                pool.servers_active,
                "0",
                "0",
                pool.servers_idle,
                "0",
                "0",
                "0",
                pool.longest_wait.as_secs(),
                pool.longest_wait.subsec_micros(),
                record.as_ref().map(|record| record.pooling.as_str()),
                None::<String>,
                record.as_ref().map(|record| gate(&record.gate)),
                record.as_ref().map(|record| record.epoch)
            ]
        });
        Answer::rows(commands::SHOW_POOLS, rows.collect())
    }

    pub(super) fn show_hba(&self) -> Answer {
        let file = self.parts.config.load().access.hba_file.clone();
        let file = file.map(|file| file.display().to_string());
        let policy = self.parts.access.policy();
        let rows = policy.rules.iter().zip(1_u32..).map(|(rule, number)| {
            let [databases, roles, address, options] = rule.shown();
            let line = file.as_ref().map(|_| rule.line);
            let method = rule.method.as_str();
            row![number, line, rule.kind.as_str(), databases, roles, address, method, options, file.clone()]
        });
        Answer::rows(commands::SHOW_HBA, rows.collect())
    }

    pub(super) fn show_clients(&self) -> Answer {
        let rows = self.each_session(|route, session| {
            let state = if session.activity == Activity::Held { "waiting" } else { "active" };
            Some(pgbouncer_row(
                "C",
                route,
                session,
                state,
                client_address(&session.client),
                session.server_pid,
            ))
        });
        Answer::rows(commands::SHOW_CLIENTS, rows)
    }

    pub(super) fn show_servers(&self) -> Answer {
        let rows = self.each_session(|route, session| {
            let pid = session.server_pid?;
            let works = matches!(session.activity, Activity::Active | Activity::InTransaction);
            let address = &route.current().place.address;
            let address = (address.host.clone(), Some(address.port.to_string()));
            Some(pgbouncer_row(
                "S",
                route,
                session,
                if works { "active" } else { "idle" },
                address,
                Some(pid),
            ))
        });
        Answer::rows(commands::SHOW_SERVERS, rows)
    }

    pub(super) fn show_state(&self) -> Answer {
        let routes = self.parts.routes.routes();
        let held = |route: &Arc<Route>| route.gate().state() == GateState::Held;
        let paused = !routes.is_empty() && routes.iter().all(held);
        let word = |yes: bool| if yes { "yes" } else { "no" };
        let rows = vec![row!["active", word(!paused)], row!["paused", word(paused)], row!["suspended", "no"]];
        Answer::rows(commands::SHOW_STATE, rows)
    }
}

fn standing(readiness: &Readiness) -> (String, Option<String>) {
    match readiness {
        Readiness::Behind => ("behind".to_owned(), None),
        Readiness::Ready { order } => (format!("ready {order}"), None),
        Readiness::Pinned { order, reasons } => (format!("pinned {order}"), Some(reasons.join("; "))),
    }
}

/// `127.0.0.1:5000` as address and port; a unix socket has no port.
fn client_address(client: &str) -> (String, Option<String>) {
    match client.parse::<std::net::SocketAddr>() {
        Ok(address) => (address.ip().to_string(), Some(address.port().to_string())),
        Err(_) => (client.to_owned(), None),
    }
}

fn pgbouncer_row(
    kind: &str,
    route: &Route,
    session: &SessionRow,
    state: &str,
    (address, port): (String, Option<String>),
    server_pid: Option<i32>,
) -> Row {
    let wait = if session.activity == Activity::Held { session.since } else { Duration::ZERO };
    row![
        kind,
        session.role.as_str(),
        &route.current().name,
        "none",
        state,
        address,
        port,
        None::<String>,
        None::<String>,
        seconds(session.connected_at),
        seconds(session.connected_at),
        wait.as_secs(),
        wait.subsec_micros(),
        "0",
        session.session,
        None::<String>,
        server_pid,
        None::<String>,
        session.application_name.as_str(),
        "0",
        session.session
    ]
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
    fn a_client_that_waits_is_not_active() {
        let session = |activity| SessionRow {
            session: 1,
            role: "app".to_owned(),
            client: "127.0.0.1:1".to_owned(),
            application_name: String::new(),
            connected_at: UnixMillis(0),
            server_pid: Some(7),
            activity,
            since: Duration::from_millis(1_500),
            readiness: Readiness::Behind,
            twin_pid: None,
            epoch: crate::model::Epoch::FIRST,
        };
        let mut pool = Pool::default();
        count(&mut pool, &session(Activity::Held));
        count(&mut pool, &session(Activity::Active));
        assert_eq!((pool.active, pool.waiting, pool.servers_active, pool.servers_idle), (1, 1, 1, 1));
        assert_eq!(pool.longest_wait, Duration::from_millis(1_500));
    }

    #[test]
    fn times_are_written_as_pgbouncer_does() {
        assert_eq!(seconds(UnixMillis(0)), "1970-01-01 00:00:00 UTC");
    }
}
