use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn findings(sql: &str) -> (Scan, Vec<ScanFinding>) {
    let mut found = Vec::new();
    let scan = scan(sql.as_bytes(), Backslashes::Literal, &mut |finding| found.push(finding));
    (scan, found)
}

fn effect(sql: &str) -> StatementEffect {
    findings(sql).0.effect
}

fn settings(sql: &str) -> Vec<String> {
    let name = |finding| match finding {
        ScanFinding::Setting(name) => Some(name),
        _ => None,
    };
    let mut names: Vec<String> = findings(sql).1.into_iter().filter_map(name).collect();
    names.dedup();
    names
}

fn locks(sql: &str) -> Vec<LockCall> {
    let call = |finding| match finding {
        ScanFinding::Lock(call) => Some(call),
        _ => None,
    };
    findings(sql).1.into_iter().filter_map(call).collect()
}

#[test]
fn transaction_control_changes_nothing_and_queries_change_only_through_what_they_run() {
    for sql in
        ["BEGIN", "begin;", " START TRANSACTION READ ONLY", "rollback to a", "show all", "/*x*/ SAVEPOINT a"]
    {
        assert_eq!(effect(sql), StatementEffect::None, "{sql}");
    }
    for sql in
        ["select 1", "(select 1)", "INSERT INTO t VALUES (1);\n", "commit", "with x as (select 1) table x"]
    {
        assert_eq!(effect(sql), StatementEffect::Runs, "{sql}");
    }
}

#[test]
fn quoted_names_of_functions_are_names_of_functions() {
    assert_eq!(locks("SELECT \"pg_catalog\".\"pg_advisory_lock\"(1)").len(), 1);
    assert_eq!(settings("SELECT \"set_config\"('a.b', 'x', false)"), ["a.b"]);
    assert_eq!(
        effect("SELECT \"pg_catalog\".\"set_config\"('work_mem', '1MB', false)"),
        StatementEffect::Changes
    );
    assert_eq!(effect("INSERT INTO \"pg_temp\".t VALUES (1)"), StatementEffect::Changes);
}

#[test]
fn an_argument_is_read_so_far_and_no_further() {
    let found =
        |tokens: usize| findings(&format!("SELECT pg_advisory_lock(1 {})", "+ 1 ".repeat(tokens / 2))).1;
    assert!(matches!(found(60)[..], [ScanFinding::Lock(_)]));
    assert_eq!(found(70), [ScanFinding::LockUnclear]);
}

#[test]
fn what_is_not_on_a_list_is_taken_as_a_change() {
    let cases = [
        "set x to 1",
        "RESET ALL",
        "listen a",
        "unlisten *",
        "prepare a as select 1",
        "deallocate all",
        "declare c cursor with hold for select 1",
        "discard all",
        "do $$ begin end $$",
        "explain analyze execute a",
        "frobnicate",
        "1",
        "select 1; set x to 1",
        "create table pg_temp.t (a int)",
        "with a as (select set_config('work_mem', '1MB', false)) table a",
    ];
    for sql in cases {
        assert_eq!(effect(sql), StatementEffect::Changes, "{sql}");
    }
}

#[test]
fn what_stands_in_literals_names_and_comments_is_no_statement() {
    let cases = [
        "select '; set a.b = 1'",
        "select $$; set a.b to 1$$",
        "select 1 as \"; set a.b to 1\"",
        "select 1 -- ; set a.b to 1",
        "select 1 /* ; set a.b to 1 /* */ */",
        "select E'\\'; set a.b to 1'",
    ];
    for sql in cases {
        assert_eq!(findings(sql).0.statements, 1, "{sql}");
    }
    assert_eq!(findings("select 1;; set a to 'x;y' ; ").0.statements, 2);
    assert_eq!(findings(" ; ").0.statements, 0);
}

