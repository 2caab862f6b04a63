//! Commits and watches.

use super::*;

pub(super) async fn a_key_must_be_absent_or_unchanged_where_the_commit_says_so(lab: &dyn Lab) {
    let store = lab.open().await;
    let first = committed(commit(&store, vec![absent("a")], vec![put("a", "1")]).await.unwrap());
    assert_eq!(commit(&store, vec![absent("a")], vec![put("a", "2")]).await.unwrap(), TxnOutcome::Conflict);

    let second = committed(commit(&store, vec![unchanged("a", first)], vec![put("a", "3")]).await.unwrap());
    assert!(second > first);
    let stale = commit(&store, vec![unchanged("a", first)], vec![put("a", "4")]).await.unwrap();
    assert_eq!(stale, TxnOutcome::Conflict);
    assert_eq!(value(&store, "a").await.as_deref(), Some("3"));

    write(&store, vec![delete("a")]).await;
    let gone = commit(&store, vec![unchanged("a", second)], vec![put("a", "5")]).await.unwrap();
    assert_eq!(gone, TxnOutcome::Conflict);
    committed(commit(&store, vec![absent("a")], vec![put("a", "6")]).await.unwrap());
}

pub(super) async fn a_conflict_leaves_nothing(lab: &dyn Lab) {
    let store = lab.open().await;
    let before = write(&store, vec![put("a", "1")]).await;
    let writes = vec![put("b", "2"), delete("a")];
    let outcome = commit(&store, vec![absent("c"), absent("a")], writes).await.unwrap();
    assert_eq!(outcome, TxnOutcome::Conflict);
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&store, "b").await, None);
    assert_eq!(store.range(Range::of("")).await.unwrap().revision, before, "a conflict is no commit");
}

/// Readers and a watcher never see only one key of a pair.
pub(super) async fn several_keys_change_together(lab: &dyn Lab) {
    let store = lab.open().await;
    let begin = write(&store, vec![put("pair/a", "0"), put("pair/b", "0")]).await;
    let mut watch = store.watch("pair/", begin).await.unwrap();
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 1..=50 {
            write(&writer, vec![put("pair/a", &n.to_string()), put("pair/b", &n.to_string())]).await;
        }
    });
    while !writing.is_finished() {
        let snapshot = store.range(Range::of("pair/")).await.unwrap();
        assert_eq!(snapshot.entries[0].value, snapshot.entries[1].value);
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    for n in 1..=50 {
        let batch = next(&mut watch).await;
        assert_eq!(batch.len(), 2, "commit {n} is one batch");
        assert_eq!(revision_of(&batch[0]), revision_of(&batch[1]));
    }
}

pub(super) async fn a_prefix_ends_where_it_ends(lab: &dyn Lab) {
    let store = lab.open().await;
    let keys = ["route", "route/", "route/a", "route/a/b", "route/\u{10FFFF}", "route0", "routes/a"];
    let begin = write(&store, keys.iter().map(|key| put(key, "x")).collect()).await;
    let snapshot = store.range(Range::of("route/")).await.unwrap();
    let found: Vec<_> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(found, ["route/", "route/a", "route/a/b", "route/\u{10FFFF}"]);
    assert_eq!(store.range(Range::of("")).await.unwrap().entries.len(), keys.len());

    let mut watch = store.watch("route/", begin).await.unwrap();
    write(&store, vec![put("route0", "y"), put("route", "y")]).await;
    write(&store, vec![put("route0", "z"), delete("route/a")]).await;
    let batch = next(&mut watch).await;
    assert!(matches!(&batch[..], [StoreEvent::Deleted { key, .. }] if key == "route/a"), "{batch:?}");
}

/// While eight tasks write, watches that began at different revisions see every later commit once, in order.
pub(super) async fn a_watch_has_no_gap_under_concurrent_writers(lab: &dyn Lab) {
    const WRITERS: usize = 8;
    const EACH: usize = 20;
    let store = lab.open().await;
    let begin = write(&store, vec![put("w/begin", "x")]).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                let durability = if (writer + n) % 2 == 0 { Durability::Synced } else { Durability::Relaxed };
                let writes = vec![put(&format!("w/{writer}"), &n.to_string())];
                committed(store.commit(Txn { compares: Vec::new(), writes, durability }).await.unwrap());
            }
        }));
    }
    let mut from_begin = store.watch("w/", begin).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..WRITERS * EACH / 2 {
        seen.extend(next(&mut from_begin).await);
    }
    let middle = revision_of(seen.last().unwrap());
    let mut from_middle = store.watch("w/", middle).await.unwrap();
    for _ in WRITERS * EACH / 2..WRITERS * EACH {
        let batch = next(&mut from_begin).await;
        assert_eq!(batch, next(&mut from_middle).await);
        seen.extend(batch);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(seen.is_sorted_by(|a, b| revision_of(a) < revision_of(b)), "revisions grow");
    for writer in 0..WRITERS {
        let key = format!("w/{writer}");
        let of_writer = seen.iter().filter_map(|event| match event {
            StoreEvent::Put(entry) if entry.key == key => {
                Some(String::from_utf8_lossy(&entry.value).into_owned())
            }
            _ => None,
        });
        assert!(of_writer.eq((0..EACH).map(|n| n.to_string())), "every commit of {key}, in order");
    }
}

