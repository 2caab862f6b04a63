//! What the end-to-end tests stand on: two real PostgreSQL servers, a real `freehold serve` process, real
//! clients.
//!
//! Everything listens on free ports of 127.0.0.1 and ends with the test. Waiting is always for a condition,
//! with a deadline.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test binary uses its own part of it"
)]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod ledger;

use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use freehold::auth::scram::Verifier;
use freehold::lab::{Major, Postgres, free_ports, roots};
use freehold::system::move_objects::OBJECTS;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub const ADMIN: &str = "ops";
pub const ADMIN_PASSWORD: &str = "correct horse";

/// A row of an admin command, by column name.
pub type Row = HashMap<String, String>;

/// Two systems and a Freehold.
pub struct Stage {
    // Dropped in this order: Freehold never sees its systems vanish.
    pub freehold: Freehold,
    pub source: Postgres,
    pub target: Postgres,
}

impl Stage {
    /// The oldest installed major as `old`, the newest as `new`, both registered, and team `payments`.
    pub async fn set() -> Stage {
        Stage::set_with("").await
    }

    /// With more lines for the section `[move]` of the configuration.
    pub async fn set_with(movement: &str) -> Stage {
        let (source, target) =
            tokio::try_join!(Postgres::start_async(Major::oldest()), Postgres::start_async(Major::newest()))
                .expect("two PostgreSQL servers");
        let freehold = Freehold::start(movement, &[&source, &target]);
        let admin = freehold.admin().await;
        for (name, server) in [("old", &source), ("new", &target)] {
            admin.run(&create_system(name, server)).await;
        }
        admin.run("CREATE TEAM payments CONTACT '#payments'").await;
        Stage { freehold, source, target }
    }

    /// Creates database `shop` on `old`; the answer holds `role` and `password`.
    pub async fn create_shop(&self) -> Login {
        let admin = self.freehold.admin().await;
        let rows = admin
            .run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders and carts of the web shop' ON SYSTEM old")
            .await;
        let login = Login {
            port: self.freehold.proxy_port,
            dbname: "shop".into(),
            role: rows[0]["role"].clone(),
            password: rows[0]["password"].clone(),
        };
        // The answer came when the proxy knew the database and its role.
        login.connect().await;
        login
    }
}

pub fn create_system(name: &str, server: &Postgres) -> String {
    format!(
        "CREATE SYSTEM {name} HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'",
        server.host,
        server.port,
        server.superuser,
        server.password_file.display()
    )
}

/// By its Unix socket, where a server may ask for less than SCRAM; other systems reach it over TCP.
pub fn create_system_by_socket(name: &str, server: &Postgres, auth: &str) -> String {
    let Postgres { host, port, superuser, password_file, .. } = server;
    let socket = server.psql("SHOW unix_socket_directories").expect("psql runs");
    format!(
        "CREATE SYSTEM {name} HOST '{socket}' PORT {port} ROLE {superuser} PASSWORD FILE '{}' AUTH {auth} \
         REPLICATION HOST '{host}' PORT {port}",
        password_file.display()
    )
}

/// As a file with secrets should be.
pub fn write_private(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
}

/// How an application connects.
#[derive(Debug, Clone)]
pub struct Login {
    pub port: u16,
    pub dbname: String,
    pub role: String,
    pub password: String,
}

impl Login {
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .dbname(&self.dbname)
            .user(&self.role)
            .password(&self.password);
        config.connect_timeout(Duration::from_secs(10));
        config
    }

    pub async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config().connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn connect(&self) -> Client {
        self.try_connect().await.expect("the application connects")
    }
}

/// A `freehold serve` process with its files.
pub struct Freehold {
    process: Child,
    files: tempfile::TempDir,
    pub proxy_port: u16,
    pub admin_port: u16,
}

impl Freehold {
    pub fn start(movement: &str, systems: &[&Postgres]) -> Freehold {
        Freehold::start_with("", movement, systems)
    }

    /// With more lines for the sections `[proxy]` and `[move]`; other sections may follow in the latter.
    /// Beside its port it listens in [`Freehold::directory`].
    pub fn start_with(proxy: &str, movement: &str, systems: &[&Postgres]) -> Freehold {
        let files = tempfile::tempdir().expect("a directory");
        let salt = [7; 16];
        let iterations = NonZeroU32::new(4096).expect("not zero");
        let verifier = Verifier::from_password(ADMIN_PASSWORD, &salt, iterations);
        write_private(&files.path().join("admins.txt"), &format!("\"{ADMIN}\" \"{verifier}\"\n"));
        // Not port 0: a process that is started again must be where it was.
        let ports = free_ports(2).expect("two ports");
        let (proxy_port, admin_port) = (ports[0], ports[1]);
        let programs: Vec<String> = systems.iter().map(|server| format!("{:?}", server.bin)).collect();
        let config = format!(
            "[proxy]\nlisten = [\"127.0.0.1:{proxy_port}\", {:?}]\n{proxy}\n[admin]\nlisten = \"127.0.0.1:{admin_port}\"\n\
             password_dirs = {:?}\n[move]\npg_bin_dirs = [{}]\n{movement}\n",
            files.path(),
            roots(),
            programs.join(", ")
        );
        std::fs::write(files.path().join("freehold.toml"), config).expect("a file");
        let process = spawn(&files.path().join("freehold.toml"), None);
        let mut freehold = Freehold { process, files, proxy_port, admin_port };
        freehold.wait_until_ready();
        freehold
    }

