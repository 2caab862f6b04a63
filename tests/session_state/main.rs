//! The state of a session travels between two real servers of different majors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use freehold::error::Explain;
use freehold::session::migrate::restore::LockPatience;
use freehold::session::migrate::twin::RestoreError;
use freehold::session::state::Freshness;
use freehold::wire::message::frontend;
use harness::{PATIENCE, Pair, Session, deadline};

async fn settings_travel(pair: &Pair) {
    let mut client = pair.client("app").await;
    client
        .query("SET work_mem = '64MB'; SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German, DMY'")
        .await;
    client.query("SET search_path = \"Weird, \"\"schema\", shop; SET statement_timeout = '90s'").await;
    client.query("SET application_name = 'it''s me'; SET extra_float_digits = 0").await;
    client.travel().await;
    assert_eq!(client.query("SHOW work_mem").await, "64MB");
    assert_eq!(client.query("SHOW timezone").await, "Asia/Kathmandu");
    assert_eq!(client.query("SHOW datestyle").await, "German, DMY");
    assert_eq!(client.query("SHOW statement_timeout").await, "90s");
    assert_eq!(client.query("SHOW lock_timeout").await, "0");
    assert_eq!(client.query("SHOW application_name").await, "it's me");
    assert_eq!(client.query("SELECT count(*) FROM odd, orders").await, "0", "both schemas are in the path");
}

async fn a_reset_after_the_journey_goes_to_the_value_of_the_startup_packet(pair: &Pair) {
    let mut client =
        pair.client_with("app", &[("application_name", "first"), ("options", "-c work_mem=2MB")]).await;
    client.query("SET application_name = 'second'; SET work_mem = '3MB'").await;
    client.travel().await;
    assert_eq!(client.query("SHOW application_name").await, "second");
    client.query("RESET application_name; RESET work_mem").await;
    assert_eq!(client.query("SHOW application_name").await, "first");
    assert_eq!(client.query("SHOW work_mem").await, "2MB");
}

async fn custom_settings_travel_however_they_were_set(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SET app.tenant = 'größe \\ ''x'''; SELECT set_config('app.user', '7', false)").await;
    client.query("BEGIN; SET LOCAL app.request = '1'; COMMIT").await;
    client.prepare("", "select set_config($1, $2, false)", &[]).await;
    client.execute("", &["app.bound", "8"]).await;
    client.query("DO $$ BEGIN PERFORM set_config('app.block', '9', false); END $$").await;
    client.travel().await;
    assert_eq!(client.query("SHOW app.tenant").await, "größe \\ 'x'");
    assert_eq!(client.query("SELECT current_setting('app.user')").await, "7");
    assert_eq!(client.query("SELECT current_setting('app.request', true)").await, "", "not NULL");
    assert_eq!(client.query("SHOW app.bound").await, "8");
    assert_eq!(client.query("SHOW app.block").await, "9");
}

async fn custom_settings_that_only_the_databases_code_names_travel(pair: &Pair) {
    for server in [&pair.old, &pair.new] {
        server
            .psql(
                "CREATE FUNCTION public.enter(k text, v text) RETURNS void LANGUAGE plpgsql AS \
                $$ BEGIN PERFORM set_config('hidden.' || k, v, false); PERFORM set_config('seen.' /* */ || k, v, false); END $$; \
                CREATE FUNCTION public.enter_too() RETURNS void LANGUAGE plpgsql AS \
                $$ BEGIN perform SET_CONFIG ( 'fun.a', '1', false); SET fun.b = '2'; END $$; \
                CREATE TABLE public.guarded (a int DEFAULT current_setting('hidden.dflt', true)::int); \
                ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY; \
                CREATE POLICY p ON public.guarded USING (a::text = current_setting('hidden.tenant')); \
                CREATE VIEW public.viewed AS SELECT current_setting('hidden.viewed', true)",
            )
            .unwrap();
    }
    let mut client = pair.client("app").await;
    client.query("SELECT enter('tenant', '1'), enter('dflt', '2'), enter('viewed', '3'), enter_too()").await;
    client.travel().await;
    assert_eq!(client.query("SHOW hidden.tenant").await, "1");
    assert_eq!(client.query("SHOW hidden.dflt").await, "2");
    assert_eq!(client.query("SHOW hidden.viewed").await, "3");
    assert_eq!(client.query("SHOW fun.a").await, "1");
    assert_eq!(client.query("SHOW fun.b").await, "2");
    for server in [&pair.old, &pair.new] {
        server.psql("DROP TABLE guarded; DROP VIEW viewed; DROP FUNCTION enter, enter_too").unwrap();
    }
}

