//! The guard: refuses changes of a database's shape while a move runs, and says why.
//!
//! Three event triggers share one function. `ddl_command_end` and `sql_drop` know what a command changed, so what is
//! temporary passes, and so does `CREATE TABLE IF NOT EXISTS` of a table that exists. A third one refuses at the start what
//! cannot wait for its end: commands that build CONCURRENTLY commit before, and ALTER and DROP TABLE would have waited for
//! a lock by then, with everybody else who uses the table behind them.
//!
//! # Why
//! Logical replication carries rows, not shapes. A column that appears on the source stops the apply worker; a grant
//! that appears is silently missing after the move. Better a clear refusal that can be retried in a minute.
//!
//! Nobody knows at a command's start whether it means a temporary table, but a session that has none cannot mean one. With
//! IF EXISTS the table may not exist, and the command changes nothing. REFRESH MATERIALIZED VIEW CONCURRENTLY alters and
//! drops a temporary table of its own, so that word alone refuses no ALTER and no DROP TABLE.
//!
//! The platform's role passes, and so does whoever acts as a replica: event triggers do not fire there.

use super::marker::or_rolled_back;
use super::names::{GUARD_TRIGGERS, HELPER_SCHEMA, quote_ident, quote_literal};
use super::{Session, SystemError};
use crate::model::MoveId;

/// What the guard says, and whom it lets pass.
#[derive(Debug, Clone)]
pub struct Guard<'a> {
    pub id: MoveId,
    /// The product's name of the database.
    pub database: &'a str,
    /// The platform's role on this system.
    pub platform_role: &'a str,
    /// The command that makes schema changes possible: `CANCEL MOVE 3`.
    pub remedy: &'a str,
}

/// Installs the guard, over one that is there. The helper schema must exist.
pub async fn install(session: &Session, guard: &Guard<'_>) -> Result<(), SystemError> {
    let [at_end, at_drop, at_start] = GUARD_TRIGGERS.map(quote_ident);
    let function = format!("{HELPER_SCHEMA}.guard");
    let sql = format!(
        "BEGIN;
         DROP EVENT TRIGGER IF EXISTS {at_end};
         DROP EVENT TRIGGER IF EXISTS {at_drop};
         DROP EVENT TRIGGER IF EXISTS {at_start};
         CREATE OR REPLACE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql
             SET search_path = pg_catalog, pg_temp AS {body};
         CREATE EVENT TRIGGER {at_end} ON ddl_command_end EXECUTE FUNCTION {function}();
         CREATE EVENT TRIGGER {at_drop} ON sql_drop EXECUTE FUNCTION {function}();
         CREATE EVENT TRIGGER {at_start} ON ddl_command_start
             WHEN TAG IN ('CREATE INDEX', 'DROP INDEX', 'ALTER TABLE', 'DROP TABLE') EXECUTE FUNCTION {function}();
         COMMIT",
        body = quote_literal(&body(guard)),
    );
    or_rolled_back(session, session.batch("installing the guard", &sql).await).await
}

/// Removes the guard if it is there.
pub async fn remove(session: &Session) -> Result<(), SystemError> {
    let mut sql = String::from("BEGIN;");
    for trigger in GUARD_TRIGGERS {
        sql.push_str(&format!("DROP EVENT TRIGGER IF EXISTS {};", quote_ident(trigger)));
    }
    sql.push_str(&format!("DROP FUNCTION IF EXISTS {HELPER_SCHEMA}.guard(); COMMIT"));
    or_rolled_back(session, session.batch("removing the guard", &sql).await).await
}

pub async fn is_installed(session: &Session) -> Result<bool, SystemError> {
    let sql =
        "SELECT count(*) = 3 FROM pg_event_trigger WHERE evtname::text = ANY ($1) AND evtenabled <> 'D'";
    let names: Vec<&str> = GUARD_TRIGGERS.to_vec();
    session.value("looking for the guard", sql, &[&names]).await
}

fn body(guard: &Guard<'_>) -> String {
    let Guard { id, database, platform_role, remedy } = guard;
    let hint =
        quote_literal(&format!("Run it again after the move, or ask the platform team to run {remedy}."));
    let role = quote_literal(platform_role);
    let message =
        quote_literal(&format!("schema changes of database \"{database}\" wait until move {id} has ended"));
    // A percent sign in the text of RAISE USING is no placeholder; the text is a plain expression there.
    format!(
        "DECLARE
             refused boolean := false;
         BEGIN
             IF session_user = {role} THEN
                 RETURN;
             END IF;
             IF tg_event = 'ddl_command_start' THEN
                 refused := coalesce(current_query(), '') ~* CASE
                         WHEN tg_tag LIKE '% INDEX' THEN '\\mconcurrently\\M'
                         ELSE '\\mdetach\\M.*\\mconcurrently\\M' END
                     OR tg_tag IN ('ALTER TABLE', 'DROP TABLE')
                         AND coalesce(current_query(), '') !~* '\\mif\\s+exists\\M'
                         AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema());
             ELSIF tg_event = 'sql_drop' THEN
                 refused := EXISTS (
                     SELECT FROM pg_event_trigger_dropped_objects() o
                     WHERE o.original AND NOT o.is_temporary
                       AND coalesce(o.schema_name, '') !~ '^pg_temp'
                       AND coalesce(o.address_names[1], '') !~ '^pg_temp');
             ELSIF tg_tag NOT IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') THEN
                 refused := EXISTS (
                     SELECT FROM pg_event_trigger_ddl_commands() c
                     WHERE coalesce(c.schema_name, '') !~ '^pg_temp');
             END IF;
             IF refused THEN
                 RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = {message},
                     DETAIL = tg_tag || ' was refused and changed nothing; rows can be read and written as always.',
                     HINT = {hint};
             END IF;
         END"
    )
}
