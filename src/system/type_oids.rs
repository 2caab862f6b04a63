//! Keeps the OIDs of types when a database moves.
//!
//! Clients store the OIDs of enums, composites, domains, ranges, row types and types of extensions: drivers
//! register converters under them, and statements use them as parameter types. So each type gets, in the new
//! database, the OID that it has in the old one.
//!
//! # How
//! An event trigger runs at the end of each command of the restore that creates types, also inside the
//! scripts of extensions, and changes the OID before anything refers to it: later functions, views and
//! defaults are stored with the final one. Only the platform's restore is connected to the database then.
//! [`check`] proves afterwards, for all catalogs, that nothing refers to an OID that does not exist.
//!
//! The values of enums keep their OIDs, too: hash partitioning uses them.
//!
//! # Why
//! Translating OIDs in the proxy cannot be correct: catalog queries return them as data, arrays and
//! composites in binary format contain them, and processes that read them before the move share results with
//! those that read them afterwards.

use super::session::or_rolled_back;
use super::{Session, SystemError};

/// A type that the database's users or an extension created, by its schema and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeOid {
    pub schema: String,
    pub name: String,
    pub oid: u32,
}

/// A value of an enum, by its type and label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelOid {
    pub schema: String,
    pub name: String,
    pub label: String,
    pub oid: u32,
}

/// The OIDs of a database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypeOids {
    pub types: Vec<TypeOid>,
    pub labels: Vec<LabelOid>,
}

/// Result for the types.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypeOidComparison {
    /// Number of types with the same OID as in the other database.
    pub kept: u64,
    /// Names of the types with another one.
    pub others: Vec<String>,
}

const READING: &str = "reading the numbers of types";

/// The types of a database, and the values of its enums.
pub async fn read(session: &Session) -> Result<TypeOids, SystemError> {
    let (types, labels) = tokio::try_join!(types(session), labels(session))?;
    Ok(TypeOids { types, labels })
}

async fn labels(session: &Session) -> Result<Vec<LabelOid>, SystemError> {
    let sql = "SELECT n.nspname::text, t.typname::text, e.enumlabel::text, e.oid FROM pg_enum e
        JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid >= 16384 ORDER BY e.oid";
    let rows = session.rows(READING, sql, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(LabelOid {
                schema: session.column(READING, row, 0)?,
                name: session.column(READING, row, 1)?,
                label: session.column(READING, row, 2)?,
                oid: session.column(READING, row, 3)?,
            })
        })
        .collect()
}

async fn types(session: &Session) -> Result<Vec<TypeOid>, SystemError> {
    let sql = "SELECT n.nspname::text, t.typname::text, t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.oid >= 16384 AND n.nspname <> 'freehold' AND n.nspname !~ '^pg_(toast|temp)' ORDER BY t.oid";
    let rows = session.rows(READING, sql, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(TypeOid {
                schema: session.column(READING, row, 0)?,
                name: session.column(READING, row, 1)?,
                oid: session.column(READING, row, 2)?,
            })
        })
        .collect()
}

/// From now on each type of these names gets these OIDs when it is created in the session's database. Needs
/// the helper schema, and a superuser. Safe to repeat.
pub async fn keep(session: &Session, numbers: &TypeOids) -> Result<(), SystemError> {
    const KEEPING: &str = "preparing the numbers of types";
    or_rolled_back(session, session.batch(KEEPING, INSTALL).await).await?;
    let wanted = &numbers.types;
    let schemas: Vec<&str> = wanted.iter().map(|wanted| wanted.schema.as_str()).collect();
    let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    let oids: Vec<u32> = wanted.iter().map(|wanted| wanted.oid).collect();
    let sql = "INSERT INTO freehold.type_oid SELECT * FROM unnest($1::text[], $2::text[], $3::oid[])";
    session.execute(KEEPING, sql, &[&schemas, &names, &oids]).await?;
    keep_labels(session, KEEPING, &numbers.labels).await?;
    // The helper's own types were created before the wanted OIDs were known, and may use one of them.
    let sql = "SELECT freehold.move_type(t.oid, freehold.free_type_oid()) FROM pg_type t JOIN freehold.type_oid w ON w.oid = t.oid";
    session.rows(KEEPING, sql, &[]).await?;
    Ok(())
}

