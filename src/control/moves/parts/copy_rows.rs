//! Copies the rows: several workers read them in the slot's snapshot and write them to the target as they
//! arrive.
//!
//! Each worker has a session on both systems and takes the largest job that is left. A table larger than
//! `copy_split_bytes` is several jobs, each a range of its pages (a TID range scan, PostgreSQL 14). Bytes go
//! from COPY TO to COPY FROM without being parsed; only one chunk is buffered in between, so a slow target
//! slows the source down.
//!
//! # Why
//! The source is read and the target is written to by roles that are no superusers: both run code of the
//! database's users (predicates of indexes; checks, domains, generated columns).
//!
//! Text format: it is correct between any two majors, and the server uses most of the time anyway. A whole
//! table is truncated and written FREEZE in one transaction, so VACUUM need not freeze its pages later; a
//! table of an extension has its foreign keys already and cannot be truncated alone. Rows are in the
//! database's own encoding on both sides: there is no conversion, and invalid bytes are copied as they are.
//! Statements, with the names in them, are in UTF-8 as everywhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::system::pipe::{self, RawSession};
use crate::system::{SystemError, Table, quote_ident, quote_literal};

use crate::control::moves::endpoint::Endpoints;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::own_login::OwnLogin;
use crate::control::moves::parts::reader::Reader;
use crate::control::moves::parts::throttle::Throttle;
use crate::control::moves::parts::verify::import_sql;
use crate::control::moves::progress::Progress;

/// Shorter rests are accumulated: a timer has a resolution of a millisecond.
const REST_MIN: Duration = Duration::from_millis(5);
/// The longest single rest: a worker that waited a minute for its target does not rest for ten.
const REST_MAX: Duration = Duration::from_secs(1);
/// A table is split into at most this many parts.
const PARTS_MAX: u64 = 4096;

/// A table or a range of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Job {
    table: Table,
    part: Part,
    /// Its share of the table's size.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// Pages from `first` to before `end`; the last part is open-ended: it includes pages that were added
    /// since the table was measured.
    Pages {
        first: u64,
        end: Option<u64>,
    },
}

impl Job {
    /// What COPY TO reads: a table with its columns, or a query.
    fn source_sql(&self, encoding: &str) -> String {
        let (table, columns) = (self.table.name.sql(), column_list(&self.table.columns));
        let what = match self.part {
            Part::Whole => match columns.is_empty() {
                true => table,
                false => format!("{table} ({columns})"),
            },
            Part::Pages { first, end } => {
                let end = end.map_or_else(String::new, |end| format!(" AND ctid < '({end},0)'::tid"));
                format!("(SELECT {columns} FROM ONLY {table} WHERE ctid >= '({first},0)'::tid{end})")
            }
        };
        format!("COPY {what} TO STDOUT WITH (ENCODING {})", quote_literal(encoding))
    }

    /// Whether the table is truncated in the same transaction, so that COPY FREEZE is allowed.
    fn is_frozen(&self) -> bool {
        self.part == Part::Whole && !self.table.of_extension
    }

    fn target_sql(&self, encoding: &str) -> String {
        let (table, columns) = (self.table.name.sql(), column_list(&self.table.columns));
        let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
        let freeze = if self.is_frozen() { "FREEZE, " } else { "" };
        format!("COPY {table}{columns} FROM STDIN WITH ({freeze}ENCODING {})", quote_literal(encoding))
    }
}

fn column_list(columns: &[String]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
    quoted.join(", ")
}

/// The jobs, smallest first: workers take from the end.
pub(in crate::control) fn jobs(tables: &[Table], split_bytes: u64) -> Vec<Job> {
    let mut jobs: Vec<Job> = tables.iter().flat_map(|table| parts(table, split_bytes)).collect();
    jobs.sort_by_key(|job| job.bytes);
    jobs
}

fn parts(table: &Table, split_bytes: u64) -> Vec<Job> {
    let wanted = table.heap_bytes.div_ceil(split_bytes.max(1)).min(PARTS_MAX);
    let pages_each = table.pages.div_ceil(wanted.max(1)).max(1);
    let parts = table.pages.div_ceil(pages_each);
    if parts <= 1 {
        return vec![Job { table: table.clone(), part: Part::Whole, bytes: table.data_bytes }];
    }
    (0..parts)
        .map(|number| {
            let first = number * pages_each;
            let end = (number + 1 < parts).then_some(first + pages_each);
            Job { table: table.clone(), part: Part::Pages { first, end }, bytes: table.data_bytes / parts }
        })
        .collect()
}

/// The ends, the roles that read and write rows, and the throttle.
#[derive(Debug)]
pub(in crate::control) struct CopyContext<'a> {
    pub(in crate::control) ends: &'a Endpoints,
    pub(in crate::control) reader: Reader,
    pub(in crate::control) applier: OwnLogin,
    pub(in crate::control) throttle: Throttle,
}

