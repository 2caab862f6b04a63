//! How gates and rosters notify the follower of changes: a set of databases and one notification.
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
pub(crate) struct Tower {
    rung: Mutex<Vec<(DatabaseId, Urgency)>>,
    notify: Notify,
}

impl Tower {
    /// The databases with notifications. Cancel-safe: they are taken without waiting once there are some.
    pub(crate) async fn rung(&self) -> Vec<(DatabaseId, Urgency)> {
        loop {
            let rung = std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner));
            if !rung.is_empty() {
                return rung;
            }
            self.notify.notified().await;
        }
    }

    fn push(&self, database: DatabaseId, urgency: Urgency) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).push((database, urgency));
        self.notify.notify_one();
    }
}

/// Notifies for one database.
#[derive(Debug)]
pub(crate) struct Bell {
    database: DatabaseId,
    tower: Arc<Tower>,
    now: AtomicBool,
    soon: AtomicBool,
}

impl Bell {
    pub(crate) fn new(database: DatabaseId, tower: Arc<Tower>) -> Arc<Bell> {
        Arc::new(Bell { database, tower, now: AtomicBool::new(false), soon: AtomicBool::new(false) })
    }

    pub(crate) fn ring(&self, urgency: Urgency) {
        let flag = self.flag(urgency);
        if !flag.load(Ordering::SeqCst) && !flag.swap(true, Ordering::SeqCst) {
            self.tower.push(self.database.clone(), urgency);
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
