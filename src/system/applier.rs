//! The roles that touch what belongs to a database's users: one restores the schema and writes rows where they arrive (in the copy, and as
//! the owner of the subscription), one reads rows.
//!
//! All of it runs code of the users: checks, domains, generated columns, expressions of indexes and of partition keys. To read is enough:
//! for each query PostgreSQL simplifies the predicates of a table's indexes, and calls functions of constants. So neither is a
//! superuser, and that code gets no more than the roles that own the tables have. While the schema is restored the writing role
//! owns everything. Otherwise the roles belong to the owners, as far as none of them leads to rights on the whole server; on what others own
//! they have rights of their own.
//!
//! # Why
//! `SET ROLE` in a session of the platform is no barrier: the code can RESET it. A session that was logged in as the role has
//! nothing to reset to. `run_as_owner = false` (PostgreSQL 16) would be one, but stops at tables that force row security and
//! at owners that took rights from themselves, and older servers do not know it.

use super::marker::or_rolled_back;
use super::names::{quote_ident, quote_literal, quote_qualified};
use super::roles::{self, verifier_of};
use super::session::Setup;
use super::{Session, SystemError};

const LENDING: &str = "giving rights to a role that reads or writes rows";
/// The first releases whose workers of replication may enter a database with CONNECTION LIMIT 0 though their role is no
/// superuser (February 2025).
const WORKERS_ENTER_SINCE: [u32; 4] = [140_016, 150_011, 160_007, 170_003];
/// `password_required`, and GRANT ... WITH INHERIT.
const OPTIONS: u32 = 160_000;

/// Whether a subscription of a shut database can belong to a role that is no superuser.
pub fn can_apply(version_num: u32) -> bool {
    let major = version_num / 10_000;
    match WORKERS_ENTER_SINCE.iter().find(|since| *since / 10_000 == major) {
        Some(since) => version_num >= *since,
        None => major > 17,
    }
}

/// Creates the role if it is not there, without rights and without a password. Safe to repeat; one that exists loses its
/// password. The settings are for its sessions: only a superuser could make them act as replication does, and values are read as
/// they were written, whatever is set for the database; a role that its owner set for it is not theirs.
pub async fn create(session: &Session, role: &str) -> Result<(), SystemError> {
    const CREATING: &str = "creating a role that reads or writes rows";
    let exists = roles::exists(session, CREATING, role).await?;
    let (verb, role) = (if exists { "ALTER" } else { "CREATE" }, quote_ident(role));
    // A worker of replication has no startup packet: the settings of its role beat those of the database.
    let settings = Setup::Writing.role_settings_sql(&role, super::facts::version_num(session).await?);
    let sql = format!(
        "BEGIN;
         {verb} ROLE {role} WITH NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION LOGIN INHERIT BYPASSRLS PASSWORD NULL;
         ALTER ROLE {role} SET session_replication_role = replica;
         {settings}
         COMMIT"
    );
    or_rolled_back(session, session.batch(CREATING, &sql).await).await
}

/// Lets the role log in by a password.
pub async fn set_password(session: &Session, role: &str, password: &str) -> Result<(), SystemError> {
    let verifier = quote_literal(&verifier_of(session, password).await?);
    let sql = format!(
        "BEGIN; SET LOCAL log_statement = 'none'; ALTER ROLE {} PASSWORD {verifier}; COMMIT",
        quote_ident(role)
    );
    or_rolled_back(session, session.batch("letting a role that reads or writes rows log in", &sql).await)
        .await
}

/// Owners of the database's tables and of their functions whose rights end at databases: neither they nor any role that they
/// belong to can do anything to the server.
const OWNERS: &str = "\
WITH RECURSIVE owned AS (
    SELECT c.relowner AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
    UNION SELECT p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')),
above AS (
    SELECT oid AS owner, oid AS role FROM owned
    UNION SELECT a.owner, m.roleid FROM above a JOIN pg_auth_members m ON m.member = a.role)
