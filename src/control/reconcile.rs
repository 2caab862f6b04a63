//! Rewrites routes that differ from their databases' and systems' records.
//!
//! Owns one task that follows `database/` and `system/`. It deliberately writes only what is derived: terms,
//! and how the system of a place is reached. Placement belongs to the mover; the gate and
//! whether new clients are served belong to administrators.
//!
//! # When a route differs
//! * An older version wrote the record of a database and its route by two commits, and the process died
//!   between them.
//! * ALTER SYSTEM: one record holds how a system is reached, and a thousand routes repeat it. The record is
//!   authoritative; the routes follow, each by a commit of its own, after a crash at the next start.
//! * CREATE or a move brought a database to a system while the system's record was changed.
//!
//! # Why before the first client
//! A starting process checks everything once before it serves. It writes an audit entry for what it corrects
//! then, and for terms that differ at any time, because clients were served differently from the records. A
//! changed address of a system gets no entry.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::catalog::store::{Revision, StoreError};
use crate::catalog::{Catalog, Changes, RecordEvent, Swap, Trail, Versioned, keys};
use crate::control::moves::context::WallClock;
use crate::error::chain;
use crate::model::{
    AuditEntry, DatabaseId, DatabaseRecord, Lifecycle, Place, RouteRecord, ServiceTerms, SystemName,
    SystemRecord,
};

/// Number of conflicts before the write of one route gives up.
const ATTEMPTS_MAX: u32 = 64;

/// Time until the next attempt after a failure of the store.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The principal in the audit trail.
const WHO: &str = "freehold";

/// The task; ends when dropped.
#[derive(Debug)]
pub struct Reconciler {
    _task: AbortOnDropHandle<()>,
}

