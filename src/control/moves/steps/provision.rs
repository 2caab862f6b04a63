//! Provision: creates everything that must exist before the first row is copied.
//!
//! ```text
//!   target: roles -> empty database, shut -> helper schema
//!   source: helper schema -> guard -> publication
//!   target: lets the role that writes rows log in
//!   both:   each lets the other one connect, as replication will
//! ```
//!
//! `copy` creates the slot, not this step: its snapshot lives as long as one connection does, so a copy that
//! is interrupted needs a new slot anyway.
//!
//! # Why
//! The guard comes before the publication, so that the list of tables cannot grow stale; a table of a
//! transaction that began before the guard and commits after the list is found by `copy`, which compares the
//! list with its snapshot.
//!
//! The way back is first used after the commit; whether it can connect is checked before a row is copied.

use std::time::Duration;

use crate::model::MoveStep;
use crate::model::StepEvent;
use crate::system::guard::Guard;
use crate::system::roles::{Membership, Role};
use crate::system::{Session, databases, facts, fence, guard, marker, publications, recall, roles};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::endpoint::Endpoints;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::applier;
use crate::control::moves::parts::meaning;
use crate::control::moves::parts::reader;
use crate::control::moves::parts::resync;
use crate::control::moves::parts::scope::{needed_role_names, opened_access, published_tables};
use crate::control::moves::parts::stream::Stream;
use crate::control::moves::parts::sweep;

/// Attempts to get a lock that another session holds, each as long as `lock_timeout` allows.
const LOCK_ATTEMPTS_MAX: u32 = 10;
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(200);
/// In [`MoveFacts::notes`](crate::model::MoveFacts): roles that the move created and kept when it was undone.
pub const NOTE_ROLES_THAT_STAY: &str = "roles_that_stay";

/// Creates all of it. Safe to repeat.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    let ends = ctx.ends();
    ctx.progress.set_activity("preparing roles");
    let source = ctx.source_session().await?;
    let target = ends.target.admin_session().await.map_err(StepError::doing("connecting to the target"))?;
    let needed = needed_roles(ctx, &source, &ends).await?;
    create_roles(ctx, &source, &target, &needed).await?;
    ctx.check()?;

    ctx.progress.set_activity("preparing the database");
    create_database(ctx, &ends, &source, &target).await?;
    ctx.check()?;

    ctx.progress.set_activity("preparing the source");
    prepare_source(ctx, &ends, &source).await?;
    ctx.check()?;

    ctx.progress.set_activity("trying whether the systems reach each other");
    probe_replication(ctx, &ends, &source).await
}

async fn probe_replication(ctx: &StepContext, ends: &Endpoints, source: &Session) -> Result<(), StepError> {
    let target = ctx.target_session().await?;
    target.act_as_replica().await.map_err(StepError::doing("preparing the target"))?;
    applier::probe(ends, &target).await?;
    reader::probe(&ends.source).await?;
    Stream::new(MoveDirection::Forward, ends.clone()).probe(source, &target).await?;
    Stream::new(MoveDirection::Reverse, ends.clone()).probe(&target, source).await
}

/// Removes all of it from both systems. Safe to repeat, and after a `run` that never began. A system that
/// does not answer does not prevent cleaning the other one.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    let ends = ctx.ends();
    // If nothing was begun, objects with the move's names are not the move's to remove.
    let began = |entry: &crate::model::movement::StepEntry| {
        entry.step == MoveStep::Provision && entry.event == StepEvent::Started
    };
    if !ctx.record().log.iter().any(began) {
        return Ok(());
    }
    ctx.progress.set_activity("removing what the move made");
    let target = sweep::made_database(ctx).await;
    let source = sweep::objects(&ends.source, ends.names()).await;
    source.map_err(StepError::doing("cleaning the source"))?;
    release_roles(ctx, &ends, &target?).await
}

/// Roles that the move created, and that something else uses by now: records them, and removes their mark.
pub(in crate::control) async fn release_roles(
    ctx: &mut StepContext,
    ends: &Endpoints,
    stayed: &[String],
) -> Result<(), StepError> {
    if stayed.is_empty() {
        return Ok(());
    }
    tracing::warn!(roles = stayed.join(", "), "roles that the move created stay: something uses them");
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_ROLES_THAT_STAY.to_owned(), stayed.join(", "));
    })
    .await?;
    sweep::release_roles(ends, stayed).await.map_err(StepError::doing("releasing roles on the target"))
}

