//! What the pools of all workers share: how many connections there may be, and how clients are greeted.

use std::sync::Arc;

use dashmap::DashMap;

use super::permits::Permits;
use crate::backend::Parameters;
use crate::model::DatabaseId;
use crate::session::origin::Origin;
use crate::session::state::SessionState;

/// What every new session of a pool begins with.
#[derive(Debug, Clone)]
pub(in crate::session) struct SessionTemplate {
    pub(in crate::session) parameters: Parameters,
    pub(in crate::session) state: Arc<SessionState>,
}

/// What the pools of all workers share.
#[derive(Debug, Default)]
pub(in crate::session) struct PoolRegistry {
    by_database: DashMap<DatabaseId, Arc<Permits>>,
    /// Lets a worker without a connection greet a client, even while all other workers are busy.
    templates: DashMap<DatabaseId, Vec<(Arc<Origin>, SessionTemplate)>>,
}

/// Greetings that are kept for each database; for further kinds of clients, each worker opens a connection
/// first.
const TEMPLATES_MAX: usize = 1_000;

impl PoolRegistry {
    pub(super) fn permits(&self, database: &DatabaseId, workers: usize) -> Arc<Permits> {
        Arc::clone(&self.by_database.entry(database.clone()).or_insert_with(|| Permits::new(workers)))
    }

    pub(super) fn template(&self, database: &DatabaseId, origin: &Origin) -> Option<SessionTemplate> {
        let templates = self.templates.get(database)?;
        templates.iter().find(|(known, _)| **known == *origin).map(|(_, template)| template.clone())
    }

    pub(super) fn remember(&self, database: &DatabaseId, origin: &Arc<Origin>, template: &SessionTemplate) {
        let mut templates = self.templates.entry(database.clone()).or_default();
        templates.retain(|(known, _)| known != origin);
        if templates.len() < TEMPLATES_MAX {
            templates.push((Arc::clone(origin), template.clone()));
        }
    }
}
