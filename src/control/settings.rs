//! The operator's settings for moves and the other recorded operations, and how systems are reached.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::control::moves::faults::Fault;
use crate::control::operations::RetryPolicy;
use crate::model::{DatabaseId, Latencies};
use crate::system::SystemAccess;

/// How systems are reached, and the bounds of a move: every wait of the mover is bounded by one of these, or
/// by the database's contract.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// What decides the next step.
    pub policy: MovePolicy,
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
    /// The wait for every session to have a twin on the target.
    pub warm_budget: Duration,
    /// The wait for pinned sessions to release what pins them.
    pub pin_budget: Duration,
    /// The wait for a proxy to answer an order that needs no client to move.
    pub ack_budget: Duration,
    /// The time that backends on the old side have to end by themselves after the clients left.
    pub close_grace: Duration,
    /// Injects a fault at a named point. A testing aid.
    pub fault: Option<Fault>,
}

impl Default for ControlSettings {
    fn default() -> ControlSettings {
        ControlSettings {
            policy: MovePolicy::default(),
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
            warm_budget: Duration::from_secs(30),
            pin_budget: Duration::from_secs(60),
            ack_budget: Duration::from_secs(5),
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

/// What the machine of a move asks of the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct MovePolicy {
    pub retry: RetryPolicy,
    /// Whether rows are compared before the cutover.
    pub verify: Verify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every row of every table, on both sides, at one position.
    #[default]
    Rows,
    Off,
}
