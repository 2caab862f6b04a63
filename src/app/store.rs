//! Opens the store that the configuration names.
//!
//! What only one kind of store needs is done here, when it is opened: the embedded store is handed over from
//! process to process, and may be a copy of another.

use std::sync::Arc;

use super::takeover::{self, Turn};
use crate::catalog::store::{Store, StoreError};
use crate::catalog::{Catalog, copied};
use crate::config::Config;

#[derive(Debug)]
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn Store>,
    /// Set if this process takes over from another one: dropped when clients are served here.
    pub(super) turn: Option<Turn>,
}

/// If the store is a copy, its moves are parked before anything resumes them.
pub(super) async fn open_store(config: &Config) -> Result<OpenStore, StoreError> {
    let (store, turn) = takeover::open_embedded(config).await?;
    let catalog = Catalog::new(Arc::<crate::catalog::embedded::EmbeddedStore>::clone(&store));
    for id in copied::part(&store, &catalog).await? {
        tracing::warn!(id = id.0, "the store is a copy of another: the move rests until ADOPT MOVE {id}");
    }
    tracing::info!(store = %catalog.store_id().await?, "what moves make on systems carries this id");
    Ok(OpenStore { store, turn })
}
