//! What is read: one key, a range, a page of it.

use super::*;

pub(super) async fn a_lookup_has_the_revision_of_the_store(lab: &dyn Lab) {
    let store = lab.open().await;
    let first = write(&store, vec![put("a", "1")]).await;
    let second = write(&store, vec![put("b", "1")]).await;
    let found = store.get("a").await.unwrap();
    assert_eq!((found.revision, found.entry.unwrap().revision), (second, first));
    let missing = store.get("c").await.unwrap();
    assert_eq!((missing.revision, missing.entry), (second, None));
    assert_eq!(store.range(Range::of("c")).await.unwrap().revision, second);
}

/// While a task writes, each lookup is followed from its own revision.
pub(super) async fn a_watch_from_the_revision_of_a_lookup_misses_nothing(lab: &dyn Lab) {
    const WRITES: usize = 60;
    let store = lab.open().await;
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 1..=WRITES {
            write(&writer, vec![put("n", &n.to_string())]).await;
        }
    });
    let number = |value: &[u8]| String::from_utf8_lossy(value).parse::<usize>().unwrap();
    let mut known = 0;
    while known < WRITES {
        let found = store.get("n").await.unwrap();
        known = found.entry.map_or(0, |entry| number(&entry.value));
        let mut watch = store.watch("n", found.revision).await.unwrap();
        for _ in 0..5 {
            if known == WRITES {
                break;
            }
            let batch = next(&mut watch).await;
            assert!(matches!(&batch[..], [StoreEvent::Put(entry)] if number(&entry.value) == known + 1));
            known += 1;
        }
    }
    writing.await.unwrap();
}

/// The keys of one reading, and whether more follow.
async fn read(store: &Arc<dyn Store>, range: Range) -> (Vec<String>, bool) {
    let snapshot = store.range(range).await.unwrap();
    (snapshot.entries.into_iter().map(|entry| entry.key).collect(), snapshot.more)
}

pub(super) async fn a_range_is_read_in_pages_in_both_orders(lab: &dyn Lab) {
    let store = lab.open().await;
    let keys: Vec<String> = (0..7).map(|n| format!("page/{n}")).collect();
    let outside = ["page", "page0", "pages/1"];
    let all = keys.iter().map(String::as_str).chain(outside);
    write(&store, all.map(|key| put(key, "x")).collect()).await;

    for newest_first in [false, true] {
        let range = |after: Option<&String>, limit| Range {
            after: after.cloned(),
            limit: Some(limit),
            newest_first,
            ..Range::of("page/")
        };
        let mut wanted = keys.clone();
        if newest_first {
            wanted.reverse();
        }
        for limit in 1..=keys.len() + 1 {
            let (mut found, mut more) = read(&store, range(None, limit)).await;
            while more {
                assert_eq!(found.len() % limit, 0, "every page but the last is full");
                let (page, further) = read(&store, range(found.last(), limit)).await;
                assert!(!page.is_empty(), "more entries were promised");
                found.extend(page);
                more = further;
            }
            assert_eq!(found, wanted, "in pages of {limit}");
        }
        let unlimited = Range { limit: None, ..range(None, 1) };
        assert_eq!(read(&store, unlimited).await, (wanted, false));
    }
}

pub(super) async fn a_page_begins_behind_its_key_wherever_that_is(lab: &dyn Lab) {
    let store = lab.open().await;
    write(&store, ["a", "m/1", "m/3", "m/\u{10FFFF}", "z"].map(|key| put(key, "x")).into()).await;
    let all = ["m/1", "m/3", "m/\u{10FFFF}"];
    let cases = [
        ("m/2", &all[1..], &all[..1]),
        ("m/3", &all[2..], &all[..1]),
        ("m/", &all[..], &[]),
        ("a", &all[..], &[]),
        ("m/\u{10FFFF}", &[], &all[..2]),
        ("n", &[], &all[..]),
    ];
    for (after, ascending, descending) in cases {
        let found = read(&store, Range::of("m/").after(after)).await;
        assert_eq!((&found.0[..], found.1), (&strings(ascending)[..], false), "after {after}");
        let mut found = read(&store, Range::of("m/").after(after).newest_first()).await;
        found.0.reverse();
        assert_eq!((&found.0[..], found.1), (&strings(descending)[..], false), "before {after}");
    }
    let newest = read(&store, Range::of("").newest_first().limit(2)).await;
    assert_eq!(newest, (strings(&["z", "m/\u{10FFFF}"]), true));
}

fn strings(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}
