use std::collections::HashMap;

use super::*;
use crate::session::scan::{scan, screen};

/// A database with these names; every other call is unknown.
#[derive(Default)]
struct Database {
    names: HashMap<&'static str, Effects>,
    harmless: Vec<&'static str>,
}

impl Names for Database {
    fn are_all_harmless(&self) -> bool {
        self.names.is_empty()
    }

    fn effects(&mut self, name: &[u8]) -> Effects {
        let name = std::str::from_utf8(name).unwrap_or_default();
        self.names.get(name).copied().unwrap_or_default()
    }

    fn call(&mut self, name: &[u8]) -> Effects {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let is_known = self.harmless.contains(&name) || self.names.contains_key(name);
        if is_known { Effects::NONE } else { Effects::ASKS }
    }

    fn implied(&mut self) -> Effects {
        Effects::NONE
    }

    fn on_definition(&mut self) -> Effects {
        Effects::NONE
    }

    fn any(&mut self) -> Effects {
        self.names.values().fold(Effects::NONE, |all, &one| all | one)
    }
}

fn database() -> Database {
    Database {
        names: HashMap::from([
            ("evil", Effects::ANY),
            ("audited", Effects::ASKS),
            ("Mixed", Effects::ANY),
            ("locker", Effects::ASKS | Effects::LOCKS),
        ]),
        harmless: vec!["price_of", "x"],
    }
}

/// The effects that were found in it; whether it is proven is tested elsewhere.
fn effects(sql: &str) -> Effects {
    read(sql.as_bytes(), Backslashes::Literal, &mut database())
        .effects
        .without(Effects::UNPROVEN | Effects::STATEMENTS | Effects::VALUES)
}

/// Nothing is to be asked or scanned after it.
fn is_harmless(sql: &str) -> bool {
    effects(sql).without(Effects::RUNS).is_none()
}

#[test]
fn what_applications_send_is_harmless() {
    for sql in [
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
        "select 1",
        "BEGIN",
        "begin isolation level serializable read only",
        "COMMIT",
        "rollback to savepoint a",
        "INSERT INTO orders (id, item) VALUES ($1, $2), (3, 'x') ON CONFLICT (id) DO UPDATE SET item = excluded.item RETURNING id",
        "INSERT INTO shop.orders AS o (id) SELECT count(*) FROM lines AS l (a, b) GROUP BY ROLLUP (a)",
        "UPDATE t SET (a, b) = (1, 2) WHERE id IN (1, 2) AND EXISTS (SELECT FROM u WHERE u.id = ANY ($1))",
        "WITH RECURSIVE t (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t) SELECT sum(n) OVER (PARTITION BY n) FROM t",
        "select coalesce(max(id), 0), now() - interval '1 day', extract(epoch from ts), x(1) from t",
        "SELECT a::varchar(10), b::numeric(10, 2), CAST(c AS decimal(3)) FROM t FOR UPDATE SKIP LOCKED",
        "select json_build_object('a', row_number() over (order by a)) from t lateral join u using (id)",
        "DELETE FROM t USING u WHERE t.id = u.id",
        "COPY t (a, b) FROM STDIN",
        "(select 1) union all (select price_of(2))",
        "select \"count\"(*) from \"Order\"",
        "select '; set a.b = 1', $$ set_config $$, U&'\\0041'",
        "select 1 -- set_config\n",
        "select temp, set, update from weather",
        "select nextval('s'), pg_advisory_xact_lock(1)",
        "select setting from pg_settings where name = 'work_mem'",
        "/* app */ SELECT 1 -- tail",
        "fetch 10 from c",
        "select a from b where c ilike '%x%' limit 1offset 2",
        "",
        ";",
    ] {
        assert!(is_harmless(sql), "{sql}: {:?}", effects(sql));
    }
}

