//! What a client may try to leave behind: what is done, how it is spelled, and through which door.

use std::pin::pin;

use bytes::Bytes;
use freehold::lab::Postgres;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::Client;

/// Who makes the objects that an attack uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// Somebody, before Freehold is there.
    Before,
    /// The attacker, through Freehold.
    Through,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A simple query.
    Simple(String),
    /// A statement that is prepared in one transaction and executed in the next.
    Prepared(String),
    /// COPY ... TO STDOUT.
    CopyOut(String),
    /// COPY ... FROM STDIN of one row.
    CopyIn(String),
    /// Sent at once, each with a Sync, the answers read afterwards.
    Pipelined(Vec<String>),
}

impl Step {
    pub(super) async fn run(&self, client: &Client) {
        match self {
            Step::Simple(sql) => drop(client.simple_query(sql).await),
            Step::Prepared(sql) => {
                if let Ok(statement) = client.prepare(sql).await {
                    let _ = client.query(&statement, &[]).await;
                }
            }
            Step::CopyOut(sql) => {
                if let Ok(rows) = client.copy_out(sql).await {
                    let mut rows = pin!(rows);
                    while let Some(Ok(_)) = rows.next().await {}
                }
            }
            Step::CopyIn(sql) => {
                if let Ok(rows) = client.copy_in(sql).await {
                    let mut rows = pin!(rows);
                    let _ = rows.send(Bytes::from_static(b"1\n")).await;
                    let _ = rows.close().await;
                }
            }
            Step::Pipelined(texts) => {
                let queries = texts.iter().map(|sql| client.query_typed(sql, &[]));
                let _ = join_all(queries).await;
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Attack {
    pub(super) name: String,
    /// Attacks that do the same in different ways.
    pub(super) group: &'static str,
    pub(super) made: Made,
    pub(super) makes: Vec<String>,
    pub(super) steps: Vec<Step>,
}

const PAD_BYTES: usize = 200_000;

/// What all attacks may use.
pub(super) const GROUND: &str = "CREATE TABLE plain (a int, b text); INSERT INTO plain VALUES (1, 'x'); \
    CREATE TABLE orders (v text); CREATE SCHEMA attack_path";

/// An expression that changes the session, written with a function's name `@f`.
struct Payload {
    name: &'static str,
    function: &'static str,
    arguments: &'static str,
}

const PAYLOADS: [Payload; 8] = [
    Payload { name: "custom setting", function: "set_config", arguments: "'attack.x', '1', false" },
    Payload { name: "escaped setting", function: "set_config", arguments: "E'attack\\x2ex', '1', false" },
    Payload { name: "computed setting", function: "set_config", arguments: "'attack' || '.y', '1', false" },
    Payload { name: "search path", function: "set_config", arguments: "'search_path', 'attack_path', false" },
    Payload { name: "role", function: "set_config", arguments: "'role', 'other', false" },
    Payload { name: "lock", function: "pg_advisory_lock", arguments: "77" },
    Payload {
        name: "text that runs",
        function: "query_to_xml",
        arguments: "'select set_' || 'config(''attack.y'', ''1'', false), pg_advisory_' || 'lock(78)', true, true, ''",
    },
    Payload {
        name: "text that is read",
        function: "query_to_xml_and_xmlschema",
        arguments: "'select set_' || 'config(''search_path'', ''attack_path'', false)', true, true, ''",
    },
];

/// The ways of writing a function's name.
fn spellings(function: &str, all: bool) -> Vec<String> {
    let escaped: String = function.bytes().map(|byte| format!("\\{byte:04x}")).collect();
    let strange = function.replace('_', "!005f");
    let few = vec![function.to_owned(), format!("U&\"{}\"", function.replace('_', "\\005f"))];
    if !all {
        return few;
    }
    let more = [
        function.to_ascii_uppercase(),
        format!("\"{function}\""),
        format!("pg_catalog.{function}"),
        format!("\"pg_catalog\" . /* x */ \"{function}\" --\n"),
        format!("U&\"{escaped}\""),
        format!("u&\"{strange}\" UESCAPE '!'"),
        format!("U&\"pg\\005fcatalog\".{function}"),
    ];
    few.into_iter().chain(more).collect()
}

/// A way to a call. `@call` stands for it, `@n` for a number of its own.
struct Door {
    name: &'static str,
    /// The objects are not named where they act: while they are there, nobody's connection is lent on.
    is_implied: bool,
    /// Objects that are there before.
    makes: &'static [&'static str],
    steps: &'static [&'static str],
}

/// Of steps: `P:` prepares and executes, `C:` copies out, `I:` copies in, `|` is between what is sent at
/// once; everything else is a simple query. `@pad` is longer than any buffer.
const DOORS: &[Door] = &[
    Door { name: "select", is_implied: false, makes: &[], steps: &["SELECT @call"] },
    Door { name: "prepared", is_implied: false, makes: &[], steps: &["P:SELECT @call"] },
    Door {
        name: "where",
        is_implied: false,
        makes: &[],
        steps: &["SELECT 1 FROM plain WHERE (@call) IS NOT NULL"],
    },
    Door { name: "from", is_implied: false, makes: &[], steps: &["SELECT 1 FROM @call AS f(x)"] },
    Door {
        name: "lateral",
        is_implied: false,
        makes: &[],
        steps: &["SELECT 1 FROM plain AS p LEFT JOIN LATERAL @call AS f ON true"],
    },
    Door {
        name: "cte",
        is_implied: false,
        makes: &[],
        steps: &["WITH a AS MATERIALIZED (SELECT @call) SELECT * FROM a"],
    },
    Door { name: "values", is_implied: false, makes: &[], steps: &["VALUES ((@call)::text)"] },
    Door {
        name: "insert",
        is_implied: false,
        makes: &[],
        steps: &["BEGIN", "INSERT INTO plain (b) VALUES ((@call)::text)", "COMMIT"],
    },
    Door { name: "update", is_implied: false, makes: &[], steps: &["UPDATE plain SET b = (@call)::text"] },
    Door {
        name: "delete",
        is_implied: false,
        makes: &[],
        steps: &["DELETE FROM plain WHERE (@call) IS NULL RETURNING @call"],
    },
    Door {
        name: "merge",
        is_implied: false,
        makes: &[],
        steps: &[
            "MERGE INTO plain p USING (SELECT @call) x ON false WHEN NOT MATCHED THEN INSERT (a) VALUES (1)",
        ],
    },
    Door { name: "several", is_implied: false, makes: &[], steps: &["SELECT 1; SELECT @call; SELECT 2"] },
    Door { name: "explain analyze", is_implied: false, makes: &[], steps: &["EXPLAIN ANALYZE SELECT @call"] },
    Door {
        name: "create table as",
        is_implied: false,
        makes: &[],
        steps: &["CREATE TABLE made_@n AS SELECT @call", "DROP TABLE IF EXISTS made_@n"],
    },
    Door {
        name: "select into",
        is_implied: false,
        makes: &[],
        steps: &["SELECT @call INTO made_@n", "DROP TABLE IF EXISTS made_@n"],
    },
    Door { name: "copy", is_implied: false, makes: &[], steps: &["C:COPY (SELECT @call) TO STDOUT"] },
    Door {
        name: "cursor",
        is_implied: false,
        makes: &[],
        steps: &["BEGIN", "DECLARE c CURSOR FOR SELECT @call", "FETCH ALL FROM c", "COMMIT"],
    },
    Door {
        name: "prepare",
        is_implied: false,
        makes: &[],
        steps: &["PREPARE p AS SELECT @call", "EXECUTE p", "DEALLOCATE p"],
    },
    Door { name: "do", is_implied: false, makes: &[], steps: &["DO $do$ BEGIN PERFORM @call; END $do$"] },
    Door {
        name: "do with execute",
        is_implied: false,
        makes: &[],
        steps: &["DO $do$ BEGIN EXECUTE 'SEL' || $sql$ECT @call$sql$; END $do$"],
    },
    Door {
        name: "alter default",
        is_implied: false,
        makes: &[],
        steps: &[
            "CREATE TABLE made_@n (a int, b text)",
            "ALTER TABLE made_@n ALTER b SET DEFAULT (@call)::text",
            "INSERT INTO made_@n (a) VALUES (1)",
            "DROP TABLE made_@n",
        ],
    },
    Door {
        name: "sql function",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE sql AS $f$ SELECT (@call)::text $f$"],
        steps: &["SELECT f_@n()", "SELECT F_@N()", "SELECT \"f_@n\"()"],
    },
    Door {
        name: "sql body",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT (@call)::text; END"],
        steps: &["SELECT f_@n()"],
    },
    Door {
        name: "plpgsql function",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$"],
        steps: &["P:SELECT f_@n()"],
    },
    Door {
        name: "function in execute",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS \
        $f$ DECLARE r text; BEGIN EXECUTE 'SELECT ' || $s$@call$s$ INTO r; RETURN r; END $f$"],
        steps: &["SELECT f_@n()"],
    },
    Door {
        name: "function in a range",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS void LANGUAGE plpgsql AS \
        $f$ BEGIN FOR i IN 1..length((@call)::text) LOOP NULL; END LOOP; END $f$"],
        steps: &["SELECT f_@n()"],
    },
    Door {
        name: "function of a function",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION g_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE FUNCTION f_@n() RETURNS text LANGUAGE sql AS $f$ SELECT g_@n() $f$",
        ],
        steps: &["TABLE plain; SELECT f_@n()"],
    },
    Door {
        name: "attribute notation",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION f_@n(plain) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
        ],
        steps: &["SELECT p.f_@n FROM plain p"],
    },
    Door {
        name: "procedure",
        is_implied: false,
        makes: &["CREATE PROCEDURE f_@n() LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; END $f$"],
        steps: &["CALL f_@n()"],
    },
    Door {
        name: "view",
        is_implied: false,
        makes: &["CREATE VIEW v_@n AS SELECT @call AS x"],
        steps: &["SELECT * FROM v_@n"],
    },
    Door {
        name: "view of a view",
        is_implied: false,
        makes: &["CREATE VIEW w_@n AS SELECT @call AS x", "CREATE VIEW v_@n AS TABLE w_@n"],
        steps: &["TABLE v_@n"],
    },
    Door {
        name: "materialized view",
        is_implied: false,
        makes: &["CREATE MATERIALIZED VIEW v_@n AS SELECT (@call)::text AS x WITH NO DATA"],
        steps: &["REFRESH MATERIALIZED VIEW v_@n"],
    },
    Door {
        name: "rule",
        is_implied: false,
        makes: &["CREATE TABLE t_@n (a int)", "CREATE RULE r AS ON INSERT TO t_@n DO ALSO SELECT @call"],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "default",
        is_implied: false,
        makes: &["CREATE TABLE t_@n (a int, b text DEFAULT (@call)::text)"],
        steps: &["INSERT INTO t_@n (a) VALUES (1)"],
    },
    Door {
        name: "check",
        is_implied: false,
        makes: &["CREATE TABLE t_@n (a int CHECK ((@call) IS NOT NULL))"],
        steps: &["INSERT INTO t_@n (a) VALUES (1)"],
    },
    Door {
        name: "partition",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int) PARTITION BY RANGE (a)",
            "CREATE TABLE u_@n PARTITION OF t_@n (CHECK ((@call) IS NOT NULL)) FOR VALUES FROM (0) TO (9)",
        ],
        steps: &["INSERT INTO t_@n (a) VALUES (1)"],
    },
    Door {
        name: "trigger",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE FUNCTION f_@n() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN NEW; END $f$",
            "CREATE TRIGGER r BEFORE INSERT ON t_@n FOR EACH ROW EXECUTE FUNCTION f_@n()",
        ],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "deferred trigger",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE FUNCTION f_@n() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN NEW; END $f$",
            "CREATE CONSTRAINT TRIGGER r AFTER INSERT ON t_@n DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f_@n()",
        ],
        steps: &["BEGIN", "INSERT INTO t_@n VALUES (1)", "COMMIT"],
    },
    Door {
        name: "cascade",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int PRIMARY KEY)",
            "CREATE TABLE u_@n (a int REFERENCES t_@n ON DELETE CASCADE)",
            "INSERT INTO t_@n VALUES (1)",
            "INSERT INTO u_@n VALUES (1)",
            "CREATE FUNCTION f_@n() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN OLD; END $f$",
            "CREATE TRIGGER r BEFORE DELETE ON u_@n FOR EACH ROW EXECUTE FUNCTION f_@n()",
        ],
        steps: &["DELETE FROM t_@n"],
    },
    Door {
        name: "trigger condition",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE TRIGGER r BEFORE INSERT ON t_@n FOR EACH ROW WHEN ((@call) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "policy",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "INSERT INTO t_@n VALUES (1)",
            "ALTER TABLE t_@n ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t_@n FORCE ROW LEVEL SECURITY",
            "CREATE POLICY p ON t_@n USING ((@call) IS NOT NULL)",
        ],
        steps: &["SELECT * FROM t_@n"],
    },
    Door {
        name: "domain",
        is_implied: true,
        makes: &[
            "CREATE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE DOMAIN d_@n AS int CHECK (f_@n() IS NOT NULL)",
        ],
        steps: &["SELECT 1::d_@n", "DROP DOMAIN d_@n"],
    },
    Door {
        name: "operator",
        is_implied: true,
        makes: &[
            "CREATE FUNCTION f_@n(int) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE SCHEMA o_@n",
            "CREATE OPERATOR o_@n.!#! (FUNCTION = f_@n, RIGHTARG = int)",
        ],
        steps: &["SELECT OPERATOR(o_@n.!#!) 1", "DROP OPERATOR o_@n.!#! (NONE, int)"],
    },
    Door {
        name: "operator on a built-in",
        is_implied: true,
        makes: &[
            "CREATE SCHEMA o_@n",
            "CREATE OPERATOR o_@n.!!! (FUNCTION = pg_advisory_lock, RIGHTARG = bigint)",
        ],
        steps: &["SELECT OPERATOR(o_@n.!!!) 79::bigint", "DROP OPERATOR o_@n.!!! (NONE, bigint)"],
    },
    Door {
        name: "cast",
        is_implied: true,
        makes: &[
            "CREATE TYPE c_@n AS (a int)",
            "CREATE FUNCTION f_@n(c_@n) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN 1; END $f$",
            "CREATE CAST (c_@n AS int) WITH FUNCTION f_@n(c_@n) AS ASSIGNMENT",
        ],
        steps: &["INSERT INTO plain (a) VALUES (ROW(1)::c_@n)", "DROP TYPE c_@n CASCADE"],
    },
    Door {
        name: "aggregate",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION f_@n(text, int) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE AGGREGATE a_@n(int) (SFUNC = f_@n, STYPE = text, INITCOND = '')",
        ],
        steps: &["SELECT a_@n(1)"],
    },
    Door {
        name: "index",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE FUNCTION f_@n(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE INDEX ON t_@n (f_@n(a))",
        ],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "cursor of a function",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS refcursor LANGUAGE plpgsql AS \
        $f$ DECLARE c refcursor := 'rc'; BEGIN OPEN c FOR SELECT @call; RETURN c; END $f$"],
        steps: &["BEGIN", "SELECT f_@n()", "FETCH ALL FROM rc", "COMMIT"],
    },
    Door {
        name: "replaced function",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE sql AS 'SELECT 1::text'"],
        steps: &[
            "SELECT f_@n()",
            "BEGIN",
            "CREATE OR REPLACE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "SELECT f_@n()",
            "COMMIT",
            "SELECT f_@n()",
        ],
    },
    Door { name: "pipelined", is_implied: false, makes: &[], steps: &["SELECT 1|SELECT @call|SELECT 2"] },
    Door {
        name: "pipelined in a transaction",
        is_implied: false,
        makes: &[],
        steps: &["BEGIN|SELECT 1|SELECT @call|COMMIT|SELECT 1"],
    },
    Door {
        name: "pipelined behind an error",
        is_implied: false,
        makes: &[],
        steps: &["SELECT 1/0|SELECT @call|SELECT 1/0"],
    },
    Door { name: "large comment", is_implied: false, makes: &[], steps: &["SELECT @call /* @pad */"] },
    Door { name: "large literal", is_implied: false, makes: &[], steps: &["P:SELECT length('@pad'), @call"] },
    Door {
        name: "behind a large text",
        is_implied: false,
        makes: &[],
        steps: &["SELECT length('@pad'); SELECT @call"],
    },
    Door {
        name: "copy in",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE FUNCTION f_@n() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN NEW; END $f$",
            "CREATE TRIGGER r BEFORE INSERT ON t_@n FOR EACH ROW EXECUTE FUNCTION f_@n()",
        ],
        steps: &["I:COPY t_@n FROM STDIN"],
    },
    Door {
        name: "copy in of a default",
        is_implied: false,
        makes: &["CREATE TABLE t_@n (a int, b text DEFAULT (@call)::text)"],
        steps: &["I:COPY t_@n (a) FROM STDIN"],
    },
    Door {
        name: "two phases",
        is_implied: false,
        makes: &[],
        steps: &["BEGIN", "SELECT @call", "PREPARE TRANSACTION 'attack_@n'", "ROLLBACK PREPARED 'attack_@n'"],
    },
    Door {
        name: "savepoint",
        is_implied: false,
        makes: &[],
        steps: &[
            "BEGIN",
            "SAVEPOINT s",
            "SELECT @call",
            "RELEASE s",
            "SAVEPOINT s",
            "SELECT 1/0",
            "ROLLBACK TO s",
            "COMMIT",
        ],
    },
    Door {
        name: "predicate",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "CREATE FUNCTION f_@n() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE INDEX ON t_@n (a) WHERE f_@n() IS NOT NULL",
        ],
        steps: &["SELECT * FROM t_@n WHERE a = 1", "ANALYZE t_@n"],
    },
    Door {
        name: "statistics",
        is_implied: false,
        makes: &[
            "CREATE TABLE t_@n (a int)",
            "INSERT INTO t_@n SELECT generate_series(1, 100)",
            "CREATE FUNCTION f_@n(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE STATISTICS s_@n ON f_@n(a), a FROM t_@n",
        ],
        steps: &["ANALYZE t_@n"],
    },
    Door {
        name: "generated",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION f_@n(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE TABLE t_@n (a int, g text GENERATED ALWAYS AS (f_@n(a)) STORED)",
        ],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "partition key",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION f_@n(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$",
            "CREATE TABLE t_@n (a int) PARTITION BY LIST (f_@n(a))",
            "CREATE TABLE u_@n PARTITION OF t_@n DEFAULT",
        ],
        steps: &["INSERT INTO t_@n VALUES (1)"],
    },
    Door {
        name: "exclusion",
        is_implied: false,
        makes: &[
            "CREATE FUNCTION f_@n(int) RETURNS int4range IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN int4range($1, $1 + 1); END $f$",
            "CREATE TABLE t_@n (a int, EXCLUDE USING gist (f_@n(a) WITH &&))",
        ],
        steps: &["INSERT INTO t_@n VALUES (1) ON CONFLICT DO NOTHING"],
    },
    Door {
        name: "instead of",
        is_implied: false,
        makes: &[
            "CREATE VIEW v_@n AS SELECT 1 AS a",
            "CREATE FUNCTION f_@n() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM @call; RETURN NEW; END $f$",
            "CREATE TRIGGER r INSTEAD OF UPDATE ON v_@n FOR EACH ROW EXECUTE FUNCTION f_@n()",
        ],
        steps: &["UPDATE v_@n SET a = 2"],
    },
    Door {
        name: "cursor with hold",
        is_implied: false,
        makes: &["CREATE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$"],
        steps: &["BEGIN", "DECLARE h_@n CURSOR WITH HOLD FOR SELECT f_@n()", "COMMIT", "CLOSE h_@n"],
    },
    Door {
        name: "procedure that commits",
        is_implied: false,
        makes: &[
            "CREATE PROCEDURE f_@n() LANGUAGE plpgsql AS $f$ BEGIN COMMIT; PERFORM @call; ROLLBACK; PERFORM @call; COMMIT; END $f$",
        ],
        steps: &["CALL f_@n()"],
    },
    Door {
        name: "made and dropped",
        is_implied: false,
        makes: &[],
        steps: &[
            "CREATE FUNCTION f_@n() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN @call; END $f$; SELECT f_@n(); DROP FUNCTION f_@n()",
        ],
    },
];

