//! The sessions of a database in this process, and how far each is with the current order.
//!
//! Owns the state of the sessions for the mover (ready, pinned, behind) and the rows of SHOW SESSIONS. It
//! deliberately knows nothing of connections or protocol: a session reports through its [`SessionHandle`].
//!
//! # Why one lock
//! The lock is taken once for a connection or once for an order, never for a query: joining, leaving, a new
//! server connection, a new readiness. In return the number of sessions that an order still waits for is
//! exact at every instant, and the last session that becomes ready notifies the follower at once. What
//! changes with every transaction ([`SessionHandle::set_activity`]) is one store to the session's own memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::change_notifier::{ChangeNotifier, Urgency};
use super::clock::{Activity, Clock, Doing, Moment};
use super::consumers::{Consumer, Consumers, Use};
use super::counters::{Counter, CounterSet, Counters, Totals};
use super::failures::Failures;
use super::lent::{Borrower, Lent, LentFacts, LentRow};
use crate::error::{Blame, SqlState};
use crate::model::{Epoch, Latencies, Measured, Peer, Pinned, UnixMillis};

/// Pinned sessions that are named in one acknowledgement.
const PINNED_MAX: usize = 100;

/// Whether a session could change its system now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// A twin is missing or stale, or the session is not yet on the new epoch.
    Behind,
    /// The session has done all that the route's record with this order asks of it.
    Ready { order: u64 },
    /// It has seen this order and holds state that cannot be moved; one sentence for each.
    Pinned { order: u64, reasons: Vec<String> },
}

/// A younger transaction will probably end by itself soon.
const TRANSACTION_IS_NAMED_AFTER: Duration = Duration::from_millis(250);

/// How a client connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entrance {
    /// The local address that it connected to; `None`: not over TCP.
    pub local: Option<SocketAddr>,
    /// Version and cipher of its TLS.
    pub tls: Option<Box<str>>,
    pub replication: Replication,
}

/// The kind of connection that a client requested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Replication {
    #[default]
    None,
    Logical,
    Physical,
}

impl Replication {
    pub fn as_str(self) -> &'static str {
        match self {
            Replication::None => "none",
            Replication::Logical => "logical",
            Replication::Physical => "physical",
        }
    }
}

/// Properties of a session when it joins.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    pub session: u64,
    /// The worker with the session's thread.
    pub worker: usize,
    pub role: String,
    pub client: Peer,
    pub application_name: String,
    pub connected_at: UnixMillis,
    /// Of the route at the time of joining.
    pub epoch: Epoch,
    pub entrance: Entrance,
}

impl SessionFacts {
    fn as_use(&self) -> Use<'_> {
        let SessionFacts { role, application_name, client, connected_at, .. } = self;
        Use { role, application_name, client: *client, since: *connected_at }
    }
}

/// One row of SHOW SESSIONS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub session: u64,
    pub role: String,
    pub client: String,
    pub application_name: String,
    pub connected_at: UnixMillis,
    /// `None`: it has no server connection.
    pub server_pid: Option<i32>,
    pub activity: Activity,
    /// Time since the activity began.
    pub since: Duration,
    /// Age of its current transaction.
    pub transaction_age: Option<Duration>,
    pub readiness: Readiness,
    /// The backend of its twin connection, if it has one.
    pub twin_pid: Option<i32>,
    /// The epoch of its server connection.
    pub epoch: Epoch,
    /// The generation of its server connection; see [`RouteRecord`](crate::model::RouteRecord).
    pub generation: u64,
    pub entrance: Entrance,
}

/// What an order requires of every session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OrderTarget {
    #[default]
    Nothing,
    /// A twin that is ready for this order, or a report that the session is pinned.
    Travel { order: u64 },
    /// Being on the new epoch.
    Arrive { order: u64 },
}

/// State of a database's sessions, for an acknowledgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AckStatus {
    pub(crate) sessions: u32,
    pub(crate) waiting: u32,
    pub(crate) pinned: Vec<Pinned>,
    pub(crate) server_pids: Vec<i32>,
}

/// The sessions of one database in this process.
#[derive(Debug)]
pub struct SessionTable {
    inner: Mutex<Inner>,
    counters: CounterSet,
    failures: Failures,
    notifier: Option<Arc<ChangeNotifier>>,
}

