//! Preflight of what is in the database: what cannot be replicated, what would be missing, what would act twice.

use crate::model::movement::FindingSeverity::{self, Blocker, Warning};
use crate::system::marker::{self, Helper};
use crate::system::names::HELPER_SCHEMA;
use crate::system::tables::{self, Identity, Table};
use crate::system::{SystemError, TableName, quote_ident, quote_literal, roles};

use super::extensions;
use super::preflight::{Findings, Scene};
use super::preflight_systems::{probe, tried};
use super::provision::platform_roles;

pub(super) async fn check(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    let tables = tables::list(scene.source).await?;
    identities(scene, &tables, findings).await?;
    unlogged(scene, &tables, findings);
    helper_schema(scene, findings).await?;
    extensions(scene, findings).await?;
    extension_owners(scene, findings).await?;
    settings(scene, findings).await?;
    collations(scene, findings).await?;
    for look in LOOKS {
        look.run(scene, findings).await?;
    }
    Ok(())
}

/// Tables whose UPDATEs and DELETEs could not be told to the target.
async fn identities(scene: &Scene<'_>, tables: &[Table], findings: &mut Findings) -> Result<(), SystemError> {
    let lacking = tables.iter().filter(|table| table.identity == Identity::Missing && !table.unlogged);
    for table in lacking {
        let cure = scene.on_source(identity_cure(scene, &table.name).await?);
        let draft = match table.writes.changes {
            0 => findings.product(Warning, "replica_identity"),
            _ => findings.product(Blocker, "replica_identity"),
        };
        let history = match table.writes.changes {
            0 => "none has happened yet, but the first one during the move will fail".to_owned(),
            changes => {
                format!("{changes} have happened since the statistics were reset, and they would fail")
            }
        };
        draft.about(&table.name).cure(cure).say(format!(
            "table {} has no primary key and no replica identity: its UPDATEs and DELETEs cannot be replicated; {history}",
            table.name
        ));
    }
    Ok(())
}

/// A unique index that will do, else the whole row, else (where a column cannot be compared) a key of its own.
async fn identity_cure(scene: &Scene<'_>, table: &TableName) -> Result<String, SystemError> {
    const LOOKING: &str = "looking for a replica identity";
    let sql = "SELECT (SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
            WHERE x.indrelid = c.oid AND x.indisunique AND x.indimmediate AND x.indisvalid AND x.indpred IS NULL
              AND x.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                  AND a.attnum = ANY (x.indkey) AND NOT a.attnotnull)
            ORDER BY x.indnkeyatts, 1 LIMIT 1),
            EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid
                AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text
                    = ANY ($3))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let row =
        scene.source.optional(LOOKING, sql, &[&table.schema, &table.name, &INCOMPARABLE.to_vec()]).await?;
    let Some(row) = row else { return Ok(String::new()) };
    let index: Option<String> = scene.source.column(LOOKING, &row, 0)?;
    let incomparable: bool = scene.source.column(LOOKING, &row, 1)?;
    let name = table.sql();
    Ok(match (index, incomparable) {
        (Some(index), _) => {
            format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};", quote_ident(&index))
        }
        (None, false) => format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"),
        (None, true) => own_key(&name),
    })
}

fn own_key(table: &str) -> String {
    format!(
        "ALTER TABLE {table} ADD COLUMN row_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, REPLICA IDENTITY DEFAULT;"
    )
}

/// Types without an equality that replication could find a row by.
const INCOMPARABLE: [&str; 9] = ["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"];

