//! Progress of a move, for display.
//!
//! Steps change the progress as often as they like; it is written to the store at most a few times a second,
//! not durably.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::model::{MoveId, MovePhase, MoveProgress};

/// Interval between writes to the store.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

/// The progress of one move. Clones share it, so that parallel workers can report. The writer ends with the
/// last clone.
#[derive(Debug, Clone)]
pub struct Progress {
    value: Arc<watch::Sender<MoveProgress>>,
}

impl Progress {
    /// Starts the writer of the progress of a move that is in `phase`. Needs a tokio runtime.
    pub fn start(catalog: Catalog, id: MoveId, phase: MovePhase) -> Progress {
        let (value, changes) = watch::channel(MoveProgress { phase: Some(phase), ..MoveProgress::default() });
        tokio::spawn(write_changes(catalog, id, changes));
        Progress { value: Arc::new(value) }
    }

    /// Enters a phase and clears the activity of the one before. Activity and phase are stored as one value,
    /// so a reader always sees an activity with its own phase.
    pub fn enter(&self, phase: MovePhase) {
        self.value.send_if_modified(|progress| {
            let is_new = progress.phase != Some(phase);
            if is_new {
                progress.phase = Some(phase);
                progress.activity.clear();
                progress.pinned.clear();
            }
            is_new
        });
    }

    /// Changes the progress: `progress.update(|p| p.rows_copied += n)`.
    pub fn update(&self, change: impl FnOnce(&mut MoveProgress)) {
        self.value.send_modify(change);
    }

    /// Sets the activity as text for people: `copying 3 of 8 tables`.
    pub fn set_activity(&self, activity: impl Into<String>) {
        let activity = activity.into();
        self.value.send_modify(|progress| progress.activity = activity);
    }

    pub fn current(&self) -> MoveProgress {
        self.value.borrow().clone()
    }
}

async fn write_changes(catalog: Catalog, id: MoveId, mut changes: watch::Receiver<MoveProgress>) {
    loop {
        let open = changes.changed().await.is_ok();
        let progress = changes.borrow_and_update().clone();
        if let Err(error) = catalog.moves().put_progress(id, &progress).await {
            tracing::warn!(%error, move_id = id.0, "cannot write the progress of a move");
        }
        if !open {
            return;
        }
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::embedded::EmbeddedStore;

    #[tokio::test]
    async fn what_was_said_in_one_phase_is_never_shown_with_another() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path().join("store")).unwrap();
        let progress = Progress::start(Catalog::new(store), MoveId(1), MovePhase::Preflight);
        progress.set_activity("looking for what is in the way");
        let said = progress.current();
        assert_eq!(said.activity_in(MovePhase::Preflight), Some("looking for what is in the way"));
        // The record is in the next phase already; the progress of the last one is still in the store.
        assert_eq!(said.activity_in(MovePhase::Provision), None);
        progress.enter(MovePhase::Provision);
        assert_eq!(progress.current().activity_in(MovePhase::Provision), None);
        progress.set_activity("preparing roles");
        assert_eq!(progress.current().activity_in(MovePhase::Provision), Some("preparing roles"));
    }
}
