//! Preflight of the database's contents: what cannot be replicated, what would be missing, what would act
//! twice.

use crate::model::Cure;
use crate::model::movement::FindingSeverity::{self, Blocker, Warning};
use crate::system::tables::{self, ReplicaIdentity, Table};
use crate::system::{SystemError, TableName, quote_ident, quote_literal, roles};

use crate::control::moves::parts::extensions;
use crate::control::moves::parts::scope::platform_roles;
use crate::control::moves::steps::preflight::systems::{can_probe_libc, probe, tried};
use crate::control::moves::steps::preflight::{Findings, PreflightContext};

pub(in crate::control) async fn check(
    scene: &PreflightContext<'_>,
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let tables = tables::list(scene.source).await?;
    identities(scene, &tables, findings).await?;
    unlogged(scene, &tables, findings);
    extensions(scene, findings).await?;
    extension_owners(scene, findings).await?;
    settings(scene, findings).await?;
    collations(scene, findings).await?;
    for look in LOOKS {
        look.run(scene, findings).await?;
    }
    Ok(())
}

/// Tables with UPDATEs and DELETEs that cannot be replicated: once they are published the server refuses
/// these to every client.
async fn identities(
    scene: &PreflightContext<'_>,
    tables: &[Table],
    findings: &mut Findings,
) -> Result<(), SystemError> {
    let lacking = tables.iter().filter(|table| table.identity == ReplicaIdentity::Missing && !table.unlogged);
    for table in lacking {
        let Some(cure) = identity_cure(scene, &table.name).await? else { continue };
        let (severity, history) = match (table.writes.changes, cure.writers) {
            (0, None) => (
                Warning,
                "none has happened since the statistics were reset, and superusers alone may do it"
                    .to_owned(),
            ),
            (0, Some(role)) => (
                Blocker,
                format!("the first one that {role}, which may do it, does during the move would fail"),
            ),
            (changes, _) => (
                Blocker,
                format!("{changes} have happened since the statistics were reset, and they would fail"),
            ),
        };
        findings.product(severity, "replica_identity").about(&table.name).cure(scene.on_source(cure.sql)).say(format!(
            "table {} has no primary key and no replica identity: its UPDATEs and DELETEs cannot be replicated; {history}",
            table.name
        ));
    }
    Ok(())
}

struct IdentityCure {
    sql: String,
    /// A role without all privileges that may change rows.
    writers: Option<String>,
}

/// Row for a table: usable unique index or NULL, whether a column cannot be compared, whether a column is
/// generated, role that may change rows or NULL. A role that may change rows of a parent may change those of
/// its children.
const IDENTITY: &str = "\
WITH RECURSIVE written(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
    UNION SELECT i.inhparent FROM written w JOIN pg_inherits i ON i.inhrelid = w.oid)
SELECT (SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        WHERE x.indrelid = c.oid AND x.indisunique AND x.indimmediate AND x.indisvalid AND x.indpred IS NULL
          AND x.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
              AND a.attnum = ANY (x.indkey) AND (NOT a.attnotnull OR a.attgenerated <> ''))
        ORDER BY x.indnkeyatts, 1 LIMIT 1),
    {incomparable},
    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> ''),
    (SELECT min(r.rolname::text) FROM pg_roles r, written w
     WHERE NOT r.rolsuper AND r.rolname !~ '^(pg|freehold)_' AND (has_table_privilege(r.oid, w.oid, 'UPDATE, DELETE')
         OR has_any_column_privilege(r.oid, w.oid, 'UPDATE')))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";

