//! The cutover: the clients go from one system to the other, in either direction.
//!
//! ```text
//!  open the other side, shut until now -> warm: twins -> no unreplicated data; roles and settings
//!      are the same -> calm: no long transaction -> latch -> fence ahead
//!      -> HOLD -> drained -> fence, proof, marker (one round trip) -> marker seen, sequences set
//!      -> sealed by one synced commit -> compare-and-swap of the route = the point of no return = RELEASE
//!      -> stalls are collected
//! ```
//!
//! Anything that fails or takes too long before the compare-and-swap ends with [`release`], in the pause, and
//! then with [`undo`], after it: every client goes on where it was, without an error.
//!
//! # Why
//! * **The proof is made where the data is.** A proxy's acknowledgement makes the pause short; PostgreSQL
//!   proves that no client can write to the old side: no role may connect any more, every session was
//!   terminated or is idle behind a shut gate, and a marker written after that has arrived on the other side.
//! * **As much as possible is done before the pause**: connections, statements, sequences with head-room, the
//!   fence against new connections, the way back. What is left is a handful of round trips.
//! * **An abort opens the gate before it lifts the fence.** Running sessions keep their connections, so they
//!   go on at once; only new ones wait (the gate is latched) until the fence is lifted.

pub(in crate::control) mod pause;
pub(in crate::control) mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Explain, Retry};
use crate::model::{GateOrder, MoveStep, Pinned, RouteRecord};
use crate::system::pause::{LongTransaction, NewSide, OldSide, long_transactions};
use crate::system::{Session, SystemError, TableName, fence, marker, sequences};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::faults::CrashPoint;
use crate::control::moves::parts::orders::{OrderProgress, Orders, Waited};
use crate::control::moves::parts::resync;
use crate::control::moves::parts::schema_drift;
use crate::control::moves::parts::snapshot::SnapshotSession;
use crate::control::moves::steps::cutover::pause::{CutoverAttempt, EXACT_SEQUENCES_MAX};
use crate::control::moves::steps::cutover::report::Stopwatch;
use crate::control::settings::ControlSettings;

/// Values that a sequence may advance on the old side between being set ahead and the end of the pause. If
/// many sequences are in constant use, each of these gets a gap of up to this size in its values.
const SEQUENCE_HEAD_ROOM: u32 = 10_000;
/// Sequences that do not advance for so long get no head-room.
const SEQUENCES_LOOK_FOR: Duration = Duration::from_secs(1);
/// Interval between checks for long transactions.
const CALM_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Interval between probes of the replication lag, and their kind of marker.
const NEAR_LOOK_EVERY: Duration = Duration::from_millis(5);
const PROBE: &str = "probe";
/// A transaction may be this part of the pause's budget old when the hold begins.
const CALM_PART_OF_BUDGET: u32 = 4;

/// Moves the clients from the source to the target.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    cut_over(ctx, MoveDirection::Forward).await
}

/// Ends an attempt that was not committed.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    abort(ctx, MoveDirection::Forward).await
}

