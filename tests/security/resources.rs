//! A process that lacks descriptors, disk or a file that it can read; a server that stands still.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::raw::Client;
use crate::stage::{Stage, text};
use crate::support::{Login, until};

/// A `freehold serve` in the place of the stage's own, which has ended.
pub(crate) struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// On the files of a stage. `before`: what the shell does first, such as `ulimit -n 20;`.
    pub(crate) fn start(stage: &Stage, before: &str) -> Process {
        let log = stage.freehold.config_path().with_file_name("log");
        let child = Command::new("sh")
            .args([
                "-c",
                &format!("{before} exec \"$0\" serve --config \"$1\""),
                env!("CARGO_BIN_EXE_freehold"),
            ])
            .arg(stage.freehold.config_path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it neither serves nor ends: {}", self.logged());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time that it uses while nothing happens, in hundredths of half a second.
    fn busy(&self) -> u64 {
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = ticks();
        std::thread::sleep(Duration::from_millis(500));
        (ticks() - before) * 2
    }

    fn limit(&self, what: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, what]).status().unwrap().success());
    }
}

pub(crate) async fn ended(stage: &mut Stage) {
    stage.freehold.terminate();
    stage.freehold.wait_for_end(Duration::from_secs(30));
}

fn store(stage: &Stage) -> std::path::PathBuf {
    stage.freehold.config_path().with_file_name("freehold.redb")
}

#[tokio::test]
async fn a_store_that_is_damaged_or_none_is_left_alone_and_named() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    let path = store(&stage);
    let whole = std::fs::read(&path).unwrap();
    let config = std::fs::read(stage.freehold.config_path()).unwrap();
    let mut flipped = whole.clone();
    flipped.iter_mut().take(4096).skip(9).for_each(|byte| *byte ^= 0x5a);
    let mut zeroed = whole.clone();
    zeroed.iter_mut().skip(4096).for_each(|byte| *byte = 0);
    for (what, bytes) in [
        ("a text", config),
        ("one byte", b"x".to_vec()),
        ("its beginning", whole[..100].to_vec()),
        ("its first page", whole[..4096].to_vec()),
        ("the half of it", whole[..whole.len() / 2].to_vec()),
        ("all but its last page", whole[..whole.len() - 4096].to_vec()),
        ("a header that is none", flipped),
        ("pages that are none", zeroed),
        ("zeros", vec![0; whole.len()]),
        ("a database of another program", [b"SQLite format 3\0".as_slice(), &[7; 8176]].concat()),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let mut process = Process::start(&stage, "");
        let status = process.ended();
        let logged = process.logged();
        assert!(!status.success() && status.code().is_some(), "{what}: {status}: {logged}");
        assert!(logged.contains("freehold.redb"), "{what}: {logged}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{what} was written to");
    }
    std::fs::write(&path, &whole).unwrap();
    let _process = Process::start(&stage, "");
    until("the right one is served again", || async { stage.owner.try_connect().await.is_ok() }).await;
}

#[tokio::test]
async fn a_store_that_is_another_kind_of_file_ends_the_start_at_once() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    let path = store(&stage);
    std::fs::remove_file(&path).unwrap();
    let make = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).arg(&path).status().unwrap().success());
    };
    for kind in [&["mkdir"][..], &["mkfifo"], &["ln", "-s", "/dev/full"], &["ln", "-s", "/dev/null"]] {
        make(kind);
        let mut process = Process::start(&stage, "");
        assert!(!process.ended().success(), "{kind:?}: {}", process.logged());
        assert!(process.logged().contains("freehold.redb"), "{kind:?}: {}", process.logged());
        make(&["rm", "-r"]);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_to_administrators_and_no_client_notices() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    // A write beyond the limit fails, as on a full disk, instead of ending the process.
    let process = Process::start(&stage, "trap '' XFSZ;");
    until("it serves", || async { stage.owner.try_connect().await.is_ok() }).await;
    let staying = stage.owner.connect().await;
    let admin = stage.freehold.admin().await;
    admin.run("CREATE TEAM before CONTACT 'kept'").await;
    process.limit("--fsize=4096");
    let mut told = None;
    for number in 0..50 {
        if let Err(error) = admin.try_run(&format!("CREATE TEAM t{number} CONTACT 'x'")).await {
            told = Some(error);
            break;
        }
    }
    let told = told.expect("a write that fails is told");
    let told = told.as_db_error().expect("an answer").clone();
    assert!(["58030", "53100", "08006", "57P03"].contains(&told.code().code()), "{told:?}");
    assert!(process.logged().contains("cannot write the store"), "{}", process.logged());
    for _ in 0..3 {
        staying.simple_query("SELECT 1").await.unwrap();
        stage.owner.connect().await.simple_query("SELECT 1").await.unwrap();
    }
    let busy = process.busy();
    assert!(busy < 50, "{busy} % of a processor while nothing happens");
    drop(process);
    let _process = Process::start(&stage, "");
    until("it serves again", || async { stage.owner.try_connect().await.is_ok() }).await;
    let teams = stage.freehold.admin().await.run("SHOW TEAMS").await;
    assert!(teams.iter().any(|row| row["name"] == "before"), "{teams:?}");
}