/// Whether table `c` has a column by which replication cannot find a row: neither its type nor the parts of
/// its type have an equality operator in a default operator class. A type that is binary-coercible to such a
/// type has one, too.
const INCOMPARABLE: &str = "\
EXISTS (WITH RECURSIVE part (oid) AS (
        SELECT a.atttypid FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        UNION SELECT x.oid FROM part JOIN pg_type t ON t.oid = part.oid, LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL SELECT f.atttypid FROM pg_attribute f
             WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped) x (oid))
    SELECT FROM part JOIN pg_type t ON t.oid = part.oid
     WHERE t.typtype NOT IN ('d', 'c') AND NOT (t.typcategory = 'A' AND t.typelem <> 0) AND NOT EXISTS (
        SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
         WHERE o.opcdefault AND (o.opcintype = t.oid
            OR o.opcintype = CASE t.typtype WHEN 'e' THEN 'anyenum'::regtype WHEN 'r' THEN 'anyrange'::regtype
                WHEN 'm' THEN 'anymultirange'::regtype END
            OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = t.oid AND k.casttarget = o.opcintype
                AND k.castmethod = 'b' AND k.castcontext = 'i'))))";

/// A usable unique index, else the whole row, else (if that identifies nothing) a new key. `None`: the table
/// is gone.
async fn identity_cure(
    scene: &PreflightContext<'_>,
    table: &TableName,
) -> Result<Option<IdentityCure>, SystemError> {
    const LOOKING: &str = "looking for a replica identity";
    let sql = IDENTITY.replace("{incomparable}", INCOMPARABLE);
    let row = scene.source.optional(LOOKING, &sql, &[&table.schema, &table.name]).await?;
    let Some(row) = row else { return Ok(None) };
    let index: Option<String> = scene.source.column(LOOKING, &row, 0)?;
    let incomparable: bool = scene.source.column(LOOKING, &row, 1)?;
    let generated: bool = scene.source.column(LOOKING, &row, 2)?;
    let name = table.sql();
    let sql = match index {
        Some(index) => format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};", quote_ident(&index)),
        None if incomparable || generated && newest(scene) >= FULL_WITHOUT_GENERATED => own_key(&name),
        None => format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"),
    };
    Ok(Some(IdentityCure { sql, writers: scene.source.column(LOOKING, &row, 3)? }))
}

/// From this version on a full identity must not have generated columns.
const FULL_WITHOUT_GENERATED: u32 = 180_000;

/// The version of the newer server. Both servers publish: one now, one for the way back.
fn newest(scene: &PreflightContext<'_>) -> u32 {
    scene.source_facts.version_num.max(scene.target_facts.version_num)
}

fn own_key(table: &str) -> String {
    format!(
        "ALTER TABLE {table} ADD COLUMN row_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, REPLICA IDENTITY DEFAULT;"
    )
}

fn unlogged(scene: &PreflightContext<'_>, tables: &[Table], findings: &mut Findings) {
    for table in tables.iter().filter(|table| table.unlogged) {
        let severity = if table.heap_bytes > 0 { Blocker } else { Warning };
        findings
            .product(severity, "unlogged_table")
            .about(&table.name)
            .cure(scene.on_source(format!("ALTER TABLE {} SET LOGGED;", table.name.sql())))
            .say(format!(
                "table {} is unlogged: its rows are not in the log and would not travel",
                table.name
            ));
    }
}

async fn extensions(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading extensions";
    let sql = "SELECT extname::text, extversion FROM pg_extension ORDER BY 1";
    let installed = scene.source.rows(READING, sql, &[]).await?;
    let sql = "SELECT default_version FROM pg_available_extensions WHERE name = $1";
    let end = scene.target_end();
    for row in &installed {
        let name: String = scene.source.column(READING, row, 0)?;
        let version: String = scene.source.column(READING, row, 1)?;
        let Some(available) = scene.target.optional(READING, sql, &[&name]).await? else {
            findings
                .platform(Blocker, "extension")
                .about(&name)
                .cure(Cure::to_decide(
                    format!(
                        "install extension {name} on the machine of system {}; or, if nobody uses it, on system {}, database {}:",
                        end.system.name,
                        scene.source_end().system.name,
                        scene.source_end().dbname
                    ),
                    [format!("DROP EXTENSION {};", quote_ident(&name))],
                ))
                .say(format!("the database uses extension {name}, which system {} does not have", end.system.name));
            continue;
        };
        // An extension may have no version in its control file.
        let there: Option<String> = scene.target.column(READING, &available, 0)?;
        let older = there.filter(|there| version_numbers(there) < version_numbers(&version));
        if let Some(there) = older {
            findings.platform(Warning, "extension_version").about(&name).say(format!(
                "extension {name} is version {version} on the source and would be {there} on the target"
            ));
        }
        if WORKERS.contains(&name.as_str()) {
            findings.product(Warning, "extension_worker").about(&name).say(format!(
                "extension {name} writes by itself, without a client: what it does is not held during the pause, and the \
                 fence ends it"
            ));
        }
    }
    Ok(())
}

