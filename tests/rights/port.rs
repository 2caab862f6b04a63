//! An admin port on a catalogue with databases of two teams. No system is behind it: what a role may is known
//! before one is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use freehold::admin::serve::{AdminOptions, AdminServer, IDLE_TIME_MAX};
use freehold::admin::users::{read_users, user_line};
use freehold::admin::{Executor, ExecutorParts, ProcessRequest};
use freehold::auth::scram::MockSecret;
use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::{Catalog, NewDatabase, NewDatabaseOutcome};
use freehold::config::Config;
use freehold::control::ControlSettings;
use freehold::model::{
    Address, Contract, DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, Place, RouteRecord, SslMode,
    SystemName, TeamName, Tier, TransferOffer, UnixMillis,
};
use freehold::route::RouteTable;
use freehold::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_postgres::NoTls;

use super::PASSWORD;
use super::support::Admin;

/// The administrator of the file.
pub(crate) const OPS: &str = "ops";
/// The `stats` user of the file.
pub(crate) const STATS: &str = "stats";

pub(crate) struct Port {
    pub(crate) server: AdminServer,
    pub(crate) catalog: Catalog,
    files: tempfile::TempDir,
}

impl Port {
    /// Teams `payments` and `finance`; database `shop` of the first, `ledger` of the second; `gift` and
    /// `present` of the second are offered to the first.
    pub(crate) async fn open() -> Port {
        Port::open_with_idle_time(IDLE_TIME_MAX).await
    }

    pub(crate) async fn open_with_idle_time(idle_time_max: Duration) -> Port {
        let files = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(EmbeddedStore::open(files.path().join("store.redb")).unwrap());
        let file = files.path().join("admins.txt");
        let lines = format!("{}\n{} stats\n", user_line(OPS, PASSWORD), user_line(STATS, PASSWORD));
        std::fs::write(&file, lines).unwrap();
        let (ask, mut requests) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                if let ProcessRequest::Reload { answer } = request {
                    let _ = answer.send(Ok(Vec::new()));
                }
            }
        });
        let executor = Executor::new(ExecutorParts {
            catalog: catalog.clone(),
            routes: RouteTable::new(1),
            config: Arc::new(ArcSwap::from_pointee(Config::default())),
            applications: SocketAddr::from(([127, 0, 0, 1], 6432)),
            settings: Arc::new(ArcSwap::from_pointee(ControlSettings::default())),
            requests: ask,
            logins: Arc::default(),
            access: Arc::default(),
            metrics: Metrics::new(),
            clock: UnixMillis::now,
        });
        let options = AdminOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            acceptor: None,
            users: read_users(&file).unwrap(),
            connections_max: 100,
            access: Arc::default(),
            mock: MockSecret::from_random([2; 32]),
            login_time_max: Duration::from_secs(10),
            idle_time_max,
        };
        let server = AdminServer::start(options, executor).await.unwrap();
        let port = Port { server, catalog, files };
        let ops = port.login(OPS).await;
        for team in ["payments", "finance"] {
            ops.run(&format!("CREATE TEAM {team} CONTACT '#{team}'")).await;
        }
        for (name, owner, offered_to) in [
            ("shop", "payments", None),
            ("ledger", "finance", None),
            ("gift", "finance", Some("payments")),
            ("present", "finance", Some("payments")),
        ] {
            port.create_database(name, owner, offered_to).await;
        }
        port
    }

    async fn create_database(&self, name: &str, owner: &str, offered_to: Option<&str>) {
        let now = UnixMillis::now();
        let id = DatabaseId::parse(&format!("db_{name}")).unwrap();
        let database = DatabaseRecord {
            id: id.clone(),
            name: DatabaseName::parse(name).unwrap(),
            owner: TeamName::parse(owner).unwrap(),
            purpose: "a database that is only a record".to_owned(),
            lifecycle: Lifecycle::Active,
            contract: Contract::of_tier(Tier::Standard),
            operation: None,
            dropping: None,
            offer: offered_to
                .map(|team| TransferOffer::new(TeamName::parse(team).unwrap(), "ops".to_owned(), None, now)),
            adopted: false,
            created_at: now,
            created_by: "ops".to_owned(),
            history: Default::default(),
        };
        let place = Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: name.to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        };
        let route = RouteRecord::of(&database, place);
        let new = NewDatabase { database, route, logins: Vec::new() };
        let outcome = self.catalog.databases().create(&new).await.unwrap();
        assert!(matches!(outcome, NewDatabaseOutcome::Created(_)));
    }

    pub(crate) async fn try_login(&self, name: &str, password: &str) -> Result<Admin, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        let port = self.server.local_addr().port();
        config.host("127.0.0.1").port(port).dbname("freehold").user(name).password(password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(Admin(client))
    }

    pub(crate) async fn login(&self, name: &str) -> Admin {
        self.try_login(name, PASSWORD).await.unwrap_or_else(|error| panic!("{name}: {error:?}"))
    }

    /// Makes a user with these grants.
    pub(crate) async fn user(&self, name: &str, grants: &[&str]) -> Admin {
        let ops = self.login(OPS).await;
        ops.run(&format!("CREATE USER {name} PASSWORD '{PASSWORD}'")).await;
        for grant in grants {
            ops.run(&format!("GRANT {grant} TO {name}")).await;
        }
        self.login(name).await
    }

    /// Writes the file of administrators, and lets the port read it.
    pub(crate) fn set_file(&self, names: &[&str]) {
        let lines: Vec<String> =
            names.iter().map(|name| user_line(name, "the password of the file")).collect();
        let file = self.files.path().join("admins.txt");
        std::fs::write(&file, lines.join("\n")).unwrap();
        self.server.set_users(read_users(&file).unwrap());
    }
}
