//! A move's own roles on a system: the platform creates them, and no other role may control them.
//!
//! # Why
//! Their names are predictable, and PostgreSQL lets a role with CREATEROLE create a role of any name: it
//! would know the password, be an administrator of the role (PostgreSQL 16), or have given it a membership or
//! settings. So an existing role is never used: it is dropped and created anew, or refused if another role
//! controls it. One that a subscription acts as is the move's, because only a superuser can give a
//! subscription away; its members are removed.
//!
//! Users' code runs as such a role and can change its password. It cannot change `VALID UNTIL`: an expired
//! password is refused, whichever role has set it. So the role can log in only for the short time in which
//! Freehold does, and its sessions are counted afterwards.

use super::names::{quote_ident, quote_literal};
use super::roles::Membership;
use super::session::{Setup, or_rolled_back, without_event_triggers_sql};
use super::{Session, SystemError, facts, roles};

/// Time for which the role can log in, unless that is ended earlier.
const OPEN_SECONDS: u32 = 30;
/// GRANTED BY of memberships.
const GRANTORS: u32 = 160_000;

/// State of a role of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoleState {
    Absent,
    /// It exists, and nothing of the move needs it.
    Idle,
    /// A subscription acts as it.
    InUse,
}

/// Whether it owns a subscription; and why another role controls it, if so.
const LOOK: &str = "\
WITH own AS (SELECT * FROM pg_roles WHERE rolname = $1),
foreign_ones (place, why) AS (
    SELECT 1, format('role %s is a member of it', m.rolname) FROM own r JOIN pg_auth_members a ON a.roleid = r.oid
        JOIN pg_roles m ON m.oid = a.member WHERE NOT m.rolsuper
    UNION ALL SELECT 2, 'it may do more than a role of a move' FROM own r WHERE r.rolsuper OR r.rolcreaterole OR r.rolcreatedb
    UNION ALL SELECT 3, format('it is used in database %s', d.datname) FROM own r JOIN pg_shdepend s ON s.refobjid = r.oid
        JOIN pg_database d ON d.oid = s.dbid WHERE s.refclassid = 'pg_authid'::regclass AND d.datname <> current_database()
    UNION ALL SELECT 4, format('it owns database %s', d.datname) FROM own r JOIN pg_database d ON d.datdba = r.oid)
SELECT EXISTS (SELECT FROM pg_subscription s WHERE s.subowner = r.oid), (SELECT why FROM foreign_ones ORDER BY place, why LIMIT 1)
FROM own r";

/// Why a role of the name is not the move's alone; `None` also if it does not exist.
pub async fn why_foreign(session: &Session, role: &str) -> Result<Option<String>, SystemError> {
    Ok(look(session, role).await?.and_then(|(_, why)| why))
}

async fn look(session: &Session, role: &str) -> Result<Option<(bool, Option<String>)>, SystemError> {
    const LOOKING: &str = "looking for a role of the move's own";
    let row = session.optional(LOOKING, LOOK, &[&role]).await?;
    row.map(|row| Ok((session.column(LOOKING, &row, 0)?, session.column(LOOKING, &row, 1)?))).transpose()
}

/// State of a role that is to be created, read in a session of the database that it is for.
/// [`SystemError::NotOurs`] if another role controls it.
pub(super) async fn standing(session: &Session, role: &str) -> Result<RoleState, SystemError> {
    let Some((in_use, why)) = look(session, role).await? else { return Ok(RoleState::Absent) };
    if in_use {
        put_out_members(session, role).await?;
        return Ok(RoleState::InUse);
    }
    if let Some(why) = why {
        return Err(SystemError::NotOurs {
            system: session.system().clone(),
            what: format!("role {role}"),
            why,
            cure: format!(
                "Drop the role on system {}, or rename it: ALTER ROLE {} RENAME TO ...;",
                session.system(),
                quote_ident(role)
            ),
        });
    }
    Ok(RoleState::Idle)
}

/// Revokes memberships in the role, except of superusers. Before PostgreSQL 16 code that runs as the role can
/// grant it to others.
pub async fn put_out_members(session: &Session, role: &str) -> Result<(), SystemError> {
    const ENDING: &str = "ending memberships in a role of the move's own";
    let sql = "SELECT m.rolname::text, pg_get_userbyid(a.grantor)::text FROM pg_auth_members a
        JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
        WHERE r.rolname = $1 AND NOT m.rolsuper ORDER BY 1, 2";
    let members: Vec<(String, String)> = session.pairs(ENDING, sql, &[&role]).await?;
    if members.is_empty() {
        return Ok(());
    }
    let named = facts::version_num(session).await? >= GRANTORS;
    for (member, grantor) in members {
        tracing::warn!(role, member, "somebody was made a member of a role of a move's own, and is put out");
        let by = if named { format!(" GRANTED BY {}", quote_ident(&grantor)) } else { String::new() };
        let sql = format!("REVOKE {} FROM {}{by} CASCADE", quote_ident(role), quote_ident(&member));
        session.batch(ENDING, &sql).await?;
    }
    Ok(())
}

