//! The routes of this process, by name.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::change_notifier::{ChangeNotifier, ChangeQueue};
use super::followed::Followed;
use super::gate::{Gate, GateState};
use super::session_table::SessionTable;
use crate::auth::md5::Md5Secret;
use crate::auth::rate_limiter::RateLimiter;
use crate::auth::scram::{ITERATIONS_DEFAULT, Verifier};
use crate::auth::{ClientKeys, Proof, VerifierFingerprint};
use crate::error::SqlState;
use crate::model::{DatabaseId, GateOrder, Login, Measured, RouteRecord, Service};

/// The logins of a database by role.
pub type Logins = HashMap<String, Arc<Login>>;

/// One database in this process. Lives as long as the process follows the database: sessions keep it, its
/// record is replaced.
#[derive(Debug)]
pub struct Route {
    id: DatabaseId,
    record: ArcSwap<RouteRecord>,
    logins: ArcSwap<Logins>,
    /// The number of iterations that most verifiers of the database have.
    iterations: AtomicU32,
    /// The keys that the newest login of each role has proved: a session that began before a change of the
    /// password needs them to follow its database.
    keys: DashMap<String, Arc<ClientKeys>>,
    /// Rate limit of all its logins, if the contract has one.
    logins_pace: RateLimiter,
    gate: Gate,
    session_table: Arc<SessionTable>,
    /// What is in the store of that which was measured here.
    recorded: Mutex<Measured>,
    notifier: Arc<ChangeNotifier>,
}

impl Route {
    fn new(record: RouteRecord, workers: usize, queue: Arc<ChangeQueue>) -> Arc<Route> {
        let notifier = ChangeNotifier::new(record.database.clone(), queue);
        Arc::new(Route {
            id: record.database.clone(),
            gate: Gate::with_notifier(workers, state_of(&record.gate), Some(Arc::clone(&notifier))),
            session_table: Arc::new(SessionTable::new(workers, Some(Arc::clone(&notifier)))),
            record: ArcSwap::from_pointee(record),
            logins: ArcSwap::default(),
            iterations: AtomicU32::new(ITERATIONS_DEFAULT),
            keys: DashMap::new(),
            logins_pace: RateLimiter::new(Instant::now()),
            recorded: Mutex::default(),
            notifier,
        })
    }

    pub fn id(&self) -> &DatabaseId {
        &self.id
    }

