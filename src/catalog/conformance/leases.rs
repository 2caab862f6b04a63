//! Leases: what is written under them, and how it ends.

use super::*;
use crate::catalog::store::{Lease, LeaseId};

/// Short, but long enough to write under. A store may grant a longer one.
const TTL: Duration = Duration::from_secs(2);

fn put_under(lease: &Lease, key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), lease: Some(lease.id) }
}

async fn lease(store: &Arc<dyn Store>) -> Lease {
    let lease = store.lease(TTL).await.unwrap();
    assert!(lease.ttl >= TTL, "shorter than asked for");
    lease
}

/// A lease that does not end during a test.
async fn long_lease(store: &Arc<dyn Store>) -> Lease {
    store.lease(DEADLINE * 60).await.unwrap()
}

async fn lease_of(store: &Arc<dyn Store>, key: &str) -> Option<LeaseId> {
    store.get(key).await.unwrap().entry.expect("it exists").lease
}

/// The keys that a batch deletes. Nothing else is in it, and it is one commit.
fn deleted(batch: &[StoreEvent]) -> Vec<&str> {
    let revision = revision_of(&batch[0]);
    let deletion = |event| match event {
        &StoreEvent::Deleted { ref key, revision: of } if of == revision => key.as_str(),
        other => panic!("{other:?}"),
    };
    batch.iter().map(deletion).collect()
}

pub(super) async fn a_lease_that_is_not_kept_alive_ends_and_watches_see_one_commit(lab: &dyn Lab) {
    let store = lab.open().await;
    let began = std::time::Instant::now();
    let lease = lease(&store).await;
    write(&store, vec![put("other", "x"), put_under(&lease, "l/a", "1")]).await;
    let last = write(&store, vec![put("l/kept", "x"), put_under(&lease, "l/b", "1")]).await;
    let mut watch = store.watch("l/", last).await.unwrap();
    let batch = next(&mut watch).await;
    assert!(began.elapsed() >= lease.ttl, "it lived for {:?}", began.elapsed());
    assert_eq!(deleted(&batch), ["l/a", "l/b"]);
    assert!(revision_of(&batch[0]) > last);
    assert_eq!((value(&store, "l/a").await, value(&store, "l/b").await), (None, None));
    assert_eq!(value(&store, "l/kept").await.as_deref(), Some("x"));
    assert_eq!(value(&store, "other").await.as_deref(), Some("x"));
    assert!(store.get("l/a").await.unwrap().revision >= revision_of(&batch[0]));
    let ended = store.keep_alive(lease.id).await;
    assert!(matches!(ended, Err(StoreError::LeaseGone { lease: id }) if id == lease.id), "{ended:?}");
}

/// A machine that lets the test wait for the time of a lease begins again: then nothing can be said.
pub(super) async fn a_lease_that_is_kept_alive_lives_beyond_its_time(lab: &dyn Lab) {
    let store = lab.open().await;
    let deadline = std::time::Instant::now() + DEADLINE;
    'again: loop {
        assert!(std::time::Instant::now() < deadline, "the machine is too slow");
        let lease = lease(&store).await;
        write(&store, vec![put_under(&lease, "kept", "x")]).await;
        let began = std::time::Instant::now();
        let mut asked_at = began;
        while began.elapsed() < lease.ttl * 2 {
            let before = std::mem::replace(&mut asked_at, std::time::Instant::now());
            match store.keep_alive(lease.id).await {
                Ok(()) => {}
                Err(_) if before.elapsed() >= lease.ttl => continue 'again,
                Err(error) => panic!("after {:?}: {error}", began.elapsed()),
            }
            tokio::time::sleep(lease.ttl / 10).await;
        }
        assert_eq!(value(&store, "kept").await.as_deref(), Some("x"));
        return;
    }
}