/// What needs no call.
const PLAIN: &[(&str, &[&str])] = &[
    (
        "escape character by an escape",
        &["SELECT U&\"set!005fconfig\" UESCAPE E'\\x21'('search_path', 'attack_path', false)"],
    ),
    (
        "body by escapes",
        &["DO U&'begin perform set!005fconfig(''attack.x'', ''1'', false); end' UESCAPE '!'"],
    ),
    ("template of a setting", &["DO $$ BEGIN EXECUTE format('SET attack.%I = %L', 'x', '1'); END $$"]),
    (
        "template of a function",
        &["DO $$ BEGIN EXECUTE format('SELECT %I(%L, %L, false)', 'set_config', 'attack.x', '1'); END $$"],
    ),
    (
        "function called like a column",
        &[
            "CREATE TYPE ct AS (a int)",
            "CREATE FUNCTION c2b(ct) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a::bigint'",
            "CREATE CAST (ct AS bigint) WITH FUNCTION c2b(ct) AS IMPLICIT",
            "SELECT (row(42)::ct).pg_advisory_lock",
        ],
    ),
    (
        "default of an argument",
        &[
            "CREATE FUNCTION fd(x text DEFAULT set_config('search_path', 'attack_path', false)) RETURNS text LANGUAGE sql AS 'SELECT $1'",
            "SELECT fd()",
        ],
    ),
    (
        "a function of a type named like a handler",
        &[
            "CREATE DOMAIN x_handler AS text",
            "CREATE FUNCTION eh() RETURNS x_handler LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('search_path', 'attack_path', false); RETURN 'x'; END $$",
            "CREATE VIEW veh AS SELECT eh()",
            "SELECT * FROM veh",
        ],
    ),
    (
        "a key word as a view",
        &["CREATE VIEW copy AS SELECT set_config('search_path', 'attack_path', false)", "SELECT * FROM copy"],
    ),
    (
        "a reserved word as a view",
        &[
            "CREATE VIEW public.user AS SELECT set_config('search_path', 'attack_path', false)",
            "TABLE public.user",
        ],
    ),
    (
        "a prepared statement run by a function",
        &[
            "CREATE FUNCTION runp() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'execute p'; RETURN 1; END $$",
            "PREPARE p AS SELECT set_config('search_path', 'attack_path', false)",
            "SELECT 1",
            "SELECT runp()",
            "DEALLOCATE p",
        ],
    ),
    (
        "temporary domain that depends on a column",
        &["CREATE DOMAIN pg_temp.text AS pg_catalog.int4 DEFAULT +(NULL::public.plain).a"],
    ),
    (
        "setting of a cast name",
        &[
            "CREATE TYPE en AS ENUM ('attack.z')",
            "CREATE FUNCTION en2t(en) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''attack.x''::text'",
            "CREATE CAST (en AS text) WITH FUNCTION en2t(en)",
            "SELECT set_config('attack.z'::en::text, '1', false)",
        ],
    ),
    ("update of pg_settings", &["UPDATE pg_settings SET setting = 'attack_path' WHERE name = 'search_path'"]),
    (
        "update in a cte",
        &[
            "WITH a AS (UPDATE \"pg_settings\" SET setting = '7MB' WHERE name = 'work_mem' RETURNING 1) SELECT 1",
        ],
    ),
    ("update, escaped", &["UPDATE U&\"pg\\005fsettings\" SET setting = '7MB' WHERE name = 'work_mem'"]),
    ("temporary table by escapes", &["SELECT 'poison' AS v INTO U&\"pg_t\\0065mp\".orders"]),
    (
        "temporary table by search path",
        &["SET search_path = pg_temp, public", "SELECT 'poison' AS v INTO orders"],
    ),
    ("temporary table", &["CREATE TEMP TABLE orders AS SELECT 'poison' AS v"]),
    ("temporary view", &["CREATE TEMP VIEW orders AS SELECT 'poison' AS v"]),
    ("temporary function", &["CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"]),
    (
        "temporary function that sets",
        &[
            "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN set_config('attack' || '.x', '1', false); END $$",
            "SELECT pg_temp.f()",
            "DROP FUNCTION pg_temp.f()",
        ],
    ),
    ("listen", &["LISTEN a"]),
    ("set", &["SET attack.x = 1", "SET U&\"attack\".\"y\" = 1", "SET work_mem = '7MB'", "SET ROLE other"]),
    ("set session", &["SET SESSION attack.x TO 'a'", "SET TIME ZONE 'Asia/Tokyo'", "SET NAMES 'LATIN1'"]),
    (
        "set a long name",
        &["SET attack.a23456789b123456789c123456789d123456789e123456789f123456789g123456789 = 1"],
    ),
    ("cursor with hold", &["DECLARE c CURSOR WITH HOLD FOR SELECT 1"]),
    ("prepare", &["PREPARE x AS SELECT 1"]),
    ("session authorization", &["SET SESSION AUTHORIZATION app"]),
    ("isolation", &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]),
    (
        "literals by another rule",
        &["SET standard_conforming_strings = off; SELECT '\\'', set_config('attack.x', '1', false) --'"],
    ),
    (
        "literals by another rule, later",
        &[
            "BEGIN; SET standard_conforming_strings = off",
            "SELECT '\\'', set_config('attack.x', '1', false) --'",
            "COMMIT",
        ],
    ),
    ("a literal that goes on", &["SELECT E'a'\n'\\'', set_config('attack' || '.x', '1', false) --'"]),
    ("an alias that is called insert", &["SELECT 'poison' AS v, 1 AS insert INTO TEMP orders"]),
    ("an alias that is called merge", &["SELECT 'poison' AS v, 1 AS merge INTO TEMP orders"]),
    ("an alias without a word before it", &["SELECT ('poison') AS v, (1) insert INTO TEMP orders"]),
    ("a setting behind a tab", &["DO $$ begin set\tattack.x='1'; end $$"]),
    (
        "a body that goes on in the next line",
        &["DO 'begin perform set_con'\n'fig(''attack.x'',''1'',false); end'"],
    ),
    (
        "a function whose text goes on in the next line",
        &[
            "CREATE FUNCTION goes_on() RETURNS void LANGUAGE plpgsql AS $$ begin execute 'select set_con'\n'fig(''work_mem'',''7MB'',false), pg_adv'\n'isory_lock(77)'; end $$",
            "SELECT goes_on()",
        ],
    ),
    (
        "a name that is read as the beginning of a loop",
        &[
            "CREATE FUNCTION loops() RETURNS void LANGUAGE plpgsql AS $$ begin perform 1 from (select 1 as \"loop\") q \
             where loop < length(set_config('work_mem','7MB',false)) and 1 >> null is null; end $$",
            "SELECT loops()",
        ],
    ),
    (
        "a name that is read as the end of an if",
        &[
            "CREATE FUNCTION ends() RETURNS void LANGUAGE plpgsql AS $$ begin perform case when true then 1 end if; \
             if true then set work_mem='7MB'; end if; end $$",
            "SELECT ends()",
        ],
    ),
    (
        "a function that is called format",
        &[
            "CREATE FUNCTION public.format(text,text) RETURNS text LANGUAGE sql AS 'select $2'",
            "CREATE FUNCTION formats() RETURNS void LANGUAGE plpgsql AS $$ begin execute format('SELECT 1', 'select set_'||'config(''work_mem'',''7MB'',false)'); end $$",
            "SELECT formats()",
            "DROP FUNCTION public.format(text,text)",
        ],
    ),
    (
        "an operator on a truth value",
        &[
            "CREATE FUNCTION negb(bool) RETURNS bool LANGUAGE sql AS 'select not $1'",
            "CREATE OPERATOR - (rightarg=bool, function=negb)",
            "SELECT set_config('work_mem','7MB',- true)",
            "DROP OPERATOR - (NONE, bool)",
        ],
    ),
    (
        "a partition's parent",
        &[
            "CREATE FUNCTION keyed(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ begin perform set_config('work_mem','7MB',false); return 1; end $$",
            "CREATE TABLE keyed_by (a int) PARTITION BY RANGE (keyed(a))",
            "CREATE TABLE keyed_part PARTITION OF keyed_by FOR VALUES FROM (0) TO (9)",
            "INSERT INTO keyed_part VALUES (1)",
        ],
    ),
    (
        "a table that is called temp",
        &[
            "CREATE FUNCTION defaults() RETURNS text LANGUAGE plpgsql AS $$ begin return set_config('work_mem','7MB',false); end $$",
            "CREATE TABLE temp (a int, b text DEFAULT defaults())",
            "INSERT INTO temp (a) VALUES (1)",
            "DROP TABLE temp",
        ],
    ),
    (
        "a domain that is called temp",
        &[
            "CREATE FUNCTION checks() RETURNS text LANGUAGE plpgsql AS $$ begin return set_config('work_mem','7MB',false); end $$",
            "CREATE DOMAIN temp AS int CHECK (checks() IS NOT NULL)",
            "SELECT 1::temp",
            "DROP DOMAIN temp",
        ],
    ),
    (
        "a definition that is committed in two phases",
        &[
            "CREATE FUNCTION phased() RETURNS text LANGUAGE sql AS 'select 1::text'",
            "SELECT phased()",
            "BEGIN",
            "CREATE OR REPLACE FUNCTION phased() RETURNS text LANGUAGE plpgsql AS $$ begin return set_config('work_mem','7MB',false); end $$",
            "PREPARE TRANSACTION 'phased'",
            "COMMIT PREPARED 'phased'",
            "SELECT phased()",
        ],
    ),
    (
        "a statement that was prepared before its function changed",
        &[
            "CREATE FUNCTION changes() RETURNS text LANGUAGE sql AS 'select 1::text'",
            "PREPARE before AS SELECT changes()",
            "CREATE OR REPLACE FUNCTION changes() RETURNS text LANGUAGE plpgsql AS $$ declare r text; begin execute 'select set_' || 'config(''attack.x'',''1'',false)' into r; return r; end $$",
            "EXPLAIN ANALYZE EXECUTE before",
            "CREATE TABLE executed AS EXECUTE before",
            "DEALLOCATE before",
        ],
    ),
    (
        "a rule of literals that a function changes for a transaction",
        &[
            "CREATE FUNCTION escapes() RETURNS text LANGUAGE plpgsql AS $$ begin set local standard_conforming_strings = off; return 1; end $$",
            "BEGIN",
            "SELECT escapes()",
            "SELECT '\\'', set_config('work_mem','7MB',false), set_config('attack.x','1',false) --'",
            "COMMIT",
        ],
    ),
    (
        "an encoding that has a backslash of two bytes",
        &[
            "SET client_encoding = 'SHIFT_JIS_2004'",
            "SELECT E'\u{e05f}\\', set_config('attack.x', '1', false) --'",
        ],
    ),
    ("a seed", &["SELECT setseed(0.5)"]),
    ("a seed of a transaction", &["BEGIN", "SET LOCAL seed = 0.5", "COMMIT"]),
    ("statements of others", &["DO $$ begin execute 'deallocate all'; end $$"]),
    (
        "a temporary table in a session that does not end well",
        &[
            "BEGIN",
            "SELECT 1/0",
            "SELECT 'poison' AS v INTO TEMP orders",
            "ROLLBACK",
            "SELECT 1 AS insert INTO TEMP orders",
        ],
    ),
    (
        "another encoding that hides a backslash",
        &["SET client_encoding = 'GBK'", "SELECT E'\u{304a}\\', set_config('attack.x', '1', false) --'"],
    ),
    (
        "an encoding of Taiwan that hides a backslash",
        &["SET client_encoding = 'BIG5'", "SELECT E'\u{304a}\\', set_config('attack.x', '1', false) --'"],
    ),
    (
        "an encoding of four bytes that hides a backslash",
        &["SET client_encoding = 'GB18030'", "SELECT E'\u{8a}\\', set_config('attack.x', '1', false) --'"],
    ),
    (
        "an encoding that hides a backslash",
        &["SET client_encoding = 'SJIS'", "SELECT E'\u{8a}\\', set_config('attack.x', '1', false) --'"],
    ),
];

