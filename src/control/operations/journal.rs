//! The record of one operation, as its driver holds it.
//!
//! Every change is a compare-and-swap that is on disk before [`Journal::write`] returns. The driver is the
//! only writer of everything but the request, which commands set; so a change that conflicts is simply made
//! again on the newer record.
//!
//! A change that also concerns other records, as that of the database, is written with them in one commit
//! ([`Operation::consequences`]): no crash leaves a database with an operation that has ended. Audit entries
//! that no command causes are written in the same way.

use std::fmt;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Swap, Versioned};

use super::{IdOf, Operation, OperationRecord, RecordChange, WallClock};

/// Number of conflicts with commands before a write gives up.
const ATTEMPTS_MAX: u32 = 20;

pub struct Journal<O: Operation> {
    pub(in crate::control) catalog: Catalog,
    pub(in crate::control) clock: WallClock,
    current: Versioned<O::Record>,
}

impl<O: Operation> fmt::Debug for Journal<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("current", &self.current).finish_non_exhaustive()
    }
}

impl<O: Operation> Journal<O> {
    /// Reads the record of an operation; `None` if there is none.
    pub async fn open(
        catalog: Catalog,
        clock: WallClock,
        id: IdOf<O>,
    ) -> Result<Option<Journal<O>>, StoreError> {
        let current = catalog.read(&O::key(id)).await?;
        Ok(current.map(|current| Journal { catalog, clock, current }))
    }

    pub fn record(&self) -> &O::Record {
        &self.current.value
    }

    /// Reads the record again, to see what commands requested meanwhile.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        if let Some(current) = self.catalog.read(&O::key(self.record().id())).await? {
            self.current = current;
        }
        Ok(())
    }

    /// Changes the record durably. `change` may run more than once, each time on the newest record.
    pub async fn write(&mut self, mut change: impl FnMut(&mut O::Record)) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut wanted = self.current.value.clone();
            change(&mut wanted);
            if wanted == self.current.value {
                return Ok(());
            }
            match self.put(&wanted).await {
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
        let key = O::key(self.record().id());
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX })
    }

    async fn put(&self, wanted: &O::Record) -> Result<Swap, StoreError> {
        let key = O::key(wanted.id());
        let batch = self.catalog.batch().unchanged(key.clone(), self.current.revision).put(key, wanted);
        let change = RecordChange { before: self.record(), after: wanted, at: (self.clock)() };
        O::consequences(&self.catalog, change, batch).await?.commit().await
    }
}
