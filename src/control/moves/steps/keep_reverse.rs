//! Kept: the database lives on the target, the source follows; this module watches that it keeps following.
//!
//! This is not a step: it decides nothing, and runs until a request arrives. If the way back is lost it
//! records the reason; the database itself goes on. It also watches a parked move for the one thing that
//! cannot wait for the operator: a slot that retains WAL until the disk of a live system is full.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Blame, Explain, Retry, SqlState};

use crate::control::moves::claim::{self, ClaimOwner};
use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::error::StepError;
use crate::control::moves::log::is_committed;
use crate::control::moves::parts::stream::{Stream, Watcher};
use crate::control::moves::parts::way_back;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval between checks which store drives the move; each renews the claim.
const CLAIM_EVERY: Duration = Duration::from_secs(60);
/// A source that receives no heartbeat for so long is reported as not following.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// Interval for a parked move, which may wait for days.
const PARKED_LOOK_EVERY: Duration = Duration::from_secs(10);
/// In [`MoveFacts::notes`](crate::model::MoveFacts): why an undo is no longer possible.
pub const NOTE_NO_WAY_BACK: &str = "no_way_back_because";

/// Writes heartbeats until the way back is lost; then removes the rest of it. Returns only if another store
/// drives the move. Cancel-safe.
pub(in crate::control) async fn watch(ctx: &mut StepContext) {
    while !is_lost(ctx) {
        if is_anothers(ctx).await {
            return;
        }
        if let Err(error) = ctx.refresh_systems().await {
            tracing::warn!(%error, "cannot learn how the systems of a move are reached");
        }
        let verdict = match watch_once(ctx).await {
            Ok(()) => return,
            Err(error) if error.retry() == Retry::Never => Err(cause(ctx, error).await),
            // An unreachable source is waited for, but only while the target's WAL for it stays within the
            // limit.
            Err(error) => {
                tracing::warn!(%error, "cannot watch the way back of a move");
                check_retained(ctx, MoveDirection::Reverse).await
            }
        };
        if let Err(error) = verdict {
            // Objects may be missing because another store has ended the move.
            if is_anothers(ctx).await {
                return;
            }
            give_up(ctx, &error).await;
        }
        sleep(LOOK_EVERY).await;
    }
    if let Some(because) = ctx.facts().notes.get(NOTE_NO_WAY_BACK) {
        ctx.progress.set_activity(format!("no undo any more: {because}"));
    }
    if is_anothers(ctx).await {
        return;
    }
    // The database is more important than the way back: what would fill the target's disk is removed.
    while let Err(error) = Stream::new(MoveDirection::Reverse, ctx.ends()).remove().await {
        tracing::warn!(%error, "cannot remove the way back of a move");
        sleep(LOOK_EVERY).await;
    }
    while !is_anothers(ctx).await {
        sleep(CLAIM_EVERY).await;
    }
}

async fn is_anothers(ctx: &mut StepContext) -> bool {
    match claim::hold(ctx).await {
        Ok(held) => held == ClaimOwner::OtherStore,
        Err(error) => {
            tracing::warn!(%error, "cannot see which store drives a move");
            false
        }
    }
}

/// Watches a move that waits for the operator: drops a slot that retains too much WAL. Returns only if
/// another store drives the move. Cancel-safe.
pub(in crate::control) async fn watch_parked(ctx: &mut StepContext) {
    while !is_anothers(ctx).await {
        if let Err(error) = ctx.refresh_systems().await {
            tracing::warn!(%error, "cannot learn how the systems of a move are reached");
        }
        for way in [MoveDirection::Forward, MoveDirection::Reverse] {
            if let Err(error) = check_retained(ctx, way).await {
                relieve(ctx, way, &error).await;
            }
        }
        sleep(PARKED_LOOK_EVERY).await;
    }
}

/// Drops the slot; without the slot of the way back there is no undo.
async fn relieve(ctx: &mut StepContext, way: MoveDirection, because: &StepError) {
    if way == MoveDirection::Reverse && is_committed(ctx.record()) {
        give_up(ctx, because).await;
    }
    match Stream::new(way, ctx.ends()).drop_slot().await {
        Ok(()) => tracing::warn!(%because, ?way, "dropped a slot of a parked move"),
        Err(error) => tracing::warn!(%error, ?way, "cannot drop a slot of a parked move"),
    }
}

