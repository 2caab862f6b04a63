//! What a move may have left on a system: for tests, and for the doubtful.

use crate::model::MoveId;
use crate::system::{MoveNames, Session, SystemError};

/// Everything in the session's database and on its system that carries a name of the move, and everything of ours that
/// carries none (helper schema, guard): `slot freehold_move_3`. Empty after a move has ended, however it ended.
pub async fn leftovers(session: &Session, id: MoveId) -> Result<Vec<String>, SystemError> {
    const LOOKING: &str = "looking for what a move left";
    let names = MoveNames(id);
    let sql = "
        SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name::text = ANY ($1)
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname::text = ANY ($1)
        UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subname::text = ANY ($1)
        UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname::text = ANY ($1)
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'freehold'
        UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger WHERE evtname ~ '^freehold'
        UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname::text = ANY ($1)
        UNION ALL SELECT 'mark on database ' || datname FROM pg_database d
            JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0 WHERE $2 = ANY (s.setconfig)
        UNION ALL SELECT 'mark on role ' || rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = $3
        UNION ALL SELECT 'replication origin ' || roname FROM pg_replication_origin o WHERE roname ~ '^pg_[0-9]+$'
            AND NOT EXISTS (SELECT FROM pg_subscription s WHERE o.roname LIKE 'pg_' || s.oid || '%')";
    let ours = vec![names.forward(), names.back(), names.replication_role(), names.unmarked_database()];
    let mark = format!("{}={id}", crate::system::names::DATABASE_MARK);
    let rows = session.rows(LOOKING, sql, &[&ours, &mark, &names.role_mark()]).await?;
    rows.iter().map(|row| session.column(LOOKING, row, 0)).collect()
}
