//! What the records of all operations have in common: the kind, the log of steps, why one failed.
//!
//! An operation is a change that takes several commits and work on systems in between. Its record says what
//! was begun, so that a crash at any instant is followed by resume or undo. [`super::movement`] and
//! [`super::database_operation`] have the records.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MoveId, UnixMillis};
use crate::error::Blame;

/// The kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    Move,
    Create,
    Drop,
    Adopt,
}

impl OperationKind {
    pub fn as_str(self) -> &'static str {
        match self {
            OperationKind::Move => "move",
            OperationKind::Create => "create",
            OperationKind::Drop => "drop",
            OperationKind::Adopt => "adopt",
        }
    }
}

/// The number of an operation that is no move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OperationId(pub u64);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The operation of a database: a kind, and the number among those of the kind.
///
/// A move is stored as its number alone, as older versions did: during a rolling upgrade they read the same
/// record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "StoredRef", into = "StoredRef")]
pub struct OperationRef {
    pub kind: OperationKind,
    pub id: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredRef {
    Move(u64),
    Of { kind: OperationKind, id: u64 },
}

impl From<StoredRef> for OperationRef {
    fn from(stored: StoredRef) -> OperationRef {
        match stored {
            StoredRef::Move(id) => OperationRef { kind: OperationKind::Move, id },
            StoredRef::Of { kind, id } => OperationRef { kind, id },
        }
    }
}

impl From<OperationRef> for StoredRef {
    fn from(of: OperationRef) -> StoredRef {
        match of.kind {
            OperationKind::Move => StoredRef::Move(of.id),
            kind => StoredRef::Of { kind, id: of.id },
        }
    }
}

impl From<MoveId> for OperationRef {
    fn from(id: MoveId) -> OperationRef {
        OperationRef { kind: OperationKind::Move, id: id.0 }
    }
}

impl OperationRef {
    /// The number of the move, if it is one.
    pub fn move_id(self) -> Option<MoveId> {
        (self.kind == OperationKind::Move).then_some(MoveId(self.id))
    }
}

/// `move 3`
impl fmt::Display for OperationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// One entry in the log of an operation. The intent is durable before the step acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry<S> {
    pub step: S,
    pub event: StepEvent,
    pub at: UnixMillis,
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepEvent {
    Started,
    Done,
    Failed,
    UndoStarted,
    Undone,
    UndoFailed,
    /// The operator asked for the step (again): attempts are counted from here.
    Asked,
}

/// Why an operation did not succeed, as the operator reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure<S> {
    pub step: S,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// `None` if an older version wrote it.
    #[serde(default)]
    pub blame: Option<Blame>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_stored_as_its_number() {
        let of: OperationRef = serde_json::from_str("3").unwrap();
        assert_eq!((of.move_id(), of.to_string().as_str()), (Some(MoveId(3)), "move 3"));
        assert_eq!(serde_json::to_string(&of).unwrap(), "3");
        assert_eq!(serde_json::from_str::<OperationRef>(r#"{"kind":"move","id":3}"#).unwrap(), of);
    }

    #[test]
    fn another_operation_is_stored_with_its_kind() {
        let of = OperationRef { kind: OperationKind::Create, id: 3 };
        let stored = serde_json::to_string(&of).unwrap();
        assert_eq!(stored, r#"{"kind":"create","id":3}"#);
        assert_eq!(serde_json::from_str::<OperationRef>(&stored).unwrap(), of);
        assert_eq!(of.move_id(), None);
    }
}
