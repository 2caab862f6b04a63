//! Two PostgreSQL systems, a catalogue, a follower of routes, a mover: everything of a move but the proxy's
//! sessions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::{Catalog, NewDatabase, copied};
use freehold::control::moves::faults::{CrashPoint, Fault, FaultKind};
use freehold::control::operations::RetryPolicy;
use freehold::control::settings::MovePolicy;
use freehold::control::{
    ControlSettings, Endpoint, Endpoints, Mover, moves::claim, moves::machine, moves::steps::preflight,
};
use freehold::lab::{Builder, Major, Postgres, roots};
use freehold::model::{
    Address, Contract, DatabaseId, DatabaseName, DatabaseRecord, GateOrder, Lifecycle, Login, MoveFacts,
    MoveId, MovePhase, MoveRecord, MoveRequest, MoveStep, Place, ProxyId, ProxyRecord, RoleName, RouteRecord,
    SslMode, SystemName, SystemRecord, TeamName, TeamRecord, Tier, UnixMillis,
};
use freehold::route::follow::{Follower, FollowerOptions};
use freehold::route::{GateState, Route, RouteTable};
use freehold::system::pipe::RawSession;
use freehold::system::{MoveNames, Session, SystemAccess, move_objects};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const APP_PASSWORD: &str = "app secret";

const SCHEMA: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO account SELECT n, 1000 FROM generate_series(1, 50) n;
    CREATE TABLE ledger (id bigserial PRIMARY KEY, client int NOT NULL, number int NOT NULL, note text);
    INSERT INTO ledger (client, number, note) SELECT -1, n, repeat('x', 100) FROM generate_series(1, 20000) n;
    CREATE SEQUENCE ticket INCREMENT 5 CACHE 10;
    CREATE VIEW total AS SELECT sum(balance) FROM account;
    CREATE FUNCTION book(a int, b int, amount int) RETURNS void LANGUAGE sql AS
        'UPDATE account SET balance = balance - amount WHERE id = a; UPDATE account SET balance = balance + amount WHERE id = b';
";

pub(crate) struct Stage {
    pub(crate) source: Arc<Postgres>,
    pub(crate) target: Arc<Postgres>,
    /// The database that it moves.
    pub(crate) dbname: String,
    pub(crate) catalog: Catalog,
    pub(crate) table: Arc<RouteTable>,
    pub(crate) database: DatabaseId,
    pub(crate) settings: Arc<ArcSwap<ControlSettings>>,
    mover: Mutex<Option<Mover>>,
    follower: Option<Follower>,
    _directory: tempfile::TempDir,
}

fn place_of(server: &Postgres, system: &str, dbname: &str) -> Place {
    Place {
        system: SystemName::parse(system).unwrap(),
        address: Address { host: server.host.clone(), port: server.port },
        dbname: dbname.to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    }
}