/// Moves the clients to the other side. Safe to repeat: returns at once if they are there already.
pub(in crate::control) async fn cut_over(ctx: &mut StepContext, way: MoveDirection) -> Result<(), StepError> {
    let id = ctx.id();
    let mut orders = Orders::open(ctx.catalog.clone(), &ctx.record().database, id).await?;
    if has_arrived(ctx, way, orders.route()) {
        return Ok(());
    }
    let epoch = orders.route().epoch.next();
    ctx.remember(|facts| way.set_epoch(facts, epoch)).await?;
    let (from, to) = way.ends(ctx.ends());
    let from_session = connect(ctx, &from, "connecting to the side that is left").await?;
    let to_session = connect(ctx, &to, "connecting to the other side").await?;

    open_for_twins(ctx, &to, &to_session).await?;
    prepare_twins(ctx, &mut orders, way, &from_session).await?;
    ctx.reach(way.step(), CrashPoint::Warmed).await?;

    let viewer = SnapshotSession::open(&to).await.map_err(StepError::doing("preparing the pause"))?;
    let ours = vec![from_session.pid()];
    let departure =
        OldSide::prepare(&from_session, ours).await.map_err(StepError::doing("preparing the pause"))?;
    let arrival = NewSide::prepare(&to_session, id).await.map_err(StepError::doing("preparing the pause"))?;
    let attempt = attempt(ctx, way);
    let mut sequences = SequencesAhead::set(&departure, &to_session).await?;
    schema_drift::check(&from, &from_session, &way.stream(ctx.ends().names())).await?;
    resync::run(ctx, way).await?;
    sequences.add_head_room(ctx, &departure, &to_session).await?;
    wait_for_long_transactions(ctx, &from_session).await?;

    latch(ctx, &mut orders).await?;
    fence_ahead(ctx, &from, &from_session).await?;
    wait_until_caught_up(ctx, &from_session, &arrival, attempt).await?;
    ctx.reach(way.step(), CrashPoint::FencedAhead).await?;

    let (budget, viewer, preset) = (budget(ctx), Some(viewer), sequences.preset);
    let mut crossing = CutoverAttempt { way, epoch, attempt, budget, preset, departure, arrival, viewer };
    let mut watch = Stopwatch::start();
    if let Err(error) = crossing.run(ctx, &mut orders, &mut watch).await {
        // Clients wait: nothing is recorded before they are released. The undo does the rest.
        release(&mut orders).await;
        return Err(error);
    }
    // The result does not matter: the clients are on the other side.
    let _ = ctx.reach(way.step(), CrashPoint::AfterCommit).await;
    if let Err(error) = report(ctx, way, &mut orders, watch).await {
        tracing::warn!(%error, "the pause of a cutover is not reported");
    }
    Ok(())
}

fn has_arrived(ctx: &StepContext, way: MoveDirection, route: &RouteRecord) -> bool {
    way.epoch(ctx.facts()) == Some(route.epoch) && route.place.is_same_database(way.destination(ctx.record()))
}

/// How often the step was begun; makes the markers of each attempt its own.
fn attempt(ctx: &StepContext, way: MoveDirection) -> usize {
    ctx.record().log.iter().filter(|entry| entry.step == way.step()).count()
}

async fn connect(ctx: &StepContext, end: &Endpoint, doing: &'static str) -> Result<Session, StepError> {
    let session = end.session().await.map_err(StepError::doing(doing))?;
    session.bound_statements(ctx.settings.statement_timeout).await.map_err(StepError::doing(doing))?;
    // A user's event trigger would run as the platform when a publication is opened.
    session.act_as_replica().await.map_err(StepError::doing(doing))?;
    Ok(session)
}

/// Restores access to the other side, to which only the platform could connect until now.
async fn open_for_twins(ctx: &StepContext, to: &Endpoint, session: &Session) -> Result<(), StepError> {
    let Some(saved) = ctx.facts().saved_fence.get(&to.system.name) else { return Ok(()) };
    fence::restore(session, &to.dbname, saved).await.map_err(StepError::doing("opening the other side"))
}

/// Every session prepares a twin connection on the other side. Waits for pinned sessions, and reports them.
async fn prepare_twins(
    ctx: &StepContext,
    orders: &mut Orders,
    way: MoveDirection,
    from: &Session,
) -> Result<(), StepError> {
    ctx.progress.set_activity("sessions prepare connections on the other side");
    let next = ctx.destination(way);
    orders.give(|route| route.next = Some(next.clone())).await?;
    let all_seen = |standing: &OrderProgress| {
        show_pinned(ctx, &standing.pinned);
        standing.is_done()
    };
    let deadline = Instant::now() + ctx.settings.warm_budget;
    let (standing, waited) = ctx.unless_cancelled(orders.wait(deadline, all_seen)).await?;
    if waited == Waited::TooLong {
        // A session prepares its twin between two transactions, so sessions with open transactions are named
        // in the error.
        let open = long_transactions(from, ctx.settings.warm_budget / 2).await.unwrap_or_default();
        let names = standing.in_the_way().into_iter().chain(open.iter().map(ToString::to_string)).collect();
        return Err(StepError::over_budget(
            "the preparation of the sessions",
            ctx.settings.warm_budget,
            names,
        ));
    }
    let none_pinned = |standing: &OrderProgress| {
        show_pinned(ctx, &standing.pinned);
        standing.is_done() && standing.pinned.is_empty()
    };
    let deadline = Instant::now() + ctx.settings.pin_budget;
    match ctx.unless_cancelled(orders.wait(deadline, none_pinned)).await? {
        (_, Waited::Enough) => Ok(()),
        (standing, Waited::TooLong) => Err(StepError::over_budget(
            "the wait for sessions that hold what cannot travel",
            ctx.settings.pin_budget,
            standing.in_the_way(),
        )),
    }
}

