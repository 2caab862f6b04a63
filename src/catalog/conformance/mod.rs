//! What every implementation of [`Store`] must do, as tests with a [`Lab`] that opens one.
//!
//! A further implementation is a [`Lab`] and a line at the head of the list of tests at the end. No test
//! knows how a store works, how long it takes, or how long it lets a lease live beyond its time. Each test
//! has a store of its own, empty at the beginning.

mod commits;
mod leases;
mod ranges;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::embedded::EmbeddedStore;
use super::store::{
    Compare, Durability, Range, Revision, Store, StoreError, StoreEvent, TXN_OPERATIONS_MAX, Txn, TxnOutcome,
    Watch, Write,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Opens a store, repeatedly, on the same data.
#[async_trait]
trait Lab: Send + Sync {
    /// The caller has dropped all stores opened before.
    async fn open(&self) -> Arc<dyn Store>;

    /// Makes the store drop its history up to now.
    async fn forget(&self, store: &Arc<dyn Store>);
}

struct EmbeddedLab {
    directory: tempfile::TempDir,
}

const HISTORY: usize = 200;

impl EmbeddedLab {
    fn new() -> EmbeddedLab {
        let shm = std::path::Path::new("/dev/shm");
        let directory = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        EmbeddedLab { directory: directory.unwrap() }
    }
}

#[async_trait]
impl Lab for EmbeddedLab {
    async fn open(&self) -> Arc<dyn Store> {
        EmbeddedStore::open_with_history(self.directory.path().join("store.redb"), HISTORY).unwrap()
    }

    async fn forget(&self, store: &Arc<dyn Store>) {
        for n in 0..=HISTORY {
            commit(store, Vec::new(), vec![put("unrelated/key", &n.to_string())]).await.unwrap();
        }
    }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), lease: None }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned() }
}

fn absent(key: &str) -> Compare {
    Compare::Absent { key: key.to_owned() }
}

fn unchanged(key: &str, revision: Revision) -> Compare {
    Compare::Unchanged { key: key.to_owned(), revision }
}

async fn commit(
    store: &Arc<dyn Store>,
    compares: Vec<Compare>,
    writes: Vec<Write>,
) -> Result<TxnOutcome, StoreError> {
    store.commit(Txn { compares, writes, durability: Durability::Synced }).await
}

async fn write(store: &Arc<dyn Store>, writes: Vec<Write>) -> Revision {
    committed(commit(store, Vec::new(), writes).await.unwrap())
}

fn committed(outcome: TxnOutcome) -> Revision {
    match outcome {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict => panic!("a conflict"),
    }
}

async fn value(store: &Arc<dyn Store>, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap().entry?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn next(watch: &mut Box<dyn Watch>) -> Vec<StoreEvent> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("no batch in time").unwrap().expect("ended")
}

fn revision_of(event: &StoreEvent) -> Revision {
    match event {
        StoreEvent::Put(entry) => entry.revision,
        StoreEvent::Deleted { revision, .. } => *revision,
    }
}

macro_rules! every_store {
    ([$($module:ident: $lab:expr),+] $tests:tt) => {
        $(mod $module { super::every_store! { $lab; $tests } })+
    };
    ($lab:expr; { $($room:ident: $($test:ident)*;)* }) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$room::$test(&$lab).await;
            }
        )*)*
    };
}
use every_store;

every_store! {
    [embedded: super::EmbeddedLab::new()]
    {
        commits:
            a_key_must_be_absent_or_unchanged_where_the_commit_says_so
            a_conflict_leaves_nothing
            several_keys_change_together
            a_prefix_ends_where_it_ends
            a_watch_has_no_gap_under_concurrent_writers
            a_watch_of_forgotten_history_is_told_to_read_again
            a_restart_keeps_values_and_revisions
            a_relaxed_commit_is_visible_at_once_and_in_order
            a_counter_is_linearizable
            a_commit_that_changes_nothing_has_no_revision
            a_transaction_may_have_so_many_operations;
        ranges:
            a_lookup_has_the_revision_of_the_store
            a_watch_from_the_revision_of_a_lookup_misses_nothing
            a_range_is_read_in_pages_in_both_orders
            a_page_begins_behind_its_key_wherever_that_is;
        leases:
            a_lease_that_is_not_kept_alive_ends_and_watches_see_one_commit
            a_lease_that_is_kept_alive_lives_beyond_its_time
            a_revoked_lease_takes_its_keys_along_at_once
            a_key_is_under_the_lease_of_its_last_write
            a_commit_that_names_a_lease_that_has_ended_writes_nothing
            leases_end_one_by_one;
    }
}