async fn keep_labels(
    session: &Session,
    operation: &'static str,
    wanted: &[LabelOid],
) -> Result<(), SystemError> {
    let schemas: Vec<&str> = wanted.iter().map(|wanted| wanted.schema.as_str()).collect();
    let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    let labels: Vec<&str> = wanted.iter().map(|wanted| wanted.label.as_str()).collect();
    let oids: Vec<u32> = wanted.iter().map(|wanted| wanted.oid).collect();
    let sql =
        "INSERT INTO freehold.label_oid SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::oid[])";
    session.execute(operation, sql, &[&schemas, &names, &labels, &oids]).await.map(drop)
}

/// Removes the trigger, and compares. Safe to repeat.
pub async fn finish(session: &Session) -> Result<TypeOidComparison, SystemError> {
    let outcome = outcome(session).await?;
    check(session).await?;
    session.batch("removing what keeps the numbers of types", REMOVE).await?;
    Ok(outcome)
}

/// Result for the types so far.
pub async fn outcome(session: &Session) -> Result<TypeOidComparison, SystemError> {
    let sql = "SELECT format('%I.%I', w.schema, w.name), t.oid = w.oid FROM freehold.type_oid w
        JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.name ORDER BY 1";
    let mut outcome = TypeOidComparison::default();
    for row in &session.rows(READING, sql, &[]).await? {
        match session.column::<bool>(READING, row, 1)? {
            true => outcome.kept += 1,
            false => outcome.others.push(session.column(READING, row, 0)?),
        }
    }
    Ok(outcome)
}

/// Fails if a catalog refers to a type that does not exist.
pub async fn check(session: &Session) -> Result<(), SystemError> {
    const CHECKING: &str = "checking the numbers of types";
    let mut queries: Vec<String> = session.list(CHECKING, DANGLING, &[]).await?;
    queries.push(DANGLING_DEPENDENCIES.to_owned());
    queries.push(DANGLING_IN_TREES.to_owned());
    for sql in queries {
        if let Some(found) = session.optional(CHECKING, &format!("{sql} LIMIT 1"), &[]).await? {
            let what: String = session.column(CHECKING, &found, 0)?;
            return Err(session.unexpected(CHECKING, format!("{what} refers to a type that does not exist")));
        }
    }
    Ok(())
}

const REMOVE: &str = "\
DROP EVENT TRIGGER IF EXISTS freehold_type_oids;
DROP FUNCTION IF EXISTS freehold.keep_type_oids(), freehold.move_type(oid, oid), freehold.move_new_type(oid, oid),
    freehold.move_dependencies(oid, oid), freehold.free_type_oid();
DROP TABLE IF EXISTS freehold.type_oid, freehold.label_oid";

/// Functions that run as the platform, whichever role runs the command. `pg_get_catalog_foreign_keys`
/// (PostgreSQL 14) lists every column that refers to a type; dependencies and comments have a class next to
/// the OID.
///
/// `move_new_type` is for row types and arrays, which are the majority: the references to such a type at the
/// end of its command are known, and are found by indexes. The array of a range is an exception: a
/// constructor of its multirange takes one. A row type that a CHECK of its own table uses keeps its OID: the
/// constraint's expression tree contains it already.
const INSTALL: &str = r"
BEGIN;
DROP EVENT TRIGGER IF EXISTS freehold_type_oids;
DROP TABLE IF EXISTS freehold.type_oid, freehold.label_oid;
CREATE TABLE freehold.label_oid (schema text, name text, label text, oid oid NOT NULL UNIQUE, PRIMARY KEY (schema, name, label));
CREATE TABLE freehold.type_oid (schema text, name text, oid oid NOT NULL, PRIMARY KEY (schema, name));
CREATE INDEX ON freehold.type_oid (oid);
CREATE OR REPLACE FUNCTION freehold.free_type_oid() RETURNS oid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE free oid;
BEGIN
    LOOP
        free := pg_nextoid('pg_type', 'oid', 'pg_type_oid_index');
        EXIT WHEN NOT EXISTS (SELECT FROM freehold.type_oid w WHERE w.oid = free);
    END LOOP;
    RETURN free;
