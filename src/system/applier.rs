//! The move's roles that touch objects of a database's users: one restores the schema and writes rows on the
//! target (in the copy, and as the owner of the subscription), one reads rows.
//!
//! All of it runs code of the users: checks, domains, generated columns, expressions of indexes and of
//! partition keys. Reading is enough: for each query PostgreSQL simplifies the predicates of a table's
//! indexes, and calls functions with constant arguments. So neither is a superuser, and that code gets no
//! more than the roles that own the tables have. While the schema is restored the writing role owns
//! everything. Otherwise the roles are members of the owners, unless an owner has privileges on the whole
//! server; on other objects they have privileges of their own.
//!
//! # Why
//! `SET ROLE` in a session of the platform is no barrier: the code can RESET it. In a session that logged in
//! as the role, RESET ROLE changes nothing. `run_as_owner = false` (PostgreSQL 16) would be a barrier, but
//! fails at tables that force row security and at owners that revoked privileges from themselves, and older
//! servers do not know it.

use std::time::Duration;

use super::names::quote_ident;
use super::own_roles::{self, RoleState, SHUT_OUT};
use super::roles;
use super::session::{Setup, or_rolled_back, without_event_triggers_sql};
use super::{Session, SystemError};
use crate::error::{Explain, SqlState};

const LENDING: &str = "giving rights to a role that reads or writes rows";
/// The first releases in which workers of replication with a role that is no superuser may connect to a
/// database with CONNECTION LIMIT 0 (February 2025).
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

/// Creates the role anew, without privileges and without a password; a role that a subscription acts as
/// stays, and loses its password. Safe to repeat. [`SystemError::NotOurs`]: another role controls a role of
/// this name. Event triggers fire for the role that writes, since one of the platform's is needed during the
/// restore. The settings apply to the role's sessions: only a superuser could make them act as a replica, and
/// values are read as they were written, whatever is set for the database; a SET ROLE in the database's
/// settings does not apply to them.
pub async fn create(session: &Session, role: &str, rows: RowAccess) -> Result<(), SystemError> {
    const CREATING: &str = "creating a role that reads or writes rows";
    let standing = own_roles::standing(session, role).await?;
    if standing == RoleState::Idle {
        remove(session, role).await?;
    }
    let verb = if standing == RoleState::InUse { "ALTER" } else { "CREATE" };
    let role = quote_ident(role);
    // A worker of replication has no startup packet: the settings of its role take precedence over those of
    // the database.
    let version = super::facts::version_num(session).await?;
    let mut settings = Setup::Writing.role_settings_sql(&role, version);
    if rows == RowAccess::Read {
        settings.push_str(&without_event_triggers_sql(&role, version));
    }
    let sql = format!(
        "BEGIN;
         {verb} ROLE {role} WITH NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION LOGIN INHERIT BYPASSRLS {SHUT_OUT};
         ALTER ROLE {role} SET session_replication_role = replica;
         {settings}
         COMMIT"
    );
    or_rolled_back(session, session.batch(CREATING, &sql).await).await
}

/// Owners of the database's tables and of their functions, and whether their privileges end at databases:
/// neither they nor any role that they are members of have privileges on the server. Superusers are left out.
const OWNERS: &str = "\
WITH RECURSIVE owned AS (
    SELECT c.relowner AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
    UNION SELECT p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')),
above AS (
    SELECT oid AS owner, oid AS role FROM owned
    UNION SELECT a.owner, m.roleid FROM above a JOIN pg_auth_members m ON m.member = a.role)
SELECT pg_get_userbyid(a.owner)::text,
    bool_and(r.oid IS NOT NULL AND r.rolname !~ '^pg_' AND NOT (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication))
FROM above a LEFT JOIN pg_roles r ON r.oid = a.role
GROUP BY a.owner HAVING NOT bool_or(r.oid = a.owner AND r.rolsuper)
ORDER BY 1";

/// Whether a table has another owner than these roles, for example a superuser.
const OWNED_BY_OTHERS: &str = "\
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
   AND pg_get_userbyid(c.relowner) <> ALL ($1))";

