//! What a schema is made of: whatever the target refuses, or only shows when there are rows, is named by the
//! plan, with a cure that makes the database move.

use freehold::lab::{Major, Postgres};
use freehold::model::movement::Finding;
use freehold::model::{MovePhase, MoveRequest};

use crate::stage::{APP_PASSWORD, Stage};

/// Runs a cure as a person would who pastes it, on the system that it names.
fn paste(stage: &Stage, finding: &Finding) {
    let cure = finding.cure.as_deref().unwrap_or_else(|| panic!("no cure: {finding:#?}"));
    let (server, dbname) = match cure.starts_with("-- on system new") {
        true => (&stage.target, "postgres"),
        false => (&stage.source, "shop"),
    };
    server.psql_script(dbname, cure).unwrap_or_else(|error| panic!("{cure}: {error:?}"));
}

/// (check, object) of the blockers.
async fn blockers(stage: &Stage) -> Vec<Finding> {
    stage.plan().await.blockers().cloned().collect()
}

fn shown(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings
        .iter()
        .map(|finding| (finding.check.as_str(), finding.object.as_deref().unwrap_or_default()))
        .collect()
}

fn trials(server: &Postgres) -> String {
    let sql = "SELECT count(*) FROM (SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles) n (name)
        WHERE name ~ '^freehold_'";
    server.psql(sql).unwrap()
}

