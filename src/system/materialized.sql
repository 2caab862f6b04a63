-- The materialized views of a database: (schema, name, query, schemas and names of materialized views that it reads, why two servers
-- with the same rows may compute different contents). Tokens of a stored tree are separated by blanks; in names these are escaped.
WITH RECURSIVE view AS (
    SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relpersistence <> 't'
),
-- The rule of the view, and those of views that it reads.
rule (view, oid) AS (
    SELECT v.oid, r.oid FROM view v JOIN pg_rewrite r ON r.ev_class = v.oid
    UNION
    SELECT rule.view, r.oid FROM rule JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = rule.oid
      AND d.refclassid = 'pg_class'::regclass JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = c.oid
),
tree AS (
    SELECT rule.view, r.ev_action::text AS text FROM rule JOIN pg_rewrite r ON r.oid = rule.oid
),
token AS (
    SELECT DISTINCT t.view, m[1] AS kind, m[2]::oid AS oid
    FROM tree t, regexp_matches(t.text, ':(relid|funcid|opno|aggfnoid|winfnoid|consttype) ([0-9]+)', 'g') AS m
),
called AS (
    SELECT t.view, p.* FROM token t LEFT JOIN pg_operator o ON t.kind = 'opno' AND o.oid = t.oid
    JOIN pg_proc p ON p.oid = CASE WHEN t.kind = 'opno' THEN o.oprcode::oid ELSE t.oid END
    WHERE t.kind IN ('funcid', 'opno', 'aggfnoid', 'winfnoid')
),
unsure (view, why) AS (
    -- Values that belong to one server, and functions that say something of it or of the time.
    SELECT t.view, 'it reads the catalogue ' || t.oid::regclass FROM token t WHERE t.kind = 'relid' AND t.oid > 0 AND t.oid < 16384
    UNION ALL
    SELECT t.view, format('it reads %s, whose rows do not travel', c.oid::regclass) FROM token t JOIN pg_class c ON c.oid = t.oid
     WHERE t.kind = 'relid' AND c.oid >= 16384 AND (c.relkind IN ('f', 'S') OR c.relkind = 'r' AND c.relpersistence = 'u'
       OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND c.relkind = 'r')
          AND NOT EXISTS (SELECT FROM pg_extension x WHERE c.oid = ANY (x.extconfig)))
    UNION ALL
    SELECT view, 'it calls ' || proname || '(), which is volatile' FROM called WHERE provolatile = 'v'
    UNION ALL
    SELECT view, 'it calls ' || proname || '(), which depends on the time or on the server' FROM called
     WHERE provolatile = 's' AND pronamespace = 'pg_catalog'::regnamespace
       AND (proname ~ '^(pg|inet|has|txid|current|col|obj|row|query|table|schema|database|cursor)_' OR proname IN ('version', 'now', 'age',
            'statement_timestamp', 'transaction_timestamp', 'shobj_description', 'getdatabaseencoding'))
    UNION ALL
    SELECT view, 'it asks for the time or for who runs it' FROM tree WHERE text ~ '\{SQLVALUEFUNCTION '
    UNION ALL
    SELECT view, 'it reads a column of the system' FROM tree WHERE text ~ ':varattno -[0-9]'
    UNION ALL
    SELECT v.oid, format('its column %s is of type %s, whose values belong to one server', a.attname, t.typname)
      FROM view v JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type c ON c.oid = a.atttypid JOIN pg_type t ON t.oid IN (c.oid, c.typelem)
     WHERE t.typnamespace = 'pg_catalog'::regnamespace
       AND t.typname ~ '^(oid|xid8?|cid|tid|pg_lsn|(pg|txid)_snapshot|reg(class|proc|procedure|oper|operator|type|role|namespace|collation|config|dictionary))$'
    -- Contents that depend on the order in which rows are found.
    UNION ALL
    SELECT view, 'what ' || proname || '() gives depends on the order of rows' FROM called
     WHERE prokind = 'a' AND (oid >= 16384 OR proname ~ '^(array|string|json|jsonb|json_object|jsonb_object)_agg|^xmlagg$|^any_value$'
       OR proname NOT IN ('min', 'max', 'count') AND proargtypes::oid[] && ARRAY['float4'::regtype::oid, 'float8'::regtype::oid])
    UNION ALL
    SELECT view, 'which rows it takes depends on their order' FROM tree
     WHERE text ~ ':limit(Count|Offset) \{|:hasDistinctOn true|:hasWindowFuncs true|:tablesample \{'
    -- Constants whose input functions run code of users'.
    UNION ALL
    SELECT t.view, 'it has a constant of type ' || format_type(y.oid, NULL) || ', which the platform must not read'
      FROM token t JOIN pg_type y ON y.oid = t.oid LEFT JOIN pg_type e ON e.oid = y.typelem
     WHERE t.kind = 'consttype' AND (y.typtype IN ('c', 'd') OR e.typtype IN ('c', 'd') OR y.typtype IN ('r', 'm') AND y.oid >= 16384
       OR e.typtype IN ('r', 'm') AND e.oid >= 16384)
)
SELECT v.schema, v.name, pg_get_viewdef(v.oid),
    ARRAY(SELECT r.schema FROM token t JOIN view r ON r.oid = t.oid WHERE t.view = v.oid AND t.kind = 'relid' AND r.oid <> v.oid ORDER BY r.oid),
    ARRAY(SELECT r.name FROM token t JOIN view r ON r.oid = t.oid WHERE t.view = v.oid AND t.kind = 'relid' AND r.oid <> v.oid ORDER BY r.oid),
    (SELECT min(u.why) FROM unsure u WHERE u.view = v.oid)
FROM view v
