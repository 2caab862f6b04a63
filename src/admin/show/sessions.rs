//! SHOW: the state of this process: sessions, pools, gates.
//!
//! A PgBouncer column without a meaning here holds what PgBouncer shows for "none", so that exporters keep
//! working.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::answer::{Row, row};
use crate::admin::context::Local;
use crate::admin::error::AdminError;
use crate::admin::show::databases::gate;
use crate::model::{GateOrder, Pooling, RouteRecord};
use crate::route::{Activity, GateState, LentRow, Readiness, Route, SessionRow};

/// What SHOW POOLS counts for one database and role.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Pool {
    active: u32,
    waiting: u32,
    servers_active: u32,
    servers_idle: u32,
    servers_login: u32,
    longest_wait: Duration,
}

/// The pools by database and role.
pub(in crate::admin) fn pools(routes: &[Arc<Route>]) -> BTreeMap<(String, String), Pool> {
    let mut pools: BTreeMap<(String, String), Pool> = BTreeMap::new();
    for route in routes {
        let record = route.current();
        let key = |role: &str| (record.name.to_string(), role.to_owned());
        let lent = route.session_table().lent();
        for session in route.session_table().sessions() {
            let pool = pools.entry(key(&session.role)).or_default();
            count(pool, &session, &record);
            // No other client can use a server connection that a client has: active, whether or not it works.
            let own = session.server_pid.is_some() && !is_lent(&session, &lent);
            pool.servers_active += u32::from(own);
        }
        for connection in &lent {
            let pool = pools.entry(key(&connection.facts.role)).or_default();
            pool.servers_active += u32::from(connection.session.is_some());
            pool.servers_idle += u32::from(connection.session.is_none());
        }
    }
    pools
}

fn count(pool: &mut Pool, session: &SessionRow, record: &RouteRecord) {
    let wait = wait(session, record);
    pool.active += u32::from(wait.is_none());
    pool.waiting += u32::from(wait.is_some());
    pool.longest_wait = pool.longest_wait.max(wait.unwrap_or_default());
    pool.servers_login += u32::from(logs_in(session, record));
}

/// Whether the session's server connection is one of the lent ones.
pub(in crate::admin) fn is_lent(session: &SessionRow, lent: &[LentRow]) -> bool {
    lent.iter().any(|connection| Some(connection.facts.pid) == session.server_pid)
}

/// How long a client has waited for a server: at the gate, or for its first connection.
pub(in crate::admin) fn wait(session: &SessionRow, record: &RouteRecord) -> Option<Duration> {
    let first = record.terms.pooling == Pooling::Session && session.server_pid.is_none();
    let waits = matches!(session.activity, Activity::Held | Activity::Waiting);
    (waits || first).then_some(session.since)
}

/// Whether its server connection is being opened.
fn logs_in(session: &SessionRow, record: &RouteRecord) -> bool {
    record.terms.pooling == Pooling::Session && session.server_pid.is_none() && record.gate == GateOrder::Open
}

/// The rows of all sessions, sorted by database.
fn each_session(local: &Local, shown: impl Fn(&Route, &SessionRow) -> Option<Row>) -> Vec<Row> {
    let routes = local.routes.routes();
    let of = |route: &Arc<Route>| {
        let sessions = route.session_table().sessions();
        sessions.iter().filter_map(|session| shown(route, session)).collect::<Vec<Row>>()
    };
    routes.iter().flat_map(of).collect()
}

pub(in crate::admin) async fn show_sessions(local: &Local) -> Result<Vec<Row>, AdminError> {
    let rows = each_session(local, |route, session| {
        let (state, reasons) = readiness(&session.readiness);
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
            state,
            reasons,
            session.connected_at
        ])
    });
    Ok(rows)
}

pub(in crate::admin) async fn show_pools(local: &Local) -> Result<Vec<Row>, AdminError> {
    let routes = local.routes.routes();
    let rows = pools(&routes).into_iter().map(|((database, user), pool)| {
        let route = local.routes.lookup(&database);
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
            pool.servers_login,
            pool.longest_wait.as_secs(),
            pool.longest_wait.subsec_micros(),
            record.as_ref().map(|record| record.terms.pooling.as_str()),
            None::<String>,
            record.as_ref().map(|record| gate(&record.gate)),
            record.as_ref().map(|record| record.epoch)
        ]
    });
    Ok(rows.collect())
}

pub(in crate::admin) async fn show_hba(local: &Local) -> Result<Vec<Row>, AdminError> {
    let file = local.config.load().access.hba_file.clone();
    let file = file.map(|file| file.display().to_string());
    let policy = local.access.policy();
    let rows = policy.rules.iter().zip(1_u32..).map(|(rule, number)| {
        let [databases, roles, address, options] = rule.shown();
        let line = file.as_ref().map(|_| rule.line);
        let method = rule.method.as_str();
        row![number, line, rule.kind.as_str(), databases, roles, address, method, options, file.clone()]
    });
    Ok(rows.collect())
}

pub(in crate::admin) async fn show_state(local: &Local) -> Result<Vec<Row>, AdminError> {
    let routes = local.routes.routes();
    let held = |route: &Arc<Route>| route.gate().state() == GateState::Held;
    let paused = !routes.is_empty() && routes.iter().all(held);
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let rows = vec![row!["active", word(!paused)], row!["paused", word(paused)], row!["suspended", "no"]];
    Ok(rows)
}

fn readiness(readiness: &Readiness) -> (String, Option<String>) {
    match readiness {
        Readiness::Behind => ("behind".to_owned(), None),
        Readiness::Ready { order } => (format!("ready {order}"), None),
        Readiness::Pinned { order, reasons } => (format!("pinned {order}"), Some(reasons.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, DatabaseId, DatabaseName, Epoch, Place, SslMode, SystemName, UnixMillis};
    use crate::route::Entrance;

    fn record() -> RouteRecord {
        let place = Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: "shop".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        };
        let (id, name) = (DatabaseId::parse("db_1").unwrap(), DatabaseName::parse("shop").unwrap());
        RouteRecord::first(id, name, place, 10)
    }

    fn session(activity: Activity, server_pid: Option<i32>) -> SessionRow {
        SessionRow {
            session: 1,
            role: "app".to_owned(),
            client: "127.0.0.1:1".to_owned(),
            application_name: String::new(),
            connected_at: UnixMillis(0),
            server_pid,
            activity,
            since: Duration::from_millis(1_500),
            transaction_age: None,
            generation: 0,
            readiness: Readiness::Behind,
            twin_pid: None,
            epoch: Epoch::FIRST,
            entrance: Entrance::default(),
        }
    }

    #[test]
    fn a_client_that_waits_is_not_active() {
        let mut pool = Pool::default();
        count(&mut pool, &session(Activity::Held, Some(7)), &record());
        count(&mut pool, &session(Activity::Active, Some(8)), &record());
        count(&mut pool, &session(Activity::Idle, Some(9)), &record());
        assert_eq!((pool.active, pool.waiting, pool.servers_login), (2, 1, 0));
        assert_eq!(pool.longest_wait, Duration::from_millis(1_500));
    }

    #[test]
    fn a_client_without_a_server_logs_in_there_unless_the_gate_is_shut() {
        let (mut open, mut shut) = (Pool::default(), Pool::default());
        let mut held = record();
        held.gate = GateOrder::Held { by: crate::model::HoldReason::Pause, until: None };
        count(&mut open, &session(Activity::Idle, None), &record());
        count(&mut shut, &session(Activity::Idle, None), &held);
        assert_eq!((open.waiting, open.servers_login, shut.waiting, shut.servers_login), (1, 1, 1, 0));
    }
}
