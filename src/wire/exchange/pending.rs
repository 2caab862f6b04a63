//! The requests that the server has not answered yet, in their order.
//!
//! # Why counts
//! Each message of a client raises questions about all of them: whether one will report, whether all are
//! Syncs. A client may have thousands on their way. If each question searched them, one client could keep its
//! worker busy with messages of five bytes.

use std::collections::VecDeque;

/// Capacity above this is released once nothing is pending.
pub(super) const KEPT: usize = 64;

/// A request that the server has not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingReply {
    /// Consecutive Parse, Bind, Describe, Execute, Close: this many answers are missing. Never 0.
    Extended {
        answers: u32,
    },
    Query,
    FunctionCall,
    Sync,
    /// A Sync that the running COPY will read, unless it fails first. Never at the front; only while copying.
    SyncInCopy,
    /// CopyDone or CopyFail, sent before it was known whether the server would ask for data.
    CopyEnd,
}

impl PendingReply {
    /// Whether a ReadyForQuery answers it.
    pub(super) fn reports(&self) -> bool {
        matches!(self, PendingReply::Query | PendingReply::FunctionCall | PendingReply::Sync)
    }

    /// How many requests it stands for.
    fn requests(&self) -> usize {
        match self {
            PendingReply::Extended { answers } => *answers as usize,
            PendingReply::CopyEnd => 0,
            PendingReply::Query
            | PendingReply::FunctionCall
            | PendingReply::Sync
            | PendingReply::SyncInCopy => 1,
        }
    }
}

/// Counts of some kinds. Small, because each session has them: there are never more than [`MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    /// Those that a ReadyForQuery answers.
    reports: u16,
    syncs: u16,
    /// Those that may ask for data.
    commands: u16,
}

/// More cannot be counted; the client is not read long before.
pub(super) const MAX: usize = u16::MAX as usize;

impl Counts {
    fn of(reply: PendingReply) -> Counts {
        let is_command = matches!(reply, PendingReply::Extended { .. } | PendingReply::Query);
        Counts {
            reports: u16::from(reply.reports()),
            syncs: u16::from(reply == PendingReply::Sync),
            commands: u16::from(is_command),
        }
    }

    fn add(&mut self, reply: PendingReply) {
        let one = Counts::of(reply);
        self.reports += one.reports;
        self.syncs += one.syncs;
        self.commands += one.commands;
    }

    fn remove(&mut self, reply: PendingReply) {
        let one = Counts::of(reply);
        self.reports -= one.reports;
        self.syncs -= one.syncs;
        self.commands -= one.commands;
    }
}

