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

    /// Writes name, record, route and logins in one commit, if the name is free. [`StoreError::Missing`] of a
    /// team: the owner was dropped.
    pub async fn create(self, new: &NewDatabase) -> Result<NewDatabaseOutcome, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(outcome) = self.create_with(new, self.catalog.batch()).await? {
                return Ok(outcome);
            }
        }
        Err(StoreError::Contended { key: keys::database(&new.database.id), attempts: ATTEMPTS_MAX })
    }

    /// Like [`DatabaseRecords::create`], with these writes in the same commit: one attempt. `None`: another
    /// write came first.
    pub async fn create_with(
        self,
        new: &NewDatabase,
        batch: Batch,
    ) -> Result<Option<NewDatabaseOutcome>, StoreError> {
        if let Swap::Committed(revision) = self.creating(batch, new).await?.commit().await? {
            return Ok(Some(NewDatabaseOutcome::Created(revision)));
        }
        let NewDatabase { database, .. } = new;
        let is_taken = self.id_of(&database.name).await?.is_some() || self.get(&database.id).await?.is_some();
        Ok(is_taken.then_some(NewDatabaseOutcome::NameTaken))
    }

    /// Adds everything that is created with a database.
    pub(super) async fn creating(self, batch: Batch, new: &NewDatabase) -> Result<Batch, StoreError> {
        let NewDatabase { database, route, logins } = new;
        let mut batch = self
            .with_teams(batch, None, database)
            .await?
            .absent(keys::name(&database.name))
            .absent(keys::database(&database.id))
            .put(keys::name(&database.name), &database.id)
            .put(keys::database(&database.id), database)
            .put(keys::route(&database.id), route);
        for login in logins {
            batch = batch.put(keys::login(&database.id, &login.role), login);
        }
        Ok(batch)
    }

    /// Changes a database, and in the same commit what follows from its record: the terms of its route or, if
    /// it is now deleted, the removal of its name, route and logins. A team that it names anew must exist:
    /// otherwise [`StoreError::Missing`] has the team's key. The catalogue's
    /// [`CommitGuard`](super::CommitGuard) is asked about each record that `change` gets. See
    /// [`Catalog::update`].
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
            self.catalog.check_guard(&key, &current.value)?;
            let mut value = current.value.clone();
            change(&mut value)?;
            if value == current.value {
                return Ok(current);
            }
            let batch = self.changing(self.catalog.batch(), &current, &value).await?;
            if let Swap::Committed(revision) = batch.commit().await? {
                return Ok(Versioned { value, revision });
            }
        }
        Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
    }

    /// Adds the change of a database from its `current` record, and what follows from it: see
    /// [`DatabaseRecords::change`].
    pub async fn changing(
        self,
        batch: Batch,
        current: &Versioned<DatabaseRecord>,
        value: &DatabaseRecord,
    ) -> Result<Batch, StoreError> {
        let key = keys::database(&value.id);
        self.catalog.check_guard(&key, &current.value)?;
        let batch = self.with_teams(batch, Some(&current.value), value).await?;
        let batch = batch.unchanged(key.clone(), current.revision).put(key, value);
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
        self.catalog.check_guard(&key, &current.value)?;
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

    /// Adds a reference to each team that the record names anew. So the commit conflicts if such a team is
    /// dropped first; and the team's drop conflicts if this is committed first, and then finds the database.
    async fn with_teams(
        self,
        mut batch: Batch,
        before: Option<&DatabaseRecord>,
        now: &DatabaseRecord,
    ) -> Result<Batch, StoreError> {
        for team in now.teams_named_anew(before) {
            let key = keys::team(team);
            let Some(record) = self.catalog.teams().get(team).await? else {
                return Err(StoreError::Missing { key });
            };
            batch = batch.refer_to(key, &record);
        }
        Ok(batch)
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