pub(super) async fn a_revoked_lease_takes_its_keys_along_at_once(lab: &dyn Lab) {
    let store = lab.open().await;
    let lease = long_lease(&store).await;
    let idle = long_lease(&store).await;
    let last = write(&store, vec![put_under(&lease, "l/a", "1"), put_under(&lease, "l/b", "1")]).await;
    let mut watch = store.watch("l/", last).await.unwrap();
    store.revoke(lease.id).await.unwrap();
    assert_eq!((value(&store, "l/a").await, value(&store, "l/b").await), (None, None));
    assert_eq!(deleted(&next(&mut watch).await), ["l/a", "l/b"]);
    store.revoke(lease.id).await.expect("once more");

    let before = store.get("l/a").await.unwrap().revision;
    store.revoke(idle.id).await.unwrap();
    assert_eq!(store.get("l/a").await.unwrap().revision, before, "nothing was under it");
}

pub(super) async fn a_key_is_under_the_lease_of_its_last_write(lab: &dyn Lab) {
    let store = lab.open().await;
    let [first, second] = [long_lease(&store).await, long_lease(&store).await];
    let under_first = ["l/stays", "l/freed", "l/passed on", "l/deleted"];
    write(&store, under_first.map(|key| put_under(&first, key, "1")).into()).await;
    assert_eq!(lease_of(&store, "l/freed").await, Some(first.id));
    write(&store, vec![put("l/freed", "2"), put_under(&second, "l/passed on", "2")]).await;
    write(&store, vec![delete("l/deleted")]).await;
    let last = write(&store, vec![put("l/deleted", "2")]).await;
    assert_eq!(lease_of(&store, "l/freed").await, None);
    assert_eq!(lease_of(&store, "l/passed on").await, Some(second.id));

    let mut watch = store.watch("l/", last).await.unwrap();
    store.revoke(first.id).await.unwrap();
    assert_eq!(deleted(&next(&mut watch).await), ["l/stays"]);
    store.revoke(second.id).await.unwrap();
    assert_eq!(deleted(&next(&mut watch).await), ["l/passed on"]);
    for key in ["l/freed", "l/deleted"] {
        assert_eq!(value(&store, key).await.as_deref(), Some("2"));
    }
}

pub(super) async fn a_commit_that_names_a_lease_that_has_ended_writes_nothing(lab: &dyn Lab) {
    let store = lab.open().await;
    let lease = long_lease(&store).await;
    store.revoke(lease.id).await.unwrap();
    let last = write(&store, vec![put("a", "1")]).await;
    for durability in [Durability::Synced, Durability::Relaxed] {
        let txn = |compares| {
            let writes = vec![put("a", "2"), put_under(&lease, "b", "2")];
            store.commit(Txn { compares, writes, durability })
        };
        let refused = txn(vec![unchanged("a", last)]).await;
        assert!(matches!(refused, Err(StoreError::LeaseGone { lease: id }) if id == lease.id), "{refused:?}");
        let conflict = txn(vec![absent("a")]).await.unwrap();
        assert_eq!(conflict, TxnOutcome::Conflict, "the conditions decide first");
    }
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(store.get("b").await.unwrap().revision, last);
}

/// Two leases that end at about the same time: each in a commit of its own.
pub(super) async fn leases_end_one_by_one(lab: &dyn Lab) {
    let store = lab.open().await;
    let leases = [lease(&store).await, lease(&store).await];
    let mut last = Revision(0);
    for (lease, name) in leases.iter().zip(["one", "two"]) {
        let writes = ["a", "b"].map(|key| put_under(lease, &format!("l/{name}/{key}"), "x"));
        last = write(&store, writes.into()).await;
    }
    let mut watch = store.watch("l/", last).await.unwrap();
    let batches = [next(&mut watch).await, next(&mut watch).await];
    let mut ended: Vec<Vec<&str>> = batches.iter().map(|batch| deleted(batch)).collect();
    ended.sort();
    assert_eq!(ended, [["l/one/a", "l/one/b"], ["l/two/a", "l/two/b"]]);
    assert!(revision_of(&batches[0][0]) < revision_of(&batches[1][0]));
}
