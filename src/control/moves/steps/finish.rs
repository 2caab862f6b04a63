//! Finish: removes everything that the move made, on both systems.
//!
//! After FINISH MOVE the old copy is closed under another name, or dropped. After an undo the target's
//! database is dropped, with the roles that the move created.
//!
//! # Why
//! A database is identified by its OID, recorded before anything is done to it: between two attempts its name
//! may have been given to another database.

use std::time::Duration;

use crate::error::{Blame, SqlState};
use crate::model::{MoveRecord, OldCopy, Pooling};
use crate::system::{Session, databases, fence};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;
use crate::control::moves::log::went_back;
use crate::control::moves::parts::orders::Orders;
use crate::control::moves::parts::snapshot::ExportedSnapshot;
use crate::control::moves::parts::sweep;
use crate::control::moves::parts::verify::Difference;
use crate::control::moves::steps::compare::{self, Outcome};
use crate::control::moves::steps::provision::release_roles;

/// Time that clients back on the source have to ask for values that they drew from sequences before.
const TIME_TO_RECALL: Duration = Duration::from_secs(3);
/// In [`MoveFacts::notes`](crate::model::MoveFacts): the OID of the copy that is closed or dropped.
const NOTE_OLD_COPY: &str = "old_copy_oid";
/// The name of the closed copy.
const NOTE_CLOSED_NAME: &str = "old_copy_name";

/// Removes the rest of the move. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let ends = ctx.ends();
    ctx.progress.set_activity("removing what the move made");
    match went_back(ctx.record()) {
        true => after_undo(ctx, &ends).await,
        false => after_move(ctx, &ends).await,
    }
}

async fn after_move(ctx: &mut StepContext, ends: &Endpoints) -> Result<(), StepError> {
    // Subscribers before publishers: a slot in use is not dropped. The source subscribes to the target by
    // now. The target is cleaned even if the source is gone.
    let source = sweep::objects(&ends.source, ends.names()).await;
    let target = sweep::objects(&ends.target, ends.names()).await;
    source.map_err(StepError::doing("cleaning the source"))?;
    target.map_err(StepError::doing("cleaning the target"))?;
    sweep::marks(ends).await.map_err(StepError::doing("cleaning the target"))?;
    let doing = || StepError::doing("putting the old copy away");
    let admin = ends.source.admin_session().await.map_err(doing())?;
    let Some(oid) = old_copy(ctx, &admin, &ends.source).await? else { return Ok(()) };
    match ctx.facts().old_copy.unwrap_or(OldCopy::Closed) {
        OldCopy::Closed => {
            let name = name_of_closed(ctx, &admin, ends, oid).await?;
            databases::close(&admin, oid, &name).await.map_err(doing())?;
            give_rights_back(ctx, &admin, ends, &name).await;
            Ok(())
        }
        OldCopy::Dropped => databases::drop_by_oid(&admin, oid).await.map_err(doing()),
    }
}

/// The closed copy accepts no connections, whatever privileges exist. So the privileges that the fence took
/// are restored: one statement then opens it again as it was. A failure here does not stop the end of the
/// move.
async fn give_rights_back(ctx: &StepContext, admin: &Session, ends: &Endpoints, name: &str) {
    let Some(saved) = ctx.facts().saved_fence.get(&ends.source.system.name) else { return };
    if let Err(error) = fence::restore(admin, name, saved).await {
        tracing::warn!(%error, database = name, "the closed copy has not its rights back");
    }
}

/// The name of the closed copy, recorded before the rename: another Freehold may have closed a copy of that
/// name on the same system.
async fn name_of_closed(
    ctx: &mut StepContext,
    admin: &Session,
    ends: &Endpoints,
    oid: u32,
) -> Result<String, StepError> {
    if let Some(known) = ctx.facts().notes.get(NOTE_CLOSED_NAME) {
        return Ok(known.clone());
    }
    let (dbname, id) = (&ends.source.dbname, ctx.id());
    let short = closed_name(dbname, &id.to_string());
    let doing = || StepError::doing("looking for a name for the old copy");
    let owner = databases::oid(admin, &short).await.map_err(doing())?;
    let name = match owner.is_none_or(|owner| owner == oid) {
        true => short,
        false => closed_name(dbname, &ends.names().label().replace('/', "_")),
    };
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_CLOSED_NAME.to_owned(), name.clone());
    })
    .await?;
    Ok(name)
}

