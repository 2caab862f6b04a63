//! Kept: the database lives on the target, the source follows, and this watches that it does.
//!
//! No step: nothing is decided here, and it runs until somebody wishes something. Where the way back is lost it says so in
//! the record; the database itself goes on. A parked move is watched here, too, for the one thing that does not wait for a
//! person: a slot that keeps WAL until the disk of a live system is full.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Blame, Explain, Retry, SqlState};

use super::claim::{self, Held};
use super::error::StepError;
use super::machine::is_committed;
use super::step::StepContext;
use super::stream::{Stream, Watcher};
use super::way::Way;
use super::way_back;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks which store drives the move; each renews the claim.
const CLAIM_EVERY: Duration = Duration::from_secs(60);
/// A source on which no heartbeat arrives for so long is said not to follow.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// Of a parked move, which may wait for days.
const PARKED_LOOK_EVERY: Duration = Duration::from_secs(10);
/// In [`MoveFacts::notes`](crate::model::MoveFacts): why there is no undo any more.
pub const NOTE_NO_WAY_BACK: &str = "no_way_back_because";

/// Keeps heartbeats going, until the way back is lost; then removes what is left of it. Ends only where another store drives
/// the move. Cancel-safe.
pub(super) async fn watch(ctx: &mut StepContext) {
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
            // A source that is gone is waited for, but only as long as the target has room for what it will need.
            Err(error) => {
                tracing::warn!(%error, "cannot watch the way back of a move");
                check_retained(ctx, Way::Back).await
            }
        };
        if let Err(error) = verdict {
            // What is gone may be gone because another store has ended the move.
            if is_anothers(ctx).await {
                return;
            }
            give_up(ctx, &error).await;
        }
        sleep(LOOK_EVERY).await;
    }
    if let Some(because) = ctx.facts().notes.get(NOTE_NO_WAY_BACK) {
        ctx.progress.say(format!("no undo any more: {because}"));
    }
    if is_anothers(ctx).await {
        return;
    }
    // The database is more than the way back: what would fill the target's disk goes.
    while let Err(error) = Stream::new(Way::Back, ctx.ends()).remove().await {
        tracing::warn!(%error, "cannot remove the way back of a move");
        sleep(LOOK_EVERY).await;
    }
    while !is_anothers(ctx).await {
        sleep(CLAIM_EVERY).await;
    }
}

async fn is_anothers(ctx: &mut StepContext) -> bool {
    match claim::hold(ctx).await {
        Ok(held) => held == Held::Anothers,
        Err(error) => {
            tracing::warn!(%error, "cannot see which store drives a move");
            false
        }
    }
}

/// Watches a move that waits for a person: a slot of it that keeps too much WAL goes. Ends only where another store drives
/// the move. Cancel-safe.
pub(super) async fn watch_parked(ctx: &mut StepContext) {
    while !is_anothers(ctx).await {
        if let Err(error) = ctx.refresh_systems().await {
            tracing::warn!(%error, "cannot learn how the systems of a move are reached");
        }
        for way in [Way::Forth, Way::Back] {
            if let Err(error) = check_retained(ctx, way).await {
                relieve(ctx, way, &error).await;
            }
        }
        sleep(PARKED_LOOK_EVERY).await;
    }
}

/// Drops the slot; without the one of the way back there is no undo.
async fn relieve(ctx: &mut StepContext, way: Way, because: &StepError) {
    if way == Way::Back && is_committed(ctx.record()) {
        give_up(ctx, because).await;
    }
    match Stream::new(way, ctx.ends()).drop_slot().await {
        Ok(()) => tracing::warn!(%because, ?way, "dropped a slot of a parked move"),
        Err(error) => tracing::warn!(%error, ?way, "cannot drop a slot of a parked move"),
    }
}

/// Fails where a publisher keeps more WAL for a stream than it may. One that does not answer has nothing to be saved.
async fn check_retained(ctx: &StepContext, way: Way) -> Result<(), StepError> {
    match Stream::new(way, ctx.ends()).retained_bytes().await {
        Ok(retained) => super::catchup::guard_wal(ctx, retained.unwrap_or(0)),
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

/// Fails where the way back is lost.
pub(super) fn check_way_back(ctx: &StepContext) -> Result<(), StepError> {
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
    // Before anything is made again: a subscription that was dropped has forgotten what it had applied.
    way_back::check_now(ctx, &Stream::new(Way::Back, ctx.ends())).await?;
    // An aborted undo may have left it open.
    super::cutover::shut_again(ctx, &ctx.ends().source).await?;
    // The target may have got another address.
    super::settle::start_way_back(ctx).await?;
    let mut watcher = Watcher::open(Stream::new(Way::Back, ctx.ends())).await.map_err(doing())?;
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
        super::catchup::guard_wal(ctx, lag.retained_bytes)?;
    }
}

/// What was dropped or changed, where an error came of that.
async fn cause(ctx: &mut StepContext, error: StepError) -> StepError {
    match way_back::check_now(ctx, &Stream::new(Way::Back, ctx.ends())).await {
        Err(lost @ StepError::Forbidden { .. }) => lost,
        _ => error,
    }
}

/// An age that stays unknown is as bad as one that grows: nothing arrives.
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
        ctx.progress.say(activity);
    }
}

async fn give_up(ctx: &mut StepContext, error: &StepError) {
    tracing::error!(%error, "the way back of a move is lost");
    ctx.progress.say(format!("no undo any more: {error}"));
    let because = error.to_string();
    let noted = ctx.remember(|facts| {
        facts.notes.insert(NOTE_NO_WAY_BACK.to_owned(), because.clone());
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "cannot record that the way back is lost");
    }
}