/// Roles that the role is a member of.
const BELONGS_TO: &str = "SELECT pg_get_userbyid(m.roleid)::text FROM pg_auth_members m
    WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = $1) ORDER BY 1";

/// Settings of functions that only superusers and roles with a granted privilege (PostgreSQL 15) may set.
const FUNCTION_SETTINGS: &str = "\
SELECT DISTINCT split_part(c, '=', 1) FROM pg_proc p, unnest(p.proconfig) c
 WHERE p.oid >= 16384 AND p.pronamespace IS DISTINCT FROM to_regnamespace('freehold')
   AND split_part(c, '=', 1) NOT IN (SELECT name FROM pg_settings WHERE context = 'user')";
const RIGHTS_ON_SETTINGS: u32 = 150_000;

/// Objects in which, or with which, the role cannot create objects, though the restore of a database needs
/// it.
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

/// Privileges that the role needs and lacks, as the text between GRANT and TO. Besides the rows of tables,
/// code that runs for a row may use views, sequences and functions.
const LACKING: &str = "\
WITH own AS (SELECT n.oid, n.nspname FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
SELECT format('USAGE ON SCHEMA %I', nspname) FROM own
 WHERE NOT has_schema_privilege($1, oid, 'USAGE')
   AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = own.oid AND c.relkind IN ('r', 'p'))
UNION ALL
SELECT format('%s ON %I.%I', array_to_string($2::text[], ', '), nspname, c.relname) FROM pg_class c JOIN own ON own.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND EXISTS (SELECT FROM unnest($2::text[]) wanted WHERE NOT has_table_privilege($1, c.oid, wanted))
UNION ALL
SELECT format('SELECT ON %I.%I', nspname, c.relname) FROM pg_class c JOIN own ON own.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm', 'f') AND NOT has_table_privilege($1, c.oid, 'SELECT')
UNION ALL
SELECT format('USAGE, SELECT ON SEQUENCE %I.%I', nspname, c.relname) FROM pg_class c JOIN own ON own.oid = c.relnamespace
 WHERE CASE WHEN c.relkind = 'S' AND $3 THEN NOT has_sequence_privilege($1, c.oid, 'USAGE') ELSE false END
UNION ALL
SELECT format('EXECUTE ON ROUTINE %s', p.oid::regprocedure) FROM pg_proc p JOIN own ON own.oid = p.pronamespace
 WHERE p.prokind <> 'p' AND NOT has_function_privilege($1, p.oid, 'EXECUTE')";
/// PostgreSQL's role with SELECT on everything, since 14.
const READS_ALL: &str = "pg_read_all_data";
/// GRANTs in one batch.
const GRANTS: usize = 200;

/// Whether a role of a move reads or writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowAccess {
    Read,
    Write,
}

impl RowAccess {
    fn rights(self) -> &'static [&'static str] {
        match self {
            RowAccess::Read => &["SELECT"],
            RowAccess::Write => &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"],
        }
    }
}

