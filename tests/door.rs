//! How clients come in to a process that runs, ends, is followed by another, or has no descriptors left.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use freehold::lab::{Major, Postgres};
use support::{Freehold, Login, create_system, until};
use tokio_postgres::NoTls;

/// One system, a Freehold with more lines in its section `[proxy]`, and a database in it.
async fn stage(proxy: &str) -> (Freehold, Postgres, Login) {
    let postgres = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start_with(proxy, "", &[&postgres]);
    let admin = freehold.admin().await;
    admin.run(&create_system("old", &postgres)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    let rows = admin
        .run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders and carts of the web shop' ON SYSTEM old")
        .await;
    let login = Login {
        port: freehold.proxy_port,
        dbname: "shop".into(),
        role: rows[0]["role"].clone(),
        password: rows[0]["password"].clone(),
    };
    until("shop takes clients", || async { login.try_connect().await.is_ok() }).await;
    (freehold, postgres, login)
}

fn by_socket(login: &Login, directory: &Path) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(directory).port(login.port).user(&login.role).password(&login.password);
    config.dbname(&login.dbname);
    config
}

/// Connects, asks one question and leaves.
async fn visit(config: &tokio_postgres::Config) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.map(drop)
}

/// Clients that come and go without a pause until told to stop.
struct Coming {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicUsize>,
    lanes: Vec<tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>>,
}

impl Coming {
    fn begin(configs: Vec<tokio_postgres::Config>) -> Coming {
        let (stop, visits) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let lane = |config| {
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    visit(&config).await?;
                    visits.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let lanes = configs.into_iter().map(lane).collect();
        Coming { stop, visits, lanes }
    }

    async fn some_more(&self) {
        let wanted = self.visits.load(Ordering::Relaxed) + 40;
        let ended = || self.lanes.iter().any(tokio::task::JoinHandle::is_finished);
        until("clients come", || async { ended() || self.visits.load(Ordering::Relaxed) >= wanted }).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            lane.await.unwrap().unwrap();
        }
    }
}

async fn ended(mut process: std::process::Child) {
    until("the process ends", || {
        let status = process.try_wait().unwrap();
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
        async move { status.is_some() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_follows_another_and_no_client_is_turned_away() {
    follow("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_only_worker_accepts_for_itself_follows_another_such() {
    follow("workers = 1\n").await;
}

async fn follow(workers: &str) {
    let settings = format!("takeover = true\ntakeover_linger = \"1h\"\n{workers}");
    let (mut freehold, _postgres, login) = stage(&settings).await;
    let socket = by_socket(&login, freehold.directory());
    let coming = Coming::begin(vec![login.config(), login.config(), login.config(), socket.clone(), socket]);
    let faithful = login.connect().await;
    coming.some_more().await;
    let mut first = freehold.take_over();
    coming.some_more().await;
    faithful.simple_query("SELECT 'still here'").await.unwrap();
    assert!(first.try_wait().unwrap().is_none(), "it has a client left");
    drop(faithful);
    ended(first).await;
    coming.some_more().await;
    ended(freehold.take_over()).await;
    coming.some_more().await;
    coming.end().await;
    freehold.admin().await.run("SHOW DATABASES").await;
}

/// Starts a process as a service manager does that has the listener.
fn activate(config: &Path, listener: &TcpListener) -> std::process::Child {
    let script =
        "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" serve --config \"$1\"";
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_freehold")])
        .arg(config)
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .spawn()
        .unwrap()
}

fn terminate(process: &std::process::Child) {
    assert!(Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_while_no_process_runs_waits_at_the_service_managers_socket() {
    let (mut freehold, _postgres, login) = stage("").await;
    freehold.terminate();
    freehold.wait_for_end(Duration::from_secs(30));
    let listener = TcpListener::bind(("127.0.0.1", login.port)).unwrap();
    for _ in 0..2 {
        let config = login.config();
        let waiting = tokio::spawn(async move { visit(&config).await });
        let mut process = activate(&freehold.config_path(), &listener);
        waiting.await.unwrap().unwrap();
        terminate(&process);
        assert!(process.wait().unwrap().success());
    }
    assert!(!freehold.directory().join(format!(".s.PGSQL.{}", login.port)).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_a_killed_process_left_is_replaced_by_the_next() {
    let (mut freehold, _postgres, login) = stage("").await;
    let socket = by_socket(&login, freehold.directory());
    visit(&socket).await.unwrap();
    freehold.restart(None);
    until("shop takes clients again", || async { visit(&socket).await.is_ok() }).await;
}

/// Processor time that a process has used, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn limit_descriptors(pid: u32, most: usize) {
    let limit = format!("--nofile={most}:");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_descriptors_says_so_does_not_spin_and_recovers() {
    run_out_of_descriptors("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_only_worker_without_descriptors_serves_those_it_has() {
    run_out_of_descriptors("workers = 1\n").await;
}

async fn run_out_of_descriptors(workers: &str) {
    let (freehold, _postgres, login) = stage(workers).await;
    let before = login.connect().await;
    before.simple_query("SELECT 1").await.unwrap();
    let pid = freehold.pid();
    limit_descriptors(pid, descriptors(pid) + 3);
    // Each says nothing but the beginning of a startup packet, and waits for what it is told.
    let mut visitors: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut visitor = TcpStream::connect(("127.0.0.1", login.port)).unwrap();
            visitor.write_all(&[0, 0]).unwrap();
            visitor
        })
        .collect();
    let mut refused = 0;
    for visitor in visitors.iter_mut().skip(10) {
        let mut answer = Vec::new();
        visitor.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        visitor.read_to_end(&mut answer).unwrap();
        refused += usize::from(answer.windows(6).any(|code| code == b"C53300"));
    }
    // A descriptor that the process itself gave back let one in here and there.
    assert!(refused >= 20, "{refused} of 40 too many were told");
    let used = ticks(pid);
    std::thread::sleep(Duration::from_millis(500));
    let used = ticks(pid) - used;
    assert!(used < 25, "{used} of 50 ticks were used while nothing happened");
    before.simple_query("SELECT 'not disturbed'").await.unwrap();
    drop(visitors);
    until("clients come in again", || async { login.try_connect().await.is_ok() }).await;
}
