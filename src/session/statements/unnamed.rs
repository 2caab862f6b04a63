//! The unnamed statement of one client: what it is, and what it was before requests that the server may skip.
//!
//! # Why
//! A client may pipeline over an error. Then the server skips all requests up to the next Sync, and the
//! unnamed statement is the earlier one. So each version is kept until the request that replaced it has been
//! carried out.

use std::collections::VecDeque;
use std::rc::Rc;

use super::texts::{Prepared, uses_of};
use crate::session::scan::StatementUse;
use crate::session::state::{UNNAMED_BYTES_KEPT, UNNAMED_BYTES_MAX};

/// The text that a client has parsed without a name.
#[derive(Debug, Default)]
pub(super) enum Text {
    #[default]
    None,
    /// The body of the Parse.
    Body(Vec<u8>),
    TooLarge,
    /// A statement that the server keeps under a name: `pool.cache_unnamed`.
    Shared(Rc<Prepared>),
}

/// A version of the unnamed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// The unnamed statement before a request that replaces it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// The client's; `None`: the request is one of ours, which changes the server's statement and nothing
    /// else.
    pub(super) client: Option<Mark>,
}

#[derive(Debug, Default)]
struct Version {
    serial: u64,
    text: Text,
    /// The statements that a [`Text::Body`] names, of the client's; usually none.
    uses: Option<Rc<[StatementUse]>>,
}

/// The current version and those that may come back.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    now: Version,
    /// Versions that may come back, oldest first.
    past: VecDeque<Version>,
    serials: u64,
    room: Vec<u8>,
}

