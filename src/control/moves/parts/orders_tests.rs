//! A store that stops in the middle of a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::{
    Lease, LeaseId, Lookup, Range, Revision, Snapshot, Store, Txn, TxnOutcome, Watch,
};
use crate::model::{
    Ack, Address, DatabaseId, DatabaseName, Place, ProxyRecord, SslMode, SystemName, UnixMillis,
};

#[derive(Debug)]
struct Stoppable {
    inner: Arc<EmbeddedStore>,
    stopped: Arc<AtomicBool>,
}

impl Stoppable {
    fn check(&self) -> Result<(), StoreError> {
        match self.stopped.load(Ordering::SeqCst) {
            true => Err(StoreError::Stopped { reason: "the disk is full".to_owned() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Stoppable {
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.check()?;
        self.inner.range(range).await
    }

    async fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.check()?;
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.check()?;
        self.inner.watch(prefix, after).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.check()?;
        self.inner.lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.revoke(lease).await
    }
}

fn route(database: &DatabaseId) -> RouteRecord {
    RouteRecord::first(
        database.clone(),
        DatabaseName::parse("shop").unwrap(),
        Place {
            system: SystemName::parse("old").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: "shop".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        },
        1,
    )
}

#[tokio::test]
async fn a_commit_whose_store_has_stopped_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let inner = EmbeddedStore::open(directory.path().join("store")).unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let catalog = Catalog::new(Arc::new(Stoppable { inner, stopped: Arc::clone(&stopped) }));
    let database = DatabaseId::parse("db_1").unwrap();
    let route = route(&database);
    catalog.create(keys::route(&database), &route).await.unwrap();
    let mut orders = Orders::open(catalog, &database, MoveId(1)).await.unwrap();
    stopped.store(true, Ordering::SeqCst);
    let commit = orders.commit(RouteRecord { epoch: route.epoch.next(), ..route });
    let outcome = tokio::time::timeout(Duration::from_secs(20), commit).await;
    let error = outcome.expect("it is asked for ever").unwrap_err();
    assert!(matches!(error, StepError::Store(StoreError::Stopped { .. })), "{error}");
}

const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than a test.
const LEASE: Duration = Duration::from_secs(3_600);

/// A database that proxies follow.
struct World {
    catalog: Catalog,
    database: DatabaseId,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        World::with_history(100).await
    }

    async fn with_history(history: usize) -> World {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open_with_history(directory.path().join("store"), history).unwrap();
        let world = World {
            catalog: Catalog::new(store),
            database: DatabaseId::parse("db_1").unwrap(),
            _directory: directory,
        };
        world.catalog.create(keys::route(&world.database), &route(&world.database)).await.unwrap();
        world
    }

    async fn enlist(&self, proxy: &str, ttl: Duration) -> LeaseId {
        let record = ProxyRecord {
            id: ProxyId::parse(proxy).unwrap(),
            version: "0".to_owned(),
            started_at: UnixMillis(0),
            data_address: String::new(),
        };
        self.catalog.fleet().enlist(&record, ttl).await.unwrap().id
    }

    /// The proxy has carried out this order.
    async fn done(&self, proxy: &str, order: u64, lease: LeaseId) {
        let ack = Ack {
            proxy: ProxyId::parse(proxy).unwrap(),
            database: self.database.clone(),
            order,
            stage: AckStage::Done,
            sessions: 1,
            waiting: 0,
            pinned: Vec::new(),
            server_pids: vec![7],
            stall: None,
            at: UnixMillis(0),
        };
        self.catalog.fleet().acknowledge(&ack, lease).await.unwrap();
    }

    /// An order to latch, which nothing has answered.
    async fn latch(&self) -> Orders {
        let mut orders = Orders::open(self.catalog.clone(), &self.database, MoveId(1)).await.unwrap();
        let by = orders.holder();
        orders.give(|route| route.gate = GateOrder::Latched { by: by.clone() }).await.unwrap();
        orders
    }
}

fn silent(standing: &OrderProgress) -> Vec<&str> {
    standing.silent.iter().map(ProxyId::as_str).collect()
}

/// Waits until these proxies are waited for, and no other.
async fn waits_for(orders: &mut Orders, proxies: &[&str]) -> OrderProgress {
    let deadline = Instant::now() + DEADLINE;
    let waited = orders.wait(deadline, |standing| silent(standing) == proxies).await.unwrap();
    assert_eq!(waited.1, Waited::Enough, "{:?}", waited.0);
    waited.0
}

#[tokio::test]
async fn an_order_does_not_wait_for_a_proxy_that_died() {
    let world = World::new().await;
    let alive = world.enlist("alive", LEASE).await;
    let dead = world.enlist("dead", Duration::from_secs(2)).await;
    let mut orders = world.latch().await;
    world.done("dead", orders.route().order - 1, dead).await;
    world.done("alive", orders.route().order, alive).await;
    waits_for(&mut orders, &["dead"]).await;
    let standing = waits_for(&mut orders, &[]).await;
    assert!(standing.is_done());
    assert_eq!((standing.sessions, &standing.server_pids[..]), (1, &[7][..]), "those of the living one");
}

#[tokio::test]
async fn the_connections_of_a_proxy_that_died_are_nobodys_after_it_has_answered() {
    let world = World::new().await;
    let lease = world.enlist("one", LEASE).await;
    let mut orders = world.latch().await;
    world.done("one", orders.route().order, lease).await;
    assert_eq!(waits_for(&mut orders, &[]).await.server_pids, [7]);
    world.catalog.fleet().discharge(lease).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    let waited = orders.wait(deadline, |standing| standing.server_pids.is_empty()).await.unwrap();
    assert_eq!(waited.1, Waited::Enough, "the fence terminates them");
}

#[tokio::test]
async fn an_order_waits_for_a_proxy_that_came_after_it_was_given() {
    let world = World::new().await;
    let first = world.enlist("one", LEASE).await;
    let mut orders = world.latch().await;
    let order = orders.route().order;
    world.done("one", order, first).await;
    waits_for(&mut orders, &[]).await;
    let second = world.enlist("two", LEASE).await;
    waits_for(&mut orders, &["two"]).await;
    // The same id again: another process, which has not heard of the order yet.
    let again = world.enlist("one", LEASE).await;
    waits_for(&mut orders, &["one", "two"]).await;
    world.done("two", order, second).await;
    waits_for(&mut orders, &["one"]).await;
    world.done("one", order, again).await;
    waits_for(&mut orders, &[]).await;
}

#[tokio::test]
async fn a_wait_that_has_fallen_behind_reads_again() {
    let world = World::with_history(4).await;
    let one = world.enlist("one", LEASE).await;
    let two = world.enlist("two", LEASE).await;
    let mut orders = world.latch().await;
    world.catalog.fleet().discharge(two).await.unwrap();
    for _ in 0..10 {
        world.done("one", orders.route().order, one).await;
    }
    assert!(waits_for(&mut orders, &[]).await.is_done());
}
