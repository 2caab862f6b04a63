//! The sessions of a database in this process, and how far each is with the current order.
//!
//! Owns the state of the sessions for the mover (ready, pinned, behind) and the rows of SHOW SESSIONS. It
//! deliberately knows nothing of connections or protocol: a session reports through its [`Member`].
//!
//! # Why one lock
//! The lock is taken once for a connection or once for an order, never for a query: joining, leaving, a new
//! server connection, a new readiness. In return the number of sessions that an order still waits for is
//! exact at every instant, and the last session that becomes ready notifies the follower at once. What
//! changes with every transaction ([`Member::set_activity`]) is one store to the session's own memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::bell::{Bell, Urgency};
use super::clock::{Activity, Clock, Doing, Moment};
use super::counters::{Counters, Figure, Ledger, Totals};
use super::lent::{Borrower, Lent, LentFacts, LentRow};
use crate::model::{Epoch, Latencies, Peer, Pinned, UnixMillis};

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
pub struct MemberFacts {
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
pub(crate) enum Goal {
    #[default]
    Nothing,
    /// A twin that is ready for this order, or a report that the session is pinned.
    Travel { order: u64 },
    /// Being on the new epoch.
    Arrive { order: u64 },
}

/// State of a database's sessions, for an acknowledgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) sessions: u32,
    pub(crate) waiting: u32,
    pub(crate) pinned: Vec<Pinned>,
    pub(crate) server_pids: Vec<i32>,
}

/// The sessions of one database in this process.
#[derive(Debug)]
pub struct Roster {
    tally: Mutex<Tally>,
    ledger: Ledger,
    bell: Option<Arc<Bell>>,
}

#[derive(Debug, Default)]
struct Tally {
    goal: Goal,
    /// Members that do not satisfy the goal.
    behind: u32,
    /// Boxed: a node of the B-tree has room for eleven, and is half empty.
    members: BTreeMap<u64, Box<Seat>>,
    /// Pooled connections, which serve one member after the other.
    lent: BTreeMap<u64, Lent>,
    next: u64,
}

impl Tally {
    fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.members.values().map(|seat| &**seat)
    }
}

#[derive(Debug)]
struct Seat {
    facts: MemberFacts,
    server_pid: Option<i32>,
    twin_pid: Option<i32>,
    readiness: Readiness,
    /// Of its server connection.
    generation: u64,
    clock: Arc<Clock>,
}

impl Seat {
    /// A session without a server connection has no state to move.
    fn satisfies(&self, goal: Goal) -> bool {
        if self.server_pid.is_none() {
            return true;
        }
        match (goal, &self.readiness) {
            (Goal::Nothing, _) => true,
            (
                Goal::Travel { order },
                Readiness::Ready { order: done } | Readiness::Pinned { order: done, .. },
            )
            | (Goal::Arrive { order }, Readiness::Ready { order: done }) => *done >= order,
            (Goal::Travel { .. }, Readiness::Behind)
            | (Goal::Arrive { .. }, Readiness::Behind | Readiness::Pinned { .. }) => false,
        }
    }
}

impl Default for Roster {
    fn default() -> Roster {
        Roster::new(1, None)
    }
}

impl Roster {
    /// For sessions of so many workers.
    pub(crate) fn new(workers: usize, bell: Option<Arc<Bell>>) -> Roster {
        Roster { tally: Mutex::default(), ledger: Ledger::new(workers), bell }
    }

    /// Counts of this database's traffic since the process began.
    pub fn totals(&self) -> Totals {
        self.ledger.totals()
    }

    /// Waits of this database's clients for answers since the process began.
    pub fn latencies(&self) -> Latencies {
        self.ledger.latencies()
    }

    /// Adds a session. It is [`Readiness::Behind`], idle, and without a server connection.
    pub fn join(self: &Arc<Roster>, facts: MemberFacts) -> Member {
        self.seat(&mut self.tally(), facts)
    }

    /// Like [`Roster::join`], if there are fewer than `sessions_max`.
    pub fn join_within(self: &Arc<Roster>, sessions_max: u32, facts: MemberFacts) -> Option<Member> {
        let mut tally = self.tally();
        (tally.members.len() < sessions_max as usize).then(|| self.seat(&mut tally, facts))
    }

