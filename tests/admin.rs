//! The admin port as its users meet it: psql and a driver, against real systems.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use freehold::admin::serve::{AdminOptions, AdminServer};
use freehold::admin::users::{read_users, user_line};
use freehold::admin::{Executor, ExecutorParts, ProcessRequest, ShutdownMode};
use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::store::StoreError;
use freehold::catalog::{Catalog, LoginRefreshOutcome, keys};
use freehold::config::Config;
use freehold::control::logins::LoginSync;
use freehold::control::{ControlSettings, DatabaseOperations};
use freehold::lab::{Major, Majors, Postgres, roots};
use freehold::model::{
    Ack, AckStage, DatabaseId, DatabaseName, DatabaseRecord, Dropping, Finding, FindingSeverity, GateOrder,
    Lifecycle, Login, MoveId, MovePhase, MoveRecord, MoveStep, ProxyId, ProxyRecord, RoleName, RouteRecord,
    StepEntry, StepEvent, UnixMillis,
};
use freehold::route::{Follower, FollowerOptions, RouteTable};
use freehold::telemetry::Metrics;
use tokio::sync::{mpsc, watch};
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// An admin port on an empty catalogue.
struct Port {
    server: AdminServer,
    catalog: Catalog,
    requests: mpsc::Receiver<ProcessRequest>,
    operations: Option<DatabaseOperations>,
    settings: Arc<ArcSwap<ControlSettings>>,
    executor: Executor,
    keeper: LoginSync,
    _interval: watch::Sender<Duration>,
    _follower: Follower,
    _dir: tempfile::TempDir,
}

impl Port {
    async fn open() -> Port {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(EmbeddedStore::open(dir.path().join("store.redb")).unwrap());
        let users = dir.path().join("admins.txt");
        std::fs::write(&users, user_line("alice", "wonderland")).unwrap();
        let routes = RouteTable::new(1);
        let proxy = ProxyRecord {
            id: ProxyId::parse("local").unwrap(),
            version: String::new(),
            started_at: UnixMillis::now(),
            data_address: String::new(),
        };
        let follower =
            Follower::start(catalog.clone(), Arc::clone(&routes), proxy, FollowerOptions::default());
        follower.synced().await;
        let (interval, interval_seen) = watch::channel(Duration::from_millis(100));
        let mut settings = ControlSettings::default();
        settings.access.passwords.directories = roots();
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let keeper = LoginSync::start(catalog.clone(), Arc::clone(&settings), interval_seen);
        let operations =
            DatabaseOperations::start(catalog.clone(), Arc::clone(&settings), UnixMillis::now).await;
        let (ask, requests) = mpsc::channel(1);
        let executor = Executor::new(ExecutorParts {
            catalog: catalog.clone(),
            routes,
            config: Arc::new(ArcSwap::from_pointee(Config::default())),
            applications: SocketAddr::from(([127, 0, 0, 1], 6432)),
            settings: Arc::clone(&settings),
            requests: ask,
            logins: keeper.refresh_handle(),
            access: Arc::default(),
            metrics: Metrics::new(),
            clock: UnixMillis::now,
        });
        let server = serve(&users, executor.clone()).await;
        Port {
            server,
            catalog,
            requests,
            operations: Some(operations),
            settings,
            executor,
            keeper,
            _interval: interval,
            _follower: follower,
            _dir: dir,
        }
    }

    fn dsn(&self, password: &str, dbname: &str) -> String {
        format!("postgres://alice:{password}@{}/{dbname}", self.server.local_addr())
    }

    async fn connect(&self) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.dsn("wonderland", "freehold"), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Waits until the catalogue says that exactly these roles may log in.
    async fn logins_become(&self, id: &DatabaseId, wanted: &[&str]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let logins = self.catalog.logins().of(id).await.unwrap().into_values();
            let may_log_in = logins.iter().filter(|login| login.may_log_in());
            let roles: Vec<&str> = may_log_in.map(|login| login.role.as_str()).collect();
            if roles == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{roles:?} and not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// psql's output: rows on standard output, everything else on standard error.
    async fn psql(&self, arguments: &[&str]) -> (String, String, bool) {
        let newest = Majors::discover().find(Major::Newest).unwrap().bin.join("psql");
        let mut command = Command::new(newest);
        command
            .arg(self.dsn("wonderland", "freehold"))
            .args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose"])
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        (text(output.stdout), text(output.stderr), output.status.success())
    }
}

async fn serve(users: &std::path::Path, executor: Executor) -> AdminServer {
    let options = AdminOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        acceptor: None,
        users: read_users(users).unwrap(),
        connections_max: 4,
        access: std::sync::Arc::default(),
        mock: freehold::auth::scram::MockSecret::from_random([2; 32]),
        login_time_max: Duration::from_secs(10),
        idle_time_max: freehold::admin::serve::IDLE_TIME_MAX,
    };
    AdminServer::start(options, executor).await.unwrap()
}

/// The first row of an answer, by column.
async fn row(client: &Client, sql: &str) -> std::collections::BTreeMap<String, Option<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let found = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = found.unwrap_or_else(|| panic!("{sql}: no row"));
    let value = |index: usize| row.get(index).map(str::to_owned);
    row.columns().iter().enumerate().map(|(index, column)| (column.name().to_owned(), value(index))).collect()
}

/// An answer of properties and their values.
async fn properties(client: &Client, sql: &str) -> std::collections::BTreeMap<String, String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let value =
        |row: &tokio_postgres::SimpleQueryRow, name: &str| row.get(name).unwrap_or_default().to_owned();
    rows.map(|row| (value(&row, "property"), value(&row, "value"))).collect()
}

