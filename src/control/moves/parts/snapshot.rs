//! The rows of both sides at the instant of the commit, compared afterwards.
//!
//! Between the marker and the compare-and-swap no client writes to either side. Opening a snapshot of the new
//! side then, beside the commit that seals it, adds nothing to the pause; the old side does not change before
//! the way back is switched on. So both are read while the clients work, and every row of every table is
//! compared as it was at exactly the commit.
//!
//! # Why
//! The comparison before the cutover ([`compare`](super::super::steps::compare)) ran while rows changed.
//! This one includes rows that were replicated since, and rows that were written too often before: nothing
//! changes in its snapshots. A difference is reported; the move does not go back by itself.

use tokio::time::Instant;

use crate::system::{Session, SystemError, TableName};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::verify::{self, Difference, Digest};

/// Digest of each table.
pub(in crate::control) type Digests = std::collections::BTreeMap<TableName, Digest>;

/// A side, and a session that keeps its snapshot open.
#[derive(Debug)]
pub struct ExportedSnapshot {
    end: Endpoint,
    session: Session,
    snapshot: String,
}

/// A session that is ready to open a snapshot.
#[derive(Debug)]
pub(in crate::control) struct SnapshotSession {
    end: Endpoint,
    session: Session,
}

impl SnapshotSession {
    pub(in crate::control) async fn open(end: &Endpoint) -> Result<SnapshotSession, SystemError> {
        Ok(SnapshotSession { session: end.session().await?, end: end.clone() })
    }
    /// Opens and exports the snapshot: one round trip.
    pub(in crate::control) async fn freeze(self) -> Result<ExportedSnapshot, SystemError> {
        let begin =
            self.session.batch("opening a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let export = self.session.value("exporting a snapshot", "SELECT pg_export_snapshot()", &[]);
        let ((), snapshot) = tokio::try_join!(biased; begin, export)?;
        Ok(ExportedSnapshot { end: self.end, session: self.session, snapshot })
    }
}

impl ExportedSnapshot {
    /// Opens the snapshot of a side that does not change now.
    pub(in crate::control) async fn of(end: &Endpoint) -> Result<ExportedSnapshot, SystemError> {
        SnapshotSession::open(end).await?.freeze().await
    }

    pub(in crate::control) fn pid(&self) -> i32 {
        self.session.pid()
    }

    /// Compares two sides. Returns the digests of the source's tables, and the tables that differ.
    pub(in crate::control) async fn compare(
        source: &ExportedSnapshot,
        target: &ExportedSnapshot,
        workers: usize,
    ) -> Result<(Digests, Vec<Difference>), StepError> {
        let began = Instant::now();
        let of_source = async {
            source.digests(workers).await.map_err(StepError::doing("reading the rows of the source"))
        };
        let of_target = async {
            target.digests(workers).await.map_err(StepError::doing("reading the rows of the target"))
        };
        let (of_source, of_target) = tokio::try_join!(of_source, of_target)?;
        tracing::info!(
            tables = of_source.len(),
            seconds = began.elapsed().as_secs_f64(),
            "compared the rows of both sides"
        );
        let differences = verify::differences(&of_source, &of_target);
        Ok((of_source, differences))
    }

    async fn digests(&self, workers: usize) -> Result<Digests, SystemError> {
        verify::digest_in_snapshot(&self.end, &self.session, Some(&self.snapshot), workers).await
    }
}
