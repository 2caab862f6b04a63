//! How gates and rosters tell the follower that something changed: a set of databases and one notification.
//!
//! # Why
//! The follower serves thousands of databases from one task. A ring is at most one entry for each database, however many
//! sessions ring; a bell that rang already costs one load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::DatabaseId;

/// How soon the follower should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// An order may be done: somebody waits.
    Now,
    /// Figures changed.
    Soon,
}

/// Collects the rings of all databases.
#[derive(Debug, Default)]
pub(crate) struct Tower {
    rung: Mutex<Vec<(DatabaseId, Urgency)>>,
    notify: Notify,
}

impl Tower {
    /// The databases that rang. Cancel-safe: they are taken without waiting once there are some.
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

/// The bell of one database.
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

    /// Before the follower looks: what changes from here on rings again.
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