/// Extensions that their owner could no longer drop or update.
async fn extension_owners(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let platform = platform_roles(&scene.plan.ends);
    let target = scene.target_end();
    for extension in extensions::owned(scene.source, &platform.each()).await? {
        if extensions::can_be_carried(scene.target, &extension).await? {
            continue;
        }
        findings.product(Warning, "extension_owner").about(&extension.name).say(format!(
            "extension {} belongs to {} and would belong to {} on system {}, where nobody else can be given it: {} cannot update or \
             drop it there",
            extension.name, extension.owner, target.system.admin_role, target.system.name, extension.owner
        ));
    }
    Ok(())
}

/// Extensions with background workers that write to the database.
const WORKERS: [&str; 4] = ["pg_cron", "pg_partman", "timescaledb", "pgagent"];

/// Splits a version into numbers: `1.10` is newer than `1.9`.
fn version_numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Settings of the database that the target does not know.
async fn settings(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading the settings of a database";
    let end = scene.source_end();
    // Not pg_settings, which omits `role`.
    let sql = "SELECT current_setting($1, true) IS NOT NULL";
    for (role, stored) in roles::database_settings(scene.source, &end.dbname).await? {
        let name = stored.split_once('=').map_or(stored.as_str(), |(name, _)| name);
        // A custom setting of an application has a dot, and every server accepts it.
        if name.contains('.') || scene.target.value::<bool>(READING, sql, &[&name]).await? {
            continue;
        }
        let database = quote_ident(&end.dbname);
        let reset = match &role {
            Some(role) => format!(
                "ALTER ROLE {} IN DATABASE {database} RESET {};",
                quote_ident(role),
                quote_ident(name)
            ),
            None => format!("ALTER DATABASE {database} RESET {};", quote_ident(name)),
        };
        findings
            .product(Blocker, "setting")
            .about(name)
            .cure(scene.on_source(reset))
            .say(format!("the database sets {name}, which the target does not know"));
    }
    Ok(())
}

/// Collations in use or created by users: (schema, name, provider, locale, statements that give columns
/// another one, other dependents). Uses of the server's own collations are in pg_depend, except for those
/// that every server has. A column of a child follows that of its parent, and an index its column; a column
/// that a view reads cannot be altered.
const COLLATIONS: &str = "\
SELECT n.nspname::text, c.collname::text, c.collprovider::text,
    coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate),
    array_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE \"C\";', u.objid::regclass, a.attname,
        format_type(a.atttypid, a.atttypmod)) ORDER BY u.objid, a.attnum) FILTER (WHERE u.is_column AND NOT u.follows),
    string_agg(pg_describe_object(u.classid, u.objid, u.objsubid), ', ' ORDER BY u.classid, u.objid, u.objsubid)
        FILTER (WHERE NOT u.is_column AND NOT u.follows)
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
LEFT JOIN LATERAL (
    SELECT d.classid, d.objid, d.objsubid,
        d.classid = 'pg_class'::regclass AND r.relkind IN ('r', 'p') AND d.objsubid > 0 AND NOT EXISTS (SELECT FROM pg_depend v
            WHERE v.classid = 'pg_rewrite'::regclass AND v.refclassid = d.classid AND v.refobjid = d.objid AND v.refobjsubid = d.objsubid)
            AS is_column,
        d.classid = 'pg_class'::regclass AND (
            EXISTS (SELECT FROM pg_attribute i WHERE i.attrelid = d.objid AND i.attnum = d.objsubid AND i.attinhcount > 0)
            OR EXISTS (SELECT FROM pg_index x JOIN pg_attribute i ON i.attrelid = x.indrelid AND i.attcollation = c.oid
                       WHERE x.indexrelid = d.objid))
        OR d.classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type e WHERE e.typarray = d.objid) AS follows
    FROM pg_depend d LEFT JOIN pg_class r ON d.classid = 'pg_class'::regclass AND r.oid = d.objid
    WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid AND d.deptype = 'n') u ON true