SELECT pg_get_userbyid(a.owner)::text FROM above a LEFT JOIN pg_roles r ON r.oid = a.role
GROUP BY a.owner
HAVING bool_and(r.oid IS NOT NULL AND r.rolname !~ '^pg_' AND NOT (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication))
ORDER BY 1";

/// Roles that the role belongs to.
const BELONGS_TO: &str = "SELECT pg_get_userbyid(m.roleid)::text FROM pg_auth_members m
    WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = $1) ORDER BY 1";

/// Settings of functions that only a superuser may name, or whoever was given the right to (PostgreSQL 15).
const FUNCTION_SETTINGS: &str = "\
SELECT DISTINCT split_part(c, '=', 1) FROM pg_proc p, unnest(p.proconfig) c
 WHERE p.oid >= 16384 AND split_part(c, '=', 1) NOT IN (SELECT name FROM pg_settings WHERE context = 'user')";
const RIGHTS_ON_SETTINGS: u32 = 150_000;

/// What the role cannot create objects in, or with, though a database that is being restored needs it.
const CLOSED: &str = "\
SELECT 'CREATE, USAGE ON SCHEMA ' || quote_ident(nspname) FROM pg_namespace
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'freehold')
   AND NOT (has_schema_privilege($1, oid, 'CREATE') AND has_schema_privilege($1, oid, 'USAGE'))
UNION ALL
SELECT 'USAGE ON FOREIGN DATA WRAPPER ' || quote_ident(fdwname) FROM pg_foreign_data_wrapper
 WHERE NOT has_foreign_data_wrapper_privilege($1, oid, 'USAGE')
UNION ALL
SELECT 'USAGE ON FOREIGN SERVER ' || quote_ident(srvname) FROM pg_foreign_server WHERE NOT has_server_privilege($1, oid, 'USAGE')
UNION ALL
SELECT format('ALL ON %I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
   AND NOT has_table_privilege($1, c.oid, 'REFERENCES')";

/// Schemas and tables on which the role has not what it needs: (schema, table or None). The table of a serial number is
/// looked at by what the rows' code may do with it.
const LACKING: &str = "\
SELECT n.nspname::text, NULL::text FROM pg_namespace n
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT has_schema_privilege($1, n.oid, 'USAGE')
   AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p'))
UNION ALL
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND EXISTS (SELECT FROM unnest($2::text[]) wanted WHERE NOT has_table_privilege($1, c.oid, wanted))";

/// What a role of a move's own does with the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Read,
    Write,
}

impl Rows {
    fn rights(self) -> &'static [&'static str] {
        match self {
            Rows::Read => &["SELECT"],
            Rows::Write => &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"],
        }
    }
}

/// Gives the role what it needs to read or write every row of the session's database, and no more. Safe to repeat.
pub async fn lend(session: &Session, role: &str, rows: Rows) -> Result<(), SystemError> {
    let version = super::facts::version_num(session).await?;
    let owners: Vec<String> = session.list(LENDING, OWNERS, &[]).await?;
    let now: Vec<String> = session.list(LENDING, BELONGS_TO, &[&role]).await?;
    let quoted = quote_ident(role);
    // A member that may not SET ROLE has the rights on objects and no others.
    let with = if version >= OPTIONS { " WITH INHERIT TRUE, SET FALSE, ADMIN FALSE" } else { "" };
    for owner in owners.iter().filter(|owner| *owner != role && !now.contains(owner)) {
        session.batch(LENDING, &format!("GRANT {} TO {quoted}{with}", quote_ident(owner))).await?;
    }
    for former in now.iter().filter(|name| !owners.contains(name)) {
        session.batch(LENDING, &format!("REVOKE {} FROM {quoted}", quote_ident(former))).await?;
    }
    for row in &session.rows(LENDING, LACKING, &[&role, &rows.rights()]).await? {
        let (schema, table): (String, Option<String>) =
            (session.column(LENDING, row, 0)?, session.column(LENDING, row, 1)?);
        let what = match table {
            None => format!("USAGE ON SCHEMA {}", quote_ident(&schema)),
            Some(table) => {
                format!("{} ON {}", rows.rights().join(", "), quote_qualified(&schema, &table))
            }
        };
        session.batch(LENDING, &format!("GRANT {what} TO {quoted}")).await?;
    }
    let database = quote_ident(session.dbname());
    session.batch(LENDING, &format!("GRANT CONNECT ON DATABASE {database} TO {quoted}")).await
}

