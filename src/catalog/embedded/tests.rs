//! Tests of what only a file can be exposed to: a killed process, a second process, damage.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::catalog::store::{Compare, Write};

/// The environment variable that makes [`the_child_that_is_killed`] write to the store that it names.
const CHILD_STORE: &str = "FREEHOLD_TEST_CHILD_STORE";

fn put(key: &str, value: &str, durability: Durability) -> Txn {
    let value = bytes::Bytes::copy_from_slice(value.as_bytes());
    let write = Write::Put { key: key.to_owned(), value, lease: None };
    Txn { compares: Vec::new(), writes: vec![write], durability }
}

async fn range(store: &EmbeddedStore, prefix: &str) -> Snapshot {
    store.range(Range::of(prefix)).await.unwrap()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn child(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "catalog::embedded::tests::the_child_that_is_killed", "--nocapture"])
        .env(CHILD_STORE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test of its own: others run it in a child process. Prints each commit once it was answered.
#[tokio::test]
async fn the_child_that_is_killed() {
    let Ok(path) = std::env::var(CHILD_STORE) else { return };
    let store = EmbeddedStore::open(path).unwrap();
    for n in 0_u64.. {
        let relaxed = put(&format!("relaxed/{n}"), "x", Durability::Relaxed);
        store.commit(relaxed).await.unwrap();
        let mut txn = put(&format!("a/{n:08}"), &n.to_string(), Durability::Synced);
        let value = bytes::Bytes::from(n.to_string());
        txn.writes.push(Write::Put { key: format!("b/{n:08}"), value, lease: None });
        txn.compares.push(Compare::Absent { key: format!("a/{n:08}") });
        let TxnOutcome::Committed(revision) = store.commit(txn).await.unwrap() else { panic!("conflict") };
        let mut out = std::io::stdout().lock();
        writeln!(out, "answered {n} {}", revision.0).unwrap();
        out.flush().unwrap();
    }
}

fn answered(line: &str) -> Option<(u64, u64)> {
    let (n, revision) = line.split_once("answered ")?.1.split_once(' ')?;
    Some((n.parse().ok()?, revision.parse().ok()?))
}

#[tokio::test]
async fn what_was_answered_survives_kill_minus_nine() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    for round in 0..3 {
        // The child fails on keys that exist, so each round has its own file.
        let path = path.with_extension(round.to_string());
        let mut child = child(&path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut known: Vec<(u64, u64)> = Vec::new();
        while known.len() < 5 + round * 10 {
            known.extend(answered(&lines.next().expect("the child writes").unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        known.extend(lines.map_while(Result::ok).filter_map(|line| answered(&line)));

        let store = EmbeddedStore::open(&path).unwrap();
        for &(n, revision) in &known {
            for key in [format!("a/{n:08}"), format!("b/{n:08}")] {
                let entry = store.get(&key).await.unwrap().entry.unwrap_or_else(|| panic!("{key} is lost"));
                assert_eq!((entry.value, entry.revision), (n.to_string().into(), Revision(revision)));
            }
            let before = store.get(&format!("relaxed/{n}")).await.unwrap().entry;
            assert!(before.is_some(), "a synced commit brings the relaxed ones before it along");
        }
        let (a, b) = (range(&store, "a/").await, range(&store, "b/").await);
        assert_eq!(a.entries.len(), b.entries.len(), "a transaction is there wholly or not at all");
        assert!(a.revision.0 > known.last().unwrap().1);
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    let mut child = child(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while answered(&lines.next().expect("the child writes").unwrap()).is_none() {}
    let refused = EmbeddedStore::open(&path);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(StoreError::InUse { .. })), "{refused:?}");
    EmbeddedStore::open(&path).expect("the lock ends with the process");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let directory = directory();
    let path = directory.path().join("notes.txt");
    let notes = "not a database\n".repeat(1_000);
    std::fs::write(&path, &notes).unwrap();
    assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
}

#[tokio::test]
async fn a_format_of_the_future_is_refused_by_its_number() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    drop(EmbeddedStore::open(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 9).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = EmbeddedStore::open(&path);
    assert!(matches!(refused, Err(StoreError::Format { found: 9, known: 1, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let path = directory.path().join("store.redb");
    let _store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Eight tasks keep the writer in fsyncs; relaxed commits of another task continue meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxed_commit_does_not_wait_for_a_running_fsync() {
    let directory = directory();
    let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
    let synced = |task: usize| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0.. {
                store.commit(put(&format!("s/{task}"), &format!("{n}"), Durability::Synced)).await.unwrap();
            }
        })
    };
    let busy: Vec<_> = (0..8).map(synced).collect();
    while range(&store, "s/").await.entries.len() < 8 {
        tokio::task::yield_now().await;
    }
    let mut while_flying = 0;
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    while while_flying < 50 && Instant::now() < deadline {
        let flying = lock(&store.memory).is_flying();
        // A commit that had to wait would not be ready at the first poll.
        let commit = store.commit(put("ack", "x", Durability::Relaxed));
        let ready = futures_util::FutureExt::now_or_never(commit);
        assert!(matches!(ready, Some(Ok(TxnOutcome::Committed(_)))), "it waited");
        while_flying += u32::from(flying);
        // A flight has room for a limited number of revisions: without a pause this loop would exhaust them.
        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(while_flying, 50, "no fsync was met");
}

#[tokio::test]
async fn a_dropped_store_ends_its_watches_and_frees_the_file() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let mut watch = store.watch("", range(&store, "").await.revision).await.unwrap();
    store.commit(put("ack", "kept", Durability::Relaxed)).await.unwrap();
    watch.next().await.unwrap().expect("the commit");
    drop(store);
    assert!(watch.next().await.unwrap().is_none());
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.get("ack").await.unwrap().entry.unwrap().value, "kept");
}

/// The keys of a store, in order.
async fn keys_of(store: &EmbeddedStore) -> Vec<String> {
    range(store, "").await.entries.into_iter().map(|entry| entry.key).collect()
}

#[tokio::test]
async fn keys_under_a_lease_do_not_outlive_the_process() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let lease = store.lease(std::time::Duration::from_secs(3_600)).await.unwrap().id;
    let value = bytes::Bytes::from_static(b"x");
    for key in ["under", "freed", "relaxed", "plain"] {
        let lease = (key != "plain").then_some(lease);
        let writes = vec![Write::Put { key: key.to_owned(), value: value.clone(), lease }];
        let durability = if key == "relaxed" { Durability::Relaxed } else { Durability::Synced };
        store.commit(Txn { compares: Vec::new(), writes, durability }).await.unwrap();
    }
    store.commit(put("freed", "y", Durability::Synced)).await.unwrap();
    let last = range(&store, "").await.revision;
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(keys_of(&store).await, ["freed", "plain"]);
    assert!(range(&store, "").await.revision > last);
    let gone = store.keep_alive(lease).await;
    assert!(matches!(gone, Err(StoreError::LeaseGone { .. })), "{gone:?}");
    // A lease of this process may have the same number, and nothing of the other one is under it.
    store.lease(std::time::Duration::from_millis(1)).await.unwrap();
    store.commit(put("under", "z", Durability::Synced)).await.unwrap();
    drop(store);
    assert_eq!(keys_of(&EmbeddedStore::open(&path).unwrap()).await, ["freed", "plain", "under"]);
}

#[tokio::test]
async fn proxies_that_older_versions_listed_without_a_lease_are_removed_and_nothing_else() {
    let directory = directory();
    let path = directory.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let kept = ["move/ack/1", "name/proxy", "proxy", "proxz/one/self"];
    for key in kept.into_iter().chain(["proxy/one/ack/db_1", "proxy/one/self", "proxy/two/self"]) {
        store.commit(put(key, "{}", Durability::Relaxed)).await.unwrap();
    }
    drop(store);
    assert_eq!(keys_of(&EmbeddedStore::open(&path).unwrap()).await, kept);
}

/// The writer and the holders of leases stand still together, and begin again together.
#[tokio::test]
async fn a_lease_does_not_end_because_its_process_stood_still() {
    let directory = directory();
    let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
    let lease = store.lease(std::time::Duration::from_millis(1_100)).await.unwrap().id;
    let memory = Arc::clone(&store.memory);
    let still = std::thread::spawn(move || {
        let _locked = writer::lock(&memory);
        std::thread::sleep(std::time::Duration::from_millis(1_700));
    });
    still.join().unwrap();
    store.keep_alive(lease).await.expect("it has its whole time again");
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    let gone = store.keep_alive(lease).await;
    assert!(matches!(gone, Err(StoreError::LeaseGone { .. })), "{gone:?}");
}