/// Gives the role the privileges to read or write every row of the session's database, and no more. Safe to
/// repeat.
///
/// The role becomes a member of the owners if a member gets only the privileges on what they own (SET FALSE,
/// PostgreSQL 16), or if there is only one owner, so that only that owner's code runs. Before 16 code of one
/// owner could become another by SET ROLE and change its password: there a role that writes gets privileges
/// of its own. A role that reads becomes a member of `pg_read_all_data` if tables are left otherwise, for
/// example a superuser's.
pub async fn lend(session: &Session, role: &str, rows: RowAccess) -> Result<(), SystemError> {
    let version = super::facts::version_num(session).await?;
    let owners: Vec<(String, bool)> = session.pairs(LENDING, OWNERS, &[]).await?;
    let others = owners.iter().filter(|(owner, _)| owner != role).count();
    let belongs = version >= OPTIONS || others <= 1;
    let owners =
        owners.into_iter().filter(|(_, is_harmless)| *is_harmless && belongs).map(|(owner, _)| owner);
    let mut owners: Vec<String> = owners.collect();
    if rows == RowAccess::Read && session.value(LENDING, OWNED_BY_OTHERS, &[&owners]).await? {
        // Granting on single tables would update the same catalog rows as clients' statements: their TRUNCATE
        // could fail with XX000.
        owners.push(READS_ALL.to_owned());
    }
    let now: Vec<String> = session.list(LENDING, BELONGS_TO, &[&role]).await?;
    let quoted = quote_ident(role);
    // A member that may not SET ROLE has only the privileges on objects.
    let with = if version >= OPTIONS { " WITH INHERIT TRUE, SET FALSE, ADMIN FALSE" } else { "" };
    for owner in owners.iter().filter(|owner| *owner != role && !now.contains(owner)) {
        session.batch(LENDING, &format!("GRANT {} TO {quoted}{with}", quote_ident(owner))).await?;
    }
    for former in now.iter().filter(|name| !owners.contains(name)) {
        session.batch(LENDING, &format!("REVOKE {} FROM {quoted}", quote_ident(former))).await?;
    }
    let writes = rows == RowAccess::Write;
    let lacking: Vec<String> = session.list(LENDING, LACKING, &[&role, &rows.rights(), &writes]).await?;
    for some in lacking.chunks(GRANTS) {
        let grants: Vec<String> = some.iter().map(|what| format!("GRANT {what} TO {quoted}")).collect();
        session.batch(LENDING, &grants.join(";")).await?;
    }
    let database = quote_ident(session.dbname());
    session.batch(LENDING, &format!("GRANT CONNECT ON DATABASE {database} TO {quoted}")).await
}

/// From its next session on, the role builds each index without parallel workers.
pub async fn build_on_one_cpu(session: &Session, role: &str) -> Result<(), SystemError> {
    let sql = format!("ALTER ROLE {} SET max_parallel_maintenance_workers = 0", quote_ident(role));
    session.batch("keeping the building of indexes to one CPU", &sql).await
}

/// Grants the role what it needs to create a schema. Safe to repeat: also grants on objects that other roles
/// created since.
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

/// Lets the role create functions with the settings that functions of the other database have. The server
/// checks each name, and the platform may grant SET on any parameter. Older servers do not have this
/// privilege, and refuse the function.
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

/// Makes the role the owner of a subscription of the session's database; its worker acts as the role. Safe to
/// repeat.
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
        // The publisher decides whether it asks for a password, as for the platform.
        true => format!(
            "BEGIN; ALTER SUBSCRIPTION {subscription} SET (password_required = false); {give}; COMMIT"
        ),
        // Only a superuser may become the owner; the owner may lose SUPERUSER afterwards. No other session
        // sees the role in between.
        false => {
            format!("BEGIN; ALTER ROLE {role} SUPERUSER; {give}; ALTER ROLE {role} NOSUPERUSER; COMMIT")
        }
    };
    or_rolled_back(session, session.batch(GIVING, &sql).await).await
}

/// Attempts to revoke a role's privileges while other sessions change the same tables.
const TAKING_TRIES_MAX: u32 = 20;
const TAKING_PAUSE: Duration = Duration::from_millis(50);

/// Revokes every privilege of the role in the session's database, if it exists. Objects that users' code
/// created as the role are dropped: no other role may own them, least of all a superuser.
pub async fn take_back(session: &Session, role: &str) -> Result<(), SystemError> {
    const TAKING: &str = "taking rights from a role that read or wrote rows";
    if !roles::exists(session, TAKING, role).await? {
        return Ok(());
    }
    let sql = format!("DROP OWNED BY {} CASCADE", quote_ident(role));
    for _ in 1..TAKING_TRIES_MAX {
        match session.batch(TAKING, &sql).await {
            // "tuple concurrently updated": another session changed the same table's entry, for example by
            // TRUNCATE or VACUUM.
            Err(error) if error.sqlstate() == SqlState::INTERNAL_ERROR => {
                tokio::time::sleep(TAKING_PAUSE).await;
            }
            taken => return taken,
        }
    }
    session.batch(TAKING, &sql).await
}

/// Ends the sessions of the role, revokes every privilege, and drops it. Safe to repeat.
pub async fn remove(session: &Session, role: &str) -> Result<(), SystemError> {
    own_roles::end_sessions(session, role, &[]).await?;
    take_back(session, role).await?;
    own_roles::drop_replication(session, role).await
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
