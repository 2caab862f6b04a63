//! Compares the rows of both sides of a stream while they are written.
//!
//! ```text
//!   publisher: digests of some ranges of keys -> marker -> subscriber has seen it: the same ranges there
//!       equal: done          different: the rows of the range by their keys, on both sides
//!                                -> those that differ are looked at again, until they agree
//! ```
//!
//! # Why
//! * **A marker is the position.** It is committed after the digest of the publisher was read, so what that
//!   digest has in it is on the subscriber when the marker is seen there. No snapshot is held for longer than
//!   a range takes to read: a comparison of hours keeps no dead rows.
//! * **A range that is being written differs most of the time**, and that says nothing: the subscriber is
//!   read a little later. So the verdict is about rows: a row differs if neither side wrote it between two
//!   reads (its version is the same) and the subscriber had applied everything from the first read when it
//!   was read for the second.
//! * **A commit may be on the subscriber before it can be seen on the publisher** (one that waits for a
//!   synchronous standby), so every transaction that could be such a one must have ended between the two
//!   reads.
//! * **Rows written too often to be compared** are compared after the commit, when nothing is written.
//!
//! Rows are read by a role that is no superuser, at the pace that the [throttle](super::throttle) sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::model::{MoveId, Verdict};
use crate::system::digests::{self, Digest, Key, KeyRange, KeyValue, RowState, TableRows};
use crate::system::{Session, SystemError, TableName, marker};

use crate::control::moves::error::StepError;
use crate::control::moves::parts::compared::ComparisonProgress;
use crate::control::moves::parts::reader::Reader;
use crate::control::moves::parts::stream::Stream;
use crate::control::moves::parts::throttle::Throttle;

/// The longest wait for the subscriber to see a marker.
const POSITION_WAIT_MAX: Duration = Duration::from_secs(120);
/// Interval between checks for a marker: first and longest.
const MARKER_LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// Ranges of the publisher that one marker stands for, and how long they may take to read.
const BATCH_RANGES_MAX: usize = 64;
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Rows that differ are read again for so long.
const LOOKS_MAX: Duration = Duration::from_secs(10);
/// Interval between reads of rows that differ: first and longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
/// Rows that one statement looks up by key.
const KEYS_EACH: usize = 500;
/// Hashes of rows of a table without a key that are in memory at a time.
const HASHES_EACH: u64 = 100_000;
/// Differing rows that are named for one table; its comparison ends there.
const NAMED_MAX: usize = 10;
/// Shorter rests are accumulated.
const REST_MIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_secs(1);

/// A table to compare.
#[derive(Debug, Clone)]
pub(in crate::control) struct Candidate {
    /// Its line on the board.
    pub(in crate::control) line: usize,
    pub(in crate::control) name: TableName,
    pub(in crate::control) key: Option<Key>,
    /// Rows of one range.
    pub(in crate::control) range_rows: u64,
}

/// What all workers of one comparison share.
#[derive(Debug)]
pub(in crate::control) struct Shared {
    pub(in crate::control) stream: Stream,
    pub(in crate::control) publisher: Reader,
    pub(in crate::control) subscriber: Reader,
    pub(in crate::control) throttle: Throttle,
    pub(in crate::control) board: Arc<ComparisonProgress>,
    pub(in crate::control) cancel: CancellationToken,
}

/// Compares groups of tables until none is left. Cancel-safe: nothing is held but sessions.
pub(in crate::control) async fn work(
    shared: Arc<Shared>,
    number: usize,
    next: impl Fn() -> Option<Vec<Candidate>>,
) -> Result<(), StepError> {
    let mut worker =
        Worker::open(&shared, number).await.map_err(StepError::doing("preparing to compare rows"))?;
    while let Some(group) = next() {
        worker.compare(&group).await?;
    }
    Ok(())
}

struct Worker<'a> {
    shared: &'a Shared,
    /// Sessions of the roles that read rows.
    publisher: Session,
    subscriber: Session,
    position: Position,
    /// Rest that is due and was too short to take so far.
    rest: Duration,
}

/// A range and its digest on the publisher.
struct Range<'a> {
    table: &'a Candidate,
    span: KeyRange,
    digest: Digest,
}

/// Results for one table so far.
#[derive(Debug, Default, Clone)]
struct Tally {
    rows: u64,
    ranges: u64,
    /// Rows that were written again before each read.
    written: u64,
    differing: Vec<String>,
}

