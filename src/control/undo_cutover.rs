//! Undo of a committed move: the same cutover in the other direction.
//!
//! The source has been kept current since the commit, so only a few milliseconds of changes are waited for.

use super::catchup;
use super::cutover::{abort, cross};
use super::error::StepError;
use super::kept::check_way_back;
use super::resync;
use super::step::StepContext;
use super::stream::Stream;
use super::way::Way;
use super::way_back;

/// Brings the clients back to the source. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let stream = Stream::new(Way::Back, ctx.ends());
    if !has_committed(ctx).await? {
        check_way_back(ctx)?;
        way_back::check_now(ctx, &stream).await?;
        // Before the twins, which log in there.
        resync::run(ctx, Way::Back).await?;
        catchup::until_ready(ctx, stream).await?;
    }
    cross(ctx, Way::Back).await
}

/// Ends an attempt that was not committed: the clients stay on the target.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    abort(ctx, Way::Back).await
}

async fn has_committed(ctx: &StepContext) -> Result<bool, StepError> {
    let route = ctx.catalog.route(&ctx.record().database).await?;
    Ok(route.is_some_and(|route| route.value.place.is_same_database(&ctx.record().source)))
}