fn show_pinned(ctx: &StepContext, pinned: &[Pinned]) {
    if ctx.progress.current().pinned != pinned {
        ctx.progress.update(|progress| progress.pinned = pinned.to_vec());
    }
}

/// Sequences of the other side that are set before the pause, because there are too many to set in it.
#[derive(Debug, Default)]
struct SequencesAhead {
    /// Values read from the side that is left, in the order of [`OldSide::sequences`].
    positions: Vec<sequences::Position>,
    /// Values set on the other side; empty if all are set in the pause.
    preset: HashMap<TableName, sequences::Position>,
    read_at: Option<Instant>,
}

impl SequencesAhead {
    /// Sets them to their current values.
    async fn set(departure: &OldSide<'_>, to: &Session) -> Result<SequencesAhead, StepError> {
        let all = departure.sequences();
        if all.len() <= EXACT_SEQUENCES_MAX {
            return Ok(SequencesAhead::default());
        }
        let doing = || StepError::doing("setting sequences ahead");
        let read_at = Some(Instant::now());
        let positions = departure.positions().await.map_err(doing())?;
        let exact = sequences::exact(all, &positions);
        sequences::set(to, &exact).await.map_err(doing())?;
        Ok(SequencesAhead { positions, preset: exact.into_iter().collect(), read_at })
    }

    /// Gives head-room to sequences that have advanced since, if they are too many to set in the pause.
    async fn add_head_room(
        &mut self,
        ctx: &StepContext,
        departure: &OldSide<'_>,
        to: &Session,
    ) -> Result<(), StepError> {
        let Some(read_at) = self.read_at else { return Ok(()) };
        let doing = || StepError::doing("setting sequences ahead");
        let looked = async {
            tokio::time::sleep_until(read_at + SEQUENCES_LOOK_FOR).await;
            Ok(())
        };
        ctx.unless_cancelled(looked).await?;
        let now = departure.positions().await.map_err(doing())?;
        let ahead = sequences::moved_ahead(departure.sequences(), &self.positions, &now, SEQUENCE_HEAD_ROOM);
        if ahead.len() <= EXACT_SEQUENCES_MAX / 2 {
            return Ok(());
        }
        sequences::set(to, &ahead).await.map_err(doing())?;
        self.preset.extend(ahead);
        Ok(())
    }
}

/// Waits for a moment without a long transaction, which would hold all clients until it ends.
async fn wait_for_long_transactions(ctx: &StepContext, session: &Session) -> Result<(), StepError> {
    let older_than = budget(ctx) / CALM_PART_OF_BUDGET;
    let longest = ctx.contract.move_transaction_wait;
    let deadline = Instant::now() + longest;
    loop {
        ctx.check()?;
        let found = long_transactions(session, older_than).await;
        let found = found.map_err(StepError::doing("looking for long transactions"))?;
        if found.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = found.iter().map(LongTransaction::to_string).collect();
        if Instant::now() >= deadline {
            return Err(StepError::over_budget("the wait for long transactions", longest, names));
        }
        ctx.progress.set_activity(format!("waiting for long transactions: {}", names.join("; ")));
        tokio::time::sleep(CALM_LOOK_EVERY).await;
    }
}

/// Waits until replication to the other side takes at most the allowed time: all held clients wait that long.
async fn wait_until_caught_up(
    ctx: &StepContext,
    from: &Session,
    arrival: &NewSide<'_>,
    attempt: usize,
) -> Result<(), StepError> {
    let allowed = ctx.settings.ready_lag;
    let deadline = Instant::now() + ctx.settings.ack_budget;
    for probe in 1.. {
        let token = format!("{attempt}/{probe}");
        let written = marker::write(from, ctx.id(), PROBE, &token).await;
        written.map_err(StepError::doing("measuring replication"))?;
        let began = Instant::now();
        match arrival.sees(PROBE, &token, deadline).await {
            Ok(()) if began.elapsed() <= allowed => return Ok(()),
            Ok(()) => {}
            Err(SystemError::Timeout { .. }) => break,
            Err(error) => return Err(StepError::failed("measuring replication", error)),
        }
        tokio::time::sleep(NEAR_LOOK_EVERY).await;
    }
    Err(StepError::NotNow {
        message: "the other side fell behind while the cutover was prepared".to_owned(),
        detail: Some(format!("A row takes longer than {}.", humantime::format_duration(allowed))),
    })
}