LEFT JOIN pg_attribute a ON u.is_column AND a.attrelid = u.objid AND a.attnum = u.objsubid
WHERE n.nspname <> 'pg_catalog' OR u.objid IS NOT NULL
GROUP BY c.oid, n.nspname ORDER BY 1, 2";

/// Collations other than the database's own: built-in ones by name, and the users', which must work on the
/// target.
async fn collations(scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading collations";
    let exists = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = $1
        AND collnamespace = 'pg_catalog'::regnamespace)";
    // If it cannot be probed, the trial creates it.
    let libc = can_probe_libc(scene).await?;
    for row in &scene.source.rows(READING, COLLATIONS, &[]).await? {
        let (schema, name): (String, String) =
            (scene.source.column(READING, row, 0)?, scene.source.column(READING, row, 1)?);
        let provider: String = scene.source.column(READING, row, 2)?;
        let locale: Option<String> = scene.source.column(READING, row, 3)?;
        let works = match (schema.as_str(), provider.as_str(), locale) {
            ("pg_catalog", _, _) => scene.target.value::<bool>(READING, exists, &[&name]).await?,
            (_, "i", Some(locale)) => tried(scene.target, &probe("icu", &locale)).await.is_ok(),
            (_, "c", Some(locale)) if libc => tried(scene.target, &probe("libc", &locale)).await.is_ok(),
            (_, "b", Some(locale)) => tried(scene.target, &probe("builtin", &locale)).await.is_ok(),
            _ => true,
        };
        if works {
            continue;
        }
        let collation = TableName::new(&schema, &name);
        let cure = collation_cure(
            &collation,
            scene.source.column(READING, row, 4)?,
            scene.source.column(READING, row, 5)?,
        );
        findings
            .product(Blocker, "collation")
            .about(&format!("{schema}.{name}"))
            .cure(scene.on_source(cure))
            .say(format!("the database uses collation {schema}.{name}, which the target cannot provide"));
    }
    Ok(())
}

/// Complete if only columns of tables use the collation; otherwise the other uses have to be changed first.
fn collation_cure(collation: &TableName, columns: Option<Vec<String>>, others: Option<String>) -> Cure {
    let mut statements = columns.unwrap_or_default();
    if collation.schema != "pg_catalog" {
        statements.push(format!("DROP COLLATION {};", collation.sql()));
    }
    let Some(others) = others else { return Cure::statements(statements) };
    let first = format!("give these another collation by hand, or drop them: {others}; then run:");
    Cure::to_decide(first, statements)
}

/// One query that finds objects: the text of the finding, and the cure.
struct Look {
    check: &'static str,
    severity: FindingSeverity,
    /// Returns (object, statements of the cure or NULL); `{db}` in it becomes the database's name as a
    /// string, `{newest}` and `{oldest}` the versions of the newer and the older one of the two servers: both
    /// publish, one now and one for the way back; `{incomparable}` whether table `c` cannot be identified by
    /// its rows.
    sql: &'static str,
    /// The decision to make before running the cure, which loses something permanently.
    decision: Option<&'static str>,
    /// `{}` is replaced by the object.
    message: &'static str,
}

