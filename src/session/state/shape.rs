//! Whether the meaning of a text may have changed: how the server is asked for it.
//!
//! Owns two questions. [`CHANGES`] costs nothing and reports too much: temporary tables count, and so do
//! statistics that another connection has not reported yet. [`questions`] asks it together with a digest of
//! everything that decides which types, functions and operators the names of a text mean, without temporary
//! objects: it takes a tenth of a second with ten thousand tables.

use bytes::BytesMut;

use super::rows::AT_ONCE;
use crate::wire::message::frontend;

/// Differs after each change of a relation, column, type, function, operator, cast, schema, collation,
/// operator class or text search configuration: of this session at once, of another session when that has
/// reported its statistics.
pub(in crate::session) const CHANGES: &str = "CASE WHEN pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN \
    (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_tuples_deleted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) OPERATOR(pg_catalog.+) \
    pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)) FROM pg_catalog.unnest(ARRAY[\
    1247,1249,1255,1259,2605,2615,2616,2617,3456,3602]::pg_catalog.oid[]) c(oid)) END";

/// Works under any settings of the session. The names below are found in `pg_catalog`, in this one
/// transaction.
const UNDISTURBED: &str = "SET LOCAL statement_timeout TO 0; SET LOCAL search_path TO pg_catalog, pg_temp; SET LOCAL jit TO off; \
    SET LOCAL max_parallel_workers_per_gather TO 0; ";

/// Rows that only moved, or got other statistics or another file, count as unchanged: no `xmin` of relations
/// and columns.
const DIGEST: &str = "WITH own(oid) AS MATERIALIZED (SELECT n.oid FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp_'), \
    relation(oid, h) AS MATERIALIZED (SELECT c.oid, hashint8extended(c.oid::int8, c.relnamespace::int8 + ascii(c.relkind::text)) \
    # hashnameextended(c.relname, 1) FROM pg_class c WHERE c.oid >= 16384 AND c.relkind <> ALL ('{i,I,t}') \
    AND c.relnamespace IN (SELECT oid FROM own)), \
    other(h) AS (SELECT concat(1, ' ', n.oid, ' ', n.xmin) FROM pg_namespace n WHERE n.oid IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(2, ' ', t.oid, ' ', t.xmin) FROM pg_type t WHERE t.oid >= 16384 AND t.typrelid = 0 \
    AND (t.typcategory <> 'A' OR t.typname !~ '^_') AND t.typnamespace IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(3, ' ', p.oid, ' ', p.xmin) FROM pg_proc p WHERE p.oid >= 16384 AND p.pronamespace IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(4, ' ', o.oid, ' ', o.xmin) FROM pg_operator o WHERE o.oid >= 16384 AND o.oprnamespace IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(5, ' ', c.oid, ' ', c.xmin) FROM pg_cast c WHERE c.oid >= 16384 \
    UNION ALL SELECT concat(6, ' ', c.oid, ' ', c.xmin) FROM pg_opclass c WHERE c.oid >= 16384 AND c.opcnamespace IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(7, ' ', c.oid, ' ', c.xmin) FROM pg_collation c WHERE c.oid >= 16384 AND c.collnamespace IN (SELECT oid FROM own) \
    UNION ALL SELECT concat(8, ' ', c.oid, ' ', c.xmin) FROM pg_ts_config c WHERE c.oid >= 16384 AND c.cfgnamespace IN (SELECT oid FROM own)) \
    SELECT concat_ws(' ', (SELECT sum(h) FROM relation), (SELECT sum(hashtextextended(h, 0)) FROM other), \
    (SELECT sum(hashint8extended((a.attrelid::int8 << 16) + a.attnum, (a.atttypid::int8 << 32) + a.atttypmod) \
    # hashnameextended(a.attname, a.attcollation::int8)) FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid WHERE a.attnum > 0))";

/// Messages that ask for [`CHANGES`], and then for the digest: a change between the two shows in the next
/// answer.
pub(in crate::session) fn questions(with_digest: bool) -> BytesMut {
    let mut batch = BytesMut::new();
    frontend::query(&mut batch, &format!("{AT_ONCE}{UNDISTURBED}SELECT ({CHANGES})::pg_catalog.text"));
    if with_digest {
        frontend::query(&mut batch, &format!("{AT_ONCE}{UNDISTURBED}{DIGEST}"));
    }
    batch
}
