//! Provision and copy between two real servers of different majors, under writes, and their undo.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod moving;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freehold::control::moves::endpoint::Endpoint;
use freehold::control::{
    ControlSettings, moves::parts::verify, moves::steps::copy, moves::steps::preflight,
    moves::steps::provision,
};
use freehold::lab::{Major, Majors, Postgres, roots};
use freehold::model::StepEvent;
use freehold::model::{MoveStep, SslMode, SystemRecord};
use freehold::system::pipe::RawSession;
use freehold::system::{
    Session, SystemAccess, SystemError, fence, marker, own_roles, pipe, slots, subscriptions,
};
use freehold::tls::{ClientTls, Connector, Roots};
use moving::dumps::{Dumps, assert_same};
use moving::{Moving, Pair, builder, fingerprint};
use tokio::time::Instant;

fn load_shop(source: &Postgres) {
    source.psql("CREATE DATABASE shop").unwrap();
    source.psql_in("shop", include_str!("moving/shop.sql")).unwrap();
    // The last one, or it would refuse the rest.
    source
        .psql_in("shop", "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION sales.watch()")
        .unwrap();
}

async fn provisioned(moving: &mut Moving) {
    let ctx = &mut moving.ctx;
    preflight::run(ctx).await.unwrap();
    ctx.note(MoveStep::Provision, StepEvent::Started).await.unwrap();
    provision::run(ctx).await.unwrap();
    ctx.note(MoveStep::Provision, StepEvent::Done).await.unwrap();
}

async fn copied(moving: &mut Moving) {
    provisioned(moving).await;
    moving.ctx.note(MoveStep::Copy, StepEvent::Started).await.unwrap();
    copy::run(&mut moving.ctx).await.unwrap();
}

async fn undone(moving: &mut Moving) {
    copy::undo(&mut moving.ctx).await.unwrap();
    provision::undo(&mut moving.ctx).await.unwrap();
}

/// What `catchup` does, without its patience.
async fn followed(moving: &Moving, source: &Session, target: &Session) {
    let ends = moving.ctx.ends();
    let name = ends.names().forward();
    let role = ends.names().replication_role();
    own_roles::create_replication(source, &role, "secret", source.dbname()).await.unwrap();
    target.act_as_replica().await.unwrap();
    let address = &ends.source.system.address;
    let conninfo = format!(
        "host={} port={} user={role} password=secret dbname={}",
        address.host,
        address.port,
        source.dbname()
    );
    let new =
        subscriptions::NewSubscription { name: &name, conninfo: &conninfo, publication: &name, slot: &name };
    subscriptions::create_disabled(target, &new).await.unwrap();
    subscriptions::enable(target, &name).await.unwrap();
}

async fn arrived(moving: &Moving, source: &Session, target: &Session, token: &str) {
    marker::write(source, moving.ctx.id(), "test", token).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    marker::wait_until_seen(target, moving.ctx.id(), "test", token, deadline).await.unwrap();
}