#[test]
fn names_of_custom_settings_are_found_however_they_are_written() {
    let cases: &[(&str, &[&str])] = &[
        ("SET app.user = '7'", &["app.user"]),
        ("set session App . \"User\" to 7", &["App.User"]),
        ("begin; SET LOCAL a.b.c TO x", &["a.b.c"]),
        ("set local.x = 1", &["local.x"]),
        ("SET work_mem = '1MB'", &[]),
        ("SET TIME ZONE 'UTC'", &[]),
        ("select set_config('app.user', $1, false)", &["app.user"]),
        (
            "select pg_catalog.SET_CONFIG ( 'app.a'::text , '1', true), set_config('app.b', '2', true)",
            &["app.a", "app.b"],
        ),
        ("select set_config('work_mem', '1MB', false)", &[]),
        ("do $$ begin set app.x = 1; perform set_config('app.y', '1', false); end $$", &["app.x", "app.y"]),
        ("do $$ begin execute 'set app.x = 1'; end $$", &["app.x"]),
        ("prepare p as select set_config('app.p', $1, false)", &["app.p"]),
        ("execute p('app.q', '1')", &["app.q"]),
        ("select current_setting('app.r', true)", &["app.r"]),
        ("show app.s", &["app.s"]),
        ("call set_tenant('app.tenant', '4')", &["app.tenant"]),
        ("create function f() returns text language sql set app.z = '1' as 'select 1'", &["app.z"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(settings(sql), *expected, "{sql}");
    }
}

#[test]
fn a_setting_named_by_a_parameter_is_told_from_one_whose_name_is_computed() {
    assert_eq!(findings("select set_config($2, $1, false)").1, [ScanFinding::SettingParameter(2)]);
    assert_eq!(findings("select set_config($1::text, $2, true)").1, [ScanFinding::SettingParameter(1)]);
    assert_eq!(findings("select set_config('app.' || $1, $2, false)").1, [ScanFinding::SettingComputed]);
    assert_eq!(findings("select set_config(n, v, $1) from s").1, [ScanFinding::SettingComputed]);
    assert_eq!(findings("select set_config(n, v, true) from s").1, []);
}

#[test]
fn a_plain_lock_statement_tells_its_calls() {
    let call = |column, operation, shared, key| LockCall { statement: 0, column, operation, shared, key };
    use KeySource::*;
    use LockOperation::*;
    use Operand::*;
    let cases = [
        ("select pg_advisory_lock(5)", call(0, Lock, false, Bigint(Literal(5)))),
        ("SELECT PG_CATALOG.pg_advisory_lock_shared(-5::bigint);", call(0, Lock, true, Bigint(Literal(-5)))),
        ("select pg_try_advisory_lock($1) as locked", call(0, TryLock, false, Bigint(Parameter(1)))),
        (
            "select 1, pg_try_advisory_lock($1, '7') ok",
            call(1, TryLock, false, Pair(Parameter(1), Literal(7))),
        ),
        ("select * from pg_advisory_unlock(hashtext('a'))", call(0, Unlock, false, Bigint(Computed))),
        ("select pg_advisory_unlock_all()", call(0, UnlockAll, false, Every)),
    ];
    for (sql, expected) in cases {
        assert_eq!(locks(sql), [expected], "{sql}");
    }
    let both = locks("select 1; select pg_advisory_lock(1), pg_advisory_lock(2)");
    assert_eq!(both.iter().map(|call| (call.statement, call.column)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
}

#[test]
fn a_lock_call_that_may_run_any_number_of_times_is_unclear() {
    let cases = [
        "select pg_advisory_lock(id) from jobs limit 1",
        "select case when pg_try_advisory_lock(1) then 1 end",
        "select 1 where pg_try_advisory_lock(1)",
        "select pg_try_advisory_lock(1)::int",
        "select pg_advisory_lock(1) union all select 2",
        "do $$ begin perform pg_advisory_lock(1); end $$",
        "with a as (select pg_advisory_lock(1)) select 1",
        "update t set a = pg_try_advisory_lock(1)",
        "select query_to_xml('select pg_advisory_lock(1)', true, true, '')",
    ];
    for sql in cases {
        let (scan, found) = findings(sql);
        assert_eq!(found, [ScanFinding::LockUnclear], "{sql}");
        assert_eq!(scan.effect, StatementEffect::Changes, "{sql}");
    }
    assert_eq!(findings("prepare p as select pg_advisory_lock($1)").1, [ScanFinding::LockPrepared]);
    assert_eq!(findings("select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)").1, []);
    assert_eq!(findings("create function f() returns void as 'select pg_advisory_lock(1)'").1, []);
}

#[test]
fn state_that_cannot_travel_is_named() {
    assert_eq!(findings("select lastval()").1, [ScanFinding::SequenceMemory]);
    assert_eq!(findings("select currval ('s')").1, [ScanFinding::SequenceMemory]);
    assert_eq!(findings("select dblink_connect('a', 'b')").1, [ScanFinding::Foreign("a dblink connection")]);
    assert_eq!(findings("load 'age'").1, [ScanFinding::Foreign("a library loaded by LOAD")]);
}

#[test]
fn a_literal_may_hold_a_word_however_it_is_written() {
    let holds = |sql: &str| may_hold_in_literal(sql.as_bytes(), &[b"now", b"today"]);
    for sql in [
        "select ' now'",
        "select $$now$$::date",
        "select '[now,infinity)'::tstzrange",
        r"select E'n\x6fw'",
        r"select E'\156ow'",
        r"select 'n\ow'",
        r"select U&'\006eow'",
        "select U&'!006eow' uescape '!'",
        "select 'no'\n'w'",
        "select N'TODAY'",
    ] {
        assert!(holds(sql), "{sql}");
    }
    for sql in ["select now()", "select now() - $1", "select 'open', now()", r"select a ~ '\.'"] {
        assert!(!holds(sql), "{sql}");
    }
}

#[test]
fn settings_of_a_transaction_count_unless_they_are_known_to_decide_nothing() {
    for sql in [
        "set local datestyle = 'SQL, DMY'",
        "SET LOCAL /* x */ work_mem = '1MB'",
        "set local role x",
        "set local \"app.x\" = 1",
        "select set_config('timezone', 'UTC', true)",
        "select set_config($1, $2, true)",
        "select set_config('app.x', '1', true), set_config('search_path', 'a', true)",
        "set local app.x = 'a'; set datestyle = 'SQL'",
        "set local app.x = 'a;b'",
        "select f()",
    ] {
        assert!(!leaves_parsing_alone(sql.as_bytes()), "{sql}");
    }
    for sql in [
        "set local app.tenant = '7'",
        "begin; SET LOCAL statement_timeout = 5;",
        "select set_config('app.tenant', $1, true)",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ] {
        assert!(leaves_parsing_alone(sql.as_bytes()), "{sql}");
    }
}

#[test]
fn an_execute_of_ours_is_seen() {
    for sql in ["EXECUTE freehold_1", "explain execute \"freehold_1\"", "execute U&\"fr\\0065ehold_1\""] {
        assert!(executes_ours(sql.as_bytes()), "{sql}");
    }
    assert!(!executes_ours(b"execute s1") && !executes_ours(b"select * from freehold_estates"));
}

#[test]
fn reading_many_statements_of_one_text_takes_one_pass() {
    let text: String = (0..20_000).map(|at| format!("prepare a{at} as select {at};")).collect();
    let begun = std::time::Instant::now();
    let made = prepare_statements(&text);
    assert_eq!((made.len(), made["a19999"]), (20_000, Some("prepare a19999 as select 19999")));
    // Reading the text once for each statement would take minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

fn prepared<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    prepare_statements(text).get(name).copied().flatten()
}

#[test]
fn one_prepare_is_cut_out_of_the_text_around_it() {
    let text =
        "delete from t; PREPARE a AS SELECT ';' ; prepare \"B \"\"x\" (int) as select $1 -- end\n; select 1";
    assert_eq!(prepared(text, "a"), Some("PREPARE a AS SELECT ';'"));
    assert_eq!(prepared(text, "B \"x"), Some("prepare \"B \"\"x\" (int) as select $1"));
    assert_eq!(prepared(text, "c"), None);
    assert_eq!(prepared("prepare a as select 1", "a"), Some("prepare a as select 1"));
    assert_eq!(prepared("prepare A as select 1;deallocate a;prepare a as select 2", "a"), None);
}

proptest! {
    /// The verdict must never hide what the full scan finds, except in literals that are not run.
    #[test]
    fn the_verdict_agrees_with_the_full_scan(words in proptest::collection::vec(fragment(), 1..12)) {
        let sql = words.concat();
        let mut found = 0;
        let full = scan(sql.as_bytes(), Backslashes::Literal, &mut |_| found += 1);
        let verdict = read(sql.as_bytes(), Backslashes::Literal, &mut Unknown).effects;
        if !verdict.has(Effects::SCAN) {
            prop_assert_eq!(found, 0, "{}", sql);
            prop_assert!(full.statements <= 1 && full.effect != StatementEffect::Changes, "{}", sql);
        }
    }

    #[test]
    fn any_text_is_scanned_without_a_panic(sql in proptest::collection::vec(any::<u8>(), 0..300)) {
        scan(&sql, Backslashes::Escape, &mut |_| {});
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let words = [
        "select ",
        "SELECT ",
        "insert into t ",
        "update t set a.b = 1 ",
        "commit",
        "begin",
        "set ",
        "a.b = 1",
        ";",
        " ; ",
        "set_config(",
        "'app.x'",
        ", '1', false)",
        "$1",
        "pg_advisory_lock(",
        "1)",
        "pg_advisory_unlock_all()",
        "temp ",
        "from t ",
        "lastval()",
        "\"",
        "--",
        "\n",
        "/*",
        "*/",
        "(",
        ")",
        "do ",
        "execute p",
        "x_config ",
        ",",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}

/// Prints what a verdict costs; fails only where it is absurd, because the machine is shared.
#[test]
fn judging_a_usual_text_costs_nanoseconds_not_microseconds() {
    let texts = [
        ("select by key", "SELECT id, name, balance FROM accounts WHERE id = $1"),
        (
            "update",
            "UPDATE accounts SET balance = balance + $1, updated_at = now() WHERE id = $2 RETURNING balance",
        ),
        ("begin", "BEGIN"),
        (
            "orm join",
            "SELECT u.id, u.email, u.created_at, o.id, o.total FROM users u JOIN orders o ON o.user_id = u.id \
            WHERE u.tenant_id = $1 AND o.status IN ('open', 'paid') AND o.total > 100 ORDER BY o.created_at DESC LIMIT 50",
        ),
        ("set custom", "SET app.user_id = '42'"),
        ("lock", "SELECT pg_try_advisory_lock(4711)"),
    ];
    for (name, sql) in texts {
        const ROUNDS: u32 = 20_000;
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let sql = std::hint::black_box(sql.as_bytes());
            std::hint::black_box(
                screen(sql).map_or_else(|| read(sql, Backslashes::Literal, &mut Unknown), Verdict::of),
            );
        }
        let each = started.elapsed() / ROUNDS;
        println!("{name}: {} bytes, {} ns", sql.len(), each.as_nanos());
        assert!(each.as_micros() < 100, "{name} took {each:?}");
    }
}

#[test]
fn a_text_that_changes_the_path_of_names_is_found() {
    for sql in [
        "SET search_path = t1",
        "SET SCHEMA 't1'",
        "set local Search_Path to t1",
        "SELECT set_config('search_path', $1, true)",
        "SET ROLE other",
        "SELECT set_config('role', 'other', true)",
        "SET SESSION AUTHORIZATION other",
        "RESET SESSION AUTHORIZATION",
    ] {
        assert!(touched(sql.as_bytes()).has(Effects::PATH), "{sql}");
    }
    for sql in [
        "SET/* x */ROLE other",
        "SET -- x\nLOCAL\tSCHEMA 'x'",
        "SET\n SESSION ROLE other",
        "SET SESSION\nROLE other",
    ] {
        assert!(touched(sql.as_bytes()).has(Effects::PATH), "{sql}");
    }
    for sql in [
        "SELECT f(1)",
        "SET work_mem = '7MB'",
        "CALL p()",
        "SET LOCAL statement_timeout = 5",
        "SELECT current_setting('role')",
        "UPDATE users SET name = f(name), role = 'x'",
    ] {
        assert!(!touched(sql.as_bytes()).has(Effects::PATH), "{sql}");
    }
}

#[test]
fn a_text_that_changes_how_values_are_read_is_found() {
    for sql in [
        "SET DateStyle = 'ISO, DMY'",
        "SET LOCAL timezone TO 'UTC'",
        "SET TIME ZONE 'UTC'",
        "SET SESSION TIME ZONE LOCAL",
        "SELECT set_config('IntervalStyle', $1, true)",
        "SET LOCAL XML OPTION DOCUMENT",
        "RESET lc_monetary",
        "SET LOCAL extra_float_digits = 0",
        "BEGIN; SET LOCAL app.tenant = 1",
        "SET LOCAL \"app\".tenant = 1",
        "SET /* . */ app.tenant = 1",
        "PREPARE p AS SELECT set_config($1, $2, true)",
        "SET LOCAL application_name = 'a'",
        "SELECT 1; RESET ALL",
    ] {
        assert!(touched(sql.as_bytes()).has(Effects::VALUES), "{sql}");
    }
    for sql in ["SELECT f(now() AT TIME ZONE 'UTC')", "UPDATE t SET zone = f(1)", "SET search_path = a"] {
        assert!(!touched(sql.as_bytes()).has(Effects::VALUES), "{sql}");
    }
}

#[test]
fn a_text_that_decides_how_functions_are_read_is_found() {
    for sql in [
        "SET standard_conforming_strings = off",
        "SET LOCAL Standard_Conforming_Strings TO 'off'",
        "SELECT set_config('standard_conforming_strings', 'off', true)",
        "SET standard_conforming_strings = on; SET standard_conforming_strings = off",
        "SET standard_conforming_strings = online",
        "SET plpgsql.variable_conflict = use_column",
    ] {
        assert!(touched(sql.as_bytes()).has(Effects::READING), "{sql}");
    }
    for sql in [
        "SET standard_conforming_strings = on",
        "SET standard_conforming_strings TO on ;SELECT 1",
        "SELECT 1",
    ] {
        assert!(!touched(sql.as_bytes()).has(Effects::READING), "{sql}");
    }
}