/// Events at which a superuser's trigger may run.
pub(super) const EVENTS: [&str; 3] = ["ddl_command_start", "ddl_command_end", "sql_drop"];

/// Changes of definitions where an event trigger carries out every payload that PostgreSQL can be asked
/// about; with another one, nobody's connection is lent on. All other attacks would meet the trigger, so
/// these are by themselves.
pub(super) fn definitions(event: &str) -> Vec<Attack> {
    const CHANGES: [&str; 17] = [
        "CREATE TABLE made (a int)",
        "ALTER TABLE made ADD b int",
        "ALTER TABLE made ALTER a TYPE bigint",
        "COMMENT ON TABLE made IS 'x'",
        "GRANT SELECT ON made TO other",
        "REVOKE SELECT ON made FROM other",
        "SELECT 1 AS x INTO made_so",
        "CREATE VIEW seen AS SELECT 1",
        "DO $do$ BEGIN EXECUTE 'CREA' || 'TE INDEX ON made (a)'; END $do$",
        "REINDEX TABLE made",
        "CREATE MATERIALIZED VIEW stored AS SELECT 1",
        "REFRESH MATERIALIZED VIEW stored",
        "SECURITY LABEL ON TABLE made IS 'x'",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other",
        "DROP TABLE made",
        "SELECT 1|CREATE TABLE late (a int)|SELECT 1",
        "P:CREATE TABLE held (a int)",
    ];
    let calls: String = PAYLOADS
        .iter()
        .filter(|payload| !payload.name.starts_with("text that"))
        .map(|Payload { function, arguments, .. }| {
            format!("BEGIN PERFORM {function}({arguments}); EXCEPTION WHEN OTHERS THEN NULL; END; ")
        })
        .collect();
    let trigger = [
        "RESET ROLE".to_owned(),
        format!(
            "CREATE FUNCTION on_event() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN {calls} END $f$"
        ),
        format!("CREATE EVENT TRIGGER attack ON {event} EXECUTE FUNCTION on_event()"),
    ];
    let attack = |(at, change): (usize, &&str)| Attack {
        group: "definitions",
        name: format!("{event}: {change}"),
        made: Made::Before,
        makes: if at == 0 { trigger.to_vec() } else { Vec::new() },
        steps: vec![step(change, &str::to_owned)],
    };
    CHANGES.iter().enumerate().map(attack).collect()
}