async fn a_role_travels_and_can_be_reset(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SET ROLE reader; SET work_mem = '5MB'").await;
    client.travel().await;
    assert_eq!(client.query("SELECT session_user || ' as ' || current_user").await, "app as reader");
    assert_eq!(client.query("SHOW work_mem").await, "5MB");
    client.query("RESET ROLE").await;
    assert_eq!(client.query("SELECT current_user").await, "app");
}

async fn a_setting_that_only_the_role_may_set_travels(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SET ROLE tuner; SET log_min_duration_statement = '7s'").await;
    client.travel().await;
    assert_eq!(client.query("SHOW log_min_duration_statement").await, "7s");
}

async fn the_session_authorization_of_a_superuser_travels(pair: &Pair) {
    let superuser = pair.old.superuser.clone();
    let mut client = pair.client(&superuser).await;
    client.query("SET log_statement = 'mod'; SET SESSION AUTHORIZATION app; SET ROLE reader").await;
    client.travel().await;
    assert_eq!(client.query("SELECT session_user || ' as ' || current_user").await, "app as reader");
    client.query("RESET SESSION AUTHORIZATION").await;
    assert_eq!(client.query("SELECT session_user").await, superuser);
    assert_eq!(client.query("SHOW log_statement").await, "mod");
}

async fn prepared_statements_travel_with_types_whose_oids_differ(pair: &Pair) {
    let oid = |server: &freehold::lab::Postgres| server.psql("SELECT 'shop.mood'::regtype::oid").unwrap();
    assert_ne!(oid(&pair.old), oid(&pair.new), "or the test shows nothing");
    let mut client = pair.client("app").await;
    client.prepare("enum", "SELECT $1::shop.mood::text || 'ness'", &[]).await;
    client.prepare("array", "SELECT cardinality($1::shop.mood[])::text", &[]).await;
    client.prepare("composite", "SELECT ($1::shop.\"Pair\").b", &[]).await;
    client.prepare("domain", "SELECT $1::shop.price + $2", &[]).await;
    client.prepare("Quoted \"name\" größe", "SELECT $1::int + 1 -- größe", &[]).await;
    let given: u32 = oid(&pair.old).parse().unwrap();
    client.prepare("given", "SELECT pg_typeof($1)::text", &[given]).await;
    client.travel().await;
    assert_eq!(client.execute("enum", &["sad"]).await, "sadness");
    assert_eq!(client.execute("array", &["{sad,happy}"]).await, "2");
    assert_eq!(client.execute("composite", &["(1,two)"]).await, "two");
    assert_eq!(client.execute("domain", &["1.5", "2"]).await, "3.5");
    assert_eq!(client.execute("Quoted \"name\" größe", &["41"]).await, "42");
    assert_eq!(client.execute("given", &["sad"]).await, "shop.mood");
}

async fn sql_level_prepare_travels_without_what_stood_around_it(pair: &Pair) {
    let mut client = pair.client("app").await;
    client
        .query("INSERT INTO hits VALUES (1); PREPARE one (int) AS SELECT $1 + 1; PREPARE \"Two;\" AS SELECT ';' -- ;")
        .await;
    client.travel().await;
    assert_eq!(client.query("EXECUTE one (41)").await, "42");
    assert_eq!(client.query("EXECUTE \"Two;\"").await, ";");
    assert_eq!(client.query("SELECT count(*) FROM hits").await, "0", "the INSERT was not run again");
    assert_eq!(client.query("SELECT from_sql FROM pg_prepared_statements WHERE name = 'one'").await, "t");
}