    /// The record as of the newest turn. Read it after a turn and after entering the gate, not for every
    /// query.
    pub fn current(&self) -> Arc<RouteRecord> {
        self.record.load_full()
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn session_table(&self) -> &Arc<SessionTable> {
        &self.session_table
    }

    /// What was measured in this process and is not in the store yet.
    pub fn unrecorded(&self) -> Measured {
        let measured = self.session_table.measured();
        measured.since(&self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is in the store now, too.
    pub(super) fn note_recorded(&self, recorded: &Measured) {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).add(recorded);
    }

    pub fn login(&self, role: &str) -> Option<Arc<Login>> {
        self.logins.load().get(role).cloned()
    }

    pub fn logins(&self) -> Arc<Logins> {
        self.logins.load_full()
    }

    /// Rate limiter for clients that have authenticated.
    pub fn logins_pace(&self) -> &RateLimiter {
        &self.logins_pace
    }

    /// Iterations of a fake verifier, which must look like the others of this database.
    pub fn typical_iterations(&self) -> NonZeroU32 {
        NonZeroU32::new(self.iterations.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    /// Records that a client of this role has proved that it knows the password. Returns its keys, shared
    /// with all clients that have proved the same.
    pub fn remember_keys(&self, role: &str, keys: Arc<ClientKeys>) -> Arc<ClientKeys> {
        if let Some(known) = self.keys.get(role)
            && known.fingerprint() == keys.fingerprint()
        {
            return Arc::clone(&known);
        }
        self.keys.insert(role.to_owned(), Arc::clone(&keys));
        keys
    }

    /// The credentials for the server of a client that authenticated with `own`: these, or newer ones; for a
    /// client without any, those of other clients of its role.
    pub fn newest_proof(&self, role: &str, own: &Proof) -> Proof {
        match own {
            Proof::Keys(keys) => Proof::Keys(self.newest_keys(role, keys)),
            Proof::Password(_) => own.clone(),
            Proof::Md5(_) | Proof::Nothing => self.known_proof(role).unwrap_or_else(|| own.clone()),
        }
    }

    fn known_proof(&self, role: &str) -> Option<Proof> {
        let login = self.login(role)?;
        if let Some(secret) = login.verifier.as_deref().and_then(Md5Secret::parse) {
            return Some(Proof::Md5(secret));
        }
        let wanted = VerifierFingerprint::of(&login)?;
        let keys = self.keys.get(role).filter(|keys| keys.fingerprint() == wanted)?;
        Some(Proof::Keys(Arc::clone(&keys)))
    }

    /// `own`, or the keys of a later client of the role if the password has changed since.
    fn newest_keys(&self, role: &str, own: &Arc<ClientKeys>) -> Arc<ClientKeys> {
        let Some(wanted) = self.login(role).and_then(|login| VerifierFingerprint::of(&login)) else {
            return Arc::clone(own);
        };
        if own.fingerprint() == wanted {
            return Arc::clone(own);
        }
        let newer = self.keys.get(role).filter(|newer| newer.fingerprint() == wanted);
        newer.map_or_else(|| Arc::clone(own), |newer| Arc::clone(&newer))
    }

    fn set_logins(&self, logins: Logins) {
        self.keys.retain(|role, keys| {
            logins.get(role).and_then(|login| VerifierFingerprint::of(login)) == Some(keys.fingerprint())
        });
        self.iterations.store(typical_iterations(&logins), Ordering::Relaxed);
        self.logins.store(Arc::new(logins));
    }

    /// Ends one session, or all; a running statement is cancelled. Returns their number.
    pub fn dismiss(&self, session: Option<u64>) -> usize {
        let dismissed = self.session_table.dismiss(|number| session.is_none_or(|session| session == number));
        self.gate.wake_all();
        dismissed
    }

    /// Grows with every change of the record or the gate.
    pub fn turn(&self) -> u64 {
        self.gate.turn()
    }

    pub(super) fn notifier(&self) -> &ChangeNotifier {
        &self.notifier
    }

    /// The record first, then the gate: a session admitted after a release sees the new place.
    pub(super) fn apply(&self, record: RouteRecord) {
        let state = state_of(&record.gate);
        self.record.store(Arc::new(record));
        self.gate.set(state);
    }

    /// The database was deleted: sessions that still have this route get an error.
    fn retire(&self) {
        let mut record = RouteRecord::clone(&self.current());
        record.terms.service = Service::Refused {
            sqlstate: SqlState::INVALID_CATALOG_NAME.as_str().to_owned(),
            message: format!("database \"{}\" does not exist", record.name),
            detail: None,
            hint: "It was deleted while this session was connected.".to_owned(),
        };
        record.gate = GateOrder::Open;
        self.apply(record);
    }
}

/// The most frequent number of iterations; the largest of several equally frequent ones. An excessive number,
/// which clients refuse to compute, is not used for unknown roles.
fn typical_iterations(logins: &Logins) -> u32 {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    let texts = logins.values().filter_map(|login| login.verifier.as_deref());
    let verifiers = texts.filter_map(|text| Verifier::parse(text).ok());
    for verifier in verifiers.filter(|verifier| verifier.derivation().is_ok()) {
        *counts.entry(verifier.iterations().get()).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|&(iterations, count)| (count, iterations));
    most.map_or(ITERATIONS_DEFAULT, |(iterations, _)| iterations)
}

fn state_of(order: &GateOrder) -> GateState {
    match order {
        GateOrder::Open => GateState::Open,
        GateOrder::Latched { .. } => GateState::Latched,
        GateOrder::Held { .. } => GateState::Held,
    }
}

/// All routes. Looking one up is one load of a pointer; changing the table copies it, which happens when a
/// database is created, renamed or deleted.
#[derive(Debug)]
pub struct RouteTable {
    tables: ArcSwap<Tables>,
    /// Held while the table is copied.
    changing: Mutex<()>,
    /// Databases with timeouts in their contracts.
    timed: AtomicUsize,
    workers: usize,
    queue: Arc<ChangeQueue>,
    followed: Followed,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    by_id: HashMap<DatabaseId, Arc<Route>>,
    by_name: HashMap<String, Arc<Route>>,
}

impl RouteTable {
    /// An empty table, for gates of so many workers.
    pub fn new(workers: usize) -> Arc<RouteTable> {
        Arc::new(RouteTable {
            tables: ArcSwap::default(),
            changing: Mutex::default(),
            timed: AtomicUsize::new(0),
            workers,
            queue: Arc::default(),
            followed: Followed::default(),
        })
    }

    /// The route of a database by the name that a client gives.
    pub fn lookup(&self, name: &str) -> Option<Arc<Route>> {
        self.tables.load().by_name.get(name).cloned()
    }

    pub fn by_id(&self, id: &DatabaseId) -> Option<Arc<Route>> {
        self.tables.load().by_id.get(id).cloned()
    }

    /// Sorted by name.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        let mut routes: Vec<_> = self.tables.load().by_id.values().cloned().collect();
        routes.sort_by(|a, b| a.current().name.cmp(&b.current().name));
        routes
    }

    /// Applies a record: a new route, or a turn of the existing one. For the follower, and for tests without
    /// a catalogue.
    pub fn install(&self, record: RouteRecord) -> Arc<Route> {
        self.install_with(record, None)
    }

    /// Adds the record of a new database: a client that finds its name finds its logins, too.
    pub(super) fn welcome(&self, record: RouteRecord, logins: Logins) -> Arc<Route> {
        self.install_with(record, Some(logins))
    }

    fn install_with(&self, record: RouteRecord, logins: Option<Logins>) -> Arc<Route> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.by_id(&record.database);
        self.count_timed(known.as_deref(), record.terms.timeouts.any());
        if let Some(route) = &known
            && route.current().name == record.name
        {
            route.apply(record);
            return Arc::clone(route);
        }
        let mut tables = Tables::clone(&self.tables.load());
        let name = record.name.to_string();
        let route = match known {
            Some(route) => {
                tables.forget_name(&route);
                route.apply(record);
                route
            }
            None => Route::new(record, self.workers, Arc::clone(&self.queue)),
        };
        logins.into_iter().for_each(|logins| route.set_logins(logins));
        tables.by_id.insert(route.id.clone(), Arc::clone(&route));
        tables.by_name.insert(name, Arc::clone(&route));
        self.tables.store(Arc::new(tables));
        route
    }

    /// Removes a deleted database.
    pub fn remove(&self, id: &DatabaseId) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = Tables::clone(&self.tables.load());
        let Some(route) = tables.by_id.remove(id) else { return };
        self.count_timed(Some(&route), false);
        tables.forget_name(&route);
        self.tables.store(Arc::new(tables));
        route.retire();
    }

    /// Whether the contract of any database sets a timeout.
    pub fn sets_timeouts(&self) -> bool {
        self.timed.load(Ordering::Relaxed) > 0
    }

    /// Counts a route (or none) that sets timeouts from now on or does not. Called with `changing` held.
    fn count_timed(&self, before: Option<&Route>, after: bool) {
        match (before.is_some_and(|route| route.current().terms.timeouts.any()), after) {
            (false, true) => self.timed.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.timed.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => return,
        };
    }

    /// Replaces the logins of a database.
    pub fn set_logins(&self, id: &DatabaseId, logins: Logins) {
        if let Some(route) = self.by_id(id) {
            route.set_logins(logins);
        }
    }

    /// How far this process has followed the catalogue.
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    pub(super) fn queue(&self) -> &Arc<ChangeQueue> {
        &self.queue
    }
}

impl Tables {
    /// Keeps the name if another database has taken it already.
    fn forget_name(&mut self, route: &Arc<Route>) {
        let name = route.current().name.to_string();
        if self.by_name.get(&name).is_some_and(|known| Arc::ptr_eq(known, route)) {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RoleName;

    fn logins(iterations: &[u32]) -> Logins {
        let login = |(index, rounds): (usize, &u32)| {
            let verifier = Verifier::from_password("x", b"salt", NonZeroU32::new(*rounds).unwrap());
            let login = Login {
                role: RoleName::parse(&format!("role{index}")).unwrap(),
                verifier: Some(verifier.to_string()),
                can_login: true,
                can_connect: true,
                superuser: false,
                valid_until: None,
                groups: Vec::new(),
            };
            (login.role.to_string(), Arc::new(login))
        };
        iterations.iter().enumerate().map(login).collect()
    }

    #[test]
    fn a_made_up_verifier_has_as_many_rounds_as_most() {
        assert_eq!(typical_iterations(&logins(&[])), ITERATIONS_DEFAULT);
        assert_eq!(typical_iterations(&logins(&[10, 20, 20, 30])), 20);
        assert_eq!(typical_iterations(&logins(&[10, 20])), 20);
    }
}
