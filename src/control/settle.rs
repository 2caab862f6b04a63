//! Settle: what follows the commit. The clients are on the target; the source becomes its follower.
//!
//! The forward stream ends before the backward one begins, so nothing runs in a circle. The rows of both sides are
//! compared as they were at the commit. Connections that are left on the source are closed.
//!
//! # Why
//! There is no undo of this step: from the commit on the move goes forward, and going back is a cutover of its own.

use crate::model::{MoveStep, MoveWish};
use crate::system::{fence, subscriptions};

use super::error::StepError;
use super::frozen::Frozen;
use super::settings::Verify;
use super::step::StepContext;
use super::stream::Stream;
use super::way::Way;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): why the mover itself asked for the undo.
pub const NOTE_WENT_BACK: &str = "went_back_because";
/// Why rows were not compared.
pub const NOTE_UNVERIFIED: &str = "not_verified_because";

/// Turns replication around. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let ends = ctx.ends();
    ctx.progress.say("turning replication around");
    let source = freeze_source(ctx).await?;
    Stream::new(Way::Forth, ends.clone()).remove().await.map_err(StepError::doing("ending replication"))?;
    start_way_back(ctx).await?;
    close_old_connections(ctx, source.as_ref()).await?;
    verify(ctx, source).await?;
    ctx.progress.say("kept current for an undo");
    Ok(())
}

/// Before anything is written there again. Only of use with the target's snapshot, which does not survive a restart.
async fn freeze_source(ctx: &StepContext) -> Result<Option<Frozen>, StepError> {
    if ctx.frozen.is_none() || ctx.settings.verify == Verify::Off {
        return Ok(None);
    }
    let back = Stream::new(Way::Back, ctx.ends()).name();
    let doing = || StepError::doing("reading the source as it was");
    let session = ctx.source_session().await?;
    // A settle that is repeated finds the source changing already.
    match subscriptions::state(&session, &back).await.map_err(doing())? {
        Some(_) => Ok(None),
        None => Ok(Some(Frozen::of(&ctx.ends().source).await.map_err(doing())?)),
    }
}

pub(super) async fn start_way_back(ctx: &StepContext) -> Result<(), StepError> {
    let source = ctx.source_session().await?;
    source.act_as_replica().await.map_err(StepError::doing("preparing the source"))?;
    let target = ctx.target_session().await?;
    Stream::new(Way::Back, ctx.ends()).start(&target, &source).await
}

/// The proxies close their connections themselves; whoever is left after a while is ended.
async fn close_old_connections(ctx: &StepContext, frozen: Option<&Frozen>) -> Result<(), StepError> {
    let doing = || StepError::doing("closing connections on the source");
    let source = ctx.source_session().await?;
    let deadline = tokio::time::Instant::now() + ctx.settings.close_grace;
    let ours: Vec<i32> = frozen.map(Frozen::pid).into_iter().chain([source.pid()]).collect();
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

/// Compares every row as it was at the commit. Where the sides differ, the mover asks for the undo itself.
async fn verify(ctx: &mut StepContext, source: Option<Frozen>) -> Result<(), StepError> {
    if ctx.facts().tables_verified.is_some() || ctx.settings.verify == Verify::Off {
        return Ok(());
    }
    let (Some(source), Some(target)) = (source, ctx.frozen.take()) else {
        let reason = "Freehold was restarted right after the commit";
        return note(ctx, NOTE_UNVERIFIED, reason.to_owned()).await;
    };
    ctx.progress.say("comparing the rows of both sides");
    let compare = Frozen::compare(&source, &target, ctx.settings.copy_workers);
    match ctx.unless_cancelled(compare).await {
        Ok((tables, differences)) if differences.is_empty() => {
            ctx.remember(|facts| facts.tables_verified = Some((tables, tables))).await
        }
        Ok((tables, differences)) => {
            let equal = tables.saturating_sub(u32::try_from(differences.len()).unwrap_or(u32::MAX));
            ctx.remember(|facts| facts.tables_verified = Some((equal, tables))).await?;
            let found = differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            go_back(ctx, format!("source and target differ: {found}")).await
        }
        Err(StepError::Cancelled) => note(ctx, NOTE_UNVERIFIED, "it was not waited for".to_owned()).await,
        Err(error) => {
            let detail = crate::error::Explain::detail(&error).unwrap_or_default();
            note(ctx, NOTE_UNVERIFIED, format!("{error}: {detail}")).await
        }
    }
}

async fn note(ctx: &mut StepContext, name: &str, text: String) -> Result<(), StepError> {
    tracing::warn!(note = name, text, "about a move");
    ctx.remember(|facts| {
        facts.notes.insert(name.to_owned(), text.clone());
    })
    .await
}

/// The source holds what every client was told; the target does not.
async fn go_back(ctx: &mut StepContext, because: String) -> Result<(), StepError> {
    tracing::error!(because, step = MoveStep::Settle.as_str(), "the database is brought back");
    ctx.journal
        .write(|record| {
            record.facts.notes.insert(NOTE_WENT_BACK.to_owned(), because.clone());
            record.wish = Some(MoveWish::Undo);
        })
        .await?;
    Ok(())
}
