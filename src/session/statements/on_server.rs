//! What one server connection has of the statements of those who have had it.

use std::collections::HashMap;

use bytes::BytesMut;

use super::texts::name_of;
use crate::wire::message::Target;
use crate::wire::message::frontend;

/// What one server connection has; it stays with the connection.
#[derive(Debug, Default)]
pub(in crate::session) struct OnServer {
    /// With when each was used last.
    pub(super) known: HashMap<u128, u64>,
    pub(super) uses: u64,
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

    /// Messages that close all of them, a Sync behind. Empty where there are none.
    pub(in crate::session) fn close_all(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        for (key, _) in self.known.drain() {
            frontend::close(&mut out, Target::Statement, &name_of(key));
        }
        if !out.is_empty() {
            frontend::sync(&mut out);
        }
        out
    }
}
