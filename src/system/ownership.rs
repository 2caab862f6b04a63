//! The owners of a database's objects, and the objects that only a superuser can create there.
//!
//! # Why
//! A move restores objects as a role without privileges on the server, because PostgreSQL runs users' code
//! while it creates objects. That role could not change owners: a new owner would need privileges that the
//! role cannot grant. So the platform sets the owners afterwards: ALTER ... OWNER runs no user's code. Each
//! server generates its own statements; only the names are compared with the other server.

use std::collections::{HashMap, HashSet};

use super::names::GUARD_TRIGGERS;
use super::{Session, SystemError, quote_ident};

/// Statements in one batch.
const STATEMENTS_MAX: usize = 200;

/// Objects that have an owner of their own: (kind and name as ALTER takes them, the owner). Members of
/// extensions, types of rows, indexes, arrays, and sequences of columns follow the owner of another object.
/// ALTER ROUTINE accepts an aggregate without arguments, ALTER AGGREGATE does not.
const OWNED: &str = "\
WITH owned (classid, oid, owner) AS (
    SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace WHERE nspname <> 'freehold' AND nspname !~ '^pg_'
    UNION ALL SELECT 'pg_class'::regclass, oid, relowner FROM pg_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S'
            AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i'))
    UNION ALL SELECT 'pg_type'::regclass, t.oid, typowner FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE coalesce(c.relkind, 'c') = 'c' AND t.typtype <> 'm' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc
        WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = pg_proc.oid AND d.deptype = 'i')
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner FROM pg_opfamily
    UNION ALL SELECT 'pg_collation'::regclass, oid, collowner FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner FROM pg_conversion
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner FROM pg_ts_config
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner FROM pg_statistic_ext
    UNION ALL SELECT 'pg_language'::regclass, oid, lanowner FROM pg_language
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, fdwowner FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner FROM pg_foreign_server
    UNION ALL SELECT 'pg_publication'::regclass, oid, pubowner FROM pg_publication
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid, evtowner FROM pg_event_trigger)
SELECT CASE WHEN i.type IN ('function', 'procedure', 'aggregate') THEN 'routine'
            WHEN i.type = 'statistics object' THEN 'statistics' ELSE i.type END || ' ' || i.identity,
    pg_get_userbyid(o.owner)::text
FROM owned o, pg_identify_object(o.classid, o.oid, 0) i
WHERE i.schema IS DISTINCT FROM 'freehold' AND (o.oid >= 16384 OR o.classid = 'pg_namespace'::regclass AND i.identity = 'public')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')";

/// Multiranges with another owner than their range: (statement). Newer servers prevent that.
const MULTIRANGES: &str = "\
SELECT format('ALTER TYPE %s OWNER TO %I', r.rngmultitypid::regtype, pg_get_userbyid(t.typowner))
FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN pg_type m ON m.oid = r.rngmultitypid
WHERE m.oid >= 16384 AND m.typowner <> t.typowner
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')";

/// Objects that only a superuser can create, of kinds that other roles may create: (catalog, oid). A function
/// with a setting that only a superuser may set is left out, because its arguments' defaults run code; the
/// restoring role is granted SET on that parameter.
const OF_SUPERUSERS: &str = "\
SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE NOT l.lanpltrusted AND p.prokind <> 'a' OR p.proleakproof OR p.prosupport <> 0
UNION ALL SELECT 'pg_proc'::regclass::oid, aggfnoid FROM pg_aggregate WHERE 'internal'::regtype IN (aggtranstype, aggmtranstype)
UNION ALL SELECT 'pg_type'::regclass::oid, t.oid FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid
 WHERE t.typtype IN ('b', 'p') OR r.rngcanonical <> 0
UNION ALL SELECT 'pg_publication'::regclass::oid, oid FROM pg_publication WHERE puballtables";

