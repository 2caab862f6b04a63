//! The answers that the client still gets, and what requests that the server skips would have done.

use std::rc::Rc;

use super::texts::Prepared;
use super::unnamed::Mark;

/// A request that is not answered yet: one that changes which statements there are, or one that ReadyForQuery
/// answers.
#[derive(Debug)]
pub(super) struct ExpectedAnswer {
    pub(super) kind: Kind,
    /// Sequence number of the request within its session.
    pub(super) request: u64,
    /// The unnamed statement before it, if the request changes that.
    pub(super) before: Option<Before>,
    /// Boxed: few requests make a named statement or close one.
    pub(super) undo: Option<Box<Undo>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// ParseComplete or CloseComplete, forwarded as it is.
    Own,
    /// The same for a request of ours: not forwarded.
    Swallowed,
    /// CloseComplete, forwarded as ParseComplete.
    AsParse,
    /// ReadyForQuery for a Sync.
    Sync,
    /// ReadyForQuery for a Query or FunctionCall.
    Call,
    /// ReadyForQuery for a Sync of ours.
    SwallowedSync,
}

impl Kind {
    pub(super) fn is_sync(self) -> bool {
        matches!(self, Kind::Sync | Kind::SwallowedSync)
    }
}

/// The unnamed statement before a request that replaces it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// The client's; `None`: the request is one of ours, which changes the server's statement and nothing
    /// else.
    pub(super) client: Option<Mark>,
}

/// What to undo for a named statement if its request is skipped or fails.
#[derive(Debug, Default)]
pub(super) struct Undo {
    /// The server does not have this statement after all.
    pub(super) not_made: Option<u128>,
    /// The server still has this statement.
    pub(super) not_closed: Option<u128>,
    /// What the client's name meant before.
    pub(super) name: Option<Renamed>,
}

/// A name of the client's, and the statement that it stood for.
pub(super) type Renamed = (Box<[u8]>, Option<Rc<Prepared>>);
