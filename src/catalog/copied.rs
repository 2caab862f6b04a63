//! A copied store: another store may drive the moves that it records, until a person decides.

use super::embedded::EmbeddedStore;
use super::store::StoreError;
use super::typed::Catalog;
use crate::model::{MoveId, MoveRecord};

/// If the file was copied: stops its moves until ADOPT MOVE, and gives the store a new id, so that what its
/// new moves create has different names. Otherwise does nothing. Safe to repeat. Returns the moves that it
/// stopped.
///
/// Call it before moves are resumed.
pub async fn part(store: &EmbeddedStore, catalog: &Catalog) -> Result<Vec<MoveId>, StoreError> {
    let mut resting = Vec::new();
    if !store.is_copied() {
        return Ok(resting);
    }
    for record in catalog.moves().await?.into_values() {
        if record.phase.has_ended() {
            continue;
        }
        let rest = |record: &mut MoveRecord| {
            let because = "this store is a copy of another, which may drive this move";
            record.facts.claim_lost.get_or_insert_with(|| because.to_owned());
            Ok::<(), StoreError>(())
        };
        catalog.update_move(record.id, rest).await?;
        resting.push(record.id);
    }
    catalog.renew_store_id().await?;
    store.accept_place()?;
    Ok(resting)
}
