//! The record of one move, as its driver holds it.
//!
//! Every change is a compare-and-swap that is on disk before [`Journal::write`] returns. The driver is the
//! only writer of everything but `wish`, which commands set; so a change that conflicts is simply made again
//! on the newer record.
//!
//! A change that also concerns the database's own record (the commit, the end) is written to both in one
//! commit: no crash leaves a database with an operation that has ended. The mover's audit entries are written
//! in the same way.

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Swap, Versioned, keys};
use crate::model::{MoveId, MoveRecord, UnixMillis};

use super::history;
use super::step::Clock;

/// Number of conflicts with commands before a write gives up.
const ATTEMPTS_MAX: u32 = 20;

#[derive(Debug)]
pub struct Journal {
    catalog: Catalog,
    clock: Clock,
    current: Versioned<MoveRecord>,
}

impl Journal {
    /// Reads the record of a move; `None` if there is none.
    pub async fn open(catalog: Catalog, clock: Clock, id: MoveId) -> Result<Option<Journal>, StoreError> {
        let current = catalog.movement(id).await?;
        Ok(current.map(|current| Journal { catalog, clock, current }))
    }

    pub fn record(&self) -> &MoveRecord {
        &self.current.value
    }

    /// Reads the record again, to see what commands requested meanwhile.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        if let Some(current) = self.catalog.movement(self.record().id).await? {
            self.current = current;
        }
        Ok(())
    }

    /// Changes the record durably. `change` may run more than once, each time on the newest record.
    pub async fn write(&mut self, mut change: impl FnMut(&mut MoveRecord)) -> Result<(), StoreError> {
        let key = keys::movement(self.record().id);
        for _ in 0..ATTEMPTS_MAX {
            let mut wanted = self.current.value.clone();
            change(&mut wanted);
            if wanted == self.current.value {
                return Ok(());
            }
            match self.put(key.clone(), &wanted).await {
                Ok(Swap::Committed(revision)) => {
                    self.current = Versioned { value: wanted, revision };
                    return Ok(());
                }
                Ok(Swap::Conflict) => self.refresh().await?,
                Err(StoreError::Unknown { .. }) => {
                    self.refresh().await?;
                    if self.current.value == wanted {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX })
    }

    async fn put(&self, key: String, wanted: &MoveRecord) -> Result<Swap, StoreError> {
        let at: UnixMillis = (self.clock)();
        let touches_database = history::touches_database(self.record(), wanted);
        let audited = history::audited(self.record(), wanted, at);
        if !touches_database && audited.is_none() {
            return self.catalog.replace(key, self.current.revision, wanted).await;
        }
        let mut batch = self.catalog.batch().unchanged(key.clone(), self.current.revision).put(key, wanted);
        if touches_database && let Some(mut database) = self.catalog.database(&wanted.database).await? {
            history::tell(&mut database.value, wanted, at);
            let key = keys::database(&wanted.database);
            batch = batch.unchanged(key.clone(), database.revision).put(key, &database.value);
        }
        if let Some(entry) = audited {
            batch = batch.put(keys::audit(at, ulid::Ulid::generate()), &entry);
        }
        batch.commit().await
    }
}
