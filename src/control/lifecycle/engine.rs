//! Drives CREATE, DROP and ADOPT DATABASE: one engine for each kind.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::adopt::AdoptOperation;
use super::context::start;
use super::create::CreateOperation;
use super::drop::DropOperation;
use super::unfinished;
use crate::catalog::Catalog;
use crate::control::operations::WallClock;
use crate::control::operations::supervisor::Running;
use crate::control::settings::ControlSettings;

/// Limit for reading, at the start, what earlier processes left.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The running operations on databases. Dropping it leaves each where it is; the next start resumes or undoes
/// them.
#[derive(Debug)]
pub struct DatabaseOperations([Running; 3]);

impl DatabaseOperations {
    /// Resumes or undoes what earlier processes began, and drives what is recorded from now on. Returns when
    /// those are told apart, so that no command may be executed before.
    pub async fn start(
        catalog: Catalog,
        settings: Arc<ArcSwap<ControlSettings>>,
        clock: WallClock,
    ) -> DatabaseOperations {
        if let Err(error) = unfinished::record(&catalog, clock).await {
            tracing::error!(error = &error as &dyn std::error::Error, "databases cannot be read");
        }
        let running = [
            start::<CreateOperation>(&catalog, &settings, clock),
            start::<DropOperation>(&catalog, &settings, clock),
            start::<AdoptOperation>(&catalog, &settings, clock),
        ];
        let listed = async {
            for running in &running {
                running.listed().await;
            }
        };
        if tokio::time::timeout(LISTED_WITHIN, listed).await.is_err() {
            tracing::error!("operations on databases cannot be read; it is tried again");
        }
        DatabaseOperations(running)
    }

    /// Stops. An undo that runs ends first; a step that runs is resumed or undone at the next start.
    pub async fn stop(self) {
        let [create, drop, adopt] = self.0.map(Running::stop);
        tokio::join!(create, drop, adopt);
    }
}