/// Of what cannot be restored, or computes with an empty search path, something of every kind; and what looks
/// like it and works.
const ODD: &str = "
    CREATE TABLE feelings (m mood, n int, PRIMARY KEY (m, n)) PARTITION BY HASH (m);
    CREATE TABLE feelings_1 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE feelings_2 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE feelings_3 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 2);
    INSERT INTO feelings SELECT m, n FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 5) n;

    CREATE TABLE indexed (id int PRIMARY KEY, i regclass);
    CREATE INDEX indexed_i ON indexed (i);
    ALTER TABLE indexed ALTER i SET DEFAULT 'indexed_i'::regclass;
    INSERT INTO indexed VALUES (1, NULL);

    CREATE TABLE lookup (a int PRIMARY KEY);
    INSERT INTO lookup SELECT generate_series(1, 10);
    CREATE FUNCTION is_known(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM lookup WHERE a = $1)';
    CREATE TABLE checked (id int PRIMARY KEY, a int CHECK (is_known(a)));
    INSERT INTO checked VALUES (1, 2);
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
    CREATE FUNCTION computing(int) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN twice(twice($1)); END';
    CREATE TABLE computed (id int PRIMARY KEY, a int GENERATED ALWAYS AS (computing(id)) STORED);
    INSERT INTO computed VALUES (1);
    CREATE FUNCTION indexing(int) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN twice($1); END';
    CREATE INDEX ON lookup (indexing(a));
    CREATE SCHEMA aside;
    CREATE TABLE aside.hidden (a int PRIMARY KEY);
    CREATE FUNCTION of_another_path(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN NOT EXISTS (SELECT FROM hidden WHERE a = $1); END';
    CREATE DOMAIN unhidden AS int CHECK (of_another_path(VALUE));
    CREATE TABLE with_domain (id int PRIMARY KEY, a unhidden);
    CREATE FUNCTION numbers() RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT a FROM lookup; END';
    CREATE VIEW between AS SELECT * FROM numbers() n;
    CREATE MATERIALIZED VIEW seen AS SELECT n FROM between;

    CREATE FUNCTION dynamic(text) RETURNS bool LANGUAGE plpgsql AS
        'BEGIN EXECUTE ''SELECT FROM '' || $1; RETURN true; EXCEPTION WHEN no_data_found THEN RETURN false; END';
    CREATE FUNCTION never_there(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1 IS NULL OR no_such_function($1); END';
    CREATE FUNCTION with_a_path(int) RETURNS bool LANGUAGE plpgsql SET search_path = public AS
        'BEGIN RETURN EXISTS (SELECT FROM lookup WHERE a = $1); END';
    CREATE FUNCTION qualified(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT public.is_known($1) OR $1 < 0';
    -- It has that already, as pg_database_owner, and the schema becomes its own.
    GRANT ALL ON SCHEMA public TO app;
    CREATE TABLE harmless (id int PRIMARY KEY, t text CHECK (t IS NULL OR dynamic(t)), a int CHECK (a > 0 OR with_a_path(a)));
    CREATE TABLE empty (id int PRIMARY KEY, a int CHECK (never_there(a)));

    CREATE ROLE viewer;
    GRANT CREATE ON SCHEMA public TO viewer;
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM lookup;
    ALTER MATERIALIZED VIEW counted OWNER TO viewer;
    CREATE MATERIALIZED VIEW allowed AS SELECT a FROM checked;
    ALTER MATERIALIZED VIEW allowed OWNER TO viewer;
    GRANT SELECT (a) ON checked TO viewer;
";

/// Of all of it what rows compute.
const CONTENTS: &str = "
    SELECT (SELECT string_agg(tableoid::regclass::text || m || n, ',' ORDER BY m, n) FROM feelings),
        (SELECT count(*) FROM feelings WHERE m = 'happy'), (SELECT string_agg(m::text, ',' ORDER BY m) FROM feelings WHERE n = 1),
        (SELECT i FROM indexed), (SELECT a FROM checked), (SELECT a FROM computed), (SELECT count(*) FROM seen), (SELECT * FROM counted)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_target_refuses_is_named_and_pasted_cures_let_the_database_move() {
    let stage = Stage::set().await;
    let source = &stage.source;
    // A value that was added later has an odd number.
    for sql in
        ["CREATE TYPE mood AS ENUM ('sad', 'happy')", "ALTER TYPE mood ADD VALUE 'ok' BEFORE 'happy'", ODD]
    {
        source.psql_in("shop", sql).unwrap();
    }
    let is_removed = |server: &Postgres| server.psql("SET force_parallel_mode = off").is_err();
    let removed = is_removed(&stage.target) && !is_removed(source);
    if removed {
        let sql = "CREATE FUNCTION removed(int) RETURNS int LANGUAGE sql SET force_parallel_mode = off AS 'SELECT $1';
            CREATE VIEW consequence AS SELECT removed(1)";
        source.psql_in("shop", sql).unwrap();
    }
    // Of replication's own processes, too; what pastes is a superuser.
    for server in [source, &stage.target] {
        server.psql(&format!("ALTER ROLE {} SET statement_timeout = 0", server.superuser)).unwrap();
    }
    source.psql("ALTER DATABASE shop SET statement_timeout = '1ms'").unwrap();
    let contents = source.psql_in("shop", CONTENTS).unwrap();

    let started = std::time::Instant::now();
    let found = blockers(&stage).await;
    println!("planned in {:?}", started.elapsed());
    assert_eq!(trials(&stage.target), "0", "a trial has left something");
    let by_path = stage.target.major >= 17;
    let mut expected = vec![
        ("index_in_default", "public.indexed.i"),
        ("search_path", "function public.computing(integer)"),
        ("search_path", "function public.indexing(integer)"),
        ("search_path", "function public.is_known(integer)"),
        ("search_path", "function public.of_another_path(integer)"),
        ("view_rights", "public.counted"),
    ];
    expected.extend(by_path.then_some(("search_path", "function public.numbers()")));
    expected.extend(removed.then_some(("trial_restore", "function public.removed(integer)")));
    let mut named = shown(&found);
    named.sort_unstable();
    expected.sort_unstable();
    assert_eq!(named, expected, "{found:#?}");
    found.iter().for_each(|finding| paste(&stage, finding));
    let report = stage.plan().await;
    assert!(report.is_clear(), "{report:#?}");
    let named = |finding: &&Finding| finding.check == "index_in_rows";
    assert_eq!(
        report.findings.iter().find(named).and_then(|finding| finding.object.as_deref()),
        Some("public.indexed.i")
    );

    let id = stage.moved().await;
    assert_eq!(stage.target.psql_in("shop", CONTENTS).unwrap(), contents);
    let write = "INSERT INTO feelings SELECT m, 6 FROM unnest(enum_range(NULL::mood)) m; INSERT INTO checked VALUES (2, 3);
        INSERT INTO computed VALUES (2); INSERT INTO indexed VALUES (2)";
    stage.target.psql_in("shop", write).unwrap();
    let contents = CONTENTS
        .replace("(SELECT a FROM", "(SELECT sum(a) FROM")
        .replace("(SELECT i FROM", "(SELECT max(i::text) FROM");
    let written = stage.target.psql_in("shop", &contents).unwrap();
    assert!(written.contains("indexed_i"), "{written}");
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(source.psql_in("shop", &contents).unwrap(), written);
}

/// Event triggers at logins exist from version 17 on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_refuses_unknown_logins_does_not_refuse_the_platform() {
    let stage = Stage::between(Major::newest(), Major::newest(), &[]).await;
    if stage.source.major < 17 {
        return;
    }
    let sql = "CREATE TABLE known (name name PRIMARY KEY); INSERT INTO known VALUES ('app'); GRANT SELECT ON known TO app;
        CREATE FUNCTION admit() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NOT EXISTS (SELECT FROM known WHERE name = session_user) THEN RAISE EXCEPTION 'who is %?', session_user; END IF; END $$;
        CREATE EVENT TRIGGER admit ON login EXECUTE FUNCTION admit();
        CREATE TABLE seen (id bigserial PRIMARY KEY, who name); GRANT ALL ON seen, seen_id_seq TO app;
        CREATE FUNCTION write_down() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen (who) VALUES (session_user); END $$;
        CREATE EVENT TRIGGER write_down ON login EXECUTE FUNCTION write_down()";
    stage.source.psql_in("shop", sql).unwrap();
    assert!(stage.source.psql_in("shop", "SELECT 1").is_err(), "the trigger refuses nobody");
    let found = blockers(&stage).await;
    assert_eq!(shown(&found), [], "{found:#?}");
    let id = stage.moved().await;
    assert!(stage.target.psql_in("shop", "SELECT 1").is_err(), "the trigger has not travelled");
    let app = stage.target.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute("INSERT INTO ledger (client, number) VALUES (1, 90000001)").await.unwrap();
    drop(app);
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let arrived = app.query_one("SELECT count(*) FROM ledger WHERE number = 90000001", &[]).await.unwrap();
    assert_eq!(arrived.get::<_, i64>(0), 1);
    // The login on the target has come along, and none of the platform's was written down.
    let seen =
        app.query_one("SELECT count(*), count(*) FILTER (WHERE who <> 'app') FROM seen", &[]).await.unwrap();
    assert!(seen.get::<_, i64>(0) >= 2, "{seen:?}");
    assert_eq!(seen.get::<_, i64>(1), 0);
}

/// A library that only the source has, and that the database loads, ends a move; the target is left as it
/// was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_that_the_target_lacks_parks_no_move() {
    let stage = Stage::set().await;
    let id = stage.frozen_before_catchup().await;
    // As if it had been set while the move ran: the plan would have named it.
    stage.target.psql("ALTER DATABASE shop SET session_preload_libraries = 'no_such_library'").unwrap();
    stage.request(id, MoveRequest::Cancel).await;
    stage.crash();
    stage.rests_in(id, MovePhase::RolledBack).await;
    assert_eq!(trials(&stage.target), "0");
    assert_eq!(stage.target.psql("SELECT count(*) FROM pg_database WHERE datname = 'shop'").unwrap(), "0");
}