    fn seat(self: &Arc<Roster>, tally: &mut Tally, facts: MemberFacts) -> Member {
        let clock = Arc::new(Clock::new());
        tally.next += 1;
        let seat = tally.next;
        let readiness = Readiness::Behind;
        let (session, counters) = (facts.session, self.ledger.of(facts.worker));
        counters.add(Figure::Logins, 1);
        tally.members.insert(
            seat,
            Box::new(Seat {
                facts,
                server_pid: None,
                twin_pid: None,
                readiness,
                generation: 0,
                clock: Arc::clone(&clock),
            }),
        );
        self.ring(Urgency::Soon);
        Member { roster: Arc::clone(self), seat, session, clock, counters }
    }

    /// Adds a server connection that belongs to no member: it serves one after the other.
    pub fn enter_lent(self: &Arc<Roster>, facts: LentFacts) -> LentPid {
        let borrower = Borrower::default();
        let mut tally = self.tally();
        tally.next += 1;
        let entry = tally.next;
        tally.lent.insert(entry, Lent { facts, borrower: borrower.clone() });
        LentPid { roster: Arc::clone(self), entry, borrower }
    }

    /// The pooled connections, oldest first.
    pub fn lent(&self) -> Vec<LentRow> {
        self.tally().lent.iter().map(|(number, lent)| lent.row(*number)).collect()
    }

    pub fn len(&self) -> usize {
        self.tally().members.len()
    }

    /// Open server connections.
    pub fn server_connections(&self) -> usize {
        server_pids(&self.tally()).len()
    }

