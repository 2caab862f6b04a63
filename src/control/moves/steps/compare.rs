//! Compare: proves that both sides hold the same rows before any client moves, while the clients work.
//!
//! The schemas are compared, then the rows of tables, then what materialized views hold
//! ([`mod@compare_views`]). A difference ends the move here, with the source untouched. What was written too
//! often to be compared, and what is written from here on, is compared once more as it is at the commit
//! ([`settle`](crate::control::moves::steps::settle)).
//!
//! # Why
//! After the commit the way back depends on a stream that a difference has made doubtful; before it, nothing
//! has to go back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::error::{Blame, SqlState};
use crate::model::{Compared, ComparedTable, ComparedTables, Relation, UnixMillis, Verdict};
use crate::system::fingerprint::{SchemaFingerprint, Servers};
use crate::system::{SystemError, Table, TableName, digests, tables};

use crate::control::moves::context::StepContext;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::compare_views::{self, Views};
use crate::control::moves::parts::compared::ComparisonProgress;
use crate::control::moves::parts::comparing::{self, Candidate, Shared};
use crate::control::moves::parts::reader::Reader;
use crate::control::moves::parts::snapshot::Digests;
use crate::control::moves::parts::stream::{Stream, Watcher};
use crate::control::moves::parts::throttle::Governor;
use crate::control::moves::parts::verify::Difference;
use crate::control::moves::steps::catchup::{guard_wal, until_ready};
use crate::control::settings::Verify;

/// Differences that the record of a move keeps.
pub(in crate::control) const DIFFERENCES_MAX: usize = 20;
/// Tables of so many bytes together are compared by one worker in one go.
const GROUP_BYTES: u64 = 8 << 20;
const GROUP_TABLES_MAX: usize = 64;
/// One more worker for each of so many bytes.
const BYTES_PER_WORKER: u64 = 32 << 20;
/// Bytes and rows of a table that one statement reads.
const RANGE_BYTES: u64 = 4 << 20;
const RANGE_ROWS: std::ops::RangeInclusive<u64> = 100..=20_000;
/// Interval between checks of the stream.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a longer comparison, materialized views are refreshed again and the target has to be near once more.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Result of a comparison.
#[derive(Debug)]
pub(in crate::control) struct Outcome {
    pub(in crate::control) compared: Compared,
    lines: Vec<ComparedTable>,
    /// One sentence for each table that differs.
    pub(in crate::control) differences: Vec<String>,
    /// Tables that could not be decided, with the reason.
    pub(in crate::control) undecided: Vec<String>,
}

/// Compares, and fails where anything differs. Safe to repeat; what was equal before an interruption is not
/// read again.
pub async fn run(ctx: &mut StepContext) -> Result<(), StepError> {
    if ctx.settings.policy.verify == Verify::Off || ctx.facts().compared_before.is_some() {
        return Ok(());
    }
    let began = Instant::now();
    let stream = Stream::of_copy(ctx.ends(), ctx.facts());
    let objects = compare_schemas(ctx).await?;
    let equal_before = equal_before(ctx).await?;
    let outcome = compare(ctx, &stream, &equal_before).await?;
    if !outcome.differences.is_empty() {
        return Err(differs(ctx, &outcome.differences));
    }
    let (outcome, has_filled) = compare_views(ctx, &stream, outcome).await?;
    if !outcome.differences.is_empty() {
        return Err(differs(ctx, &outcome.differences));
    }
    tracing::info!(
        objects,
        tables = outcome.compared.tables,
        rows = outcome.compared.rows,
        seconds = began.elapsed().as_secs_f64(),
        "compared both sides before the cutover"
    );
    let compared = Compared { objects, ..outcome.compared };
    ctx.remember(|facts| facts.compared_before = Some(compared.clone())).await?;
    // One view was refreshed again; the views that read it were not.
    if has_filled || began.elapsed() > STALE_AFTER {
        until_ready(ctx, stream).await?;
    }
    Ok(())
}