END $function$;
CREATE OR REPLACE FUNCTION freehold.move_dependencies(before oid, after oid) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET allow_system_table_mods = on AS $function$
BEGIN
    UPDATE pg_depend SET objid = after WHERE classid = 'pg_type'::regclass AND objid = before;
    UPDATE pg_depend SET refobjid = after WHERE refclassid = 'pg_type'::regclass AND refobjid = before;
    UPDATE pg_shdepend SET objid = after WHERE classid = 'pg_type'::regclass AND objid = before
        AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
    UPDATE pg_init_privs SET objoid = after WHERE classoid = 'pg_type'::regclass AND objoid = before;
END $function$;
CREATE OR REPLACE FUNCTION freehold.move_type(before oid, after oid) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET allow_system_table_mods = on AS $function$
DECLARE key record;
BEGIN
    UPDATE pg_type SET oid = after WHERE oid = before;
    FOR key IN SELECT k.fktable, k.fkcols[1] AS col, k.is_array, a.atttypid FROM pg_get_catalog_foreign_keys() k
            JOIN pg_attribute a ON a.attrelid = k.fktable AND a.attname = k.fkcols[1] WHERE k.pktable = 'pg_type'::regclass
    LOOP
        IF NOT key.is_array THEN
            EXECUTE format('UPDATE %s SET %I = $2 WHERE %2$I = $1', key.fktable, key.col) USING before, after;
        ELSIF key.atttypid = 'oidvector'::regtype THEN
            EXECUTE format('UPDATE %s SET %I = array_to_string(array_replace(%2$I::oid[], $1, $2), '' '')::oidvector
                WHERE $1 = ANY (%2$I)', key.fktable, key.col) USING before, after;
        ELSE
            EXECUTE format('UPDATE %s SET %I = array_replace(%2$I, $1, $2) WHERE $1 = ANY (%2$I)', key.fktable, key.col)
                USING before, after;
        END IF;
    END LOOP;
    PERFORM freehold.move_dependencies(before, after);
    UPDATE pg_description SET objoid = after WHERE classoid = 'pg_type'::regclass AND objoid = before;
    UPDATE pg_seclabel SET objoid = after WHERE classoid = 'pg_type'::regclass AND objoid = before;
END $function$;
CREATE OR REPLACE FUNCTION freehold.move_new_type(before oid, after oid) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET allow_system_table_mods = on AS $function$
DECLARE moved record;
BEGIN
    UPDATE pg_type SET oid = after WHERE oid = before RETURNING typrelid, typelem, typarray INTO moved;
    UPDATE pg_class SET reltype = after WHERE oid = moved.typrelid AND reltype = before;
    UPDATE pg_type SET typarray = after WHERE oid = moved.typelem AND typarray = before;
    UPDATE pg_type SET typelem = after WHERE oid = moved.typarray AND typelem = before;
    PERFORM freehold.move_dependencies(before, after);
END $function$;
CREATE OR REPLACE FUNCTION freehold.keep_type_oids() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET allow_system_table_mods = on AS $function$
DECLARE made record;
BEGIN
    -- Nothing refers to a value of an enum yet.
    FOR made IN SELECT t.oid, n.nspname, t.typname FROM pg_event_trigger_ddl_commands() e JOIN pg_type t ON t.oid = e.objid
        JOIN pg_namespace n ON n.oid = t.typnamespace WHERE e.classid = 'pg_type'::regclass AND t.typtype = 'e'
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM freehold.label_oid w JOIN pg_enum o ON o.oid = w.oid AND o.enumtypid <> made.oid
            WHERE w.schema = made.nspname AND w.name = made.typname);
        WITH gone AS (DELETE FROM pg_enum WHERE enumtypid = made.oid RETURNING *)
        INSERT INTO pg_enum (oid, enumtypid, enumsortorder, enumlabel)
        SELECT coalesce(w.oid, g.oid), g.enumtypid, g.enumsortorder, g.enumlabel FROM gone g LEFT JOIN freehold.label_oid w
            ON w.schema = made.nspname AND w.name = made.typname AND w.label = g.enumlabel::text;
    END LOOP;
    FOR made IN
        WITH command(oid) AS (
            SELECT c.reltype FROM pg_event_trigger_ddl_commands() e JOIN pg_class c ON c.oid = e.objid
             WHERE e.classid = 'pg_class'::regclass AND c.reltype <> 0
            UNION SELECT e.objid FROM pg_event_trigger_ddl_commands() e WHERE e.classid = 'pg_type'::regclass),
        ranged(oid) AS (
            SELECT oid FROM command UNION SELECT r.rngmultitypid FROM command c JOIN pg_range r ON r.rngtypid = c.oid),
        arrays(oid) AS (
            SELECT oid FROM ranged UNION SELECT t.typarray FROM ranged r JOIN pg_type t ON t.oid = r.oid WHERE t.typarray <> 0)
        SELECT t.oid, w.oid AS wanted, t.typelem <> 0 AND e.typarray = t.oid AND e.typtype <> 'r' OR coalesce(c.relkind, 'c') <> 'c' AS is_simple
          FROM arrays a JOIN pg_type t ON t.oid = a.oid JOIN pg_namespace n ON n.oid = t.typnamespace
          JOIN freehold.type_oid w ON w.schema = n.nspname AND w.name = t.typname
          LEFT JOIN pg_class c ON c.oid = t.typrelid LEFT JOIN pg_type e ON e.oid = t.typelem
         WHERE t.oid >= 16384 AND t.oid <> w.oid
           AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = t.typrelid AND t.typrelid <> 0
               AND strpos(k.conbin::text, ':vartype ' || t.oid || ' ') > 0)
    LOOP
        -- An earlier one may have been in the way of this, and have moved it.
        SELECT t.oid INTO made.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
          JOIN freehold.type_oid w ON w.schema = n.nspname AND w.name = t.typname WHERE w.oid = made.wanted;
        CONTINUE WHEN made.oid = made.wanted;
        IF EXISTS (SELECT FROM pg_type WHERE oid = made.wanted) THEN
            PERFORM freehold.move_type(made.wanted, freehold.free_type_oid());
        END IF;
        IF made.is_simple THEN
            PERFORM freehold.move_new_type(made.oid, made.wanted);
        ELSE
            PERFORM freehold.move_type(made.oid, made.wanted);
        END IF;
    END LOOP;
