//! How long a client may be idle, how long its transaction, its query and its wait in the queue may take, and
//! how long its messages may be.
//!
//! # Why
//! A timer for each query would cost every query something. So each worker regularly looks at the clocks of
//! its sessions, which are kept for the statistics anyway, and wakes only those that are over a limit. Before
//! that, it reads once for each role in each database what holds for it now, if that has changed: so a change
//! reaches connected clients, too, and costs no session anything. Waiting at the gate or in the queue is no
//! activity of the client's: only the limit of waits counts it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::{Refusal, SqlState};
use crate::model::quotas::MESSAGE_SIZES;
use crate::model::{
    ByteSize, DatabaseId, EachTimeout, RoleLimits, RolesLimits, RouteRecord, Timeout, Timeouts,
};
use crate::route::{Activity, Clock, Doing, Route};
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};

/// How exact the limits are.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The limit of waits in the queue where none is set.
const WAIT_UNSAID: Duration = Duration::from_secs(120);

/// The configured limits of time and of messages. Replaced as a whole when the configuration is read again.
#[derive(Debug, Clone, Default)]
pub struct LimitsPolicy {
    /// The times of roles for which nothing else is set.
    pub process: Timeouts,
    /// The longest message where nothing else is set; PostgreSQL's own limit where `None`.
    pub message_size_max: Option<ByteSize>,
    /// The limits of single roles.
    pub roles: RolesLimits,
}

impl LimitsPolicy {
    /// Whether anything bounds the time that clients take.
    pub(super) fn is_timed(&self) -> bool {
        let bounds = |timeout: &Timeout| self.process[*timeout].is_some_and(|time| !time.is_zero());
        let of_process = Timeout::ALL.iter().filter(|timeout| **timeout != Timeout::Wait).any(bounds);
        of_process || self.roles.iter().any(|limits| limits.timeouts.any())
    }
}

/// Where a limit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Source {
    #[default]
    Process,
    Contract,
    Role,
    RoleInDatabase,
}

impl Source {
    /// The hint for a client that hit the limit: the configuration calls it `setting`, a role's table `name`,
    /// a contract `clause`.
    fn hint(self, setting: &str, name: &str, clause: &str) -> String {
        match self {
            Source::Process => format!("The limit is one of the platform's, {setting} in its configuration."),
            Source::Contract => format!("The limit is in the contract of the database ({clause})."),
            Source::Role => {
                format!(
                    "The limit is the role's, in [[limits.roles]] of the platform's configuration ({name})."
                )
            }
            Source::RoleInDatabase => format!(
                "The limit is the role's in this database, in [[limits.roles]] of the platform's configuration ({name})."
            ),
        }
    }

    /// The hint for a client that took too long.
    pub(super) fn timeout_hint(self, timeout: Timeout) -> String {
        let setting = match timeout {
            Timeout::Wait => "pool.wait_timeout".to_owned(),
            _ => format!("timeouts.{}", timeout.name()),
        };
        self.hint(&setting, timeout.name(), timeout.clause())
    }
}

/// A limit and where it is set; `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term<T = Duration> {
    limit: Option<T>,
    source: Source,
}

impl<T> Default for Term<T> {
    fn default() -> Term<T> {
        Term { limit: None, source: Source::default() }
    }
}

/// The first source that sets a limit decides.
fn first_set<T>(said: impl IntoIterator<Item = (Option<T>, Source)>) -> Option<(T, Source)> {
    said.into_iter().find_map(|(set, source)| Some((set?, source)))
}

fn in_force(layers: &[(&Timeouts, Source)]) -> EachTimeout<Term> {
    let mut terms = EachTimeout::default();
    for timeout in Timeout::ALL {
        let said = layers.iter().map(|(timeouts, source)| (timeouts[timeout], *source));
        if let Some((time, source)) = first_set(said) {
            terms[timeout] = Term { limit: (!time.is_zero()).then_some(time), source };
        }
    }
    terms
}

impl EachTimeout<Term> {
    fn overdue(&self, doing: Doing) -> Option<Overdue> {
        let past = |timeout: Timeout, time: Duration| {
            let term = &self[timeout];
            let is_past = term.limit.is_some_and(|limit| time > limit);
            is_past.then_some(Overdue { timeout, source: term.source })
        };
        let of_activity = match doing.activity {
            Activity::Idle => past(Timeout::Idle, doing.since),
            Activity::InTransaction => past(Timeout::IdleInTransaction, doing.since),
            Activity::Active => past(Timeout::Query, doing.since),
            Activity::Held | Activity::Switching | Activity::Waiting => None,
        };
        let of_transaction = || match doing.activity.is_inside() {
            true => past(Timeout::Transaction, doing.in_transaction_since),
            false => None,
        };
        of_activity.or_else(of_transaction)
    }
}

/// The timeout that is over, and where it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overdue {
    timeout: Timeout,
    source: Source,
}