fn budget(ctx: &StepContext) -> Duration {
    ctx.record().pause_max.unwrap_or(ctx.contract.move_pause_max)
}

/// From now on no server connection is opened; existing ones stay usable.
async fn latch(ctx: &StepContext, orders: &mut Orders) -> Result<(), StepError> {
    let by = orders.holder();
    orders.give(|route| route.gate = GateOrder::Latched { by: by.clone() }).await?;
    let deadline = Instant::now() + ctx.settings.ack_budget;
    match ctx.unless_cancelled(orders.wait(deadline, OrderProgress::is_done)).await? {
        (_, Waited::Enough) => Ok(()),
        (standing, Waited::TooLong) => {
            Err(StepError::over_budget("the latch", ctx.settings.ack_budget, standing.in_the_way()))
        }
    }
}

/// Revokes the right to connect from all roles, after recording which roles had it.
async fn fence_ahead(ctx: &mut StepContext, from: &Endpoint, session: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("fencing the side that is left");
    let access = fence::read(session, &from.dbname).await.map_err(doing())?;
    let system = from.system.name.clone();
    if !(access.is_shut() && ctx.facts().saved_fence.contains_key(&system)) {
        let saved = access.saved();
        ctx.remember(|facts| {
            facts.saved_fence.insert(system.clone(), saved.clone());
        })
        .await?;
    }
    fence::shut(session, &from.dbname).await.map_err(doing())?;
    Ok(())
}

/// The clients go on where they were. New connections wait until the fence is lifted.
async fn release(orders: &mut Orders) {
    let by = orders.holder();
    let latched = |route: &mut RouteRecord| {
        route.gate = GateOrder::Latched { by: by.clone() };
        route.next = None;
    };
    if let Err(error) = orders.give(latched).await {
        tracing::warn!(%error, "the hold is not released yet; the undo of the cutover releases it");
    }
}

/// Collects the measurements of the proxies. The clients are on the other side, so a failure here does not
/// fail the move.
async fn report(
    ctx: &mut StepContext,
    way: MoveDirection,
    orders: &mut Orders,
    mut watch: Stopwatch,
) -> Result<(), StepError> {
    let deadline = Instant::now() + ctx.settings.ack_budget;
    let (standing, waited) = orders.wait(deadline, OrderProgress::is_done).await?;
    watch.part("release");
    if waited == Waited::TooLong {
        tracing::warn!(silent = ?standing.in_the_way(), "the pause is reported without some proxies");
    }
    let aborted = ctx
        .record()
        .log
        .iter()
        .filter(|entry| entry.step == way.step() && entry.event == crate::model::StepEvent::Failed);
    let aborted = u32::try_from(aborted.count()).unwrap_or(u32::MAX);
    let report = watch.report(&standing, aborted);
    show_pinned(ctx, &[]);
    ctx.journal
        .write(|record| match way {
            MoveDirection::Forward => record.cutover = Some(report.clone()),
            MoveDirection::Reverse => record.undo = Some(report.clone()),
        })
        .await?;
    Ok(())
}

