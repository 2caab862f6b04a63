//! The objects that moves create on a system: what is left of one, for tests and the demo.

use super::{MoveNames, Session, SystemError};

/// The only list of what a move creates outside of the product's own objects, as seen from one database: the
/// object, and the label of its move (`ab12cd34/3`, or `3` of an older version), the empty text for an object
/// of this database's move without a label, NULL for a foreign object. Objects of a whole system are seen
/// from each of its databases.
pub const OBJECTS: &str = r"
    WITH named (kind, name) AS (
        SELECT 'slot', slot_name::text FROM pg_replication_slots
        UNION ALL SELECT 'publication', pubname::text FROM pg_publication
        UNION ALL SELECT 'subscription', subname::text FROM pg_subscription
        UNION ALL SELECT 'role', rolname::text FROM pg_roles WHERE rolname ~ '^freehold_'
        UNION ALL SELECT 'database', datname::text FROM pg_database WHERE datname ~ '^freehold_')
    SELECT kind || ' ' || name AS what, replace(
            substring(name from '^freehold_(?:move|back|apply|read|claim)_((?:[a-z0-9]{8}_)?[0-9]+)$'), '_', '/') AS move FROM named
    UNION ALL SELECT 'schema ' || nspname, '' FROM pg_namespace WHERE nspname = 'freehold'
    UNION ALL SELECT 'event trigger ' || evtname, CASE WHEN evtname ~ '^freehold' THEN '' END FROM pg_event_trigger
    UNION ALL SELECT 'mark on database ' || datname, substring(setting from '[^=]+$')
        FROM pg_database d JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0,
             unnest(s.setconfig) AS setting
        WHERE setting ~ '^freehold\.move=([a-z0-9]{8}/)?[0-9]+$'
    UNION ALL SELECT 'mark on role ' || rolname, substring(shobj_description(oid, 'pg_authid') from '[^ ]+$')
        FROM pg_roles WHERE shobj_description(oid, 'pg_authid') ~ '^created by freehold move ([a-z0-9]{8}/)?[0-9]+$'
    UNION ALL SELECT 'replication origin ' || roname, CASE WHEN roname ~ '^pg_[0-9]+$' AND NOT EXISTS
            (SELECT FROM pg_subscription s WHERE o.roname LIKE 'pg_' || s.oid || '%') THEN '' END
        FROM pg_replication_origin o";

/// Everything in the session's database and on its system that carries a name of the move, and the objects of
/// this move that carry none (helper schema, guard): `slot freehold_move_ab12cd34_3`. Empty after a move has
/// ended, however it ended.
pub async fn remaining(session: &Session, names: MoveNames) -> Result<Vec<String>, SystemError> {
    const LOOKING: &str = "looking for what a move left";
    let sql = format!("SELECT what FROM ({OBJECTS}) AS object WHERE move IN ($1, '')");
    session.list(LOOKING, &sql, &[&names.label()]).await
}
