//! The whole story on real servers: a live database moves and moves back, and the application notices
//! nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::{Catalog, keys};
use freehold::model::{ProxyId, ProxyRecord, UnixMillis};
use support::ledger::{self, Load};
use support::{Stage, leftovers, texts, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_and_moves_back_under_load_without_an_error() {
    moves_and_moves_back("SESSION").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_connections_are_lent_does_so_too() {
    moves_and_moves_back("TRANSACTION POOL_SIZE 6").await;
}

async fn moves_and_moves_back(pooling: &str) {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    admin.run(&format!("ALTER DATABASE shop POOLING {pooling}")).await;
    let load = Load::start_at_full_speed(&login, 16).await;
    load.goes_on(200).await;

    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    load.goes_on(200).await;
    assert_eq!(major(&login).await, stage.target.major);

    admin.run(&format!("UNDO MOVE {id}")).await;
    let row = admin.wait_for_phase(&id, &["undone"]).await;
    load.goes_on(200).await;
    assert_eq!(major(&login).await, stage.source.major);

    let verdict = load.finish().await;
    verdict.assert_clean(&login.connect().await).await;
    assert!(!row["longest_stall_ms"].is_empty(), "the stall was measured: {row:?}");
    assert_eq!(leftovers(&stage.source).await, Vec::<String>::new());
    assert_eq!(leftovers(&stage.target).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_move_leaves_nothing_behind_and_the_old_copy_closed() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    let load = Load::start(&login, 4).await;

    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    admin.run(&format!("FINISH MOVE {id}")).await;
    admin.wait_for_phase(&id, &["finished"]).await;
    load.goes_on(50).await;
    load.finish().await.assert_clean(&login.connect().await).await;

    assert_eq!(leftovers(&stage.source).await, Vec::<String>::new());
    assert_eq!(leftovers(&stage.target).await, Vec::<String>::new());
    let source = stage.source.connect("postgres").await.unwrap();
    let closed = texts(
        &source,
        "SELECT datname::text FROM pg_database WHERE NOT datallowconn AND datname LIKE 'shop%'",
    );
    assert_eq!(closed.await, vec![format!("shop__moved_{id}")]);
    login.connect().await.batch_execute("CREATE TABLE after_the_move (id int)").await.unwrap();
}

/// One proxy was killed and came back under another id, and a store of an older version says that there was a
/// third one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_died_does_not_stop_a_move() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let config = std::fs::read_to_string(stage.freehold.config_path()).unwrap();
    let renamed = config.replacen("[proxy]\n", "[proxy]\nid = \"another\"\n", 1);
    assert_ne!(renamed, config);
    std::fs::write(stage.freehold.config_path(), renamed).unwrap();
    stage.freehold.restart(None);
    stage.freehold.terminate();
    stage.freehold.wait_for_end(Duration::from_secs(30));
    list_as_older_versions_did(&stage, "gone").await;
    stage.freehold.restart(None);
    let admin = stage.freehold.admin().await;
    let load = Load::start(&login, 4).await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    load.goes_on(50).await;
    load.finish().await.assert_clean(&login.connect().await).await;
    assert_eq!(major(&login).await, stage.target.major);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_bypasses_the_proxy_is_refused_by_the_fence() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    // An old pool that somebody forgot: connected to the source directly, before the move.
    let bypass = stage.source.connect_as("shop", &login.role, &login.password).await.unwrap();
    bypass.execute("UPDATE account SET balance = balance", &[]).await.unwrap();

    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;

    let late = bypass.execute("UPDATE account SET balance = 0", &[]).await;
    assert!(late.is_err(), "a session of before the fence must not write after it");
    let again = stage.source.connect_as("shop", &login.role, &login.password).await;
    assert!(again.is_err(), "a new session must not get in");
    let sum = login.connect().await.query_one("SELECT sum(balance)::bigint FROM account", &[]).await.unwrap();
    assert_eq!(sum.get::<_, i64>(0), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_held_past_the_budget_go_on_at_the_source_without_an_error() {
    let stage = Stage::set_with("cutover_attempts = 2\ncutover_retry_delay = \"100ms\"").await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    let load = Load::start(&login, 8).await;
    // Young enough for the hold to begin, and longer than the hold may last.
    let slow = login.connect().await;
    let sleeper = tokio::spawn(async move {
        let mut slept = 0;
        while slept < 1_000 {
            match slow.batch_execute("SELECT pg_sleep(1)").await {
                Ok(()) => slept += 1,
                Err(error) => return Some(error),
            }
        }
        None
    });
    let id = admin.run("MOVE DATABASE shop TO SYSTEM new MAX PAUSE '300ms'").await[0]["move"].clone();
    admin.wait_for_phase(&id, &["rolled back"]).await;
    let failure = admin.property(&id, "failure").await;
    load.goes_on(100).await;
    sleeper.abort();
    assert!(sleeper.await.is_err_and(|ended| ended.is_cancelled()), "the long statement met an error");
    let verdict = load.finish().await;
    verdict.assert_clean(&login.connect().await).await;
    assert!(
        verdict.longest > Duration::from_millis(200),
        "nobody was held: {failure}, {:?}",
        verdict.longest
    );
    assert_eq!(major(&login).await, stage.source.major);
    assert_eq!(leftovers(&stage.source).await, Vec::<String>::new());
    assert_eq!(leftovers(&stage.target).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_over_its_budget_is_aborted_and_every_client_goes_on_at_the_source() {
    let short =
        "cutover_attempts = 2\ncutover_retry_delay = \"100ms\"\npin_wait = \"500ms\"\nwarm_timeout = \"1s\"";
    let stage = Stage::set_with(short).await;
    let login = stage.create_shop().await;
    ledger::create(&login.connect().await).await;
    let admin = stage.freehold.admin().await;
    let load = Load::start(&login, 8).await;
    // A transaction that outlives every budget. It has no transaction id yet, so the slot does not wait for
    // it.
    let mut slow = login.connect().await;
    let transaction = slow.transaction().await.unwrap();
    transaction.execute("SELECT FROM account", &[]).await.unwrap();
    let id = admin.run("MOVE DATABASE shop TO SYSTEM new MAX PAUSE '300ms'").await[0]["move"].clone();

    admin.wait_for_phase(&id, &["rolled back"]).await;
    let detail = admin.property(&id, "error_detail").await;
    assert!(detail.contains("a transaction is open"), "it names what was in the way: {detail}");
    transaction
        .execute("INSERT INTO entry (token, source, target, amount) VALUES ('slow', 1, 2, 0)", &[])
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    load.goes_on(100).await;
    load.finish().await.assert_clean(&login.connect().await).await;
    assert_eq!(major(&login).await, stage.source.major);
    until("nothing is left", || async {
        leftovers(&stage.source).await.is_empty() && leftovers(&stage.target).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_does_not_lose_a_transaction_while_its_database_moves_and_moves_back() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let pgbench = |arguments: &[&str]| {
        let mut command = Command::new(stage.source.bin.join("pgbench"));
        command.env("PGPASSWORD", &login.password).args(arguments);
        command.args(["-h", "127.0.0.1", "-p", &login.port.to_string(), "-U", &login.role, "shop"]);
        command
    };
    let filled = pgbench(&["-i", "-q", "-s", "2"]).output().unwrap();
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    // A table without a key has to say how its rows are told apart: PLAN MOVE names it as a blocker, with
    // this cure.
    stage.source.psql_in("shop", "ALTER TABLE pgbench_history REPLICA IDENTITY FULL").unwrap();
    // It says how it goes every second, and at its end what failed: so it must come to its end by itself.
    let mut run = pgbench(&["-M", "prepared", "-c", "16", "-j", "2", "-R", "500", "-T", "60", "-P", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let progress = Progress::of(run.stderr.take().unwrap());
    progress.goes_on().await;

    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    progress.goes_on().await;
    admin.run(&format!("UNDO MOVE {id}")).await;
    admin.wait_for_phase(&id, &["undone"]).await;
    progress.goes_on().await;
    assert_eq!(run.try_wait().unwrap(), None, "the load was over before what it is to prove");

    let output = tokio::task::spawn_blocking(move || run.wait_with_output()).await.unwrap().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), progress.lines().join("\n"));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("number of failed transactions: 0 "), "{text}");
}

/// What a running pgbench says.
struct Progress(Arc<Mutex<Vec<String>>>);

impl Progress {
    fn of(stderr: ChildStderr) -> Progress {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&lines);
        std::thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| told.lock().unwrap().push(line));
        });
        Progress(lines)
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Two more reports, each of transactions that were done.
    async fn goes_on(&self) {
        let reports = || self.lines().iter().filter(|line| line.starts_with("progress: ")).count();
        let before = reports();
        until("pgbench goes on", || async { reports() >= before + 2 }).await;
        let lines = self.lines();
        let last = lines.iter().rfind(|line| line.starts_with("progress: ")).unwrap();
        assert!(!last.contains(" 0.0 tps"), "{last}");
    }
}

async fn major(login: &support::Login) -> u32 {
    let row = login
        .connect()
        .await
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap();
    u32::try_from(row.get::<_, i32>(0) / 10_000).unwrap()
}

/// Writes the record of a proxy without a lease, into the store of a process that has ended.
async fn list_as_older_versions_did(stage: &Stage, proxy: &str) {
    let store = EmbeddedStore::open(stage.freehold.directory().join("freehold.redb")).unwrap();
    let record = ProxyRecord {
        id: ProxyId::parse(proxy).unwrap(),
        version: "0.1.0".to_owned(),
        started_at: UnixMillis(0),
        data_address: "127.0.0.1:6432".to_owned(),
    };
    let catalog = Catalog::new(store);
    assert!(catalog.fleet().proxies().await.unwrap().is_empty(), "an ended process is not listed");
    catalog.create(keys::proxy(&record.id), &record).await.unwrap();
    assert_eq!(catalog.fleet().proxies().await.unwrap(), [record]);
}