impl Look {
    async fn run(&self, scene: &PreflightContext<'_>, findings: &mut Findings) -> Result<(), SystemError> {
        const LOOKING: &str = "looking at the database";
        let sql = self.sql.replace("{db}", &quote_literal(&scene.source_end().dbname));
        let oldest = scene.source_facts.version_num.min(scene.target_facts.version_num);
        let sql =
            sql.replace("{newest}", &newest(scene).to_string()).replace("{oldest}", &oldest.to_string());
        let sql = sql.replace("{incomparable}", INCOMPARABLE);
        for row in &scene.source.rows(LOOKING, &sql, &[]).await? {
            let object: String = scene.source.column(LOOKING, row, 0)?;
            let cure: Option<Vec<String>> = scene.source.column(LOOKING, row, 1)?;
            let message = self.message.replace("{}", &object);
            let cure = cure.map(|statements| match self.decision {
                Some(decision) => Cure::to_decide(decision, statements),
                None => Cure::statements(statements),
            });
            let cure = cure.map(|cure| scene.on_source(cure));
            findings.product(self.severity, self.check).about(&object).cure(cure).say(message);
        }
        Ok(())
    }
}

const LOOKS: [Look; 15] = [
    Look {
        check: "large_objects",
        severity: Blocker,
        sql: "SELECT count(*)::text, ARRAY['SELECT lo_unlink(oid) FROM pg_largeobject_metadata;']
              FROM pg_largeobject_metadata HAVING count(*) > 0",
        decision: Some("this deletes them; once they are kept elsewhere, in bytea columns:"),
        message: "the database has {} large objects, which replication does not carry",
    },
    Look {
        check: "subscription",
        severity: Blocker,
        sql: "SELECT subname::text, ARRAY[format('ALTER SUBSCRIPTION %I DISABLE;', subname), \
              format('ALTER SUBSCRIPTION %I SET (slot_name = NONE);', subname), format('DROP SUBSCRIPTION %I;', subname)]
              FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = {db})
              AND subname !~ '^freehold_(move|back)_'",
        decision: Some("the database gets no more changes from the publisher then, where the slot must be dropped, too:"),
        message: "subscription {} writes to the database, and would not travel",
    },
    Look {
        check: "slot",
        severity: Blocker,
        sql: "SELECT slot_name::text, ARRAY[format('SELECT pg_drop_replication_slot(%L);', slot_name)]
              FROM pg_replication_slots WHERE database = {db} AND slot_name !~ '^freehold_(move|back)_'",
        decision: Some("its consumer must begin anew after the move then:"),
        message: "slot {} has a consumer of the database's changes, which would be left behind on the source",
    },
    Look {
        check: "publication",
        severity: Warning,
        sql: "SELECT pubname::text, NULL::text[] FROM pg_publication WHERE pubname !~ '^freehold_(move|back)_'",
        decision: None,
        message: "publication {} travels, its subscribers do not: they must be pointed at the new system",
    },
    Look {
        check: "event_trigger",
        severity: Blocker,
        sql: "SELECT evtname::text, ARRAY[format('ALTER EVENT TRIGGER %I ENABLE;', evtname)] FROM pg_event_trigger
              WHERE evtenabled IN ('A', 'R') AND evtname !~ '^freehold_guard'",
        decision: None,
        message: "event trigger {} also fires for the platform's own statements (ENABLE ALWAYS or REPLICA)",
    },
    Look {
        check: "trigger",
        severity: Blocker,
        sql: "SELECT format('%I.%I: %I', n.nspname, c.relname, t.tgname),
              ARRAY[format('ALTER TABLE %I.%I ENABLE TRIGGER %I;', n.nspname, c.relname, t.tgname)]
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND n.nspname !~ '^pg_' AND n.nspname <> 'freehold'",
        decision: None,
        message: "trigger {} also fires for replicated rows (ENABLE ALWAYS or REPLICA): it would act twice",
    },
    Look {
        check: "incomparable_identity",
        severity: Blocker,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), ARRAY[format('ALTER TABLE %I.%I ADD COLUMN row_id bigint \
              GENERATED ALWAYS AS IDENTITY PRIMARY KEY, REPLICA IDENTITY DEFAULT;', n.nspname, c.relname)]
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND c.relreplident = 'f' AND n.nspname !~ '^pg_' AND {incomparable}
                AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
        decision: None,
        message: "table {} is identified by its full row, and has a column whose values cannot be compared",
    },
    Look {
        check: "generated_identity",
        severity: Blocker,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), ARRAY[format('ALTER TABLE %I.%I ADD COLUMN row_id bigint \
              GENERATED ALWAYS AS IDENTITY CONSTRAINT %I UNIQUE;', n.nspname, c.relname, left(c.relname, 50) || '_row_id'), \
              format('ALTER TABLE %I.%I REPLICA IDENTITY USING INDEX %I;', n.nspname, c.relname, left(c.relname, 50) || '_row_id')]
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND n.nspname !~ '^pg_'
                AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> ''
                    AND (c.relreplident = 'f' AND {newest} >= 180000
                         OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
                             AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))))",
        decision: None,
        message: "table {} is identified by generated columns, which are not replicated: its UPDATEs and DELETEs would fail, on \
                  this side or on the other",
    },
    Look {
        check: "tablespace",
        severity: Warning,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), NULL::text[] FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.reltablespace <> 0 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
        decision: None,
        message: "{} is in a tablespace of its own; on the target it will be in the database's",
    },
    Look {
        check: "foreign_server",
        severity: Warning,
        sql: "SELECT srvname::text, NULL::text[] FROM pg_foreign_server",
        decision: None,
        message: "foreign server {} must be reachable from the target, too; its rows stay where they are",
    },
    Look {
        check: "unlogged_sequence",
        severity: Warning,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), ARRAY[format('ALTER SEQUENCE %I.%I SET LOGGED;', n.nspname, c.relname)]
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'S' AND c.relpersistence = 'u' AND NOT EXISTS (SELECT FROM pg_depend d
                  JOIN pg_class t ON t.oid = d.refobjid AND t.relpersistence = 'u'
                  WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))",
        decision: None,
        message: "sequence {} is unlogged",
    },
    Look {
        check: "database_owner",
        severity: Warning,
        sql: "SELECT pg_get_userbyid(datdba)::text, ARRAY[format('ALTER DATABASE %I OWNER TO %I;', datname, current_user), \
              format('GRANT CREATE, CONNECT, TEMPORARY ON DATABASE %I TO %I;', datname, pg_get_userbyid(datdba))]
              FROM pg_database WHERE datname = {db} AND pg_get_userbyid(datdba) <> current_user",
        decision: None,
        message: "role {} owns the database object and could lift the fence; on the target the platform will own it",
    },
    Look {
        check: "event_trigger_travels",
        severity: Warning,
        sql: "SELECT evtname::text, NULL::text[] FROM pg_event_trigger WHERE evtenabled = 'O' AND evtname !~ '^freehold_guard'",
        decision: None,
        message: "event trigger {} travels; it does not fire for the platform's own statements",
    },
    Look {
        check: "restart_identity",
        severity: Warning,
        sql: "SELECT count(DISTINCT c.relowner)::text, NULL::text[] FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_roles o ON o.oid = c.relowner WHERE {oldest} < 160000 AND c.relkind IN ('r', 'p') AND NOT o.rolsuper
                AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'freehold')
              HAVING count(DISTINCT c.relowner) > 1 AND bool_or(EXISTS (SELECT FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
                  WHERE s.relkind = 'S' AND d.refobjid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))",
        decision: None,
        message: "tables belong to {} roles, and a server older than PostgreSQL 16 would let code of one become another one, so rows are \
                  written without the owners' rights: TRUNCATE ... RESTART IDENTITY during the move stops replication",
    },
    Look {
        check: "rule",
        severity: Warning,
        sql: "SELECT DISTINCT format('%I.%I', n.nspname, c.relname), NULL::text[] FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid
              WHERE r.ev_enabled IN ('A', 'R') AND n.nspname !~ '^pg_'",
        decision: None,
        message: "{} has a rule that is set to fire for replicated rows; replication does not run rules",
    },
];
