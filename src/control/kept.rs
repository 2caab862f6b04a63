//! Kept: the database lives on the target, the source follows, and this watches that it does.
//!
//! No step: nothing is decided here, and it runs until somebody wishes something. Where the way back is lost it says so in
//! the record; the database itself goes on.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::{Blame, Explain, Retry, SqlState};

use super::error::StepError;
use super::step::StepContext;
use super::stream::{Stream, Watcher};
use super::way::Way;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// In [`MoveFacts::notes`](crate::model::MoveFacts): why there is no undo any more.
pub const NOTE_NO_WAY_BACK: &str = "no_way_back_because";

/// Keeps heartbeats going, until the way back is lost; then removes what is left of it. Cancel-safe.
pub(super) async fn watch(ctx: &mut StepContext) {
    while !is_lost(ctx) {
        match watch_once(ctx).await {
            Err(error) if error.retry() == Retry::Never => give_up(ctx, &error).await,
            Err(error) => tracing::warn!(%error, "cannot watch the way back of a move"),
            Ok(never) => match never {},
        }
        sleep(LOOK_EVERY).await;
    }
    // The database is more than the way back: what would fill the target's disk goes.
    while let Err(error) = Stream::new(Way::Back, ctx.ends()).remove().await {
        tracing::warn!(%error, "cannot remove the way back of a move");
        sleep(LOOK_EVERY).await;
    }
    std::future::pending().await
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

async fn watch_once(ctx: &StepContext) -> Result<std::convert::Infallible, StepError> {
    let doing = || StepError::doing("watching the way back");
    let mut watcher = Watcher::open(Stream::new(Way::Back, ctx.ends())).await.map_err(doing())?;
    ctx.progress.say("kept current for an undo");
    loop {
        watcher.beat().await.map_err(doing())?;
        sleep(LOOK_EVERY).await;
        let lag = watcher.look().await?;
        ctx.progress.update(|progress| {
            progress.lag_bytes = lag.bytes;
            progress.lag_ms = lag.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            progress.eta_ms = None;
        });
        super::catchup::guard_wal(ctx, lag)?;
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
