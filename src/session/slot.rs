//! Where a session's twin is, and the tasks beside the session that bring it there.
//!
//! ```text
//!   Empty -> Queued -> Admitted -> Preparing -> Ready -> Preparing (a refresh) -> Ready ...
//!     ^                                |
//!     +---- Resting <------------------+-> Failed (not before the next order)
//! ```
//!
//! # Why tasks
//! Connecting and restoring take many round trips on another system. The session goes on meanwhile; it only polls
//! the task's handle, and looks at the result when its client is at a boundary. A task ends with its handle.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::restore::LockPatience;
use super::state::SessionState;
use super::twin::{Twin, TwinError};
use crate::backend::ConnectRequest;
use crate::event_loop::{self, Lost, Task};
use crate::model::Place;
use crate::tls::Connector;

const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) enum Slot {
    /// After so many failures in a row.
    Empty {
        tries: u32,
    },
    /// Waits until the worker has few enough others to warm up.
    Queued(Task<Option<OwnedSemaphorePermit>>),
    /// May take its state now. The permit goes along to the end of the building.
    Admitted(Option<OwnedSemaphorePermit>),
    Preparing {
        place: Box<Place>,
        tries: u32,
        task: Task<Result<Twin, TwinError>>,
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
    /// Something failed that may not fail again, or a reason to stay may pass.
    Resting {
        tries: u32,
        task: Task<()>,
    },
}

impl Default for Slot {
    fn default() -> Slot {
        Slot::Empty { tries: 0 }
    }
}

/// A session's turn to ask for its state; it serves its client meanwhile.
#[derive(Debug)]
pub(super) enum Turn {
    /// Waits until few enough others of the worker ask.
    Queued(Task<Option<OwnedSemaphorePermit>>),
    Given(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>),
}

impl Turn {
    pub(super) fn queued(warmers: &Arc<Semaphore>) -> Box<Turn> {
        let warmers = Arc::clone(warmers);
        Box::new(Turn::Queued(Task::spawn(async move { warmers.acquire_owned().await.ok() })))
    }

    /// `true`: it is the session's turn from now on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Turn::Queued(task) = self else { return false };
        match task.poll(cx) {
            Poll::Ready(permit) => {
                *self = Turn::Given(permit.ok().flatten());
                true
            }
            Poll::Pending => false,
        }
    }
}

/// What a twin is built from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: ConnectRequest,
    pub(super) connector: Connector,
    pub(super) state: Arc<SessionState>,
    pub(super) time_max: Duration,
}

impl Slot {
    pub(super) fn queued(warmers: &Arc<Semaphore>) -> Slot {
        let warmers = Arc::clone(warmers);
        Slot::Queued(Task::spawn(async move { warmers.acquire_owned().await.ok() }))
    }

    pub(super) fn building(plan: Plan, tries: u32, permit: Option<OwnedSemaphorePermit>) -> Slot {
        let place = Box::new(plan.request.place.clone());
        let task = Task::spawn(async move {
            let _permit = permit;
            let deadline = Instant::now() + plan.time_max;
            Box::pin(Twin::build(&plan.request, &plan.connector, deadline, &plan.state)).await
        });
        Slot::Preparing { place, tries, task }
    }

    pub(super) fn refreshing(
        place: Box<Place>,
        mut twin: Box<Twin>,
        state: Arc<SessionState>,
        patience: LockPatience,
        time_max: Duration,
    ) -> Slot {
        let task = Task::spawn(async move {
            Box::pin(twin.refresh(&state, patience, Instant::now() + time_max)).await?;
            Ok(*twin)
        });
        Slot::Preparing { place, tries: 0, task }
    }

    pub(super) fn resting(tries: u32) -> Slot {
        let rest = REST_MIN.saturating_mul(1 << tries.min(8)).min(REST_MAX);
        Slot::Resting { tries, task: Task::spawn(tokio::time::sleep(rest)) }
    }

    /// The place that it is for, as far as it is for one.
    pub(super) fn place(&self) -> Option<&Place> {
        match self {
            Slot::Preparing { place, .. } | Slot::Ready { place, .. } | Slot::Failed { place, .. } => {
                Some(place)
            }
            Slot::Empty { .. } | Slot::Queued(_) | Slot::Admitted(_) | Slot::Resting { .. } => None,
        }
    }

    /// `true`: a task has ended, and the session should look at what there is now. Where no task runs, nothing is
    /// polled and nothing will wake.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        // Nearly always, and looked at whenever a session is.
        !matches!(self, Slot::Empty { .. }) && self.poll_task(cx)
    }

    fn poll_task(&mut self, cx: &mut Context<'_>) -> bool {
        let next = match self {
            Slot::Queued(task) => task.poll(cx).map(|permit| Slot::Admitted(permit.ok().flatten())),
            Slot::Resting { tries, task } => task.poll(cx).map(|_| Slot::Empty { tries: *tries }),
            Slot::Preparing { place, tries, task } => {
                task.poll(cx).map(|outcome| after_preparing(place, *tries, outcome))
            }
            Slot::Empty { .. } | Slot::Admitted(_) | Slot::Ready { .. } | Slot::Failed { .. } => {
                Poll::Pending
            }
        };
        match next {
            Poll::Ready(next) => *self = next,
            Poll::Pending => return false,
        }
        true
    }

    /// What it becomes when nothing runs any more: of a task that prepares a twin its outcome, of others nothing.
    pub(super) async fn ended(mut self) -> Slot {
        if let Slot::Preparing { .. } = self {
            poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        self
    }

    /// Lets go of a twin whose connection has ended while it waited: its system was restarted, or a timeout ended it.
    pub(super) fn dismiss_dead(&mut self) {
        if let Slot::Ready { twin, .. } = self
            && !twin.is_alive()
        {
            self.dismiss();
        }
    }

    /// Ends what runs and closes what there is, beside the session.
    pub(super) fn dismiss(&mut self) {
        if let Slot::Ready { twin, .. } = std::mem::take(self) {
            event_loop::spawn(twin.into_connection().terminate());
        }
    }
}

fn after_preparing(place: &Place, tries: u32, outcome: Result<Result<Twin, TwinError>, Lost>) -> Slot {
    match outcome {
        Ok(Ok(twin)) => Slot::Ready { place: Box::new(place.clone()), twin: Box::new(twin) },
        Ok(Err(error)) => match error.reasons() {
            reasons if reasons.is_empty() => {
                tracing::warn!(system = %place.system, %error, tries, "a twin was not made; trying again");
                Slot::resting(tries.saturating_add(1))
            }
            reasons => Slot::Failed { place: Box::new(place.clone()), reasons: reasons.into() },
        },
        Err(_) => Slot::resting(tries.saturating_add(1)),
    }
}