#[derive(Debug, Default)]
struct Inner {
    order_target: OrderTarget,
    /// Sessions that do not satisfy the order target.
    behind: u32,
    /// Boxed: a node of the B-tree has room for eleven, and is half empty.
    members: BTreeMap<u64, Box<SessionEntry>>,
    /// Pooled connections, which serve one member after the other.
    lent: BTreeMap<u64, Lent>,
    /// Those that have left.
    consumers: Consumers,
    next: u64,
}

impl Inner {
    fn entries(&self) -> impl Iterator<Item = &SessionEntry> {
        self.members.values().map(|entry| &**entry)
    }
}

#[derive(Debug)]
struct SessionEntry {
    facts: SessionFacts,
    server_pid: Option<i32>,
    twin_pid: Option<i32>,
    readiness: Readiness,
    /// Of its server connection.
    generation: u64,
    clock: Arc<Clock>,
}

impl SessionEntry {
    /// A session without a server connection has no state to move.
    fn satisfies(&self, order_target: OrderTarget) -> bool {
        if self.server_pid.is_none() {
            return true;
        }
        match (order_target, &self.readiness) {
            (OrderTarget::Nothing, _) => true,
            (
                OrderTarget::Travel { order },
                Readiness::Ready { order: done } | Readiness::Pinned { order: done, .. },
            )
            | (OrderTarget::Arrive { order }, Readiness::Ready { order: done }) => *done >= order,
            (OrderTarget::Travel { .. }, Readiness::Behind)
            | (OrderTarget::Arrive { .. }, Readiness::Behind | Readiness::Pinned { .. }) => false,
        }
    }
}

impl Default for SessionTable {
    fn default() -> SessionTable {
        SessionTable::new(1, None)
    }
}

impl SessionTable {
    /// For sessions of so many workers.
    pub(crate) fn new(workers: usize, notifier: Option<Arc<ChangeNotifier>>) -> SessionTable {
        let (inner, failures) = (Mutex::default(), Failures::default());
        SessionTable { inner, counters: CounterSet::new(workers), failures, notifier }
    }

    /// Counts of this database's traffic since the process began.
    pub fn totals(&self) -> Totals {
        self.counters.totals()
    }

    /// Waits of this database's clients for answers since the process began.
    pub fn latencies(&self) -> Latencies {
        self.counters.latencies()
    }

    /// A client was told an error.
    pub fn count_failure(&self, sqlstate: SqlState, blame: Blame) {
        self.failures.count(sqlstate, blame);
    }

    /// What was measured since the process began.
    pub fn measured(&self) -> Measured {
        // Errors first: none is without its request.
        let errors = self.failures.counts();
        let totals = self.counters.totals();
        let requests = totals.of(Counter::Queries) + totals.of(Counter::Logins);
        Measured { requests, errors, waits: self.counters.waits(), failed_minutes: 0 }
    }

    /// Adds a session. It is [`Readiness::Behind`], idle, and without a server connection.
    pub fn join(self: &Arc<SessionTable>, facts: SessionFacts) -> SessionHandle {
        self.entry(&mut self.inner(), facts)
    }

    /// Like [`SessionTable::join`], if there are fewer than `sessions_max`.
    pub fn join_within(
        self: &Arc<SessionTable>,
        sessions_max: u32,
        facts: SessionFacts,
    ) -> Option<SessionHandle> {
        let mut inner = self.inner();
        (inner.members.len() < sessions_max as usize).then(|| self.entry(&mut inner, facts))
    }

    fn entry(self: &Arc<SessionTable>, inner: &mut Inner, facts: SessionFacts) -> SessionHandle {
        let clock = Arc::new(Clock::new());
        inner.next += 1;
        let entry = inner.next;
        let readiness = Readiness::Behind;
        let (session, counters) = (facts.session, self.counters.of(facts.worker));
        counters.add(Counter::Logins, 1);
        inner.members.insert(
            entry,
            Box::new(SessionEntry {
                facts,
                server_pid: None,
                twin_pid: None,
                readiness,
                generation: 0,
                clock: Arc::clone(&clock),
            }),
        );
        self.notify(Urgency::Soon);
        SessionHandle { session_table: Arc::clone(self), entry, session, clock, counters }
    }

