//! Preflight of parts of the schema that another server refuses, or that fail only with rows: those with a
//! known reason, and so a cure. The trial finds the others.

use crate::model::Cure;
use crate::model::movement::FindingSeverity::{Blocker, Warning};
use crate::system::{SystemError, quote_ident};

use crate::control::moves::steps::preflight::{Findings, PreflightContext};

const LOOKING: &str = "looking at the schema";

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    indexes_in_defaults(scene, findings).await?;
    indexes_in_rows(scene, findings).await?;
    compression(scene, findings).await?;
    view_rights(scene, findings).await
}

/// Defaults that name an index (or another relation) by its OID: (table, oid of the table, column, the
/// default, the same as text).
const INDEXES_IN_DEFAULTS: &str = "\
SELECT format('%I.%I', n.nspname, c.relname), c.oid, a.attname::text, d.oid,
       regexp_replace(pg_get_expr(d.adbin, d.adrelid), '::regclass', '::text::regclass', 'g')
FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE a.attgenerated = '' AND EXISTS (SELECT FROM pg_depend p JOIN pg_class i ON i.oid = p.refobjid AND i.relkind IN ('i', 'I')
    WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass)
ORDER BY 1, 3";

/// A table is created before its indexes are.
async fn indexes_in_defaults(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let source = scene.source;
    for row in &source.rows(LOOKING, INDEXES_IN_DEFAULTS, &[]).await? {
        let (table, column): (String, String) =
            (source.column(LOOKING, row, 0)?, source.column(LOOKING, row, 2)?);
        let expression: String = source.column(LOOKING, row, 4)?;
        // The default of a table can be an entry of its own.
        findings.explains((PG_CLASS, source.column(LOOKING, row, 1)?));
        findings.explains((PG_ATTRDEF, source.column(LOOKING, row, 3)?));
        let sql =
            format!("ALTER TABLE {table} ALTER COLUMN {} SET DEFAULT {expression};", quote_ident(&column));
        // Only the owner should run it: reading a constant of a user-defined type already runs that user's
        // code.
        let cure = Cure::comment("as the owner of the table, whose expression it is:").and_sql(sql);
        findings.product(Blocker, "index_in_default").about(&format!("{table}.{column}")).cure(scene.on_source(cure)).say(
            format!(
                "the default of column {column} of {table} names an index, which is not there yet when the table is created on the target"
            ),
        );
    }
    Ok(())
}

/// Columns that hold relations by their OID: (table, column).
const RELATIONS_IN_ROWS: &str = "\
SELECT format('%I.%I', n.nspname, c.relname), a.attname::text FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.atttypid = 'regclass'::regtype AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT a.attisdropped AND a.attgenerated = ''
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2";

/// Rows are copied as text, and indexes are created after them. The rows themselves are not searched for such
/// values.
async fn indexes_in_rows(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    for (table, column) in scene.source.pairs::<String, String>(LOOKING, RELATIONS_IN_ROWS, &[]).await? {
        let quoted = quote_ident(&column);
        let sql = format!("ALTER TABLE {table} ALTER COLUMN {quoted} TYPE text USING {quoted}::text;");
        let cure = Cure::comment("if a row names an index there, and the application takes a text:")
            .and_perhaps(sql);
        findings
            .product(Warning, "index_in_rows")
            .about(&format!("{table}.{column}"))
            .cure(scene.on_source(cure))
            .say(format!(
                "column {column} of {table} names relations: a row that names an index, or a relation that was dropped, stops the copy, \
                 because indexes are built after the rows"
            ));
    }
    Ok(())
}

/// OIDs of catalogs, as in the archive.
const PG_CLASS: u32 = 1259;
const PG_ATTRDEF: u32 = 2604;

/// Columns with a compression that the target may not have: (table, oid, column, method).
const COMPRESSED: &str = "\
SELECT format('%I.%I', n.nspname, c.relname), c.oid, a.attname::text FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attcompression = 'l' AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname !~ '^pg_' ORDER BY 1, a.attnum";

async fn compression(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let sql = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
    if scene.target.value(LOOKING, sql, &[]).await? {
        return Ok(());
    }
    let (source, name) = (scene.source, &scene.target_end().system.name);
    for row in &source.rows(LOOKING, COMPRESSED, &[]).await? {
        let (table, column): (String, String) =
            (source.column(LOOKING, row, 0)?, source.column(LOOKING, row, 2)?);
        findings.explains((PG_CLASS, source.column(LOOKING, row, 1)?));
        let sql = format!("ALTER TABLE {table} ALTER COLUMN {} SET COMPRESSION pglz;", quote_ident(&column));
        let cure = Cure::sql(sql).remark(format!(
            "or, on the machine of system {name}, install a PostgreSQL that is built with lz4"
        ));
        findings
            .product(Blocker, "compression")
            .about(&format!("{table}.{column}"))
            .cure(scene.on_source(cure))
            .say(format!(
                "column {column} of {table} is compressed with lz4, which system {name} is built without"
            ));
    }
    Ok(())
}

/// Filled materialized views that their owner could not fill: (view, owner, privilege, object). A rule names
/// the columns that it reads; a relation without a column is read for the number of its rows.
const VIEW_RIGHTS: &str = "\
WITH reads AS (
    SELECT DISTINCT v.oid AS view, v.relowner AS owner, r.oid AS relation, d.refobjsubid AS column
    FROM pg_class v JOIN pg_rewrite w ON w.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class r ON r.oid = d.refobjid AND r.relkind IN ('r', 'p', 'v', 'm', 'f') AND r.oid <> v.oid
    WHERE v.relkind = 'm' AND v.relispopulated)
SELECT DISTINCT view::regclass::text, pg_get_userbyid(owner)::text, 'SELECT', relation::regclass::text FROM reads
 WHERE NOT has_table_privilege(owner, relation, 'SELECT')
   AND NOT CASE WHEN reads.column > 0 THEN has_column_privilege(owner, relation, reads.column::int2, 'SELECT')
                ELSE has_any_column_privilege(owner, relation, 'SELECT') END
UNION
SELECT v.oid::regclass::text, pg_get_userbyid(v.relowner)::text, 'EXECUTE', 'FUNCTION ' || p.oid::regprocedure
FROM pg_class v JOIN pg_rewrite w ON w.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.refobjid
WHERE v.relkind = 'm' AND v.relispopulated AND NOT has_function_privilege(v.relowner, p.oid, 'EXECUTE')
ORDER BY 1, 4";

/// The query of a materialized view runs with the privileges of its owner.
async fn view_rights(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let source = scene.source;
    for row in &source.rows(LOOKING, VIEW_RIGHTS, &[]).await? {
        let view: String = source.column(LOOKING, row, 0)?;
        let owner: String = source.column(LOOKING, row, 1)?;
        let right: String = source.column(LOOKING, row, 2)?;
        let object: String = source.column(LOOKING, row, 3)?;
        let grant = format!("GRANT {right} ON {object} TO {};", quote_ident(&owner));
        findings.product(Blocker, "view_rights").about(&view).cure(scene.on_source(grant)).say(format!(
            "materialized view {view} is filled anew in a move, with the rights of its owner {owner}, who lacks {right} on {object}"
        ));
    }
    Ok(())
}
