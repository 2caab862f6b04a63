//! What is owed to the client for each request, and what a request would have done that the server skips.

use std::rc::Rc;

use super::texts::Prepared;
use super::unnamed::Mark;

/// A request that is not answered yet. Only those that change what statements there are, and those that ReadyForQuery comes
/// for.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) kind: Kind,
    /// The how manieth request of the session it is.
    pub(super) request: u64,
    /// What there was before it, where it changes the unnamed statement.
    pub(super) before: Option<Before>,
    /// Boxed: few requests make a named statement or close one.
    pub(super) undo: Option<Box<Undo>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// ParseComplete or CloseComplete, as it comes.
    Own,
    /// One of them, for a request of ours.
    Swallowed,
    /// CloseComplete, told as ParseComplete.
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

/// The unnamed statement before a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// The client's; `None`: the request is one of ours, which changes what the server has and nothing else.
    pub(super) client: Option<Mark>,
    /// [`OnServer::unnamed`](super::OnServer).
    pub(super) server: Option<(u64, u64)>,
}

/// Of named statements.
#[derive(Debug, Default)]
pub(super) struct Undo {
    /// The server does not have it after all.
    pub(super) not_made: Option<u128>,
    /// The server still has it.
    pub(super) not_closed: Option<u128>,
    /// What the client's name meant before.
    pub(super) name: Option<Renamed>,
}

/// A name of the client's, and what it stood for.
pub(super) type Renamed = (Box<[u8]>, Option<Rc<Prepared>>);
