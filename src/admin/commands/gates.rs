//! Orders to the gates of databases: to hold and to release, for one or for all.

use super::context::{Caller, Cluster};
use crate::admin::refuse::AdminError;
use crate::catalog::Catalog;
use crate::model::{DatabaseId, GateOrder, HoldReason, RouteRecord};

/// Databases with held gates.
#[derive(Default)]
pub(in crate::admin) struct Held {
    pub(in crate::admin) routes: Vec<RouteRecord>,
    /// Those with gates that were open before.
    pub(in crate::admin) ours: Vec<DatabaseId>,
}

/// Holds all of them or none: if one cannot be held, releases those that were held by this call.
pub(in crate::admin) async fn hold_all(
    cluster: &Cluster,
    caller: &Caller,
    ids: &[DatabaseId],
) -> Result<Held, AdminError> {
    let catalog = cluster.recording(caller);
    let mut held = Held::default();
    for id in ids {
        let mut was_open = false;
        let change = |route: &mut RouteRecord| {
            was_open = is_open(route);
            hold(route)
        };
        match catalog.update_route(id, change).await {
            Ok(route) => {
                held.routes.push(route.value);
                held.ours.extend(was_open.then(|| id.clone()));
            }
            Err(error) => {
                release_all(cluster.catalog(), &held.ours).await?;
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// Ends the holds of PAUSE and KILL; those of moves stay.
pub(in crate::admin) async fn release_all(catalog: &Catalog, ids: &[DatabaseId]) -> Result<(), AdminError> {
    let release = |route: &mut RouteRecord| {
        if is_paused(route) {
            route.gate = GateOrder::Open;
        }
        Ok::<(), AdminError>(())
    };
    for id in ids {
        catalog.update_route(id, release).await?;
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