impl<'a> Worker<'a> {
    async fn open(shared: &'a Shared, number: usize) -> Result<Worker<'a>, SystemError> {
        let Shared { stream, publisher, subscriber, .. } = shared;
        let (publisher, subscriber, position) = tokio::try_join!(
            stream.publisher.reading_session(&publisher.login),
            stream.subscriber.reading_session(&subscriber.login),
            Position::open(stream, number),
        )?;
        Ok(Worker { shared, publisher, subscriber, position, rest: Duration::ZERO })
    }

    async fn compare(&mut self, group: &[Candidate]) -> Result<(), StepError> {
        let mut tallies: BTreeMap<usize, Tally> = BTreeMap::new();
        let mut batch: Vec<Range<'_>> = Vec::new();
        let mut began = Instant::now();
        for table in group {
            self.shared.board.begin(table.line);
            tallies.insert(table.line, Tally::default());
            let rows = TableRows { table: &table.name, key: table.key.as_ref() };
            let mut after: Option<KeyValue> = None;
            loop {
                self.check()?;
                let reading = Instant::now();
                let read = rows.next(&self.publisher, after.as_ref(), table.range_rows).await;
                let (digest, upto) = read.map_err(|error| reading_failed(&table.name, error))?;
                self.rest_after(reading).await;
                batch.push(Range { table, span: KeyRange { after, upto: upto.clone() }, digest });
                if batch.len() >= BATCH_RANGES_MAX || began.elapsed() >= BATCH_TIME {
                    self.judge(&mut batch, &mut tallies).await?;
                    began = Instant::now();
                }
                let given_up =
                    tallies.get(&table.line).is_some_and(|tally| tally.differing.len() >= NAMED_MAX);
                if upto.is_none() || given_up {
                    break;
                }
                after = upto;
            }
        }
        self.judge(&mut batch, &mut tallies).await?;
        for (line, tally) in tallies {
            self.shared.board.conclude(line, tally.verdict(), (tally.rows, tally.ranges), tally.note());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), StepError> {
        if self.shared.cancel.is_cancelled() { Err(StepError::Cancelled) } else { Ok(()) }
    }

    /// Rests, so that clients get their share of the servers.
    async fn rest_after(&mut self, reading: Instant) {
        self.rest += self.shared.throttle.rest_after(reading.elapsed());
        if self.rest >= REST_MIN {
            sleep(std::mem::take(&mut self.rest).min(REST_MAX)).await;
        }
    }

    /// Reads ranges on the subscriber, which has by now applied everything that they contained on the
    /// publisher.
    async fn judge(
        &mut self,
        batch: &mut Vec<Range<'_>>,
        tallies: &mut BTreeMap<usize, Tally>,
    ) -> Result<(), StepError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.position.reach().await?;
        for range in batch.drain(..) {
            let Some(tally) = tallies.get_mut(&range.table.line) else { continue };
            let rows = TableRows { table: &range.table.name, key: range.table.key.as_ref() };
            let there = rows.of(&self.subscriber, &range.span).await;
            let there = there.map_err(|error| reading_failed(&range.table.name, error))?;
            tally.rows += range.digest.rows;
            tally.ranges += 1;
            self.shared.board.advance(range.digest.rows);
            if there != range.digest && tally.differing.len() < NAMED_MAX {
                self.row_by_row(&rows, &range, tally).await?;
            }
        }
        Ok(())
    }

    /// Finds out which rows of a range differ, and whether they keep differing.
    async fn row_by_row(
        &mut self,
        rows: &TableRows<'_>,
        range: &Range<'_>,
        tally: &mut Tally,
    ) -> Result<(), StepError> {
        let failed = |error| reading_failed(rows.table, error);
        let parts = if rows.key.is_some() { 1 } else { range.digest.rows / HASHES_EACH + 1 };
        for part in 0..parts {
            self.check()?;
            let here = rows.list(&self.publisher, &range.span, (part, parts)).await.map_err(failed)?;
            self.position.reach().await?;
            let there = rows.list(&self.subscriber, &range.span, (part, parts)).await.map_err(failed)?;
            let looked = self.position.newest_transaction().await?;
            let mut open = Open::of(here, there, looked);
            self.until_they_agree(rows, &mut open).await?;
            tally.written += u64::try_from(open.rows.len()).unwrap_or(u64::MAX);
            let room = NAMED_MAX.saturating_sub(tally.differing.len());
            tally.differing.extend(open.differing.into_iter().take(room));
        }
        Ok(())
    }

    /// Reads rows again. The rows left over are written all the time.
    async fn until_they_agree(&mut self, rows: &TableRows<'_>, open: &mut Open) -> Result<(), StepError> {
        let failed = |error| reading_failed(rows.table, error);
        let (began, mut wait) = (Instant::now(), LOOK_AGAIN.0);
        while !open.rows.is_empty() && open.differing.len() < NAMED_MAX {
            if began.elapsed() >= LOOKS_MAX {
                return open.end(rows.table);
            }
            self.check()?;
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_AGAIN.1);
            let keys: Vec<KeyValue> = open.rows.keys().cloned().collect();
            for keys in keys.chunks(KEYS_EACH) {
                let oldest = self.position.oldest_running().await?;
                let here = rows.look_up(&self.publisher, keys).await.map_err(failed)?;
                self.position.reach().await?;
                let there = rows.look_up(&self.subscriber, keys).await.map_err(failed)?;
                let newest = self.position.newest_transaction().await?;
                open.look(keys, (here, there), (oldest, newest));
            }
        }
        Ok(())
    }
}

