//! What the pools of all workers share: how many connections there may be, and how clients are greeted.

use std::sync::Arc;

use dashmap::DashMap;

use super::permits::Permits;
use crate::backend::Parameters;
use crate::model::DatabaseId;
use crate::session::serve::Origin;
use crate::session::state::SessionState;

/// What every new session of a shelf begins with.
#[derive(Debug, Clone)]
pub(in crate::session) struct Ground {
    pub(in crate::session) parameters: Parameters,
    pub(in crate::session) state: Arc<SessionState>,
}

/// What the pools of all workers share.
#[derive(Debug, Default)]
pub(in crate::session) struct Treasury {
    by_database: DashMap<DatabaseId, Arc<Permits>>,
    /// Lets a worker without a connection greet a client, even while all other workers are busy.
    grounds: DashMap<DatabaseId, Vec<(Arc<Origin>, Ground)>>,
}

/// Greetings that are kept for each database; for further kinds of clients, each worker opens a connection
/// first.
const GROUNDS_MAX: usize = 1_000;

impl Treasury {
    pub(super) fn permits(&self, database: &DatabaseId, workers: usize) -> Arc<Permits> {
        Arc::clone(&self.by_database.entry(database.clone()).or_insert_with(|| Permits::new(workers)))
    }

    pub(super) fn ground(&self, database: &DatabaseId, origin: &Origin) -> Option<Ground> {
        let grounds = self.grounds.get(database)?;
        grounds.iter().find(|(known, _)| **known == *origin).map(|(_, ground)| ground.clone())
    }

    pub(super) fn remember(&self, database: &DatabaseId, origin: &Arc<Origin>, ground: &Ground) {
        let mut grounds = self.grounds.entry(database.clone()).or_default();
        grounds.retain(|(known, _)| known != origin);
        if grounds.len() < GROUNDS_MAX {
            grounds.push((Arc::clone(origin), ground.clone()));
        }
    }
}
