//! The store in memory: what readers and watchers see, and the revision of each commit. No IO, no waiting.
//!
//! ```text
//!   relaxed ----------------------------> visible ..(within a second)..> on disk
//!   synced  --> in flight (being synced) -----------> visible, answered
//! ```
//!
//! # Why relaxed commits never wait for a sync
//! A proxy's acknowledgement of a hold is part of the pause that clients feel; it must not wait for the fsync
//! of another commit. So relaxed commits become visible while synced ones are in flight. Three rules make
//! this equivalent to executing all commits one after the other, in the order of revisions:
//! * A flight reserves revisions [`FLIGHT_GAP`] ahead; relaxed commits take the smaller ones in between.
//!   Revisions become visible in order.
//! * A relaxed commit that writes a key which the flight compared or wrote waits for it
//!   ([`Relaxed::MustQueue`]).
//! * A flight takes every earlier relaxed commit along to the disk, so that a synced commit never outlives
//!   what it built on.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::content::{self, Stored};
use super::leases::Leases;
use crate::catalog::store::{
    Compare, Entry, Lease, LeaseId, Lookup, Range, Revision, Snapshot, StoreError, StoreEvent, Txn,
    TxnOutcome, Write,
};

/// Revisions kept free for relaxed commits while a flight is being synced.
pub(super) const FLIGHT_GAP: u64 = 1_024;

/// How far visible revisions may be ahead of the disk. After a crash numbering continues beyond it, so that
/// no visible revision is ever given to another commit.
pub(super) const LEAD: u64 = 4_096;

/// One commit: its events, ordered by key.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) revision: Revision,
    pub(super) events: Arc<Vec<StoreEvent>>,
}

impl Commit {
    /// What it keeps in memory, in bytes; the structures around it are small and bounded by their number.
    fn bytes(&self) -> usize {
        let of = |event: &StoreEvent| match event {
            StoreEvent::Put(entry) => entry.key.len() + entry.value.len(),
            StoreEvent::Deleted { key, .. } => key.len(),
        };
        self.events.iter().map(of).sum()
    }
}

/// How much is kept for watches.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryBounds {
    pub(super) commits: usize,
    pub(super) bytes: usize,
}

/// The initial content of a store: that of its file.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) entries: BTreeMap<String, Stored>,
    /// Greater than every revision that was ever visible.
    pub(super) revision: Revision,
}

#[derive(Debug)]
pub(super) struct Memory {
    entries: BTreeMap<String, Stored>,
    leases: Leases,
    /// The newest visible commit.
    revision: Revision,
    /// The newest commit on disk.
    durable: Revision,
    history: VecDeque<Commit>,
    history_bytes: usize,
    history_max: HistoryBounds,
    /// Commits up to and including this one are no longer in `history`.
    forgotten: Revision,
    flight: Option<Flight>,
    /// Visible commits that are not on disk.
    lazy: Vec<Commit>,
    waiting: HashMap<u64, (String, Waker)>,
    waiting_next: u64,
    ended: Option<End>,
}

/// Why the store has ended.
#[derive(Debug, Clone)]
enum End {
    Closed,
    Failed(String),
}

/// Synced commits that are being written to disk.
#[derive(Debug)]
struct Flight {
    /// Keys that they compared or wrote.
    keys: HashSet<String>,
    first: Revision,
}

/// The outcome of a relaxed commit.
#[derive(Debug)]
pub(super) enum Relaxed {
    Done {
        outcome: TxnOutcome,
        wake: Vec<Waker>,
        /// The writer must be notified that there is something to write.
        nudge: bool,
    },
    /// It must be executed after the flight.
    MustQueue(Txn),
}

/// A batch to write to disk.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One per transaction, in order. The error is a lease that the transaction names and that has ended.
    pub(super) outcomes: Vec<Result<TxnOutcome, LeaseId>>,
    /// Relaxed commits, already visible.
    pub(super) lazy: Vec<Commit>,
    /// Synced commits, visible once they are on disk.
    pub(super) commits: Vec<Commit>,
}

/// The next result of a watch.
#[derive(Debug)]
pub(super) enum Found {
    Batch(Revision, Vec<StoreEvent>),
    /// Nothing up to this revision.
    Nothing(Revision),
    Ended,
}