#[test]
fn what_is_not_understood_is_asked_for() {
    for sql in [
        "select unknown_function(1)",
        "select x.unknown(1)",
        "select 1 into t",
        "with a as (select 1) select * into b from a",
        "create table t (a int)",
        "set search_path = pg_temp, public",
        "frobnicate",
        "1",
        "\"a\"",
        "select * from pg_temp.t",
        "select audited(1)",
        "select * from AUDITED",
        "select * from \"audited\"",
        "select c.audited from c",
        "insert into public.audited values (1)",
        "select 1; select pg_cancel_backend(1)",
        "select lo_import('/etc/passwd')",
        "select array_in('{}'::cstring, 1, 2)",
        "call p()",
        "execute p",
        "explain analyze select 1",
        "do $$ begin null; end $$",
        "listen a",
        "vacuum",
        "select 1and audited(2)",
        "insert into t (a) select f(1) as g left join lateral audited(1) on true",
        "select 1 as x left join unknown(1) on true",
    ] {
        assert!(effects(sql).has(Effects::ASKS), "{sql}: {:?}", effects(sql));
    }
}

#[test]
fn what_runs_text_or_cannot_be_read_is_opaque() {
    for sql in [
        "select U&\"set!005fconfig\" UESCAPE E'\\x21'('search_path', 'evil', false)",
        "select (row(42)::ct).pg_advisory_lock",
        "select (row('x')::cq).\"ts_stat\"",
        "select public.evil()",
        "do U&'begin null; end' UESCAPE '!'",
        "do $$ begin execute format('SET app.%I = %L', 'tenant', 'evil'); end $$",
        "do $$ begin execute format('select %I(%L)', 'set_config', 'x'); end $$",
        "do $$ begin execute 'execute p'; end $$",
        "select query_to_xml('select set_' || 'config(''a.b'','''',false)', true, true, '')",
        "select * from ts_stat('select 1')",
        "select \"query_to_xml\"('x', true, true, '')",
        "select pg_catalog . /* */ QUERY_TO_XML ('x', true, true, '')",
        "select U&\"query\\005fto\\005fxml\"('x', true, true, '')",
        "select evil(1)",
        "select EVIL from t",
        "table evil",
        "select \"Mixed\"",
        "update pg_settings set setting = 'evil' where name = 'search_path'",
        "with a as (update \"pg_catalog\".\"pg_settings\" set setting = 1 returning 1) select 1",
        "select pg_temp.f(1)",
        "do $$ begin execute 'se' || 't a.b = 1'; end $$",
        "do 'begin execute x; end'",
        "do language plpython3u $$ 1 $$",
        "do E'begin null\\x3b end'",
        "create function f() returns int language plperl as $$ $$",
        "create function f() returns int language plpgsql as $$ begin execute a; end $$",
        "do $$ begin perform evil(); end $$",
        "do $$ begin for i in 1..evil() loop null; end loop; end $$",
        "execute p",
        "analyze",
    ] {
        assert!(effects(sql).has(Effects::OPAQUE), "{sql}: {:?}", effects(sql));
    }
    assert!(
        !effects("select \"mixed\", MIXED from t").has(Effects::OPAQUE),
        "names between quotes keep their case"
    );
}

#[test]
fn names_are_cut_to_63_bytes_as_postgresql_cuts_them() {
    const LONG: &str = "a23456789b123456789c123456789d123456789e123456789f123456789g123";
    let mut names = Database { names: HashMap::from([(LONG, Effects::ANY)]), harmless: Vec::new() };
    for sql in
        [format!("select {LONG}()"), format!("select {LONG}tail()"), format!("select \"{LONG}tail\"()")]
    {
        assert!(read(sql.as_bytes(), Backslashes::Literal, &mut names).effects.has(Effects::OPAQUE), "{sql}");
    }
    assert_eq!(cut("ä".repeat(40).as_bytes()).len(), 62, "no character is cut in two");
}