fn system(server: &Postgres, name: &str) -> SystemRecord {
    let major = server.major * 10_000;
    SystemRecord {
        name: SystemName::parse(name).unwrap(),
        address: Address { host: server.host.clone(), port: server.port },
        replication_address: None,
        admin_role: RoleName::parse(&server.superuser).unwrap(),
        admin_database: "postgres".to_owned(),
        password_file: Some(server.password_file.to_string_lossy().into_owned()),
        sslmode: SslMode::Disable,
        auth: Default::default(),
        accepts_databases: true,
        version_num: major,
        system_identifier: server.psql("SELECT system_identifier FROM pg_control_system()").unwrap(),
        created_at: UnixMillis(0),
    }
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

/// The team that owns the databases.
fn team() -> TeamRecord {
    TeamRecord {
        name: TeamName::parse("retail").unwrap(),
        contact: "#retail".to_owned(),
        created_at: UnixMillis(0),
        escalation: None,
        parent: None,
    }
}

fn database_record(id: &DatabaseId, name: &str) -> DatabaseRecord {
    DatabaseRecord {
        id: id.clone(),
        name: DatabaseName::parse(name).unwrap(),
        owner: TeamName::parse("retail").unwrap(),
        purpose: "orders".to_owned(),
        lifecycle: Lifecycle::Active,
        contract: Contract {
            move_transaction_wait: Duration::from_secs(2),
            ..Contract::of_tier(Tier::Standard)
        },
        operation: None,
        dropping: None,
        offer: None,
        adopted: false,
        created_at: UnixMillis(0),
        created_by: "test".to_owned(),
        history: Default::default(),
    }
}

impl Stage {
    /// From the oldest major that is installed to the newest. No move yet.
    pub(crate) async fn set() -> Stage {
        Stage::set_with(&[]).await
    }

    /// With settings of both servers.
    pub(crate) async fn set_with(server: &[(&str, &str)]) -> Stage {
        Stage::between(Major::oldest(), Major::newest(), server).await
    }

    /// From one major to another.
    pub(crate) async fn between(source: Major, target: Major, server: &[(&str, &str)]) -> Stage {
        let builder = |major| {
            server
                .iter()
                .fold(Postgres::builder(major), |builder, (name, value)| builder.setting(*name, *value))
        };
        Stage::of(builder(source), builder(target)).await
    }

    /// From one server to another.
    pub(crate) async fn of(source: Builder, target: Builder) -> Stage {
        let (source, target) = tokio::join!(source.start_async(), target.start_async());
        let (source, target) = (source.unwrap(), target.unwrap());
        source.psql(&format!("CREATE ROLE app LOGIN PASSWORD '{APP_PASSWORD}'")).unwrap();
        Stage::with_database(Arc::new(source), Arc::new(target), "shop").await
    }

    /// Another Freehold, with a store and a database of its own, on the same servers.
    pub(crate) async fn beside(&self, dbname: &str) -> Stage {
        Stage::with_database(Arc::clone(&self.source), Arc::clone(&self.target), dbname).await
    }

    async fn with_database(source: Arc<Postgres>, target: Arc<Postgres>, dbname: &str) -> Stage {
        source.psql(&format!("CREATE DATABASE {dbname}")).unwrap();
        source.psql(&format!("GRANT ALL ON DATABASE {dbname} TO app")).unwrap();
        source.psql_in(dbname, "GRANT ALL ON SCHEMA public TO app").unwrap();
        let app = source.connect_as(dbname, "app", APP_PASSWORD).await.unwrap();
        app.batch_execute(SCHEMA).await.unwrap();
        drop(app);

        Stage::with_store(source, target, dbname).await
    }

    /// Another Freehold that knows the same database by a store of its own.
    pub(crate) async fn with_another_store(&self) -> Stage {
        Stage::with_store(Arc::clone(&self.source), Arc::clone(&self.target), &self.dbname).await
    }

    async fn with_store(source: Arc<Postgres>, target: Arc<Postgres>, dbname: &str) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(EmbeddedStore::open(directory.path().join("store")).unwrap());
        catalog.teams().create(&team()).await.unwrap();
        catalog.systems().create(&system(&source, "old")).await.unwrap();
        catalog.systems().create(&system(&target, "new")).await.unwrap();
        let database = DatabaseId::parse("db_1").unwrap();
        let record = database_record(&database, dbname);
        let place = place_of(&source, "old", dbname);
        let route = RouteRecord::first(database.clone(), record.name.clone(), place, 100);
        let logins = vec![login("app")];
        catalog.databases().create(&NewDatabase { database: record, route, logins }).await.unwrap();

        Stage::open(source, target, dbname, (catalog, directory)).await
    }

    /// Another Freehold on a copy of the store, made while it is in use; begun as a process begins.
    pub(crate) async fn on_a_copy(&self) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        std::fs::copy(self._directory.path().join("store"), &path).unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        let catalog = Catalog::new(Arc::<EmbeddedStore>::clone(&store));
        copied::part(&store, &catalog).await.unwrap();
        let servers = (Arc::clone(&self.source), Arc::clone(&self.target));
        Stage::open(servers.0, servers.1, &self.dbname, (catalog, directory)).await
    }

    /// ADOPT MOVE.
    pub(crate) async fn adopt_move(&self, id: MoveId) -> Result<MoveRecord, freehold::control::StepError> {
        let record = self.movement(id).await;
        let names = MoveNames::of_move(record.facts.store, id);
        let source = self.end("old", names).await;
        let target = self.end("new", names).await;
        claim::adopt(&self.catalog, &Endpoints { source, target }, &record).await
    }

    async fn end(&self, system: &str, names: MoveNames) -> Endpoint {
        let settings = self.settings.load();
        Endpoint {
            system: self
                .catalog
                .systems()
                .get(&SystemName::parse(system).unwrap())
                .await
                .unwrap()
                .unwrap()
                .value,
            dbname: self.dbname.clone(),
            connect_timeout: settings.connect_timeout,
            access: settings.access.clone(),
            names,
            application_name: "freehold test".to_owned(),
        }
    }

    /// A follower and a mover on a store that has all of it.
    async fn open(
        source: Arc<Postgres>,
        target: Arc<Postgres>,
        dbname: &str,
        (catalog, directory): (Catalog, tempfile::TempDir),
    ) -> Stage {
        let table = RouteTable::new(2);
        let mut access = SystemAccess::default();
        access.passwords.directories = roots();
        let again = Duration::from_millis(50);
        let retry = RetryPolicy { hold_backoff: again, step_backoff: again, ..RetryPolicy::default() };
        let settings = ControlSettings {
            policy: MovePolicy { retry, ..MovePolicy::default() },
            access,
            postgres_bin_dirs: vec![target.bin.clone(), source.bin.clone()],
            copy_workers: 2,
            ready_for: Duration::from_millis(200),
            close_grace: Duration::from_secs(2),
            ..ControlSettings::default()
        };
        let mut stage = Stage {
            source,
            target,
            catalog,
            table,
            database: DatabaseId::parse("db_1").unwrap(),
            dbname: dbname.to_owned(),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            mover: Mutex::new(None),
            follower: None,
            _directory: directory,
        };
        stage.start_follower().await;
        stage.start_mover();
        stage
    }

    async fn start_follower(&mut self) {
        let proxy = ProxyRecord {
            id: ProxyId::parse("p1").unwrap(),
            version: "test".to_owned(),
            started_at: UnixMillis(0),
            data_address: "127.0.0.1:0".to_owned(),
        };
        let follower =
            Follower::start(self.catalog.clone(), Arc::clone(&self.table), proxy, FollowerOptions::default());
        follower.synced().await;
        self.follower = Some(follower);
    }

    fn start_mover(&self) {
        let mover = Mover::start(self.catalog.clone(), Arc::clone(&self.settings), UnixMillis::now);
        *self.mover.lock().unwrap() = Some(mover);
    }

    /// Stops the mover in order, as a process does that is asked to end.
    pub(crate) async fn stop_mover(&self) {
        let mover = self.mover.lock().unwrap().take().unwrap();
        mover.stop().await;
    }

    /// Waits until the clients are held.
    pub(crate) async fn until_held(&self) {
        let held = async {
            while self.route().gate().state() != GateState::Held {
                self.route().gate().watch(0).turned().await;
            }
        };
        tokio::time::timeout(PATIENCE, held).await.expect("nobody is ever held");
    }

    /// Kills the mover wherever it is, and starts another one.
    pub(crate) fn restart_mover(&self) {
        drop(self.mover.lock().unwrap().take());
        self.start_mover();
    }

    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut ControlSettings)) {
        let mut settings = ControlSettings::clone(&self.settings.load());
        change(&mut settings);
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn route(&self) -> Arc<Route> {
        self.table.lookup(&self.dbname).unwrap()
    }

    /// A connection in replication mode to the database on the source, not through the proxies.
    pub(crate) async fn replication_connection(&self) -> RawSession {
        let record =
            self.catalog.systems().get(&SystemName::parse("old").unwrap()).await.unwrap().unwrap().value;
        let startup = [("replication", "database")];
        let deadline = Instant::now() + PATIENCE;
        RawSession::connect(&self.settings.load().access, &record, "shop", &startup, deadline).await.unwrap()
    }

    /// What ALTER SYSTEM does: the system and the routes to it get another address.
    pub(crate) async fn readdress(&self, system: &str, host: &str) {
        let name = SystemName::parse(system).unwrap();
        let change = |record: &mut SystemRecord| {
            record.address.host = host.to_owned();
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        self.catalog.update(freehold::catalog::keys::system(&name), change).await.unwrap();
        let change = |route: &mut RouteRecord| {
            if route.place.system == name {
                route.place.address.host = host.to_owned();
            }
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        self.catalog.routes().update(&self.database, change).await.unwrap();
    }

    /// The platform comes to a system as another role.
    pub(crate) async fn act_as(&self, system: &str, role: &str) {
        let change = |record: &mut SystemRecord| {
            record.admin_role = RoleName::parse(role).unwrap();
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        let key = freehold::catalog::keys::system(&SystemName::parse(system).unwrap());
        self.catalog.update(key, change).await.unwrap();
    }

    /// Says where the other system finds this one for replication.
    pub(crate) async fn replicate_from(&self, system: &str, address: Option<Address>) {
        let change = |record: &mut SystemRecord| {
            record.replication_address.clone_from(&address);
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        let key = freehold::catalog::keys::system(&SystemName::parse(system).unwrap());
        self.catalog.update(key, change).await.unwrap();
    }

    /// Records a move from the one system to the other.
    pub(crate) async fn request_move(&self) -> MoveId {
        self.record_move(None).await
    }

    pub(crate) async fn request_move_with_pause(&self, longest: Duration) -> MoveId {
        self.record_move(Some(longest)).await
    }

    async fn record_move(&self, pause_max: Option<Duration>) -> MoveId {
        let place = |server: &Postgres, system| place_of(server, system, &self.dbname);
        let (source, target) = (place(&self.source, "old"), place(&self.target, "new"));
        self.request_of(&self.database, (source, target), pause_max).await
    }

    async fn request_of(
        &self,
        database: &DatabaseId,
        (source, target): (Place, Place),
        pause_max: Option<Duration>,
    ) -> MoveId {
        let database = self.catalog.databases().get(database).await.unwrap().unwrap();
        let id = self.catalog.moves().next_id().await.unwrap();
        let record = MoveRecord {
            id,
            database: database.value.id.clone(),
            name: database.value.name.clone(),
            source,
            target,
            phase: MovePhase::Preflight,
            request: None,
            pause_max,
            log: Vec::new(),
            facts: MoveFacts::default(),
            cutover: None,
            undo: None,
            failure: None,
            requested_by: "test".to_owned(),
            reason: None,
            started_at: UnixMillis::now(),
            ended_at: None,
        };
        self.catalog.moves().create(&database, &record).await.unwrap();
        id
    }

    /// Another database of the source in the catalogue, with the roles that its applications log in as.
    pub(crate) async fn adopt(&self, name: &str, logins: &[&str]) -> DatabaseId {
        let id = DatabaseId::parse(&format!("db_{name}")).unwrap();
        let record = database_record(&id, name);
        let place = place_of(&self.source, "old", name);
        let route = RouteRecord::first(id.clone(), record.name.clone(), place, 100);
        let logins = logins.iter().map(|role| login(role)).collect();
        self.catalog.databases().create(&NewDatabase { database: record, route, logins }).await.unwrap();
        id
    }

    /// Moves a database that was adopted.
    pub(crate) async fn moved_too(&self, database: &DatabaseId, name: &str) -> MoveId {
        let id = self.request_move_of(database, name).await;
        self.rests_in(id, MovePhase::Kept).await;
        id
    }

    /// Requests a move of a database that was adopted.
    pub(crate) async fn request_move_of(&self, database: &DatabaseId, name: &str) -> MoveId {
        let ends = (place_of(&self.source, "old", name), place_of(&self.target, "new", name));
        self.request_of(database, ends, None).await
    }

    pub(crate) async fn request(&self, id: MoveId, request: MoveRequest) {
        let change = |record: &mut MoveRecord| {
            assert!(machine::allows(record, request), "{request:?} in {:?}", record.phase);
            record.request = Some(request);
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        self.catalog.moves().update(id, change).await.unwrap();
    }

    pub(crate) async fn movement(&self, id: MoveId) -> MoveRecord {
        self.catalog.moves().get(id).await.unwrap().unwrap().value
    }

    /// Waits until the record of the move is as wanted.
    pub(crate) async fn until(&self, id: MoveId, wanted: impl Fn(&MoveRecord) -> bool) -> MoveRecord {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let moves = self.catalog.moves().list().await.unwrap();
            let mut changes = self.catalog.moves().after(moves.revision).await.unwrap();
            let record = self.movement(id).await;
            if wanted(&record) {
                return record;
            }
            let changed = tokio::time::timeout_at(deadline, changes.next()).await;
            assert!(changed.is_ok(), "the move does not get there:\n{record:#?}");
        }
    }

    /// Waits until the move rests in a phase; fails when it rests in another one.
    pub(crate) async fn rests_in(&self, id: MoveId, phase: MovePhase) -> MoveRecord {
        let rests = |record: &MoveRecord| {
            record.request.is_none()
                && (record.phase.has_ended() || matches!(record.phase, MovePhase::Kept | MovePhase::Parked))
        };
        let record = self.until(id, rests).await;
        assert_eq!(record.phase, phase, "failure: {:#?}\nlog: {:#?}", record.failure, record.log);
        record
    }

    /// Requests a move, and waits until the mover is frozen at an instant; [`Stage::crash`] lets it go on.
    pub(crate) async fn frozen_at(&self, step: MoveStep, point: CrashPoint) -> MoveId {
        let reached = self.freeze_at(step, point);
        let id = self.request_move().await;
        self.is_frozen(&reached, id).await;
        id
    }

    /// Waits until the mover is frozen, and says why where the move never gets there.
    pub(crate) async fn is_frozen(&self, reached: &Notify, id: MoveId) {
        tokio::select! {
            () = reached.notified() => {}
            record = self.rests_in(id, MovePhase::Kept) => panic!("not before it is {:?}", record.phase),
        }
    }

    /// The same where everything is copied and nothing is followed yet.
    pub(crate) async fn frozen_before_catchup(&self) -> MoveId {
        self.frozen_at(MoveStep::Catchup, CrashPoint::BEFORE_INTENT).await
    }

    /// Waits until a server answers a query in this way.
    pub(crate) async fn until_answer(&self, server: &Postgres, sql: &str, wanted: &str) {
        self.until_answer_in("postgres", server, sql, wanted).await;
    }

    pub(crate) async fn until_answer_in(&self, dbname: &str, server: &Postgres, sql: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            let answer = server.psql_in(dbname, sql);
            if answer.as_deref().is_ok_and(|answer| answer == wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: {answer:?} and never {wanted}");
            looks.tick().await;
        }
    }

    pub(crate) async fn moved(&self) -> MoveId {
        let id = self.request_move().await;
        self.rests_in(id, MovePhase::Kept).await;
        id
    }

    /// What PLAN MOVE finds.
    pub(crate) async fn plan(&self) -> preflight::PreflightReport {
        let settings = ControlSettings::clone(&self.settings.load());
        let names = MoveNames::of_move(Some(self.catalog.store_id().await.unwrap()), MoveId(0));
        let ends = Endpoints { source: self.end("old", names).await, target: self.end("new", names).await };
        preflight::check(&preflight::Plan {
            ends,
            settings,
            logins: vec!["app".to_owned()],
            logins_there: Vec::new(),
        })
        .await
        .unwrap()
    }

    /// Makes the next move freeze at an instant; wait with [`Frozen::reached`].
    pub(crate) fn freeze_at(&self, step: MoveStep, point: CrashPoint) -> Arc<Notify> {
        let reached = Arc::new(Notify::new());
        let kind = FaultKind::Freeze(Arc::clone(&reached));
        self.change_settings(|settings| settings.fault = Some(Fault { step, point, kind }));
        reached
    }

    pub(crate) fn fail_at(&self, step: MoveStep, point: CrashPoint) {
        let kind = FaultKind::Fail;
        self.change_settings(|settings| settings.fault = Some(Fault { step, point, kind }));
    }

    pub(crate) fn without_faults(&self) {
        self.change_settings(|settings| settings.fault = None);
    }

    /// Waits until the mover is frozen, kills it there, and starts another one without the fault.
    pub(crate) async fn crash_when(&self, reached: &Notify) {
        tokio::time::timeout(PATIENCE, reached.notified()).await.expect("the instant is never reached");
        self.crash();
    }

    /// Requests a move, and kills the mover at each of these instants, in their order.
    pub(crate) async fn request_move_and_kill(&self, instants: &[(MoveStep, CrashPoint)]) -> MoveId {
        let ((step, point), rest) = instants.split_first().unwrap();
        let mut reached = self.freeze_at(*step, *point);
        let id = self.request_move().await;
        for (step, point) in rest {
            reached = self.kill_and_freeze_at(&reached, *step, *point).await;
        }
        self.crash_when(&reached).await;
        id
    }

    /// Kills the mover now, and then at each of these instants, in their order.
    pub(crate) async fn kill_at_each(&self, instants: &[(MoveStep, CrashPoint)]) {
        let ((step, point), rest) = instants.split_first().unwrap();
        let mut reached = self.freeze_at(*step, *point);
        self.restart_mover();
        for (step, point) in rest {
            reached = self.kill_and_freeze_at(&reached, *step, *point).await;
        }
        self.crash_when(&reached).await;
    }

    async fn kill_and_freeze_at(&self, reached: &Notify, step: MoveStep, point: CrashPoint) -> Arc<Notify> {
        tokio::time::timeout(PATIENCE, reached.notified()).await.expect("the instant is never reached");
        let next = self.freeze_at(step, point);
        self.restart_mover();
        next
    }

    /// Like [`Stage::crash_when`] where the test has waited for it already.
    pub(crate) fn crash(&self) {
        self.without_faults();
        self.restart_mover();
    }

    /// Everything with a name of the move's on either system; empty after it has ended.
    pub(crate) async fn left_behind(&self, id: MoveId) -> Vec<String> {
        let mut found = Vec::new();
        let names = MoveNames::of_move(self.movement(id).await.facts.store, id);
        let access = self.settings.load().access.clone();
        for (server, name) in [(&self.source, "old"), (&self.target, "new")] {
            let record =
                self.catalog.systems().get(&SystemName::parse(name).unwrap()).await.unwrap().unwrap().value;
            let dbnames = server.psql("SELECT datname FROM pg_database WHERE datallowconn").unwrap();
            for dbname in dbnames.lines().filter(|dbname| *dbname != "template1") {
                let deadline = Instant::now() + PATIENCE;
                let session = Session::connect(&access, &record, dbname, "freehold", deadline).await.unwrap();
                let left = move_objects::remaining(&session, names).await.unwrap();
                found.extend(left.into_iter().map(|left| format!("{left} in {dbname} on {name}")));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// What must hold of a database that no move has hands on.
    pub(crate) async fn assert_open_on(&self, system: &str) {
        let route = self.catalog.routes().get(&self.database).await.unwrap().unwrap().value;
        assert_eq!(route.place.system.as_str(), system);
        assert_eq!((&route.gate, &route.next), (&GateOrder::Open, &None));
        let server = if system == "old" { &self.source } else { &self.target };
        let client = server.connect_as(&self.dbname, "app", APP_PASSWORD).await;
        assert!(client.is_ok(), "the application's role cannot connect to {system}: {:?}", client.err());
    }
}