/// The source's roles and memberships that the database needs.
struct Needed {
    roles: Vec<Role>,
    memberships: Vec<Membership>,
}

async fn needed_roles(ctx: &StepContext, source: &Session, ends: &Endpoints) -> Result<Needed, StepError> {
    let doing = || StepError::doing("reading the roles on the source");
    let names = needed_role_names(ctx, source, &ends.source).await?;
    let roles = roles::read(source, &names).await.map_err(doing())?;
    let memberships = roles::memberships(source, &names).await.map_err(doing())?;
    Ok(Needed { roles, memberships })
}

/// Creates the roles that the target lacks. Leaves an existing role as it is: the preflight has compared it.
async fn create_roles(
    ctx: &mut StepContext,
    source: &Session,
    target: &Session,
    needed: &Needed,
) -> Result<(), StepError> {
    let doing = || StepError::doing("creating roles on the target");
    let names: Vec<String> = needed.roles.iter().map(|role| role.name.clone()).collect();
    let there = roles::read(target, &names).await.map_err(doing())?;
    let mark = ctx.ends().names().role_mark();
    let is_there = |role: &Role| there.iter().any(|other| other.name == role.name);
    let missing: Vec<&Role> = needed.roles.iter().filter(|role| !is_there(role)).collect();
    let ours: Vec<String> = there
        .iter()
        // The record must have it, too: any role that created one could write the mark.
        .filter(|role| {
            role.comment.as_deref() == Some(&mark) && ctx.facts().roles_created.contains(&role.name)
        })
        .chain(missing.iter().copied())
        .map(|role| role.name.clone())
        .collect();
    // A membership is created only if the move created one of its two roles: it is removed with that role.
    let concerned = |pair: &&Membership| ours.contains(&pair.member) || ours.contains(&pair.role);
    let granted: Vec<&Membership> = needed.memberships.iter().filter(concerned).collect();
    let pairs: Vec<(String, String)> =
        granted.iter().map(|pair| (pair.role.clone(), pair.member.clone())).collect();
    ctx.remember(|facts| {
        facts.roles_created.clone_from(&ours);
        facts.roles_needed.clone_from(&names);
        facts.memberships_granted.clone_from(&pairs);
    })
    .await?;
    for role in missing {
        match roles::create(target, role, &mark).await {
            Ok(()) => {}
            Err(error) if error.is_refused_with("42710") || error.is_refused_with("23505") => {
                made_meanwhile(ctx, target, role).await?;
            }
            Err(error) => return Err(doing()(error)),
        }
    }
    for membership in granted {
        roles::grant_membership(target, membership).await.map_err(doing())?;
    }
    resync::note_seen(ctx, MoveDirection::Forward, (source, target), &names).await
}

/// Another Freehold has created the role on the target since the preflight. It is not this move's, and can be
/// used if it is the same.
async fn made_meanwhile(ctx: &mut StepContext, target: &Session, wanted: &Role) -> Result<(), StepError> {
    let name = &wanted.name;
    ctx.remember(|facts| facts.roles_created.retain(|role| role != name)).await?;
    let there = roles::read(target, std::slice::from_ref(name)).await;
    let there = there.map_err(StepError::doing("reading a role on the target"))?;
    let same = |role: &Role| role.verifier == wanted.verifier && wanted.differing_attributes(role).is_empty();
    match there.first() {
        Some(role) if same(role) => Ok(()),
        _ => Err(StepError::Forbidden {
            sqlstate: crate::error::SqlState::DUPLICATE_OBJECT,
            blame: crate::error::Blame::Platform,
            message: format!("role \"{name}\" was created on the target a moment ago, and is another one"),
            detail: Some(
                "Its password or its attributes are not those that it has on the source.".to_owned(),
            ),
            hint: Some("Run PLAN MOVE, which says what differs.".to_owned()),
        }),
    }
}