/// A part of all combinations, or all of them. `implied`: of the doors that need not be named.
pub(super) fn generate(all: bool, implied: bool) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for (at, payload) in PAYLOADS.iter().enumerate() {
        for (which, function) in spellings(payload.function, all).iter().enumerate() {
            let call = format!("{function}({})", payload.arguments);
            for (door_at, door) in DOORS.iter().enumerate() {
                for made in [Made::Before, Made::Through] {
                    let is_simple = door.makes.is_empty();
                    // In the short form, each door has each payload once, and each spelling goes through the
                    // first doors.
                    let turn = (at + door_at) % 2 == usize::from(made == Made::Before);
                    let skip = door.is_implied != implied
                        || is_simple && made == Made::Before
                        || !all && (which > 0 && door_at > 1 || !is_simple && !turn)
                        || all && which > 1 && door_at % 7 != which % 7;
                    if !skip {
                        attacks.push(attack(payload, door, &call, made, attacks.len()));
                    }
                }
            }
        }
    }
    attacks.extend(PLAIN.iter().filter(|_| !implied).map(|&(name, steps)| Attack {
        name: name.to_owned(),
        group: "plain",
        made: Made::Through,
        makes: Vec::new(),
        steps: steps.iter().map(|&sql| Step::Simple(sql.to_owned())).collect(),
    }));
    attacks
}

