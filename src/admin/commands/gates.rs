//! Orders to the gates of databases: to hold and to release, for one or for all, in as few commits as
//! possible.
//!
//! # Why in one commit
//! A process that ends in the middle of a PAUSE of all databases would leave some of them held, and no
//! command that releases them.

use std::collections::HashSet;

use super::context::{Caller, Cluster};
use super::find;
use crate::admin::error::AdminError;
use crate::catalog::{Catalog, ROUTES_IN_COMMIT_MAX};
use crate::model::{DatabaseId, GateOrder, HoldReason, RouteRecord};

/// Databases with held gates.
#[derive(Default)]
pub(in crate::admin) struct Held {
    pub(in crate::admin) routes: Vec<RouteRecord>,
    /// Those with gates that were open before.
    pub(in crate::admin) ours: Vec<DatabaseId>,
}

/// Holds all of them or none: if one cannot be held, releases those that were held by this call. `also`
/// changes each route in the same commit.
pub(in crate::admin) async fn hold_all(
    cluster: &Cluster,
    caller: &Caller,
    ids: &[DatabaseId],
    also: impl Fn(&mut RouteRecord) + Send + Sync,
) -> Result<Held, AdminError> {
    let catalog = cluster.recording(caller);
    if ids.len() > ROUTES_IN_COMMIT_MAX {
        // With several commits, what is known to be impossible is refused before the first.
        catalog.routes().list().await?.into_values().iter_mut().try_for_each(hold)?;
    }
    let mut held = Held::default();
    for ids in ids.chunks(ROUTES_IN_COMMIT_MAX) {
        let mut opened = HashSet::new();
        let change = |route: &mut RouteRecord| {
            // The last attempt counts.
            match is_open(route) {
                true => opened.insert(route.database.clone()),
                false => opened.remove(&route.database),
            };
            hold(route)?;
            also(route);
            Ok(())
        };
        match catalog.routes().update_all::<AdminError>(ids, change).await {
            Ok(routes) => {
                held.routes.extend(routes.into_iter().map(|route| route.value));
                held.ours.extend(opened);
            }
            Err(error) => {
                release_all(cluster.catalog(), &held.ours).await?;
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// Ends the holds of PAUSE and KILL; those of moves stay. A database that was dropped meanwhile is left out.
/// After an error the others are released all the same.
pub(in crate::admin) async fn release_all(catalog: &Catalog, ids: &[DatabaseId]) -> Result<(), AdminError> {
    let mut failed = None;
    for ids in ids.chunks(ROUTES_IN_COMMIT_MAX) {
        if catalog.routes().update_all(ids, release).await.is_ok() {
            continue;
        }
        // One that is missing, or cannot be written, fails the commit of all.
        for id in ids {
            match catalog.routes().update(id, release).await {
                Err(error) if !find::is_missing(&error) => failed = Some(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn release(route: &mut RouteRecord) -> Result<(), AdminError> {
    if is_paused(route) {
        route.gate = GateOrder::Open;
    }
    Ok(())
}

fn hold(route: &mut RouteRecord) -> Result<(), AdminError> {
    match is_paused(route) {
        true => Ok(()),
        false if is_open(route) => {
            route.gate = GateOrder::Held { by: HoldReason::Pause, until: None };
            Ok(())
        }
        false => Err(AdminError::Held { database: route.name.to_string(), holder: "a move".to_owned() }),
    }
}

fn is_paused(route: &RouteRecord) -> bool {
    matches!(route.gate, GateOrder::Held { by: HoldReason::Pause, .. })
}

/// Open, and no move is about to hold it.
fn is_open(route: &RouteRecord) -> bool {
    route.gate == GateOrder::Open && route.next.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::embedded::EmbeddedStore;
    use crate::catalog::keys;
    use crate::model::{Address, DatabaseName, Place, SslMode, SystemName};

    fn paused(number: usize) -> RouteRecord {
        let place = Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: format!("shop{number}"),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        };
        let id = DatabaseId::parse(&format!("db_{number}")).unwrap();
        let name = DatabaseName::parse(&format!("shop{number}")).unwrap();
        let gate = GateOrder::Held { by: HoldReason::Pause, until: None };
        RouteRecord { gate, ..RouteRecord::first(id, name, place, 10) }
    }

    #[tokio::test]
    async fn a_database_that_was_dropped_meanwhile_keeps_no_other_one_held() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(EmbeddedStore::open(directory.path().join("store.redb")).unwrap());
        let routes: Vec<RouteRecord> = (0..2 * ROUTES_IN_COMMIT_MAX).map(paused).collect();
        let ids: Vec<DatabaseId> = routes.iter().map(|route| route.database.clone()).collect();
        for route in &routes[1..] {
            catalog.batch().put(keys::route(&route.database), route).commit().await.unwrap();
        }
        release_all(&catalog, &ids).await.unwrap();
        let left = catalog.routes().list().await.unwrap().into_values();
        assert_eq!(left.len(), routes.len() - 1);
        assert!(left.iter().all(|route| route.gate == GateOrder::Open));
    }
}
