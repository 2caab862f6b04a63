//! Writes what this process measured to the store: once a minute, and when it ends.
//!
//! # Why once a minute
//! A process that is killed loses what it measured since the last time; a planned end loses nothing. More
//! often would cost the store more than it is worth: the shortest time that is asked about is an hour.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::table::{Route, RouteTable};
use crate::catalog::Catalog;
use crate::catalog::measured::DATABASES_IN_COMMIT_MAX;
use crate::catalog::store::StoreError;
use crate::model::{Measured, Span, UnixMillis};

/// How long the end of a process waits for the store.
const LAST_TIME_MAX: Duration = Duration::from_secs(5);

/// What is written right after a minute belongs to that minute.
const MINUTE_ENDS: u64 = 1_000;

/// Running until it is stopped.
#[derive(Debug)]
pub struct Recorder {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Recorder {
    pub fn start(catalog: Catalog, routes: Arc<RouteTable>, clock: fn() -> UnixMillis) -> Recorder {
        let stop = CancellationToken::new();
        let recording = Recording { catalog, routes, clock };
        let task = tokio::spawn(recording.run(stop.clone()));
        Recorder { stop, task }
    }

    /// Writes what is left, within a bound, and lets go of the store.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if timeout(LAST_TIME_MAX, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("what was measured in the last minute is not in the store");
        }
    }
}

struct Recording {
    catalog: Catalog,
    routes: Arc<RouteTable>,
    clock: fn() -> UnixMillis,
}

impl Recording {
    async fn run(self, stop: CancellationToken) {
        let mut swept = None;
        loop {
            let day = Span::Day.number((self.clock)());
            if swept != Some(day) {
                self.note(self.catalog.measured().forget_deleted().await);
                swept = Some(day);
            }
            let minute = Span::Minute.millis();
            let left = Duration::from_millis(minute - (self.clock)().0 % minute);
            let is_last = stop.run_until_cancelled(sleep(left)).await.is_none();
            self.note(self.record().await);
            if is_last {
                return;
            }
        }
    }

    fn note(&self, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what was measured is not in the store yet");
        }
    }

    /// What cannot be written now is written the next time.
    async fn record(&self) -> Result<(), StoreError> {
        let at = UnixMillis((self.clock)().0.saturating_sub(MINUTE_ENDS));
        let measured = |route: Arc<Route>| {
            let measured = route.unrecorded();
            (!measured.is_empty()).then_some((route, measured))
        };
        let new: Vec<(Arc<Route>, Measured)> =
            self.routes.routes().into_iter().filter_map(measured).collect();
        for part in new.chunks(DATABASES_IN_COMMIT_MAX) {
            let added: Vec<_> =
                part.iter().map(|(route, measured)| (route.id().clone(), measured.clone())).collect();
            match self.catalog.measured().add(&added, at).await {
                // It may be there: better lost than counted twice.
                Ok(()) | Err(StoreError::Unknown { .. }) => {
                    part.iter().for_each(|(route, measured)| route.note_recorded(measured));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
