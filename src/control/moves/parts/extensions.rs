//! Extensions keep their owners, as far as PostgreSQL lets a role that is no superuser own one.
//!
//! # Why
//! Only its owner may drop or update an extension, and there is no ALTER EXTENSION ... OWNER. The role that
//! creates it owns it, so it is created as the owner before the schema is restored; `pg_restore` then uses IF
//! NOT EXISTS. That works for trusted extensions (PostgreSQL 13) and for superusers, in a schema that an
//! empty database has. The preflight reports that the other extensions will belong to the platform.

use crate::system::{Session, SystemError, facts, quote_ident, roles};

/// Schemas that an empty database has.
const SCHEMAS: [&str; 2] = ["public", "pg_catalog"];

/// An extension of the database that does not belong to the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct OwnedExtension {
    pub(in crate::control) name: String,
    pub(in crate::control) schema: String,
    pub(in crate::control) owner: String,
    owner_is_superuser: bool,
}

/// Such extensions of the session's database, in the order of their creation.
pub(in crate::control) async fn owned(
    session: &Session,
    platform: &[&str],
) -> Result<Vec<OwnedExtension>, SystemError> {
    const READING: &str = "reading the owners of extensions";
    let sql = "SELECT e.extname::text, n.nspname::text, r.rolname::text, r.rolsuper
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace JOIN pg_roles r ON r.oid = e.extowner
        WHERE r.oid <> 10 AND r.rolname::text <> ALL ($1) ORDER BY e.oid";
    let rows = session.rows(READING, sql, &[&platform]).await?;
    let mut owned = Vec::with_capacity(rows.len());
    for row in &rows {
        owned.push(OwnedExtension {
            name: session.column(READING, row, 0)?,
            schema: session.column(READING, row, 1)?,
            owner: session.column(READING, row, 2)?,
            owner_is_superuser: session.column(READING, row, 3)?,
        });
    }
    Ok(owned)
}

/// Whether the extension can be created as its owner on a system.
pub(in crate::control) async fn can_be_carried(
    target: &Session,
    extension: &OwnedExtension,
) -> Result<bool, SystemError> {
    if !SCHEMAS.contains(&extension.schema.as_str()) {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT FROM pg_available_extensions a
        JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
        WHERE a.name = $1 AND (v.trusted OR $2))";
    target.value("looking for an extension", sql, &[&extension.name, &extension.owner_is_superuser]).await
}

/// Creates the extensions that can be created as their owners. Any other is left to `pg_restore`, and belongs
/// to the platform.
pub(in crate::control) async fn create(
    source: &Session,
    target: &Session,
    platform: &[&str],
) -> Result<(), SystemError> {
    const CREATING: &str = "creating an extension for its owner";
    for extension in owned(source, platform).await? {
        // In a trial the owner may not exist yet.
        if !can_be_carried(target, &extension).await?
            || !roles::exists(target, CREATING, &extension.owner).await?
        {
            continue;
        }
        let (name, owner) = (quote_ident(&extension.name), quote_ident(&extension.owner));
        let (schema, database) = (quote_ident(&extension.schema), quote_ident(target.dbname()));
        let may: bool = target
            .value(
                CREATING,
                "SELECT has_database_privilege($1, current_database(), 'CREATE')",
                &[&extension.owner],
            )
            .await?;
        let (lend, take) = match may {
            true => (String::new(), String::new()),
            false => (
                format!("GRANT CREATE ON DATABASE {database} TO {owner};"),
                format!("REVOKE CREATE ON DATABASE {database} FROM {owner};"),
            ),
        };
        // The event trigger that keeps the OIDs of types must fire.
        let firing =
            if facts::version_num(target).await? >= 170_000 { "SET LOCAL event_triggers = on;" } else { "" };
        let sql = format!(
            "BEGIN;{lend}{firing}SET LOCAL ROLE {owner};CREATE EXTENSION IF NOT EXISTS {name} WITH SCHEMA {schema};RESET ROLE;{take}COMMIT"
        );
        if let Err(error) = target.batch(CREATING, &sql).await {
            target.batch(CREATING, "ROLLBACK").await?;
            tracing::warn!(%error, extension = extension.name, "an extension cannot be created for its owner");
        }
    }
    Ok(())
}
