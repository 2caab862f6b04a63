//! Who is measured: PostgreSQL itself, Freehold, PgBouncer, HAProxy, each a process of its own in front of
//! one server.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use freehold::auth::scram::Verifier;
use freehold::lab::{Major, Postgres, free_port, roots};
use tokio_postgres::NoTls;

pub(crate) const ROLE: &str = "app";
pub(crate) const PASSWORD: &str = "correct horse";
/// Pooled by session.
pub(crate) const DATABASE: &str = "bench";
/// Pooled by transaction, over so many connections.
pub(crate) const LENT: &str = "lent";
const LENT_CONNECTIONS: u32 = 20;

const ADMIN: &str = "admin";
const SCALE: &str = "10";
const CLIENTS_MAX: u32 = 1300;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where everything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// On one CPU.
    Pinned,
    /// Wherever the scheduler wants.
    Free,
}

impl Stage {
    pub(crate) fn parse(name: &str) -> Stage {
        match name {
            "pinned" => Stage::Pinned,
            "free" => Stage::Free,
            _ => panic!("no such stage: {name}"),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stage::Pinned => "pinned",
            Stage::Free => "free",
        }
    }

    fn threads(self) -> usize {
        match self {
            Stage::Pinned => 1,
            Stage::Free => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) port: u16,
    process: Option<Child>,
    /// Named statements work where connections are lent.
    pub(crate) lends_prepared: bool,
}

impl Contender {
    pub(crate) fn is_proxy(&self) -> bool {
        self.process.is_some()
    }

