//! The names that one client has given to its statements.

use std::collections::HashMap;
use std::rc::Rc;

use super::expected_answers::Renamed;
use super::texts::Prepared;
use crate::session::scan::{NamedUse, StatementUse};

#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) map: HashMap<Box<[u8]>, Rc<Prepared>>,
    /// How many are too large to be prepared again on another connection.
    pub(super) oversized: usize,
    /// Bytes of the texts that can be prepared again, and of all names.
    pub(super) kept: usize,
    pub(super) bytes: usize,
}

impl Names {
    /// Removes a name of the client's; returns its statement.
    pub(super) fn forget(&mut self, name: &[u8]) -> Option<Rc<Prepared>> {
        let prepared = self.map.remove(name)?;
        self.oversized -= usize::from(prepared.body.is_none());
        self.kept -= prepared.body.as_ref().map_or(0, |body| body.len());
        self.bytes -= name.len();
        Some(prepared)
    }

    /// Removes the names of the statements that SQL deallocates. Returns them, one for each DEALLOCATE.
    pub(super) fn deallocate(&mut self, uses: &[StatementUse]) -> Vec<Option<Renamed>> {
        let mut deallocated = Vec::new();
        for named in uses {
            match named.does {
                NamedUse::Deallocates => {
                    let before = self.forget(&named.name);
                    deallocated.push(before.map(|before| (named.name.clone(), Some(before))));
                }
                NamedUse::DeallocatesAll => {
                    let Names { map, .. } = std::mem::take(self);
                    deallocated.extend(map.into_iter().map(|(name, before)| Some((name, Some(before)))));
                }
                NamedUse::Prepares | NamedUse::Executes => {}
            }
        }
        deallocated
    }

    /// They were not deallocated.
    pub(super) fn restore(&mut self, deallocated: Vec<Option<Renamed>>) {
        for (name, before) in deallocated.into_iter().flatten() {
            if let Some(before) = before.filter(|_| !self.map.contains_key(&name)) {
                self.give(name, before);
            }
        }
    }

    /// Records a name that no other statement has.
    pub(super) fn give(&mut self, name: Box<[u8]>, prepared: Rc<Prepared>) {
        self.oversized += usize::from(prepared.body.is_none());
        self.kept += prepared.body.as_ref().map_or(0, |body| body.len());
        self.bytes += name.len();
        self.map.insert(name, prepared);
    }
}