fn reading_failed(table: &TableName, error: SystemError) -> StepError {
    StepError::failed(format!("comparing table {table}"), error)
}

impl Tally {
    fn verdict(&self) -> Verdict {
        match (self.differing.is_empty(), self.written) {
            (false, _) => Verdict::Differs,
            (true, 0) => Verdict::Equal,
            (true, _) => Verdict::Written,
        }
    }

    fn note(&self) -> Option<String> {
        match (self.differing.is_empty(), self.written) {
            (false, _) => Some(self.differing.join("; ")),
            (true, 0) => None,
            (true, written) => {
                Some(format!("{written} rows were written each time that they were looked at"))
            }
        }
    }
}

/// The last state of a row that differed.
#[derive(Debug, Clone)]
struct Look {
    here: Option<RowState>,
    there: Option<RowState>,
    /// Transactions with an older id may have been visible on the subscriber and not yet on the publisher
    /// when the row was first read in these versions.
    since: u64,
    /// It had the same versions in two reads.
    rests: bool,
}

/// Rows of a range that do not agree.
#[derive(Debug, Default)]
struct Open {
    rows: BTreeMap<KeyValue, Look>,
    /// Differing rows, described for the operator.
    differing: Vec<String>,
}

impl Open {
    fn of(
        mut here: BTreeMap<KeyValue, RowState>,
        mut there: BTreeMap<KeyValue, RowState>,
        newest: u64,
    ) -> Open {
        let mut keys: Vec<KeyValue> = here.keys().chain(there.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        let mut open = Open::default();
        for key in keys {
            let (here, there) = (here.remove(&key), there.remove(&key));
            if value(&here) != value(&there) {
                open.rows.insert(key, Look { here, there, since: newest, rests: false });
            }
        }
        open
    }

    /// Takes in another read of some of the rows. `oldest`: the oldest transaction that had not ended before
    /// the read; `newest`: a transaction id newer than all that had begun when the read was over.
    fn look(
        &mut self,
        keys: &[KeyValue],
        (mut here, mut there): (BTreeMap<KeyValue, RowState>, BTreeMap<KeyValue, RowState>),
        (oldest, newest): (u64, u64),
    ) {
        for key in keys {
            let Some(before) = self.rows.remove(key) else { continue };
            let (here, there) = (here.remove(key), there.remove(key));
            if value(&here) == value(&there) {
                continue;
            }
            if (&before.here, &before.there) != (&here, &there) {
                self.rows.insert(key.clone(), Look { here, there, since: newest, rests: false });
            } else if oldest >= before.since {
                self.differing.push(described(key, &before));
            } else {
                self.rows.insert(key.clone(), Look { rests: true, ..before });
            }
        }
    }

    /// Ends the reads. Fails if a row stopped changing and still cannot be decided.
    fn end(&self, table: &TableName) -> Result<(), StepError> {
        let Some((key, look)) = self.rows.iter().find(|(_, look)| look.rests) else { return Ok(()) };
        Err(StepError::NotNow {
            message: format!("it cannot be said yet whether table {table} is equal on both sides"),
            detail: Some(format!(
                "{}. A transaction that was running when that was seen has not ended, and may be the cause.",
                described(key, look)
            )),
        })
    }
}

fn value(seen: &Option<RowState>) -> Option<&String> {
    seen.as_ref().map(|seen| &seen.value)
}

/// Names the key and hides the row, which may hold private data.
fn described(key: &KeyValue, look: &Look) -> String {
    let key = key.join(", ");
    match (&look.here, &look.there) {
        (Some(_), Some(_)) => format!("row ({key}) has other values"),
        (Some(_), None) => format!("row ({key}) is missing on the side that follows"),
        (None, _) => format!("row ({key}) is on the side that follows only"),
    }
}

/// Waits until the subscriber has caught up with the publisher.
#[derive(Debug)]
pub(in crate::control) struct Position {
    id: MoveId,
    publisher: Session,
    subscriber: Session,
    kind: String,
    /// Makes the markers of this worker distinct from those of an earlier one.
    run: u64,
    count: u64,
}

impl Position {
    pub(in crate::control) async fn open(stream: &Stream, number: usize) -> Result<Position, SystemError> {
        let (publisher, subscriber) =
            tokio::try_join!(stream.publisher.session(), stream.subscriber.session())?;
        // The commit must be on disk to be sent; it need not wait for a standby.
        publisher.batch("preparing markers", "SET synchronous_commit = local").await?;
        let kind = format!("{} compare {number}", stream.way.heartbeat());
        Ok(Position { id: stream.names.id(), publisher, subscriber, kind, run: rand::random(), count: 0 })
    }

