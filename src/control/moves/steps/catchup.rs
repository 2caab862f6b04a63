//! Catchup: the target follows the source, until what is missing is small.
//!
//! A subscription applies what has happened since the slot's snapshot. The way back is prepared meanwhile: a
//! publication on the target that publishes nothing yet, and a slot that retains the WAL for it. The step
//! ends when the target has been near for a while; the cutover begins there, and returns here when it is
//! aborted.
//!
//! # Why
//! * **Unapplied changes lengthen the pause**: all held clients wait until they are applied, so no cutover
//!   begins before the backlog has been small for [`ready_for`](crate::control::ControlSettings::ready_for).
//! * **The move ends before the source's disk fills**: the slot retains WAL, and the amount is bounded.
//! * **The way back's slot is older than the commit that opens its publication**, so nothing between the two
//!   is lost, and no change that came from the source is replicated back to it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Blame, SqlState};
use crate::model::MoveStep;
use crate::system::guard::{self, Guard};
use crate::system::{Session, publications, slots};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::error::StepError;
use crate::control::moves::log::{StepState, step_state};
use crate::control::moves::parts::matviews;
use crate::control::moves::parts::resync;
use crate::control::moves::parts::stream::{Lag, Stream, Watcher};
use crate::control::moves::steps::cutover::ensure_fenced;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Highest age of the newest heartbeat at which the target counts as near. The cutover measures the lag again
/// right before the pause.
const NEAR: Duration = Duration::from_millis(250);
/// Without any progress for this long the stream counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Makes the target follow, and waits until it is near. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    ctx.progress.set_activity("starting replication");
    // An aborted cutover may have left the target open.
    ensure_fenced(ctx, &ctx.ends().target).await?;
    resync::run(ctx, MoveDirection::Forward).await?;
    let stream = Stream::of_copy(ctx.ends(), ctx.facts());
    let source = ctx.source_session().await?;
    let target = ctx.target_session().await?;
    target.act_as_replica().await.map_err(StepError::doing("preparing the target"))?;
    // Before the role that applies changes gets the privileges of owners.
    guard_target(ctx, &target).await?;
    stream.start(&source, &target).await?;
    prepare_way_back(ctx, &source, &target).await?;
    drop((source, target));
    until_ready(ctx, stream).await
}

/// Waits until the subscriber of a stream is near, then refreshes its materialized views from the rows that
/// have arrived. Refreshing may take long, so it waits once more afterwards.
pub(in crate::control) async fn until_ready(ctx: &StepContext, stream: Stream) -> Result<(), StepError> {
    until_near(ctx, stream.clone()).await?;
    match matviews::catch_up(ctx, &stream.publisher, &stream.subscriber).await? {
        true => until_near(ctx, stream).await,
        false => Ok(()),
    }
}

/// Removes the subscription and the way back. Safe to repeat, and after a `run` that never began. The
/// source's slot goes with them, even if the target does not answer: nothing reads it any more, and it
/// retains WAL.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    if step_state(ctx.record(), MoveStep::Catchup) == StepState::Untouched {
        return Ok(());
    }
    let source = Stream::new(MoveDirection::Forward, ctx.ends()).drop_slot().await;
    let target = undo_target(ctx).await;
    source.map_err(StepError::doing("dropping the slot on the source"))?;
    target
}

/// Keeps the forward publication: the undo of `provision` removes it.
async fn undo_target(ctx: &StepContext) -> Result<(), StepError> {
    let doing = || StepError::doing("ending replication");
    let target = ctx.target_session().await?;
    target.act_as_replica().await.map_err(doing())?;
    let forward = Stream::new(MoveDirection::Forward, ctx.ends()).name();
    crate::system::subscriptions::drop(&target, &forward).await.map_err(doing())?;
    let back = Stream::new(MoveDirection::Reverse, ctx.ends()).name();
    slots::drop(&target, &back, ctx.ends().target.deadline()).await.map_err(doing())?;
    publications::drop(&target, &back).await.map_err(doing())
}

/// Creates a publication on the target that publishes nothing yet, and a slot. If an aborted cutover had
/// opened the publication, changes that came from the source since then must not be sent back: both are
/// created anew.
async fn prepare_way_back(ctx: &StepContext, source: &Session, target: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the way back");
    let names = ctx.ends().names();
    let (forward, back) = (names.forward(), names.back());
    let tables = publications::tables(source, &forward).await.map_err(doing())?;
    let tables = tables.ok_or_else(|| StepError::not_now("the publication of the move is gone"))?;
    let is_closed = publications::is_open(target, &back).await.map_err(doing())? == Some(false);
    let same_tables = publications::tables(target, &back).await.map_err(doing())?.as_ref() == Some(&tables);
    let has_slot = slots::state(target, &back).await.map_err(doing())?.is_some();
    if is_closed && same_tables && has_slot {
        return Ok(());
    }
    slots::drop(target, &back, ctx.ends().target.deadline()).await.map_err(doing())?;
    publications::drop(target, &back).await.map_err(doing())?;
    publications::create_closed(target, &back, &tables).await.map_err(doing())?;
    let create = async { slots::create(target, &back).await.map_err(doing()) };
    ctx.unless_cancelled(create).await?;
    Ok(())
}

