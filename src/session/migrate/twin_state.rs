//! Where a session's twin is, and the tasks beside the session that bring it there.
//!
//! ```text
//!   Empty -> Queued -> Admitted -> Preparing -> Ready -> Preparing (a refresh) -> Ready ...
//!     ^                                |
//!     +---- BackingOff <------------------+-> Failed (not before the next order)
//! ```
//!
//! # Why tasks
//! Connecting and restoring take many round trips on another system. The session goes on meanwhile; it only
//! polls the task's handle, and looks at the result when its client is at a boundary. A task ends with its
//! handle.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::restore::LockPatience;
use super::twin::{RestoreError, Twin};
use crate::backend::ConnectRequest;
use crate::event_loop::{self, JoinError, Task};
use crate::model::Place;
use crate::session::state::SessionState;
use crate::tls::Connector;

const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(2);

/// The state of the twin; the drawing is in the module's documentation.
#[derive(Debug)]
pub(in crate::session) enum TwinState {
    /// Nothing runs; `tries` attempts have failed in a row.
    Empty {
        tries: u32,
    },
    /// Waits until few enough other sessions of the worker prepare a twin.
    Queued(Task<Option<OwnedSemaphorePermit>>),
    /// May take its state now. The permit is held until the twin is built.
    Admitted(Option<OwnedSemaphorePermit>),
    Preparing {
        place: Box<Place>,
        tries: u32,
        task: Task<Result<Twin, RestoreError>>,
    },
    Ready {
        place: Box<Place>,
        twin: Box<Twin>,
    },
    /// The target does not take the session's state, or its role.
    Failed {
        place: Box<Place>,
        reasons: Box<[String]>,
    },
    /// An attempt failed that may succeed later, or a pin may go away.
    BackingOff {
        tries: u32,
        task: Task<()>,
    },
}

impl Default for TwinState {
    fn default() -> TwinState {
        TwinState::Empty { tries: 0 }
    }
}

/// A session's permit to ask for its state; until it has one, it serves its client.
#[derive(Debug)]
pub(in crate::session) enum QueuedPermit {
    /// Waits until few enough other sessions of the worker ask.
    Queued(Task<Option<OwnedSemaphorePermit>>),
    Given(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>),
}

impl QueuedPermit {
    pub(in crate::session) fn queued(twin_builds: &Arc<Semaphore>) -> Box<QueuedPermit> {
        Box::new(QueuedPermit::Queued(Task::spawn(Arc::clone(twin_builds).acquire_owned().map(Result::ok))))
    }

    /// Returns `true` once, when the permit has been granted.
    pub(in crate::session) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let QueuedPermit::Queued(task) = self else { return false };
        match task.poll(cx) {
            Poll::Ready(permit) => {
                *self = QueuedPermit::Given(permit.ok().flatten());
                true
            }
            Poll::Pending => false,
        }
    }
}

/// What a twin is built from.
#[derive(Debug)]
pub(in crate::session) struct TwinPlan {
    pub(in crate::session) request: ConnectRequest,
    pub(in crate::session) connector: Connector,
    pub(in crate::session) state: Arc<SessionState>,
    pub(in crate::session) time_max: Duration,
}

impl TwinState {
    /// `learned`: cancelled when it is known what the functions of the database do.
    pub(in crate::session) fn queued(twin_builds: &Arc<Semaphore>, learned: CancellationToken) -> TwinState {
        let twin_builds = Arc::clone(twin_builds);
        TwinState::Queued(Task::spawn(async move {
            learned.cancelled_owned().await;
            twin_builds.acquire_owned().await.ok()
        }))
    }

    pub(in crate::session) fn building(
        plan: TwinPlan,
        tries: u32,
        permit: Option<OwnedSemaphorePermit>,
    ) -> TwinState {
        let place = Box::new(plan.request.place.clone());
        let task = Task::spawn(async move {
            let _permit = permit;
            let deadline = Instant::now() + plan.time_max;
            Box::pin(Twin::build(&plan.request, &plan.connector, deadline, &plan.state)).await
        });
        TwinState::Preparing { place, tries, task }
    }

