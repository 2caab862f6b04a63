//! [`Catalog`]: one method for each operation on a record.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys;
use super::route_batch::numbered;
use super::store::{Durability, Range, Revision, StoreError};
use super::typed::{Batch, Catalog, Listing, Swap, Versioned, decode};
use crate::model::{
    AuditEntry, ComparedTables, DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, Login, MoveId,
    MoveProgress, MoveRecord, OperationId, RoleName, RouteRecord, StoreId, SystemName, SystemRecord,
    TeamName, TeamRecord, Terms, UnixMillis,
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

/// The outcome of a route's compare-and-swap: after a cutover, this is the point of no return.
#[derive(Debug)]
pub enum RouteCommit {
    Committed(Versioned<RouteRecord>),
    /// Another write came first; nothing was changed. Holds the current route, or `None` if it is deleted.
    Conflict(Option<Versioned<RouteRecord>>),
    /// The answer was lost. Read the route again until the outcome is known; never guess.
    Unknown(StoreError),
}

/// The store itself.
impl Catalog {
    /// The store's id. A store without one, because it is new or from an older version, gets one.
    pub async fn store_id(&self) -> Result<StoreId, StoreError> {
        self.made_once(keys::STORE_ID, || StoreId::from_random(rand::random())).await
    }

    /// What the salts of roles that do not exist are computed from: the same in every process of the store
    /// and after each start, so that a salt that changed does not tell that its role does not exist.
    pub async fn login_nonce(&self) -> Result<[u8; 32], StoreError> {
        self.made_once(keys::LOGIN_NONCE, rand::random).await
    }

    /// The value of a key; if it has none, a new one.
    async fn made_once<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        make: impl Fn() -> T,
    ) -> Result<T, StoreError> {
        if let Some(known) = self.read(key).await? {
            return Ok(known.value);
        }
        let new = make();
        match self.create(key.to_owned(), &new).await? {
            Swap::Committed(_) => Ok(new),
            Swap::Conflict => match self.read(key).await? {
                Some(known) => Ok(known.value),
                None => Err(StoreError::Missing { key: key.to_owned() }),
            },
        }
    }
}

impl Catalog {
    /// Gives the store a new id, so that what its moves create from now on has names that no copy of it used.
    pub async fn renew_store_id(&self) -> Result<StoreId, StoreError> {
        let new = StoreId::from_random(rand::random());
        self.put(keys::STORE_ID.to_owned(), &new, Durability::Synced).await?;
        Ok(new)
    }
}

/// Teams and systems.
impl Catalog {
    pub async fn team(&self, name: &TeamName) -> Result<Option<Versioned<TeamRecord>>, StoreError> {
        self.read(&keys::team(name)).await
    }

    pub async fn teams(&self) -> Result<Listing<TeamRecord>, StoreError> {
        self.list(keys::TEAMS).await
    }

    pub async fn create_team(&self, team: &TeamRecord) -> Result<Swap, StoreError> {
        self.create(keys::team(&team.name), team).await
    }

    pub async fn system(&self, name: &SystemName) -> Result<Option<Versioned<SystemRecord>>, StoreError> {
        self.read(&keys::system(name)).await
    }

    pub async fn systems(&self) -> Result<Listing<SystemRecord>, StoreError> {
        self.list(keys::SYSTEMS).await
    }

    pub async fn create_system(&self, system: &SystemRecord) -> Result<Swap, StoreError> {
        self.create(keys::system(&system.name), system).await
    }
}

/// Databases, their names, routes and logins.
impl Catalog {
    pub async fn database(&self, id: &DatabaseId) -> Result<Option<Versioned<DatabaseRecord>>, StoreError> {
        self.read(&keys::database(id)).await
    }

    /// Includes deleted databases: their tombstones.
    pub async fn databases(&self) -> Result<Listing<DatabaseRecord>, StoreError> {
        self.list(keys::DATABASES).await
    }