END $function$;
CREATE EVENT TRIGGER freehold_type_oids ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
    'CREATE VIEW', 'CREATE MATERIALIZED VIEW', 'CREATE FOREIGN TABLE', 'CREATE TYPE', 'CREATE DOMAIN', 'CREATE EXTENSION')
    EXECUTE FUNCTION freehold.keep_type_oids();
-- The role that restores acts as a replica.
ALTER EVENT TRIGGER freehold_type_oids ENABLE ALWAYS;
COMMIT";

/// A query for each column that refers to types.
const DANGLING: &str = "\
SELECT CASE WHEN k.is_array
    THEN format('SELECT %L FROM %s x, unnest(x.%I::oid[]) t(oid) WHERE t.oid <> 0 AND NOT EXISTS (SELECT FROM pg_type p WHERE p.oid = t.oid)',
        k.fktable::text, k.fktable, k.fkcols[1])
    ELSE format('SELECT %L FROM %s x WHERE x.%I <> 0 AND NOT EXISTS (SELECT FROM pg_type p WHERE p.oid = x.%3$I)',
        k.fktable::text, k.fktable, k.fkcols[1]) END
FROM pg_get_catalog_foreign_keys() k WHERE k.pktable = 'pg_type'::regclass";

const DANGLING_DEPENDENCIES: &str = "\
SELECT 'pg_depend'::text FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = d.objid)
    OR d.refclassid = 'pg_type'::regclass AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = d.refobjid)";

/// The OIDs of types in stored expressions.
const DANGLING_IN_TREES: &str = "\
WITH tree(owner, tree) AS (
    SELECT 'a rule'::text, concat(ev_qual::text, ev_action::text) FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT 'a default', adbin::text FROM pg_attrdef
    UNION ALL SELECT 'a constraint', conbin::text FROM pg_constraint WHERE conbin IS NOT NULL
    UNION ALL SELECT 'a function', concat(proargdefaults::text, prosqlbody::text) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'a partitioned table', concat(partexprs::text) FROM pg_partitioned_table
    UNION ALL SELECT 'a partition', relpartbound::text FROM pg_class WHERE relpartbound IS NOT NULL
    UNION ALL SELECT 'a domain', typdefaultbin::text FROM pg_type WHERE typdefaultbin IS NOT NULL)
SELECT owner FROM tree, regexp_matches(tree, ':[a-z]*(?:type|typeid|typid) ([0-9]+)', 'g') m(found)
WHERE m.found[1]::oid >= 16384 AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = m.found[1]::oid)";
