use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::{
    Lease, LeaseId, Lookup, Range, Revision, Snapshot, Store, StoreEvent, Txn, TxnOutcome, Watch, Write,
};
use crate::catalog::{FleetAcks, Swap};
use crate::model::{
    AckStage, Address, DatabaseName, Epoch, HoldReason, MoveId, Peer, Place, ProxyId, RoleName, SslMode,
    SystemName,
};
use crate::route::{Entrance, GateState, Readiness, Route, SessionFacts, SessionHandle};

const DEADLINE: Duration = Duration::from_secs(20);

/// A store that can become unreachable, or return empty lists.
#[derive(Debug)]
struct Moody {
    inner: Arc<EmbeddedStore>,
    away: AtomicBool,
    empty: AtomicBool,
    /// Reads that were refused.
    refused: AtomicU32,
    /// Lists that were answered as empty.
    emptied: AtomicU32,
}

struct MoodyWatch {
    inner: Box<dyn Watch>,
    store: Arc<Moody>,
}

impl Moody {
    fn check(&self) -> Result<(), StoreError> {
        if !self.away.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Stopped { reason: "away".to_owned() })
    }
}

/// Shared, so that a watch can check its state.
#[derive(Debug, Clone)]
struct Shared(Arc<Moody>);

#[async_trait]
impl Store for Shared {
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.0.check()?;
        let mut snapshot = self.0.inner.range(range).await?;
        if self.0.empty.load(Ordering::SeqCst) {
            snapshot.entries.clear();
            self.0.emptied.fetch_add(1, Ordering::SeqCst);
        }
        Ok(snapshot)
    }

    async fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        self.0.check()?;
        self.0.inner.get(key).await
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.0.check()?;
        self.0.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.0.check()?;
        let inner = self.0.inner.watch(prefix, after).await?;
        Ok(Box::new(MoodyWatch { inner, store: Arc::clone(&self.0) }))
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.0.check()?;
        self.0.inner.lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.check()?;
        self.0.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.check()?;
        self.0.inner.revoke(lease).await
    }
}

#[async_trait]
impl Watch for MoodyWatch {
    async fn next(&mut self) -> Result<Option<Vec<StoreEvent>>, StoreError> {
        let batch = self.inner.next().await?;
        self.store.check()?;
        Ok(batch)
    }
}

/// A catalogue with one database, and proxies that follow it.
struct World {
    mood: Arc<Moody>,
    catalog: Catalog,
    id: DatabaseId,
    _directory: tempfile::TempDir,
}

struct Proxy {
    id: ProxyId,
    table: Arc<RouteTable>,
    follower: Follower,
}

fn place(system: &str) -> Place {
    Place {
        system: SystemName::parse(system).unwrap(),
        address: Address { host: "127.0.0.1".to_owned(), port: 1 },
        dbname: "shop".to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    }
}

fn shop(id: &DatabaseId) -> RouteRecord {
    RouteRecord::first(id.clone(), DatabaseName::parse("shop").unwrap(), place("a"), 100)
}

fn login(role: &str) -> Login {
    Login {
        role: RoleName::parse(role).unwrap(),
        verifier: None,
        can_login: true,
        can_connect: true,
        superuser: false,
        valid_until: None,
        groups: Vec::new(),
    }
}

fn held(until: Option<UnixMillis>) -> GateOrder {
    GateOrder::Held { by: HoldReason::Move { id: MoveId(1) }, until }
}