/// Fails if the target's schema is different; returns the number of objects. Schema changes are refused on
/// both sides by now.
async fn compare_schemas(ctx: &StepContext) -> Result<u32, StepError> {
    let doing = || StepError::doing("comparing the schemas of both sides");
    ctx.progress.set_activity("comparing the schemas of both sides");
    let servers =
        Servers { source_version_num: ctx.source.version_num, target_version_num: ctx.target.version_num };
    let (source, target) = tokio::try_join!(ctx.source_session(), ctx.target_session())?;
    let (here, there) = tokio::try_join!(
        SchemaFingerprint::read(&source, ctx.source.admin_role.as_str(), servers),
        SchemaFingerprint::read(&target, ctx.target.admin_role.as_str(), servers),
    )
    .map_err(doing())?;
    let differences = here.differences(&there, servers);
    if differences.is_empty() {
        return Ok(u32::try_from(here.len()).unwrap_or(u32::MAX));
    }
    let mut shown: Vec<&str> = differences.iter().take(DIFFERENCES_MAX).map(String::as_str).collect();
    let more = format!("and {} more", differences.len().saturating_sub(DIFFERENCES_MAX));
    shown.extend((differences.len() > DIFFERENCES_MAX).then_some(more.as_str()));
    Err(StepError::Forbidden {
        sqlstate: SqlState::SCHEMA_DIFFERS,
        blame: Blame::Platform,
        message: format!(
            "the target does not have the schema of the source: {}",
            differences.first().map_or("", String::as_str)
        ),
        detail: Some(shown.join("\n")),
        hint: Some(
            "The clients stay on the source, and nothing of it was changed. Find out who changed either side past the guard, then move \
             again."
                .to_owned(),
        ),
    })
}

/// Results for materialized views from the comparison before the cutover.
pub(in crate::control) async fn views_before(ctx: &StepContext) -> Result<Vec<ComparedTable>, StepError> {
    let mut lines = ctx.catalog.moves().compared_tables(ctx.id()).await?.unwrap_or_default().tables;
    lines.retain(|line| line.relation == Relation::MaterializedView);
    Ok(lines)
}

/// Tables that an interrupted comparison of this move has found equal.
async fn equal_before(ctx: &StepContext) -> Result<HashMap<String, ComparedTable>, StepError> {
    let tables = ctx.catalog.moves().compared_tables(ctx.id()).await?.unwrap_or_default().tables;
    let equal = tables.into_iter().filter(|table| table.verdict == Verdict::Equal);
    Ok(equal.map(|table| (table.name.clone(), table)).collect())
}

fn differs(ctx: &StepContext, differences: &[String]) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::SHAPE_CHANGED,
        blame: Blame::Platform,
        message: format!("the target does not hold the rows of the source: {}", counted(differences.len())),
        detail: Some(differences.join("\n")),
        hint: Some(format!(
            "The clients stay on the source, and nothing of it was changed. SHOW MOVE {} TABLES lists every table. Find out who \
             wrote to the target or why its rows are computed in another way, then move again.",
            ctx.id()
        )),
    }
}

/// `1 table differs`
pub(in crate::control) fn counted(tables: usize) -> String {
    match tables {
        1 => "1 table differs".to_owned(),
        many => format!("{many} tables differ"),
    }
}

/// Compares the two sides of a stream while the publisher is written to. `known`: lines of tables that need
/// not be read again.
pub(in crate::control) async fn compare(
    ctx: &StepContext,
    stream: &Stream,
    known: &HashMap<String, ComparedTable>,
) -> Result<Outcome, StepError> {
    let doing = || StepError::doing("preparing to compare rows");
    let candidates = candidates(stream).await.map_err(doing())?;
    let (board, groups, bytes) = arrange(ctx, candidates, known);
    let board = Arc::new(board);
    if !groups.is_empty() {
        let publisher = Reader::admit(&stream.publisher).await.map_err(doing())?;
        let subscriber = Reader::admit(&stream.subscriber).await.map_err(doing())?;
        let readers = (publisher.clone(), subscriber.clone());
        let compared = compare_groups(ctx, stream, readers, &board, groups, bytes).await;
        let dismissed = async {
            publisher.dismiss(&stream.publisher).await?;
            subscriber.dismiss(&stream.subscriber).await
        };
        let dismissed = dismissed.await;
        board.store(&ctx.catalog, ctx.id()).await;
        compared?;
        dismissed.map_err(StepError::doing("shutting out the role that read the rows"))?;
    }
    board.store(&ctx.catalog, ctx.id()).await;
    Ok(Outcome::of(ctx.now(), board.lines()))
}

