//! The connections to the admin port: their process ids and keys, and the waits that cancel requests end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::admin::execute::Executor;
use crate::admin::port::places::AdminPlace;
use crate::wire::startup::CancelRequest;

/// What all connections share.
pub(in crate::admin) struct Connections {
    pub(in crate::admin) executor: Executor,
    /// When cancelled, every connection ends with 57P01.
    pub(in crate::admin) closing: CancellationToken,
    /// For a user without a role on the platform.
    pub(in crate::admin) idle_time_max: Duration,
    /// By process id and key of BackendKeyData: the wait that a cancel request ends.
    waits: Mutex<HashMap<(i32, Bytes), CancellationToken>>,
    last_pid: AtomicI32,
}

/// A connection to the admin port; unregistered when dropped.
pub(in crate::admin) struct AdminConnection {
    pub(in crate::admin) pid: i32,
    pub(in crate::admin) key: Bytes,
    connections: Arc<Connections>,
    _place: AdminPlace,
}

impl Drop for AdminConnection {
    fn drop(&mut self) {
        self.connections.waits().remove(&(self.pid, self.key.clone()));
    }
}

impl AdminConnection {
    /// A token for the next command: a cancel request for this connection cancels it.
    pub(in crate::admin) fn next_wait(&self) -> CancellationToken {
        let token = self.connections.closing.child_token();
        self.connections.waits().insert((self.pid, self.key.clone()), token.clone());
        token
    }
}

impl Connections {
    pub(in crate::admin) fn new(executor: Executor, idle_time_max: Duration) -> Connections {
        Connections {
            executor,
            closing: CancellationToken::new(),
            idle_time_max,
            waits: Mutex::default(),
            last_pid: AtomicI32::new(0),
        }
    }

    pub(in crate::admin) fn register(self: &Arc<Self>, place: AdminPlace) -> AdminConnection {
        let pid = self.last_pid.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
        let key = Bytes::copy_from_slice(&rand::random::<[u8; 4]>());
        AdminConnection { pid, key, connections: Arc::clone(self), _place: place }
    }

    pub(in crate::admin) fn cancel(&self, request: &CancelRequest) {
        if let Some(wait) = self.waits().get(&(request.pid, request.key.clone())) {
            wait.cancel();
        }
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<(i32, Bytes), CancellationToken>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
