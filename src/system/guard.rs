//! The guard: refuses changes of a database's schema while a move runs, with an error that names the move.
//!
//! Three event triggers share one function. `ddl_command_end` and `sql_drop` know what a command changed, so
//! temporary objects are allowed, and so is `CREATE TABLE IF NOT EXISTS` of an existing table. The third one
//! refuses at the start commands for which the end is too late: commands with CONCURRENTLY commit before
//! their end, and ALTER and DROP TABLE would wait for a lock by then, with all other users of the table
//! queued behind them.
//!
//! # Why
//! Logical replication carries rows, not the schema. A column that is added on the source stops the apply
//! worker; a grant that is added is silently missing after the move. A clear refusal that can be retried in a
//! minute is better.
//!
//! At a command's start it is unknown whether it concerns a temporary table, but a session without temporary
//! tables cannot concern one. With IF EXISTS the table may not exist, and the command changes nothing.
//! REFRESH MATERIALIZED VIEW CONCURRENTLY alters and drops a temporary table of its own, so the word
//! CONCURRENTLY alone refuses no ALTER and no DROP TABLE.
//!
//! The platform's role is exempt, and so is the restart of a sequence by the platform's function in clients'
//! sessions ([`recall`](super::recall)), which rolls it back at once. A session that acts as a replica is not
//! exempt: users' code runs there, too, as the role that applies rows, which has the privileges of several
//! owners.
//!
//! The restraint is a second guard, on the target while the schema is restored and rows are copied. The
//! restoring role owns everything then, so code that runs meanwhile could replace objects that will belong to
//! other roles. A statement that Freehold sent has no calling function in its context; one that a function of
//! any language runs has.

use super::names::{GUARD_TRIGGERS, HELPER_SCHEMA, quote_ident, quote_literal};
use super::session::or_rolled_back;
use super::{Session, SystemError};
use crate::model::MoveId;

/// The text of the guard's refusal, and the role that is exempt.
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

/// Installs the guard, replacing an older one. The helper schema must exist.
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
         ALTER EVENT TRIGGER {at_end} ENABLE ALWAYS;
         ALTER EVENT TRIGGER {at_drop} ENABLE ALWAYS;
         ALTER EVENT TRIGGER {at_start} ENABLE ALWAYS;
         COMMIT",
        body = quote_literal(&body(guard)),
    );
    or_rolled_back(session, session.batch("installing the guard", &sql).await).await
}

/// Removes the guard if it exists.
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

const RESTRAINT: &str = "freehold_restraint";

/// From now on only the platform and `role` can change the schema of the session's database, and the role
/// only by statements that it sends: no function can. The helper schema must exist. Safe to repeat.
///
/// Grants by a role other than the owner are restored as that role, by SET SESSION AUTHORIZATION in a session
/// of the platform. `pg_stat_get_activity` knows the role that logged in.
pub async fn restrain(session: &Session, role: &str) -> Result<(), SystemError> {
    const RESTRAINING: &str = "restraining code of the database's users";
    let (trigger, function) = (quote_ident(RESTRAINT), format!("{HELPER_SCHEMA}.restrain"));
    let platform: String = session.value(RESTRAINING, "SELECT session_user::text", &[]).await?;
    let body = format!(
        "DECLARE
             context text;
             is_platform boolean := EXISTS (SELECT FROM pg_stat_get_activity(pg_backend_pid()) a
                 JOIN pg_roles r ON r.oid = a.usesysid WHERE r.rolname = {platform});
         BEGIN
             IF session_user = {platform} THEN
                 RETURN;
             END IF;
             GET DIAGNOSTICS context = PG_CONTEXT;
             IF strpos(context, chr(10)) > 0 OR NOT (session_user = {role} OR is_platform) THEN
                 RAISE EXCEPTION USING ERRCODE = '42501',
                     MESSAGE = tg_tag || ' is refused to code that runs while the database is copied',
                     DETAIL = 'Everything belongs to one role for that time, whoever it belongs to before and afterwards.';
             END IF;
         END",
        platform = quote_literal(&platform),
        role = quote_literal(role),
    );
    let sql = format!(
        "BEGIN;
         DROP EVENT TRIGGER IF EXISTS {trigger};
         CREATE OR REPLACE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql
             SET search_path = pg_catalog, pg_temp AS {body};
         CREATE EVENT TRIGGER {trigger} ON ddl_command_start EXECUTE FUNCTION {function}();
         ALTER EVENT TRIGGER {trigger} ENABLE ALWAYS;
         COMMIT",
        body = quote_literal(&body),
    );
    or_rolled_back(session, session.batch(RESTRAINING, &sql).await).await
}

/// Removes the restraint. Safe to repeat.
pub async fn release(session: &Session) -> Result<(), SystemError> {
    let sql = format!(
        "BEGIN; DROP EVENT TRIGGER IF EXISTS {}; DROP FUNCTION IF EXISTS {HELPER_SCHEMA}.restrain(); COMMIT",
        quote_ident(RESTRAINT)
    );
    or_rolled_back(session, session.batch("ending a restraint", &sql).await).await
}

fn body(guard: &Guard<'_>) -> String {
    let Guard { id, database, platform_role, remedy } = guard;
    let hint =
        quote_literal(&format!("Run it again after the move, or ask the platform team to run {remedy}."));
    let role = quote_literal(platform_role);
    let message =
        quote_literal(&format!("schema changes of database \"{database}\" wait until move {id} has ended"));
    // RAISE USING takes an expression, in which a percent sign is no placeholder.
    format!(
        "DECLARE
             refused boolean := false;
         BEGIN
             IF session_user = {role} OR tg_tag = 'ALTER SEQUENCE' AND current_user = {role} THEN
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
