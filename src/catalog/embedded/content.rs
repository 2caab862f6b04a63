//! The entries of the store by key, and how a range of them is read. No IO, no waiting.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::catalog::store::{Entry, LeaseId, Range, Revision};

/// The value of a key.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) revision: Revision,
    pub(super) value: Bytes,
    pub(super) lease: Option<LeaseId>,
}

pub(super) fn entry_of((key, stored): (&String, &Stored)) -> Entry {
    let Stored { revision, value, lease } = stored.clone();
    Entry { key: key.clone(), value, revision, lease }
}

/// The entries of a range, and whether its limit left out some.
pub(super) fn read(entries: &BTreeMap<String, Stored>, range: &Range) -> (Vec<Entry>, bool) {
    let Some((from, to)) = bounds(range) else { return (Vec::new(), false) };
    let bounds = (from.as_ref().map(String::as_str), to.as_ref().map(String::as_str));
    let found = entries.range::<str, _>(bounds).map(entry_of);
    let limit = range.limit.unwrap_or(usize::MAX);
    match range.newest_first {
        false => page(found, limit),
        true => page(found.rev(), limit),
    }
}

fn page(mut entries: impl Iterator<Item = Entry>, limit: usize) -> (Vec<Entry>, bool) {
    let page = entries.by_ref().take(limit).collect();
    (page, entries.next().is_some())
}

/// From which key to which one a range goes. `None`: no key can be in it.
fn bounds(range: &Range) -> Option<(Bound<String>, Bound<String>)> {
    let mut from = (range.prefix.clone(), Bound::Included as fn(String) -> Bound<String>);
    let mut end = end_of(&range.prefix);
    if let Some(after) = &range.after {
        match range.newest_first {
            true if end.as_ref().is_none_or(|end| after < end) => end = Some(after.clone()),
            false if *after >= range.prefix => from = (after.clone(), Bound::Excluded),
            _ => {}
        }
    }
    let (first, bound) = from;
    if end.as_ref().is_some_and(|end| first >= *end) {
        return None;
    }
    Some((bound(first), end.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// The smallest string that is greater than every string with this prefix. `None`: there is none.
fn end_of(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_first_string_without_it() {
        assert_eq!(end_of("route/").as_deref(), Some("route0"));
        assert_eq!(end_of("a\u{D7FF}").as_deref(), Some("a\u{E000}"), "no surrogate is a character");
        assert_eq!(end_of("a\u{10FFFF}\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(end_of("\u{10FFFF}"), None);
        assert_eq!(end_of(""), None);
    }
}
