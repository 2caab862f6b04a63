//! Answers proxies that ask, before a login, for a database's current logins.
//!
//! Owns the pending questions, one open session for each system that was asked about, and the price of a
//! reading. It deliberately writes nothing itself: the
//! [synchroniser of logins](crate::control::logins) writes these readings like its own.
//!
//! ```text
//!   question -> the system rests, or does not answer -> Unread
//!            -> the database was read too often      -> Often
//!            -> waits for the next reading of its system, with all others -> Current
//! ```
//!
//! # Why one reading answers many
//! A question is answered by a reading that began after it; all questions that arrive during a reading share
//! the next one. So however many clients log in at once, a system runs one such query at a time, and a login
//! waits for two readings at most.
//!
//! # Why all logins of a database are read, and not the one role
//! Then the role does not matter: a login that arrives when the database was read too often uses the last
//! reading's result for any role; and neither the reading nor its time depends on the role.
//!
//! # How often
//! Each reading costs its database [`DISTANCE`], or [`COST_FACTOR`] times its duration if it has very many
//! roles. While a database owes too much ([`ReadingDebts`]), questions do not cause a reading. So a hundred
//! logins in a row get exact answers, and those of a login storm use what is no older than the distance
//! between two readings.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::catalog::{Catalog, LoginRefreshOutcome, LoginRefreshRequest, ReadingDebts, Versioned};
use crate::control::ControlSettings;
use crate::control::logins::{Reading, read_one};
use crate::model::{DatabaseId, RouteRecord, SystemName};
use crate::system::Session;

const DISTANCE: Duration = Duration::from_millis(50);
const COST_FACTOR: u32 = 2;

/// Time limit of a reading, because clients wait for it.
const READING_MAX: Duration = Duration::from_secs(1);

/// While a reading takes longer than this, further questions are not queued behind it.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a system that could not be read is not asked again.
const REST: Duration = Duration::from_secs(1);

/// The `application_name` of the sessions.
const NAME: &str = "freehold logins";

/// The questions about all databases.
pub(in crate::control) struct Answers {
    catalog: Catalog,
    settings: Arc<ArcSwap<ControlSettings>>,
    systems: HashMap<SystemName, SystemState>,
    debts: Arc<ReadingDebts>,
    pub(in crate::control) readings: FuturesUnordered<Pin<Box<dyn Future<Output = Reading> + Send>>>,
}

/// The state of one system.
#[derive(Default)]
struct SystemState {
    session: Option<Session>,
    under_way: Option<UnderWay>,
    waiting: Vec<Waiting>,
    rests_until: Option<Instant>,
}

struct UnderWay {
    began: Instant,
    /// It must connect first, so its duration does not measure the cost of reading the roles.
    connects: bool,
    questions: Vec<LoginRefreshRequest>,
}

struct Waiting {
    question: LoginRefreshRequest,
    route: Versioned<RouteRecord>,
}

impl Answers {
    pub(in crate::control) fn new(
        catalog: Catalog,
        settings: Arc<ArcSwap<ControlSettings>>,
        debts: Arc<ReadingDebts>,
    ) -> Answers {
        Answers { catalog, settings, systems: HashMap::new(), debts, readings: FuturesUnordered::new() }
    }

    /// `route` is quiet, and was read after the question was asked.
    pub(in crate::control) fn take(&mut self, question: LoginRefreshRequest, route: Versioned<RouteRecord>) {
        let now = Instant::now();
        let system = route.value.place.system.clone();
        let state = self.systems.entry(system.clone()).or_default();
        if state.is_silent(now) {
            return question.answer(LoginRefreshOutcome::Unread);
        }
        let joins = state.waiting.iter().any(|other| other.question.database == question.database);
        if !joins && !self.debts.may_read(&question.database, now) {
            return question.answer(LoginRefreshOutcome::Often);
        }
        state.waiting.push(Waiting { question, route });
        if state.under_way.is_none() {
            self.begin(&system);
        }
    }

    /// Begins a reading for all waiting questions.
    fn begin(&mut self, system: &SystemName) {
        let Some(state) = self.systems.get_mut(system) else { return };
        let waiting = std::mem::take(&mut state.waiting).into_iter();
        let waiting: Vec<Waiting> = waiting.filter(|waiting| !waiting.question.is_withdrawn()).collect();
        let mut routes: HashMap<DatabaseId, Versioned<RouteRecord>> = HashMap::new();
        let mut questions = Vec::with_capacity(waiting.len());
        for Waiting { question, route } in waiting {
            // Keeps the newest: with an older one, `write` would see a change during the reading.
            routes.insert(question.database.clone(), route);
            questions.push(question);
        }
        if questions.is_empty() {
            return;
        }
        let (session, routes) = (state.session.take(), routes.into_values().collect());
        state.under_way = Some(UnderWay { began: Instant::now(), connects: session.is_none(), questions });
        let access = self.settings.load().access.clone();
        let reading =
            read_one(self.catalog.clone(), access, (NAME, READING_MAX), system.clone(), session, routes);
        self.readings.push(Box::pin(reading));
    }

    /// Handles the end of a reading, with the answer for each of its databases. Begins the next one.
    pub(in crate::control) fn read(
        &mut self,
        system: &SystemName,
        session: Option<Session>,
        outcome: &HashMap<DatabaseId, LoginRefreshOutcome>,
    ) {
        let now = Instant::now();
        let Some(state) = self.systems.get_mut(system) else { return };
        let Some(UnderWay { began, connects, questions }) = state.under_way.take() else { return };
        let cost = match connects {
            true => DISTANCE,
            false => DISTANCE.max((now - began).saturating_mul(COST_FACTOR)),
        };
        for id in outcome.keys() {
            self.debts.add(id, cost, now);
        }
        let was_read = outcome.values().any(|answer| matches!(answer, LoginRefreshOutcome::Current(_)));
        if session.is_none() && !was_read {
            state.rests_until = Some(now + REST);
        }
        state.session = session;
        for question in questions {
            let answer = outcome.get(&question.database).copied().unwrap_or(LoginRefreshOutcome::Unread);
            question.answer(answer);
        }
        match state.is_silent(now) {
            true => state
                .waiting
                .drain(..)
                .for_each(|waiting| waiting.question.answer(LoginRefreshOutcome::Unread)),
            false => self.begin(system),
        }
    }

    /// Forgets systems that hold no database any more, and paid debts.
    pub(in crate::control) fn retain(&mut self, holds: impl Fn(&SystemName) -> bool) {
        self.systems.retain(|system, state| state.under_way.is_some() || holds(system));
        self.debts.forget_paid(Instant::now());
    }
}

impl SystemState {
    /// Whether the system is not answering now, so that questions are not queued.
    fn is_silent(&self, now: Instant) -> bool {
        let rests = self.rests_until.is_some_and(|until| until > now);
        rests || self.under_way.as_ref().is_some_and(|reading| now - reading.began > PATIENCE)
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