    /// Ends as by kill -9, and starts on the same files; with `crash_at`, the new process will abort there.
    pub fn restart(&mut self, crash_at: Option<&str>) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = spawn(&self.files.path().join("freehold.toml"), crash_at);
        self.wait_until_ready();
    }

    /// Starts another process on the same files, asks the first one to end when the other waits for its turn,
    /// and answers when the other is ready; the first one ends by itself.
    pub fn take_over(&mut self) -> Child {
        let old = std::mem::replace(&mut self.process, spawn(&self.files.path().join("freehold.toml"), None));
        let turn = std::fs::File::create(self.files.path().join("freehold.redb.next")).expect("a file");
        let deadline = Instant::now() + Duration::from_secs(30);
        while turn.try_lock().is_ok() {
            turn.unlock().expect("a lock");
            assert!(Instant::now() < deadline, "the second process waits for its turn");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = Command::new("kill").args(["-TERM", &old.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        self.wait_until_ready();
        old
    }

    /// Waits for the process to end by itself, and starts it again without a crash point.
    pub fn restart_after_crash(&mut self, within: Duration) -> ExitStatus {
        self.crash_into(None, within)
    }

    /// Waits for the process to end by itself, and starts one that will abort at the next point.
    pub fn crash_into(&mut self, next: Option<&str>, within: Duration) -> ExitStatus {
        let status = self.wait_for_end(within);
        assert_eq!(status.signal(), Some(6), "it ended by abort and not otherwise: {status}");
        self.process = spawn(&self.files.path().join("freehold.toml"), next);
        match next {
            None => self.wait_until_ready(),
            // It may be there before it is ready.
            Some(_) => drop(self.listen()),
        }
        status
    }

    /// Asks the process to end.
    pub fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "freehold did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where the process has its files, and a Unix socket.
    pub fn directory(&self) -> &std::path::Path {
        self.files.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.files.path().join("freehold.toml")
    }

    fn wait_until_ready(&mut self) {
        let told = self.listen();
        told.recv_timeout(Duration::from_secs(30)).expect("freehold says that it is ready");
    }

    /// Reads what the process prints until it ends; tells when it is ready.
    fn listen(&mut self) -> mpsc::Receiver<()> {
        let stdout = self.process.stdout.take().expect("a pipe");
        let (ready, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                if line.contains("ready") {
                    let _ = ready.send(());
                }
                line.clear();
            }
            let _ = lines.read_to_end(&mut Vec::new());
        });
        told
    }

    pub async fn admin(&self) -> Admin {
        let connected = self.admin_config().connect(NoTls).await;
        let (client, connection) = connected.expect("the admin port answers");
        tokio::spawn(connection);
        Admin(client)
    }

    pub fn admin_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.admin_port)
            .dbname("freehold")
            .user(ADMIN)
            .password(ADMIN_PASSWORD);
        config
    }
}

impl Drop for Freehold {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(config: &std::path::Path, crash_at: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.arg("serve").arg("--config").arg(config).stdout(Stdio::piped()).stdin(Stdio::null());
    match crash_at {
        Some(point) => command.env("FREEHOLD_CRASH_AT", point),
        None => command.env_remove("FREEHOLD_CRASH_AT"),
    };
    command.spawn().expect("freehold starts")
}

/// A connection to the admin port.
pub struct Admin(pub Client);

impl Admin {
    pub async fn run(&self, sql: &str) -> Vec<Row> {
        match self.try_run(sql).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    pub async fn try_run(&self, sql: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
        let mut rows = Vec::new();
        for message in self.0.simple_query(sql).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let names = row.columns().iter().map(|column| column.name().to_owned()).collect::<Vec<_>>();
            let value = |index: usize| row.get(index).unwrap_or_default().to_owned();
            rows.push(names.into_iter().enumerate().map(|(index, name)| (name, value(index))).collect());
        }
        Ok(rows)
    }

    pub async fn show_move(&self, id: &str) -> Row {
        let moves = self.run("SHOW MOVES").await;
        moves.into_iter().find(|row| row["id"] == id).expect("the move is listed")
    }

    /// One of the rows of SHOW MOVE; empty where it is not there.
    pub async fn property(&self, id: &str, name: &str) -> String {
        let rows = self.run(&format!("SHOW MOVE {id}")).await;
        let found = rows.iter().find(|row| row["property"] == name);
        found.map(|row| row["value"].clone()).unwrap_or_default()
    }

    /// Starts a move and answers its id.
    pub async fn start_move(&self, database: &str, system: &str) -> String {
        let rows = self.run(&format!("MOVE DATABASE {database} TO SYSTEM {system}")).await;
        rows[0]["move"].clone()
    }

    /// Waits for one of these phases; a move that ends elsewhere fails the test with its whole row.
    pub async fn wait_for_phase(&self, id: &str, phases: &[&str]) -> Row {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let row = self.show_move(id).await;
            let phase = row["phase"].as_str();
            if phases.contains(&phase) {
                return row;
            }
            let over = ["finished", "undone", "rolled back", "parked"].contains(&phase);
            assert!(!over && Instant::now() < deadline, "waiting for {phases:?}: {row:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits for a condition; panics after half a minute.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a move may have left on a server, seen from each of its databases. The server is the test's own:
/// whatever is on the list was left by a move.
pub async fn leftovers(server: &Postgres) -> Vec<String> {
    let cluster = server.connect("postgres").await.expect("a connection");
    let databases = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate";
    let mut found = Vec::new();
    for dbname in texts(&cluster, databases).await {
        let database = server.connect(&dbname).await.expect("a connection");
        found.extend(texts(&database, OBJECTS).await.into_iter().map(|what| format!("{dbname}: {what}")));
    }
    found
}

pub async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.expect("a query of the test");
    rows.iter().map(|row| row.get::<_, String>(0)).collect()
}