impl Unnamed {
    pub(super) fn text(&self) -> &Text {
        &self.now.text
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self.now.text, Text::None)
    }

    /// Tells the statement from all others of the session.
    pub(super) fn serial(&self) -> u64 {
        self.now.serial
    }

    /// The client parses another one; `whole`: `body` is all of its Parse.
    pub(super) fn parse(&mut self, body: &[u8], whole: bool) -> Mark {
        if !whole || body.len() > UNNAMED_BYTES_MAX {
            return self.replace(Text::TooLarge);
        }
        let mut room = std::mem::take(&mut self.room);
        room.clear();
        room.extend_from_slice(body);
        let mark = self.replace(Text::Body(room));
        let mut parts = body.split(|&byte| byte == 0);
        self.now.uses = parts.nth(1).and_then(uses_of);
        mark
    }

    /// The statements that its text names.
    pub(super) fn uses(&self) -> Option<&Rc<[StatementUse]>> {
        match &self.now.text {
            Text::Shared(prepared) => prepared.uses(),
            _ => self.now.uses.as_ref(),
        }
    }

    pub(super) fn share(&mut self, prepared: Rc<Prepared>) -> Mark {
        self.replace(Text::Shared(prepared))
    }

    /// Replaces the shared statement by the one for another parse context.
    pub(super) fn refit(&mut self, prepared: Rc<Prepared>) {
        self.now.text = Text::Shared(prepared);
    }

    /// Destroys the statement. `None`: there was none, and whether that stays so depends on no answer.
    pub(super) fn destroy(&mut self) -> Option<Mark> {
        (!self.is_none() || !self.past.is_empty()).then(|| self.replace(Text::None))
    }

    fn replace(&mut self, text: Text) -> Mark {
        self.serials += 1;
        let before = std::mem::replace(&mut self.now, Version { serial: self.serials, text, uses: None });
        let mark = Mark(before.serial);
        self.past.push_back(before);
        mark
    }

    /// The request that replaced version `before` succeeded; older versions can go.
    pub(super) fn settle(&mut self, before: Mark) {
        while self.past.front().is_some_and(|version| version.serial <= before.0) {
            let version = self.past.pop_front();
            self.recycle(version);
        }
    }

    /// A request was carried out; `before` is set if it changed the unnamed statement.
    pub(super) fn settle_request(&mut self, before: Option<Before>) {
        if let Some(mark) = before.and_then(|before| before.client) {
            self.settle(mark);
        }
    }

    /// All requests were carried out.
    pub(super) fn settle_all(&mut self) {
        self.settle(Mark(u64::MAX));
    }

    /// The request that replaced version `before` was skipped: the version that it made never existed.
    pub(super) fn restore(&mut self, before: Mark) {
        let Some(at) = self.position(before) else { return };
        let skipped = match at + 1 < self.past.len() {
            true => self.past.remove(at + 1),
            false => self.past.pop_back().map(|version| std::mem::replace(&mut self.now, version)),
        };
        self.recycle(skipped);
    }

    /// The Parse that replaced version `before` failed: PostgreSQL has no unnamed statement after it.
    pub(super) fn fail(&mut self, before: Mark) {
        let Some(at) = self.position(before) else { return };
        self.past.get_mut(at + 1).unwrap_or(&mut self.now).text = Text::None;
        self.settle(before);
    }

    /// Index of the newest version that is not newer than `mark`.
    fn position(&self, mark: Mark) -> Option<usize> {
        self.past.iter().rposition(|version| version.serial <= mark.0)
    }

    /// Which unnamed statement the server has is not known any more.
    pub(super) fn lose(&mut self) {
        self.destroy();
        self.settle_all();
    }

    fn recycle(&mut self, version: Option<Version>) {
        if let Some(Version { text: Text::Body(body), .. }) = version
            && body.capacity() <= UNNAMED_BYTES_KEPT
        {
            self.room = body;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(unnamed: &Unnamed) -> &[u8] {
        match unnamed.text() {
            Text::Body(body) => body,
            _ => b"",
        }
    }

    #[test]
    fn what_was_before_a_skipped_request_comes_back_and_nothing_else() {
        let mut unnamed = Unnamed::default();
        let nothing = unnamed.parse(b"one", true);
        let one = unnamed.parse(b"two", true);
        let two = unnamed.destroy().unwrap();
        let again = unnamed.destroy().unwrap();
        unnamed.settle(nothing);
        unnamed.restore(again);
        unnamed.restore(two);
        assert_eq!(body(&unnamed), b"two");
        unnamed.restore(one);
        assert_eq!(body(&unnamed), b"one");
        assert!(unnamed.past.is_empty());
        let one = unnamed.parse(b"three", true);
        unnamed.settle(one);
        assert_eq!((body(&unnamed), unnamed.past.len()), (&b"three"[..], 0));
        unnamed.lose();
        assert_eq!(unnamed.destroy(), None);
    }

    #[test]
    fn a_query_behind_one_that_is_skipped_destroys_the_statement() {
        let mut unnamed = Unnamed::default();
        let nothing = unnamed.parse(b"one", true);
        unnamed.settle(nothing);
        let skipped = unnamed.destroy().unwrap();
        let carried_out = unnamed.destroy().unwrap();
        unnamed.restore(skipped);
        unnamed.settle(carried_out);
        assert!(unnamed.is_none() && unnamed.past.is_empty());
    }

    #[test]
    fn what_was_sent_behind_the_next_sync_is_not_touched() {
        let mut unnamed = Unnamed::default();
        let nothing = unnamed.parse(b"one", true);
        let one = unnamed.parse(b"skipped", true);
        let skipped = unnamed.parse(b"two", true);
        let two = unnamed.parse(b"wrong", true);
        let wrong = unnamed.parse(b"three", true);
        unnamed.settle(nothing);
        unnamed.restore(one);
        assert_eq!((body(&unnamed), unnamed.past.len()), (&b"three"[..], 3));
        unnamed.settle(skipped);
        unnamed.fail(two);
        unnamed.restore(wrong);
        assert!(unnamed.is_none() && unnamed.past.is_empty());
    }

    #[test]
    fn one_after_the_other_needs_room_for_two() {
        let mut unnamed = Unnamed::default();
        let mut rooms = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let before = unnamed.parse(b"select 1", true);
            unnamed.settle(before);
            rooms.insert(body(&unnamed).as_ptr());
        }
        assert!(rooms.len() <= 2, "{rooms:?}");
    }

    #[test]
    fn one_that_is_too_large_is_known_and_not_kept() {
        let mut unnamed = Unnamed::default();
        unnamed.parse(&vec![b'x'; UNNAMED_BYTES_MAX + 1], true);
        assert!(matches!(unnamed.text(), Text::TooLarge));
        unnamed.parse(b"only the beginning", false);
        assert!(matches!(unnamed.text(), Text::TooLarge));
    }
}