impl Outcome {
    fn of(at: UnixMillis, lines: Vec<ComparedTable>) -> Outcome {
        let with = |verdict: &[Verdict]| -> Vec<String> {
            let lines = lines.iter().filter(|line| verdict.contains(&line.verdict));
            let told = |line: &ComparedTable| {
                format!("{}: {}", line.name, line.note.as_deref().unwrap_or(line.verdict.as_str()))
            };
            lines.map(told).collect()
        };
        let equal = lines.iter().filter(|line| line.verdict == Verdict::Equal).count();
        let compared = Compared {
            at,
            tables: u32::try_from(lines.len()).unwrap_or(u32::MAX),
            equal: u32::try_from(equal).unwrap_or(u32::MAX),
            rows: lines.iter().map(|line| line.rows).sum(),
            objects: 0,
        };
        let differences = with(&[Verdict::Differs]);
        let undecided =
            with(&[Verdict::Written, Verdict::NotComparable, Verdict::Waiting, Verdict::Comparing]);
        Outcome { compared, lines, differences, undecided }
    }

    /// Outcome for tables that were read as a whole.
    pub(in crate::control) fn of_digests(
        at: UnixMillis,
        digests: &Digests,
        differences: &[Difference],
    ) -> Outcome {
        let of_source = digests.iter().map(|(name, digest)| {
            let difference = differences.iter().find(|difference| difference.table == *name);
            (name.to_string(), digest.rows, difference)
        });
        let lacking = differences.iter().filter(|difference| difference.source.is_none());
        let of_target = lacking.map(|difference| (difference.table.to_string(), 0, Some(difference)));
        let line = |(name, rows, difference): (String, u64, Option<&Difference>)| ComparedTable {
            verdict: if difference.is_some() { Verdict::Differs } else { Verdict::Equal },
            rows,
            ranges: 1,
            at: Some(at),
            note: difference.map(Difference::sides),
            ..ComparisonProgress::waiting(name)
        };
        Outcome::of(at, of_source.chain(of_target).map(line).collect())
    }

    /// One line for each table, and the earlier results for materialized views.
    pub(in crate::control) fn tables(&self, views: &[ComparedTable]) -> ComparedTables {
        ComparedTables::of(self.lines.iter().chain(views).cloned().collect())
    }
}

/// The tables of each side, and the keys that tell rows apart.
struct Found {
    tables: Vec<Table>,
    only_there: Vec<TableName>,
    only_here: Vec<TableName>,
    keys: HashMap<TableName, digests::Key>,
}

async fn candidates(stream: &Stream) -> Result<Found, SystemError> {
    let (publisher, subscriber) = tokio::try_join!(stream.publisher.session(), stream.subscriber.session())?;
    let (mut here, there, keys) =
        tokio::try_join!(tables::list(&publisher), tables::list(&subscriber), digests::keys(&publisher))?;
    here.retain(|table| !table.unlogged);
    let names = |tables: &[Table]| -> Vec<TableName> {
        tables.iter().filter(|table| !table.unlogged).map(|table| table.name.clone()).collect()
    };
    let (names_here, names_there) = (names(&here), names(&there));
    let lacking = |these: &[TableName], those: &[TableName]| -> Vec<TableName> {
        these.iter().filter(|name| !those.contains(name)).cloned().collect()
    };
    let only_here = lacking(&names_here, &names_there);
    here.retain(|table| !only_here.contains(&table.name));
    Ok(Found { tables: here, only_there: lacking(&names_there, &names_here), only_here, keys })
}

/// Returns the board, the groups of tables to read (smallest last), and their size in bytes.
fn arrange(
    ctx: &StepContext,
    found: Found,
    known: &HashMap<String, ComparedTable>,
) -> (ComparisonProgress, Vec<Vec<Candidate>>, u64) {
    let Found { tables, only_there, only_here, mut keys } = found;
    let at = Some(ctx.now());
    let mut lines = Vec::new();
    for (names, note) in [
        (only_here, "it is missing on the side that follows"),
        (only_there, "it is on the side that follows only"),
    ] {
        lines.extend(names.iter().map(|name| ComparedTable {
            verdict: Verdict::Differs,
            at,
            note: Some(note.to_owned()),
            ..ComparisonProgress::waiting(name.to_string())
        }));
    }
    let (mut groups, mut group, mut in_group, mut bytes) = (Vec::new(), Vec::new(), 0, 0);
    // Largest first.
    for table in tables {
        let name = table.name.to_string();
        if let Some(line) = known.get(&name) {
            lines.push(line.clone());
            continue;
        }
        lines.push(ComparisonProgress::waiting(name));
        in_group += table.data_bytes;
        bytes += table.data_bytes;
        group.push(Candidate {
            line: lines.len() - 1,
            key: keys.remove(&table.name),
            range_rows: range_rows(&table),
            name: table.name,
        });
        if in_group >= GROUP_BYTES || group.len() >= GROUP_TABLES_MAX {
            groups.push(std::mem::take(&mut group));
            in_group = 0;
        }
    }
    groups.extend((!group.is_empty()).then_some(group));
    // Workers take from the end.
    groups.reverse();
    (ComparisonProgress::new(lines, ctx.progress.clone(), ctx.clock), groups, bytes)
}