async fn a_statement_prepared_under_another_search_path_travels(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SET search_path = tenant_a").await;
    client.prepare("own", "SELECT count(*)::text FROM own", &[]).await;
    client.query("RESET search_path").await;
    client.travel().await;
    assert_eq!(client.query("SHOW search_path").await, "\"$user\", public");
    client.query("SET search_path = tenant_a").await;
    assert_eq!(client.execute("own", &[]).await, "0");
}

async fn listen_travels_and_hears_what_is_said_on_the_new_system(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("LISTEN jobs; LISTEN \"Odd \"\"name\"; LISTEN gone; UNLISTEN gone").await;
    client.travel().await;
    assert_eq!(client.connection.take_async_messages(), "", "nothing of the restore reaches the client");
    pair.new.psql("NOTIFY jobs, 'one'; NOTIFY \"Odd \"\"name\", 'two'; NOTIFY gone, 'three'").unwrap();
    client.query("SELECT 1").await;
    let heard = client.connection.take_async_messages();
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains("jobs\0one") && heard.contains("Odd \"name\0two"), "{heard:?}");
    assert!(!heard.contains("three"), "{heard:?}");
}

async fn advisory_locks_of_every_shape_travel(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SELECT pg_advisory_lock(-5), pg_advisory_lock_shared(9223372036854775807)").await;
    client.query("SELECT pg_try_advisory_lock(-1, 2) AS ok; SELECT pg_advisory_lock_shared(3, -4)").await;
    let rows = "SELECT string_agg(concat_ws(' ', classid, objid, objsubid, mode), ', ' ORDER BY 1) FROM \
        (SELECT * FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY classid, objid) l";
    let before = client.query(rows).await;
    assert_eq!(before.matches("Lock").count(), 4);
    client.travel().await;
    assert_eq!(client.query(rows).await, before);
    let mut other = pair.client_of_new("app").await;
    assert_eq!(other.query("SELECT pg_try_advisory_lock(-5)").await, "f");
    assert_eq!(other.query("SELECT pg_try_advisory_lock_shared(3, -4)").await, "t");
    assert_eq!(client.query("SELECT pg_advisory_unlock(-5)").await, "t");
    assert_eq!(client.query("SELECT pg_advisory_unlock(-5)").await, "f", "it was held once");
    assert_eq!(other.query("SELECT pg_try_advisory_lock(-5)").await, "t");
    assert_eq!(other.query("SELECT count(pg_advisory_unlock_all())").await, "1");
    client.query("SELECT pg_advisory_unlock_all()").await;
}

async fn a_lock_taken_twice_must_be_released_twice_after_the_journey(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SELECT pg_advisory_lock(77)").await;
    client.prepare("again", "SELECT pg_try_advisory_lock($1)", &[]).await;
    assert_eq!(client.execute("again", &["77"]).await, "t");
    client.query("SELECT pg_advisory_lock(78)").await;
    client.travel().await;
    for expected in ["t", "t", "f"] {
        assert_eq!(client.query("SELECT pg_advisory_unlock(77)").await, expected);
    }
    assert_eq!(client.query("SELECT pg_advisory_unlock_all()").await, "");
}

async fn the_unnamed_statement_travels(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.prepare("", "SELECT $1::shop.mood::text || current_setting('work_mem')", &[]).await;
    client.travel().await;
    assert_eq!(client.execute("", &["sad"]).await, "sad4MB");
    let given: u32 = pair.new.psql("SELECT 'shop.mood'::regtype::oid").unwrap().parse().unwrap();
    let mut client = pair.client_of_new("app").await;
    client.prepare("", "SELECT pg_typeof($1)::text", &[given]).await;
    client.travel().await;
    assert_eq!(client.execute("", &["sad"]).await, "shop.mood");
}

async fn a_session_in_another_encoding_travels(pair: &Pair) {
    let mut client = pair.client_with("app", &[("client_encoding", "LATIN1")]).await;
    client
        .query("SET app.sign = U&'\\00a7'; SET quote_all_identifiers = on; SET bytea_output = escape")
        .await;
    client.query("SET standard_conforming_strings = off; SET backslash_quote = on").await;
    client
        .prepare("sign", "SELECT encode(convert_to(current_setting('app.sign'), 'UTF8'), 'hex')", &[])
        .await;
    client.travel().await;
    assert_eq!(client.query("SHOW client_encoding").await, "LATIN1");
    assert_eq!(client.execute("sign", &[]).await, "c2a7");
    assert_eq!(client.query("SHOW standard_conforming_strings").await, "off");
}