    /// By transaction.
    pub(crate) fn pools(&self) -> bool {
        self.is_proxy() && self.name != "haproxy"
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// One server with its contenders. Everything ends with it.
pub(crate) struct Arena {
    pub(crate) stage: Stage,
    pub(crate) contenders: Vec<Contender>,
    /// Who they are, and who could not be had.
    pub(crate) notes: Vec<String>,
    pub(crate) bin: PathBuf,
    pub(crate) files: tempfile::TempDir,
    _postgres: Postgres,
}

impl Arena {
    pub(crate) fn open(stage: Stage) -> Arena {
        if stage == Stage::Pinned {
            // Everything that is started from here on stays on this CPU.
            pin(std::process::id());
        } else {
            unpin(std::process::id());
        }
        let files = tempfile::tempdir().expect("a directory");
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).expect("readable by others");
        let certificate = certificate(files.path());
        let postgres = postgres(&certificate);
        let verifier = prepare(&postgres);
        let mut arena = Arena {
            stage,
            contenders: Vec::new(),
            notes: Vec::new(),
            bin: postgres.bin.clone(),
            files,
            _postgres: postgres,
        };
        arena.enter(&certificate, &verifier);
        arena
    }

    fn enter(&mut self, certificate: &Certificate, verifier: &str) {
        let (server, directory, stage) = (&self._postgres, self.files.path(), self.stage);
        self.contenders.push(Contender {
            name: "direct".to_owned(),
            port: server.port,
            process: None,
            lends_prepared: false,
        });
        self.contenders.push(freehold(server, directory, certificate, stage));
        let packaged = PathBuf::from("pgbouncer");
        let pgbouncers = match std::env::var_os("FREEHOLD_BENCH_PGBOUNCER") {
            Some(named) => vec![("pgbouncer", named.into()), ("pgbouncer (packaged)", packaged)],
            None => vec![("pgbouncer", packaged)],
        };
        for (name, program) in pgbouncers {
            match pgbouncer(name, &program, server, directory, certificate, verifier) {
                Some(contender) => {
                    self.notes.push(format!("{name} is {}", version(&program)));
                    self.contenders.push(contender);
                }
                None => self.notes.push(format!("{name} is absent: {} does not run here", program.display())),
            }
        }
        if let Some(script) = std::env::var_os("FREEHOLD_BENCH_OTHER") {
            let script = PathBuf::from(script);
            match other(&script, server, directory, stage) {
                Some(contender) => self.contenders.push(contender),
                None => self.notes.push(format!("{} does not run here", script.display())),
            }
        }
        match haproxy(server, directory, stage) {
            Some(contender) => self.contenders.push(contender),
            None => self.notes.push("haproxy is absent: it is not installed".to_owned()),
        }
    }
}

/// The affinity of a process and all its threads; children inherit it.
fn affinity(pid: u32, cpus: &str) {
    let status = Command::new("taskset")
        .args(["-a", "-p", "-c", cpus, &pid.to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "taskset (package util-linux) pins processes");
}

fn pin(pid: u32) {
    affinity(pid, "0");
}

fn unpin(pid: u32) {
    let last = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_else(|_| "0".to_owned());
    affinity(pid, last.trim());
}

struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    pem: (String, String),
}

fn certificate(directory: &Path) -> Certificate {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
    fs::write(&certificate, &pem.0).expect("a file");
    fs::write(&key, &pem.1).expect("a file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("readable by the pooler's user");
    Certificate { certificate, key, pem }
}

fn postgres(certificate: &Certificate) -> Postgres {
    Postgres::builder(Major::oldest())
        // A pooler keeps its server connections when its clients leave.
        .setting("max_connections", (4 * CLIENTS_MAX).to_string())
        .setting("shared_buffers", "512MB")
        .setting("synchronous_commit", "off")
        .setting("ssl", "on")
        .setting("ssl_cert_file", "bench.crt")
        .setting("ssl_key_file", "bench.key")
        .file("bench.crt", certificate.pem.0.as_bytes())
        .file("bench.key", certificate.pem.1.as_bytes())
        .start()
        .expect("a PostgreSQL server")
}

/// The role and its data; the role's verifier.
fn prepare(server: &Postgres) -> String {
    server.psql(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")).expect("a role");
    for database in [DATABASE, LENT] {
        server.psql(&format!("CREATE DATABASE {database} OWNER {ROLE}")).expect("a database");
        let init = Command::new(server.bin.join("pgbench"))
            .args(["-i", "-q", "-s", SCALE, &dsn(server.port, database, "disable")])
            .output()
            .expect("pgbench");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    }
    server
        .psql_in(DATABASE, "CREATE UNLOGGED TABLE sink (line text); GRANT ALL ON sink TO app")
        .expect("a table");
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'");
    server.psql(&sql).expect("a verifier")
}

pub(crate) fn dsn(port: u16, database: &str, sslmode: &str) -> String {
    format!(
        "host=127.0.0.1 port={port} dbname={database} user={ROLE} password='{PASSWORD}' sslmode={sslmode}"
    )
}

fn freehold(server: &Postgres, directory: &Path, certificate: &Certificate, stage: Stage) -> Contender {
    let (port, admin_port) = (free_port().expect("a port"), free_port().expect("a port"));
    let iterations = std::num::NonZeroU32::new(4096).expect("not zero");
    let verifier = Verifier::from_password(PASSWORD, &[7; 16], iterations);
    let users = directory.join("admins.txt");
    fs::write(&users, format!("\"{ADMIN}\" \"{verifier}\"\n")).expect("a file");
    let config = directory.join("freehold.toml");
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:{port}\"\nworkers = {}\ntls_cert = {:?}\ntls_key = {:?}\n\
         [admin]\nlisten = \"127.0.0.1:{admin_port}\"\nusers_file = {:?}\npassword_dirs = {:?}\n\
         [store]\npath = {:?}\n[log]\nlevel = \"warn\"\n[pool]\nreuse_connections = true\n",
        stage.threads(),
        certificate.certificate,
        certificate.key,
        users,
        roots(),
        directory.join("freehold.redb"),
    );
    fs::write(&config, text).expect("a file");
    let process = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(["serve", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .spawn()
        .expect("freehold starts");
    let contender =
        Contender { name: "freehold".to_owned(), port, process: Some(process), lends_prepared: true };
    wait_for(admin_port);
    adopt(server, admin_port);
    wait_for_login(&contender);
    contender
}

/// The database is taken in where it lies.
fn adopt(server: &Postgres, admin_port: u16) {
    let mut commands = vec![
        format!(
            "CREATE SYSTEM one HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}' SSLMODE disable",
            server.host,
            server.port,
            server.superuser,
            server.password_file.display()
        ),
        "CREATE TEAM benchmarks CONTACT '#benchmarks'".to_owned(),
    ];
    for database in [DATABASE, LENT] {
        commands.push(format!(
            "ADOPT DATABASE {database} ON SYSTEM one OWNER benchmarks PURPOSE 'measured beside other proxies'"
        ));
        commands.push(format!("ALTER DATABASE {database} TIER critical"));
    }
    commands.push(format!(
        "ALTER DATABASE {LENT} POOLING transaction POOL_SIZE {LENT_CONNECTIONS} MAX_CLIENTS 6000"
    ));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(admin_port).user(ADMIN).password(PASSWORD).dbname("freehold");
        let (client, connection) = config.connect(NoTls).await.expect("the admin port answers");
        tokio::spawn(connection);
        for command in commands {
            client.simple_query(&command).await.unwrap_or_else(|error| panic!("{command}: {error:?}"));
        }
    });
}

fn pgbouncer(
    name: &str,
    program: &Path,
    server: &Postgres,
    directory: &Path,
    certificate: &Certificate,
    verifier: &str,
) -> Option<Contender> {
    let port = free_port().expect("a port");
    let users = directory.join(format!("{name}.users"));
    fs::write(&users, format!("\"{ROLE}\" \"{verifier}\"\n")).expect("a file");
    let config = directory.join(format!("{name}.ini"));
    let text = format!(
        "[databases]\n{DATABASE} = host=127.0.0.1 port={} dbname={DATABASE}\n\
         {LENT} = host=127.0.0.1 port={} dbname={LENT} pool_mode=transaction pool_size={LENT_CONNECTIONS}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = session\n\
         max_client_conn = 6000\ndefault_pool_size = {CLIENTS_MAX}\nlog_connections = 0\nlog_disconnections = 0\n\
         ignore_startup_parameters = extra_float_digits\nserver_tls_sslmode = disable\nclient_tls_sslmode = allow\n\
         client_tls_cert_file = {}\nclient_tls_key_file = {}\n",
        server.port,
        server.port,
        users.display(),
        certificate.certificate.display(),
        certificate.key.display(),
    );
    fs::write(&config, text).expect("a file");
    let mut command = Command::new(program);
    command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    // It refuses to run as root.
    if fs::metadata("/proc/self").is_ok_and(|owner| std::os::unix::fs::MetadataExt::uid(&owner) == 0) {
        command.args(["-u", "postgres"]);
    }
    let process = Some(command.spawn().ok()?);
    let contender =
        Contender { name: name.to_owned(), port, process, lends_prepared: lends_prepared(program) };
    wait_for(port);
    wait_for_login(&contender);
    Some(contender)
}

/// Any pooler. The script is started with the port to listen on, the port of PostgreSQL on 127.0.0.1, the
/// number of threads to use, and a directory that has `server.crt`, `server.key` and `pgbouncer.users` (a
/// role and its SCRAM verifier); it replaces itself (`exec`) by a pooler that takes clients of both databases
/// as the others do: `bench` by session, `lent` by transaction over 20 connections.
pub(crate) fn other(script: &Path, server: &Postgres, directory: &Path, stage: Stage) -> Option<Contender> {
    let port = free_port().expect("a port");
    let process = Command::new(script)
        .args([port, server.port].map(|port| port.to_string()))
        .arg(stage.threads().to_string())
        .arg(directory)
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let name = script.file_stem()?.to_string_lossy().into_owned();
    let contender = Contender { name, port, process: Some(process), lends_prepared: true };
    wait_for(port);
    wait_for_login(&contender);
    Some(contender)
}

/// `PgBouncer 1.25.2`
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// PgBouncer can since 1.21.
fn lends_prepared(program: &Path) -> bool {
    let version = version(program);
    let numbers = version.rsplit(' ').next().unwrap_or_default();
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 21)
}

fn haproxy(server: &Postgres, directory: &Path, stage: Stage) -> Option<Contender> {
    let port = free_port().expect("a port");
    let config = directory.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread {}\n  maxconn 6000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\nlisten postgres\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{}\n",
        stage.threads(),
        server.port,
    );
    fs::write(&config, text).expect("a file");
    let program = ["/usr/sbin/haproxy", "haproxy"].into_iter().find(|program| {
        Command::new(program).arg("-v").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    })?;
    let process =
        Command::new(program).arg("-db").arg("-f").arg(&config).stdout(Stdio::null()).spawn().ok()?;
    wait_for(port);
    Some(Contender { name: "haproxy".to_owned(), port, process: Some(process), lends_prepared: false })
}

fn wait_for(port: u16) {
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_login(contender: &Contender) {
    let deadline = Instant::now() + READY_WITHIN;
    let config: tokio_postgres::Config = dsn(contender.port, DATABASE, "disable").parse().expect("a DSN");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    while let Err(error) = runtime.block_on(async { config.connect(NoTls).await.map(drop) }) {
        assert!(Instant::now() < deadline, "{}: {error:?}", contender.name);
        std::thread::sleep(Duration::from_millis(20));
    }
}
