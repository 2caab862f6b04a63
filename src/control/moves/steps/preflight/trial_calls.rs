//! Calls the functions that rows will call on the target: the trial's database has no rows that would call
//! them.
//!
//! Checks, stored generated columns, expressions and predicates of indexes, partition keys, and (from version
//! 17 on) queries of materialized views are computed with an empty search path: by COPY and the workers of
//! replication, by the restore of any dump, by REFRESH. A function that depends on its caller's search path
//! works for applications and fails there.
//!
//! # Why
//! A function is text to PostgreSQL until it is called. So each is called twice, without values and with
//! plain ones, by the role that restores, in a transaction that is rolled back. An error counts only if the
//! search path of applications gives a different result: a function that fails for another reason is not
//! reported. A branch that neither call takes is not tested.

use std::time::Duration;

use crate::model::movement::FindingSeverity::Blocker;
use crate::system::roles::split_names;
use crate::system::{Session, SystemError, quote_ident};

use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::parts::own_login::OwnLogin;
use crate::control::moves::steps::preflight::{Findings, PreflightContext};

/// Limit of one call; a longer call has found its names.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// More functions than this are not called.
const FUNCTIONS_MAX: usize = 1000;
/// SQLSTATEs of missing names: of a table, a function, a type or the like, a schema, a column.
const NOT_FOUND: [&str; 5] = ["42P01", "42883", "42704", "3F000", "42703"];
/// From this version on a materialized view is refreshed with an empty search path.
const REFRESH_BY_EMPTY_PATH: u32 = 170_000;

/// Functions of the users in languages that look names up when they run, without a path of their own, and an
/// object that calls each: (name for ALTER, object, call without values, call with values). `$1`: whether
/// materialized views count.
const FUNCTIONS: &str = "\
WITH RECURSIVE rule(oid) AS (
    SELECT r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE c.relkind = 'm' AND $1
    UNION
    SELECT v.oid FROM rule JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = rule.oid
      AND d.refclassid = 'pg_class'::regclass JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v'
      JOIN pg_rewrite v ON v.ev_class = c.oid),
caller(classid, oid) AS (
    SELECT 'pg_constraint'::regclass::oid, oid FROM pg_constraint WHERE contype = 'c'
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d
        JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated = 's'
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL SELECT 'pg_class'::regclass, partrelid FROM pg_partitioned_table WHERE partexprs IS NOT NULL
    UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM rule),
called(oid, caller) AS (
    SELECT coalesce(o.oprcode::oid, d.refobjid), min(pg_describe_object(c.classid, c.oid, 0))
      FROM caller c JOIN pg_depend d ON d.classid = c.classid AND d.objid = c.oid
      LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
     WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND coalesce(o.oprcode::oid, d.refobjid) >= 16384
     GROUP BY 1)
SELECT p.oid::regprocedure::text, called.caller, format('SELECT %I.%I(%s)', n.nspname, p.proname, given.nothing),
    format('SELECT %I.%I(%s)', n.nspname, p.proname, given.values)
FROM called JOIN pg_proc p ON p.oid = called.oid JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('sql', 'plpgsql'),
LATERAL (
    SELECT string_agg('NULL::' || written.name, ', ' ORDER BY a.number) AS nothing,
           string_agg(coalesce(written.value, 'NULL') || '::' || written.name, ', ' ORDER BY a.number) AS values
    FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (type, number)
    JOIN pg_type t ON t.oid = a.type LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0),
    LATERAL (SELECT CASE WHEN t.typtype = 'p' THEN 'pg_catalog.int4' ELSE format_type(t.oid, NULL) END AS name,
        CASE WHEN t.typtype = 'p' THEN '''1'''
             WHEN 'e' IN (t.typtype, b.typtype) THEN (SELECT quote_literal(enumlabel) FROM pg_enum
                 WHERE enumtypid = coalesce(b.oid, t.oid) ORDER BY enumsortorder LIMIT 1)
             WHEN coalesce(b.oid, t.oid) IN ('json'::regtype, 'jsonb'::regtype) THEN '''{}'''
             WHEN coalesce(b.oid, t.oid) = 'uuid'::regtype THEN '''00000000-0000-0000-0000-000000000000'''
             WHEN coalesce(b.oid, t.oid) = 'bytea'::regtype THEN ''''''
             ELSE CASE t.typcategory WHEN 'N' THEN '''1''' WHEN 'S' THEN '''a''' WHEN 'D' THEN '''2000-01-01'''
                  WHEN 'B' THEN '''true''' WHEN 'T' THEN '''1 day''' WHEN 'A' THEN '''{}''' WHEN 'I' THEN '''127.0.0.1'''
                  WHEN 'R' THEN '''empty''' END END AS value) written) given