async fn a_search_path_that_hides_the_catalog_deceives_nobody(pair: &Pair) {
    for server in [&pair.old, &pair.new] {
        server
            .psql(
                "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC; \
                CREATE FUNCTION trap.no(text, text) RETURNS bool LANGUAGE sql AS 'SELECT 1/0 > 0'; \
                CREATE FUNCTION trap.no(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT 1/0 > 0'; \
                CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.no); \
                CREATE OPERATOR trap.!~ (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.no); \
                CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.no); \
                CREATE OPERATOR trap.>= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.no); \
                CREATE VIEW trap.pg_settings AS SELECT 1/0 AS name; \
                CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'; \
                CREATE FUNCTION trap.set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'; \
                CREATE FUNCTION trap.encode(bytea, text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'",
            )
            .unwrap();
    }
    let mut client = pair.client("app").await;
    client.query("SET search_path = trap, pg_catalog").await;
    client.prepare("s", "SELECT $1::shop.mood", &[]).await;
    client.query("LISTEN a; SELECT pg_advisory_lock(31)").await;
    client.travel().await;
    assert_eq!(client.query("SHOW search_path").await, "trap, pg_catalog");
    client.query("SELECT pg_advisory_unlock_all()").await;
}

/// Everything at once, to the newer major and back again.
async fn a_session_with_every_kind_of_state_travels_there_and_back(pair: &Pair) {
    for there in [true, false] {
        let mut client = if there { pair.client("app").await } else { pair.client_of_new("app").await };
        client.query("SET work_mem = '9MB'; SET app.x = '1'; LISTEN c; SELECT pg_advisory_lock(501)").await;
        client.query("SET search_path = shop; SET ROLE reader; PREPARE p AS SELECT 1").await;
        client.prepare("s", "SELECT count(*)::text FROM orders WHERE mood = $1", &[]).await;
        client.prepare("", "SELECT 'unnamed'", &[]).await;
        client.travel().await;
        assert_eq!(client.execute("", &[]).await, "unnamed");
        assert_eq!(client.execute("s", &["sad"]).await, "0");
        assert_eq!(client.query("SELECT pg_advisory_unlock_all()").await, "");
    }
}

macro_rules! each {
    ($pair:expr, $($case:ident),+ $(,)?) => {$(
        println!("{}", stringify!($case));
        Box::pin($case($pair)).await;
    )+};
}

#[tokio::test]
async fn settings_and_identity_travel_to_another_major() {
    let pair = &Pair::start();
    each!(
        pair,
        settings_travel,
        a_reset_after_the_journey_goes_to_the_value_of_the_startup_packet,
        custom_settings_travel_however_they_were_set,
        custom_settings_that_only_the_databases_code_names_travel,
        a_role_travels_and_can_be_reset,
        a_setting_that_only_the_role_may_set_travels,
        the_session_authorization_of_a_superuser_travels,
        a_session_in_another_encoding_travels,
        a_search_path_that_hides_the_catalog_deceives_nobody,
    );
}

#[tokio::test]
async fn statements_listens_and_locks_travel_to_another_major() {
    let pair = &Pair::start();
    each!(
        pair,
        prepared_statements_travel_with_types_whose_oids_differ,
        sql_level_prepare_travels_without_what_stood_around_it,
        a_statement_prepared_under_another_search_path_travels,
        listen_travels_and_hears_what_is_said_on_the_new_system,
        advisory_locks_of_every_shape_travel,
        a_lock_taken_twice_must_be_released_twice_after_the_journey,
        the_unnamed_statement_travels,
        a_session_with_every_kind_of_state_travels_there_and_back,
    );
}

