//! Following the orders of a database's route, at a transaction boundary.
//!
//! | the record says | the session |
//! |---|---|
//! | another epoch | goes on with its twin; without one it builds one now |
//! | `next` is set | has its state taken and a twin built; brings it up to date at each further order |
//! | `next`, and held | brings the twin up to date to the last lock, then is ready |
//! | no `next` | drops its twin |
//! | no `next`, another generation | goes on with a new connection to its place: [`reconnect`](super::reconnect) |
//! | refused | ends, with the record's own text |
//!
//! Owns [`Session::follow`] and the readiness that the session table gets. It deliberately decides nothing
//! about a database: an order comes from the record, and whatever happens here is either reported as a
//! [`Readiness`] or ends this one session.
//!
//! # Why
//! The state is asked for on the session's own server connection, which takes about a millisecond at a
//! boundary, and is followed from then on ([`state`](crate::session::state)): inside the hold, a session that
//! did nothing unknown since is not asked, and a twin that is up to date gets nothing to do. Everything that
//! takes longer runs beside the session ([`TwinState`]), and questions of many sessions come one after the
//! other ([`QueuedPermit`]). What the database's functions do is read before all of that, once, on a
//! connection that no client has ([`HintsReader`](super::hints_reader::HintsReader)). The switch itself only
//! exchanges the connection; sessions with a waiting client come first, and the old connections are closed
//! little by little ([`ClosingConnections`](super::closing::ClosingConnections)). Where the new server
//! reports a setting differently (`server_version`, for one), the client gets a ParameterStatus, as after any
//! change of a setting: hiding it would make a driver speak to the wrong version.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::hints_reader::ReaderPlan;
use super::migration::{Migration, is_held};
use super::restore::LockPatience;
use super::sequence_memory::PreviousConnection;
use super::twin::Twin;
use super::twin_state::{QueuedPermit, TwinPlan, TwinState};
use crate::backend::{self, QueryError};
use crate::error::{Explain, Refusal, Retry, Severity, SqlState, chain};
use crate::model::{Place, RouteRecord};
use crate::route::{Activity, Readiness};
use crate::session::cancel::registry::CancelTarget;
use crate::session::client_session::Session;
use crate::session::ending::Ending;
use crate::session::relay::doubt::settle;
use crate::session::relay::{Backend, UnnamedPlace, counters};
use crate::session::state::{Freshness, SessionState, SnapshotError, TIMEOUT_TOO_SHORT, snapshot};
use crate::wire::exchange::Rest;
use crate::wire::message::frontend;

/// How long the server may take to report a session's state before the question is cancelled; then as long
/// again.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a twin, inside a hold, waits for a lock that the session holds on its old connection.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the old server may take to send the last notifications, while the client waits.
const LAST_NOTIFICATIONS_MAX: Duration = Duration::from_millis(250);

/// Why the state is not known: the session is pinned, for this reason.
pub(in crate::session) struct Unknown(pub(in crate::session) String);

impl Session {
    /// Does what the record asks for. At a boundary only; the client's next request waits meanwhile.
    ///
    /// Fails where the session cannot go on.
    pub(in crate::session) async fn follow(&mut self) -> Result<(), Ending> {
        let record = self.relay.route.current();
        if let Some(refusal) = record.terms.service.ending() {
            return Err(Ending::Refused(refusal));
        }
        if let Backend::Pooled(client) = &self.relay.backend
            && !client.is_pinned()
        {
            self.follow_lent(&record);
            return Ok(());
        }
        if record.epoch != self.migration.epoch {
            self.switch(&record).await?;
        }
        let readiness = match &record.next {
            Some(next) => self.prepare(&record, next).await?,
            None if record.generation != self.migration.generation => self.reconnect(&record).await?,
            None => self.stay(&record),
        };
        if !is_held(&record) {
            self.relay.admission.record_stall(self.relay.route.gate());
        }
        self.relay.member.set_twin_pid(self.twin_pid());
        self.relay.member.set_readiness(readiness);
        Ok(())
    }

    fn twin_pid(&self) -> Option<i32> {
        match &self.migration.twin_state {
            TwinState::Ready { twin, .. } => Some(twin.pid()),
            _ => None,
        }
    }

    /// Nothing is to be prepared: drops the twin and what is known for a move.
    pub(in crate::session) fn stay(&mut self, record: &RouteRecord) -> Readiness {
        self.migration.twin_state.dismiss();
        self.migration.turn = None;
        self.migration.state = None;
        self.relay.tracker.state_mut().unfollow();
        self.relay.worker.forget_hints(&record.database);
        Readiness::Ready { order: record.order }
    }