/// Lets the role create what a schema consists of. Safe to repeat: what was created since by others is opened, too.
pub async fn let_create(session: &Session, role: &str) -> Result<(), SystemError> {
    const LETTING: &str = "letting the role that restores the schema create objects";
    let quoted = quote_ident(role);
    let database = quote_ident(session.dbname());
    let mut grants = format!("GRANT CREATE ON DATABASE {database} TO {quoted}");
    for right in session.list::<String>(LETTING, CLOSED, &[&role]).await? {
        grants.push_str(&format!("; GRANT {right} TO {quoted}"));
    }
    session.batch(LETTING, &grants).await
}

/// Lets the role create functions with the settings that functions of the other database have. The server checks each name, and the platform
/// may give the right to any. Older servers know no such right: there the server refuses the function.
pub async fn let_set(source: &Session, target: &Session, role: &str) -> Result<(), SystemError> {
    const LETTING: &str = "letting the role that restores the schema name settings of functions";
    if super::facts::version_num(target).await? < RIGHTS_ON_SETTINGS {
        return Ok(());
    }
    for setting in source.list::<String>(LETTING, FUNCTION_SETTINGS, &[]).await? {
        let setting: Vec<String> = setting.split('.').map(quote_ident).collect();
        let sql = format!("GRANT SET ON PARAMETER {} TO {}", setting.join("."), quote_ident(role));
        target.batch(LETTING, &sql).await?;
    }
    Ok(())
}

/// Gives a subscription of the session's database to the role; its worker acts as that. Safe to repeat.
pub async fn take_over(session: &Session, subscription: &str, role: &str) -> Result<(), SystemError> {
    const GIVING: &str = "giving a subscription to the role that writes rows";
    let sql = "SELECT pg_get_userbyid(subowner)::text FROM pg_subscription WHERE subname = $1
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let owner = session.optional(GIVING, sql, &[&subscription]).await?;
    let owner: Option<String> = owner.map(|row| session.column(GIVING, &row, 0)).transpose()?;
    if owner.is_none_or(|owner| owner == role) {
        return Ok(());
    }
    let (subscription, role) = (quote_ident(subscription), quote_ident(role));
    let give = format!("ALTER SUBSCRIPTION {subscription} OWNER TO {role}");
    let sql = match super::facts::version_num(session).await? >= OPTIONS {
        // The publisher decides whether a password is asked for, as it does for the platform.
        true => format!(
            "BEGIN; ALTER SUBSCRIPTION {subscription} SET (password_required = false); {give}; COMMIT"
        ),
        // Only a superuser may be given one; one that has it may lose that. Nobody sees the role in between.
        false => {
            format!("BEGIN; ALTER ROLE {role} SUPERUSER; {give}; ALTER ROLE {role} NOSUPERUSER; COMMIT")
        }
    };
    or_rolled_back(session, session.batch(GIVING, &sql).await).await
}

/// Takes every right in the session's database from the role, if it exists. What code of the users' made there in its name is dropped:
/// nobody else may own it, a superuser least of all.
pub async fn take_back(session: &Session, role: &str) -> Result<(), SystemError> {
    const TAKING: &str = "taking rights from a role that read or wrote rows";
    if !roles::exists(session, TAKING, role).await? {
        return Ok(());
    }
    let role = quote_ident(role);
    session.batch(TAKING, &format!("DROP OWNED BY {role} CASCADE")).await
}

/// Takes every right from the role, and drops it. Safe to repeat.
pub async fn remove(session: &Session, role: &str) -> Result<(), SystemError> {
    take_back(session, role).await?;
    roles::drop_replication(session, role).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_without_a_superuser_enter_a_shut_database_since_these_releases() {
        assert!(!can_apply(150_010) && can_apply(150_011));
        assert!(!can_apply(170_002) && can_apply(170_003) && can_apply(180_000));
    }
}
