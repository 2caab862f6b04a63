//! SHOW VIOLATIONS: use of a database that its contract does not provide for, or that hinders a move.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::timeout;

use crate::admin::answer::{Row, row};
use crate::admin::blockers::{rounded, session_text};
use crate::admin::context::{Caller, Cluster, Local};
use crate::admin::error::{AdminError, identifier};
use crate::admin::permission;
use crate::control::lifecycle;
use crate::error::{Blame, Explain as _, Severity, SqlState, chain};
use crate::model::{DatabaseName, DatabaseRecord, Pooling};
use crate::route::{Activity, Readiness, Route, SessionRow};
use crate::system::tables::TableName;

/// A session that is idle in a transaction for longer keeps a server connection and locks from others.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(10);

/// Of a limit, so many percent are used when it is near.
const NEAR_PERCENT: usize = 80;

/// Rows of one kind, the worst first.
const ROWS_MAX: usize = 100;

/// How long a system may take to name its tables.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

/// One row, without the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    kind: &'static str,
    object: String,
    message: String,
    cure: String,
}

/// A system is asked for its tables only where one database is named.
pub(in crate::admin) async fn show_violations(
    local: &Local,
    cluster: &Cluster,
    caller: &Caller,
    name: &Option<DatabaseName>,
) -> Result<Vec<Row>, AdminError> {
    let mut rows = Vec::new();
    for database in permission::owned(cluster, caller, name.as_ref()).await? {
        let mut found = Vec::new();
        if let Some(route) = local.routes.by_id(&database.id) {
            found.extend(of_sessions(&database, &route.session_table().sessions()));
            found.extend(of_limits(&database, &route));
        }
        if name.is_some() {
            found.extend(of_tables(cluster, caller, &database).await?);
        }
        let responsible = Blame::Product.to_string();
        rows.extend(found.into_iter().map(|Violation { kind, object, message, cure }| {
            row![&database.name, kind, object, message, responsible.as_str(), cure]
        }));
    }
    Ok(rows)
}

fn of_sessions(database: &DatabaseRecord, sessions: &[SessionRow]) -> Vec<Violation> {
    let mut sessions: Vec<&SessionRow> = sessions.iter().collect();
    sessions.sort_by_key(|session| Reverse(session.transaction_age));
    let long = sessions.iter().filter_map(|session| long_transaction(database, session)).take(ROWS_MAX);
    let idle = sessions.iter().filter_map(|session| idle_in_transaction(session)).take(ROWS_MAX);
    let pinned = sessions.iter().flat_map(|session| pins(session)).take(ROWS_MAX);
    long.chain(idle).chain(pinned).collect()
}

fn long_transaction(database: &DatabaseRecord, session: &SessionRow) -> Option<Violation> {
    let (age, max) = (session.transaction_age?, database.contract.move_transaction_wait);
    (age > max).then(|| Violation {
        kind: "long transaction",
        object: session_text(session),
        message: format!("in a transaction for {}; a move waits {}", rounded(age), rounded(max)),
        cure: "Split its work into shorter transactions, or run it where it may take long; TRANSACTION_TIMEOUT of \
               ALTER DATABASE ends the next one."
            .to_owned(),
    })
}

fn idle_in_transaction(session: &SessionRow) -> Option<Violation> {
    let is_idle = session.activity == Activity::InTransaction && session.since > IDLE_IN_TRANSACTION_MAX;
    is_idle.then(|| Violation {
        kind: "idle in transaction",
        object: session_text(session),
        message: format!(
            "idle in a transaction for {}, with a server connection and its locks",
            rounded(session.since)
        ),
        cure: "Commit before the application does something else; IDLE_IN_TRANSACTION_TIMEOUT of ALTER DATABASE ends \
               the next one."
            .to_owned(),
    })
}

fn pins(session: &SessionRow) -> Vec<Violation> {
    let Readiness::Pinned { reasons, .. } = &session.readiness else { return Vec::new() };
    let violation = |reason: &String| {
        Violation {
        kind: "pinned session",
        object: session_text(session),
        message: format!("keeps its server connection: {reason}"),
        cure: "Give it up when the work is done (DROP, UNLISTEN, pg_advisory_unlock, DISCARD ALL); while it is there, \
               the connection cannot be lent to other clients, and a move has to end the session."
            .to_owned(),
    }
    };
    reasons.iter().map(violation).collect()
}

fn of_limits(database: &DatabaseRecord, route: &Route) -> Vec<Violation> {
    let (contract, sessions) = (&database.contract, route.session_table());
    let clients = near(sessions.len(), contract.client_connections_max).map(|message| Violation {
        kind: "clients near the limit",
        object: "client connections of this process".to_owned(),
        message,
        cure: format!(
            "Use fewer connections, or ALTER DATABASE {} MAX_CLIENTS n;",
            identifier(database.name.as_str())
        ),
    });
    let is_pooled = contract.pooling == Pooling::Transaction;
    let used = near(sessions.servers_in_use(), contract.server_connections_max);
    let servers = used.filter(|_| is_pooled).map(|message| Violation {
        kind: "server connections near the limit",
        object: "server connections of this process".to_owned(),
        message,
        cure: format!(
            "Shorten transactions, or ALTER DATABASE {} POOL_SIZE n;",
            identifier(database.name.as_str())
        ),
    });
    clients.into_iter().chain(servers).collect()
}