pub(super) async fn a_watch_of_forgotten_history_is_told_to_read_again(lab: &dyn Lab) {
    let store = lab.open().await;
    let begin = write(&store, vec![put("a", "1")]).await;
    let mut slow = store.watch("a", begin).await.unwrap();
    write(&store, vec![put("a", "2")]).await;
    lab.forget(&store).await;
    let late = store.watch("a", begin).await;
    assert!(matches!(late, Err(StoreError::Compacted { after }) if after == begin));
    assert!(matches!(slow.next().await, Err(StoreError::Compacted { .. })));

    let snapshot = store.range(Range::of("a")).await.unwrap();
    let mut watch = store.watch("a", snapshot.revision).await.unwrap();
    write(&store, vec![put("a", "3")]).await;
    assert!(matches!(&next(&mut watch).await[..], [StoreEvent::Put(entry)] if entry.value == "3"));
}

pub(super) async fn a_restart_keeps_values_and_revisions(lab: &dyn Lab) {
    let store = lab.open().await;
    let first = write(&store, vec![put("a", "1"), put("b", "1")]).await;
    let second = write(&store, vec![put("b", "2"), put("c", "2")]).await;
    write(&store, vec![delete("c")]).await;
    drop(store);

    let store = lab.open().await;
    assert_eq!(store.get("a").await.unwrap().entry.unwrap().revision, first);
    assert_eq!(store.get("b").await.unwrap().entry.unwrap().revision, second);
    assert_eq!(value(&store, "c").await, None);
    assert!(store.range(Range::of("")).await.unwrap().revision > second);
    let third = committed(commit(&store, vec![unchanged("b", second)], vec![put("b", "3")]).await.unwrap());
    assert!(third > second);
}

pub(super) async fn a_relaxed_commit_is_visible_at_once_and_in_order(lab: &dyn Lab) {
    let store = lab.open().await;
    let begin = write(&store, vec![put("ack", "0")]).await;
    let mut watch = store.watch("ack", begin).await.unwrap();
    for n in 1..=20 {
        let writes = vec![put("ack", &n.to_string())];
        let durability = Durability::Relaxed;
        let relaxed =
            committed(store.commit(Txn { compares: Vec::new(), writes, durability }).await.unwrap());
        assert_eq!(value(&store, "ack").await, Some(n.to_string()));
        let compares = vec![unchanged("ack", relaxed)];
        committed(commit(&store, compares, vec![put("ack", &format!("{n} synced"))]).await.unwrap());
    }
    for n in 1..=20 {
        for expected in [n.to_string(), format!("{n} synced")] {
            let batch = next(&mut watch).await;
            assert!(matches!(&batch[..], [StoreEvent::Put(entry)] if entry.value == expected), "{batch:?}");
        }
    }
    drop((store, watch));
    assert_eq!(value(&lab.open().await, "ack").await.as_deref(), Some("20 synced"));
}

/// 16 tasks count together by compare-and-swap; no increment is lost.
pub(super) async fn a_counter_is_linearizable(lab: &dyn Lab) {
    const TASKS: u64 = 16;
    const EACH: u64 = 10;
    let store = lab.open().await;
    write(&store, vec![put("n", "0")]).await;
    let count = |store: Arc<dyn Store>| async move {
        for _ in 0..EACH {
            loop {
                let entry = store.get("n").await.unwrap().entry.unwrap();
                let n: u64 = String::from_utf8_lossy(&entry.value).parse().unwrap();
                let compares = vec![unchanged("n", entry.revision)];
                let outcome = commit(&store, compares, vec![put("n", &(n + 1).to_string())]).await.unwrap();
                if let TxnOutcome::Committed(revision) = outcome {
                    let after = store.get("n").await.unwrap().entry.unwrap();
                    assert!(after.revision >= revision, "an answered commit is visible");
                    break;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(count(Arc::clone(&store)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&store, "n").await, Some((TASKS * EACH).to_string()));
}

pub(super) async fn a_commit_that_changes_nothing_has_no_revision(lab: &dyn Lab) {
    let store = lab.open().await;
    let last = write(&store, vec![put("a", "1")]).await;
    assert_eq!(write(&store, vec![delete("missing")]).await, last);
    assert_eq!(committed(commit(&store, vec![unchanged("a", last)], Vec::new()).await.unwrap()), last);
}

/// As many conditions and as many writes as every store must accept.
pub(super) async fn a_transaction_may_have_so_many_operations(lab: &dyn Lab) {
    let store = lab.open().await;
    let keys: Vec<String> = (0..TXN_OPERATIONS_MAX).map(|n| format!("many/{n:03}")).collect();
    let missing = keys.iter().map(|key| absent(key)).collect();
    let first = commit(&store, missing, keys.iter().map(|key| put(key, "1")).collect()).await.unwrap();
    let first = committed(first);
    let snapshot = store.range(Range::of("many/")).await.unwrap();
    assert_eq!(snapshot.entries.len(), TXN_OPERATIONS_MAX);
    assert!(snapshot.entries.iter().all(|entry| entry.revision == first), "one commit");

    let mut watch = store.watch("many/", first).await.unwrap();
    let last = keys.last().unwrap();
    let second = write(&store, vec![put(last, "2")]).await;
    let mut conditions: Vec<Compare> = keys.iter().map(|key| unchanged(key, first)).collect();
    let deletions = || keys.iter().map(|key| delete(key)).collect::<Vec<_>>();
    let stale = commit(&store, conditions.clone(), deletions()).await.unwrap();
    assert_eq!(stale, TxnOutcome::Conflict, "the last condition does not hold");
    *conditions.last_mut().unwrap() = unchanged(last, second);
    committed(commit(&store, conditions, deletions()).await.unwrap());
    assert_eq!(next(&mut watch).await.len(), 1);
    assert_eq!(next(&mut watch).await.len(), TXN_OPERATIONS_MAX, "one batch");
    assert!(store.range(Range::of("many/")).await.unwrap().entries.is_empty());
}
