//! Databases that an older version left unfinished, without an operation: they get one.

use super::context::{Begin, DatabaseChange, record_unfinished};
use super::create::CreateOperation;
use super::drop::DropOperation;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Versioned, keys};
use crate::control::operations::WallClock;
use crate::model::{
    AuditEntry, CreateFacts, DatabaseOperation, DatabaseRecord, DropFacts, OperationKind, RoleName, Told,
};

/// Records the operations that are missing. Safe to repeat.
pub(super) async fn record(catalog: &Catalog, clock: WallClock) -> Result<(), StoreError> {
    let databases = catalog.databases().list().await?.records.into_iter();
    let left = databases.filter(|known| known.value.is_unfinished() && known.value.operation.is_none());
    for database in left {
        let kind =
            if database.value.dropping.is_some() { OperationKind::Drop } else { OperationKind::Create };
        tracing::warn!(database = %database.value.name, kind = kind.as_str(),
            "an older version was interrupted here; it is taken up");
        match kind {
            OperationKind::Drop => {
                let facts = DropFacts { is_adopted: database.value.adopted, left_as: None };
                record_one::<DropOperation>(catalog, &database, facts, clock).await?;
            }
            _ => {
                // A name of a database that is no name of a role never got a role.
                let Ok(role) = RoleName::parse(database.value.name.as_str()) else { continue };
                let facts = CreateFacts { role, verifier: String::new() };
                record_one::<CreateOperation>(catalog, &database, facts, clock).await?;
            }
        }
    }
    Ok(())
}

async fn record_one<C: DatabaseChange>(
    catalog: &Catalog,
    database: &Versioned<DatabaseRecord>,
    facts: C::Facts,
    clock: WallClock,
) -> Result<(), StoreError> {
    let DatabaseRecord { id, name, created_by, dropping, .. } = &database.value;
    let Some(route) = catalog.routes().get(id).await? else { return Ok(()) };
    let place = route.value.place;
    let Some(system) = catalog.systems().get(&place.system).await? else { return Ok(()) };
    let (verb, who, reason) = match dropping {
        Some(dropping) => ("DROP", dropping.who.clone(), Some(dropping.reason.clone())),
        None => ("CREATE", created_by.clone(), None),
    };
    let at = clock();
    let command = format!("{verb} DATABASE {name}");
    let told = Told::InOtherWords(command.clone());
    let audit = AuditEntry { reason, database: Some(id.clone()), told, ..AuditEntry::new(at, who, command) };
    let begin = Begin {
        id,
        name,
        system: &system.value,
        dbname: &place.dbname,
        audit: (keys::audit(at, ulid::Ulid::generate()), audit),
    };
    let record: DatabaseOperation<C::Facts> = begin.record(catalog, facts, clock).await?;
    record_unfinished::<C>(catalog, database, record).await
}
