//! What a server connection keeps, for its life, of what a name meant: the next client of a lent connection
//! finds what a fresh connection would give it.

use bytes::{BufMut, BytesMut};
use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::wire::message::frontend;

use super::implied::Pool;
use super::raw::{client, hear, say};
use super::stage::{self, Stage, eventually};

/// Two tenants, whose types, collations, functions, operators and procedures have the same names and
/// different meanings.
const TENANTS: &str = r#"
    GRANT ALL ON SCHEMA ta, tb, public TO app;
    CREATE DOMAIN ta.m_t AS text; CREATE DOMAIN tb.m_t AS numeric(6,2);
    CREATE FUNCTION ta.h(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'A:' || $1 $$;
    CREATE FUNCTION tb.h(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'B:' || $1 $$;
    CREATE OPERATOR ta.=== (FUNCTION = pg_catalog.texteq, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR tb.=== (FUNCTION = pg_catalog.textne, LEFTARG = text, RIGHTARG = text);
    CREATE PROCEDURE ta.p(INOUT a int, IN b int) LANGUAGE plpgsql AS $$ BEGIN a := a + b; END $$;
    CREATE PROCEDURE tb.p(IN a int, INOUT b int) LANGUAGE plpgsql AS $$ BEGIN b := a + b; END $$;
    SET search_path = tb, public;
    CREATE FUNCTION public.escaped() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE v U&"m\005ft"; BEGIN v := 5; RETURN v; END $$;
    CREATE FUNCTION public.begins() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE a int := (SELECT x.begin FROM (SELECT 1 AS begin) x); v m_t; BEGIN v := 5; RETURN v; END $$;
    CREATE FUNCTION public.collates() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE v text COLLATE c9 := 'a'; BEGIN RETURN v = 'A'; END $$;
    CREATE FUNCTION public.fetches() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE c CURSOR (a m_t) FOR SELECT a; r text; BEGIN OPEN c(5); FETCH c INTO r; RETURN r; END $$;
    CREATE FUNCTION public.calls() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE x int := 1; y int := 2; BEGIN CALL p(x, y); RETURN concat_ws(',', x, y); END $$;
    CREATE FUNCTION public.ok(text) RETURNS boolean LANGUAGE sql AS $$ SELECT h($1) LIKE 'B:%' $$;
    CREATE DOMAIN public.code AS text CHECK (public.ok(VALUE));
    CREATE FUNCTION public.same(text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 === 'x' $$;
    CREATE FUNCTION public.is_same(text, text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT public.same($1); END;
    CREATE OPERATOR public.~== (FUNCTION = public.is_same, LEFTARG = text, RIGHTARG = text);
    CREATE DOMAIN public.odd AS text CHECK (VALUE OPERATOR(public.~==) 'x');
    CREATE FUNCTION public.norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT h($1) $$;
    CREATE FUNCTION public.by_number(x text) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE v m_t; BEGIN v := 5; RETURN v; END $$;
    GRANT CREATE ON SCHEMA public TO app"#;

/// PostgreSQL 17 makes no such index: it finds no names of users there.
const KEYS: &str = "SET search_path = tb, public;
    CREATE TABLE public.docs (v text); CREATE INDEX ON public.docs (public.norm(v));
    CREATE TABLE public.halves (v text); CREATE UNIQUE INDEX ON public.halves (v) WHERE public.norm(v) = 'B:x';
    CREATE TABLE public.parts (v text) PARTITION BY LIST (public.norm(v));
    CREATE TABLE public.part_a PARTITION OF public.parts FOR VALUES IN ('A:x');
    CREATE TABLE public.part_b PARTITION OF public.parts FOR VALUES IN ('B:x');
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

/// A server with the schemas of both. Not each is built with collations that take letters of both cases for
/// the same.
fn server(major: Major) -> Postgres {
    let server = stage::server(major);
    server.psql_in("shop", "CREATE SCHEMA ta; CREATE SCHEMA tb; CREATE COLLATION tb.c9 FROM \"C\"").unwrap();
    let collation =
        "CREATE COLLATION ta.c9 (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if server.psql_in("shop", collation).is_err() {
        server.psql_in("shop", "CREATE COLLATION ta.c9 FROM \"C\"").unwrap();
    }
    server
}

/// What one client does by its own path, and the other by its own.
const PROBES: [(&str, &[&str]); 7] = [
    // It stays with its connection until it says that it has left nothing.
    ("escaped", &["SELECT escaped()", "DISCARD ALL", "SELECT 1"]),
    ("begins", &["SELECT begins()"]),
    ("collates", &["SELECT collates()"]),
    ("fetches", &["SELECT fetches()"]),
    ("calls", &["SELECT calls()"]),
    ("check", &["SELECT 'x'::code"]),
    ("check by an operator", &["SELECT 'y'::odd"]),
];

const KEY_PROBES: [(&str, &[&str]); 2] = [
    (
        "index",
        &[
            "TRUNCATE docs",
            "INSERT INTO docs VALUES ('x')",
            "BEGIN; SET LOCAL enable_seqscan = off; SELECT v FROM docs WHERE norm(v) = 'B:x'; COMMIT",
        ],
    ),
    (
        "partition key",
        &["TRUNCATE parts", "INSERT INTO parts VALUES ('x')", "SELECT tableoid::regclass::text FROM parts"],
    ),
];

/// What all of these answer; `error` for each that is refused.
pub(super) async fn answers(client: &mut ServerConnection, texts: &[&str]) -> String {
    let mut answers = Vec::new();
    for sql in texts {
        let Ok(results) = client.query(sql).await else {
            answers.push("error".to_owned());
            // It gives its connection back.
            client.query("ROLLBACK").await.unwrap();
            continue;
        };
        for result in results {
            for row in &result.rows {
                let values = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
                answers.push(values.collect::<Vec<_>>().join("|"));
            }
        }
    }
    answers.join(";")
}

async fn by_path(client: &mut ServerConnection, path: &str, texts: &[&str]) -> String {
    answers(client, &[&[path], texts].concat()).await
}

const A: &str = "SET search_path = ta, public";
const B: &str = "SET search_path = tb, public";

pub(super) async fn pid(client: &mut ServerConnection) -> String {
    answers(client, &["SELECT pg_backend_pid()"]).await
}

/// What `other` finds after `one` that it does not find on a fresh connection.
pub(super) async fn compare(pool: &Pool, name: &str, one: &[&str], other: &[&str]) -> Option<String> {
    let expected = answers(&mut pool.first().await, other).await;
    let mut first = pool.first().await;
    let done = answers(&mut first, one).await;
    let found = answers(&mut pool.next().await, other).await;
    (found != expected).then(|| format!("{name}: after {one:?}, {done}: {found}, and not {expected}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_meant_by_one_clients_path_is_not_kept_for_another() {
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::at(server(major), TENANTS);
        let mut wrong = Vec::new();
        let has_keys = major == Major::oldest();
        if has_keys {
            pool.server.psql_in("shop", KEYS).unwrap();
        }
        let probes = [&PROBES[..], &KEY_PROBES[..if has_keys { 2 } else { 0 }]].concat();
        for (name, texts) in probes {
            wrong.extend(compare(&pool, name, &[&[A], texts].concat(), &[&[B], texts].concat()).await);
        }
        if has_keys {
            let index = "INSERT INTO halves VALUES ('x')";
            let twice = [B, "TRUNCATE halves", index, index];
            wrong.extend(compare(&pool, "condition of an index", &[A, index], &twice).await);
        }
        // To make a function is to compile it.
        let makes = "CREATE OR REPLACE FUNCTION public.made() RETURNS text LANGUAGE plpgsql AS
            $$ DECLARE v m_t; BEGIN v := 5; RETURN v; END $$; GRANT ALL ON FUNCTION public.made() TO public";
        pool.server.psql_in("shop", &format!("SET search_path = tb; {makes}")).unwrap();
        pool.server.psql_in("shop", "ALTER FUNCTION public.made() OWNER TO app").unwrap();
        wrong.extend(compare(&pool, "made", &[A, makes], &[B, "SELECT made()"]).await);
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_called_by_its_number_counts_as_any() {
    let pool = Pool::at(server(Major::newest()), TENANTS);
    let oid: u32 = pool
        .server
        .psql_in("shop", "SELECT 'public.by_number(text)'::regprocedure::oid")
        .unwrap()
        .parse()
        .unwrap();
    let expected = by_path(&mut pool.first().await, B, &["SELECT by_number('x')"]).await;
    for length in [1, 300_000] {
        let mut one = pool.first().await;
        answers(&mut one, &[A]).await;
        say(&mut one, |out| function_call(out, oid, &vec![b'x'; length])).await;
        assert_eq!(hear(&mut one, "Z").await.0, "VZ");
        answers(&mut one, &["DISCARD ALL", "SELECT 1"]).await;
        let found = by_path(&mut pool.next().await, B, &["SELECT by_number('x')"]).await;
        assert_eq!(found, expected, "{length} bytes");
    }
}

/// Of a function with one argument, which is text.
fn function_call(out: &mut BytesMut, oid: u32, value: &[u8]) {
    let mut body = BytesMut::new();
    body.put_u32(oid);
    body.put_i16(0);
    body.put_i16(1);
    body.put_i32(value.len() as i32);
    body.put_slice(value);
    body.put_i16(0);
    out.put_u8(frontend::tag::FUNCTION_CALL);
    out.put_i32(body.len() as i32 + 4);
    out.put_slice(&body);
}

/// Functions, and a domain, that a temporary object comes in front of.
const TEMPORARY: &str = r"
    GRANT ALL ON SCHEMA public TO app; GRANT TEMP ON DATABASE shop TO app;
    CREATE TABLE public.foo (id int); CREATE DOMAIN public.foo_t AS int;
    CREATE FUNCTION public.reads(x text) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE v foo.id%TYPE; BEGIN v := x; RETURN v::text; END $$;
    CREATE FUNCTION public.words(x text) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE v text; BEGIN v := x; RETURN v::text; END $$;
    CREATE FUNCTION public.works() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE n foo.id%TYPE; BEGIN CREATE TEMP TABLE work (n int) ON COMMIT DROP; SELECT count(*) INTO n FROM work; RETURN n; END $$;
    CREATE TABLE public.shorts (v text)";

/// In front of which a temporary type or a function that makes something temporary comes.
const SHORT: &str = r"
    CREATE FUNCTION public.makes() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN CREATE TEMP TABLE foo (id text) ON COMMIT DROP; END $$;
    CREATE FUNCTION public.is_short(text) RETURNS boolean LANGUAGE sql AS $$ SELECT ($1::foo_t)::text = $1 $$;
    CREATE DOMAIN public.short AS text CHECK (public.is_short(VALUE))";

const TEMPORARY_DOORS: [&[&str]; 8] = [
    &["CREATE TEMP TABLE foo (id text)", "SELECT reads('007')", "DROP TABLE pg_temp.foo"],
    &["BEGIN", "CREATE TEMP TABLE foo (id text) ON COMMIT DROP", "SELECT reads('007')", "COMMIT"],
    &[
        "BEGIN; CREATE TEMPORARY TABLE IF NOT EXISTS \"foo\" (id text); SELECT reads('007'); DROP TABLE pg_temp.foo; COMMIT",
    ],
    &["SELECT 'x'::text AS id INTO TEMP foo", "SELECT reads('007')", "DROP TABLE pg_temp.foo"],
    &["CREATE TABLE pg_temp.foo AS SELECT 'x'::text AS id", "SELECT reads('007')", "DROP TABLE pg_temp.foo"],
    &["BEGIN", "SELECT makes()", "SELECT reads('007')", "COMMIT"],
    &["CREATE DOMAIN pg_temp.text AS \"char\"", "SELECT words('long')", "DROP DOMAIN pg_temp.text"],
    &["CREATE DOMAIN pg_temp.foo_t AS varchar", "SELECT '07'::short", "DROP DOMAIN pg_temp.foo_t"],
];

const TEMPORARY_PROBE: [&str; 4] =
    ["SELECT reads('007')", "SELECT reads('abc')", "SELECT words('long')", "SELECT '07'::short"];

#[tokio::test(flavor = "multi_thread")]
async fn something_temporary_is_not_kept_as_what_a_name_means() {
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::at(stage::server(major), &[TEMPORARY, SHORT].join(";"));
        let mut wrong = Vec::new();
        for door in TEMPORARY_DOORS {
            wrong.extend(compare(&pool, "temporary", door, &TEMPORARY_PROBE).await);
        }
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_that_are_no_types_of_variables_cost_no_connection() {
    let pool = Pool::at(stage::server(Major::oldest()), TEMPORARY);
    let mut one = pool.first().await;
    let before = pid(&mut one).await;
    for texts in [
        &["CREATE TEMP TABLE cart (id text)", "SELECT reads('007'), words('x')", "DROP TABLE cart"][..],
        &["SELECT works(), reads('1')"],
        &["SELECT 1 AS n INTO TEMP result", "SELECT reads('7')", "DROP TABLE result"],
    ] {
        let done = answers(&mut one, texts).await;
        assert!(!done.contains("error"), "{texts:?}: {done}");
        assert_eq!(pid(&mut pool.next().await).await, before, "{texts:?}");
    }
}

/// Connections that outlive their sessions, which have them from beginning to end.
#[tokio::test(flavor = "multi_thread")]
async fn reused_connections_keep_no_meaning_of_names_either() {
    let server = server(Major::newest());
    server.psql_in("shop", TENANTS).unwrap();
    server.psql_in("shop", &[TEMPORARY, SHORT].join(";")).unwrap();
    let stage = Stage::configured(&server, |config| {
        config.pool.reuses = true;
        config.workers = 1;
    });
    let fresh = |stage: &Stage| stage.order(|record| record.generation += 1);
    let mut cases: Vec<(Vec<&str>, Vec<&str>)> =
        PROBES.iter().map(|(_, texts)| ([&[A], *texts].concat(), [&[B], *texts].concat())).collect();
    cases.extend(TEMPORARY_DOORS.iter().map(|door| (door.to_vec(), TEMPORARY_PROBE.to_vec())));
    let mut wrong = Vec::new();
    for (one, other) in cases {
        let mut found = Vec::new();
        for before in [&[][..], &one] {
            fresh(&stage);
            let mut first = client(&stage, &server, &[]).await;
            answers(&mut first, before).await;
            let own = pid(&mut first).await;
            drop(first);
            settled(&server, &own).await;
            found.push(answers(&mut client(&stage, &server, &[]).await, &other).await);
        }
        if found[1] != found[0] {
            wrong.push(format!("after {one:?}: {}, and not {}", found[1], found[0]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The connection of a session that has left is idle, or gone.
pub(super) async fn settled(server: &Postgres, pid: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND NOT (state = 'idle' AND query LIKE '%unnest(ARRAY%')"
    );
    eventually("the connection is settled", || server.psql(&sql).unwrap() == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_text_search_is_found_by_each_clients_path() {
    for major in [Major::oldest(), Major::newest()] {
        let server = Postgres::builder(major)
            .setting("max_connections", "60")
            .setting("default_text_search_config", "english")
            .start()
            .unwrap();
        stage::prepare(&server);
        let schema = "CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO public;
            CREATE TEXT SEARCH CONFIGURATION evil.english (COPY = pg_catalog.simple)";
        let pool = Pool::at(server, schema);
        let mut wrong = Vec::new();
        let searches = "SELECT to_tsvector('running foxes')";
        for one in [
            &["SET search_path = evil, pg_catalog", searches][..],
            &["SET search_path = evil, pg_catalog", searches, searches],
            &["BEGIN", "SET LOCAL search_path = evil, pg_catalog", searches, "COMMIT"],
        ] {
            wrong.extend(compare(&pool, "text search", one, &[searches]).await);
        }
        // The other way round, too.
        let other = ["SET search_path = evil, pg_catalog", searches];
        wrong.extend(compare(&pool, "text search", &[searches], &other).await);
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_does_for_each_login_holds_for_each_client() {
    let major = Major::newest();
    let schema = "CREATE FUNCTION onlogin() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM set_config('app.login', 'yes', false), set_config('work_mem', '9MB', false); END $$;
        CREATE EVENT TRIGGER onlogin ON login EXECUTE FUNCTION onlogin()";
    let pool = Pool::at(stage::server(major), schema);
    let seen = ["SELECT current_setting('app.login', true), current_setting('work_mem')"];
    for one in
        ["DO $$ BEGIN PERFORM 1; END $$", "SET app.tenant = 'a'", "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT"]
    {
        assert_eq!(compare(&pool, "login", &[one], &seen).await, None);
        assert_eq!(answers(&mut pool.next().await, &seen).await, "yes|9MB", "after {one}");
    }
    // What changes nothing costs no connection.
    let before = pid(&mut pool.first().await).await;
    assert_eq!(pid(&mut pool.next().await).await, before);
}