    /// Brings the twin one step nearer to taking over.
    async fn prepare(&mut self, record: &RouteRecord, next: &Place) -> Result<Readiness, Ending> {
        let order = record.order;
        if self.migration.twin_state.place().is_some_and(|place| place != next) {
            self.migration.twin_state.dismiss();
        }
        if self.origin.is_replication() {
            return Ok(Readiness::Pinned { order, reasons: vec!["a replication connection".to_owned()] });
        }
        match (&self.migration.twin_state, is_held(record)) {
            // Once for each order: a client that changes its state with every request would never be ready
            // otherwise.
            (TwinState::Ready { .. }, false) if self.migration.tried_for == order => {
                return Ok(Readiness::Ready { order });
            }
            (TwinState::Preparing { .. }, _) | (TwinState::Queued(_), false) => return Ok(Readiness::Behind),
            (TwinState::Empty { tries: 0 }, false) if self.migration.state.is_none() => {
                self.migration.twin_state = queued(self, record);
                return Ok(Readiness::Behind);
            }
            _ => {}
        }
        if self.is_known_to_be_in_step() {
            self.migration.turn = None;
            return Ok(Readiness::Ready { order });
        }
        if !self.has_turn(record) {
            return Ok(Readiness::Behind);
        }
        let taken = self.take_state(record).await?;
        self.migration.turn = None;
        let state = match taken {
            Ok(state) => state,
            Err(Unknown(reason)) => return Ok(self.pinned(order, vec![reason])),
        };
        match state.pins() {
            pins if pins.is_empty() => Ok(self.advance(record, next, state)),
            pins => Ok(self.pinned(order, pins)),
        }
    }

    /// Nothing has changed since the twin was found to have all of the state.
    fn is_known_to_be_in_step(&mut self) -> bool {
        let is_known =
            self.relay.tracker.state().is_as_carried() && self.relay.exchange.rest() == Rest::Settled;
        if is_known {
            self.migration.twin_state.dismiss_dead();
        }
        is_known && matches!(self.migration.twin_state, TwinState::Ready { .. })
    }

    /// Whether the session may ask for its state now, if it has to. While clients run, few sessions ask at a
    /// time: each server takes about a millisecond for its answer, and a client that sends a request
    /// meanwhile waits for it. A session that waits for its permit serves its client.
    fn has_turn(&mut self, record: &RouteRecord) -> bool {
        let must_ask = !self.relay.tracker.state().is_known() || self.migration.state.is_none();
        if is_held(record) || !must_ask || !matches!(self.migration.twin_state, TwinState::Ready { .. }) {
            return true;
        }
        let turn =
            self.migration.turn.get_or_insert_with(|| QueuedPermit::queued(&self.relay.worker.twin_builds));
        matches!(**turn, QueuedPermit::Given(_))
    }

    /// The reason may go away: tries again after a while.
    fn pinned(&mut self, order: u64, reasons: Vec<String>) -> Readiness {
        if !matches!(self.migration.twin_state, TwinState::Ready { .. }) {
            self.migration.twin_state = TwinState::backing_off(u32::MAX);
        }
        Readiness::Pinned { order, reasons }
    }

    /// The state is known and can migrate: builds the twin, brings it up to date, or is ready.
    fn advance(&mut self, record: &RouteRecord, next: &Place, state: Arc<SessionState>) -> Readiness {
        let order = record.order;
        self.migration.twin_state.dismiss_dead();
        match std::mem::take(&mut self.migration.twin_state) {
            TwinState::Ready { place, twin } => {
                let wanted = self.to_carry(&state);
                self.bring_in_step(record, place, twin, wanted)
            }
            TwinState::Failed { place, reasons } if self.migration.tried_for == order => {
                self.migration.twin_state = TwinState::Failed { place, reasons: reasons.clone() };
                Readiness::Pinned { order, reasons: reasons.into_vec() }
            }
            other => {
                let (tries, permit) = match other {
                    TwinState::Empty { tries } | TwinState::BackingOff { tries, .. } => (tries, None),
                    TwinState::Admitted(permit) => (0, permit),
                    _ => (0, None),
                };
                self.migration.tried_for = order;
                self.migration.in_step = true;
                self.migration.twin_state = TwinState::building(self.plan(next, state), tries, permit);
                Readiness::Behind
            }
        }
    }

