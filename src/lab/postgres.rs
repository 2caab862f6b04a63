//! One running server: its start, crash, restart and end.
//!
//! # Why a thread per server
//! The kernel's parent-death signal fires when the *thread* that started the child ends. So each server has a
//! thread of its own that starts it and then only waits for it; the end of the thread is also the sign of the
//! server's end.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::account::Account;
use super::home::Home;
use super::{Install, LabError};

/// The platform's role: superuser of every server that the lab starts.
const SUPERUSER: &str = "freehold";

/// Long, because a test run may keep every core busy.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PORT_TRIES: u32 = 20;

/// A temporary PostgreSQL server on 127.0.0.1. Dropping it stops it and removes its directory.
#[derive(Debug)]
pub struct Postgres {
    /// `127.0.0.1`
    pub host: String,
    pub port: u16,
    /// The platform's role.
    pub superuser: String,
    pub password: String,
    /// Contains only the platform role's password.
    pub password_file: PathBuf,
    pub data_dir: PathBuf,
    pub major: u32,
    /// The directory of the server's programs.
    pub bin: PathBuf,
    cluster: Cluster,
    server: Mutex<Option<Server>>,
}

impl Postgres {
    pub(super) fn start_cluster(cluster: Cluster) -> Result<Postgres, LabError> {
        let (port, server) = cluster.launch_on_a_free_port()?;
        Ok(Postgres {
            host: "127.0.0.1".into(),
            port,
            superuser: SUPERUSER.into(),
            password: cluster.password.clone(),
            password_file: cluster.home.password_file(),
            data_dir: cluster.home.data(),
            major: cluster.install.major,
            bin: cluster.install.bin.clone(),
            cluster,
            server: Mutex::new(Some(server)),
        })
    }

    /// A connection as the platform's role. Its task ends with the client.
    pub async fn connect(&self, dbname: &str) -> Result<Client, LabError> {
        self.connect_as(dbname, &self.superuser, &self.password).await
    }

    pub async fn connect_as(&self, dbname: &str, role: &str, password: &str) -> Result<Client, LabError> {
        let failed = |source| LabError::Connect { dbname: dbname.to_owned(), source };
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.host)
            .port(self.port)
            .user(role)
            .password(password)
            .dbname(dbname)
            .application_name("freehold lab")
            .connect(NoTls)
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs SQL in database `postgres` as the platform's role; see [`Postgres::psql_in`].
    pub fn psql(&self, sql: &str) -> Result<String, LabError> {
        self.psql_in("postgres", sql)
    }

