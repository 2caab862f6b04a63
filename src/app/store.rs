//! Opens the store that the configuration names.
//!
//! What only one kind of store needs is done here, when it is opened: the embedded store is handed over from
//! process to process, and may be a copy of another.

use std::sync::Arc;

use super::takeover::{self, SuccessionLock};
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::{Store, StoreError};
use crate::catalog::{Catalog, copied};
use crate::config::Config;

#[derive(Debug)]
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn Store>,
    /// Set if this process takes over from another one: dropped when clients are served here.
    pub(super) turn: Option<SuccessionLock>,
    pub(super) start: UnfinishedStart,
}

/// A start that may still fail. Dropped before [`UnfinishedStart::finish`], it removes the store's file if
/// that was not there before: a start that fails, because of a port that is taken for one, leaves nothing
/// behind.
#[derive(Debug)]
pub(super) struct UnfinishedStart(Option<Arc<EmbeddedStore>>);

impl UnfinishedStart {
    pub(super) fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for UnfinishedStart {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|store| store.remove_if_unused()) {
            tracing::warn!(%error, "the store's new file cannot be removed");
        }
    }
}

/// If the store is a copy, its moves are parked before anything resumes them.
pub(super) async fn open_store(config: &Config) -> Result<OpenStore, StoreError> {
    let (store, turn) = takeover::open_embedded(config).await?;
    let start = UnfinishedStart(Some(Arc::clone(&store)));
    let catalog = Catalog::new(Arc::<EmbeddedStore>::clone(&store));
    for id in copied::part(&store, &catalog).await? {
        tracing::warn!(id = id.0, "the store is a copy of another: the move rests until ADOPT MOVE {id}");
    }
    tracing::info!(store = %catalog.store_id().await?, "what moves make on systems carries this id");
    Ok(OpenStore { store, turn, start })
}
