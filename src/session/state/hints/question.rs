//! The question for what a database has defined, and two cheap ones for whether that has changed.

use std::time::Duration;

use super::super::rows::{Encoding, expand};
use crate::session::scan;

/// Counts rows that were inserted into and updated in these catalogues; those of the session's own
/// transaction at once.
macro_rules! changes_of {
    ($catalogs:literal) => {
        concat!(
            "CASE WHEN pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN \
            (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
            pg_catalog.pg_stat_get_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
            pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
            pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)) FROM pg_catalog.unnest(ARRAY[",
            $catalogs,
            "]::pg_catalog.oid[]) c(oid)) END"
        )
    };
}

/// Grows with every change of a function, a rule or view, a trigger, a policy, an operator or a cast that
/// this session has made, and soon after one that another session has made. It reads statistics, which costs
/// nothing.
pub(in super::super) const DEFINITIONS: &str = changes_of!("1255,2618,2620,3256,2617,2605");

/// The same with types, aggregates, defaults, checks, indexes, inheritance and event triggers: temporary
/// tables count here, too.
pub(in super::super) const ALL_DEFINITIONS: &str =
    changes_of!("1255,2618,2620,3256,2617,2605,1247,2600,2604,2606,2610,2611,3466");

/// Grows with every change of a catalogue that the question reads, a while after it was made. Changes of the
/// session itself count at once, those of others when they have reported their statistics.
pub(super) const CATALOGUE: &str = "CASE WHEN pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN \
    (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_deleted(c.oid)) FROM pg_catalog.unnest(ARRAY[1247,1255,1259,2600,2603,2604,2605,2606,2610,\
    2611,2617,2618,2620,3079,3256,3350,3381,3456,3466,3541,3600,3602]::pg_catalog.oid[]) c(oid)) END";

/// A longer body is not read: after its function, the connection is closed.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Limit of all bodies together; those of the oldest functions are read first.
const BODIES_BYTES_MAX: usize = 16 << 20;
/// Limit of all trees of kept expressions, in bytes. A tree that is not read counts as one in which anything
/// is computed.
const TREES_BYTES_MAX: usize = 4 << 20;

/// Limit of one stored tree that is searched for calls, and of all together; those of the oldest objects are
/// searched first. Lengths come before whatever reads a tree: reading a large one takes seconds.
const SEARCHED_BYTES_MAX: usize = 4 << 20;
const ALL_SEARCHED_BYTES_MAX: usize = 128 << 20;

/// Limit of all settings of functions together, in bytes; a function whose settings are not read counts as
/// one that may set any.
const CONFIG_BYTES_MAX: usize = 1 << 20;
/// How far a call in a tree is searched for the constant that names a setting. One that is not found there
/// counts as any name where it is set.
const CONSTANT_BYTES_MAX: usize = 4 << 10;
/// Limit of all constants together, in bytes.
const CONSTANTS_BYTES_MAX: usize = 1 << 20;

/// A longer answer is not sent: only a row of this kind, with the number of rows.
const ROWS_MAX: usize = 150_000;
pub(in super::super) const MANY: &str = "many";

/// The question. Each row of the answer is a kind and up to five texts, as [`super::super::snapshot()`] has
/// them.
pub(in super::super) fn sql(time_max: Duration) -> String {
    let names: Vec<&str> = scan::not_harmless().collect();
    let sql = READING
        .replace("@names", &names.join(","))
        .replace("@definitions", DEFINITIONS)
        .replace("@all_definitions", ALL_DEFINITIONS)
        .replace("@catalogue", CATALOGUE)
        .replace("@time_max", &time_max.as_millis().to_string())
        .replace("@body_max", &BODY_BYTES_MAX.to_string())
        .replace("@trees_max", &TREES_BYTES_MAX.to_string())
        .replace("@searched_max", &SEARCHED_BYTES_MAX.to_string())
        .replace("@all_searched_max", &ALL_SEARCHED_BYTES_MAX.to_string())
        .replace("@config_max", &CONFIG_BYTES_MAX.to_string())
        .replace("@constant_max", &CONSTANT_BYTES_MAX.to_string())
        .replace("@constants_max", &CONSTANTS_BYTES_MAX.to_string())
        .replace("@bodies_max", &BODIES_BYTES_MAX.to_string())
        .replace("@rows_max", &ROWS_MAX.to_string())
        .replace("@many", MANY);
    expand(&sql, ("<<", ">>"), Encoding::Database)
}

