//! Preflight of values that belong to one server: they are copied unchanged and mean something else on the
//! other one.

use crate::model::movement::FindingSeverity::Warning;
use crate::system::{Session, SystemError};

use crate::control::moves::steps::preflight::{Findings, PreflightContext};

const READING: &str = "looking for values that belong to one server";

/// Columns of such a type, or of a domain, an array or a composite type of it: (type, columns). A partition
/// has the columns of its table.
const COLUMNS: &str = "\
WITH RECURSIVE bound AS (
    SELECT t.oid, t.typname::text AS what FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace
       AND t.typname IN ('xid', 'xid8', 'pg_snapshot', 'txid_snapshot', 'pg_lsn', 'oid', 'cid', 'tid')
    UNION
    SELECT t.oid, bound.what FROM bound JOIN pg_type t ON t.typbasetype = bound.oid OR t.typelem = bound.oid
        OR EXISTS (SELECT FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                   WHERE c.oid = t.typrelid AND c.relkind = 'c' AND a.atttypid = bound.oid AND NOT a.attisdropped))
SELECT bound.what, string_agg(format('%I.%I.%I', n.nspname, c.relname, a.attname), ', ' ORDER BY n.nspname, c.relname, a.attnum)
FROM bound JOIN pg_attribute a ON a.atttypid = bound.oid JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
GROUP BY 1 ORDER BY 1";

/// Views and functions that read xmin.
const XMIN: &str = "\
SELECT string_agg(name, ', ' ORDER BY name) FROM (
    SELECT format('view %I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND pg_get_viewdef(c.oid) ~* '\\mxmin\\M'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    UNION ALL
    SELECT format('function %I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold') AND p.prosrc ~* '\\mxmin\\M'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
) found";

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    for row in &scene.source.rows(READING, COLUMNS, &[]).await? {
        let what: String = scene.source.column(READING, row, 0)?;
        let columns: String = scene.source.column(READING, row, 1)?;
        let consequence = consequence(scene, &what).await?;
        findings.product(Warning, "server_value").about(&what).say(format!(
            "columns of type {what} keep their values, which belong to the source: {consequence}: {columns}"
        ));
    }
    let readers: Option<String> = scene.source.value(READING, XMIN, &[]).await?;
    if let Some(readers) = readers {
        let consequence = consequence(scene, "xid").await?;
        findings.product(Warning, "server_value").about("xmin").say(format!(
            "xmin is another one for every row after the move, so a version that somebody has read before fits no row: \
             {consequence}: {readers}"
        ));
    }
    Ok(())
}

/// The effect of such a value on the target.
async fn consequence(scene: &PreflightContext<'_>, what: &str) -> Result<String, SystemError> {
    Ok(match what {
        "pg_lsn" => format!(
            "positions of the log of the source (now {}) are compared with those of the target (now {})",
            now(scene.source, "pg_current_wal_lsn()").await?,
            now(scene.target, "pg_current_wal_lsn()").await?
        ),
        "oid" => "an object has another oid on the target; regclass and its like travel by name".to_owned(),
        "tid" => "a row lies somewhere else on the target".to_owned(),
        _ => {
            const NEXT: &str = "pg_snapshot_xmax(pg_current_snapshot())";
            format!(
                "transactions of the source (the next is {}) are compared with those of the target (the next is {}); where that is \
                 lower, what was written before the move looks as if it were not visible yet",
                now(scene.source, NEXT).await?,
                now(scene.target, NEXT).await?
            )
        }
    })
}

async fn now(session: &Session, what: &str) -> Result<String, SystemError> {
    session.value(READING, &format!("SELECT {what}::text"), &[]).await
}