impl Memory {
    pub(super) fn new(image: Image, history_max: HistoryBounds) -> Memory {
        Memory {
            entries: image.entries,
            leases: Leases::default(),
            revision: image.revision,
            durable: image.revision,
            history: VecDeque::new(),
            history_bytes: 0,
            history_max,
            forgotten: image.revision,
            flight: None,
            lazy: Vec::new(),
            waiting: HashMap::new(),
            waiting_next: 0,
            ended: None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        self.check()?;
        let entry = self.entries.get_key_value(key).map(content::entry_of);
        Ok(Lookup { revision: self.revision, entry })
    }

    pub(super) fn range(&self, range: &Range) -> Result<Snapshot, StoreError> {
        self.check()?;
        let (entries, more) = content::read(&self.entries, range);
        Ok(Snapshot { revision: self.revision, entries, more })
    }

    /// Executes a relaxed commit now, if its order relative to the flight does not matter.
    pub(super) fn relaxed(&mut self, txn: Txn) -> Result<Relaxed, StoreError> {
        self.check()?;
        if self.must_queue(&txn) {
            return Ok(Relaxed::MustQueue(txn));
        }
        if !self.holds(&txn.compares, &HashMap::new()) {
            return Ok(Relaxed::Done { outcome: TxnOutcome::Conflict, wake: Vec::new(), nudge: false });
        }
        if let Some(lease) = self.ended_lease(&txn.writes) {
            return Err(StoreError::LeaseGone { lease });
        }
        let revision = self.next_revision();
        let events = self.events(txn.writes, revision, &HashMap::new());
        if events.is_empty() {
            let outcome = TxnOutcome::Committed(self.revision);
            return Ok(Relaxed::Done { outcome, wake: Vec::new(), nudge: false });
        }
        let nudge = self.lazy.is_empty();
        let wake = self.show_lazy(revision, events);
        Ok(Relaxed::Done { outcome: TxnOutcome::Committed(revision), wake, nudge })
    }

    fn must_queue(&self, txn: &Txn) -> bool {
        if self.is_far_ahead() {
            return true;
        }
        let Some(flight) = &self.flight else { return false };
        self.next_revision() >= flight.first
            || txn.writes.iter().any(|write| flight.keys.contains(key_of(write)))
    }

    fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }

    /// No further commit may become visible before those that are visible are on disk.
    fn is_far_ahead(&self) -> bool {
        self.next_revision().0 >= self.durable.0 + LEAD
    }

    /// Makes a commit visible that is written to disk later.
    fn show_lazy(&mut self, revision: Revision, events: Vec<StoreEvent>) -> Vec<Waker> {
        let commit = Commit { revision, events: Arc::new(events) };
        self.lazy.push(commit.clone());
        self.show(commit)
    }

    /// Decides a batch of transactions. Each sees the effects of those before it; none of them is visible
    /// yet.
    pub(super) fn begin(&mut self, txns: Vec<Txn>) -> Result<Plan, StoreError> {
        self.check()?;
        let first = Revision(self.revision.0 + FLIGHT_GAP);
        let mut plan = Plan::default();
        let mut overlay: HashMap<String, Option<Revision>> = HashMap::new();
        let mut keys = HashSet::new();
        for txn in txns {
            if !self.holds(&txn.compares, &overlay) {
                plan.outcomes.push(Ok(TxnOutcome::Conflict));
                continue;
            }
            if let Some(lease) = self.ended_lease(&txn.writes) {
                plan.outcomes.push(Err(lease));
                continue;
            }
            keys.extend(txn.compares.into_iter().map(|compare| match compare {
                Compare::Absent { key } | Compare::Unchanged { key, .. } => key,
            }));
            let revision = Revision(first.0 + plan.commits.len() as u64);
            let events = self.events(txn.writes, revision, &overlay);
            if events.is_empty() {
                let last = plan.commits.last().map_or(self.revision, |commit| commit.revision);
                plan.outcomes.push(Ok(TxnOutcome::Committed(last)));
                continue;
            }
            for event in &events {
                keys.insert(event.key().to_owned());
                let known = matches!(event, StoreEvent::Put(_)).then_some(revision);
                overlay.insert(event.key().to_owned(), known);
            }
            plan.outcomes.push(Ok(TxnOutcome::Committed(revision)));
            plan.commits.push(Commit { revision, events: Arc::new(events) });
        }
        if !plan.commits.is_empty() {
            plan.lazy = std::mem::take(&mut self.lazy);
            self.flight = Some(Flight { keys, first });
        }
        Ok(plan)
    }

    #[cfg(test)]
    pub(super) fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    /// A plan with only the relaxed commits that are not on disk.
    pub(super) fn begin_flush(&mut self) -> Plan {
        Plan { lazy: std::mem::take(&mut self.lazy), ..Plan::default() }
    }