/// Lets every client go on where it was: latches the gate, lifts the fence, opens the gate. Safe to repeat,
/// and after an attempt that never began. Until the fence is lifted the gate stays latched: connected clients
/// go on, and a new connection waits instead of being refused. The gate opens with the fence in place only if
/// no further attempt will lift it; new connections then get the server's refusal. Does not wait for the
/// other side: if it cannot be shut now, the next step does it ([`ensure_fenced`]).
pub(in crate::control) async fn abort(ctx: &mut StepContext, way: MoveDirection) -> Result<(), StepError> {
    let database = ctx.record().database.clone();
    let by = crate::model::HoldReason::Move { id: ctx.id() };
    let destination = way.destination(ctx.record()).clone();
    let is_ours = |gate: &GateOrder| match gate {
        GateOrder::Open => false,
        GateOrder::Latched { by: other } | GateOrder::Held { by: other, .. } => *other == by,
    };
    ctx.catalog
        .routes()
        .update(&database, |route| {
            if route.place.is_same_database(&destination) {
                return Err(committed(way.step()));
            }
            if route.next.as_ref().is_some_and(|next| next.is_same_database(&destination)) {
                route.next = None;
            }
            if is_ours(&route.gate) {
                route.gate = GateOrder::Latched { by: by.clone() };
            }
            Ok::<(), StepError>(())
        })
        .await?;
    let (from, to) = way.ends(ctx.ends());
    let settings = Arc::clone(&ctx.settings);
    let lifted = within_statement_timeout(&settings, "lifting the fence", unfence(ctx, &from)).await;
    if lifted.as_ref().is_err_and(|error| error.retry() != Retry::Never) {
        return lifted;
    }
    ctx.catalog
        .routes()
        .update(&database, |route| {
            if is_ours(&route.gate) {
                route.gate = GateOrder::Open;
            }
            Ok::<(), StepError>(())
        })
        .await?;
    if let Err(error) =
        within_statement_timeout(&settings, "shutting the other side", shut_out(ctx, &to)).await
    {
        tracing::warn!(%error, "the side that the clients did not reach is still open");
    }
    lifted
}

/// A server that stops answering in the middle of a statement must not delay the rest.
async fn within_statement_timeout(
    settings: &ControlSettings,
    doing: &str,
    work: impl Future<Output = Result<(), StepError>>,
) -> Result<(), StepError> {
    let longest = settings.connect_timeout + settings.statement_timeout;
    match tokio::time::timeout(longest, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StepError::over_budget(doing, longest, Vec::new())),
    }
}

fn committed(step: MoveStep) -> StepError {
    StepError::Forbidden {
        sqlstate: crate::error::SqlState::MOVE_NOT_IN_PHASE,
        blame: crate::error::Blame::Platform,
        message: format!("step {} is committed and cannot be aborted", step.as_str()),
        detail: None,
        hint: None,
    }
}

/// Restores the privileges on the side that the clients did not leave, and forgets the saved ones: they may
/// change before the next attempt.
async fn unfence(ctx: &mut StepContext, from: &Endpoint) -> Result<(), StepError> {
    let system = from.system.name.clone();
    let Some(saved) = ctx.facts().saved_fence.get(&system).cloned() else { return Ok(()) };
    let doing = || StepError::doing("lifting the fence");
    let session = short_session(ctx, from).await.map_err(doing())?;
    if fence::read(&session, &from.dbname).await.map_err(doing())?.is_shut() {
        fence::restore(&session, &from.dbname, &saved).await.map_err(doing())?;
    }
    ctx.remember(|facts| {
        facts.saved_fence.remove(&system);
    })
    .await
}

/// Shuts the side that the clients did not reach, if an abort could not. Safe to repeat.
pub(in crate::control) async fn ensure_fenced(ctx: &StepContext, to: &Endpoint) -> Result<(), StepError> {
    let doing = || StepError::doing("shutting the other side");
    let session = short_session(ctx, to).await.map_err(doing())?;
    match fence::read(&session, &to.dbname).await.map_err(doing())?.is_shut() {
        true => Ok(()),
        false => shut_out(ctx, to).await,
    }
}

/// A session for short statements.
async fn short_session(ctx: &StepContext, end: &Endpoint) -> Result<Session, SystemError> {
    let session = end.admin_session().await?;
    session.bound_statements(ctx.settings.statement_timeout).await?;
    Ok(session)
}

/// Takes the clients' access to the side that they did not reach.
async fn shut_out(ctx: &StepContext, to: &Endpoint) -> Result<(), StepError> {
    if !ctx.facts().saved_fence.contains_key(&to.system.name) {
        return Ok(());
    }
    let doing = || StepError::doing("shutting the other side");
    let session = short_session(ctx, to).await.map_err(doing())?;
    fence::shut(&session, &to.dbname).await.map_err(doing())?;
    // Sessions that connected past the proxies while this side was open: what they wrote there would be lost.
    let ended = fence::terminate_others(&session, &to.dbname, &[], &[]).await.map_err(doing())?;
    for writer in &ended {
        tracing::warn!(%writer, "ended a session on the side that the clients did not reach");
    }
    Ok(())
}
