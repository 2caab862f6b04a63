//! The records of databases, and what follows from them: their names, the terms of their routes.

use super::changes::Changes;
use super::keys;
use super::store::{Revision, StoreError};
use super::typed::{ATTEMPTS_MAX, Batch, Catalog, Listing, Swap, Versioned};
use crate::model::{
    DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, Login, OperationId, RouteRecord, ServiceTerms,
};

/// Everything that is created with a database, in one commit.
#[derive(Debug, Clone)]
pub struct NewDatabase {
    pub database: DatabaseRecord,
    pub route: RouteRecord,
    pub logins: Vec<Login>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewDatabaseOutcome {
    Created(Revision),
    /// Another database has the name (or, less likely, the id).
    NameTaken,
}

/// Databases. What follows from a record is written with it, in one commit.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn databases(&self) -> DatabaseRecords<'_> {
        DatabaseRecords { catalog: self }
    }
}

impl DatabaseRecords<'_> {
    pub async fn get(self, id: &DatabaseId) -> Result<Option<Versioned<DatabaseRecord>>, StoreError> {
        self.catalog.read(&keys::database(id)).await
    }

    /// Includes deleted databases: their tombstones.
    pub async fn list(self) -> Result<Listing<DatabaseRecord>, StoreError> {
        self.catalog.list(keys::DATABASES).await
    }

    pub async fn id_of(self, name: &DatabaseName) -> Result<Option<Versioned<DatabaseId>>, StoreError> {
        self.catalog.read(&keys::name(name)).await
    }

    pub async fn named(self, name: &DatabaseName) -> Result<Option<Versioned<DatabaseRecord>>, StoreError> {
        match self.id_of(name).await? {
            Some(id) => self.get(&id.value).await,
            None => Ok(None),
        }
    }

    /// Writes name, record, route and logins in one commit, if the name is free.
    pub async fn create(self, new: &NewDatabase) -> Result<NewDatabaseOutcome, StoreError> {
        self.create_with(new, self.catalog.batch()).await
    }

    /// Like [`DatabaseRecords::create`], with these writes in the same commit.
    pub async fn create_with(
        self,
        new: &NewDatabase,
        batch: Batch,
    ) -> Result<NewDatabaseOutcome, StoreError> {
        let NewDatabase { database, route, logins } = new;
        let mut batch = batch
            .absent(keys::name(&database.name))
            .absent(keys::database(&database.id))
            .put(keys::name(&database.name), &database.id)
            .put(keys::database(&database.id), database)
            .put(keys::route(&database.id), route);
        for login in logins {
            batch = batch.put(keys::login(&database.id, &login.role), login);
        }
        Ok(match batch.commit().await? {
            Swap::Committed(revision) => NewDatabaseOutcome::Created(revision),
            Swap::Conflict => NewDatabaseOutcome::NameTaken,
        })
    }

    /// Changes a database, and in the same commit what follows from its record: the terms of its route or, if
    /// it is now deleted, the removal of its name, route and logins. See [`Catalog::update`].
    pub async fn change<E: From<StoreError> + Send>(
        self,
        id: &DatabaseId,
        mut change: impl FnMut(&mut DatabaseRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<DatabaseRecord>, E> {
        let key = keys::database(id);
        for _ in 0..ATTEMPTS_MAX {
            let Some(current) = self.get(id).await? else {
                return Err(StoreError::Missing { key }.into());
            };
            let mut value = current.value.clone();
            change(&mut value)?;
            if value == current.value {
                return Ok(current);
            }
            let batch = self.changing(self.catalog.batch(), current.revision, &value).await?;
            if let Swap::Committed(revision) = batch.commit().await? {
                return Ok(Versioned { value, revision });
            }
        }
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
    }

    /// Adds the change of a database that was read at `revision`, and what follows from it: see
    /// [`DatabaseRecords::change`].
    pub async fn changing(
        self,
        batch: Batch,
        revision: Revision,
        value: &DatabaseRecord,
    ) -> Result<Batch, StoreError> {
        let key = keys::database(&value.id);
        let batch = batch.unchanged(key.clone(), revision).put(key, value);
        match value.lifecycle {
            Lifecycle::Deleted { .. } => self.without_service(batch, value).await,
            _ => self.with_terms(batch, value).await,
        }
    }

    /// Adds the removal of a database with its record: no tombstone is left.
    pub async fn forgetting(
        self,
        batch: Batch,
        current: &Versioned<DatabaseRecord>,
    ) -> Result<Batch, StoreError> {
        let key = keys::database(&current.value.id);
        let batch = batch.unchanged(key.clone(), current.revision).delete(key);
        self.without_service(batch, &current.value).await
    }

    /// Frees the name of a deleted database, and removes its route and logins.
    pub async fn remove_service(self, database: &DatabaseRecord) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Swap::Committed(_) =
                self.without_service(self.catalog.batch(), database).await?.commit().await?
            {
                return Ok(());
            }
        }
        let key = keys::database(&database.id);
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX })
    }

    /// Adds the terms that follow from the record to the route.
    async fn with_terms(self, batch: Batch, database: &DatabaseRecord) -> Result<Batch, StoreError> {
        let Some(route) = self.catalog.routes().get(&database.id).await? else { return Ok(batch) };
        let key = keys::route(&database.id);
        let batch = batch.unchanged(key.clone(), route.revision);
        let mut wanted = route.value;
        let terms = ServiceTerms::of(database);
        if wanted.terms == terms {
            return Ok(batch);
        }
        wanted.terms = terms;
        wanted.order += 1;
        Ok(batch.put(key, &wanted))
    }

    /// Deletes route, logins, and the name unless another database has it by now.
    async fn without_service(self, batch: Batch, database: &DatabaseRecord) -> Result<Batch, StoreError> {
        let mut batch = batch;
        if let Some(name) = self.id_of(&database.name).await?
            && name.value == database.id
        {
            let key = keys::name(&database.name);
            batch = batch.unchanged(key.clone(), name.revision).delete(key);
        }
        if let Some(route) = self.catalog.routes().get(&database.id).await? {
            let key = keys::route(&database.id);
            batch = batch.unchanged(key.clone(), route.revision).delete(key);
        }
        for login in self.catalog.logins().of(&database.id).await?.into_values() {
            batch = batch.delete(keys::login(&database.id, &login.role));
        }
        Ok(batch)
    }

    /// Watches all changes after a revision.
    pub async fn after(self, after: Revision) -> Result<Changes<DatabaseRecord>, StoreError> {
        self.catalog.watch(keys::DATABASES, after).await
    }

    /// The number of an operation that is no move.
    pub async fn next_operation_id(self) -> Result<OperationId, StoreError> {
        self.catalog.next_number(keys::counter("operation")).await.map(OperationId)
    }
}
