//! The names that one client has given to its statements.

use std::collections::HashMap;
use std::rc::Rc;

use super::texts::Prepared;

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

    /// Records a name that no other statement has.
    pub(super) fn give(&mut self, name: Box<[u8]>, prepared: Rc<Prepared>) {
        self.oversized += usize::from(prepared.body.is_none());
        self.kept += prepared.body.as_ref().map_or(0, |body| body.len());
        self.bytes += name.len();
        self.map.insert(name, prepared);
    }
}