    fn bring_in_step(
        &mut self,
        record: &RouteRecord,
        place: Box<Place>,
        twin: Box<Twin>,
        wanted: Arc<SessionState>,
    ) -> Readiness {
        let order = record.order;
        let complete = twin.is_complete(&wanted);
        if complete {
            self.relay.tracker.state_mut().carried();
        }
        let (enough, patience) = match is_held(record) {
            true => (complete, LockPatience::Wait(LOCK_WAIT_MAX)),
            // While sessions run, a lock may be missing: another session's twin releases it when it is
            // brought up to date.
            false => (complete || self.migration.in_step, LockPatience::Try),
        };
        if enough {
            self.migration.twin_state = TwinState::Ready { place, twin };
            return Readiness::Ready { order };
        }
        if is_held(record) && self.migration.pressed_for == order {
            let missing = missing(&wanted, &twin);
            self.migration.twin_state = TwinState::Ready { place, twin };
            return Readiness::Pinned { order, reasons: missing };
        }
        if is_held(record) {
            self.migration.pressed_for = order;
        }
        self.migration.tried_for = order;
        self.migration.in_step = true;
        let time_max = self.relay.worker.plane.connect_time_max;
        self.migration.twin_state = TwinState::refreshing(place, twin, wanted, patience, time_max);
        Readiness::Behind
    }

    /// The state that the twin is to have. An unnamed statement is made again when the client asks for it,
    /// and most clients never do; but one that uses types defined by users is carried.
    fn to_carry(&self, state: &Arc<SessionState>) -> Arc<SessionState> {
        match self.relay.tracker.unnamed_to_carry() {
            Some(unnamed) => Arc::new(SessionState { unnamed: Some(unnamed), ..SessionState::clone(state) }),
            None => Arc::clone(state),
        }
    }

    pub(in crate::session) fn plan(&self, place: &Place, state: Arc<SessionState>) -> TwinPlan {
        let plane = &self.relay.worker.plane;
        TwinPlan {
            request: self.origin.request(place.clone(), &self.relay.route),
            connector: plane.connector.clone(),
            state,
            time_max: plane.connect_time_max,
        }
    }

    /// The state as it is now: the one that was taken last, if nothing has changed it since.
    pub(in crate::session) async fn take_state(
        &mut self,
        record: &RouteRecord,
    ) -> Result<Result<Arc<SessionState>, Unknown>, Ending> {
        if self.relay.exchange.rest() == Rest::Doubtful {
            let settling = Box::pin(settle(&mut self.relay));
            timeout(SNAPSHOT_TIME_MAX, settling).await.map_err(|_| Ending::ServerDisconnected)??;
        }
        let last = self.migration.state.take();
        if let Some(last) = &last
            && let Some(state) = self.known_state(last)
        {
            self.migration.in_step &= Arc::ptr_eq(last, &state);
            self.migration.state = Some(Arc::clone(&state));
            return Ok(Ok(state));
        }
        self.migration.in_step = false;
        match is_held(record) {
            true => self.relay.route.gate().record_question(),
            false => self.relay.tracker.state_mut().ask_for_all_locks(),
        }
        self.relay.tracker.state_mut().follow_from_now();
        // Cancel-safe: dropped while it waits for the permit, no question has been sent.
        let state_questions = Arc::clone(&self.relay.worker.state_questions);
        let _permit = if is_held(record) { state_questions.acquire_owned().await.ok() } else { None };
        let mut answer = Box::pin(self.ask(record)).await?;
        if answer.as_ref().is_err_and(SnapshotError::is_too_slow) {
            // A cancel request of the client's may have hit the question.
            answer = Box::pin(self.ask(record)).await?;
        }
        match answer {
            Ok(mut state) => {
                if let Backend::Pooled(client) = &mut self.relay.backend {
                    client.without_shared(&mut state);
                }
                self.relay.unnamed = UnnamedPlace::OnServer;
                state.unnamed = None;
                let state = self.relay.tracker.state_mut().known().unwrap_or_else(|| Arc::new(state));
                self.migration.state = Some(Arc::clone(&state));
                Ok(Ok(state))
            }
            Err(error) => {
                tracing::warn!(database = %record.name, error = %chain(&error), "the state of a session is not known");
                let reason = if error.is_too_slow() { TIMEOUT_TOO_SHORT } else { "its state cannot be read" };
                Ok(Err(Unknown(reason.to_owned())))
            }
        }
    }

    /// The state, where it is known without asking; `last` is the one that was taken last.
    fn known_state(&mut self, last: &Arc<SessionState>) -> Option<Arc<SessionState>> {
        let state = self.relay.tracker.state_mut();
        match state.is_following() {
            true => state.known(),
            false => Some(last).filter(|_| state.freshness() <= Freshness::Unnamed).cloned(),
        }
    }

