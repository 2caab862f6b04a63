//! How gates and session tables notify the follower of changes: a set of databases and one notification.
//!
//! # Why
//! The follower serves thousands of databases from one task. A database has at most one pending notification,
//! however many sessions notify; when one is pending already, notifying costs one load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::DatabaseId;

/// How soon the follower should react.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// An order may be complete: the mover waits for it.
    Now,
    /// Counts changed.
    Soon,
}

/// Collects the notifications of all databases.
#[derive(Debug, Default)]
pub(crate) struct ChangeQueue {
    changed: Mutex<Vec<(DatabaseId, Urgency)>>,
    wakeup: Notify,
}

impl ChangeQueue {
    /// The databases with notifications. Cancel-safe: they are taken without waiting once there are some.
    pub(crate) async fn changed(&self) -> Vec<(DatabaseId, Urgency)> {
        loop {
            let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
            if !changed.is_empty() {
                return changed;
            }
            self.wakeup.notified().await;
        }
    }

    fn push(&self, database: DatabaseId, urgency: Urgency) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push((database, urgency));
        self.wakeup.notify_one();
    }
}

/// Notifies for one database.
#[derive(Debug)]
pub(crate) struct ChangeNotifier {
    database: DatabaseId,
    queue: Arc<ChangeQueue>,
    now: AtomicBool,
    soon: AtomicBool,
}

impl ChangeNotifier {
    pub(crate) fn new(database: DatabaseId, queue: Arc<ChangeQueue>) -> Arc<ChangeNotifier> {
        Arc::new(ChangeNotifier {
            database,
            queue,
            now: AtomicBool::new(false),
            soon: AtomicBool::new(false),
        })
    }

    pub(crate) fn notify(&self, urgency: Urgency) {
        let flag = self.flag(urgency);
        if !flag.load(Ordering::SeqCst) && !flag.swap(true, Ordering::SeqCst) {
            self.queue.push(self.database.clone(), urgency);
        }
    }

    /// Called before the follower reads the state: later changes notify again.
    pub(crate) fn rearm(&self, urgency: Urgency) {
        self.flag(urgency).store(false, Ordering::SeqCst);
    }

    fn flag(&self, urgency: Urgency) -> &AtomicBool {
        match urgency {
            Urgency::Now => &self.now,
            Urgency::Soon => &self.soon,
        }
    }
}