fn latched() -> GateOrder {
    GateOrder::Latched { by: HoldReason::Move { id: MoveId(1) } }
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let inner = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
        let mood = Arc::new(Moody {
            inner,
            away: AtomicBool::new(false),
            empty: AtomicBool::new(false),
            refused: AtomicU32::new(0),
            emptied: AtomicU32::new(0),
        });
        let catalog = Catalog::new(Arc::new(Shared(Arc::clone(&mood))));
        let id = DatabaseId::parse("db_1").unwrap();
        let world = World { mood, catalog, id, _directory: directory };
        let batch = world.catalog.batch().put(keys::route(&world.id), &shop(&world.id));
        let app = login("app");
        batch.put(keys::login(&world.id, &app.role), &app).commit().await.unwrap();
        world
    }

    async fn proxy(&self, id: &str) -> Proxy {
        self.proxy_listed_for(id, Duration::from_secs(60)).await
    }

    async fn proxy_listed_for(&self, id: &str, listed_for: Duration) -> Proxy {
        let options = FollowerOptions {
            listed_for,
            hold_grace: Duration::from_millis(20),
            reconnect_min: Duration::from_millis(1),
            reconnect_max: Duration::from_millis(20),
            refresh_watched: Duration::from_millis(5),
            refresh_idle: Duration::from_millis(10),
        };
        let id = ProxyId::parse(id).unwrap();
        let record = ProxyRecord {
            id: id.clone(),
            version: "0".to_owned(),
            started_at: UnixMillis(0),
            data_address: "127.0.0.1:6432".to_owned(),
        };
        let table = RouteTable::new(2);
        let follower = Follower::start(self.catalog.clone(), Arc::clone(&table), record, options);
        let synced = tokio::time::timeout(DEADLINE, follower.synced()).await;
        synced.expect("the follower reads the catalogue");
        Proxy { id, table, follower }
    }

    /// One order, as the control plane gives it.
    async fn order(&self, mut change: impl FnMut(&mut RouteRecord) + Send) -> RouteRecord {
        let numbered = |route: &mut RouteRecord| {
            change(route);
            Ok::<(), StoreError>(())
        };
        self.catalog.routes().update(&self.id, numbered).await.unwrap().value
    }

    /// Waits for an acknowledgement that `fits`.
    async fn ack(&self, proxy: &Proxy, fits: impl Fn(&Ack) -> bool) -> Ack {
        let mut fleet = self.fleet().await;
        let mut last = None;
        let search = async {
            loop {
                last = ack_of(&fleet, &proxy.id);
                match last.clone().filter(&fits) {
                    Some(ack) => return ack,
                    None => next(&mut fleet).await,
                }
            }
        };
        let found = tokio::time::timeout(DEADLINE, search).await;
        found.unwrap_or_else(|_| panic!("no such acknowledgement, the last one is {last:?}"))
    }

    async fn fleet(&self) -> FleetAcks {
        self.catalog.fleet().acks(&self.id).await.unwrap()
    }

    /// The lease under which the proxy `one` is listed.
    async fn lease_of_one(&self) -> LeaseId {
        let listed = self.mood.inner.get("proxy/one/self").await.unwrap();
        listed.entry.expect("it is listed").lease.expect("under a lease")
    }

    /// The store becomes unreachable, and the follower has noticed: its watches broke, and reading again is
    /// refused.
    async fn cut(&self) {
        self.mood.away.store(true, Ordering::SeqCst);
        let before = self.mood.refused.load(Ordering::SeqCst);
        // A commit wakes the watches, which then notice that they are broken.
        let writes = ["route/zz", "login/zz/x"].map(|key| Write::Put {
            key: key.to_owned(),
            value: "{}".into(),
            lease: None,
        });
        self.mood.inner.commit(Txn { writes: writes.into(), ..Txn::default() }).await.unwrap();
        until("the follower notices", || self.mood.refused.load(Ordering::SeqCst) >= before + 2).await;
    }

    fn heal(&self) {
        self.mood.away.store(false, Ordering::SeqCst);
    }

    async fn done(&self, proxy: &Proxy, order: u64) -> Ack {
        self.ack(proxy, |ack| ack.order == order && ack.stage == AckStage::Done).await
    }
}

fn ack_of(fleet: &FleetAcks, proxy: &ProxyId) -> Option<Ack> {
    fleet.answers().find(|(of, _)| *of == proxy)?.1.cloned()
}

async fn next(fleet: &mut FleetAcks) {
    let changed = tokio::time::timeout(DEADLINE, fleet.changed()).await;
    assert!(changed.expect("no acknowledgement").unwrap(), "the watch ended");
}

