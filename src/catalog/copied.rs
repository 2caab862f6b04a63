//! A store that is a copy: what it knows of moves is another store's business, until a person says otherwise.

use super::embedded::EmbeddedStore;
use super::store::StoreError;
use super::typed::Catalog;
use crate::model::{MoveId, MoveRecord};

/// Where the file is not where it was written: its moves rest until ADOPT MOVE, and what its new moves make gets names of
/// its own. Nothing happens where the file has not been copied. Safe to repeat. Returns the moves that rest.
///
/// To be called before moves are taken up.
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