impl Overdue {
    pub(super) fn refusal(self) -> Refusal {
        let (sqlstate, what) = match self.timeout {
            Timeout::Idle => (SqlState::IDLE_SESSION_TIMEOUT, "idle-session timeout"),
            Timeout::IdleInTransaction => {
                (SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "idle-in-transaction timeout")
            }
            Timeout::Transaction => (SqlState::TRANSACTION_TIMEOUT, "transaction timeout"),
            Timeout::Query => (SqlState::QUERY_CANCELED, "query timeout"),
            Timeout::Wait => (SqlState::TOO_MANY_CONNECTIONS, "wait timeout"),
        };
        Refusal::fatal(sqlstate, format!("terminating connection due to {what}"))
            .with_hint(self.source.timeout_hint(self.timeout))
    }

    /// The server still works for the client.
    pub(super) fn is_working(self) -> bool {
        matches!(self.timeout, Timeout::Transaction | Timeout::Query)
    }
}

/// The limits of one role in one database.
#[derive(Debug)]
struct InForce {
    /// The record and the policy that they were read from.
    record: Arc<RouteRecord>,
    policy: Arc<LimitsPolicy>,
    times: EachTimeout<Term>,
    message_size: Term<ByteSize>,
}

impl InForce {
    fn read(role: &str, record: Arc<RouteRecord>, policy: Arc<LimitsPolicy>) -> InForce {
        let in_database = policy.roles.in_database(role, record.name.as_str());
        let everywhere = policy.roles.everywhere(role);
        let unset = Timeouts::default();
        let times = |limits: Option<&RoleLimits>| limits.map_or(unset, |limits| limits.timeouts);
        let size = |limits: Option<&RoleLimits>| limits.and_then(|limits| limits.quotas.message_size_max);
        let times = in_force(&[
            (&times(in_database), Source::RoleInDatabase),
            (&times(everywhere), Source::Role),
            (&record.terms.timeouts, Source::Contract),
            (&policy.process, Source::Process),
        ]);
        let message_size = first_set([
            (size(in_database), Source::RoleInDatabase),
            (size(everywhere), Source::Role),
            (record.terms.quotas.message_size_max, Source::Contract),
            (policy.message_size_max, Source::Process),
        ]);
        let message_size =
            message_size.map_or_else(Term::default, |(size, source)| Term { limit: Some(size), source });
        InForce { times, message_size, record, policy }
    }

    fn is_said_by(&self, record: &Arc<RouteRecord>, policy: &Arc<LimitsPolicy>) -> bool {
        Arc::ptr_eq(&self.record, record) && Arc::ptr_eq(&self.policy, policy)
    }
}

/// The limits of one role in one database, shared by its sessions on a worker.
#[derive(Debug)]
pub(super) struct Terms {
    route: Arc<Route>,
    role: String,
    /// As of the last look.
    in_force: RefCell<InForce>,
    /// `message_size`, read for every message.
    message_bytes_max: Cell<usize>,
}

impl Terms {
    fn new(route: &Arc<Route>, role: &str, policy: &Arc<LimitsPolicy>) -> Terms {
        let in_force = InForce::read(role, route.current(), Arc::clone(policy));
        let message_bytes_max = Cell::new(message_bytes_max(&in_force));
        let (route, role) = (Arc::clone(route), role.to_owned());
        Terms { route, role, in_force: RefCell::new(in_force), message_bytes_max }
    }

    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Reads the limits again, if they have changed.
    fn renew(&self, policy: &Arc<LimitsPolicy>) {
        let record = self.route.current();
        let mut in_force = self.in_force.borrow_mut();
        if !in_force.is_said_by(&record, policy) {
            *in_force = InForce::read(&self.role, record, Arc::clone(policy));
            self.message_bytes_max.set(message_bytes_max(&in_force));
        }
    }

    /// How long a client that enters the queue now may wait, and where that is set.
    pub(super) fn wait(&self, policy: &Arc<LimitsPolicy>) -> (Duration, Source) {
        self.renew(policy);
        let term = self.in_force.borrow().times.wait;
        (term.limit.unwrap_or(WAIT_UNSAID), term.source)
    }

    /// Refuses a client's message that is longer than allowed; `bytes` are its first bytes. Bytes that are no
    /// header pass.
    pub(super) fn check_message(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let Ok(Some(header)) = Header::parse(bytes, MESSAGE_BYTES_MAX) else { return Ok(()) };
        let max = self.message_bytes_max.get();
        if header.message_bytes() <= max {
            return Ok(());
        }
        let source = self.in_force.borrow().message_size.source;
        let detail = format!("It has {} bytes, and may have {max}.", header.message_bytes());
        let hint = source.hint("limits.message_size_max", "message_size_max", "MAX_MESSAGE_SIZE");
        let refusal = Refusal::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "a message of the client is too long");
        Err(refusal.with_detail(detail).with_hint(hint))
    }
}

