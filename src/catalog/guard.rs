//! What must still be so in the commit of a user's command.
//!
//! # Why
//! A right is checked before a command begins, on the records as they are then. Until the commit, another
//! command can give the database to another team or take the right away. So a catalogue that a command writes
//! through has the guard of its user: every commit compares the record of the user with the one that the
//! right was read from, and every change of a database asks the guard about the record that is replaced, also
//! when a change is attempted again.

use std::fmt;

use super::store::Revision;
use crate::model::DatabaseRecord;

/// On what the permission of a command rests.
pub trait CommitGuard: fmt::Debug + Send + Sync {
    /// A key that must not have been written since: the commit fails with
    /// [`StoreError::NotPermitted`](super::store::StoreError::NotPermitted) otherwise.
    fn unchanged(&self) -> Option<(String, Revision)>;

    /// Whether the command may change this record.
    fn may_change(&self, database: &DatabaseRecord) -> bool;
}