/// After the cutover the way back needs the same schema on both sides. Until then no client reaches the guard
/// on the target.
async fn guard_target(ctx: &StepContext, target: &Session) -> Result<(), StepError> {
    let remedy = format!("FINISH MOVE {}", ctx.id());
    let guard = Guard {
        id: ctx.id(),
        database: ctx.record().name.as_str(),
        platform_role: ctx.target.admin_role.as_str(),
        remedy: &remedy,
    };
    guard::install(target, &guard).await.map_err(StepError::doing("installing the guard on the target"))
}

/// Waits until the subscriber of a stream has been near for a while.
async fn until_near(ctx: &StepContext, stream: Stream) -> Result<(), StepError> {
    let doing = || StepError::doing("watching replication");
    let following = match stream.way {
        MoveDirection::Forward => "following the source",
        MoveDirection::Reverse => "waiting until the source has every change",
    };
    let mut watcher = Watcher::open(stream).await.map_err(doing())?;
    let mut eta = Eta::default();
    let mut near_since: Option<Instant> = None;
    let mut beaten: Option<Instant> = None;
    let mut moved = (Instant::now(), u64::MAX);
    ctx.progress.set_activity(following);
    loop {
        ctx.check()?;
        if beaten.is_none_or(|at| at.elapsed() >= BEAT_EVERY) {
            watcher.beat().await.map_err(doing())?;
            beaten = Some(Instant::now());
        }
        let lag = watcher.look().await?;
        show(ctx, lag, &mut eta);
        guard_wal(ctx, lag.retained_bytes)?;
        let bytes = lag.bytes.unwrap_or(u64::MAX);
        let near = lag.age.is_some_and(|age| age < NEAR);
        if bytes < moved.1 || near {
            moved = (Instant::now(), bytes);
        }
        if moved.0.elapsed() > STUCK_AFTER {
            return Err(StepError::over_budget(
                "replication",
                STUCK_AFTER,
                vec!["the backlog grows".to_owned()],
            ));
        }
        match (near, near_since) {
            (false, _) => near_since = None,
            (true, None) => near_since = Some(Instant::now()),
            (true, Some(since)) if since.elapsed() >= ctx.settings.ready_for => return Ok(()),
            (true, Some(_)) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

fn show(ctx: &StepContext, lag: Lag, eta: &mut Eta) {
    let left = lag.bytes.map(|bytes| eta.left(bytes, Instant::now()));
    ctx.progress.update(|progress| {
        progress.lag_bytes = lag.bytes;
        progress.lag_ms = lag.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        progress.eta_ms = left.flatten().map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    });
}

/// Ends the move before the publisher's disk fills.
pub(in crate::control) fn guard_wal(ctx: &StepContext, retained_bytes: u64) -> Result<(), StepError> {
    let allowed = ctx.settings.wal_retained_bytes_max;
    if retained_bytes <= allowed {
        return Ok(());
    }
    Err(StepError::Forbidden {
        sqlstate: SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        blame: Blame::Platform,
        message: format!("replication keeps {retained_bytes} bytes of WAL, {allowed} are allowed"),
        detail: Some("The other side does not follow as fast as this one is written to.".to_owned()),
        hint: Some("Move at a quieter time, or allow more retained WAL.".to_owned()),
    })
}

/// Estimates when the backlog will be gone, from its recent rate.
#[derive(Debug, Default)]
struct Eta {
    last: Option<(Instant, u64)>,
    /// Bytes per second, smoothed.
    rate: f64,
}

impl Eta {
    fn left(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        const WEIGHT: f64 = 0.2;
        if let Some((at, before)) = self.last {
            let seconds = now.duration_since(at).as_secs_f64();
            if seconds > 0.0 {
                let shrank = before as f64 - bytes as f64;
                self.rate += WEIGHT * (shrank / seconds - self.rate);
            }
        }
        self.last = Some((now, bytes));
        let seconds = bytes as f64 / self.rate;
        (self.rate > 0.0 && seconds < 1e9).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_shrinks_steadily_has_an_end_and_one_that_grows_has_none() {
        let start = Instant::now();
        let mut eta = Eta::default();
        let mut left = None;
        for second in 0..60_u64 {
            left = eta.left(1_000_000 - second * 10_000, start + Duration::from_secs(second));
        }
        let seconds = left.unwrap().as_secs_f64();
        assert!((30.0..60.0).contains(&seconds), "{seconds}");
        let mut eta = Eta::default();
        for second in 0..10_u64 {
            assert_eq!(eta.left(second * 10_000, start + Duration::from_secs(second)), None);
        }
    }
}