async fn what_cannot_travel_pins_with_a_reason(pair: &Pair) {
    let mut client = pair.client("app").await;
    assert_eq!(client.pins().await, [""; 0]);
    client.query("CREATE TEMP TABLE cart (id serial)").await;
    assert_eq!(client.pins().await, ["temporary table \"cart\""]);
    client.query("DROP TABLE cart; CREATE TEMP SEQUENCE s").await;
    assert_eq!(client.pins().await, ["temporary sequence \"s\""]);
    client
        .query("DROP SEQUENCE s; CREATE FUNCTION pg_temp.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await;
    assert!(client.pins().await[0].starts_with("temporary function \""));
    client.query("DROP FUNCTION pg_temp.f").await;
    assert_eq!(client.pins().await, [""; 0]);
    client
        .query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; DECLARE d CURSOR FOR SELECT 1; COMMIT")
        .await;
    assert_eq!(client.pins().await, ["cursor \"c\" WITH HOLD"]);
    client.query("CLOSE c").await;
    assert_eq!(client.pins().await, [""; 0]);
}

async fn a_lock_whose_count_nobody_can_know_pins_until_it_is_released(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SELECT pg_advisory_lock(n % 2) FROM generate_series(1, 5) n").await;
    assert_eq!(
        client.pins().await,
        [
            "advisory lock (0) held an unknown number of times",
            "advisory lock (1) held an unknown number of times"
        ]
    );
    client.query("SELECT pg_advisory_unlock_all()").await;
    assert_eq!(client.pins().await, [""; 0]);
}

async fn a_lock_that_a_function_of_the_database_takes_pins(pair: &Pair) {
    let mut client = pair.client("app").await;
    client
        .query("CREATE FUNCTION public.take() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(12)'")
        .await;
    client.query("SELECT public.take()").await;
    assert_eq!(client.pins().await, ["advisory lock (12) held an unknown number of times"]);
    client.query("SELECT pg_advisory_unlock_all(); DROP FUNCTION public.take()").await;
}

async fn a_large_unnamed_statement_pins_and_is_not_destroyed_by_the_question(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.prepare("", &format!("SELECT '{}'", "x".repeat(70_000)), &[]).await;
    assert_eq!(client.pins().await, ["an unnamed prepared statement of more than 64 KiB"]);
    assert_eq!(client.execute("", &[]).await.len(), 70_000);
}

async fn what_the_target_does_not_take_is_named(pair: &Pair) {
    pair.old
        .psql(
            "CREATE TYPE public.only_here AS ENUM ('a'); CREATE TABLE public.only_here_too (a int); \
            GRANT SELECT ON public.only_here_too TO app; CREATE ROLE only_here_role; GRANT only_here_role TO app",
        )
        .unwrap();
    let mut client = pair.client("app").await;
    client.prepare("typed", "SELECT $1::only_here", &[]).await;
    client.prepare("table", "SELECT * FROM only_here_too", &[]).await;
    client.query("SET ROLE only_here_role").await;
    let state = client.state().await;
    let Err(RestoreError::Parts(parts)) = client.twin(&state).await else {
        panic!("the target took what it does not have");
    };
    let mut lost: Vec<&str> = parts.iter().map(|part| part.what.as_str()).collect();
    lost.sort_unstable();
    assert_eq!(
        lost,
        ["prepared statement \"table\"", "prepared statement \"typed\"", "role \"only_here_role\""]
    );
}

/// `debug_parallel_query` came with 16, `force_parallel_mode` went with it.
async fn a_setting_that_the_other_major_does_not_know_is_named(pair: &Pair) {
    if pair.old.major >= 16 || pair.new.major < 16 {
        return;
    }
    let mut client = pair.client("app").await;
    client.query("SET force_parallel_mode = on").await;
    let state = client.state().await;
    let error = client.twin(&state).await.unwrap_err();
    assert_eq!(
        error.reasons(),
        ["setting \"force_parallel_mode\": unrecognized configuration parameter \"force_parallel_mode\""]
    );
    assert_eq!(error.sqlstate().as_str(), "42704");
}

async fn a_snapshot_leaves_no_trace(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("CREATE SEQUENCE s; SELECT nextval('s'); SET work_mem = '3MB'; LISTEN a").await;
    client.prepare("named", "SELECT 1", &[]).await;
    let looks = [
        "SELECT lastval()",
        "SELECT string_agg(name, ',') FROM pg_prepared_statements",
        "SELECT string_agg(name || setting, ',' ORDER BY name) FROM pg_settings WHERE source = 'session'",
        "SELECT count(*) FROM pg_cursors",
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
        "SELECT pg_my_temp_schema()",
        "SELECT string_agg(c, ',') FROM pg_listening_channels() c",
    ];
    let mut before = Vec::new();
    for look in looks {
        before.push(client.query(look).await);
    }
    client.prepare("", "SELECT $1::int + 1", &[]).await;
    let state = client.state().await;
    assert_eq!(client.tracker.state().freshness(), Freshness::Fresh);
    assert_eq!(state, client.state().await, "asking does not change the answer");
    assert_eq!(client.execute("", &["1"]).await, "2", "the unnamed statement is still there");
    for (look, before) in looks.into_iter().zip(before) {
        assert_eq!(client.query(look).await, before, "{look}");
    }
    assert_eq!(state.losses(), ["currval and lastval"]);
    client.query("DROP SEQUENCE s").await;
}

async fn a_rolled_back_change_is_no_change(pair: &Pair) {
    let mut client = pair.client("app").await;
    let before = client.state().await;
    client.query("BEGIN; SET work_mem = '7MB'; LISTEN x; ROLLBACK").await;
    assert_eq!(client.tracker.state().freshness(), Freshness::Stale);
    assert_eq!(client.state().await.differences(&before), [""; 0]);
}

async fn a_refresh_applies_only_what_differs(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.query("SET work_mem = '1MB'; SET app.a = '1'; SET ROLE reader; LISTEN a; LISTEN b").await;
    client.query("SELECT pg_advisory_lock(601), pg_advisory_lock(602); PREPARE p AS SELECT 1").await;
    client.prepare("gone", "SELECT 1", &[]).await;
    client.prepare("changed", "SELECT 1", &[]).await;
    let state = client.state().await;
    let mut twin = client.twin(&state).await.unwrap();
    client
        .query(
            "RESET work_mem; RESET ROLE; SET TimeZone = 'UTC'; RESET app.a; SET statement_timeout = '1min'",
        )
        .await;
    client.query("UNLISTEN a; LISTEN c; DEALLOCATE p; DEALLOCATE gone; DEALLOCATE changed").await;
    client.prepare("changed", "SELECT 2", &[]).await;
    client.prepare("", "SELECT 3", &[]).await;
    client.query("SELECT pg_advisory_unlock(601)").await;
    client.query("SELECT pg_advisory_lock(602)").await;
    client.prepare("", "SELECT 3", &[]).await;
    let started = std::time::Instant::now();
    let state = client.state().await;
    let asked = started.elapsed();
    assert!(!twin.is_complete(&state));
    twin.refresh(&state, LockPatience::Wait(PATIENCE), deadline()).await.unwrap();
    println!("  asked in {asked:?}, refreshed in {:?}", started.elapsed() - asked);
    assert!(twin.is_complete(&state));
    client.connection = *twin.into_connection();
    client.tracker.on_switch(&[]);
    assert_eq!(client.execute("", &[]).await, "3");
    assert_eq!(client.state().await.differences(&state), [""; 0]);
    assert_eq!(client.query("SHOW work_mem").await, "4MB");
    assert_eq!(client.query("SHOW statement_timeout").await, "1min");
    assert_eq!(client.query("SELECT current_user").await, "app");
    assert_eq!(client.execute("changed", &[]).await, "2");
    assert_eq!(client.error("EXECUTE gone").await, "26000");
    for expected in ["t", "t", "f"] {
        assert_eq!(client.query("SELECT pg_advisory_unlock(602)").await, expected);
    }
}

async fn a_refresh_keeps_the_unnamed_statement_that_its_own_steps_destroy(pair: &Pair) {
    let mut client = pair.client("app").await;
    client.prepare("", "SELECT 'mine'", &[]).await;
    let state = client.state().await;
    let mut twin = client.twin(&state).await.unwrap();
    client.query("SET work_mem = '11MB'").await;
    client.prepare("", "SELECT 'mine'", &[]).await;
    let state = client.state().await;
    twin.refresh(&state, LockPatience::Try, deadline()).await.unwrap();
    assert!(twin.is_complete(&state));
    client.connection = *twin.into_connection();
    assert_eq!(client.execute("", &[]).await, "mine");
}

async fn no_statement_of_our_own_is_left_where_the_session_has_none(pair: &Pair) {
    let mut client = pair.client("app").await;
    let state = client.state().await;
    let mut twin = client.twin(&state).await.unwrap();
    client.query("SET work_mem = '12MB'").await;
    let state = client.state().await;
    twin.refresh(&state, LockPatience::Try, deadline()).await.unwrap();
    client.connection = *twin.into_connection();
    let mut batch = bytes::BytesMut::new();
    frontend::bind(&mut batch, b"", b"", &[]);
    frontend::sync(&mut batch);
    let replies = client.send(&batch).await;
    assert_eq!(replies[0].error.as_ref().unwrap().sqlstate().as_str(), "26000");
}

async fn a_twin_whose_server_process_ended_is_known_to_be_dead(pair: &Pair) {
    let mut client = pair.client("app").await;
    let state = client.state().await;
    let mut twin = client.twin(&state).await.unwrap();
    assert!(twin.is_alive());
    pair.new.psql(&format!("SELECT pg_terminate_backend({}, 60000)", twin.pid())).unwrap();
    let deadline = deadline();
    while twin.is_alive() {
        assert!(tokio::time::Instant::now() < deadline, "it still seems to live");
        tokio::task::yield_now().await;
    }
}

async fn a_lock_that_a_view_takes_pins(pair: &Pair) {
    pair.old.psql("CREATE VIEW public.next_job AS SELECT pg_try_advisory_lock(4711) AS mine").unwrap();
    pair.old.psql("GRANT SELECT ON public.next_job TO app").unwrap();
    let mut client = pair.client("app").await;
    assert_eq!(client.query("SELECT mine FROM next_job").await, "t");
    assert_eq!(client.pins().await, ["advisory lock (4711) held an unknown number of times"]);
    pair.old.psql("DROP VIEW public.next_job").unwrap();
}

/// The lock goes from one session to the other between the two snapshots.
async fn a_lock_that_changed_hands_is_waited_for_in_the_hold(pair: &Pair) {
    let (mut giver, mut taker) = (pair.client("app").await, pair.client("app").await);
    giver.query("SELECT pg_advisory_lock(701)").await;
    let state = giver.state().await;
    let mut giving = giver.twin(&state).await.unwrap();
    giver.query("SELECT pg_advisory_unlock(701)").await;
    taker.query("SELECT pg_advisory_lock(701)").await;
    let taken = taker.state().await;
    let mut taking = taker.twin(&taken).await.unwrap();
    assert!(!taking.is_complete(&taken), "the giver's twin still has it");
    let given = giver.state().await;
    let (took, gave) = tokio::join!(
        taking.refresh(&taken, LockPatience::Wait(PATIENCE), deadline()),
        giving.refresh(&given, LockPatience::Try, deadline()),
    );
    took.unwrap();
    gave.unwrap();
    assert!(taking.is_complete(&taken) && giving.is_complete(&given));
}

#[tokio::test]
async fn what_cannot_travel_is_named_and_a_refresh_is_exact() {
    let pair = &Pair::start();
    each!(
        pair,
        what_cannot_travel_pins_with_a_reason,
        a_lock_whose_count_nobody_can_know_pins_until_it_is_released,
        a_lock_that_a_function_of_the_database_takes_pins,
        a_large_unnamed_statement_pins_and_is_not_destroyed_by_the_question,
        what_the_target_does_not_take_is_named,
        a_setting_that_the_other_major_does_not_know_is_named,
        a_snapshot_leaves_no_trace,
        a_rolled_back_change_is_no_change,
        a_refresh_applies_only_what_differs,
        a_refresh_keeps_the_unnamed_statement_that_its_own_steps_destroy,
        no_statement_of_our_own_is_left_where_the_session_has_none,
        a_twin_whose_server_process_ended_is_known_to_be_dead,
        a_lock_that_a_view_takes_pins,
        a_lock_that_changed_hands_is_waited_for_in_the_hold,
    );
}

/// Statements that change a session; `#` is a small number, other in each use.
const CHANGES: &[&str] = &[
    "SET work_mem = '#MB'",
    "SET app.k# = '#'",
    "SELECT set_config('app.k#', '#', false)",
    "BEGIN; SET LOCAL app.k# = 'local'; COMMIT",
    "BEGIN; SET app.k# = 'gone'; SET work_mem = '9MB'; ROLLBACK",
    "RESET work_mem",
    "RESET ALL",
    "SET search_path = shop, tenant_a",
    "RESET search_path",
    "SET statement_timeout = '#min'",
    "SET client_encoding = 'LATIN1'",
    "RESET client_encoding",
    "SET ROLE reader",
    "RESET ROLE",
    "LISTEN c#",
    "UNLISTEN c#",
    "UNLISTEN *",
    "DEALLOCATE ALL; PREPARE p# AS SELECT #; SELECT 1",
    "PREPARE q AS SELECT 1; DEALLOCATE q",
    "SELECT pg_advisory_lock(80#)",
    "SELECT pg_try_advisory_lock(80#, 1)",
    "SELECT pg_advisory_unlock(80#)",
    "SELECT pg_advisory_unlock(80#, 1), pg_advisory_lock_shared(80#)",
    "SELECT pg_advisory_unlock_all()",
    "INSERT INTO public.hits VALUES (#)",
    "DISCARD ALL",
];

/// A small generator, so that a failure is run again by its seed (xorshift64).
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn change(client: &mut Session, seed: &mut Seed, pool: u64) {
    let template = CHANGES[seed.below(CHANGES.len() as u64) as usize];
    let mut sql = String::new();
    for (at, piece) in template.split('#').enumerate() {
        if at > 0 {
            sql.push_str(&(1 + pool * 3 + seed.below(3)).to_string());
        }
        sql.push_str(piece);
    }
    println!("  {sql}");
    if seed.below(4) > 0 || sql.contains(';') {
        client.query(&sql).await;
        return;
    }
    client.prepare("", &sql, &[]).await;
    client.execute("", &[]).await;
}

#[tokio::test]
async fn a_refreshed_twin_is_the_session_whatever_it_did() {
    let pair = &Pair::start();
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    for round in 0..20 {
        let mut seed = Seed(first.wrapping_add(round * 7919) | 1);
        println!("seed {}", seed.0);
        let mut client =
            if seed.below(2) == 0 { pair.client("app").await } else { pair.client_of_new("app").await };
        for _ in 0..seed.below(10) {
            change(&mut client, &mut seed, round).await;
        }
        let state = client.state().await;
        assert_eq!(state.pins(), [""; 0]);
        let mut twin = client.twin(&state).await.unwrap();
        for _ in 0..seed.below(10) {
            change(&mut client, &mut seed, round).await;
        }
        let stale = client.tracker.state().freshness();
        let now = client.state().await;
        assert!(stale == Freshness::Stale || now.differences(&state).is_empty(), "fresh, but changed");
        assert_eq!(now.pins(), [""; 0]);
        twin.refresh(&now, LockPatience::Wait(PATIENCE), deadline()).await.unwrap();
        let old = std::mem::replace(&mut client.connection, *twin.into_connection());
        old.terminate().await;
        client.tracker.on_switch(&[]);
        let there = client.state().await;
        assert_eq!(there.differences(&now), [""; 0]);
        for (lock, count) in now.locks {
            let shared = if lock.shared { "_shared" } else { "" };
            let key = format!("{lock}");
            let key = &key[key.find('(').unwrap()..];
            for _ in 0..count {
                assert_eq!(
                    client.query(&format!("SELECT pg_advisory_unlock{shared}{key}")).await,
                    "t",
                    "{lock}"
                );
            }
            assert_eq!(client.query(&format!("SELECT pg_advisory_unlock{shared}{key}")).await, "f", "{lock}");
        }
        client.connection.terminate().await;
    }
}