    /// The plan is on disk: makes its commits visible. Call the wakers without holding the lock.
    pub(super) fn land(&mut self, plan: &mut Plan) -> Vec<Waker> {
        self.flight = None;
        let newest = plan.commits.last().or(plan.lazy.last()).map(|commit| commit.revision);
        self.durable = self.durable.max(newest.unwrap_or_default());
        let mut wake = Vec::new();
        for commit in plan.commits.drain(..) {
            wake.extend(self.show(commit));
        }
        wake
    }

    /// Ends the store: later calls fail.
    pub(super) fn fail(&mut self, reason: String) -> Vec<Waker> {
        self.end(End::Failed(reason))
    }

    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.end(End::Closed)
    }

    fn end(&mut self, end: End) -> Vec<Waker> {
        self.ended.get_or_insert(end);
        self.waiting.drain().map(|(_, (_, waker))| waker).collect()
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.ended {
            Some(End::Failed(reason)) => Err(StoreError::Stopped { reason: reason.clone() }),
            Some(End::Closed) => Err(StoreError::Stopped { reason: "the store was closed".to_owned() }),
            None => Ok(()),
        }
    }

    /// The first commit below `prefix` after a revision.
    pub(super) fn find(&self, prefix: &str, after: Revision) -> Result<Found, StoreError> {
        match &self.ended {
            Some(End::Closed) => return Ok(Found::Ended),
            _ => self.check()?,
        }
        if after < self.forgotten {
            return Err(StoreError::Compacted { after });
        }
        let start = self.history.partition_point(|commit| commit.revision <= after);
        for commit in self.history.range(start..) {
            let events: Vec<StoreEvent> =
                commit.events.iter().filter(|event| event.key().starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                return Ok(Found::Batch(commit.revision, events));
            }
        }
        Ok(Found::Nothing(self.revision.max(after)))
    }

    /// Wakes once, at the next commit below the prefix. `place` is the result of an earlier call.
    pub(super) fn wait(&mut self, place: Option<u64>, prefix: &str, waker: &Waker) -> u64 {
        let place = place.unwrap_or_else(|| {
            self.waiting_next += 1;
            self.waiting_next
        });
        match self.waiting.get_mut(&place) {
            Some((_, known)) => known.clone_from(waker),
            None => {
                self.waiting.insert(place, (prefix.to_owned(), waker.clone()));
            }
        }
        place
    }

    pub(super) fn stop_waiting(&mut self, place: u64) {
        self.waiting.remove(&place);
    }

    fn holds(&self, compares: &[Compare], overlay: &HashMap<String, Option<Revision>>) -> bool {
        let known = |key: &str| match overlay.get(key) {
            Some(known) => *known,
            None => self.entries.get(key).map(|stored| stored.revision),
        };
        compares.iter().all(|compare| match compare {
            Compare::Absent { key } => known(key).is_none(),
            Compare::Unchanged { key, revision } => known(key) == Some(*revision),
        })
    }

    /// The effective changes of the writes: the last one per key, without deletions of absent keys.
    fn events(
        &self,
        writes: Vec<Write>,
        revision: Revision,
        overlay: &HashMap<String, Option<Revision>>,
    ) -> Vec<StoreEvent> {
        let exists = |key: &str| match overlay.get(key) {
            Some(known) => known.is_some(),
            None => self.entries.contains_key(key),
        };
        let mut last: BTreeMap<String, Option<(Bytes, Option<LeaseId>)>> = BTreeMap::new();
        for write in writes {
            match write {
                Write::Put { key, value, lease } => last.insert(key, Some((value, lease))),
                Write::Delete { key } => last.insert(key, None),
            };
        }
        last.into_iter()
            .filter_map(|(key, value)| match value {
                Some((value, lease)) => Some(StoreEvent::Put(Entry { key, value, revision, lease })),
                None => exists(&key).then_some(StoreEvent::Deleted { key, revision }),
            })
            .collect()
    }

    /// Makes a commit visible, and returns the wakers to call.
    fn show(&mut self, commit: Commit) -> Vec<Waker> {
        for event in commit.events.iter() {
            let before = match event {
                StoreEvent::Put(entry) => {
                    let Entry { key, value, revision, lease } = entry.clone();
                    self.entries.insert(key, Stored { revision, value, lease })
                }
                StoreEvent::Deleted { key, .. } => self.entries.remove(key),
            };
            let lease = match event {
                StoreEvent::Put(entry) => entry.lease,
                StoreEvent::Deleted { .. } => None,
            };
            self.leases.pass_on(event.key(), before.and_then(|stored| stored.lease), lease);
        }
        self.revision = commit.revision;
        let touched = |prefix: &str| commit.events.iter().any(|event| event.key().starts_with(prefix));
        let wake =
            self.waiting.extract_if(|_, (prefix, _)| touched(prefix)).map(|(_, (_, waker))| waker).collect();
        self.history_bytes += commit.bytes();
        self.history.push_back(commit);
        self.trim();
        wake
    }

    fn trim(&mut self) {
        let HistoryBounds { commits, bytes } = self.history_max;
        while self.history.len() > commits || self.history_bytes > bytes {
            let Some(oldest) = self.history.pop_front() else { return };
            self.history_bytes -= oldest.bytes();
            self.forgotten = oldest.revision;
        }
    }
}

