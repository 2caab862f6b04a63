//! Keeps this proxy in the list of those that must acknowledge orders.
//!
//! Owns the lease under which the proxy is listed, and a task that keeps it alive. It deliberately does not
//! list the proxy again: the follower does, and acknowledges anew.
//!
//! # Why
//! A proxy that died acknowledges nothing. Without a lease it would stay listed, and every order would wait
//! for it. Being listed says for which proxies an order waits, never which ones may serve clients: a proxy
//! whose lease has ended goes on, and the fence of a move shuts it out until it follows again.
//!
//! A task of its own, because the follower may wait for the store for longer than a lease lives.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::catalog::store::{Lease, LeaseId, StoreError};
use crate::model::ProxyRecord;

/// How often the lease is kept alive within its time: one call may be late or fail.
const KEEP_ALIVES: u32 = 3;

/// Dropping it stops keeping the lease alive.
#[derive(Debug)]
pub(super) struct Enlistment {
    lease: LeaseId,
    lost: CancellationToken,
    task: JoinHandle<()>,
}

impl Enlistment {
    pub(super) async fn begin(
        catalog: &Catalog,
        proxy: &ProxyRecord,
        listed_for: Duration,
    ) -> Result<Enlistment, StoreError> {
        let lease = catalog.fleet().enlist(proxy, listed_for).await?;
        let lost = CancellationToken::new();
        let task = tokio::spawn(keep(catalog.clone(), lease, lost.clone()));
        Ok(Enlistment { lease: lease.id, lost, task })
    }

    /// What the proxy acknowledges under.
    pub(super) fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Cancelled when the lease has ended. A failed commit may find that out first.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Stops keeping the lease alive, and returns it. When it returns, nothing here uses the store.
    pub(super) async fn end(mut self) -> LeaseId {
        self.task.abort();
        // It was cancelled, or has ended.
        let _ = (&mut self.task).await;
        self.lease
    }
}

impl Drop for Enlistment {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(catalog: Catalog, lease: Lease, lost: CancellationToken) {
    loop {
        tokio::time::sleep(lease.ttl / KEEP_ALIVES).await;
        match catalog.fleet().keep_listed(lease.id).await {
            Ok(()) => {}
            Err(error @ StoreError::LeaseGone { .. }) => {
                tracing::warn!(%error, "this proxy was not listed any more: it is listed again");
                return lost.cancel();
            }
            Err(error) => tracing::warn!(%error, "cannot tell the store that this proxy lives"),
        }
    }
}
