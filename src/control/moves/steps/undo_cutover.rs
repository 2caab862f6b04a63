//! Undo of a committed move: the same cutover in the other direction.
//!
//! The source has been kept current since the commit, so only a few milliseconds of changes are waited for.

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::resync;
use crate::control::moves::parts::stream::Stream;
use crate::control::moves::parts::way_back;
use crate::control::moves::steps::catchup;
use crate::control::moves::steps::cutover::{abort, cut_over};
use crate::control::moves::steps::keep_reverse::check_way_back;

/// Brings the clients back to the source. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let stream = Stream::new(MoveDirection::Reverse, ctx.ends());
    if !has_committed(ctx).await? {
        check_way_back(ctx)?;
        way_back::check_now(ctx, &stream).await?;
        // Before the twins, which log in there.
        resync::run(ctx, MoveDirection::Reverse).await?;
        catchup::until_ready(ctx, stream).await?;
    }
    cut_over(ctx, MoveDirection::Reverse).await
}

/// Ends an attempt that was not committed: the clients stay on the target.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    abort(ctx, MoveDirection::Reverse).await
}

async fn has_committed(ctx: &StepContext) -> Result<bool, StepError> {
    let route = ctx.catalog.routes().get(&ctx.record().database).await?;
    Ok(route.is_some_and(|route| route.value.place.is_same_database(&ctx.record().source)))
}
