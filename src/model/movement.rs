//! A move: its durable record, so that a crash at any instant is followed by resume or undo.
//!
//! ```text
//!  Preflight -> Provision -> Copy -> Catchup -> Compare -> Cutover =commit=> Settle -> Kept -> Finished
//!      |            |          |        |          |          |                         |
//!      +---------- failure or CANCEL --------------+----------+                         +- UNDO: Undoing
//!                         |                                                                -> Undone
//!                    RollingBack -> RolledBack, or Parked (gate open on the source; waits for the operator)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Blame;

use super::cure::Cure;
use super::operation::{Failure, LogEntry};
use super::{
    AcceptedDifferences, Compared, DatabaseId, DatabaseName, Epoch, Lsn, MoveId, Pinned, Place, StoreId,
    SystemName, UnixMillis,
};

/// Key `move/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub id: MoveId,
    pub database: DatabaseId,
    pub name: DatabaseName,
    pub source: Place,
    pub target: Place,
    pub phase: MovePhase,
    /// What the operator asked of it since it started; the control loop obeys at the next safe point.
    #[serde(rename = "wish")]
    pub request: Option<MoveRequest>,
    /// Overrides the contract's `move_pause_max`.
    pub pause_max: Option<Duration>,
    /// Intent and outcome of each step, oldest first. The intent is durable before the step acts.
    pub log: Vec<StepEntry>,
    pub facts: MoveFacts,
    /// The pauses of the cutover and of the undo, after they happened.
    pub cutover: Option<PauseReport>,
    pub undo: Option<PauseReport>,
    /// Why it was rolled back or parked: message, detail, hint.
    pub failure: Option<MoveFailure>,
    pub requested_by: String,
    pub reason: Option<String>,
    pub started_at: UnixMillis,
    pub ended_at: Option<UnixMillis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MovePhase {
    Preflight,
    Provision,
    Copy,
    Catchup,
    /// Both sides are compared while the clients work.
    Compare,
    Cutover,
    /// Committed; the clients are on the target. Reverse replication is being switched on.
    Settle,
    /// On the target; the source is kept current for an UNDO.
    Kept,
    /// A cutover back to the source.
    Undoing,
    Finishing,
    RollingBack,
    Finished,
    Undone,
    RolledBack,
    /// The move waits for the operator; the gate is open.
    Parked,
}

impl MovePhase {
    pub const ALL: [MovePhase; 15] = [
        MovePhase::Preflight,
        MovePhase::Provision,
        MovePhase::Copy,
        MovePhase::Catchup,
        MovePhase::Compare,
        MovePhase::Cutover,
        MovePhase::Settle,
        MovePhase::Kept,
        MovePhase::Undoing,
        MovePhase::Finishing,
        MovePhase::RollingBack,
        MovePhase::Finished,
        MovePhase::Undone,
        MovePhase::RolledBack,
        MovePhase::Parked,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            MovePhase::Preflight => "preflight",
            MovePhase::Provision => "provision",
            MovePhase::Copy => "copy",
            MovePhase::Catchup => "catchup",
            MovePhase::Compare => "compare",
            MovePhase::Cutover => "cutover",
            MovePhase::Settle => "settle",
            MovePhase::Kept => "kept",
            MovePhase::Undoing => "undoing",
            MovePhase::Finishing => "finishing",
            MovePhase::RollingBack => "rolling back",
            MovePhase::Finished => "finished",
            MovePhase::Undone => "undone",
            MovePhase::RolledBack => "rolled back",
            MovePhase::Parked => "parked",
        }
    }

    /// The move no longer changes, by itself or by command.
    pub fn has_ended(self) -> bool {
        matches!(self, MovePhase::Finished | MovePhase::Undone | MovePhase::RolledBack)
    }
}

/// What the operator asks of an existing move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveRequest {
    /// Before the commit: roll back.
    Cancel,
    /// After the commit: bring the database back.
    Undo,
    /// After the commit: remove all leftovers of the move; the old copy is closed and renamed.
    Finish,
    /// Like `Finish`, but the old copy is dropped.
    FinishAndDrop,
}

/// The unit of recording. Each step's `run` and `undo` is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStep {
    /// Changes nothing; reports every blocker.
    Preflight,
    /// Roles, empty database, helper schema on both sides; guard and publication on the source.
    Provision,
    /// Slot with its snapshot; in it schema before data, rows, then indexes and constraints.
    Copy,
    /// Subscription from the slot until the backlog is small; reverse objects prepared.
    Catchup,
    /// Schema, rows and materialized views of both sides are compared while the clients work.
    Compare,
    /// Warm, latch, fence ahead, hold, drain, fence, prove, marker, sequences, commit, release.
    Cutover,
    /// Reverse replication on; forward objects removed.
    Settle,
    /// A cutover back.
    UndoCutover,
    /// Everything that the move made is removed from both systems.
    Finish,
}