/// Names are found in `pg_catalog`, whatever the session's search path is: its setting holds for this
/// transaction only. It contains no backslash, as `standard_conforming_strings` may be off.
///
/// The function of a move is left out: no text of a client's calls it. One of the same name is not: a
/// superuser counts as a member of the bootstrap superuser (OID 10), and no other role can become one.
///
/// Temporary functions, domains, operators and casts are left out: only their own session reaches them, and
/// one role could make others wait for them. A text calls such a function as `pg_temp.f()`, which counts as
/// one that may do anything. What else uses such a function may do anything, too.
///
/// Texts come in the encoding of the database: a text without a form in UTF-8 would make the whole answer
/// fail.
const READING: &str = r"
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL statement_timeout TO @time_max;
SET LOCAL jit TO off;
SET LOCAL max_parallel_workers_per_gather TO 0;
SET LOCAL enable_nestloop TO off;
SET LOCAL enable_hashjoin TO on;
SET LOCAL work_mem TO '8MB';
SET LOCAL lock_timeout TO 0;
WITH ours(of_ours) AS (SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE p.oid = to_regprocedure('freehold.recall_sequences(text[],bigint[],text,bigint,boolean)')
    AND pg_has_role(p.proowner, 10::oid, 'MEMBER') AND pg_has_role(n.nspowner, 10::oid, 'MEMBER')),
temporary(oid) AS MATERIALIZED (SELECT n.oid FROM pg_namespace n WHERE n.nspname ~ '^pg_temp_'),
routine AS NOT MATERIALIZED (SELECT p.* FROM pg_proc p WHERE p.pronamespace NOT IN (SELECT t.oid FROM temporary t)),
special(oid, name) AS MATERIALIZED (
  SELECT p.oid, p.proname FROM routine p WHERE p.oid < 10000 AND p.proname = ANY ('{@names}'::name[])
    AND NOT 'internal'::regtype = ANY (p.proargtypes::oid[])),
callable(oid, proname) AS (
  SELECT p.oid, p.proname FROM routine p WHERE p.oid >= 10000 OR NOT 'internal'::regtype = ANY (p.proargtypes::oid[])),
stored(oid, owner, a, b) AS (
  SELECT r.oid, c.relname, r.ev_action::text, r.ev_qual::text FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE r.oid >= 16384
  UNION ALL SELECT p.oid, c.relname, p.polqual::text, p.polwithcheck::text
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  UNION ALL SELECT d.oid, c.relname, d.adbin::text, NULL FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
  UNION ALL SELECT t.oid, c.relname, t.tgqual::text, NULL FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE t.tgqual IS NOT NULL
  UNION ALL SELECT k.oid, coalesce(c.relname, ''), k.conbin::text, NULL FROM pg_constraint k
    LEFT JOIN pg_class c ON c.oid = k.conrelid WHERE k.oid >= 16384 AND k.conbin IS NOT NULL
      AND (k.contypid = 0 OR k.connamespace NOT IN (SELECT t.oid FROM temporary t))
  UNION ALL SELECT i.indexrelid, c.relname, i.indexprs::text, i.indpred::text FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL SELECT s.oid, c.relname, s.stxexprs::text, NULL FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid
    WHERE s.stxexprs IS NOT NULL
  UNION ALL SELECT p.partrelid, c.relname, p.partexprs::text, NULL FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid WHERE p.partexprs IS NOT NULL
  UNION ALL SELECT p.oid, p.proname, p.prosqlbody::text, p.proargdefaults::text FROM routine p
    WHERE p.oid >= 10000 AND (p.prosqlbody IS NOT NULL OR p.proargdefaults IS NOT NULL)
  UNION ALL SELECT t.oid, '', t.typdefaultbin::text, NULL FROM pg_type t WHERE t.typdefaultbin IS NOT NULL
    AND t.typnamespace NOT IN (SELECT x.oid FROM temporary x)),
sized(oid, owner, a, b, size) AS (
  SELECT s.oid, s.owner, s.a, s.b, coalesce(octet_length(s.a), 0)::int8 + coalesce(octet_length(s.b), 0) FROM stored s),
tree(owner, tree) AS MATERIALIZED (
  SELECT s.owner, CASE WHEN s.is_searched AND sum(s.size) FILTER (WHERE s.is_searched) OVER (ORDER BY s.oid) <= @all_searched_max
      THEN concat(s.a, s.b) END
    FROM (SELECT *, size <= @searched_max AS is_searched FROM sized) s),
part(owner, called, after) AS MATERIALIZED (
  SELECT t.owner, split_part(x.after, ' ', 1), x.after FROM tree t, LATERAL string_to_table(t.tree, 'funcid ') x(after)),
calls(owner, oid, after) AS MATERIALIZED (
  SELECT p.owner, s.oid, p.after FROM part p JOIN special s ON s.oid::text = p.called),
