//! Requests of proxies before a login: bring a database's logins in the catalogue up to date with its system.
//!
//! ```text
//!   proxy    -- request: database --> synchroniser of logins: reads the system, writes login/<database>/
//!   proxy    <-- outcome: current as of this revision --
//!   follower: takes the commits up to that revision; then the login goes on
//! ```
//!
//! # Why the outcome is a revision and not the logins
//! A proxy learns of logins in one way: it follows the catalogue. A request ensures that the catalogue is up
//! to date; it does not add a second way.
//!
//! # Why a channel
//! Proxy and synchroniser are one process. With several processes, a request becomes a key below the proxy's
//! own prefix, and the revision in the outcome means the same.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::store::Revision;
use crate::model::DatabaseId;

/// Capacity of the channel. If it is full, a login requests nothing, and uses what is known.
const REQUESTS_MAX: usize = 1_024;

/// The proxy's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LoginRefreshSender {
    requests: mpsc::Sender<LoginRefreshRequest>,
    debts: Arc<ReadingDebts>,
}

/// The synchroniser's end.
#[derive(Debug)]
pub struct LoginRefreshReceiver {
    requests: mpsc::Receiver<LoginRefreshRequest>,
    debts: Arc<ReadingDebts>,
}

/// What readings have cost each database lately. A debt is a time, and becomes less as time passes: so the
/// readings of a database take a bounded part of it. Both ends know the debts: a login for which there will
/// be no reading does not cost a request.
#[derive(Debug, Default)]
pub struct ReadingDebts {
    /// The time at which each debt is paid.
    paid_at: DashMap<DatabaseId, Instant>,
}

impl ReadingDebts {
    /// While a database owes more than this, its logins request nothing.
    pub const MAX: Duration = Duration::from_secs(5);

    /// Whether the database may be read for a login.
    pub fn may_read(&self, database: &DatabaseId, now: Instant) -> bool {
        let paid_at = self.paid_at.get(database);
        paid_at.is_none_or(|paid_at| paid_at.saturating_duration_since(now) <= ReadingDebts::MAX)
    }

    /// The database was read.
    pub fn add(&self, database: &DatabaseId, cost: Duration, now: Instant) {
        let mut paid_at = self.paid_at.entry(database.clone()).or_insert(now);
        *paid_at = (*paid_at).max(now) + cost;
    }

    /// Forgets debts that are paid.
    pub fn forget_paid(&self, now: Instant) {
        self.paid_at.retain(|_, paid_at| *paid_at > now);
    }
}

/// A login to this database waits for the outcome.
#[derive(Debug)]
pub struct LoginRefreshRequest {
    pub database: DatabaseId,
    reply: oneshot::Sender<LoginRefreshOutcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRefreshOutcome {
    /// The system was read after the request was sent. The catalogue has the result as of this revision.
    Current(Revision),
    /// The system is read often enough already. What is known is no older than the time between two readings.
    Often,
    /// The system cannot be read now, or the result would not count because a move is at its cutover.
    Unread,
}

/// Creates both ends.
pub fn channel() -> (LoginRefreshSender, LoginRefreshReceiver) {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    let debts = Arc::<ReadingDebts>::default();
    (
        LoginRefreshSender { requests: sender, debts: Arc::clone(&debts) },
        LoginRefreshReceiver { requests: receiver, debts },
    )
}

impl LoginRefreshSender {
    /// Waits without a bound of its own.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the request back; its outcome is dropped.
    pub async fn refresh(&self, database: &DatabaseId) -> LoginRefreshOutcome {
        if !self.debts.may_read(database, Instant::now()) {
            return LoginRefreshOutcome::Often;
        }
        let (reply, outcome) = oneshot::channel();
        match self.requests.try_send(LoginRefreshRequest { database: database.clone(), reply }) {
            Ok(()) => outcome.await.unwrap_or(LoginRefreshOutcome::Unread),
            Err(mpsc::error::TrySendError::Full(_)) => LoginRefreshOutcome::Often,
            Err(mpsc::error::TrySendError::Closed(_)) => LoginRefreshOutcome::Unread,
        }
    }
}

impl LoginRefreshReceiver {
    /// `None`: all senders are dropped. Cancel-safe.
    pub async fn next(&mut self) -> Option<LoginRefreshRequest> {
        self.requests.recv().await
    }

    pub fn debts(&self) -> &Arc<ReadingDebts> {
        &self.debts
    }
}

impl LoginRefreshRequest {
    pub fn answer(self, outcome: LoginRefreshOutcome) {
        // The login may have ended meanwhile.
        let _ = self.reply.send(outcome);
    }

    /// Whether the login has ended meanwhile.
    pub fn is_withdrawn(&self) -> bool {
        self.reply.is_closed()
    }
}