    /// Asks the server; messages that arrive for the client meanwhile are forwarded.
    async fn ask(&mut self, record: &RouteRecord) -> Result<Result<SessionState, SnapshotError>, Ending> {
        let known = self.relay.before_own_exchange();
        let answer = Box::pin(self.question(record)).await?;
        self.relay.after_own_exchange(&known);
        match answer {
            Err(SnapshotError::Query(QueryError::Server { fields }))
                if fields.severity() == Severity::Fatal =>
            {
                Err(Ending::Refused(fields.refusal()))
            }
            Err(error) if self.relay.backend.connection().is_closed() => {
                tracing::warn!(database = %record.name, error = %chain(&error), "the question for a session's state was broken off");
                Err(Ending::ServerDisconnected)
            }
            answer => Ok(answer),
        }
    }

    /// A question that takes too long is cancelled like a client's query.
    async fn question(
        &mut self,
        record: &RouteRecord,
    ) -> Result<Result<SessionState, SnapshotError>, Ending> {
        let relay = &mut self.relay;
        let hints = relay.worker.hints(&record.database);
        // The first session of a database asks what its code does, too, which has a time limit of its own.
        let time_max = if hints.get().is_some() { SNAPSHOT_TIME_MAX } else { 3 * SNAPSHOT_TIME_MAX };
        let asking = snapshot(relay.backend.connection_mut(), &mut relay.tracker, &hints);
        tokio::pin!(asking);
        if let Ok(answer) = timeout(time_max, &mut asking).await {
            return Ok(answer);
        }
        let Some(target) = self.registration.target() else { return Err(Ending::ServerDisconnected) };
        let (place, connector) = (&target.record.place, &relay.worker.plane.connector);
        let deadline = Instant::now() + SNAPSHOT_TIME_MAX;
        let cancelled = Box::pin(backend::cancel(place, connector, target.pid, &target.key, deadline)).await;
        tracing::warn!(database = %record.name, ?cancelled, "the question for a session's state was cancelled");
        timeout(SNAPSHOT_TIME_MAX, asking).await.map_err(|_| Ending::ServerDisconnected)
    }

    /// Exchanges the connection for the one at the record's place.
    async fn switch(&mut self, record: &Arc<RouteRecord>) -> Result<(), Ending> {
        let began = Instant::now();
        self.relay.set_activity(Activity::Switching);
        if !self.relay.admission.is_at_gate() {
            // Sessions with a waiting client come first.
            tokio::task::yield_now().await;
        }
        let twin = match self.take_twin(record).await {
            Some(twin) => twin,
            None => self.build_now(record).await?,
        };
        if !twin.state().channels.is_empty() {
            self.fetch_last_notifications().await;
        }
        self.go_on_with(*twin, record);
        tracing::debug!(database = %record.name, epoch = %record.epoch, took = ?began.elapsed(), "switched");
        Ok(())
    }

    /// From here on the twin's connection is the session's.
    pub(in crate::session) fn go_on_with(&mut self, mut twin: Twin, record: &Arc<RouteRecord>) {
        let (statements, hints) = (twin.take_statements(), self.relay.tracker.hints().cloned());
        let carries_unnamed = twin.state().unnamed.is_some();
        let types = match carries_unnamed {
            true => twin.unnamed_types(),
            false => self.relay.tracker.unnamed().types(),
        };
        self.relay.tracker.on_switch(&types);
        let is_missing = !carries_unnamed && self.relay.tracker.unnamed().body().is_some();
        self.relay.unnamed = if is_missing { UnnamedPlace::Missing } else { UnnamedPlace::OnServer };
        let server = twin.into_connection();
        let target =
            CancelTarget { record: Arc::clone(record), pid: server.pid, key: server.cancel_key.clone() };
        self.relay.member.switched(record.epoch, server.pid);
        self.relay.member.set_generation(record.generation);
        counters::assigned(&self.relay.member);
        self.registration.point_to(&target);
        let old = self.relay.replace_server(server, record);
        self.relay.set_activity(Activity::Idle);
        let left = Rc::new(PreviousConnection::of(old, statements, hints));
        // At the same place there is no function that restores sequence values.
        let moves = record.epoch != self.migration.epoch;
        if let Backend::Dedicated(dedicated) = &mut self.relay.backend {
            dedicated.remember(moves.then_some(&left), &self.relay.tracker);
        }
        self.relay.worker.closing.close_after_recall(left);
        self.migration = Migration::at(record);
    }