    pub(in crate::session) fn refreshing(
        place: Box<Place>,
        mut twin: Box<Twin>,
        state: Arc<SessionState>,
        patience: LockPatience,
        time_max: Duration,
    ) -> TwinState {
        let task = Task::spawn(async move {
            Box::pin(twin.refresh(&state, patience, Instant::now() + time_max)).await?;
            Ok(*twin)
        });
        TwinState::Preparing { place, tries: 0, task }
    }

    pub(in crate::session) fn backing_off(tries: u32) -> TwinState {
        let rest = REST_MIN.saturating_mul(1 << tries.min(8)).min(REST_MAX);
        TwinState::BackingOff { tries, task: Task::spawn(tokio::time::sleep(rest)) }
    }

    /// The place of the twin that exists, is being prepared, or has failed.
    pub(in crate::session) fn place(&self) -> Option<&Place> {
        match self {
            TwinState::Preparing { place, .. }
            | TwinState::Ready { place, .. }
            | TwinState::Failed { place, .. } => Some(place),
            TwinState::Empty { .. }
            | TwinState::Queued(_)
            | TwinState::Admitted(_)
            | TwinState::BackingOff { .. } => None,
        }
    }

    /// `true`: a task has ended, and the session should look at the result. Where no task runs, nothing is
    /// polled and no waker is registered.
    #[inline]
    pub(in crate::session) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        // Fast path: this runs at every poll of the session, and the slot is almost always empty.
        !matches!(self, TwinState::Empty { .. }) && self.poll_task(cx)
    }

    fn poll_task(&mut self, cx: &mut Context<'_>) -> bool {
        let next = match self {
            TwinState::Queued(task) => task.poll(cx).map(|permit| TwinState::Admitted(permit.ok().flatten())),
            TwinState::BackingOff { tries, task } => {
                task.poll(cx).map(|_| TwinState::Empty { tries: *tries })
            }
            TwinState::Preparing { place, tries, task } => {
                task.poll(cx).map(|outcome| after_preparing(place, *tries, outcome))
            }
            TwinState::Empty { .. }
            | TwinState::Admitted(_)
            | TwinState::Ready { .. }
            | TwinState::Failed { .. } => Poll::Pending,
        };
        match next {
            Poll::Ready(next) => *self = next,
            Poll::Pending => return false,
        }
        true
    }

    /// Waits for a task that prepares a twin; other tasks are not waited for.
    pub(in crate::session) async fn ended(mut self) -> TwinState {
        if let TwinState::Preparing { .. } = self {
            poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        self
    }

    /// Drops a twin if its connection has ended: its system was restarted, or a timeout ended it.
    pub(in crate::session) fn dismiss_dead(&mut self) {
        if let TwinState::Ready { twin, .. } = self
            && !twin.is_alive()
        {
            self.dismiss();
        }
    }

    /// Aborts a running task; closes the twin's connection in a task of its own.
    pub(in crate::session) fn dismiss(&mut self) {
        if let TwinState::Ready { twin, .. } = std::mem::take(self) {
            event_loop::spawn(twin.into_connection().terminate());
        }
    }
}

fn after_preparing(
    place: &Place,
    tries: u32,
    outcome: Result<Result<Twin, RestoreError>, JoinError>,
) -> TwinState {
    match outcome {
        Ok(Ok(twin)) => TwinState::Ready { place: Box::new(place.clone()), twin: Box::new(twin) },
        Ok(Err(error)) => match error.reasons() {
            reasons if reasons.is_empty() => {
                tracing::warn!(system = %place.system, %error, tries, "a twin was not made; trying again");
                TwinState::backing_off(tries.saturating_add(1))
            }
            reasons => TwinState::Failed { place: Box::new(place.clone()), reasons: reasons.into() },
        },
        Err(_) => TwinState::backing_off(tries.saturating_add(1)),
    }
}
