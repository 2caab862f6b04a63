//! Copy: the schema and every row as they were at one position of the log, from which replication goes on.
//!
//! ```text
//!   slot with exported snapshot -> schema before data -> rows, in parallel -> indexes, constraints, triggers
//!     -> sequences -> materialized views -> ANALYZE
//! ```
//!
//! # Why
//! Everything reads in one snapshot, the slot's own, so that the copy and the changes that follow it meet
//! without a gap and without an overlap. The snapshot lives as long as the connection that made it: a copy
//! that is interrupted begins again, with a new slot and an empty database. A partial copy is never used.

use std::time::{Duration, Instant};

use crate::error::{Blame, SqlState};
use crate::model::MoveStep;
use crate::model::StepEvent;
use crate::system::export::{self, ExportedSlot, NewSlot};
use crate::system::quote_ident;
use crate::system::type_oids::TypeOidComparison;
use crate::system::{
    Session, SystemError, Table, TableName, databases, ownership, publications, sequences, slots, tables,
};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::Endpoints;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::applier;
use crate::control::moves::parts::copy_rows;
use crate::control::moves::parts::copy_schema::{Known, SchemaDump};
use crate::control::moves::parts::matviews;
use crate::control::moves::parts::pg_tools::Tools;
use crate::control::moves::parts::reader;
use crate::control::moves::parts::reader::Reader;
use crate::control::moves::parts::restore::Restore;
use crate::control::moves::parts::scope::published_tables;
use crate::control::moves::parts::sweep;
use crate::control::moves::parts::throttle::{self, Governor, Throttle};
use crate::control::moves::parts::truncated::{self, NOTE_TRUNCATED};
use crate::control::moves::parts::verify;
use crate::control::moves::steps::provision;

/// Attempts to create a slot with a snapshot of exactly the published tables.
const SLOT_ATTEMPTS_MAX: u32 = 5;
/// One attempt to create the slot waits this long for each running transaction.
const SLOT_LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const WAL_LOOK_EVERY: Duration = Duration::from_secs(1);

/// In [`MoveFacts::notes`](crate::model::MoveFacts): types that have another OID on the target.
pub const NOTE_OTHER_OIDS: &str = "types_with_another_oid";

/// Copies schema and rows. Safe to repeat: each run starts from an empty database.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    // A move that an older version began has not measured yet.
    throttle::measure_before(ctx).await?;
    let ends = ctx.ends();
    let tools = find_tools(ctx).await?;
    begin_from_nothing(ctx, &ends).await?;
    let source = ctx.source_session().await?;
    source.act_as_replica().await.map_err(StepError::doing("preparing the source"))?;

    let slot = matching_slot(ctx, &ends, &source).await?;
    let point = slot.consistent_point;
    ctx.remember(|facts| facts.consistent_point = Some(point)).await?;

    let watcher = ctx.source_session().await?;
    // Cancel-safe: the branch that is dropped is started again from an empty database, or undone.
    let copied = tokio::select! {
        biased;
        error = too_much_wal(ctx, &ends, &watcher) => Err(error),
        copied = Box::pin(carry(ctx, &ends, tools, &source, slot)) => copied,
    }?;
    note_truncated(ctx, &copied.truncated).await?;
    note_types(ctx, &copied.types).await
}

/// Result of a copy.
#[derive(Debug)]
struct Copied {
    types: TypeOidComparison,
    /// Tables that were truncated on the source during the copy.
    truncated: Vec<TableName>,
}

/// Replaces the note of an earlier attempt.
async fn note_truncated(ctx: &mut StepContext, tables: &[TableName]) -> Result<(), StepError> {
    let named = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    ctx.remember(|facts| {
        match named.is_empty() {
            true => facts.notes.remove(NOTE_TRUNCATED),
            false => facts.notes.insert(NOTE_TRUNCATED.to_owned(), named.clone()),
        };
    })
    .await
}

/// Records which types have another OID than on the source.
async fn note_types(ctx: &mut StepContext, types: &TypeOidComparison) -> Result<(), StepError> {
    tracing::info!(
        kept = types.kept,
        others = types.others.len(),
        "types have the OIDs that they have on the source"
    );
    if types.others.is_empty() {
        return Ok(());
    }
    let named = types.others.join(", ");
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_OTHER_OIDS.to_owned(), named.clone());
    })
    .await
}

