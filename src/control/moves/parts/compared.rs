//! The board of a comparison: a line for each table, as it is stored and shown.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::catalog::Catalog;
use crate::model::{ComparedTable, ComparedTables, MoveId, Relation, Verdict};

use crate::control::moves::context::WallClock;
use crate::control::moves::progress::Progress;

/// Interval between writes of the board to the catalogue.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Progress of each table. Workers change their lines; a writer stores all of them periodically.
#[derive(Debug)]
pub(in crate::control) struct ComparisonProgress {
    lines: Mutex<Vec<ComparedTable>>,
    rows: AtomicU64,
    has_changed: AtomicBool,
    progress: Progress,
    clock: WallClock,
}

impl ComparisonProgress {
    pub(in crate::control) fn new(
        lines: Vec<ComparedTable>,
        progress: Progress,
        clock: WallClock,
    ) -> ComparisonProgress {
        ComparisonProgress {
            lines: Mutex::new(lines),
            rows: AtomicU64::new(0),
            has_changed: AtomicBool::new(true),
            progress,
            clock,
        }
    }

    /// The line of a table before its comparison.
    pub(in crate::control) fn waiting(name: String) -> ComparedTable {
        ComparedTable {
            name,
            relation: Relation::Table,
            verdict: Verdict::Waiting,
            rows: 0,
            ranges: 0,
            at: None,
            note: None,
        }
    }

    pub(in crate::control) fn begin(&self, line: usize) {
        self.change(line, |table| table.verdict = Verdict::Comparing);
    }

    /// Counts rows of a table that is not finished yet.
    pub(in crate::control) fn advance(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.notify();
    }

    pub(in crate::control) fn conclude(
        &self,
        line: usize,
        verdict: Verdict,
        (rows, ranges): (u64, u64),
        note: Option<String>,
    ) {
        let at = (self.clock)();
        self.change(line, |table| {
            *table = ComparedTable {
                name: std::mem::take(&mut table.name),
                relation: table.relation,
                verdict,
                rows,
                ranges,
                at: Some(at),
                note,
            };
        });
        self.notify();
    }

    fn change(&self, line: usize, change: impl FnOnce(&mut ComparedTable)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = lines.get_mut(line) {
            change(table);
        }
        self.has_changed.store(true, Ordering::Relaxed);
    }

    fn notify(&self) {
        let lines = self.lines();
        let waits = |table: &&ComparedTable| matches!(table.verdict, Verdict::Waiting | Verdict::Comparing);
        let (all, left) = (lines.len(), lines.iter().filter(waits).count());
        let rows = self.rows.load(Ordering::Relaxed);
        self.progress
            .set_activity(format!("compared {} of {all} tables on both sides, {rows} rows", all - left));
    }

    pub(in crate::control) fn lines(&self) -> Vec<ComparedTable> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores the board periodically until the future is dropped. Cancel-safe.
    pub(in crate::control) async fn keep(&self, catalog: &Catalog, id: MoveId) -> std::convert::Infallible {
        loop {
            self.store(catalog, id).await;
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }

    /// Stores the board as it is. An unreachable catalogue does not end a comparison: the record of the move
    /// holds the outcome.
    pub(in crate::control) async fn store(&self, catalog: &Catalog, id: MoveId) {
        if !self.has_changed.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = catalog.moves().put_compared_tables(id, &ComparedTables::of(self.lines())).await {
            tracing::warn!(%error, id = id.0, "cannot store what was compared");
            self.has_changed.store(true, Ordering::Relaxed);
        }
    }
}
