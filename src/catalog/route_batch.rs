//! Changes of several routes in one commit: all of them are changed or none, also where the process ends
//! meanwhile.
//!
//! # Why a bound
//! etcd refuses a transaction with more than 128 comparisons or writes (`--max-txn-ops`), and an audit entry
//! may be written with the routes. An order for more databases makes several commits.

use std::collections::HashMap;

use super::keys;
use super::store::StoreError;
use super::typed::{ATTEMPTS_MAX, Catalog, Swap, Versioned};
use crate::model::{DatabaseId, RouteRecord};

/// Routes in one commit.
pub const ROUTES_IN_COMMIT_MAX: usize = 100;

impl Catalog {
    /// Changes routes like [`Catalog::update_route`], each with its next order number, in one commit that
    /// compares all of them. If one is missing or `change` refuses one, nothing is written. `change` may run
    /// several times for each route.
    ///
    /// At most [`ROUTES_IN_COMMIT_MAX`] routes, without duplicates.
    pub async fn update_routes<E: From<StoreError> + Send>(
        &self,
        ids: &[DatabaseId],
        mut change: impl FnMut(&mut RouteRecord) -> Result<(), E> + Send,
    ) -> Result<Vec<Versioned<RouteRecord>>, E> {
        debug_assert!(ids.len() <= ROUTES_IN_COMMIT_MAX, "{} routes", ids.len());
        for _ in 0..ATTEMPTS_MAX {
            let known = self.named_routes(ids).await?;
            let (mut batch, mut wanted) = (self.batch(), Vec::with_capacity(known.len()));
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
    async fn named_routes(&self, ids: &[DatabaseId]) -> Result<Vec<Versioned<RouteRecord>>, StoreError> {
        let missing = |id: &DatabaseId| StoreError::Missing { key: keys::route(id) };
        if let [id] = ids {
            return Ok(vec![self.route(id).await?.ok_or_else(|| missing(id))?]);
        }
        let all = self.routes().await?.records.into_iter();
        let mut known: HashMap<DatabaseId, Versioned<RouteRecord>> =
            all.map(|route| (route.value.database.clone(), route)).collect();
        ids.iter().map(|id| known.remove(id).ok_or_else(|| missing(id))).collect()
    }
}

/// A route after a change, with the next order number if it is another one.
pub(super) fn numbered<E>(
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