/// Everything between the creation of the slot and a target that is ready to follow.
async fn carry(
    ctx: &StepContext,
    ends: &Endpoints,
    tools: Tools,
    source: &Session,
    slot: ExportedSlot,
) -> Result<Copied, StepError> {
    ctx.progress.set_activity("copying the schema");
    let dump = ctx.unless_cancelled(write_down(ends, tools, source, &slot.snapshot)).await?;
    let target = ctx.target_session().await?;
    // An event trigger that comes with the schema must not run in the platform's sessions.
    target.act_as_replica().await.map_err(StepError::doing("preparing the target"))?;
    let admitting = applier::admit(ends, &target).await;
    let applier = admitting.map_err(StepError::doing("preparing the role that writes rows"))?;
    let restored = restore(ctx, &Restore { ends, dump, applier, source, target: &target }, slot).await;
    let dismissed = applier::dismiss(ends, &target).await;
    let copied = restored?;
    dismissed.map_err(StepError::doing("shutting out the role that wrote the rows"))?;
    keep_schema_owners(ends, source, &target)
        .await
        .map_err(StepError::doing("giving schemas their owners"))?;
    finish(ctx, ends, source, &target).await?;
    Ok(copied)
}

/// Restores the objects that hold rows, the rows, and the indexes and constraints on them.
async fn restore(ctx: &StepContext, restore: &Restore<'_>, slot: ExportedSlot) -> Result<Copied, StepError> {
    let types = ctx.unless_cancelled(restore.before_rows()).await?;
    let (truncated, throttle) = copy_rows(ctx, restore, &slot.snapshot).await?;
    // Every reader has finished: the source may release the snapshot.
    drop(slot);
    ctx.progress.set_activity("building indexes and constraints");
    let workers = throttle.workers(ctx.settings.index_workers);
    ctx.unless_cancelled(restore.after_rows(workers)).await?;
    ctx.progress.set_activity("giving objects their owners and rights");
    ctx.unless_cancelled(restore.owners_and_rights()).await?;
    Ok(Copied { types, truncated })
}

/// Dumps the schema as the slot's snapshot sees it.
async fn write_down(
    ends: &Endpoints,
    tools: Tools,
    source: &Session,
    snapshot: &str,
) -> Result<SchemaDump, StepError> {
    const READING: &str = "reading the schema";
    let known = Known {
        of_superusers: ownership::of_superusers(source).await.map_err(StepError::doing(READING))?,
        of_moves: ownership::of_moves(source).await.map_err(StepError::doing(READING))?,
    };
    SchemaDump::take(ends, tools, snapshot, known).await.map_err(StepError::doing(READING))
}

/// Returns an error once the slot retains more WAL on the source than is allowed: before the source's disk
/// fills.
async fn too_much_wal(ctx: &StepContext, ends: &Endpoints, source: &Session) -> StepError {
    let allowed = ctx.settings.wal_retained_bytes_max;
    let name = ends.names().forward();
    loop {
        let kept = match slots::state(source, &name).await {
            Ok(state) => state.map_or(0, |state| state.retained_bytes),
            Err(error) => return StepError::failed("watching the WAL that the source keeps", error),
        };
        if kept > allowed {
            return StepError::Forbidden {
                sqlstate: SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                blame: Blame::Platform,
                message: format!("the copy keeps {kept} bytes of WAL on the source, {allowed} are allowed"),
                detail: Some("The source is written to faster than it is copied.".into()),
                hint: Some("Move at a quieter time, or allow more retained WAL.".into()),
            };
        }
        tokio::time::sleep(WAL_LOOK_EVERY).await;
    }
}

/// Removes the slot and the rows. Safe to repeat. The database itself is removed by the undo of `provision`.
pub async fn undo(ctx: &mut StepContext) -> Result<(), StepError> {
    let began = ctx
        .record()
        .log
        .iter()
        .any(|entry| entry.step == MoveStep::Copy && entry.event == StepEvent::Started);
    if !began {
        return Ok(());
    }
    let ends = ctx.ends();
    let source = ends.source.admin_session().await.map_err(StepError::doing("connecting to the source"))?;
    slots::drop(&source, &ends.names().forward(), ends.source.deadline())
        .await
        .map_err(StepError::doing("dropping the slot"))
}

async fn find_tools(ctx: &StepContext) -> Result<Tools, StepError> {
    let major = ctx.source.version_num.max(ctx.target.version_num) / 10_000;
    Tools::find(&ctx.settings.postgres_bin_dirs, major).await.map_err(StepError::doing("looking for pg_dump"))
}

/// Drops what an interrupted copy left: the slot, and the database with its contents.
async fn begin_from_nothing(ctx: &mut StepContext, ends: &Endpoints) -> Result<(), StepError> {
    let doing = || StepError::doing("beginning the copy from nothing");
    let source = ctx.source_session().await?;
    slots::drop(&source, &ends.names().forward(), ends.source.deadline()).await.map_err(doing())?;
    // Otherwise the reader's privileges would be dumped with the schema.
    reader::remove(&ends.source).await.map_err(doing())?;
    let admin = ends.target.admin_session().await.map_err(doing())?;
    let claim = databases::claim(&admin, ends.names(), &ends.target.dbname).await.map_err(doing())?;
    // The creation of an empty database may have been interrupted: it is kept, and its creation is repeated.
    if claim == databases::DatabaseClaim::Ours
        && !is_empty(&ctx.target_session().await?).await.map_err(doing())?
    {
        sweep::objects(&ends.target, ends.names()).await.map_err(doing())?;
        databases::drop_ours(&admin, ends.names(), &ends.target.dbname).await.map_err(doing())?;
    }
    provision::create_database(ctx, ends, &source, &admin).await
}