#[test]
fn bodies_that_are_understood_are_harmless() {
    for body in [
        "BEGIN NEW.changed_at := now(); RETURN NEW; END",
        "DECLARE n integer := 0; r record; BEGIN FOR r IN SELECT id FROM t LOOP n := n + 1; END LOOP; RETURN n; END;",
        "BEGIN IF TG_OP = 'INSERT' THEN INSERT INTO log (a) VALUES (NEW.a); ELSIF x THEN NULL; ELSE PERFORM count(*) FROM t; \
         END IF; RETURN NULL; EXCEPTION WHEN unique_violation THEN RAISE NOTICE 'x'; END",
        "<<outer>> BEGIN a = CASE WHEN b THEN c ELSE d END; SELECT x INTO STRICT y FROM z; EXECUTE 'select 1' INTO y USING z; END",
        "BEGIN RETURN QUERY SELECT * FROM t; CASE x WHEN 1 THEN y := 2; ELSE y := 3; END CASE; SET LOCAL work_mem = 1; END",
    ] {
        let effects = judge_body(body.as_bytes(), Dialect::PlPgSql, &mut database()).without(Effects::RUNS);
        assert!(effects.is_none(), "{body}: {effects:?}");
    }
    let audit =
        "BEGIN EXECUTE format('INSERT INTO %I.%I SELECT ($1).* WHERE %L = 1', s, t, v) USING NEW; END";
    let effects = judge_body(audit.as_bytes(), Dialect::PlPgSql, &mut Database::default());
    assert!(!effects.has(Effects::OPAQUE), "{effects:?}");
}

#[test]
fn bodies_that_change_the_session_are_not() {
    let asks = [
        "BEGIN SET work_mem = 1; END",
        "BEGIN IF a THEN SET work_mem = 1; END IF; END",
        "BEGIN PERFORM set_config('a.b', '1', false); END",
        "BEGIN x := set_config('a.b', '1', false); END",
        "BEGIN CREATE TEMP TABLE t (a int); END",
        "BEGIN LISTEN a; END",
        "BEGIN PERFORM pg_advisory_lock(1); END",
        "DECLARE a int; BEGIN SET work_mem = 1; END",
        "BEGIN FOR i IN 1..set_config('a.b', '', false) LOOP END LOOP; END",
    ];
    for body in asks {
        let effects = judge_body(body.as_bytes(), Dialect::PlPgSql, &mut database());
        assert!(effects.has(Effects::ASKS), "{body}: {effects:?}");
    }
    let opaque = [
        "BEGIN EXECUTE a; END",
        "BEGIN EXECUTE 'set ' || a; END",
        "BEGIN EXECUTE format('SET %s = 1', a); END",
        "BEGIN RETURN QUERY EXECUTE a; END",
        "BEGIN FOR r IN EXECUTE a LOOP END LOOP; END",
        "BEGIN PERFORM U&\"set\\005fconfig\"('a.b', '', false); END",
        "BEGIN PERFORM query_to_xml('', true, true, ''); END",
        "BEGIN PERFORM dblink_connect(''); END",
        "BEGIN PERFORM set_config('a' || '.b', '1', false); END",
        "BEGIN PERFORM set_config(E'a\\x2eb', '1', false); END",
        "BEGIN x := '\\'' , EXECUTE a; --'; END",
    ];
    for body in opaque {
        let effects = judge_body(body.as_bytes(), Dialect::PlPgSql, &mut database());
        assert!(effects.has(Effects::OPAQUE), "{body}: {effects:?}");
    }
    let cursor = "DECLARE c CURSOR FOR SELECT 1; SET work_mem = 1";
    assert!(judge_body(cursor.as_bytes(), Dialect::Sql, &mut database()).has(Effects::ASKS));
}

#[test]
fn the_verdict_names_what_made_it() {
    let sql = "select a, Query_To_XML('x', true, true, '')";
    let verdict = read(sql.as_bytes(), Backslashes::Literal, &mut database());
    assert_eq!(verdict.culprit(sql.as_bytes()), "Query_To_XML");
}