/// The OID of the old copy, recorded once. `None` if it is gone already.
async fn old_copy(ctx: &mut StepContext, admin: &Session, end: &Endpoint) -> Result<Option<u32>, StepError> {
    let doing = || StepError::doing("looking for the old copy");
    if let Some(known) = ctx.facts().notes.get(NOTE_OLD_COPY) {
        return Ok(known.parse().ok());
    }
    let Some(oid) = databases::oid(admin, &end.dbname).await.map_err(doing())? else { return Ok(None) };
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_OLD_COPY.to_owned(), oid.to_string());
    })
    .await?;
    Ok(Some(oid))
}

/// The name under which a finished move closed the old copy.
pub fn closed_as(record: &MoveRecord) -> String {
    let noted = record.facts.notes.get(NOTE_CLOSED_NAME).cloned();
    noted.unwrap_or_else(|| closed_name(&record.source.dbname, &record.id.to_string()))
}

/// `shop__moved_3`; a long name is cut, because PostgreSQL would truncate its end.
fn closed_name(dbname: &str, label: &str) -> String {
    let suffix = format!("__moved_{label}");
    let mut room = crate::model::ids::NAME_BYTES_MAX - suffix.len();
    while !dbname.is_char_boundary(room.min(dbname.len())) {
        room -= 1;
    }
    format!("{}{suffix}", &dbname[..room.min(dbname.len())])
}

async fn after_undo(ctx: &mut StepContext, ends: &Endpoints) -> Result<(), StepError> {
    leave_time_to_recall(ctx).await?;
    // The clients are on the source: nothing on the target delays cleaning it.
    let source = sweep::objects(&ends.source, ends.names()).await;
    verify_return(ctx, ends).await?;
    let stayed = sweep::made_database(ctx).await;
    source.map_err(StepError::doing("cleaning the source"))?;
    release_roles(ctx, ends, &stayed?).await
}

/// A session that drew a value from a sequence just before the undo may ask for it now, and the function that
/// restores it is dropped with the helper schema. In transaction pooling nothing is restored.
async fn leave_time_to_recall(ctx: &StepContext) -> Result<(), StepError> {
    let orders = Orders::open(ctx.catalog.clone(), &ctx.record().database, ctx.id()).await?;
    if orders.route().terms.pooling == Pooling::Session && orders.standing().sessions > 0 {
        tokio::time::sleep(TIME_TO_RECALL).await;
    }
    Ok(())
}

/// The target's copy is dropped only if the source has all of it. Without a snapshot of the return (the
/// process was restarted) there is nothing to compare with; and if the operator accepted that the copies
/// differ, they are not compared.
async fn verify_return(ctx: &mut StepContext, ends: &Endpoints) -> Result<(), StepError> {
    let is_accepted = ctx.facts().accepted.is_some();
    let Some(source) = ctx.exported.take().filter(|_| !is_accepted) else { return Ok(()) };
    let differences = match differences(ctx, &source, ends).await {
        Ok(differences) => differences,
        Err(error) => {
            // The comparison has proved nothing: the next attempt compares again.
            ctx.exported = Some(source);
            return Err(error);
        }
    };
    if differences.is_empty() {
        return Ok(());
    }
    let found: Vec<String> =
        differences.iter().take(compare::DIFFERENCES_MAX).map(ToString::to_string).collect();
    ctx.remember(|facts| facts.differences.clone_from(&found)).await?;
    Err(StepError::Forbidden {
        sqlstate: SqlState::SHAPE_CHANGED,
        blame: Blame::Platform,
        message: "the source does not hold all that the target held".to_owned(),
        detail: Some(found.join("\n")),
        hint: Some(format!(
            "Both copies are kept. Compare them, then run FINISH MOVE {} ACCEPT DIFFERENCES.",
            ctx.id()
        )),
    })
}

async fn differences(
    ctx: &StepContext,
    source: &ExportedSnapshot,
    ends: &Endpoints,
) -> Result<Vec<Difference>, StepError> {
    let target =
        ExportedSnapshot::of(&ends.target).await.map_err(StepError::doing("reading the target as it was"))?;
    ctx.progress.set_activity("comparing the rows of both sides");
    let (digests, differences) =
        ExportedSnapshot::compare(source, &target, ctx.settings.copy_workers).await?;
    let views = compare::views_before(ctx).await?;
    let tables = Outcome::of_digests(ctx.now(), &digests, &differences).tables(&views);
    ctx.catalog.moves().put_compared_tables(ctx.id(), &tables).await?;
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_copys_name_fits_whatever_the_database_is_called() {
        assert_eq!(closed_name("shop", "3"), "shop__moved_3");
        let long = closed_name(&"ü".repeat(31), "1234");
        assert!(long.len() <= 63 && long.ends_with("__moved_1234"), "{long}");
    }
}
