//! The records of moves, with their progress and what was compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::changes::Changes;
use super::keys;
use super::store::{Durability, Range, Revision, StoreError};
use super::typed::{Catalog, Listing, Swap, Versioned, decode};
use crate::model::{ComparedTables, DatabaseRecord, MoveId, MoveProgress, MoveRecord};

/// Moves.
#[derive(Debug, Clone, Copy)]
pub struct MoveRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn moves(&self) -> MoveRecords<'_> {
        MoveRecords { catalog: self }
    }
}

impl MoveRecords<'_> {
    pub async fn next_id(self) -> Result<MoveId, StoreError> {
        self.catalog.next_number(keys::counter("move")).await.map(MoveId)
    }

    pub async fn get(self, id: MoveId) -> Result<Option<Versioned<MoveRecord>>, StoreError> {
        self.catalog.read(&keys::movement(id)).await
    }

    /// Oldest first.
    pub async fn list(self) -> Result<Listing<MoveRecord>, StoreError> {
        self.catalog.list(keys::MOVES).await
    }

    /// Records a new move and makes it the operation of its database, if the database is still `expected` and
    /// has none. What the move creates on systems carries the store's id.
    pub async fn create(
        self,
        expected: &Versioned<DatabaseRecord>,
        movement: &MoveRecord,
    ) -> Result<Swap, StoreError> {
        if expected.value.operation.is_some() {
            return Ok(Swap::Conflict);
        }
        let mut movement = movement.clone();
        // A new store id is not part of the command: the audit entry is written with the move.
        let store = Catalog::new(Arc::clone(self.catalog.store())).store_id().await?;
        movement.facts.store = Some(store);
        let mut database = expected.value.clone();
        database.operation = Some(movement.id.into());
        self.catalog
            .batch()
            .unchanged(keys::database(&database.id), expected.revision)
            .absent(keys::movement(movement.id))
            .put(keys::database(&database.id), &database)
            .put(keys::movement(movement.id), &movement)
            .commit()
            .await
    }

    /// See [`Catalog::update`].
    pub async fn update<E: From<StoreError> + Send>(
        self,
        id: MoveId,
        change: impl FnMut(&mut MoveRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<MoveRecord>, E> {
        self.catalog.update(keys::movement(id), change).await
    }

    pub async fn progress(self, id: MoveId) -> Result<Option<MoveProgress>, StoreError> {
        Ok(self.catalog.read(&keys::progress(id)).await?.map(|progress| progress.value))
    }

    /// The progress of every move that has any, in one read.
    pub async fn all_progress(self) -> Result<BTreeMap<MoveId, MoveProgress>, StoreError> {
        let all = self.catalog.store().range(Range::of(keys::PROGRESS)).await?;
        let of_moves =
            all.entries.iter().filter_map(|entry| Some((keys::move_of_progress(&entry.key)?, entry)));
        of_moves.map(|(id, entry)| decode(entry).map(|progress| (id, progress.value))).collect()
    }

    /// Not durable.
    pub async fn put_progress(self, id: MoveId, progress: &MoveProgress) -> Result<(), StoreError> {
        self.catalog.put(keys::progress(id), progress, Durability::Relaxed).await.map(drop)
    }

    /// The results of comparing the two sides of a move, by table.
    pub async fn compared_tables(self, id: MoveId) -> Result<Option<ComparedTables>, StoreError> {
        Ok(self.catalog.read(&keys::tables(id)).await?.map(|tables| tables.value))
    }

    pub async fn put_compared_tables(self, id: MoveId, tables: &ComparedTables) -> Result<(), StoreError> {
        self.catalog.put(keys::tables(id), tables, Durability::Synced).await.map(drop)
    }

    /// Watches all changes after a revision.
    pub async fn after(self, after: Revision) -> Result<Changes<MoveRecord>, StoreError> {
        self.catalog.watch(keys::MOVES, after).await
    }
}