    /// Server connections that a session uses now.
    pub fn servers_in_use(&self) -> usize {
        let tally = self.tally();
        let idle = tally.lent.values().filter(|lent| lent.borrower.get().is_none()).count();
        server_pids(&tally).len().saturating_sub(idle)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of SHOW SESSIONS, oldest session first.
    pub fn sessions(&self) -> Vec<SessionRow> {
        self.tally().seats().map(row).collect()
    }

    /// Sessions with a server connection of another generation, and the number of idle connections of another
    /// generation.
    pub fn outdated(&self, generation: u64) -> (Vec<SessionRow>, usize) {
        let tally = self.tally();
        let lent = tally.lent.values().filter(|lent| lent.facts.generation != generation);
        let (mut borrowers, mut idle) = (Vec::new(), 0);
        for lent in lent {
            match lent.borrower.get() {
                Some(session) => borrowers.push(session),
                None => idle += 1,
            }
        }
        let has = |seat: &&Seat| {
            let own = seat.server_pid.is_some() && seat.generation != generation;
            own || borrowers.contains(&seat.facts.session)
        };
        (tally.seats().filter(has).map(row).collect(), idle)
    }

    /// Marks the sessions that `chosen` selects, and returns their number. The caller wakes them.
    pub(super) fn dismiss(&self, chosen: impl Fn(u64) -> bool) -> usize {
        let tally = self.tally();
        let seats = tally.seats().filter(|seat| chosen(seat.facts.session));
        seats.map(|seat| seat.clock.dismissed.store(true, Ordering::Relaxed)).count()
    }

    pub(crate) fn set_goal(&self, goal: Goal) {
        let mut tally = self.tally();
        tally.goal = goal;
        let behind = tally.seats().filter(|seat| !seat.satisfies(goal)).count();
        tally.behind = u32::try_from(behind).unwrap_or(u32::MAX);
    }

    /// Sessions that do not satisfy the goal.
    pub(crate) fn behind(&self) -> u32 {
        self.tally().behind
    }

    pub(crate) fn standing(&self) -> Standing {
        let tally = self.tally();
        let busy = |seat: &&Seat| !seat.satisfies(tally.goal) && matches!(tally.goal, Goal::Travel { .. });
        let busy = tally.seats().filter(busy).filter_map(in_transaction);
        let pinned = tally.seats().flat_map(pins).chain(busy).take(PINNED_MAX).collect();
        Standing {
            sessions: u32::try_from(tally.members.len()).unwrap_or(u32::MAX),
            waiting: tally.behind,
            pinned,
            server_pids: server_pids(&tally),
        }
    }

    fn change(&self, seat: u64, change: impl FnOnce(&mut Seat)) {
        let mut tally = self.tally();
        let goal = tally.goal;
        let Some(seat) = tally.members.get_mut(&seat) else { return };
        let before = seat.satisfies(goal);
        change(seat);
        let after = seat.satisfies(goal);
        self.settle(tally, before, after);
    }

    fn leave(&self, seat: u64) {
        let mut tally = self.tally();
        let Some(seat) = tally.members.remove(&seat) else { return };
        let before = seat.satisfies(tally.goal);
        self.settle(tally, before, true);
    }

    /// Updates the count after a member's change; the last member that becomes ready is announced at once.
    fn settle(&self, mut tally: MutexGuard<'_, Tally>, before: bool, after: bool) {
        match (before, after) {
            (false, true) => tally.behind = tally.behind.saturating_sub(1),
            (true, false) => tally.behind += 1,
            (true, true) | (false, false) => {}
        }
        let done = !before && after && tally.behind == 0;
        drop(tally);
        self.ring(if done { Urgency::Now } else { Urgency::Soon });
    }

    fn ring(&self, urgency: Urgency) {
        if let Some(bell) = &self.bell {
            bell.ring(urgency);
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections of this process to the database, each once.
fn server_pids(tally: &Tally) -> Vec<i32> {
    let own = tally.seats().filter_map(|seat| seat.server_pid);
    let mut pids: Vec<i32> = own.chain(tally.lent.values().map(|lent| lent.facts.pid)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Age of the current transaction.
fn transaction_age(doing: Doing) -> Option<Duration> {
    doing.activity.is_inside().then_some(doing.in_transaction_since)
}

/// A transaction that an order to travel waits for is reported like a pin, once it is older than most.
fn in_transaction(seat: &Seat) -> Option<Pinned> {
    let age = transaction_age(seat.clock.read())?;
    (age >= TRANSACTION_IS_NAMED_AFTER).then(|| Pinned {
        session: seat.facts.session,
        role: seat.facts.role.clone(),
        application_name: seat.facts.application_name.clone(),
        client: seat.facts.client.to_string(),
        reason: format!("a transaction is open for {} s", age.as_secs().max(1)),
    })
}

fn row(seat: &Seat) -> SessionRow {
    let doing = seat.clock.read();
    SessionRow {
        session: seat.facts.session,
        role: seat.facts.role.clone(),
        client: seat.facts.client.to_string(),
        application_name: seat.facts.application_name.clone(),
        connected_at: seat.facts.connected_at,
        server_pid: seat.server_pid,
        activity: doing.activity,
        since: doing.since,
        transaction_age: transaction_age(doing),
        readiness: seat.readiness.clone(),
        twin_pid: seat.twin_pid,
        epoch: seat.facts.epoch,
        generation: seat.generation,
        entrance: seat.facts.entrance.clone(),
    }
}

fn pins(seat: &Seat) -> Vec<Pinned> {
    let Readiness::Pinned { reasons, .. } = &seat.readiness else { return Vec::new() };
    let pin = |reason: &String| Pinned {
        session: seat.facts.session,
        role: seat.facts.role.clone(),
        application_name: seat.facts.application_name.clone(),
        client: seat.facts.client.to_string(),
        reason: reason.clone(),
    };
    reasons.iter().map(pin).collect()
}

/// A session's entry in the roster; dropping it removes the entry.
#[derive(Debug)]
pub struct Member {
    roster: Arc<Roster>,
    seat: u64,
    session: u64,
    clock: Arc<Clock>,
    counters: Arc<CachePadded<Counters>>,
}

impl Member {
    /// The session's number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The counters for the session's traffic.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The backend of its server connection at the database's place; `None`: it has none.
    pub fn set_server_pid(&self, pid: Option<i32>) {
        self.roster.change(self.seat, |seat| seat.server_pid = pid);
    }

    /// The backend of its twin connection; `None`: it has none.
    pub fn set_twin_pid(&self, pid: Option<i32>) {
        self.roster.change(self.seat, |seat| seat.twin_pid = pid);
    }

    /// The session is on the new epoch with this backend: its twin is now its connection.
    pub fn switched(&self, epoch: Epoch, pid: i32) {
        self.roster.change(self.seat, |seat| {
            seat.facts.epoch = epoch;
            seat.server_pid = Some(pid);
            seat.twin_pid = None;
        });
    }

    /// A session without a server connection goes on at the new epoch.
    pub fn arrived(&self, epoch: Epoch) {
        self.roster.change(self.seat, |seat| seat.facts.epoch = epoch);
    }

    /// The generation of its server connection.
    pub fn set_generation(&self, generation: u64) {
        self.roster.change(self.seat, |seat| seat.generation = generation);
    }

    /// Whether an administrator has ended the session.
    pub fn is_dismissed(&self) -> bool {
        self.clock.dismissed.load(Ordering::Relaxed)
    }

    pub fn set_readiness(&self, readiness: Readiness) {
        self.roster.change(self.seat, |seat| seat.readiness = readiness);
    }

    pub fn set_application_name(&self, name: String) {
        self.roster.change(self.seat, |seat| seat.facts.application_name = name);
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

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.leave(self.seat);
    }
}

/// A pooled connection's entry in the roster; dropping it removes the entry.
#[derive(Debug)]
pub struct LentPid {
    roster: Arc<Roster>,
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
        self.roster.tally().lent.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(session: u64) -> MemberFacts {
        MemberFacts {
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
        let roster = Arc::new(Roster::default());
        let (connected, fresh) = (roster.join(facts(1)), roster.join(facts(2)));
        connected.set_server_pid(Some(11));
        roster.set_goal(Goal::Travel { order: 7 });
        assert_eq!(roster.behind(), 1);

        connected.set_readiness(Readiness::Ready { order: 6 });
        assert_eq!(roster.behind(), 1, "ready for an older order");
        connected.set_readiness(Readiness::Ready { order: 7 });
        assert_eq!(roster.behind(), 0);

        fresh.set_server_pid(Some(12));
        assert_eq!(roster.behind(), 1, "a new connection has no twin");
        drop(fresh);
        assert_eq!(roster.behind(), 0);
    }

    #[test]
    fn a_pinned_member_has_answered_the_order_to_travel_but_has_not_arrived() {
        let roster = Arc::new(Roster::default());
        let member = roster.join(facts(1));
        member.set_server_pid(Some(11));
        member.set_readiness(Readiness::Pinned {
            order: 7,
            reasons: vec!["temporary table \"cart\"".to_owned()],
        });

        roster.set_goal(Goal::Travel { order: 7 });
        let standing = roster.standing();
        assert_eq!((standing.waiting, standing.sessions, standing.server_pids), (0, 1, vec![11]));
        assert_eq!(standing.pinned[0].reason, "temporary table \"cart\"");

        roster.set_goal(Goal::Arrive { order: 7 });
        assert_eq!(roster.behind(), 1);
        member.switched(Epoch(2), 12);
        member.set_readiness(Readiness::Ready { order: 7 });
        assert_eq!(roster.behind(), 0);
        assert_eq!(roster.sessions()[0].epoch, Epoch(2));
    }

    #[test]
    fn a_full_roster_takes_nobody_until_somebody_leaves() {
        let roster = Arc::new(Roster::default());
        let first = roster.join_within(1, facts(1)).unwrap();
        assert!(roster.join_within(1, facts(2)).is_none());
        drop(first);
        assert!(roster.join_within(1, facts(3)).is_some());
    }

    #[test]
    fn a_row_tells_what_a_session_does() {
        let roster = Arc::new(Roster::default());
        let member = roster.join(facts(9));
        member.set_activity(Activity::InTransaction, Moment::now());
        let rows = roster.sessions();
        assert_eq!((rows[0].session, rows[0].activity), (9, Activity::InTransaction));
        assert!(rows[0].since < Duration::from_secs(60));
    }
}