impl MoveStep {
    pub const ALL: [MoveStep; 9] = [
        MoveStep::Preflight,
        MoveStep::Provision,
        MoveStep::Copy,
        MoveStep::Catchup,
        MoveStep::Compare,
        MoveStep::Cutover,
        MoveStep::Settle,
        MoveStep::UndoCutover,
        MoveStep::Finish,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            MoveStep::Preflight => "preflight",
            MoveStep::Provision => "provision",
            MoveStep::Copy => "copy",
            MoveStep::Catchup => "catchup",
            MoveStep::Compare => "compare",
            MoveStep::Cutover => "cutover",
            MoveStep::Settle => "settle",
            MoveStep::UndoCutover => "undo_cutover",
            MoveStep::Finish => "finish",
        }
    }
}

/// An entry in the log of a move.
pub type StepEntry = LogEntry<MoveStep>;

/// Durable data of the steps. Names of objects are derived from the ids of the store and the move, so they
/// are not stored here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveFacts {
    /// The id of the store when the move was recorded: part of the names of all objects of the move. `None`:
    /// an older version began the move, and the names contain only the number.
    #[serde(default)]
    pub store: Option<StoreId>,
    /// The words that this store may have claimed the move with, oldest first; see `control::moves::claim`.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Why another store is taken to drive the move: nothing is done until ADOPT MOVE.
    #[serde(default)]
    pub claim_lost: Option<String>,
    /// The source's state before the fence: connection limit and ACL, restored by the undo.
    pub saved_fence: BTreeMap<SystemName, SavedFence>,
    /// The position of the slot's snapshot.
    pub consistent_point: Option<Lsn>,
    /// Epoch that the cutover will commit; recorded before the attempt.
    pub cutover_epoch: Option<Epoch>,
    /// Epoch that the undo will commit.
    pub undo_epoch: Option<Epoch>,
    /// What FINISH MOVE is to do with the old copy.
    #[serde(default)]
    pub old_copy: Option<OldCopy>,
    /// Roles that the move created on the target, removed if it rolls back.
    pub roles_created: Vec<String>,
    /// Settings that a system's copy of the database has because the other system's server has them: for a
    /// role in it or for all roles, as `name=value`. They belong to the move, not to the database.
    #[serde(default)]
    pub carried_settings: BTreeMap<SystemName, Vec<(Option<String>, String)>>,
    /// Roles that the database needs on either system, whichever party created them: no other move drops
    /// them.
    #[serde(default)]
    pub roles_needed: Vec<String>,
    /// (role, member) of the memberships that the move granted on the target.
    #[serde(default)]
    pub memberships_granted: Vec<(String, String)>,
    /// The state of the roles of each side at their last comparison, on the way forth.
    #[serde(default)]
    pub roles_seen: BTreeMap<SystemName, SeenRoles>,
    /// The same for the way back: it begins with their state at the cutover, equal or not.
    #[serde(default)]
    pub roles_seen_back: BTreeMap<SystemName, SeenRoles>,
    /// Warnings and notes of the preflight; blockers end a move before it began. Also what was not carried
    /// over later because the other side has changed it, too.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Result of the comparison before the cutover: everything was equal, or the move would not have gone on.
    #[serde(default)]
    pub compared_before: Option<Compared>,
    /// Tables that were compared after the commit and found equal, of how many.
    pub tables_verified: Option<(u32, u32)>,
    /// Differences between the two copies, a sentence for each; bounded. Not empty: an alarm.
    #[serde(default)]
    pub differences: Vec<String>,
    /// The operator's acceptance that the copies differ, or may differ.
    #[serde(default)]
    pub accepted: Option<AcceptedDifferences>,
    /// Free for steps: small facts by name.
    pub notes: BTreeMap<String, String>,
}

/// The recorded state of a role: property (`LOGIN`, `SET work_mem`) and value; for a password the digest of
/// its verifier.
pub type SeenRole = BTreeMap<String, String>;

/// The roles of one system when they were last read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRoles {
    pub roles: BTreeMap<String, SeenRole>,
    /// (role, member, options)
    pub memberships: BTreeSet<(String, String, String)>,
}

/// What to do with the copy that is no longer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OldCopy {
    /// Renamed `<name>__moved_<move>`; refuses connections.
    Closed,
    Dropped,
}

