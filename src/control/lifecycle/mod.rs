//! What a database's lifecycle does on real servers: create, adopt and close a database.
//!
//! Owns the SQL of CREATE and DROP DATABASE, here, and of ADOPT DATABASE ([`existing`]); the recorded
//! operations that run it ([`create`], [`adopt`], [`drop`](mod@drop); [`context`] is what they share,
//! [`machine`] their order); and what happens to a deprecated database by itself ([`sunset`]). It destroys
//! nothing: a dropped database is renamed and closed, an adopted one is left unchanged.
//!
//! # Why the platform owns the database object
//! An application's role that owned it could lift every fence (`ALTER DATABASE ... CONNECTION LIMIT -1`,
//! `GRANT CONNECT`). So the platform's role owns the database, and the product's role owns schema `public`
//! and may create what it wants: placement is the platform's responsibility, the schema is the product's.

pub mod adopt;
pub mod context;
pub mod create;
pub mod drop;
pub mod engine;
pub mod existing;
pub mod machine;
pub mod sunset;
mod unfinished;

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Blame, Explain, Retry, SqlState};
use crate::model::{DatabaseId, RoleName, SystemRecord};
use crate::system::facts::{self, SystemFacts};
use crate::system::tables::{self, TableName};
use crate::system::{Session, SystemAccess, SystemError, quote_ident, quote_literal};

/// Time limit for reaching a system in a step.
const SYSTEM_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a system cannot do what a lifecycle command asks.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error("system {system} is a standby")]
    Standby { system: String },
    #[error("role \"{role}\" cannot create databases and roles on system {system}")]
    Unprivileged { system: String, role: String },
    #[error("role \"{role}\" exists on system {system}")]
    RoleExists { system: String, role: String },
    #[error("database \"{dbname}\" exists on system {system}")]
    DatabaseExists { system: String, dbname: String },
    #[error("there is no database \"{dbname}\" on system {system}")]
    NoDatabase { system: String, dbname: String },
    #[error("database \"{dbname}\" on system {system} is a template or takes no connections")]
    NotServable { system: String, dbname: String },
}

