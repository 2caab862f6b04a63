//! The operator's settings for moves.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::{DatabaseId, Latencies, MoveStep};
use crate::system::SystemAccess;

/// The bounds of a move. Every wait of the mover is bounded by one of these, or by the database's contract.
#[derive(Debug, Clone)]
pub struct MoverSettings {
    /// Directories with `pg_dump` and `pg_restore`, searched in order for the right major.
    pub postgres_bin_dirs: Vec<PathBuf>,
    /// How systems are reached.
    pub access: SystemAccess,
    /// Connections that copy rows, on each side.
    pub copy_workers: usize,
    /// Tables larger than this are copied in ranges of their pages, by several workers.
    pub copy_split_bytes: u64,
    /// The lowest share of its time, in percent, that copying gets while clients wait longer than before.
    pub copy_share_min: u32,
    /// How long clients wait for answers.
    pub latencies: LatencySource,
    /// Indexes built at the same time.
    pub index_workers: usize,
    pub connect_timeout: Duration,
    /// Limit for a statement that should be short; does not apply to the copy.
    pub statement_timeout: Duration,
    /// The wait for a lock on one of the product's objects: longer waits would queue the product's own
    /// statements.
    pub lock_timeout: Duration,
    /// The wait of the slot's creation for transactions that were running before it.
    pub slot_timeout: Duration,
    /// WAL that the source may retain for the move; beyond it the move is rolled back before the source's
    /// disk fills.
    pub wal_retained_bytes_max: u64,
    /// A cutover begins when a row takes no longer than this from source to target. In time and not in bytes
    /// of WAL: the WAL also contains what other databases of the system write.
    pub ready_lag: Duration,
    /// The target has to be near for this long before the sessions prepare themselves.
    pub ready_for: Duration,
    /// Whether rows are compared before the cutover.
    pub verify: Verify,
    /// The wait for every session to have a twin on the target.
    pub warm_budget: Duration,
    /// The wait for pinned sessions to release what pins them.
    pub pin_budget: Duration,
    /// The wait for a proxy to answer an order that needs no client to move.
    pub ack_budget: Duration,
    /// Aborted cutovers before the move is undone.
    pub cutover_attempts_max: u32,
    /// The wait after the first aborted cutover; doubles with each.
    pub cutover_backoff: Duration,
    /// Attempts of a step that must go on (settle, finish, an undo) before the move waits for the operator.
    /// The abort of a cutover is tried until it works.
    pub step_attempts_max: u32,
    /// The wait after the first failed attempt; doubles with each.
    pub step_backoff: Duration,
    /// The time that backends on the old side have to end by themselves after the clients left.
    pub close_grace: Duration,
    /// Injects a fault at a named point. A testing aid.
    pub fault: Option<Fault>,
}

impl Default for MoverSettings {
    fn default() -> MoverSettings {
        MoverSettings {
            postgres_bin_dirs: Vec::new(),
            access: SystemAccess::default(),
            copy_workers: 4,
            copy_split_bytes: 256 << 20,
            copy_share_min: 10,
            latencies: LatencySource::default(),
            index_workers: 2,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(2),
            slot_timeout: Duration::from_secs(60),
            wal_retained_bytes_max: 10 << 30,
            ready_lag: Duration::from_millis(20),
            ready_for: Duration::from_millis(500),
            verify: Verify::Rows,
            warm_budget: Duration::from_secs(30),
            pin_budget: Duration::from_secs(60),
            ack_budget: Duration::from_secs(5),
            cutover_attempts_max: 5,
            cutover_backoff: Duration::from_secs(1),
            step_attempts_max: 5,
            step_backoff: Duration::from_secs(1),
            close_grace: Duration::from_secs(5),
            fault: None,
        }
    }
}

type ReadLatencies = dyn Fn(&DatabaseId) -> Option<Latencies> + Send + Sync;

/// Source of clients' waits for answers since the process began, by database. The default has no data.
#[derive(Clone, Default)]
pub struct LatencySource(Option<Arc<ReadLatencies>>);

impl LatencySource {
    pub fn new(read: impl Fn(&DatabaseId) -> Option<Latencies> + Send + Sync + 'static) -> LatencySource {
        LatencySource(Some(Arc::new(read)))
    }

