//! Objects on a system that belong to moves of other stores: another Freehold uses them, or left them behind.
//!
//! Read for reports only. Nothing here changes another Freehold's objects.

use super::names::MoveNames;
use super::{Session, SystemError};

/// An object with the name or the mark of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherObject {
    /// The move's [`MoveNames::label`]: `ab12cd34/3`, or `3` if an older version began it.
    pub label: String,
    /// `slot freehold_back_ab12cd34_3 of database shop`
    pub what: String,
    /// A slot that is not in use: the system retains WAL for it.
    pub keeps_wal: bool,
    /// Statements that remove it, in an order that works for all objects of a move.
    pub removal: Vec<Removal>,
}

/// One statement, with its semicolon; and the database to run it in, if that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub dbname: Option<String>,
    pub statement: String,
}

/// Objects of a system with the name or mark of a move, except other moves of this store.
const OBJECTS: &str = r"
    WITH named (step, kind, name, place, keeps_wal, dbnames, removal) AS (
        SELECT 1, 'subscription', s.subname::text, d.datname::text, false, array_fill(d.datname::text, ARRAY[3]), ARRAY[
            format('ALTER SUBSCRIPTION %I DISABLE;', s.subname), format('ALTER SUBSCRIPTION %I SET (slot_name = NONE);', s.subname),
            format('DROP SUBSCRIPTION %I;', s.subname)]
          FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        UNION ALL SELECT 2, 'slot', slot_name::text, database::text, NOT active,
            ARRAY[NULL::text], ARRAY[format('SELECT pg_drop_replication_slot(%L);', slot_name)] FROM pg_replication_slots
        UNION ALL SELECT 3, 'publication', pubname::text, current_database()::text, false,
            ARRAY[current_database()::text], ARRAY[format('DROP PUBLICATION %I;', pubname)] FROM pg_publication
        UNION ALL SELECT 4, 'role', r.rolname::text, NULL, false, array_append(u.dbnames, NULL),
            array_append(u.statements, format('DROP ROLE %I;', r.rolname))
          FROM pg_roles r, LATERAL (
            SELECT array_agg(d.datname::text ORDER BY d.datname, s.n) AS dbnames,
                array_agg(format(s.statement, r.rolname) ORDER BY d.datname, s.n) AS statements
              FROM pg_database d, (VALUES (1, 'REASSIGN OWNED BY %I TO CURRENT_USER;'), (2, 'DROP OWNED BY %I;')) s (n, statement)
             WHERE EXISTS (SELECT FROM pg_shdepend h WHERE h.refclassid = 'pg_authid'::regclass AND h.refobjid = r.oid
               AND (h.dbid = d.oid OR h.dbid = 0 AND d.datname = current_database()))) u
        UNION ALL SELECT 5, 'database', datname::text, NULL, false, ARRAY[NULL::text], ARRAY[format('DROP DATABASE %I;', datname)]
          FROM pg_database),
    labelled AS (
        SELECT step, replace(substring(name from '^freehold_(?:move|back|apply|read|claim)_((?:[a-z0-9]{8}_)?[0-9]+)$'), '_', '/') AS label,
            kind || ' ' || name || coalesce(' of database ' || place, '') || CASE WHEN keeps_wal THEN ', which nobody reads' ELSE '' END AS what,
            keeps_wal, dbnames, removal FROM named
        UNION ALL SELECT 6, substring(setting from '[^=]+$'), 'the mark on database ' || datname, false,
            ARRAY[NULL::text], ARRAY[format('ALTER DATABASE %I RESET freehold.move;', datname)]
          FROM pg_database d JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0, unnest(s.setconfig) AS setting
         WHERE setting ~ '^freehold\.move=')
    SELECT label, what, keeps_wal, dbnames, removal FROM labelled
     WHERE label IS NOT NULL AND (label = $1 OR label NOT LIKE $2 || '/%') ORDER BY label, step, what";

/// Everything on the session's system, and in its database, that moves of other stores created; and objects
/// with the names of this move before it has created any.
pub async fn objects(session: &Session, names: MoveNames) -> Result<Vec<OtherObject>, SystemError> {
    const LOOKING: &str = "looking for what other moves have made";
    let store = names.store().map_or_else(String::new, |store| store.to_string());
    let rows = session.rows(LOOKING, OBJECTS, &[&names.label(), &store]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let dbnames: Vec<Option<String>> = session.column(LOOKING, row, 3)?;
        let statements: Vec<String> = session.column(LOOKING, row, 4)?;
        let each = dbnames.into_iter().zip(statements);
        let removal = each.map(|(dbname, statement)| Removal { dbname, statement }).collect();
        found.push(OtherObject {
            label: session.column(LOOKING, row, 0)?,
            what: session.column(LOOKING, row, 1)?,
            keeps_wal: session.column(LOOKING, row, 2)?,
            removal,
        });
    }
    Ok(found)
}