/// Whether the database holds nothing but the helper schema.
async fn is_empty(session: &Session) -> Result<bool, SystemError> {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold'))
        AND NOT EXISTS (SELECT FROM pg_namespace WHERE nspname !~ '^pg_'
            AND nspname NOT IN ('information_schema', 'freehold', 'public'))
        AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public')
        AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = 'public')";
    session.value("looking whether the database is empty", sql, &[]).await
}

/// Creates a slot with a snapshot of exactly the tables of the publication.
///
/// The creation of a slot waits for every running transaction. A table created by a transaction that was
/// running when the guard was installed is in the snapshot and not in the publication. Then both are created
/// again.
async fn matching_slot(
    ctx: &StepContext,
    ends: &Endpoints,
    source: &Session,
) -> Result<ExportedSlot, StepError> {
    let doing = || StepError::doing("comparing the publication with the snapshot");
    let name = ends.names().forward();
    for _ in 0..SLOT_ATTEMPTS_MAX {
        provision::publish(ctx, ends, source).await?;
        let slot = exported_slot(ctx, ends, source, &name).await?;
        let reader = ends.source.session().await.map_err(doing())?;
        verify::import_snapshot(&reader, &slot.snapshot).await.map_err(doing())?;
        let seen = published_tables(&reader).await.map_err(doing())?;
        let published = publications::tables(source, &name).await.map_err(doing())?;
        if published.as_ref() == Some(&seen) {
            return Ok(slot);
        }
        drop(slot);
        slots::drop(source, &name, ends.source.deadline()).await.map_err(doing())?;
    }
    Err(StepError::Forbidden {
        sqlstate: SqlState::SHAPE_CHANGED,
        blame: Blame::Product,
        message: "the tables of the database keep changing".into(),
        detail: None,
        hint: Some("Let schema changes end, then run the move again.".into()),
    })
}

/// Creates the slot; repeats while running transactions prevent it, and reports them.
async fn exported_slot(
    ctx: &StepContext,
    ends: &Endpoints,
    source: &Session,
    name: &str,
) -> Result<ExportedSlot, StepError> {
    let started = Instant::now();
    loop {
        ctx.check()?;
        let new = NewSlot {
            system: &ends.source.system,
            dbname: &ends.source.dbname,
            name,
            access: &ends.source.access,
            lock_timeout: SLOT_LOCK_TIMEOUT.min(ctx.settings.slot_timeout),
        };
        let deadline = tokio::time::Instant::now() + ctx.settings.slot_timeout + ends.source.connect_timeout;
        let refused = match export::create(&new, deadline).await {
            Ok(slot) => return Ok(slot),
            Err(error) if error.is_refused_with("55P03") => error,
            Err(error) => return Err(StepError::failed("creating the slot on the source", error)),
        };
        let doing = || StepError::doing("looking for transactions in the way of the slot");
        slots::drop(source, name, ends.source.deadline()).await.map_err(doing())?;
        let in_the_way: Vec<String> =
            slots::in_the_way(source).await.map_err(doing())?.iter().map(ToString::to_string).collect();
        if started.elapsed() >= ctx.settings.slot_timeout {
            tracing::warn!(error = %refused, "the slot cannot be created");
            return Err(StepError::over_budget(
                "the creation of the slot",
                ctx.settings.slot_timeout,
                in_the_way,
            ));
        }
        ctx.progress
            .set_activity(format!("waiting for older transactions on the source: {}", in_the_way.join("; ")));
    }
}

/// The owner of the source's database was, by `pg_database_owner`, the owner of its schema `public`. On the
/// target the platform owns the database, so the owner of such schemas is set to the former owner by name.
async fn keep_schema_owners(ends: &Endpoints, source: &Session, target: &Session) -> Result<(), SystemError> {
    const READING: &str = "reading the owners of schemas";
    let sql = "SELECT n.nspname::text, pg_get_userbyid(d.datdba)::text FROM pg_namespace n, pg_database d
        WHERE d.datname = current_database() AND pg_get_userbyid(n.nspowner) = 'pg_database_owner'";
    for row in &source.rows(READING, sql, &[]).await? {
        let (schema, owner): (String, String) =
            (source.column(READING, row, 0)?, source.column(READING, row, 1)?);
        if owner == ends.source.system.admin_role.as_str() {
            continue;
        }
        let sql = format!("ALTER SCHEMA {} OWNER TO {}", quote_ident(&schema), quote_ident(&owner));
        target.batch("giving a schema its owner", &sql).await?;
    }
    Ok(())
}

