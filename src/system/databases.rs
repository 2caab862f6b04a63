//! Databases of a system: creates one like another, marks it as a move's, drops it.
//!
//! # Why
//! `CREATE DATABASE` cannot run in a transaction: a crash right after it must not leave a database that looks
//! like a user's. So it is created under a name that only the move uses, marked by a setting, then renamed;
//! every state in between can be recognised and undone.

use super::facts::{DatabaseFacts, LocaleProvider};
use super::names::{DATABASE_MARK, MoveNames, quote_ident, quote_literal};
use super::roles::{reset_clause, set_clause};
use super::{Session, SystemError};

/// Whether a database of a name belongs to the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseClaim {
    Absent,
    /// It carries the mark of this move, and a superuser owns it: any owner of a database could write the
    /// mark.
    Ours,
    Foreign,
}

pub async fn claim(session: &Session, names: MoveNames, dbname: &str) -> Result<DatabaseClaim, SystemError> {
    const LOOKING: &str = "looking for a database";
    let sql = "SELECT coalesce($2 = ANY (s.setconfig), false) AND o.rolsuper FROM pg_database d JOIN pg_roles o ON o.oid = d.datdba
        LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0 WHERE d.datname = $1";
    let mark = format!("{DATABASE_MARK}={}", names.label());
    let Some(row) = session.optional(LOOKING, sql, &[&dbname, &mark]).await? else {
        return Ok(DatabaseClaim::Absent);
    };
    Ok(if session.column(LOOKING, &row, 0)? { DatabaseClaim::Ours } else { DatabaseClaim::Foreign })
}

/// Creates an empty database with the encoding and locale of `like`, marked, owned by the session's role,
/// shut (CONNECTION LIMIT 0). Safe to repeat; a database that carries the mark already is left as it is.
pub async fn create(
    session: &Session,
    names: MoveNames,
    dbname: &str,
    like: &DatabaseFacts,
) -> Result<(), SystemError> {
    const CREATING: &str = "creating the database";
    match claim(session, names, dbname).await? {
        DatabaseClaim::Ours => return Ok(()),
        DatabaseClaim::Foreign => {
            return Err(session.unexpected(CREATING, "a database of this name exists already"));
        }
        DatabaseClaim::Absent => {}
    }
    let version = super::facts::version_num(session).await?;
    let (unmarked, name) = (quote_ident(&names.unmarked_database()), quote_ident(dbname));
    session.batch(CREATING, &format!("DROP DATABASE IF EXISTS {unmarked}")).await?;
    session.batch(CREATING, &create_sql(&unmarked, like, version)).await?;
    let mark = format!("ALTER DATABASE {unmarked} SET {DATABASE_MARK} = {}", quote_literal(&names.label()));
    session.batch(CREATING, &mark).await?;
    session.batch(CREATING, &format!("ALTER DATABASE {unmarked} RENAME TO {name}")).await
}

pub(super) fn create_sql(name: &str, like: &DatabaseFacts, version: u32) -> String {
    let mut sql = format!(
        "CREATE DATABASE {name} TEMPLATE template0 CONNECTION LIMIT 0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_literal(&like.encoding),
        quote_literal(&like.collate),
        quote_literal(&like.ctype),
    );
    if version >= 150_000 {
        sql.push_str(&format!(" LOCALE_PROVIDER {}", like.provider.as_str()));
    }
    let locale = like.locale.as_deref().map(quote_literal);
    match (like.provider, locale) {
        (LocaleProvider::Icu, Some(locale)) => sql.push_str(&format!(" ICU_LOCALE {locale}")),
        (LocaleProvider::Builtin, Some(locale)) => sql.push_str(&format!(" BUILTIN_LOCALE {locale}")),
        _ => {}
    }
    if let (Some(rules), true) = (&like.icu_rules, version >= 160_000) {
        sql.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
    }
    sql
}

/// Drops the database if it carries the mark of this move, and an unmarked one that a crash left. Terminates
/// its sessions. Returns whether a database was dropped.
pub async fn drop_ours(session: &Session, names: MoveNames, dbname: &str) -> Result<bool, SystemError> {
    const DROPPING: &str = "dropping the database";
    let unmarked = quote_ident(&names.unmarked_database());
    session.batch(DROPPING, &format!("DROP DATABASE IF EXISTS {unmarked} WITH (FORCE)")).await?;
    if claim(session, names, dbname).await? != DatabaseClaim::Ours {
        return Ok(false);
    }
    session.batch(DROPPING, &format!("DROP DATABASE {} WITH (FORCE)", quote_ident(dbname))).await?;
    Ok(true)
}

/// The OID of a database, which identifies it whatever its name becomes.
pub async fn oid(session: &Session, dbname: &str) -> Result<Option<u32>, SystemError> {
    const LOOKING: &str = "looking for a database";
    let row = session.optional(LOOKING, "SELECT oid FROM pg_database WHERE datname = $1", &[&dbname]).await?;
    row.map(|row| session.column(LOOKING, &row, 0)).transpose()
}