fn near(used: usize, max: u32) -> Option<String> {
    let is_near = used * 100 >= max as usize * NEAR_PERCENT;
    is_near.then(|| format!("{used} of {max} are used"))
}

async fn of_tables(
    cluster: &Cluster,
    caller: &Caller,
    database: &DatabaseRecord,
) -> Result<Vec<Violation>, AdminError> {
    let Some(route) = cluster.catalog().routes().get(&database.id).await? else { return Ok(Vec::new()) };
    let place = route.value.place;
    let Some(system) = cluster.catalog().systems().get(&place.system).await? else { return Ok(Vec::new()) };
    let settings = cluster.settings();
    let reach = cluster.reach(&system.value, &settings);
    let looking = lifecycle::tables_without_key(reach, &place.dbname, ROWS_MAX);
    let why = match timeout(LOOK_TIME_MAX, looking).await {
        Ok(Ok(tables)) => return Ok(tables.iter().map(without_key).collect()),
        Ok(Err(error)) => {
            tracing::warn!(database = %database.name, error = %chain(&error), "no list of the tables without a key");
            error.sqlstate()
        }
        Err(_) => SqlState::QUERY_CANCELED,
    };
    let message = format!("the tables of database \"{}\" could not be looked at now", database.name);
    caller.notice(Severity::Warning, why, message);
    Ok(Vec::new())
}

fn without_key(table: &TableName) -> Violation {
    let sql = table.sql();
    Violation {
        kind: "table without a key",
        object: format!("table {table}"),
        message:
            "has no primary key and no replica identity: its UPDATEs and DELETEs cannot be replicated, and a \
                  move would be refused"
                .to_owned(),
        cure: format!(
            "ALTER TABLE {sql} ADD PRIMARY KEY (columns); or, if there is none, ALTER TABLE {sql} REPLICA IDENTITY FULL;"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Contract, DatabaseId, Epoch, History, Lifecycle, TeamName, Tier, UnixMillis};
    use crate::route::Entrance;

    fn shop() -> DatabaseRecord {
        DatabaseRecord {
            id: DatabaseId::parse("db_1").unwrap(),
            name: DatabaseName::parse("shop").unwrap(),
            owner: TeamName::parse("payments").unwrap(),
            purpose: String::new(),
            lifecycle: Lifecycle::Active,
            contract: Contract::of_tier(Tier::Dev),
            operation: None,
            dropping: None,
            offer: None,
            adopted: false,
            created_at: UnixMillis(0),
            created_by: String::new(),
            history: History::default(),
        }
    }

    fn session(number: u64, activity: Activity, seconds: u64) -> SessionRow {
        let age = Duration::from_secs(seconds);
        SessionRow {
            session: number,
            role: "app".to_owned(),
            client: "10.0.0.9:5000".to_owned(),
            application_name: "till".to_owned(),
            connected_at: UnixMillis(0),
            server_pid: Some(7),
            activity,
            since: age,
            transaction_age: activity.is_inside().then_some(age),
            readiness: Readiness::Behind,
            twin_pid: None,
            epoch: Epoch::FIRST,
            generation: 0,
            entrance: Entrance::default(),
        }
    }

    #[test]
    fn sessions_that_take_too_long_are_named_the_longest_first() {
        let sessions = [
            session(1, Activity::Idle, 9_999),
            session(2, Activity::Active, 60),
            session(3, Activity::Active, 61),
            session(4, Activity::InTransaction, 3_600),
            session(5, Activity::InTransaction, 10),
            session(6, Activity::InTransaction, 11),
        ];
        let found = of_sessions(&shop(), &sessions);
        let text = |number: u64| {
            format!("session {number} (role \"app\", application \"till\", from 10.0.0.9:5000)")
        };
        let found: Vec<_> = found.iter().map(|found| (found.kind, found.object.clone())).collect();
        let expected = [
            ("long transaction", text(4)),
            ("long transaction", text(3)),
            ("idle in transaction", text(4)),
            ("idle in transaction", text(6)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_reason_of_a_pin_is_named() {
        let mut pinned = session(1, Activity::Idle, 1);
        let reasons = vec!["temporary table \"cart\"".to_owned(), "LISTEN \"orders\"".to_owned()];
        pinned.readiness = Readiness::Pinned { order: 1, reasons };
        let found = of_sessions(&shop(), &[pinned]);
        let messages: Vec<_> = found.iter().map(|found| found.message.as_str()).collect();
        let (first, second) = (
            "keeps its server connection: temporary table \"cart\"",
            "keeps its server connection: LISTEN \"orders\"",
        );
        assert_eq!(messages, [first, second]);
    }

    #[test]
    fn a_limit_is_near_from_four_fifths_on() {
        assert_eq!(near(79, 100), None);
        assert_eq!(near(80, 100).as_deref(), Some("80 of 100 are used"));
        assert_eq!(near(1, 1).as_deref(), Some("1 of 1 are used"));
        assert_eq!(near(0, 1), None);
    }
}