#[tokio::test]
async fn a_process_with_very_few_descriptors_ends_with_a_word_or_serves() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    let mut served = 0;
    for most in (8..=40).step_by(2) {
        let mut process = Process::start(&stage, &format!("ulimit -n {most};"));
        let deadline = Instant::now() + Duration::from_secs(10);
        let outcome = loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                break Some(status);
            }
            // One that listens answers: a client is let in, or told why not.
            let answer = tokio::time::timeout(Duration::from_secs(3), stage.owner.try_connect()).await;
            match answer
                .unwrap_or_else(|_| panic!("{most}: a client waits for nothing: {}", process.logged()))
            {
                Ok(_) => {
                    served += 1;
                    break None;
                }
                Err(error) if error.as_db_error().is_some() => break None,
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "{most}: {}", process.logged());
        };
        if let Some(status) = outcome {
            assert!(!status.success() && status.code().is_some(), "{most}: {status}");
            assert!(!process.logged().contains("panicked"), "{most}: {}", process.logged());
            assert!(!process.logged().trim().is_empty(), "{most}: not a word");
        } else if most % 8 == 0 {
            let busy = process.busy();
            assert!(busy < 60, "{most}: {busy} % of a processor while nothing happens");
        }
    }
    assert!(served > 0, "forty are enough");
}

/// Processes that stand still; they go on when this is dropped, or PostgreSQL could not be stopped.
struct Frozen(Vec<i32>);

impl Frozen {
    fn these(pids: &[i32]) -> Frozen {
        for pid in pids {
            signal(*pid, "-STOP");
        }
        Frozen(pids.to_vec())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal(*pid, "-CONT");
        }
    }
}

fn signal(pid: i32, which: &str) {
    assert!(Command::new("kill").args([which, &pid.to_string()]).status().unwrap().success());
}

/// The server's first process.
fn postmaster(directory: &Path) -> i32 {
    let file = std::fs::read_to_string(directory.join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().trim().parse().unwrap()
}

async fn within<T>(seconds: u64, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), work)
        .await
        .unwrap_or_else(|_| panic!("too slow: {what}"))
}

const QUICK: &str = "server_connect_timeout = \"1s\"\n";

#[tokio::test]
async fn a_backend_that_stands_still_holds_up_its_own_client_alone_and_that_one_for_a_bounded_time() {
    let stage = Stage::set_with_proxy(QUICK, "[timeouts]\nquery = \"1s\"\n").await;
    let (mut held, other) = (Client::logged_in(&stage.owner).await, stage.owner.connect().await);
    let _frozen = Frozen::these(&[held.pid]);
    let waiting = tokio::spawn(async move { held.ask("SELECT 1").await });
    for _ in 0..5 {
        within(2, "others", other.simple_query("SELECT 1")).await.unwrap();
        within(3, "who comes in", stage.owner.connect()).await;
    }
    assert_eq!(within(5, "its own client", waiting).await.unwrap(), "57014");
    within(3, "administrators", async { stage.freehold.admin().await.run("SHOW CLIENTS").await }).await;
}