async fn name_of(session: &Session, oid: u32) -> Result<Option<String>, SystemError> {
    const LOOKING: &str = "looking for a database";
    let sql = "SELECT datname::text FROM pg_database WHERE oid = $1";
    let row = session.optional(LOOKING, sql, &[&oid]).await?;
    row.map(|row| session.column(LOOKING, &row, 0)).transpose()
}

/// Closes a database: refuses connections, terminates its sessions, and renames it. Safe to repeat.
pub async fn close(session: &Session, oid: u32, new_name: &str) -> Result<(), SystemError> {
    const CLOSING: &str = "closing a database";
    let Some(name) = name_of(session, oid).await? else { return Ok(()) };
    let (old, new) = (quote_ident(&name), quote_ident(new_name));
    session.batch(CLOSING, &format!("ALTER DATABASE {old} ALLOW_CONNECTIONS false")).await?;
    if name == new_name {
        return Ok(());
    }
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datid = $1";
    session.rows(CLOSING, sql, &[&oid]).await?;
    // The rename waits a few seconds for sessions that are ending.
    session.batch(CLOSING, &format!("ALTER DATABASE {old} RENAME TO {new}")).await
}

/// Drops a database; terminates its sessions. Safe to repeat.
pub async fn drop_by_oid(session: &Session, oid: u32) -> Result<(), SystemError> {
    let Some(name) = name_of(session, oid).await? else { return Ok(()) };
    session.batch("dropping a database", &format!("DROP DATABASE {} WITH (FORCE)", quote_ident(&name))).await
}

/// Sets the connection limit, which does not apply to superusers; `None` is unlimited.
pub async fn limit_connections(
    session: &Session,
    dbname: &str,
    limit: Option<u32>,
) -> Result<(), SystemError> {
    let limit = limit.map_or(-1, i64::from);
    let sql = format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quote_ident(dbname));
    session.batch("limiting the connections to a database", &sql).await
}

/// Resets the libraries that every session of the database loads. For a database that is going to be dropped.
pub async fn load_nothing(session: &Session, dbname: &str) -> Result<(), SystemError> {
    let database = quote_ident(dbname);
    let sql = format!(
        "ALTER DATABASE {database} RESET session_preload_libraries; ALTER DATABASE {database} RESET local_preload_libraries"
    );
    session.batch("taking away the libraries of a database", &sql).await
}

/// Removes the mark: from now on the database is not the move's.
pub async fn unmark(session: &Session, dbname: &str) -> Result<(), SystemError> {
    let sql = format!("ALTER DATABASE {} RESET {DATABASE_MARK}", quote_ident(dbname));
    session.batch("taking the mark from a database", &sql).await
}

/// A setting of a database, for a role in it or (`None`) for all roles, as `name=value`.
pub type DatabaseSetting = (Option<String>, String);

/// The settings of a database, without the mark of a move.
pub async fn settings(session: &Session, dbname: &str) -> Result<Vec<DatabaseSetting>, SystemError> {
    let mut settings = super::roles::database_settings(session, dbname).await?;
    settings.retain(|(_, stored)| !stored.starts_with(DATABASE_MARK));
    Ok(settings)
}

/// The statement that sets it, with its semicolon.
pub fn set_sql(dbname: &str, (role, stored): &DatabaseSetting) -> String {
    format!("{} {};", altered(dbname, role.as_deref()), set_clause(stored))
}

/// The statement that resets it, with its semicolon.
pub fn reset_sql(dbname: &str, (role, stored): &DatabaseSetting) -> String {
    format!("{} {};", altered(dbname, role.as_deref()), reset_clause(stored))
}

fn altered(dbname: &str, role: Option<&str>) -> String {
    let database = quote_ident(dbname);
    match role {
        Some(role) => format!("ALTER ROLE {} IN DATABASE {database}", quote_ident(role)),
        None => format!("ALTER DATABASE {database}"),
    }
}

/// Resets settings of a database.
pub async fn reset_settings(
    session: &Session,
    dbname: &str,
    settings: &[DatabaseSetting],
) -> Result<(), SystemError> {
    for setting in settings {
        session.batch("taking away the settings of a database", &reset_sql(dbname, setting)).await?;
    }
    Ok(())
}

/// Applies what `ALTER DATABASE SET` and `ALTER ROLE IN DATABASE SET` had set elsewhere, and the comment.
pub async fn apply_settings(
    session: &Session,
    dbname: &str,
    settings: &[DatabaseSetting],
    comment: Option<&str>,
) -> Result<(), SystemError> {
    const SETTING: &str = "copying the settings of a database";
    let is_ours = |stored: &str| stored.starts_with(DATABASE_MARK);
    for setting in settings.iter().filter(|(_, stored)| !is_ours(stored)) {
        session.batch(SETTING, &set_sql(dbname, setting)).await?;
    }
    let database = quote_ident(dbname);
    if let Some(comment) = comment {
        let sql = format!("COMMENT ON DATABASE {database} IS {}", quote_literal(comment));
        session.batch(SETTING, &sql).await?;
    }
    Ok(())
}