/// What all workers of one copy share.
#[derive(Debug)]
struct Shared {
    ends: Endpoints,
    reader: Reader,
    applier: OwnLogin,
    throttle: Throttle,
    snapshot: String,
    /// Encoding of both databases.
    encoding: String,
    waiting: Mutex<Waiting>,
    progress: Progress,
    started: Instant,
}

#[derive(Debug)]
struct Waiting {
    jobs: Vec<Job>,
    /// Parts that are not finished yet, by table OID.
    parts_left: std::collections::HashMap<u32, usize>,
}

/// Copies all rows. The first error, or a cancellation, ends every worker.
pub(in crate::control) async fn copy(
    CopyContext { ends, reader, applier, throttle }: CopyContext<'_>,
    snapshot: &str,
    jobs: Vec<Job>,
    workers: usize,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(), StepError> {
    let workers = workers.clamp(1, jobs.len().max(1));
    let encoding = encoding_of(ends).await.map_err(StepError::doing("reading the encoding"))?;
    let mut parts_left = std::collections::HashMap::new();
    for job in &jobs {
        *parts_left.entry(job.table.oid).or_insert(0) += 1;
    }
    begin_progress(progress, &jobs, parts_left.len());
    let shared = Arc::new(Shared {
        ends: ends.clone(),
        reader,
        applier,
        throttle,
        snapshot: snapshot.to_owned(),
        encoding,
        waiting: Mutex::new(Waiting { jobs, parts_left }),
        progress: progress.clone(),
        started: Instant::now(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        running.spawn(work(Arc::clone(&shared)));
    }
    let mut readers = Vec::with_capacity(workers);
    loop {
        // Cancel-safe: `join_next` loses nothing; dropping the set ends the workers, their sessions and
        // transactions.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(StepError::Cancelled),
            finished = running.join_next() => match finished {
                None => return Ok(()),
                Some(Ok(outcome)) => readers.push(outcome?),
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            },
        }
    }
}

async fn encoding_of(ends: &Endpoints) -> Result<String, SystemError> {
    let session = ends.source.session().await?;
    session.value("reading the encoding", "SELECT current_setting('server_encoding')", &[]).await
}

fn begin_progress(progress: &Progress, jobs: &[Job], tables: usize) {
    progress.update(|now| {
        now.bytes_total = jobs.iter().map(|job| job.bytes).sum();
        now.tables_total = u32::try_from(tables).unwrap_or(u32::MAX);
        (now.bytes_copied, now.tables_copied, now.rows_copied, now.bytes_per_second) = (0, 0, 0, 0);
        now.activity = format!("copying {tables} tables");
    });
}

/// Returns its session on the source, which may still lock a table that other workers read: while a part of a
/// table is unread, VACUUM FULL and CLUSTER must not move its rows to other pages. Once every table that it
/// has read is finished, the worker begins another transaction in the same snapshot, so that it holds a lock
/// no longer than that.
async fn work(shared: Arc<Shared>) -> Result<RawSession, StepError> {
    let doing = |what: &str| StepError::doing(what.to_owned());
    let source = shared.ends.source.raw_reading_session(&shared.reader.login).await;
    let mut source = source.map_err(doing("connecting to the source"))?;
    let target = shared.ends.target.writing_session(&shared.applier).await;
    let mut target = target.map_err(doing("connecting to the target"))?;
    prepare(&shared, &mut source, &mut target).await.map_err(doing("preparing to copy"))?;
    let mut locked = Vec::new();
    loop {
        let next = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).jobs.pop();
        if !locked.is_empty() && shared.are_done(&locked) {
            begin_again(&shared, &mut source).await.map_err(doing("preparing to copy"))?;
            locked.clear();
        }
        let Some(job) = next else { return Ok(source) };
        locked.push(job.table.oid);
        let copied = copy_one(&shared, &mut source, &mut target, &job).await;
        copied.map_err(|error| StepError::failed(format!("copying table {}", job.table.name), error))?;
        shared.finished(&job);
    }
}

/// Releases all locks and goes on reading in the same snapshot.
async fn begin_again(shared: &Shared, source: &mut RawSession) -> Result<(), SystemError> {
    let sql = format!("COMMIT; {}", import_sql(&shared.snapshot));
    source.query("reading on in a snapshot", &sql).await.map(drop)
}

async fn prepare(
    shared: &Shared,
    source: &mut RawSession,
    target: &mut RawSession,
) -> Result<(), SystemError> {
    const PREPARING: &str = "preparing to copy";
    source.query(PREPARING, "SET synchronize_seqscans = off").await?;
    source.query(PREPARING, &import_sql(&shared.snapshot)).await?;
    // The role's settings make the session act as a replica.
    target.query(PREPARING, "SET synchronous_commit = off").await?;
    Ok(())
}

/// Copies one job in one transaction on the target.
async fn copy_one(
    shared: &Shared,
    source: &mut RawSession,
    target: &mut RawSession,
    job: &Job,
) -> Result<(), SystemError> {
    const BEGINNING: &str = "beginning to copy a table";
    let begin = match job.is_frozen() {
        true => format!("BEGIN; TRUNCATE ONLY {}", job.table.name.sql()),
        false => "BEGIN".to_owned(),
    };
    target.query(BEGINNING, &begin).await?;
    let mut meter = Meter { shared, left: job.bytes, working_since: Instant::now(), rest: Duration::ZERO };
    let (read, write) = (job.source_sql(&shared.encoding), job.target_sql(&shared.encoding));
    pipe::copy(source, &read, target, &write, |bytes, rows| meter.tick(bytes, rows)).await?;
    target.query("committing the rows of a table", "COMMIT").await?;
    Ok(())
}

/// Converts the bytes of a job's text into its share of the table's size, so that the total adds up.
struct Meter<'a> {
    shared: &'a Shared,
    left: u64,
    working_since: Instant,
    /// Rest that is due and was too short to take so far.
    rest: Duration,
}

