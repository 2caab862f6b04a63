//! What the chain of the audit trail finds, on an embedded store.

use std::sync::Arc;

use bytes::Bytes;

use super::chain::{Flaw, Head, Sha256, Verification};
use super::embedded::EmbeddedStore;
use super::keys;
use super::store::{Durability, Range, Store, Txn, Write};
use super::{Catalog, Swap, Trail};
use crate::model::{AuditEntry, Told, UnixMillis};

struct Fixture {
    _directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    catalog: Catalog,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
    Fixture { _directory: directory, catalog: Catalog::new(Arc::clone(&store)), store }
}

fn entry(at: u64) -> AuditEntry {
    let outcome = AuditEntry::PENDING.to_owned();
    AuditEntry { outcome, ..AuditEntry::new(UnixMillis(at), "alice", "ALTER DATABASE shop TIER critical") }
}

fn ok(at: u64) -> AuditEntry {
    AuditEntry { outcome: "ok".to_owned(), ..entry(at) }
}

fn trail(at: u64) -> Trail {
    Trail::new(ulid::Ulid::generate(), entry(at))
}

impl Fixture {
    /// An entry that is written with a change, and then its outcome.
    async fn record(&self, at: u64, outcome: &str) -> String {
        let trail = trail(at);
        self.catalog.with_trail(&trail).put("n/1".to_owned(), &at, Durability::Relaxed).await.unwrap();
        self.catalog.audit().end(&trail, outcome.to_owned(), Told::Nothing).await.unwrap();
        trail.key().to_owned()
    }

    /// As something else than Freehold would write.
    async fn write(&self, write: Write) {
        self.store.commit(Txn { writes: vec![write], ..Txn::default() }).await.unwrap();
    }

    async fn put(&self, key: &str, value: Bytes) {
        self.write(Write::Put { key: key.to_owned(), value, lease: None }).await;
    }

    async fn delete(&self, key: &str) {
        self.write(Write::Delete { key: key.to_owned() }).await;
    }

    /// Writes an entry anew, with a link after `previous` as the first version of the chain had it.
    async fn replace_as_the_first_version(&self, key: &str, entry: &AuditEntry, previous: Head) {
        let (written, value) = (self.value(key).await, Bytes::from(serde_json::to_vec(entry).unwrap()));
        let digests = serde_json::json!({ "digest": Sha256::of(&value), "replaced": Sha256::of(&written) });
        let link = serde_json::json!({ "previous": previous.digest, "entries": { key: digests } });
        self.put(&keys::audit_link(previous.sequence + 1), link.to_string().into()).await;
        self.put(key, value).await;
    }

    async fn value(&self, key: &str) -> Bytes {
        self.store.get(key).await.unwrap().entry.unwrap().value
    }

    async fn verify(&self, kept: Option<Head>) -> Verification {
        self.catalog.audit().verify(kept).await.unwrap()
    }

    async fn flaws(&self) -> Vec<Flaw> {
        self.verify(None).await.flaws
    }
}

#[tokio::test]
async fn a_trail_that_only_freehold_has_written_fits_its_chain() {
    let fixture = fixture();
    let empty = fixture.verify(None).await;
    assert_eq!((empty.entries, empty.head.sequence, &empty.flaws[..]), (0, 0, &[][..]));

    fixture.record(1, "ok").await;
    let early = fixture.verify(None).await;
    for at in 2..8 {
        fixture.record(at, if at % 2 == 0 { "ok" } else { "57014: canceled" }).await;
    }
    let found = fixture.verify(Some(early.head)).await;
    // The first link, and two for each entry: one with the change, one with the outcome.
    assert_eq!((found.entries, found.head.sequence, &found.flaws[..]), (7, 1 + 2 * 7, &[][..]));
    assert_eq!(found.head.to_string().parse(), Ok(found.head), "a person can keep it");
    assert_eq!(fixture.verify(Some(empty.head)).await.flaws, [], "an empty chain is where each one begins");
}

