//! The answers that the client still gets, and what requests that the server skips would have done.

use std::collections::VecDeque;
use std::rc::Rc;

use super::texts::Prepared;
use super::unnamed::Before;

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
    /// CommandComplete of a DEALLOCATE that is executed by the extended protocol, or of DISCARD ALL.
    Deallocated,
}

impl Kind {
    pub(super) fn is_sync(self) -> bool {
        matches!(self, Kind::Sync | Kind::SwallowedSync)
    }
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
    /// What the client's names meant that SQL deallocates: one for each DEALLOCATE, in the order of the text;
    /// `None`: the client had not made it by Parse. What the server has answered is taken away.
    pub(super) deallocated: Vec<Option<Renamed>>,
    /// The server does not have a statement under this name of the client's after all.
    pub(super) not_own: Option<Box<[u8]>>,
    /// The server still has it.
    pub(super) still_own: Option<Box<[u8]>>,
}

impl Undo {
    /// The names that stood for a statement before.
    pub(super) fn taken_away(&self) -> impl Iterator<Item = (&[u8], &Rc<Prepared>)> {
        let renamed = self.name.iter().chain(self.deallocated.iter().flatten());
        renamed.filter_map(|(name, before)| Some((&**name, before.as_ref()?)))
    }
}

/// A name of the client's, and the statement that it stood for.
pub(super) type Renamed = (Box<[u8]>, Option<Rc<Prepared>>);

/// Requests of a client that are not answered yet.
const EXPECTED_MAX: usize = 16 * 1024;

/// The answers that the server still owes to one client.
#[derive(Debug, Default)]
pub(super) struct ExpectedAnswers {
    pub(super) queue: VecDeque<ExpectedAnswer>,
    /// Requests that were sent, ours included.
    pub(super) requests: u64,
    /// The last of them that has an undo.
    undoable: u64,
    /// The last of them that changes the unnamed statement.
    changing: u64,
}

impl ExpectedAnswers {
    /// Too many requests wait for their answers.
    pub(super) fn are_too_many(&self) -> bool {
        self.queue.len() >= EXPECTED_MAX
    }

    /// The number of the request that failed, counted back from the last one.
    pub(super) fn number(&self, behind: Option<usize>) -> Option<u64> {
        behind.map(|behind| self.requests.saturating_sub(behind as u64))
    }

    /// The unnamed statement was changed before a Sync, and it is not known yet whether that request was
    /// skipped. A message in the same cycle would be skipped together with it.
    pub(super) fn is_unnamed_doubtful(&self) -> bool {
        // Usually there are none, however many requests are on their way.
        if self.queue.front().is_none_or(|due| due.request > self.changing) {
            return false;
        }
        let changes = |due: &ExpectedAnswer| due.before.is_some();
        let mut newest_first = self.queue.iter().rev().skip_while(|due| !changes(due) && !due.kind.is_sync());
        newest_first.next().is_some_and(|due| due.kind.is_sync()) && newest_first.any(changes)
    }

    /// The statement may still be there: it is not known yet whether the request that closed it was skipped.
    pub(super) fn is_closed_doubtfully(&self, name: &[u8]) -> bool {
        self.undos().flat_map(Undo::taken_away).any(|(closed, _)| closed == name)
    }

    /// It is not known yet whether the Parse that gave the name its meaning was skipped, and a message that
    /// is sent now would not be skipped together with it.
    pub(super) fn is_undone_doubtfully(&self, name: &[u8]) -> bool {
        let changes = |undo: &Undo| {
            let is_given = undo.name.as_ref().is_some_and(|(changed, _)| **changed == *name);
            is_given || undo.taken_away().any(|(changed, _)| changed == name)
        };
        self.undos_before_sync().any(changes)
    }

    /// The same for the server: whether the statement was made there, or closed.
    pub(super) fn is_unsettled(&self, key: u128) -> bool {
        self.undos_before_sync().any(|undo| undo.not_made == Some(key) || undo.not_closed == Some(key))
    }

    /// The server may still have the statement that a request was to close.
    pub(super) fn may_not_be_closed(&self, key: u128) -> bool {
        self.undos_before_sync().any(|undo| undo.not_closed == Some(key))
    }

    /// The undos of all requests that are not answered yet.
    pub(super) fn undos(&self) -> impl Iterator<Item = &Undo> {
        self.queue.iter().filter_map(|due| due.undo.as_deref())
    }

    /// A request that is not answered yet makes a statement under this name of the client's.
    pub(super) fn will_make_own(&self, name: &[u8]) -> bool {
        self.undos().any(|undo| undo.not_own.as_deref() == Some(name))
    }

    /// The server has carried out a DEALLOCATE. Returns the name of the client's that it was about, if the
    /// client had made the statement by Parse.
    pub(super) fn confirm_deallocated(&mut self) -> Option<Box<[u8]>> {
        let front = self.queue.front_mut()?;
        let undo = front.undo.as_mut().filter(|undo| !undo.deallocated.is_empty());
        let confirmed = undo.and_then(|undo| undo.deallocated.remove(0));
        self.pop_deallocated();
        confirmed.map(|(name, _)| name)
    }

    /// The server has deallocated all statements.
    pub(super) fn confirm_all_deallocated(&mut self) {
        if let Some(undo) = self.queue.front_mut().and_then(|front| front.undo.as_mut()) {
            undo.deallocated.clear();
        }
        self.pop_deallocated();
    }

    fn pop_deallocated(&mut self) {
        if self.queue.front().is_some_and(|front| front.kind == Kind::Deallocated) {
            self.queue.pop_front();
        }
    }

    /// The undos of requests before the last Sync that are not answered yet.
    fn undos_before_sync(&self) -> impl Iterator<Item = &Undo> {
        // Usually there are none, however many requests are on their way.
        let is_due = self.queue.front().is_some_and(|due| due.request <= self.undoable);
        let newest_first = self.queue.iter().rev().take(if is_due { usize::MAX } else { 0 });
        newest_first.skip_while(|due| !due.kind.is_sync()).filter_map(|due| due.undo.as_deref())
    }

    /// Notes the answer to the client's request that is sent next.
    pub(super) fn push(&mut self, kind: Kind, before: Option<Before>, undo: Option<Undo>) {
        self.note(self.requests + 1, kind, before, undo);
    }

    /// Notes the answer to the last request of ours before it.
    pub(super) fn push_ours(&mut self, kind: Kind, before: Option<Before>, undo: Option<Undo>) {
        self.note(self.requests, kind, before, undo);
    }

    fn note(&mut self, request: u64, kind: Kind, before: Option<Before>, undo: Option<Undo>) {
        let undo = undo.map(Box::new);
        self.undoable = if undo.is_some() { request } else { self.undoable };
        self.changing = if before.is_some() { request } else { self.changing };
        self.queue.push_back(ExpectedAnswer { kind, request, before, undo });
    }

    /// Syncs in front that a COPY has swallowed, or may have, will not be answered.
    pub(super) fn drop_swallowed_syncs(&mut self, failed: Option<u64>) {
        while let Some(front) = self.queue.front()
            && front.kind.is_sync()
            && failed.is_none_or(|failed| front.request < failed)
        {
            self.queue.pop_front();
        }
    }
}