/// Copies all rows. Returns the tables that were truncated during the copy, and the throttle in its last
/// state.
async fn copy_rows(
    ctx: &StepContext,
    restore: &Restore<'_>,
    snapshot: &str,
) -> Result<(Vec<TableName>, Throttle), StepError> {
    let doing = || StepError::doing("listing the tables to copy");
    let Restore { ends, applier, .. } = restore;
    let reader = ends.source.session().await.map_err(doing())?;
    verify::import_snapshot(&reader, snapshot).await.map_err(doing())?;
    let mut tables = tables::list(&reader).await.map_err(doing())?;
    // Changes of unlogged tables are not in the WAL and cannot be replicated; the preflight has reported
    // them.
    tables.retain(|table| !table.unlogged);
    drop(reader);
    empty_extension_tables(restore).await.map_err(StepError::doing("emptying the tables of extensions"))?;
    let jobs = copy_rows::jobs(&tables, ctx.settings.copy_split_bytes);
    let workers = ctx.settings.copy_workers;
    const PREPARING: &str = "preparing the role that reads rows";
    let reader = Reader::admit(&ends.source).await.map_err(StepError::doing(PREPARING))?;
    let governor = Governor::of(ctx);
    let throttle = governor.throttle();
    let who = copy_rows::CopyContext {
        ends,
        reader: reader.clone(),
        applier: applier.clone(),
        throttle: throttle.clone(),
    };
    let cancel = ctx.cancellation();
    let copied = tokio::select! {
        biased;
        never = governor.run() => match never {},
        copied = copy_rows::copy(who, snapshot, jobs, workers, &ctx.progress, &cancel) => copied,
    };
    let dismissed = reader.dismiss(&ends.source).await;
    copied?;
    dismissed.map_err(StepError::doing("shutting out the role that read the rows"))?;
    let truncated = ctx.unless_cancelled(settle_truncated(restore, snapshot, &tables)).await?;
    Ok((truncated, throttle))
}

async fn settle_truncated(
    restore: &Restore<'_>,
    snapshot: &str,
    tables: &[Table],
) -> Result<Vec<TableName>, StepError> {
    let doing = || StepError::doing("looking for tables that were truncated meanwhile");
    // A new session: one that was idle while the rows were copied could have been terminated.
    let session = restore.ends.source.session().await.map_err(doing())?;
    verify::import_snapshot(&session, snapshot).await.map_err(doing())?;
    truncated::settle(restore, &session, tables).await.map_err(doing())
}

/// `CREATE EXTENSION` has filled its configuration tables; all their rows come from the source. They are
/// deleted, not truncated: in a session that acts as a replica, no foreign key between them is checked.
async fn empty_extension_tables(restore: &Restore<'_>) -> Result<(), SystemError> {
    let Restore { ends, applier, target, .. } = restore;
    const EMPTYING: &str = "emptying the tables of extensions";
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig))";
    let rows = target.rows(EMPTYING, sql, &[]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    // Not as the platform: a role that is no superuser can own an extension, its tables, and their triggers.
    let mut applier = ends.target.writing_session(applier).await?;
    for row in &rows {
        let schema: String = target.column(EMPTYING, row, 0)?;
        let table = TableName::new(schema, target.column::<String>(EMPTYING, row, 1)?);
        applier.query(EMPTYING, &format!("DELETE FROM ONLY {}", table.sql())).await?;
    }
    Ok(())
}

/// Creates what is derived from rows: sequence values, materialized views, statistics.
async fn finish(
    ctx: &StepContext,
    ends: &Endpoints,
    source: &Session,
    target: &Session,
) -> Result<(), StepError> {
    let doing = |what: &str| StepError::doing(what.to_owned());
    copy_sequences(source, target).await.map_err(doing("copying sequences"))?;
    ctx.check()?;
    ctx.progress.set_activity("refreshing materialized views");
    matviews::refresh(source, &ends.target).await.map_err(doing("refreshing materialized views"))?;
    ctx.check()?;
    ctx.progress.set_activity("gathering statistics");
    let analyze = async {
        target
            .batch("gathering statistics", "ANALYZE")
            .await
            .map_err(doing("gathering statistics on the target"))
    };
    ctx.unless_cancelled(analyze).await
}

/// Sets every sequence on the target to the source's current value.
async fn copy_sequences(source: &Session, target: &Session) -> Result<(), SystemError> {
    let reader = sequences::Reader::prepare(source).await?;
    let positions = reader.read().await?;
    sequences::set(target, &sequences::exact(reader.sequences(), &positions)).await
}