    /// The twin for the record's place, if it has all that the session has.
    pub(in crate::session) async fn take_twin(&mut self, record: &RouteRecord) -> Option<Box<Twin>> {
        let mut twin_state = std::mem::take(&mut self.migration.twin_state).ended().await;
        twin_state.dismiss_dead();
        let mut twin = match twin_state {
            TwinState::Ready { place, twin } if *place == record.place => twin,
            mut other => {
                other.dismiss();
                return None;
            }
        };
        let state = match self.take_state(record).await {
            Ok(Ok(state)) if state.pins().is_empty() => state,
            _ => return None,
        };
        let wanted = self.to_carry(&state);
        if twin.is_complete(&wanted) {
            return Some(twin);
        }
        let deadline = Instant::now() + self.relay.worker.plane.connect_time_max;
        let refreshed = Box::pin(twin.refresh(&wanted, LockPatience::Wait(LOCK_WAIT_MAX), deadline)).await;
        (refreshed.is_ok() && twin.is_complete(&wanted)).then_some(twin)
    }

    /// There is no twin: the client waits until one is built.
    async fn build_now(&mut self, record: &RouteRecord) -> Result<Box<Twin>, Ending> {
        if self.origin.is_replication() {
            return Err(could_not_follow(&["a replication connection".to_owned()]));
        }
        let state = match self.take_state(record).await? {
            Ok(state) => state,
            Err(Unknown(reason)) => return Err(could_not_follow(&[reason])),
        };
        match state.pins() {
            pins if pins.is_empty() => {}
            pins => return Err(could_not_follow(&pins)),
        }
        let wanted = self.to_carry(&state);
        let plan = self.plan(&record.place, wanted);
        let deadline = Instant::now() + plan.time_max;
        loop {
            let built = Twin::build(&plan.request, &plan.connector, deadline, &plan.state);
            match Box::pin(built).await {
                Ok(twin) => return Ok(Box::new(twin)),
                Err(error) if error.retry() == Retry::Now && Instant::now() < deadline => {}
                Err(error) => {
                    tracing::warn!(database = %record.name, error = %chain(&error), "a session could not follow");
                    return Err(could_not_follow(&[error.message()]));
                }
            }
        }
    }

    /// The client asks for its unnamed statement, which its new server connection does not have yet. If the
    /// server refuses to parse it now, the client gets the error when it binds the statement.
    pub(in crate::session) async fn restore_unnamed(&mut self) -> Result<(), Ending> {
        self.relay.unnamed = UnnamedPlace::OnServer;
        let mut batch = BytesMut::new();
        let Some(body) = self.relay.tracker.unnamed().body() else { return Ok(()) };
        frontend::parse_again(&mut batch, body);
        frontend::sync(&mut batch);
        let known = self.relay.before_own_exchange();
        let time_max = self.relay.worker.plane.connect_time_max;
        let made = timeout(time_max, Box::pin(self.relay.backend.connection_mut().run_each(&batch))).await;
        self.relay.after_own_exchange(&known);
        match made {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Ending::ServerDisconnected),
        }
    }

    /// Whatever was notified before the database left has been signalled to the old server process by now:
    /// one round trip brings it. The twin listens already, so no notification is lost between the two.
    async fn fetch_last_notifications(&mut self) {
        let known = self.relay.before_own_exchange();
        let asked = Box::pin(self.relay.backend.connection_mut().query(""));
        let _ = timeout(LAST_NOTIFICATIONS_MAX, asked).await;
        self.relay.after_own_exchange(&known);
    }
}

/// Waits beside the session until it may take its state.
pub(super) fn queued(session: &Session, record: &RouteRecord) -> TwinState {
    let worker = &session.relay.worker;
    let learned = worker.learn_ahead(&record.database, || ReaderPlan {
        request: session.origin.request(record.place.clone(), &session.relay.route),
        connector: worker.plane.connector.clone(),
        connect_time_max: worker.plane.connect_time_max,
    });
    TwinState::queued(&worker.twin_builds, learned)
}

fn missing(wanted: &SessionState, twin: &Twin) -> Vec<String> {
    match wanted.differences(twin.state()) {
        missing if missing.is_empty() => vec!["unnamed prepared statement".to_owned()],
        missing => missing,
    }
}

/// The database has moved and this session could not.
fn could_not_follow(reasons: &[String]) -> Ending {
    let refusal = Refusal::fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection because the session could not follow its database",
    );
    let detail = format!("The database was moved, and the session held: {}.", reasons.join("; "));
    Ending::Refused(refusal.with_detail(detail).with_hint("Connect again."))
}