/// Rows of a range that one short statement reads.
fn range_rows(table: &Table) -> u64 {
    let row_bytes = match table.rows_estimate {
        0 => 1,
        rows => (table.data_bytes / rows).max(1),
    };
    (RANGE_BYTES / row_bytes).clamp(*RANGE_ROWS.start(), *RANGE_ROWS.end())
}

async fn compare_groups(
    ctx: &StepContext,
    stream: &Stream,
    (publisher, subscriber): (Reader, Reader),
    board: &Arc<ComparisonProgress>,
    groups: Vec<Vec<Candidate>>,
    bytes: u64,
) -> Result<(), StepError> {
    let governor = Governor::of(ctx);
    let shared = Arc::new(Shared {
        stream: stream.clone(),
        publisher,
        subscriber,
        throttle: governor.throttle(),
        board: Arc::clone(board),
        cancel: ctx.cancellation(),
    });
    let workers = usize::try_from(bytes / BYTES_PER_WORKER).unwrap_or(usize::MAX).saturating_add(1);
    let workers = workers.min(ctx.settings.copy_workers).clamp(1, groups.len().max(1));
    let groups = Arc::new(groups);
    let left = Arc::new(AtomicUsize::new(groups.len()));
    let mut running = JoinSet::new();
    for number in 0..workers {
        let (groups, left) = (Arc::clone(&groups), Arc::clone(&left));
        let next = move || {
            let taken =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
            groups.get(taken - 1).cloned()
        };
        running.spawn(comparing::work(Arc::clone(&shared), number, next));
    }
    // Cancel-safe: dropping the set ends the workers and their sessions.
    attended(ctx, stream, (governor, board), all(&mut running)).await
}

/// Compares materialized views after equal tables. Returns the outcome with their lines, and whether the
/// target's were refreshed again.
async fn compare_views(
    ctx: &StepContext,
    stream: &Stream,
    of_tables: Outcome,
) -> Result<(Outcome, bool), StepError> {
    let doing = StepError::doing("preparing to compare materialized views");
    let views = Views::read(stream).await.map_err(doing)?;
    if views.is_empty() {
        return Ok((of_tables, false));
    }
    let (first, mut lines) = (of_tables.lines.len(), of_tables.lines);
    lines.extend(views.lines());
    let board = ComparisonProgress::new(lines, ctx.progress.clone(), ctx.clock);
    let governor = Governor::of(ctx);
    let throttle = governor.throttle();
    let compared = Box::pin(compare_views::compare(ctx, stream, (&views, first), &board, &throttle));
    let compared = attended(ctx, stream, (governor, &board), compared).await;
    board.store(&ctx.catalog, ctx.id()).await;
    Ok((Outcome::of(ctx.now(), board.lines()), compared?))
}

/// Runs `work` until the stream stops or the step is cancelled. Cancel-safe if `work` is.
async fn attended<T>(
    ctx: &StepContext,
    stream: &Stream,
    (governor, board): (Governor, &ComparisonProgress),
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let cancel = ctx.cancellation();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(StepError::Cancelled),
        never = governor.run() => match never {},
        never = board.keep(&ctx.catalog, ctx.id()) => match never {},
        error = watch(ctx, stream.clone()) => Err(error),
        ended = work => ended,
    }
}

async fn all(running: &mut JoinSet<Result<(), StepError>>) -> Result<(), StepError> {
    while let Some(finished) = running.join_next().await {
        match finished {
            Ok(outcome) => outcome?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(())
}

/// Returns an error once the stream has stopped or retains too much WAL: a comparison may take hours.
async fn watch(ctx: &StepContext, stream: Stream) -> StepError {
    let watched = async {
        let mut watcher = Watcher::open(stream).await.map_err(StepError::doing("watching replication"))?;
        loop {
            sleep(LOOK_EVERY).await;
            watcher.beat().await.map_err(StepError::doing("watching replication"))?;
            let lag = watcher.look().await?;
            guard_wal(ctx, lag.retained_bytes)?;
        }
    };
    let outcome: Result<std::convert::Infallible, StepError> = watched.await;
    match outcome {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
