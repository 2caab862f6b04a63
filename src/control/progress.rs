//! How far a move is, for whoever watches it.
//!
//! Steps change the progress as often as they like; it reaches the store at most a few times a second, not durably.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::model::{MoveId, MoveProgress};

/// Between two writes to the store.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

/// The progress of one move. Clones share it, so that parallel workers can report. The writer ends with the last clone.
#[derive(Debug, Clone)]
pub struct Progress {
    value: Arc<watch::Sender<MoveProgress>>,
}

impl Progress {
    /// Starts the writer of a move's progress. Needs a tokio runtime.
    pub fn start(catalog: Catalog, id: MoveId) -> Progress {
        let (value, changes) = watch::channel(MoveProgress::default());
        tokio::spawn(write_changes(catalog, id, changes));
        Progress { value: Arc::new(value) }
    }

    /// Changes the progress: `progress.update(|p| p.rows_copied += n)`.
    pub fn update(&self, change: impl FnOnce(&mut MoveProgress)) {
        self.value.send_modify(change);
    }

    /// Says what is being done now, for a person: `copying 3 of 8 tables`.
    pub fn say(&self, activity: impl Into<String>) {
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
        if let Err(error) = catalog.put_progress(id, &progress).await {
            tracing::warn!(%error, move_id = id.0, "cannot write the progress of a move");
        }
        if !open {
            return;
        }
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
}