#[tokio::test]
async fn what_was_done_to_entries_is_named() {
    let fixture = fixture();
    let mut names = Vec::new();
    for at in 1..=4 {
        names.push(fixture.record(at, "57014: canceled").await);
    }
    let [one, two, three, _] = &names[..] else { panic!("{names:?}") };

    let written = fixture.value(one).await;
    let changed = String::from_utf8(written.to_vec()).unwrap().replace("alice", "mallory");
    fixture.put(one, changed.into()).await;
    assert_eq!(fixture.flaws().await, [Flaw::EntryChanged { key: one.clone() }]);
    fixture.put(one, written).await;
    assert_eq!(fixture.flaws().await, []);

    // The outcome as it was at first is not the outcome.
    let last = fixture.value(two).await;
    fixture.put(two, serde_json::to_vec(&entry(2)).unwrap().into()).await;
    assert_eq!(fixture.flaws().await, [Flaw::EntryChanged { key: two.clone() }]);
    fixture.put(two, last).await;

    // Another time is another key.
    let moved = keys::audit(UnixMillis(9), ulid::Ulid::generate());
    let value = fixture.value(three).await;
    fixture.delete(three).await;
    assert_eq!(fixture.flaws().await, [Flaw::EntryMissing { key: three.clone() }]);
    fixture.put(&moved, value).await;
    let flaws = fixture.flaws().await;
    assert_eq!(flaws, [Flaw::EntryAdded { key: moved }, Flaw::EntryMissing { key: three.clone() }]);
}

#[tokio::test]
async fn what_was_done_to_links_is_named() {
    let fixture = fixture();
    for at in 1..=4 {
        fixture.record(at, "ok").await;
    }
    let kept = fixture.verify(None).await.head;
    assert_eq!(kept.sequence, 1 + 2 * 4);
    let (second, third) = (keys::audit_link(2), keys::audit_link(3));
    let (value, next) = (fixture.value(&second).await, fixture.value(&third).await);

    let spaced = [b" ", &value[..]].concat();
    fixture.put(&second, spaced.into()).await;
    assert_eq!(fixture.flaws().await, [Flaw::LinkChanged { sequence: 2 }], "to the byte");

    fixture.put(&second, next.clone()).await;
    fixture.put(&third, value.clone()).await;
    let flaws = fixture.flaws().await;
    assert!(flaws.contains(&Flaw::LinkChanged { sequence: 2 }), "exchanged: {flaws:?}");
    fixture.put(&third, next).await;

    fixture.delete(&second).await;
    let flaws = fixture.flaws().await;
    assert_eq!(flaws[0], Flaw::LinkMissing { sequence: 2 });
    fixture.put(&second, value).await;
    assert_eq!(fixture.flaws().await, []);
}

#[tokio::test]
async fn a_head_that_was_kept_shows_a_chain_that_was_cut_or_made_anew() {
    let fixture = fixture();
    let mut names = Vec::new();
    for at in 1..=3 {
        names.push(fixture.record(at, "ok").await);
    }
    let kept = fixture.verify(None).await.head;
    fixture.delete(&names[2]).await;
    fixture.delete(&keys::audit_link(kept.sequence)).await;
    fixture.delete(&keys::audit_link(kept.sequence - 1)).await;
    assert_eq!(fixture.flaws().await, [], "the rest fits");
    assert_eq!(fixture.verify(Some(kept)).await.flaws, [Flaw::OtherHead { kept }]);

    fixture.record(3, "ok").await;
    assert_eq!(fixture.verify(None).await.head.sequence, kept.sequence);
    assert_eq!(
        fixture.verify(Some(kept)).await.flaws,
        [Flaw::OtherHead { kept }],
        "another link in its place"
    );
}

/// A version without a chain wrote entries, and a version whose links have one digest gave one of them an
/// outcome.
#[tokio::test]
async fn the_entries_from_before_the_chain_are_covered() {
    let fixture = fixture();
    let mut names = Vec::new();
    let mut lines = String::new();
    for at in 1..=3 {
        let key = keys::audit(UnixMillis(at), ulid::Ulid::generate());
        let value = serde_json::to_vec(&ok(at)).unwrap();
        lines.push_str(&format!("{key} {}\n", Sha256::of(&value)));
        fixture.put(&key, value.into()).await;
        names.push(key);
    }
    let before = serde_json::json!({ "count": 3, "last": &names[2], "digest": Sha256::of(lines.as_bytes()) });
    let first = serde_json::json!({ "previous": Sha256::default(), "before": before }).to_string();
    fixture.put(&keys::audit_link(1), first.clone().into()).await;
    let ended = AuditEntry { outcome: "ok, after a restart".to_owned(), ..entry(2) };
    let previous = Head { sequence: 1, digest: Sha256::of(first.as_bytes()) };
    fixture.replace_as_the_first_version(&names[1], &ended, previous).await;
    fixture.record(10, "ok").await;
    // Its clock is behind.
    fixture.record(2, "ok").await;
    let found = fixture.verify(None).await;
    assert_eq!((found.entries, &found.flaws[..]), (5, &[][..]));

    let before = Flaw::EntriesBefore { expected: 3, found: 3 };
    let value = fixture.value(&names[0]).await;
    fixture.put(&names[0], serde_json::to_vec(&entry(7)).unwrap().into()).await;
    assert_eq!(fixture.flaws().await, [before]);
    fixture.delete(&names[0]).await;
    assert_eq!(fixture.flaws().await, [Flaw::EntriesBefore { expected: 3, found: 2 }]);
    fixture.put(&names[0], value).await;
    assert_eq!(fixture.flaws().await, []);
}

