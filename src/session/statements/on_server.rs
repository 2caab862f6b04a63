//! What one server connection has of the statements of those who have had it.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;

use super::STAND_IN;
use super::texts::name_of;
use crate::wire::message::Target;
use crate::wire::message::frontend;

/// What one server connection has; it stays with the connection.
#[derive(Debug, Default)]
pub(in crate::session) struct OnServer {
    /// With when each was used last.
    pub(super) known: HashMap<u128, u64>,
    pub(super) uses: u64,
    /// Those of them that are closed before the connection is lent on.
    pub(super) for_this_loan: Vec<u128>,
    /// It may have these, and nobody is to use them: they are closed before one of that name is made, or the connection lent on.
    pub(super) doubted: HashSet<u128>,
    /// The same for what was made to be in the way of a client's Parse.
    pub(super) has_stand_in: bool,
    /// Whose unnamed statement it has, and which of them; `None` where nobody knows.
    pub(super) unnamed: Option<(u64, u64)>,
}

impl OnServer {
    pub(super) fn has(&mut self, key: u128) -> bool {
        self.uses += 1;
        match self.known.get_mut(&key) {
            Some(used) => {
                *used = self.uses;
                true
            }
            None => false,
        }
    }

    pub(super) fn oldest(&self) -> Option<u128> {
        self.known.iter().min_by_key(|(_, used)| **used).map(|(&key, _)| key)
    }

    /// An exchange of Freehold's own took the place of the unnamed statement.
    pub(in crate::session) fn lose_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// What the server was seen to have under names of ours, the keys of all that were made by Parse.
    pub(in crate::session) fn found(&mut self, keys: &HashSet<u128>) {
        let gone = self.known.extract_if(|key, _| !keys.contains(key)).map(|(key, _)| key);
        self.doubted.extend(gone);
        self.doubted.extend(keys.iter().filter(|key| !self.known.contains_key(key)));
    }

    /// Nobody is to use what it has: it was prepared for what is not so any more.
    pub(super) fn doubt_all(&mut self) {
        self.doubted.extend(self.known.drain().map(|(key, _)| key));
    }

    /// The client gives the connection back.
    pub(in crate::session) fn end_loan(&mut self) {
        for key in self.for_this_loan.drain(..) {
            if self.known.remove(&key).is_some() {
                self.doubted.insert(key);
            }
        }
    }

    /// It has nothing that is to be closed before somebody gets the connection.
    pub(in crate::session) fn is_clean(&self) -> bool {
        self.doubted.is_empty() && !self.has_stand_in
    }

    /// Messages that close all of them, a Sync behind. Empty where there are none.
    pub(in crate::session) fn close_all(&mut self) -> BytesMut {
        self.doubt_all();
        self.for_this_loan.clear();
        self.close_doubted()
    }

    /// The same for those that nobody is to use.
    pub(in crate::session) fn close_doubted(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        for key in self.doubted.drain() {
            frontend::close(&mut out, Target::Statement, &name_of(key));
        }
        if std::mem::take(&mut self.has_stand_in) {
            frontend::close(&mut out, Target::Statement, STAND_IN);
        }
        if !out.is_empty() {
            frontend::sync(&mut out);
        }
        out
    }
}