/// A queue of them, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pending {
    queue: VecDeque<PendingReply>,
    counts: Counts,
    /// So many at the front are neither extended nor a Sync.
    others_in_front: u16,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn front(&self) -> Option<&PendingReply> {
        self.queue.front()
    }

    pub(super) fn back(&self) -> Option<&PendingReply> {
        self.queue.back()
    }

    pub(super) fn push(&mut self, reply: PendingReply) {
        self.counts.add(reply);
        self.queue.push_back(reply);
    }

    /// One more message of the extended protocol.
    pub(super) fn push_extended(&mut self) {
        match self.queue.back_mut() {
            Some(PendingReply::Extended { answers }) if *answers < u32::MAX => {
                *answers += 1;
            }
            _ => self.push(PendingReply::Extended { answers: 1 }),
        }
    }

    pub(super) fn pop(&mut self) -> Option<PendingReply> {
        let reply = self.queue.pop_front()?;
        self.counts.remove(reply);
        self.others_in_front = self.others_in_front.saturating_sub(1);
        Some(reply)
    }

    /// One message at the extended front has been answered. `Some(true)`: it was the last; `None`: the front
    /// is something else.
    pub(super) fn pay_extended(&mut self) -> Option<bool> {
        let Some(PendingReply::Extended { answers }) = self.queue.front_mut() else { return None };
        if *answers > 1 {
            *answers -= 1;
            return Some(false);
        }
        self.pop();
        Some(true)
    }

    /// The first `count` are gone.
    pub(super) fn drop_front(&mut self, count: usize) {
        for reply in self.queue.drain(..count) {
            self.counts.remove(reply);
        }
        self.others_in_front = self.others_in_front.saturating_sub(u16::try_from(count).unwrap_or(u16::MAX));
    }

    pub(super) fn clear(&mut self) {
        self.drop_front(self.len());
    }

    pub(super) fn remove(&mut self, at: usize) {
        if let Some(reply) = self.queue.remove(at) {
            self.counts.remove(reply);
        }
        self.others_in_front = 0;
    }

    pub(super) fn get(&self, at: usize) -> Option<PendingReply> {
        self.queue.get(at).copied()
    }

    pub(super) fn replace(&mut self, at: usize, reply: PendingReply) {
        if let Some(old) = self.queue.get_mut(at) {
            self.counts.remove(std::mem::replace(old, reply));
            self.counts.add(reply);
        }
        self.others_in_front = 0;
    }

    /// Keeps those for which `keep` returns what they are from now on.
    pub(super) fn keep(&mut self, mut keep: impl FnMut(PendingReply) -> Option<PendingReply>) {
        let mut counts = Counts::default();
        self.queue.retain_mut(|reply| {
            let Some(kept) = keep(*reply) else { return false };
            *reply = kept;
            counts.add(kept);
            true
        });
        (self.counts, self.others_in_front) = (counts, 0);
    }

    /// Memory that is not needed is given back.
    pub(super) fn shrink(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            self.queue = VecDeque::new();
        }
    }

    /// How many ReadyForQuery messages will come for them.
    pub(super) fn reports(&self) -> usize {
        usize::from(self.counts.reports)
    }

    pub(super) fn are_all_syncs(&self) -> bool {
        usize::from(self.counts.syncs) == self.len()
    }

    pub(super) fn has_commands(&self) -> bool {
        self.counts.commands > 0
    }

    pub(super) fn syncs_in_copy(&self) -> usize {
        self.queue.iter().filter(|reply| **reply == PendingReply::SyncInCopy).count()
    }

    /// The place of the first Sync.
    pub(super) fn first_sync(&self) -> Option<usize> {
        let is_there = self.counts.syncs > 0;
        is_there.then(|| self.queue.iter().position(|reply| *reply == PendingReply::Sync)).flatten()
    }

    /// The number of requests.
    pub(super) fn requests(&self) -> usize {
        self.requests_before(self.len())
    }

    /// The number of requests before this place.
    pub(super) fn requests_before(&self, at: usize) -> usize {
        self.queue.iter().take(at).map(PendingReply::requests).sum()
    }

    /// Whether extended messages come before the next Sync. Each is looked at once while it is not in front.
    pub(super) fn is_extended_before_sync(&mut self) -> bool {
        let is_other =
            |reply: &PendingReply| !matches!(reply, PendingReply::Extended { .. } | PendingReply::Sync);
        while self.queue.get(usize::from(self.others_in_front)).is_some_and(is_other) {
            self.others_in_front += 1;
        }
        matches!(self.queue.get(usize::from(self.others_in_front)), Some(PendingReply::Extended { .. }))
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replies() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..12u8, 0..200)
    }

    fn replay(pending: &mut Pending, step: u8) {
        use PendingReply::*;
        match step {
            0 | 1 => pending.push_extended(),
            2 => pending.push(Query),
            3 => pending.push(FunctionCall),
            4 => pending.push(Sync),
            5 => pending.push(SyncInCopy),
            6 => pending.push(CopyEnd),
            7 => drop(pending.pop()),
            8 => drop(pending.pay_extended()),
            9 => pending.replace(1, SyncInCopy),
            10 => pending.keep(|reply| (reply != SyncInCopy).then_some(reply)),
            _ => pending.drop_front(pending.first_sync().unwrap_or(0)),
        }
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_the_queue(steps in replies()) {
            let mut pending = Pending::default();
            for step in steps {
                replay(&mut pending, step);
                let mut counted = Counts::default();
                pending.queue.iter().for_each(|reply| counted.add(*reply));
                prop_assert_eq!(pending.counts, counted);
                let next = pending.queue.iter().find(|reply| {
                    matches!(reply, PendingReply::Extended { .. } | PendingReply::Sync)
                });
                let is_extended = matches!(next, Some(PendingReply::Extended { .. }));
                prop_assert_eq!(pending.is_extended_before_sync(), is_extended);
            }
        }
    }
}