    /// Adds a server connection that belongs to no member: it serves one after the other.
    pub fn enter_lent(self: &Arc<SessionTable>, facts: LentFacts) -> LentPid {
        let borrower = Borrower::default();
        let mut inner = self.inner();
        inner.next += 1;
        let entry = inner.next;
        inner.lent.insert(entry, Lent { facts, borrower: borrower.clone() });
        LentPid { session_table: Arc::clone(self), entry, borrower }
    }

    /// The pooled connections, oldest first.
    pub fn lent(&self) -> Vec<LentRow> {
        self.inner().lent.iter().map(|(number, lent)| lent.row(*number)).collect()
    }

    pub fn len(&self) -> usize {
        self.inner().members.len()
    }

    /// Open server connections.
    pub fn server_connections(&self) -> usize {
        server_pids(&self.inner()).len()
    }

    /// Server connections that a session uses now.
    pub fn servers_in_use(&self) -> usize {
        let inner = self.inner();
        let idle = inner.lent.values().filter(|lent| lent.borrower.get().is_none()).count();
        server_pids(&inner).len().saturating_sub(idle)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of SHOW SESSIONS, oldest session first.
    pub fn sessions(&self) -> Vec<SessionRow> {
        self.inner().entries().map(row).collect()
    }

    /// The rows of SHOW CONSUMERS.
    pub fn consumers(&self, now: UnixMillis) -> Vec<Consumer> {
        let inner = self.inner();
        inner.consumers.rows(inner.entries().map(|entry| entry.facts.as_use()), now)
    }

    /// Sessions with a server connection of another generation, and the number of idle connections of another
    /// generation.
    pub fn outdated(&self, generation: u64) -> (Vec<SessionRow>, usize) {
        let inner = self.inner();
        let lent = inner.lent.values().filter(|lent| lent.facts.generation != generation);
        let (mut borrowers, mut idle) = (Vec::new(), 0);
        for lent in lent {
            match lent.borrower.get() {
                Some(session) => borrowers.push(session),
                None => idle += 1,
            }
        }
        let has = |entry: &&SessionEntry| {
            let own = entry.server_pid.is_some() && entry.generation != generation;
            own || borrowers.contains(&entry.facts.session)
        };
        (inner.entries().filter(has).map(row).collect(), idle)
    }

    /// Marks the sessions that `chosen` selects, and returns their number. The caller wakes them.
    pub(super) fn dismiss(&self, chosen: impl Fn(u64) -> bool) -> usize {
        let inner = self.inner();
        let entries = inner.entries().filter(|entry| chosen(entry.facts.session));
        entries.map(|entry| entry.clock.dismissed.store(true, Ordering::Relaxed)).count()
    }

    pub(crate) fn set_order_target(&self, order_target: OrderTarget) {
        let mut inner = self.inner();
        inner.order_target = order_target;
        let behind = inner.entries().filter(|entry| !entry.satisfies(order_target)).count();
        inner.behind = u32::try_from(behind).unwrap_or(u32::MAX);
    }

    /// Sessions that do not satisfy the order target.
    pub(crate) fn behind(&self) -> u32 {
        self.inner().behind
    }

    pub(crate) fn standing(&self) -> AckStatus {
        let inner = self.inner();
        let busy = |entry: &&SessionEntry| {
            !entry.satisfies(inner.order_target) && matches!(inner.order_target, OrderTarget::Travel { .. })
        };
        let busy = inner.entries().filter(busy).filter_map(in_transaction);
        let pinned = inner.entries().flat_map(pins).chain(busy).take(PINNED_MAX).collect();
        AckStatus {
            sessions: u32::try_from(inner.members.len()).unwrap_or(u32::MAX),
            waiting: inner.behind,
            pinned,
            server_pids: server_pids(&inner),
        }
    }

    fn change(&self, entry: u64, change: impl FnOnce(&mut SessionEntry)) {
        let mut inner = self.inner();
        let order_target = inner.order_target;
        let Some(entry) = inner.members.get_mut(&entry) else { return };
        let before = entry.satisfies(order_target);
        change(entry);
        let after = entry.satisfies(order_target);
        self.settle(inner, before, after);
    }

    fn leave(&self, entry: u64) {
        let mut inner = self.inner();
        let Some(entry) = inner.members.remove(&entry) else { return };
        inner.consumers.left(entry.facts.as_use(), UnixMillis::now());
        let before = entry.satisfies(inner.order_target);
        self.settle(inner, before, true);
    }

    /// Updates the count after a member's change; the last member that becomes ready is announced at once.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>, before: bool, after: bool) {
        match (before, after) {
            (false, true) => inner.behind = inner.behind.saturating_sub(1),
            (true, false) => inner.behind += 1,
            (true, true) | (false, false) => {}
        }
        let done = !before && after && inner.behind == 0;
        drop(inner);
        self.notify(if done { Urgency::Now } else { Urgency::Soon });
    }