/// Inserts, updates, deletes and truncates until it is told to stop; returns the number of transactions.
async fn write_until(stop: Arc<AtomicBool>, pair: Arc<Pair>) -> u64 {
    let client = pair.source.connect("shop").await.unwrap();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let n = i64::try_from(done).unwrap();
        let sql = format!(
            "BEGIN;
             INSERT INTO sales.accounts (name, balance) VALUES ('written {n}', {n} + 1);
             UPDATE sales.accounts SET balance = balance + 1 WHERE id = 1 + {n} % 500;
             DELETE FROM sales.accounts WHERE id = 501 + {n} - 20 AND id > 510;
             INSERT INTO sales.orders VALUES (100000 + {n}, 1, date '2026-03-01' + ({n} % 300)::int, 'new');
             UPDATE sales.orders SET day = date '2025-01-01' WHERE id = {n} + 1;
             UPDATE sales.large SET filler = 'changed', wide = repeat('x', 5000) WHERE id = {n} * 37 % 200000;
             UPDATE sales.full_identity SET b = b || 'x' WHERE a = 2 AND length(b) < 50;
             INSERT INTO sales.history (what) VALUES ('written');
             INSERT INTO sales.empty VALUES ({n});
             SELECT nextval('sales.free_numbers');
             COMMIT"
        );
        client.batch_execute(&sql).await.unwrap();
        if done % 50 == 49 {
            client.batch_execute("TRUNCATE sales.empty").await.unwrap();
        }
        done += 1;
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_copied_under_writes_and_the_undo_leaves_both_systems_as_they_were() {
    let pair = Arc::new(Pair::start());
    load_shop(&pair.source);
    let before = (fingerprint(&pair.source, "shop"), fingerprint(&pair.target, "shop"));
    let mut moving = Moving::of(&pair.source, &pair.target, "shop", &["shop_app"]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(Arc::clone(&stop), Arc::clone(&pair)));
    copied(&mut moving).await;
    let source = moving.ctx.source_session().await.unwrap();
    let target = moving.ctx.target_session().await.unwrap();
    followed(&moving, &source, &target).await;
    arrived(&moving, &source, &target, "while it is written to").await;
    stop.store(true, Ordering::Relaxed);
    let transactions = writer.await.unwrap();
    assert!(transactions > 20, "the copy was hardly written to: {transactions}");
    arrived(&moving, &source, &target, "at the end").await;

    let ends = moving.ctx.ends();
    let (compared, differing) = verify::compare_all(&ends.source, &ends.target, 2).await.unwrap();
    let differing: Vec<String> = differing.iter().map(ToString::to_string).collect();
    assert_eq!(differing, Vec::<String>::new(), "{transactions} transactions");
    assert_eq!(compared, 12);
    same_schema(&pair);
    same_surroundings(&pair);
    let state = subscriptions::state(&target, &ends.names().forward()).await.unwrap().unwrap();
    assert!(state.enabled && state.apply_errors == 0 && state.conflicts == 0, "{state:?}");
    let progress = moving.ctx.progress.current();
    assert_eq!((progress.tables_copied, progress.bytes_copied), (12, progress.bytes_total));
    assert!(progress.rows_copied >= 200_000);

    drop((source, target));
    undone(&mut moving).await;
    undone(&mut moving).await;
    assert_eq!(fingerprint(&pair.target, "shop"), before.1);
    assert_eq!(fingerprint(&pair.source, "shop"), before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_superuser_can_create_comes_across_and_everything_has_its_owner() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE shop").unwrap();
    pair.source.psql_in("shop", include_str!("moving/superuser.sql")).unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "shop", &["shop_owner"]).await;
    copied(&mut moving).await;
    same_schema(&pair);
    let owned = "SELECT refclassid::regclass, classid::regclass, count(*) FROM pg_shdepend
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'shop') AND deptype = 'o'
          AND refobjid = 'shop_owner'::regrole GROUP BY 1, 2 ORDER BY classid";
    let of_owner = [&pair.source, &pair.target].map(|server| server.psql_in("shop", owned).unwrap());
    assert_eq!(of_owner[0], of_owner[1]);
    assert!(of_owner[0].lines().count() >= 14, "{}", of_owner[0]);
    let ends = moving.ctx.ends();
    let (compared, differing) = verify::compare_all(&ends.source, &ends.target, 2).await.unwrap();
    assert_eq!((compared, differing), (5, Vec::new()));
    let of_move = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^freehold_(apply|read)_'";
    for server in [&pair.source, &pair.target] {
        assert_eq!(server.psql(of_move).unwrap(), "0");
    }
}

const TYPE_OIDS: &str =
    "SELECT n.nspname, t.typname, t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.oid >= 16384 AND n.nspname <> 'freehold' ORDER BY 1, 2";

/// A database with types of every kind, in whatever refers to a type.
const TYPES: &str = "
    CREATE SCHEMA t; SET search_path = t;
    CREATE TABLE dropped (i int); DROP TABLE dropped;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
    CREATE TYPE place AS (x int, y float8, m mood);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0) DEFAULT 1;
    CREATE DOMAIN calm AS mood CHECK (VALUE <> 'sad'::mood);
    CREATE FUNCTION far(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE RETURN $1 - $2;
    CREATE TYPE span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = far);
    CREATE TABLE people (id int PRIMARY KEY, m mood NOT NULL DEFAULT 'ok' CHECK (m <> 'sad'), ms mood[], p place, ps place[],
        n positive, c calm, s span, ss span_multirange, CHECK (people IS NOT NULL));
    CREATE INDEX ON people (m) WHERE m = 'glad'::mood;
    CREATE FUNCTION of_row(people) RETURNS mood LANGUAGE sql RETURN $1.m;
    CREATE FUNCTION defaults(mood DEFAULT 'ok', mood[] DEFAULT ARRAY['sad'::mood]) RETURNS place LANGUAGE sql RETURN ROW(1, 2, $1)::place;
    CREATE VIEW seen AS SELECT people, m, ms, defaults(m) AS d FROM people WHERE m = ANY ('{ok,glad}'::mood[]);
    CREATE TABLE moods (m mood, i int) PARTITION BY LIST (m);
    CREATE TABLE glad PARTITION OF moods FOR VALUES IN ('glad');
    CREATE TABLE of_type OF place;
    CREATE TABLE child () INHERITS (of_type);
    CREATE POLICY p ON people USING (m = 'ok'::mood);
    CREATE FUNCTION same(mood, mood) RETURNS bool LANGUAGE sql IMMUTABLE RETURN $1 = $2;
    CREATE OPERATOR === (LEFTARG = mood, RIGHTARG = mood, FUNCTION = same);
    CREATE FUNCTION coalesce_mood(mood, mood) RETURNS mood LANGUAGE sql IMMUTABLE RETURN coalesce($2, $1);
    CREATE AGGREGATE last_mood (mood) (SFUNC = coalesce_mood, STYPE = mood);
    CREATE FUNCTION number_of(mood) RETURNS int LANGUAGE sql IMMUTABLE RETURN 1;
    CREATE CAST (mood AS int) WITH FUNCTION number_of(mood);
    INSERT INTO people VALUES (1, 'ok', '{sad,glad}', '(1,2,ok)', '{\"(1,2,ok)\"}', 3, 'glad', '[1,2)', '{[1,2),[3,4)}');
    INSERT INTO moods VALUES ('glad', 1);
    CREATE MATERIALIZED VIEW counted AS SELECT m, count(*) FROM people GROUP BY m";

