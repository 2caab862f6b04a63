//! A PostgreSQL server, a route to it, and a data plane in front.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold::auth::scram::MockSecret;
use freehold::frontend::listener::{ListenOptions, Sharing};
use freehold::frontend::{Balancers, Encryption};
use freehold::lab::{Major, Postgres};
use freehold::model::{
    Address, DatabaseId, DatabaseName, GateOrder, HoldReason, ListenOn, Login, Place, RoleName, RouteRecord,
    SslMode, SystemName, Timeouts,
};
use freehold::route::{Route, RouteTable};
use freehold::session::{DataPlane, DataPlaneConfig, LimitsPolicy, PoolSettings};
use freehold::tls::{Acceptor, Connector};

pub(crate) const ROLE: &str = "app";
pub(crate) const PASSWORD: &str = "correct horse";
pub(crate) const WORKERS: usize = 2;
/// For what should take milliseconds, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server with database `shop` and role `app`.
pub(crate) fn server(major: Major) -> Postgres {
    let server = Postgres::builder(major).setting("max_connections", "60").start().unwrap();
    prepare(&server);
    server
}

pub(crate) fn prepare(server: &Postgres) {
    server.psql(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).unwrap();
    server.psql(&format!("CREATE DATABASE shop OWNER {ROLE}")).unwrap();
}

/// Gives `to` the roles of `from`, as a move does: verifiers byte for byte.
pub(crate) fn copy_verifier(from: &Postgres, to: &Postgres) {
    let verifier = verifier(from, ROLE);
    to.psql(&format!("ALTER ROLE {ROLE} PASSWORD '{verifier}'")).unwrap();
}

fn verifier(server: &Postgres, role: &str) -> String {
    server.psql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'")).unwrap()
}

pub(crate) fn place(server: &Postgres) -> Place {
    Place {
        system: SystemName::parse("one").unwrap(),
        address: Address { host: server.host.clone(), port: server.port },
        dbname: "shop".to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    }
}

pub(crate) struct Stage {
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) route: Arc<Route>,
    pub(crate) plane: DataPlane,
}

impl Stage {
    pub(crate) fn before(server: &Postgres) -> Stage {
        Stage::with(server, None)
    }

    pub(crate) fn with(server: &Postgres, acceptor: Option<Acceptor>) -> Stage {
        Stage::configured(server, |config| config.acceptor = acceptor)
    }

    pub(crate) fn limited(server: &Postgres, process: Timeouts) -> Stage {
        Stage::configured(server, |config| {
            config.limits.store(Arc::new(LimitsPolicy { process, ..LimitsPolicy::default() }));
        })
    }

    pub(crate) fn configured(server: &Postgres, change: impl FnOnce(&mut DataPlaneConfig)) -> Stage {
        let routes = RouteTable::new(WORKERS);
        let route = routes.install(RouteRecord::first(
            DatabaseId::parse("db_shop").unwrap(),
            DatabaseName::parse("shop").unwrap(),
            place(server),
            40,
        ));
        let mut config = DataPlaneConfig {
            listen: ListenOptions {
                on: vec![ListenOn::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))],
                handed_over: Vec::new(),
                unix_mode: 0o700,
                sharing: Sharing::Alone,
            },
            balancers: Balancers::default(),
            workers: WORKERS,
            acceptor: None,
            encryption: Encryption::Optional,
            connector: Connector::native().unwrap(),
            login_time_max: PATIENCE,
            connect_time_max: PATIENCE,
            limits: Arc::default(),
            pool: PoolSettings::default(),
            mock: MockSecret::from_random([1; 32]),
            cancels_per_second_max: 0,
            access: Arc::default(),
        };
        change(&mut config);
        let plane = DataPlane::start(config, Arc::clone(&routes)).unwrap();
        let stage = Stage { routes, route, plane };
        stage.read_logins(server);
        stage
    }

    /// As the control plane does every few seconds.
    pub(crate) fn read_logins(&self, server: &Postgres) {
        let login = Login {
            role: RoleName::parse(ROLE).unwrap(),
            verifier: Some(verifier(server, ROLE)),
            can_login: true,
            can_connect: true,
            superuser: false,
            valid_until: None,
            groups: Vec::new(),
        };
        self.routes.set_logins(self.route.id(), HashMap::from([(ROLE.to_owned(), Arc::new(login))]));
    }

    pub(crate) fn port(&self) -> u16 {
        self.plane.local_addr().unwrap().port()
    }

    /// The next order: what `change` makes of the record.
    pub(crate) fn order(&self, change: impl FnOnce(&mut RouteRecord)) {
        let mut record = RouteRecord::clone(&self.route.current());
        record.order += 1;
        change(&mut record);
        self.routes.install(record);
    }

    pub(crate) fn hold(&self) {
        self.order(|record| record.gate = GateOrder::Held { by: HoldReason::Pause, until: None });
    }

    pub(crate) fn open(&self) {
        self.order(|record| record.gate = GateOrder::Open);
    }

    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port()).user(ROLE).password(PASSWORD).dbname("shop");
        config
    }

    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = self.config().connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A program of PostgreSQL's own that connects through the data plane.
    pub(crate) fn program(&self, server: &Postgres, name: &str) -> Command {
        let mut command = Command::new(server.bin.join(name));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", ROLE)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", "shop")
            .env("PGSSLMODE", "disable")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn psql(&self, server: &Postgres, script: &str) -> Output {
        use std::io::Write;
        let mut child = self.program(server, "psql").args(["-X", "-A", "-t", "-q"]).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Waits until `holds`, which is looked at often.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