/// One finding of the preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: FindingSeverity,
    /// A stable name for programs: `wal_level`, `replica_identity`.
    pub check: String,
    /// Its object: a table, a role, a setting.
    pub object: Option<String>,
    /// The finding as a sentence for people.
    pub message: String,
    /// The complete cure: SQL, or a command.
    pub cure: Option<Cure>,
    /// The party that has to act.
    pub responsible: Blame,
}

/// `2 blockers: 1 for the product team, 1 for the platform team`, in the order of the findings; `None`
/// without a blocker.
pub fn blockers_by_side(findings: &[Finding]) -> Option<String> {
    let mut sides: Vec<(Blame, usize)> = Vec::new();
    for blocker in findings.iter().filter(|finding| finding.severity == FindingSeverity::Blocker) {
        match sides.iter_mut().find(|(side, _)| *side == blocker.responsible) {
            Some((_, count)) => *count += 1,
            None => sides.push((blocker.responsible, 1)),
        }
    }
    let all: usize = sides.iter().map(|(_, count)| count).sum();
    let each: Vec<String> = sides.iter().map(|(side, count)| format!("{count} for the {side}")).collect();
    let blockers = if all == 1 { "blocker" } else { "blockers" };
    (all > 0).then(|| format!("{all} {blockers}: {}", each.join(", ")))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingSeverity {
    /// The move cannot start.
    Blocker,
    /// The move can start; the effect may be unexpected.
    Warning,
    Note,
}

impl FindingSeverity {
    pub fn as_str(self) -> &'static str {
        match self {
            FindingSeverity::Blocker => "blocker",
            FindingSeverity::Warning => "warning",
            FindingSeverity::Note => "note",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFence {
    pub connection_limit: i32,
    /// `pg_database.datacl` as text; `None` if it was NULL (the default).
    pub acl: Option<String>,
}

/// Why a move was rolled back or parked.
pub type MoveFailure = Failure<MoveStep>;

/// Key `progress/<move id>`: written often, not durable. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// The phase of the move to which the rest belongs; `None` if an older version wrote it.
    #[serde(default)]
    pub phase: Option<MovePhase>,
    /// The current activity, as text for people: `copying 3 of 8 tables`. Read it by
    /// [`MoveProgress::activity_in`].
    pub activity: String,
    pub bytes_total: u64,
    pub bytes_copied: u64,
    pub tables_total: u32,
    pub tables_copied: u32,
    pub rows_copied: u64,
    pub bytes_per_second: u64,
    /// Bytes of WAL that the target has not applied; `None` before Catchup.
    pub lag_bytes: Option<u64>,
    /// Age of the newest row known to be on the target.
    pub lag_ms: Option<u64>,
    pub eta_ms: Option<u64>,
    /// Sessions that delay the move.
    pub pinned: Vec<Pinned>,
    /// The 99th percentile of clients' waits for answers: before the copy, and while rows are copied.
    #[serde(default)]
    pub client_p99_before: Option<Duration>,
    #[serde(default)]
    pub client_p99: Option<Duration>,
    /// The share of its time that copying gets, so that clients do not notice it.
    #[serde(default)]
    pub copy_share_percent: Option<u32>,
}

impl MoveProgress {
    /// The activity in a phase. `None`: this phase has no activity yet.
    pub fn activity_in(&self, phase: MovePhase) -> Option<&str> {
        let said = !self.activity.is_empty() && !phase.has_ended();
        (said && self.phase == Some(phase)).then_some(self.activity.as_str())
    }
}

/// How a cutover (or an undo) paused its clients. All times are measured, the parts by the mover, the stalls
/// by proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReport {
    /// From the order to hold until the order to release was committed.
    pub hold: Duration,
    /// The longest that any client request waited.
    pub longest_stall: Duration,
    pub median_stall: Duration,
    /// Requests that had to wait.
    pub held_requests: u32,
    /// Every wait in microseconds, longest first, at most 1000.
    pub waits_us: Vec<u64>,
    /// Parts in order, in microseconds: `drain` (running transactions end, sessions are ready), `fence`
    /// (other sessions are terminated, the proof, the marker's commit), `marker` (it arrives, sequences are
    /// set), `seal` (the synced commit on the new side), `commit` (the compare-and-swap). `release` comes
    /// after: until every session is on the new side.
    pub parts_us: Vec<(String, u64)>,
    /// Attempts that were aborted within their budget before this one.
    pub aborted_attempts: u32,
    /// Client sessions that changed their system.
    pub sessions: u32,
    /// Sessions with unknown state at the beginning of the hold, which had to be read during it.
    #[serde(default)]
    pub asked: u32,
    /// The part of `drain` in which clients' transactions still ran: caused by the load itself.
    #[serde(default)]
    pub transactions: Duration,
}