WHERE p.prokind = 'f' AND p.prosqlbody IS NULL AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1";

/// A function that rows call.
struct Function {
    name: String,
    caller: String,
    calls: [String; 2],
}

const LOOKING: &str = "looking for functions that rows call";
const CALLING: &str = "calling a function that rows call";

/// Calls them in the trial's database; `session` is the platform's.
pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    end: &Endpoint,
    (session, applier): (&Session, &OwnLogin),
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let views = scene.target_facts.version_num >= REFRESH_BY_EMPTY_PATH;
    let functions = functions(session, views).await?;
    if functions.is_empty() {
        return Ok(());
    }
    let caller = end.reading_session(applier).await?;
    caller.bound_statements(CALL_WITHIN).await?;
    let mut paths = None;
    for function in functions.iter().take(FUNCTIONS_MAX) {
        for call in &function.calls {
            let Some(error) = refusal(&caller, &[], call).await? else { continue };
            let paths = match &mut paths {
                Some(paths) => paths,
                none => none.insert(paths_of_applications(scene, session).await?),
            };
            if let Some(path) = path_that_helps(&caller, paths, call, &error).await? {
                say(scene, function, &error, path, findings);
                break;
            }
        }
    }
    Ok(())
}

async fn functions(session: &Session, views: bool) -> Result<Vec<Function>, SystemError> {
    let rows = session.rows(LOOKING, FUNCTIONS, &[&views]).await?;
    let text =
        |row, index| session.column::<Option<String>>(LOOKING, row, index).map(Option::unwrap_or_default);
    let function = |row| {
        Ok(Function { name: text(row, 0)?, caller: text(row, 1)?, calls: [text(row, 2)?, text(row, 3)?] })
    };
    rows.iter().map(function).collect()
}

/// The error about a missing name that the call gives with a search path.
async fn refusal(
    session: &Session,
    path: &[String],
    call: &str,
) -> Result<Option<(String, String)>, SystemError> {
    let path = if path.is_empty() { "''".to_owned() } else { listed(path) };
    session.batch(CALLING, &format!("BEGIN; SET LOCAL search_path = {path}")).await?;
    let called = session.batch(CALLING, call).await;
    session.batch(CALLING, "ROLLBACK").await?;
    match called {
        Err(SystemError::Refused { sqlstate, message, .. }) if NOT_FOUND.contains(&sqlstate.as_str()) => {
            Ok(Some((sqlstate.as_str().to_owned(), message)))
        }
        Ok(()) | Err(SystemError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The search path of applications, and the same followed by all schemas of the database: roles have paths of
/// their own.
async fn paths_of_applications(
    scene: &PreflightContext<'_>,
    session: &Session,
) -> Result<[Vec<String>; 2], SystemError> {
    let application = scene.source_end().application_session().await?;
    let path: String =
        application.value(LOOKING, "SELECT pg_catalog.current_setting('search_path')", &[]).await?;
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_'
        AND nspname NOT IN ('information_schema', 'freehold') ORDER BY 1";
    let schemas: Vec<String> = session.list(LOOKING, sql, &[]).await?;
    let path: Vec<String> = split_names(&path).into_iter().filter(|name| schemas.contains(name)).collect();
    let others = schemas.iter().filter(|schema| !path.contains(schema));
    let all = path.iter().chain(others).cloned().collect();
    Ok([path, all])
}

async fn path_that_helps<'p>(
    session: &Session,
    paths: &'p [Vec<String>; 2],
    call: &str,
    error: &(String, String),
) -> Result<Option<&'p [String]>, SystemError> {
    for path in paths.iter().filter(|path| !path.is_empty()) {
        if refusal(session, path, call).await?.as_ref() != Some(error) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn say(
    scene: &PreflightContext<'_>,
    function: &Function,
    (sqlstate, message): &(String, String),
    path: &[String],
    findings: &mut Findings,
) {
    let Function { name, caller, .. } = function;
    findings
        .product(Blocker, "search_path")
        .about(&format!("function {name}"))
        .cure(scene.on_source(format!("ALTER FUNCTION {name} SET search_path = {};", listed(path))))
        .say(format!(
            "function {name}, which {caller} calls, finds names by the search path of its caller, which is empty while rows travel, \
             as in the restore of any dump: {message} ({sqlstate})"
        ));
}

fn listed(path: &[String]) -> String {
    path.iter().map(|schema| quote_ident(schema)).collect::<Vec<_>>().join(", ")
}