/// See [`OF_SUPERUSERS`]. Includes objects of the system itself.
pub async fn of_superusers(session: &Session) -> Result<HashSet<(u32, u32)>, SystemError> {
    const READING: &str = "reading what only a superuser can create";
    Ok(session.pairs(READING, OF_SUPERUSERS, &[]).await?.into_iter().collect())
}

/// Objects of moves: their guards and publications, with the members of these: (catalog, oid).
const OF_MOVES: &str = "\
WITH publication(oid) AS (SELECT oid FROM pg_publication WHERE pubname ~ '^freehold_(move|back)_([a-z0-9]{8}_)?[0-9]+$')
SELECT 'pg_publication'::regclass::oid, oid FROM publication
UNION ALL SELECT 'pg_publication_rel'::regclass::oid, r.oid FROM pg_publication_rel r JOIN publication p ON p.oid = r.prpubid
UNION ALL SELECT 'pg_event_trigger'::regclass::oid, oid FROM pg_event_trigger WHERE evtname = ANY ($1)";

/// See [`OF_MOVES`].
pub async fn of_moves(session: &Session) -> Result<HashSet<(u32, u32)>, SystemError> {
    const READING: &str = "reading what moves have made";
    Ok(session.pairs(READING, OF_MOVES, &[&&GUARD_TRIGGERS[..]]).await?.into_iter().collect())
}

/// Gives the objects of one database the owners of the objects of the same names in the other. Safe to
/// repeat.
pub async fn carry(from: &Session, to: &Session) -> Result<(), SystemError> {
    const GIVING: &str = "giving objects their owners";
    let wanted: HashMap<String, String> = owned(from).await?.into_iter().collect();
    let mut statements = Vec::new();
    for (object, owner) in owned(to).await? {
        if let Some(wanted) = wanted.get(&object).filter(|wanted| **wanted != owner) {
            statements.push(format!("ALTER {object} OWNER TO {}", quote_ident(wanted)));
        }
    }
    for some in statements.chunks(STATEMENTS_MAX) {
        to.batch(GIVING, &some.join(";\n")).await?;
    }
    for statement in to.list::<String>(GIVING, MULTIRANGES, &[]).await? {
        to.batch(GIVING, &statement).await?;
    }
    Ok(())
}

/// Objects that a role owns in the session's database, and other objects on which it has privileges there.
pub async fn of_role(session: &Session, role: &str) -> Result<Vec<String>, SystemError> {
    const READING: &str = "reading what belongs to a role";
    // Privileges of the bootstrap superuser are not recorded as dependencies.
    let sql = "WITH rights (object, acl) AS (
            SELECT oid::regclass::text, relacl FROM pg_class
            UNION ALL SELECT oid::regprocedure::text, proacl FROM pg_proc
            UNION ALL SELECT 'schema ' || nspname, nspacl FROM pg_namespace
            UNION ALL SELECT 'type ' || oid::regtype::text, typacl FROM pg_type)
        SELECT 'rights on ' || object FROM rights, aclexplode(acl) a
         WHERE a.grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND object !~ '^(schema |type )?(pg_|information_schema)'
        UNION SELECT 'default privileges' FROM pg_default_acl d
         WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = $1)
            OR EXISTS (SELECT FROM aclexplode(d.defaclacl) a WHERE a.grantee = (SELECT oid FROM pg_roles WHERE rolname = $1))
        UNION SELECT 'policy ' || polname FROM pg_policy WHERE (SELECT oid FROM pg_roles WHERE rolname = $1) = ANY (polroles)
        ORDER BY 1";
    let owned = owned(session).await?.into_iter().filter(|(_, owner)| owner == role);
    let mut found: Vec<String> = owned.map(|(object, _)| object).collect();
    found.extend(session.list::<String>(READING, sql, &[&role]).await?);
    Ok(found)
}

async fn owned(session: &Session) -> Result<Vec<(String, String)>, SystemError> {
    const READING: &str = "reading the owners of objects";
    session.pairs(READING, OWNED, &[]).await
}
