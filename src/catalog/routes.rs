//! The records of routes, which change with their next order number.
//!
//! Several change in one commit: all of them or none, also where the process ends meanwhile.
//!
//! # Why a bound
//! etcd refuses a transaction with more than 128 comparisons or writes (`--max-txn-ops`), and an audit entry
//! may be written with the routes. An order for more databases makes several commits.

use std::collections::HashMap;

use super::changes::ListWatch;
use super::keys;
use super::store::{Revision, StoreError};
use super::typed::{ATTEMPTS_MAX, Catalog, Listing, Swap, Versioned};
use crate::model::{DatabaseId, RouteRecord};

/// Routes in one commit.
pub const ROUTES_IN_COMMIT_MAX: usize = 100;

/// The outcome of a route's compare-and-swap: after a cutover, this is the point of no return.
#[derive(Debug)]
pub enum RouteCommit {
    Committed(Versioned<RouteRecord>),
    /// Another write came first; nothing was changed. Holds the current route, or `None` if it is deleted.
    Conflict(Option<Versioned<RouteRecord>>),
    /// The answer was lost. Read the route again until the outcome is known; never guess.
    Unknown(StoreError),
}

/// Routes: what proxies know of databases.
#[derive(Debug, Clone, Copy)]
pub struct RouteRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn routes(&self) -> RouteRecords<'_> {
        RouteRecords { catalog: self }
    }
}

impl RouteRecords<'_> {
    pub async fn get(self, id: &DatabaseId) -> Result<Option<Versioned<RouteRecord>>, StoreError> {
        self.catalog.read(&keys::route(id)).await
    }

    /// The commit that last wrote the route, without reading the route itself; `None`: there is no route.
    pub async fn revision(self, id: &DatabaseId) -> Result<Option<Revision>, StoreError> {
        let found = self.catalog.store().get(&keys::route(id)).await?;
        Ok(found.entry.map(|entry| entry.revision))
    }

    pub async fn list(self) -> Result<Listing<RouteRecord>, StoreError> {
        self.catalog.list(keys::ROUTES).await
    }

    /// Changes a route and gives it the next order number. See [`Catalog::update`].
    pub async fn update<E: From<StoreError> + Send>(
        self,
        id: &DatabaseId,
        mut change: impl FnMut(&mut RouteRecord) -> Result<(), E> + Send,
    ) -> Result<Versioned<RouteRecord>, E> {
        let change = |route: &mut RouteRecord| {
            *route = numbered(route, &mut change)?;
            Ok(())
        };
        self.catalog.update(keys::route(id), change).await
    }

    /// One exact compare-and-swap of a route, with the next order number: for the flip of a move, or the end
    /// of a hold.
    pub async fn commit(self, expected: &Versioned<RouteRecord>, new: RouteRecord) -> RouteCommit {
        let mut value = new;
        value.order = expected.value.order + 1;
        let key = keys::route(&expected.value.database);
        match self.catalog.replace(key, expected.revision, &value).await {
            Ok(Swap::Committed(revision)) => RouteCommit::Committed(Versioned { value, revision }),
            Ok(Swap::Conflict) => match self.get(&expected.value.database).await {
                Ok(current) => RouteCommit::Conflict(current),
                Err(error) => RouteCommit::Unknown(error),
            },
            Err(error) => RouteCommit::Unknown(error),
        }
    }

    /// Changes routes like [`RouteRecords::update`], each with its next order number, in one commit that
    /// compares all of them. If one is missing or `change` refuses one, nothing is written. `change` may run
    /// several times for each route.
    ///
    /// At most [`ROUTES_IN_COMMIT_MAX`] routes, without duplicates.
    pub async fn update_all<E: From<StoreError> + Send>(
        self,
        ids: &[DatabaseId],
        mut change: impl FnMut(&mut RouteRecord) -> Result<(), E> + Send,
    ) -> Result<Vec<Versioned<RouteRecord>>, E> {
        debug_assert!(ids.len() <= ROUTES_IN_COMMIT_MAX, "{} routes", ids.len());
        for _ in 0..ATTEMPTS_MAX {
            let known = self.named_routes(ids).await?;
            let (mut batch, mut wanted) = (self.catalog.batch(), Vec::with_capacity(known.len()));
            for route in &known {
                let key = keys::route(&route.value.database);
                let value = numbered(&route.value, &mut change)?;
                batch = batch.unchanged(key.clone(), route.revision);
                if value != route.value {
                    batch = batch.put(key, &value);
                }
                wanted.push(value);
            }
            if known.iter().zip(&wanted).all(|(route, value)| route.value == *value) {
                return Ok(known);
            }
            if let Swap::Committed(revision) = batch.commit().await? {
                let written =
                    |(route, value): (Versioned<RouteRecord>, RouteRecord)| match value == route.value {
                        true => route,
                        false => Versioned { value, revision },
                    };
                return Ok(known.into_iter().zip(wanted).map(written).collect());
            }
        }
        Err(StoreError::Contended { key: keys::ROUTES.to_owned(), attempts: ATTEMPTS_MAX }.into())
    }

    /// The routes of these databases, in this order.
    async fn named_routes(self, ids: &[DatabaseId]) -> Result<Vec<Versioned<RouteRecord>>, StoreError> {
        let missing = |id: &DatabaseId| StoreError::Missing { key: keys::route(id) };
        if let [id] = ids {
            return Ok(vec![self.get(id).await?.ok_or_else(|| missing(id))?]);
        }
        let all = self.list().await?.records.into_iter();
        let mut known: HashMap<DatabaseId, Versioned<RouteRecord>> =
            all.map(|route| (route.value.database.clone(), route)).collect();
        ids.iter().map(|id| known.remove(id).ok_or_else(|| missing(id))).collect()
    }

    /// Reads all of them, and watches all later changes.
    pub async fn follow(self) -> Result<ListWatch<RouteRecord>, StoreError> {
        self.catalog.list_and_watch(keys::ROUTES).await
    }
}

/// A route after a change, with the next order number if it is another one.
fn numbered<E>(
    route: &RouteRecord,
    change: &mut impl FnMut(&mut RouteRecord) -> Result<(), E>,
) -> Result<RouteRecord, E> {
    let mut wanted = route.clone();
    change(&mut wanted)?;
    wanted.order = route.order;
    if wanted != *route {
        wanted.order += 1;
    }
    Ok(wanted)
}