fn attack(payload: &Payload, door: &Door, call: &str, made: Made, number: usize) -> Attack {
    let fill = |text: &str| {
        let text = text.replace("@call", call).replace("@n", &number.to_string());
        text.replace("@N", &number.to_string()).replace("@pad", &"x".repeat(PAD_BYTES))
    };
    Attack {
        name: format!("{}, {} {made:?}: {call}", payload.name, door.name),
        group: payload.name,
        made,
        makes: door.makes.iter().map(|text| fill(text)).collect(),
        steps: door.steps.iter().map(|text| step(text, &fill)).collect(),
    }
}

/// A step as it is written in [`DOORS`].
fn step(text: &str, fill: &dyn Fn(&str) -> String) -> Step {
    match text.split_at_checked(2) {
        Some(("P:", sql)) => Step::Prepared(fill(sql)),
        Some(("C:", sql)) => Step::CopyOut(fill(sql)),
        Some(("I:", sql)) => Step::CopyIn(fill(sql)),
        _ if text.contains('|') && !text.contains("||") => {
            Step::Pipelined(text.split('|').map(fill).collect())
        }
        _ => Step::Simple(fill(text)),
    }
}

/// A call of each function that SQL can call, twenty of them for each client.
pub(super) fn functions(server: &Postgres, all: bool) -> Vec<Attack> {
    let harmless =
        if all { "true" } else { "provolatile = 'v' OR proname LIKE '%xml%' OR proname LIKE 'ts\\_%'" };
    let sql = format!(
        "SELECT proname || '(' || coalesce((SELECT string_agg(CASE \
            WHEN t.typname IN ('text', 'varchar', 'cstring') AND proname LIKE '%config%' THEN \
                (ARRAY['''attack.x''', '''1''', '''1'''])[least(at, 3)::int] \
            WHEN t.typname = 'cstring' THEN '''1''::cstring' \
            WHEN t.typname IN ('text', 'varchar') THEN $$'select set_config(''attack.x'', ''1'', false), pg_advisory_lock(81)'$$ \
            WHEN t.typname IN ('regclass', 'name') THEN '''plain''' \
            WHEN t.typname = 'bool' THEN 'false' WHEN t.typname = 'oid' THEN '1259::oid' \
            WHEN t.typname IN ('float8', 'float4') THEN '0.5' \
            WHEN t.typname IN ('int8', 'int4', 'int2') THEN '1::' || t.typname \
            WHEN t.typtype = 'p' AND t.typname NOT LIKE '%array%' THEN 'NULL::int' \
            ELSE 'NULL::' || t.typname END, ', ' ORDER BY at) \
          FROM unnest(proargtypes) WITH ORDINALITY AS a(type, at) JOIN pg_type t ON t.oid = a.type), '') || ')' \
         FROM pg_proc WHERE oid < 10000 AND prokind = 'f' AND NOT 'internal'::regtype = ANY (proargtypes) \
         AND prorettype NOT IN ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype) \
         AND proname !~ '^(pg_sleep|pg_terminate|pg_cancel|pg_promote|pg_wal_replay|pg_reload|pg_rotate)' AND ({harmless}) \
         ORDER BY oid"
    );
    let calls = server.psql(&sql).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls.len() > 100, "{} functions", calls.len());
    calls
        .chunks(20)
        .map(|calls| Attack {
            name: calls.join("; "),
            group: "functions",
            made: Made::Through,
            makes: Vec::new(),
            steps: calls.iter().map(|call| Step::Simple(format!("SELECT {call}"))).collect(),
        })
        .collect()
}