impl Meter<'_> {
    /// How long to rest now.
    fn tick(&mut self, bytes: usize, rows: u64) -> Duration {
        let counted = u64::try_from(bytes).unwrap_or(0).min(self.left);
        self.left -= counted;
        self.shared.copied(counted, rows);
        let now = Instant::now();
        self.rest += self.shared.throttle.rest_after(now - self.working_since);
        self.working_since = now;
        if self.rest < REST_MIN {
            return Duration::ZERO;
        }
        let rest = std::mem::take(&mut self.rest).min(REST_MAX);
        self.working_since += rest;
        rest
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.shared.copied(self.left, 0);
    }
}

impl Shared {
    fn copied(&self, bytes: u64, rows: u64) {
        let elapsed = self.started.elapsed().as_millis().max(1);
        self.progress.update(|now| {
            now.bytes_copied += bytes;
            now.rows_copied += rows;
            let rate = u128::from(now.bytes_copied) * 1000 / elapsed;
            now.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
            let left = u128::from(now.bytes_total.saturating_sub(now.bytes_copied));
            now.eta_ms = (rate > 0).then(|| u64::try_from(left * 1000 / rate).unwrap_or(u64::MAX));
        });
    }

    /// Whether all parts of these tables are finished.
    fn are_done(&self, tables: &[u32]) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        tables.iter().all(|table| waiting.parts_left.get(table).is_none_or(|left| *left == 0))
    }

    fn finished(&self, job: &Job) {
        let table_is_done = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.parts_left.get_mut(&job.table.oid).is_some_and(|left| {
                *left -= 1;
                *left == 0
            })
        };
        if table_is_done {
            self.progress.update(|now| {
                now.tables_copied += 1;
                now.activity = format!("copied {} of {} tables", now.tables_copied, now.tables_total);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::TableName;
    use crate::system::tables::{ReplicaIdentity, Writes};

    fn table(pages: u64) -> Table {
        Table {
            name: TableName::new("public", "t"),
            oid: 1,
            heap_bytes: pages * 8192,
            data_bytes: pages * 8192,
            pages,
            rows_estimate: 0,
            identity: ReplicaIdentity::Usable,
            writes: Writes::default(),
            unlogged: false,
            of_extension: false,
            columns: vec!["a".into(), "B".into()],
        }
    }

    #[test]
    fn the_parts_of_a_large_table_cover_every_page_once_and_the_last_is_open() {
        for pages in [2, 3, 7, 100, 12_345] {
            let jobs = parts(&table(pages), 8192 * 3);
            let mut next = 0;
            for (index, job) in jobs.iter().enumerate() {
                match job.part {
                    Part::Whole => assert_eq!(jobs.len(), 1),
                    Part::Pages { first, end } => {
                        assert_eq!(first, next, "{pages} pages, part {index}");
                        assert_eq!(end.is_none(), index + 1 == jobs.len());
                        next = end.unwrap_or(pages);
                        assert!(first < pages);
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_table_is_one_job_and_the_largest_is_taken_first() {
        let jobs = jobs(&[table(0), table(9), table(2)], 1 << 30);
        assert_eq!(jobs.iter().map(|job| job.bytes / 8192).collect::<Vec<_>>(), [0, 2, 9]);
        assert!(jobs.iter().all(|job| job.part == Part::Whole));
        assert_eq!(
            jobs[0].target_sql("LATIN1"),
            "COPY \"public\".\"t\" (\"a\", \"B\") FROM STDIN WITH (FREEZE, ENCODING 'LATIN1')"
        );
    }
}
