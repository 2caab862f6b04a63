//! The statements that one server connection has, of all clients that it was lent to.

use bytes::BytesMut;

use super::by_name::OwnNames;
use super::keys::{KeyMap, KeySet};
use super::texts::name_of;
use crate::wire::message::Target;
use crate::wire::message::frontend;

/// The statements of one server connection; the value stays with the connection.
#[derive(Debug, Default)]
pub(in crate::session) struct OnServer {
    /// Statements by key, with the time of their last use, counted in uses.
    pub(super) known: KeyMap<u64>,
    pub(super) uses: u64,
    /// Those that are closed before the connection is lent to another client.
    pub(super) for_this_loan: Vec<u128>,
    /// The server may have these, and they must not be used: each is closed before one of that name is made,
    /// or before the connection is lent to another client.
    pub(super) uncertain: KeySet,
    /// Statements under names of the client's, which are closed before the connection is lent to another one.
    pub(super) own: OwnNames,
    /// The unnamed statement that the server has: its session and serial number; `None` where that is not
    /// known.
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

    /// It has a statement under this name of the client's, which Freehold knows.
    pub(in crate::session) fn has_own(&self, name: &str) -> bool {
        self.own.get(name.as_bytes()).is_some()
    }

    /// An exchange of Freehold's own has replaced the unnamed statement.
    pub(in crate::session) fn lose_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// The server has been seen to have these statements under names of ours, all made by Parse.
    pub(in crate::session) fn found(&mut self, keys: &KeySet) {
        let gone = self.known.extract_if(|key, _| !keys.contains(key)).map(|(key, _)| key);
        self.uncertain.extend(gone);
        self.uncertain.extend(keys.iter().filter(|key| !self.known.contains_key(key)));
    }

    /// Statements that were made before may mean something else now: each is made again before it is used.
    pub(in crate::session) fn lose_all(&mut self) {
        self.uncertain.extend(self.known.drain().map(|(key, _)| key));
    }

    /// The client gives the connection back.
    pub(in crate::session) fn end_loan(&mut self) {
        for key in self.for_this_loan.drain(..) {
            if self.known.remove(&key).is_some() {
                self.uncertain.insert(key);
            }
        }
    }

    /// No statement has to be closed before another client gets the connection.
    pub(in crate::session) fn is_clean(&self) -> bool {
        self.uncertain.is_empty() && self.own.is_empty()
    }

    /// Messages that close all of its statements, with a Sync behind. Empty where there are none.
    pub(in crate::session) fn close_all(&mut self) -> BytesMut {
        self.lose_all();
        self.for_this_loan.clear();
        self.close_uncertain()
    }

    /// The same for statements that must not be used.
    pub(in crate::session) fn close_uncertain(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        for key in self.uncertain.drain() {
            frontend::close(&mut out, Target::Statement, &name_of(key));
        }
        for name in self.own.drain() {
            frontend::close(&mut out, Target::Statement, &name);
        }
        if !out.is_empty() {
            frontend::sync(&mut out);
        }
        out
    }
}