    pub async fn database_id(
        &self,
        name: &DatabaseName,
    ) -> Result<Option<Versioned<DatabaseId>>, StoreError> {
        self.read(&keys::name(name)).await
    }

    pub async fn database_by_name(
        &self,
        name: &DatabaseName,
    ) -> Result<Option<Versioned<DatabaseRecord>>, StoreError> {
        match self.database_id(name).await? {
            Some(id) => self.database(&id.value).await,
            None => Ok(None),
        }
    }

    /// Writes name, record, route and logins in one commit, if the name is free.
    pub async fn create_database(&self, new: &NewDatabase) -> Result<NewDatabaseOutcome, StoreError> {
        self.create_database_with(new, self.batch()).await
    }

    /// Like [`Catalog::create_database`], with these writes in the same commit.
    pub async fn create_database_with(
        &self,
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
    pub async fn change_database<E: From<StoreError> + Send>(
        &self,
        id: &DatabaseId,
        mut change: impl FnMut(&mut DatabaseRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<DatabaseRecord>, E> {
        let key = keys::database(id);
        for _ in 0..super::typed::ATTEMPTS_MAX {
            let Some(current) = self.database(id).await? else {
                return Err(StoreError::Missing { key }.into());
            };
            let mut value = current.value.clone();
            change(&mut value)?;
            if value == current.value {
                return Ok(current);
            }
            let batch = self.changing_database(self.batch(), current.revision, &value).await?;
            if let Swap::Committed(revision) = batch.commit().await? {
                return Ok(Versioned { value, revision });
            }
        }
        Err(StoreError::Contended { key, attempts: super::typed::ATTEMPTS_MAX }.into())
    }

    /// Adds the change of a database that was read at `revision`, and what follows from it: see
    /// [`Catalog::change_database`].
    pub async fn changing_database(
        &self,
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
    pub async fn forgetting_database(
        &self,
        batch: Batch,
        current: &Versioned<DatabaseRecord>,
    ) -> Result<Batch, StoreError> {
        let key = keys::database(&current.value.id);
        let batch = batch.unchanged(key.clone(), current.revision).delete(key);
        self.without_service(batch, &current.value).await
    }

    /// Frees the name of a deleted database, and removes its route and logins.
    pub async fn remove_service(&self, database: &DatabaseRecord) -> Result<(), StoreError> {
        for _ in 0..super::typed::ATTEMPTS_MAX {
            if let Swap::Committed(_) = self.without_service(self.batch(), database).await?.commit().await? {
                return Ok(());
            }
        }
        let key = keys::database(&database.id);
        Err(StoreError::Contended { key, attempts: super::typed::ATTEMPTS_MAX })
    }

    /// Adds the terms that follow from the record to the route.
    async fn with_terms(&self, batch: Batch, database: &DatabaseRecord) -> Result<Batch, StoreError> {
        let Some(route) = self.route(&database.id).await? else { return Ok(batch) };
        let key = keys::route(&database.id);
        let batch = batch.unchanged(key.clone(), route.revision);
        let mut wanted = route.value;
        let terms = Terms::of(database);
        if wanted.terms == terms {
            return Ok(batch);
        }
        wanted.terms = terms;
        wanted.order += 1;
        Ok(batch.put(key, &wanted))
    }

    /// Deletes route, logins, and the name unless another database has it by now.
    async fn without_service(&self, batch: Batch, database: &DatabaseRecord) -> Result<Batch, StoreError> {
        let mut batch = batch;
        if let Some(name) = self.database_id(&database.name).await?
            && name.value == database.id
        {
            let key = keys::name(&database.name);
            batch = batch.unchanged(key.clone(), name.revision).delete(key);
        }
        if let Some(route) = self.route(&database.id).await? {
            let key = keys::route(&database.id);
            batch = batch.unchanged(key.clone(), route.revision).delete(key);
        }
        for login in self.logins(&database.id).await?.into_values() {
            batch = batch.delete(keys::login(&database.id, &login.role));
        }
        Ok(batch)
    }

    pub async fn route(&self, id: &DatabaseId) -> Result<Option<Versioned<RouteRecord>>, StoreError> {
        self.read(&keys::route(id)).await
    }

    pub async fn routes(&self) -> Result<Listing<RouteRecord>, StoreError> {
        self.list(keys::ROUTES).await
    }

    /// Changes a route and gives it the next order number. See [`Catalog::update`].
    pub async fn update_route<E: From<StoreError> + Send>(
        &self,
        id: &DatabaseId,
        mut change: impl FnMut(&mut RouteRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<RouteRecord>, E> {
        let change = |route: &mut RouteRecord| {
            *route = numbered(route, &mut change)?;
            Ok(())
        };
        self.update(keys::route(id), change).await
    }

    /// One exact compare-and-swap of a route, with the next order number: for the flip of a move, or the end
    /// of a hold.
    pub async fn commit_route(&self, expected: &Versioned<RouteRecord>, new: RouteRecord) -> RouteCommit {
        let mut value = new;
        value.order = expected.value.order + 1;
        let key = keys::route(&expected.value.database);
        match self.replace(key, expected.revision, &value).await {
            Ok(Swap::Committed(revision)) => RouteCommit::Committed(Versioned { value, revision }),
            Ok(Swap::Conflict) => match self.route(&expected.value.database).await {
                Ok(current) => RouteCommit::Conflict(current),
                Err(error) => RouteCommit::Unknown(error),
            },
            Err(error) => RouteCommit::Unknown(error),
        }
    }

    pub async fn login(
        &self,
        id: &DatabaseId,
        role: &RoleName,
    ) -> Result<Option<Versioned<Login>>, StoreError> {
        self.read(&keys::login(id, role)).await
    }

    pub async fn logins(&self, id: &DatabaseId) -> Result<Listing<Login>, StoreError> {
        self.list(&keys::logins_of(id)).await
    }

    /// The roles that have a login to a database, in the order of their names.
    pub async fn login_roles(&self, id: &DatabaseId) -> Result<Vec<String>, StoreError> {
        let logins = self.store().range(Range::of(keys::logins_of(id))).await?;
        let role_of = |key: &str| keys::login_of(key).map(|(_, role)| role.to_owned());
        Ok(logins.entries.iter().filter_map(|entry| role_of(&entry.key)).collect())
    }

    /// Replaces the logins of a database, in one commit. Writes only differences. Returns that commit, or the
    /// newest that wrote one of the logins if there were none; `None`: the database has no route any more.
    pub async fn sync_logins(
        &self,
        id: &DatabaseId,
        logins: &[Login],
    ) -> Result<Option<Revision>, StoreError> {
        for _ in 0..super::typed::ATTEMPTS_MAX {
            // A DROP meanwhile removes the logins: nothing may be written after it.
            let Some(route) = self.route(id).await? else { return Ok(None) };
            let known = self.logins(id).await?.records;
            let mut batch = self.batch().unchanged(keys::route(id), route.revision);
            let mut changes = 0;
            for login in logins {
                let old = known.iter().find(|old| old.value.role == login.role);
                if old.is_some_and(|old| old.value == *login) {
                    continue;
                }
                let key = keys::login(id, &login.role);
                batch = match old {
                    Some(old) => batch.unchanged(key.clone(), old.revision),
                    None => batch.absent(key.clone()),
                };
                batch = batch.put(key, login);
                changes += 1;
            }
            for old in known.iter().filter(|old| !logins.iter().any(|login| login.role == old.value.role)) {
                let key = keys::login(id, &old.value.role);
                batch = batch.unchanged(key.clone(), old.revision).delete(key);
                changes += 1;
            }
            if changes == 0 {
                return Ok(Some(known.iter().map(|login| login.revision).max().unwrap_or_default()));
            }
            if let Swap::Committed(revision) = batch.commit().await? {
                return Ok(Some(revision));
            }
        }
        Err(StoreError::Contended { key: keys::logins_of(id), attempts: super::typed::ATTEMPTS_MAX })
    }
}

/// Moves.
impl Catalog {
    /// The number of an operation that is no move.
    pub async fn next_operation_id(&self) -> Result<OperationId, StoreError> {
        self.next_number(keys::counter("operation")).await.map(OperationId)
    }

    pub async fn next_move_id(&self) -> Result<MoveId, StoreError> {
        self.next_number(keys::counter("move")).await.map(MoveId)
    }

    pub async fn movement(&self, id: MoveId) -> Result<Option<Versioned<MoveRecord>>, StoreError> {
        self.read(&keys::movement(id)).await
    }

    /// Oldest first.
    pub async fn moves(&self) -> Result<Listing<MoveRecord>, StoreError> {
        self.list(keys::MOVES).await
    }

    /// Records a new move and makes it the operation of its database, if the database is still `expected` and
    /// has none. What the move creates on systems carries the store's id.
    pub async fn create_move(
        &self,
        expected: &Versioned<DatabaseRecord>,
        movement: &MoveRecord,
    ) -> Result<Swap, StoreError> {
        if expected.value.operation.is_some() {
            return Ok(Swap::Conflict);
        }
        let mut movement = movement.clone();
        // A new store id is not part of the command: the audit entry is written with the move.
        let store = Catalog::new(Arc::clone(self.store())).store_id().await?;
        movement.facts.store = Some(store);
        let mut database = expected.value.clone();
        database.operation = Some(movement.id.into());
        self.batch()
            .unchanged(keys::database(&database.id), expected.revision)
            .absent(keys::movement(movement.id))
            .put(keys::database(&database.id), &database)
            .put(keys::movement(movement.id), &movement)
            .commit()
            .await
    }

    /// See [`Catalog::update`].
    pub async fn update_move<E: From<StoreError> + Send>(
        &self,
        id: MoveId,
        change: impl FnMut(&mut MoveRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<MoveRecord>, E> {
        self.update(keys::movement(id), change).await
    }

    pub async fn progress(&self, id: MoveId) -> Result<Option<MoveProgress>, StoreError> {
        Ok(self.read(&keys::progress(id)).await?.map(|progress| progress.value))
    }

    /// The progress of every move that has any, in one read.
    pub async fn progress_of_moves(&self) -> Result<BTreeMap<MoveId, MoveProgress>, StoreError> {
        let all = self.store().range(Range::of(keys::PROGRESS)).await?;
        let of_moves =
            all.entries.iter().filter_map(|entry| Some((keys::move_of_progress(&entry.key)?, entry)));
        of_moves.map(|(id, entry)| decode(entry).map(|progress| (id, progress.value))).collect()
    }

    /// Not durable.
    pub async fn put_progress(&self, id: MoveId, progress: &MoveProgress) -> Result<(), StoreError> {
        self.put(keys::progress(id), progress, Durability::Relaxed).await.map(drop)
    }

    /// The results of comparing the two sides of a move, by table.
    pub async fn compared_tables(&self, id: MoveId) -> Result<Option<ComparedTables>, StoreError> {
        Ok(self.read(&keys::tables(id)).await?.map(|tables| tables.value))
    }

    pub async fn put_compared_tables(&self, id: MoveId, tables: &ComparedTables) -> Result<(), StoreError> {
        self.put(keys::tables(id), tables, Durability::Synced).await.map(drop)
    }
}

/// The audit trail.
impl Catalog {
    /// Oldest first.
    pub async fn audit(&self, since: UnixMillis) -> Result<Vec<AuditEntry>, StoreError> {
        let range = Range::of(keys::AUDIT).after(keys::audit_since(since));
        self.list_range(range).await.map(Listing::into_values)
    }

    /// The newest entries, newest first.
    pub async fn newest_audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let range = Range::of(keys::AUDIT).newest_first().limit(limit);
        self.list_range(range).await.map(Listing::into_values)
    }
}