/// Leases.
impl Memory {
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> Result<Lease, StoreError> {
        self.check()?;
        Ok(self.leases.grant(ttl, now))
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<(), StoreError> {
        self.check()?;
        match self.leases.keep_alive(lease, now) {
            true => Ok(()),
            false => Err(StoreError::LeaseGone { lease }),
        }
    }

    pub(super) fn keep_all_alive(&mut self, now: Instant) {
        self.leases.keep_all_alive(now);
    }

    /// `None`: there is no lease, or the store has stopped, and ends none any more.
    pub(super) fn next_lease_end(&self) -> Option<Instant> {
        self.check().ok().and_then(|()| self.leases.next_end())
    }

    pub(super) fn overdue_lease(&self, now: Instant) -> Option<LeaseId> {
        self.check().ok().and_then(|()| self.leases.overdue(now))
    }

    /// Ends a lease, and deletes its keys in one commit. That need not be on disk: after a crash the keys are
    /// deleted when the file is opened. For the writer, between two flights: a commit in flight may name the
    /// lease. `None`: nothing is done before [`Memory::begin_flush`] has made room.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Result<Option<Vec<Waker>>, StoreError> {
        self.check()?;
        debug_assert!(self.flight.is_none(), "a commit in flight may name the lease");
        if self.is_far_ahead() {
            return Ok(None);
        }
        let revision = self.next_revision();
        let deleted = |key: String| StoreEvent::Deleted { key, revision };
        let events: Vec<StoreEvent> = self.leases.end(lease).into_iter().map(deleted).collect();
        match events.is_empty() {
            true => Ok(Some(Vec::new())),
            false => Ok(Some(self.show_lazy(revision, events))),
        }
    }

    /// A lease that these writes name and that has ended.
    fn ended_lease(&self, writes: &[Write]) -> Option<LeaseId> {
        let mut named = writes.iter().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        named.find(|lease| !self.leases.is_living(*lease))
    }
}