    pub(in crate::control) fn read(&self, database: &DatabaseId) -> Option<Latencies> {
        self.0.as_ref().and_then(|read| read(database))
    }
}

impl fmt::Debug for LatencySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatencySource").field("is_known", &self.0.is_some()).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Every row of every table, on both sides, at one position.
    Rows,
    Off,
}

/// A fault to inject, and its point.
#[derive(Debug, Clone)]
pub struct Fault {
    pub step: MoveStep,
    pub point: CrashPoint,
    pub kind: FaultKind,
}

#[derive(Debug, Clone)]
pub enum FaultKind {
    /// The process ends: a kill -9 that never misses.
    Abort,
    /// The step stops forever. The test is notified and drops the mover: a kill -9 for tests in the same
    /// process.
    Freeze(Arc<Notify>),
    /// The step fails with an error that may be retried.
    Fail,
}

impl Fault {
    /// Parses the form of the configuration, `cutover:held`: the process aborts there.
    pub fn parse(text: &str) -> Option<Fault> {
        let (step, point) = text.split_once(':')?;
        let step = MoveStep::ALL.into_iter().find(|known| known.as_str() == step)?;
        let point = CrashPoint::ALL.into_iter().find(|known| known.as_str() == point)?;
        Some(Fault { step, point, kind: FaultKind::Abort })
    }
}

/// A point at which a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// Nothing of the step is recorded yet.
    BeforeIntent,
    /// The intent is recorded, nothing is done.
    AfterIntent,
    /// The step is done, its outcome is not recorded.
    BeforeOutcome,
    AfterOutcome,
    /// The same four points of the step's undo.
    BeforeUndoIntent,
    AfterUndoIntent,
    BeforeUndoOutcome,
    AfterUndoOutcome,
    /// In the cutover: every session has its twin.
    Warmed,
    /// The source refuses new connections.
    FencedAhead,
    /// Every client waits.
    Held,
    /// No writer is left on the source.
    Fenced,
    /// The marker row was seen on the other side.
    MarkerSeen,
    /// Everything is ready on the other side; the compare-and-swap comes next.
    BeforeCommit,
    AfterCommit,
}

impl CrashPoint {
    pub const ALL: [CrashPoint; 15] = [
        CrashPoint::BeforeIntent,
        CrashPoint::AfterIntent,
        CrashPoint::BeforeOutcome,
        CrashPoint::AfterOutcome,
        CrashPoint::BeforeUndoIntent,
        CrashPoint::AfterUndoIntent,
        CrashPoint::BeforeUndoOutcome,
        CrashPoint::AfterUndoOutcome,
        CrashPoint::Warmed,
        CrashPoint::FencedAhead,
        CrashPoint::Held,
        CrashPoint::Fenced,
        CrashPoint::MarkerSeen,
        CrashPoint::BeforeCommit,
        CrashPoint::AfterCommit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            CrashPoint::BeforeIntent => "before_intent",
            CrashPoint::AfterIntent => "after_intent",
            CrashPoint::BeforeOutcome => "before_outcome",
            CrashPoint::AfterOutcome => "after_outcome",
            CrashPoint::BeforeUndoIntent => "before_undo_intent",
            CrashPoint::AfterUndoIntent => "after_undo_intent",
            CrashPoint::BeforeUndoOutcome => "before_undo_outcome",
            CrashPoint::AfterUndoOutcome => "after_undo_outcome",
            CrashPoint::Warmed => "warmed",
            CrashPoint::FencedAhead => "fenced_ahead",
            CrashPoint::Held => "held",
            CrashPoint::Fenced => "fenced",
            CrashPoint::MarkerSeen => "marker_seen",
            CrashPoint::BeforeCommit => "before_commit",
            CrashPoint::AfterCommit => "after_commit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crash_point_can_be_named_in_the_configuration() {
        for step in MoveStep::ALL {
            for point in CrashPoint::ALL {
                let text = format!("{}:{}", step.as_str(), point.as_str());
                let fault = Fault::parse(&text).unwrap();
                assert_eq!((fault.step, fault.point), (step, point));
            }
        }
        assert!(Fault::parse("cutover").is_none());
        assert!(Fault::parse("cutover:lunch").is_none());
    }
}