#[tokio::test]
async fn commits_at_the_same_time_make_one_chain_and_a_conflict_is_told() {
    const WRITERS: u64 = 8;
    let fixture = fixture();
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..WRITERS {
        let catalog = fixture.catalog.clone();
        tasks.spawn(async move {
            let trail = trail(at);
            let key = format!("n/{at}");
            catalog.with_trail(&trail).create(key, &at).await.unwrap()
        });
    }
    let swaps = tasks.join_all().await;
    assert!(swaps.iter().all(|swap| matches!(swap, Swap::Committed(_))), "{swaps:?}");
    let found = fixture.verify(None).await;
    assert_eq!((found.entries, found.head.sequence, &found.flaws[..]), (WRITERS, 1 + WRITERS, &[][..]));

    let again = fixture.catalog.with_trail(&trail(99)).create("n/0".to_owned(), &0_u64).await.unwrap();
    assert_eq!(again, Swap::Conflict, "the record exists");
    assert_eq!(fixture.verify(None).await, found, "nothing was written");
    let links = fixture.store.range(Range::of(keys::AUDIT_LINKS)).await.unwrap().entries.len() as u64;
    assert_eq!(links, found.head.sequence);
}

/// Freehold's own second write of an entry gives it its outcome. What else was in it is what it was.
#[tokio::test]
async fn a_head_that_was_kept_shows_an_entry_that_a_later_link_replaces() {
    let fixture = fixture();
    let key = fixture.record(1, "57014: canceled").await;
    let kept = fixture.verify(None).await.head;

    let written = fixture.value(&key).await;
    let forged: Bytes = String::from_utf8(written.to_vec()).unwrap().replace("alice", "mallory").into();
    let entries = serde_json::json!({
        &key: { "digest": Sha256::of(&forged), "replaced": Sha256::of(&written) }
    });
    let link = serde_json::json!({ "previous": kept.digest, "entries": entries });
    fixture.put(&keys::audit_link(kept.sequence + 1), serde_json::to_vec(&link).unwrap().into()).await;
    fixture.put(&key, forged).await;

    assert_eq!(fixture.verify(Some(kept)).await.flaws, [Flaw::EntryChanged { key }]);
}

/// As above, by a link that claims what Freehold's own would have.
#[tokio::test]
async fn a_link_changes_nothing_but_an_outcome_that_is_still_to_come() {
    for (outcome, forged) in [
        // Another user, at the time when the outcome comes.
        (None, AuditEntry { who: "mallory".to_owned(), ..ok(1) }),
        // Another outcome.
        (Some("57014: canceled"), ok(1)),
        (Some("ok"), AuditEntry { outcome: "42501: permission denied".to_owned(), ..entry(1) }),
        (Some("ok"), entry(1)),
    ] {
        let fixture = fixture();
        let trail = trail(1);
        fixture.catalog.with_trail(&trail).put("n/1".to_owned(), &1, Durability::Relaxed).await.unwrap();
        if let Some(outcome) = outcome {
            fixture.catalog.audit().end(&trail, outcome.to_owned(), Told::Nothing).await.unwrap();
        }
        let (kept, key) = (fixture.verify(None).await.head, trail.key().to_owned());
        let link: serde_json::Value =
            serde_json::from_slice(&fixture.value(&keys::audit_link(kept.sequence)).await).unwrap();
        let value = serde_json::to_vec(&forged).unwrap();
        let digests = serde_json::json!({
            "digest": Sha256::of(&value),
            "replaced": Sha256::of(&fixture.value(&key).await),
            "fixed": link["entries"][&key]["fixed"],
        });
        let link = serde_json::json!({ "version": 2, "previous": kept.digest, "entries": { &key: digests } });
        fixture.put(&keys::audit_link(kept.sequence + 1), link.to_string().into()).await;
        fixture.put(&key, value.into()).await;
        let flaws = fixture.verify(Some(kept)).await.flaws;
        assert_eq!(flaws, [Flaw::EntryChanged { key }], "{outcome:?}, then {forged:?}");
    }
}