fn key_of(write: &Write) -> &str {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::store::Durability;

    const BOUNDS: HistoryBounds = HistoryBounds { commits: 100, bytes: 10_000 };

    fn put(key: &str, value: &str) -> Txn {
        put_under(None, key, value)
    }

    fn put_under(lease: Option<LeaseId>, key: &str, value: &str) -> Txn {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let write = Write::Put { key: key.to_owned(), value, lease };
        Txn { compares: Vec::new(), writes: vec![write], durability: Durability::Relaxed }
    }

    fn memory() -> Memory {
        Memory::new(Image::default(), BOUNDS)
    }

    fn revision_of(relaxed: Relaxed) -> Revision {
        match relaxed {
            Relaxed::Done { outcome: TxnOutcome::Committed(revision), .. } => revision,
            other => panic!("not committed: {other:?}"),
        }
    }

    #[test]
    fn a_relaxed_commit_overtakes_a_flight_and_revisions_stay_in_order() {
        let mut memory = memory();
        let mut plan = memory.begin(vec![put("route/a", "1")]).unwrap();
        let relaxed = revision_of(memory.relaxed(put("ack/a", "1")).unwrap());
        assert!(
            memory.get("route/a").unwrap().entry.is_none(),
            "nothing of a flight is visible before it landed"
        );
        assert!(memory.get("ack/a").unwrap().entry.is_some());

        memory.land(&mut plan);

        let landed = memory.get("route/a").unwrap().entry.unwrap().revision;
        assert!(relaxed < landed);
        match memory.find("", Revision(0)).unwrap() {
            Found::Batch(revision, _) => assert_eq!(revision, relaxed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_relaxed_commit_waits_for_a_flight_that_compared_its_key() {
        let mut memory = memory();
        let mut guarded = put("name/shop", "db");
        guarded.compares.push(Compare::Absent { key: "lock".to_owned() });
        let mut plan = memory.begin(vec![guarded]).unwrap();

        assert!(matches!(memory.relaxed(put("lock", "x")).unwrap(), Relaxed::MustQueue(_)));
        assert!(matches!(memory.relaxed(put("name/shop", "x")).unwrap(), Relaxed::MustQueue(_)));
        memory.land(&mut plan);
        revision_of(memory.relaxed(put("lock", "x")).unwrap());
    }

    #[test]
    fn relaxed_commits_stop_before_the_revisions_that_a_flight_reserved() {
        let mut memory = memory();
        let mut plan = memory.begin(vec![put("a", "1")]).unwrap();
        let mut done = 0;
        while let Relaxed::Done { .. } = memory.relaxed(put("b", "1")).unwrap() {
            done += 1;
        }
        assert_eq!(done, FLIGHT_GAP - 1);
        memory.land(&mut plan);
        let revision = |key| memory.get(key).unwrap().entry.unwrap().revision;
        assert!(revision("a") > revision("b"));
    }

    #[test]
    fn visible_revisions_stay_within_the_lead_over_the_disk() {
        let mut memory = memory();
        let mut done = 0;
        while let Relaxed::Done { .. } = memory.relaxed(put("b", "1")).unwrap() {
            done += 1;
        }
        assert_eq!(done, LEAD - 1);
        let mut plan = memory.begin_flush();
        assert_eq!(plan.lazy.len() as u64, LEAD - 1);
        memory.land(&mut plan);
        revision_of(memory.relaxed(put("b", "1")).unwrap());
    }

    #[test]
    fn a_watch_from_before_the_start_must_read_again() {
        let image = Image { revision: Revision(50), ..Image::default() };
        let memory = Memory::new(image, BOUNDS);
        assert!(matches!(memory.find("", Revision(49)), Err(StoreError::Compacted { .. })));
        assert!(matches!(memory.find("", Revision(50)), Ok(Found::Nothing(_))));
    }

    #[test]
    fn transactions_of_one_batch_see_each_other() {
        let mut memory = memory();
        let once = || {
            let mut txn = put("name/shop", "x");
            txn.compares.push(Compare::Absent { key: "name/shop".to_owned() });
            txn
        };
        let plan = memory.begin(vec![once(), once()]).unwrap();
        assert!(matches!(plan.outcomes[..], [Ok(TxnOutcome::Committed(_)), Ok(TxnOutcome::Conflict)]));
    }

    #[test]
    fn the_end_of_a_lease_waits_for_room_like_every_commit_that_is_not_on_disk() {
        let mut memory = memory();
        let lease = memory.grant(Duration::from_secs(1), Instant::now()).unwrap().id;
        revision_of(memory.relaxed(put_under(Some(lease), "proxy/a", "1")).unwrap());
        while let Relaxed::Done { .. } = memory.relaxed(put("b", "1")).unwrap() {}
        assert!(memory.end_lease(lease).unwrap().is_none());
        assert!(memory.get("proxy/a").unwrap().entry.is_some());
        let mut plan = memory.begin_flush();
        memory.land(&mut plan);
        memory.end_lease(lease).unwrap().expect("there is room");
        assert!(memory.get("proxy/a").unwrap().entry.is_none());
        let named = memory.relaxed(put_under(Some(lease), "proxy/a", "1"));
        assert!(matches!(named, Err(StoreError::LeaseGone { lease: gone }) if gone == lease));
        let plan = memory.begin(vec![put("c", "1"), put_under(Some(lease), "proxy/a", "1")]).unwrap();
        assert!(matches!(plan.outcomes[..], [Ok(TxnOutcome::Committed(_)), Err(gone)] if gone == lease));
    }

    #[test]
    fn what_is_kept_for_watches_is_bounded_in_bytes_too() {
        let mut memory = memory();
        let large = "x".repeat(3_000);
        for _ in 0..20 {
            revision_of(memory.relaxed(put("b", &large)).unwrap());
            assert!(memory.history_bytes <= BOUNDS.bytes, "{}", memory.history_bytes);
        }
        assert_eq!(memory.history.len(), 3);
        assert!(matches!(memory.find("", Revision(16)), Err(StoreError::Compacted { .. })));
        assert!(matches!(memory.find("", Revision(17)), Ok(Found::Batch(Revision(18), _))));

        revision_of(memory.relaxed(put("b", &"x".repeat(BOUNDS.bytes))).unwrap());
        assert_eq!((memory.history.len(), memory.history_bytes), (0, 0));
        assert!(matches!(memory.find("", Revision(20)), Err(StoreError::Compacted { .. })));
        assert!(matches!(memory.find("", Revision(21)), Ok(Found::Nothing(Revision(21)))));
    }
}
