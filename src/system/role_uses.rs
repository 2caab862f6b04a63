//! Which roles of a system are in use outside of one database.
//!
//! # Why
//! `DROP ROLE` fails only if a role owns something or is named in a privilege. Memberships and settings of
//! the role are dropped silently, and clients that log in as it lose access: a login role that has all its
//! privileges from a group has no dependencies, and may be all that an application has.

use super::{Session, SystemError};

/// What is known of the roles to be dropped.
#[derive(Debug, Clone, Copy)]
pub struct RoleUseQuery<'a> {
    /// Uses in this database do not count.
    pub dbname: &'a str,
    pub roles: &'a [String],
    /// Roles that are known to be in use: an application logs in as them, which nothing on the system shows.
    pub in_use: &'a [String],
    /// Roles of the platform: a membership in one of them does not count as a use.
    pub platform: &'a [&'a str],
    /// (role, member) of memberships that do not count either, because the caller has created them.
    pub memberships: &'a [(String, String)],
}

/// Roles named outside of the database, roles connected elsewhere, and other members of the roles. A member
/// has its privileges from the role, and in turn needs every role that it is a member of.
const USED: &str = "\
WITH RECURSIVE db AS (SELECT oid FROM pg_database WHERE datname = $1),
mine AS (
    SELECT oid FROM pg_roles WHERE rolname::text = ANY ($4) OR rolname ~ '^(pg_|freehold_(move|apply|read|claim)_)'
),
made AS (SELECT r, m FROM unnest($5::text[], $6::text[]) AS u (r, m)),
named AS (
    SELECT s.refobjid AS oid FROM pg_shdepend s
     WHERE s.refclassid = 'pg_authid'::regclass AND s.dbid NOT IN (SELECT oid FROM db)
       AND NOT (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid IN (SELECT oid FROM db))
    UNION SELECT setrole FROM pg_db_role_setting
     WHERE setrole <> 0 AND setdatabase <> 0 AND setdatabase NOT IN (SELECT oid FROM db)
    UNION SELECT usesysid FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid NOT IN (SELECT oid FROM db)
    UNION SELECT oid FROM pg_roles WHERE rolname::text = ANY ($3)
    UNION SELECT m.roleid FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
     WHERE r.rolname::text = ANY ($2) AND u.rolname::text <> ALL ($2) AND m.member NOT IN (SELECT oid FROM mine)
       AND NOT EXISTS (SELECT FROM made WHERE made.r = r.rolname::text AND made.m = u.rolname::text)
),
members AS (
    SELECT oid FROM named WHERE oid NOT IN (SELECT oid FROM mine)
    UNION SELECT m.member FROM members JOIN pg_auth_members m ON m.roleid = members.oid
     WHERE m.member NOT IN (SELECT oid FROM mine)
),
used AS (
    SELECT oid FROM members
    UNION SELECT m.roleid FROM used JOIN pg_auth_members m ON m.member = used.oid
)
SELECT DISTINCT r.rolname::text FROM used JOIN pg_roles r USING (oid) WHERE r.rolname::text = ANY ($2) ORDER BY 1";

/// Those of the roles that are in use elsewhere.
pub async fn elsewhere(session: &Session, asked: &RoleUseQuery<'_>) -> Result<Vec<String>, SystemError> {
    const LOOKING: &str = "looking for who else uses a role";
    let (roles, members): (Vec<&str>, Vec<&str>) =
        asked.memberships.iter().map(|(role, member)| (role.as_str(), member.as_str())).unzip();
    session
        .list(LOOKING, USED, &[&asked.dbname, &asked.roles, &asked.in_use, &asked.platform, &roles, &members])
        .await
}