/// Lets the role log in with the password for a short time.
pub async fn open(session: &Session, role: &str, password: &str) -> Result<(), SystemError> {
    const OPENING: &str = "letting a role that reads or writes rows log in";
    let verifier = quote_literal(&roles::verifier_of(session, password).await?);
    let until = format!("SELECT (clock_timestamp() + interval '{OPEN_SECONDS} s')::text");
    let until: String = session.value(OPENING, &until, &[]).await?;
    let sql = format!(
        "BEGIN; SET LOCAL log_statement = 'none'; ALTER ROLE {} PASSWORD {verifier} VALID UNTIL {}; COMMIT",
        quote_ident(role),
        quote_literal(&until)
    );
    or_rolled_back(session, session.batch(OPENING, &sql).await).await
}

/// Ends that, and every session of the role except `ours`. Returns how many were terminated.
pub async fn close(session: &Session, role: &str, ours: &[i32]) -> Result<usize, SystemError> {
    const CLOSING: &str = "shutting out a role that reads or writes rows";
    session.batch(CLOSING, &format!("ALTER ROLE {} {SHUT_OUT}", quote_ident(role))).await?;
    end_sessions(session, role, ours).await
}

/// No password, and an expiry that makes any other password useless.
pub(super) const SHUT_OUT: &str = "PASSWORD NULL VALID UNTIL '-infinity'";

/// Terminates the sessions of the role except `ours`. Workers of the server are not terminated.
pub async fn end_sessions(session: &Session, role: &str, ours: &[i32]) -> Result<usize, SystemError> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = $1) AND backend_type IN ('client backend', 'walsender')
          AND pid <> ALL ($2)";
    Ok(session.rows("ending sessions of a role", sql, &[&role, &ours]).await?.len())
}

/// Creates the role that a move's subscriptions log in with, or replaces it with a new password. It may
/// connect to `dbname` and read what is published there; values are written the same way on every system, and
/// no timeout set for the database ends its sessions. CONNECT is granted only if the role does not have it
/// already, so that a database with default privileges keeps them. [`SystemError::NotOurs`]: another role
/// controls a role of this name.
pub async fn create_replication(
    session: &Session,
    name: &str,
    password: &str,
    dbname: &str,
) -> Result<(), SystemError> {
    const CREATING: &str = "creating the replication role";
    if standing(session, name).await? != RoleState::Absent {
        end_sessions(session, name, &[]).await?;
        drop_replication(session, name).await?;
    }
    let (role, verifier) = (quote_ident(name), quote_literal(&roles::verifier_of(session, password).await?));
    let version = facts::version_num(session).await?;
    let settings = Setup::Fixed.role_settings_sql(&role, version);
    let quietly = without_event_triggers_sql(&role, version);
    let sql = format!(
        "BEGIN; SET LOCAL log_statement = 'none';
         CREATE ROLE {role} WITH LOGIN REPLICATION NOINHERIT CONNECTION LIMIT 20 PASSWORD {verifier};
         {settings} {quietly}
         COMMIT"
    );
    or_rolled_back(session, session.batch(CREATING, &sql).await).await?;
    let may_connect = "SELECT has_database_privilege($1, $2, 'CONNECT')";
    if session.value(CREATING, may_connect, &[&name, &dbname]).await? {
        return Ok(());
    }
    let sql = format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(dbname));
    session.batch(CREATING, &sql).await
}

/// Drops the replication role of a move, with its privilege on the database.
pub async fn drop_replication(session: &Session, name: &str) -> Result<(), SystemError> {
    const DROPPING: &str = "dropping the replication role";
    let sql = "SELECT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.objid
        WHERE s.classid = 'pg_database'::regclass AND s.refclassid = 'pg_authid'::regclass
          AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)";
    for row in &session.rows(DROPPING, sql, &[&name]).await? {
        let database: String = session.column(DROPPING, row, 0)?;
        let sql = format!("REVOKE ALL ON DATABASE {} FROM {}", quote_ident(&database), quote_ident(name));
        session.batch(DROPPING, &sql).await?;
    }
    match roles::drop_unless_used(session, name).await? {
        true => {}
        // A move owns nothing in other databases. A role that does belongs to another party, and stays.
        false => tracing::warn!(
            role = name,
            "a role with the name of a move's own is used by somebody else, and stays"
        ),
    }
    Ok(())
}

/// Memberships that the other side lacks, or has with fewer options: their members would gain privileges.
/// Both lists are of the same roles, with all options set.
pub fn gained<'a>(here: &[Membership], there: &'a [Membership]) -> Vec<&'a Membership> {
    let more = |here: Option<bool>, there: Option<bool>| there == Some(true) && here != Some(true);
    let gives_more = |pair: &Membership, there: &Membership| {
        there.admin && !pair.admin || more(pair.inherit, there.inherit) || more(pair.set, there.set)
    };
    let gains = |other: &&Membership| {
        here.iter().find(|pair| pair.is_same_pair(other)).is_none_or(|pair| gives_more(pair, other))
    };
    there.iter().filter(gains).collect()
}