fn message_bytes_max(in_force: &InForce) -> usize {
    let limit = in_force.message_size.limit.unwrap_or(*MESSAGE_SIZES.end());
    usize::try_from(limit.0).unwrap_or(usize::MAX).min(MESSAGE_BYTES_MAX + HEADER_BYTES)
}

/// The terms of all roles that have sessions on a worker.
#[derive(Debug, Default)]
pub(super) struct LimitsCache(HashMap<(DatabaseId, String), Rc<Terms>>);

impl LimitsCache {
    pub(super) fn terms(&mut self, route: &Arc<Route>, role: &str, policy: &Arc<LimitsPolicy>) -> Rc<Terms> {
        let key = (route.id().clone(), role.to_owned());
        Rc::clone(self.0.entry(key).or_insert_with(|| Rc::new(Terms::new(route, role, policy))))
    }

    /// Drops the terms of roles that have no sessions left.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|_, terms| Rc::strong_count(terms) > 1);
    }

    /// Reads the limits of every role again.
    pub(super) fn renew(&self, policy: &Arc<LimitsPolicy>) {
        self.0.values().for_each(|terms| terms.renew(policy));
    }
}

/// A session's side of the limits.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    clock: Arc<Clock>,
    terms: Rc<Terms>,
    found: Rc<Cell<Option<(Overdue, Doing)>>>,
}

impl Watch {
    pub(super) fn new(clock: &Arc<Clock>, terms: Rc<Terms>) -> Watch {
        Watch { clock: Arc::clone(clock), terms, found: Rc::default() }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The worker checks the clock. `true`: the session is to be woken.
    fn look(&self) -> bool {
        let doing = self.clock.read();
        let overdue = self.terms.in_force.borrow().times.overdue(doing);
        self.found.set(overdue.map(|overdue| (overdue, doing)));
        overdue.is_some()
    }

    /// What the worker found, if the session still does the same thing.
    #[inline]
    pub(super) fn take(&self) -> Option<Overdue> {
        let (overdue, doing) = self.found.take()?;
        self.clock.is_still(doing).then_some(overdue)
    }
}

/// Checks every session and wakes those that are over a limit.
pub(super) fn look_at<'a>(sessions: impl Iterator<Item = (&'a Waker, &'a Watch)>) {
    sessions.filter(|(_, watch)| watch.look()).for_each(|(waker, _)| waker.wake_by_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));
    const HOUR: Option<Duration> = Some(Duration::from_secs(3_600));

    #[test]
    fn the_first_that_sets_a_limit_decides_even_that_there_is_none() {
        let contract = Timeouts { idle: SECOND, query: Some(Duration::ZERO), ..Timeouts::default() };
        let process = Timeouts { idle: HOUR, query: HOUR, transaction: HOUR, ..Timeouts::default() };
        let terms = in_force(&[(&contract, Source::Contract), (&process, Source::Process)]);
        assert_eq!(terms.idle, Term { limit: SECOND, source: Source::Contract });
        assert_eq!(terms.query, Term { limit: None, source: Source::Contract });
        assert_eq!(terms.transaction, Term { limit: HOUR, source: Source::Process });
        assert_eq!(terms.idle_in_transaction, Term::default());
    }

    #[test]
    fn the_most_specific_that_is_set_wins() {
        let set = |query| Timeouts { query, ..Timeouts::default() };
        let all = [
            (set(SECOND), Source::RoleInDatabase),
            (set(HOUR), Source::Role),
            (set(SECOND), Source::Contract),
            (set(HOUR), Source::Process),
        ];
        for first in 0..all.len() {
            let layers: Vec<_> = all[first..].iter().map(|(timeouts, source)| (timeouts, *source)).collect();
            let expected = Term { limit: all[first].0.query, source: all[first].1 };
            assert_eq!(in_force(&layers).query, expected);
        }
    }

    #[test]
    fn every_hint_names_a_setting_that_there_is() {
        for timeout in Timeout::ALL {
            let hint = Source::Process.timeout_hint(timeout);
            let names = |setting: &crate::config::Setting| {
                hint.contains(&format!("{}.{} in its configuration", setting.section, setting.name))
            };
            assert!(crate::config::Config::SETTINGS.iter().any(names), "{hint}");
        }
    }

    #[test]
    fn who_met_a_limit_is_told_where_it_is_set() {
        let hint = |source, timeout| Overdue { timeout, source }.refusal().hint.unwrap_or_default();
        assert!(hint(Source::Process, Timeout::Idle).contains("timeouts.idle in its configuration"));
        assert!(hint(Source::Process, Timeout::Wait).contains("pool.wait_timeout in its configuration"));
        assert!(hint(Source::Contract, Timeout::Query).contains("contract of the database (QUERY_TIMEOUT)"));
    }
}