owner(classid, objid, name) AS (
  SELECT 'pg_rewrite'::regclass, r.oid, c.relname FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, c.relname FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid, coalesce(c.relname, '') FROM pg_constraint k
    LEFT JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype = 'c'
      AND (k.contypid = 0 OR k.connamespace NOT IN (SELECT t.oid FROM temporary t))
  UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
  UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relname FROM pg_class c WHERE c.relkind = 'p'
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, c.relname
    FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid
  UNION ALL SELECT 'pg_type'::regclass, t.oid, '' FROM pg_type t WHERE t.typtype = 'd'
    AND t.typnamespace NOT IN (SELECT x.oid FROM temporary x)
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.proname FROM routine p WHERE p.oid >= 16384),
keeper(classid, objid, name, a, b) AS (
  SELECT 'pg_constraint'::regclass, k.oid, '', k.conbin::text, NULL FROM pg_constraint k WHERE k.contypid <> 0
    AND k.connamespace NOT IN (SELECT t.oid FROM temporary t)
  UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, c.relname, i.indexprs::text, i.indpred::text
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL SELECT 'pg_class'::regclass, p.partrelid, c.relname, p.partexprs::text, NULL FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid),
used(classid, objid, name) AS (
  SELECT 'pg_proc'::regclass, p.oid, p.proname FROM routine p WHERE p.oid >= 16384
  UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relname FROM pg_class c
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')),
uses(owner, used) AS (
  SELECT o.name, u.name FROM owner o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid
    JOIN used u ON u.classid = d.refclassid AND u.objid = d.refobjid
  UNION SELECT c.owner, s.name FROM calls c JOIN special s ON s.oid = c.oid
  UNION SELECT c.relname, p.proname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal
  UNION SELECT a.relname, b.relname FROM pg_constraint k JOIN pg_class a ON a.oid = k.confrelid
    JOIN pg_class b ON b.oid = k.conrelid WHERE k.contype = 'f'
  UNION SELECT b.relname, a.relname FROM pg_constraint k JOIN pg_class a ON a.oid = k.confrelid
    JOIN pg_class b ON b.oid = k.conrelid WHERE k.contype = 'f'
  UNION SELECT a.relname, b.relname FROM pg_inherits i JOIN pg_class a ON a.oid = i.inhparent
    JOIN pg_class b ON b.oid = i.inhrelid
  UNION SELECT b.relname, a.relname FROM pg_inherits i JOIN pg_class a ON a.oid = i.inhparent
    JOIN pg_class b ON b.oid = i.inhrelid WHERE b.relispartition
  UNION SELECT f.proname, p.proname FROM pg_aggregate a JOIN pg_proc f ON f.oid = a.aggfnoid, LATERAL unnest(ARRAY[
      a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn,
      a.aggmfinalfn]::oid[]) x(oid) JOIN callable p ON p.oid = x.oid WHERE f.oid >= 16384),
member(classid, objid) AS MATERIALIZED (
  SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass),
implied(used, classid, objid) AS (
  SELECT p.proname, 'pg_operator'::regclass, o.oid
    FROM pg_operator o, LATERAL unnest(ARRAY[o.oprcode, o.oprrest, o.oprjoin]::oid[]) x(oid)
    JOIN callable p ON p.oid = x.oid WHERE o.oid >= 16384
    AND o.oprnamespace NOT IN (SELECT t.oid FROM temporary t)
  UNION SELECT p.proname, 'pg_cast'::regclass, c.oid FROM pg_cast c JOIN callable p ON p.oid = c.castfunc WHERE c.oid >= 16384
    AND NOT EXISTS (SELECT FROM pg_type t JOIN temporary x ON x.oid = t.typnamespace WHERE t.oid IN (c.castsource, c.casttarget))
  UNION SELECT p.proname, 'pg_opfamily'::regclass, a.amprocfamily FROM pg_amproc a JOIN callable p ON p.oid = a.amproc
    WHERE a.oid >= 16384
  UNION SELECT p.proname, 'pg_type'::regclass, r.rngtypid
    FROM pg_range r, LATERAL unnest(ARRAY[r.rngcanonical, r.rngsubdiff]::oid[]) x(oid)
    JOIN callable p ON p.oid = x.oid WHERE r.rngtypid >= 16384
    AND NOT EXISTS (SELECT FROM pg_type t JOIN temporary x ON x.oid = t.typnamespace WHERE t.oid = r.rngtypid)),
answer(kind, a, b, c, d, e) AS MATERIALIZED (
SELECT 'server' AS kind, current_setting('server_version_num') AS a, (@definitions)::text AS b,
  (@catalogue)::text AS c, (@all_definitions)::text AS d, getdatabaseencoding()::text AS e
UNION ALL SELECT 'function', <<p.proname>>, <<CASE WHEN p.is_unread THEN 'unread' ELSE l.lanname END>>, p.provolatile::text || CASE WHEN p.proconfig IS NOT NULL AND EXISTS
    (SELECT FROM unnest(p.proconfig) s(setting) WHERE s.setting LIKE 'search_path=%' AND strpos(s.setting, '$user') = 0)
    THEN 'p' ELSE '' END, <<CASE WHEN p.oid < 16384 THEN 'initdb' ELSE (SELECT x.extname FROM pg_depend d
    JOIN pg_extension x ON x.oid = d.refobjid WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass) END>>,
    <<CASE WHEN p.is_unread THEN NULL WHEN l.lanname = 'internal' THEN (SELECT min(b.proname) FROM pg_proc b JOIN special s ON s.oid = b.oid
      WHERE b.prosrc = p.prosrc AND p.prokind <> 'a')
    WHEN l.lanname <> 'c' AND p.prosqlbody IS NULL THEN p.prosrc END>>
  FROM (SELECT *, octet_length(prosrc) > @body_max OR sum(octet_length(prosrc)) OVER (ORDER BY oid) > @bodies_max AS is_unread
      FROM routine WHERE oid >= 10000 AND oid IS DISTINCT FROM (SELECT of_ours FROM ours)) p JOIN pg_language l ON l.oid = p.prolang
    WHERE NOT 'internal'::regtype = ANY (p.proargtypes::oid[])
    AND p.prorettype <> ALL (ARRAY['internal', 'cstring', 'language_handler', 'fdw_handler', 'index_am_handler',
      'table_am_handler', 'tsm_handler']::regtype[]::oid[])
UNION ALL SELECT 'config', <<p.proname>>, CASE WHEN p.bytes <= @config_max THEN <<array_to_string(p.proconfig, chr(10))>> END,
    NULL, NULL, NULL
  FROM (SELECT p.proname, p.proconfig, sum(octet_length(p.proconfig::text)) OVER (ORDER BY p.oid) AS bytes FROM routine p
    WHERE p.oid >= 16384 AND p.proconfig IS NOT NULL AND p.oid IS DISTINCT FROM (SELECT of_ours FROM ours)) p
UNION ALL SELECT 'twice', <<t.name>>, t.kind, NULL, NULL, NULL FROM (
    SELECT 'type', t.typname, t.typnamespace FROM pg_type t
    UNION ALL SELECT 'type', c.relname, c.relnamespace FROM pg_class c WHERE c.relkind = 'S'
    UNION ALL SELECT 'collation', c.collname, c.collnamespace FROM pg_collation c
    UNION ALL SELECT 'function', p.proname, p.pronamespace FROM pg_proc p
    UNION ALL SELECT 'operator', o.oprname, o.oprnamespace FROM pg_operator o
    UNION ALL SELECT 'search', c.cfgname, c.cfgnamespace FROM pg_ts_config c
    UNION ALL SELECT 'search', d.dictname, d.dictnamespace FROM pg_ts_dict d) t(kind, name, namespace)
  JOIN pg_namespace n ON n.oid = t.namespace
  WHERE n.nspname !~ '^pg_(toast|temp_)' GROUP BY t.kind, t.name HAVING min(t.namespace) <> max(t.namespace)
UNION ALL SELECT DISTINCT 'keeps', <<k.name>>, <<p.proname>>, NULL, NULL, NULL FROM keeper k
  JOIN pg_depend d ON d.classid = k.classid AND d.objid = k.objid
  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode::oid END
  WHERE p.oid >= 16384
UNION ALL SELECT 'classes', NULL, string_agg(f.oid::text || f.class, ' '), NULL, NULL, NULL FROM (
    SELECT p.oid, CASE WHEN p.oid < 16384 THEN CASE WHEN p.provolatile <> 'i' AND l.lanname <> 'sql' THEN 'v' END
        WHEN l.lanname = 'sql' AND p.proconfig IS NULL THEN CASE p.provolatile WHEN 'i' THEN 'S' ELSE 's' END
        WHEN p.provolatile = 'i' THEN 'U' ELSE 'v' END
      FROM routine p JOIN pg_language l ON l.oid = p.prolang WHERE p.prokind = 'f') f(oid, class) WHERE f.class IS NOT NULL
UNION ALL SELECT 'tree', <<t.name>>, CASE WHEN NOT t.is_unread THEN <<t.tree>> END, t.kind, NULL, NULL FROM (
    SELECT t.name, t.tree, t.kind, t.tree IS NULL
        OR sum(octet_length(t.tree)) OVER (ORDER BY t.classid, t.objid) > @trees_max AS is_unread
      FROM (SELECT k.classid, k.objid, k.name, k.kind, CASE WHEN coalesce(octet_length(k.a), 0)::int8 + coalesce(octet_length(k.b), 0)
            <= @body_max THEN concat(k.a, k.b) END AS tree
          FROM (SELECT k.*, NULL AS kind FROM keeper k
            UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.proname, p.prosqlbody::text, NULL, 'function' FROM routine p
              WHERE p.oid >= 16384 AND p.prosqlbody IS NOT NULL) k) t
      WHERE t.tree IS NULL OR t.tree ~ 'COERCEVIAIO|FUNCEXPR|EXPR [^{}]*:args ([(][{](CONST|RELABELTYPE|ARRAY|CASE|COALESCE|MINMAX)|<>)') t
UNION ALL SELECT 'thesaurus', NULL, NULL, NULL, NULL, NULL WHERE EXISTS (SELECT FROM pg_ts_dict d
    JOIN pg_ts_template t ON t.oid = d.dicttemplate WHERE t.tmplname = 'thesaurus')
  AND EXISTS (SELECT FROM pg_ts_dict d GROUP BY d.dictname HAVING min(d.dictnamespace) <> max(d.dictnamespace))
UNION ALL SELECT 'login', NULL, NULL, NULL, NULL, NULL
  WHERE EXISTS (SELECT FROM pg_event_trigger t WHERE t.evtevent = 'login' AND t.evtenabled <> 'D')
UNION ALL SELECT 'uses', <<u.owner>>, <<u.used>>, NULL, NULL, NULL FROM uses u WHERE u.owner <> u.used
UNION ALL SELECT DISTINCT CASE WHEN m.objid IS NULL THEN 'uses' ELSE 'own' END, '', <<i.used>>, NULL, NULL, NULL
  FROM implied i LEFT JOIN member m ON m.classid = i.classid AND m.objid = i.objid
UNION ALL SELECT DISTINCT 'unseen', <<t.owner>>, NULL, NULL, NULL, NULL FROM tree t WHERE t.tree IS NULL
UNION ALL SELECT DISTINCT 'foreign', <<c.relname>>, NULL, NULL, NULL, NULL FROM pg_class c
  WHERE c.relkind = 'f' AND c.relnamespace NOT IN (SELECT t.oid FROM temporary t)
UNION ALL SELECT 'trigger', <<p.proname>>, NULL, NULL, NULL, NULL FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
  WHERE t.evtenabled <> 'D' AND t.evtevent <> 'login'
UNION ALL SELECT DISTINCT 'opaque', <<c.owner>>, NULL, NULL, NULL, NULL FROM calls c
  WHERE c.oid = 2078 AND c.after !~ '^[^{]*:args [(][{]CONST '
UNION ALL SELECT DISTINCT 'opaque', <<o.name>>, NULL, NULL, NULL, NULL FROM owner o
  JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid AND d.refclassid = 'pg_proc'::regclass
  JOIN pg_proc p ON p.oid = d.refobjid JOIN temporary t ON t.oid = p.pronamespace
UNION ALL SELECT DISTINCT 'opaque', <<t.owner>>, NULL, NULL, NULL, NULL FROM tree t
  WHERE strpos(t.tree, ':relid ' || 'pg_settings'::regclass::oid || ' ') > 0
UNION ALL SELECT 'constant', <<c.owner>>, CASE WHEN NOT c.is_unread THEN c.found END, c.sets, NULL, NULL FROM (
    SELECT c.*, c.found IS NULL OR sum(octet_length(c.found)) OVER (ORDER BY c.owner, c.found) > @constants_max AS is_unread
      FROM (SELECT DISTINCT c.owner, m.found[1] AS found, CASE WHEN c.oid = 2078 THEN 'sets' END AS sets
        FROM calls c LEFT JOIN LATERAL regexp_matches(left(c.after, @constant_max),
          '^[^[]*?:constvalue [0-9]+ [[] ([0-9 -]+) []]') AS m(found) ON true
        WHERE c.oid = ANY (ARRAY[2077, 2078, 3294]::oid[])) c) c),
total(rows) AS MATERIALIZED (SELECT count(*) FROM answer)
SELECT n.* FROM answer n WHERE (SELECT t.rows FROM total t) <= @rows_max
UNION ALL SELECT '@many', t.rows::text, NULL, NULL, NULL, NULL FROM total t WHERE t.rows > @rows_max";