/// Fails if a publisher retains more WAL for a stream than is allowed. One that does not answer cannot be
/// checked.
async fn check_retained(ctx: &StepContext, way: MoveDirection) -> Result<(), StepError> {
    match Stream::new(way, ctx.ends()).retained_bytes().await {
        Ok(retained) => crate::control::moves::steps::catchup::guard_wal(ctx, retained.unwrap_or(0)),
        Err(error) => {
            tracing::warn!(%error, ?way, "cannot see how much WAL a move keeps");
            Ok(())
        }
    }
}

/// Whether an undo has become impossible.
fn is_lost(ctx: &StepContext) -> bool {
    ctx.facts().notes.contains_key(NOTE_NO_WAY_BACK)
}

/// Fails if the way back is lost.
pub(in crate::control) fn check_way_back(ctx: &StepContext) -> Result<(), StepError> {
    let Some(because) = ctx.facts().notes.get(NOTE_NO_WAY_BACK) else { return Ok(()) };
    Err(StepError::Forbidden {
        sqlstate: SqlState::MOVE_NOT_IN_PHASE,
        blame: Blame::Platform,
        message: "the source was not kept current, so there is no undo".to_owned(),
        detail: Some(because.clone()),
        hint: Some(format!("Run FINISH MOVE {}, and move the database back by another move.", ctx.id())),
    })
}

/// `Ok`: another store drives the move.
async fn watch_once(ctx: &mut StepContext) -> Result<(), StepError> {
    let doing = || StepError::doing("watching the way back");
    // Before anything is created again: a dropped subscription has lost its replication progress.
    way_back::check_now(ctx, &Stream::new(MoveDirection::Reverse, ctx.ends())).await?;
    // An aborted undo may have left the source open.
    crate::control::moves::steps::cutover::ensure_fenced(ctx, &ctx.ends().source).await?;
    // The target's address may have changed.
    crate::control::moves::steps::settle::start_way_back(ctx).await?;
    let mut watcher = Watcher::open(Stream::new(MoveDirection::Reverse, ctx.ends())).await.map_err(doing())?;
    let (mut arrived, mut claimed) = (Instant::now(), Instant::now());
    loop {
        if claimed.elapsed() >= CLAIM_EVERY {
            claimed = Instant::now();
            if is_anothers(ctx).await {
                return Ok(());
            }
        }
        watcher.beat().await.map_err(doing())?;
        sleep(LOOK_EVERY).await;
        way_back::check(ctx, &watcher.stream, &watcher.publisher, &watcher.subscriber).await?;
        let lag = watcher.look().await?;
        if lag.age.is_some_and(|age| age < SILENT_AFTER) {
            arrived = Instant::now();
        }
        say(ctx, arrived.elapsed());
        ctx.progress.update(|progress| {
            progress.lag_bytes = lag.bytes;
            progress.lag_ms = lag.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            progress.eta_ms = None;
        });
        crate::control::moves::steps::catchup::guard_wal(ctx, lag.retained_bytes)?;
    }
}

/// Replaces an error by its cause if an object was dropped or changed.
async fn cause(ctx: &mut StepContext, error: StepError) -> StepError {
    match way_back::check_now(ctx, &Stream::new(MoveDirection::Reverse, ctx.ends())).await {
        Err(lost @ StepError::Forbidden { .. }) => lost,
        _ => error,
    }
}

/// An unknown age counts as a growing one: nothing arrives.
fn say(ctx: &StepContext, silent: Duration) {
    let activity = match silent >= SILENT_AFTER {
        false => "kept current for an undo".to_owned(),
        true => {
            let silent = humantime::format_duration(Duration::from_secs(silent.as_secs()));
            format!("the source does not follow: nothing has arrived there for {silent}")
        }
    };
    if ctx.progress.current().activity != activity {
        tracing::info!(id = ctx.id().0, activity, "about the way back of a move");
        ctx.progress.set_activity(activity);
    }
}

async fn give_up(ctx: &mut StepContext, error: &StepError) {
    tracing::error!(%error, "the way back of a move is lost");
    ctx.progress.set_activity(format!("no undo any more: {error}"));
    let because = error.to_string();
    let noted = ctx.remember(|facts| {
        facts.notes.insert(NOTE_NO_WAY_BACK.to_owned(), because.clone());
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "cannot record that the way back is lost");
    }
}