#[tokio::test]
async fn a_shared_connection_whose_backend_stands_still_is_not_lent() {
    let stage = Stage::set_with_proxy(QUICK, "[pool]\ncheck_after = \"1ms\"\n").await;
    let admin = stage.freehold.admin().await;
    admin.run("ALTER DATABASE shop POOLING transaction POOL_SIZE 2").await;
    let client = stage.owner.connect().await;
    until("connections are shared", || async {
        client.simple_query("SELECT 1").await.is_ok()
            && admin.run("SHOW POOLS").await[0]["pool_mode"] == "transaction"
    })
    .await;
    let backend = async || match &client.simple_query("SELECT pg_backend_pid()").await.unwrap()[1] {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).unwrap().parse::<i32>().unwrap(),
        other => panic!("{other:?}"),
    };
    let pid = backend().await;
    until("it is given back", || async { admin.run("SHOW SESSIONS").await[0]["state"] == "idle" }).await;
    let _frozen = Frozen::these(&[pid]);
    // How long a connection has rested is looked at once a second.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert_ne!(within(5, "the next query", backend()).await, pid);
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_so_long_and_no_longer() {
    let stage = Stage::set_with_proxy(QUICK, "").await;
    let admin = stage.freehold.admin().await;
    let staying = stage.owner.connect().await;
    let frozen = Frozen::these(&[postmaster(&stage.server.data_dir)]);
    let error = within(5, "a login", stage.owner.try_connect()).await.unwrap_err();
    let error = error.as_db_error().expect("an answer").clone();
    assert!(["08006", "57P03", "08001"].contains(&error.code().code()), "{error:?}");
    assert!(!error.message().contains("127.0.0.1"), "{error:?}");
    within(2, "who is in", staying.simple_query("SELECT 1")).await.unwrap();
    within(2, "administrators", admin.run("SHOW DATABASES")).await;
    drop(frozen);
    until("it serves again", || async { stage.owner.try_connect().await.is_ok() }).await;
}

#[tokio::test]
async fn a_client_that_is_let_in_while_its_server_connection_has_no_descriptor_is_told_so() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    let process = Process::start(&stage, "");
    until("it serves", || async { stage.owner.try_connect().await.is_ok() }).await;
    let staying = stage.owner.connect().await;
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", process.child.id()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<usize>().unwrap())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let login = Login { ..stage.owner.clone() };
    // One descriptor for the client that comes, none for its server connection: the limit is above one
    // free number. The process opens and closes others by itself: if it does so after they were looked
    // at, the client is not let in or its login succeeds, and they are looked at again.
    let mut told = String::new();
    for _ in 0..10 {
        let (mut open, mut looks_alike) = (descriptors(), 0);
        while looks_alike < 20 {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let now = descriptors();
            looks_alike = if now == open { looks_alike + 1 } else { 0 };
            open = now;
        }
        let second_free = (0..).filter(|number| !open.contains(number)).nth(1).unwrap();
        process.limit(&format!("--nofile={second_free}:"));
        let attempt = within(5, "an answer", login.try_connect()).await;
        process.limit("--nofile=1024:");
        if let Err(error) = attempt
            && let Some(code) = error.code()
        {
            told = code.code().to_owned();
            break;
        }
    }
    assert!(
        ["08006", "08001", "53300", "57P03", "58000"].contains(&told.as_str()),
        "{told}: {}",
        process.logged()
    );
    // Accepting fails for want of a descriptor though no client waits: that is no refusal.
    assert!(told == "53300" || !process.logged().contains("clients are refused"), "{}", process.logged());
    staying.simple_query("SELECT 'not disturbed'").await.unwrap();
    until("clients come in again", || async { login.try_connect().await.is_ok() }).await;
    let psql = stage.psql(&format!("user={} password={}", login.role, login.password));
    assert_eq!(text(&psql.stdout), login.role);
}

/// More sockets than there may be clients, which say nothing: the next client, and an administrator, come in.
#[tokio::test]
async fn sockets_that_say_nothing_make_room_for_clients() {
    let stage = Stage::set("[limits]\nclients_max = 5\n").await;
    let admin_config = stage.freehold.admin_config();
    let admin = admin_config.get_ports()[0];
    for port in [stage.owner.port, admin] {
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        // A login younger than a second makes no room: services that connect at once do not close each
        // other's.
        until("a client comes in", || async {
            match port == admin {
                false => stage.owner.try_connect().await.is_ok(),
                true => admin_config.connect(tokio_postgres::NoTls).await.is_ok(),
            }
        })
        .await;
        let mut open = 0;
        for socket in &silent {
            let mut byte = [0];
            open += usize::from(
                matches!(socket.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            );
        }
        assert!(port != admin || open <= 64, "{open} silent sockets are open at the admin port");
    }
}

#[tokio::test]
async fn a_health_check_is_answered_though_others_sit_at_the_port_and_say_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let port = freehold::lab::free_port().unwrap();
    let stage = Stage::set(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n")).await;
    let connect = || tokio::net::TcpStream::connect(("127.0.0.1", port));
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut visitor = connect().await.unwrap();
        visitor.write_all(b"GET /").await.unwrap();
        silent.push(visitor);
    }
    for path in ["/health", "/ready", "/metrics"] {
        let mut visitor = connect().await.unwrap();
        visitor.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(2, path, visitor.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{path}: {answer}");
    }
    stage.owner.connect().await;
}