    /// Runs SQL with `psql`, stops at the first error, and returns the rows (one a line, columns separated by
    /// `|`).
    pub fn psql_in(&self, dbname: &str, sql: &str) -> Result<String, LabError> {
        let mut command = self.cluster.command("psql");
        command.env("PGPASSWORD", &self.password).args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-h", &self.host, "-p", &self.port.to_string(), "-U", &self.superuser]);
        let output = run(command.args(["-d", dbname, "-c", sql]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs a script as `psql -f` does, to its end: statements one by one, with its meta-commands and
    /// variables. Returns the rows; fails with the whole output if one of its statements failed.
    pub fn psql_script(&self, dbname: &str, script: &str) -> Result<String, LabError> {
        let mut command = self.cluster.command("psql");
        command.env("PGPASSWORD", &self.password).args(["-X", "-A", "-t", "-q", "-f", "-"]);
        command.args(["-h", &self.host, "-p", &self.port.to_string(), "-U", &self.superuser, "-d", dbname]);
        let failed = |source| LabError::Run { program: "psql".to_owned(), source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().map_err(failed)?;
        if let Some(mut input) = running.stdin.take() {
            input.write_all(script.as_bytes()).map_err(failed)?;
        }
        let output = running.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() && !said.contains("ERROR:") {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(LabError::Failed { program: "psql".to_owned(), output: said.trim().to_owned() }),
        }
    }

    /// A DSN of the platform's role that bypasses Freehold.
    pub fn dsn(&self, dbname: &str) -> String {
        format!("postgres://{}:{}@{}:{}/{dbname}", self.superuser, self.password, self.host, self.port)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.cluster.log()
    }

    /// Shuts the server down in order (`pg_ctl stop -m fast`); its data stays until the drop.
    pub fn stop(&self) -> Result<(), LabError> {
        match self.server().take() {
            Some(server) => server.end("INT"),
            None => Ok(()),
        }
    }

    /// Kills the server and every process of it with SIGKILL, as a crash of the machine's memory would.
    pub fn kill9(&self) -> Result<(), LabError> {
        match self.server().take() {
            Some(server) => server.kill9(),
            None => Ok(()),
        }
    }

    /// Stops the server if it runs, and starts it again on the same data and port; recovers after
    /// [`Postgres::kill9`].
    pub fn restart(&self) -> Result<(), LabError> {
        self.stop()?;
        let server = self.cluster.launch(self.port)?;
        *self.server() = Some(server);
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(server) = self.server().take() {
            // The data is no longer needed, so it is not flushed (`pg_ctl stop -m immediate`).
            let _ = server.end("QUIT");
        }
    }
}

/// The files of a server and all that is needed to start it; it may run or not.
#[derive(Debug)]
pub(super) struct Cluster {
    install: Install,
    account: Account,
    home: Home,
    password: String,
}

impl Cluster {
    /// Runs `initdb`.
    pub(super) fn create(install: Install, account: Account, home: Home) -> Result<Cluster, LabError> {
        let password = format!("{:032x}", rand::random::<u128>());
        home.write_private(account, &home.password_file(), password.as_bytes())?;
        let cluster = Cluster { install, account, home, password };
        // Not every machine has the locale C.UTF-8; every machine has C.
        cluster.initdb("C.UTF-8").or_else(|_| cluster.initdb("C"))?;
        Ok(cluster)
    }

    fn initdb(&self, locale: &str) -> Result<Output, LabError> {
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.home.data()).arg("--pwfile").arg(self.home.password_file());
        command.args(["-U", SUPERUSER, "-E", "UTF8", "--locale", locale]);
        run(command.args(["-A", "scram-sha-256", "--no-sync", "--no-instructions"]))
    }

    /// Writes a file into the data directory.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), LabError> {
        self.home.write_private(self.account, &self.home.data().join(name), content)
    }

    /// Compiles a locale that only this server finds.
    pub(super) fn compile_locale(&self, definition: &str, charmap: &str) -> Result<(), LabError> {
        let directory = self.home.locales();
        let failed = |source| LabError::Directory { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        self.account.own(&directory)?;
        let mut command = self.account.command("localedef", &self.home.path);
        command.args(["-i", definition, "-f", charmap]);
        run(command.arg(directory.join(format!("{definition}.{charmap}")))).map(drop)
    }

    pub(super) fn socket_directory(&self) -> PathBuf {
        self.home.run()
    }

    fn command(&self, program: &str) -> Command {
        self.program(&self.install.bin.join(program))
    }

    fn program(&self, path: &Path) -> Command {
        let mut command = self.account.command(path, &self.home.path);
        if self.home.locales().is_dir() {
            command.env("LOCPATH", self.home.locales());
        }
        command
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.log()).unwrap_or_default()).into_owned()
    }

    fn launch_on_a_free_port(&self) -> Result<(u16, Server), LabError> {
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            match self.launch(port) {
                // Another process took the port first.
                Err(LabError::Ended { log, .. }) if log.contains("Address already in use") => {}
                launched => return Ok((port, launched?)),
            }
        }
        Err(LabError::NoPort)
    }

