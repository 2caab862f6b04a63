//! Hands the addresses and the store over from one process to the next, without refusing a client.
//!
//! ```text
//!   old: serves ................ SIGTERM, lets go of the store | ..... makes way, lingers, drains, ends
//!   new:   the store is in use: takes its turn, waits ........ | opens it, listens, gives its turn back
//! ```
//!
//! Of the embedded store only: another store may be open in several processes.
//!
//! Owns the turn: a lock on a file beside the store. The process that holds it waits for the store, and does
//! not listen yet.
//!
//! # Why
//! The store has one writer, so the two processes cannot serve side by side from the start; and if a process
//! listened before it could serve, half of the clients would wait in its backlog. So the new one listens when
//! it has the store, and the old one closes its listeners when the new one listens: it sees that by the turn.
//! A process that is ended without a successor just ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::StoreError;
use crate::config::Config;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const TAKES_MAX: u32 = 50;

/// The right to be the next process. Released when dropped: from then on clients are served here.
#[derive(Debug)]
pub(super) struct SuccessionLock {
    _lock: File,
}

fn turn_file(store: &Path) -> PathBuf {
    let mut path = store.to_owned().into_os_string();
    path.push(".next");
    path.into()
}

impl SuccessionLock {
    /// Like [`SuccessionLock::take`], but retries, because another process may hold the lock for an instant
    /// just to check it.
    async fn wait(store: &Path) -> std::io::Result<Option<SuccessionLock>> {
        for _ in 0..TAKES_MAX {
            match SuccessionLock::take(store)? {
                Some(turn) => return Ok(Some(turn)),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        Ok(None)
    }

    /// `None`: another process has it.
    fn take(store: &Path) -> std::io::Result<Option<SuccessionLock>> {
        let path = turn_file(store);
        let lock = File::options().write(true).create(true).truncate(false).open(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(SuccessionLock { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Opens the embedded store; if configured, waits for the process that has it.
pub(super) async fn open_embedded(
    config: &Config,
) -> Result<(Arc<EmbeddedStore>, Option<SuccessionLock>), StoreError> {
    let path = &config.store.path;
    let in_use = match EmbeddedStore::open(path) {
        Ok(store) => return Ok((store, None)),
        Err(error @ StoreError::InUse { .. }) if config.proxy.takeover => error,
        Err(error) => return Err(error),
    };
    let failed = |source: std::io::Error| StoreError::Open {
        path: turn_file(path).display().to_string(),
        source: source.into(),
    };
    let Some(turn) = SuccessionLock::wait(path).await.map_err(failed)? else { return Err(in_use) };
    tracing::info!("another process has the store; this one takes over when that one is asked to end");
    let deadline = Instant::now() + config.proxy.takeover_wait;
    loop {
        match EmbeddedStore::open(path) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_EVERY).await
            }
            opened => return opened.map(|store| (store, Some(turn))),
        }
    }
}

/// A process that waits for the store.
#[derive(Debug)]
pub(super) struct Successor {
    store: PathBuf,
}

impl Successor {
    pub(super) fn of(config: &Config) -> Option<Successor> {
        let store = &config.store.path;
        let has_turn = config.proxy.takeover && SuccessionLock::take(store).is_ok_and(|turn| turn.is_none());
        has_turn.then(|| Successor { store: store.clone() })
    }

    /// Waits until it serves clients, or has given up.
    pub(super) async fn serves(&self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        while SuccessionLock::take(&self.store).is_ok_and(|turn| turn.is_none()) {
            if Instant::now() > deadline {
                tracing::error!("the process that was to take over does not listen");
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_had_by_one_and_seen_by_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = directory.path().join("store.redb");
        config.proxy.takeover = true;
        config.proxy.takeover_wait = Duration::from_secs(60);
        let (store, turn) = open_embedded(&config).await.unwrap();
        assert!(turn.is_none() && Successor::of(&config).is_none());

        let next = tokio::spawn({
            let config = config.clone();
            async move { open_embedded(&config).await }
        });
        let successor = loop {
            match Successor::of(&config) {
                Some(successor) => break successor,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(matches!(open_embedded(&config).await, Err(StoreError::InUse { .. })), "one waits already");
        drop(store);
        let (_store, turn) = next.await.unwrap().unwrap();
        assert!(turn.is_some() && Successor::of(&config).is_some());
        drop(turn);
        successor.serves(Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn without_the_setting_a_store_in_use_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = directory.path().join("store.redb");
        let _opened = open_embedded(&config).await.unwrap();
        assert!(matches!(open_embedded(&config).await, Err(StoreError::InUse { .. })));
        assert!(Successor::of(&config).is_none());
    }
}