impl Explain for LifecycleError {
    fn sqlstate(&self) -> SqlState {
        match self {
            LifecycleError::System(error) => error.sqlstate(),
            LifecycleError::Standby { .. } | LifecycleError::NotServable { .. } => {
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            LifecycleError::Unprivileged { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            LifecycleError::RoleExists { .. } => SqlState::DUPLICATE_OBJECT,
            LifecycleError::DatabaseExists { .. } => SqlState::DUPLICATE_DATABASE,
            LifecycleError::NoDatabase { .. } => SqlState::INVALID_CATALOG_NAME,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            LifecycleError::System(error) => error.blame(),
            _ => Blame::Platform,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            LifecycleError::System(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    fn message(&self) -> String {
        match self {
            LifecycleError::System(error) => error.message(),
            other => other.to_string(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            LifecycleError::System(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LifecycleError::System(error) => error.hint(),
            LifecycleError::Standby { .. } => Some("Name the primary.".to_owned()),
            LifecycleError::Unprivileged { role, .. } => Some(format!(
                "Use a superuser, or run ALTER ROLE {} CREATEDB CREATEROLE REPLICATION.",
                quote_ident(role)
            )),
            LifecycleError::RoleExists { .. } => {
                Some("Choose another name, or rename or drop the role if nobody uses it.".to_owned())
            }
            LifecycleError::DatabaseExists { .. } => {
                Some("ADOPT DATABASE takes an existing database in where it lies.".to_owned())
            }
            LifecycleError::NoDatabase { .. } => {
                Some("DBNAME 'name' says its name on the system.".to_owned())
            }
            LifecycleError::NotServable { .. } => None,
        }
    }
}

/// A system, how to reach it, and the deadline for that.
#[derive(Debug, Clone, Copy)]
pub struct SystemConnection<'a> {
    pub system: &'a SystemRecord,
    pub access: &'a SystemAccess,
    pub deadline: Instant,
}

impl SystemConnection<'_> {
    async fn session(&self, dbname: &str) -> Result<Session, SystemError> {
        Session::connect(self.access, self.system, dbname, "freehold", self.deadline).await
    }

    async fn admin_session(&self) -> Result<Session, SystemError> {
        self.session(&self.system.admin_database).await
    }
}

/// Connects to a system for the first time and reads its facts.
pub async fn survey(reach: SystemConnection<'_>) -> Result<SystemFacts, LifecycleError> {
    let system = reach.system;
    let session = reach.admin_session().await?;
    let facts = facts::of_system(&session).await?;
    let name = system.name.to_string();
    if facts.in_recovery {
        return Err(LifecycleError::Standby { system: name });
    }
    let may: bool = session
        .value(
            "reading the rights of the platform's role",
            "SELECT rolsuper OR (rolcreatedb AND rolcreaterole) FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await?;
    match may {
        true => Ok(facts),
        false => Err(LifecycleError::Unprivileged { system: name, role: facts.role }),
    }
}

/// The first of the tables of a database whose UPDATEs and DELETEs cannot be replicated.
pub async fn tables_without_key(
    reach: SystemConnection<'_>,
    dbname: &str,
    max: usize,
) -> Result<Vec<TableName>, LifecycleError> {
    let session = reach.session(dbname).await?;
    Ok(tables::without_identity(&session, max).await?)
}

/// A database to be created on a system.
#[derive(Debug, Clone)]
pub struct Creation {
    pub id: DatabaseId,
    pub dbname: String,
    /// The product's role, which is created with the database.
    pub role: RoleName,
    /// Its SCRAM verifier: no password reaches the system.
    pub verifier: String,
}

impl Creation {
    /// Creates role and database. Not safe to repeat: after a failure or a crash call [`Creation::undo`].
    pub async fn run(&self, reach: SystemConnection<'_>) -> Result<(), LifecycleError> {
        let session = reach.admin_session().await?;
        self.refuse_if_taken(&session, reach.system).await?;
        let (db, role) = (quote_ident(&self.dbname), quote_ident(self.role.as_str()));
        let mark = quote_literal(self.id.as_str());
        let verifier = quote_literal(&self.verifier);
        session
            .batch(
                "creating the role",
                &format!("CREATE ROLE {role} LOGIN PASSWORD {verifier}; COMMENT ON ROLE {role} IS {mark}"),
            )
            .await?;
        session
            .batch(
                "creating the database",
                &format!("CREATE DATABASE {db} TEMPLATE template0 ENCODING 'UTF8'"),
            )
            .await?;
        let rights = format!(
            "COMMENT ON DATABASE {db} IS {mark};
             REVOKE ALL ON DATABASE {db} FROM PUBLIC;
             GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {db} TO {role};"
        );
        session.batch("granting rights on the database", &rights).await?;
        self.hand_over_public(reach).await
    }

    async fn refuse_if_taken(&self, session: &Session, system: &SystemRecord) -> Result<(), LifecycleError> {
        let name = system.name.to_string();
        const LOOKING: &str = "looking for the name";
        let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1), EXISTS (SELECT FROM pg_roles WHERE rolname = $2)";
        let row = session.rows(LOOKING, sql, &[&self.dbname, &self.role.as_str()]).await?;
        let Some(row) = row.first() else { return Ok(()) };
        if session.column(LOOKING, row, 0)? {
            return Err(LifecycleError::DatabaseExists { system: name, dbname: self.dbname.clone() });
        }
        if session.column(LOOKING, row, 1)? {
            return Err(LifecycleError::RoleExists { system: name, role: self.role.to_string() });
        }
        Ok(())
    }

    /// Unless it is a superuser, the platform's role must be a member of the product's role to give it a
    /// schema.
    async fn hand_over_public(&self, reach: SystemConnection<'_>) -> Result<(), LifecycleError> {
        let session = reach.session(&self.dbname).await?;
        let role = quote_ident(self.role.as_str());
        let superuser: bool = session
            .value(
                "reading the platform's role",
                "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
                &[],
            )
            .await?;
        let belong = if superuser { String::new() } else { format!("GRANT {role} TO CURRENT_USER;") };
        let sql = format!("{belong} ALTER SCHEMA public OWNER TO {role}");
        Ok(session.batch("handing over schema public", &sql).await?)
    }

    /// Removes what [`Creation::run`] made, and only that: it is identified by its mark. Safe to repeat.
    pub async fn undo(&self, reach: SystemConnection<'_>) -> Result<(), LifecycleError> {
        let session = reach.admin_session().await?;
        const LOOKING: &str = "looking for what was created";
        let marked = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1
                                     AND (shobj_description(oid, 'pg_database') = $3 OR datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user)
                                          AND shobj_description(oid, 'pg_database') IS NULL AND EXISTS (SELECT FROM pg_roles r WHERE rolname = $2 AND shobj_description(r.oid, 'pg_authid') = $3))),
                             EXISTS (SELECT FROM pg_roles r WHERE rolname = $2 AND shobj_description(r.oid, 'pg_authid') = $3)";
        let rows =
            session.rows(LOOKING, marked, &[&self.dbname, &self.role.as_str(), &self.id.as_str()]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        if session.column(LOOKING, row, 0)? {
            let sql = format!("DROP DATABASE {} WITH (FORCE)", quote_ident(&self.dbname));
            session.batch("removing the database", &sql).await?;
        }
        if session.column(LOOKING, row, 1)? {
            session
                .batch("removing the role", &format!("DROP ROLE {}", quote_ident(self.role.as_str())))
                .await?;
        }
        Ok(())
    }
}

/// Closes a database that the platform created: no client can connect, its names are free again, the data
/// stays.
///
/// `suffix` makes the new names distinct. Returns the new name of the database. Safe to repeat.
pub async fn close(
    reach: SystemConnection<'_>,
    dbname: &str,
    suffix: &str,
) -> Result<String, LifecycleError> {
    let session = reach.admin_session().await?;
    let closed = closed_name(dbname, suffix);
    let exists: bool = session
        .value(
            "looking for the database",
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)",
            &[&dbname],
        )
        .await?;
    if exists && let Err(error) = rename_closed(&session, dbname, &closed).await {
        // Opens it again: a database that is closed under its old name helps no client.
        let open = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote_ident(dbname));
        session.batch("opening the database again", &open).await?;
        return Err(error.into());
    }
    rename_product_role(&session, dbname, &closed).await?;
    Ok(closed)
}

/// Takes back [`close`], as far as it got: the database and its role have their names again, and clients may
/// connect. Safe to repeat.
pub async fn reopen(reach: SystemConnection<'_>, dbname: &str, suffix: &str) -> Result<(), LifecycleError> {
    let session = reach.admin_session().await?;
    let closed = closed_name(dbname, suffix);
    const LOOKING: &str = "looking for what was closed";
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1),
                      EXISTS (SELECT FROM pg_database WHERE datname = $2),
                      EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
                      EXISTS (SELECT FROM pg_roles r WHERE rolname = $2 AND shobj_description(r.oid, 'pg_authid') ~ '^(db_|created by freehold move)')";
    let rows = session.rows(LOOKING, sql, &[&dbname, &closed]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let is = |column| session.column::<bool>(LOOKING, row, column);
    let (has_database, was_closed, has_role, was_renamed) = (is(0)?, is(1)?, is(2)?, is(3)?);
    let (old, new) = (quote_ident(&closed), quote_ident(dbname));
    if !has_database && was_closed {
        session.batch("renaming the database back", &format!("ALTER DATABASE {old} RENAME TO {new}")).await?;
    }
    if has_database || was_closed {
        let open = format!("ALTER DATABASE {new} ALLOW_CONNECTIONS true");
        session.batch("opening the database again", &open).await?;
    }
    if !has_role && was_renamed {
        let back = format!("ALTER ROLE {old} RENAME TO {new}; ALTER ROLE {new} LOGIN");
        session.batch("opening the product's role again", &back).await?;
    }
    Ok(())
}

/// The name of a closed database and of its role.
fn closed_name(dbname: &str, suffix: &str) -> String {
    let kept: String = dbname.chars().take(30).collect();
    format!("{kept}__dropped_{suffix}")
}

async fn rename_closed(session: &Session, dbname: &str, closed: &str) -> Result<(), SystemError> {
    let (db, new) = (quote_ident(dbname), quote_ident(closed));
    session.batch("closing the database", &format!("ALTER DATABASE {db} ALLOW_CONNECTIONS false")).await?;
    session
        .rows(
            "ending its sessions",
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1",
            &[&dbname],
        )
        .await?;
    session.batch("renaming the database", &format!("ALTER DATABASE {db} RENAME TO {new}")).await
}

/// Renames the product's role, which has the database's name and mark; leaves another role of that name
/// alone.
async fn rename_product_role(session: &Session, dbname: &str, closed: &str) -> Result<(), LifecycleError> {
    let ours: bool = session
        .value(
            "looking for the product's role",
            "SELECT EXISTS (SELECT FROM pg_roles r WHERE rolname = $1 AND shobj_description(r.oid, 'pg_authid') ~ '^(db_|created by freehold move)')",
            &[&dbname],
        )
        .await?;
    if ours {
        let (role, new) = (quote_ident(dbname), quote_ident(closed));
        session
            .batch(
                "closing the product's role",
                &format!("ALTER ROLE {role} NOLOGIN; ALTER ROLE {role} RENAME TO {new}"),
            )
            .await?;
    }
    Ok(())
}