    fn launch(&self, port: u16) -> Result<Server, LabError> {
        let path = self.home.log();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|source| LabError::Directory { path, source })?;
        let mut command = self.postgres_command();
        command.arg("-D").arg(self.home.data()).args(["-p", &port.to_string()]);
        command.stdout(Stdio::from(log.0)).stderr(Stdio::from(log.1));
        let server = Server::spawn(command)?;
        self.wait_until_ready(&server)?;
        Ok(server)
    }

    /// If `setpriv` is available, the server does an `immediate` shutdown when this process dies.
    fn postgres_command(&self) -> Command {
        let setpriv = Path::new("/usr/bin/setpriv");
        if !setpriv.is_file() {
            return self.command("postgres");
        }
        let mut command = self.program(setpriv);
        command.args(["--pdeathsig", "QUIT"]).arg(self.install.bin.join("postgres"));
        command
    }

    fn wait_until_ready(&self, server: &Server) -> Result<(), LabError> {
        let major = self.install.major;
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(&self.home.data(), server.pid) {
            if server.has_ended() {
                return Err(LabError::Ended { major, log: self.log() });
            }
            if Instant::now() > deadline {
                return Err(LabError::Slow { major, seconds: READY_WITHIN.as_secs(), log: self.log() });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Line 1 of `postmaster.pid` is the process id, line 8 the state ("PostgreSQL: Creating a Database Cluster",
/// `src/include/utils/pidfile.h`).
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let line = |number: usize| text.lines().nth(number).map(str::trim);
    line(0) == Some(pid.to_string().as_str()) && line(7) == Some("ready")
}

/// A free port of 127.0.0.1. Linux assigns ports from 32768 on to outgoing connections; lower ones are not
/// taken by chance.
pub fn free_port() -> Result<u16, LabError> {
    (0..1000)
        .map(|_| rand::random_range(10_000..32_000))
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .ok_or(LabError::NoPort)
}

/// This many different ports.
pub fn free_ports(count: usize) -> Result<Vec<u16>, LabError> {
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        let port = free_port()?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// A postmaster and the thread that waits for it.
#[derive(Debug)]
struct Server {
    pid: u32,
    waiter: JoinHandle<()>,
}

impl Server {
    fn spawn(mut command: Command) -> Result<Server, LabError> {
        let failed = |source| LabError::Run { program: "postgres".into(), source };
        let (tell, told) = mpsc::channel();
        let waiter = thread::Builder::new()
            .name("lab-postgres".into())
            .spawn(move || wait_for(command.spawn(), &tell))
            .map_err(failed)?;
        match told.recv() {
            Ok(Ok(pid)) => Ok(Server { pid, waiter }),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(failed(std::io::Error::other("the thread that starts it panicked"))),
        }
    }

    fn has_ended(&self) -> bool {
        self.waiter.is_finished()
    }

    /// Sends a shutdown signal and waits; kills the server if it does not end in time.
    fn end(self, signal: &str) -> Result<(), LabError> {
        send(signal, &[self.pid])?;
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return self.kill9();
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn kill9(self) -> Result<(), LabError> {
        // A postmaster that sees a child die ends the other backends, which then send errors to their
        // clients.
        send("STOP", &[self.pid])?;
        let mut processes = children_of(self.pid);
        processes.push(self.pid);
        send("KILL", &processes)?;
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.has_ended() || processes.iter().any(|&pid| is_running(pid)) {
            if Instant::now() > deadline {
                let output = "processes survived SIGKILL".to_owned();
                return Err(LabError::Failed { program: "kill".into(), output });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

fn wait_for(spawned: std::io::Result<Child>, tell: &mpsc::Sender<std::io::Result<u32>>) {
    match spawned {
        Ok(mut child) => {
            let _ = tell.send(Ok(child.id()));
            let _ = child.wait();
        }
        Err(error) => {
            let _ = tell.send(Err(error));
        }
    }
}

/// The standard library can only send SIGKILL; the shell can send other signals. A process that has ended is
/// not an error.
fn send(signal: &str, processes: &[u32]) -> Result<(), LabError> {
    let pids = processes.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("kill -s {signal} {pids} 2>/dev/null || true")]);
    run(&mut command).map(drop)
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent of a process: the first fields after the name, which may itself contain blanks and
/// parentheses.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn run(command: &mut Command) -> Result<Output, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| LabError::Run { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    Err(LabError::Failed { program, output: String::from_utf8_lossy(&text).trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Major;

    #[tokio::test]
    async fn a_server_of_the_newest_major_starts_answers_and_leaves_nothing_behind() {
        let server = Postgres::start_async(Major::newest()).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let row = client.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await;
        assert_eq!(row.unwrap().get::<_, i32>(0), server.major as i32);
        let wrong = server.connect_as("postgres", "freehold", "wrong").await.unwrap_err();
        assert_eq!(crate::error::Explain::sqlstate(&wrong).as_str(), "28P01");
        let (pid, directory) = (server.server().as_ref().unwrap().pid, server.cluster.home.path.clone());
        assert!(directory.exists() && is_running(pid));
        drop(server);
        assert!(!directory.exists() && !is_running(pid));
    }

    #[test]
    fn a_killed_server_comes_back_with_every_commit() {
        let server = Postgres::builder(Major::oldest()).setting("work_mem", "5MB").start().unwrap();
        assert_eq!(server.psql("SHOW work_mem").unwrap(), "5MB");
        server.psql("CREATE TABLE kept AS SELECT 42 AS answer").unwrap();
        server.kill9().unwrap();
        server.psql("SELECT 1").unwrap_err();
        server.restart().unwrap();
        assert_eq!(server.psql("SELECT answer FROM kept").unwrap(), "42");
        server.stop().unwrap();
        server.psql("SELECT 1").unwrap_err();
        server.restart().unwrap();
        assert_eq!(server.psql("SELECT answer FROM kept").unwrap(), "42");
    }
}