/// Creates the database, shut, with its settings; records which roles may connect once it opens.
pub(in crate::control) async fn create_database(
    ctx: &mut StepContext,
    ends: &Endpoints,
    source: &Session,
    target: &Session,
) -> Result<(), StepError> {
    let doing = || StepError::doing("creating the database on the target");
    let dbname = &ends.target.dbname;
    let like = facts::of_database(source, &ends.source.dbname).await.map_err(doing())?;
    let like = like.ok_or_else(|| no_database(ends))?;
    databases::create(target, ends.names(), dbname, &like).await.map_err(doing())?;
    // Before a row is written: generated values are then computed as on the source.
    let names = needed_role_names(ctx, source, &ends.source).await?;
    meaning::bring(ctx, MoveDirection::Forward, (source, target), &names).await?;
    databases::apply_settings(target, dbname, &[], like.comment.as_deref()).await.map_err(doing())?;

    let access = fence::read(source, &ends.source.dbname).await.map_err(doing())?;
    let access = match ctx.facts().saved_fence.get(&ends.source.system.name) {
        // An aborted cutover has shut the source: what it saved are the real privileges.
        Some(saved) if access.is_shut() => {
            fence::as_saved(source, &ends.source.dbname, saved).await.map_err(doing())?
        }
        _ => access,
    };
    let opened = opened_access(target, &ends.source, &ends.target, &access).await.map_err(doing())?;
    let system = ends.target.system.name.clone();
    ctx.remember(|facts| {
        facts.saved_fence.insert(system.clone(), opened.clone());
    })
    .await?;

    let session = ends.target.session().await.map_err(doing())?;
    marker::create_helper(&session, ends.names()).await.map_err(doing())?;
    recall::install(&session, ends.target.system.version_num).await.map_err(doing())
}

fn no_database(ends: &Endpoints) -> StepError {
    StepError::Forbidden {
        sqlstate: crate::error::SqlState::INVALID_CATALOG_NAME,
        blame: crate::error::Blame::Platform,
        message: format!("there is no database \"{}\" on the source", ends.source.dbname),
        detail: None,
        hint: None,
    }
}

/// Helper schema, guard, publication.
async fn prepare_source(ctx: &StepContext, ends: &Endpoints, source: &Session) -> Result<(), StepError> {
    let doing = || StepError::doing("preparing the source");
    source.act_as_replica().await.map_err(doing())?;
    marker::create_helper(source, ends.names()).await.map_err(doing())?;
    recall::install(source, ends.source.system.version_num).await.map_err(doing())?;
    let remedy = format!("CANCEL MOVE {}", ends.move_id());
    let guard = Guard {
        id: ends.move_id(),
        database: ctx.record().name.as_str(),
        platform_role: ends.source.system.admin_role.as_str(),
        remedy: &remedy,
    };
    guard::install(source, &guard).await.map_err(doing())?;
    publish(ctx, ends, source).await
}

/// Makes the publication hold exactly the tables that exist now.
pub(in crate::control) async fn publish(
    ctx: &StepContext,
    ends: &Endpoints,
    source: &Session,
) -> Result<(), StepError> {
    let doing = || StepError::doing("creating the publication on the source");
    let name = ends.names().forward();
    let lock_timeout = format!("SET lock_timeout = {}", ctx.settings.lock_timeout.as_millis());
    source.batch("bounding lock waits", &lock_timeout).await.map_err(doing())?;
    for attempt in 1.. {
        ctx.check()?;
        let wanted = published_tables(source).await.map_err(doing())?;
        if publications::tables(source, &name).await.map_err(doing())?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let made = async {
            publications::drop(source, &name).await?;
            publications::create(source, &name, &wanted).await
        };
        match made.await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_refused_with("55P03") && attempt < LOCK_ATTEMPTS_MAX => {
                ctx.progress.set_activity("waiting for a VACUUM or a schema change on the source");
                tokio::time::sleep(LOCK_RETRY_AFTER).await;
            }
            // A table was dropped between the list and the publication.
            Err(error) if error.is_refused_with("42P01") && attempt < LOCK_ATTEMPTS_MAX => {}
            Err(error) => return Err(StepError::failed("creating the publication on the source", error)),
        }
    }
    Ok(())
}
