//! Materialized views: filled where the clients go, from the rows that are there.
//!
//! # Why
//! Replication does not carry them. One that was filled with the copy shows what the base tables held then, and clients
//! that saw newer rows on the side that they left would see older ones after the commit. So they are filled again when
//! the rows have arrived, right before each cutover, while nobody waits for it.

use crate::system::{Session, SystemError, TableName};

use super::ends::End;
use super::error::StepError;
use super::step::StepContext;

/// Fills the views of the side that the clients go to; returns whether there are any.
pub(super) async fn catch_up(ctx: &StepContext, from: &End, to: &End) -> Result<bool, StepError> {
    let doing = || StepError::doing("refreshing materialized views");
    let (filled, to_fill) = (from.session().await.map_err(doing())?, to.session().await.map_err(doing())?);
    to_fill.act_as_replica().await.map_err(doing())?;
    ctx.progress.say("refreshing materialized views");
    let refresh = async { refresh(&filled, &to_fill).await.map_err(doing()) };
    Ok(ctx.unless_cancelled(refresh).await? > 0)
}

/// Fills the materialized views of one side that are filled on the other; returns how many. One that reads another waits for it: what
/// could not be filled in a round is tried in the next, as long as a round fills any.
pub(super) async fn refresh(filled: &Session, to_fill: &Session) -> Result<usize, SystemError> {
    let mut waiting = filled_views(filled).await?;
    let count = waiting.len();
    // Or one that reads another could be filled from what that showed before.
    for view in &waiting {
        let sql = format!("REFRESH MATERIALIZED VIEW {} WITH NO DATA", view.sql());
        to_fill.batch("emptying a materialized view", &sql).await?;
    }
    loop {
        let mut not_yet = Vec::new();
        let mut last = None;
        let before = waiting.len();
        for view in waiting {
            let sql = format!("REFRESH MATERIALIZED VIEW {}", view.sql());
            match to_fill.batch("refreshing a materialized view", &sql).await {
                Ok(()) => {}
                Err(error) if error.is_refused_with("55000") => {
                    last = Some(error);
                    not_yet.push(view);
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            None => return Ok(count),
            Some(error) if not_yet.len() == before => return Err(error),
            Some(_) => waiting = not_yet,
        }
    }
}

async fn filled_views(session: &Session) -> Result<Vec<TableName>, SystemError> {
    const LISTING: &str = "listing materialized views";
    let sql = "SELECT schemaname::text, matviewname::text FROM pg_matviews WHERE ispopulated ORDER BY 1, 2";
    let rows = session.rows(LISTING, sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let schema: String = session.column(LISTING, row, 0)?;
            Ok(TableName::new(schema, session.column::<String>(LISTING, row, 1)?))
        })
        .collect()
}