fn unlogged(scene: &Scene<'_>, tables: &[Table], findings: &mut Findings) {
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

async fn helper_schema(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    if marker::helper(scene.source).await? == Helper::Foreign {
        findings
            .product(Blocker, "schema_name")
            .about(HELPER_SCHEMA)
            .cure(scene.on_source(format!("ALTER SCHEMA {HELPER_SCHEMA} RENAME TO {HELPER_SCHEMA}_of_mine;")))
            .say(format!("the database has a schema {HELPER_SCHEMA}; a move needs the name for its own"));
    }
    Ok(())
}

async fn extensions(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
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
                .cure(Some(format!(
                    "-- install extension {name} on the machine of system {}; or, if nobody uses it, on system {}, \
                     database {}:\nDROP EXTENSION {};",
                    end.system.name,
                    scene.source_end().system.name,
                    scene.source_end().dbname,
                    quote_ident(&name)
                )))
                .say(format!("the database uses extension {name}, which system {} does not have", end.system.name));
            continue;
        };
        let there: String = scene.target.column(READING, &available, 0)?;
        if version_numbers(&there) < version_numbers(&version) {
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

/// Extensions whose owner could not drop or update them any more.
async fn extension_owners(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
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

/// `1.10` is newer than `1.9`.
fn version_numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Settings of the database that the target does not know.
async fn settings(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading the settings of a database";
    let end = scene.source_end();
    // Not pg_settings: that leaves out `role`.
    let sql = "SELECT current_setting($1, true) IS NOT NULL";
    for (role, stored) in roles::database_settings(scene.source, &end.dbname).await? {
        let name = stored.split_once('=').map_or(stored.as_str(), |(name, _)| name);
        // A setting of an application has a dot, and every server takes it.
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

/// Collations beside the database's own: the server's, by name, and the users', which must work on the target.
async fn collations(scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
    const READING: &str = "reading collations";
    // The server's own of use are in pg_depend, but for those that every server has.
    let sql = "SELECT n.nspname::text, c.collname::text, c.collprovider::text,
            coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate),
            (SELECT string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE \"C\";', d.objid::regclass, a.attname,
                format_type(a.atttypid, a.atttypmod)), E'\n')
             FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid)
        FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE n.nspname <> 'pg_catalog' OR EXISTS (SELECT FROM pg_depend d
            WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid AND d.deptype = 'n')";
    let exists = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = $1
        AND collnamespace = 'pg_catalog'::regnamespace)";
    for row in &scene.source.rows(READING, sql, &[]).await? {
        let (schema, name): (String, String) =
            (scene.source.column(READING, row, 0)?, scene.source.column(READING, row, 1)?);
        let provider: String = scene.source.column(READING, row, 2)?;
        let locale: Option<String> = scene.source.column(READING, row, 3)?;
        let works = match (schema.as_str(), provider.as_str(), locale) {
            ("pg_catalog", _, _) => scene.target.value::<bool>(READING, exists, &[&name]).await?,
            (_, "i", Some(locale)) => tried(scene.target, &probe("icu", &locale)).await.is_ok(),
            (_, "c", Some(locale)) => tried(scene.target, &probe("libc", &locale)).await.is_ok(),
            (_, "b", Some(locale)) => tried(scene.target, &probe("builtin", &locale)).await.is_ok(),
            _ => true,
        };
        if works {
            continue;
        }
        let columns: Option<String> = scene.source.column(READING, row, 4)?;
        let drop = format!("DROP COLLATION {};", TableName::new(&schema, &name).sql());
        let cure = columns.or_else(|| (schema != "pg_catalog").then_some(drop));
        let cure =
            cure.unwrap_or_else(|| format!("-- rebuild what uses collation {name} with COLLATE \"C\""));
        findings
            .product(Blocker, "collation")
            .about(&format!("{schema}.{name}"))
            .cure(scene.on_source(cure))
            .say(format!("the database uses collation {schema}.{name}, which the target cannot provide"));
    }
    Ok(())
}

/// One statement that finds things: their name as people write it, and the cure.
struct Look {
    check: &'static str,
    severity: FindingSeverity,
    /// Answers (object, cure); `{db}` in it becomes the database's name as a string, `{newest}` the version of the newer one
    /// of the two servers: each of them publishes, one now and one for the way back.
    sql: &'static str,
    /// `{}` becomes the object.
    message: &'static str,
}

impl Look {
    async fn run(&self, scene: &Scene<'_>, findings: &mut Findings) -> Result<(), SystemError> {
        const LOOKING: &str = "looking at the database";
        let newest = scene.source_facts.version_num.max(scene.target_facts.version_num);
        let sql = self.sql.replace("{db}", &quote_literal(&scene.source_end().dbname));
        let sql = sql.replace("{newest}", &newest.to_string());
        for row in &scene.source.rows(LOOKING, &sql, &[]).await? {
            let object: String = scene.source.column(LOOKING, row, 0)?;
            let cure: Option<String> = scene.source.column(LOOKING, row, 1)?;
            let message = self.message.replace("{}", &object);
            let cure = cure.and_then(|sql| scene.on_source(sql));
            findings.product(self.severity, self.check).about(&object).cure(cure).say(message);
        }
        Ok(())
    }
}

/// `json` and its like have no equality, so FULL identifies nothing there.
const LOOKS: [Look; 14] = [
    Look {
        check: "large_objects",
        severity: Blocker,
        sql: "SELECT count(*)::text, 'SELECT lo_unlink(oid) FROM pg_largeobject_metadata; -- once they are kept elsewhere, \
              in bytea columns'
              FROM pg_largeobject_metadata HAVING count(*) > 0",
        message: "the database has {} large objects, which replication does not carry",
    },
    Look {
        check: "subscription",
        severity: Blocker,
        sql: "SELECT subname::text, format('ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); \
              DROP SUBSCRIPTION %1$I; -- and drop its slot on the publisher', subname)
              FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = {db})
              AND subname !~ '^freehold_(move|back)_'",
        message: "subscription {} writes to the database, and would not travel",
    },
    Look {
        check: "slot",
        severity: Blocker,
        sql: "SELECT slot_name::text, format('SELECT pg_drop_replication_slot(%L); -- its consumer must begin anew after the \
              move', slot_name)
              FROM pg_replication_slots WHERE database = {db} AND slot_name !~ '^freehold_(move|back)_'",
        message: "slot {} has a consumer of the database's changes, which would be left behind on the source",
    },
    Look {
        check: "publication",
        severity: Warning,
        sql: "SELECT pubname::text, NULL FROM pg_publication WHERE pubname !~ '^freehold_(move|back)_'",
        message: "publication {} travels, its subscribers do not: they must be pointed at the new system",
    },
    Look {
        check: "event_trigger",
        severity: Blocker,
        sql: "SELECT evtname::text, format('ALTER EVENT TRIGGER %I ENABLE;', evtname) FROM pg_event_trigger
              WHERE evtenabled IN ('A', 'R') AND evtname !~ '^freehold_guard'",
        message: "event trigger {} also fires for the platform's own statements (ENABLE ALWAYS or REPLICA)",
    },
    Look {
        check: "trigger",
        severity: Blocker,
        sql: "SELECT format('%I.%I: %I', n.nspname, c.relname, t.tgname),
              format('ALTER TABLE %I.%I ENABLE TRIGGER %I;', n.nspname, c.relname, t.tgname)
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND n.nspname !~ '^pg_' AND n.nspname <> 'freehold'",
        message: "trigger {} also fires for replicated rows (ENABLE ALWAYS or REPLICA): it would act twice",
    },
    Look {
        check: "incomparable_identity",
        severity: Blocker,
        sql: "SELECT DISTINCT format('%I.%I', n.nspname, c.relname), format('ALTER TABLE %I.%I ADD COLUMN row_id bigint \
              GENERATED ALWAYS AS IDENTITY PRIMARY KEY, REPLICA IDENTITY DEFAULT;', n.nspname, c.relname)
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              JOIN pg_type t ON t.oid = a.atttypid
              WHERE c.relkind = 'r' AND c.relreplident = 'f' AND n.nspname !~ '^pg_'
                AND coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text IN
                    ('json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle')
                AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
        message: "table {} is identified by its full row, and has a column whose values cannot be compared",
    },
    Look {
        check: "generated_identity",
        severity: Blocker,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), format('ALTER TABLE %1$I.%2$I ADD COLUMN row_id bigint \
              GENERATED ALWAYS AS IDENTITY CONSTRAINT %3$I UNIQUE; ALTER TABLE %1$I.%2$I REPLICA IDENTITY USING INDEX %3$I;', \
              n.nspname, c.relname, left(c.relname, 50) || '_row_id')
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND n.nspname !~ '^pg_'
                AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> ''
                    AND (c.relreplident = 'f' AND {newest} >= 180000
                         OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
                             AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))))",
        message: "table {} is identified by generated columns, which are not replicated: its UPDATEs and DELETEs would fail, on \
                  this side or on the other",
    },
    Look {
        check: "tablespace",
        severity: Warning,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), NULL FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.reltablespace <> 0 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
        message: "{} is in a tablespace of its own; on the target it will be in the database's",
    },
    Look {
        check: "foreign_server",
        severity: Warning,
        sql: "SELECT srvname::text, NULL FROM pg_foreign_server",
        message: "foreign server {} must be reachable from the target, too; its rows stay where they are",
    },
    Look {
        check: "unlogged_sequence",
        severity: Warning,
        sql: "SELECT format('%I.%I', n.nspname, c.relname), format('ALTER SEQUENCE %I.%I SET LOGGED;', n.nspname, c.relname)
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'S' AND c.relpersistence = 'u' AND NOT EXISTS (SELECT FROM pg_depend d
                  JOIN pg_class t ON t.oid = d.refobjid AND t.relpersistence = 'u'
                  WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))",
        message: "sequence {} is unlogged",
    },
    Look {
        check: "database_owner",
        severity: Warning,
        sql: "SELECT pg_get_userbyid(datdba)::text, format('ALTER DATABASE %I OWNER TO %I; GRANT CREATE, CONNECT, TEMPORARY ON \
              DATABASE %I TO %I;', datname, current_user, datname, pg_get_userbyid(datdba))
              FROM pg_database WHERE datname = {db} AND pg_get_userbyid(datdba) <> current_user",
        message: "role {} owns the database object and could lift the fence; on the target the platform will own it",
    },
    Look {
        check: "event_trigger_travels",
        severity: Warning,
        sql: "SELECT evtname::text, NULL FROM pg_event_trigger WHERE evtenabled = 'O' AND evtname !~ '^freehold_guard'",
        message: "event trigger {} travels; it does not fire for the platform's own statements",
    },
    Look {
        check: "rule",
        severity: Warning,
        sql: "SELECT DISTINCT format('%I.%I', n.nspname, c.relname), NULL FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid
              WHERE r.ev_enabled IN ('A', 'R') AND n.nspname !~ '^pg_'",
        message: "{} has a rule that is set to fire for replicated rows; replication does not run rules",
    },
];