/// Waits until an acknowledgement `fits`; at most a few others may come before it.
async fn heard(fleet: &mut FleetAcks, proxy: &Proxy, fits: impl Fn(&Ack) -> bool) {
    for _ in 0..10 {
        next(fleet).await;
        if ack_of(fleet, &proxy.id).is_some_and(|ack| fits(&ack)) {
            return;
        }
    }
    panic!("other acknowledgements only");
}

impl Proxy {
    fn route(&self) -> Arc<Route> {
        self.table.lookup("shop").expect("the route of shop")
    }

    fn session(&self, number: u64) -> SessionHandle {
        let member = self.route().session_table().join(SessionFacts {
            session: number,
            worker: 0,
            role: "app".to_owned(),
            client: Peer::tcp(([127, 0, 0, 1], 5000).into()),
            application_name: "till".to_owned(),
            connected_at: UnixMillis(0),
            epoch: Epoch::FIRST,
            entrance: Entrance::default(),
        });
        member.set_server_pid(Some(1_000 + i32::try_from(number).unwrap()));
        member
    }
}

/// Polls for a condition without a notification.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_sessions_is_done_with_every_order_at_once() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    world.done(&proxy, 1).await;
    let warm = world.order(|route| route.next = Some(place("b"))).await;
    world.done(&proxy, warm.order).await;
    let latch = world.order(|route| route.gate = latched()).await;
    world.done(&proxy, latch.order).await;
    assert_eq!(proxy.route().gate().state(), GateState::Latched);
    let hold = world.order(|route| route.gate = held(None)).await;
    world.done(&proxy, hold.order).await;
    assert_eq!(proxy.route().gate().state(), GateState::Held);
    let flip = world
        .order(|route| {
            route.epoch = route.epoch.next();
            route.place = place("b");
            route.next = None;
            route.gate = GateOrder::Open;
        })
        .await;
    let ack = world.done(&proxy, flip.order).await;
    assert_eq!((flip.order, ack.sessions, ack.stall), (5, 0, None));
    assert_eq!(proxy.route().current().place, place("b"));
    assert_eq!(proxy.route().gate().state(), GateState::Open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warming_is_done_when_the_last_session_is_ready_or_pinned() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let (first, second) = (proxy.session(1), proxy.session(2));
    let warm = world.order(|route| route.next = Some(place("b"))).await;
    let seen = world.ack(&proxy, |ack| ack.order == warm.order).await;
    assert_eq!((seen.stage, seen.sessions, seen.waiting), (AckStage::Seen, 2, 2));

    first.set_readiness(Readiness::Ready { order: warm.order });
    let half = world.ack(&proxy, |ack| ack.order == warm.order && ack.waiting == 1).await;
    assert_eq!(half.stage, AckStage::Seen);
    let reasons = vec!["temporary table \"cart\"".to_owned()];
    second.set_readiness(Readiness::Pinned { order: warm.order, reasons });
    let done = world.done(&proxy, warm.order).await;
    assert_eq!(done.pinned.len(), 1);

    // A later session has no twin yet; while warming that is acknowledged.
    let third = proxy.session(3);
    world.ack(&proxy, |ack| ack.stage == AckStage::Seen && ack.waiting == 1).await;
    drop(third);
    world.ack(&proxy, |ack| ack.stage == AckStage::Done && ack.sessions == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_latch_is_done_when_no_connection_is_being_opened() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    let (transaction, connect) = (route.gate().try_enter(0).unwrap(), route.gate().try_connect(1).unwrap());
    let latch = world.order(|route| route.gate = latched()).await;
    let seen = world.ack(&proxy, |ack| ack.order == latch.order).await;
    assert_eq!(seen.stage, AckStage::Seen);
    drop(connect);
    world.done(&proxy, latch.order).await;
    drop(transaction);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_done_when_drained_and_ready_and_names_the_server_processes() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    let (first, second) = (proxy.session(7), proxy.session(8));
    let pass = route.gate().try_enter(1).unwrap();
    world.order(|route| route.next = Some(place("b"))).await;
    let hold = world.order(|route| route.gate = held(None)).await;
    let seen = world.ack(&proxy, |ack| ack.order == hold.order).await;
    assert_eq!((seen.stage, seen.waiting), (AckStage::Seen, 2));
    assert!(route.gate().try_enter(1).is_err());

    // Drained, but one session is not ready.
    drop(pass);
    first.set_readiness(Readiness::Ready { order: hold.order });
    let half = world.ack(&proxy, |ack| ack.order == hold.order && ack.waiting == 1).await;
    assert_eq!(half.stage, AckStage::Seen);
    second.set_readiness(Readiness::Ready { order: hold.order });
    let done = world.done(&proxy, hold.order).await;
    assert_eq!((done.server_pids, done.waiting), (vec![1_007, 1_008], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_waits_for_the_transaction_of_a_session_that_is_ready() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    let (first, second) = (proxy.session(1), route.gate().try_enter(1).unwrap());
    let third = route.gate().try_enter(0).unwrap();
    let hold = world.order(|route| {
        route.next = Some(place("b"));
        route.gate = held(None);
    });
    let order = hold.await.order;
    world.ack(&proxy, |ack| ack.order == order && ack.waiting == 2).await;
    first.set_readiness(Readiness::Ready { order });
    drop(second);
    first.set_application_name("still at work".to_owned());
    let half = world.ack(&proxy, |ack| ack.order == order && ack.waiting == 1).await;
    assert_eq!(half.stage, AckStage::Seen);
    drop(third);
    world.done(&proxy, order).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_done_when_all_sessions_arrived_and_reports_their_stalls() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    let member = proxy.session(1);
    route.gate().record_stall(Duration::from_secs(9));
    let hold = world.order(|route| route.gate = held(None)).await;
    world.done(&proxy, hold.order).await;
    member.set_readiness(Readiness::Ready { order: hold.order });
    let flip = world
        .order(|route| {
            route.epoch = route.epoch.next();
            route.gate = GateOrder::Open;
        })
        .await;
    let seen = world.ack(&proxy, |ack| ack.order == flip.order).await;
    assert_eq!((seen.stage, seen.waiting), (AckStage::Seen, 1));

    member.switched(flip.epoch, 2_001);
    route.gate().record_stall(Duration::from_millis(3));
    member.set_readiness(Readiness::Ready { order: flip.order });
    let done = world.done(&proxy, flip.order).await;
    let stall = done.stall.unwrap();
    assert_eq!((stall.held, stall.longest), (1, Duration::from_millis(3)), "only of this hold");
    assert_eq!(done.server_pids, [2_001]);

    // A request that was released a moment later still gets into the report.
    route.gate().record_stall(Duration::from_millis(4));
    world.ack(&proxy, |ack| ack.stall.as_ref().is_some_and(|stall| stall.held == 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_past_its_end_is_aborted_once_by_whoever_of_the_fleet_is_first() {
    let world = World::new().await;
    let (one, two) = (world.proxy("one").await, world.proxy("two").await);
    let hold = world
        .order(|route| {
            route.next = Some(place("b"));
            route.gate = held(Some(UnixMillis::now().after(Duration::from_millis(50))));
        })
        .await;
    world.done(&one, hold.order).await;
    for proxy in [&one, &two] {
        world.done(proxy, hold.order + 1).await;
        let record = proxy.route().current();
        assert_eq!((record.epoch, &record.place, &record.next), (Epoch::FIRST, &place("a"), &None));
        assert_eq!(proxy.route().gate().state(), GateState::Latched, "the source may be fenced still");
    }
    let route = world.catalog.routes().get(&world.id).await.unwrap().unwrap().value;
    assert_eq!(route.order, hold.order + 1, "aborted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_without_an_end_stays_and_a_proxy_that_starts_in_it_waits() {
    let world = World::new().await;
    let hold = world.order(|route| route.gate = held(None)).await;
    let proxy = world.proxy("one").await;
    let done = world.done(&proxy, hold.order).await;
    assert_eq!(done.sessions, 0);
    assert_eq!(proxy.route().gate().state(), GateState::Held);
    assert!(proxy.route().gate().try_enter(0).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_explicit_delete_removes_a_route() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    // The watch breaks, and the list that follows is empty.
    world.mood.empty.store(true, Ordering::SeqCst);
    world.cut().await;
    world.heal();
    until("routes and logins are listed", || world.mood.emptied.load(Ordering::SeqCst) >= 2).await;
    let warm = world.order(|route| route.terms.client_connections_max = 7).await;
    until("the new order by the new watch", || route.current().order == warm.order).await;
    assert!(proxy.table.lookup("shop").is_some());
    assert!(route.login("app").is_some());
    world.mood.empty.store(false, Ordering::SeqCst);

    let current = world.catalog.routes().get(&world.id).await.unwrap().unwrap();
    world.catalog.delete(keys::route(&world.id), current.revision).await.unwrap();
    until("the route is gone", || proxy.table.lookup("shop").is_none()).await;
    assert!(route.current().terms.service.refusal().is_some(), "sessions that still have it are refused");
    assert_eq!(proxy.table.routes().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_loses_the_store_keeps_its_gates_and_catches_up() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let hold = world.order(|route| route.gate = held(None)).await;
    world.done(&proxy, hold.order).await;
    world.cut().await;
    assert_eq!(proxy.route().gate().state(), GateState::Held);

    // Meanwhile the hold ends, and the follower does not see it.
    let healthy = Catalog::new(Arc::clone(&world.mood.inner) as Arc<dyn Store>);
    let open = healthy
        .routes()
        .update(&world.id, |route| {
            route.gate = GateOrder::Open;
            Ok::<(), StoreError>(())
        })
        .await
        .unwrap();
    assert_eq!(proxy.route().gate().state(), GateState::Held);
    world.heal();
    world.done(&proxy, open.value.order).await;
    assert_eq!(proxy.route().gate().state(), GateState::Open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_comes_with_its_logins() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    for n in 0..20 {
        let id = DatabaseId::parse(&format!("db_new_{n}")).unwrap();
        let mut record = shop(&id);
        record.name = DatabaseName::parse(&format!("new_{n}")).unwrap();
        let batch = world.catalog.batch().put(keys::route(&id), &record);
        batch.put(keys::login(&id, &login("a/b").role), &login("a/b")).commit().await.unwrap();
        until("the route", || proxy.table.lookup(record.name.as_str()).is_some()).await;
        let route = proxy.table.lookup(record.name.as_str()).unwrap();
        assert!(route.login("a/b").is_some(), "a name without its logins");
    }
    world.catalog.logins().sync(&world.id, &[login("other")]).await.unwrap();
    until("the dropped login is gone", || proxy.route().login("app").is_none()).await;
    assert!(proxy.route().login("other").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_commit_finds_the_route_and_the_logins_of_it() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    for n in 0..200 {
        let id = DatabaseId::parse(&format!("db_new_{n}")).unwrap();
        let mut record = shop(&id);
        record.name = DatabaseName::parse(&format!("new_{n}")).unwrap();
        let batch = world.catalog.batch().put(keys::route(&id), &record);
        let batch = batch.put(keys::login(&id, &login("app").role), &login("app"));
        let Swap::Committed(revision) = batch.commit().await.unwrap() else { panic!("a conflict") };
        let followed = proxy.table.followed();
        tokio::time::timeout(DEADLINE, followed.routes(revision)).await.unwrap();
        let route = proxy.table.lookup(record.name.as_str()).expect("the name is known");
        assert!(route.login("app").is_some(), "a name without its logins");
        let revision = world.catalog.logins().sync(&id, &[login("other")]).await.unwrap().unwrap();
        tokio::time::timeout(DEADLINE, followed.logins(revision)).await.unwrap();
        assert!(route.login("app").is_none() && route.login("other").is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_database_is_found_by_its_new_name_only() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let route = proxy.route();
    world.order(|route| route.name = DatabaseName::parse("store").unwrap()).await;
    until("the new name", || proxy.table.lookup("store").is_some()).await;
    assert!(proxy.table.lookup("shop").is_none());
    assert!(Arc::ptr_eq(&route, &proxy.table.lookup("store").unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_starts_again_forgets_what_it_acknowledged_and_one_that_stops_is_not_waited_for() {
    let world = World::new().await;
    let earlier = world.proxy("one").await;
    let old = Ack { order: 99, ..world.done(&earlier, 1).await };
    let lease = world.lease_of_one().await;
    drop(earlier);
    world.catalog.fleet().acknowledge(&old, lease).await.unwrap();
    let proxy = world.proxy("one").await;
    world.done(&proxy, 1).await;
    assert_eq!(world.catalog.fleet().proxies().await.unwrap().len(), 1);
    proxy.follower.stop().await.unwrap();
    assert!(world.catalog.fleet().proxies().await.unwrap().is_empty());
    assert_eq!(world.fleet().await.answers().count(), 0);
}

/// As by `kill -9`: nothing is said to the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_died_is_listed_as_long_as_its_lease_lives() {
    let world = World::new().await;
    let proxy = world.proxy_listed_for("one", Duration::from_secs(1)).await;
    world.done(&proxy, 1).await;
    let lease = world.lease_of_one().await;
    let mut fleet = world.fleet().await;
    assert_eq!(fleet.answers().count(), 1);
    drop(proxy);
    while fleet.answers().count() > 0 {
        next(&mut fleet).await;
    }
    assert!(world.catalog.fleet().proxies().await.unwrap().is_empty());
    let ended = world.catalog.fleet().keep_listed(lease).await;
    assert!(matches!(ended, Err(StoreError::LeaseGone { .. })), "{ended:?}");
}

/// etcd may have been unreachable for longer than a lease lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_lease_has_ended_is_listed_again_and_acknowledges_anew() {
    let world = World::new().await;
    // One notices when it keeps the lease alive, the other when it acknowledges.
    for listed_for in [Duration::from_secs(1), Duration::from_secs(3_600)] {
        let proxy = world.proxy_listed_for("one", listed_for).await;
        let order = proxy.route().current().order;
        world.done(&proxy, order).await;
        let lease = world.lease_of_one().await;
        world.catalog.fleet().discharge(lease).await.unwrap();
        let order = match listed_for > DEADLINE {
            false => order,
            true => world.order(|route| route.terms.client_connections_max += 1).await.order,
        };
        world.done(&proxy, order).await;
        assert_ne!(world.lease_of_one().await, lease);
        proxy.follower.stop().await.unwrap();
        assert!(world.catalog.fleet().proxies().await.unwrap().is_empty());
    }
}

/// The pause of a move contains this twice: from the last session's notification until the mover sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mover_hears_of_a_done_order_without_delay() {
    let world = World::new().await;
    let proxy = world.proxy("one").await;
    let member = proxy.session(1);
    let mut fleet = world.fleet().await;
    let mut waits = Vec::new();
    for _ in 0..40 {
        let warm = world.order(|route| {
            route.next = if route.order % 2 == 0 { Some(place("b")) } else { Some(place("c")) };
        });
        let order = warm.await.order;
        heard(&mut fleet, &proxy, |ack| ack.order == order && ack.stage == AckStage::Seen).await;
        let began = std::time::Instant::now();
        member.set_readiness(Readiness::Ready { order });
        heard(&mut fleet, &proxy, |ack| ack.order == order && ack.stage == AckStage::Done).await;
        waits.push(began.elapsed());
    }
    waits.sort();
    eprintln!("a done order is known after {:?} (median), {:?} (longest)", waits[20], waits[39]);
    // A polling or debouncing follower would take its 5 ms every time; a busy machine only sometimes.
    assert!(waits[10] < Duration::from_millis(3), "{waits:?}");
}