/// Whatever the scan finds, the verdict must ask for the scan.
#[test]
fn nothing_that_the_scan_finds_is_harmless() {
    for sql in [
        "select set_config('a.b', 'c', true)",
        "select \"set_config\"('a.b', 'c', true)",
        "select U&\"s\\0065t_config\"('a.b', 'c', true)",
        "select current_setting('a.b')",
        "show a.b",
        "set local a.b = 1",
        "select pg_advisory_lock(1)",
        "select currval('s')",
        "select setseed(0.5)",
        "select 1; select 2",
        "deallocate a",
    ] {
        assert!(effects(sql).has(Effects::SCAN), "{sql}");
        let _ = scan(sql.as_bytes(), Backslashes::Literal, &mut |_| {});
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(sql in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        for backslashes in [Backslashes::Literal, Backslashes::Escape] {
            let verdict = read(&sql, backslashes, &mut database());
            verdict.culprit(&sql);
        }
        judge_body(&sql, Dialect::PlPgSql, &mut database());
    }

    /// Screening finds at least the effects that reading finds.
    #[test]
    fn screening_agrees_with_reading(pieces in fragments(), verb in proptest::sample::select(vec!["select 1", "insert into a (b) values (1)", "update t set a = 1", "begin", "with a as (select 1) select 1", "insert into s.t select 1"])) {
        let sql = format!("{verb}{pieces}");
        let mut nothing = Database::default();
        if let Some(screened) = screen(sql.as_bytes()) {
            for backslashes in [Backslashes::Literal, Backslashes::Escape] {
                let effects = understood(sql.as_bytes(), backslashes, &mut nothing).effects;
                proptest::prop_assert!(effects.without(screened).is_none(), "{}: {:?}, {:?}", sql, screened, effects);
            }
        }
    }

    /// What is opaque stays opaque, whatever stands around it.
    #[test]
    fn nothing_hides_a_call_that_runs_text(before in fragments(), after in fragments()) {
        let sql = format!("select 1 {before}\n, query_to_xml('', true, true, '') {after}");
        proptest::prop_assert!(effects(&sql).has(Effects::OPAQUE), "{}", sql);
    }
}

/// Complete pieces of SQL, in any order.
fn fragments() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::strategy::Strategy;
    let pieces = [
        " as x",
        " into t",
        " from a",
        " join b on true",
        " left join lateral (select 2) c on true",
        "; ",
        " ( ",
        " ) ",
        " 'it''s' ",
        " E'\\'' ",
        " $$ ' $$ ",
        " $a$ $$ $a$ ",
        " \"a\"\"b\" ",
        " U&'\\0041' ",
        " /* /* */ */ ",
        " -- x\n",
        " 1.5e3",
        " 1..",
        " 0x1f ",
        " .",
        " set_config",
        " pg_advisory_lock(",
        " count",
        " now(",
        " f(",
        "\u{b}(",
        "(",
        " pg_settings",
        " pg_temp",
        " INTO ",
        " in (",
        " copy",
        " with",
        " recursive",
        " insert into",
        " update",
        " $1",
        " a$b ",
        " é ",
        " <<l>> ",
        " end",
        " case",
        " then",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..8)
        .prop_map(|pieces| pieces.concat())
}

#[test]
fn key_words_are_names_where_the_database_has_them() {
    let words =
        ["copy", "recursive", "update", "pg_settings", "all", "with", "select", "end", "user", "table"];
    let names = words.map(|word| (word, Effects::ANY));
    let mut names = Database { names: HashMap::from(names), harmless: Vec::new() };
    for word in ["copy", "recursive", "update", "pg_settings"] {
        let sql = format!("select * from {word}");
        assert!(read(sql.as_bytes(), Backslashes::Literal, &mut names).effects.has(Effects::OPAQUE), "{sql}");
    }
    for word in words {
        let sql = format!("insert into public.{word} default values");
        assert!(read(sql.as_bytes(), Backslashes::Literal, &mut names).effects.has(Effects::OPAQUE), "{sql}");
    }
}

#[test]
fn the_short_way_ends_at_a_function_that_is_called_like_a_column() {
    assert!(screen(b"select (row(42)::ct).pg_advisory_lock").is_none());
    assert!(screen(b"select t . ts_stat from t").is_none());
    assert!(screen(b"select t.a, t.b from s.t").is_some());
}