async fn refused(client: &Client, sql: &str) -> DbError {
    let error = client.simple_query(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

async fn run(client: &Client, sql: &str) {
    client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn create_system(name: &str, postgres: &Postgres) -> String {
    format!(
        "CREATE SYSTEM {name} HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'",
        postgres.host,
        postgres.port,
        postgres.superuser,
        postgres.password_file.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_owner_is_refused_and_the_hint_works_word_for_word() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;

    let error = refused(&admin, "CREATE DATABASE shop").await;
    assert_eq!((error.code().code(), error.message()), ("MF001", "a database needs an owner"));
    assert_eq!(error.where_(), Some("Responsible: the client."));
    run(&admin, "CREATE TEAM payments CONTACT '#pay-oncall'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let hint = refused(&admin, "CREATE DATABASE shop").await.hint().unwrap().to_owned();
    let created = row(&admin, &hint).await;
    assert_eq!(created["system"].as_deref(), Some("pg-a"));

    let password = created["password"].clone().unwrap();
    let app = postgres.connect_as("shop", "shop", &password).await.unwrap();
    app.batch_execute("CREATE TABLE t (id int); CREATE SCHEMA s; CREATE EXTENSION pg_trgm").await.unwrap();
    let fence = app.batch_execute("ALTER DATABASE shop CONNECTION LIMIT -1").await.unwrap_err();
    assert_eq!(fence.code().unwrap().code(), "42501", "the product's role must not be able to lift a fence");

    let stored =
        port.catalog.databases().named(&DatabaseName::parse("shop").unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.value.lifecycle, Lifecycle::Active);
    let shown = properties(&admin, "SHOW DATABASE shop").await;
    // What a move waits for is no limit, and its name is not that of one.
    assert_eq!(shown["move_transaction_wait"], "5m");
    assert!(!shown.contains_key("transaction_time_max"), "{shown:?}");
    let login = port.catalog.logins().of(&stored.value.id).await.unwrap().into_values();
    let verifier = postgres.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'shop'").unwrap();
    assert_eq!(login[0].verifier.as_deref(), Some(verifier.as_str()));

    postgres.psql("CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT CONNECT ON DATABASE shop TO reader").unwrap();
    // The system's superuser may connect, too, but is not let in here.
    port.logins_become(&stored.value.id, &["reader", "shop"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_must_be_a_team_and_a_purpose_must_say_something() {
    let port = Port::open().await;
    let admin = port.connect().await;
    let purpose = "PURPOSE 'orders and carts of the shop'";
    let unknown = refused(&admin, &format!("CREATE DATABASE shop OWNER paymnets {purpose}")).await;
    assert_eq!(unknown.code().code(), "MF003");
    assert_eq!(unknown.hint(), Some("CREATE TEAM paymnets CONTACT 'where the team is reached';"));
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    let near = refused(&admin, &format!("CREATE DATABASE shop OWNER paymnets {purpose}")).await;
    assert_eq!(near.hint(), Some("Did you mean \"payments\"?"));
    for bad in ["", "PURPOSE 'short'", "PURPOSE 'shop'"] {
        let error = refused(&admin, &format!("CREATE DATABASE shop OWNER payments {bad}")).await;
        assert_eq!(error.code().code(), "MF002", "{bad}");
        assert!(error.hint().unwrap().starts_with("CREATE DATABASE shop OWNER payments PURPOSE '"));
    }
    let no_system = refused(&admin, &format!("CREATE DATABASE shop OWNER payments {purpose}")).await;
    assert_eq!(no_system.code().code(), "55000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_without_a_contact_is_refused_and_help_leads_to_all_commands() {
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    for sql in ["CREATE TEAM sales CONTACT ''", "ALTER TEAM payments CONTACT ' '"] {
        assert_eq!(refused(&admin, sql).await.code().code(), "22023", "{sql}");
    }
    let teams = port.catalog.teams().list().await.unwrap().into_values();
    assert_eq!(teams.iter().map(|team| team.contact.as_str()).collect::<Vec<_>>(), ["#pay"]);
    assert_eq!(refused(&admin, "help").await.hint(), Some("SHOW HELP lists the commands."));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_database_is_adopted_with_its_roles_and_their_changes_are_followed() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    postgres.psql("CREATE ROLE old_app LOGIN PASSWORD 'geheim'").unwrap();
    postgres.psql("SET password_encryption = 'md5'; CREATE ROLE legacy LOGIN PASSWORD 'x'").unwrap();
    postgres.psql("CREATE ROLE outsider LOGIN PASSWORD 'y'").unwrap();
    postgres.psql("CREATE DATABASE \"Orders\" OWNER old_app").unwrap();
    postgres.psql("REVOKE CONNECT ON DATABASE \"Orders\" FROM PUBLIC; GRANT CONNECT ON DATABASE \"Orders\" TO legacy").unwrap();
    postgres
        .psql("CREATE ROLE boss LOGIN SUPERUSER PASSWORD 'b'; CREATE ROLE \"nightly dump\" LOGIN SUPERUSER")
        .unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM sales CONTACT '#sales'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;

    let adopt = "ADOPT DATABASE orders ON SYSTEM pg-a OWNER sales PURPOSE 'orders of the last ten years' DBNAME 'Orders'";
    let answer = admin.simple_query(adopt).await.unwrap();
    let rows: Vec<_> = answer
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get("role").unwrap(), row.get("verifier").unwrap(), row.get("warning")))
            }
            _ => None,
        })
        .collect();
    let kinds: Vec<_> = rows.iter().map(|(role, kind, _)| (*role, *kind)).collect();
    assert_eq!(kinds, [("legacy", "md5"), ("old_app", "scram-sha-256")]);
    let warning = rows[0].2.unwrap();
    for expected in
        ["superusers can log in (\"boss\")", "md5 password (\"legacy\")", "\"old_app\" owns the database"]
    {
        assert!(warning.contains(expected), "{warning}");
    }
    assert_eq!(refused(&admin, adopt).await.code().code(), "42P04");

    let id = port
        .catalog
        .databases()
        .named(&DatabaseName::parse("orders").unwrap())
        .await
        .unwrap()
        .unwrap()
        .value
        .id;
    postgres.psql("ALTER ROLE legacy NOLOGIN").unwrap();
    postgres.psql("GRANT CONNECT ON DATABASE \"Orders\" TO outsider").unwrap();
    port.logins_become(&id, &["boss", "nightly dump", "old_app", "outsider"]).await;

    // A login that asks after DROP ROLE waits for the commit that deleted the role.
    let revision = port.catalog.logins().of(&id).await.unwrap().revision;
    let mut logins = port.catalog.watch::<Login>(keys::LOGINS, revision).await.unwrap();
    postgres.psql("DROP OWNED BY legacy; DROP ROLE legacy").unwrap();
    let LoginRefreshOutcome::Current(known) = port.keeper.login_refresh().refresh(&id).await else {
        panic!("not read")
    };
    let legacy = keys::login(&id, &RoleName::parse("legacy").unwrap());
    let deleted = loop {
        let changes = logins.next().await.unwrap().unwrap();
        if let Some(change) = changes.iter().find(|change| change.key() == legacy) {
            break change.revision();
        }
    };
    assert!(known >= deleted, "{known:?} is before {deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_answers_the_databases_own_roles_and_counts_those_of_its_neighbours() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let roles = |prefix: &str| {
        (0..30).map(|n| format!("CREATE ROLE {prefix}{n} LOGIN PASSWORD 'x'")).collect::<Vec<_>>()
    };
    postgres.psql(&roles("neighbour").join("; ")).unwrap();
    postgres.psql("CREATE ROLE owning LOGIN PASSWORD 'x'; CREATE ROLE writers; CREATE ROLE member LOGIN PASSWORD 'x' IN ROLE writers").unwrap();
    postgres.psql("CREATE ROLE reader LOGIN PASSWORD 'x'; CREATE ROLE maker LOGIN PASSWORD 'x'").unwrap();
    for name in ["shop", "bare", "neighbour"] {
        postgres.psql(&format!("CREATE DATABASE {name}")).unwrap();
    }
    postgres
        .psql("GRANT TEMP ON DATABASE shop TO maker; GRANT CREATE ON DATABASE neighbour TO neighbour1")
        .unwrap();
    let schema = "CREATE TABLE t (id int); CREATE TABLE o (id int); ALTER TABLE o OWNER TO owning;
        GRANT SELECT ON t TO reader; GRANT INSERT ON t TO writers";
    postgres.psql_in("shop", schema).unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM sales CONTACT '#sales'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let adopt = |name: &str| {
        format!("ADOPT DATABASE {name} ON SYSTEM pg-a OWNER sales PURPOSE 'orders of the last ten years'")
    };
    let adopted = async |name: &str| {
        let rows = admin.simple_query(&adopt(name)).await.unwrap();
        let rows = rows.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let value = |row: &tokio_postgres::SimpleQueryRow, name: &str| row.get(name).map(str::to_owned);
        rows.map(|row| ["role", "other_roles", "warning"].map(|name| value(&row, name))).collect::<Vec<_>>()
    };
    let own = |role: &str| [Some(role.to_owned()), Some("30".to_owned()), None];
    assert_eq!(adopted("shop").await, ["maker", "member", "owning", "reader"].map(own));
    let [role, others, warning] = adopted("bare").await.remove(0);
    assert_eq!((role, others.as_deref()), (None, Some("34")));
    assert!(warning.unwrap().contains("no role that can log in owns something"));

    // All of them are served, and the platform's role never is.
    let id = port
        .catalog
        .databases()
        .named(&DatabaseName::parse("shop").unwrap())
        .await
        .unwrap()
        .unwrap()
        .value
        .id;
    let logins = port.catalog.logins().of(&id).await.unwrap().into_values();
    assert_eq!(logins.len(), 34);
    assert!(logins.iter().all(|login| login.role.as_str() != postgres.superuser), "{logins:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_database_is_closed_and_renamed_and_its_name_is_free() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let create = "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'";
    let created = row(&admin, create).await;
    let app = postgres.connect_as("shop", "shop", created["password"].as_deref().unwrap()).await.unwrap();
    app.batch_execute("CREATE TABLE t AS SELECT 7 AS x").await.unwrap();

    assert_eq!(refused(&admin, "DROP DATABASE shop").await.code().code(), "22023");
    let team = refused(&admin, "DROP TEAM payments").await;
    assert_eq!(team.detail(), Some("Databases: shop."));
    assert_eq!(team.hint(), Some("TRANSFER DATABASE shop TO TEAM team; offers it to another team."));
    let system = refused(&admin, "DROP SYSTEM pg-a").await;
    assert_eq!(system.code().code(), "2BP01");
    assert_eq!(system.hint(), Some("MOVE DATABASE shop TO SYSTEM system; empties it."));
    assert!(refused(&admin, create).await.hint().unwrap().contains("SHOW DATABASE shop;"));
    let left = row(&admin, "DROP DATABASE shop CONFIRM 'shop' REASON 'replaced by shop2'").await;
    let left = left["left_as"].clone().unwrap();
    let closed =
        postgres.psql(&format!("SELECT datallowconn FROM pg_database WHERE datname = '{left}'")).unwrap();
    assert_eq!(closed, "f");
    assert!(app.simple_query("SELECT 1").await.is_err(), "sessions end");
    postgres.psql(&format!("ALTER DATABASE \"{left}\" ALLOW_CONNECTIONS true")).unwrap();
    assert_eq!(postgres.psql_in(&left, "SELECT x FROM t").unwrap(), "7", "nothing is destroyed");

    let again = row(&admin, create).await;
    assert_ne!(again["id"], created["id"]);
    let history = admin.simple_query("SHOW HISTORY shop").await.unwrap();
    assert!(history.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_could_not_be_dropped_is_served_again() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let created =
        row(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'").await;
    // The name that it would get is taken, so that the drop fails after the database was closed.
    let id = created["id"].clone().unwrap();
    postgres.psql(&format!("CREATE DATABASE shop__dropped_{}", &id[id.len() - 8..])).unwrap();
    let drop = "DROP DATABASE shop CONFIRM 'shop' REASON 'replaced by shop2'";
    assert_eq!(refused(&admin, drop).await.code().code(), "42P04");
    assert_eq!(row(&admin, "SHOW DATABASES").await["disabled"].as_deref(), Some("0"));
    postgres.connect_as("shop", "shop", created["password"].as_deref().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_fails_half_way_is_taken_back_on_the_system_too() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let created =
        row(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'").await;
    // The database can be renamed, its role cannot.
    let id = created["id"].clone().unwrap();
    postgres.psql(&format!("CREATE ROLE shop__dropped_{}", &id[id.len() - 8..])).unwrap();
    let drop = "DROP DATABASE shop CONFIRM 'shop' REASON 'replaced by shop2'";
    assert_eq!(refused(&admin, drop).await.code().code(), "42710");
    assert_eq!(row(&admin, "SHOW DATABASES").await["state"].as_deref(), Some("active"));
    let shown = row(&admin, "SHOW OPERATIONS").await;
    assert_eq!((shown["kind"].as_deref(), shown["phase"].as_deref()), (Some("drop"), Some("failed")));
    postgres.connect_as("shop", "shop", created["password"].as_deref().unwrap()).await.unwrap();
    postgres.psql(&format!("DROP ROLE shop__dropped_{}", &id[id.len() - 8..])).unwrap();
    run(&admin, drop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_creation_leaves_nothing_on_the_system_and_the_name_is_free() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    // Schema public of the new database cannot be handed over: it is not in the template any more.
    postgres.psql("ALTER DATABASE template0 ALLOW_CONNECTIONS true").unwrap();
    postgres.psql_in("template0", "DROP SCHEMA public").unwrap();
    postgres.psql("ALTER DATABASE template0 ALLOW_CONNECTIONS false").unwrap();
    let create = "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'";
    assert_eq!(refused(&admin, create).await.code().code(), "3F000");
    let left = postgres.psql("SELECT (SELECT count(*) FROM pg_database WHERE datname = 'shop') + (SELECT count(*) FROM pg_roles WHERE rolname = 'shop')").unwrap();
    assert_eq!(left, "0");
    assert_eq!(refused(&admin, "SHOW DATABASE shop").await.code().code(), "3D000");

    postgres.psql("CREATE ROLE shop").unwrap();
    assert_eq!(refused(&admin, create).await.code().code(), "42710");
    assert_eq!(
        postgres.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'shop'").unwrap(),
        "1",
        "somebody else's role stays"
    );
}

/// The state of the database, and the phase of the operation that is first in SHOW OPERATIONS.
async fn stands(admin: &Client) -> (Option<String>, Option<String>) {
    let state = row(admin, "SHOW DATABASES").await["state"].clone();
    (state, row(admin, "SHOW OPERATIONS").await["phase"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_port_that_opens_leaves_alone_what_another_process_creates() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let mut port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    // Nothing drives the creation: it is as if another process were at it.
    port.operations.take().unwrap().stop().await;
    let other = port.connect().await;
    let create = "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'";
    let creating = tokio::spawn(async move { refused(&other, create).await });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while port.catalog.databases().list().await.unwrap().records.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the creation is not recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let running = (Some("provisioning".to_owned()), Some("running".to_owned()));
    let second = serve(&port._dir.path().join("admins.txt"), port.executor.clone()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stands(&admin).await, running);
    assert_eq!(row(&admin, "SHOW DATABASES").await["operation"].as_deref(), Some("create 1"));
    let busy = refused(&admin, "DROP DATABASE shop CONFIRM 'shop' REASON 'not needed'").await;
    assert_eq!((busy.code().code(), busy.hint()), ("MF102", Some("SHOW OPERATIONS; follows it.")));
    second.shutdown(Duration::from_secs(5)).await;

    // The next process cannot know the password.
    let catalog = port.catalog.clone();
    let _operations = DatabaseOperations::start(catalog, Arc::clone(&port.settings), UnixMillis::now).await;
    let error = tokio::time::timeout(Duration::from_secs(20), creating).await.unwrap().unwrap();
    assert_eq!(
        (error.code().code(), error.message()),
        ("57P02", "the process ended meanwhile; what the command made is removed")
    );
    let shown = row(&admin, "SHOW OPERATIONS").await;
    assert_eq!((shown["kind"].as_deref(), shown["phase"].as_deref()), (Some("create"), Some("failed")));
    assert_eq!(shown["error"].as_deref(), Some(error.message()));
    assert!(row(&admin, create).await["password"].is_some(), "the name is free");
    assert_eq!(stands(&admin).await, (Some("active".to_owned()), Some("done".to_owned())));
}

/// Older versions had no operations: a creation was a state, a drop a field.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_left_unfinished_is_taken_up() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let mut port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    let mut ids = Vec::new();
    for name in ["creating", "dropping"] {
        let create = format!("CREATE DATABASE {name} OWNER payments PURPOSE 'orders and carts of the shop'");
        ids.push(DatabaseId::parse(row(&admin, &create).await["id"].as_deref().unwrap()).unwrap());
    }
    port.operations.take().unwrap().stop().await;
    let cut_short = |record: &mut DatabaseRecord| {
        match record.name.as_str() {
            "creating" => record.lifecycle = Lifecycle::Provisioning,
            _ => {
                let (who, reason) = ("bob".to_owned(), "not needed".to_owned());
                record.dropping = Some(Dropping { at: UnixMillis(1), who, reason });
            }
        }
        Ok::<(), StoreError>(())
    };
    for id in &ids {
        port.catalog.databases().change(id, cut_short).await.unwrap();
    }

    let catalog = port.catalog.clone();
    let _operations = DatabaseOperations::start(catalog, Arc::clone(&port.settings), UnixMillis::now).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !port.catalog.routes().list().await.unwrap().records.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", port.catalog.databases().list().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left = postgres
        .psql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname ~ 'ing'");
    let id = ids[1].as_str();
    assert_eq!(left.unwrap(), format!("dropping__dropped_{}", &id[id.len() - 8..]));
    assert!(port.catalog.databases().get(&ids[0]).await.unwrap().is_none());
    let tombstone = port.catalog.databases().get(&ids[1]).await.unwrap().unwrap().value;
    assert!(matches!(tombstone.lifecycle, Lifecycle::Deleted { .. }), "{tombstone:?}");
    let told = port.catalog.audit().since(UnixMillis(0)).await.unwrap();
    let outcome = |who: &str| told.iter().rfind(|entry| entry.who == who).map(|entry| entry.outcome.as_str());
    assert_eq!(outcome("bob"), Some("ok, after a restart"));
    assert!(outcome("alice").unwrap().starts_with("57P02: the process ended meanwhile"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_for_one_server_are_refused() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    let created = row(&admin, &create_system("pg-a", &postgres)).await;
    assert!(created["version"].as_deref().unwrap().starts_with(&postgres.major.to_string()));
    assert_eq!(refused(&admin, &create_system("pg-b", &postgres)).await.code().code(), "42710");
    let dead = "CREATE SYSTEM dead HOST '127.0.0.1' PORT 1 ROLE postgres";
    assert_eq!(refused(&admin, dead).await.code().code(), "08006");
    assert_eq!(refused(&admin, "DROP SYSTEM pg-b").await.hint(), Some("Did you mean \"pg-a\"?"));
    drop(postgres);
    refused(&admin, "ALTER SYSTEM pg-a ROLE other").await;
    run(&admin, "ALTER SYSTEM pg-a CORDON").await;
    assert_eq!(row(&admin, "SHOW SYSTEMS").await["accepts_databases"].as_deref(), Some("f"));
    run(&admin, "DROP SYSTEM pg-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_cannot_be_added_says_what_is_wrong_and_what_helps() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    let create = create_system("pg-a", &postgres);
    let (open, _) = create.split_once(" PASSWORD FILE").unwrap();
    let error = refused(&admin, open).await;
    assert_eq!(error.code().code(), "28P01");
    assert!(error.message().contains("asks for a password"), "{error:?}");
    assert!(error.hint().unwrap().contains("PASSWORD FILE '/path'"), "{error:?}");
    let missing = postgres.password_file.with_file_name("nothing");
    let error = refused(&admin, &format!("{open} PASSWORD FILE '{}'", missing.display())).await;
    assert!(error.detail().unwrap().contains("No such file"), "{error:?}");
    let error = refused(&admin, &format!("{open} PASSWORD FILE 'password'")).await;
    assert_eq!((error.code().code(), error.message()), ("22023", "'password' is no absolute path"));
    let dead = "CREATE SYSTEM dead HOST '127.0.0.1' PORT 1 ROLE postgres";
    let error = refused(&admin, dead).await;
    assert!(error.detail().unwrap().contains("refused"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_cannot_take_the_name_of_one_that_holds_databases() {
    let (postgres, other) =
        tokio::join!(Postgres::start_async(Major::Oldest), Postgres::start_async(Major::Oldest));
    let (postgres, other) = (postgres.unwrap(), other.unwrap());
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    run(&admin, "CREATE TEAM retail CONTACT 'x'").await;
    let create =
        "CREATE DATABASE shop OWNER retail PURPOSE 'Orders and carts of the web shop' ON SYSTEM pg-a";
    run(&admin, create).await;
    let alter = |host: &str, server: &Postgres| {
        let (port, file) = (server.port, server.password_file.display());
        format!("ALTER SYSTEM pg-a HOST '{host}' PORT {port} PASSWORD FILE '{file}'")
    };
    let refusal = refused(&admin, &alter("127.0.0.1", &other)).await;
    assert_eq!(refusal.code().code(), "2BP01");
    assert!(refusal.hint().unwrap().contains("MOVE DATABASE"), "{refusal:?}");
    assert!(refusal.detail().unwrap().contains("shop"), "{refusal:?}");
    run(&admin, &alter("localhost", &postgres)).await;
    run(&admin, "DROP DATABASE shop CONFIRM 'shop' REASON 'the end of a test'").await;
    run(&admin, &alter("127.0.0.1", &other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_shows_tables_errors_with_their_place_and_several_statements() {
    let port = Port::open().await;
    let (out, _, good) = port.psql(&["-c", "CREATE TEAM a CONTACT 'x'; SHOW TEAMS; SHOW VERSION"]).await;
    assert!(good);
    assert!(out.contains("a|x|0|") && out.contains("Freehold 0."), "{out}");
    let (_, error, good) = port.psql(&["-c", "SHOW DATABASEZ"]).await;
    assert!(!good);
    assert!(error.contains("ERROR:  42601:") && error.contains("Did you mean DATABASES?"), "{error}");
    assert!(error.contains("\n             ^") || error.contains("LINE 1: SHOW DATABASEZ"), "{error}");
    let (out, _, _) = port.psql(&["-c", "SHOW HELP"]).await;
    assert!(out.contains("MOVE DATABASE name TO"), "{out}");
    let (out, error, good) =
        port.psql(&["-c", "\\conninfo", "-c", "BEGIN", "-c", "SELECT 1", "-c", "COMMIT", "-c", ";"]).await;
    assert!(good, "{out} {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_an_unknown_name_and_another_database_are_refused() {
    let port = Port::open().await;
    let code = |error: tokio_postgres::Error| error.code().map(|code| code.code().to_owned());
    let wrong = tokio_postgres::connect(&port.dsn("nonsense", "freehold"), NoTls).await.err().unwrap();
    assert_eq!(code(wrong).as_deref(), Some("28P01"));
    let stranger = port.dsn("wonderland", "freehold").replace("alice", "mallory");
    let stranger = tokio_postgres::connect(&stranger, NoTls).await.err().unwrap();
    assert_eq!(code(stranger).as_deref(), Some("28P01"));
    let other = tokio_postgres::connect(&port.dsn("wonderland", "shop"), NoTls).await.err().unwrap();
    assert_eq!(code(other).as_deref(), Some("3D000"));
    assert!(tokio_postgres::connect(&port.dsn("wonderland", "pgbouncer"), NoTls).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_refused() {
    let port = Port::open().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(port.connect().await);
    }
    let error = tokio_postgres::connect(&port.dsn("wonderland", "freehold"), NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "53300");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_prepares_describes_and_executes() {
    let port = Port::open().await;
    let admin = port.connect().await;
    let statement = admin.prepare("SHOW TEAMS").await.unwrap();
    let names: Vec<&str> = statement.columns().iter().map(|column| column.name()).collect();
    assert_eq!(names, ["name", "contact", "databases", "created_at", "parent", "escalation"]);
    admin.execute("CREATE TEAM a CONTACT 'x'", &[]).await.unwrap();
    let rows = admin.query(&statement, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>("contact"), "x");
    let error = admin.query("SHOW NOTHING", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42601");
    assert_eq!(
        admin.query("SHOW TEAMS", &[]).await.unwrap().len(),
        1,
        "an error does not end the connection"
    );
    admin.query("", &[]).await.unwrap();
    assert_eq!(
        admin.query_one("SELECT version()", &[]).await.unwrap().get::<_, String>(0).split(' ').next(),
        Some("PostgreSQL")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_wraps_everything_in_a_transaction_sees_its_status() {
    let port = Port::open().await;
    let mut admin = port.connect().await;
    let transaction = admin.transaction().await.unwrap();
    transaction.execute("CREATE TEAM a CONTACT 'x'", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    let transaction = admin.transaction().await.unwrap();
    assert!(transaction.simple_query("DROP TEAM b").await.is_err());
    let error = transaction.simple_query("SHOW TEAMS").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25P02");
    transaction.rollback().await.unwrap();
    run(&admin, "SHOW TEAMS").await;
    let mut transaction = admin.transaction().await.unwrap();
    let inner = transaction.transaction().await.unwrap();
    assert!(inner.simple_query("DROP TEAM b").await.is_err());
    inner.rollback().await.unwrap();
    transaction.simple_query("SHOW TEAMS").await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_gives_its_rows_in_parts_until_its_transaction_ends() {
    let port = Port::open().await;
    let mut admin = port.connect().await;
    for team in ["a", "b", "c"] {
        run(&admin, &format!("CREATE TEAM {team} CONTACT 'x'")).await;
    }
    let transaction = admin.transaction().await.unwrap();
    let portal = transaction.bind("SHOW TEAMS", &[]).await.unwrap();
    let mut names = Vec::new();
    for wanted in [2, 2] {
        let rows = transaction.query_portal(&portal, wanted).await.unwrap();
        names.extend(rows.iter().map(|row| row.get::<_, String>("name")));
    }
    assert_eq!(names, ["a", "b", "c"]);
    transaction.simple_query("COMMIT").await.unwrap();
    let gone = transaction.query_portal(&portal, 1).await.unwrap_err();
    assert_eq!(gone.code().unwrap().code(), "34000");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_audited_with_who_and_how_it_ended() {
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM a CONTACT 'x'").await;
    refused(&admin, "DROP TEAM b").await;
    refused(&admin, "CREATE DATABASE password_vault PURPOSE 'secrets of the shop'").await;
    refused(&admin, "CREATE SYSTEM a HOST 'x' PORT 1 ROLE r PASSWORD 'geheim'").await;
    run(&admin, "SHOW TEAMS").await;
    let entries = port.catalog.audit().since(UnixMillis(0)).await.unwrap();
    let told: Vec<_> =
        entries.iter().map(|e| (e.who.as_str(), e.command.as_str(), e.outcome.as_str())).collect();
    assert_eq!(told[0], ("alice", "CREATE TEAM a CONTACT 'x'", "ok"));
    assert_eq!(told[1].1, "DROP TEAM b");
    assert!(told[1].2.starts_with("MF003: "), "{told:?}");
    assert_eq!(told[2].1, "CREATE DATABASE password_vault PURPOSE 'secrets of the shop'");
    assert_eq!(told.len(), 3, "what changes nothing, or is not understood, is not audited");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_holds_and_resume_releases() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    run(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'").await;
    run(&admin, "PAUSE shop").await;
    assert_eq!(row(&admin, "SHOW DATABASES").await["paused"].as_deref(), Some("1"));
    assert_eq!(row(&admin, "SHOW STATE").await["value"].as_deref(), Some("no"));
    run(&admin, "PAUSE").await;
    run(&admin, "RESUME").await;
    assert_eq!(row(&admin, "SHOW DATABASES").await["paused"].as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_all_databases_holds_none_where_one_is_moving() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    for name in ["shop", "stock", "users"] {
        run(&admin, &format!("CREATE DATABASE {name} OWNER payments PURPOSE 'orders and carts of the shop'"))
            .await;
    }
    let stock =
        port.catalog.databases().named(&DatabaseName::parse("stock").unwrap()).await.unwrap().unwrap();
    let prepare = |route: &mut RouteRecord| {
        route.next = Some(route.place.clone());
        Ok::<(), StoreError>(())
    };
    port.catalog.routes().update(&stock.value.id, prepare).await.unwrap();

    run(&admin, "PAUSE shop").await;
    assert_eq!(refused(&admin, "PAUSE").await.code().code(), "55006");
    let gates: Vec<bool> = routes(&port).await.iter().map(|route| route.gate == GateOrder::Open).collect();
    assert_eq!(gates.iter().filter(|open| **open).count(), 2, "shop was paused before, and stays");
}

/// Every route as it is recorded.
async fn routes(port: &Port) -> Vec<RouteRecord> {
    port.catalog.routes().list().await.unwrap().into_values()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_it_is_cancelled_and_the_move_stays_recorded() {
    let source = Postgres::start_async(Major::Oldest).await.unwrap();
    let target = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &source)).await;
    run(&admin, &create_system("pg-b", &target)).await;
    run(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop' ON SYSTEM pg-a")
        .await;
    assert_eq!(refused(&admin, "MOVE DATABASE shop TO pg-a").await.code().code(), "22023");

    // No mover runs here, so the wait would never end by itself.
    let token = admin.cancel_token();
    let waiting = tokio::spawn(async move {
        let error = admin.simple_query("MOVE DATABASE shop TO pg-b WAIT").await.expect_err("cancelled");
        (admin, error)
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while port.catalog.moves().list().await.unwrap().records.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the move is not recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while !waiting.is_finished() {
        token.cancel_query(NoTls).await.unwrap();
        assert!(tokio::time::Instant::now() < deadline, "the wait goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (admin, error) = waiting.await.unwrap();
    assert_eq!(error.code().unwrap().code(), "57014");
    assert_eq!(row(&admin, "SHOW MOVES").await["phase"].as_deref(), Some("preflight"));
    let busy = refused(&admin, "MOVE DATABASE shop TO pg-b").await;
    assert_eq!((busy.code().code(), busy.hint()), ("MF102", Some("Wait for it, or CANCEL MOVE 1;")));
    let early = refused(&admin, "UNDO MOVE 1").await;
    assert_eq!((early.code().code(), early.hint()), ("MF103", Some("Wait for it, or CANCEL MOVE 1;")));
    assert_eq!(refused(&admin, "UNDO MOVE 7").await.code().code(), "42704");
    run(&admin, "CANCEL MOVE 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_move_names_what_is_in_the_way() {
    let source =
        Postgres::builder(Major::Oldest).setting("wal_level", "replica").start_async().await.unwrap();
    let target = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    let created = row(&admin, &create_system("pg-a", &source)).await;
    assert!(created["warning"].as_deref().unwrap().contains("wal_level is replica"));
    run(&admin, &create_system("pg-b", &target)).await;
    run(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop' ON SYSTEM pg-a")
        .await;
    let first = row(&admin, "PLAN MOVE DATABASE shop TO pg-b").await;
    assert_eq!(first["severity"].as_deref(), Some("blocker"));
    assert!(first["cure"].is_some());

    // What is Freehold's own to cure is cured by the words of the report.
    run(&admin, "ALTER SYSTEM pg-b CORDON").await;
    let cure = planned(&admin, "target_closed").await.expect("a cordoned target");
    run(&admin, &cure).await;
    assert_eq!(planned(&admin, "target_closed").await, None);
    target.stop().unwrap();
    let cure = planned(&admin, "target_unreachable").await.expect("a target that is down");
    target.restart().unwrap();
    run(&admin, &cure).await;
    assert_eq!(planned(&admin, "target_unreachable").await, None);
    source.stop().unwrap();
    let cure = planned(&admin, "source_unreachable").await.expect("a source that is down");
    source.restart().unwrap();
    run(&admin, &cure).await;
    assert_eq!(planned(&admin, "source_unreachable").await, None);
}

/// A property of the first move.
async fn property(admin: &Client, name: &str) -> Option<String> {
    let messages = admin.simple_query("SHOW MOVE 1").await.unwrap();
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("property") == Some(name) => {
            row.get("value").map(str::to_owned)
        }
        _ => None,
    })
}

/// The cure of a finding; None where there is no such finding.
async fn planned(admin: &Client, check: &str) -> Option<String> {
    let messages = admin.simple_query("PLAN MOVE DATABASE shop TO pg-b").await.unwrap();
    let found = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("check") == Some(check) => Some(row),
        _ => None,
    });
    found.map(|row| row.get("cure").unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_and_shutdown_reach_the_process() {
    let mut port = Port::open().await;
    let admin = port.connect().await;
    let asking = tokio::spawn(async move { row(&admin, "RELOAD").await });
    let Some(ProcessRequest::Reload { answer }) = port.requests.recv().await else { panic!("no reload") };
    answer.send(Ok(vec![("log.level".to_owned(), true)])).unwrap();
    assert_eq!(asking.await.unwrap()["applied"].as_deref(), Some("now"));
    let admin = port.connect().await;
    run(&admin, "SHUTDOWN").await;
    assert!(matches!(port.requests.recv().await, Some(ProcessRequest::Shutdown(ShutdownMode::Now))));
    port.server.shutdown(Duration::from_secs(5)).await;
    assert!(admin.simple_query("SHOW VERSION").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_locks_out_no_client_of_another_database_and_a_move_says_what_it_left() {
    let source = Postgres::start_async(Major::Oldest).await.unwrap();
    let target = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &source)).await;
    run(&admin, &create_system("pg-b", &target)).await;
    for (server, dbname, secret) in [(&source, "shop", "here"), (&target, "qa", "there")] {
        server.psql(&format!("CREATE ROLE svc LOGIN PASSWORD '{secret}'")).unwrap();
        server.psql(&format!("CREATE DATABASE {dbname}")).unwrap();
    }
    run(&admin, "ADOPT DATABASE shop ON SYSTEM pg-a OWNER payments PURPOSE 'orders and carts of the shop'")
        .await;
    // Whoever may connect to it at all is a client of it, for all that the platform knows.
    run(&admin, "ADOPT DATABASE qa ON SYSTEM pg-b OWNER payments PURPOSE 'trying things before a release'")
        .await;
    let named = port.catalog.databases().named(&DatabaseName::parse("qa").unwrap()).await;
    port.logins_become(&named.unwrap().unwrap().value.id, &["svc"]).await;
    let cure = planned(&admin, "role_password").await.expect("another password");
    assert!(cure.lines().all(|line| line.starts_with("--")), "{cure}");
    target.connect_as("qa", "svc", "there").await.expect("a client of qa");

    // MAX PAUSE makes the contract's pause shorter, never longer.
    assert!(planned(&admin, "pause_max").await.is_some());
    run(&admin, "MOVE DATABASE shop TO pg-b MAX PAUSE '10s'").await;
    let (value, because) = (property(&admin, "pause_max").await, property(&admin, "pause_max_because").await);
    assert_eq!(value.as_deref(), Some("1s"));
    assert_eq!(
        because.as_deref(),
        Some(
            "MAX PAUSE '10s' is more than move_pause_max of the contract of database shop allows: 1s are in force"
        )
    );

    // Without a way back UNDO is refused at once.
    let kept = |record: &mut MoveRecord| {
        record.phase = MovePhase::Kept;
        let (step, event) = (MoveStep::Cutover, StepEvent::Done);
        record.log.push(StepEntry { step, event, at: UnixMillis(1), note: None });
        record.facts.notes.insert("no_way_back_because".into(), "slot s was dropped".into());
        Ok::<(), StoreError>(())
    };
    port.catalog.moves().update(MoveId(1), kept).await.unwrap();
    let refusal = refused(&admin, "UNDO MOVE 1 WAIT").await;
    assert_eq!((refusal.code().code(), refusal.detail()), ("MF103", Some("slot s was dropped")));
    assert!(refusal.hint().unwrap().starts_with("FINISH MOVE 1;"));
    assert_eq!(row(&admin, "SHOW MOVES").await["error"].as_deref(), Some("slot s was dropped"));
    assert_eq!(property(&admin, "no_undo").await.as_deref(), Some("slot s was dropped"));

    let change = |record: &mut MoveRecord| {
        record.phase = MovePhase::Finished;
        record.facts.notes.insert("roles_that_stay".into(), "svc".into());
        record.facts.findings.push(Finding {
            severity: FindingSeverity::Warning,
            check: "role_conflict".into(),
            object: Some("svc".into()),
            message: "PASSWORD of role svc changed on both systems".into(),
            cure: None,
            responsible: freehold::error::Blame::Platform,
        });
        Ok::<(), StoreError>(())
    };
    port.catalog.moves().update(MoveId(1), change).await.unwrap();
    let messages = admin.simple_query("SHOW MOVE 1").await.unwrap();
    let value = |name: &str| {
        messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.get("property") == Some(name) => row.get("value"),
            _ => None,
        })
    };
    assert_eq!(value("warning role_conflict"), Some("PASSWORD of role svc changed on both systems"));
    assert_eq!(value("roles_that_stay"), Some("svc"));
    assert!(value("old_copy").unwrap().contains("ALTER DATABASE \"shop__moved_1\" ALLOW_CONNECTIONS true;"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_another_proxy_keep_a_database_from_being_quarantined_which_reaches_every_proxy() {
    let postgres = Postgres::start_async(Major::Oldest).await.unwrap();
    let port = Port::open().await;
    let admin = port.connect().await;
    run(&admin, "CREATE TEAM payments CONTACT '#pay'").await;
    run(&admin, &create_system("pg-a", &postgres)).await;
    run(&admin, "CREATE DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop'").await;
    let name = DatabaseName::parse("shop").unwrap();
    let database = port.catalog.databases().named(&name).await.unwrap().unwrap().value.id;
    let proxy = |id: &str| ProxyRecord {
        id: ProxyId::parse(id).unwrap(),
        version: String::new(),
        started_at: UnixMillis::now(),
        data_address: String::new(),
    };
    let other = proxy("other");
    let lease = port.catalog.fleet().enlist(&other, Duration::from_secs(600)).await.unwrap();
    let ack = Ack {
        proxy: other.id.clone(),
        database: database.clone(),
        order: 1,
        stage: AckStage::Done,
        sessions: 2,
        waiting: 0,
        pinned: Vec::new(),
        server_pids: Vec::new(),
        stall: None,
        at: UnixMillis::now(),
    };
    port.catalog.fleet().acknowledge(&ack, lease.id).await.unwrap();
    let command = "QUARANTINE DATABASE shop REASON 'not used'";
    let error = refused(&admin, command).await;
    let told = (error.code().code(), error.detail());
    assert_eq!(told, ("55006", Some("They are: 2 connections of proxy \"other\".")));
    port.catalog.fleet().delete_ack(&other.id, &database).await.unwrap();

    let routes = RouteTable::new(1);
    let follower = Follower::start(
        port.catalog.clone(),
        Arc::clone(&routes),
        proxy("third"),
        FollowerOptions::default(),
    );
    follower.synced().await;
    let is_refused = || routes.by_id(&database).unwrap().current().login_refusal().is_some();
    assert!(!is_refused());
    run(&admin, command).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_refused() {
        assert!(tokio::time::Instant::now() < deadline, "the other proxy does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run(&admin, "REVIVE DATABASE shop").await;
    while is_refused() {
        assert!(tokio::time::Instant::now() < deadline, "the other proxy does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