async fn types_are_kept(pair: Pair, extensions: &[&str]) {
    pair.source.psql("CREATE DATABASE shop").unwrap();
    for extension in extensions {
        pair.source.psql_in("shop", &format!("CREATE EXTENSION {extension}")).unwrap();
    }
    pair.source.psql_in("shop", TYPES).unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "shop", &[]).await;
    copied(&mut moving).await;
    let of_both = [&pair.source, &pair.target].map(|server| server.psql_in("shop", TYPE_OIDS).unwrap());
    let [source, target] = of_both.each_ref().map(|text| text.lines().collect::<Vec<_>>());
    assert!(source.len() > 20, "{source:#?}");
    let missing: Vec<&&str> = source.iter().filter(|line| !target.contains(line)).collect();
    // A table whose check stands for its whole row: the row type's number stands in the constraint before
    // anybody can change it.
    let other = |line: &&&&str| line.starts_with("t|people|");
    assert!(missing.iter().all(|line| other(&line)), "{missing:#?}");
    assert_eq!(moving.ctx.facts().notes.get(copy::NOTE_OTHER_OIDS).map(String::as_str), Some("t.people"));
    same_schema(&pair);
    let session = moving.ctx.target_session().await.unwrap();
    freehold::system::type_oids::check(&session).await.unwrap();
    let left = "SELECT proname FROM pg_proc WHERE pronamespace = 'freehold'::regnamespace";
    assert_eq!(pair.target.psql_in("shop", left).unwrap(), "recall_sequences");
    let ends = moving.ctx.ends();
    let (_, differing) = verify::compare_all(&ends.source, &ends.target, 2).await.unwrap();
    assert_eq!(differing, Vec::new());
    let used = "SELECT seen, t.of_row(one), t.defaults(), one::text FROM t.people one, t.seen; SELECT * FROM t.counted, t.moods";
    let answers = [&pair.source, &pair.target].map(|server| server.psql_in("shop", used).unwrap());
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_keep_their_numbers_in_a_move_to_another_major() {
    types_are_kept(Pair::start(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_extensions_keep_their_numbers() {
    let start = || builder(Major::oldest()).start().unwrap();
    let pair = Pair { source: start(), target: start() };
    types_are_kept(pair, &["hstore", "citext", "ltree", "cube", "isn", "pg_trgm"]).await;
}

/// `pg_dump` of both sides by the same program is the same text, but for what the platform changes on
/// purpose.
fn same_schema(pair: &Pair) {
    let dumps = Dumps::of(&pair.target.bin);
    let [source, target] = [&pair.source, &pair.target].map(|server| dumps.schema(server, "shop"));
    assert_same("schema", &source, &target);
}

/// Roles with their verifiers, memberships, settings, and what is made of rows.
fn same_surroundings(pair: &Pair) {
    let same = |dbname: &str, sql: &str| {
        let (source, target) =
            (pair.source.psql_in(dbname, sql).unwrap(), pair.target.psql_in(dbname, sql).unwrap());
        assert_eq!(source, target, "{sql}");
        assert!(!source.is_empty(), "{sql}");
    };
    same(
        "postgres",
        "SELECT rolname, rolpassword, rolcanlogin, rolconnlimit, rolvaliduntil FROM pg_authid
        WHERE lower(rolname) LIKE 'shop%' ORDER BY 1",
    );
    same(
        "postgres",
        "SELECT pg_get_userbyid(roleid), pg_get_userbyid(member) FROM pg_auth_members
        WHERE lower(pg_get_userbyid(member)) LIKE 'shop%' ORDER BY 1, 2",
    );
    same(
        "shop",
        "SELECT pg_get_userbyid(setrole), setdatabase <> 0, c FROM pg_db_role_setting, unnest(setconfig) c
        WHERE c NOT LIKE 'freehold.move=%' AND pg_get_userbyid(setrole) NOT LIKE 'freehold%' ORDER BY 1, 2, 3",
    );
    same("shop", "SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype, shobj_description(oid, 'pg_database')
        FROM pg_database WHERE datname = 'shop'");
    // Filled when the rows were there; the writes went on since the source's own refresh.
    let views = "SELECT sum(n) >= 503, sum(n) = (SELECT n FROM sales.aa_of_summary) FROM sales.zz_summary";
    assert_eq!(pair.target.psql_in("shop", views).unwrap(), "t|t");
    same("shop", "SELECT ispopulated FROM pg_matviews ORDER BY matviewname");
    same("shop", "SELECT last_value, is_called FROM sales.never_used");
    same("shop", "SELECT last_value, is_called FROM sales.down");
    let positive = pair.target.psql_in("shop", "SELECT last_value >= 114 FROM sales.free_numbers").unwrap();
    assert_eq!(positive, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_can_be_run_twice_and_an_interrupted_copy_begins_again() {
    let pair = Pair::start();
    load_shop(&pair.source);
    let before = (fingerprint(&pair.source, "shop"), fingerprint(&pair.target, "shop"));
    let mut moving = Moving::of(&pair.source, &pair.target, "shop", &[]).await;
    provisioned(&mut moving).await;
    let made = (fingerprint(&pair.source, "shop"), fingerprint(&pair.target, "shop"));
    provision::run(&mut moving.ctx).await.unwrap();
    assert_eq!((fingerprint(&pair.source, "shop"), fingerprint(&pair.target, "shop")), made);

    moving.ctx.note(MoveStep::Copy, StepEvent::Started).await.unwrap();
    // Dropped in the middle, as by a crash: at whatever it is doing then.
    for _ in 0..3 {
        let cut = tokio::time::timeout(Duration::from_millis(700), copy::run(&mut moving.ctx)).await;
        if cut.is_ok() {
            break;
        }
    }
    copy::run(&mut moving.ctx).await.unwrap();
    let ends = moving.ctx.ends();
    let (_, differing) = verify::compare_all(&ends.source, &ends.target, 2).await.unwrap();
    assert_eq!(differing.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    let slots = pair.source.psql("SELECT count(*) FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "1");

    undone(&mut moving).await;
    assert_eq!(fingerprint(&pair.target, "shop"), before.1);
    assert_eq!(fingerprint(&pair.source, "shop"), before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_of_a_move_that_never_began_touches_nothing() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE bystander").unwrap();
    pair.target.psql("CREATE DATABASE bystander").unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "bystander", &[]).await;
    undone(&mut moving).await;
    assert_eq!(pair.target.psql("SELECT 1 FROM pg_database WHERE datname = 'bystander'").unwrap(), "1");
    // And where provisioning began and found the name taken, the other's database stays.
    moving.ctx.note(MoveStep::Provision, StepEvent::Started).await.unwrap();
    provision::run(&mut moving.ctx).await.unwrap_err();
    undone(&mut moving).await;
    assert_eq!(pair.target.psql("SELECT 1 FROM pg_database WHERE datname = 'bystander'").unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_refuses_schema_changes_and_lets_temporary_things_and_rows_pass() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE guarded").unwrap();
    let setup = "CREATE ROLE guarded_app LOGIN PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO guarded_app;
        SET ROLE guarded_app; CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW v AS SELECT 1 AS one;
        CREATE UNIQUE INDEX ON v (one);
        CREATE TABLE parts (id int) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (2); ALTER TABLE part REPLICA IDENTITY FULL;";
    pair.source.psql_in("guarded", setup).unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "guarded", &["guarded_app"]).await;
    provisioned(&mut moving).await;

    let app = pair.source.connect_as("guarded", "guarded_app", "secret").await.unwrap();
    let refused = [
        "CREATE TABLE u (id int)",
        "CREATE TABLE u AS SELECT 1 AS one",
        "ALTER TABLE t ADD COLUMN c int",
        "DROP TABLE t",
        "CREATE INDEX ON t (id)",
        "CREATE INDEX CONCURRENTLY ON t (id)",
        "DROP INDEX CONCURRENTLY v_one_idx",
        "ALTER TABLE parts DETACH PARTITION part CONCURRENTLY",
        "DROP TABLE t -- refresh materialized view",
        "GRANT SELECT ON t TO PUBLIC",
        "COMMENT ON TABLE t IS 'x'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ];
    for sql in refused {
        let error = app.batch_execute(sql).await.expect_err(sql);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55006", "{sql}: {error}");
        assert!(error.message().contains(&format!("move {}", moving.ctx.id())), "{error}");
        assert!(error.hint().unwrap().contains("CANCEL MOVE"), "{error:?}");
    }
    let passes = [
        "CREATE TEMPORARY TABLE x (id int PRIMARY KEY, c text DEFAULT 'a')",
        "CREATE INDEX ON x (c)",
        "ALTER TABLE x DROP COLUMN c",
        "DROP TABLE x",
        "CREATE TEMPORARY TABLE y ON COMMIT DROP AS SELECT 1 AS one",
        "SELECT 1 AS one INTO TEMPORARY z",
        "CREATE TABLE IF NOT EXISTS t (id int)",
        "DROP TABLE IF EXISTS nothing",
        "REFRESH MATERIALIZED VIEW v",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "REINDEX TABLE t",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX INDEX CONCURRENTLY v_one_idx",
        "CLUSTER t USING t_pkey",
        "ANALYZE t",
        "VACUUM t",
        "VACUUM FULL t",
        "INSERT INTO t VALUES (1)",
        "TRUNCATE t",
    ];
    for sql in passes {
        app.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    pair.source.psql_in("guarded", "CREATE TABLE by_the_platform ()").unwrap();
    undone(&mut moving).await;
    app.batch_execute("ALTER TABLE t ADD COLUMN c int").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_a_transaction_older_than_the_guard_is_copied_too() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE racing").unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "racing", &[]).await;
    let client = pair.source.connect("racing").await.unwrap();
    client.batch_execute("BEGIN; CREATE TABLE late (id int PRIMARY KEY)").await.unwrap();
    provisioned(&mut moving).await;
    let commit = async {
        // Until the creation of the slot waits for the transaction.
        let observer = pair.source.connect("postgres").await.unwrap();
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        while observer.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        client.batch_execute("INSERT INTO late VALUES (1); COMMIT").await.unwrap();
    };
    let (outcome, ()) = tokio::join!(copy::run(&mut moving.ctx), commit);
    outcome.unwrap();
    assert_eq!(pair.target.psql_in("racing", "SELECT id FROM late").unwrap(), "1");
    let name = moving.ctx.ends().names().forward();
    let published =
        format!("SELECT count(*) FROM pg_publication_tables WHERE pubname = '{name}' AND tablename = 'late'");
    assert_eq!(pair.source.psql_in("racing", &published).unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_shuts_everybody_out_and_gives_every_right_back_exactly() {
    let pair = Pair::start();
    let setup = "CREATE ROLE fenced_owner LOGIN PASSWORD 's'; CREATE ROLE fenced_app LOGIN PASSWORD 's';
        CREATE ROLE fenced_friend LOGIN PASSWORD 's'; CREATE DATABASE fenced OWNER fenced_owner CONNECTION LIMIT 55";
    for statement in setup.split(';') {
        pair.source.psql(statement).unwrap();
    }
    let cases = [
        "SELECT 1",
        "REVOKE CONNECT ON DATABASE fenced FROM PUBLIC; GRANT CONNECT ON DATABASE fenced TO fenced_app WITH GRANT OPTION",
        "SET ROLE fenced_app; GRANT CONNECT ON DATABASE fenced TO fenced_friend",
        "REVOKE TEMPORARY ON DATABASE fenced FROM PUBLIC",
    ];
    let moving = Moving::of(&pair.source, &pair.target, "fenced", &[]).await;
    let session = moving.ctx.source_session().await.unwrap();
    for case in cases {
        pair.source.psql(case).unwrap();
        let before = fence::read(&session, "fenced").await.unwrap();
        let idle = pair.source.connect_as("fenced", "fenced_app", "s").await.unwrap();
        let saved = fence::shut(&session, "fenced").await.unwrap().saved();
        for role in ["fenced_owner", "fenced_app", "fenced_friend"] {
            assert!(pair.source.connect_as("fenced", role, "s").await.is_err(), "{role} got in after {case}");
        }
        idle.batch_execute("SELECT 1").await.unwrap();
        let left = fence::writers(&session, "fenced", &[], &[]).await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].role, "fenced_app");
        // A connection of a proxy that is being cleaned is waited for.
        let pid: i32 = idle.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let looking = async {
            while fence::writers(&session, "fenced", &[pid], &[]).await.unwrap().is_empty() {}
            assert_eq!(fence::terminate_others(&session, "fenced", &[pid], &[]).await.unwrap(), []);
        };
        let (cleaned, ()) = tokio::join!(idle.batch_execute("SELECT pg_sleep(0.3)"), looking);
        cleaned.unwrap();
        assert_eq!(fence::writers(&session, "fenced", &[pid], &[]).await.unwrap(), []);
        let ended = fence::terminate_others(&session, "fenced", &[], &[]).await.unwrap();
        assert_eq!(ended.len(), 1);
        while !fence::writers(&session, "fenced", &[], &[]).await.unwrap().is_empty() {}
        fence::restore(&session, "fenced", &saved).await.unwrap();
        fence::restore(&session, "fenced", &saved).await.unwrap();
        let after = fence::read(&session, "fenced").await.unwrap();
        assert_eq!(
            (after.grants, after.connection_limit),
            (before.grants, before.connection_limit),
            "{case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_a_transaction_keeps_from_being_made_names_it_and_is_not_left_behind() {
    let pair = Arc::new(Pair {
        source: builder(Major::oldest()).start().unwrap(),
        target: builder(Major::newest()).start().unwrap(),
    });
    pair.source.psql("CREATE DATABASE waiting").unwrap();
    let settings = freehold::control::ControlSettings {
        slot_timeout: Duration::from_millis(300),
        ..freehold::control::ControlSettings::default()
    };
    let mut moving = Moving::with(&pair.source, &pair.target, "waiting", &[], settings).await;
    provisioned(&mut moving).await;
    let client = pair.source.connect("postgres").await.unwrap();
    client.batch_execute("BEGIN; CREATE TABLE blocker ()").await.unwrap();
    let error = copy::run(&mut moving.ctx).await.unwrap_err();
    let detail = freehold::error::Explain::detail(&error).unwrap();
    assert!(detail.contains("idle in transaction") && detail.contains("database postgres"), "{detail}");
    let session = moving.ctx.source_session().await.unwrap();
    let name = moving.ctx.ends().names().forward();
    assert_eq!(slots::state(&session, &name).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_keeps_too_much_wal_on_the_source_ends_itself() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE flooded").unwrap();
    let settings = freehold::control::ControlSettings {
        wal_retained_bytes_max: 0,
        ..freehold::control::ControlSettings::default()
    };
    let mut moving = Moving::with(&pair.source, &pair.target, "flooded", &[], settings).await;
    provisioned(&mut moving).await;
    moving.ctx.note(MoveStep::Copy, StepEvent::Started).await.unwrap();
    let error = copy::run(&mut moving.ctx).await.unwrap_err();
    assert_eq!(freehold::error::Explain::sqlstate(&error).as_str(), "53400", "{error:?}");
    undone(&mut moving).await;
    assert_eq!(pair.source.psql("SELECT count(*) FROM pg_replication_slots").unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_any_size_go_through_the_pipe_and_either_sides_refusal_is_its_own() {
    let pair = Pair::start();
    for server in [&pair.source, &pair.target] {
        server.psql("CREATE DATABASE piped").unwrap();
        server.psql_in("piped", "CREATE TABLE t (n int, wide text, CHECK (n <> 77777))").unwrap();
    }
    let moving = Moving::of(&pair.source, &pair.target, "piped", &[]).await;
    let ends = moving.ctx.ends();
    let copy = async |from_sql: &str| {
        let open = async |end: &Endpoint| {
            RawSession::connect(&end.access, &end.system, &end.dbname, &[], end.deadline()).await.unwrap()
        };
        let (mut from, mut into) = (open(&ends.source).await, open(&ends.target).await);
        let (mut bytes, mut rows) = (0, 0);
        let heard = |more_bytes: usize, more_rows: u64| {
            bytes += more_bytes;
            rows += more_rows;
            Duration::ZERO
        };
        pipe::copy(&mut from, from_sql, &mut into, "COPY public.t FROM STDIN", heard).await?;
        Ok::<_, SystemError>((bytes, rows))
    };
    // Rows around the sizes of the buffers, and one that is larger than all of them.
    let sizes = "COPY (SELECT i, repeat('x', CASE WHEN i < 200 THEN 65400 + i ELSE 20000000 END)
        FROM generate_series(1, 200) i) TO STDOUT";
    let (bytes, rows) = copy(sizes).await.unwrap();
    assert!(bytes > 20_000_000 && rows == 200, "{bytes} bytes, {rows} rows");
    let landed =
        pair.target.psql_in("piped", "SELECT count(*), sum(length(wide)), max(length(wide)) FROM t").unwrap();
    assert_eq!(landed, format!("200|{}|20000000", (1..200).map(|i| 65400 + i).sum::<i64>() + 20_000_000));
    assert_eq!(copy("COPY (SELECT 1, 'x' WHERE false) TO STDOUT").await.unwrap(), (0, 0));

    let refused_by_target = "COPY (SELECT i, repeat('x', 100) FROM generate_series(1, 1000000) i) TO STDOUT";
    assert!(copy(refused_by_target).await.unwrap_err().is_refused_with("23514"));
    let refused_by_source = "COPY (SELECT 1 / (i - 50000), '' FROM generate_series(1, 60000) i) TO STDOUT";
    assert!(copy(refused_by_source).await.unwrap_err().is_refused_with("22012"));
    assert!(copy("COPY nothing TO STDOUT").await.unwrap_err().is_refused_with("42P01"));
    assert_eq!(pair.target.psql_in("piped", "SELECT count(*) FROM t").unwrap(), "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platforms_sessions_go_under_tls_as_the_systems_record_says() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let server = builder(Major::oldest())
        .file("server.crt", certificate.clone())
        .file("server.key", key.serialize_pem())
        .setting("ssl", "on")
        .start()
        .unwrap();
    let root = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(root.path(), certificate).unwrap();
    let files = ClientTls { roots: Roots::File(root.path().to_owned()), identity: None };
    let connector = Connector::open(files).unwrap();

    let mut record = moving::system(&server, "tls");
    let is_tls = async |record: &SystemRecord, connector: Option<&Connector>| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut access = SystemAccess { connector: connector.cloned(), ..SystemAccess::default() };
        access.passwords.directories = roots();
        let session = Session::connect(&access, record, "postgres", "freehold", deadline).await?;
        session.value::<bool>("x", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await
    };
    for (mode, expected) in [(SslMode::Disable, false), (SslMode::Prefer, true), (SslMode::Require, true)] {
        record.sslmode = mode;
        assert_eq!(is_tls(&record, None).await.unwrap(), expected, "{mode:?}");
    }
    record.sslmode = SslMode::VerifyFull;
    assert!(is_tls(&record, Some(&connector)).await.is_err(), "the certificate is for another name");
    record.address.host = "localhost".into();
    assert!(is_tls(&record, Some(&connector)).await.unwrap());
    assert!(is_tls(&record, None).await.is_err(), "nobody vouches for the certificate");
}

/// Two servers that know an extension whose tables refer to each other. PostgreSQL 18 finds one outside of
/// its installation.
fn with_an_extension_of_tables(directory: &std::path::Path) -> Option<Pair> {
    Majors::discover().find(Major::Number(18)).ok()?;
    let files = directory.join("extension");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("refs.control"), "default_version = '1.0'").unwrap();
    let script = "CREATE TABLE parent (id int PRIMARY KEY, note text);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
        INSERT INTO parent VALUES (1, 'of the extension');
        INSERT INTO child VALUES (1, 1);
        SELECT pg_extension_config_dump('parent', '');
        SELECT pg_extension_config_dump('child', '')";
    std::fs::write(files.join("refs--1.0.sql"), format!("{script};")).unwrap();
    let path = format!("{}:$system", directory.display());
    let start =
        || builder(Major::Number(18)).setting("extension_control_path", path.clone()).start().unwrap();
    Some(Pair { source: start(), target: start() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_of_an_extension_have_the_rows_of_the_source_whatever_they_refer_to() {
    let directory = tempfile::tempdir().unwrap();
    let Some(pair) = with_an_extension_of_tables(directory.path()) else { return };
    pair.source.psql("CREATE DATABASE extended").unwrap();
    let sql =
        "CREATE EXTENSION refs; UPDATE parent SET note = 'changed'; INSERT INTO parent VALUES (2, 'ours');
        INSERT INTO child VALUES (2, 2)";
    pair.source.psql_in("extended", sql).unwrap();
    let mut moving = Moving::of(&pair.source, &pair.target, "extended", &[]).await;
    copied(&mut moving).await;
    let rows = "SELECT p.note, c.id FROM parent p JOIN child c ON c.parent = p.id ORDER BY c.id";
    assert_eq!(pair.target.psql_in("extended", rows).unwrap(), "changed|1\nours|2");
}

/// What a server of a newer minor release keeps in the options of its columns, on whichever server this is.
fn with_column_versions(server: &Postgres, dbname: &str) {
    let sql = "UPDATE pg_attribute a SET attoptions = ARRAY['pg_attver=' || attnum + 1000] || attoptions
        FROM pg_class c WHERE c.oid = attrelid AND relkind IN ('r', 'p', 'f', 'm', 'v', 'c') AND attnum > 0
        AND NOT attisdropped AND NOT coalesce(attoptions::text LIKE '%pg_attver=%', false)
        AND relnamespace IN ('public'::regnamespace, 'sales'::regnamespace)";
    server.psql_in(dbname, sql).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_minor_keeps_in_the_options_of_columns_stays_there_and_nothing_else_does() {
    // Each major's pg_dump writes another format.
    for install in Majors::discover().installs() {
        let source = builder(Major::oldest()).start().unwrap();
        let target = builder(Major::Number(install.major)).start().unwrap();
        assert_column_versions_stay(&Pair { source, target }).await;
    }
}

async fn assert_column_versions_stay(pair: &Pair) {
    load_shop(&pair.source);
    let statement = "ALTER TABLE ONLY public.versioned ALTER COLUMN id SET (pg_attver=1001);";
    let sql = format!(
        "CREATE TABLE versioned (id int PRIMARY KEY, \"SET (pg_attver=7);\" text DEFAULT ';\n{statement}\n');
        ALTER TABLE versioned ALTER id SET (n_distinct = -0.5, n_distinct_inherited = 7);
        COMMENT ON TABLE versioned IS ';\n{statement}\n';
        CREATE FUNCTION speaks() RETURNS text LANGUAGE sql AS $$ SELECT ';\n{statement}\n' $$;
        CREATE VIEW seen AS SELECT ';\n{statement}\n'::text AS said;
        CREATE MATERIALIZED VIEW kept AS SELECT ';\n{statement}\n'::text AS said;
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE TYPE pair AS (a int, b text);
        CREATE TABLE parts (a int, b pair) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF parts DEFAULT;
        CREATE INDEX searched ON versioned USING gist (to_tsvector('simple', \"SET (pg_attver=7);\") tsvector_ops (siglen=100));
        INSERT INTO versioned VALUES (1)"
    );
    pair.source.psql_in("shop", "DROP EVENT TRIGGER watch").unwrap();
    pair.source.psql_in("shop", &sql).unwrap();
    with_column_versions(&pair.source, "shop");
    let mut moving = Moving::of(&pair.source, &pair.target, "shop", &["shop_app"]).await;
    copied(&mut moving).await;
    let both = |sql: &str| [&pair.source, &pair.target].map(|server| server.psql_in("shop", sql).unwrap());
    let texts = "SELECT obj_description('versioned'::regclass), speaks(), s.said, k.said, v.* FROM seen s, kept k, versioned v";
    let [source, target] = both(texts);
    assert_eq!(source, target);
    assert_eq!(target.matches(statement).count(), 5, "{target}");
    let options = "SELECT relname, attname, (SELECT array_agg(o ORDER BY o COLLATE \"C\") FROM unnest(attoptions) o
            WHERE o NOT LIKE 'pg_attver=%')
        FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE attnum > 0 AND c.relnamespace = 'public'::regnamespace
        ORDER BY relname, attname";
    let [source, target] = both(options);
    assert_eq!(source, target);
    assert!(target.contains("{n_distinct=-0.5,n_distinct_inherited=7}"), "{target}");
    assert!(target.contains("{siglen=100}"), "{target}");
    let versions =
        "SELECT count(*) FROM pg_attribute WHERE attoptions::text ~ 'pg_attver=' AND attrelid >= 16384";
    assert_ne!(both(versions)[0], "0");
    same_schema(pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_copied_is_not_locked_until_the_last_one_is() {
    let pair = Pair::start();
    pair.source.psql("CREATE DATABASE locked").unwrap();
    let tables = "CREATE TABLE public.large AS SELECT n AS id, repeat('x', 100) AS filler FROM generate_series(1, 400000) n;
        CREATE TABLE public.small (id int PRIMARY KEY)";
    pair.source.psql_in("locked", tables).unwrap();
    let settings = ControlSettings { copy_workers: 1, ..ControlSettings::default() };
    let mut moving = Moving::with(&pair.source, &pair.target, "locked", &[], settings).await;
    provisioned(&mut moving).await;
    moving.ctx.note(MoveStep::Copy, StepEvent::Started).await.unwrap();
    let copying = tokio::spawn(async move { copy::run(&mut moving.ctx).await });
    // The schema is there, and the large table is under way: the small one is kept from the worker.
    let there = "SELECT to_regclass('public.small') IS NOT NULL";
    until_answer(&pair.target, "locked", there, "t").await;
    let holder = pair.source.connect("locked").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE public.small IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'public.small'::regclass AND NOT granted";
    until_answer(&pair.source, "locked", waits, "1").await;
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'public.large'::regclass";
    assert_eq!(pair.source.psql_in("locked", held).unwrap(), "0");
    holder.batch_execute("COMMIT").await.unwrap();
    copying.await.unwrap().unwrap();
    assert_eq!(pair.target.psql_in("locked", "SELECT count(*) FROM public.large").unwrap(), "400000");
}

async fn until_answer(server: &Postgres, dbname: &str, sql: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.psql_in(dbname, sql);
        if answer.as_deref().is_ok_and(|answer| answer == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {answer:?} and never {wanted}");
        tokio::task::yield_now().await;
    }
}