    fn notify(&self, urgency: Urgency) {
        if let Some(notifier) = &self.notifier {
            notifier.notify(urgency);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections of this process to the database, each once.
fn server_pids(inner: &Inner) -> Vec<i32> {
    let own = inner.entries().filter_map(|entry| entry.server_pid);
    let mut pids: Vec<i32> = own.chain(inner.lent.values().map(|lent| lent.facts.pid)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Age of the current transaction.
fn transaction_age(doing: Doing) -> Option<Duration> {
    doing.activity.is_inside().then_some(doing.in_transaction_since)
}

/// A transaction that an order to travel waits for is reported like a pin, once it is older than most.
fn in_transaction(entry: &SessionEntry) -> Option<Pinned> {
    let age = transaction_age(entry.clock.read())?;
    (age >= TRANSACTION_IS_NAMED_AFTER).then(|| Pinned {
        session: entry.facts.session,
        role: entry.facts.role.clone(),
        application_name: entry.facts.application_name.clone(),
        client: entry.facts.client.to_string(),
        reason: format!("a transaction is open for {} s", age.as_secs().max(1)),
    })
}

fn row(entry: &SessionEntry) -> SessionRow {
    let doing = entry.clock.read();
    SessionRow {
        session: entry.facts.session,
        role: entry.facts.role.clone(),
        client: entry.facts.client.to_string(),
        application_name: entry.facts.application_name.clone(),
        connected_at: entry.facts.connected_at,
        server_pid: entry.server_pid,
        activity: doing.activity,
        since: doing.since,
        transaction_age: transaction_age(doing),
        readiness: entry.readiness.clone(),
        twin_pid: entry.twin_pid,
        epoch: entry.facts.epoch,
        generation: entry.generation,
        entrance: entry.facts.entrance.clone(),
    }
}

fn pins(entry: &SessionEntry) -> Vec<Pinned> {
    let Readiness::Pinned { reasons, .. } = &entry.readiness else { return Vec::new() };
    let pin = |reason: &String| Pinned {
        session: entry.facts.session,
        role: entry.facts.role.clone(),
        application_name: entry.facts.application_name.clone(),
        client: entry.facts.client.to_string(),
        reason: reason.clone(),
    };
    reasons.iter().map(pin).collect()
}

/// A session's entry in the session table; dropping it removes the entry.
#[derive(Debug)]
pub struct SessionHandle {
    session_table: Arc<SessionTable>,
    entry: u64,
    session: u64,
    clock: Arc<Clock>,
    counters: Arc<CachePadded<Counters>>,
}

impl SessionHandle {
    /// The session's number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The counters for the session's traffic.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The session's client was told an error.
    pub fn count_failure(&self, sqlstate: SqlState, blame: Blame) {
        self.session_table.count_failure(sqlstate, blame);
    }

    /// The backend of its server connection at the database's place; `None`: it has none.
    pub fn set_server_pid(&self, pid: Option<i32>) {
        self.session_table.change(self.entry, |entry| entry.server_pid = pid);
    }

    /// The backend of its twin connection; `None`: it has none.
    pub fn set_twin_pid(&self, pid: Option<i32>) {
        self.session_table.change(self.entry, |entry| entry.twin_pid = pid);
    }

    /// The session is on the new epoch with this backend: its twin is now its connection.
    pub fn switched(&self, epoch: Epoch, pid: i32) {
        self.session_table.change(self.entry, |entry| {
            entry.facts.epoch = epoch;
            entry.server_pid = Some(pid);
            entry.twin_pid = None;
        });
    }

    /// A session without a server connection goes on at the new epoch.
    pub fn arrived(&self, epoch: Epoch) {
        self.session_table.change(self.entry, |entry| entry.facts.epoch = epoch);
    }

    /// The generation of its server connection.
    pub fn set_generation(&self, generation: u64) {
        self.session_table.change(self.entry, |entry| entry.generation = generation);
    }

    /// Whether an administrator has ended the session.
    pub fn is_dismissed(&self) -> bool {
        self.clock.dismissed.load(Ordering::Relaxed)
    }

    pub fn set_readiness(&self, readiness: Readiness) {
        self.session_table.change(self.entry, |entry| entry.readiness = readiness);
    }

    pub fn set_application_name(&self, name: String) {
        self.session_table.change(self.entry, |entry| entry.facts.application_name = name);
    }

    /// A store to the session's own memory, and additions to the worker's counters: cheap enough for every
    /// transaction.
    pub fn set_activity(&self, activity: Activity, now: Moment) {
        let (before, micros) = self.clock.set(activity, now);
        self.counters.on_activity(before, activity, micros);
    }

    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.session_table.leave(self.entry);
    }
}

/// A pooled connection's entry in the session table; dropping it removes the entry.
#[derive(Debug)]
pub struct LentPid {
    session_table: Arc<SessionTable>,
    entry: u64,
    borrower: Borrower,
}

impl LentPid {
    /// The session that uses the connection from now on; `None`: it is idle.
    pub fn set_borrower(&self, session: Option<u64>) {
        self.borrower.set(session);
    }

    pub fn borrower(&self) -> Option<u64> {
        self.borrower.get()
    }
}

impl Drop for LentPid {
    fn drop(&mut self) {
        self.session_table.inner().lent.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(session: u64) -> SessionFacts {
        SessionFacts {
            session,
            worker: 0,
            role: "app".to_owned(),
            client: Peer::tcp(([127, 0, 0, 1], 5000).into()),
            application_name: "till".to_owned(),
            connected_at: UnixMillis(0),
            epoch: Epoch::FIRST,
            entrance: Entrance::default(),
        }
    }

    #[test]
    fn an_order_waits_for_members_with_a_server_connection_that_are_not_ready_for_it() {
        let session_table = Arc::new(SessionTable::default());
        let (connected, fresh) = (session_table.join(facts(1)), session_table.join(facts(2)));
        connected.set_server_pid(Some(11));
        session_table.set_order_target(OrderTarget::Travel { order: 7 });
        assert_eq!(session_table.behind(), 1);

        connected.set_readiness(Readiness::Ready { order: 6 });
        assert_eq!(session_table.behind(), 1, "ready for an older order");
        connected.set_readiness(Readiness::Ready { order: 7 });
        assert_eq!(session_table.behind(), 0);

        fresh.set_server_pid(Some(12));
        assert_eq!(session_table.behind(), 1, "a new connection has no twin");
        drop(fresh);
        assert_eq!(session_table.behind(), 0);
    }

    #[test]
    fn a_pinned_member_has_answered_the_order_to_travel_but_has_not_arrived() {
        let session_table = Arc::new(SessionTable::default());
        let member = session_table.join(facts(1));
        member.set_server_pid(Some(11));
        member.set_readiness(Readiness::Pinned {
            order: 7,
            reasons: vec!["temporary table \"cart\"".to_owned()],
        });

        session_table.set_order_target(OrderTarget::Travel { order: 7 });
        let standing = session_table.standing();
        assert_eq!((standing.waiting, standing.sessions, standing.server_pids), (0, 1, vec![11]));
        assert_eq!(standing.pinned[0].reason, "temporary table \"cart\"");

        session_table.set_order_target(OrderTarget::Arrive { order: 7 });
        assert_eq!(session_table.behind(), 1);
        member.switched(Epoch(2), 12);
        member.set_readiness(Readiness::Ready { order: 7 });
        assert_eq!(session_table.behind(), 0);
        assert_eq!(session_table.sessions()[0].epoch, Epoch(2));
    }

    #[test]
    fn a_full_roster_takes_nobody_until_somebody_leaves() {
        let session_table = Arc::new(SessionTable::default());
        let first = session_table.join_within(1, facts(1)).unwrap();
        assert!(session_table.join_within(1, facts(2)).is_none());
        drop(first);
        assert!(session_table.join_within(1, facts(3)).is_some());
    }

    #[test]
    fn a_row_tells_what_a_session_does() {
        let session_table = Arc::new(SessionTable::default());
        let member = session_table.join(facts(9));
        member.set_activity(Activity::InTransaction, Moment::now());
        let rows = session_table.sessions();
        assert_eq!((rows[0].session, rows[0].activity), (9, Activity::InTransaction));
        assert!(rows[0].since < Duration::from_secs(60));
    }
}
