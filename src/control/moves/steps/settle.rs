//! Settle: the step after the commit. The clients are on the target; the source becomes its subscriber.
//!
//! The forward stream ends before the backward one begins, so no change is replicated in a circle. The rows
//! of both sides are compared as they were at the commit. Connections that are left on the source are closed.
//!
//! # Why
//! There is no undo of this step: from the commit on the move goes forward, and going back is a cutover of
//! its own.

use crate::system::{fence, subscriptions};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::snapshot::ExportedSnapshot;
use crate::control::moves::parts::stream::Stream;
use crate::control::moves::steps::compare::{self, Outcome};
use crate::control::settings::Verify;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): why rows were not compared after the commit.
pub const NOTE_UNVERIFIED: &str = "not_verified_because";

/// Reverses replication. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let ends = ctx.ends();
    ctx.progress.set_activity("turning replication around");
    let source = freeze_source(ctx).await?;
    Stream::new(MoveDirection::Forward, ends.clone())
        .remove()
        .await
        .map_err(StepError::doing("ending replication"))?;
    start_way_back(ctx).await?;
    close_old_connections(ctx, source.as_ref()).await?;
    verify(ctx, source).await
}

/// Opens the source's snapshot before anything is written there again. It is useful only with the target's
/// snapshot, which does not survive a restart.
async fn freeze_source(ctx: &StepContext) -> Result<Option<ExportedSnapshot>, StepError> {
    if ctx.exported.is_none() || ctx.settings.policy.verify == Verify::Off {
        return Ok(None);
    }
    let back = Stream::new(MoveDirection::Reverse, ctx.ends()).name();
    let doing = || StepError::doing("reading the source as it was");
    let session = ctx.source_session().await?;
    // In a repeated settle the source may already receive changes.
    match subscriptions::state(&session, &back).await.map_err(doing())? {
        Some(_) => Ok(None),
        None => Ok(Some(ExportedSnapshot::of(&ctx.ends().source).await.map_err(doing())?)),
    }
}

pub(in crate::control) async fn start_way_back(ctx: &StepContext) -> Result<(), StepError> {
    let source = ctx.source_session().await?;
    source.act_as_replica().await.map_err(StepError::doing("preparing the source"))?;
    let target = ctx.target_session().await?;
    Stream::new(MoveDirection::Reverse, ctx.ends()).start(&target, &source).await
}

/// The proxies close their connections themselves; the rest are terminated after a grace period.
async fn close_old_connections(
    ctx: &StepContext,
    frozen: Option<&ExportedSnapshot>,
) -> Result<(), StepError> {
    let doing = || StepError::doing("closing connections on the source");
    let source = ctx.source_session().await?;
    let deadline = tokio::time::Instant::now() + ctx.settings.close_grace;
    let ours: Vec<i32> = frozen.map(ExportedSnapshot::pid).into_iter().chain([source.pid()]).collect();
    let dbname = &ctx.record().source.dbname;
    loop {
        let left = fence::others(&source, dbname, &ours).await.map_err(doing())?;
        if left.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let ended = fence::terminate_others(&source, dbname, &[], &ours).await.map_err(doing())?;
            tracing::info!(ended = ended.len(), "closed connections that were left on the source");
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Compares every row as of the commit; if those snapshots are lost, in the current state. A difference is an
/// alarm: see [`objections`](crate::control::moves::objections).
async fn verify(ctx: &mut StepContext, source: Option<ExportedSnapshot>) -> Result<(), StepError> {
    if ctx.facts().tables_verified.is_some() || ctx.settings.policy.verify == Verify::Off {
        return Ok(());
    }
    ctx.progress.set_activity("comparing the rows of both sides");
    let views = compare::views_before(ctx).await?;
    let compared = match (source, ctx.exported.take()) {
        (Some(source), Some(target)) => as_they_were(ctx, &source, &target).await,
        _ => as_they_are(ctx).await,
    };
    match compared {
        Ok(outcome) => {
            // Clients may have refreshed views since: the result from before the cutover stays.
            ctx.catalog.moves().put_compared_tables(ctx.id(), &outcome.tables(&views)).await?;
            conclude(ctx, &outcome).await
        }
        Err(StepError::Cancelled) => note_unverified(ctx, "it was not waited for".to_owned()).await,
        Err(error) => {
            let detail = crate::error::Explain::detail(&error).unwrap_or_default();
            note_unverified(ctx, format!("{error}: {detail}")).await
        }
    }
}

/// Compares the snapshots of the commit.
async fn as_they_were(
    ctx: &StepContext,
    source: &ExportedSnapshot,
    target: &ExportedSnapshot,
) -> Result<Outcome, StepError> {
    let compare = ExportedSnapshot::compare(source, target, ctx.settings.copy_workers);
    let (digests, differences) = ctx.unless_cancelled(compare).await?;
    Ok(Outcome::of_digests(ctx.now(), &digests, &differences))
}

/// The snapshots of the commit are lost with the process that held them. Rows that were lost are still
/// missing, so both sides are compared along the way back while the clients work.
async fn as_they_are(ctx: &StepContext) -> Result<Outcome, StepError> {
    let back = Stream::new(MoveDirection::Reverse, ctx.ends());
    compare::compare(ctx, &back, &std::collections::HashMap::new()).await
}

/// Records the outcome.
async fn conclude(ctx: &mut StepContext, outcome: &Outcome) -> Result<(), StepError> {
    if !outcome.differences.is_empty() {
        tracing::error!(id = ctx.id().0, differences = ?outcome.differences, "the two copies of a moved database differ");
    }
    let undecided = outcome.differences.is_empty() && !outcome.undecided.is_empty();
    let verdict = (outcome.compared.equal, outcome.compared.tables);
    let differences: Vec<String> =
        outcome.differences.iter().take(compare::DIFFERENCES_MAX).cloned().collect();
    ctx.remember(|facts| {
        facts.tables_verified = (!undecided).then_some(verdict);
        facts.differences.clone_from(&differences);
    })
    .await?;
    match undecided {
        true => note_unverified(ctx, outcome.undecided.join("; ")).await,
        false => Ok(()),
    }
}

async fn note_unverified(ctx: &mut StepContext, text: String) -> Result<(), StepError> {
    tracing::warn!(id = ctx.id().0, text, "the rows of a move are not compared");
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_UNVERIFIED.to_owned(), text.clone());
    })
    .await
}
