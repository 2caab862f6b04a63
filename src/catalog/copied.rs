//! A copied store: another store may drive the moves that it records, until a person decides.

use super::embedded::EmbeddedStore;
use super::keys;
use super::store::StoreError;
use super::typed::Catalog;
use crate::model::{DatabaseOperation, MoveId, MoveRecord, OperationKind};

type AnyOperation = DatabaseOperation<serde_json::Value>;

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
    for record in catalog.moves().list().await?.into_values() {
        if record.phase.has_ended() {
            continue;
        }
        let rest = |record: &mut MoveRecord| {
            let because = "this store is a copy of another, which may drive this move";
            record.facts.claim_lost.get_or_insert_with(|| because.to_owned());
            Ok::<(), StoreError>(())
        };
        catalog.moves().update(record.id, rest).await?;
        resting.push(record.id);
    }
    for kind in [OperationKind::Create, OperationKind::Drop, OperationKind::Adopt] {
        rest_on_systems(catalog, kind).await?;
    }
    catalog.renew_store_id().await?;
    store.accept_place()?;
    Ok(resting)
}

/// The operations of a kind end without touching a system: the original may have finished them since, and an
/// undo would remove what clients use.
async fn rest_on_systems(catalog: &Catalog, kind: OperationKind) -> Result<(), StoreError> {
    for record in catalog.list::<AnyOperation>(&keys::operations(kind)).await?.into_values() {
        let rest = |record: &mut AnyOperation| {
            let because = "This store is a copy of another, which may have finished it.";
            record.is_copy.get_or_insert_with(|| because.to_owned());
            Ok::<(), StoreError>(())
        };
        if !record.phase.has_ended() {
            catalog.update(keys::operation(kind, record.id), rest).await?;
        }
    }
    Ok(())
}
