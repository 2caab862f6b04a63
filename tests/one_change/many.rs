//! One order for many databases: killed around a commit, it is carried out for all databases of that commit
//! or for none of them.

use freehold::catalog::{Catalog, ROUTES_IN_COMMIT_MAX, keys};
use freehold::model::{
    Address, DatabaseId, DatabaseName, GateOrder, Place, RouteRecord, SslMode, SystemName,
};

use super::process::{Kill, Process, Side};

/// They need more than two commits.
const DATABASES: usize = 2 * ROUTES_IN_COMMIT_MAX + 5;

/// An order, what makes it one that changes every route, and what a route that follows it is.
type Order = (&'static str, &'static str, fn(&RouteRecord, &RouteRecord) -> bool);

const ORDERS: [Order; 4] = [
    ("PAUSE", "RESUME", |_, now| is_held(now)),
    ("RESUME", "PAUSE", |_, now| !is_held(now)),
    ("RECONNECT", "RESUME", is_next_generation),
    ("KILL", "RESUME", |before, now| is_held(now) && is_next_generation(before, now)),
];

fn is_held(route: &RouteRecord) -> bool {
    matches!(route.gate, GateOrder::Held { .. })
}

fn is_next_generation(before: &RouteRecord, now: &RouteRecord) -> bool {
    now.generation == before.generation + 1
}

/// A route as CREATE DATABASE writes it. These orders read and write nothing else.
fn route(number: usize) -> RouteRecord {
    let name = format!("d{number:04}");
    let place = Place {
        system: SystemName::parse("one").unwrap(),
        address: Address { host: "127.0.0.1".to_owned(), port: 1 },
        dbname: name.clone(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    };
    let id = DatabaseId::parse(&format!("db_{number:04}")).unwrap();
    RouteRecord::first(id, DatabaseName::parse(&name).unwrap(), place, 10)
}

async fn routes(catalog: &Catalog) -> Vec<RouteRecord> {
    catalog.routes().list().await.unwrap().into_values()
}

/// Gives the order in a process that may be killed. How many commits it made.
async fn give(process: &Process, (statement, setup, is_followed): Order, kill: Option<Kill>) -> usize {
    let here = process.open().await;
    here.run(setup).await.unwrap();
    let before = routes(&here.catalog).await;
    here.close().await;
    let commits = process.run_apart(statement, kill);

    let what = format!("{statement} killed {kill:?}");
    let here = process.open().await;
    let now = routes(&here.catalog).await;
    here.close().await;
    let written = match kill {
        None => DATABASES,
        Some(Kill { number, side: Side::Before }) => DATABASES.min((number - 1) * ROUTES_IN_COMMIT_MAX),
        Some(Kill { number, side: Side::After }) => DATABASES.min(number * ROUTES_IN_COMMIT_MAX),
    };
    assert_eq!((before.len(), now.len()), (DATABASES, DATABASES));
    for (index, (before, now)) in before.iter().zip(&now).enumerate() {
        match index < written {
            true => assert!(is_followed(before, now), "{what}: {before:?} {now:?}"),
            false => assert_eq!(before, now, "{what}"),
        }
    }
    commits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_for_all_databases_is_carried_out_for_all_or_none_of_each_commit() {
    let process = Process::new();
    let here = process.open().await;
    let records = (0..DATABASES).map(route);
    let batch =
        records.fold(here.catalog.batch(), |batch, route| batch.put(keys::route(&route.database), &route));
    batch.commit().await.unwrap();
    here.close().await;
    for order in ORDERS {
        let commits = give(&process, order, None).await;
        // The last one records the outcome.
        assert_eq!(commits, DATABASES.div_ceil(ROUTES_IN_COMMIT_MAX) + 1, "{}", order.0);
        for number in 1..=commits {
            for side in [Side::Before, Side::After] {
                give(&process, order, Some(Kill { number, side })).await;
            }
        }
    }
}
