//! Checks that all objects of the way back to the source still exist, and are those that the move created.
//!
//! # Why
//! From PostgreSQL 18 on a walsender ignores a dropped publication and goes on: the slot advances, nothing
//! fails, and changes no longer reach the source. So the objects themselves are checked by their OIDs: one
//! that was dropped and created again has published nothing in between.

use crate::error::{Blame, SqlState};
use crate::system::{Session, SystemError, publications, slots, subscriptions};

use crate::control::moves::context::StepContext;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::stream::Stream;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): the OIDs of the publication of the way back and of its
/// tables.
const NOTE_PUBLICATION: &str = "way_back_publication";

/// Fails permanently if an object is gone or changed, and names it. `publisher` and `subscriber` are sessions
/// in the database on either side of the stream. The first call records the publication, which must not be
/// replaced later.
pub(in crate::control) async fn check(
    ctx: &mut StepContext,
    stream: &Stream,
    publisher: &Session,
    subscriber: &Session,
) -> Result<(), StepError> {
    let publication = whole(ctx, stream, publisher, subscriber).await?;
    remember(ctx, publication).await
}

/// The OIDs of the publication, if nothing is gone or changed.
async fn whole(
    ctx: &StepContext,
    stream: &Stream,
    publisher: &Session,
    subscriber: &Session,
) -> Result<String, StepError> {
    let lost = look(ctx, stream, publisher, subscriber).await;
    match lost.map_err(StepError::doing("looking at the way back"))? {
        Look::Whole(publication) => Ok(publication),
        Look::Lost(what) => Err(StepError::Forbidden {
            sqlstate: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            blame: Blame::Platform,
            message: format!("the way back is lost: {what}"),
            detail: Some("The source lacks what was written since, so the move cannot be undone.".to_owned()),
            hint: Some(format!("Run FINISH MOVE {}, and move the database back by another move.", ctx.id())),
        }),
    }
}

enum Look {
    /// With the OIDs of the publication.
    Whole(String),
    Lost(String),
}

async fn look(
    ctx: &StepContext,
    stream: &Stream,
    publisher: &Session,
    subscriber: &Session,
) -> Result<Look, SystemError> {
    let name = stream.name();
    let (here, there) = (&stream.subscriber.system.name, &stream.publisher.system.name);
    let lost = |what: String| Ok(Look::Lost(what));
    match subscriptions::aim(subscriber, &name).await? {
        None => return lost(format!("subscription {name} on system {here} was dropped")),
        Some(aim) if !aim.is_at(&name) => {
            return lost(format!("subscription {name} on system {here} was changed"));
        }
        Some(_) => {}
    }
    match slots::state(publisher, &name).await? {
        None => return lost(format!("slot {name} on system {there} was dropped")),
        Some(slot) if slot.is_lost() => {
            return lost(format!("system {there} has invalidated slot {name} and removed changes it needed"));
        }
        Some(_) => {}
    }
    let Some(publication) = publications::state(publisher, &name).await? else {
        return lost(format!("publication {name} on system {there} was dropped"));
    };
    if !publication.tells_everything {
        return lost(format!(
            "publication {name} on system {there} was altered: it does not tell every change"
        ));
    }
    match ctx.facts().notes.get(NOTE_PUBLICATION) {
        Some(known) if *known != publication.identity => lost(format!(
            "publication {name} on system {there} was altered: its tables are not those of the move"
        )),
        _ => Ok(Look::Whole(publication.identity)),
    }
}

async fn remember(ctx: &mut StepContext, publication: String) -> Result<(), StepError> {
    if ctx.facts().notes.contains_key(NOTE_PUBLICATION) {
        return Ok(());
    }
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_PUBLICATION.to_owned(), publication.clone());
    })
    .await
}

/// The same with new sessions and without recording anything: a missing object may be about to be created.
pub(in crate::control) async fn check_now(ctx: &StepContext, stream: &Stream) -> Result<(), StepError> {
    let doing = || StepError::doing("looking at the way back");
    let publisher = stream.publisher.session().await.map_err(doing())?;
    let subscriber = stream.subscriber.session().await.map_err(doing())?;
    whole(ctx, stream, &publisher, &subscriber).await.map(drop)
}