    /// Returns when everything committed on the publisher before the call is on the subscriber.
    pub(in crate::control) async fn reach(&mut self) -> Result<(), StepError> {
        let doing = || StepError::doing("waiting for the other side");
        self.count += 1;
        let token = format!("{}/{}", self.run, self.count);
        marker::write(&self.publisher, self.id, &self.kind, &token).await.map_err(doing())?;
        let (began, mut wait) = (Instant::now(), MARKER_LOOKS.0);
        loop {
            let seen = marker::read(&self.subscriber, self.id, &self.kind).await.map_err(doing())?;
            if seen.is_some_and(|(seen, _)| seen == token) {
                return Ok(());
            }
            if began.elapsed() >= POSITION_WAIT_MAX {
                return Err(StepError::over_budget("the other side", POSITION_WAIT_MAX, Vec::new()));
            }
            sleep(wait).await;
            wait = (wait * 2).min(MARKER_LOOKS.1);
        }
    }

    async fn newest_transaction(&self) -> Result<u64, StepError> {
        let newest = digests::newest_transaction(&self.publisher).await;
        newest.map_err(StepError::doing("looking at transactions"))
    }

    async fn oldest_running(&self) -> Result<u64, StepError> {
        let oldest = digests::oldest_running(&self.publisher).await;
        oldest.map_err(StepError::doing("looking at transactions"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> KeyValue {
        vec![text.to_owned()]
    }

    fn rows(rows: &[(&str, &str, &str)]) -> BTreeMap<KeyValue, RowState> {
        let one = |&(name, value, version): &(&str, &str, &str)| {
            (key(name), RowState { value: value.to_owned(), version: version.to_owned() })
        };
        rows.iter().map(one).collect()
    }

    fn names(open: &Open) -> Vec<String> {
        open.rows.keys().map(|key| key.join(",")).collect()
    }

    #[test]
    fn a_row_that_nobody_wrote_between_two_looks_differs_once_older_transactions_have_ended() {
        let mut open = Open::of(rows(&[("1", "a", "10")]), rows(&[("1", "b", "7")]), 100);
        let again = || (rows(&[("1", "a", "10")]), rows(&[("1", "b", "7")]));
        open.look(&[key("1")], again(), (99, 110));
        assert!(open.differing.is_empty(), "a transaction of that time still runs");
        assert!(open.end(&TableName::new("public", "t")).is_err());
        open.look(&[key("1")], again(), (100, 120));
        assert_eq!(open.differing, ["row (1) has other values"]);
        assert!(open.rows.is_empty());
    }

    #[test]
    fn a_row_that_is_written_or_agrees_in_the_end_does_not_differ() {
        let here = rows(&[("1", "a", "10"), ("2", "a", "10")]);
        let there = rows(&[("1", "b", "7"), ("2", "b", "7"), ("3", "c", "8")]);
        let mut open = Open::of(here, there, 100);
        assert_eq!(names(&open), ["1", "2", "3"]);
        let keys = [key("1"), key("2"), key("3")];
        // The first came back to its value by way of another; the second agrees now; the third was deleted
        // and made again.
        let here = rows(&[("1", "a", "12"), ("2", "b", "11")]);
        let there = rows(&[("1", "b", "7"), ("2", "b", "7"), ("3", "c", "9")]);
        open.look(&keys, (here, there), (200, 201));
        assert_eq!((names(&open), open.differing.len()), (vec!["1".to_owned(), "3".to_owned()], 0));
        assert!(open.end(&TableName::new("public", "t")).is_ok());
    }

    #[test]
    fn what_one_side_lacks_is_told_from_what_it_has_too_much() {
        let mut open = Open::of(rows(&[("1", "a", "1")]), rows(&[("2", "b", "1")]), 5);
        open.look(&[key("1"), key("2")], (rows(&[("1", "a", "1")]), rows(&[("2", "b", "1")])), (5, 6));
        let expected =
            ["row (1) is missing on the side that follows", "row (2) is on the side that follows only"];
        assert_eq!(open.differing, expected);
    }
}