impl Reconciler {
    /// Returns when everything stored now was checked. A record that cannot be read or written is logged and
    /// retried: it does not keep the process from starting.
    pub async fn start(catalog: Catalog, clock: WallClock) -> Reconciler {
        let reconcile = Reconcile { catalog, clock };
        let seen = reconcile.everything(When::Start).await;
        Reconciler { _task: AbortOnDropHandle::new(tokio::spawn(reconcile.follow(seen))) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Start,
    Running,
}

#[derive(Debug)]
struct Reconcile {
    catalog: Catalog,
    clock: WallClock,
}

/// What changed since the last check.
enum Changed {
    Databases(Vec<DatabaseId>),
    Everything,
}

impl Reconcile {
    /// The revisions up to which databases and systems were seen; `None` if the store could not be read.
    async fn everything(&self, when: When) -> Option<[Revision; 2]> {
        match self.try_everything(when).await {
            Ok(seen) => Some(seen),
            Err(error) => {
                tracing::error!(error = chain(&error), "the routes cannot be compared with their databases");
                None
            }
        }
    }

    async fn try_everything(&self, when: When) -> Result<[Revision; 2], StoreError> {
        let systems = self.catalog.systems().list().await?;
        let databases = self.catalog.databases().list().await?;
        let routes = self.catalog.routes().list().await?.into_values().into_iter();
        let routes: BTreeMap<String, RouteRecord> =
            routes.map(|route| (route.database.to_string(), route)).collect();
        for database in databases.records.iter().map(|database| &database.value) {
            if !is_in_step(database, routes.get(database.id.as_str()), &systems.records) {
                self.mend(&database.id, when).await;
            }
        }
        Ok([databases.revision, systems.revision])
    }

    async fn mend(&self, id: &DatabaseId, when: When) {
        if let Err(error) = self.try_mend(id, when).await {
            tracing::error!(database = %id, error = chain(&error), "the route stays as it is");
        }
    }

    async fn try_mend(&self, id: &DatabaseId, when: When) -> Result<(), StoreError> {
        match self.catalog.databases().get(id).await? {
            Some(database) if matches!(database.value.lifecycle, Lifecycle::Deleted { .. }) => {
                self.bury(&database.value).await
            }
            Some(_) => self.derive(id, when).await,
            None => Ok(()),
        }
    }

    /// A tombstone has no name, no route and no logins: removes what is left.
    async fn bury(&self, database: &DatabaseRecord) -> Result<(), StoreError> {
        let name = self.catalog.databases().id_of(&database.name).await?;
        let named = name.is_some_and(|name| name.value == database.id);
        let routed = self.catalog.routes().get(&database.id).await?.is_some();
        if !named && !routed && self.catalog.logins().of(&database.id).await?.records.is_empty() {
            return Ok(());
        }
        let what = "what a drop had left: name, route and logins are removed";
        let trail = self.trail(database, what);
        self.catalog.with_trail(&trail).databases().remove_service(database).await?;
        tracing::warn!(database = %database.name, "{what}");
        Ok(())
    }

    async fn derive(&self, id: &DatabaseId, when: When) -> Result<(), StoreError> {
        let matters =
            |before: &RouteRecord, after: &RouteRecord| when == When::Start || before.terms != after.terms;
        let mended = derive(&self.catalog, id, |database, before, after| {
            matters(before, after).then(|| self.trail(database, &differences(before, after).join(", ")))
        });
        if let Some((before, after)) = mended.await? {
            let differences = differences(&before, &after).join(", ");
            match matters(&before, &after) {
                true => tracing::warn!(database = %after.name, differences,
                    "the route did not say what the records say, and is written again"),
                false => tracing::info!(database = %after.name, "the route follows its system"),
            }
        }
        Ok(())
    }

    fn trail(&self, database: &DatabaseRecord, what: &str) -> Trail {
        let command = format!("reconcile database {}", database.name);
        let entry = AuditEntry {
            reason: Some("the records of the database were not written together".to_owned()),
            outcome: format!("ok: {what}"),
            database: Some(database.id.clone()),
            ..AuditEntry::new((self.clock)(), WHO, command)
        };
        Trail::new(ulid::Ulid::generate(), entry)
    }

    async fn follow(self, mut seen: Option<[Revision; 2]>) {
        loop {
            if let Some([databases, systems]) = seen
                && let Err(error) = self.watch(databases, systems).await
            {
                tracing::warn!(%error, "the watch of databases and systems broke");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            seen = self.everything(When::Running).await;
        }
    }

    /// Returns when a watch ended.
    async fn watch(&self, databases: Revision, systems: Revision) -> Result<(), StoreError> {
        let mut databases = self.catalog.databases().after(databases).await?;
        let mut systems = self.catalog.systems().after(systems).await?;
        while let Some(changed) = next(&mut databases, &mut systems).await? {
            match changed {
                Changed::Databases(ids) => {
                    for id in ids {
                        self.mend(&id, When::Running).await;
                    }
                }
                Changed::Everything => {
                    self.everything(When::Running).await;
                }
            }
        }
        Ok(())
    }
}

async fn next(
    databases: &mut Changes<DatabaseRecord>,
    systems: &mut Changes<SystemRecord>,
) -> Result<Option<Changed>, StoreError> {
    // Both branches are cancel-safe.
    tokio::select! {
        changes = databases.next() => Ok(changes?.map(|changes| Changed::Databases(databases_of(&changes)))),
        changes = systems.next() => Ok(changes?.map(|_| Changed::Everything)),
    }
}

fn databases_of(changes: &[RecordEvent<DatabaseRecord>]) -> Vec<DatabaseId> {
    let id = |change: &RecordEvent<_>| DatabaseId::parse(change.key().strip_prefix(keys::DATABASES)?).ok();
    changes.iter().filter_map(id).collect()
}

/// Writes into the routes of a system, after its record has changed, how it is reached now.
pub async fn follow_system(catalog: &Catalog, system: &SystemName) -> Result<(), StoreError> {
    let is_on = |place: &Place| place.system == *system;
    for route in catalog.routes().list().await?.into_values() {
        if is_on(&route.place) || route.next.as_ref().is_some_and(is_on) {
            derive(catalog, &route.database, |_, _, _| None).await?;
        }
    }
    Ok(())
}

/// Rewrites one route if it differs, and returns the old and the new one. Writes nothing if the records
/// changed meanwhile.
async fn derive(
    catalog: &Catalog,
    id: &DatabaseId,
    audited: impl Fn(&DatabaseRecord, &RouteRecord, &RouteRecord) -> Option<Trail>,
) -> Result<Option<(RouteRecord, RouteRecord)>, StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(route) = catalog.routes().get(id).await? else { return Ok(None) };
        let Some(database) = catalog.databases().get(id).await? else { return Ok(None) };
        let systems = systems_of(catalog, &route.value).await?;
        let mut wanted = derived(&route.value, &database.value, &systems);
        if wanted == route.value {
            return Ok(None);
        }
        wanted.order += 1;
        let trail = audited(&database.value, &route.value, &wanted);
        let catalog = trail.map_or_else(|| catalog.clone(), |trail| catalog.with_trail(&trail));
        let mut batch = catalog
            .batch()
            .unchanged(keys::route(id), route.revision)
            .unchanged(keys::database(id), database.revision)
            .put(keys::route(id), &wanted);
        for system in &systems {
            batch = batch.unchanged(keys::system(&system.value.name), system.revision);
        }
        if let Swap::Committed(_) = batch.commit().await? {
            return Ok(Some((route.value, wanted)));
        }
    }
    Err(StoreError::Contended { key: keys::route(id), attempts: ATTEMPTS_MAX })
}

/// The systems of its places, as far as they are known.
async fn systems_of(
    catalog: &Catalog,
    route: &RouteRecord,
) -> Result<Vec<Versioned<SystemRecord>>, StoreError> {
    let mut systems = Vec::new();
    for place in [Some(&route.place), route.next.as_ref()].into_iter().flatten() {
        systems.extend(catalog.systems().get(&place.system).await?);
    }
    Ok(systems)
}

/// The route that follows from a database and the systems of its places. Pure. A place on an unknown system
/// stays unchanged.
fn derived(
    route: &RouteRecord,
    database: &DatabaseRecord,
    systems: &[Versioned<SystemRecord>],
) -> RouteRecord {
    let mut wanted = route.clone();
    wanted.terms = ServiceTerms::of(database);
    for place in [Some(&mut wanted.place), wanted.next.as_mut()].into_iter().flatten() {
        if let Some(system) = systems.iter().find(|system| system.value.name == place.system) {
            *place = system.value.place(place.dbname.as_str());
        }
    }
    wanted
}

fn is_in_step(
    database: &DatabaseRecord,
    route: Option<&RouteRecord>,
    systems: &[Versioned<SystemRecord>],
) -> bool {
    match (&database.lifecycle, route) {
        // Its name and logins must be checked, too.
        (Lifecycle::Deleted { .. }, _) => false,
        (_, Some(route)) => derived(route, database, systems) == *route,
        (_, None) => true,
    }
}

fn differences(before: &RouteRecord, after: &RouteRecord) -> Vec<String> {
    let mut differences = before.terms.differences(&after.terms);
    let moved = before.place != after.place || before.next != after.next;
    differences.extend(moved.then(|| "how its system is reached".to_owned()));
    differences
}
